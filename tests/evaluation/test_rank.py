from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personalllm.core.errors import DataError, UnknownName, UserError
from personalllm.core.types import F32, Histories, Queries
from personalllm.data import Benchmark
from personalllm.evaluation import ProgressEvent, Protocol, Results, evaluate, load_results, load_run
from personalllm.evaluation.contract import Backends
from personalllm.evaluation.run import make_track
from personalllm.evaluation.sources.simulated import Simulated
from personalllm.methods.base import HistoryRule, Method
from personalllm.testing import HashEmbedder

SMALL = {"n_users": 40, "pool_users": 60, "intervals": "users", "bootstrap_draws": 200, "users_per_shard": 16}


def small(benchmark: Benchmark, **overrides: Any) -> Protocol:
    return Protocol.for_benchmark(benchmark, **(SMALL | overrides))


@dataclass
class Spy(Method):
    """Notes all that it is handed."""

    id: ClassVar[str] = "spy"
    seen: ClassVar[list[Any]] = []

    def fit(self, pool: Histories) -> Spy:
        self.seen.append(("pool", pool))
        return self

    def adapt(self, histories: Histories) -> Spy:
        self.seen.append(("histories", histories))
        return self

    def utilities(self, queries: Queries) -> F32:
        self.seen.append(("queries", queries, self.seed))
        return np.zeros((len(queries), queries.corpus.n_responses), np.float32)


@dataclass
class Bad(Method):
    """Breaks the contract."""

    id: ClassVar[str] = "bad"
    how: str = "nan"

    def utilities(self, queries: Queries) -> F32:
        values = np.zeros((len(queries), queries.corpus.n_responses), np.float32)
        if self.how == "nan":
            values[3, 1] = np.nan
            return values
        wrong = {"words": values.astype(str), "short": values[:-1], "ragged": [*values[:-1].tolist(), [0.0]]}
        return wrong[self.how]  # type: ignore[return-value]


@dataclass
class Near(Spy):
    id: ClassVar[str] = "near"
    history: ClassVar[HistoryRule] = "nearest"
    seen: ClassVar[list[Any]] = []


def check_order(results: Results) -> None:
    means = {result.label: results.estimate(result.label, "utility").value for result in results.methods}
    assert all(means["worst"] <= value <= means["oracle"] for value in means.values())
    assert means["best-single-rm"] <= means["population-best"] + 1e-5
    assert means["population-best"] >= means[f"model:{results.protocol['reference_response_model']}"] - 1e-5


@pytest.mark.parametrize(
    "methods", [["random", "longest", "embedding-ranker"], pytest.param(["all"], marks=pytest.mark.slow)]
)
def test_the_leaderboard_is_bounded_by_the_references(benchmark_: Benchmark, methods: list[str]) -> None:
    results = evaluate(methods, benchmark_, protocol=small(benchmark_), embedder=HashEmbedder())
    kinds = [r.kind for r in results.methods]
    assert kinds == ["method"] * (len(results.methods) - 7) + ["baseline"] * 4 + ["oracle"] * 3
    check_order(results)
    assert results.estimate("oracle", "gain").value == 1
    assert results.estimate("oracle", "regret").value == 0
    assert results.estimate("oracle", "win_rate_best").value == 0.5
    assert results.estimate("population-best", "gain").value == 0
    reference = f"model:{results.protocol['reference_response_model']}"
    assert results.estimate(reference, "win_rate_reference").value == 0.5
    for result in results.methods:
        assert (results.sums(result.label).n_clusters, result.counts["queries"]) == (40, 320)
        assert {metric for _, metric in result.estimates[results.headline]} == {m.id for m in results.metrics}
        for estimate in result.estimates[results.headline].values():
            assert estimate.low <= estimate.value <= estimate.high or math.isclose(estimate.low, estimate.high)
        columns = results.sums(result.label).columns.values()
        assert all(values.shape == (40,) and values.dtype == np.float32 for values in columns)


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 10_000), alpha=st.sampled_from([0.02, 0.5, 20.0]), responses=st.integers(2, 5))
def test_oracle_best_worst_for_any_benchmark(
    make_benchmark: Callable[..., Benchmark], seed: int, alpha: float, responses: int
) -> None:
    benchmark = make_benchmark(n_train=8, n_test=3, n_responses=responses, seed=seed)
    results = evaluate(["random", "longest"], benchmark, protocol=small(benchmark, n_users=11, alpha=alpha, seed=seed))
    check_order(results)
    for name, expected in (("oracle", 1.0), ("population-best", 0.0)):
        gain = results.estimate(name, "gain").value
        assert gain == expected or math.isnan(gain)


