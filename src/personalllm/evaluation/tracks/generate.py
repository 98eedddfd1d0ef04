"""The generate track: a chat model writes responses, the reward models score them live."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from personalllm.core.errors import AxisMismatch, ParameterError, RunError, UserError
from personalllm.core.protocols import ChatModel, RewardEnsemble
from personalllm.core.seeding import derive_seed
from personalllm.core.types import F32, I32, JSON, ChatReply, ChatRequest, Conversation, Histories
from personalllm.evaluation.calls import running
from personalllm.evaluation.contract import NamedMethod, Outcome, Table, Unit
from personalllm.evaluation.parts import Options, Sizes
from personalllm.evaluation.tracks.rank import ChoiceTrack

__all__ = ["GenerateTrack", "GenerationOptions"]

_RESCORING_GAP = 0.1
"""Maximum difference of a stored score and the live one, in standard deviations (batching, precision, processor)."""


class GenerationOptions(Options):
    """How the chat model is run.

    Attributes:
        max_tokens: Maximum number of new tokens, >= 1.
        temperature: 0 is greedy decoding.
        top_p: Nucleus mass in (0, 1].
        requests_per_chunk: Requests handed to the chat model at once, and kept on disk as one part.
    """

    part: ClassVar[str] = "generation"
    short: ClassVar[Mapping[str, str]] = {"max_tokens": "max_tokens", "temperature": "temperature"}

    max_tokens: int = Field(default=256, ge=1)
    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    requests_per_chunk: int = Field(default=8, ge=1)

    @classmethod
    def complete(cls, given: JSON, sizes: Sizes) -> JSON:  # noqa: ARG003
        """Ask one prompt of each user unless the number is given."""
        return {"prompts_per_user": 1, **given}

    def check(self, protocol: Any, sizes: Sizes) -> None:
        """Raise unless the number of prompts is given: a chat model is slow."""
        if protocol.prompts_per_user is None:
            raise ParameterError("prompts_per_user", "an integer >= 1 in the generate track", None)


@dataclass(frozen=True, eq=False)
class _Prepared:
    conversations: list[Conversation]
    histories: Histories


class GenerateTrack(ChoiceTrack):
    """Write a response for each query and score it; a unit is a chunk of requests, in the order of the users.

    `adapt` and `messages` are called once for all users, not for each unit. Samples have the columns `prompt_id`,
    `prompt_text`, `response`, `finish_reason`, `n_examples`, `n_dropped`, `prompt_tokens`, `completion_tokens`,
    `scores` (raw), `messages` and `history` too.
    """

    id = "generate"
    title = "Write new responses"
    hook: ClassVar = "messages"
    work_unit = "requests to the chat model"
    options = GenerationOptions
    needs = frozenset({"llm", "rewards"})
    elsewhere = False

    def check(self, method: NamedMethod) -> None:
        """Raise if a backend is missing, is not the one that scored the benchmark, or no history can be drawn.

        Raises:
            UserError: If a backend is missing.
            AxisMismatch: If the reward ensemble's RMs are not the benchmark's.
        """
        super().check(method)
        stored, live = self.source.benchmark.reward_models, self.rewards.reward_models
        if set(stored) != set(live):
            raise AxisMismatch(
                f"The benchmark {self.source.name!r} was scored by {', '.join(stored)}; the reward ensemble has "
                f"{', '.join(live)}.",
                "Use the ensemble that scored the benchmark (metadata key reward_ensemble), or the rank track.",
            )

    @property
    def llm(self) -> ChatModel:
        """The chat model."""
        assert self.backends.llm is not None  # noqa: S101
        return self.backends.llm

    @property
    def rewards(self) -> RewardEnsemble:
        """The reward models."""
        assert self.backends.rewards is not None  # noqa: S101
        return self.backends.rewards

    @property
    def generation(self) -> GenerationOptions:
        """How the chat model is run."""
        assert isinstance(self.protocol.options, GenerationOptions)  # noqa: S101
        return self.protocol.options

    @cached_property
    def rows(self) -> tuple[I32, I32]:
        """User and prompt of each query, int32 (n_queries,) each."""
        return self.source.query_rows(0, self.source.n_users)

    def units(self, key: str) -> Sequence[Unit]:
        """Cut the queries into chunks."""
        return self.cut(key, len(self.rows[0]), self.generation.requests_per_chunk)

    def prepare(self, method: NamedMethod) -> _Prepared:
        """Fit, adapt, and have the method write what to send for every query.

        Raises:
            UserError: If the reward ensemble does not score stored responses as the benchmark says, or the method
                does not return one conversation for each query.
            RunError: If the method fails.
        """
        self._rewards_agree  # noqa: B018  (checked once for all methods)
        trained, histories = self.fit(method)
        with running(method.label, "adapt"):
            trained.adapt(histories)
        queries = self.source.queries(0, self.source.n_users)
        with running(method.label, "messages"):
            conversations = list(trained.messages(queries))
        if len(conversations) != len(queries) or not all(isinstance(c, Conversation) for c in conversations):
            raise UserError(
                f"The method {method.label!r} returned {len(conversations)} items for {len(queries)} queries.",
                "messages() must return one personalllm.core.types.Conversation for each query, in their order.",
            )
        return _Prepared(conversations, histories)

    @cached_property
    def _rewards_agree(self) -> bool:
        """Score the responses to the first query again: the ensemble must be the one that scored the benchmark."""
        benchmark, prompt = self.source.benchmark, int(self.rows[1][0])
        texts = [benchmark.response(prompt, column) for column in range(benchmark.n_responses)]
        live = self.score(np.full(len(texts), prompt, np.int32), texts)
        stored = benchmark.scores[prompt]
        standardised = (self.source.standardiser.apply(scores[None]) for scores in (live, stored))
        gap = np.abs(np.subtract(*standardised))[0]
        if gap.max() > _RESCORING_GAP:
            column, rm = np.unravel_index(int(gap.argmax()), gap.shape)
            raise UserError(
                f"The reward ensemble scores response {column + 1} of prompt {benchmark.prompt_ids[prompt].as_py()!r} "
                f"with {benchmark.reward_models[rm]} as {live[column, rm]:.4g}, the benchmark holds "
                f"{stored[column, rm]:.4g}.",
                "Use the ensemble (and the embedder) that scored the benchmark, or score the benchmark again.",
            )
        return True

    def work(self, prepared: _Prepared, unit: Unit) -> Outcome:
        """Send a chunk to the chat model, score what it wrote, and note everything."""
        rows, options = range(unit.start, unit.stop), self.generation
        requests = [
            ChatRequest(
                prepared.conversations[row].messages,
                max_tokens=options.max_tokens,
                temperature=options.temperature,
                top_p=options.top_p,
                seed=derive_seed(unit.seed, "reply", row),
            )
            for row in rows
        ]
        replies = self.llm.chat(requests)
        if len(replies) != len(requests):
            raise RunError(f"The chat model {self.llm.name!r} gave {len(replies)} replies to {len(requests)} requests.")
        users, prompts = (column[unit.start : unit.stop] for column in self.rows)
        raw = self.score(prompts, [reply.text for reply in replies])
        texts = [
            _record(int(user), conversation, reply, prepared.histories)
            for user, conversation, reply in zip(
                users, prepared.conversations[unit.start : unit.stop], replies, strict=True
            )
        ]
        return self._outcome(users, prompts, self.source.live_utilities(raw, users), raw, texts)

    def score(self, prompts: I32, texts: list[str]) -> F32:
        """Return raw scores, float32 (n, n_reward_models), in the order of the benchmark's RMs.

        Raises:
            RunError: If the ensemble returns another shape, NaN or infinity.
        """
        benchmark, rewards = self.source.benchmark, self.rewards
        raw = rewards.score([benchmark.prompt(int(row)) for row in prompts], texts)
        shape = (len(texts), len(rewards.reward_models))
        if raw.shape != shape or not np.isfinite(raw).all():
            raise RunError(f"The reward ensemble returned shape {raw.shape}, expected finite scores {shape}.")
        order = [rewards.reward_models.index(name) for name in benchmark.reward_models]
        return np.ascontiguousarray(raw[:, order], dtype=np.float32)

    def stored(self, name: str, unit: Unit) -> Outcome:
        """Return the samples of a baseline or an oracle: the stored responses that it picks."""
        users, prompts = (column[unit.start : unit.stop] for column in self.rows)
        values, benchmark = self.source.utilities(users, prompts), self.source.benchmark
        choice = self.choices.choose(name, values, prompts)
        texts: list[JSON] = [
            {"response": benchmark.response(int(prompt), int(column)), "finish_reason": "stored"}
            for prompt, column in zip(prompts, choice, strict=True)
        ]
        utility = values[np.arange(len(users)), choice]
        return self._outcome(users, prompts, utility, benchmark.scores[prompts, choice], texts)

    def _outcome(self, users: I32, prompts: I32, utility: F32, scores: F32, texts: list[JSON]) -> Outcome:
        """Return samples; what `texts` does not say is empty or 0."""
        import pyarrow as pa

        benchmark = self.source.benchmark
        standards = self.choices.standards(self.source.utilities(users, prompts), prompts)
        table = pa.table(self.columns(users, prompts, utility, standards))
        table = table.append_column("prompt_id", pa.array([str(benchmark.prompt_ids[int(p)].as_py()) for p in prompts]))
        table = table.append_column("prompt_text", pa.array([benchmark.prompt(int(p)) for p in prompts]))
        message = pa.struct([("role", pa.string()), ("content", pa.string())])
        pair = pa.struct([("prompt", pa.string()), ("chosen", pa.string()), ("rejected", pa.string())])
        for name, kind, default in (
            ("response", pa.string(), ""),
            ("finish_reason", pa.string(), ""),
            *((name, pa.int32(), 0) for name in _TOKENS),
            ("messages", pa.list_(message), []),
            ("history", pa.list_(pair), []),
        ):
            table = table.append_column(name, pa.array([text.get(name, default) for text in texts], kind))
        table = table.append_column("scores", pa.array(list(scores), pa.list_(pa.float32())))
        return Outcome(table)

    def counts(self, samples: Table) -> dict[str, int]:
        """Count queries and, of what was written, the empty and the cut responses, tokens and examples."""
        totals = super().counts(samples)
        reasons = samples["finish_reason"].to_pylist()
        if "stored" in reasons:
            return totals
        n_examples, n_dropped, prompt_tokens, completion_tokens = (
            int(samples[name].to_numpy().sum()) for name in _TOKENS
        )
        return totals | {
            "generations": samples.num_rows,
            "empty": sum(not text.strip() for text in samples["response"].to_pylist()),
            "cut": reasons.count("length"),
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "examples": n_examples,
            "dropped_examples": n_dropped,
        }


_TOKENS = ("n_examples", "n_dropped", "prompt_tokens", "completion_tokens")


def _record(user: int, conversation: Conversation, reply: ChatReply, histories: Histories) -> JSON:
    """Return what is noted of one reply."""
    first, last = (int(i) for i in histories.offsets[user : user + 2])
    prompts, responses = histories.corpus.prompts, histories.corpus.responses
    history = [
        {
            "prompt": prompts[int(histories.prompt[i])],
            "chosen": responses[int(histories.prompt[i])][int(histories.chosen[i])],
            "rejected": responses[int(histories.prompt[i])][int(histories.rejected[i])],
        }
        for i in range(first, last)
    ]
    return {
        "response": reply.text,
        "finish_reason": reply.finish_reason,
        "n_examples": conversation.n_examples,
        "n_dropped": conversation.n_dropped,
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "messages": [{"role": message.role, "content": message.content} for message in conversation.messages],
        "history": history,
    }
