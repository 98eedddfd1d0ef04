"""Estimates and their intervals: which users are resampled, what is shifted, what is undefined."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measured import GROUPS, N_USERS, answers_of, choices_of, groups_of, sums_of

from personalllm.core.errors import AxisMismatch, ParameterError
from personalllm.core.seeding import generator
from personalllm.evaluation import estimates
from personalllm.evaluation.contract import Sums
from personalllm.evaluation.estimates import difference, estimate, resample, stratum_sizes
from personalllm.evaluation.means import user_means
from personalllm.evaluation.measures import PairAnswers
from personalllm.evaluation.metrics import CHOICE_METRICS, PAIR_METRICS, metric_by_id

UTILITY = CHOICE_METRICS[0]


def drawn(sums: Sums, metric: str, stratum: str = "all", *, draws: int = 300, seed: int = 3) -> np.ndarray:
    return resample(sums, metric_by_id(PAIR_METRICS, metric), stratum, over="users", draws=draws, seed=seed)


@pytest.mark.parametrize("n_users", [2, 30, 700])
def test_resamples_are_the_same_users_in_every_track(n_users: int) -> None:
    users = generator(4, "bootstrap", n_users).integers(0, n_users, (300, n_users), dtype=np.int32)
    choices = choices_of(n_users)
    expected = choices.columns["utility"].astype(np.float64)[users].mean(axis=1)
    np.testing.assert_allclose(resample(choices, UTILITY, over="users", draws=300, seed=4), expected, atol=1e-9)
    pairs = sums_of(answers_of(2, n_users, 5000, cluster=np.arange(5000, dtype=np.int32) % n_users))
    own = user_means(pairs, metric_by_id(PAIR_METRICS, "accuracy"))
    np.testing.assert_allclose(drawn(pairs, "accuracy", seed=4), own[users].mean(axis=1), atol=1e-9)


def test_intervals_are_percentiles_and_contain_the_estimate() -> None:
    sums = sums_of(answers_of(3), groups_of())
    found = estimate(sums, PAIR_METRICS, over="users", draws=400, seed=2)
    for stratum, name in (
        ("all", "accuracy"),
        ("all", "length_controlled"),
        ("contested-2", "log_loss"),
        ("rm:a", "tau"),
    ):
        values = drawn(sums, name, stratum, draws=400, seed=2)
        assert (found[stratum, name].low, found[stratum, name].high) == tuple(np.quantile(values, (0.025, 0.975)))
    for metric in PAIR_METRICS:
        e = found["all", metric.id]
        if metric.id == "ps":  # these sums have no anchors to measure it from
            assert math.isnan(e.value)
            continue
        assert e.low <= e.value <= e.high
        if metric.shifted:
            values = drawn(sums, metric.id, draws=400, seed=2)
            shifted = values + (e.value - values.mean())
            assert e.low == pytest.approx(max(0.0, np.quantile(shifted, 0.025)), abs=1e-9)


def test_the_interval_of_an_error_of_calibration_is_not_above_it() -> None:
    """Resampling adds noise to an absolute value: unshifted, the resamples lie above the estimate."""
    rng = np.random.default_rng(0)
    p = rng.uniform(0.5, 1, 4_000)
    sign = np.where(rng.random(4_000) < p, 1, -1)
    margin = (sign * np.log(p / (1 - p))).astype(np.float32)
    sums = sums_of(PairAnswers(200, np.repeat(np.arange(200, dtype=np.int32), 20), margin))
    ece = estimate(sums, PAIR_METRICS, over="users", draws=500)["all", "ece"]
    assert np.quantile(drawn(sums, "ece", draws=500, seed=0), 0.1) > ece.value
    assert 0 <= ece.low < ece.value < ece.high < 0.05


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.permutations(range(12)))
def test_the_order_of_users_and_pairs_changes_no_digit(seed: int, order: list[int]) -> None:
    answers, group, renamed = answers_of(seed, n_users=12, n=200), groups_of(12), np.array(order, np.int32)
    pairs = np.random.default_rng(seed).permutation(200)
    columns = {name: getattr(answers, name)[pairs] for name in ("margin", "regret", "tau", "share", "longer")}
    moved = dataclasses.replace(answers, cluster=renamed[answers.cluster[pairs]], **columns)
    other = np.empty(12, np.int32)
    other[renamed] = group
    one, two = (
        {key: e.value for key, e in estimate(sums_of(a, g), PAIR_METRICS, over="users", draws=100).items()}
        for a, g in ((answers, group), (moved, other))
    )
    assert one.keys() == two.keys()
    exact = [key for key in one if key[0] == "all" and key[1] in ("accuracy", "worst_decile", "minority")]
    assert [one[key] for key in exact] == [two[key] for key in exact]
    assert one == pytest.approx(two, abs=1e-6, nan_ok=True)


def test_intervals_hardly_depend_on_the_order_of_users() -> None:
    sums = choices_of(400)
    turned = dataclasses.replace(sums, columns={name: column[::-1] for name, column in sums.columns.items()})
    one, other = (estimate(side, CHOICE_METRICS, over="users", draws=4000) for side in (sums, turned))
    for key, e in one.items():
        assert e.value == other[key].value
        assert (e.low, e.high) == pytest.approx((other[key].low, other[key].high), abs=0.15 * (e.high - e.low))


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(300):
        utility = np.random.default_rng(seed).normal(1.0, 2.0, (60, 1)).astype(np.float32)
        zeros = np.zeros_like(utility)
        sums = choices_of(60, 1, utility=utility, best=zeros + 9, population_best=zeros, reference=zeros)
        e = estimate(sums, [UTILITY], over="users", draws=300, seed=seed)["all", "utility"]
        covered += e.low <= 1.0 <= e.high
    assert 0.90 <= covered / 300 <= 0.98


def test_the_interval_of_a_mean_agrees_with_the_normal_one() -> None:
    sums = choices_of(500, seed=3)
    e = estimate(sums, [UTILITY], over="users", draws=8000, seed=1)["all", "utility"]
    column = sums.columns["utility"].astype(np.float64)
    half = 1.96 * column.std() / np.sqrt(len(column))
    assert (e.low, e.high) == pytest.approx((column.mean() - half, column.mean() + half), abs=0.08 * half)


def test_blocks_of_resamples_change_no_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = sums_of(answers_of(6), groups_of())
    whole = estimate(sums, PAIR_METRICS, over="users", draws=120)
    monkeypatch.setattr(estimates, "_BLOCK", 5 * N_USERS)
    cut = estimate(sums, PAIR_METRICS, over="users", draws=120)
    assert str(whole) == str(cut)


def test_what_is_unknown_is_undefined() -> None:
    found = estimate(
        sums_of(answers_of(0, regret=None, tau=None, share=None, longer=None, log_odds=False)),
        PAIR_METRICS,
        over="users",
        draws=100,
    )
    assert {stratum for stratum, _ in found} == {"all"}
    assert {name for (_, name), e in found.items() if not math.isnan(e.value)} == {"accuracy", "worst_decile"}
    assert math.isnan(found["all", "log_loss"].low)
    assert math.isnan(found["all", "log_loss"].high)
    nobody = sums_of(PairAnswers(3, np.empty(0, np.int32), np.empty(0, np.float32)))
    assert all(math.isnan(e.value) for e in estimate(nobody, PAIR_METRICS, over="users", draws=100).values())


def test_the_worst_tenth_of_prompts_is_of_no_interest() -> None:
    sums = sums_of(answers_of(1), axis="prompts")
    found = estimate(sums, PAIR_METRICS, over="users", draws=100)
    assert math.isnan(found["all", "worst_decile"].value)
    assert not math.isnan(found["all", "accuracy"].value)


def test_one_user_alone_has_no_interval() -> None:
    found = estimate(choices_of(1), CHOICE_METRICS, over="users", draws=100)
    assert all(math.isnan(e.low) and math.isnan(e.high) for e in found.values())
    assert not math.isnan(found["all", "utility"].value)
    group = np.zeros(N_USERS, np.int32)
    group[4] = 2
    of_one = estimate(sums_of(answers_of(0), group), PAIR_METRICS, over="users", draws=100)["rm:c", "accuracy"]
    assert not math.isnan(of_one.value)
    assert math.isnan(of_one.low)


@pytest.mark.parametrize("key", [("all", "accuracy"), ("all", "ece"), ("all", "minority"), ("contested-4", "accuracy")])
def test_a_difference_is_paired_by_user(key: tuple[str, str]) -> None:
    metric = metric_by_id(PAIR_METRICS, key[1])
    a, b = (sums_of(answers_of(s, cluster=answers_of(0).cluster), groups_of()) for s in (1, 2))
    found, _ = difference(a, b, metric, key[0], over="users", draws=300, seed=3)
    one, two = (drawn(s, key[1], key[0]) for s in (a, b))
    values = [estimate(s, PAIR_METRICS, over="users", draws=100)[key].value for s in (a, b)]
    assert found.value == values[0] - values[1]
    gap = one - two
    shift = found.value - gap.mean() if metric.shifted else 0.0
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(gap + shift, (0.025, 0.975))), abs=1e-9)
    alike, _ = difference(a, a, metric, key[0], over="users", draws=300, seed=3)
    assert (alike.value, alike.low, alike.high) == (0.0, 0.0, 0.0)


def test_a_difference_may_be_negative_and_is_narrow_where_users_agree() -> None:
    sums = choices_of(200, 1)
    worse = dataclasses.replace(
        sums, columns=dict(sums.columns) | {"utility": sums.columns["utility"] - np.float32(0.01)}
    )
    found, _ = difference(worse, sums, UTILITY, over="users", draws=500, seed=0)
    assert found.value == pytest.approx(-0.01, abs=1e-4)
    assert -0.011 < found.low <= found.high < -0.009


def test_other_users_or_pairs_are_not_compared() -> None:
    a, b = (sums_of(answers_of(s)) for s in (1, 2))
    for other in (b, choices_of(N_USERS), dataclasses.replace(a, pairing="other")):
        with pytest.raises(AxisMismatch, match="the same users and test pairs"):
            difference(a, other, metric_by_id(PAIR_METRICS, "accuracy"), over="users", draws=100, seed=0)


def test_an_unknown_stratum_is_named_with_those_there_are() -> None:
    with pytest.raises(ParameterError, match=r"stratum must be one in which accuracy is known \(all, contested-1"):
        resample(
            sums_of(answers_of(0)), metric_by_id(PAIR_METRICS, "accuracy"), "rm:x", over="users", draws=100, seed=0
        )
    with pytest.raises(ParameterError, match=r"in which ece is known \(all\), got 'contested-1'"):
        resample(
            sums_of(answers_of(0)), metric_by_id(PAIR_METRICS, "ece"), "contested-1", over="users", draws=100, seed=0
        )


def test_each_users_own_mean() -> None:
    sums = sums_of(answers_of(4, log_odds=False))
    accuracy = user_means(sums, metric_by_id(PAIR_METRICS, "accuracy"))
    n = sums.columns["n"]
    assert np.isnan(accuracy[n == 0]).all()
    expected = sums.columns["correct"][n > 0] / n[n > 0].astype(np.float64)
    np.testing.assert_array_equal(accuracy[n > 0], expected)
    assert np.isnan(user_means(sums, metric_by_id(PAIR_METRICS, "log_loss"))).all()
    with pytest.raises(ParameterError, match="metric must be one that is a mean over users, got 'ece'"):
        user_means(sums, metric_by_id(PAIR_METRICS, "ece"))


def test_sizes_are_those_of_the_stratum() -> None:
    user = np.repeat(np.arange(60, dtype=np.int32), 20)
    answers = answers_of(0, n_users=61, n=1200, cluster=user)
    sizes = stratum_sizes(sums_of(answers, np.arange(61, dtype=np.int32) % 3 % 2, GROUPS[:2]))
    assert (sizes["all"], sizes["rm:a"], sizes["rm:b"]) == ((60, 1200), (40, 800), (20, 400))
    assert sum(sizes[f"contested-{q}"][1] for q in range(1, 5)) == 1200
    assert stratum_sizes(choices_of(7)) == {"all": (7, 0)}
