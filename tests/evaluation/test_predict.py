"""The predict track: what a method sees, and what is made of its answers."""

from __future__ import annotations

import importlib.util
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from predicting import HEAD, pairs_of, run, small, value

from personalllm.core.errors import RunError, UserError
from personalllm.core.types import F32, Histories, Queries
from personalllm.data import Benchmark
from personalllm.evaluation import Condition, ProgressEvent, Results, evaluate, load_run, load_track
from personalllm.evaluation.resolve import left_out, resolve
from personalllm.methods.base import HistoryRule, Method, Need
from personalllm.testing import HashEmbedder


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
        self.seen.append(("utilities", queries, self.seed))
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
        return {"words": values.astype(str), "infinite": values - np.inf}.get(self.how, values)


@dataclass
class Near(Spy):
    id: ClassVar[str] = "near"
    history: ClassVar[HistoryRule] = "nearest"


@dataclass
class Coin(Spy):
    id: ClassVar[str] = "random"


def test_a_method_is_fitted_once_and_adapts_anew_to_each_prefix(benchmark_: Benchmark) -> None:
    Spy.seen.clear()
    run([Spy()], small(benchmark_), benchmark_)
    calls = [item[0] for item in Spy.seen]
    n_steps = (3 + 2) * 3 + (3 + 2) * 2
    assert calls == ["fit", *["adapt", "utilities"] * n_steps]
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


@pytest.fixture(scope="module")
def directed(benchmark_: Benchmark) -> Results:
    return run([Direction()], small(benchmark_), benchmark_, embedder=HashEmbedder())


def test_flipped_labels_mirror_a_linear_method(directed: Results) -> None:
    results = directed
    for users in ("unseen", "seen"):
        for prompts in ("unseen", "seen"):
            true, flipped = (Condition(users, prompts, kind, 8) for kind in ("true", "flipped"))
            right, mirrored = (results.per_user("direction", "accuracy", at) for at in (true, flipped))
            assert np.allclose(right + mirrored, 1)
            assert right.mean() > 0.55
    other = Condition("unseen", "unseen", "other-user", 8)
    assert value(results, "direction", "accuracy", other) < value(results, "direction", "accuracy")


def test_more_comparisons_help_and_none_say_nothing(directed: Results) -> None:
    results = directed
    curve = [value(results, "direction", "accuracy", Condition("unseen", "unseen", "true", k)) for k in (0, 1, 8)]
    assert curve[0] == 0.5
    assert curve[0] < curve[1] < curve[2]
    nothing = Condition("unseen", "seen", "true", 0)
    assert value(results, "direction", "log_loss", nothing) == pytest.approx(math.log(2), abs=1e-6)
    assert value(results, "direction", "tau", nothing) == 0


