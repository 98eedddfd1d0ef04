"""Which prompts a population disagrees about: entropy by keyword and by first word (section 3.1 of the paper)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, get_type_hints

import numpy as np
import numpy.typing as npt

from personalllm.analysis.base import Analysis
from personalllm.analysis.diversity import distinct_names
from personalllm.analysis.intervals import DRAWS, intervals
from personalllm.analysis.votes import Votes
from personalllm.core.errors import AxisMismatch, ParameterError
from personalllm.core.types import I64

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "FIRST_WORDS",
    "KEYWORDS",
    "PAPER_GROUPS",
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

PAPER_GROUPS: dict[tuple[Kind, str], tuple[float, int]] = {
    ("contains", "imagine"): (1.275822777221968, 21),
    ("contains", "opinion"): (1.2769870842840405, 24),
    ("contains", "poem"): (1.2327884304495773, 158),
    ("contains", "taste"): (1.3332091817614784, 27),
    ("starts with", "who"): (1.1118209477981373, 112),
    ("starts with", "what"): (1.1867537481803405, 2345),
    ("starts with", "when"): (1.0091079267514482, 79),
    ("starts with", "where"): (1.0482039271841512, 67),
}
"""Mean entropy in nats and number of prompts that the paper reports (train split, alpha .05, 1,000 users)."""

KEYWORDS = tuple(word for kind, word in PAPER_GROUPS if kind == "contains")
"""The keywords of the paper."""

FIRST_WORDS = tuple(word for kind, word in PAPER_GROUPS if kind == "starts with")
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
        match: How keywords were looked for.
    """

    populations: tuple[Votes, ...]
    groups: tuple[Group, ...]
    contested: tuple[ContestedPrompt, ...]
    unanimous: dict[str, int]
    match: Match

    id: ClassVar[str] = "entropy"
    title: ClassVar[str] = "Entropy by keyword and first word"

    def tables(self) -> dict[str, Any]:
        """Return `entropy-groups` (with the paper's figures for its words) and `entropy-prompts`."""
        import pyarrow as pa

        groups = _rows_table(pa, Group, self.groups)
        printed = [PAPER_GROUPS.get((group.kind, group.word), (None, None)) for group in self.groups]
        groups = groups.append_column("paper_mean", pa.array([mean for mean, _ in printed], pa.float64()))
        groups = groups.append_column("paper_n_prompts", pa.array([n for _, n in printed], pa.int64()))
        return {"entropy-groups": groups, "entropy-prompts": _rows_table(pa, ContestedPrompt, self.contested)}

    def plot(self) -> Figure:
        """Draw the mean entropy of each group with its interval, the paper's words beside the paper's figures."""
        from personalllm.analysis._entropy_figure import entropy_figure

        return entropy_figure(self)

    def notes(self) -> tuple[str, ...]:
        """Return what to keep in mind."""
        rule = "as a whole word" if self.match == "word" else "anywhere, inside longer words too"
        lines = [
            (
                f"A keyword is looked for {rule}, in small or capital letters; the first word of a prompt is its "
                "first run of letters, digits or underscores, so that `What's` starts with `what`."
            ),
            "The paper does not state its rule; its numbers of prompts can only be checked on its own train split.",
            (
                "Intervals are 95 % percentile intervals from resampling the prompts of the group; with fewer than "
                "about 20 prompts they are too narrow."
            ),
            "Words were looked at one by one and nothing is corrected for their number.",
        ]
        zero = ", ".join(f"{n:,} ({name})" for name, n in self.unanimous.items())
        return (*lines, f"Prompts with an entropy of exactly 0, all voters being of one mind: {zero}.")


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
        match: `"word"` finds keywords as whole words only, `"substring"` anywhere.
        n_listed: Most and least contested prompts to list, >= 0 each.
        draws: Resamples of the prompts behind each interval.
        seed: Seed of the resamples.

    Raises:
        ParameterError: If an argument is out of its range.
        AxisMismatch: If votes carry no texts.

    >>> votes = Votes(counts=[[2, 2], [4, 0]], n_voters=[4, 4], name="four", prompts=("A poem!", "Who is it?"))
    >>> found = entropy_by_words(votes, keywords=["poem"], first_words=["who"])
    >>> [(group.word, group.n_prompts, round(group.mean, 3)) for group in found.groups]
    [('', 2, 0.347), ('poem', 1, 0.693), ('who', 1, 0.0)]
    """
    distinct_names(votes)
    if match not in ("word", "substring"):
        raise ParameterError("match", "'word' or 'substring'", match)
    if n_listed < 0:
        raise ParameterError("n_listed", ">= 0", n_listed)
    for name, words in (("keywords", keywords), ("first_words", first_words)):
        if isinstance(words, str) or not all(word.strip() for word in words):
            raise ParameterError(name, "a list of words that are not empty", words)
    groups: list[Group] = []
    contested: list[ContestedPrompt] = []
    for one in votes:
        if not one.prompts:
            raise AxisMismatch(
                f"The votes of {one.name!r} carry no texts.", "Give Votes.of the benchmark and the rows."
            )
        entropy = one.entropy()
        starts = np.array([first_word(prompt) for prompt in one.prompts])
        wanted: list[tuple[Kind, str, npt.NDArray[np.bool_]]] = [("all", "", np.ones(one.n_prompts, bool))]
        wanted += [("contains", word, contains(one.prompts, word, match=match)) for word in dict.fromkeys(keywords)]
        wanted += [("starts with", word, starts == word.lower()) for word in dict.fromkeys(first_words)]
        for kind, word, inside in wanted:
            (mean,) = intervals(entropy[inside][:, None], draws=draws, seed=seed)
            apart = inside.any() and not inside.all()
            difference = mean.value - float(entropy[~inside].mean()) if apart else float("nan")
            groups.append(Group(one.name, kind, word, int(inside.sum()), *mean, difference))
        contested += _ends(one, n_listed)
    unanimous = {one.name: int(np.count_nonzero(one.n_winners() == 1)) for one in votes}
    return EntropyByWords(tuple(votes), tuple(groups), tuple(contested), unanimous, match)


def contains(prompts: Sequence[str], word: str, *, match: Match = "word") -> npt.NDArray[np.bool_]:
    """Tell for each prompt whether it contains a word or phrase, in small or capital letters.

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
    found = _FIRST.match(prompt)
    return found[1].lower() if found else ""


