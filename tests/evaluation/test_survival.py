"""Compare methods across runs, and the share of a gain that a counterfactual history leaves."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from measured import choices_of

from personalllm.core.crossed import TAIL
from personalllm.core.errors import ParameterError, UserError
from personalllm.data import Benchmark
from personalllm.evaluation import Condition, MethodResult, Protocol, Sums, evaluate
from personalllm.evaluation.means import Parts
from personalllm.evaluation.metrics import CHOICE_METRICS, metric_by_id
from personalllm.papers.personalllm_2025.claims import Claim, crossed_interval
from personalllm.papers.personalllm_2025.survival import metric_differences, sums_of, surviving_share

OVER_USERS: dict[str, Any] = {"over": "users"}
SMALL: dict[str, Any] = {"n_users": 30, "pool_users": 5, "intervals": "users", "bootstrap_draws": 300}


def result(utility: Any, name: str = "a") -> MethodResult:
    """A result on the same users and queries for any utility."""
    values = np.asarray(utility, np.float32)
    n = len(values)
    columns = {
        "utility": values,
        "win_rate_reference": np.full(n, 0.5, np.float32),
        "win_rate_best": np.zeros(n, np.float32),
        "regret": np.float32(3) - values,
        "oracle_utility": np.full(n, 3, np.float32),
        "population_best_utility": np.linspace(0, 1, n, dtype=np.float32),
        "reference_utility": np.zeros(n, np.float32),
    }
    return MethodResult(name, name, "method", {}, {Condition(): Sums(columns, pairing="same")}, {})


def test_two_runs_on_the_same_users_are_paired(benchmark_: Benchmark) -> None:
    one = evaluate(["longest", "random"], benchmark_, protocol=Protocol.for_benchmark(benchmark_, **SMALL))
    other = evaluate(["random"], benchmark_, protocol=Protocol.for_benchmark(benchmark_, pool_pairs=3, **SMALL))
    assert one.fingerprint != other.fingerprint
    across = metric_differences(one["longest"], other["random"], seed=0, draws=300, **OVER_USERS)
    assert list(across) == [metric.id for metric in one.metrics if metric.id != "ps"]
    (within,) = one.comparisons("utility", versus="longest", among=["random"])
    assert across["utility"] == within.difference
    mean = float(np.mean(one.per_user("longest", "utility").astype(float) - other.per_user("random", "utility")))
    assert across["utility"].value == pytest.approx(mean, abs=1e-9)
    back = metric_differences(other["random"], one["longest"], seed=0, draws=300, **OVER_USERS)["utility"]
    assert back.value == -across["utility"].value
    assert back.low == pytest.approx(-across["utility"].high)


APART: list[tuple[dict[str, Any], str]] = [
    ({"seed": 1}, "other prompts, pairs or scores"),
    ({"n_users": 29}, "30 and 29 users"),
    ({"prompts_per_user": 2}, "other prompts, pairs or scores"),
    ({"alpha": 1.0}, "other prompts, pairs or scores"),
    ({"reference_response_model": "gamma-1"}, "other prompts, pairs or scores"),
]


@pytest.mark.parametrize(("change", "message"), APART, ids=str)
def test_other_users_or_queries_are_refused(benchmark_: Benchmark, change: dict[str, Any], message: str) -> None:
    base: dict[str, Any] = SMALL | {"reference_response_model": "alpha-1"}
    protocols = [Protocol.for_benchmark(benchmark_, **settings) for settings in (base, base | change)]
    one, other = (evaluate(["random"], benchmark_, protocol=protocol)["random"] for protocol in protocols)
    with pytest.raises(UserError, match=f"not evaluated on the same users and queries: {message}"):
        metric_differences(one, other, **OVER_USERS)
    with pytest.raises(UserError, match="not evaluated on the same users"):
        surviving_share(one, one, other, **OVER_USERS)


def test_too_few_draws_are_refused() -> None:
    with pytest.raises(ParameterError, match="draws must be >= 100, got 9"):
        metric_differences(result([1.0]), result([1.0]), draws=9, **OVER_USERS)
    with pytest.raises(ParameterError, match="draws must be >= 100, got 9"):
        surviving_share(result([1.0]), result([1.0]), result([1.0]), draws=9, **OVER_USERS)


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
        **OVER_USERS,
    )
    assert share.defined
    assert share.note == ""
    assert share.gain.value == pytest.approx(1 + noise[0].mean(), abs=1e-6)
    assert share.remaining.value == pytest.approx(0.25 + noise[1].mean(), abs=1e-6)
    assert share.share.value == pytest.approx(share.remaining.value / share.gain.value)
    assert share.share.low < share.share.value < share.share.high
    assert 0.02 < share.share.high - share.share.low < 0.06
    exact = surviving_share(result(zero + 2), result(zero + 2), result(zero), **OVER_USERS)
    assert (exact.share.value, exact.share.low, exact.share.high) == pytest.approx((1, 1, 1))
    none = surviving_share(result(zero + 2), result(zero), result(zero), **OVER_USERS)
    assert (none.share.value, none.share.low, none.share.high) == pytest.approx((0, 0, 0))


def test_the_pairing_makes_the_interval_narrow() -> None:
    rng = np.random.default_rng(0)
    zero = rng.normal(size=300) * 50
    share = surviving_share(result(zero + 1), result(zero + 0.5), result(zero), draws=500, **OVER_USERS).share
    assert share.high - share.low < 0.01


def test_no_share_of_a_gain_that_is_none() -> None:
    rng = np.random.default_rng(0)
    zero = rng.normal(size=100)
    noise = rng.normal(size=100)
    unclear = surviving_share(
        result(zero + noise - noise.mean(), "icl"), result(zero), result(zero, "zero-shot"), **OVER_USERS
    )
    assert not unclear.defined
    assert math.isnan(unclear.share.value)
    assert math.isnan(unclear.share.low)
    assert unclear.gain.low < 0 < unclear.gain.high
    assert "'icl' over 'zero-shot'" in unclear.note
    assert "an interval that covers 0: no share is defined" in unclear.note
    loss = surviving_share(result(zero - 1), result(zero), result(zero), **OVER_USERS)
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


def crossed_result(utility: np.ndarray, name: str) -> MethodResult:
    """Return a method with these utilities, (n_users, n_prompts), everything else being equal."""
    ones = np.ones_like(utility)
    sums = choices_of(*utility.shape, utility=utility, best=ones, population_best=0 * ones, reference=0 * ones)
    return MethodResult(name, name, "method", {}, {Condition(): sums}, {})


def test_over_users_and_prompts_a_share_has_fiellers_interval_and_a_claim_that_of_its_difference() -> None:
    rng = np.random.default_rng(0)
    taste = rng.normal(size=(60, 25)).astype(np.float32)
    noise = rng.normal(size=(2, 60, 25)).astype(np.float32)
    own, other, zero = (
        crossed_result(utility, name)
        for utility, name in ((taste + 1 + noise[0], "own"), (taste + 0.5 + noise[1], "other"), (taste, "zero"))
    )
    share = surviving_share(own, other, zero)
    assert share.share.low < 0.5 < share.share.high
    assert share.share.high - share.share.low < 0.4
    assert share.gain == metric_differences(own, zero)["utility"]
    claim = Claim("up", "", "", 1, ((1.0, "own"), (-1.0, "zero")))
    utility = metric_by_id(CHOICE_METRICS, "utility")
    parts = {name: Parts.of(sums_of(result), utility) for name, result in (("own", own), ("zero", zero))}
    ours = {"own": float(share.gain.value), "zero": 0.0}
    ends = crossed_interval(parts, claim, ours, TAIL, over="users and prompts")
    assert ends == pytest.approx((share.gain.low, share.gain.high))
    few = [crossed_result(taste[:, :9] + np.float32(gain), name) for gain, name in ((1, "a"), (0.5, "b"), (0, "c"))]
    assert "without an interval" in surviving_share(*few).note
