"""The generate track: a chat model writes, the reward models score live."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from personalllm.core.errors import AxisMismatch, RunError, UserError
from personalllm.core.protocols import ChatModel, RewardEnsemble
from personalllm.core.seeding import derive_seed
from personalllm.core.types import F32, I32, ChatReply, ChatRequest, Conversation, Histories
from personalllm.evaluation.references import Policy, StoredPolicies
from personalllm.evaluation.resolve import Entry
from personalllm.evaluation.results import Sample
from personalllm.evaluation.store import Unit
from personalllm.evaluation.task import Task
from personalllm.evaluation.tracks import Backends, fitted, running

__all__ = ["GenerateTrack", "to_samples"]

_RESCORING_GAP = 0.1
"""Most standard deviations by which a stored score may differ from the live one (batching, precision, processor)."""


@dataclass(frozen=True, eq=False)
class _Prepared:
    conversations: list[Conversation]
    histories: Histories


@dataclass(frozen=True, eq=False)
class GenerateTrack:
    """Write a response for each query and score it; a unit is a chunk of queries, in the order of the users."""

    task: Task
    backends: Backends
    policies: StoredPolicies

    def __post_init__(self) -> None:
        for name in ("llm", "rewards"):
            if getattr(self.backends, name) is None:
                raise UserError(
                    f"The generate track needs {'a chat model' if name == 'llm' else 'a reward ensemble'}.",
                    f"Pass {name}=... to evaluate(), or use the command line, which does it for you.",
                )
        ours, theirs = self.task.benchmark.reward_models, self.rewards.reward_models
        if set(ours) != set(theirs):
            raise AxisMismatch(
                f"The benchmark {self.task.benchmark.name!r} was scored by {', '.join(ours)}; the reward ensemble has "
                f"{', '.join(theirs)}.",
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
    def rows_per_unit(self) -> int:
        """Queries of a chunk."""
        generation = self.task.protocol.generation
        return generation.requests_per_chunk if generation else 1

    @property
    def n_rows(self) -> int:
        """Queries."""
        return int(self.task.prompts.size)

    @cached_property
    def users(self) -> I32:
        """int32 (n_queries,): the user of each query."""
        return np.repeat(np.arange(self.task.n_users, dtype=np.int32), self.task.prompts.shape[1])

    @cached_property
    def prompts(self) -> I32:
        """int32 (n_queries,): the prompt of each query."""
        return np.ascontiguousarray(self.task.prompts).ravel()

    def prepare(self, entry: Entry) -> _Prepared:
        """Fit, adapt, and have the method write what to send for every query.

        Raises:
            UserError: If the reward ensemble does not score stored responses as the benchmark says, or the method
                does not return one conversation for each query.
            RunError: If the method fails.
        """
        self._check_rewards()
        method = fitted(self.task, self.backends, entry)
        histories = self.task.histories(method.history, self.backends.embedder)
        with running(entry.label, "adapt"):
            method.adapt(histories)
        queries = self.task.queries(0, self.task.n_users)
        with running(entry.label, "messages"):
            conversations = list(method.messages(queries))
        if len(conversations) != len(queries) or not all(isinstance(c, Conversation) for c in conversations):
            raise UserError(
                f"The method {entry.label!r} returned {len(conversations)} items for {len(queries)} queries.",
                "messages() must return one personalllm.core.types.Conversation for each query, in their order.",
            )
        return _Prepared(conversations, histories)

    def _check_rewards(self) -> None:
        """Score the responses to the first query again: the ensemble must be the one that scored the benchmark."""
        benchmark, prompt = self.task.benchmark, int(self.prompts[0])
        texts = [benchmark.response(prompt, column) for column in range(benchmark.n_responses)]
        live = self.score(np.full(len(texts), prompt, np.int32), texts)
        stored = benchmark.scores[prompt]
        gap = np.abs(self.task.standardiser.apply(live[None]) - self.task.standardiser.apply(stored[None]))[0]
        if gap.max() > _RESCORING_GAP:
            column, rm = np.unravel_index(int(gap.argmax()), gap.shape)
            raise UserError(
                f"The reward ensemble scores response {column + 1} of prompt {benchmark.prompt_ids[prompt].as_py()!r} "
                f"with {benchmark.reward_models[rm]} as {live[column, rm]:.4g}, the benchmark holds "
                f"{stored[column, rm]:.4g}.",
                "Use the ensemble (and the embedder) that scored the benchmark, or score the benchmark again.",
            )

    def compute(self, prepared: _Prepared, unit: Unit) -> Any:
        """Ask the chat model, score what it wrote, and note everything."""
        rows = range(unit.start, unit.stop)
        knobs = self.task.protocol.generation
        if knobs is None:
            raise RunError("The protocol of a generate track has no generation knobs.")
        requests = [
            ChatRequest(
                prepared.conversations[row].messages,
                max_tokens=knobs.max_tokens,
                temperature=knobs.temperature,
                top_p=knobs.top_p,
                seed=derive_seed(unit.seed, "reply", row),
            )
            for row in rows
        ]
        replies = self.llm.chat(requests)
        if len(replies) != len(requests):
            raise RunError(f"The chat model {self.llm.name!r} gave {len(replies)} replies to {len(requests)} requests.")
        raw = self.score(self.prompts[unit.start : unit.stop], [reply.text for reply in replies])
        utility = self.task.live_utilities(raw, self.users[unit.start : unit.stop])
        records = [
            self._record(row, prepared.conversations[row], reply, prepared.histories)
            | {"scores": raw[i].tolist(), "utility": float(utility[i])}
            for i, (row, reply) in enumerate(zip(rows, replies, strict=True))
        ]
        return _table(records)

    def score(self, prompts: I32, texts: list[str]) -> F32:
        """Return raw scores, float32 (n, n_reward_models), in the order of the benchmark's RMs.

        Raises:
            RunError: If the ensemble returns another shape, NaN or infinity.
        """
        raw = self.rewards.score([self.task.benchmark.prompt(int(row)) for row in prompts], texts)
        shape = (len(texts), len(self.rewards.reward_models))
        if raw.shape != shape or not np.isfinite(raw).all():
            raise RunError(f"The reward ensemble returned shape {raw.shape}, expected finite scores {shape}.")
        order = [self.rewards.reward_models.index(name) for name in self.task.benchmark.reward_models]
        return np.ascontiguousarray(raw[:, order], dtype=np.float32)

    def _common(self, row: int) -> dict[str, Any]:
        """Return what does not depend on the policy."""
        user, prompt = int(self.users[row]), int(self.prompts[row])
        query = (user, row - user * self.task.prompts.shape[1])
        benchmark = self.task.benchmark
        return {
            "user": user,
            "prompt_id": str(benchmark.prompt_ids[prompt].as_py()),
            "prompt": benchmark.prompt(prompt),
            "best_utility": float(self.policies["oracle"].utility[query]),
            "reference_utility": float(self.policies.reference.utility[query]),
        }

    def _record(self, row: int, asked: Conversation, reply: ChatReply, histories: Histories) -> dict[str, Any]:
        user = int(self.users[row])
        first, last = (int(i) for i in histories.offsets[user : user + 2])
        corpus = histories.corpus
        history = [
            {
                "prompt": corpus.prompts[int(histories.prompt[i])],
                "chosen": corpus.responses[int(histories.prompt[i])][int(histories.chosen[i])],
                "rejected": corpus.responses[int(histories.prompt[i])][int(histories.rejected[i])],
            }
            for i in range(first, last)
        ]
        return self._common(row) | {
            "response": reply.text,
            "finish_reason": reply.finish_reason,
            "n_examples": asked.n_examples,
            "n_dropped": asked.n_dropped,
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.completion_tokens,
            "messages": [{"role": message.role, "content": message.content} for message in asked.messages],
            "history": history,
        }

    def utilities(self, tables: list[Any]) -> F32:
        """Return float32 (n_users, n_queries_per_user)."""
        values = np.concatenate([table["utility"].to_numpy() for table in tables])
        return values.astype(np.float32, copy=False).reshape(self.task.prompts.shape)

    def counts(self, tables: list[Any]) -> dict[str, int]:
        """Count generations, the empty ones and those cut at max_tokens among them, tokens and examples."""
        totals = dict.fromkeys(("generations", "empty", "cut"), 0)
        sums = {"prompt_tokens": 0, "completion_tokens": 0, "n_examples": 0, "n_dropped": 0}
        for table in tables:
            totals["generations"] += table.num_rows
            totals["empty"] += sum(not text.strip() for text in table["response"].to_pylist())
            totals["cut"] += table["finish_reason"].to_pylist().count("length")
            for name in sums:
                sums[name] += int(table[name].to_numpy().sum())
        examples = {"examples": sums.pop("n_examples"), "dropped_examples": sums.pop("n_dropped")}
        return totals | sums | examples

    def stored(self, policy: Policy, unit: Unit) -> Any:
        """Return a reference policy's samples: the stored responses that it picks."""
        choice, utility = policy.choice.ravel(), policy.utility.ravel()
        benchmark = self.task.benchmark
        raw = benchmark.scores[self.prompts, choice]
        records = [
            self._common(row)
            | {
                "response": benchmark.response(int(self.prompts[row]), int(choice[row])),
                "finish_reason": "stored",
                "scores": raw[row].tolist(),
                "utility": float(utility[row]),
            }
            for row in range(unit.start, unit.stop)
        ]
        return _table(records)


