"""Compare methods on the same users and pairs: paired differences, and what several at once may claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from personalllm.core.errors import UserError
from personalllm.core.stats import holm, sign_flip_p
from personalllm.core.types import F64
from personalllm.evaluation.contract import Estimate, Metric, Over, Sums
from personalllm.evaluation.estimates import difference
from personalllm.evaluation.means import ALL, user_means

if TYPE_CHECKING:
    from personalllm.evaluation.results import Results

__all__ = ["LEVEL", "Difference", "between_runs", "check_paired", "paired_differences"]

LEVEL = 0.05
"""Family-wise error at which a method is called better."""

_PATTERNS = 9_999
_PATTERNS_PER_COMPARISON = 100


@dataclass(frozen=True, slots=True)
class Difference:
    """Two methods on the same users and pairs.

    Attributes:
        a: Label of the first.
        b: Label of the second.
        difference: The metric of `a` minus that of `b`, with its 95 % interval.
        p_value: Two-sided: of t with the variance of the interval, or over users alone of the sign-flip test, which
            only means over users have; NaN without an interval, or where the metric is not defined for one of the two.
        p_holm: The same, corrected for all comparisons that were made together.
        better: Label of the better one if they differ significantly at a family-wise level of 5 %, else None.
    """

    a: str
    b: str
    difference: Estimate
    p_value: float
    p_holm: float
    better: str | None


def check_paired(sums: Mapping[str, Sums]) -> None:
    """Raise unless all methods were evaluated on the same users and pairs; they may stand in different runs.

    Args:
        sums: Label -> sums.

    Raises:
        UserError: If two of them differ; names both.
    """
    labels = list(sums)
    for label in labels[1:]:
        first, other = sums[labels[0]], sums[label]
        if (first.pairing, first.n_clusters) != (other.pairing, other.n_clusters):
            sizes = f"{first.n_clusters} and {other.n_clusters} {first.axis}"
            what = "other prompts, pairs or scores" if first.n_clusters == other.n_clusters else sizes
            raise UserError(
                f"{labels[0]!r} and {label!r} were not evaluated on the same users and queries: {what}.",
                "Compare runs whose protocols differ in nothing that decides users, prompts, scores or the reference "
                "model.",
            )


def paired_differences(
    sums: Mapping[str, Sums],
    pairs: Sequence[tuple[str, str]],
    metric: Metric,
    stratum: str = ALL,
    *,
    over: Over = "users and prompts",
    draws: int,
    seed: int,
    patterns: int = _PATTERNS_PER_COMPARISON,
) -> tuple[Difference, ...]:
    """Return a difference for each pair of methods, Holm-corrected for the number of those that have a p-value.

    Args:
        sums: Label -> sums under one condition.
        pairs: Labels; which of the first is subtracted from which.
        metric: What is compared.
        stratum: Of which pairs or users.
        over: What is taken to be drawn at random.
        draws: Over users: resamples behind each interval.
        seed: Seed of the resamples and of the sign patterns.
        patterns: Over users: sign patterns for each comparison, where 9,999 for all of them are fewer: the smallest p
            that the patterns can give, times the number of comparisons, must stay below the level.

    Raises:
        UserError: If users or pairs differ.
        ParameterError: If the sums have no such stratum of the metric.
    """
    if not pairs:
        return ()
    check_paired({label: sums[label] for pair in pairs for label in pair})
    compared = [difference(sums[a], sums[b], metric, stratum, over=over, draws=draws, seed=seed) for a, b in pairs]
    p_values = np.array([p_value for _, p_value in compared])
    gaps_of_users = _user_differences(sums, pairs, metric, stratum) if over == "users" else None
    if gaps_of_users is not None and len(gaps_of_users):
        p_values = sign_flip_p(gaps_of_users, draws=max(_PATTERNS, patterns * len(pairs)), seed=seed)
    corrected, defined = np.full(len(pairs), np.nan), ~np.isnan(p_values)
    corrected[defined] = holm(p_values[defined])
    differences = []
    for (a, b), (gap, _), p, p_holm in zip(pairs, compared, p_values.tolist(), corrected.tolist(), strict=True):
        ahead = a if (gap.value > 0) == metric.higher_is_better else b
        differences.append(Difference(a, b, gap, p, p_holm, ahead if p_holm <= LEVEL else None))
    return tuple(differences)


def between_runs(run: Results, other: Results, label: str, metric: str | None = None) -> Difference:
    """Return a method's metric in one run minus that in another one, e.g. with the history of another user.

    Args:
        run: `a` of the difference, named after its headline condition.
        other: `b`: of the same users and queries, with other histories.
        label: Of the method, in both runs.
        metric: What is compared; None: the main metric of the track.

    Raises:
        UnknownName: If a run has no such method or metric.
        UserError: If users or queries differ, or more than the history does.
    """
    sums = {str(results.headline): results.sums(label) for results in (run, other)}
    if len(sums) < 2 or run[label].spec != other[label].spec:
        raise UserError(
            f"The two runs of {label!r} do not differ in the history alone.",
            "Compare runs whose protocols differ in `history`, with equal parameters of the method.",
        )
    first, second = sums
    protocol = run.protocol
    return paired_differences(
        sums,
        [(first, second)],
        run.metric(metric or run.main_metric),
        over=protocol["intervals"],
        draws=protocol["bootstrap_draws"],
        seed=protocol["seed"],
    )[0]


def _user_differences(
    sums: Mapping[str, Sums], pairs: Sequence[tuple[str, str]], metric: Metric, stratum: str
) -> F64 | None:
    """Return float64 (n_users, n_pairs): differences of the users of a stratum; None if the metric has no such."""
    first = sums[pairs[0][0]]
    if not metric.is_mean or not (stratum == ALL or stratum in first.groups):
        return None
    users = np.ones(first.n_clusters, np.bool_)
    if "n" in first.columns:
        users = first.columns["n"] > 0
    if stratum != ALL:
        users = users & (first.columns["group"] == first.groups.index(stratum))
    means = {label: user_means(sums[label], metric) for pair in pairs for label in pair}
    weight = first.columns.get("weight", np.ones(first.n_clusters))
    return np.stack([(weight * (means[a] - means[b]))[users] for a, b in pairs], axis=1)
