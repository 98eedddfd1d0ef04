"""Find the prompts that a population disagrees about: entropy by keyword and first word (section 3.1 of the paper)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, get_type_hints

import numpy as np
import numpy.typing as npt

from personalllm.analysis.base import Analysis
from personalllm.analysis.votes import Votes, check_names
from personalllm.core.errors import AxisMismatch, ParameterError
from personalllm.core.plotting import INK, figure, key_of_series, label_rows, look, short, whisker
from personalllm.core.stats import DRAWS, intervals
from personalllm.core.types import F64

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from personalllm.analysis.study import Study

__all__ = [
    "FIRST_WORDS",
    "KEYWORDS",
    "ContestedPrompt",
    "EntropyByWords",
    "Group",
    "common_first_words",
    "contains",
    "entropy_by_words",
    "first_word",
]

Kind = Literal["all", "contains", "starts with"]
Match = Literal["word", "substring"]

KEYWORDS = ("imagine", "opinion", "poem", "taste")
"""The keywords of the paper."""

FIRST_WORDS = ("who", "what", "when", "where")
"""The first words of the paper."""

_FIRST = re.compile(r"\W*(\w+)")


class Group(NamedTuple):
    """Mean entropy in nats of a group of prompts, its 95 % interval, and its difference from all other prompts.

    The ends are NaN for fewer than two prompts; the mean is NaN for none.
    """

    population: str
    kind: Kind
    word: str
    n_prompts: int
    mean: float
    low: float
    high: float
    difference: float


class ContestedPrompt(NamedTuple):
    """A prompt at an end of the list: rank 1 is the most, or the least, contested one."""

    population: str
    end: Literal["most", "least"]
    rank: int
    row: int
    prompt_id: str
    prompt: str
    entropy: float
    top_share: float
    top_option: str


@dataclass(frozen=True, eq=False)
class EntropyByWords(Analysis):
    """Entropy of the vote by keyword and by first word, and the prompts at both ends.

    Attributes:
        populations: The votes, in the order in which they were given.
        groups: One for each population and word, those of all prompts first.
        contested: The most and the least contested prompts of each population.
        unanimous: Number of prompts with an entropy of exactly 0 by population.
        match: Whether a keyword matched whole words only, or inside longer words too.
    """

    populations: tuple[Votes, ...]
    groups: tuple[Group, ...]
    contested: tuple[ContestedPrompt, ...]
    unanimous: dict[str, int]
    match: Match

    id: ClassVar[str] = "entropy"
    title: ClassVar[str] = "Entropy by keyword and first word"
    split: ClassVar[str] = "train"

    @classmethod
    def of_study(cls, study: Study) -> tuple[EntropyByWords]:
        """Measure the users of each concentration by the paper's words."""
        return (entropy_by_words(*study.votes(cls.split), seed=study.seed),)

    def tables(self) -> dict[str, Any]:
        """Return `entropy-groups` and `entropy-prompts`, the most and the least contested ones."""
        import pyarrow as pa

        return {
            "entropy-groups": _rows_table(pa, Group, self.groups),
            "entropy-prompts": _rows_table(pa, ContestedPrompt, self.contested),
        }

    def plot(self) -> Figure:
        """Draw the mean entropy of each group with its interval."""
        return _figure(self)

    def notes(self) -> tuple[str, ...]:
        """Return what to keep in mind."""
        rule = "as a whole word" if self.match == "word" else "anywhere, inside longer words too"
        lines = [
            (
                f"A keyword matches {rule}, in small or capital letters; the first word of a prompt is its "
                "first run of letters, digits or underscores, so that `What's` starts with `what`."
            ),
            "The paper does not state its rule; its numbers of prompts can only be checked on its own train split.",
            (
                "Intervals are 95 % percentile intervals from resampling the prompts of the group; with fewer than "
                "about 20 prompts they are too narrow."
            ),
            "Intervals are not corrected for the number of words.",
        ]
        zero = ", ".join(f"{n:,} ({name})" for name, n in self.unanimous.items())
        return (*lines, f"Prompts with an entropy of exactly 0, where all voters agree: {zero}.")