def _table(records: list[dict[str, Any]]) -> Any:
    import pyarrow as pa

    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    pair = pa.struct([("prompt", pa.string()), ("chosen", pa.string()), ("rejected", pa.string())])
    counts = ("n_examples", "n_dropped", "prompt_tokens", "completion_tokens")
    defaults: dict[str, Any] = dict.fromkeys(counts, 0) | {"messages": [], "history": []}
    schema = pa.schema(
        [
            ("user", pa.int32()),
            *((name, pa.string()) for name in ("prompt_id", "prompt", "response", "finish_reason")),
            *((name, pa.int32()) for name in counts),
            ("scores", pa.list_(pa.float32())),
            *((name, pa.float32()) for name in ("utility", "best_utility", "reference_utility")),
            ("messages", pa.list_(message)),
            ("history", pa.list_(pair)),
        ]
    )
    return pa.Table.from_pylist([defaults | record for record in records], schema=schema)


def to_samples(tables: list[Any]) -> list[Sample]:
    """Return the samples in Arrow tables."""
    from personalllm.core.types import Message

    return [
        Sample(
            user=row["user"],
            prompt_id=row["prompt_id"],
            prompt=row["prompt"],
            response=row["response"],
            finish_reason=row["finish_reason"],
            n_examples=row["n_examples"],
            utility=row["utility"],
            best_utility=row["best_utility"],
            reference_utility=row["reference_utility"],
            messages=tuple(Message(turn["role"], turn["content"]) for turn in row["messages"]),
            history=tuple((pair["prompt"], pair["chosen"], pair["rejected"]) for pair in row["history"]),
        )
        for table in tables
        for row in table.to_pylist()
    ]
