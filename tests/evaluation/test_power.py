"""How many people a study needs: against simulated studies and in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from personalllm.core.errors import ParameterError
from personalllm.core.seeding import generator
from personalllm.evaluation import Spread, people_needed, power
from personalllm.evaluation.contract import Condition, Sums
from personalllm.evaluation.measures import crossed


def test_power_is_what_simulated_studies_find() -> None:
    spread, rng = Spread(0.05, 0.0, 0.4), generator(0, "studies")
    people = 0.04 + rng.normal(0, 0.05, (2_000, 60)) + rng.normal(0, 0.4 / math.sqrt(10), (2_000, 60))
    found = float(np.mean(ttest_1samp(people, 0, axis=1).pvalue < 0.05))
    assert abs(power(0.04, spread, 60, 10) - found) < 0.03


def test_without_an_effect_one_test_in_twenty_is_positive() -> None:
    assert power(0.0, Spread(0.1, 0.1, 0.4), 100, 10, 50) == pytest.approx(0.05)


def test_the_fewest_people_are_just_enough() -> None:
    spread = Spread(0.05, 0.02, 0.45)
    n = people_needed(0.03, spread, 20, 500)
    assert n is not None
    assert power(0.03, spread, n, 20, 500) >= 0.8 > power(0.03, spread, n - 1, 20, 500)


def test_no_number_of_people_makes_up_for_too_few_prompts() -> None:
    assert people_needed(0.01, Spread(0.05, 0.2, 0.4), 20, 20) is None


class _Study:
    """Two methods on 300 people and 200 prompts: the one thing that `Spread.of` asks of results."""

    main_metric = "accuracy"

    def __init__(self, person: float, prompt: float, comparison: float) -> None:
        rng, n, q, m = generator(1, "spread"), 300, 200, 40
        user = np.repeat(np.arange(n), m).astype(np.int32)
        asked = rng.permuted(np.tile(np.arange(q), (n, 1)), axis=1)[:, :m].ravel().astype(np.int32)
        noise = rng.normal(0, comparison, n * m)
        a = 0.1 + rng.normal(0, person, n)[user] + rng.normal(0, prompt, q)[asked] + noise
        self._sums = {name: self._added(user, asked, values) for name, values in (("a", a), ("b", 0 * a))}

    @staticmethod
    def _added(user: np.ndarray, prompt: np.ndarray, values: np.ndarray) -> Sums:
        columns = {"correct": values}
        prompts, cells = crossed(user, prompt, columns)
        totals = {"n": np.bincount(user), "correct": np.bincount(user, values)}
        return Sums({k: v.astype(np.float32) for k, v in totals.items()}, "users", "x", prompts=prompts, cells=cells)

    def sums(self, label: str, at: Condition | None = None) -> Sums:
        return self._sums[label]

    @staticmethod
    def metric(name: str) -> object:
        from personalllm.evaluation.metrics import PAIR_METRICS, metric_by_id

        return metric_by_id(PAIR_METRICS, name)


def test_the_spread_of_a_study_is_found_again() -> None:
    found = Spread.of(_Study(0.2, 0.1, 0.5), "a", "b")  # type: ignore[arg-type]
    assert found.person == pytest.approx(0.2, rel=0.15)
    assert found.prompt == pytest.approx(0.1, rel=0.2)
    assert found.comparison == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: power(0.1, Spread(0, 0, 1), 1, 5), "n_people must be >= 2, got 1"),
        (lambda: people_needed(0.0, Spread(0, 0, 1), 5), "effect must be other than 0"),
        (lambda: people_needed(0.1, Spread(0, 0, 1), 5, chance=1.0), "chance must be in"),
        (lambda: Spread(-1, 0, 0), "person must be finite and >= 0, got -1"),
    ],
)
def test_errors(call: object, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        call()  # type: ignore[operator]
