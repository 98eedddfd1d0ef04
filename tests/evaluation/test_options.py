"""Settings of the predict track: defaults that fit the data, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from personalllm.core.errors import ParameterError, UnknownName
from personalllm.data import Benchmark, Preferences
from personalllm.evaluation import Protocol
from personalllm.evaluation.settings import merge
from personalllm.evaluation.sources.options import PredictOptions
from personalllm.evaluation.sources.pairs import Pairs
from personalllm.evaluation.sources.simulated import Simulated

SMALL: dict[str, Any] = {"n_users": 30, "pool_users": 20, "pool_pairs": 10, "bootstrap_draws": 100}


def small(benchmark: Benchmark, **overrides: Any) -> Protocol:
    return Protocol.for_benchmark(
        benchmark, track="predict", **(SMALL | {"seen_users": 12, "shots": (0, 1, 3, 8)}) | overrides
    )


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
    assert protocol.options == PredictOptions(shots=(0, 1, 2, 4, 8), test_pairs=8)
    assert (protocol.pool.n_users, protocol.pool.pairs_per_user) == (1000, 12)
    large = Protocol.for_benchmark(make_benchmark(n_train=128, n_test=20), track="predict")
    assert large.options == PredictOptions()
    assert large.pool.pairs_per_user == 50
    tiny = Protocol.for_benchmark(make_benchmark(n_train=2, n_test=1), track="predict", n_users=1, pool_users=0)
    assert tiny.options == PredictOptions(shots=(0, 1), test_pairs=1, users=("unseen",), counterfactuals=("flipped",))
    pairs = Pairs(Simulated(tiny, make_benchmark(n_train=2, n_test=1)), tiny.options)
    assert len(pairs.groups["unseen"].tests["seen"]) == 1


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
    ({"prediction": {"shotz": 1}}, r"prediction.shotz must be a field of the protocol \(did you mean prediction.shots"),
]


@pytest.mark.parametrize(("overrides", "message"), BAD, ids=lambda value: str(value)[:40])
def test_bad_values_are_named(benchmark_: Benchmark, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        small(benchmark_, **overrides)


@pytest.mark.parametrize("track", ["rank", "generate"])
def test_prediction_belongs_to_its_track(benchmark_: Benchmark, track: str) -> None:
    with pytest.raises(ParameterError, match=f"prediction must be left out in the {track} track"):
        Protocol.for_benchmark(benchmark_, track=track, shots=(0, 1))
    spec = Protocol.for_benchmark(benchmark_, track=track).spec() | {"prediction": {}}
    with pytest.raises(ParameterError, match=f"prediction must be left out in the {track} track"):
        Protocol.from_spec(spec)


def people(n_users: int = 4, n_prompts: int = 8) -> Preferences:
    return Preferences.from_rows(
        [
            {"user": f"u{user}", "prompt": f"p{prompt}", "chosen": "yes", "rejected": "no"}
            for user in range(n_users)
            for prompt in range(n_prompts)
        ]
    )


def test_people_are_asked_for_all_that_there_is() -> None:
    protocol = Protocol.for_people(people())
    assert protocol.options == PredictOptions(test_pairs=None)
    assert Protocol.for_people(people(), test_pairs=3).options == PredictOptions(test_pairs=3)
    assert Protocol.from_spec(protocol.spec()) == protocol


PEOPLE_BAD: list[tuple[dict[str, Any], str]] = [
    ({"prompt_folds": 2}, "folds.prompt_folds must be greater than or equal to 3, got 2"),
    ({"user_folds": 1}, "folds.user_folds must be greater than or equal to 2, got 1"),
    ({"shots": ()}, "prediction.shots"),
    ({"shots": (-1,)}, "prediction.shots.* must be greater than or equal to 0, got -1"),
    ({"prediction": {"users": "seen"}}, "prediction.users must be with unseen ones where the users are people"),
    ({"n_users": 5}, "population must be left out with people"),
]


@pytest.mark.parametrize(("overrides", "message"), PEOPLE_BAD, ids=str)
def test_what_cannot_be_done_with_people_is_named(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        Protocol.for_people(people(), **overrides)


def test_a_changed_protocol_takes_its_history_from_the_new_shots(benchmark_: Benchmark) -> None:
    protocol = small(benchmark_).changed(benchmark_, shots=(0, 5))
    assert (protocol.history.pairs, protocol.population.n_users) == (5, 30)
    rank = protocol.changed(benchmark_, track="rank")
    assert (rank.options, rank.history.pairs, rank.population.n_users) == (None, 5, 30)
    assert merge({"track": "predict", "shots": (1,)}, {"track": "rank"}) == {"track": "rank"}


FIXED: dict[str, Any] = {"feedback": {"pairs": "random", "pairs_per_prompt": 2}}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (FIXED, r"prediction\.prompts must be unseen where prompts have fixed pairs"),
        ({"prediction": {"survey": 4}}, r"prediction\.prompts must be unseen where .* there is a survey"),
        (
            {"prediction": {"survey": 2, "prompts": "unseen", "shots": [0, 3]}},
            r"at most the questions of the survey \(2\)",
        ),
        ({"pool": {"users": "population", "n_users": 6}}, r"prediction\.users must be seen where all are in the pool"),
        ({"pool": {"users": "population", "n_users": 7}}, r"pool\.n_users must be at most the users of the population"),
        ({"prediction": {"seen_test_pairs": 9, "prompts": "unseen"}}, r"prediction\.seen_test_pairs must be at most"),
    ],
)
def test_what_cannot_be_asked_is_named(benchmark_: Benchmark, overrides: dict[str, Any], message: str) -> None:
    settings = {"n_users": 6, "pool": {"n_users": 5}, "bootstrap_draws": 100} | overrides
    with pytest.raises(ParameterError, match=message):
        Protocol.for_benchmark(benchmark_, track="predict", **settings)


def test_reward_models_of_the_population(benchmark_: Benchmark) -> None:
    chosen = benchmark_.reward_models[1:]
    settings = {"population": {"kind": "one-per-reward-model", "reward_models": list(chosen)}}
    protocol = Protocol.for_benchmark(benchmark_, **settings)
    assert protocol.population.n_users == len(chosen)
    source = Simulated(protocol, benchmark_)
    assert (source.reward_models, source.table.reward_models) == (chosen, chosen)
    full = Simulated(Protocol.for_benchmark(benchmark_), benchmark_)
    assert np.array_equal(source.table.values, full.table.values[:, :, 1:])
    raw = benchmark_.scores[:2, 0]
    assert np.allclose(source.live_utilities(raw, np.array([0, 1], np.int32)), source.table.values[[0, 1], 0, [0, 1]])
    with pytest.raises(UnknownName, match="no reward model named 'nobody'"):
        Protocol.for_benchmark(benchmark_, population={"reward_models": ["nobody"]})
