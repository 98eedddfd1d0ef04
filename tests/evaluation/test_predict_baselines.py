"""Baselines and oracles of the predict track: what stands beside the methods."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from predicting import pairs_of, run, small, value

from personalllm.data import Benchmark, make_synthetic
from personalllm.evaluation import Condition
from personalllm.evaluation.baselines.predicting import TITLES, Longer, PopulationShare, rejected_share
from personalllm.testing import HashEmbedder


def test_baselines_and_oracles_hold_for_every_number_of_shots_of_the_true_histories(benchmark_: Benchmark) -> None:
    results = run(["longest"], small(benchmark_), benchmark_, embedder=HashEmbedder())
    assert [(row.label, row.kind) for row in results.methods] == [
        *[("longest", "method"), ("random", "baseline"), ("longer", "baseline"), ("population", "baseline")],
        *[("text-only", "baseline"), ("best-linear", "oracle"), ("true-weights", "oracle"), ("known-basis", "oracle")],
    ]
    for users in ("unseen", "seen"):
        for prompts in ("unseen", "seen"):
            for shots in (0, 1, 8):
                at = Condition(users, prompts, "true", shots)
                assert all(at in results[name].estimates for name in TITLES)
                assert value(results, "random", "accuracy", at) == 0.5
                assert value(results, "random", "log_loss", at) == pytest.approx(math.log(2), abs=1e-6)
                assert value(results, "true-weights", "accuracy", at) == 1
                assert value(results, "true-weights", "log_loss", at) < 1e-6
                assert value(results, "true-weights", "regret", at) == 0
                for name in ("longer", "population", "best-linear"):
                    assert value(results, name, "accuracy", at) == value(
                        results, name, "accuracy", Condition(users, prompts, "true", 0)
                    )
    flipped = Condition("unseen", "unseen", "flipped", 8)
    assert flipped in results["longest"].estimates
    assert not any(flipped in results[name].estimates for name in TITLES)
    assert "best-linear" not in {row.label for row in run(["longest"], small(benchmark_), benchmark_).methods}


def test_the_population_knows_what_most_prefer(benchmark_: Benchmark) -> None:
    alike = run(["random"], small(benchmark_, alpha=1000.0), benchmark_)
    assert value(alike, "population", "accuracy") > 0.97
    assert value(alike, "population", "log_loss") < 0.15
    apart = run(["random"], small(benchmark_, alpha=0.02), benchmark_)
    assert value(apart, "population", "accuracy") < 0.95
    pairs = pairs_of(small(benchmark_), benchmark_)
    tests = pairs.groups["unseen"].tests["unseen"]
    table = pairs.source.table.values[tests.prompt].astype(float)
    values = np.einsum("um,nrm->unr", pairs.source.pool_population.weights, table)
    at = np.arange(len(tests))
    chosen, rejected = values[:, at, tests.chosen], values[:, at, tests.rejected]
    share = (rejected > chosen).mean(axis=0) + 0.5 * (rejected == chosen).mean(axis=0)
    assert np.allclose(rejected_share(pairs, tests), share, atol=0.051)
    assert np.median(np.abs(rejected_share(pairs, tests) - share)) < 1e-6
    margin, _ = PopulationShare(pairs).answer(pairs.groups["unseen"], tests)
    votes = 20 * (1 - rejected_share(pairs, tests))
    assert np.allclose(1 / (1 + np.exp(-margin)), (votes + 0.5) / 21, atol=1e-5)


def test_the_population_allows_for_noise_in_the_outcome(benchmark_: Benchmark) -> None:
    rule = {"pairs": "random", "temperature": 0.7, "flip": 0.1}
    protocol = small(benchmark_, shots=(0,), feedback=rule, prediction={"outcome": "drawn"})
    pairs = pairs_of(protocol, benchmark_)
    group = pairs.groups["unseen"]
    tests, at = group.tests["unseen"], np.arange(len(group.tests["unseen"]))
    table = pairs.source.table.values[tests.prompt].astype(float)
    values = np.einsum("um,nrm->unr", pairs.electorate.weights.astype(float), table)
    gap = values[:, at, tests.chosen] - values[:, at, tests.rejected]
    votes = (0.1 + 0.8 / (1 + np.exp(-gap / 0.7))).sum(axis=0)
    margin, _ = PopulationShare(pairs).answer(group, tests)
    assert np.allclose(1 / (1 + np.exp(-margin)), (votes + 0.5) / (len(values) + 1), atol=1e-5)
    without = (gap < 0).mean(axis=0) + 0.5 * (gap == 0).mean(axis=0)
    assert np.median(np.abs(rejected_share(pairs, tests) - without)) < 1e-6


def test_the_best_linear_function_allows_for_noise_in_the_outcome() -> None:
    synthetic = make_synthetic(200, seed=1)
    noisy: dict[str, Any] = {
        "feedback": {"pairs": "random", "temperature": 0.6, "flip": 0.1},
        "prediction": {"outcome": "drawn", "users": "unseen", "prompts": "unseen"},
    }
    protocol = small(synthetic, shots=(0,), n_users=40, test_pairs=16, **noisy)
    results = run(["random"], protocol, synthetic, embedder=HashEmbedder())
    at = Condition("unseen", "unseen", "true", 0)
    accuracy, loss, ece = (value(results, "best-linear", name, at) for name in ("accuracy", "log_loss", "ece"))
    assert accuracy > 0.52
    assert loss < math.log(2)
    assert ece < 0.06


def test_one_coefficient_of_length_is_calibrated_where_length_decides(benchmark_: Benchmark) -> None:
    pairs = pairs_of(small(benchmark_, pool_users=200, feedback={"pairs": "random"}), benchmark_)
    longer = Longer(pairs)
    pool, view = pairs.source.pool, pairs.source.view
    lengths = pairs.response_lengths
    sides = [lengths[pool.prompt, view.to_responses(pool.prompt, side)] for side in (pool.chosen, pool.rejected)]
    x = (sides[0] - sides[1]).astype(float)
    b = longer._per_character
    slope = np.mean(x / (1 + np.exp(b * x)))
    assert abs(slope) < 0.02 * np.abs(x).mean()
    tests = pairs.groups["unseen"].tests["unseen"]
    at, shown = np.arange(len(tests)), pairs.response_lengths[tests.prompt]
    margin, _ = longer.answer(pairs.groups["unseen"], tests)
    assert np.allclose(margin, b * (shown[at, tests.chosen] - shown[at, tests.rejected]), atol=1e-5)


def test_the_oracle_knows_the_noise_of_drawn_outcomes(benchmark_: Benchmark) -> None:
    feedback = {"pairs": "random", "temperature": 0.5, "flip": 0.1}
    protocol = small(benchmark_, n_users=300, feedback=feedback, prediction={"outcome": "drawn"})
    results = run(["random"], protocol, benchmark_)
    truth = value(results, "true-weights", "accuracy")
    assert 0.6 < truth < 0.9
    assert value(results, "true-weights", "ece") < 0.05
    assert value(results, "true-weights", "log_loss") < min(
        value(results, name, "log_loss") for name in ("random", "longer", "population")
    )


def test_best_linear_finds_a_linear_taste(benchmark_: Benchmark) -> None:
    """A taste that is linear in the embedding: the oracle is nearly perfect, and the baselines are not."""
    embedder = HashEmbedder(dim=6)
    rng = np.random.default_rng(0)
    texts = [[benchmark_.response(row, r) for r in range(5)] for row in range(32)]
    vectors = np.stack([embedder.embed(row) for row in texts])
    linear = Benchmark.from_arrays(
        name="linear",
        prompt_ids=benchmark_.prompt_ids.to_pylist(),
        prompts=benchmark_.prompts.to_pylist(),
        subsets=["s"] * 32,
        splits=["train"] * 24 + ["test"] * 8,
        responses=texts,
        response_models=list(benchmark_.response_models),
        reward_models=["a", "b", "c", "d"],
        scores=vectors @ rng.normal(size=(6, 4)),
    )
    results = run(["random"], small(linear), linear, embedder=embedder)
    assert value(results, "best-linear", "accuracy") > 0.95
    assert value(results, "best-linear", "log_loss") < 0.3
