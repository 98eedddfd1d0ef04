"""Measure how often two users choose the same response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from personalllm.analysis.base import Analysis, Measured, measured_table
from personalllm.analysis.votes import Votes, check_names
from personalllm.core.errors import ParameterError
from personalllm.core.plotting import INK, figure, label_rows, short, whisker
from personalllm.core.stats import DRAWS, intervals
from personalllm.core.types import F32, F64, U8

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from personalllm.analysis.study import Study

__all__ = ["Agreement", "AnswerOverlap", "agreement", "answer_overlap", "user_agreement"]

_QUANTILES = {"min": 0.0, "5 %": 0.05, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "95 %": 0.95, "max": 1.0}
# A matrix of 5,000 users takes 100 MB, and a block of 4,096 of their prompts 80 MB.
_PROMPTS_PER_BLOCK = 4_096
_MAX_USERS = 5_000


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

    @classmethod
    def of_study(cls, study: Study) -> tuple[Agreement]:
        """Measure the users of each concentration and the given personas."""
        panels = (*study.votes(cls.split), *study.persona_votes)
        return (agreement(*panels, n_first=min(100, study.n_users // 2), seed=study.seed),)

    def of(self, quantity: str, population: str) -> dict[str, Measured]:
        """Return the figures of one quantity of one population by level."""
        return {m.level: m for m in self.measured if m.quantity == quantity and m.population == population}

    def tables(self) -> dict[str, Any]:
        """Return `agreement`: one row for each population, quantity and level."""
        return {"agreement": measured_table(self.measured)}

    def plot(self) -> Figure:
        """Draw for each population the spread over pairs of users and the mean over prompts."""
        return _figure(self)

    def notes(self) -> tuple[str, ...]:
        """Return what to keep in mind."""
        lines = [
            (
                "The mean agreement has a 95 % interval from resampling the prompts; the spread over pairs of users "
                "has npanel."
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
    >>> result = agreement(alike, n_first=1)
    >>> round(result.of("pair agreement", "alike")["mean"].value, 3), result.of("users", "alike")["max"].value
    (0.667, 1.0)
    """
    check_names(votes)
    if n_first < 1:
        raise ParameterError("n_first", ">= 1", n_first)
    measured: list[Measured] = []
    matrices: dict[str, F32] = {}
    for panel in votes:
        values = panel.pair_agreement()
        values = values[np.isfinite(values)]
        if not values.size:
            raise ParameterError(f"the voters of {panel.name!r}", "two or more on some prompt", 1)
        (mean,) = intervals(values[:, None], draws=draws, seed=seed)
        measured.append(Measured(panel.name, "pair agreement", "mean", *mean, values.size))
        if panel.choices is None or not 2 <= len(panel.choices) <= _MAX_USERS:
            continue
        matrices[panel.name] = matrix = user_agreement(panel.choices, panel.n_options)
        figures = [("users", level, value) for level, value in _spread(matrix).items()]
        if len(matrix) > n_first:
            figures += [("answer overlap", k, v) for k, v in answer_overlap(matrix, n_first)._asdict().items()]
        measured += [Measured(panel.name, q, level, v, np.nan, np.nan, panel.n_prompts) for q, level, v in figures]
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
    levels = np.quantile(pairs, list(_QUANTILES.values())).tolist()
    return {**dict(zip(_QUANTILES, levels, strict=True)), "mean": float(pairs.mean())}


def _figure(result: Agreement) -> Figure:
    """Draw a row for each population: 5, 25, 50, 75 and 95 % of the pairs of users, and the mean with its interval."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    names = [votes.name for votes in result.populations]
    with figure(1.3 + 0.42 * len(names)) as drawn:
        axis = drawn.subplots()
        for row, name in enumerate(names):
            pairs = {level: measured.value for level, measured in result.of("users", name).items()}
            if pairs:
                axis.plot([pairs["5 %"], pairs["95 %"]], [row, row], color=INK["accent"], linewidth=1.2, zorder=2)
                axis.barh(
                    row, pairs["75 %"] - pairs["25 %"], left=pairs["25 %"], height=0.46,
                    color=INK["soft"], edgecolor=INK["accent"], linewidth=1.0, zorder=3,
                )  # fmt: skip
                median = pairs["median"]
                axis.plot([median, median], [row - 0.23, row + 0.23], color=INK["accent"], linewidth=2.4, zorder=4)
            mean = result.of("pair agreement", name)["mean"]
            whisker(axis, row, mean.low, mean.high, upright=False)
            axis.plot([mean.value], [row], "D", color=INK["ink"], markerfacecolor=INK["paper"], markersize=6, zorder=6)
        label_rows(axis, [short(name) for name in names])
        axis.set_xlim(-0.01, 1.01)
        axis.set_xlabel("Share of prompts on which two users choose the same response")
        handles = [
            Line2D([], [], color=INK["ink"], marker="D", markerfacecolor=INK["paper"], label="mean, 95 % interval"),
            Patch(facecolor=INK["soft"], edgecolor=INK["accent"], label="pairs of users: 5, 25, 50, 75, 95 %"),
        ]
        drawn.legend(handles=handles, loc="outside upper left", ncols=2, frameon=False, fontsize=9)
    return drawn
