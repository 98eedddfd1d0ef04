"""Two orders of the same methods: ranks, correlations, and which pairs are clear on both sides."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr

from personalllm.core.errors import UserError
from personalllm.core.seeding import generator
from personalllm.evaluation.contract import Condition, Sums
from personalllm.evaluation.estimates import estimate
from personalllm.evaluation.measures import PairAnswers, pair_sums
from personalllm.evaluation.metrics import PAIR_METRICS
from personalllm.evaluation.results import MethodResult, Results
from personalllm.evaluation.transfer import Transfer, methods_of
from personalllm.methods import get_method


def method(label: str, kind: Any, right: float, n_users: int, shots: tuple[int, ...]) -> MethodResult:
    """A method that is right in a share of 40 pairs of each user, the same pairs for every method."""
    user = np.repeat(np.arange(n_users, dtype=np.int32), 40)
    margin = (right - generator(0, "pairs", n_users).random(len(user))).astype(np.float32)
    sums = Sums(pair_sums(PairAnswers(n_users, user, margin)))
    estimates = estimate(sums, PAIR_METRICS, over="users", draws=200, seed=0)
    conditions = [Condition(shots=k) for k in shots]
    spec = {"id": label, "params": {}}
    return MethodResult(
        label, label.title(), kind, spec, dict.fromkeys(conditions, sums), dict.fromkeys(conditions, estimates)
    )


def side(right: Mapping[str, float], n_users: int = 60, shots: tuple[int, ...] = (0, 4), name: str = "side") -> Results:
    rows = [method(label, "method", share, n_users, shots) for label, share in right.items()]
    rows.append(method("random", "baseline", 0.5, n_users, shots))
    protocol = {"seed": 0, "intervals": "users", "bootstrap_draws": 200, "track": "predict", "benchmark": name}
    conditions = tuple(Condition(shots=k) for k in shots)
    return Results(protocol, "f", "predict", tuple(rows), PAIR_METRICS, "accuracy", conditions)


SIMULATED = {"a": 0.9, "b": 0.8, "c": 0.7, "d": 0.6}


def test_the_same_order() -> None:
    transfer = Transfer(side(SIMULATED), side({label: value - 0.05 for label, value in SIMULATED.items()}, 40))
    found = transfer.agreement()
    assert (found.spearman.value, found.kendall.value, found.n_methods, found.shots) == (1.0, 1.0, 4, 4)
    assert found.spearman.low > 0
    orders = transfer.orders()
    assert (orders.same, orders.reversed, orders.total) == (6, 0, 6)
    assert [one.label for one in transfer.standings()] == ["a", "b", "c", "d", "random"]
    assert [one.rank_people for one in transfer.standings()[:4]] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "spec",
    [{"id": "mine", "class": "unknown_module:Mine"}, {"id": "unknown_module:Mine"}, {"id": "longest", "class": "m:L"}],
)
def test_a_run_folder_cannot_choose_a_class_to_import(spec: dict[str, Any]) -> None:
    run = side({"a": 0.9})
    rows = tuple(dataclasses.replace(row, spec=spec | {"params": {}}) for row in run.methods)
    with pytest.raises(UserError, match=r"cannot be made again from its folder: .*Evaluate your methods .* yourself"):
        methods_of(dataclasses.replace(run, methods=rows))


def test_the_methods_of_a_run_are_made_again() -> None:
    run = side({"a": 0.9})
    spec = {"id": "embedding-ranker", "params": {"shrinkage": 2.0}}
    rows = tuple(dataclasses.replace(row, spec=spec) for row in run.methods)
    assert methods_of(dataclasses.replace(run, methods=rows)) == [get_method("embedding-ranker", shrinkage=2.0)]


def test_the_reversed_order() -> None:
    people = side(dict(zip(SIMULATED, sorted(SIMULATED.values()), strict=True)))
    transfer = Transfer(side(SIMULATED), people)
    assert transfer.agreement().spearman.value == -1
    assert transfer.agreement().spearman.high < 0
    orders = transfer.orders()
    assert (orders.same, orders.reversed) == (0, 6)
    assert ("a", "d") in orders.reversals
    assert [(one.label, one.rank_simulated, one.rank_people) for one in transfer.standings()[:4]] == [
        ("d", 4, 1),
        ("c", 3, 2),
        ("b", 2, 3),
        ("a", 1, 4),
    ]


def test_people_who_cannot_be_told_apart() -> None:
    people = side(dict.fromkeys(SIMULATED, 0.7))
    transfer = Transfer(side(SIMULATED), people)
    assert math.isnan(transfer.agreement().spearman.value)
    orders = transfer.orders()
    assert (orders.same, orders.reversed, orders.simulated_only, orders.people_only, orders.neither) == (0, 0, 6, 0, 0)
    assert {one.rank_people for one in transfer.standings()[:4]} == {2.5}


def test_a_lower_log_loss_is_better() -> None:
    transfer = Transfer(side(SIMULATED), side(SIMULATED))
    best = transfer.standings("log_loss")[0]
    others = [one.simulated.value for one in transfer.standings("log_loss")[1:4]]
    assert best.rank_simulated == best.rank_people == 1
    assert best.simulated.value < min(others)


def test_correlations_are_those_of_scipy() -> None:
    a = {"a": 0.62, "b": 0.71, "c": 0.55, "d": 0.8, "e": 0.66}
    b = {"a": 0.7, "b": 0.64, "c": 0.58, "d": 0.75, "e": 0.7}
    one, other = side(a), side(b)
    found = Transfer(one, other).agreement()
    values = [[part.estimate(label, "accuracy").value for label in a] for part in (one, other)]
    assert found.spearman.value == pytest.approx(spearmanr(*values).statistic)
    assert found.kendall.value == pytest.approx(kendalltau(*values).statistic)
    assert found.spearman.low <= found.spearman.value <= found.spearman.high


def test_what_only_one_side_has_is_left_out() -> None:
    transfer = Transfer(side(SIMULATED, shots=(0, 4, 8)), side({"c": 0.6, "a": 0.8}, shots=(0, 4)))
    assert transfer.methods == ("a", "c")
    assert transfer.shots == (0, 4)
    assert math.isnan(transfer.agreement().spearman.value)
    table = transfer.table().to_pydict()
    assert set(table["method"]) == {"a", "c", "random"}
    assert {rank for rank, kind in zip(table["rank"], table["kind"], strict=True) if kind == "method"} == {1.0, 2.0}


def test_nothing_in_common() -> None:
    with pytest.raises(UserError, match="no method in common"):
        Transfer(side(SIMULATED), side({"z": 0.5}))
    with pytest.raises(UserError, match="no number of shots in common"):
        Transfer(side(SIMULATED, shots=(1,)), side(SIMULATED, shots=(2,)))


def test_methods_are_matched_by_their_specs_not_their_labels() -> None:
    people = side(SIMULATED)
    renamed = [dataclasses.replace(one, label="a[x=1]") if one.label == "a" else one for one in people.methods]
    changed = [
        dataclasses.replace(one, spec={"id": "b", "params": {"x": 2}}) if one.label == "b" else one for one in renamed
    ]
    transfer = Transfer(side(SIMULATED), dataclasses.replace(people, methods=tuple(changed)))
    assert transfer.methods == ("a", "c", "d")
    assert "b (other parameters)" in [one.label for one in transfer.people.methods]
