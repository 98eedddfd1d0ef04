"""Compare methods across runs that differ in the histories alone: differences, and how much of a gain survives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from personalllm.core.crossed import MIN_PAIRED_USERS, Over
from personalllm.core.errors import ParameterError
from personalllm.core.types import F64
from personalllm.evaluation.contract import Estimate, Metric, Sums
from personalllm.evaluation.differences import check_paired
from personalllm.evaluation.estimates import difference, percentiles, resample
from personalllm.evaluation.means import Parts, user_means
from personalllm.evaluation.metrics import CHOICE_METRICS, metric_by_id
from personalllm.evaluation.results import MethodResult

__all__ = ["SurvivingShare", "metric_differences", "sums_of", "surviving_share"]

_UTILITY = metric_by_id(CHOICE_METRICS, "utility")
_MIN_DRAWS = 100


def sums_of(result: MethodResult) -> Sums:
    """Return the sums of a method that was evaluated under a single condition, as in rank and generate."""
    (sums,) = result.sums.values()
    return sums


def metric_differences(
    a: MethodResult, b: MethodResult, *, over: Over = "users and prompts", seed: int = 0, draws: int = 2000
) -> dict[str, Estimate]:
    """Return every metric of `a` minus that of `b`, paired by user and prompt, with 95 % intervals.

    Args:
        a: Of any run of the rank or the generate track.
        b: Of the same or another run with the same users and queries.
        over: What the intervals take to be drawn at random.
        seed: Seed of the resamples, over users alone.
        draws: Number of resamples, >= 100.

    Returns:
        Id of the metric -> estimate; the gain is NaN where it is not defined. The personalisation share is left out.

    Raises:
        UserError: If users or queries differ.
    """
    _check(draws, a, b)
    pair = sums_of(a), sums_of(b)
    return {metric.id: difference(*pair, metric, over=over, draws=draws, seed=seed)[0] for metric in CHOICE_METRICS}


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
    over: Over = "users and prompts",
    seed: int = 0,
    draws: int = 2000,
) -> SurvivingShare:
    """Return which share of a method's gain over zero-shot a counterfactual history gives too.

    0 means that all of the gain comes from what the history says about this very user, 1 that none does; it may lie
    outside [0, 1]. The interval is Fieller's, over users alone that of the ratio over resampled users; the three runs
    have the same users and queries.

    Args:
        true: The method with the user's own history.
        counterfactual: The same method with a counterfactual history (`history.counterfactual`).
        zero_shot: The method without history.
        over: What the intervals take to be drawn at random.
        seed: Seed of the resamples, over users alone.
        draws: Number of resamples, >= 100.

    Returns:
        The share, NaN unless the 95 % interval of the gain lies above 0.

    Raises:
        UserError: If users or queries differ.
    """
    _check(draws, true, counterfactual, zero_shot)
    sums = [sums_of(result) for result in (true, counterfactual, zero_shot)]
    share = _resampled_share(sums, draws, seed) if over == "users" else _crossed_share(sums, over)
    gain = share.gain
    if gain.low > 0:
        return share
    missing = math.isnan(gain.low)
    interval = "" if missing else f" [{gain.low:.3f}, {gain.high:.3f}]"
    why = "without an interval" if missing else "an interval that covers 0" if gain.high >= 0 else "a loss"
    note = f"The gain of {true.label!r} over {zero_shot.label!r} is {gain.value:.3f}{interval}, {why}: "
    undefined = Estimate(math.nan, math.nan, math.nan)
    return SurvivingShare(undefined, gain, share.remaining, f"{note}no share is defined.")


def _crossed_share(sums: Sequence[Sums], over: Over) -> SurvivingShare:
    """Return the share and what it is made of, from the variances over users and prompts."""
    actual, other, zero = (Parts.of(of, _UTILITY) for of in sums)
    gain, remaining = (
        Estimate(_mean_utility(side) - _mean_utility(sums[2]), *(parts - zero).interval(over, MIN_PAIRED_USERS))
        for side, parts in ((sums[0], actual), (sums[1], other))
    )
    ends = Parts((other - zero).top, (actual - zero).top).interval(over, MIN_PAIRED_USERS)
    return SurvivingShare(Estimate(remaining.value / gain.value if gain.value else math.nan, *ends), gain, remaining)


def _mean_utility(sums: Sums) -> float:
    users = user_means(sums, _UTILITY)
    return math.fsum(users.tolist()) / len(users)


def _resampled_share(sums: Sequence[Sums], draws: int, seed: int) -> SurvivingShare:
    """Return the share and what it is made of, from resampled users."""
    actual, other, zero = ((user_means(of, _UTILITY), _draws(of, _UTILITY, draws, seed)) for of in sums)
    gain, remaining = (_difference(side[0] - zero[0], side[1] - zero[1]) for side in (actual, other))
    above, below = other[1] - zero[1], actual[1] - zero[1]
    # a resample without a gain counts as an infinite share, so the interval widens as the gain becomes uncertain
    ratio = np.divide(above, below, out=np.copysign(np.full(draws, np.inf), above), where=below > 0)
    low, high = (float(end) for end in np.quantile(ratio, (0.025, 0.975), method="inverted_cdf"))
    share = remaining.value / gain.value if gain.value else math.nan
    return SurvivingShare(Estimate(share, low, high), gain, remaining)


def _draws(sums: Sums, metric: Metric, draws: int, seed: int) -> F64:
    return resample(sums, metric, over="users", draws=draws, seed=seed)


def _difference(users: F64, draws: F64) -> Estimate:
    """Return the mean difference over users with the percentile interval of its resamples."""
    return Estimate(math.fsum(users.tolist()) / len(users), *percentiles(draws))


def _check(draws: int, *results: MethodResult) -> None:
    """Raise unless the results are paired; two runs may have the same label, so positions tell them apart."""
    check_paired({f"{result.label}{' ' * number}": sums_of(result) for number, result in enumerate(results)})
    if draws < _MIN_DRAWS:
        raise ParameterError("draws", f">= {_MIN_DRAWS}", draws)
