"""Results of any track: the table, curves, paired comparisons, texts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
from measured import sums_of

from personalllm.core.errors import ParameterError, UnknownName, UserError
from personalllm.evaluation import Condition, MethodResult, Results
from personalllm.evaluation.contract import Sums
from personalllm.evaluation.estimates import estimate
from personalllm.evaluation.measures import PairAnswers
from personalllm.evaluation.metrics import PAIR_METRICS

GROUPS = ("rm:a", "rm:b")
UNSEEN = [Condition(shots=shots) for shots in (0, 4, 16)]
FLIPPED = Condition(history="flipped", shots=16)
CONDITIONS = (*UNSEEN, FLIPPED, Condition("seen", shots=16))
METHODS: list[tuple[str, Any, float, bool]] = [
    ("ranks-only", "method", 0.9, False),
    ("middling", "method", 0.9, True),
    ("good", "method", 1.2, True),
    ("random", "baseline", 0.0, True),
    ("true-weights", "oracle", 6.0, True),
]


def sums_under(condition: Condition, skill: float, *, log_odds: bool) -> Sums:
    """60 unseen and 24 seen users with 20 pairs each; the pairs are the same for every method."""
    n_users = 60 if condition.users == "unseen" else 24
    n, flipped = n_users * 20, condition.history == "flipped"
    rng = np.random.default_rng([99 if flipped else condition.shots, n_users, round(skill * 10)])
    pairs = np.random.default_rng(n_users)
    mean = skill * (1 + condition.shots / 16) * (-1 if flipped else 1)
    answers = PairAnswers(
        n_clusters=n_users,
        cluster=np.repeat(np.arange(n_users, dtype=np.int32), 20),
        margin=rng.normal(mean, 1, n).astype(np.float32) * np.float32(skill > 0),
        regret=rng.exponential(1 / (0.1 + skill), n).astype(np.float32),
        tau=np.tanh(rng.normal(mean, 1, n)).astype(np.float32),
        share=pairs.random(n).astype(np.float32),
        longer=pairs.integers(-1, 2, n).astype(np.int8),
        log_odds=log_odds,
    )
    return sums_of(answers, (np.arange(n_users) % 3 == 0).astype(np.int32), GROUPS)


def result(label: str, kind: Any, skill: float, *, log_odds: bool) -> MethodResult:
    sums = {condition: sums_under(condition, skill, log_odds=log_odds) for condition in CONDITIONS}
    estimates = {
        condition: estimate(of, PAIR_METRICS, over="users", draws=200, seed=3) for condition, of in sums.items()
    }
    return MethodResult(label, label.title(), kind, {"id": label, "params": {}}, sums, estimates, log_odds=log_odds)


@pytest.fixture(scope="module")
def results() -> Results:
    return Results(
        protocol={"track": "predict", "benchmark": "tiny", "seed": 3, "intervals": "users", "bootstrap_draws": 200},
        fingerprint="0123456789abcdef",
        track="predict",
        methods=tuple(result(*row[:3], log_odds=row[3]) for row in METHODS),
        metrics=PAIR_METRICS,
        main_metric="accuracy",
        conditions=CONDITIONS,
        manifest={"presets": [{"id": "lore-v1", "changes": [["population.n_users", 500, 60]], "methods": ["good"]}]},
    )


def test_the_headline_is_the_most_shots_of_unseen_users_with_their_own_history(results: Results) -> None:
    assert results.headline == Condition("unseen", "unseen", "true", 16)
    assert results.estimate("good", "accuracy") == results.estimate("good", "accuracy", UNSEEN[2])


def test_the_table_has_a_row_for_each_number(results: Results) -> None:
    table = results.table()
    assert table.column_names == [
        *("method", "kind", "users", "prompts", "history", "shots", "stratum", "metric"),
        *("value", "low", "high", "intervals", "n_users", "n_pairs"),
    ]
    n_means = sum(metric.is_mean for metric in PAIR_METRICS)
    per_condition = len(PAIR_METRICS) + 4 * 2 + len(GROUPS) * n_means
    assert len(table) == len(METHODS) * len(CONDITIONS) * per_condition
    assert len({tuple(row[name] for name in table.column_names[:8]) for row in table.to_pylist()}) == len(table)
    rows = {
        (row["stratum"], row["metric"]): (row["value"], row["low"], row["high"], row["n_users"], row["n_pairs"])
        for row in table.to_pylist()
        if (row["method"], row["users"], row["history"], row["shots"]) == ("good", "unseen", "true", 4)
    }
    estimates = results["good"].estimates[UNSEEN[1]]
    expected = {key: (e.value, e.low, e.high) for key, e in estimates.items() if key != ("all", "ps")}
    assert rows.pop(("all", "ps"))[:3] == (None, None, None)
    assert {key: row[:3] for key, row in rows.items()} == expected
    assert rows["all", "tau"][3:] == (60, 1200)
    assert rows["rm:b", "tau"][3:] == (20, 400)


def test_what_is_undefined_is_null(results: Results) -> None:
    table = results.table().filter(pc.field("method") == "ranks-only")
    blank = {row["metric"] for row in table.filter(pc.is_null(table["value"])).to_pylist() if row["stratum"] == "all"}
    assert blank == {"ps", "log_loss", "ece", "brier"}


def test_a_curve_goes_through_the_shots(results: Results) -> None:
    curve = results.curve("good", "accuracy", UNSEEN[0])
    assert list(curve) == [0, 4, 16]
    assert curve[16] == results.estimate("good", "accuracy", UNSEEN[2])
    assert list(results.curve("good", "accuracy", FLIPPED)) == [16]
    assert results.curve("good", "tau", stratum="rm:b")[4].value > 0
    assert results.curve("good", "ece", stratum="rm:b") == {}


def test_each_users_own_mean(results: Results) -> None:
    columns = results.sums("good", UNSEEN[0]).columns
    np.testing.assert_array_equal(results.per_user("good", "accuracy", UNSEEN[0]), columns["correct"] / np.float32(20))
    assert results.per_user("good", "regret").dtype == np.float32
    assert np.isnan(results.per_user("ranks-only", "log_loss")).all()


def test_draws_are_those_behind_the_interval(results: Results) -> None:
    draws = results.draws("good", "accuracy")
    assert draws.shape == (200,)
    e = results.estimate("good", "accuracy")
    assert (e.low, e.high) == tuple(np.quantile(draws, (0.025, 0.975)))


def test_the_best_method_is_compared_with_all_others_but_oracles(results: Results) -> None:
    compared = results.comparisons("accuracy", UNSEEN[1])
    assert [(c.a, c.b) for c in compared] == [("good", "ranks-only"), ("good", "middling"), ("good", "random")]
    assert compared == results.comparisons(at=UNSEEN[1])
    assert [(c.a, c.b) for c in results.comparisons("log_loss", UNSEEN[1], "random")] == [
        ("random", "middling"),
        ("random", "good"),
    ]
    assert {c.a for c in results.comparisons("regret", UNSEEN[1])} == {"good"}


def test_a_baseline_is_not_called_the_best_method(results: Results) -> None:
    """With labels flipped all methods are worse than a coin; still one of them is compared with the rest."""
    compared = results.comparisons("accuracy", FLIPPED)
    best = max(("ranks-only", "middling", "good"), key=lambda name: results.estimate(name, "accuracy", FLIPPED).value)
    assert {c.a for c in compared} == {best}
    assert compared[-1].b == compared[-1].better == "random"


def test_every_pair_once(results: Results) -> None:
    names = ["good", "middling", "true-weights"]
    compared = results.comparisons("accuracy", UNSEEN[1], every_pair=True, among=names)
    assert [(c.a, c.b) for c in compared] == [
        *(("middling", "good"), ("middling", "true-weights")),
        ("good", "true-weights"),
    ]
    assert [c.better for c in compared] == ["good", "true-weights", "true-weights"]


def test_a_counterfactual_is_paired_with_the_true_history(results: Results) -> None:
    change = results.change("good", "accuracy", FLIPPED, UNSEEN[2])
    flipped, true = (results.per_user("good", "accuracy", at) for at in (FLIPPED, UNSEEN[2]))
    assert change.value == pytest.approx(float((flipped - true).mean(dtype=np.float64)), abs=1e-6)
    assert change.high < 0
    with pytest.raises(UserError, match="16 shots' do not have the same users and test pairs"):
        results.change("good", "accuracy", UNSEEN[2], CONDITIONS[4])


def test_the_leaderboard_has_the_best_first(results: Results) -> None:
    assert [row.label for row in results.leaderboard()][::4] == ["true-weights", "random"]
    by_loss = [row.label for row in results.leaderboard("log_loss")]
    assert (by_loss[0], by_loss[-1]) == ("true-weights", "ranks-only")


def test_the_text_is_short(results: Results) -> None:
    lines = str(results).splitlines()
    assert lines[0] == "tiny, predict track, protocol 0123456789abcdef"
    assert lines[1].startswith("preset lore-v1, changed: population.n_users 500 -> 60")
    assert "beside the preset's own methods: ranks-only, middling" in lines[1]
    assert lines[2] == "unseen users, unseen prompts, 16 shots"
    assert lines[3] == "95 % intervals over users."
    assert lines[4].split()[0] == "true-weights"
    assert lines[-1].split()[:5] == ["random", "(baseline)", "accuracy", "0.500", "[0.500,"]
    assert repr(results) == str(results)
    assert "nan" not in str(results)


def test_the_notebook_table_escapes_every_text(results: Results) -> None:
    html = results._repr_html_()
    assert html.count("<tr>") == 1 + len(METHODS)
    assert "<th>good</th>" in html
    hostile = Results(
        protocol={"benchmark": "<script>", "seed": 0, "intervals": "users", "bootstrap_draws": 100},
        fingerprint="f",
        track="predict",
        methods=results.methods,
        metrics=PAIR_METRICS,
        main_metric="accuracy",
        conditions=CONDITIONS,
    )
    assert "<script>" not in hostile._repr_html_()


def test_a_pandas_table_is_the_table(results: Results) -> None:
    pandas = pytest.importorskip("pandas")
    frame = results.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.columns) == results.table().column_names
    assert math.isnan(frame[(frame.method == "ranks-only") & (frame.metric == "ece")].value.iloc[0])


def test_unknown_names_are_named(results: Results) -> None:
    with pytest.raises(UnknownName, match="good"):
        results["goood"]
    with pytest.raises(UnknownName, match="accuracy"):
        results.comparisons("acuracy")
    with pytest.raises(UnknownName, match="middling"):
        results.comparisons(among=["midling"])
    with pytest.raises(
        ParameterError, match=r"at must be a condition of 'good' \(unseen users, unseen prompts, 0 shots;"
    ):
        results.estimate("good", "accuracy", Condition(shots=7))
    with pytest.raises(ParameterError, match=r"stratum must be one in which ece is known \(all\), got 'rm:a'"):
        results.estimate("good", "ece", stratum="rm:a")
    with pytest.raises(ParameterError, match="metric must be one that is a mean over users, got 'ece'"):
        results.per_user("good", "ece")


def test_conditions_are_json() -> None:
    condition = Condition("unseen", "seen", "flipped", 4)
    assert Condition.from_spec(condition.spec()) == condition
    assert str(condition) == "unseen users, seen prompts, flipped history, 4 shots"


def test_nothing_is_compared_with_a_method_without_the_metric(results: Results) -> None:
    with pytest.raises(UserError, match=r"log_loss is not defined for 'ranks-only', so nothing .* Choose another"):
        results.comparisons("log_loss", versus="ranks-only")
