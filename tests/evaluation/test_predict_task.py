"""What the predict track draws: who, which comparisons are known, which are to be predicted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from personalllm.evaluation.prediction.task import PredictionTask
from personalllm.evaluation.task import Task

from personalllm.core.errors import ParameterError, UserError
from personalllm.data import Benchmark
from personalllm.evaluation import PredictionSpec, Protocol
from personalllm.evaluation.settings import merge

KNOWN_FINGERPRINTS: list[tuple[dict[str, Any], str]] = [
    ({}, "70e015568a48827d"),
    ({"track": "generate"}, "f891b6585b2b907d"),
    ({"n_users": 40, "pairs": 3, "alpha": 0.1, "seed": 4}, "2f1131a45f6ec129"),
    ({"track": "generate", "max_tokens": 12, "counterfactual": "flipped"}, "16841288a728e366"),
]
"""Of protocols made before there was a predict track."""

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


def small(benchmark: Benchmark, **overrides: Any) -> Protocol:
    return Protocol.for_benchmark(
        benchmark, track="predict", **(SMALL | {"seen_users": 12, "shots": (0, 1, 3, 8)}) | overrides
    )


def task_of(benchmark: Benchmark, **overrides: Any) -> PredictionTask:
    return PredictionTask(small(benchmark, **overrides), benchmark)


@pytest.mark.parametrize(("overrides", "fingerprint"), KNOWN_FINGERPRINTS, ids=str)
def test_older_protocols_keep_their_fingerprints(
    benchmark_: Benchmark, overrides: dict[str, Any], fingerprint: str
) -> None:
    protocol = Protocol.for_benchmark(benchmark_, **overrides)
    assert protocol.fingerprint == fingerprint
    assert "prediction" not in protocol.spec()
    assert Protocol.from_spec(protocol.spec()) == protocol


def test_a_protocol_of_the_predict_track_is_replayable(benchmark_: Benchmark) -> None:
    protocol = small(benchmark_)
    assert Protocol.from_spec(protocol.spec()) == protocol
    assert protocol.spec()["prediction"]["shots"] == [0, 1, 3, 8]
    assert (protocol.history.pairs, protocol.history.nearest) == (8, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"shots": (0, 1, 3, 7)},
        {"test_pairs": 3},
        {"seen_users": 5},
        {"prediction": {"users": ("unseen",)}},
        {"prediction": {"prompts": ("unseen",)}},
        {"prediction": {"counterfactuals": ()}},
        {"prediction": {"outcome": "drawn"}},
        {"prediction": {"reward_signals": True}},
    ],
    ids=str,
)
def test_whatever_could_change_a_number_changes_the_fingerprint(benchmark_: Benchmark, change: dict[str, Any]) -> None:
    assert small(benchmark_, **change).fingerprint != small(benchmark_).fingerprint


def test_the_order_in_which_things_are_listed_does_not_count(benchmark_: Benchmark) -> None:
    listed = {"users": ("seen", "unseen"), "prompts": ("seen", "unseen"), "counterfactuals": ("other-user", "flipped")}
    other = small(benchmark_, shots=(8, 3, 1, 0, 3), prediction=listed)
    assert other.fingerprint == small(benchmark_).fingerprint


def test_defaults_shrink_to_the_benchmark(benchmark_: Benchmark, make_benchmark: Callable[..., Benchmark]) -> None:
    protocol = Protocol.for_benchmark(benchmark_, track="predict")
    assert protocol.prediction == PredictionSpec(shots=(0, 1, 2, 4, 8), test_pairs=8)
    assert (protocol.pool.n_users, protocol.pool.pairs_per_user) == (1000, 12)
    large = Protocol.for_benchmark(make_benchmark(n_train=128, n_test=20), track="predict")
    assert large.prediction == PredictionSpec()
    assert large.pool.pairs_per_user == 50
    tiny = Protocol.for_benchmark(make_benchmark(n_train=2, n_test=1), track="predict", n_users=1, pool_users=0)
    assert tiny.prediction == PredictionSpec(
        shots=(0, 1), test_pairs=1, users=("unseen",), counterfactuals=("flipped",)
    )
    assert len(PredictionTask(tiny, make_benchmark(n_train=2, n_test=1)).groups["unseen"].tests["seen"]) == 1


BAD: list[tuple[dict[str, Any], str]] = [
    ({"pairs": 3}, r"history.pairs must be left out in the predict track, see prediction.shots, got 3"),
    ({"counterfactual": "flipped"}, r"history.counterfactual must be left out .* see prediction.counterfactuals"),
    ({"prompts_per_user": 2}, r"prompts_per_user must be left out in the predict track, see prediction.test_pairs"),
    ({"shots": (0, 25), "test_pairs": 1}, r"prediction.shots must be at most the prompts of the history split \(24\)"),
    ({"shots": (0, 20), "test_pairs": 5}, r"test_pairs must be at most the seen prompts that a user has left \(4\)"),
    ({"pool_pairs": 22, "test_pairs": 5}, r"test_pairs must be at most the seen prompts that a user has left \(2\)"),
    ({"test_pairs": 9}, r"prediction.test_pairs must be at most the unseen prompts that a user has left \(8\), got 9"),
    ({"seen_users": 21}, r"prediction.n_seen_users must be at most the users of the pool \(20\), got 21"),
    ({"shots": (-1,)}, r"prediction.shots.* must be greater than or equal to 0, got -1"),
    ({"shots": ()}, r"prediction.shots"),
    ({"max_tokens": 5}, r"generation must be left out in the predict track"),
    ({"n_users": 1, "prediction": {"counterfactuals": ("other-user",)}}, r"without other-user for one user"),
    ({"prediction": {"shotz": 1}}, r"prediction.shotz must be a field of the protocol \(prediction.shots, "),
]


@pytest.mark.parametrize(("overrides", "message"), BAD, ids=lambda value: str(value)[:40])
def test_bad_values_are_named(benchmark_: Benchmark, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        small(benchmark_, **overrides)


@pytest.mark.parametrize("track", ["rank", "generate"])
def test_prediction_belongs_to_its_track(benchmark_: Benchmark, track: Any) -> None:
    with pytest.raises(ParameterError, match=f"prediction must be left out in the {track} track"):
        Protocol.for_benchmark(benchmark_, track=track, shots=(0, 1))
    spec = Protocol.for_benchmark(benchmark_, track=track).spec() | {"prediction": {}}
    with pytest.raises(ParameterError, match="prediction must be given in the predict track, and only there"):
        Protocol.from_spec(spec).check(benchmark_)
    with pytest.raises(UserError, match=f"of the {track} track"):
        PredictionTask(Protocol.for_benchmark(benchmark_, track=track), benchmark_)


def test_a_changed_protocol_takes_its_history_from_the_new_shots(benchmark_: Benchmark) -> None:
    protocol = small(benchmark_).changed(benchmark_, shots=(0, 5))
    assert (protocol.history.pairs, protocol.population.n_users) == (5, 30)
    rank = protocol.changed(benchmark_, track="rank")
    assert (rank.prediction, rank.history.pairs, rank.population.n_users) == (None, 5, 30)
    assert merge({"track": "predict", "shots": (1,)}, {"track": "rank"}) == {"track": "rank"}


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
    task = task_of(
        smooth,
        seed=seed,
        shots=(0, most),
        pool_pairs=pool_pairs,
        test_pairs=test_pairs,
        feedback={"pairs": pairs, "flip": flip},
    )
    train, test = (set(smooth.rows(split).tolist()) for split in ("train", "test"))
    pool = task.task.pool
    for kind, group in task.groups.items():
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
    for group in task_of(smooth).groups.values():
        assert group.shots == (0, 1, 3, 8)
        for history in group.histories:
            whole = group.histories[history]
            for k in group.shots:
                part = group.prefix(history, k, 5, 9)
                assert part.n_users == 4
                assert np.bincount(part.user, minlength=4).tolist() == [k] * 4
                for user in range(4):
                    for column in ("prompt", "chosen", "rejected"):
                        ours = getattr(part, column)[part.user == user]
                        assert np.array_equal(ours, getattr(whole, column)[whole.user == user + 5][:k])


def test_fewer_shots_change_nothing_of_the_pairs_to_predict(smooth: Benchmark) -> None:
    many, few = task_of(smooth, test_pairs=4), task_of(smooth, shots=(0, 1), test_pairs=4)
    for kind, prompts in (("unseen", "unseen"), ("seen", "unseen"), ("seen", "seen")):
        a, b = many.groups[kind].tests[prompts], few.groups[kind].tests[prompts]  # type: ignore[index]
        assert all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("prompt", "chosen", "rejected"))


def test_a_limit_takes_the_first_users_and_changes_nothing_about_them(smooth: Benchmark) -> None:
    whole, part = task_of(smooth).groups["unseen"], task_of(smooth, limit=7).groups["unseen"]
    assert part.n_users == 7
    for prompts, tests in part.tests.items():
        assert np.array_equal(tests.prompt, whole.tests[prompts].of_users(0, 7).prompt)
        assert np.array_equal(tests.chosen, whole.tests[prompts].of_users(0, 7).chosen)
    for history in part.histories:
        assert np.array_equal(part.histories[history].chosen, whole.prefix(history, 8, 0, 7).chosen)


def test_seen_users_are_in_the_pool_and_unseen_ones_are_not(smooth: Benchmark) -> None:
    task = task_of(smooth)
    seen, unseen, pool = task.groups["seen"], task.groups["unseen"], task.task.pool
    assert np.array_equal(seen.population.weights, task.task.others.weights[:12])
    theirs = pool.user < 12
    for column in ("user", "prompt", "chosen", "rejected"):
        assert np.array_equal(getattr(seen.histories["true"], column), getattr(pool, column)[theirs])
    gap = np.abs(unseen.population.weights[:, None] - task.task.others.weights[None]).sum(axis=2)
    assert gap.min() > 0
    rank = Task(Protocol.for_benchmark(smooth, **SMALL, pairs=8), smooth)
    assert np.array_equal(unseen.histories["true"].chosen, rank.histories("random").chosen)


def test_shots_that_a_seen_user_does_not_have_are_left_out(smooth: Benchmark) -> None:
    task = task_of(smooth, pool_pairs=4)
    assert task.groups["seen"].shots == (0, 1, 3)
    assert task.groups["unseen"].shots == (0, 1, 3, 8)
    shots = {(cell.users, cell.history): [] for cell in task.cells}
    for cell in task.cells:
        if cell.prompts == "seen":
            shots[cell.users, cell.history].append(cell.shots)
    assert shots == {
        ("unseen", "true"): [0, 1, 3, 8],
        ("unseen", "flipped"): [8],
        ("unseen", "other-user"): [8],
        ("seen", "true"): [0, 1, 3],
        ("seen", "flipped"): [3],
        ("seen", "other-user"): [3],
    }
    assert {cell.history for cell in task_of(smooth, shots=(0,)).cells} == {"true"}


def test_counterfactual_histories_are_of_the_same_prompts(smooth: Benchmark) -> None:
    task = task_of(smooth, feedback={"pairs": "random"}, alpha=0.02)
    for group in task.groups.values():
        true, flipped, other = (group.histories[kind] for kind in ("true", "flipped", "other-user"))
        assert np.array_equal(true.prompt, flipped.prompt)
        assert np.array_equal(true.prompt, other.prompt)
        assert np.array_equal(true.chosen, flipped.rejected)
        assert np.array_equal(true.rejected, flipped.chosen)
        same = true.chosen == other.chosen
        assert 0.2 < same.mean() < 0.9
        shown = [np.sort(np.stack([h.chosen, h.rejected]), axis=0) for h in (true, other)]
        assert np.array_equal(*shown)


def gaps(task: PredictionTask, kind: Any = "unseen", prompts: Any = "unseen") -> np.ndarray:
    group = task.groups[kind]
    tests = group.tests[prompts]
    values, at = task.utilities(group.population, tests), np.arange(len(tests))
    return values[at, tests.chosen] - values[at, tests.rejected]


@pytest.mark.parametrize("noise", [{"flip": 0.5}, {"temperature": 3.0}])
def test_noise_is_in_the_histories_and_in_the_outcome_only_if_asked_for(
    smooth: Benchmark, noise: dict[str, float]
) -> None:
    feedback = {"pairs": "random", **noise}
    clean = task_of(smooth, feedback=feedback)
    drawn = task_of(smooth, feedback=feedback, prediction={"outcome": "drawn"})
    for kind in ("unseen", "seen"):
        for prompts in ("unseen", "seen"):
            assert (gaps(clean, kind, prompts) > 0).all()
            assert 0.05 < (gaps(drawn, kind, prompts) < 0).mean() < 0.95
    one, other = (task.groups["unseen"].tests["unseen"] for task in (clean, drawn))
    shown = [np.sort(np.stack([tests.chosen, tests.rejected]), axis=0) for tests in (one, other)]
    assert np.array_equal(*shown)
    noisy = clean.groups["unseen"].histories["true"]
    true = task_of(smooth, feedback={"pairs": "random"}).groups["unseen"].histories["true"]
    assert 0.05 < (noisy.chosen != true.chosen).mean() < 0.95


def test_test_pairs_follow_the_pair_rule(smooth: Benchmark) -> None:
    task = task_of(smooth)
    group = task.groups["unseen"]
    tests = group.tests["seen"]
    values = task.utilities(group.population, tests)
    assert np.array_equal(tests.chosen, values.argmax(axis=1))
    assert np.array_equal(tests.rejected, values.argmin(axis=1))


def test_ties_are_not_predicted(smooth: Benchmark) -> None:
    task = task_of(smooth, feedback={"pairs": "random", "tie_margin": 0.4})
    assert (gaps(task) > 0.4).all()
    assert len(gaps(task)) < 30 * 8


def test_preferences_are_put_into_the_benchmarks_order(smooth: Benchmark) -> None:
    task = task_of(smooth)
    tests = task.groups["unseen"].tests["unseen"]
    corpus = task.task.view.corpus
    by_column = np.float32([[len(text) for text in corpus.responses[row]] for row in tests.prompt])
    assert np.array_equal(task.by_response(tests, by_column), task.lengths(tests))
    texts = [[len(smooth.response(int(row), r)) for r in range(5)] for row in tests.prompt]
    assert task.lengths(tests).tolist() == texts


def test_signals_are_the_scores_of_the_corpus_columns(smooth: Benchmark) -> None:
    assert task_of(smooth).signals is None
    task = task_of(smooth, prediction={"reward_signals": True})
    signals = task.signals
    assert signals is not None
    assert signals.reward_models == smooth.reward_models
    prompts, columns = np.int32([3, 3, 17]), np.uint8([0, 4, 2])
    found = signals.vectors(prompts, columns)
    for row, (prompt, column) in enumerate(zip(prompts.tolist(), columns.tolist(), strict=True)):
        text = task.task.view.corpus.responses[prompt][column]
        (place,) = [r for r in range(5) if smooth.response(prompt, r) == text]
        assert np.array_equal(found[row], task.task.table.values[prompt, place])
    assert found.dtype == np.float32
    assert smooth.fingerprint in signals.identity
