"""Have a chat model write new responses to test prompts, for methods to choose from (best of n)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from personalllm.core.errors import AxisMismatch, ParameterError, PersonalLLMError, RunError
from personalllm.core.protocols import ChatModel, RewardEnsemble, chat_some
from personalllm.core.seeding import derive_seed, generator
from personalllm.core.types import F32, ChatReply, ChatRequest, Message
from personalllm.data import Benchmark

__all__ = ["write_candidates"]

_ATTEMPTS = 3
_BATCH = 8
_TOP_K = 40  # the nucleus of all 49,152 tokens costs a sort of them for every new one


def write_candidates(
    benchmark: Benchmark,
    llm: ChatModel,
    rewards: RewardEnsemble,
    *,
    n_prompts: int = 30,
    styles: Sequence[str] = ("",),
    max_tokens: int = 48,
    temperature: float = 0.7,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Benchmark:
    """Return the benchmark with new responses to some of its test prompts, and without its other test prompts.

    Methods learn from the train prompts as they are and choose among what the chat model wrote: personalised best of
    n. All users share the candidates, so the number of generations does not grow with the number of users.

    Args:
        benchmark: Whose train prompts are kept.
        llm: Writes `n_prompts * benchmark.n_responses` responses; one with a cache makes an interrupted call resume.
        rewards: Scores them; must have the benchmark's RMs.
        n_prompts: Test prompts, drawn with the seed; all of them if there are fewer.
        styles: System messages, each for an equal share of the responses to a prompt; `""` for none.
        max_tokens: Maximum of new tokens of a response; a longer one is cut.
        temperature: > 0: with greedy decoding all responses in one style would be equal.
        seed: Seed of the prompts and of the sampling.
        progress: Called with (done, total) responses.

    Raises:
        ParameterError: If a number is outside its range.
        AxisMismatch: If the RMs are not the benchmark's.
        RunError: If the chat model's replies to a prompt are empty three times.
    """
    for name, value in (("n_prompts", n_prompts), ("max_tokens", max_tokens), ("styles", len(styles))):
        if value < 1:
            raise ParameterError(name, ">= 1", value)
    if not temperature > 0:
        raise ParameterError("temperature", "> 0, so that the responses in one style differ", temperature)
    if set(rewards.reward_models) != set(benchmark.reward_models):
        raise AxisMismatch(
            f"The benchmark {benchmark.name!r} was scored by {', '.join(benchmark.reward_models)}; the reward ensemble "
            f"has {', '.join(rewards.reward_models)}.",
            "Use the ensemble that scored the benchmark (metadata key reward_ensemble).",
        )
    test = benchmark.rows("test")
    drawn = np.sort(generator(seed, "candidate prompts").permutation(test)[:n_prompts])
    requests = [
        _request(benchmark, int(row), column, styles, max_tokens, temperature, seed)
        for row in drawn
        for column in range(benchmark.n_responses)
    ]
    texts = _written(llm, requests, progress)
    raw = rewards.score([benchmark.prompt(int(row)) for row in np.repeat(drawn, benchmark.n_responses)], texts)
    order = [rewards.reward_models.index(name) for name in benchmark.reward_models]
    return _replaced(benchmark, drawn.tolist(), texts, raw[:, order], llm.name)


def _request(
    benchmark: Benchmark, row: int, column: int, styles: Sequence[str], max_tokens: int, temperature: float, seed: int
) -> ChatRequest:
    style = styles[column * len(styles) // benchmark.n_responses]
    system = (Message("system", style),) if style else ()
    # seeds of a prompt follow one another: a model may then read the prompt once for all that are in one style
    sampler = derive_seed(seed, "candidate", str(benchmark.prompt_ids[row].as_py())) + column
    messages = (*system, Message("user", benchmark.prompt(row)))
    return ChatRequest(messages, max_tokens, temperature, top_p=0.95, top_k=_TOP_K, seed=sampler)


def _written(llm: ChatModel, requests: list[ChatRequest], progress: Callable[[int, int], None] | None) -> list[str]:
    """Return the texts of the replies; an unusable one is drawn again with another seed."""
    texts = [""] * len(requests)
    failures: list[PersonalLLMError] = []
    pending = list(range(len(requests)))

    def keep(n: int, reply: ChatReply, source: str) -> None:  # noqa: ARG001
        texts[pending[n]] = reply.text.strip()
        if progress:
            progress(sum(map(bool, texts)), len(texts))

    def stop(n: int, kind: str, error: PersonalLLMError) -> bool:  # noqa: ARG001
        failures.append(error)
        return False

    for attempt in range(_ATTEMPTS):
        again = [requests[i] for i in pending]
        if attempt:
            again = [replace(request, seed=derive_seed(request.seed, "attempt", attempt)) for request in again]
        chat_some(llm, again, keep, stop, at_once=_BATCH)
        if failures:
            raise failures[0]
        pending = [i for i in pending if not texts[i]]
        if not pending:
            return texts
    raise RunError(
        f"{llm.name} gave {_ATTEMPTS} empty replies to {requests[pending[0]].messages[-1].content[:80]!r}.",
        "Use another chat model, another seed or other styles.",
    )


def _replaced(benchmark: Benchmark, rows: list[int], texts: list[str], scores: F32, writer: str) -> Benchmark:
    """Return train rows as they are, then the given test rows with new texts and scores."""
    n = benchmark.n_responses
    train = benchmark.rows("train").tolist()
    kept = [*train, *rows]
    stored = [[benchmark.response(row, column) for column in range(n)] for row in train]
    models = [[benchmark.response_models[i] for i in benchmark.response_model_index[row]] for row in train]
    return Benchmark.from_arrays(
        name=f"{benchmark.name} answered by {writer}",
        prompt_ids=[str(benchmark.prompt_ids[row].as_py()) for row in kept],
        prompts=[benchmark.prompt(row) for row in kept],
        subsets=[str(benchmark.subsets[row].as_py()) for row in kept],
        splits=["train"] * len(train) + ["test"] * len(rows),
        responses=stored + [texts[start : start + n] for start in range(0, len(texts), n)],
        response_models=models + [[f"{writer}-{i + 1}" for i in range(n)] for _ in rows],
        reward_models=benchmark.reward_models,
        scores=np.concatenate([benchmark.scores[train], scores.reshape(len(rows), n, -1)]),
        metadata=benchmark.metadata,
    )
