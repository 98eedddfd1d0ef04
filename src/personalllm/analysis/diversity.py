"""Compare how much populations disagree about the best response (section 3.1 of the paper)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from personalllm.analysis.base import Analysis, Measured, measured_table
from personalllm.analysis.votes import Votes, check_names
from personalllm.core.errors import ParameterError
from personalllm.core.plotting import INK, bare, figure, key_of_series, label_rows, look, short, whisker
from personalllm.core.stats import DRAWS, bootstrap_means, intervals, percentiles
from personalllm.core.types import F64

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from personalllm.analysis.study import Study

__all__ = ["PLOTTED_BINS", "THRESHOLDS", "Diversity", "as_plotted", "diversity"]

THRESHOLDS = (0.5, 0.75, 0.95)
"""The vote shares at which the paper counts prompts."""

PLOTTED_BINS: dict[str, tuple[int, int]] = {"<=2": (2, 3), "3": (4, 4), "4": (5, 5), "5": (6, 6), ">=6": (7, 255)}
"""The labels of the paper's histogram of winners, and the numbers of winners (ends included) behind each."""

_MAX_OPTIONS = 12


@dataclass(frozen=True, eq=False)
class Diversity(Analysis):
    """Disagreement of populations over the same kind of prompts.

    Attributes:
        populations: The votes, in the order in which they were given.
        thresholds: Vote shares in (0, 1], ascending.
        measured: All figures: `top share at most`, `winners`, `winners as plotted` and `wins` are shares in [0, 1];
            `entropy` (levels `mean` and `sd`) is in nats; `pair agreement` is a probability.
    """

    populations: tuple[Votes, ...]
    thresholds: tuple[float, ...]
    measured: tuple[Measured, ...]

    id: ClassVar[str] = "diversity"
    title: ClassVar[str] = "Preference diversity"

    @classmethod
    def of_study(cls, study: Study) -> tuple[Diversity]:
        """Measure the users of each concentration and the given personas."""
        return (diversity(*study.votes(cls.split), *study.persona_votes, seed=study.seed),)

    def of(self, quantity: str, population: str) -> dict[str, Measured]:
        """Return the figures of one quantity of one population by level."""
        return {m.level: m for m in self.measured if m.quantity == quantity and m.population == population}

    def tables(self) -> dict[str, Any]:
        """Return `diversity`: one row for each population, quantity and level, with 95 % intervals."""
        return {"diversity": measured_table(self.measured)}

    def plot(self, *, plotted_bins: bool = False) -> Figure:
        """Draw thresholds, distinct winners and wins of the options, populations side by side.

        Args:
            plotted_bins: True for the bins of the paper's figure, whose labels are one too low.
        """
        return _figure(self, plotted_bins=plotted_bins)

    def notes(self) -> tuple[str, ...]:
        """Return what to keep in mind."""
        voters = {votes.n_voters.max() for votes in self.populations} | {v.n_voters.min() for v in self.populations}
        lines = [
            (
                "A prompt whose top share is exactly at a threshold counts half; the function behind the paper's "
                "figure adds half a prompt more where any prompt ties."
            ),
            (
                "Intervals are 95 % percentile intervals from resampling the prompts; the voters are taken as they "
                "are, so the spread of another draw of users is not in them."
            ),
            (
                "`winners as plotted` puts the numbers of winners under the labels of the paper's figure, which are "
                "one too low and leave out prompts with a single winner; `winners` is the true histogram."
            ),
        ]
        if len(voters) > 1:
            low, high = min(voters), max(voters)
            lines.append(
                f"The numbers of voters differ ({low:g} to {high:g}): fewer voters find fewer winners, a higher top "
                "share and a lower entropy by chance alone; only the pair agreement can be compared as it is."
            )
        if len({votes.n_options for votes in self.populations}) > 1:
            lines.append("The numbers of options differ, which changes every figure.")
        return tuple(lines)


def diversity(*votes: Votes, thresholds: Sequence[float] = THRESHOLDS, draws: int = DRAWS, seed: int = 0) -> Diversity:
    """Measure how much populations disagree about the best response (paper, section 3.1).

    Args:
        votes: One or more populations with distinct names.
        thresholds: Vote shares in (0, 1].
        draws: Resamples of the prompts behind each interval.
        seed: Seed of the resamples.

    Raises:
        ParameterError: If no population is given, two share a name, or a threshold is out of range.

    >>> votes = Votes(counts=[[3, 1], [2, 2]], n_voters=[4, 4], name="four people")
    >>> diversity(votes).of("top share at most", "four people")["0.75"].value
    0.75
    """
    check_names(votes)
    levels = tuple(sorted(float(threshold) for threshold in thresholds))
    if not levels or not all(0 < level <= 1 for level in levels):
        raise ParameterError("thresholds", "in (0, 1]", tuple(thresholds))
    measured: list[Measured] = []
    for panel in votes:
        columns = _columns(panel, levels)
        means = intervals(np.column_stack([column for _, _, column in columns]), draws=draws, seed=seed)
        measured += [
            Measured(panel.name, quantity, level, *mean, panel.n_prompts)
            for (quantity, level, _), mean in zip(columns, means, strict=True)
        ]
        measured += _spread_of_entropy(panel, draws, seed)
        measured += _agreement(panel, draws, seed)
    return Diversity(tuple(votes), levels, tuple(measured))


