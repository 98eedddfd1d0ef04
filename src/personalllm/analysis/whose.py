"""Whose choice is it? How well a few choices of a voter tell the voter's next ones from somebody else's.

Two voters chose different responses to the same prompt. From k earlier choices of the one, which of the two is theirs?
What all voters like cancels out, so chance, length and popularity are right half of the time: what is left is taste.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self, TypeAlias, get_args

import numpy as np

from personalllm.analysis.base import Analysis
from personalllm.core.errors import DataError, ParameterError, UserError
from personalllm.core.plotting import INK, bare, figure
from personalllm.core.seeding import generator
from personalllm.core.stats import intervals
from personalllm.core.surface import measure
from personalllm.core.types import F64, I64
from personalllm.data.people import open_people

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from personalllm.analysis.study import Study

__all__ = ["Choices", "WhoseChoice", "WhoseScore", "whose_choice"]

Known: TypeAlias = Literal["own", "own and others'"]
"""Whose earlier choices are known."""

SHOTS = (5, 50, 500)
_TEST_SHARE = 0.3
_SPLITS = 10
_WORDS = 256
_RIDGE = 0.3
_WORDS_WEIGHT = 0.3  # beside the measures: a few choices say more of how long and how laid out than of which words
_WORD_PATTERN = r"(?u)\b\w+\b|[^\w\s]"


@dataclass(frozen=True, eq=False)
class Choices:
    """Which of several responses to a prompt each voter chose.

    Attributes:
        name: Whose choices they are.
        users: Names of the voters.
        prompts: Prompts, length n_prompts; one with other responses is another.
        responses: Distinct responses of each prompt.
        chosen: int64 (n_users, n_prompts): position of the choice among the responses; -1 if there is none.
    """

    name: str
    users: tuple[str, ...]
    prompts: tuple[str, ...]
    responses: tuple[tuple[str, ...], ...]
    chosen: I64

    @classmethod
    def from_rows(cls, rows: Any, columns: Mapping[str, str] | None = None, *, name: str | None = None) -> Self:
        """Read choices in any of the layouts of docs/people.md in which one response is chosen.

        Raises:
            DataError: If nobody chose anything, or the source cannot be read.

        >>> row = {"prompt": "Hi", "candidates": ["a", "b", "c"], "picks": {"first RM": 2, "second RM": 0}}
        >>> Choices.from_rows([row]).chosen.tolist()
        [[2], [0]]
        """
        reading = open_people(rows, columns, name=name)
        users: dict[str, int] = {}
        items: dict[tuple[str, tuple[str, ...]], int] = {}
        found: dict[tuple[int, int], int] = {}
        for said in reading.judgements:
            if said.chosen is not None:
                texts = tuple(dict.fromkeys(sorted({*said.responses, *said.others})))
                item = items.setdefault((said.text, texts), len(items))
                found[users.setdefault(said.user, len(users)), item] = texts.index(said.responses[said.chosen])
        if not found:
            raise DataError(f"{reading.name} holds no choice.", "Give data in which a response is chosen.")
        chosen = np.full((len(users), len(items)), -1, np.int64)
        for (user, item), place in found.items():
            chosen[user, item] = place
        prompts, responses = zip(*items, strict=True)
        return cls(reading.name, tuple(users), prompts, responses, chosen)


class WhoseScore(NamedTuple):
    """How often a choice was given to the right one of two voters, after k choices of one of them.

    `known` is `own` choices alone, or `own and others'`: the choices of all other voters of the same prompts too, from
    which the common taste is taken. `voter` is a name or `all`; `accuracy` the share, with its 95 % interval by
    resampling the prompts.
    """

    known: Known
    voter: str
    shots: int
    n_prompts: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class WhoseChoice(Analysis):
    """How well voters are told apart by their choices.

    Attributes:
        scores: Of all voters and of each, for each number of shots.
        longer: Share of the pairs of choices in which the longer one is that of the voter in question: half.
        choices: Name of the choices.
        splits: Times that prompts were divided.
    """

    id: ClassVar[str] = "whose"
    title: ClassVar[str] = "Whose choice is it?"

    scores: tuple[WhoseScore, ...]
    longer: float
    choices: str
    splits: int

    @classmethod
    def of_study(cls, study: Study) -> tuple[WhoseChoice, ...]:
        """Tell the voters of the given choices apart."""
        if not study.choices:
            raise UserError("No file of choices was given.", "Give --choices FILE.")
        return tuple(whose_choice(choices, seed=study.seed) for choices in study.choices)

    def of(self, shots: int, voter: str = "all", known: Known = "own") -> WhoseScore:
        """Return one score.

        Raises:
            ParameterError: If there is none.
        """
        for score in self.scores:
            if (score.known, score.voter, score.shots) == (known, voter, shots):
                return score
        raise ParameterError("known, voter, shots", f"one of {[s[:3] for s in self.scores]}", (known, voter, shots))

    def tables(self) -> dict[str, Any]:
        """Return `whose`, a row for each voter and number of shots."""
        import pyarrow as pa

        return {"whose": pa.table({name: [getattr(s, name) for s in self.scores] for name in WhoseScore._fields})}

    def plot(self) -> Figure:
        """Draw the accuracy over the number of known choices: of all voters with intervals, of each in grey."""
        shots = sorted({score.shots for score in self.scores})
        names = [voter for voter in dict.fromkeys(score.voter for score in self.scores) if voter != "all"]
        with figure(3.6) as drawn:
            panels = drawn.subplots(1, len(get_args(Known)), sharey=True)
            for axis, known in zip(panels, get_args(Known), strict=True):
                for voter in names:
                    values = [100 * self.of(k, voter, known).accuracy for k in shots]
                    axis.plot(range(len(shots)), values, color=INK["muted"], linewidth=0.8, alpha=0.6)
                of = [self.of(k, "all", known) for k in shots]
                values = [100 * score.accuracy for score in of]
                ends = [[100 * (s.accuracy - s.low) for s in of], [100 * (s.high - s.accuracy) for s in of]]
                axis.errorbar(range(len(of)), values, yerr=ends, fmt="o-", color=INK["accent"], zorder=4)
                axis.axhline(50, color=INK["muted"], linewidth=1.0, linestyle=(0, (4, 3)))
                axis.set_xticks(range(len(shots)), [f"{k:,}" for k in shots])
                axis.set_title(f"{known} choices known", fontsize=10)
                axis.set_xlabel("choices known of the voter")
                bare(axis, grid="y")
            panels[0].set_ylabel("told from another's, %")
        return drawn

    def notes(self) -> tuple[str, ...]:
        """Return what was found, and what to keep in mind."""
        most = max(score.shots for score in self.scores)
        own, all_known = (_percent(self.of(most, known=known)) for known in get_args(Known))
        return (
            f"{self.choices}: after {most:,} own choices, {own} of the choices are told from another voter's.",
            f"Where the other voters' choices are known too, the common taste can be taken off: {all_known}.",
            f"Chance, popularity and length ({100 * self.longer:.1f} %) are right half of the time by construction.",
            f"{self.splits} divisions of the prompts; intervals by resampling the prompts hold the voters fixed.",
            "What is read of a response: hashed words, length, layout and marks; no model of its meaning.",
        )


def _percent(score: WhoseScore) -> str:
    return f"{100 * score.accuracy:.1f} % [{100 * score.low:.1f}, {100 * score.high:.1f}]"


@dataclass(frozen=True, eq=False)
class _Texts:
    """What is read of the responses, about the mean of those to the same prompt.

    Attributes:
        rows: float64 (n_rows, n_features), the responses of a prompt side by side.
        prompt: int64 (n_rows,).
        picks: int64 (n_users, n_prompts): the row that was chosen; -1 if none was.
        log_length: float64 (n_rows,).
    """

    rows: F64
    prompt: I64
    picks: I64
    log_length: F64

    @classmethod
    def of(cls, choices: Choices) -> Self:
        from sklearn.feature_extraction.text import HashingVectorizer

        counts = np.array([len(texts) for texts in choices.responses])
        texts = [text for row in choices.responses for text in row]
        prompt = np.repeat(np.arange(len(counts)), counts)
        measures = measure(texts)
        words = HashingVectorizer(n_features=_WORDS, token_pattern=_WORD_PATTERN).transform(texts).toarray()
        manner, words = _about_mean(measures, prompt), _about_mean(words, prompt)
        spread = np.sqrt(np.square(manner).mean(axis=0))
        rows = np.hstack([_unit(manner / np.where(spread > 0, spread, 1.0)), _WORDS_WEIGHT * _unit(words)])
        first = np.append(0, np.cumsum(counts))[:-1]
        picks = np.where(choices.chosen < 0, -1, choices.chosen + first)
        return cls(rows, prompt, picks, measures[:, 0])

    def mean(self, picks: I64) -> F64:
        """Return the mean of some choices, -1 for none."""
        rows = self.rows[picks[picks >= 0]]
        return np.asarray(rows.mean(axis=0) if len(rows) else np.zeros(self.rows.shape[1]))

    def directions(self, train: I64) -> F64:
        """Return the inverse of the (regularised) covariance of the responses to some prompts."""
        rows = self.rows[np.isin(self.prompt, train)]
        values, axes = np.linalg.eigh(rows.T @ rows / max(1, len(rows)))
        return np.asarray((axes / (values + _RIDGE * max(values.mean(), 1e-12))) @ axes.T)


def _unit(rows: F64) -> F64:
    """Return rows of mean square length 1; of 0 if all are 0."""
    return np.asarray(rows / (np.sqrt(np.square(rows).sum(axis=1).mean()) or 1.0))


def _about_mean(table: F64, prompt: I64) -> F64:
    """Return rows about the mean of those of the same prompt."""
    means = np.stack([np.bincount(prompt, column) for column in table.T], axis=1) / np.bincount(prompt)[:, None]
    return np.asarray(table - means[prompt])


def whose_choice(
    choices: Choices, shots: Sequence[int] = SHOTS, *, splits: int = _SPLITS, seed: int = 0
) -> WhoseChoice:
    """Measure how often the choice of one of two voters is told from the other's.

    A voter's taste is the mean of what they chose, about the mean of what they could choose from, seen along the axes
    in which responses vary (a linear discriminant with a common covariance). It is read from k of the prompts that are
    not tested, and scores both choices. Where the other voters' choices of these prompts are known, their mean is taken
    off first.

    Args:
        choices: Of two voters or more.
        shots: Numbers of known choices, each >= 1; one that nobody has is cut down to what there is.
        splits: Times that 30 % of the prompts are drawn for the test, >= 1.
        seed: Of the draws and the resampling.

    Raises:
        UserError: If no two voters chose different responses to a prompt, or there are fewer than 4 prompts.
        ParameterError: If an argument is out of its range.
    """
    if splits < 1 or min(shots, default=0) < 1:
        raise ParameterError("splits, shots", "splits >= 1 and some shots >= 1", (splits, tuple(shots)))
    texts, n_prompts = _Texts.of(choices), len(choices.prompts)
    apart = (texts.picks.min(axis=0) != texts.picks.max(axis=0)).any()
    if n_prompts < 4 or len(choices.users) < 2 or not apart:
        raise UserError(
            f"{choices.name} has {len(choices.users)} voters and {n_prompts} prompts, too few or all choices alike.",
            "Give the choices of two voters or more among the same responses to 4 prompts or more.",
        )
    n_train = n_prompts - max(1, round(_TEST_SHARE * n_prompts))
    used = sorted({min(k, n_train) for k in shots})
    cells: list[tuple[Known, int]] = [(known, k) for known in get_args(Known) for k in used]
    right = np.zeros((len(cells), len(choices.users), n_prompts))
    times = np.zeros((len(choices.users), n_prompts))
    longer = np.zeros(2)
    for split in range(splits):
        rng = generator(seed, "analysis", "whose choice", split)
        order = rng.permutation(n_prompts)
        train, test = order[:n_train], order[n_train:]
        inverse = texts.directions(train)
        for user in range(len(choices.users)):
            own = rng.permutation(train[texts.picks[user, train] >= 0])
            mine, others = texts.picks[user, test], np.delete(texts.picks[:, test], user, axis=0)
            pairs = (mine >= 0) & (others >= 0) & (others != mine)
            times[user, test] += pairs.sum(axis=0)
            longer += _won(texts.log_length, mine, others, pairs).sum(), pairs.sum()
            common = texts.mean(np.delete(texts.picks[:, train], user, axis=0))
            for at, (known, k) in enumerate(cells):
                taste = texts.mean(texts.picks[user, own[:k]]) - (common if known != "own" else 0.0)
                right[at, user, test] += _won(texts.rows @ (inverse @ taste), mine, others, pairs)
    scores = []
    for at, (known, k) in enumerate(cells):
        scores.append(WhoseScore(known, "all", k, *_summed(right[at].sum(axis=0), times.sum(axis=0), seed)))
        for user, name in enumerate(choices.users):
            scores.append(WhoseScore(known, name, k, *_summed(right[at, user], times[user], seed)))
    return WhoseChoice(tuple(scores), float(longer[0] / longer[1]), choices.name, splits)


def _won(score: F64, mine: I64, others: I64, pairs: Any) -> F64:
    """Return for each prompt against how many of the others the voter's choice scores higher, ties half."""
    own, other = score[mine], score[others]
    return np.asarray((((own > other) + 0.5 * (own == other)) * pairs).sum(axis=0))


def _summed(right: F64, times: F64, seed: int) -> tuple[int, float, float, float]:
    """Return the number of prompts that were tested, and the mean over them with its interval."""
    tested = times > 0
    (mean,) = intervals((right[tested] / times[tested])[:, None], seed=seed)
    return int(tested.sum()), *mean
