"""How often intervals over users and prompts cover the truth, and how often equal methods are called different.

Users and prompts are drawn again and again from a super-population with known truths: 3,000 users (alpha 0.05) and the
10,402 prompts of the synthetic table. Of the methods, `a` and `b` ignore the user, `d` and `e` know each user's weights
with an error, and each of these pairs is exchangeable; `d` and `d2` differ by noise in each cell only.

    python benchmarks/bench_intervals.py                      # all designs
    python benchmarks/bench_intervals.py 1000x100 --draws 50  # one of them
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from _common import Row, seconds

from personalllm.core.crossed import Over
from personalllm.core.types import F32, F64, I32, I64
from personalllm.data.synthetic import CALIBRATED
from personalllm.data.synthetic_model import REWARD_MODELS, draw_noise, synthetic_scores
from personalllm.evaluation.contract import Metric, Sums
from personalllm.evaluation.estimates import difference, estimate
from personalllm.evaluation.measures import PairAnswers, choice_columns, crossed, margins, pair_columns, pair_sums
from personalllm.evaluation.metrics import CHOICE_METRICS, PAIR_METRICS
from personalllm.users import Population

N_USERS, N_PROMPTS = 3_000, 10_402
METHODS = ("a", "b", "d", "e", "d2")
EQUAL = (("a", "b"), ("d", "e"), ("d", "d2"))
METRICS: dict[str, tuple[Metric, ...]] = {
    "rank": CHOICE_METRICS,
    "predict": tuple(metric for metric in PAIR_METRICS if metric.id in ("accuracy", "log_loss")),
}
_BLOCK, _TRUTH = 100_000, 2_000_000
_SLOPE = 2.0


class Design(NamedTuple):
    """How many users and prompts are drawn, how many prompts each user answers, and how often."""

    users: int
    prompts: int
    each: int
    draws: int

    def cells(self, rng: np.random.Generator) -> tuple[I32, I32]:
        """Return user and prompt of each cell: all prompts for everybody, or a random part for each user."""
        if self.each == self.prompts:
            user, prompt = (index.ravel() for index in np.indices((self.users, self.prompts)))
            return user.astype(np.int32), prompt.astype(np.int32)
        part = rng.random((self.users, self.prompts)).argpartition(self.each, axis=1)[:, : self.each]
        return np.repeat(np.arange(self.users, dtype=np.int32), self.each), part.ravel().astype(np.int32)


DESIGNS = {
    "1000x100": Design(1_000, 100, 100, 200),
    "200x100": Design(200, 100, 100, 400),
    "1000x500": Design(1_000, 500, 500, 40),
    "50x20": Design(50, 20, 20, 400),
    "1000 users, 100 of 1000 prompts each": Design(1_000, 1_000, 100, 100),
    "1000 users, 1 of 1000 prompts each": Design(1_000, 1_000, 1, 400),
}


@dataclass(frozen=True, eq=False)
class World:
    """The super-population.

    Attributes:
        scores: float32 (N_PROMPTS, 8, 10), standardised.
        weights: float32 (N_USERS, 10).
        mean: float32 (N_PROMPTS, 8), mean utility over the users.
    """

    scores: F32
    weights: F32
    mean: F32

    @classmethod
    def draw(cls, seed: int = 0) -> World:
        scores, _ = synthetic_scores(CALIBRATED, draw_noise(N_PROMPTS, np.random.default_rng(seed)))
        weights = Population.dirichlet(N_USERS, 0.05, REWARD_MODELS, seed).weights.astype(np.float32)
        return cls(scores, weights, scores @ weights.mean(axis=0))

    def answers(
        self, users: I64, prompts: I64, user: I32, prompt: I32, rng: np.random.Generator
    ) -> tuple[dict[str, dict[str, F64]], dict[str, F32]]:
        """Return method -> columns of the cells in the rank track, and method -> margins in the predict track.

        What `d` and `e` mistake of each user, and `a` and `b` of each prompt, is drawn anew, so that the methods of a
        pair have the same expectation.

        Args:
            users: Rows of the super-population.
            prompts: Likewise.
            user: Position in `users` of each cell.
            prompt: Likewise.
            rng: Of all errors.
        """
        scores, weights, row = self.scores[prompts], self.weights[users], np.arange(len(user))

        def utilities(weights: F32) -> F32:
            if len(user) == len(users) * len(prompts):  # everybody answers every prompt, by user
                return (weights @ scores.reshape(-1, scores.shape[2]).T).reshape(len(user), -1)
            return np.einsum("nrk,nk->nr", scores[prompt], weights[user])

        utility = utilities(weights)
        preference: dict[str, F32] = {}
        for name in "ab":
            error = rng.normal(0, 0.5, (len(prompts), scores.shape[1])).astype(np.float32)
            preference[name] = (self.mean[prompts] + error)[prompt]
        for name in "de":
            preference[name] = utilities(weights + rng.normal(0, 0.15, weights.shape).astype(np.float32))
        preference["d2"] = preference["d"]
        for name in ("d", "e", "d2"):
            noise = rng.standard_normal(utility.shape, dtype=np.float32)
            preference[name] = preference[name] + np.float32(0.1) * noise
        reference = utility[:, 0]
        best = self.mean[prompts].argmax(axis=1)[prompt]
        standards = {"best": utility.max(axis=1), "population_best": utility[row, best], "reference": reference}
        first = rng.integers(0, 8, len(row))
        second = (first + rng.integers(1, 8, len(row))) % 8
        wins = utility[row, first] > utility[row, second]
        chosen, rejected = np.where(wins, first, second), np.where(wins, second, first)
        ranked = {
            name: choice_columns(utility[row, values.argmax(axis=1)], **standards)
            for name, values in preference.items()
        }
        scaled = {name: np.float32(_SLOPE) * margins(values, chosen, rejected) for name, values in preference.items()}
        return ranked, scaled


def truths(world: World) -> dict[tuple[str, str], float]:
    """Return (method, metric) -> its value over all users and prompts, from cells drawn at random.

    Unlike those of a design the cells are independent: the error is a thousandth of a cell's standard deviation.
    """
    rng = np.random.default_rng(1)
    totals: dict[str, dict[str, float]] = {name: {} for name in METHODS}
    each = np.arange(_BLOCK, dtype=np.int32)
    for _ in range(0, _TRUTH, _BLOCK):
        users, prompts = rng.integers(0, N_USERS, _BLOCK), rng.integers(0, N_PROMPTS, _BLOCK)
        ranked, margin = world.answers(users, prompts, each, each, rng)
        for name in METHODS:
            predicted = pair_columns(PairAnswers(1, np.zeros(_BLOCK, np.int32), margin[name]))
            for column, values in {**ranked[name], **predicted}.items():
                totals[name][column] = totals[name].get(column, 0.0) + float(values.sum())
    found = {}
    for name, sums in totals.items():
        means = {column: total / _TRUTH for column, total in sums.items()}
        for metric in (metric for metrics in METRICS.values() for metric in metrics):
            top, bottom = (sum(c * means[column] for column, c in side.items()) for side in (metric.top, metric.bottom))
            found[name, metric.id] = top / bottom if metric.bottom else top
    return found


def drawn(world: World, design: Design, rng: np.random.Generator) -> dict[str, dict[str, Sums]]:
    """Return track -> method -> sums of one draw of users and prompts."""
    user, prompt = design.cells(rng)
    users, prompts = rng.integers(0, N_USERS, design.users), rng.integers(0, N_PROMPTS, design.prompts)
    ranked, margin = world.answers(users, prompts, user, prompt, rng)
    sums: dict[str, dict[str, Sums]] = {"rank": {}, "predict": {}}
    for name in METHODS:
        columns = ranked[name]
        means = {key: np.bincount(user, values) / design.each for key, values in columns.items()}
        both = crossed(user, prompt, columns)
        sums["rank"][name] = Sums(
            {key: value.astype(np.float32) for key, value in means.items()}, "users", "", (), *both
        )
        pairs = PairAnswers(design.users, user, margin[name])
        sums["predict"][name] = Sums(pair_sums(pairs), "users", "", (), *crossed(user, prompt, pair_columns(pairs)))
    return sums


class Coverage(NamedTuple):
    """(Method, metric) -> coverage, and width over the width needed; (pair, metric) -> false differences."""

    covered: dict[tuple[str, str], float]
    width: dict[tuple[str, str], float]
    false: dict[tuple[tuple[str, str], str], float]


def measure(world: World, truth: Mapping[tuple[str, str], float], design: Design, over: Over, seed: int) -> Coverage:
    """Draw users and prompts again and again; look whether intervals hold."""
    values: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    p_values: dict[tuple[tuple[str, str], str], list[float]] = {}
    for index in range(design.draws):
        sums = drawn(world, design, np.random.default_rng([seed, index]))
        for track, metrics in METRICS.items():
            for name, of in sums[track].items():
                estimates = estimate(of, metrics, over=over, draws=500, seed=index)
                for metric in metrics:
                    e = estimates["all", metric.id]
                    values.setdefault((name, metric.id), []).append((e.value, e.low, e.high))
            for pair in EQUAL:
                for metric in metrics:
                    a, b = (sums[track][name] for name in pair)
                    gap, p_value = difference(a, b, metric, over=over, draws=500, seed=index)
                    rejected = p_value <= 0.05 if not math.isnan(p_value) else not gap.low <= 0 <= gap.high
                    p_values.setdefault((pair, metric.id), []).append(float(rejected))
    covered, width = {}, {}
    for key, rows in values.items():
        value, low, high = np.array(rows).T
        known = ~np.isnan(low)
        covered[key] = float(((low <= truth[key]) & (truth[key] <= high))[known].mean()) if known.any() else math.nan
        width[key] = float((high - low)[known].mean() / (2 * 1.96 * value.std())) if known.any() else math.nan
    return Coverage(covered, width, {key: float(np.mean(rejected)) for key, rejected in p_values.items()})


def table(name: str, found: Coverage) -> Iterator[str]:
    """Yield the lines of a design."""
    metrics = [metric.id for group in METRICS.values() for metric in group]
    yield f"{name}: coverage of 95 % intervals (width as a multiple of the width needed)"
    for metric in metrics:
        cells = [
            f"{method} {found.covered[method, metric]:.3f} ({found.width[method, metric]:.2f})" for method in METHODS
        ]
        yield f"  {metric:20s} {'  '.join(cells)}"
    yield "  differences of equal methods that are called significant at 5 %"
    for metric in metrics:
        cells = [f"{a},{b} {found.false[(a, b), metric]:.3f}" for a, b in EQUAL]
        yield f"  {metric:20s} {'  '.join(cells)}"


def run() -> list[Row]:
    """Return rows for `run.py`, of a small number of draws."""
    world = World.draw()
    truth = truths(world)
    design = Design(200, 100, 100, 60)
    found = measure(world, truth, design, "users and prompts", 0)
    covered, false = min(found.covered.values()), max(found.false.values())
    spent = 1000 * _estimating(world, Design(1_000, 100, 100, 1))
    return [
        Row(
            "intervals: least coverage, 200 users x 100 prompts, 60 draws", f"{covered:.2f}", ">= 0.85", covered >= 0.85
        ),
        Row("intervals: most false differences, the same", f"{false:.2f}", "<= 0.15", false <= 0.15),
        Row("intervals: five metrics of a method, 1,000 x 100", f"{spent:.0f} ms", "", None),
    ]


def _estimating(world: World, design: Design) -> float:
    sums = drawn(world, design, np.random.default_rng(0))["rank"]["d"]
    return min(seconds(lambda: estimate(sums, CHOICE_METRICS)) for _ in range(5))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("designs", nargs="*", help=f"of {', '.join(DESIGNS)}; all of them by default")
    parser.add_argument("--draws", type=int, help="redraws of each design")
    parser.add_argument("--over", default="users and prompts", choices=["users and prompts", "users", "prompts"])
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    world = World.draw()
    truth = truths(world)
    for name in METHODS:
        print(f"truth of {name}:", ", ".join(f"{metric} {truth[name, metric]:.4f}" for m, metric in truth if m == name))
    print(f"five metrics of a method, 1,000 x 100: {1000 * _estimating(world, DESIGNS['1000x100']):.1f} ms")
    for name in given.designs or DESIGNS:
        design = DESIGNS[name]._replace(**({"draws": given.draws} if given.draws else {}))
        found = measure(world, truth, design, given.over, given.seed)
        print("\n".join(table(f"{name}, {design.draws} draws, over {given.over}", found)), flush=True)


if __name__ == "__main__":
    main()
