from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from personalllm.core.errors import AxisMismatch, RunError, UserError
from personalllm.core.types import F32, ChatReply, Conversation, Message, Queries
from personalllm.data import Benchmark, Standardiser
from personalllm.evaluation import Protocol, evaluate, load_run
from personalllm.evaluation.sources.simulated import Simulated
from personalllm.methods.base import Method
from personalllm.testing import EchoChatModel, SurfaceRewards

SMALL = {"n_users": 30, "limit": 11, "pool_users": 20, "intervals": "users", "bootstrap_draws": 200, "max_tokens": 12}


def small(benchmark: Benchmark, **overrides: Any) -> Protocol:
    return Protocol.for_benchmark(benchmark, track="generate", **(SMALL | overrides))


@dataclass
class Parrot(Method):
    """Sends the prompt alone."""

    id: ClassVar[str] = "parrot"
    drop: int = 0

    def messages(self, queries: Queries) -> list[Conversation]:
        prompts = queries.corpus.prompts
        asked = [Conversation((Message("user", prompts[row]),), n_examples=2, n_dropped=1) for row in queries.prompt]
        return asked[self.drop :]


@dataclass(frozen=True)
class Mute:
    """Says nothing to the first request of each call, and is cut at the second."""

    name: ClassVar[str] = "mute"
    identity: ClassVar[str] = "mute"
    context_length: ClassVar[int] = 1000

    def count_tokens(self, messages: Any) -> int:
        return 1

    def chat(self, requests: Any) -> list[ChatReply]:
        replies = [ChatReply("", "stop", 3, 0), ChatReply("cut", "length", 3, 2)]
        return (replies + [ChatReply("fine", "stop", 3, 1)] * len(requests))[: len(requests)]


def test_what_is_generated_is_scored_live(benchmark_: Benchmark, standins: Any) -> None:
    protocol = small(benchmark_)
    results = evaluate([Parrot()], benchmark_, protocol=protocol, **standins)
    samples = results.samples("parrot").to_pylist()
    task = Simulated(results_protocol(results), benchmark_)
    standardiser = Standardiser.fit(benchmark_, split="train")
    assert [sample["user"] for sample in samples] == list(range(11))
    for sample in samples:
        raw = SurfaceRewards().score([sample["prompt_text"]], [sample["response"]])
        order = [SurfaceRewards().reward_models.index(name) for name in benchmark_.reward_models]
        expected = standardiser.apply(raw[:, order])[0] @ task.population.weights[sample["user"]]
        assert sample["utility"] == pytest.approx(expected, abs=1e-4)
        assert sample["messages"] == [{"role": "user", "content": sample["prompt_text"]}]
        assert len(sample["history"]) == 5
        assert sample["prompt_id"] in [str(value) for value in benchmark_.prompt_ids.to_pylist()]
    per_user = results.per_user("parrot", "utility")
    assert np.array_equal(per_user, np.float32([sample["utility"] for sample in samples]))


def results_protocol(results: Any) -> Protocol:
    return Protocol.from_spec(results.protocol)


def test_references_stand_beside_the_methods(benchmark_: Benchmark, standins: Any) -> None:
    results = evaluate([Parrot()], benchmark_, protocol=small(benchmark_), **standins)
    reference = f"model:{results.protocol['reference_response_model']}"
    names = [result.label for result in results.methods]
    assert names == ["parrot", "population-best", "best-single-rm", reference, "oracle", "worst"]
    for oracle, stored in zip(
        results.samples("oracle").to_pylist(), results.samples(reference).to_pylist(), strict=True
    ):
        assert oracle["utility"] == oracle["best_utility"]
        assert stored["utility"] == stored["reference_utility"] == oracle["reference_utility"]
        assert oracle["finish_reason"] == "stored"
        assert oracle["messages"] == []
    assert results.estimate("oracle", "gain").value == 1


def test_empty_and_cut_generations_are_counted_and_kept(benchmark_: Benchmark, standins: Any) -> None:
    results = evaluate([Parrot()], benchmark_, protocol=small(benchmark_), **(standins | {"llm": Mute()}))
    counts = results["parrot"].counts
    assert counts == {
        "queries": 11,
        "generations": 11,
        "empty": 2,
        "cut": 2,
        "prompt_tokens": 33,
        "completion_tokens": 2 * 2 + 7,
        "examples": 22,
        "dropped_examples": 11,
    }
    assert np.isfinite(results.per_user("parrot", "utility")).all()


def test_all_methods_of_the_track_run(benchmark_: Benchmark, standins: Any, tmp_path: Path) -> None:
    results = evaluate(["all", "icl[n_shots=1]"], benchmark_, protocol=small(benchmark_), out=tmp_path, **standins)
    labels = [result.label for result in results.methods if result.kind == "method"]
    assert {"icl", "icl[n_shots=1]", "zero-shot"} <= set(labels)
    assert all(n <= 1 for n in results.samples("icl[n_shots=1]")["n_examples"].to_pylist())
    again = load_run(tmp_path)
    assert again.samples("icl").equals(results.samples("icl"))
    assert len(again.samples("zero-shot")) == 11