def entropy_by_words(
    *votes: Votes,
    keywords: Sequence[str] = KEYWORDS,
    first_words: Sequence[str] = FIRST_WORDS,
    match: Match = "word",
    n_listed: int = 10,
    draws: int = DRAWS,
    seed: int = 0,
) -> EntropyByWords:
    """Measure the entropy of the vote on prompts with certain words, and list the prompts at both ends.

    Args:
        votes: One or more populations with distinct names that carry the texts of their prompts.
        keywords: Words or phrases that a prompt contains.
        first_words: Words with which a prompt starts.
        match: `"word"` matches keywords as whole words only, `"substring"` anywhere.
        n_listed: Number of prompts to list at either end, the most and the least contested, >= 0.
        draws: Resamples of the prompts behind each interval.
        seed: Seed of the resamples.

    Raises:
        ParameterError: If an argument is out of its range.
        AxisMismatch: If votes carry no texts.

    >>> votes = Votes(counts=[[2, 2], [4, 0]], n_voters=[4, 4], name="four", prompts=("A poem!", "Who is it?"))
    >>> result = entropy_by_words(votes, keywords=["poem"], first_words=["who"])
    >>> [(group.word, group.n_prompts, round(group.mean, 3)) for group in result.groups]
    [('', 2, 0.347), ('poem', 1, 0.693), ('who', 1, 0.0)]
    """
    check_names(votes)
    if match not in ("word", "substring"):
        raise ParameterError("match", "'word' or 'substring'", match)
    if n_listed < 0:
        raise ParameterError("n_listed", ">= 0", n_listed)
    for name, words in (("keywords", keywords), ("first_words", first_words)):
        if isinstance(words, str) or not all(word.strip() for word in words):
            raise ParameterError(name, "a list of words that are not empty", words)
    groups: list[Group] = []
    contested: list[ContestedPrompt] = []
    for panel in votes:
        if not panel.prompts:
            raise AxisMismatch(
                f"The votes of {panel.name!r} carry no texts.", "Give Votes.of the benchmark and the rows."
            )
        entropy = panel.entropy()
        starts = np.array([first_word(prompt) for prompt in panel.prompts])
        masks: list[tuple[Kind, str, npt.NDArray[np.bool_]]] = [("all", "", np.ones(panel.n_prompts, bool))]
        masks += [("contains", word, contains(panel.prompts, word, match=match)) for word in dict.fromkeys(keywords)]
        masks += [("starts with", word, starts == word.lower()) for word in dict.fromkeys(first_words)]
        for kind, word, inside in masks:
            (mean,) = intervals(entropy[inside][:, None], draws=draws, seed=seed)
            split = inside.any() and not inside.all()
            difference = mean.value - float(entropy[~inside].mean()) if split else float("nan")
            groups.append(Group(panel.name, kind, word, int(inside.sum()), *mean, difference))
        contested += _ends(panel, n_listed)
    unanimous = {panel.name: int(np.count_nonzero(panel.n_winners() == 1)) for panel in votes}
    return EntropyByWords(tuple(votes), tuple(groups), tuple(contested), unanimous, match)


def contains(prompts: Sequence[str], word: str, *, match: Match = "word") -> npt.NDArray[np.bool_]:
    """Return for each prompt whether it contains a word or phrase, in small or capital letters.

    Args:
        prompts: Texts.
        word: A word or phrase; one blank in it stands for any white space.
        match: `"word"` if no letter, digit or underscore may touch it, `"substring"` if it may be inside another word.

    >>> contains(["My opinions.", "Your OPINION?"], "opinion").tolist()
    [False, True]
    >>> contains(["My opinions.", "Your OPINION?"], "opinion", match="substring").tolist()
    [True, True]
    """
    body = r"\s+".join(re.escape(part) for part in word.split())
    pattern = re.compile(rf"(?<!\w){body}(?!\w)" if match == "word" else body, re.IGNORECASE)
    return np.fromiter((pattern.search(prompt) is not None for prompt in prompts), bool, len(prompts))


