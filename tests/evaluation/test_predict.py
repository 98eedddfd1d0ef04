"""Runs of the predict track: what a learner sees, what is made of it, and what stands beside it."""

from __future__ import annotations

import importlib.util
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from personalllm.backends.executor import ProcessExecutor
from personalllm.core.errors import RunError, UserError
from personalllm.core.types import F32, Histories, Queries
from personalllm.data import Benchmark, make_synthetic
from personalllm.evaluation import (
    PREDICTORS,
    Cell,
    PredictResults,
    ProgressEvent,
    Protocol,
    evaluate,
    load_prediction,
    predict,
    read_results,
)
from personalllm.evaluation.prediction.references import Predictors, opposition
from personalllm.evaluation.prediction.task import PredictionTask
from personalllm.evaluation.resolve import left_out, resolve
from personalllm.methods.base import HistoryRule, Method, Need
from personalllm.testing import HashEmbedder

SMALL: dict[str, Any] = {
    "n_users": 30,
    "pool_users": 20,
    "pool_pairs": 10,
    "bootstrap_draws": 100,
    "seen_users": 12,
    "shots": (0, 1, 8),
    "users_per_shard": 11,
    "seed": 3,
}
HEAD = Cell("unseen", "unseen", "true", 8)


def small(benchmark: Benchmark, **overrides: Any) -> Protocol:
    return Protocol.for_benchmark(benchmark, track="predict", **(SMALL | overrides))


def value(results: PredictResults, learner: str, metric: str, cell: Cell = HEAD) -> float:
    return results.estimate(learner, metric, cell).value


@dataclass
class Spy(Method):
    """Notes all that it is handed, and remembers what it should have forgotten."""

    id: ClassVar[str] = "spy"
    seen: ClassVar[list[tuple[Any, ...]]] = []

    def fit(self, pool: Histories) -> Spy:
        self.seen.append(("fit", pool))
        self.adapted_: list[int] = []
        return self

    def adapt(self, histories: Histories) -> Spy:
        self.adapted_.append(len(histories))
        self.seen.append(("adapt", histories, len(self.adapted_)))
        return self

    def utilities(self, queries: Queries) -> F32:
        self.seen.append(("rank", queries, self.seed))
        return np.zeros((len(queries), queries.corpus.n_responses), np.float32)


@dataclass
class Direction(Method):
    """Log-odds along the sum of what a user chose minus what they rejected: labels flipped, its sign is flipped."""

    id: ClassVar[str] = "direction"
    needs: ClassVar[frozenset[Need]] = frozenset({"embedder"})
    log_odds: ClassVar[bool] = True

    def adapt(self, histories: Histories) -> Direction:
        rows, texts = histories.corpus.responses, self.embedder
        self.sums_ = np.zeros((histories.n_users, texts.dim))
        for user, prompt, a, b in zip(
            *(getattr(histories, name).tolist() for name in ("user", "prompt", "chosen", "rejected")), strict=True
        ):
            chosen, rejected = texts.embed([rows[prompt][a], rows[prompt][b]])
            self.sums_[user] += chosen - rejected
        return self

    def utilities(self, queries: Queries) -> F32:
        values = [
            self.embedder.embed(list(queries.corpus.responses[prompt])) @ self.sums_[user]
            for user, prompt in zip(queries.user.tolist(), queries.prompt.tolist(), strict=True)
        ]
        return np.asarray(values, np.float32)


@dataclass
class MeanScore(Method):
    """Ranks by the mean of the RMs' scores, which only some protocols hand over."""

    id: ClassVar[str] = "mean-score"
    needs: ClassVar[frozenset[Need]] = frozenset({"signals"})
    scale: float = 1.0

    def utilities(self, queries: Queries) -> F32:
        columns = np.arange(queries.corpus.n_responses, dtype=np.uint8)
        rows = [self.signals.vectors(np.full(len(columns), prompt), columns).mean(axis=1) for prompt in queries.prompt]
        return np.asarray(rows, np.float32) * np.float32(self.scale)


