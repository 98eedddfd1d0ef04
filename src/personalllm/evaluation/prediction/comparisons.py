"""Paired differences between learners on the same users and test pairs, and what several at once may claim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from personalllm.core.stats import holm, sign_flip_p
from personalllm.core.types import F64
from personalllm.evaluation.prediction.estimates import Key, cell_difference
from personalllm.evaluation.prediction.metrics import HIGHER_IS_BETTER, USER_MEANS, Sums, user_means
from personalllm.evaluation.results import Estimate

__all__ = ["LEVEL", "PairedDifference", "Side", "paired_differences"]


LEVEL = 0.05
"""Family-wise error at which a learner is called the better one."""

_DRAWS = 9_999
_DRAWS_PER_COMPARISON = 100


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Two learners on the same users and test pairs.

    Attributes:
        a: Label of the one.
        b: Label of the other.
        difference: The metric of `a` minus that of `b`, with its 95 % interval over users.
        p_value: Two-sided, of the sign-flip test over users; NaN where the metric is no mean over users.
        p_holm: The same, corrected for all comparisons that were made together.
        better: Label of the better one if the difference is real at a family-wise level of 5 %, else None.
    """

    a: str
    b: str
    difference: Estimate
    p_value: float
    p_holm: float
    better: str | None


@dataclass(frozen=True, eq=False, slots=True)
class Side:
    """One side of a comparison.

    Attributes:
        name: Of the learner.
        sums: Its sums in the cell (`prediction_metrics.user_sums`).
    """

    name: str
    sums: Sums


def paired_differences(
    pairs: Sequence[tuple[Side, Side]], key: Key, reward_models: Sequence[str] = (), *, draws: int, seed: int
) -> tuple[PairedDifference, ...]:
    """Return a difference for each pair of learners, Holm-corrected for their number.

    Args:
        pairs: All on the same users and test pairs.
        key: Stratum and metric.
        reward_models: Names that `sums["strongest"]` points to.
        draws: Resamples of the users behind each interval.
        seed: Seed of the resamples and of the sign patterns.

    Raises:
        AxisMismatch: If users or their numbers of test pairs differ.
    """
    if not pairs:
        return ()
    stratum, metric = key
    gaps = [cell_difference(a.sums, b.sums, key, reward_models, draws=draws, seed=seed) for a, b in pairs]
    p_values = np.full(len(pairs), np.nan)
    if metric in USER_MEANS and not stratum.startswith("contested"):
        own = _gaps(pairs, key, reward_models)
        if len(own):
            p_values = sign_flip_p(own, draws=max(_DRAWS, _DRAWS_PER_COMPARISON * len(pairs)), seed=seed)
    corrected = p_values if np.isnan(p_values).any() else holm(p_values)
    found = []
    for (a, b), gap, p, p_holm in zip(pairs, gaps, p_values.tolist(), corrected.tolist(), strict=True):
        ahead = a.name if (gap.value > 0) == HIGHER_IS_BETTER[metric] else b.name
        found.append(PairedDifference(a.name, b.name, gap, p, p_holm, ahead if p_holm <= LEVEL else None))
    return tuple(found)


def _gaps(pairs: Sequence[tuple[Side, Side]], key: Key, reward_models: Sequence[str]) -> F64:
    """Return float64 (n_users, n_pairs): differences of the users of a stratum who have test pairs."""
    stratum, metric = key
    means = {id(side): user_means(side.sums, metric) for pair in pairs for side in pair}
    sums = pairs[0][0].sums
    of = sums["n"] > 0
    if stratum.startswith("rm:"):
        of &= sums["strongest"] == list(reward_models).index(stratum.removeprefix("rm:"))
    return np.stack([(means[id(a)] - means[id(b)])[of] for a, b in pairs], axis=1)
