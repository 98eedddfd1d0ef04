"""Sweeps over the predict track: the cells, what is compared with what, and the long table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet
import pytest

from personalllm.core.errors import ParameterError, UserError
from personalllm.core.types import F32, Queries
from personalllm.data import Benchmark
from personalllm.evaluation.prediction.metrics import Cell
from personalllm.evaluation.prediction.results import PredictResults
from personalllm.evaluation.prediction.sweep import PredictSweepResults, run_prediction_sweep, sweep_prediction
from personalllm.evaluation.protocol import Protocol
from personalllm.evaluation.sweep import plan_sweep, sweep
from personalllm.methods.base import Method

SMALL: dict[str, Any] = {
    "track": "predict",
    "n_users": 30,
    "pool_users": 8,
    "seen_users": 4,
    "shots": (0, 3),
    "test_pairs": 6,
    "bootstrap_draws": 100,
}
NULLS = ("random", "longer", "population", "true-weights")


@dataclass
class Slope(Method):
    """Prefers the longer response, the more so the steeper; with slope 0 none."""

    id: ClassVar[str] = "slope"
    log_odds: ClassVar[bool] = True
    slope: float = 1.0

    def utilities(self, queries: Queries) -> F32:
        lengths = np.array([[len(text) for text in queries.corpus.responses[p]] for p in queries.prompt], np.float32)
        return np.float32(self.slope / 100) * lengths


def protocol_for(benchmark: Benchmark, **overrides: Any) -> Protocol:
    return Protocol.for_benchmark(benchmark, **(SMALL | overrides))


@pytest.fixture(scope="module")
def swept(benchmark_: Benchmark) -> PredictSweepResults:
    axes = {"slope": [1.0, 0.0, -1.0], "protocol.population.alpha": [0.05, 1.0], "protocol.feedback.flip": [0.0, 0.2]}
    return sweep_prediction([Slope()], axes, protocol_for(benchmark_), benchmark_)


def test_the_cells_know_their_size(benchmark_: Benchmark) -> None:
    (cell,) = plan_sweep(["longest"], {}, protocol_for(benchmark_), benchmark_)
    assert (cell.n_users, cell.n_queries) == (34, 34 * 6 * 2)
    axes: dict[str, list[Any]] = {
        "protocol.prediction.users": [["unseen"], ["seen"]],
        "protocol.prediction.test_pairs": [None, 2],
    }
    cells = plan_sweep(["longest"], axes, protocol_for(benchmark_, pool_pairs=5), benchmark_)
    assert [(c.n_users, c.n_queries) for c in cells] == [
        *((30, 30 * (8 + 24 - 3)), (30, 30 * 2 * 2)),
        *((4, 4 * (8 + 24 - 5)), (4, 4 * 2 * 2)),
    ]


def test_the_size_is_that_of_the_run(benchmark_: Benchmark) -> None:
    axes = {"protocol.prediction.test_pairs": [None]}
    swept = sweep_prediction(["longest"], axes, protocol_for(benchmark_, pool_pairs=5), benchmark_)
    (row,) = swept.rows
    learner = row.results["longest"]
    shown = [cell for cell in learner.sums if (cell.history, cell.shots) == ("true", 0)]
    assert row.cell.n_queries == sum(int(learner.sums[cell]["n"].sum()) for cell in shown)


def test_cells_of_one_protocol_are_one_run(swept: PredictSweepResults) -> None:
    assert len(swept.rows) == 12
    assert len({id(row.results) for row in swept.rows}) == 4
    assert swept.axes == ("slope", "protocol.population.alpha", "protocol.feedback.flip")
    ids = {learner.id for learner in swept.rows[0].results.learners}
    assert ids == {"slope", "slope[slope=0.0]", "slope[slope=-1.0]", *NULLS}


def test_what_predicts_the_same_pairs_is_compared(swept: PredictSweepResults) -> None:
    """Noise in the history leaves the test pairs alone; alpha makes other users."""
    groups = [{(row.cell.values["protocol.population.alpha"]) for row in contest.rows} for contest in swept.contests]
    assert groups == [{0.05}, {1.0}]
    for contest in swept.contests:
        assert len(contest.rows) == 6
        values = [row.estimate("accuracy").value for row in contest.rows]
        assert contest.best.estimate("accuracy").value == max(values)
        assert [difference.b for difference in contest.differences] == [
            str(row.cell) for row in contest.rows if row is not contest.best
        ]
        assert contest.best.at == Cell("unseen", "unseen", "true", 3)


def test_no_winner_where_noise_makes_no_difference(swept: PredictSweepResults) -> None:
    """The learner reads no history, so its cells with and without noise are the same."""
    contest = swept.contests[0]
    assert contest.winner is None
    twin = next(d for d in contest.differences if d.difference.value == 0)
    assert twin.b in contest.ties
    assert contest.sentence().startswith("No winner by accuracy among 6 cells that predict the same pairs of 30 users")
    assert twin.b in contest.sentence()


def test_a_winner_beats_all_others(benchmark_: Benchmark) -> None:
    protocol = protocol_for(benchmark_, alpha=50.0, n_users=60)
    swept = sweep_prediction([Slope()], {"slope": [1.0, -1.0]}, protocol, benchmark_)
    values = [row.estimate("accuracy").value for row in swept.rows]
    assert sum(values) == pytest.approx(1.0)
    (contest,) = swept.contests
    assert contest.winner is swept.rows[int(np.argmax(values))]
    assert contest.sentence().startswith("Winner by accuracy among 2 cells that predict the same pairs of 60 users")
    assert str(swept).splitlines()[0].startswith("slope, slope=1.0: accuracy 0.")
    (alone,) = sweep_prediction([Slope()], {}, protocol, benchmark_).contests
    assert alone.sentence() == "slope: the only cell on its 60 users, so it is compared with none."
    assert alone.winner is None


def test_less_loss_is_better(benchmark_: Benchmark) -> None:
    cells = plan_sweep([Slope()], {"slope": [1.0, 0.0, -1.0]}, protocol_for(benchmark_, alpha=50.0), benchmark_)
    swept = run_prediction_sweep(cells, benchmark_, metric="log_loss")
    values = [row.estimate("log_loss").value for row in swept.rows]
    assert swept.contests[0].best is swept.rows[int(np.argmin(values))]


def test_the_table_has_the_axes_in_front(swept: PredictSweepResults) -> None:
    table = swept.table()
    assert table.column_names[:6] == ["sweep_cell", "method", *swept.axes, "learner"]
    assert table.column_names[-2:] == ["preset", "fingerprint"]
    cells = table.filter(pc.is_valid(table["sweep_cell"]))
    assert set(cells["kind"].to_pylist()) == {"learner"}
    for number, row in enumerate(swept.rows):
        own = cells.filter(pc.field("sweep_cell") == number)
        expected = row.results.table().filter(pc.field("learner") == row.cell.label)
        assert own.select(expected.column_names).equals(expected)
        assert {name: set(own[name].to_pylist()) for name in swept.axes} == {
            name: {value} for name, value in row.cell.values.items()
        }


def test_nulls_and_oracles_stand_once_for_each_run(swept: PredictSweepResults) -> None:
    table = swept.table()
    beside = table.filter(pc.is_null(table["sweep_cell"]))
    assert set(beside["learner"].to_pylist()) == set(NULLS)
    assert beside["slope"].null_count == len(beside)
    assert beside["protocol.population.alpha"].null_count == 0
    names = ["learner", "users", "prompts", "history", "shots", "stratum", "metric", "fingerprint"]
    rows = list(zip(*(beside[name].to_pylist() for name in names), strict=True))
    assert len(set(rows)) == len(rows)
    assert len(set(beside["fingerprint"].to_pylist())) == 4


def test_an_axis_whose_name_is_taken(benchmark_: Benchmark) -> None:
    @dataclass
    class Metric(Slope):
        id: ClassVar[str] = "metric"
        metric: str = "a"

    table = sweep_prediction([Metric()], {"metric": ["a", "b"]}, protocol_for(benchmark_), benchmark_).table()
    assert set(table["axis metric"].to_pylist()) == {"a", "b", None}
    assert "accuracy" in set(table["metric"].to_pylist())


def test_a_sweep_goes_on_where_it_stopped(benchmark_: Benchmark, tmp_path: Path) -> None:
    axes = {"slope": [1.0, 0.0], "protocol.population.alpha": [0.05, 1.0]}
    first = sweep_prediction([Slope()], axes, protocol_for(benchmark_), benchmark_, out=tmp_path)
    told: list[str] = []
    second = sweep_prediction(
        [Slope()],
        axes,
        protocol_for(benchmark_),
        benchmark_,
        out=tmp_path,
        progress=lambda event: told.append(f"{event.method} {event.stage}"),
    )
    assert [path.suffix for path in first.files] == [".csv", ".parquet"]
    assert first.files == second.files
    assert not any(line.endswith(("step", "prepare")) for line in told)
    assert "slope protocol.population.alpha=0.05 start" in told
    assert first.table().equals(second.table())
    assert pyarrow.parquet.read_table(first.files[1]).equals(first.table())


def test_the_other_track_is_refused(benchmark_: Benchmark) -> None:
    rank = Protocol.for_benchmark(benchmark_, n_users=5, pool_users=5)
    with pytest.raises(UserError, match="The cell 'longest' cannot be run: It is of the rank track"):
        sweep_prediction(["longest"], {}, rank, benchmark_)
    with pytest.raises(UserError, match="The cell 'longest' cannot be run: It is of the predict track"):
        sweep(["longest"], {}, protocol_for(benchmark_), benchmark_)
    with pytest.raises(UserError, match=r"The cell 'embedding-ranker' cannot be run: .* needs an embedder"):
        sweep_prediction(["embedding-ranker"], {}, protocol_for(benchmark_), benchmark_)
    with pytest.raises(UserError, match=r"'longest, protocol.prediction.shots=\[99\]' cannot be run: .*shots must be"):
        sweep_prediction(["longest"], {"protocol.prediction.shots": [[99]]}, protocol_for(benchmark_), benchmark_)
    cells = plan_sweep(["longest"], {}, protocol_for(benchmark_), benchmark_)
    with pytest.raises(ParameterError, match="metric must be one of accuracy, log_loss"):
        run_prediction_sweep(cells, benchmark_, metric="ece")


def test_a_row_is_in_its_run(swept: PredictSweepResults) -> None:
    row = swept.rows[0]
    assert isinstance(row.results, PredictResults)
    assert row.estimate("tau") == row.results.estimate(row.cell.label, "tau", row.at)
