"""Paired differences of methods: who may be paired, which is better, and how many comparisons are corrected for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
from measured import N_USERS, answers_of, choices_of, groups_of, sums_of

from personalllm.core.errors import ParameterError, UserError
from personalllm.core.stats import holm, sign_flip_p
from personalllm.evaluation import differences
from personalllm.evaluation.contract import Sums
from personalllm.evaluation.differences import check_paired, paired_differences
from personalllm.evaluation.estimates import difference
from personalllm.evaluation.means import user_means
from personalllm.evaluation.metrics import CHOICE_METRICS, PAIR_METRICS, metric_by_id

ACCURACY, LOSS = (metric_by_id(PAIR_METRICS, name) for name in ("accuracy", "log_loss"))


def sides(**skills: float) -> dict[str, Sums]:
    """Return methods on the same pairs of 37 users, one of whom has none."""
    answers = answers_of(0)
    noise = np.random.default_rng(1).normal(size=len(answers.margin)).astype(np.float32)
    return {
        label: sums_of(dataclasses.replace(answers, margin=noise + np.float32(skill)), groups_of())
        for label, skill in skills.items()
    }


def versus(first: str, sums: dict[str, Sums]) -> list[tuple[str, str]]:
    return [(first, label) for label in sums if label != first]


def test_p_values_are_of_the_users_who_have_pairs_and_corrected_together() -> None:
    sums = sides(good=1.5, fair=1.2, poor=0.2)
    compared = paired_differences(sums, versus("good", sums), ACCURACY, over="users", draws=200, seed=3)
    means = {label: user_means(of, ACCURACY) for label, of in sums.items()}
    present = ~np.isnan(means["good"])
    assert present.sum() == N_USERS - 1
    gaps = np.stack([(means["good"] - means[c.b])[present] for c in compared], axis=1)
    assert [c.p_value for c in compared] == sign_flip_p(gaps, seed=3).tolist()
    assert [c.p_holm for c in compared] == holm([c.p_value for c in compared]).tolist()
    assert [(c.a, c.b) for c in compared] == [("good", "fair"), ("good", "poor")]
    assert compared[1].better == "good"
    assert (
        compared[1].difference == difference(sums["good"], sums["poor"], ACCURACY, over="users", draws=200, seed=3)[0]
    )
    assert compared[1].difference.value == pytest.approx(gaps[:, 1].mean(), abs=1e-6)


def test_less_is_better_where_it_is() -> None:
    sums = sides(good=1.5, poor=0.2)
    (compared,) = paired_differences(sums, [("poor", "good")], LOSS, over="users", draws=200, seed=0)
    assert compared.difference.value > 0
    assert compared.better == "good"


def test_no_difference_has_no_winner() -> None:
    sums = sides(a=1.0, b=1.0)
    (compared,) = paired_differences(sums, [("a", "b")], ACCURACY, over="users", draws=200, seed=0)
    assert (compared.difference.value, compared.p_value, compared.p_holm, compared.better) == (0, 1.0, 1.0, None)


def test_a_group_is_compared_by_its_own_users() -> None:
    sums = sides(good=1.5, poor=0.2)
    (compared,) = paired_differences(sums, [("good", "poor")], ACCURACY, "rm:a", over="users", draws=200, seed=3)
    gap = user_means(sums["good"], ACCURACY) - user_means(sums["poor"], ACCURACY)
    users = (groups_of() == 0) & ~np.isnan(gap)
    assert compared.difference.value == pytest.approx(gap[users].mean(), abs=1e-6)
    assert compared.p_value == sign_flip_p(gap[users][:, None], seed=3)[0]


@pytest.mark.parametrize(("name", "stratum"), [("ece", "all"), ("minority", "all"), ("accuracy", "contested-4")])
def test_what_is_no_mean_over_users_has_an_interval_but_no_p(name: str, stratum: str) -> None:
    sums = sides(good=1.5, poor=0.2)
    metric = metric_by_id(PAIR_METRICS, name)
    (compared,) = paired_differences(sums, [("good", "poor")], metric, stratum, over="users", draws=200, seed=3)
    assert (
        compared.difference
        == difference(sums["good"], sums["poor"], metric, stratum, over="users", draws=200, seed=3)[0]
    )
    assert math.isnan(compared.p_value)
    assert math.isnan(compared.p_holm)
    assert compared.better is None


def test_patterns_grow_with_the_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the 9,999 patterns of a few, the smallest p times many comparisons could not be below the level."""
    drawn: list[int] = []

    def noted(gaps: np.ndarray, *, draws: int, seed: int) -> np.ndarray:
        drawn.append(draws)
        return np.full(gaps.shape[1], 0.5)

    monkeypatch.setattr(differences, "sign_flip_p", noted)
    sums = sides(a=1.0, b=0.5)
    for n, patterns in ((2, 100), (150, 100), (30, 400)):
        paired_differences(sums, [("a", "b")] * n, ACCURACY, over="users", draws=100, seed=0, patterns=patterns)
    assert drawn == [9_999, 15_000, 12_000]


CHANGES: list[tuple[str, Callable[[Sums], Sums]]] = [
    ("other prompts, pairs or scores", lambda sums: dataclasses.replace(sums, pairing="other")),
    ("12 and 11 users", lambda sums: choices_of(11)),
]


@pytest.mark.parametrize(("message", "change"), CHANGES)
def test_other_users_or_queries_are_refused(message: str, change: Callable[[Sums], Sums]) -> None:
    sums = choices_of(12)
    with pytest.raises(UserError, match=f"'a' and 'b' were not evaluated on the same users and queries: {message}"):
        check_paired({"a": sums, "b": change(sums)})
    both = {"a": sums, "b": change(sums)}
    with pytest.raises(UserError, match="not evaluated on the same users"):
        paired_differences(both, [("a", "b")], CHOICE_METRICS[0], over="users", draws=100, seed=0)


def test_an_unknown_stratum_is_refused_and_no_pair_is_no_difference() -> None:
    sums = sides(a=1.0, b=0.5)
    with pytest.raises(ParameterError, match="stratum must be one in which accuracy is known"):
        paired_differences(sums, [("a", "b")], ACCURACY, "rm:x", over="users", draws=100, seed=0)
    assert paired_differences(sums, [], ACCURACY, over="users", draws=100, seed=0) == ()


def test_a_method_without_the_metric_takes_part_in_no_correction() -> None:
    sums = sides(good=1.5, fair=1.2, poor=0.2)
    answers = dataclasses.replace(answers_of(0), log_odds=False)
    sums["ranks-only"] = sums_of(answers, groups_of())
    pairs = [("good", "fair"), ("good", "ranks-only"), ("good", "poor")]
    compared = paired_differences(sums, pairs, LOSS, over="users", draws=200, seed=3)
    assert math.isnan(compared[1].difference.value)
    assert math.isnan(compared[1].p_value)
    assert math.isnan(compared[1].p_holm)
    assert compared[1].better is None
    without = paired_differences(sums, [pairs[0], pairs[2]], LOSS, over="users", draws=200, seed=3)
    assert [compared[0].p_holm, compared[2].p_holm] == [c.p_holm for c in without]
    assert compared[2].better == "good"