def test_margins_are_of_the_responses_that_were_compared(benchmark_: Benchmark, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    protocol = small(benchmark_, prediction={"reward_signals": True})
    run([MeanScore()], protocol, benchmark_, out=tmp_path)
    pairs = pairs_of(protocol, benchmark_)
    mean = pairs.source.table.values.mean(axis=2)
    n = 0
    for path in sorted(tmp_path.glob("*/mean-score-*/samples/*.parquet")):
        table = {name: column.to_numpy() for name, column in zip(*_columns(pq.ParquetFile(path).read()), strict=True)}
        rows = table["prompt"]
        assert np.allclose(table["margin"], mean[rows, table["chosen"]] - mean[rows, table["rejected"]], atol=1e-6)
        n += len(rows)
    assert n == 42 * 5 * 16
    assert {name: str(column.dtype) for name, column in table.items()} == {
        "condition": "int16",
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
    results = run([MeanScore()], protocol, benchmark_)
    pairs = pairs_of(protocol, benchmark_)
    group = pairs.groups["unseen"]
    tests = group.tests["unseen"]
    values, mean = pairs.utilities(group.population, tests), pairs.source.table.values.mean(axis=2)[tests.prompt]
    regret = values.max(axis=1) - values[np.arange(len(tests)), mean.argmax(axis=1)]
    tau = [kendalltau(a, b).statistic for a, b in zip(mean, values, strict=True)]
    at = Condition("unseen", "unseen", "true", 0)
    assert value(results, "mean-score", "regret", at) == pytest.approx(regret.mean(), abs=1e-5)
    assert value(results, "mean-score", "tau", at) == pytest.approx(np.mean(tau), abs=1e-5)


def test_scores_are_handed_over_only_if_the_protocol_says_so(benchmark_: Benchmark) -> None:
    with pytest.raises(UserError, match="uses the scores of the reward models, which this protocol does not allow"):
        run([MeanScore()], small(benchmark_), benchmark_)
    with pytest.raises(UserError, match=r"does not take part in the rank track.*predict track"):
        evaluate([MeanScore()], benchmark_)


@pytest.fixture(scope="module")
def in_memory(benchmark_: Benchmark) -> Results:
    return run(["random", "longest"], small(benchmark_), benchmark_)


def test_a_coin_is_the_baseline_of_that_name(benchmark_: Benchmark, in_memory: Results) -> None:
    assert [row.label for row in in_memory.methods if row.kind == "method"] == ["longest"]
    with pytest.raises(UserError, match="The name 'random' belongs to"):
        run([Coin()], small(benchmark_), benchmark_)


def test_one_user_alone_has_no_interval(benchmark_: Benchmark) -> None:
    results = run(["longest"], small(benchmark_, n_users=1), benchmark_)
    one, several = (Condition(users, "unseen", "true", 0) for users in ("unseen", "seen"))
    alone, among = (results.estimate("longest", "accuracy", at) for at in (one, several))
    assert not math.isnan(alone.value)
    assert math.isnan(alone.low)
    assert not math.isnan(among.low)
    sums = results.sums("longest", several)
    for index, name in enumerate(sums.groups):
        size = int((sums.columns["group"] == index).sum())
        if size:
            estimate = results.estimate("longest", "accuracy", several, stratum=name)
            assert math.isnan(estimate.low) == (size == 1)
    assert math.isnan(results.change("longest", "accuracy", one, Condition("unseen", "unseen", "true", 8)).low)
    assert "nan" not in str(results)


def test_shards_and_executors_change_nothing(benchmark_: Benchmark, elsewhere: Any) -> None:
    name, more = "embedding-ranker", {"embedder": HashEmbedder()}
    here, there = (
        run([name], small(benchmark_, shots=(0, 8), users_per_shard=size), benchmark_, **more, executor=executor)
        for size, executor in ((500, None), (11, elsewhere))
    )
    for at, sums in here[name].sums.items():
        assert there.sums(name, at).pairing == sums.pairing
        for column, values in sums.columns.items():
            assert np.allclose(values, there.sums(name, at).columns[column], atol=1e-4), (at, column)


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("nan", UserError, r"'odd' returned NaN for 1 of"),
        ("words", UserError, r"'odd\[how=words\]' returned an array of <U32, not an array of numbers"),
        ("raise", RunError, r"'odd\[how=raise\]' failed in adapt: ValueError: no such user"),
    ],
)
def test_a_broken_method_is_named(benchmark_: Benchmark, how: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        run([Odd(how=how)], small(benchmark_), benchmark_)


def test_infinite_ranks_that_are_equal_are_a_tie(benchmark_: Benchmark) -> None:
    results = run([Odd(how="infinite")], small(benchmark_, shots=(8,)), benchmark_)
    assert value(results, "odd[how=infinite]", "accuracy") == 0.5


def test_who_cannot_take_part_is_told_why(benchmark_: Benchmark) -> None:
    with pytest.raises(UserError, match=r"The protocol is of the predict track, but track='rank' was given"):
        evaluate(["longest"], benchmark_, "rank", small(benchmark_))
    with pytest.raises(UserError, match=r"'icl' does not take part in the predict track"):
        run(["icl"], small(benchmark_), benchmark_)
    with pytest.raises(UserError, match=r"'near' gets the prompts nearest to each query"):
        run([Near()], small(benchmark_), benchmark_)
    with pytest.raises(UserError, match=r"needs an embedder"):
        run([Direction()], small(benchmark_), benchmark_)


def test_all_stands_for_what_can_be_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    from personalllm.methods import method_class

    monkeypatch.setattr(sys.modules[left_out.__module__], "find_spec", lambda name: None)
    entries, references = resolve(["all"], load_track("predict"))
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
    for name in left_out(load_track("rank")):
        assert method_class(name).extra
    for name, reason in left_out(load_track("predict")).items():
        assert name not in names
        kind = method_class(name)
        assert ("reward_signals=true" in reason) == ("signals" in kind.needs)
    assert not any("signals" in method_class(name).needs for name in left_out(load_track("predict"), signals=True))


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_what_needs_torch_says_so() -> None:
    from personalllm.methods import list_methods, method_class

    for name in list_methods():
        kind = method_class(name)
        source = Path(importlib.import_module(kind.__module__).__file__ or "").read_text(encoding="utf-8")
        if kind.__module__.startswith("personalllm.") and "_torch import" in source:
            assert kind.extra == "torch", name


@pytest.fixture(scope="module")
def on_disk(
    benchmark_: Benchmark, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Results, Path, list[ProgressEvent]]:
    """A run of `longest`, its folder and what was heard of its progress."""
    folder, events = tmp_path_factory.mktemp("longest"), []
    results = run(["longest"], small(benchmark_), benchmark_, out=folder, progress=events.append)
    return results, folder, events


def test_progress_counts_test_pairs(benchmark_: Benchmark, on_disk: Any) -> None:
    _, folder, events = on_disk
    total = 42 * 5 * 16
    assert [event.stage for event in events] == ["start", "prepare", *["step"] * 15, "finish"]
    assert (events[0].done, events[-1].done, events[-1].total) == (0, total, total)
    again: list[ProgressEvent] = []
    run(["longest"], small(benchmark_), benchmark_, out=folder, progress=again.append)
    assert [(event.stage, event.done) for event in again] == [("start", total), ("finish", total)]


def test_what_it_cost_is_kept_apart(on_disk: Any, in_memory: Results) -> None:
    results, folder, _ = on_disk
    assert results["longest"].seconds["fit"] >= 0
    assert results["longest"].seconds["adapt_users"] == 42 * 3
    assert results["longest"].seconds_per_user >= 0
    assert load_run(folder)["longest"].seconds == results["longest"].seconds
    assert in_memory["longest"].seconds_per_user >= 0
    assert math.isnan(in_memory["random"].seconds_per_user)


@dataclass
class Counts(Spy):
    id: ClassVar[str] = "counts"
    numbers: list[int] = field(default_factory=lambda: [1, 2])


def test_parameters_are_in_the_label_and_in_the_record(benchmark_: Benchmark, tmp_path: Path) -> None:
    results = run([Counts(), Counts([3])], small(benchmark_, shots=(0,)), benchmark_, out=tmp_path)
    assert [row.label for row in results.methods[:2]] == ["counts", "counts[numbers=[3]]"]
    assert results["counts[numbers=[3]]"].spec["params"] == {"numbers": [3]}
    assert results["counts"].spec["class"].endswith("test_predict:Counts")


def test_users_of_whom_nothing_is_to_be_predicted_are_not_counted(benchmark_: Benchmark) -> None:
    """With a margin that every pair is within, there is nothing to learn from and nothing to predict."""
    ties = {"pairs": "random", "tie_margin": 100.0}
    protocol = small(benchmark_, feedback=ties, shots=(8,))
    results = run([Spy(), "longest"], protocol, benchmark_, embedder=HashEmbedder())
    assert math.isnan(value(results, "longest", "accuracy"))
    assert results.sums("longest", HEAD).columns["n"].sum() == 0


@pytest.mark.parametrize("intervals", ["users", "users and prompts"])
def test_both_kinds_of_users_are_measured_over_pairs(make_benchmark: Any, intervals: str) -> None:
    benchmark = make_benchmark(n_test=14)
    settings = {"users": ["unseen", "seen", "both"], "prompts": "unseen", "test_pairs": 8, "seen_test_pairs": 2}
    protocol = {
        "n_users": 12,
        "pool_users": 40,
        "seen_users": 40,
        "pool_pairs": 8,
        "shots": (0, 2),
        "prediction": settings,
    }
    results = evaluate(
        ["longest"], benchmark, track="predict", protocol=protocol | {"intervals": intervals, "bootstrap_draws": 200}
    )
    assert results.headline == Condition("both", "unseen", "true", 2)
    for label in ("longest", "population"):
        correct, pairs, means = 0.0, 0.0, []
        for users in ("unseen", "seen"):
            sums = results.sums(label, Condition(users, shots=2)).columns
            correct, pairs = correct + sums["correct"].sum(), pairs + sums["n"].sum()
            means += (sums["correct"] / sums["n"])[sums["n"] > 0].tolist()
        estimate = results.estimate(label, "accuracy")
        assert estimate.value == pytest.approx(correct / pairs)
        assert estimate.value != pytest.approx(np.mean(means))
        assert estimate.low < estimate.value < estimate.high
