"""Sweeps: the cells, what is refused beforehand, the table, the winner, and going on after SIGKILL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
import pytest
from killed import contents, do, kill

from personalllm.core.errors import ParameterError, UserError
from personalllm.core.types import F32, Queries
from personalllm.data import Benchmark, make_synthetic, write_benchmark
from personalllm.evaluation import (
    Condition,
    MethodResult,
    Protocol,
    Results,
    Sums,
    Sweep,
    evaluate,
    get_preset,
    parse_axis,
    plan_sweep,
    sweep,
)
from personalllm.evaluation.contests import Contest, SweepCell, SweepRow, hold_contests
from personalllm.evaluation.estimates import estimate
from personalllm.evaluation.metrics import CHOICE_METRICS
from personalllm.methods.base import Method
from personalllm.testing import EchoChatModel

METRIC_IDS = [metric.id for metric in CHOICE_METRICS]
RANK: dict[str, Any] = {"n_users": 30, "pool_users": 6, "intervals": "users", "bootstrap_draws": 200}
GENERATE: dict[str, Any] = RANK | {"track": "generate", "n_users": 9, "max_tokens": 8}


@dataclass
class Slot(Method):
    """Prefers the longer response (sign 1) or the shorter one (-1); with skill 0 the first."""

    id: ClassVar[str] = "slot"
    skill: float = 0.0
    sign: int = 1

    def __post_init__(self) -> None:
        if self.skill < 0:
            raise ParameterError("skill", ">= 0", self.skill)

    def utilities(self, queries: Queries) -> F32:
        lengths = np.array([[len(text) for text in queries.corpus.responses[p]] for p in queries.prompt], np.float32)
        return np.float32(self.sign * self.skill) * lengths


def protocol_for(benchmark: Benchmark, **overrides: Any) -> Protocol:
    return Protocol.for_benchmark(benchmark, **(RANK | overrides))


def test_the_cells_are_the_product(benchmark_: Benchmark) -> None:
    axes = {"skill": [1.0, 2.0], "protocol.population.alpha": [0.05, 0.1], "sign": [1, -1]}
    cells = plan_sweep([Slot()], axes, benchmark_, protocol=protocol_for(benchmark_))
    assert [tuple(cell.values.values()) for cell in cells] == [
        (skill, alpha, sign) for skill in (1.0, 2.0) for alpha in (0.05, 0.1) for sign in (1, -1)
    ]
    assert [cell.method for cell in cells[:2]] == [Slot(1.0, 1), Slot(1.0, -1)]
    assert {cell.protocol.population.alpha for cell in cells if cell.values["sign"] == 1} == {0.05, 0.1}
    assert {cell.weight for cell in cells} == {240}
    assert str(cells[2]) == "slot, skill=1.0, protocol.population.alpha=0.1, sign=1"
    limited = plan_sweep(["random"], {"protocol.limit": [4, 90]}, benchmark_, protocol=protocol_for(benchmark_))
    assert [cell.weight for cell in limited] == [4 * 8, 30 * 8]
    assert len(plan_sweep(["random", "longest"], {}, benchmark_, protocol=protocol_for(benchmark_))) == 2
    asked = plan_sweep(
        ["random"], {"protocol.prompts_per_user": [None, 2]}, benchmark_, protocol=protocol_for(benchmark_)
    )
    assert [cell.weight for cell in asked] == [240, 60]


def test_several_fields_of_one_part_are_varied_together(benchmark_: Benchmark) -> None:
    axes = {"protocol.history.pairs": [1, 2], "protocol.history.counterfactual": ["none", "flipped"]}
    cells = plan_sweep(["random"], axes, benchmark_, protocol=protocol_for(benchmark_, nearest=3))
    found = [(c.protocol.history.pairs, c.protocol.history.counterfactual, c.protocol.history.nearest) for c in cells]
    assert found == [(1, "none", 3), (1, "flipped", 3), (2, "none", 3), (2, "flipped", 3)]


BAD: list[tuple[list[Any], dict[str, Any], str]] = [
    ([], {}, "A sweep needs a method"),
    (["random"], {"protocol.limit": []}, r"the axis 'protocol.limit' must be a list of different values, got \[\]"),
    (["random"], {"protocol.limit": [3, 3]}, "must be a list of different values"),
    (["random"], {"shots": [3]}, "The cell 'random, shots=3' cannot be run: .*no parameter"),
    (["embedding-ranker"], {"shrink": [3]}, "'embedding-ranker, shrink=3' cannot be run: .*Did you mean 'shrinkage'"),
    ([Slot()], {"shots": [3]}, "The cell 'slot, shots=3' cannot be run: The method 'slot' has no parameter 'shots'"),
    ([Slot()], {"skill": [1.0, -1.0]}, "The cell 'slot, skill=-1.0' cannot be run: skill must be >= 0, got -1.0"),
    (["random"], {"protocol.alpha": [0.1, 0]}, "'random, protocol.alpha=0' cannot be run: population.alpha must be gr"),
    (["random"], {"protocol.population.alhpa": [1]}, "cannot be run: population.alhpa must be a field"),
    (["random"], {"protocol.history.pairs": [5, 25]}, r"'random, .*pairs=25' cannot be run: .*\(24\), got 25"),
    (["random"], {"protocol.benchmark": ["a"]}, "'benchmark' is no setting of the protocol"),
    (["random"], {"protocol.llm": ["a"]}, "'llm' is no setting of the protocol"),
    (["random"], {"protocol.a.b": [1]}, "There is no setting 'a.b'"),
    (["randum"], {}, "The cell 'randum' cannot be run: .*Did you mean 'random'"),
    (["oracle"], {}, "The cell 'oracle' cannot be run"),
    (["all"], {}, "The cell 'all' cannot be run"),
    (["icl"], {"n_shots": [1]}, "The cell 'icl, n_shots=1' cannot be run: .*does not take part in the rank track"),
    (["random", "random"], {}, "The cells 'random' and 'random' are the same run"),
    (["random"], {"protocol.limit": [30, 31]}, "The cells 'random, protocol.limit=30' and .* are the same run"),
    (["embedding-ranker[shrinkage=1]"], {"shrinkage": [2]}, "'shrinkage' is fixed by .* and varied too"),
    (["random"], {"protocol.alpha": ["NaN"]}, "'random, protocol.alpha=NaN' cannot be run: population.alpha"),
    (["embedding-ranker"], {"shrinkage": ["much"]}, "'embedding-ranker, shrinkage=much' cannot be run"),
    ([Slot()], {"protocol.history.counterfactual": ["none", "other"]}, "counterfactual=other' cannot be run"),
]


@pytest.mark.parametrize(("methods", "axes", "message"), BAD, ids=lambda value: str(value)[:50])
def test_what_cannot_be_run_is_refused_before_anything_runs(
    benchmark_: Benchmark, tmp_path: Path, methods: list[Any], axes: dict[str, Any], message: str
) -> None:
    for call in (plan_sweep, lambda *args, **more: sweep(*args, out=tmp_path / "runs", **more)):
        with pytest.raises(UserError, match=message):
            call(methods, axes, benchmark_, protocol=protocol_for(benchmark_))
    assert not (tmp_path / "runs").exists()


def test_missing_backends_are_refused_before_anything_runs(benchmark_: Benchmark, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"The cell 'embedding-ranker' cannot be run: .*needs an embedder"):
        sweep(["random", "embedding-ranker"], {}, benchmark_, protocol=protocol_for(benchmark_), out=tmp_path / "runs")
    several = Protocol.for_benchmark(benchmark_, **(GENERATE | {"prompts_per_user": 2}))
    with pytest.raises(UserError, match=r"The cell 'icl' cannot be run: .*one query for each user"):
        plan_sweep(["zero-shot", "icl"], {}, benchmark_, protocol=several)
    assert not (tmp_path / "runs").exists()


def test_every_cell_is_an_ordinary_run(benchmark_: Benchmark, standins: Any, tmp_path: Path) -> None:
    protocol = Protocol.for_benchmark(benchmark_, **GENERATE)
    axes = {"n_shots": [1, 3], "feedback": ["winning", "losing"], "protocol.population.alpha": [0.05, 0.5]}
    results = sweep(["icl"], axes, benchmark_, protocol=protocol, out=tmp_path, **standins)
    assert len(results.rows) == 8
    for row in results.rows:
        own = Protocol.for_benchmark(benchmark_, **(GENERATE | {"alpha": row.cell.protocol.population.alpha}))
        alone = evaluate([row.cell.method], benchmark_, protocol=own, out=tmp_path / "alone", **standins)
        assert alone.fingerprint == row.results.fingerprint
        assert alone[row.cell.label].estimates == row.result.estimates
        assert (tmp_path / row.results.fingerprint / "manifest.json").is_file()
    assert {row.cell.label for row in results.rows} == {
        *("icl[n_shots=1]", "icl[n_shots=1,feedback=losing]", "icl", "icl[feedback=losing]"),
    }


def test_the_table(benchmark_: Benchmark, standins: Any, tmp_path: Path) -> None:
    protocol = Protocol.for_benchmark(benchmark_, **GENERATE)
    axes: dict[str, Any] = {"n_shots": [1, 2], "protocol.population.alpha": [0.05, 1], "protocol.limit": [None, 4]}
    results = sweep(["icl", "self-icl"], axes, benchmark_, protocol=protocol, out=tmp_path, **standins)
    table = results.table()
    assert table.num_rows == 16
    assert table.column_names[:5] == ["cell", "method", *axes]
    assert table.schema.field("n_shots").type == pa.int64()
    assert table.schema.field("protocol.population.alpha").type == pa.float64()
    assert set(table["protocol.limit"].to_pylist()) == {"null", "4"}
    assert {f"{metric}{end}" for metric in METRIC_IDS for end in ("", "_low", "_high")} < set(table.column_names)
    for i, row in enumerate(results.rows):
        line = table.slice(i, 1).to_pylist()[0]
        assert line["method"] == row.cell.base
        assert line["utility"] == row.estimate("utility").value
        assert line["win_rate_best_high"] == row.estimate("win_rate_best").high
        assert line["n_users"] == (9 if row.cell.values["protocol.limit"] is None else 4)
        assert line["examples"] == row.cell.values["n_shots"] * line["queries"]
        assert (line["empty"], line["fingerprint"]) == (0, row.results.fingerprint)
        assert line["preset"] is None
    assert len(results.contests) == 4
    assert results.winner is None
    assert set(table["users"].to_pylist()) == {0, 1, 2, 3}
    csv, parquet, long = results.files
    assert pyarrow.parquet.read_table(parquet).equals(table)
    assert pyarrow.parquet.read_table(long).equals(results.long_table())
    assert pyarrow.csv.read_csv(csv).column_names == table.column_names
    assert pyarrow.csv.read_csv(csv)["verdict"].to_pylist() == table["verdict"].to_pylist()
    assert not list(tmp_path.glob("*.part"))
    again = sweep(["icl", "self-icl"], axes, benchmark_, protocol=protocol, out=tmp_path, **standins)
    assert again.files == results.files
    assert again.table().equals(table)
    other = sweep(["icl"], axes, benchmark_, protocol=protocol, out=tmp_path, **standins)
    assert set(other.files).isdisjoint(results.files)


def test_a_sweep_of_a_preset_says_what_each_cell_changes(benchmark_: Benchmark, standins: Any) -> None:
    small = {key: value for key, value in GENERATE.items() if key != "track"} | {"pool_pairs": 24}
    protocol = get_preset("paper-icl").protocol_for(benchmark_, **small)
    results = sweep(["icl"], {"protocol.alpha": [0.05, 0.2]}, benchmark_, protocol=protocol, **standins)
    one, other = results.table()["preset"].to_pylist()
    assert one.startswith("paper-icl-v1, changed: population.n_users 1000 -> 9, ")
    assert other.startswith("paper-icl-v1, changed: population.alpha 0.05 -> 0.2, population.n_users 1000 -> 9, ")


def test_a_winner_beats_every_other_cell(make_benchmark: Callable[..., Benchmark]) -> None:
    benchmark = make_benchmark(n_test=20)
    results = sweep(
        [Slot(skill=1.0)], {"sign": [-1, 1]}, benchmark, protocol=protocol_for(benchmark, n_users=100, alpha=10.0)
    )
    assert results.winner is not None
    assert results.winner.cell.values == {"sign": 1}
    sentence = results.contests[0].sentence()
    assert sentence.startswith(
        "Winner by utility among 2 cells on the same 100 users: slot[skill=1.0], sign=1 (paired tests"
    )
    assert "chosen on these users: expect its lead to shrink" in sentence
    assert results.table()["verdict"].to_pylist() == ["behind", "winner"]
    assert sentence in str(results)


def test_cells_of_other_protocols_compete_if_the_users_are_the_same(benchmark_: Benchmark, standins: Any) -> None:
    axes = {"protocol.history.pairs": [1, 20], "protocol.population.seed": [0, 1]}
    results = sweep(
        ["embedding-ranker"], axes, benchmark_, protocol=protocol_for(benchmark_), embedder=standins["embedder"]
    )
    assert [len(contest.rows) for contest in results.contests] == [2, 2]
    assert len({row.results.fingerprint for row in results.rows}) == 4
    for contest in results.contests:
        assert len({row.cell.values["protocol.population.seed"] for row in contest.rows}) == 1


def test_progress_says_which_settings(benchmark_: Benchmark) -> None:
    seen: set[str] = set()
    axes = {"sign": [1, -1], "protocol.population.alpha": [0.05, 0.1]}
    sweep(
        [Slot(1.0)], axes, benchmark_, protocol=protocol_for(benchmark_), progress=lambda event: seen.add(event.method)
    )
    assert seen == {
        f"slot[skill=1.0{sign}] protocol.population.alpha={alpha}" for sign in ("", ",sign=-1") for alpha in (0.05, 0.1)
    }


def row_of(utility: Any, name: str, protocol: Protocol) -> SweepRow:
    values = np.asarray(utility, np.float32)
    at = Condition()
    sums = Sums({"utility": values}, pairing="same")
    metrics = CHOICE_METRICS[:1]
    estimates = {at: estimate(sums, metrics, draws=100, seed=0)}
    result = MethodResult(name, name, "method", {}, {at: sums}, estimates)
    results = Results(protocol.spec(), "f", "rank", (result,), metrics, "utility", (at,))
    return SweepRow(SweepCell(name, {}, Slot(), name, protocol, len(values)), results)


def contest_of(benchmark: Benchmark, *utilities: Any) -> Contest:
    protocol = protocol_for(benchmark, intervals="users", bootstrap_draws=100)
    rows = [row_of(utility, f"c{i}", protocol) for i, utility in enumerate(utilities)]
    (contest,) = hold_contests(rows, CHOICE_METRICS[0])
    return contest


def test_a_cell_that_beats_all_but_one_is_no_winner(benchmark_: Benchmark) -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=200)
    close = base + rng.normal(size=200) * 0.5
    close += base.mean() - close.mean()
    contest = contest_of(benchmark_, base - 1, base + 0.001, close, base - 0.5)
    assert contest.winner is None
    assert contest.best.cell.label == "c1"
    assert [row.cell.label for row in contest.ties] == ["c2"]
    assert [contest.verdict(row) for row in contest.rows] == [
        *("behind", "best, no winner", "not significantly different from the best", "behind"),
    ]
    assert contest.sentence() == (
        "No winner by utility among 4 cells on the same 200 users. The best is c1, but it is not significantly "
        "different from: c2 (paired tests over users, Holm-corrected for 3 comparisons, at 5%)."
    )
    without = contest_of(benchmark_, base - 1, base + 0.001, base - 0.5)
    assert without.winner is without.best


def test_the_correction_decides(benchmark_: Benchmark) -> None:
    """A lead that is significant on its own is not one among twenty such leads."""
    rng = np.random.default_rng(1)
    base = rng.normal(size=100)
    noise = rng.normal(size=(12, 100))
    noise = (noise - noise.mean(axis=1, keepdims=True)) / noise.std(axis=1, keepdims=True)
    gap = 2.3 / np.sqrt(100)
    alone = contest_of(benchmark_, base, base - gap + noise[0])
    assert alone.differences[0].p_value < 0.04
    assert alone.winner is alone.best
    many = contest_of(benchmark_, base, *(base - gap + row for row in noise))
    assert all(comparison.p_value < 0.04 for comparison in many.differences)
    assert many.winner is None
    assert len(many.ties) == 12
    assert "c6; and 6 more, marked in the table" in many.sentence()
    assert all(comparison.p_holm >= comparison.p_value for comparison in many.differences)


def test_equal_cells_have_no_winner(benchmark_: Benchmark) -> None:
    """The family-wise error: of cells that are all alike one is named in at most 5 % of sweeps, and a bit of chance."""
    rng = np.random.default_rng(2)
    protocol = protocol_for(benchmark_, intervals="users", bootstrap_draws=100)
    named = 0
    for _ in range(60):
        base = rng.normal(size=25)
        rows = [row_of(base + rng.normal(size=25), f"c{i}", protocol) for i in range(3)]
        (contest,) = hold_contests(rows, CHOICE_METRICS[0])
        named += contest.winner is not None
    assert named <= 7


def test_equal_means_go_to_the_first_and_one_cell_is_alone(benchmark_: Benchmark) -> None:
    one = contest_of(benchmark_, [1.0, 2.0, 3.0])
    assert (one.winner, one.differences) == (None, ())
    assert one.verdict(one.best) == "alone"
    assert "the only cell on its 3 users" in one.sentence()
    two = contest_of(benchmark_, [1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert two.best.cell.label == "c0"
    assert two.differences[0].p_holm == 1
    assert two.winner is None


@pytest.mark.parametrize(("n_users", "others", "few"), [(5, 1, True), (6, 1, False), (6, 2, True), (7, 3, False)])
def test_too_few_users_for_any_winner_are_said(benchmark_: Benchmark, n_users: int, others: int, few: bool) -> None:
    apart = contest_of(benchmark_, np.arange(n_users) + 9.0, *[np.arange(n_users)] * others)
    assert (apart.winner is None) is few
    alike = contest_of(benchmark_, *[np.arange(n_users)] * (others + 1))
    assert alike.sentence().endswith("With so few users no cell could be a winner.") is few


def test_axes_are_parsed() -> None:
    assert parse_axis("n_shots=1,3,5") == ("n_shots", (1, 3, 5))
    assert parse_axis("feedback=winning, losing") == ("feedback", ("winning", "losing"))
    assert parse_axis("protocol.population.alpha=[0.1,0.2],0.3") == ("protocol.population.alpha", ([0.1, 0.2], 0.3))
    assert parse_axis("x=null,true,[1,2]") == ("x", (None, True, [1, 2]))
    assert parse_axis("x=") == ("x", ())
    assert parse_axis("x=NaN,Infinity,-Infinity") == ("x", ("NaN", "Infinity", "-Infinity"))
    with pytest.raises(UserError, match="Cannot read the setting 'n_shots'"):
        parse_axis("n_shots")


def test_a_sweep_of_the_synthetic_is_paired_and_typed(standins: Any) -> None:
    synthetic = make_synthetic(60, seed=2)
    axes = {"shrinkage": [1.0, 100.0], "protocol.history.counterfactual": ["none", "flipped"]}
    protocol = Protocol.for_benchmark(
        synthetic, n_users=40, pool_users=8, pairs=5, intervals="users", bootstrap_draws=100
    )
    results = sweep(["embedding-ranker"], axes, synthetic, protocol=protocol, embedder=standins["embedder"])
    assert len(results.contests) == 1
    assert results.axes == tuple(axes)
    assert results.table()["n_users"].to_pylist() == [40] * 4
    assert len(results.contests[0].differences) == 3


PREDICT: dict[str, Any] = {
    "track": "predict",
    "n_users": 12,
    "pool_users": 8,
    "seen_users": 4,
    "shots": (0, 3),
    "test_pairs": 6,
    "prediction": {"counterfactuals": ()},
    "intervals": "users",
    "bootstrap_draws": 100,
}
BASELINES = ("random", "longer", "population", "true-weights", "text-only", "known-basis")


@dataclass
class Slope(Slot):
    """Differences of lengths as log-odds."""

    id: ClassVar[str] = "slope"
    log_odds: ClassVar[bool] = True
    skill: float = 0.01
    metric: str = "a"


def predicting(benchmark: Benchmark, **overrides: Any) -> Protocol:
    return Protocol.for_benchmark(benchmark, **(PREDICT | overrides))


@pytest.fixture(scope="module")
def swept(benchmark_: Benchmark) -> Sweep:
    axes = {"sign": [1, 0, -1], "protocol.population.alpha": [0.05, 1.0], "protocol.feedback.flip": [0.0, 0.2]}
    return sweep([Slope()], axes, benchmark_, protocol=predicting(benchmark_))


def test_cells_of_one_protocol_are_one_run(swept: Sweep) -> None:
    assert len(swept.rows) == 12
    assert len({id(row.results) for row in swept.rows}) == 4
    labels = {method.label for method in swept.rows[0].results.methods}
    assert labels == {"slope", "slope[sign=0]", "slope[sign=-1]", *BASELINES}


def test_the_weight_of_a_cell_is_its_test_pairs(swept: Sweep, benchmark_: Benchmark) -> None:
    row = swept.rows[0]
    pairs = sum(int(sums.columns["n"].sum()) for sums in row.result.sums.values())
    assert row.cell.weight == pairs
    (cell,) = plan_sweep(["longest"], {}, benchmark_, protocol=predicting(benchmark_, n_users=10))
    assert cell.weight < row.cell.weight


def test_cells_with_the_same_pairs_are_compared(swept: Sweep) -> None:
    """Noise in the history leaves the test pairs alone; alpha makes other users."""
    groups = [{row.cell.values["protocol.population.alpha"] for row in contest.rows} for contest in swept.contests]
    assert groups == [{0.05}, {1.0}]
    for contest in swept.contests:
        values = [row.estimate("accuracy").value for row in contest.rows]
        assert contest.best.estimate().value == max(values)
        assert contest.best.at == Condition("unseen", "unseen", "true", 3)
    contest = swept.contests[0]
    assert contest.winner is None
    same = next(difference for difference in contest.differences if difference.difference.value == 0)
    assert same.b in [str(row.cell) for row in contest.ties]
    assert contest.sentence().startswith(
        "No winner by accuracy among 6 cells on the same 12 users (unseen users, unseen prompts, 3 shots)."
    )


def test_less_loss_is_better(benchmark_: Benchmark) -> None:
    protocol = predicting(benchmark_, alpha=50.0)
    by_loss = sweep([Slope()], {"sign": [1, 0, -1]}, benchmark_, protocol=protocol, metric="log_loss")
    values = [row.estimate("log_loss").value for row in by_loss.rows]
    assert by_loss.contests[0].best is by_loss.rows[int(np.argmin(values))]
    with pytest.raises(ParameterError, match=r"metric must be one of accuracy, log_loss.*got 'ece'"):
        sweep([Slope()], {}, benchmark_, protocol=protocol, metric="ece")


def test_the_long_table_has_the_axes_in_front(swept: Sweep) -> None:
    table = swept.long_table()
    assert table.column_names[:6] == ["sweep_cell", "base", *swept.axes, "method"]
    cells = table.filter(pc.is_valid(table["sweep_cell"]))
    assert set(cells["kind"].to_pylist()) == {"method"}
    runs = {id(row.results): row.results for row in swept.rows}
    tables = {key: results.table() for key, results in runs.items()}
    for number, row in enumerate(swept.rows):
        own = cells.filter(pc.field("sweep_cell") == number)
        expected = tables[id(row.results)].filter(pc.field("method") == row.cell.label)
        assert own.select(expected.column_names).equals(expected)
        assert {name: set(own[name].to_pylist()) for name in swept.axes} == {
            name: {value} for name, value in row.cell.values.items()
        }
    beside = table.filter(pc.is_null(table["sweep_cell"]))
    assert set(beside["method"].to_pylist()) == set(BASELINES)
    assert beside["sign"].null_count == len(beside)
    names = ["method", "users", "prompts", "history", "shots", "stratum", "metric", "fingerprint"]
    rows = list(zip(*(beside[name].to_pylist() for name in names), strict=True))
    assert len(set(rows)) == len(rows)


def test_an_axis_whose_name_is_taken(benchmark_: Benchmark) -> None:
    protocol = predicting(benchmark_)
    table = sweep([Slope()], {"metric": ["a", "b"]}, benchmark_, protocol=protocol).long_table()
    assert set(table["axis metric"].to_pylist()) == {"a", "b", None}
    assert "accuracy" in set(table["metric"].to_pylist())


def test_a_complete_sweep_runs_nothing_again(benchmark_: Benchmark, tmp_path: Path) -> None:
    axes = {"protocol.population.alpha": [0.05, 1.0]}
    stages: list[str] = []
    first = sweep([Slope()], axes, benchmark_, protocol=predicting(benchmark_), out=tmp_path)
    second = sweep(
        [Slope()],
        axes,
        benchmark_,
        protocol=predicting(benchmark_),
        out=tmp_path,
        progress=lambda event: stages.append(f"{event.method} {event.stage}"),
    )
    assert first.files == second.files
    assert not any(stage.endswith(("step", "prepare")) for stage in stages)
    assert "slope protocol.population.alpha=0.05 start" in stages
    assert first.long_table().equals(second.long_table())


@pytest.mark.slow
def test_a_killed_sweep_goes_on_to_the_same_bytes(benchmark_: Benchmark, tmp_path: Path) -> None:
    source = tmp_path / "tiny.parquet"
    write_benchmark(benchmark_, source)
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    kill("sweep", source, broken, 0.15, lambda: len(list(broken.glob("*/icl-*/samples/part-*.json"))) >= 10)
    done = {path: path.stat().st_mtime_ns for path in broken.glob("*/icl-*/samples/part-*.json")}
    assert 10 <= len(done) < 16
    assert len(list(broken.glob("*/manifest.json"))) == 2
    assert not list(broken.glob("sweep-*"))

    do("sweep", source, broken)
    do("sweep", source, whole)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert len(list(whole.glob("sweep-*.csv"))) == 1
    assert contents(broken, unfinished=False) == contents(whole)


def test_the_reply_is_the_methods_own(benchmark_: Benchmark, standins: Any) -> None:
    """Cells of one protocol share nothing but the users: a cell alone and beside others gives the same numbers."""
    protocol = Protocol.for_benchmark(benchmark_, **GENERATE)
    both = sweep(["icl"], {"n_shots": [1, 2]}, benchmark_, protocol=protocol, **standins)
    alone = sweep(["icl"], {"n_shots": [2]}, benchmark_, protocol=protocol, **(standins | {"llm": EchoChatModel()}))
    assert both.rows[1].result.estimates == alone.rows[0].result.estimates


def test_a_cell_without_a_value_never_wins(benchmark_: Benchmark) -> None:
    base = np.random.default_rng(0).normal(size=100)
    undefined = np.full(100, np.nan)
    contest = contest_of(benchmark_, undefined, base - 1, base)
    assert contest.winner is contest.rows[2]
    assert [contest.verdict(row) for row in contest.rows] == ["not defined", "behind", "winner"]
    assert contest.sentence().startswith("Winner by utility among 2 cells on the same 100 users: c2")
    alone = contest_of(benchmark_, undefined, base)
    assert alone.sentence() == "c1: the only cell with a utility on its 100 users, so it is compared with none."
    none = contest_of(benchmark_, undefined, undefined)
    assert none.winner is None
    assert none.differences == ()
    assert none.sentence() == (
        "No winner: utility is not defined for any cell on these 100 users; choose another metric."
    )