def as_plotted(histogram: Mapping[int, float]) -> dict[str, float]:
    """Return a histogram of distinct winners in the bins of the paper's figure.

    The labels of that figure read <=2, 3, 4, 5, >=6, but the code behind it appears to count prompts with {2, 3}, 4, 5,
    6 and {7, 8} winners and to drop those with one, so the bins do not sum to 1.

    Args:
        histogram: Share of the prompts with each number of winners, as `Votes.winners_histogram` returns it.

    >>> as_plotted({1: 0.5, 2: 0.2, 3: 0.1, 4: 0.1, 8: 0.1})
    {'<=2': 0.30000000000000004, '3': 0.1, '4': 0.0, '5': 0.0, '>=6': 0.1}
    """
    return {
        label: float(sum(share for n, share in histogram.items() if low <= n <= high))
        for label, (low, high) in PLOTTED_BINS.items()
    }


def _columns(votes: Votes, thresholds: tuple[float, ...]) -> list[tuple[str, str, F64]]:
    """Return quantity, level and the value for each prompt, of all that is a mean over prompts."""
    winners, wins = votes.n_winners(), votes.option_columns()
    return [
        *(("top share at most", f"{threshold:g}", votes.at_most(threshold)) for threshold in thresholds),
        *(("winners", str(n), (winners == n).astype(np.float64)) for n in range(1, votes.n_options + 1)),
        *(
            ("winners as plotted", label, ((winners >= low) & (winners <= high)).astype(np.float64))
            for label, (low, high) in PLOTTED_BINS.items()
        ),
        *(("wins", option, wins[:, i]) for i, option in enumerate(votes.options)),
        ("entropy", "mean", votes.entropy()),
    ]


def _spread_of_entropy(votes: Votes, draws: int, seed: int) -> Iterator[Measured]:
    """Yield the standard deviation of the entropy over prompts."""
    entropy = votes.entropy()
    low = high = np.nan
    if votes.n_prompts > 1:
        first, second = bootstrap_means(np.column_stack([entropy, entropy**2]), draws=draws, seed=seed).T
        (low,), (high,) = percentiles(np.sqrt(np.maximum(second - first**2, 0))[:, None])
    yield Measured(votes.name, "entropy", "sd", float(entropy.std()), float(low), float(high), votes.n_prompts)


def _agreement(votes: Votes, draws: int, seed: int) -> Iterator[Measured]:
    """Yield the agreement of two voters over the prompts with two voters or more, if there are any."""
    agreement = votes.pair_agreement()
    agreement = agreement[np.isfinite(agreement)]
    if agreement.size:
        (interval,) = intervals(agreement[:, None], draws=draws, seed=seed)
        yield Measured(votes.name, "pair agreement", "mean", *interval, agreement.size)


def _figure(result: Diversity, *, plotted_bins: bool) -> Figure:
    """Draw the three panels of the paper's figure, populations side by side."""
    names = [votes.name for votes in result.populations]
    options = _top_options(result, names)
    row = 0.17 * max(len(names), 2) + 0.1
    with figure(3.5 + row * len(options)) as drawn:
        grid = drawn.add_gridspec(2, 2, width_ratios=(3, 5), height_ratios=(2.6, row * len(options)))
        left, right = drawn.add_subplot(grid[0, 0]), drawn.add_subplot(grid[0, 1])
        below = drawn.add_subplot(grid[1, :])
        thresholds = [f"{threshold:g}" for threshold in result.thresholds]
        _bars(left, [result.of("top share at most", name) for name in names], thresholds, upright=True)
        left.set_xticks(range(len(thresholds)), [f"{100 * threshold:g} %" for threshold in result.thresholds])
        left.set_xlabel("Top response's share of the votes, at most")
        left.set_ylabel("% of prompts")
        winners = [result.of("winners as plotted" if plotted_bins else "winners", name) for name in names]
        counts = list(dict.fromkeys(level for series in winners for level in series))
        _bars(right, winners, counts, upright=True)
        right.set_xticks(range(len(counts)), counts)
        right.set_xlabel("Distinct winners, labels as in the paper's figure" if plotted_bins else "Distinct winners")
        _bars(below, [result.of("wins", name) for name in names], options, upright=False)
        label_rows(below, [short(option.rsplit("/", 1)[-1]) for option in options])
        below.spines["bottom"].set_color(INK["rule"])
        below.set_xlabel("% of votes")
        key_of_series(drawn, names, bars=True)
    return drawn


def _top_options(result: Diversity, names: Sequence[str]) -> list[str]:
    """Return the options with the most votes, in that order, at most as many as can be drawn."""
    totals: dict[str, float] = {}
    for name in names:
        for option, measured in result.of("wins", name).items():
            totals[option] = totals.get(option, 0.0) + measured.value
    return sorted(totals, key=lambda option: -totals[option])[:_MAX_OPTIONS]


def _bars(axis: Axes, series: Sequence[Mapping[str, Measured]], levels: Sequence[str], *, upright: bool) -> None:
    """Draw a group of bars for each level, a bar for each series, in per cent; upright, or across in rows."""
    width = (0.82 if upright else 0.74) / len(series)
    draw = axis.bar if upright else axis.barh
    for index, measured in enumerate(series):
        style = look(index)
        for group, level in enumerate(levels):
            if level not in measured:
                continue
            at = group + (index - (len(series) - 1) / 2) * width
            value, low, high = (100 * number for number in measured[level][3:6])
            looks: dict[str, Any] = {"color": style.face, "edgecolor": style.edge, "hatch": style.hatch}
            draw(at, value, 0.85 * width, linewidth=0.9, zorder=2, **looks)
            whisker(axis, at, low, high, upright=upright)
    if upright:
        axis.set_ylim(bottom=0)
        bare(axis, grid="y")
    else:
        axis.set_xlim(left=0)
