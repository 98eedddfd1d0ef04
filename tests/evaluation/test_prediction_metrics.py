"""The predict track's metrics against slow computations of the same, pair by pair and user by user."""

from __future__ import annotations

import dataclasses
import math
import statistics
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from personalllm.core.errors import AxisMismatch, ParameterError
from personalllm.core.seeding import generator
from personalllm.core.types import I32
from personalllm.evaluation.metrics import draw_metrics
from personalllm.evaluation.prediction.estimates import _worst_tenth, cell_difference, draw_cell, estimate_cell
from personalllm.evaluation.prediction.metrics import (
    HIGHER_IS_BETTER,
    N_BINS,
    PREDICTION_METRICS,
    USER_MEANS,
    Cell,
    PairSamples,
    best_of_n_regret,
    contested_quarter,
    kendall_tau,
    user_means,
    user_sums,
)
from personalllm.evaluation.results import METRICS

RMS = ("rm-a", "rm-b", "rm-c")
N_USERS = 37


def samples_of(seed: int = 0, n_users: int = N_USERS, n: int = 900, **changes: Any) -> PairSamples:
    """Pairs of users who have between none and many, with ties, in no order."""
    rng = np.random.default_rng(seed)
    user = rng.integers(0, n_users - 1, n).astype(np.int32)
    margin = (rng.normal(0.4, 1.5, n) * (rng.random(n) > 0.1)).astype(np.float32)
    made = PairSamples(
        n_users=n_users,
        user=user,
        margin=margin,
        regret=rng.exponential(1.0, n).astype(np.float32),
        tau=rng.uniform(-1, 1, n).astype(np.float32),
        share=rng.random(n).astype(np.float32),
        longer=rng.integers(-1, 2, n).astype(np.int8),
    )
    return dataclasses.replace(made, **changes)


def strongest_of(n_users: int = N_USERS) -> I32:
    """The last reward model is the strongest of three users only, too few for `minority`."""
    strongest = np.arange(n_users, dtype=np.int32) % 2
    strongest[[1, 5, 9]] = 2
    return strongest


def slow_metrics(samples: PairSamples, strongest: I32, users: list[int]) -> dict[tuple[str, str], float]:
    """Every metric of a multiset of users, by definition."""
    rows: dict[int, list[int]] = {u: [] for u in range(samples.n_users)}
    for i, u in enumerate(samples.user.tolist()):
        rows[u].append(i)
    margins = [float(m) for m in samples.margin]
    p = [1 / (1 + math.exp(-m)) for m in margins]
    right = [1.0 if m > 0 else 0.0 if m < 0 else 0.5 for m in margins]
    assert samples.regret is not None
    assert samples.tau is not None
    assert samples.share is not None
    assert samples.longer is not None
    of_pair = {
        "accuracy": right,
        "log_loss": [-math.log(q) for q in p],
        "brier": [(1 - q) ** 2 for q in p],
        "regret": samples.regret.tolist(),
        "tau": samples.tau.tolist(),
    }
    having = [u for u in users if rows[u]]

    def mean_over(metric: str, chosen: list[int]) -> float:
        return statistics.fmean(statistics.fmean(of_pair[metric][i] for i in rows[u]) for u in chosen)

    found = {("all", metric): mean_over(metric, having) for metric in USER_MEANS}
    pairs = [i for u in having for i in rows[u]]
    bins: dict[int, list[int]] = {}
    for i in pairs:
        bins.setdefault(min(int((max(p[i], 1 - p[i]) - 0.5) * 2 * N_BINS), N_BINS - 1), []).append(i)
    gaps = [abs(sum(max(p[i], 1 - p[i]) for i in b) - sum(right[i] for i in b)) for b in bins.values()]
    found["all", "ece"] = sum(gaps) / len(pairs)
    sides = [[right[i] for i in pairs if samples.longer[i] == sign] for sign in (1, -1)]
    found["all", "length_controlled"] = (statistics.fmean(sides[0]) + statistics.fmean(sides[1])) / 2
    each = sorted(statistics.fmean(right[i] for i in rows[u]) for u in having)
    found["all", "worst_decile"] = statistics.fmean(each[: math.ceil(len(each) / 10)])
    for q in range(1, 5):
        of = [i for i in pairs if min(int(samples.share[i] * 4), 3) + 1 == q]
        for metric in ("accuracy", "log_loss"):
            found[f"contested-{q}", metric] = statistics.fmean(of_pair[metric][i] for i in of)
    large = {rm for rm in range(3) if sum(strongest[u] == rm and bool(rows[u]) for u in range(samples.n_users)) >= 5}
    for rm, name in enumerate(RMS):
        group = [u for u in having if strongest[u] == rm]
        for metric in USER_MEANS:
            found[f"rm:{name}", metric] = mean_over(metric, group) if group else math.nan
    found["all", "minority"] = min(found[f"rm:{RMS[rm]}", "accuracy"] for rm in large)
    return found


