"""Measures against slow computations of the same, pair by pair, and by hand."""

from __future__ import annotations

import math
import statistics
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measured import N_USERS, answers_of
from scipy.stats import kendalltau

from personalllm.core.errors import AxisMismatch, ParameterError
from personalllm.evaluation import measures
from personalllm.evaluation.measures import (
    N_BINS,
    PairAnswers,
    best_of_n_regret,
    choice_columns,
    contested_quarter,
    kendall_tau,
    margins,
    pair_sums,
    pairing_digest,
    reliability,
    wins,
)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 9))
def test_tau_is_scipys(seed: int, n_responses: int) -> None:
    rng = np.random.default_rng(seed)
    preference, utility = (rng.integers(0, 4, (6, n_responses)).astype(np.float32) for _ in range(2))
    expected = [
        kendalltau(a, b).statistic if np.ptp(a) and np.ptp(b) else 0.0 for a, b in zip(preference, utility, strict=True)
    ]
    np.testing.assert_allclose(kendall_tau(preference, utility), expected, atol=1e-6)


def test_tau_of_equal_infinities_is_that_of_ties() -> None:
    preference = np.array([[np.inf, np.inf, 0], [-np.inf, -np.inf, np.inf]], np.float32)
    finite = np.array([[1, 1, 0], [0, 0, 1]], np.float32)
    utility = np.array([[3, 1, 2]] * 2, np.float32)
    assert kendall_tau(preference, utility).tolist() == kendall_tau(finite, utility).tolist()


def test_long_tables_are_cut_into_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    preference, utility = (rng.normal(size=(50, 4)).astype(np.float32) for _ in range(2))
    whole = kendall_tau(preference, utility)
    monkeypatch.setattr(measures, "_TAU_ROWS", 7)
    assert np.array_equal(kendall_tau(preference, utility), whole)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_regret_is_the_mean_over_those_ranked_first(seed: int) -> None:
    rng = np.random.default_rng(seed)
    preference = rng.integers(0, 3, (9, 5)).astype(np.float32)
    utility = rng.normal(size=(9, 5)).astype(np.float32)
    expected = [
        max(u) - statistics.fmean(x for r, x in zip(ranks, u, strict=True) if r == max(ranks))
        for ranks, u in zip(preference.tolist(), utility.tolist(), strict=True)
    ]
    regret = best_of_n_regret(preference, utility)
    np.testing.assert_allclose(regret, expected, atol=1e-5)
    assert (regret >= 0).all()


def test_two_equal_infinities_are_a_tie() -> None:
    preference = np.array([[np.inf, np.inf, -np.inf, -np.inf, 0.5]] * 4, np.float32)
    chosen, rejected = np.array([0, 2, 0, 4]), np.array([1, 3, 2, 3])
    assert margins(preference, chosen, rejected).tolist() == [0, 0, np.inf, np.inf]


def test_the_quarters_of_contest() -> None:
    edges = np.array([0, 0.2499, 0.25, 0.4999, 0.5, 0.7499, 0.75, 1.0], np.float32)
    assert contested_quarter(edges).tolist() == [1, 1, 2, 2, 3, 3, 4, 4]


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.integers(1, 40))
def test_of_two_sides_one_wins(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(-2, 3, n).astype(np.float32) for _ in range(2))
    assert np.all(wins(a, b) + wins(b, a) == 1)
    assert np.array_equal(wins(a, b) == 0.5, a == b)
    assert wins(a, b).dtype == np.float32


def test_choices_are_measured_against_the_standards() -> None:
    rng = np.random.default_rng(1)
    utility, best, floor, reference = (rng.integers(-2, 3, (20, 4)).astype(np.float32) for _ in range(4))
    columns = choice_columns(utility, best=best, population_best=floor, reference=reference)
    assert np.array_equal(columns["utility"], utility)
    assert np.array_equal(columns["regret"], best - utility)
    for name, other in (("win_rate_reference", reference), ("win_rate_best", best)):
        assert np.array_equal(columns[name], np.where(utility > other, 1.0, np.where(utility == other, 0.5, 0.0)))
    for name, of in (("oracle", best), ("population_best", floor), ("reference", reference)):
        assert np.array_equal(columns[f"{name}_utility"], of)


def test_choices_for_other_queries_are_refused() -> None:
    ones = np.ones((5, 2), np.float32)
    with pytest.raises(AxisMismatch, match="different queries"):
        choice_columns(ones, best=ones[:4], population_best=ones, reference=ones)