def test_no_policy_that_ignores_the_user_beats_population_best(benchmark_: Benchmark) -> None:
    task = Simulated(small(benchmark_), benchmark_)
    values = task.utilities(*task.query_rows(0, task.n_users)).reshape(task.n_users, -1, benchmark_.n_responses)
    by_response = values.mean(axis=0, dtype=np.float64)
    results = evaluate("random", benchmark_, protocol=small(benchmark_))
    utility = {name: results.samples(name)["utility"].to_numpy() for name in ("population-best", "oracle")}
    assert utility["population-best"].mean(dtype=np.float64) == pytest.approx(by_response.max(axis=1).mean())
    assert np.array_equal(utility["oracle"], values.max(axis=2).ravel())


def test_a_method_sees_train_feedback_of_others_and_of_its_users_only(benchmark_: Benchmark) -> None:
    Spy.seen.clear()
    evaluate([Spy()], benchmark_, protocol=small(benchmark_))
    train, test = set(benchmark_.rows("train").tolist()), set(benchmark_.rows("test").tolist())
    kinds = [item[0] for item in Spy.seen]
    assert kinds == ["pool", *["histories", "queries"] * 3]
    pool = Spy.seen[0][1]
    assert (pool.n_users, len(pool)) == (60, 60 * 24)
    seeds = set()
    for (_, histories), (_, queries, seed) in zip(Spy.seen[1::2], Spy.seen[2::2], strict=True):
        assert histories.n_users == queries.n_users
        assert len(histories) == 5 * histories.n_users
        assert set(histories.prompt.tolist()) <= train
        assert set(queries.prompt.tolist()) == test
        seeds.add(seed)
    assert len(seeds) == 3
    assert set(pool.prompt.tolist()) <= train
    texts = [sorted(pool.corpus.responses[row]) for row in range(benchmark_.n_prompts)]
    stored = [
        sorted(benchmark_.response(row, column) for column in range(benchmark_.n_responses))
        for row in range(benchmark_.n_prompts)
    ]
    assert texts == stored
    in_order = [list(pool.corpus.responses[r]) == [benchmark_.response(r, c) for c in range(5)] for r in range(32)]
    assert not all(in_order)


def test_pool_users_are_not_the_target_users(benchmark_: Benchmark) -> None:
    task = Simulated(small(benchmark_, n_users=60), benchmark_)
    assert task.pool_population.n_users == task.full_population.n_users == 60
    targets = task.full_population.weights[:, None, :]
    assert not np.isclose(targets, task.pool_population.weights[None, :, :]).all(axis=2).any()


def test_a_choice_is_mapped_back_to_the_response_that_was_seen(benchmark_: Benchmark) -> None:
    protocol = small(benchmark_)
    results = evaluate(["longest"], benchmark_, protocol=protocol)
    task = Simulated(protocol, benchmark_)
    values = task.utilities(*task.query_rows(0, task.n_users)).reshape(task.n_users, -1, benchmark_.n_responses)
    chosen = [
        max(range(benchmark_.n_responses), key=lambda column, row=row: len(benchmark_.response(int(row), column)))
        for row in benchmark_.rows("test")
    ]
    expected = values[:, np.arange(len(chosen)), chosen].mean(axis=1, dtype=np.float64)
    assert results.per_user("longest", "utility") == pytest.approx(expected, abs=1e-6)