def common_first_words(prompts: Sequence[str], *, at_least: int = 20, most: int = 12) -> tuple[str, ...]:
    """Return the most frequent first words, for `entropy_by_words`, most frequent first, ties in alphabetical order.

    Args:
        prompts: Texts.
        at_least: Fewest prompts that start with the word.
        most: Most words to return.
    """
    counts = Counter(word for word in map(first_word, prompts) if word)
    ordered = sorted(counts, key=lambda word: (-counts[word], word))
    return tuple(word for word in ordered if counts[word] >= at_least)[:most]


def _ends(votes: Votes, n: int) -> list[ContestedPrompt]:
    """Return the n prompts of highest and of lowest entropy; equal ones stand in the order of the rows."""
    entropy, top = votes.entropy(), votes.top_share()
    best = votes.counts.argmax(1)
    found = []
    for end, order in (("most", np.argsort(-entropy, kind="stable")), ("least", np.argsort(entropy, kind="stable"))):
        for rank, row in enumerate(_first(order, n), 1):
            column = int(best[row] if votes.option_index is None else votes.option_index[row, best[row]])
            identity = votes.prompt_ids[row] if votes.prompt_ids else str(row)
            found.append(
                ContestedPrompt(
                    votes.name, "most" if end == "most" else "least", rank, row, identity, votes.prompts[row],
                    float(entropy[row]), float(top[row]), votes.options[column],
                )
            )  # fmt: skip
    return found


def _first(order: I64, n: int) -> list[int]:
    return [int(row) for row in order[:n]]


def _rows_table(pa: Any, kind: type[Any], rows: Sequence[Any]) -> Any:
    """Return named tuples as a table; texts, integers and floats by their annotations."""
    types = {int: pa.int64(), float: pa.float64()}
    hints = get_type_hints(kind)
    schema = pa.schema([pa.field(name, types.get(hints[name], pa.string())) for name in kind._fields])
    return pa.table({name: [getattr(row, name) for row in rows] for name in kind._fields}, schema=schema)
