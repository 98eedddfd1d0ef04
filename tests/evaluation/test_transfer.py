"""Two orders of the same learners: ranks, correlations, and which pairs are clear on both sides."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr

from personalllm.core.errors import UserError
from personalllm.core.seeding import generator
from personalllm.evaluation.prediction.estimates import estimate_cell
from personalllm.evaluation.prediction.metrics import Cell, PairSamples, user_sums
from personalllm.evaluation.prediction.results import LearnerResult, PredictResults
from personalllm.evaluation.prediction.transfer import Transfer


def learner(label: str, kind: str, right: float, n_users: int, shots: tuple[int, ...]) -> LearnerResult:
    """A learner that is right in a share of 40 pairs of each user, the same pairs for every learner."""
    sums = {}
    for k in shots:
        rng = generator(0, "pairs", n_users)
        user = np.repeat(np.arange(n_users, dtype=np.int32), 40)
        margin = (right - rng.random(len(user))).astype(np.float32)
        sums[Cell("unseen", "unseen", "true", k)] = user_sums(PairSamples(n_users=n_users, user=user, margin=margin))
    estimates = {cell: estimate_cell(of, draws=200, seed=0) for cell, of in sums.items()}
    spec = {"id": label, "params": {}}
    return LearnerResult(label, label.title(), spec, kind, "", True, 0.0, 0.0, sums, estimates)  # type: ignore[arg-type]


def side(
    right: Mapping[str, float], n_users: int = 60, shots: tuple[int, ...] = (0, 4), name: str = "side"
) -> PredictResults:
    rows = [learner(label, "learner", share, n_users, shots) for label, share in right.items()]
    rows.append(learner("random", "null", 0.5, n_users, shots))
    return PredictResults({"seed": 0, "bootstrap_draws": 200, "track": "predict"}, "f", name, tuple(rows))


SIMULATED = {"a": 0.9, "b": 0.8, "c": 0.7, "d": 0.6}


def test_the_same_order() -> None:
    transfer = Transfer(side(SIMULATED), side({label: value - 0.05 for label, value in SIMULATED.items()}, 40))
    found = transfer.agreement()
    assert (found.spearman.value, found.kendall.value, found.n_learners, found.shots) == (1.0, 1.0, 4, 4)
    assert found.spearman.low > 0
    orders = transfer.orders()
    assert (orders.same, orders.reversed, orders.total) == (6, 0, 6)
    assert [one.id for one in transfer.standings()] == ["a", "b", "c", "d", "random"]
    assert [one.rank_people for one in transfer.standings()[:4]] == [1, 2, 3, 4]


def test_the_reversed_order() -> None:
    people = side(dict(zip(SIMULATED, sorted(SIMULATED.values()), strict=True)))
    transfer = Transfer(side(SIMULATED), people)
    assert transfer.agreement().spearman.value == -1
    assert transfer.agreement().spearman.high < 0
    orders = transfer.orders()
    assert (orders.same, orders.reversed) == (0, 6)
    assert ("a", "d") in orders.reversals
    assert [(one.id, one.rank_simulated, one.rank_people) for one in transfer.standings()[:4]] == [
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
    values = [
        [part[label].estimates[Cell("unseen", "unseen", "true", 4)]["all", "accuracy"].value for label in a]
        for part in (one, other)
    ]
    assert found.spearman.value == pytest.approx(spearmanr(*values).statistic)
    assert found.kendall.value == pytest.approx(kendalltau(*values).statistic)
    assert found.spearman.low <= found.spearman.value <= found.spearman.high


def test_what_only_one_side_has_is_left_out() -> None:
    transfer = Transfer(side(SIMULATED, shots=(0, 4, 8)), side({"c": 0.6, "a": 0.8}, shots=(0, 4)))
    assert transfer.learners == ("a", "c")
    assert transfer.shots == (0, 4)
    assert math.isnan(transfer.agreement().spearman.value)
    table = transfer.table().to_pydict()
    assert set(table["learner"]) == {"a", "c", "random"}
    assert {rank for rank, kind in zip(table["rank"], table["kind"], strict=True) if kind == "learner"} == {1.0, 2.0}


def test_nothing_in_common() -> None:
    with pytest.raises(UserError, match="no learner in common"):
        Transfer(side(SIMULATED), side({"z": 0.5}))
    with pytest.raises(UserError, match="no number of shots in common"):
        Transfer(side(SIMULATED, shots=(1,)), side(SIMULATED, shots=(2,)))


def test_learners_are_matched_by_their_specs_not_their_labels() -> None:
    people = side(SIMULATED)
    renamed = [dataclasses.replace(one, id="a[x=1]") if one.id == "a" else one for one in people.learners]
    changed = [
        dataclasses.replace(one, spec={"id": "b", "params": {"x": 2}}) if one.id == "b" else one for one in renamed
    ]
    transfer = Transfer(side(SIMULATED), dataclasses.replace(people, learners=tuple(changed)))
    assert transfer.learners == ("a", "c", "d")
    assert "b (other parameters)" in [one.id for one in transfer.people.learners]
