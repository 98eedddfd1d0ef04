"""Compare simulated users with people: the same measures, on the same number of voters for each prompt."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from personalllm.analysis.base import Analysis, Measured, measured_table
from personalllm.analysis.votes import Votes, check_names
from personalllm.core.errors import ParameterError, UserError
from personalllm.core.plotting import INK, bare, figure, label_rows, short, whisker
from personalllm.core.seeding import generator
from personalllm.core.stats import DRAWS, intervals
from personalllm.core.types import F64
from personalllm.data import Benchmark, ScoreTable
from personalllm.users import Population

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from personalllm.analysis.study import Study

__all__ = ["People", "pair_votes", "people"]


@dataclass(frozen=True, eq=False)
class People(Analysis):
    """Real voters beside simulated ones, all with the same number of voters for each prompt.

    Attributes:
        real: Votes of people.
        simulated: Votes of simulated users.
        n_voters: Voters of each prompt to which every population was cut down.
        repeats: Times that voters were drawn.
        measured: `disagreement`: share of prompts on which the `n_voters` do not all agree; `top share`: mean share
            of the most popular option; `entropy`: mean entropy of the `n_voters` votes in nats; `pair agreement`:
            probability that two voters choose alike, from all voters; `entropy of all voters` in nats.
        left_out: Prompts with fewer than `n_voters` votes, by population; they are in no figure.
    """

    real: tuple[Votes, ...]
    simulated: tuple[Votes, ...]
    n_voters: int
    repeats: int
    measured: tuple[Measured, ...]
    left_out: dict[str, int]

    id: ClassVar[str] = "people"
    title: ClassVar[str] = "Simulated users beside people"

    @classmethod
    def of_study(cls, study: Study) -> tuple[People]:
        """Compare the given votes of people with the users of each concentration, on pairs of responses."""
        if not study.people:
            raise UserError("No file of people's votes was given.", "Give --votes FILE.")
        return (people(study.people, study.pairs(cls.split), seed=study.seed),)

    def of(self, quantity: str, population: str) -> Measured:
        """Return one figure of one population."""
        return next(m for m in self.measured if m.quantity == quantity and m.population == population)

    def tables(self) -> dict[str, Any]:
        """Return `people`: one row for each population and quantity, `level` says whether people or simulated users."""
        return {"people": measured_table(self.measured)}

    def plot(self) -> Figure:
        """Draw disagreement, pair agreement and entropy with intervals, people first."""
        return _figure(self)

    def notes(self) -> tuple[str, ...]:
        """Return what to keep in mind."""
        lines = [
            (
                "Few voters show less entropy and a higher top share by chance alone, so every population was cut "
                f"down to {self.n_voters} voters for each prompt, drawn anew {self.repeats} times without replacement."
            ),
            "Pair agreement estimates the same number for any number of voters, so it is taken from all of them.",
            (
                "People and simulated users voted on other prompts and other responses, so a difference is one of the "
                "data as well as of the voters."
            ),
            "Annotators who follow a guideline for correct answers may agree more than people asked for their taste.",
        ]
        if any(votes.squares is not None for votes in self.real):
            lines.append(
                "Simulated users never tie; where ties of people are split, a tie counts as half a vote for each "
                "side, so that voters who all tie count as disagreeing."
            )
        if len({votes.n_options for votes in (*self.real, *self.simulated)}) > 1:
            lines.append("The numbers of options differ, which changes every figure.")
        short = ", ".join(f"{n:,} of {name}" for name, n in self.left_out.items() if n)
        if short:
            lines.append(
                f"Prompts with fewer than {self.n_voters} votes are left out, {short}; where ties were dropped, "
                "this keeps the clearer prompts."
            )
        return tuple(lines)


def pair_votes(
    name: str,
    population: Population,
    scores: ScoreTable,
    benchmark: Benchmark | None = None,
    rows: npt.ArrayLike | None = None,
    *,
    seed: int = 0,
) -> Votes:
    """Return the votes of simulated users between two responses of each prompt, drawn at random, in random order.

    Args:
        name: Whose votes they are.
        population: The users.
        scores: Standardised scores of the prompts, two responses or more.
        benchmark: Names the response models and the prompts; None to leave them unnamed.
        rows: Rows of the benchmark that the scores stand for; None for all.
        seed: Seed of the pairs; populations with the same seed judge the same pairs.

    Raises:
        ParameterError: If there are fewer than two responses.
        AxisMismatch: If the reward models or the rows do not fit.
    """
    if scores.n_responses < 2:
        raise ParameterError("the responses of each prompt", "two or more", scores.n_responses)
    rng = generator(seed, "analysis", "pairs", scores.n_prompts, scores.n_responses)
    pair = np.argsort(rng.random((scores.n_prompts, scores.n_responses)), axis=1)[:, :2]
    at = np.arange(scores.n_prompts)[:, None]
    two = ScoreTable(np.ascontiguousarray(scores.values[at, pair]), scores.reward_models)
    votes = Votes.of(name, population, two)
    if benchmark is None:
        return dataclasses.replace(votes, options=("first", "second"))
    named = Votes.from_choices(
        name, np.zeros((1, scores.n_prompts), np.uint8), scores.n_responses, benchmark=benchmark, rows=rows
    )
    index = pair if named.option_index is None else named.option_index[at, pair]
    return dataclasses.replace(
        votes,
        options=named.options,
        option_index=index.astype(np.uint8),
        prompts=named.prompts,
        prompt_ids=named.prompt_ids,
    )


def people(
    real: Votes | Sequence[Votes],
    simulated: Sequence[Votes] = (),
    *,
    n_voters: int | None = None,
    repeats: int = 200,
    draws: int = DRAWS,
    seed: int = 0,
) -> People:
    """Measure real voters beside simulated ones, with equally many voters for each prompt.

    Args:
        real: Votes of people, e.g. from `Votes.from_file`.
        simulated: Votes of simulated users over as many options, e.g. from `pair_votes`.
        n_voters: Voters of each prompt, >= 2; None takes the number that most prompts of the first real votes have.
        repeats: Times that voters are drawn where there are more, >= 1.
        draws: Resamples of the prompts behind each interval.
        seed: Seed of the voters and of the resamples.

    Raises:
        ParameterError: If an argument is out of its range, or a population has too few voters.
        UserError: If split votes would have to be drawn from.

    >>> three = Votes(counts=[[3, 0], [2, 1]], n_voters=[3, 3], name="three people")
    >>> people(three).of("disagreement", "three people").value
    0.5
    """
    panels = (real,) if isinstance(real, Votes) else tuple(real)
    check_names((*panels, *simulated))
    if not panels:
        raise ParameterError("real", "one population or more", real)
    if repeats < 1:
        raise ParameterError("repeats", ">= 1", repeats)
    numbers, times = np.unique(panels[0].n_voters, return_counts=True)
    k = int(numbers[times.argmax()]) if n_voters is None else n_voters
    if k < 2:
        raise ParameterError("n_voters", ">= 2", k)
    measured: list[Measured] = []
    left_out: dict[str, int] = {}
    for kind, votes in [("people", panel) for panel in panels] + [("simulated", panel) for panel in simulated]:
        rows = np.flatnonzero(votes.n_voters >= k)
        left_out[votes.name] = votes.n_prompts - len(rows)
        if not rows.size:
            raise ParameterError(f"the voters of {votes.name!r}", f"{k} or more on some prompt", votes.n_voters.max())
        part = votes if len(rows) == votes.n_prompts else _rows(votes, rows)
        columns = {
            **_of_few(part, k, repeats, seed),
            "pair agreement": part.pair_agreement(),
            "entropy of all voters": part.entropy(),
        }
        means = intervals(np.column_stack(list(columns.values())), draws=draws, seed=seed)
        measured += [
            Measured(votes.name, quantity, kind, *mean, part.n_prompts)
            for quantity, mean in zip(columns, means, strict=True)
        ]
    return People(panels, tuple(simulated), k, repeats, tuple(measured), left_out)


def _rows(votes: Votes, rows: npt.NDArray[np.intp]) -> Votes:
    """Return the votes of some prompts, without the names that no figure here needs."""
    return Votes(
        counts=votes.counts[rows],
        n_voters=votes.n_voters[rows],
        name=votes.name,
        squares=None if votes.squares is None else votes.squares[rows],
    )


def _of_few(votes: Votes, k: int, repeats: int, seed: int) -> dict[str, F64]:
    """Return for each prompt what k voters show on average: disagreement, top share, entropy."""
    if (votes.n_voters == k).all():
        return _disagreement(votes)
    if votes.squares is not None:
        raise UserError(
            f"{votes.name!r} has split votes and more than {k} voters, from which none can be drawn.",
            f'Read the file with ties="option" or ties="drop", or leave n_voters at {votes.n_voters.min():g}.',
        )
    rng = generator(seed, "analysis", "few voters", k)
    total: dict[str, F64] = {}
    for _ in range(repeats):
        for quantity, values in _disagreement(votes.drawn_down(k, rng)).items():
            total[quantity] = total.get(quantity, 0.0) + values / repeats
    return total


def _disagreement(votes: Votes) -> dict[str, F64]:
    top = votes.top_share()
    return {"disagreement": (top < 1 - 1e-9).astype(np.float64), "top share": top, "entropy": votes.entropy()}


def _figure(result: People) -> Figure:
    """Draw a row for each population, people as filled diamonds and simulated users as hollow circles."""
    panels = {
        "disagreement": f"Prompts on which {result.n_voters} voters\ndo not all agree, %",
        "pair agreement": "Two voters choose\nthe same option, %",
        "entropy": f"Mean entropy of the votes of\n{result.n_voters} voters, nats",
    }
    populations = (*result.real, *result.simulated)
    n_options = {votes.n_options for votes in populations}
    with figure(1.4 + 0.36 * len(populations)) as drawn:
        axes = drawn.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axis, (quantity, title) in zip(axes, panels.items(), strict=True):
            scale = 1.0 if quantity == "entropy" else 100.0
            for row, votes in enumerate(populations):
                measured = result.of(quantity, votes.name)
                whisker(axis, row, scale * measured.low, scale * measured.high, upright=False)
                person = measured.level == "people"
                colour = INK["mark"] if person else INK["accent"]
                axis.plot(
                    [scale * measured.value], [row], "D" if person else "o", color=colour,
                    markerfacecolor=colour if person else INK["paper"], markersize=6, zorder=4,
                )  # fmt: skip
            chance = _chance(quantity, n_options, result.n_voters)
            if chance is not None:
                axis.axvline(chance, color=INK["muted"], linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
                axis.annotate(
                    "chance", (chance, 1), xycoords=("data", "axes fraction"), xytext=(0, 3),
                    textcoords="offset points", ha="center", va="bottom", fontsize=8.5, color=INK["muted"],
                )  # fmt: skip
            axis.margins(x=0.08)
            axis.set_xlabel(title)
            bare(axis, grid="x")
        label_rows(axes[0], [short(votes.name, 30) for votes in populations])
    return drawn


def _chance(quantity: str, n_options: set[int], n_voters: int) -> float | None:
    """Return the percentage that voters who choose at random would show; None if the numbers of options differ."""
    if len(n_options) != 1:
        return None
    (n,) = n_options
    return {"disagreement": 100 * (1 - n ** (1.0 - n_voters)), "pair agreement": 100 / n}.get(quantity)
