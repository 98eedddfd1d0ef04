"""What the predict track draws of simulated users: who, which comparisons are known, which are to be predicted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personalllm.data import Benchmark
from personalllm.evaluation import Protocol
from personalllm.evaluation.sources.pairs import Pairs
from personalllm.evaluation.sources.simulated import Simulated

SMALL: dict[str, Any] = {"n_users": 30, "pool_users": 20, "pool_pairs": 10, "bootstrap_draws": 100}


@pytest.fixture(scope="module")
def smooth(make_benchmark: Callable[..., Benchmark]) -> Benchmark:
    """The same texts with scores that never tie."""
    tiny = make_benchmark()
    texts = [[tiny.response(row, r) for r in range(5)] for row in range(32)]
    return Benchmark.from_arrays(
        name="smooth",
        prompt_ids=tiny.prompt_ids.to_pylist(),
        prompts=tiny.prompts.to_pylist(),
        subsets=["s"] * 32,
        splits=["train"] * 24 + ["test"] * 8,
        responses=texts,
        response_models=list(tiny.response_models),
        reward_models=["a", "b", "c", "d"],
        scores=np.random.default_rng(5).normal(size=(32, 5, 4)),
    )


def pairs_of(benchmark: Benchmark, **overrides: Any) -> Pairs:
    knobs = SMALL | {"seen_users": 12, "shots": (0, 1, 3, 8)} | overrides
    protocol = Protocol.for_benchmark(benchmark, track="predict", **knobs)
    return Pairs(Simulated(protocol, benchmark), protocol.options)


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 1000),
    most=st.integers(0, 12),
    pool_pairs=st.integers(1, 12),
    test_pairs=st.sampled_from([1, 5, 8, None]),
    pairs=st.sampled_from(["best-vs-worst", "random", "contested"]),
    flip=st.sampled_from([0.0, 0.4]),
)
def test_what_is_predicted_was_never_compared(
    smooth: Benchmark, seed: int, most: int, pool_pairs: int, test_pairs: int | None, pairs: str, flip: float
) -> None:
    pairs = pairs_of(
        smooth,
        seed=seed,
        shots=(0, most),
        pool_pairs=pool_pairs,
        test_pairs=test_pairs,
        feedback={"pairs": pairs, "flip": flip},
    )
    train, test = (set(smooth.rows(split).tolist()) for split in ("train", "test"))
    pool = pairs.source.pool
    for kind, group in pairs.groups.items():
        for prompts, tests in group.tests.items():
            assert set(tests.prompt.tolist()) <= (test if prompts == "unseen" else train)
            assert (np.diff(tests.user) >= 0).all()
            counted = np.bincount(tests.user, minlength=group.n_users)
            left = {"unseen": 8, "seen": 24 - (most if kind == "unseen" else pool_pairs)}[prompts]
            assert (counted == (test_pairs or left)).all()
            for user in range(group.n_users):
                asked = tests.prompt[tests.user == user].tolist()
                assert len(set(asked)) == len(asked)
                for histories in group.histories.values():
                    assert not set(asked) & set(histories.prompt[histories.user == user].tolist())
                if kind == "seen":
                    assert not set(asked) & set(pool.prompt[pool.user == user].tolist())


def test_histories_are_nested(smooth: Benchmark) -> None:
    for group in pairs_of(smooth).groups.values():
        assert group.shots == (0, 1, 3, 8)
        for history in group.histories:
            whole = group.histories[history]
            for k in group.shots:
                part = group.histories[history].of_users(5, 9).first(k)
                assert part.n_users == 4
                assert np.bincount(part.user, minlength=4).tolist() == [k] * 4
                for user in range(4):
                    for column in ("prompt", "chosen", "rejected"):
                        ours = getattr(part, column)[part.user == user]
                        assert np.array_equal(ours, getattr(whole, column)[whole.user == user + 5][:k])


def test_fewer_shots_change_nothing_of_the_pairs_to_predict(smooth: Benchmark) -> None:
    many, few = pairs_of(smooth, test_pairs=4), pairs_of(smooth, shots=(0, 1), test_pairs=4)
    for kind, prompts in (("unseen", "unseen"), ("seen", "unseen"), ("seen", "seen")):
        a, b = many.groups[kind].tests[prompts], few.groups[kind].tests[prompts]
        assert all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("prompt", "chosen", "rejected"))


def test_a_limit_takes_the_first_users_and_changes_nothing_about_them(smooth: Benchmark) -> None:
    whole, part = pairs_of(smooth).groups["unseen"], pairs_of(smooth, limit=7).groups["unseen"]
    assert part.n_users == 7
    for prompts, tests in part.tests.items():
        assert np.array_equal(tests.prompt, whole.tests[prompts].of_users(0, 7).prompt)
        assert np.array_equal(tests.chosen, whole.tests[prompts].of_users(0, 7).chosen)
    for history in part.histories:
        assert np.array_equal(part.histories[history].chosen, whole.histories[history].of_users(0, 7).first(8).chosen)


def test_seen_users_are_in_the_pool_and_unseen_ones_are_not(smooth: Benchmark) -> None:
    pairs = pairs_of(smooth)
    seen, unseen, pool = pairs.groups["seen"], pairs.groups["unseen"], pairs.source.pool
    assert np.array_equal(seen.population.weights, pairs.source.pool_population.weights[:12])
    theirs = pool.user < 12
    for column in ("user", "prompt", "chosen", "rejected"):
        assert np.array_equal(getattr(seen.histories["true"], column), getattr(pool, column)[theirs])
    gap = np.abs(unseen.population.weights[:, None] - pairs.source.pool_population.weights[None]).sum(axis=2)
    assert gap.min() > 0
    rank = Simulated(Protocol.for_benchmark(smooth, **SMALL, pairs=8), smooth)
    assert np.array_equal(unseen.histories["true"].chosen, rank.histories("random").chosen)


def test_shots_that_a_seen_user_does_not_have_are_left_out(smooth: Benchmark) -> None:
    pairs = pairs_of(smooth, pool_pairs=4)
    assert pairs.groups["seen"].shots == (0, 1, 3)
    assert pairs.groups["unseen"].shots == (0, 1, 3, 8)
    shots = {(c.users, c.history): [] for c in pairs.conditions}
    for condition in pairs.conditions:
        if condition.prompts == "seen":
            shots[condition.users, condition.history].append(condition.shots)
    assert shots == {
        ("unseen", "true"): [0, 1, 3, 8],
        ("unseen", "flipped"): [8],
        ("unseen", "other-user"): [8],
        ("seen", "true"): [0, 1, 3],
        ("seen", "flipped"): [3],
        ("seen", "other-user"): [3],
    }
    assert {c.history for c in pairs_of(smooth, shots=(0,)).conditions} == {"true"}


def test_counterfactual_histories_are_of_the_same_prompts(smooth: Benchmark) -> None:
    pairs = pairs_of(smooth, feedback={"pairs": "random"}, alpha=0.02)
    for group in pairs.groups.values():
        true, flipped, other = (group.histories[kind] for kind in ("true", "flipped", "other-user"))
        assert np.array_equal(true.prompt, flipped.prompt)
        assert np.array_equal(true.prompt, other.prompt)
        assert np.array_equal(true.chosen, flipped.rejected)
        assert np.array_equal(true.rejected, flipped.chosen)
        same = true.chosen == other.chosen
        assert 0.2 < same.mean() < 0.9
        shown = [np.sort(np.stack([h.chosen, h.rejected]), axis=0) for h in (true, other)]
        assert np.array_equal(*shown)


def gaps(pairs: Pairs, kind: Any = "unseen", prompts: Any = "unseen") -> np.ndarray:
    group = pairs.groups[kind]
    tests = group.tests[prompts]
    values, at = pairs.utilities(group.population, tests), np.arange(len(tests))
    return values[at, tests.chosen] - values[at, tests.rejected]


@pytest.mark.parametrize("noise", [{"flip": 0.5}, {"temperature": 3.0}])
def test_noise_is_in_the_histories_and_in_the_outcome_only_if_asked_for(
    smooth: Benchmark, noise: dict[str, float]
) -> None:
    feedback = {"pairs": "random", **noise}
    clean = pairs_of(smooth, feedback=feedback)
    drawn = pairs_of(smooth, feedback=feedback, prediction={"outcome": "drawn"})
    for kind in ("unseen", "seen"):
        for prompts in ("unseen", "seen"):
            assert (gaps(clean, kind, prompts) > 0).all()
            assert 0.05 < (gaps(drawn, kind, prompts) < 0).mean() < 0.95
    one, other = (pairs.groups["unseen"].tests["unseen"] for pairs in (clean, drawn))
    shown = [np.sort(np.stack([tests.chosen, tests.rejected]), axis=0) for tests in (one, other)]
    assert np.array_equal(*shown)
    noisy = clean.groups["unseen"].histories["true"]
    true = pairs_of(smooth, feedback={"pairs": "random"}).groups["unseen"].histories["true"]
    assert 0.05 < (noisy.chosen != true.chosen).mean() < 0.95


def test_test_pairs_follow_the_pair_rule(smooth: Benchmark) -> None:
    pairs = pairs_of(smooth)
    group = pairs.groups["unseen"]
    tests = group.tests["seen"]
    values = pairs.utilities(group.population, tests)
    assert np.array_equal(tests.chosen, values.argmax(axis=1))
    assert np.array_equal(tests.rejected, values.argmin(axis=1))


def test_ties_are_not_predicted(smooth: Benchmark) -> None:
    pairs = pairs_of(smooth, feedback={"pairs": "random", "tie_margin": 0.4})
    assert (gaps(pairs) > 0.4).all()
    assert len(gaps(pairs)) < 30 * 8


def test_preferences_are_put_into_the_benchmarks_order(smooth: Benchmark) -> None:
    pairs = pairs_of(smooth)
    tests = pairs.groups["unseen"].tests["unseen"]
    corpus = pairs.source.view.corpus
    by_column = np.float32([[len(text) for text in corpus.responses[row]] for row in tests.prompt])
    assert np.array_equal(pairs.by_response(tests, by_column), pairs.response_lengths[tests.prompt])
    texts = [[len(smooth.response(int(row), r)) for r in range(5)] for row in tests.prompt]
    assert pairs.response_lengths[tests.prompt].tolist() == texts


def test_signals_are_the_scores_of_the_corpus_columns(smooth: Benchmark) -> None:
    assert pairs_of(smooth).signals is None
    pairs = pairs_of(smooth, prediction={"reward_signals": True})
    signals = pairs.signals
    assert signals is not None
    assert signals.reward_models == smooth.reward_models
    prompts, columns = np.int32([3, 3, 17]), np.uint8([0, 4, 2])
    found = signals.vectors(prompts, columns)
    for row, (prompt, column) in enumerate(zip(prompts.tolist(), columns.tolist(), strict=True)):
        text = pairs.source.view.corpus.responses[prompt][column]
        (place,) = [r for r in range(5) if smooth.response(prompt, r) == text]
        assert np.array_equal(found[row], pairs.source.table.values[prompt, place])
    assert found.dtype == np.float32
    assert smooth.fingerprint in signals.identity
