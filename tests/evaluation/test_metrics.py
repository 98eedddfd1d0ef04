from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from personalllm.core.errors import AxisMismatch
from personalllm.evaluation import METRICS, wins
from personalllm.evaluation.metrics import differences, draw_metrics, estimate, per_user_means

NUMBERS = st.floats(-50, 50, width=32)


def columns(n_users: int, n_queries: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n_users, n_queries, 5)).astype(np.float32)
    best = values.max(axis=2)
    return {"utility": values[..., 1], "best": best, "population_best": values[..., 0], "reference": values[..., 2]}


def means(n_users: int = 30, n_queries: int = 4, seed: int = 0) -> dict[str, np.ndarray]:
    parts = columns(n_users, n_queries, seed)
    return per_user_means(parts.pop("utility"), **parts)


@given(st.data(), st.integers(1, 40))
def test_win_rates_are_symmetric(data: st.DataObject, n: int) -> None:
    a = data.draw(arrays(np.float32, n, elements=NUMBERS))
    b = data.draw(arrays(np.float32, n, elements=NUMBERS))
    assert np.array_equal(wins(a, b) + wins(b, a), np.ones(n, np.float32))
    assert np.array_equal(wins(a, a), np.full(n, 0.5, np.float32))


def test_per_user_means_follow_their_definitions() -> None:
    parts = columns(3, 2, 1)
    got = per_user_means(parts["utility"], **{k: v for k, v in parts.items() if k != "utility"})
    for user in range(3):
        u, best, reference = parts["utility"][user], parts["best"][user], parts["reference"][user]
        assert got["mean_utility"][user] == pytest.approx(u.mean(), abs=1e-6)
        assert got["regret"][user] == pytest.approx((best - u).mean(), abs=1e-6)
        won = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in zip(u, reference, strict=True)]
        assert got["win_rate_reference"][user] == pytest.approx(np.mean(won))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 60), st.integers(1, 5), st.integers(0, 10_000))
def test_gain_is_one_for_the_oracle_and_zero_for_the_floor(n_users: int, n_queries: int, seed: int) -> None:
    parts = columns(n_users, n_queries, seed)
    given_ = {k: v for k, v in parts.items() if k != "utility"}
    for name, expected in (("best", 1.0), ("population_best", 0.0)):
        per_user = per_user_means(parts[name], **given_)
        gain = estimate(per_user, draw_metrics(per_user, draws=100, seed=seed))["gain"]
        if math.isnan(gain.value):
            assert np.array_equal(per_user["oracle_utility"], per_user["population_best_utility"])
        else:
            assert (gain.value, gain.low, gain.high) == (expected, expected, expected)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 200), st.integers(0, 10_000), st.randoms(use_true_random=False))
def test_permuting_users_leaves_the_metrics_unchanged(n_users: int, seed: int, random: object) -> None:
    per_user = means(n_users, 3, seed)
    order = list(range(n_users))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = {name: column[order] for name, column in per_user.items()}
    for name, value in estimate(per_user, draw_metrics(per_user, draws=100, seed=0)).items():
        other = estimate(shuffled, draw_metrics(shuffled, draws=100, seed=0))[name]
        assert value.value == other.value or (math.isnan(value.value) and math.isnan(other.value))


def test_intervals_hardly_depend_on_the_order_of_users() -> None:
    per_user = means(400, 3, 5)
    reversed_ = {name: column[::-1] for name, column in per_user.items()}
    one = estimate(per_user, draw_metrics(per_user, draws=4000, seed=0))
    other = estimate(reversed_, draw_metrics(reversed_, draws=4000, seed=0))
    for name in METRICS:
        width = one[name].high - one[name].low
        assert one[name].low == pytest.approx(other[name].low, abs=0.15 * width)
        assert one[name].high == pytest.approx(other[name].high, abs=0.15 * width)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        utility = rng.normal(1.0, 2.0, (60, 1)).astype(np.float32)
        zeros = np.zeros_like(utility)
        per_user = per_user_means(utility, best=zeros + 9, population_best=zeros, reference=zeros)
        found = estimate(per_user, draw_metrics(per_user, draws=300, seed=seed))["mean_utility"]
        covered += found.low <= 1.0 <= found.high
    assert 0.90 <= covered / 300 <= 0.98


def test_the_mean_interval_agrees_with_the_normal_one() -> None:
    per_user = means(500, 3, 3)
    found = estimate(per_user, draw_metrics(per_user, draws=8000, seed=1))["mean_utility"]
    column = per_user["mean_utility"].astype(np.float64)
    half = 1.96 * column.std() / np.sqrt(len(column))
    assert found.low == pytest.approx(column.mean() - half, abs=0.08 * half)
    assert found.high == pytest.approx(column.mean() + half, abs=0.08 * half)


def test_blocks_of_draws_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("personalllm.evaluation.metrics._BLOCK", 70)
    per_user = means(30)
    draws = draw_metrics(per_user, draws=101, seed=0)
    assert all(np.isfinite(values).all() and len(values) == 101 for values in draws.values())
    assert len(np.unique(draws["mean_utility"])) > 90


def test_differences_are_paired_by_user() -> None:
    parts = columns(200, 1, 0)
    given_ = {k: v for k, v in parts.items() if k != "utility"}
    mine = per_user_means(parts["utility"], **given_)
    better = per_user_means(parts["utility"] + np.float32(0.01), **given_)
    draws = [draw_metrics(side, draws=500, seed=0) for side in (better, mine)]
    found = differences(better, draws[0], mine, draws[1])["mean_utility"]
    assert found.value == pytest.approx(0.01, abs=1e-4)
    assert 0.009 < found.low <= found.high < 0.011
    same = differences(mine, draws[1], mine, draws[1])
    assert all((e.value, e.low, e.high) == (0, 0, 0) for e in same.values())


def test_no_room_above_the_floor_gives_an_undefined_gain() -> None:
    ones = np.ones((5, 2), np.float32)
    per_user = per_user_means(ones, best=ones, population_best=ones, reference=ones)
    found = estimate(per_user, draw_metrics(per_user, draws=100, seed=0))
    assert math.isnan(found["gain"].value)
    assert math.isnan(found["gain"].low)
    assert found["win_rate_best"].value == 0.5


def test_unequal_shapes_are_refused() -> None:
    ones = np.ones((5, 2), np.float32)
    with pytest.raises(AxisMismatch, match="different queries"):
        per_user_means(ones, best=ones[:4], population_best=ones, reference=ones)
    a, b = means(10), means(11)
    with pytest.raises(AxisMismatch, match="same users"):
        differences(a, draw_metrics(a, draws=100, seed=0), b, draw_metrics(b, draws=100, seed=0))
