"""Histories that are not the user's own: exactly what changes, and that nothing else does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personalllm.core.errors import ParameterError
from personalllm.core.seeding import derive_seed
from personalllm.core.types import Histories
from personalllm.data import Benchmark, make_synthetic
from personalllm.evaluation import Protocol, evaluate
from personalllm.evaluation.estimates import difference
from personalllm.evaluation.sources.counterfactual import partners
from personalllm.evaluation.sources.simulated import Simulated
from personalllm.testing import HashEmbedder
from personalllm.users import utilities

KINDS = ("other-user", "flipped", "shuffled")
RULES = ("random", "nearest")
COLUMNS = ("user", "prompt", "chosen", "rejected")


def users_of(benchmark: Benchmark, kind: str = "none", **overrides: Any) -> Simulated:
    knobs: dict[str, Any] = {"n_users": 40, "pool_users": 6, "prompts_per_user": 1, "counterfactual": kind, "seed": 3}
    return Simulated(Protocol.for_benchmark(benchmark, **(knobs | overrides)), benchmark)


def drawn(users: Simulated, rule: Any) -> Histories:
    return users.histories(rule, HashEmbedder())


def columns(histories: Histories, *names: str) -> list[list[int]]:
    return [getattr(histories, name).tolist() for name in names or COLUMNS]


@given(n_users=st.integers(2, 60), seed=st.integers(0, 10_000))
def test_nobody_is_their_own_partner(n_users: int, seed: int) -> None:
    partner = partners(n_users, seed)
    assert partner.dtype == np.int32
    assert sorted(partner.tolist()) == list(range(n_users))
    assert not np.any(partner == np.arange(n_users))


def test_every_other_user_is_as_likely_a_partner() -> None:
    counts = Counter(int(partners(5, seed)[1]) for seed in range(4000))
    assert set(counts) == {0, 2, 3, 4}
    assert all(abs(count - 1000) < 5 * np.sqrt(750) for count in counts.values())


def test_one_user_has_no_partner(benchmark_: Benchmark) -> None:
    with pytest.raises(ParameterError, match="another user"):
        partners(1, 0)
    for overrides in ({"n_users": 1}, {"population": {"kind": "uniform"}}):
        with pytest.raises(ParameterError, match=r"history\.counterfactual must be another one where there is only"):
            users_of(benchmark_, "other-user", **overrides)
    assert len(drawn(users_of(benchmark_, "flipped", n_users=1), "random")) == 5


@pytest.mark.parametrize("rule", RULES)
def test_another_user_answers_the_same_prompts(benchmark_: Benchmark, rule: str) -> None:
    true, other = (users_of(benchmark_, kind) for kind in ("none", "other-user"))
    own, given_ = drawn(true, rule), drawn(other, rule)
    assert columns(own, "user", "prompt") == columns(given_, "user", "prompt")
    partner = partners(40, derive_seed(3, "partners"))
    values = utilities(true.full_population, true.table, partner[given_.user], given_.prompt)
    for column, best in (("chosen", values.argmax(axis=1)), ("rejected", values.argmin(axis=1))):
        assert true.view.to_responses(given_.prompt, getattr(given_, column)).tolist() == best.tolist()
    changed = np.mean(own.chosen != given_.chosen)
    assert 0.2 < changed < 0.95


def test_the_partner_is_the_same_for_both_kinds_of_history(benchmark_: Benchmark) -> None:
    knobs = {"pairs": 24, "nearest": 24}
    random, nearest = (drawn(users_of(benchmark_, "other-user", **knobs), rule) for rule in RULES)

    def answers(histories: Histories) -> dict[tuple[int, int], int]:
        rows = zip(*columns(histories, "user", "prompt", "chosen"), strict=True)
        return {(user, prompt): chosen for user, prompt, chosen in rows}

    assert answers(random) == answers(nearest)


@pytest.mark.parametrize("rule", RULES)
def test_flipped_swaps_chosen_and_rejected(benchmark_: Benchmark, rule: str) -> None:
    own, given_ = (drawn(users_of(benchmark_, kind), rule) for kind in ("none", "flipped"))
    assert columns(own) == columns(given_, "user", "prompt", "rejected", "chosen")


@pytest.mark.parametrize("rule", RULES)
def test_shuffled_keeps_the_prompts_and_draws_the_pairs(benchmark_: Benchmark, rule: str) -> None:
    own, given_ = (drawn(users_of(benchmark_, kind, n_users=2000), rule) for kind in ("none", "shuffled"))
    assert columns(own, "user", "prompt") == columns(given_, "user", "prompt")
    counts = Counter(zip(*columns(given_, "chosen", "rejected"), strict=True))
    assert set(counts) == {(i, j) for i in range(5) for j in range(5) if i != j}
    expected = len(given_) / 20
    assert all(abs(count - expected) < 5 * np.sqrt(expected) for count in counts.values())
    again = drawn(users_of(benchmark_, "shuffled", n_users=2000), rule)
    assert columns(again) == columns(given_)
    agree = np.mean(own.chosen == given_.chosen)
    assert abs(agree - 0.2) < 5 * np.sqrt(0.16 / len(own))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_limit_changes_no_draw(benchmark_: Benchmark, kind: str, rule: str) -> None:
    whole = drawn(users_of(benchmark_, kind), rule)
    first = drawn(users_of(benchmark_, kind, limit=7), rule)
    assert first.n_users == 7
    keep = whole.user < 7
    assert columns(first) == [getattr(whole, name)[keep].tolist() for name in COLUMNS]


@pytest.mark.parametrize("kind", KINDS)
def test_everything_else_is_the_true_runs(benchmark_: Benchmark, kind: str) -> None:
    true, users = users_of(benchmark_), users_of(benchmark_, kind)
    assert true.protocol.fingerprint != users.protocol.fingerprint
    assert columns(true.pool) == columns(users.pool)
    assert np.array_equal(true.prompts, users.prompts)
    assert np.array_equal(true.population.weights, users.population.weights)
    assert np.array_equal(true.view.order, users.view.order)
    assert np.array_equal(true.utilities(*true.query_rows(0, 40)), users.utilities(*users.query_rows(0, 40)))


def test_ties_stay_out_whatever_is_drawn(benchmark_: Benchmark) -> None:
    knobs = {"feedback": {"pairs": "random", "tie_margin": 0.5}, "pairs": 20}
    own = drawn(users_of(benchmark_, **knobs), "random")
    assert 0 < len(own) < 800
    for kind in ("flipped", "shuffled"):
        assert columns(drawn(users_of(benchmark_, kind, **knobs), "random"), "user", "prompt") == columns(
            own, "user", "prompt"
        )


def test_the_noise_of_the_feedback_stays(benchmark_: Benchmark) -> None:
    noisy = {"feedback": {"flip": 0.3}}
    own, flipped = (drawn(users_of(benchmark_, kind, **noisy), "random") for kind in ("none", "flipped"))
    assert columns(own) == columns(flipped, "user", "prompt", "rejected", "chosen")
    assert columns(own) != columns(drawn(users_of(benchmark_), "random"))


def test_a_ranker_loses_by_a_counterfactual_history(make_benchmark: Callable[..., Benchmark]) -> None:
    benchmark = make_benchmark(n_train=60, n_test=20)
    knobs: dict[str, Any] = {"n_users": 60, "pool_users": 10, "pairs": 20, "bootstrap_draws": 200}
    found = {
        kind: evaluate(
            ["embedding-ranker", "random"],
            benchmark,
            protocol=Protocol.for_benchmark(benchmark, counterfactual=kind, **knobs),
            embedder=HashEmbedder(),
        )
        for kind in ("none", *KINDS)
    }
    assert len({results.fingerprint for results in found.values()}) == 4
    true = found["none"]
    for kind in KINDS:
        assert np.array_equal(true.per_user("random", "utility"), found[kind].per_user("random", "utility"))
        sums = [results.sums("embedding-ranker") for results in (true, found[kind])]
        assert difference(*sums, true.metric("utility"), draws=500, seed=0)[0].low > 0, kind
    mean = {kind: results.estimate("embedding-ranker", "utility").value for kind, results in found.items()}
    assert mean["flipped"] < mean["shuffled"] < mean["none"]


def test_the_generate_track_sends_the_counterfactual_history(benchmark_: Benchmark, standins: Any) -> None:
    knobs: dict[str, Any] = {"n_users": 9, "pool_users": 5, "max_tokens": 8, "bootstrap_draws": 100}
    own, flipped = (
        evaluate(
            ["icl[feedback=winning]"],
            benchmark_,
            protocol=Protocol.for_benchmark(benchmark_, track="generate", counterfactual=kind, **knobs),
            **standins,
        )
        .samples("icl")
        .to_pylist()
        for kind in ("none", "flipped")
    )
    for mine, other in zip(own, flipped, strict=True):
        assert (mine["user"], mine["prompt_id"]) == (other["user"], other["prompt_id"])
        swapped = [{"prompt": p["prompt"], "chosen": p["rejected"], "rejected": p["chosen"]} for p in other["history"]]
        assert mine["history"] == swapped
        chosen = {pair["rejected"] for pair in other["history"]}
        assert sum(text in mine["messages"][0]["content"] for text in chosen) >= 3
        assert mine["messages"] != other["messages"]


def test_the_synthetic_takes_counterfactuals_of_any_size() -> None:
    synthetic = make_synthetic(60, seed=1)
    users = Simulated(
        Protocol.for_benchmark(synthetic, n_users=3000, pool_users=1, counterfactual="shuffled"), synthetic
    )
    histories = users.histories("random")
    assert len(histories) == 15_000
    assert not np.any(histories.chosen == histories.rejected)