def first_word(prompt: str) -> str:
    """Return the first run of letters, digits or underscores of a prompt in small letters; "" if there is none.

    >>> first_word("(What's this?)"), first_word("...")
    ('what', '')
    """
    match = _FIRST.match(prompt)
    return match[1].lower() if match else ""


def common_first_words(prompts: Sequence[str], *, min_prompts: int = 20, max_words: int = 12) -> tuple[str, ...]:
    """Return the most frequent first words, for `entropy_by_words`, most frequent first, ties in alphabetical order.

    Args:
        prompts: Texts.
        min_prompts: Prompts that must start with the word.
        max_words: Words to return at most.
    """
    counts = Counter(word for word in map(first_word, prompts) if word)
    ordered = sorted(counts, key=lambda word: (-counts[word], word))
    return tuple(word for word in ordered if counts[word] >= min_prompts)[:max_words]


def _ends(votes: Votes, n: int) -> list[ContestedPrompt]:
    """Return the n prompts of highest and of lowest entropy; equal ones stand in the order of the rows."""
    entropy, top = votes.entropy(), votes.top_share()
    best = votes.counts.argmax(1)
    ends: dict[Literal["most", "least"], F64] = {"most": -entropy, "least": entropy}
    prompts = []
    for end, values in ends.items():
        for rank, row in enumerate(np.argsort(values, kind="stable")[:n].tolist(), 1):
            column = int(best[row] if votes.option_index is None else votes.option_index[row, best[row]])
            identity = votes.prompt_ids[row] if votes.prompt_ids else str(row)
            shares = float(entropy[row]), float(top[row])
            text, option = votes.prompts[row], votes.options[column]
            prompts.append(ContestedPrompt(votes.name, end, rank, row, identity, text, *shares, option))
    return prompts


def _rows_table(pa: Any, kind: type[Any], rows: Sequence[Any]) -> Any:
    """Return named tuples as a table; texts, integers and floats by their annotations."""
    types = {int: pa.int64(), float: pa.float64()}
    hints = get_type_hints(kind)
    schema = pa.schema([pa.field(name, types.get(hints[name], pa.string())) for name in kind._fields])
    return pa.table({name: [getattr(row, name) for row in rows] for name in kind._fields}, schema=schema)


def _figure(result: EntropyByWords) -> Figure:
    """Draw a row for each word that occurs: the mean entropy of each population; lines mark all prompts."""
    names = [votes.name for votes in result.populations]
    groups = {(g.population, g.kind, g.word): g for g in result.groups}
    words = list(dict.fromkeys((group.kind, group.word) for group in result.groups if group.n_prompts))
    step = 0.62 / len(names)
    with figure(1.4 + (0.13 * len(names) + 0.13) * len(words)) as drawn:
        axis = drawn.subplots()
        for index, name in enumerate(names):
            style = look(index)
            mean = groups[name, "all", ""].mean
            axis.axvline(mean, color=style.stroke, linewidth=1.0, linestyle=style.line, zorder=1)
            for row, word in enumerate(words):
                group = groups[name, *word]
                at = row + (index - (len(names) - 1) / 2) * step
                whisker(axis, at, group.low, group.high, upright=False, colour=INK["ink"])
                axis.plot(
                    [group.mean], [at], style.marker,
                    markerfacecolor=style.face, markeredgecolor=style.stroke, markersize=6.5, zorder=4,
                )  # fmt: skip
        label_rows(axis, [_row_label(kind, word, result.groups) for kind, word in words])
        axis.set_xlabel("Mean entropy of the vote, nats")
        key_of_series(drawn, names, bars=False)
    return drawn


def _row_label(kind: Kind, word: str, groups: Sequence[Group]) -> str:
    """Return the name of a row with its number of prompts, or the range of numbers over the populations."""
    counts = sorted({group.n_prompts for group in groups if (group.kind, group.word) == (kind, word)})
    number = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    name = "all prompts" if kind == "all" else f"{kind} \u201c{short(word, 18)}\u201d"
    return f"{name} ({number})"
