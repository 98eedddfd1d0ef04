"""How often two users choose the same response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from personalllm.analysis.base import Analysis
from personalllm.analysis.diversity import distinct_names, measured_table
from personalllm.analysis.intervals import DRAWS, Measured, intervals
from personalllm.analysis.votes import Votes
from personalllm.core.errors import ParameterError
from personalllm.core.types import F32, F64, U8

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Agreement", "AnswerOverlap", "agreement", "answer_overlap", "user_agreement"]

_QUANTILES = {"min": 0.0, "5 %": 0.05, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "95 %": 0.95, "max": 1.0}
_PROMPTS_PER_BLOCK = 4_096
_MOST_USERS = 5_000


class AnswerOverlap(NamedTuple):
    """How the first users' choices overlap with those of the other users, in [0, 1].

    Attributes:
        mean: Mean over the first users of their mean overlap with the others.
        sd: Standard deviation, over the first users, of that mean overlap.
        mean_of_max: Mean over the first users of their largest overlap with one of the others.
    """

    mean: float
    sd: float
    mean_of_max: float


@dataclass(frozen=True, eq=False)
class Agreement(Analysis):
    """Agreement between the voters of each population.

    Attributes:
        populations: The votes, in the order in which they were given.
        measured: `pair agreement`: probability that two different voters choose alike, mean over prompts, with an
            interval over prompts. Where the voters are known one by one also `users`: quantiles over pairs of users of
            the share of prompts on which they choose alike, and `answer overlap` of the first users with the others.
        n_first: Users that count as the first ones.
        matrices: float32 (n_users, n_users) by population, the diagonal is 1; only where the voters are known.
    """

    populations: tuple[Votes, ...]
    measured: tuple[Measured, ...]
    n_first: int
    matrices: dict[str, F32]

    id: ClassVar[str] = "agreement"
    title: ClassVar[str] = "Agreement between users"

    def of(self, quantity: str, population: str) -> dict[str, Measured]:
        """Return the figures of one quantity of one population by level."""
        return {m.level: m for m in self.measured if m.quantity == quantity and m.population == population}

    def tables(self) -> dict[str, Any]:
        """Return `agreement`: one row for each population, quantity and level."""
        return {"agreement": measured_table(self.measured)}

    def plot(self) -> Figure:
        """Draw for each population the spread over pairs of users and the mean over prompts."""
        from personalllm.analysis._agreement_figure import agreement_figure

        return agreement_figure(self)

    def notes(self) -> tuple[str, ...]:
        """Return what to keep in mind."""
        lines = [
            (
                "The mean agreement has a 95 % interval from resampling the prompts; the spread over pairs of users "
                "has none."
            ),
            (
                f"Answer overlap compares the first {self.n_first} users with the others; its maximum grows with the "
                "number of others, so compare it between populations of one size only."
            ),
        ]
        lost = [votes.name for votes in self.populations if votes.name not in self.matrices]
        if lost:
            lines.append(f"The voters are not known one by one, or too many to pair: {', '.join(lost)}.")
        return tuple(lines)


def agreement(*votes: Votes, n_first: int = 100, draws: int = DRAWS, seed: int = 0) -> Agreement:
    """Measure how often two voters of a population choose the same response.

    Args:
        votes: One or more populations with distinct names, each with two voters or more on some prompt.
        n_first: Users whose overlap with the others is measured; a population needs more users than that.
        draws: Resamples of the prompts behind each interval.
        seed: Seed of the resamples.

    Raises:
        ParameterError: If no population is given, two share a name, or one has a single voter everywhere.

    >>> alike = Votes.from_choices("alike", [[0, 1], [0, 1], [0, 0]], 2)
    >>> found = agreement(alike, n_first=1)
    >>> round(found.of("pair agreement", "alike")["mean"].value, 3), found.of("users", "alike")["max"].value
    (0.667, 1.0)
    """
    distinct_names(votes)
    if n_first < 1:
        raise ParameterError("n_first", ">= 1", n_first)
    measured: list[Measured] = []
    matrices: dict[str, F32] = {}
    for one in votes:
        values = one.pair_agreement()
        values = values[np.isfinite(values)]
        if not values.size:
            raise ParameterError(f"the voters of {one.name!r}", "two or more on some prompt", 1)
        (mean,) = intervals(values[:, None], draws=draws, seed=seed)
        measured.append(Measured(one.name, "pair agreement", "mean", *mean, values.size))
        if one.choices is None or not 2 <= len(one.choices) <= _MOST_USERS:
            continue
        matrices[one.name] = matrix = user_agreement(one.choices, one.n_options)
        figures = [("users", level, value) for level, value in _spread(matrix).items()]
        if len(matrix) > n_first:
            figures += [("answer overlap", k, v) for k, v in answer_overlap(matrix, n_first)._asdict().items()]
        measured += [Measured(one.name, q, level, v, np.nan, np.nan, one.n_prompts) for q, level, v in figures]
    return Agreement(tuple(votes), tuple(measured), n_first, matrices)


def user_agreement(choices: U8, n_options: int) -> F32:
    """Return the share of prompts on which two users choose the same response, float32 (n_users, n_users).

    Args:
        choices: uint8 (n_users, n_prompts), columns in [0, n_options).
        n_options: Responses of each prompt.

    >>> user_agreement(np.array([[0, 1], [0, 0]], np.uint8), 2).tolist()
    [[1.0, 0.5], [0.5, 1.0]]
    """
    n_users, n_prompts = choices.shape
    total = np.zeros((n_users, n_users), np.float32)
    for start in range(0, n_prompts, _PROMPTS_PER_BLOCK):
        block = choices[:, start : start + _PROMPTS_PER_BLOCK]
        for r in range(n_options):
            chosen = (block == r).astype(np.float32)
            total += chosen @ chosen.T
    matrix: F32 = total / np.float32(n_prompts)
    return matrix


def answer_overlap(matrix: F32, n_first: int = 100) -> AnswerOverlap:
    """Return how the choices of the first users overlap with those of the others.

    These are the three figures that the paper's notebook prints for each alpha. What they mean was inferred from the
    digits: for alpha .01 to .1 the mean is a multiple of 1 / (100 * 400 * 1,000), so 100 users were compared with 400
    others on 1,000 prompts, and on a table like the paper's the second number is near the standard deviation over the
    100 users. The row for alpha 1.0 is a multiple of 1 / (100 * 900 * 1,000), and its digits are far from what this
    reading gives there; how it came about is not known.

    Args:
        matrix: float32 (n_users, n_users), from `user_agreement`.
        n_first: Number of first users, in [1, n_users).

    Raises:
        ParameterError: If there is no other user to compare with.

    >>> answer_overlap(np.float32([[1, 0.5, 0], [0.5, 1, 0], [0, 0, 1]]), 1)
    AnswerOverlap(mean=0.25, sd=0.0, mean_of_max=0.5)
    """
    if not 1 <= n_first < len(matrix):
        raise ParameterError("n_first", f"in [1, {len(matrix)})", n_first)
    overlap: F64 = matrix[:n_first, n_first:].astype(np.float64)
    means = overlap.mean(1)
    return AnswerOverlap(float(means.mean()), float(means.std()), float(overlap.max(1).mean()))


def _spread(matrix: F32) -> dict[str, float]:
    """Return quantiles and the mean over pairs of different users."""
    pairs = matrix[np.triu_indices(len(matrix), 1)].astype(np.float64)
    found = dict(zip(_QUANTILES, np.quantile(pairs, list(_QUANTILES.values())).tolist(), strict=True))
    return {**found, "mean": float(pairs.mean())}
