"""The two-way clustered estimator: what it computes, whether it covers, where it gives no interval."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
from scipy.stats import t as student

from personalllm.core.crossed import N_BUCKETS, Mean, hashed_cells, ratio_interval, weighted_mean
from personalllm.evaluation.contract import Metric, Sums
from personalllm.evaluation.estimates import difference, estimate, resample
from personalllm.evaluation.means import shortage
from personalllm.evaluation.measures import crossed

BOTH = "users and prompts"
LEVEL = Metric("level", "Level", "sd", higher_is_better=True, top={"a": 1.0})
SHARE = Metric("share", "Share", "ratio", True, {"a": 1.0, "zero": -1.0}, {"one": 1.0, "zero": -1.0})


def summed(user: np.ndarray, prompt: np.ndarray, **columns: np.ndarray) -> Sums:
    """Return the sums of answers, each user's as means."""
    n = np.bincount(user)
    means = {name: (np.bincount(user, column) / n).astype(np.float32) for name, column in columns.items()}
    return Sums(means, "users", "same", (), *crossed(user, prompt, columns))


def table(n_users: int, n_prompts: int) -> tuple[np.ndarray, np.ndarray]:
    user, prompt = (index.ravel().astype(np.int32) for index in np.indices((n_users, n_prompts)))
    return user, prompt


def left_out(values: np.ndarray, weights: np.ndarray, axis: int) -> float:
    """Return the jackknife variance of a weighted mean, by leaving out each cluster in turn."""
    n = values.shape[axis]
    means = [(np.delete(values * weights, c, axis).sum()) / np.delete(weights, c, axis).sum() for c in range(n)]
    mean = (values * weights).sum() / weights.sum()
    return (n - 1) / n * float(sum((m - mean) ** 2 for m in means))


def test_the_sides_are_jackknife_variances_and_the_cells_their_sum_of_squares() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 12)) + rng.normal(size=(40, 1)) + rng.normal(size=12)
    user, prompt = table(40, 12)
    (level,) = estimate(summed(user, prompt, a=values.ravel()), [LEVEL]).values()
    weights = np.ones_like(values)
    sides = [left_out(values, weights, axis) for axis in (0, 1)]
    cells = float(((values - values.mean()) ** 2).sum()) / values.size**2
    half = student.ppf(0.975, 11) * math.sqrt(sides[0] + sides[1] - cells)
    assert level.value == pytest.approx(values.mean(), abs=1e-7)
    # 480 cells in 4,096 buckets: some share one
    assert (level.low, level.high) == pytest.approx((level.value - half, level.value + half), abs=0.01 * half)
    (fixed,) = estimate(summed(user, prompt, a=values.ravel()), [LEVEL], over="prompts").values()
    assert fixed.high - fixed.value == pytest.approx(student.ppf(0.975, 11) * math.sqrt(sides[1]), rel=1e-5)


def test_users_weigh_the_same_however_many_answers_they_gave() -> None:
    rng = np.random.default_rng(1)
    user = np.repeat(np.arange(60), rng.integers(1, 30, 60)).astype(np.int32)
    prompt = rng.integers(0, 40, len(user)).astype(np.int32)
    values = rng.normal(size=len(user))
    (level,) = estimate(summed(user, prompt, a=values), [LEVEL]).values()
    assert level.value == pytest.approx(np.mean([values[user == u].mean() for u in range(60)]), abs=1e-7)
    prompts = np.bincount(prompt, (1 / np.bincount(user))[user] * (values - level.value))
    share = np.bincount(prompt, (1 / np.bincount(user))[user]) / 60
    variance = float(((prompts / 60 / (1 - share)) ** 2).sum()) * (len(share) - 1) / len(share)
    (fixed,) = estimate(summed(user, prompt, a=values), [LEVEL], over="prompts").values()
    df = 1 / float(share @ share) - 1
    assert fixed.high - fixed.value == pytest.approx(student.ppf(0.975, df) * math.sqrt(variance), rel=1e-4)


def test_shards_add_up() -> None:
    """What is kept of users, prompts and cells of two shards of users is the sum of what is kept of each."""
    rng = np.random.default_rng(2)
    user, prompt = table(30, 15)
    values = rng.normal(size=len(user))
    whole = summed(user, prompt, a=values)
    parts = [crossed(user[rows], prompt[rows], {"a": values[rows]}) for rows in (user < 11, user >= 11)]
    for side, name in ((0, "prompts"), (1, "cells")):
        for column, total in getattr(whole, name).items():
            np.testing.assert_allclose(parts[0][side][column] + parts[1][side][column], total, atol=1e-5)


