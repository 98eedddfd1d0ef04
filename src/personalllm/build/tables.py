"""Score and respond over Parquet tables larger than memory: the work on each part.

Both are picklable functions from table to table for `personalllm.backends.executor.map_parquet`. They hold their
backend, so a worker loads its weights once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from personalllm.build.filters import fault
from personalllm.build.recipe import ResponseModel
from personalllm.core.errors import DataError, ParameterError, RunError
from personalllm.core.protocols import ChatModel, RewardEnsemble
from personalllm.core.seeding import derive_seed
from personalllm.core.storage import digest

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["RespondRows", "ScoreRows"]


@dataclass(frozen=True, slots=True)
class ScoreRows:
    """Adds the reward models' scores to rows with the texts `prompt` and `response`.

    Each reward model gives a float32 column `score_<name>`; every other column is kept.

    Args:
        ensemble: The reward models; picklable.
    """

    ensemble: RewardEnsemble

    @property
    def identity(self) -> str:
        """Everything that determines the scores, and their columns."""
        return digest(["score-rows-1", self.ensemble.identity, list(self.ensemble.reward_models)], 32)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the table with the scores.

        Raises:
            DataError: If a column is missing or in the way, or a text is null.
            RunError: If a score is not finite; names the reward model and the row's texts.
        """
        import pyarrow as pa

        names = [f"score_{name}" for name in self.ensemble.reward_models]
        prompts, responses = _texts(table, ("prompt", "response"), names)
        values = self.ensemble.score(prompts, responses)
        if values.shape != (len(prompts), len(names)):
            raise RunError(f"The reward models returned shape {values.shape}, expected {(len(prompts), len(names))}.")
        if not np.isfinite(values).all():
            row, model = np.argwhere(~np.isfinite(values))[0].tolist()
            raise RunError(f"{names[model]} is {values[row, model]} for the response to {prompts[row][:60]!r}.")
        for name, column in zip(names, values.T, strict=True):
            table = table.append_column(name, pa.array(np.ascontiguousarray(column, np.float32)))
        return table


@dataclass(frozen=True, slots=True)
class RespondRows:
    """Adds a response model's responses to rows with the texts `prompt_id` and `prompt`.

    The seed of a response derives from the recipe's seed, the response model's name, the prompt's id and the attempt,
    as in `respond`: rows may be cut and shared out in any way. A response that is empty or repetitive is drawn again.

    Adds the columns `response` (null if every attempt was refused), `finish_reason`, `completion_tokens` and `attempt`.

    Args:
        model: Its name, style instruction and sampling.
        chat: The chat model that writes; picklable.
        seed: The recipe's seed.
        attempts: Draws before a response is given up, >= 1.
    """

    model: ResponseModel
    chat: ChatModel
    seed: int = 0
    attempts: int = 3

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ParameterError("attempts", ">= 1", self.attempts)

    @property
    def identity(self) -> str:
        """Everything that determines the responses."""
        return digest(["respond-rows-1", self.model.deciding, self.chat.identity, self.seed, self.attempts], 32)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the table with the responses.

        Raises:
            DataError: If a column is missing or in the way, or a text is null.
            RunError: If the chat model fails.
        """
        import pyarrow as pa

        new = {"response": pa.string(), "finish_reason": pa.string(), "completion_tokens": pa.int32()}
        ids, prompts = _texts(table, ("prompt_id", "prompt"), [*new, "attempt"])
        drawn: list[dict[str, Any]] = [dict.fromkeys(new) for _ in ids]
        attempts = [0] * len(ids)
        todo = list(range(len(ids)))
        for attempt in range(self.attempts):
            seeds = [derive_seed(self.seed, self.model.name, ids[row], attempt) for row in todo]
            requests = [self.model.request(prompts[row], seed) for row, seed in zip(todo, seeds, strict=True)]
            refused = []
            for row, reply in zip(todo, self.chat.chat(requests) if requests else [], strict=True):
                attempts[row] = attempt
                if reply.refusal or fault(reply.text):
                    refused.append(row)
                else:
                    values = (reply.text, reply.finish_reason, reply.completion_tokens)
                    drawn[row] = dict(zip(new, values, strict=True))
            todo = refused
        for name, kind in new.items():
            table = table.append_column(name, pa.array([row[name] for row in drawn], kind))
        return table.append_column("attempt", pa.array(attempts, pa.int32()))


def _texts(table: pa.Table, names: Sequence[str], new: Sequence[str]) -> list[list[str]]:
    """Return the columns of texts, checked."""
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise DataError(
            f"The table has no column {missing[0]!r}; it has {', '.join(table.column_names)}.", "Rename the column."
        )
    clashes = [name for name in new if name in table.column_names]
    if clashes:
        raise DataError(f"The table has a column {clashes[0]!r} already.", "Remove or rename it.")
    columns: list[list[Any]] = [table.column(name).to_pylist() for name in names]
    for name, texts in zip(names, columns, strict=True):
        bad = next((i for i, text in enumerate(texts) if not isinstance(text, str)), None)
        if bad is not None:
            raise DataError(f"{name} of row {bad + 1} is {texts[bad]!r}, not a text.", "Every row needs its texts.")
    return columns
