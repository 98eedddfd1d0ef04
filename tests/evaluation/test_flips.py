"""The share of right predictions that turn with the labels of the history, where the reversal asks for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personalllm.core.errors import UserError
from personalllm.core.types import F32, Histories, Queries
from personalllm.data import Benchmark
from personalllm.evaluation import Condition, Protocol, Results, evaluate, flip_rate
from personalllm.evaluation.flips import _largest, implies_opposite
from personalllm.evaluation.sources.pairs import Pairs
from personalllm.evaluation.sources.simulated import Simulated
from personalllm.methods.base import Method

SETTINGS: dict[str, Any] = {
    "n_users": 40,
    "pool_users": 20,
    "seen_users": 10,
    "shots": (0, 1, 2),
    "feedback": {"pairs": "random"},
    "prediction": {"counterfactuals": ["flipped"], "prompts": "unseen"},
    "bootstrap_draws": 100,
}
GRID = np.array([w for w in product(np.arange(0, 41) / 40, repeat=3) if abs(sum(w) - 1) < 1e-9])


@dataclass
class Mirror(Method):
    """Prefers longer responses if the user's first choice was the longer one, else shorter ones."""

    id = "mirror"

    def adapt(self, histories: Histories) -> Mirror:
        texts, self.sign = histories.corpus.responses, np.ones(histories.n_users)
        for row in histories.offsets[:-1][np.diff(histories.offsets) > 0].tolist():
            of_prompt = texts[int(histories.prompt[row])]
            longer = len(of_prompt[histories.chosen[row]]) >= len(of_prompt[histories.rejected[row]])
            self.sign[histories.user[row]] = 1 if longer else -1
        return self

    def utilities(self, queries: Queries) -> F32:
        lengths = [[len(text) for text in queries.corpus.responses[row]] for row in queries.prompt.tolist()]
        return (np.array(lengths) * self.sign[queries.user][:, None]).astype(np.float32)


@pytest.fixture(scope="module")
def benchmark(make_benchmark: Callable[..., Benchmark]) -> Benchmark:
    return make_benchmark(n_test=14)


@pytest.fixture(scope="module")
def results(benchmark: Benchmark) -> Results:
    return evaluate([Mirror(), "longest"], benchmark, track="predict", protocol=SETTINGS)


values = st.lists(st.lists(st.integers(-3, 3), min_size=3, max_size=3), min_size=0, max_size=3)


@settings(max_examples=60, deadline=None)
@given(target=st.lists(st.integers(-3, 3), min_size=3, max_size=3), answers=values)
def test_the_largest_utility_is_that_of_all_compatible_users(target: list[int], answers: list[list[int]]) -> None:
    t, d = np.array(target, float), np.array(answers, float).reshape(-1, 3)
    compatible = GRID[(GRID @ d.T <= 1e-9).all(axis=1)]
    found = _largest(t, d)
    if len(compatible):
        assert found >= (compatible @ t).max() - 1e-6
    if found < -1e-6:
        assert len(compatible) == 0 or (compatible @ t < 0).all()


def test_what_counts_is_the_opposite_for_everybody_who_is_compatible(benchmark: Benchmark) -> None:
    three = {"population": {"reward_models": list(benchmark.reward_models[:3])}}
    protocol = Protocol.for_benchmark(benchmark, track="predict", **SETTINGS, **three)
    pairs = Pairs(Simulated(protocol, benchmark), protocol.options)
    scores = pairs.source.table.values
    group = pairs.groups["unseen"]
    tests, compared = group.tests["unseen"], group.compared["true"]
    implied = implies_opposite(pairs, group, tests, 2)
    assert 0 < implied.mean() < 1
    for row in range(len(tests)):
        of_user = np.flatnonzero(compared.user == tests.user[row])[:2]
        answers = scores[compared.prompt[of_user], compared.chosen[of_user]]
        answers = answers - scores[compared.prompt[of_user], compared.rejected[of_user]]
        compatible = GRID[(GRID @ answers.T <= 0).all(axis=1)]
        gap = compatible @ (
            scores[tests.prompt[row], tests.chosen[row]] - scores[tests.prompt[row], tests.rejected[row]]
        )
        assert not implied[row] or (gap < 0).all()
        if len(compatible) and (gap > 1e-4).any():
            assert not implied[row]
    assert not implies_opposite(pairs, group, tests, 2, np.zeros(len(tests), np.bool_)).any()


def test_a_method_that_mirrors_its_history_turns_and_one_that_ignores_it_does_not(
    benchmark: Benchmark, results: Results
) -> None:
    mirror, longest = (flip_rate(results, benchmark, label) for label in ("mirror", "longest"))
    assert (mirror.estimate.value, longest.estimate.value) == (1.0, 0.0)
    assert 0 < mirror.n_counted < mirror.n_right
    right = (results.samples("longest")["margin"].to_numpy() > 0)[
        results.samples("longest")["condition"].to_numpy() == results.conditions.index(results.headline)
    ]
    assert longest.n_right == right.sum()


def test_what_has_no_flip_rate_is_named(benchmark: Benchmark, results: Results) -> None:
    with pytest.raises(UserError, match=r"no predictions for unseen users, unseen prompts, flipped history, 1 shots"):
        flip_rate(results, benchmark, "mirror", Condition(shots=1))
    with pytest.raises(UserError, match="'true-weights' ignores the history"):
        flip_rate(results, benchmark, "true-weights")