@dataclass
class Odd(Method):
    """Misbehaves."""

    id: ClassVar[str] = "odd"
    how: str = "nan"

    def adapt(self, histories: Histories) -> Odd:
        if self.how == "raise":
            raise ValueError("no such user")
        return self

    def utilities(self, queries: Queries) -> F32:
        values = np.zeros((len(queries), queries.corpus.n_responses), np.float32)
        if self.how == "nan":
            values[2, 1] = np.nan
        return {"wide": values.astype(np.float64), "infinite": values - np.inf}.get(self.how, values)


@dataclass
class Near(Spy):
    id: ClassVar[str] = "near"
    history: ClassVar[HistoryRule] = "nearest"


@dataclass
class Coin(Spy):
    id: ClassVar[str] = "random"


def test_a_learner_is_fitted_once_and_adapts_anew_to_each_prefix(benchmark_: Benchmark) -> None:
    Spy.seen.clear()
    predict([Spy()], small(benchmark_), benchmark_)
    calls = [item[0] for item in Spy.seen]
    n_steps = (3 + 2) * 3 + (3 + 2) * 2
    assert calls == ["fit", *["adapt", "rank"] * n_steps]
    pool = Spy.seen[0][1]
    assert (pool.n_users, len(pool)) == (20, 200)
    lengths: dict[int, int] = {}
    seeds: dict[tuple[int, ...], set[int]] = {}
    for (_, histories, times), (_, queries, seed) in zip(Spy.seen[1::2], Spy.seen[2::2], strict=True):
        assert times == 1
        assert histories.n_users == queries.n_users
        (k,) = set(np.bincount(histories.user, minlength=histories.n_users).tolist())
        lengths[k] = lengths.get(k, 0) + histories.n_users
        seeds.setdefault(tuple(queries.prompt.tolist()), set()).add(seed)
        for user in range(histories.n_users):
            known = set(histories.prompt[histories.user == user].tolist())
            assert not known & set(queries.prompt[queries.user == user].tolist())
    assert lengths == {0: 42, 1: 42, 8: 3 * 42}
    assert len(seeds) == 5
    assert all(len(found) == 3 for found in seeds.values())


def test_flipped_labels_mirror_a_linear_learner(benchmark_: Benchmark) -> None:
    results = predict([Direction()], small(benchmark_), benchmark_, embedder=HashEmbedder())
    for users in ("unseen", "seen"):
        for prompts in ("unseen", "seen"):
            true, flipped = (Cell(users, prompts, kind, 8) for kind in ("true", "flipped"))
            right, mirrored = (results.per_user("direction", cell, "accuracy") for cell in (true, flipped))
            assert np.allclose(right + mirrored, 1)
            assert right.mean() > 0.55
    other = Cell("unseen", "unseen", "other-user", 8)
    assert value(results, "direction", "accuracy", other) < value(results, "direction", "accuracy")


def test_more_comparisons_help_and_none_say_nothing(benchmark_: Benchmark) -> None:
    results = predict([Direction()], small(benchmark_), benchmark_, embedder=HashEmbedder())
    curve = [value(results, "direction", "accuracy", Cell("unseen", "unseen", "true", k)) for k in (0, 1, 8)]
    assert curve[0] == 0.5
    assert curve[0] < curve[1] < curve[2]
    nothing = Cell("unseen", "seen", "true", 0)
    assert value(results, "direction", "log_loss", nothing) == pytest.approx(math.log(2), abs=1e-6)
    assert value(results, "direction", "tau", nothing) == 0