def test_answers_of_one_cell_share_bucket_and_sign_and_buckets_fill_evenly() -> None:
    user, prompt = table(300, 200)
    bucket, sign = hashed_cells(user, prompt)
    assert all(np.array_equal(a, b) for a, b in zip((bucket, sign), hashed_cells(user, prompt), strict=True))
    counts = np.bincount(bucket, minlength=N_BUCKETS)
    assert len(counts) == N_BUCKETS
    assert counts.var() == pytest.approx(counts.mean(), rel=0.15)
    assert abs(sign.mean()) < 0.02


def normal_world(rng: np.random.Generator, n_users: int, n_prompts: int) -> Iterator[np.ndarray]:
    """Yield the answers of four methods of mean 1 with effects of users, prompts and cells, and a zero and a one."""
    shape, taste = (n_users, n_prompts), rng.normal(size=(n_users, 1))
    room = rng.normal(1, 0.3, n_prompts)
    for spread in (1.0, 1.0, 0.0, 0.0):
        own = spread * (rng.normal(0, 0.5, (n_users, 1)) + rng.normal(0, 0.5, n_prompts))
        yield (1 + taste + room - 1 + own + rng.normal(0, 0.5, shape)).ravel()
    yield np.broadcast_to(taste, shape).ravel()
    yield (taste + 2 * room).ravel()


def test_intervals_cover_and_equal_methods_are_not_called_different() -> None:
    """A small version of benchmarks/bench_intervals.py; intervals over users alone fail it by far."""
    covered = {"level": 0, "share": 0, "users": 0}
    false = {"effects": 0, "cells": 0}
    n_runs = 200
    for seed in range(n_runs):
        rng = np.random.default_rng(seed)
        a, b, c, d, zero, one = normal_world(rng, 60, 20)
        sums = [summed(*table(60, 20), a=values, zero=zero, one=one) for values in (a, b, c, d)]
        level, share = (estimate(sums[0], [metric])["all", metric.id] for metric in (LEVEL, SHARE))
        covered["level"] += level.low <= 1 <= level.high
        covered["share"] += share.low <= 0.5 <= share.high
        alone = estimate(sums[0], [LEVEL], over="users", draws=100, seed=seed)["all", "level"]
        covered["users"] += alone.low <= 1 <= alone.high
        for name, pair in (("effects", sums[:2]), ("cells", sums[2:])):
            false[name] += difference(*pair, LEVEL, draws=1, seed=0)[1] <= 0.05
    assert covered["level"] >= 0.90 * n_runs
    assert covered["share"] >= 0.90 * n_runs
    assert covered["users"] < 0.88 * n_runs
    assert max(false.values()) <= 0.09 * n_runs


def test_one_prompt_for_each_user_needs_no_special_case() -> None:
    rng = np.random.default_rng(3)
    prompt = rng.integers(0, 50, 400).astype(np.int32)
    values = rng.normal(size=400) + rng.normal(size=50)[prompt]
    (level,) = estimate(summed(np.arange(400, dtype=np.int32), prompt, a=values), [LEVEL]).values()
    by_prompt = np.bincount(prompt, values - values.mean()) / 400 / (1 - np.bincount(prompt) / 400)
    assert (level.high - level.low) / 2 >= 1.96 * math.sqrt(float(by_prompt @ by_prompt) * 0.97)


def test_fiellers_interval_is_where_the_numerator_of_a_test_is_not_rejected() -> None:
    rng = np.random.default_rng(4)
    user, prompt = table(50, 30)
    zero, one = rng.normal(size=(2, len(user)))
    sums = summed(user, prompt, a=zero + 0.4 * (one + 2) + rng.normal(size=len(user)), zero=zero, one=zero + one + 2)
    share = estimate(sums, [SHARE])["all", "share"]
    assert share.low < 0.4 < share.high

    def p_value(ratio: float) -> float:
        gap = {"a": 1.0, "zero": ratio - 1.0, "one": -ratio}
        metric = dataclasses.replace(LEVEL, top=gap)
        rest = summed(user, prompt, a=0 * zero, zero=0 * zero, one=0 * zero)
        return difference(sums, rest, metric, draws=1, seed=0)[1]

    assert [p_value(end) for end in (share.low, share.high)] == pytest.approx([0.05, 0.05], abs=2e-3)


