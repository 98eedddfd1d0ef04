from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from personalllm.core.errors import AxisMismatch, DataError, ParameterError, PersonalLLMError, UnknownName, UserError
from personalllm.data import Benchmark, make_synthetic
from personalllm.evaluation import HistorySpec, PopulationSpec, Protocol
from personalllm.evaluation.presets import as_protocol
from personalllm.evaluation.sources.simulated import Simulated
from personalllm.evaluation.tracks.generate import GenerationOptions


def test_a_protocol_is_replayable_json(benchmark_: Benchmark) -> None:
    protocol = Protocol.for_benchmark(benchmark_, track="generate", n_users=7, alpha=0.1, seed=3)
    again = Protocol.from_spec(json.loads(json.dumps(protocol.spec())))
    assert again == protocol
    assert again.fingerprint == protocol.fingerprint


def test_defaults_are_the_papers_cut_to_the_benchmark(benchmark_: Benchmark) -> None:
    protocol = Protocol.for_benchmark(benchmark_)
    assert (protocol.population.n_users, protocol.population.alpha) == (1000, 0.05)
    assert (protocol.pool.n_users, protocol.pool.pairs_per_user, protocol.history.pairs) == (10_000, 24, 5)
    assert (protocol.prompts_per_user, protocol.options) == (None, None)
    generate = Protocol.for_benchmark(benchmark_, track="generate")
    assert generate.prompts_per_user == 1
    assert isinstance(generate.options, GenerationOptions)
    assert generate.options.temperature == 0
    assert generate.spec()["generation"]["max_tokens"] == 256