@pytest.mark.parametrize("seed", range(4))
def test_every_metric_is_that_of_the_slow_computation(seed: int) -> None:
    samples = samples_of(seed)
    found = estimate_cell(user_sums(samples, strongest_of()), RMS, draws=100)
    expected = slow_metrics(samples, strongest_of(), list(range(N_USERS)))
    assert found.keys() == expected.keys()
    assert {key: e.value for key, e in found.items()} == pytest.approx(expected, abs=2e-6)
    assert {metric for stratum, metric in found if stratum == "all"} == set(PREDICTION_METRICS) == set(HIGHER_IS_BETTER)


def test_every_resample_is_that_of_the_slow_computation() -> None:
    samples, draws, seed = samples_of(5), 25, 11
    found = draw_cell(user_sums(samples, strongest_of()), RMS, draws=draws, seed=seed)
    drawn = generator(seed, "bootstrap", N_USERS).integers(0, N_USERS, (draws, N_USERS), dtype=np.int32)
    for place in range(draws):
        expected = slow_metrics(samples, strongest_of(), drawn[place].tolist())
        here = {key: values[place] for key, values in found.items()}
        assert here == pytest.approx(expected, abs=2e-6, nan_ok=True)


def test_the_resampled_users_are_those_of_the_other_tracks() -> None:
    sums = user_sums(samples_of(2, n=5_000, user=np.arange(5_000, dtype=np.int32) % N_USERS))
    accuracy = user_means(sums, "accuracy").astype(np.float32)
    names = (*METRICS[:-1], "population_best_utility", "oracle_utility")
    other = draw_metrics(dict.fromkeys(names, accuracy), draws=300, seed=4)["mean_utility"]
    np.testing.assert_allclose(draw_cell(sums, draws=300, seed=4)["all", "accuracy"], other, atol=1e-6)


def test_intervals_are_percentiles_and_contain_the_estimate() -> None:
    sums = user_sums(samples_of(3), strongest_of())
    found, drawn = estimate_cell(sums, RMS, draws=400, seed=2), draw_cell(sums, RMS, draws=400, seed=2)
    for key in (("all", "accuracy"), ("all", "length_controlled"), ("contested-2", "log_loss"), ("rm:rm-a", "tau")):
        assert (found[key].low, found[key].high) == tuple(np.quantile(drawn[key], (0.025, 0.975)))
    for metric in PREDICTION_METRICS:
        assert found["all", metric].low <= found["all", metric].value <= found["all", metric].high
    for metric in ("ece", "worst_decile", "minority"):
        shifted = drawn["all", metric] + (found["all", metric].value - drawn["all", metric].mean())
        assert found["all", metric].low == pytest.approx(max(0.0, np.quantile(shifted, 0.025)), abs=1e-9)


