"""Compare methods across runs that differ in the histories alone: differences, and how much of a gain survives."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from personalllm.core.errors import ParameterError
from personalllm.core.types import F64
from personalllm.evaluation.contract import Estimate, Metric, Sums
from personalllm.evaluation.differences import check_paired
from personalllm.evaluation.estimates import difference, percentiles, resample, user_means
from personalllm.evaluation.metrics import CHOICE_METRICS, metric_by_id
from personalllm.evaluation.results import MethodResult

__all__ = ["SurvivingShare", "metric_differences", "sums_of", "surviving_share"]

_UTILITY = metric_by_id(CHOICE_METRICS, "utility")
_MIN_DRAWS = 100


def sums_of(result: MethodResult) -> Sums:
    """Return the sums of a method that was evaluated under a single condition, as in rank and generate."""
    (sums,) = result.sums.values()
    return sums


def metric_differences(a: MethodResult, b: MethodResult, *, seed: int = 0, draws: int = 2000) -> dict[str, Estimate]:
    """Return every metric of `a` minus that of `b`, paired by user, with 95 % user-bootstrap intervals.

    Args:
        a: Of any run of the rank or the generate track.
        b: Of the same or another run with the same users and queries.
        seed: Seed of the resamples.
        draws: Number of resamples, >= 100.

    Returns:
        Id of the metric -> estimate; the gain is NaN where it is not defined.

    Raises:
        UserError: If users or queries differ.
    """
    _check(draws, a, b)
    pair = sums_of(a), sums_of(b)
    return {metric.id: difference(*pair, metric, draws=draws, seed=seed) for metric in CHOICE_METRICS}


@dataclass(frozen=True, slots=True)
class SurvivingShare:
    """How much of a gain over zero-shot is left when the history is counterfactual.

    Attributes:
        share: `(u_counterfactual - u_zero) / (u_true - u_zero)` with its 95 % interval; NaN if it is not defined.
        gain: `u_true - u_zero`, mean utility.
        remaining: `u_counterfactual - u_zero`, mean utility.
        note: Why the share is not defined; empty if it is.
    """

    share: Estimate
    gain: Estimate
    remaining: Estimate
    note: str = ""

    @property
    def defined(self) -> bool:
        """Whether there was a gain of which a share can be taken."""
        return not self.note


def surviving_share(
    true: MethodResult,
    counterfactual: MethodResult,
    zero_shot: MethodResult,
    *,
    seed: int = 0,
    draws: int = 2000,
) -> SurvivingShare:
    """Return which share of a method's gain over zero-shot a counterfactual history gives too.

    0 means that all of the gain comes from what the history says about this very user, 1 that none does; it may lie
    outside [0, 1]. The interval is that of the ratio over resampled users, the same users in all three runs.

    Args:
        true: The method with the user's own history.
        counterfactual: The same method with a counterfactual history (`history.counterfactual`).
        zero_shot: The method without history.
        seed: Seed of the resamples.
        draws: Number of resamples, >= 100.

    Returns:
        The share, NaN unless the 95 % interval of the gain lies above 0.

    Raises:
        UserError: If users or queries differ.
    """
    _check(draws, true, counterfactual, zero_shot)
    sums = [sums_of(result) for result in (true, counterfactual, zero_shot)]
    own, other, zero = ((user_means(of, _UTILITY), _draws(of, _UTILITY, draws, seed)) for of in sums)
    gain, remaining = (_difference(side[0] - zero[0], side[1] - zero[1]) for side in (own, other))
    if not gain.low > 0:
        note = f"The gain of {true.label!r} over {zero_shot.label!r} is {gain.value:.3f} [{gain.low:.3f}, "
        note += f"{gain.high:.3f}]{', an interval that covers 0' if gain.high >= 0 else ', a loss'}"
        return SurvivingShare(Estimate(math.nan, math.nan, math.nan), gain, remaining, f"{note}: no share is defined.")
    above, below = other[1] - zero[1], own[1] - zero[1]
    # a resample without a gain counts as an infinite share, so the interval widens as the gain becomes uncertain
    ratio = np.divide(above, below, out=np.copysign(np.full(draws, np.inf), above), where=below > 0)
    low, high = (float(end) for end in np.quantile(ratio, (0.025, 0.975), method="inverted_cdf"))
    return SurvivingShare(Estimate(remaining.value / gain.value, low, high), gain, remaining)


def _draws(sums: Sums, metric: Metric, draws: int, seed: int) -> F64:
    return resample(sums, metric, draws=draws, seed=seed)


def _difference(users: F64, draws: F64) -> Estimate:
    """Return the mean difference over users with the percentile interval of its resamples."""
    return Estimate(math.fsum(users.tolist()) / len(users), *percentiles(draws))


def _check(draws: int, *results: MethodResult) -> None:
    """Raise unless the results are paired; two runs may have the same label, so positions tell them apart."""
    check_paired({f"{result.label}{' ' * number}": sums_of(result) for number, result in enumerate(results)})
    if draws < _MIN_DRAWS:
        raise ParameterError("draws", f">= {_MIN_DRAWS}", draws)