def test_limit_takes_the_first_users_and_changes_nothing_about_them(benchmark_: Benchmark) -> None:
    whole = evaluate(["longest"], benchmark_, protocol=small(benchmark_))
    part = evaluate(["longest"], benchmark_, protocol=small(benchmark_, limit=10))
    for name in ("longest", "oracle", "population-best"):
        for column, values in part.sums(name).columns.items():
            assert np.array_equal(values, whole.sums(name).columns[column][:10])


@pytest.mark.parametrize("n_pairs", [0, 1, 24])
def test_any_length_of_history(benchmark_: Benchmark, n_pairs: int) -> None:
    results = evaluate(
        ["embedding-ranker"],
        benchmark_,
        protocol=small(benchmark_, pairs=n_pairs, pool_users=0),
        embedder=HashEmbedder(),
    )
    check_order(results)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("nan", r"'bad.*' returned NaN for 1 of 640 candidates \(first: query 3, column 1\)"),
        ("words", r"'bad\[how=words\]' returned an array of <U32, not an array of numbers"),
        ("short", r"'bad\[how=short\]' returned shape \(127, 5\), expected \(128, 5\)"),
        ("ragged", r"'bad\[how=ragged\]' returned list, not an array of numbers"),
    ],
)
def test_a_broken_contract_names_the_method(benchmark_: Benchmark, how: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        evaluate([Bad(how=how)], benchmark_, protocol=small(benchmark_))


def test_nearest_histories_need_one_query_and_an_embedder(benchmark_: Benchmark) -> None:
    with pytest.raises(UserError, match="needs one query for each user, but this protocol asks every prompt"):
        evaluate([Near()], benchmark_, protocol=small(benchmark_), embedder=HashEmbedder())
    with pytest.raises(UserError, match="needs an embedder to find the nearest"):
        evaluate([Near()], benchmark_, protocol=small(benchmark_, prompts_per_user=1))
    with pytest.raises(UserError, match="'embedding-ranker' needs an embedder"):
        evaluate(["embedding-ranker"], benchmark_, protocol=small(benchmark_))


def test_nearest_histories_are_the_nearest_train_prompts(benchmark_: Benchmark) -> None:
    Near.seen.clear()
    protocol = small(benchmark_, prompts_per_user=1, nearest=3, users_per_shard=100)
    evaluate([Near()], benchmark_, protocol=protocol, embedder=HashEmbedder())
    histories, queries = Near.seen[1][1], Near.seen[2][1]
    train = benchmark_.rows("train")
    texts = [benchmark_.prompt(row) for row in range(benchmark_.n_prompts)]
    vectors = HashEmbedder().embed(texts)
    for user in range(queries.n_users):
        cosine = vectors[train] @ vectors[queries.prompt[user]]
        wanted = train[np.argsort(-cosine, kind="stable")[:3]]
        mine = histories.prompt[histories.offsets[user] : histories.offsets[user + 1]]
        assert sorted(mine.tolist()) == sorted(wanted.tolist())
        assert mine[-1] == wanted[0]


def test_results_survive_the_disk(benchmark_: Benchmark, tmp_path: Path) -> None:
    protocol = small(benchmark_)
    kept = evaluate(["random", "longest"], benchmark_, protocol=protocol, out=tmp_path)
    memory = evaluate(["random", "longest"], benchmark_, protocol=protocol)
    again = load_run(tmp_path)
    assert kept.directory == again.directory == tmp_path / protocol.fingerprint
    for results in (memory, again):
        assert [r.label for r in results.methods] == [r.label for r in kept.methods]
        assert results.table().equals(kept.table())
        assert results.samples("random").equals(kept.samples("random"))
        for one, other in zip(results.methods, kept.methods, strict=True):
            mine, others = (r.sums[kept.headline] for r in (one, other))
            assert mine.pairing == others.pairing
            assert all(np.array_equal(mine.columns[name], values) for name, values in others.columns.items())
    assert again.protocol == protocol.spec()


def test_comparing_with_another_method(benchmark_: Benchmark, tmp_path: Path) -> None:
    evaluate(["longest", "random"], benchmark_, protocol=small(benchmark_), out=tmp_path)
    results = load_run(tmp_path)
    forth, back = (
        results.comparisons("utility", versus=name, among=["longest", "random"]) for name in ("longest", "random")
    )
    assert (forth[0].a, forth[0].b) == ("longest", "random")
    assert forth[0].difference.value == -back[0].difference.value
    assert forth[0].p_value == back[0].p_value
    best = results.leaderboard("utility")[0].label
    assert best == "oracle"
    assert {difference.a for difference in results.comparisons("utility")} == {"longest"}
    with pytest.raises(UnknownName, match=r"named 'longset'\. Did you mean 'longest'"):
        results.comparisons("utility", versus="longset")


def test_more_methods_join_the_same_run(benchmark_: Benchmark, tmp_path: Path) -> None:
    events: list[ProgressEvent] = []
    protocol = small(benchmark_)
    first = evaluate(["random"], benchmark_, protocol=protocol, out=tmp_path)
    second = evaluate(["longest", "random"], benchmark_, protocol=protocol, out=tmp_path, progress=events.append)
    assert first.directory == second.directory
    assert first["random"].estimates == second["random"].estimates
    started = {event.method: event.done for event in events if event.stage == "start"}
    assert started == {"longest": 0, "random": 320}
    evaluate(["random"], benchmark_, protocol=protocol, out=tmp_path)
    assert [r.label for r in load_run(tmp_path).methods if r.kind == "method"] == ["random", "longest"]


def test_another_knob_is_another_directory(benchmark_: Benchmark, tmp_path: Path) -> None:
    evaluate(["random"], benchmark_, protocol=small(benchmark_), out=tmp_path)
    evaluate(["random"], benchmark_, protocol=small(benchmark_, seed=1), out=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert [run.protocol["seed"] for run in load_results(tmp_path)] in ([0, 1], [1, 0])
    with pytest.raises(UserError, match="holds 2 runs") as raised:
        load_run(tmp_path)
    assert "or read all with load_results" in raised.value.remedy
    assert len(load_results(next(tmp_path.iterdir()))) == 1
    with pytest.raises(UserError, match=r"no run in .*nowhere"):
        load_run(tmp_path / "nowhere")


def test_the_reference_model_must_have_answered(make_benchmark: Callable[..., Benchmark]) -> None:
    benchmark = make_benchmark(n_train=6, n_test=2)
    models = [["a", "b", "c", "d", "e"]] * 7 + [["a", "b", "c", "d", "d"]]
    texts = [[benchmark.response(row, column) for column in range(5)] for row in range(8)]
    changed = Benchmark.from_arrays(
        name="gap",
        prompt_ids=[f"p{i}" for i in range(8)],
        prompts=[benchmark.prompt(row) for row in range(8)],
        subsets=["s"] * 8,
        splits=["train"] * 6 + ["test"] * 2,
        responses=texts,
        response_models=models,
        reward_models=benchmark.reward_models,
        scores=np.array(benchmark.scores),
    )
    with pytest.raises(DataError, match=r"'e' wrote no response to 1 of the 2 prompts \(first: 'p7'\)"):
        evaluate(["random"], changed, protocol=small(changed, reference_response_model="e"))


def test_every_baseline_has_a_title(benchmark_: Benchmark) -> None:
    baselines = make_track(small(benchmark_), benchmark_, Backends()).baselines()
    kinds = {baseline.id.partition(":")[0]: baseline.kind for baseline in baselines}
    assert kinds == {
        **dict.fromkeys(("population-best", "best-single-rm", "model"), "baseline"),
        **dict.fromkeys(("oracle", "worst"), "oracle"),
    }
    assert all(baseline.title for baseline in baselines)
