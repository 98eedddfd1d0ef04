"""Two policies on the same users: differences, and how much of a gain survives a counterfactual history."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from personalllm.core.errors import ParameterError, UserError
from personalllm.evaluation.metrics import differences, draw_metrics
from personalllm.evaluation.results import Estimate, MethodResult

__all__ = ["SurvivingShare", "check_paired", "compare_per_user", "surviving_share"]

_SAME = ("oracle_utility", "population_best_utility", "reference_utility")


def check_paired(results: Sequence[MethodResult]) -> None:
    """Raise unless all results are of the same users and queries, which may stand in different runs.

    Two results are paired if the stored policies (the user's best response, the best response for the population,
    the reference response model's) have the same utility for every user: other users, prompts, scores, standardisers
    or reference response models change these numbers.

    Raises:
        UserError: If two of them differ; names both and says in what.
    """
    for other in results[1:]:
        first = results[0]
        for name in ("n_users", "n_queries"):
            if getattr(first, name) != getattr(other, name):
                _refuse(first, other, f"{getattr(first, name)} against {getattr(other, name)} {name[2:]}")
        for name in _SAME:
            if not np.array_equal(first.per_user[name], other.per_user[name]):
                apart = int((first.per_user[name] != other.per_user[name]).sum())
                _refuse(first, other, f"{name} differs for {apart} of {first.n_users} users")


def _refuse(first: MethodResult, other: MethodResult, difference: str) -> None:
    raise UserError(
        f"{first.id!r} and {other.id!r} were not evaluated on the same users and queries: {difference}.",
        "Compare runs whose protocols differ in nothing that decides users, prompts, scores or the reference model.",
    )


def compare_per_user(a: MethodResult, b: MethodResult, *, seed: int = 0, draws: int = 2000) -> dict[str, Estimate]:
    """Return every metric of `a` minus that of `b`, paired by user, with 95 % user-bootstrap intervals.

    Args:
        a: Of any run.
        b: Of the same or another run with the same users and queries.
        seed: Seed of the resamples.
        draws: Number of resamples, >= 100.

    Returns:
        An estimate for each of `METRICS`; the gain is NaN where it is not defined.

    Raises:
        UserError: If users or queries differ; says in what.
    """
    check_paired((a, b))
    _check_draws(draws)
    mine, other = (draw_metrics(result.per_user, draws=draws, seed=seed) for result in (a, b))
    return differences(a.per_user, mine, b.per_user, other)


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
    check_paired((true, counterfactual, zero_shot))
    _check_draws(draws)
    name = "mean_utility"
    columns = [result.per_user[name].astype(np.float64) for result in (true, counterfactual, zero_shot)]
    sampled = [draw_metrics(r.per_user, draws=draws, seed=seed)[name] for r in (true, counterfactual, zero_shot)]
    gain = _difference(columns[0] - columns[2], sampled[0] - sampled[2])
    remaining = _difference(columns[1] - columns[2], sampled[1] - sampled[2])
    if not gain.low > 0:
        covers = gain.high >= 0
        note = f"The gain of {true.id!r} over {zero_shot.id!r} is {gain.value:.3f} [{gain.low:.3f}, {gain.high:.3f}]"
        note += ", an interval that covers 0" if covers else ", a loss"
        return SurvivingShare(Estimate(math.nan, math.nan, math.nan), gain, remaining, f"{note}: no share is defined.")
    above, below = sampled[1] - sampled[2], sampled[0] - sampled[2]
    ratio = np.divide(above, below, out=np.copysign(np.full(draws, np.inf), above), where=below > 0)
    low, high = (float(end) for end in np.quantile(ratio, (0.025, 0.975), method="inverted_cdf"))
    return SurvivingShare(Estimate(remaining.value / gain.value, low, high), gain, remaining)


def _difference(users: npt.NDArray[np.float64], draws: npt.NDArray[np.float64]) -> Estimate:
    """Return the mean difference over users with the percentile interval of its resamples."""
    low, high = (float(end) for end in np.quantile(draws, (0.025, 0.975)))
    return Estimate(math.fsum(users.tolist()) / len(users), low, high)


def _check_draws(draws: int) -> None:
    if draws < 100:
        raise ParameterError("draws", ">= 100", draws)