def test_several_prompts_for_each_user(benchmark_: Benchmark, standins: Any) -> None:
    results = evaluate([Parrot()], benchmark_, protocol=small(benchmark_, prompts_per_user=3), **standins)
    assert (results.sums("parrot").n_clusters, results["parrot"].counts["queries"]) == (11, 33)
    samples = results.samples("parrot").to_pylist()
    assert [sample["user"] for sample in samples] == [user for user in range(11) for _ in range(3)]
    assert len({sample["prompt_id"] for sample in samples[:3]}) == 3
    with pytest.raises(UserError, match="asks several"):
        evaluate(["icl"], benchmark_, protocol=small(benchmark_, prompts_per_user=3), **standins)


def test_the_sampler_gets_a_seed_of_its_own_for_each_query(benchmark_: Benchmark, standins: Any) -> None:
    seen = []

    class Noting(EchoChatModel):
        def chat(self, requests: Any) -> list[ChatReply]:
            seen.extend(requests)
            return super().chat(requests)

    evaluate([Parrot()], benchmark_, protocol=small(benchmark_, temperature=0.7), **(standins | {"llm": Noting()}))
    assert len({request.seed for request in seen}) == 11
    assert {(request.temperature, request.max_tokens) for request in seen} == {(0.7, 12)}


def test_what_is_missing_or_wrong_is_named(benchmark_: Benchmark, standins: Any) -> None:
    class Other(SurfaceRewards):
        reward_models: ClassVar[tuple[str, ...]] = ("a", "b", "c", "d")

    class Broken(SurfaceRewards):
        def score(self, prompts: Any, responses: Any) -> Any:
            return np.full((len(prompts), 4), np.nan, np.float32)

    class Dumb(EchoChatModel):
        def chat(self, requests: Any) -> list[ChatReply]:
            return []

    table: list[tuple[Method, dict[str, Any], type[Exception], str]] = [
        (Parrot(), {"llm": None}, UserError, "generate track needs a chat model. Pass llm="),
        (Parrot(), {"rewards": None}, UserError, "generate track needs a reward ensemble. Pass rewards="),
        (Parrot(), {"rewards": Other()}, AxisMismatch, "scored by characters.*ensemble has a, b, c, d"),
        (Parrot(), {"rewards": Broken()}, RunError, "expected finite scores"),
        (Parrot(), {"llm": Dumb()}, RunError, "gave 0 replies to 8 requests"),
        (Parrot(drop=1), {}, UserError, r"'parrot\[drop=1\]' returned 10 items for 11 queries"),
    ]
    for method, change, error, message in table:
        with pytest.raises(error, match=message):
            evaluate([method], benchmark_, protocol=small(benchmark_), **(standins | change))


def test_the_order_of_the_reward_models_cannot_mix_up(benchmark_: Benchmark, standins: Any) -> None:
    class Reversed(SurfaceRewards):
        reward_models: ClassVar[tuple[str, ...]] = SurfaceRewards.reward_models[::-1]

        def score(self, prompts: Any, responses: Any) -> Any:
            return super().score(prompts, responses)[:, ::-1]

    one = evaluate([Parrot()], benchmark_, protocol=small(benchmark_), **standins)
    other = evaluate([Parrot()], benchmark_, protocol=small(benchmark_), **(standins | {"rewards": Reversed()}))
    assert one["parrot"].estimates == other["parrot"].estimates


def test_the_backends_are_part_of_the_protocol(benchmark_: Benchmark, standins: Any) -> None:
    one = evaluate([Parrot()], benchmark_, protocol=small(benchmark_), **standins)
    model = replace(EchoChatModel(), context_length=4096)
    other = evaluate([Parrot()], benchmark_, protocol=small(benchmark_), **(standins | {"llm": model}))
    assert one.fingerprint != other.fingerprint
    assert (one.protocol["llm"], one.protocol["rewards"]) == ("echo-stand-in-8192", "surface-stand-in")


def test_an_ensemble_that_did_not_score_the_benchmark_is_refused(benchmark_: Benchmark, standins: Any) -> None:
    class Shifted(SurfaceRewards):
        def score(self, prompts: Sequence[str], responses: Sequence[str]) -> F32:
            return super().score(prompts, responses) + np.float32(5)

    protocol = small(benchmark_)
    with pytest.raises(UserError, match=r"scores response \d of prompt 'p\d+' with .*, the benchmark holds"):
        evaluate(["zero-shot"], benchmark_, protocol=protocol, **(standins | {"rewards": Shifted()}))
