"""Paired differences across runs, the share of a gain that survives, sign flips and Holm's correction."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personalllm.core.errors import ParameterError, UserError
from personalllm.data import Benchmark
from personalllm.evaluation import (
    METRICS,
    MethodResult,
    Protocol,
    compare,
    compare_per_user,
    evaluate,
    holm,
    sign_flip_p,
    surviving_share,
)
from personalllm.evaluation.metrics import draw_metrics, estimate

SMALL: dict[str, Any] = {"n_users": 30, "pool_users": 5, "bootstrap_draws": 300}


def result(utility: Any, name: str = "a", **changes: Any) -> MethodResult:
    """A result whose stored policies are the same for any utility."""
    values = np.asarray(utility, np.float32)
    n = len(values)
    per_user = {
        "mean_utility": values,
        "win_rate_reference": np.full(n, 0.5, np.float32),
        "win_rate_best": np.zeros(n, np.float32),
        "regret": np.float32(3) - values,
        "oracle_utility": np.full(n, 3, np.float32),
        "population_best_utility": np.linspace(0, 1, n, dtype=np.float32),
        "reference_utility": np.zeros(n, np.float32),
    }
    metrics = estimate(per_user, draw_metrics(per_user, draws=100, seed=0))
    fields: dict[str, Any] = {"n_users": n, "n_queries": n} | changes
    return MethodResult(
        id=name,
        title=name,
        spec={},
        track="rank",
        kind="method",
        seconds=0.0,
        metrics=metrics,
        versus_reference={},
        per_user=per_user,
        **fields,
    )


def test_two_runs_on_the_same_users_are_paired(benchmark_: Benchmark) -> None:
    one = evaluate(["longest", "random"], Protocol.for_benchmark(benchmark_, **SMALL), benchmark_)
    other = evaluate(["random"], Protocol.for_benchmark(benchmark_, pool_pairs=3, **SMALL), benchmark_)
    assert one.fingerprint != other.fingerprint
    across = compare_per_user(one["longest"], other["random"], seed=0, draws=300)
    assert list(across) == list(METRICS)
    assert across == compare(one, "random")["longest"].versus_reference
    mean = float(
        np.mean(one["longest"].per_user["mean_utility"].astype(float) - other["random"].per_user["mean_utility"])
    )
    assert across["mean_utility"].value == pytest.approx(mean, abs=1e-12)
    back = compare_per_user(other["random"], one["longest"], seed=0, draws=300)["mean_utility"]
    assert back.value == -across["mean_utility"].value
    assert back.low == pytest.approx(-across["mean_utility"].high)


APART: list[tuple[dict[str, Any], str]] = [
    ({"seed": 1}, "utility differs for"),
    ({"n_users": 29}, "30 against 29 users"),
    ({"prompts_per_user": 2}, "240 against 60 queries"),
    ({"alpha": 1.0}, "oracle_utility differs for"),
    ({"reference_response_model": "gamma-1"}, "reference_utility differs for"),
]


@pytest.mark.parametrize(("change", "message"), APART, ids=str)
def test_other_users_or_queries_are_refused(benchmark_: Benchmark, change: dict[str, Any], message: str) -> None:
    base: dict[str, Any] = SMALL | {"reference_response_model": "alpha-1"}
    one = evaluate(["random"], Protocol.for_benchmark(benchmark_, **base), benchmark_)["random"]
    other = evaluate(["random"], Protocol.for_benchmark(benchmark_, **(base | change)), benchmark_)["random"]
    with pytest.raises(UserError, match=f"not evaluated on the same users and queries: .*{message}"):
        compare_per_user(one, other)
    with pytest.raises(UserError, match="not evaluated on the same users"):
        surviving_share(one, one, other)


def test_too_few_draws_are_refused() -> None:
    for call in (lambda: compare_per_user(result([1.0]), result([1.0]), draws=9),):
        with pytest.raises(ParameterError, match="draws must be >= 100, got 9"):
            call()
    with pytest.raises(ParameterError, match="draws must be >= 100, got 9"):
        surviving_share(result([1.0]), result([1.0]), result([1.0]), draws=9)


def test_the_surviving_share_is_the_ratio_of_gains() -> None:
    rng = np.random.default_rng(0)
    zero = rng.normal(size=400)
    noise = rng.normal(size=(2, 400)) * 0.2
    share = surviving_share(
        result(zero + 1 + noise[0], "icl"),
        result(zero + 0.25 + noise[1]),
        result(zero, "zero-shot"),
        seed=1,
        draws=1000,
    )
    assert share.defined
    assert share.note == ""
    assert share.gain.value == pytest.approx(1 + noise[0].mean(), abs=1e-6)
    assert share.remaining.value == pytest.approx(0.25 + noise[1].mean(), abs=1e-6)
    assert share.share.value == pytest.approx(share.remaining.value / share.gain.value)
    assert share.share.low < share.share.value < share.share.high
    assert 0.02 < share.share.high - share.share.low < 0.06
    exact = surviving_share(result(zero + 2), result(zero + 2), result(zero))
    assert (exact.share.value, exact.share.low, exact.share.high) == pytest.approx((1, 1, 1))
    none = surviving_share(result(zero + 2), result(zero), result(zero))
    assert (none.share.value, none.share.low, none.share.high) == pytest.approx((0, 0, 0))


def test_the_pairing_makes_the_interval_narrow() -> None:
    rng = np.random.default_rng(0)
    zero = rng.normal(size=300) * 50
    share = surviving_share(result(zero + 1), result(zero + 0.5), result(zero), draws=500).share
    assert share.high - share.low < 0.01


def test_no_share_of_a_gain_that_is_none() -> None:
    rng = np.random.default_rng(0)
    zero = rng.normal(size=100)
    noise = rng.normal(size=100)
    unclear = surviving_share(result(zero + noise - noise.mean(), "icl"), result(zero), result(zero, "zero-shot"))
    assert not unclear.defined
    assert math.isnan(unclear.share.value)
    assert math.isnan(unclear.share.low)
    assert unclear.gain.low < 0 < unclear.gain.high
    assert "'icl' over 'zero-shot'" in unclear.note
    assert "an interval that covers 0: no share is defined" in unclear.note
    loss = surviving_share(result(zero - 1), result(zero), result(zero))
    assert not loss.defined
    assert "a loss: no share is defined" in loss.note
    assert loss.remaining.value == 0


HOLM: list[tuple[list[float], list[float]]] = [
    ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
    ([0.01, 0.02, 0.03], [0.03, 0.04, 0.04]),
    ([0.5, 0.5], [1.0, 1.0]),
    ([0.04], [0.04]),
    ([0.02, 0.02, 0.02], [0.06, 0.06, 0.06]),
    ([0.0, 1.0], [0.0, 1.0]),
    ([0.0001, 0.9, 0.02, 0.02, 0.6], [0.0005, 1.0, 0.08, 0.08, 1.0]),
    ([], []),
]


@pytest.mark.parametrize(("given_", "expected"), HOLM, ids=str)
def test_holm_against_values_worked_by_hand(given_: list[float], expected: list[float]) -> None:
    assert holm(given_).tolist() == pytest.approx(expected)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_the_p_values_and_bonferroni(p_values: list[float]) -> None:
    corrected = holm(p_values)
    assert np.all(corrected >= np.asarray(p_values))
    assert np.all(corrected <= np.minimum(1, len(p_values) * np.asarray(p_values)) + 1e-15)
    assert np.argsort(corrected, kind="stable").tolist() == sorted(
        range(len(p_values)), key=lambda i: (corrected[i], i)
    )
    assert holm(p_values[::-1]).tolist() == corrected[::-1].tolist()
    order = np.argsort(p_values, kind="stable")
    assert np.all(np.diff(corrected[order]) >= 0)


@pytest.mark.parametrize("bad", [[-0.1], [1.1], [float("nan")], [[0.5]]], ids=str)
def test_holm_refuses_what_is_no_p_value(bad: Any) -> None:
    with pytest.raises(ParameterError, match="p_values must be a column of numbers in"):
        holm(bad)


def test_sign_flips_of_few_users_are_counted_exactly() -> None:
    assert sign_flip_p([[1.0], [2.0], [3.0]]).tolist() == [2 / 8]
    assert sign_flip_p([[1.0], [-2.0], [3.0]]).tolist() == [6 / 8]
    assert sign_flip_p([[0.1]] * 10).tolist() == [2 / 1024]
    assert sign_flip_p([[0.0, 5.0]] * 4).tolist() == [1.0, 2 / 16]
    assert sign_flip_p([[0.1], [0.2], [-0.3]]).tolist() == [1.0]


def test_sign_flips_of_many_users_are_drawn() -> None:
    rng = np.random.default_rng(0)
    effect = np.array([0.0, 0.1, 0.3])
    gaps = rng.normal(size=(300, 3)) + effect
    p = sign_flip_p(gaps, draws=9_999, seed=5)
    assert p.tolist() == sign_flip_p(gaps, draws=9_999, seed=5).tolist()
    assert p.tolist() != sign_flip_p(gaps, draws=9_999, seed=6).tolist()
    z = gaps.mean(0) / (gaps.std(0) / np.sqrt(300))
    normal = [math.erfc(abs(value) / math.sqrt(2)) for value in z]
    assert p[:2] == pytest.approx(normal[:2], abs=0.02)
    assert p[2] == pytest.approx(1 / 10_000)
    assert sign_flip_p(-gaps, draws=9_999, seed=5).tolist() == p.tolist()


def test_sign_flips_keep_their_level() -> None:
    rng = np.random.default_rng(3)
    p = sign_flip_p(rng.standard_t(3, size=(80, 2000)), draws=499, seed=0)
    rejected = float(np.mean(p <= 0.05))
    assert abs(rejected - 0.05) < 4 * math.sqrt(0.05 * 0.95 / 2000)


@pytest.mark.parametrize(
    ("differences", "draws", "message"),
    [([[1.0]], 10, "draws must be >= 99"), ([1.0, 2.0], 999, "an array"), (np.empty((0, 2)), 999, "with a user")],
)
def test_sign_flips_refuse(differences: Any, draws: int, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        sign_flip_p(differences, draws=draws)


def test_a_result_is_compared_with_itself() -> None:
    one = result([0.5, 1.5, 2.0])
    same = compare_per_user(one, dataclasses.replace(one, id="b"))["mean_utility"]
    assert (same.value, same.low, same.high) == (0, 0, 0)