def test_the_interval_of_an_error_of_calibration_is_not_above_it() -> None:
    """Resampling adds noise to an absolute value: unshifted, the resamples lie above the estimate."""
    rng = np.random.default_rng(0)
    p = rng.uniform(0.5, 1, 4_000)
    sign = np.where(rng.random(4_000) < p, 1, -1)
    samples = PairSamples(200, np.repeat(np.arange(200, dtype=np.int32), 20), (sign * np.log(p / (1 - p))).astype("f4"))
    sums = user_sums(samples)
    found, drawn = estimate_cell(sums, draws=500)["all", "ece"], draw_cell(sums, draws=500, seed=0)["all", "ece"]
    assert np.quantile(drawn, 0.1) > found.value
    assert 0 <= found.low < found.value < found.high < 0.05


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.permutations(range(12)))
def test_the_order_of_users_and_pairs_changes_no_digit(seed: int, order: list[int]) -> None:
    samples = samples_of(seed, n_users=12, n=200)
    strongest = strongest_of(12)
    renamed = np.array(order, np.int32)
    pairs = np.random.default_rng(seed).permutation(200)
    columns = {name: getattr(samples, name)[pairs] for name in ("margin", "regret", "tau", "share", "longer")}
    moved = dataclasses.replace(samples, user=renamed[samples.user[pairs]], **columns)
    other = np.empty(12, np.int32)
    other[renamed] = strongest
    one, two = (
        {key: e.value for key, e in estimate_cell(user_sums(s, w), RMS, draws=100).items()}
        for s, w in ((samples, strongest), (moved, other))
    )
    assert one.keys() == two.keys()
    exact = [key for key in one if key[0] == "all" and key[1] in ("accuracy", "worst_decile", "minority")]
    assert [one[key] for key in exact] == [two[key] for key in exact]
    assert one == pytest.approx(two, abs=1e-6, nan_ok=True)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_turning_a_learner_round_turns_its_accuracy_round(seed: int) -> None:
    samples = samples_of(seed)
    turned = dataclasses.replace(samples, margin=-samples.margin)
    one, two = (user_means(user_sums(s), "accuracy") for s in (samples, turned))
    np.testing.assert_allclose(one + two, np.where(np.isnan(one), np.nan, 1.0))


def test_a_coin_is_calibrated_and_knows_nothing() -> None:
    samples = samples_of(1, margin=np.zeros(900, np.float32))
    found = estimate_cell(user_sums(samples, strongest_of()), RMS, draws=100)
    for metric in ("accuracy", "length_controlled", "worst_decile", "minority"):
        assert found["all", metric].value == 0.5
    assert found["all", "ece"].value == 0.0
    assert found["all", "brier"].value == 0.25
    assert found["all", "log_loss"].value == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize(
    ("margin", "loss", "correct"), [(math.inf, 0.0, 1.0), (-math.inf, 60.0, 0.0), (-1e30, 60.0, 0.0)]
)
def test_a_certain_learner_loses_no_more_than_sixty(margin: float, loss: float, correct: float) -> None:
    sums = user_sums(PairSamples(1, np.zeros(3, np.int32), np.full(3, margin, np.float32)))
    assert user_means(sums, "log_loss").tolist() == pytest.approx([loss], abs=1e-6)
    assert user_means(sums, "accuracy").tolist() == [correct]
    assert sums["bin14_n"].tolist() == [3.0]


def test_what_is_not_known_is_blank() -> None:
    samples = samples_of(0, regret=None, tau=None, share=None, longer=None, log_odds=False)
    found = estimate_cell(user_sums(samples), draws=100)
    known = {metric for (stratum, metric), e in found.items() if stratum == "all" and not math.isnan(e.value)}
    assert known == {"accuracy", "worst_decile"}
    assert all(math.isnan(e.value) for (stratum, _), e in found.items() if stratum != "all")
    blank = found["all", "log_loss"]
    assert math.isnan(blank.low)
    assert math.isnan(blank.high)
    nobody = PairSamples(3, np.empty(0, np.int32), np.empty(0, np.float32))
    assert all(math.isnan(e.value) for e in estimate_cell(user_sums(nobody), draws=100).values())


