"""Real input from end to end: eight frontier models' responses, scored, validated, ranked for 1,000 users."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from personalllm.build import score
from personalllm.build.prompts import Prompt
from personalllm.core.seeding import generator
from personalllm.data import Benchmark, Standardiser, load, validate, write_benchmark
from personalllm.evaluation import Protocol, evaluate
from personalllm.evaluation.sources.simulated import Simulated
from personalllm.users import iter_utilities

pytestmark = [pytest.mark.models, pytest.mark.shared]

NULLS = ("random", "longest")
LEARNERS = ("pooled-ranker", "embedding-ranker")


@pytest.fixture(scope="module")
def path(shared_data, reward_ensemble, tmp_path_factory):
    """The responses as a benchmark in the released schema; the prompt with an empty response is left out."""
    folder = tmp_path_factory.mktemp("alpaca8")
    with gzip.open(shared_data / "alpaca8" / "responses.jsonl.gz", "rt", encoding="utf-8") as stream:
        everything = [json.loads(line) for line in stream]
    rows = [row for row in everything if all(response["text"].strip() for response in row["responses"])]
    assert (len(everything), len(rows)) == (805, 804), "one model answered one prompt with nothing"
    prompts = [Prompt(str(r["prompt_id"]), r["prompt"], r["source"]) for r in rows]
    texts = [[response["text"] for response in r["responses"]] for r in rows]
    test = set(generator(0, "alpaca8").permutation(len(rows))[:200].tolist())
    benchmark = Benchmark.from_arrays(
        name="alpaca8",
        prompt_ids=[p.prompt_id for p in prompts],
        prompts=[p.prompt for p in prompts],
        subsets=[p.subset for p in prompts],
        splits=["test" if row in test else "train" for row in range(len(rows))],
        responses=texts,
        response_models=[[response["model"] for response in r["responses"]] for r in rows],
        reward_models=reward_ensemble.reward_models,
        scores=score(prompts, texts, reward_ensemble, folder),
        metadata={"reward_ensemble": "compact-v1"},
    )
    write_benchmark(benchmark, folder / "alpaca8.parquet")
    return folder / "alpaca8.parquet"


@pytest.fixture(scope="module")
def benchmark(path):
    return load(path)


@pytest.fixture(scope="module")
def results(benchmark, embedder):
    protocol = Protocol.for_benchmark(benchmark, track="rank", n_users=1000, seed=0)
    return evaluate([*NULLS, *LEARNERS], benchmark, protocol=protocol, embedder=embedder)


def test_it_is_a_valid_benchmark_of_the_released_schema(path, benchmark):
    assert [p for p in validate(path) if p.severity == "error"] == []
    assert benchmark.scores.shape == (804, 8, 10)
    assert {name: len(rows) for name, rows in benchmark.splits.items()} == {"train": 604, "test": 200}


def test_no_policy_beats_the_oracle_or_loses_to_the_worst_response(benchmark, results):
    task = Simulated(Protocol.from_spec(results.protocol), benchmark)
    table = benchmark.score_table(Standardiser.fit(benchmark), benchmark.rows("test"))
    population = task.population
    worst = np.concatenate([block.min(-1).mean(-1) for _, block in iter_utilities(population, table)])
    best = np.concatenate([block.max(-1).mean(-1) for _, block in iter_utilities(population, table)])
    utility = {r.label: results.per_user(r.label, "utility") for r in results.methods}
    np.testing.assert_allclose(utility["oracle"], best, atol=1e-5)
    for name, values in utility.items():
        assert (values <= utility["oracle"] + 1e-6).all(), name
        assert (values >= worst - 1e-6).all(), name
        assert name == "worst" or worst.mean() < values.mean(), name


def test_the_references_span_the_gain(results):
    gain = {r.label: results.estimate(r.label, "gain").value for r in results.methods}
    assert gain["oracle"] == 1
    assert gain["population-best"] == 0
    assert gain["best-single-rm"] <= 0


def side(results, null):
    """Return on which side of a null the embedding ranker stands: -1, 1, or 0 where no difference is shown."""
    low, high = np.quantile(results.draws("embedding-ranker", "gain") - results.draws(null, "gain"), (0.025, 0.975))
    return int(low > 0) - int(high < 0)


def test_with_five_pairs_the_embedding_ranker_is_above_chance_and_below_length(results):
    assert (side(results, "random"), side(results, "longest")) == (1, -1)


@pytest.mark.slow
def test_with_200_pairs_no_difference_between_the_embedding_ranker_and_length_is_shown(benchmark, embedder):
    protocol = Protocol.for_benchmark(benchmark, track="rank", n_users=1000, seed=0, pairs=200)
    results = evaluate([*NULLS, "embedding-ranker"], benchmark, protocol=protocol, embedder=embedder)
    assert (side(results, "random"), side(results, "longest")) == (1, 0)