def mean(value: float, users: np.ndarray, prompts: np.ndarray) -> Mean:
    return Mean(value, users, prompts, np.zeros(N_BUCKETS), 50, 50, 49, 49)


def test_no_ratio_where_the_room_may_be_zero() -> None:
    rng = np.random.default_rng(5)
    top, bottom = (mean(1.0, *rng.normal(0, sd, (2, 50))) for sd in (0.01, 0.1))
    assert all(map(math.isnan, ratio_interval(top, bottom)))
    assert all(map(math.isnan, ratio_interval(top, top * -1.0)))
    assert all(map(math.isfinite, ratio_interval(bottom, top)))
    exact = mean(2.0, np.zeros(50), np.zeros(50))
    assert ratio_interval(exact * 0.5, exact) == (0.5, 0.5)


def test_nothing_varies() -> None:
    still = weighted_mean((np.ones(40), np.ones(40)), (np.full(20, 2.0), np.full(20, 2.0)))
    assert still.interval() == (1.0, 1.0)
    assert still.p_value() == 0.0
    assert (still - still).p_value() == 1.0


SIZES = [
    (40, 9, "No intervals and no verdicts: the number of prompts is 9, below 10.", (False, False)),
    (9, 40, "No intervals and no verdicts: the number of users is 9, below 30 (10 for differences).", (False, False)),
    (29, 40, "No intervals but those of differences: the number of users is 29, below 30.", (False, True)),
    (30, 10, "", (True, True)),
]


@pytest.mark.parametrize(("n_users", "n_prompts", "why", "known"), SIZES)
def test_too_few_users_or_prompts_have_no_interval(
    n_users: int, n_prompts: int, why: str, known: tuple[bool, bool]
) -> None:
    rng = np.random.default_rng(6)
    user, prompt = table(n_users, n_prompts)
    first, second = (summed(user, prompt, a=rng.normal(size=len(user))) for _ in range(2))
    assert shortage(first, BOTH) == why
    (level,) = estimate(first, [LEVEL]).values()
    gap, p_value = difference(first, second, LEVEL, draws=1, seed=0)
    assert (math.isfinite(level.low), math.isfinite(gap.low)) == known
    assert math.isfinite(p_value) == known[1]
    assert math.isfinite(level.value)
    assert shortage(first, "users") == ""


def test_few_fixed_users_have_intervals_over_prompts() -> None:
    user, prompt = table(4, 40)
    sums = summed(user, prompt, a=np.random.default_rng(7).normal(size=len(user)))
    assert shortage(sums, "prompts") == ""
    (level,) = estimate(sums, [LEVEL], over="prompts").values()
    assert level.low < level.value < level.high


def test_a_track_without_sums_by_prompt_says_so() -> None:
    sums = Sums({"a": np.ones(50, np.float32)})
    assert "does not add up answers by prompt" in shortage(sums, BOTH)
    (level,) = estimate(sums, [LEVEL]).values()
    assert math.isnan(level.low)


def test_draws_have_the_spread_of_both_sides_and_are_paired() -> None:
    rng = np.random.default_rng(8)
    user, prompt = table(50, 40)
    one = rng.normal(size=(50, 1)) + rng.normal(size=40)
    sums = [summed(user, prompt, a=(one + shift).ravel()) for shift in (0.0, 0.5)]
    drawn = [resample(of, LEVEL, draws=4000, seed=1) for of in sums]
    level = estimate(sums[0], [LEVEL])["all", "level"]
    assert drawn[0].std() == pytest.approx((level.high - level.low) / 2 / student.ppf(0.975, 39), rel=0.06)
    np.testing.assert_allclose(drawn[1] - drawn[0], 0.5, atol=1e-5)


def test_order_of_answers_changes_nothing_but_rounding() -> None:
    rng = np.random.default_rng(9)
    user, prompt = table(40, 25)
    values, order = rng.normal(size=len(user)), rng.permutation(len(user))
    one, other = (
        estimate(summed(user[rows], prompt[rows], a=values[rows]), [LEVEL])["all", "level"]
        for rows in (np.arange(len(user)), order)
    )
    for a, b in itertools.zip_longest(dataclasses.astuple(one), dataclasses.astuple(other)):
        assert a == pytest.approx(b, abs=1e-6)