def test_sums_are_those_of_the_definitions() -> None:
    answers = answers_of(3)
    sums = pair_sums(answers)
    assert answers.share is not None
    assert answers.longer is not None
    for user in range(N_USERS):
        rows = np.flatnonzero(answers.cluster == user)
        p = [1 / (1 + math.exp(-float(answers.margin[i]))) for i in rows]
        right = [1.0 if answers.margin[i] > 0 else 0.0 if answers.margin[i] < 0 else 0.5 for i in rows]
        assert sums["n"][user] == len(rows)
        assert sums["correct"][user] == sum(right)
        assert sums["log_loss"][user] == pytest.approx(-sum(map(math.log, p)), abs=1e-4)
        assert sums["brier"][user] == pytest.approx(sum((1 - q) ** 2 for q in p), abs=1e-4)
        counts = [0] * N_BINS
        for q in p:
            counts[min(int((max(q, 1 - q) - 0.5) * 2 * N_BINS), N_BINS - 1)] += 1
        assert [sums[f"bin{b:02d}_n"][user] for b in range(N_BINS)] == counts
        quarters = contested_quarter(answers.share[rows])
        assert [sums[f"contested{q}_n"][user] for q in range(1, 5)] == [(quarters == q).sum() for q in range(1, 5)]
        longer = answers.longer[rows]
        assert sums["longer_correct"][user] == sum(r for r, sign in zip(right, longer, strict=True) if sign == 1)
        assert sums["shorter_n"][user] == (longer == -1).sum()
    assert all(column.dtype == np.float32 for column in sums.values())


def test_what_is_unknown_is_left_out_and_not_zero() -> None:
    sums = pair_sums(answers_of(0, regret=None, tau=None, share=None, longer=None, log_odds=False))
    assert set(sums) == {"n", "correct"}


def test_sums_do_not_depend_on_the_order_of_the_pairs() -> None:
    """float32 sums would: small losses are lost beside a large one that comes first."""
    loss = np.array([40.0, *[1e-3] * 3000], np.float32)
    cluster = np.zeros(len(loss), np.int32)
    totals = {float(pair_sums(PairAnswers(1, cluster, -order))["log_loss"][0]) for order in (loss, loss[::-1])}
    assert len(totals) == 1


@pytest.mark.parametrize(
    ("margin", "loss", "correct"), [(math.inf, 0.0, 1.0), (-math.inf, 60.0, 0.0), (-1e30, 60.0, 0.0)]
)
def test_a_certain_method_loses_no_more_than_sixty(margin: float, loss: float, correct: float) -> None:
    sums = pair_sums(PairAnswers(1, np.zeros(3, np.int32), np.full(3, margin, np.float32)))
    assert sums["log_loss"].tolist() == pytest.approx([3 * loss], abs=1e-6)
    assert sums["correct"].tolist() == [3 * correct]
    assert sums["bin14_n"].tolist() == [3.0]


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"margin": np.zeros(3, np.float32)}, AxisMismatch, r"900 test pairs but margin of shape \(3,\)"),
    ({"tau": np.zeros((900, 1), np.float32)}, AxisMismatch, r"tau of shape \(900, 1\)"),
    ({"margin": np.full(900, np.nan, np.float32)}, ParameterError, "margin must be without NaN"),
    ({"cluster": np.full(900, 37, np.int32)}, ParameterError, r"cluster must be in \[0, 37\)"),
    ({"cluster": np.full(900, -1, np.int32)}, ParameterError, "cluster must be in"),
]


@pytest.mark.parametrize(("changes", "kind", "message"), BAD)
def test_bad_answers_are_refused(changes: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        answers_of(**changes)


def test_reliability_has_the_means_of_each_bin() -> None:
    margin = np.array([0.0, math.log(3), -math.log(3), 30.0], np.float32)
    rows = reliability(pair_sums(PairAnswers(2, np.array([0, 1, 1, 0], np.int32), margin)))
    assert len(rows) == N_BINS
    assert (rows[0][0], rows[-1][1]) == (0.5, 1.0)
    filled = [row for row in rows if row[2]]
    assert [(n, confidence, accuracy) for _, _, n, confidence, accuracy in filled] == [
        (1, 0.5, 0.5),
        (2, pytest.approx(0.75), 0.5),
        (1, pytest.approx(1.0), 1.0),
    ]
    assert all(low <= confidence <= high + 1e-6 for low, high, _, confidence, _ in filled)
    assert all(math.isnan(row[3]) for row in rows if not row[2])
    assert reliability(pair_sums(PairAnswers(2, np.zeros(4, np.int32), margin, log_odds=False))) == []


def test_pairings_differ_in_users_prompts_and_responses() -> None:
    columns = [np.array([0, 1]), np.array([3, 4]), np.array([1, 2], np.uint8)]
    digests = {pairing_digest(*columns)}
    for index, column in enumerate(columns):
        digests.add(pairing_digest(*columns[:index], column[::-1], *columns[index + 1 :]))
    assert len(digests) == 4
    assert pairing_digest(columns[0].astype(">i8")) == pairing_digest(columns[0].astype("<i8"))