CHANGES: list[dict[str, Any]] = [
    {"n_users": 999},
    {"alpha": 0.1},
    {"alpha": (0.1, 0.2, 0.3, 0.4)},
    {"seed": 1},
    {"pairs": 4},
    {"nearest": 4},
    {"counterfactual": "shuffled"},
    {"pool_users": 10},
    {"pool_pairs": 3},
    {"limit": 10},
    {"prompts_per_user": 2},
    {"reference_response_model": "beta-1"},
    {"users_per_shard": 10},
    {"bootstrap_draws": 500},
    {"feedback": {"flip": 0.1}},
    {"feedback": {"temperature": 0.5}},
    {"population": {"kind": "uniform"}},
    {"population": {"seed": 9}},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_whatever_could_change_a_number_changes_the_fingerprint(benchmark_: Benchmark, change: dict[str, Any]) -> None:
    base = Protocol.for_benchmark(benchmark_, track="rank", reference_response_model="alpha-1")
    other = Protocol.for_benchmark(benchmark_, track="rank", **({"reference_response_model": "alpha-1"} | change))
    assert base.fingerprint != other.fingerprint


def test_the_content_counts_and_the_name_does_not(
    benchmark_: Benchmark, make_benchmark: Callable[..., Benchmark]
) -> None:
    base = Protocol.for_benchmark(benchmark_)
    assert base.fingerprint == Protocol.for_benchmark(make_benchmark()).fingerprint
    assert base.model_copy(update={"benchmark": "another name"}).fingerprint == base.fingerprint
    assert base.fingerprint != Protocol.for_benchmark(make_benchmark(seed=1)).fingerprint
    assert base.model_copy(update={"preset": "paper-icl-v1"}).fingerprint == base.fingerprint
    assert base.bind(embedder="e").fingerprint != base.fingerprint


BAD: list[tuple[dict[str, Any], type[PersonalLLMError], str]] = [
    ({"n_users": 0}, ParameterError, r"population.n_users must be greater than or equal to 1, got 0"),
    ({"alpha": 0.0}, ParameterError, r"alpha.* must be greater than 0, got 0.0"),
    ({"alpha": float("nan")}, ParameterError, "alpha"),
    ({"limit": 0}, ParameterError, r"limit must be greater than or equal to 1, got 0"),
    ({"pairs": -1}, ParameterError, r"history.pairs must be .*0, got -1"),
    ({"pairs": 25}, ParameterError, r"pairs must be at most the number of prompts of its split \(24\), got 25"),
    ({"nearest": 25}, ParameterError, r"nearest must be at most .*\(24\), got 25"),
    ({"pool_pairs": 25}, ParameterError, r"pool_pairs must be at most .*\(24\), got 25"),
    ({"prompts_per_user": 9}, ParameterError, r"prompts_per_user must be at most .*\(8\), got 9"),
    ({"track": "rate"}, UnknownName, r"no track named 'rate'.*'rank'"),
    ({"folds": {"user_folds": 3}}, ParameterError, r"folds must be left out on a benchmark"),
    ({"standardiser": "mine"}, ParameterError, r"standardiser must be 'train', 'published' or 'none', got 'mine'"),
    ({"alhpa": 0.1}, ParameterError, r"alhpa must be a field of the protocol \(did you mean alpha"),
    ({"n_user": 3}, ParameterError, r"n_user must be a field of the protocol \(did you mean n_users"),
    ({"xyz": 3}, ParameterError, r"xyz must be a field of the protocol \(alpha, "),
    ({"split": "tset"}, DataError, r"no prompts in the split 'tset'; it has .*Did you mean 'test'\?"),
    ({"feedback": {"flips": 0.1}}, ParameterError, r"feedback.flips must be a field"),
    ({"feedback": {"flip": 2}}, ParameterError, r"feedback.flip must be less than or equal to 1, got 2"),
    ({"bootstrap_draws": 5}, ParameterError, r"bootstrap_draws must be .*100, got 5"),
    ({"split": "dev"}, DataError, r"has no prompts in the split 'dev'; it has test, train"),
    ({"split": "train"}, ParameterError, r"split must be another split than the histories \('train'\)"),
    ({"reference_response_model": "alpha-9"}, UnknownName, r"no response model named 'alpha-9'.*alpha-1"),
    ({"max_tokens": 5}, ParameterError, r"generation must be left out in the rank track"),
    ({"track": "generate", "max_tokens": 0}, ParameterError, r"generation.max_tokens must be .*1, got 0"),
    ({"track": "generate", "temperature": -1}, ParameterError, r"generation.temperature must be .*0, got -1"),
    ({"track": "generate", "prompts_per_user": None}, ParameterError, r"prompts_per_user must be an integer >= 1"),
]


@pytest.mark.parametrize(("overrides", "error", "message"), BAD, ids=lambda value: str(value)[:50])
def test_bad_values_are_named(
    benchmark_: Benchmark, overrides: dict[str, Any], error: type[PersonalLLMError], message: str
) -> None:
    with pytest.raises(error, match=message):
        Protocol.for_benchmark(benchmark_, **overrides)


def test_from_spec_refuses_what_is_missing_or_of_another_version(benchmark_: Benchmark) -> None:
    spec = Protocol.for_benchmark(benchmark_).spec()
    with pytest.raises(ParameterError, match="metrics_version must be 1, got 2"):
        Protocol.from_spec(spec | {"metrics_version": 2})
    del spec["track"]
    with pytest.raises(ParameterError, match="track must be given"):
        Protocol.from_spec(spec)


def test_short_and_long_forms_meet(benchmark_: Benchmark) -> None:
    short = Protocol.for_benchmark(benchmark_, n_users=5, alpha=0.2, pairs=2)
    long = Protocol.for_benchmark(
        benchmark_, population=PopulationSpec(n_users=5, alpha=0.2), history=HistorySpec(pairs=2)
    )
    assert short == long
    assert Protocol.for_benchmark(benchmark_, seed=4).pool.seed == 4
    assert Protocol.for_benchmark(benchmark_, seed=4, population={"seed": 5}).population.seed == 5


def test_evaluate_takes_settings_with_dots(benchmark_: Benchmark) -> None:
    dotted = as_protocol({"n_users": 3, "history.pairs": 2, "history.nearest": 1}, benchmark_)
    assert dotted == Protocol.for_data(benchmark_, n_users=3, history={"pairs": 2, "nearest": 1})
    with pytest.raises(UserError, match=r"no setting 'poll\.n_users'.*Before the dot stands one of population"):
        as_protocol({"poll.n_users": 3}, benchmark_)


@pytest.mark.parametrize(("kind", "n_users"), [("one-per-reward-model", 4), ("uniform", 1)])
def test_the_kind_sets_the_number_of_users(benchmark_: Benchmark, kind: str, n_users: int) -> None:
    assert Protocol.for_benchmark(benchmark_, population={"kind": kind}).population.n_users == n_users


def test_the_published_users_need_the_papers_reward_models_in_their_order(benchmark_: Benchmark) -> None:
    protocol = Protocol.for_benchmark(benchmark_, population={"kind": "published"}, n_users=5)
    with pytest.raises(AxisMismatch, match=r"published population has weights for beaver_7b, .*kind=dirichlet"):
        _ = Simulated(protocol, benchmark_).full_population
    synthetic = make_synthetic(20, seed=0)
    protocol = Protocol.for_benchmark(synthetic, population={"kind": "published"}, n_users=5)
    assert Simulated(protocol, synthetic).full_population.n_users == 5


def test_the_reference_model_is_the_metadatas_or_the_best(make_benchmark: Callable[..., Benchmark]) -> None:
    named = make_benchmark(reference_response_model="gamma-1")
    assert Protocol.for_benchmark(named).reference_response_model == "gamma-1"
    plain = make_benchmark()
    scores = plain.scores[plain.rows("train")].astype(float)
    standard = (scores - scores.mean((0, 1))) / scores.std((0, 1))
    best = int(standard.mean(axis=(0, 2)).argmax())
    assert Protocol.for_benchmark(plain).reference_response_model == plain.response_models[best]


def test_binding(benchmark_: Benchmark) -> None:
    bound = Protocol.for_benchmark(benchmark_).bind(embedder="a", llm="b", rewards=None)
    assert (bound.embedder, bound.llm, bound.rewards) == ("a", "b", None)
    assert bound.bind(embedder="a", llm="b") == bound
    with pytest.raises(UserError, match="bound to the llm 'b', but 'c' was given"):
        bound.bind(embedder="a", llm="c")


def test_a_protocol_of_another_benchmark_is_refused(make_benchmark: Callable[..., Benchmark]) -> None:
    protocol = Protocol.for_benchmark(make_benchmark())
    for use in (protocol.check, protocol.changed):
        with pytest.raises(UserError, match=r"was made for 'tiny-0' with .*but 'tiny-1' has"):
            use(make_benchmark(seed=1))


def test_a_limit_that_leaves_nobody_out_is_no_limit(benchmark_: Benchmark) -> None:
    whole = Protocol.for_benchmark(benchmark_, n_users=20)
    for limit in (20, 21, 10_000):
        limited = Protocol.for_benchmark(benchmark_, n_users=20, limit=limit)
        assert limited.limit is None
        assert limited.fingerprint == whole.fingerprint
    assert Protocol.for_benchmark(benchmark_, n_users=20, limit=19).limit == 19
    assert Protocol.from_spec(whole.spec() | {"limit": 50}) == whole
    assert Protocol.for_benchmark(benchmark_, population={"kind": "uniform"}, limit=1).limit is None
