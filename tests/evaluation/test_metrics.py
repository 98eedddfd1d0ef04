"""Metrics against slow computations of the same, by definition."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measured import GROUPS, N_USERS, answers_of, choices_of, groups_of, sums_of

from personalllm.core.errors import UnknownName
from personalllm.core.seeding import generator
from personalllm.core.types import I32
from personalllm.evaluation.contract import Resamples
from personalllm.evaluation.estimates import estimate, resample
from personalllm.evaluation.measures import N_BINS, PairAnswers
from personalllm.evaluation.metrics import CHOICE_METRICS, PAIR_METRICS, metric_by_id

MEANS = ("accuracy", "log_loss", "brier", "regret", "tau")


def slow_metrics(answers: PairAnswers, group: I32, users: list[int]) -> dict[tuple[str, str], float]:
    """Return every metric of a multiset of users, by definition."""
    rows: dict[int, list[int]] = {u: [] for u in range(answers.n_clusters)}
    for i, u in enumerate(answers.cluster.tolist()):
        rows[u].append(i)
    p = [1 / (1 + math.exp(-float(m))) for m in answers.margin]
    right = [1.0 if m > 0 else 0.0 if m < 0 else 0.5 for m in answers.margin]
    assert answers.regret is not None
    assert answers.tau is not None
    assert answers.share is not None
    assert answers.longer is not None
    of_pair = {
        "accuracy": right,
        "log_loss": [-math.log(q) for q in p],
        "brier": [(1 - q) ** 2 for q in p],
        "regret": answers.regret.tolist(),
        "tau": answers.tau.tolist(),
    }
    present = [u for u in users if rows[u]]

    def mean_over(metric: str, chosen: list[int]) -> float:
        return statistics.fmean(statistics.fmean(of_pair[metric][i] for i in rows[u]) for u in chosen)

    values = {("all", metric): mean_over(metric, present) for metric in MEANS}
    pairs = [i for u in present for i in rows[u]]
    bins: dict[int, list[int]] = {}
    for i in pairs:
        bins.setdefault(min(int((max(p[i], 1 - p[i]) - 0.5) * 2 * N_BINS), N_BINS - 1), []).append(i)
    gaps = [abs(sum(max(p[i], 1 - p[i]) for i in b) - sum(right[i] for i in b)) for b in bins.values()]
    values["all", "ece"] = sum(gaps) / len(pairs)
    sides = [[right[i] for i in pairs if answers.longer[i] == sign] for sign in (1, -1)]
    values["all", "length_controlled"] = (statistics.fmean(sides[0]) + statistics.fmean(sides[1])) / 2
    each = sorted(statistics.fmean(right[i] for i in rows[u]) for u in present)
    values["all", "worst_decile"] = statistics.fmean(each[: math.ceil(len(each) / 10)])
    for q in range(1, 5):
        of = [i for i in pairs if min(int(answers.share[i] * 4), 3) + 1 == q]
        for metric in ("accuracy", "log_loss"):
            values[f"contested-{q}", metric] = statistics.fmean(of_pair[metric][i] for i in of)
    large = {g for g in range(3) if sum(group[u] == g and bool(rows[u]) for u in range(answers.n_clusters)) >= 5}
    for g, name in enumerate(GROUPS):
        of_group = [u for u in present if group[u] == g]
        for metric in MEANS:
            values[name, metric] = mean_over(metric, of_group) if of_group else math.nan
    values["all", "minority"] = min(values[GROUPS[g], "accuracy"] for g in large)
    return values


OF_ANSWERS = tuple(metric for metric in PAIR_METRICS if metric.id != "ps")
"""Metrics of a method's own answers; the personalisation share needs those of others."""


@pytest.mark.parametrize("seed", range(4))
def test_every_metric_of_pairs_is_that_of_the_slow_computation(seed: int) -> None:
    answers = answers_of(seed)
    estimates = estimate(sums_of(answers, groups_of()), OF_ANSWERS, draws=100)
    expected = slow_metrics(answers, groups_of(), list(range(N_USERS)))
    assert estimates.keys() == expected.keys()
    assert {key: e.value for key, e in estimates.items()} == pytest.approx(expected, abs=2e-6)


def test_every_resample_is_that_of_the_slow_computation() -> None:
    answers, draws, seed = answers_of(5), 25, 11
    sums = sums_of(answers, groups_of())
    drawn = generator(seed, "bootstrap", N_USERS).integers(0, N_USERS, (draws, N_USERS), dtype=np.int32)
    expected = [slow_metrics(answers, groups_of(), users.tolist()) for users in drawn]
    for stratum, name in estimate(sums, OF_ANSWERS, draws=100):
        values = resample(sums, metric_by_id(PAIR_METRICS, name), stratum, over="users", draws=draws, seed=seed)
        assert values.tolist() == pytest.approx([of[stratum, name] for of in expected], abs=2e-6, nan_ok=True)


def test_every_metric_of_choices_is_its_definition() -> None:
    sums = choices_of(30)
    estimates = {name: e.value for (_, name), e in estimate(sums, CHOICE_METRICS, draws=100).items()}
    means = {name: column.astype(np.float64).mean() for name, column in sums.columns.items()}
    room = means["oracle_utility"] - means["population_best_utility"]
    expected = {name: means[name] for name in ("utility", "win_rate_reference", "win_rate_best", "regret")}
    expected["gain"] = (means["utility"] - means["population_best_utility"]) / room
    assert estimates == pytest.approx(expected, abs=1e-9)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 60), st.integers(1, 5), st.integers(0, 10_000))