def test_who_knows_but_length_gets_one_half() -> None:
    longer = np.array([1, 1, 1, 1, -1, 0], np.int8)
    sums = user_sums(PairSamples(1, np.zeros(6, np.int32), longer.astype(np.float32), longer=longer))
    counted = {name: float(sums[name][0]) for name in ("longer_n", "longer_correct", "shorter_n", "shorter_correct")}
    assert counted == {"longer_n": 4, "longer_correct": 4, "shorter_n": 1, "shorter_correct": 0}
    found = estimate_cell(sums, draws=100)
    assert found["all", "length_controlled"].value == 0.5
    assert found["all", "accuracy"].value == pytest.approx(0.75)


def test_minority_needs_five_users() -> None:
    margin = np.where(np.arange(20) < 6, -1.0, 1.0).astype(np.float32)
    samples = PairSamples(20, np.arange(20, dtype=np.int32), margin)
    strongest = np.where(np.arange(20) < 4, 2, np.where(np.arange(20) < 10, 1, 0)).astype(np.int32)
    found = estimate_cell(user_sums(samples, strongest), RMS, draws=100)
    assert found["rm:rm-c", "accuracy"].value == 0.0
    assert found["all", "minority"].value == found["rm:rm-b", "accuracy"].value == pytest.approx(4 / 6, abs=1e-6)
    lone = estimate_cell(user_sums(samples, np.arange(20, dtype=np.int32) % 2 + 5), RMS, draws=100)
    assert math.isnan(lone["all", "minority"].value)


def test_users_without_pairs_are_of_no_group() -> None:
    user = np.array([0, 1, 2, 3, 5, 6, 7, 8, 9], np.int32)
    margin = np.where(user < 5, -1.0, 1.0).astype(np.float32)
    strongest = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2], np.int32)
    found = estimate_cell(user_sums(PairSamples(11, user, margin), strongest), RMS, draws=100)
    assert found["rm:rm-a", "accuracy"].value == 0.0
    assert found["all", "minority"].value == found["rm:rm-b", "accuracy"].value == 1.0
    assert ("rm:rm-c", "accuracy") not in found


@pytest.mark.parametrize(("n_users", "size"), [(1, 1), (10, 1), (11, 2), (40, 4), (41, 5)])
def test_the_worst_tenth_is_rounded_up_to_whole_users(n_users: int, size: int) -> None:
    user = np.repeat(np.arange(n_users, dtype=np.int32), 64)
    margin = np.where(np.tile(np.arange(64), n_users) < user, 1.0, -1.0).astype(np.float32)
    found = estimate_cell(user_sums(PairSamples(n_users, user, margin)), draws=100)["all", "worst_decile"]
    assert found.value == statistics.fmean(u / 64 for u in range(size))


