"""Results of the predict track: the table, curves, paired comparisons, and reading a run back from its folder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from personalllm.core.errors import DataError, ParameterError, UnknownName, UserError
from personalllm.core.stats import holm, sign_flip_p
from personalllm.core.storage import write_json
from personalllm.evaluation.prediction.estimates import cell_difference, estimate_cell
from personalllm.evaluation.prediction.metrics import (
    PREDICTION_METRICS,
    USER_MEANS,
    Cell,
    PairSamples,
    Sums,
    user_means,
    user_sums,
)
from personalllm.evaluation.prediction.reading import assemble_prediction, learner_record, load_prediction, write_cost
from personalllm.evaluation.prediction.results import PredictResults
from personalllm.evaluation.store import DiskStore, Store

RMS = ("rm-a", "rm-b")
UNSEEN = [Cell("unseen", "unseen", "true", shots) for shots in (0, 4, 16)]
CELLS = [*UNSEEN, Cell("unseen", "unseen", "flipped", 16), Cell("seen", "unseen", "true", 16)]
MANIFEST: dict[str, Any] = {
    "protocol": {"track": "predict", "benchmark": "tiny", "seed": 3, "bootstrap_draws": 200},
    "fingerprint": "0123456789abcdef",
    "presets": [{"id": "lore-v1", "changes": [["population.n_users", 500, 60]], "methods": ["lore"]}],
}
LEARNERS = [
    ("good", "learner", 1.2, True),
    ("middling", "learner", 0.9, True),
    ("ranks-only", "learner", 0.9, False),
    ("random", "null", 0.0, True),
    ("true-weights", "oracle", 6.0, True),
]


def sums_of(cell: Cell, skill: float, log_odds: bool) -> Sums:
    """60 unseen and 24 seen users with 20 pairs each; the pairs are the same for every learner."""
    n_users = 60 if cell.users == "unseen" else 24
    rng = np.random.default_rng([cell.shots if cell.history == "true" else 99, n_users, round(skill * 10)])
    pairs = np.random.default_rng(n_users)
    n = n_users * 20
    mean = skill * (1 + cell.shots / 16) * (-1 if cell.history == "flipped" else 1)
    samples = PairSamples(
        n_users=n_users,
        user=np.repeat(np.arange(n_users, dtype=np.int32), 20),
        margin=rng.normal(mean, 1, n).astype(np.float32) * np.float32(skill > 0),
        regret=rng.exponential(1 / (0.1 + skill), n).astype(np.float32),
        tau=np.tanh(rng.normal(mean, 1, n)).astype(np.float32),
        share=pairs.random(n).astype(np.float32),
        longer=pairs.integers(-1, 2, n).astype(np.int8),
        log_odds=log_odds,
    )
    return user_sums(samples, (np.arange(n_users) % 3 == 0).astype(np.int32))


def fill(store: Store, names: list[str] | None = None) -> list[str]:
    keys = []
    for name, kind, skill, log_odds in LEARNERS:
        if names is not None and name not in names:
            continue
        sums = {cell: sums_of(cell, skill, log_odds) for cell in CELLS}
        record, columns = learner_record(sums, RMS, draws=200, seed=3)
        told = {"label": name, "title": name.title(), "spec": {"id": name, "params": {}}, "kind": kind, "paper": ""}
        store.write_done(f"{name}-1", record | told | {"log_odds": log_odds}, columns)
        keys.append(f"{name}-1")
    return keys


@pytest.fixture(scope="module")
def results() -> PredictResults:
    store = Store("0123456789abcdef")
    keys = fill(store)
    return assemble_prediction(store, MANIFEST, keys[::-1], costs={"good-1": (2.0, 0.001)})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run = tmp_path / "0123456789abcdef"
    run.mkdir()
    write_json(run / "manifest.json", MANIFEST)
    store = DiskStore(run, "0123456789abcdef")
    keys = fill(store)
    write_cost(store, "good-1", 2.0, 0.001)
    write_json(run / "leaderboard.json", {"order": keys})
    return run


def test_learners_stand_before_nulls_before_oracles(results: PredictResults) -> None:
    assert [learner.id for learner in results.learners] == [
        *("ranks-only", "middling", "good"),
        *("random", "true-weights"),
    ]
    assert (results["good"].seconds_fit, results["good"].seconds_adapt_per_user) == (2.0, 0.001)
    assert math.isnan(results["random"].seconds_fit)
    assert results.cells == (*UNSEEN, CELLS[3], CELLS[4])
    assert results.headline == Cell("unseen", "unseen", "true", 16)


def test_the_table_has_a_row_for_each_number(results: PredictResults) -> None:
    table = results.table()
    assert table.column_names == [
        *("learner", "kind", "users", "prompts", "history", "shots", "stratum", "metric"),
        *("value", "low", "high", "n_users", "n_pairs"),
    ]
    per_cell = len(PREDICTION_METRICS) + 4 * 2 + len(RMS) * len(USER_MEANS)
    assert len(table) == len(LEARNERS) * len(CELLS) * per_cell
    assert len({tuple(row[name] for name in table.column_names[:8]) for row in table.to_pylist()}) == len(table)
    cell = UNSEEN[1]
    expected = estimate_cell(results["good"].sums[cell], RMS, draws=200, seed=3)
    found = {
        (row["stratum"], row["metric"]): (row["value"], row["low"], row["high"])
        for row in table.to_pylist()
        if (row["learner"], row["users"], row["history"], row["shots"]) == ("good", "unseen", "true", 4)
    }
    assert found == {key: (e.value, e.low, e.high) for key, e in expected.items()}


def test_sizes_are_those_of_the_stratum(results: PredictResults) -> None:
    rows = [row for row in results.table().to_pylist() if row["learner"] == "good" and row["shots"] == 4]
    sizes = {row["stratum"]: (row["n_users"], row["n_pairs"]) for row in rows}
    assert (sizes["all"], sizes["rm:rm-a"], sizes["rm:rm-b"]) == ((60, 1200), (40, 800), (20, 400))
    assert sum(sizes[f"contested-{q}"][1] for q in range(1, 5)) == 1200
    assert sizes["contested-1"][0] <= 60


def test_what_a_rank_only_learner_does_not_know_is_null(results: PredictResults) -> None:
    table = results.table().filter(pc.field("learner") == "ranks-only")
    blank = {row["metric"] for row in table.filter(pc.is_null(table["value"])).to_pylist() if row["stratum"] == "all"}
    assert blank == {"log_loss", "ece", "brier"}
    assert results.reliability("ranks-only", UNSEEN[0]).num_rows == 0


def test_a_curve_goes_through_the_shots(results: PredictResults) -> None:
    curve = results.curve("good", "accuracy", UNSEEN[0])
    assert list(curve) == [0, 4, 16]
    assert curve[16] == results.estimate("good", "accuracy", UNSEEN[2])
    assert list(results.curve("good", "accuracy", CELLS[3])) == [16]
    assert results.curve("good", "tau", UNSEEN[0], stratum="rm:rm-b")[4].value > 0
    assert results.curve("good", "ece", UNSEEN[0], stratum="rm:rm-b") == {}


def test_each_users_own_mean(results: PredictResults) -> None:
    sums = results["good"].sums[UNSEEN[0]]
    np.testing.assert_array_equal(results.per_user("good", UNSEEN[0], "accuracy"), sums["correct"] / np.float32(20))
    assert results.per_user("good", UNSEEN[0], "regret").dtype == np.float32
    assert np.isnan(results.per_user("ranks-only", UNSEEN[0], "log_loss")).all()


def test_reliability_adds_up_to_the_error_of_calibration(results: PredictResults) -> None:
    rows = results.reliability("middling", UNSEEN[2]).to_pylist()
    assert len(rows) == 15
    assert (rows[0]["low"], rows[-1]["high"]) == (0.5, 1.0)
    assert sum(row["n_pairs"] for row in rows) == 1200
    filled = [row for row in rows if row["n_pairs"]]
    assert all(row["low"] - 1e-6 <= row["confidence"] <= row["high"] + 1e-6 for row in filled)
    ece = sum(row["n_pairs"] * abs(row["confidence"] - row["accuracy"]) for row in filled) / 1200
    assert ece == pytest.approx(results.estimate("middling", "ece", UNSEEN[2]).value, abs=1e-6)
    assert {row["accuracy"] for row in results.reliability("random", UNSEEN[0]).to_pylist()} == {0.5, None}


def test_the_best_learner_is_compared_with_all_others(results: PredictResults) -> None:
    cell = UNSEEN[1]
    found = results.comparisons("accuracy", cell)
    assert [(c.a, c.b) for c in found] == [("good", "ranks-only"), ("good", "middling"), ("good", "random")]
    own = {name: user_means(results[name].sums[cell], "accuracy") for name in ("good", *(c.b for c in found))}
    gaps = np.stack([own["good"] - own[c.b] for c in found], axis=1)
    assert [c.p_value for c in found] == sign_flip_p(gaps, seed=3).tolist()
    assert [c.p_holm for c in found] == holm([c.p_value for c in found]).tolist()
    assert found[2].better == "good"
    assert found[2].difference.value == pytest.approx(gaps[:, 2].mean(), abs=1e-6)
    assert found[2].difference.low > 0


def test_a_null_is_not_called_the_best_learner(results: PredictResults) -> None:
    """With labels flipped all learners are worse than a coin; still one of them is compared with the rest."""
    found = results.comparisons("accuracy", CELLS[3])
    best = max(("ranks-only", "middling", "good"), key=lambda n: results.estimate(n, "accuracy", CELLS[3]).value)
    assert {c.a for c in found} == {best}
    assert found[-1].b == found[-1].better == "random"


def test_less_is_better_where_it_is(results: PredictResults) -> None:
    found = results.comparisons("log_loss", UNSEEN[1], versus="random")
    assert [(c.a, c.b) for c in found] == [("random", "middling"), ("random", "good")]
    assert all(c.difference.value > 0 and c.better == c.b for c in found)
    assert {c.a for c in results.comparisons("regret", UNSEEN[1])} == {"good"}


def test_a_difference_that_is_none_has_no_winner(results: PredictResults) -> None:
    (found,) = results.comparisons("accuracy", UNSEEN[1], among=["middling", "ranks-only"])
    assert found.difference.value == 0
    assert (found.p_value, found.p_holm, found.better) == (1.0, 1.0, None)


def test_every_pair_once(results: PredictResults) -> None:
    found = results.comparisons("accuracy", UNSEEN[1], every_pair=True, among=["good", "middling", "true-weights"])
    assert [(c.a, c.b) for c in found] == [
        *(("middling", "good"), ("middling", "true-weights")),
        ("good", "true-weights"),
    ]
    assert [c.better for c in found] == ["good", "true-weights", "true-weights"]


def test_comparisons_within_a_stratum_are_of_its_users(results: PredictResults) -> None:
    found = results.comparisons("accuracy", UNSEEN[1], stratum="rm:rm-b", versus="good")
    own = [user_means(results[name].sums[UNSEEN[1]], "accuracy") for name in ("good", "random")]
    of = np.arange(60) % 3 == 0
    assert found[-1].difference.value == pytest.approx((own[0] - own[1])[of].mean(), abs=1e-6)
    gaps = [own[0] - user_means(results[c.b].sums[UNSEEN[1]], "accuracy") for c in found]
    assert [c.p_value for c in found] == sign_flip_p(np.stack(gaps, axis=1)[of], seed=3).tolist()


@pytest.mark.parametrize(("metric", "stratum"), [("ece", "all"), ("minority", "all"), ("accuracy", "contested-4")])
def test_what_is_no_mean_over_users_has_an_interval_but_no_p(
    results: PredictResults, metric: str, stratum: str
) -> None:
    found = results.comparisons(metric, UNSEEN[1], stratum=stratum, versus="good")[-1]
    one, two = (results[name].sums[UNSEEN[1]] for name in ("good", found.b))
    assert found.difference == cell_difference(one, two, (stratum, metric), RMS, draws=200, seed=3)
    assert math.isnan(found.p_value)
    assert math.isnan(found.p_holm)
    assert found.better is None


def test_a_counterfactual_is_paired_with_the_true_history(results: PredictResults) -> None:
    found = results.change("good", "accuracy", CELLS[3], UNSEEN[2])
    own = [results.per_user("good", cell, "accuracy") for cell in (CELLS[3], UNSEEN[2])]
    assert found.value == pytest.approx(float((own[0] - own[1]).mean(dtype=np.float64)), abs=1e-6)
    assert found.high < 0
    with pytest.raises(
        UserError, match="'seen users, unseen prompts, 16 shots' have not the same users and test pairs"
    ):
        results.change("good", "accuracy", UNSEEN[2], CELLS[4])


def test_the_text_is_short(results: PredictResults) -> None:
    lines = str(results).splitlines()
    assert lines[0] == "tiny, predict track, protocol 0123456789abcdef"
    assert lines[1].startswith("preset lore-v1, changed: population.n_users 500 -> 60")
    assert lines[2] == "unseen users, unseen prompts, 16 shots: accuracy, log-loss"
    assert lines[3].split()[0] == "true-weights"
    assert lines[-1].split()[:4] == ["random", "(null)", "0.500", "[0.500,"]
    assert repr(results) == str(results)


def test_a_folder_gives_the_same_results(results: PredictResults, folder: Path) -> None:
    for given in (folder, folder.parent):
        found = load_prediction(given)
        assert [learner.id for learner in found.learners][:3] == ["good", "middling", "ranks-only"]
        key = [("learner", "ascending"), ("users", "ascending"), ("history", "ascending"), ("shots", "ascending")]
        key += [("stratum", "ascending"), ("metric", "ascending")]
        assert found.table().sort_by(key).equals(results.table().sort_by(key))
        assert (
            found.comparisons("accuracy", UNSEEN[0], versus="good")[-1]
            == (results.comparisons("accuracy", UNSEEN[0], versus="good")[-1])
        )
        assert found["good"].seconds_fit == 2.0
        assert math.isnan(found["middling"].seconds_adapt_per_user)
        assert (found.directory, found.benchmark_name, found.reward_models) == (folder, "tiny", RMS)


def test_the_order_is_the_one_that_was_asked_for(folder: Path) -> None:
    write_json(folder / "leaderboard.json", {"order": ["middling-1", "random-1", "good-1"]})
    assert [learner.id for learner in load_prediction(folder).learners] == [
        *("middling", "good", "ranks-only"),
        *("random", "true-weights"),
    ]


def test_of_two_versions_the_later_asked_for_counts(folder: Path) -> None:
    store = DiskStore(folder, "0123456789abcdef")
    record, columns = learner_record({UNSEEN[0]: sums_of(UNSEEN[0], 0.0, True)}, RMS, draws=200, seed=3)
    told = {"label": "good", "title": "New", "spec": {}, "kind": "learner", "paper": "", "log_odds": True}
    store.write_done("good-2", record | told, columns)
    write_json(folder / "leaderboard.json", {"order": ["good-2", "good-1"]})
    assert load_prediction(folder)["good"].title == "New"
    assert len(load_prediction(folder).learners) == 5


def test_a_damaged_run_is_named(folder: Path) -> None:
    path = folder / "good-1" / "per_user.parquet"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"per_user\.parquet is absent or was altered"):
        load_prediction(folder)


def test_a_lost_note_of_the_cost_is_no_damage(folder: Path) -> None:
    (folder / "good-1" / "cost.json").write_text("{")
    assert math.isnan(load_prediction(folder)["good"].seconds_fit)


def test_other_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no run in"):
        load_prediction(tmp_path)
    write_json(tmp_path / "manifest.json", {"protocol": {"track": "rank"}, "fingerprint": "f"})
    with pytest.raises(UserError, match="is of the rank track"):
        load_prediction(tmp_path)
    write_json(tmp_path / "manifest.json", MANIFEST)
    with pytest.raises(UserError, match=r"No learner of the run in .* is complete"):
        load_prediction(tmp_path)
    write_json(tmp_path / "manifest.json", {})
    with pytest.raises(DataError, match="describes no run"):
        load_prediction(tmp_path)


BAD: list[tuple[str, tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
    ("__getitem__", ("goood",), {}, UnknownName, "Did you mean 'good'"),
    ("estimate", ("good", "speed", UNSEEN[0]), {}, ParameterError, "metric must be one of accuracy of all"),
    ("estimate", ("good", "ece", UNSEEN[0]), {"stratum": "rm:rm-a"}, ParameterError, "got 'ece of rm:rm-a'"),
    ("per_user", ("good", Cell("seen", "seen", "true", 0), "tau"), {}, ParameterError, "cell must be one of those of"),
    ("per_user", ("good", UNSEEN[0], "ece"), {}, ParameterError, "metric must be one of accuracy, log_loss"),
    ("comparisons", ("speed", UNSEEN[0]), {}, ParameterError, "metric must be one of accuracy, log_loss, ece"),
    ("comparisons", ("accuracy", UNSEEN[0]), {"versus": "nobody"}, UnknownName, "nobody"),
    ("comparisons", ("accuracy", UNSEEN[0]), {"among": ["nobody"]}, UnknownName, "nobody"),
    ("reliability", ("good", Cell("seen", "seen", "true", 0)), {}, ParameterError, "cell must be one of those of"),
]


@pytest.mark.parametrize(("method", "args", "named", "kind", "message"), BAD)
def test_what_is_not_there_is_named(
    results: PredictResults,
    method: str,
    args: tuple[Any, ...],
    named: dict[str, Any],
    kind: type[Exception],
    message: str,
) -> None:
    with pytest.raises(kind, match=message):
        getattr(results, method)(*args, **named)


def test_the_table_is_arrow(results: PredictResults) -> None:
    schema = results.table().schema
    assert schema.field("shots").type == pa.int64()
    assert schema.field("value").type == pa.float64()
    assert schema.field("stratum").type == pa.string()