def test_gain_is_one_for_the_oracle_and_zero_for_the_floor(n_users: int, n_queries: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n_users, n_queries, 5)).astype(np.float32)
    best, floor = values.max(axis=2), values[..., 0]
    for utility, expected in ((best, 1.0), (floor, 0.0)):
        changes = {"utility": utility, "best": best, "population_best": floor, "reference": floor}
        gain = estimate(choices_of(n_users, n_queries, **changes), CHOICE_METRICS, over="users", draws=100)[
            "all", "gain"
        ]
        if math.isnan(gain.value):
            assert np.array_equal(best, floor)
        else:
            assert (gain.value, gain.low, gain.high) == (expected, expected, expected)


def test_no_room_above_the_floor_gives_an_undefined_gain() -> None:
    ones = np.ones((5, 2), np.float32)
    sums = choices_of(5, 2, utility=ones, best=ones, population_best=ones, reference=ones)
    estimates = estimate(sums, CHOICE_METRICS, draws=100)
    assert math.isnan(estimates["all", "gain"].value)
    assert math.isnan(estimates["all", "gain"].low)
    assert estimates["all", "win_rate_best"].value == 0.5


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_turning_a_method_round_turns_its_accuracy_round(seed: int) -> None:
    margin = answers_of(seed).margin
    values = [
        estimate(sums_of(answers_of(seed, margin=side)), PAIR_METRICS, draws=100)["all", "accuracy"].value
        for side in (margin, -margin)
    ]
    assert sum(values) == pytest.approx(1)


def test_a_coin_is_calibrated_and_knows_nothing() -> None:
    answers = answers_of(1, margin=np.zeros(900, np.float32))
    estimates = estimate(sums_of(answers, groups_of()), PAIR_METRICS, draws=100)
    for metric in ("accuracy", "length_controlled", "worst_decile", "minority"):
        assert estimates["all", metric].value == 0.5
    assert estimates["all", "ece"].value == 0.0
    assert estimates["all", "brier"].value == 0.25
    assert estimates["all", "log_loss"].value == pytest.approx(math.log(2), abs=1e-6)


def test_who_knows_but_length_gets_one_half() -> None:
    longer = np.array([1, 1, 1, 1, -1, 0], np.int8)
    answers = PairAnswers(1, np.zeros(6, np.int32), longer.astype(np.float32), longer=longer)
    estimates = estimate(sums_of(answers), PAIR_METRICS, draws=100)
    assert estimates["all", "length_controlled"].value == 0.5
    assert estimates["all", "accuracy"].value == pytest.approx(0.75)


def test_minority_needs_five_users() -> None:
    margin = np.where(np.arange(20) < 6, -1.0, 1.0).astype(np.float32)
    answers = PairAnswers(20, np.arange(20, dtype=np.int32), margin)
    group = np.where(np.arange(20) < 4, 2, np.where(np.arange(20) < 10, 1, 0)).astype(np.int32)
    estimates = estimate(sums_of(answers, group), PAIR_METRICS, draws=100)
    assert estimates["rm:c", "accuracy"].value == 0.0
    assert estimates["all", "minority"].value == estimates["rm:b", "accuracy"].value == pytest.approx(4 / 6, abs=1e-6)
    alone = estimate(sums_of(answers, np.full(20, -1, np.int32)), PAIR_METRICS, draws=100)
    assert math.isnan(alone["all", "minority"].value)


def test_users_without_pairs_are_of_no_group() -> None:
    user = np.array([0, 1, 2, 3, 5, 6, 7, 8, 9], np.int32)
    margin = np.where(user < 5, -1.0, 1.0).astype(np.float32)
    group = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2], np.int32)
    estimates = estimate(sums_of(PairAnswers(11, user, margin), group), PAIR_METRICS, draws=100)
    assert estimates["rm:a", "accuracy"].value == 0.0
    assert estimates["all", "minority"].value == estimates["rm:b", "accuracy"].value == 1.0
    assert ("rm:c", "accuracy") not in estimates


@pytest.mark.parametrize(("n_users", "size"), [(1, 1), (10, 1), (11, 2), (40, 4), (41, 5)])
def test_the_worst_tenth_is_rounded_up_to_whole_users(n_users: int, size: int) -> None:
    user = np.repeat(np.arange(n_users, dtype=np.int32), 64)
    margin = np.where(np.tile(np.arange(64), n_users) < user, 1.0, -1.0).astype(np.float32)
    worst = estimate(sums_of(PairAnswers(n_users, user, margin)), PAIR_METRICS, draws=100)["all", "worst_decile"]
    assert worst.value == statistics.fmean(u / 64 for u in range(size))


def test_a_resample_without_the_worst_users_goes_on_to_the_others() -> None:
    correct = np.arange(100, dtype=np.float64)[::-1]
    weights = np.zeros((2, 100))
    weights[0, :50] = 2
    weights[1, 90:] = 10
    expected = [sum(a * 2 for a in sorted(correct[:50] / 128)[:5]) / 10, correct[99] / 128]
    columns = {"correct": correct, "n": np.full(100, 128.0)}
    value = metric_by_id(PAIR_METRICS, "worst_decile").value
    assert value is not None
    assert value(Resamples({}, columns, weights)).tolist() == expected


def test_an_unknown_metric_is_named_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="accuracy"):
        metric_by_id(PAIR_METRICS, "acuracy")


@pytest.mark.parametrize("metrics", [CHOICE_METRICS, PAIR_METRICS])
def test_a_metric_is_a_mean_over_users_or_has_a_value(metrics: tuple) -> None:
    assert len({metric.id for metric in metrics}) == len(metrics)
    for metric in metrics:
        assert bool(metric.top) or metric.value is not None, metric.id
        assert not metric.pooled or metric.pooled in metric.top