def test_margins_are_of_the_responses_that_were_compared(benchmark_: Benchmark, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    protocol = small(benchmark_, prediction={"reward_signals": True})
    predict([MeanScore()], protocol, benchmark_, out=tmp_path)
    task = PredictionTask(protocol, benchmark_)
    mean = task.task.table.values.mean(axis=2)
    n = 0
    for path in sorted(tmp_path.glob("*/mean-score-*/samples/*.parquet")):
        table = {name: column.to_numpy() for name, column in zip(*_columns(pq.ParquetFile(path).read()), strict=True)}
        rows = table["prompt"]
        assert np.allclose(table["margin"], mean[rows, table["chosen"]] - mean[rows, table["rejected"]], atol=1e-6)
        n += len(rows)
    assert n == 42 * 5 * 16
    assert {name: str(column.dtype) for name, column in table.items()} == {
        "user": "int32",
        "prompt": "int32",
        "chosen": "uint8",
        "rejected": "uint8",
        "margin": "float32",
        "regret": "float32",
        "tau": "float32",
    }


def _columns(table: Any) -> tuple[list[str], list[Any]]:
    return table.column_names, table.columns


def test_regret_and_tau_are_of_the_users_own_utilities(benchmark_: Benchmark) -> None:
    from scipy.stats import kendalltau

    protocol = small(benchmark_, shots=(0,), prediction={"reward_signals": True})
    results = predict([MeanScore()], protocol, benchmark_)
    task = PredictionTask(protocol, benchmark_)
    group = task.groups["unseen"]
    tests = group.tests["unseen"]
    values, mean = task.utilities(group.population, tests), task.task.table.values.mean(axis=2)[tests.prompt]
    regret = values.max(axis=1) - values[np.arange(len(tests)), mean.argmax(axis=1)]
    tau = [kendalltau(a, b).statistic for a, b in zip(mean, values, strict=True)]
    cell = Cell("unseen", "unseen", "true", 0)
    assert value(results, "mean-score", "regret", cell) == pytest.approx(regret.mean(), abs=1e-5)
    assert value(results, "mean-score", "tau", cell) == pytest.approx(np.mean(tau), abs=1e-5)


def test_scores_are_handed_over_only_if_the_protocol_says_so(benchmark_: Benchmark) -> None:
    with pytest.raises(UserError, match="uses the scores of the reward models, which this protocol does not allow"):
        predict([MeanScore()], small(benchmark_), benchmark_)
    with pytest.raises(UserError, match=r"does not take part in the rank track.*predict track"):
        evaluate([MeanScore()], Protocol.for_benchmark(benchmark_), benchmark_)
    Spy.seen.clear()
    predict([Spy()], small(benchmark_), benchmark_)
    assert getattr(Spy(), "_signals", None) is None


def test_nulls_and_oracles_stand_in_every_cell_of_the_true_histories(benchmark_: Benchmark) -> None:
    results = predict(["longest"], small(benchmark_), benchmark_, embedder=HashEmbedder())
    assert [(learner.id, learner.kind) for learner in results.learners] == [
        *[("longest", "learner"), ("random", "null"), ("longer", "null"), ("population", "null")],
        *[("best-linear", "oracle"), ("true-weights", "oracle")],
    ]
    for users in ("unseen", "seen"):
        for prompts in ("unseen", "seen"):
            for shots in (0, 1, 8):
                cell = Cell(users, prompts, "true", shots)
                assert all(cell in results[name].estimates for name in PREDICTORS)
                assert value(results, "random", "accuracy", cell) == 0.5
                assert value(results, "random", "log_loss", cell) == pytest.approx(math.log(2), abs=1e-6)
                assert value(results, "true-weights", "accuracy", cell) == 1
                assert value(results, "true-weights", "log_loss", cell) < 1e-6
                assert value(results, "true-weights", "regret", cell) == 0
                for name in ("longer", "population", "best-linear"):
                    assert value(results, name, "accuracy", cell) == value(
                        results, name, "accuracy", Cell(users, prompts, "true", 0)
                    )
    assert math.isnan(value(results, "longest", "log_loss"))
    assert "best-linear" not in {one.id for one in predict(["longest"], small(benchmark_), benchmark_).learners}


def test_a_coin_is_the_null_of_that_name(benchmark_: Benchmark) -> None:
    results = predict(["random", "longest"], small(benchmark_), benchmark_)
    assert [learner.id for learner in results.learners if learner.kind == "learner"] == ["longest"]
    with pytest.raises(UserError, match="The name 'random' belongs to a null or an oracle"):
        predict([Coin()], small(benchmark_), benchmark_)


def test_the_population_knows_what_most_prefer(benchmark_: Benchmark) -> None:
    alike = predict([], small(benchmark_, alpha=1000.0), benchmark_)
    assert value(alike, "population", "accuracy") > 0.97
    assert value(alike, "population", "log_loss") < 0.15
    apart = predict([], small(benchmark_, alpha=0.02), benchmark_)
    assert value(apart, "population", "accuracy") < 0.95
    task = PredictionTask(small(benchmark_), benchmark_)
    tests = task.groups["unseen"].tests["unseen"]
    values = np.einsum("um,nrm->unr", task.task.others.weights, task.task.table.values[tests.prompt].astype(float))
    at = np.arange(len(tests))
    chosen, rejected = values[:, at, tests.chosen], values[:, at, tests.rejected]
    share = (rejected > chosen).mean(axis=0) + 0.5 * (rejected == chosen).mean(axis=0)
    assert np.allclose(opposition(task, tests), share, atol=0.051)
    assert np.median(np.abs(opposition(task, tests) - share)) < 1e-6
    judged = Predictors(task, None).judge("population", task.groups["unseen"], tests)
    votes = 20 * (1 - opposition(task, tests))
    assert np.allclose(1 / (1 + np.exp(-judged.margin)), (votes + 0.5) / 21, atol=1e-5)


def test_the_population_allows_for_noise_in_the_outcome(benchmark_: Benchmark) -> None:
    rule = {"pairs": "random", "temperature": 0.7, "flip": 0.1}
    protocol = small(benchmark_, shots=(0,), feedback=rule, prediction={"outcome": "drawn"})
    task = PredictionTask(protocol, benchmark_)
    group = task.groups["unseen"]
    tests, at = group.tests["unseen"], np.arange(len(group.tests["unseen"]))
    table = task.task.table.values[tests.prompt].astype(float)
    values = np.einsum("um,nrm->unr", task.electorate.weights.astype(float), table)
    gap = values[:, at, tests.chosen] - values[:, at, tests.rejected]
    votes = (0.1 + 0.8 / (1 + np.exp(-gap / 0.7))).sum(axis=0)
    judged = Predictors(task, None).judge("population", group, tests)
    assert np.allclose(1 / (1 + np.exp(-judged.margin)), (votes + 0.5) / (len(values) + 1), atol=1e-5)
    without = (gap < 0).mean(axis=0) + 0.5 * (gap == 0).mean(axis=0)
    assert np.median(np.abs(opposition(task, tests) - without)) < 1e-6


def test_the_best_linear_function_allows_for_noise_in_the_outcome() -> None:
    synthetic = make_synthetic(300, seed=1)
    noisy = {"feedback": {"pairs": "random", "temperature": 1.5, "flip": 0.15}, "prediction": {"outcome": "drawn"}}
    results = predict(
        [], small(synthetic, shots=(0,), n_users=40, test_pairs=20, **noisy), synthetic, embedder=HashEmbedder()
    )
    cell = Cell("unseen", "unseen", "true", 0)
    accuracy, loss, ece = (value(results, "best-linear", name, cell) for name in ("accuracy", "log_loss", "ece"))
    assert accuracy > 0.5
    assert loss < math.log(2)
    assert ece < 0.06


def test_one_user_alone_has_no_interval(benchmark_: Benchmark) -> None:
    results = predict(["longest"], small(benchmark_, n_users=1), benchmark_)
    one, several = (Cell(users, "unseen", "true", 0) for users in ("unseen", "seen"))
    alone, among = (results.estimate("longest", "accuracy", cell) for cell in (one, several))
    assert not math.isnan(alone.value)
    assert math.isnan(alone.low)
    assert not math.isnan(among.low)
    sums = results["longest"].sums[several]["strongest"]
    for place, name in enumerate(results.reward_models):
        of = int((sums == place).sum())
        if of:
            estimate = results.estimate("longest", "accuracy", several, stratum=f"rm:{name}")
            assert math.isnan(estimate.low) == (of == 1)
    assert math.isnan(results.change("longest", "accuracy", one, Cell("unseen", "unseen", "true", 8)).low)
    assert "nan" not in str(results)


def test_one_coefficient_of_length_is_calibrated_where_length_decides(benchmark_: Benchmark) -> None:
    task = PredictionTask(small(benchmark_, pool_users=200, feedback={"pairs": "random"}), benchmark_)
    judged = Predictors(task, None)
    pool, view = task.task.pool, task.task.view
    lengths = task.response_lengths
    sides = [lengths[pool.prompt, view.to_responses(pool.prompt, side)] for side in (pool.chosen, pool.rejected)]
    x = (sides[0] - sides[1]).astype(float)
    b = judged._per_character
    slope = np.mean(x / (1 + np.exp(b * x)))
    assert abs(slope) < 0.02 * np.abs(x).mean()
    tests = task.groups["unseen"].tests["unseen"]
    at, shown = np.arange(len(tests)), task.lengths(tests)
    margin = judged.judge("longer", task.groups["unseen"], tests).margin
    assert np.allclose(margin, b * (shown[at, tests.chosen] - shown[at, tests.rejected]), atol=1e-5)


def test_the_oracle_knows_the_noise_of_drawn_outcomes(benchmark_: Benchmark) -> None:
    feedback = {"pairs": "random", "temperature": 0.5, "flip": 0.1}
    protocol = small(benchmark_, n_users=300, feedback=feedback, prediction={"outcome": "drawn"})
    results = predict([], protocol, benchmark_)
    truth = results["true-weights"].estimates[HEAD]["all", "accuracy"].value
    assert 0.6 < truth < 0.9
    assert value(results, "true-weights", "ece") < 0.05
    assert value(results, "true-weights", "log_loss") < min(
        value(results, name, "log_loss") for name in ("random", "longer", "population")
    )


def test_best_linear_finds_a_linear_taste(benchmark_: Benchmark) -> None:
    """A taste that is linear in the embedding: the oracle is nearly perfect, and the nulls are not."""
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
    results = predict([], small(linear), linear, embedder=embedder)
    assert value(results, "best-linear", "accuracy") > 0.95
    assert value(results, "best-linear", "log_loss") < 0.3


def test_shards_and_executors_change_nothing(benchmark_: Benchmark, tmp_path: Path) -> None:
    names = ["longest", "embedding-ranker"]
    runs = [
        predict(names, small(benchmark_, users_per_shard=size), benchmark_, embedder=HashEmbedder(), executor=executor)
        for size, executor in ((11, None), (500, None), (11, ProcessExecutor(2)))
    ]
    for run in runs[1:]:
        for learner in names:
            for cell, sums in runs[0][learner].sums.items():
                for column, values in sums.items():
                    assert np.allclose(values, run[learner].sums[cell][column], atol=1e-4), (learner, cell, column)


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("nan", UserError, r"'odd' returned NaN for 1 of"),
        ("wide", UserError, r"'odd\[how=wide\]' returned float64, expected float32"),
        ("raise", RunError, r"'odd\[how=raise\]' failed in adapt: ValueError: no such user"),
    ],
)
def test_a_broken_learner_is_named(benchmark_: Benchmark, how: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        predict([Odd(how=how)], small(benchmark_), benchmark_)


def test_infinite_ranks_that_are_equal_are_a_tie(benchmark_: Benchmark) -> None:
    results = predict([Odd(how="infinite")], small(benchmark_), benchmark_)
    assert value(results, "odd[how=infinite]", "accuracy") == 0.5


def test_the_two_doors_tell_the_tracks_apart(benchmark_: Benchmark, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not for the predict track"):
        evaluate(["longest"], small(benchmark_), benchmark_)
    with pytest.raises(UserError, match=r"of the rank track"):
        predict(["longest"], Protocol.for_benchmark(benchmark_), benchmark_)
    with pytest.raises(UserError, match=r"'icl' does not take part in the predict track"):
        predict(["icl"], small(benchmark_), benchmark_)
    with pytest.raises(UserError, match=r"'near' gets the prompts nearest to each query"):
        predict([Near()], small(benchmark_), benchmark_)
    with pytest.raises(UserError, match=r"needs an embedder"):
        predict([Direction()], small(benchmark_), benchmark_)
    predict(["longest"], small(benchmark_), benchmark_, out=tmp_path)
    with pytest.raises(UserError, match=r"is of the predict track. Read it with load_prediction"):
        read_results(tmp_path)


def test_all_stands_for_what_can_be_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    from personalllm.methods import method_class

    monkeypatch.setattr(sys.modules[left_out.__module__], "find_spec", lambda name: None)
    entries, references = resolve(["all"], "predict")
    names = [entry.method.id for entry in entries]
    assert not references
    assert {"longest", "embedding-ranker", "pooled-ranker"} <= set(names)
    assert "random" not in names
    assert "icl" not in names
    for name in names:
        kind = method_class(name)
        assert "signals" not in kind.needs
        assert not kind.extra
    monkeypatch.undo()
    for name in left_out("rank"):
        assert method_class(name).extra
    for name, reason in left_out("predict").items():
        assert name not in names
        kind = method_class(name)
        assert ("reward_signals=true" in reason) == ("signals" in kind.needs)
    assert not any("signals" in method_class(name).needs for name in left_out("predict", signals=True))


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_what_needs_torch_says_so() -> None:
    from personalllm.methods import list_methods, method_class

    for name in list_methods():
        kind = method_class(name)
        source = Path(importlib.import_module(kind.__module__).__file__ or "").read_text(encoding="utf-8")
        if kind.__module__.startswith("personalllm.") and "_torch import" in source:
            assert kind.extra == "torch", name


def test_progress_counts_test_pairs(benchmark_: Benchmark, tmp_path: Path) -> None:
    events: list[ProgressEvent] = []
    total = 42 * 5 * 16
    predict(["longest"], small(benchmark_), benchmark_, out=tmp_path, progress=events.append)
    assert [event.stage for event in events] == ["start", "prepare", *["step"] * 25, "finish"]
    assert (events[0].done, events[-1].done, events[-1].total) == (0, total, total)
    events.clear()
    predict(["longest"], small(benchmark_), benchmark_, out=tmp_path, progress=events.append)
    assert [(event.stage, event.done) for event in events] == [("start", total), ("finish", total)]


def test_what_it_cost_is_kept_apart(benchmark_: Benchmark, tmp_path: Path) -> None:
    results = predict(["longest"], small(benchmark_), benchmark_, out=tmp_path)
    assert results["longest"].seconds_fit >= 0
    assert results["longest"].seconds_adapt_per_user >= 0
    assert load_prediction(tmp_path)["longest"].seconds_fit == results["longest"].seconds_fit
    in_memory = predict(["longest"], small(benchmark_), benchmark_)
    assert in_memory["longest"].seconds_adapt_per_user >= 0
    assert math.isnan(in_memory["random"].seconds_fit)


@dataclass
class Counts(Spy):
    id: ClassVar[str] = "counts"
    numbers: list[int] = field(default_factory=lambda: [1, 2])


def test_parameters_are_in_the_label_and_in_the_record(benchmark_: Benchmark, tmp_path: Path) -> None:
    results = predict([Counts(), Counts([3])], small(benchmark_, shots=(0,)), benchmark_, out=tmp_path)
    assert [one.id for one in results.learners[:2]] == ["counts", "counts[numbers=[3]]"]
    assert results["counts[numbers=[3]]"].spec["params"] == {"numbers": [3]}
    assert results["counts"].spec["class"].endswith("test_predict:Counts")


def test_users_of_whom_nothing_is_to_be_predicted_are_not_counted(benchmark_: Benchmark) -> None:
    """With a margin that every pair is within, there is nothing to learn from and nothing to predict."""
    ties = {"pairs": "random", "tie_margin": 100.0}
    results = predict([Spy(), "longest"], small(benchmark_, feedback=ties), benchmark_, embedder=HashEmbedder())
    assert math.isnan(value(results, "longest", "accuracy"))
    assert results["longest"].sums[HEAD]["n"].sum() == 0