def test_a_resample_without_the_worst_users_goes_on_to_the_others() -> None:
    accuracy = np.arange(100, dtype=np.float64)[::-1] / 128
    weights = np.zeros((2, 100))
    weights[0, :50] = 2
    weights[1, 90:] = 10
    expected = [sum(a * 2 for a in sorted(accuracy[:50])[:5]) / 10, accuracy[99]]
    assert _worst_tenth(accuracy, weights).tolist() == expected


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 9))
def test_tau_is_scipys(seed: int, n_responses: int) -> None:
    rng = np.random.default_rng(seed)
    rank, utility = (rng.integers(0, 4, (6, n_responses)).astype(np.float32) for _ in range(2))
    expected = [
        kendalltau(a, b).statistic if np.ptp(a) and np.ptp(b) else 0.0 for a, b in zip(rank, utility, strict=True)
    ]
    np.testing.assert_allclose(kendall_tau(rank, utility), expected, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_regret_is_the_mean_over_those_ranked_first(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rank = rng.integers(0, 3, (9, 5)).astype(np.float32)
    utility = rng.normal(size=(9, 5)).astype(np.float32)
    expected = [
        max(u) - statistics.fmean(x for r, x in zip(ranks, u, strict=True) if r == max(ranks))
        for ranks, u in zip(rank.tolist(), utility.tolist(), strict=True)
    ]
    found = best_of_n_regret(rank, utility)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (found >= 0).all()


def test_long_tables_of_ranks_are_cut_into_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rank, utility = (rng.normal(size=(50, 4)).astype(np.float32) for _ in range(2))
    whole = kendall_tau(rank, utility)
    monkeypatch.setattr("personalllm.evaluation.prediction.metrics._ROWS", 7)
    assert np.array_equal(kendall_tau(rank, utility), whole)


def test_blocks_of_resamples_change_no_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = user_sums(samples_of(6), strongest_of())
    whole = draw_cell(sums, RMS, draws=120, seed=0)
    monkeypatch.setattr("personalllm.evaluation.prediction.estimates._BLOCK", 5 * N_USERS)
    cut = draw_cell(sums, RMS, draws=120, seed=0)
    assert all(np.array_equal(whole[key], cut[key], equal_nan=True) for key in whole)


def test_the_quarters_of_contest() -> None:
    edges = np.array([0, 0.2499, 0.25, 0.4999, 0.5, 0.7499, 0.75, 1.0], np.float32)
    assert contested_quarter(edges).tolist() == [1, 1, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize("key", [("all", "accuracy"), ("all", "ece"), ("all", "minority"), ("contested-4", "accuracy")])
def test_a_difference_is_paired_by_user(key: tuple[str, str]) -> None:
    a, b = (user_sums(samples_of(s, user=samples_of(0).user), strongest_of()) for s in (1, 2))
    found = cell_difference(a, b, key, RMS, draws=300, seed=3)
    one, two = (draw_cell(s, RMS, draws=300, seed=3)[key] for s in (a, b))
    values = [estimate_cell(s, RMS, draws=100)[key].value for s in (a, b)]
    assert found.value == values[0] - values[1]
    gap = one - two
    shift = found.value - gap.mean() if key[1] in ("ece", "minority") else 0.0
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(gap + shift, (0.025, 0.975))), abs=1e-9)
    alike = cell_difference(a, a, key, RMS, draws=300, seed=3)
    assert (alike.value, alike.low, alike.high) == (0.0, 0.0, 0.0)


def test_other_users_are_not_compared() -> None:
    a, b = (user_sums(samples_of(s)) for s in (1, 2))
    with pytest.raises(AxisMismatch, match="the same users and test pairs"):
        cell_difference(a, b, ("all", "accuracy"), draws=100, seed=0)


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"margin": np.zeros(3, np.float32)}, AxisMismatch, r"900 users of test pairs but margin of shape \(3,\)"),
    ({"tau": np.zeros((900, 1), np.float32)}, AxisMismatch, r"tau of shape \(900, 1\)"),
    ({"margin": np.full(900, np.nan, np.float32)}, ParameterError, "margin must be without NaN"),
    ({"user": np.full(900, 37, np.int32)}, ParameterError, r"user must be in \[0, 37\)"),
    ({"user": np.full(900, -1, np.int32)}, ParameterError, "user must be in"),
]


@pytest.mark.parametrize(("changes", "kind", "message"), BAD)
def test_bad_samples_are_refused(changes: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        samples_of(**changes)


def test_a_metric_of_no_users_own_mean_is_refused() -> None:
    with pytest.raises(ParameterError, match="metric must be one of accuracy, log_loss, brier, regret, tau, got 'ece'"):
        user_means(user_sums(samples_of()), "ece")


def test_cells_are_json() -> None:
    cell = Cell("unseen", "seen", "flipped", 4)
    assert Cell.from_spec(cell.spec()) == cell
    assert str(cell) == "unseen users, seen prompts, flipped history, 4 shots"
