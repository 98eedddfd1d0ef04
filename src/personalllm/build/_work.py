"""List the requests that one response model still has to answer, and where its answers are stored."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from personalllm.build._report import ModelAnswers
from personalllm.build.ledger import Usage
from personalllm.build.prompts import Prompt
from personalllm.build.recipe import ResponseModel
from personalllm.core.errors import PersonalLLMError, RunError, UserError
from personalllm.core.protocols import ChatModel

if TYPE_CHECKING:
    from personalllm.build.responding import Response

__all__ = ["Draw", "Progress", "Stopped", "Work"]

_FAILURES_IN_A_ROW = 25
_HOPELESS = ("quota",)
_NOBODY_THERE = "unreachable"
_OF_THE_PROMPT = ("refused request",)


class Stopped(Exception):
    """Another response model has ended the run."""


@dataclass(frozen=True, slots=True)
class Draw:
    """A response to be drawn: the prompt, and which attempt it is, from 0."""

    prompt: Prompt
    attempt: int


class Progress:
    """Counts settled pairs, from any thread."""

    def __init__(self, callback: Callable[[int, int], None] | None, total: int) -> None:
        self._callback = callback
        self._total = total
        self._done = 0
        self._lock = threading.Lock()

    def advance(self, n: int = 1) -> None:
        """Count n more pairs as settled and tell it."""
        with self._lock:
            self._done += n
            if self._callback:
                self._callback(self._done, self._total)


class Work:
    """The answers of one response model: those that are there, those that are missing, those that failed.

    Used by one thread at a time.

    Args:
        model: The response model.
        chat: Who writes for it.
        path: Its journal.
        wanted: The prompts.
        attempts: How often a refused response is drawn.
    """

    def __init__(
        self, model: ResponseModel, chat: ChatModel, path: Path, wanted: Sequence[Prompt], attempts: int
    ) -> None:
        self.model = model
        self.chat = chat
        self.path = path
        self.spent = Usage()
        self._wanted = {prompt.prompt_id for prompt in wanted}
        self._attempts = attempts
        self._tries: dict[str, int] = {}
        self._faults: dict[str, str] = {}
        self._cut: dict[str, bool] = {}
        self._failures: dict[str, tuple[str, PersonalLLMError]] = {}
        self._in_a_row = 0
        self._replied = False
        self._unreachable: PersonalLLMError | None = None
        self._aside = ""
        self._stream: IO[bytes] | None = None
        self._unsynced = 0

    @property
    def aside(self) -> bool:
        """Whether the model gets no further request in this run."""
        return bool(self._aside)

    @property
    def unreachable(self) -> PersonalLLMError | None:
        """The error of a server that could not be reached; None if it could."""
        return self._unreachable

    def set_aside(self, error: PersonalLLMError) -> None:
        """Stop requests to the model in this run: its server cannot be reached."""
        self._unreachable = error
        self._aside = f"set aside: {_NOBODY_THERE}"

    @property
    def n_settled(self) -> int:
        """Prompts that are answered or given up."""
        return sum(map(self._is_settled, self._wanted))

    def recall(self, response: Response) -> None:
        """Record a response of the journal."""
        self._tries[response.prompt_id] = response.attempt + 1
        self._faults[response.prompt_id] = response.fault
        self._cut[response.prompt_id] = response.finish_reason == "length"

    def pending(self, prompts: Sequence[Prompt]) -> tuple[Draw, ...]:
        """Return the next draw of each prompt that is not settled and has not failed in this run."""
        return tuple(
            Draw(prompt, self._tries.get(prompt.prompt_id, 0))
            for prompt in prompts
            if not self._is_settled(prompt.prompt_id) and prompt.prompt_id not in self._failures
        )

    @contextmanager
    def journal(self) -> Iterator[None]:
        """Open the journal for appending; it is flushed to disk when the block ends."""
        with self.path.open("ab") as stream:
            self._stream = stream
            try:
                yield
            finally:
                self._stream = None
                stream.flush()
                os.fsync(stream.fileno())

    def take(self, response: Response, line: bytes, sync_every: int) -> bool:
        """Append a response to the journal; return whether its prompt is settled now.

        Raises:
            RunError: If the journal cannot be written.
        """
        if self._stream is None:
            raise RunError(f"The journal {self.path} is not open.")
        try:
            self._stream.write(line)
            self._stream.flush()
            self._unsynced += 1
            if self._unsynced >= sync_every:
                os.fsync(self._stream.fileno())
                self._unsynced = 0
        except OSError as error:
            raise RunError(
                f"{self.path} cannot be written: {error.strerror}.", "Free the disk and run the same command again."
            ) from error
        self.recall(response)
        self._in_a_row = 0
        self._replied = True
        self.spent += (
            Usage(reused=1)
            if response.reused
            else Usage(1, 0, response.prompt_tokens, response.cached_tokens, response.tokens)
        )
        return self._is_settled(response.prompt_id)

    def fail(self, draw: Draw, kind: str, error: PersonalLLMError) -> bool:
        """Record a failed request; return whether requests to the model continue.

        A model is set aside when what is wrong concerns every request, when nobody listens at its address and nobody
        did in this run, or when very many requests fail in a row.

        Raises:
            UserError: If a setting is wrong and the model has never answered: it must be fixed first.
        """
        if isinstance(error, UserError) and not self._tries:
            raise error
        self._failures[draw.prompt.prompt_id] = (kind, error)
        self._in_a_row += kind not in _OF_THE_PROMPT
        if isinstance(error, UserError) or kind in _HOPELESS:
            self._aside = f"set aside: {kind}"
        elif kind == _NOBODY_THERE and not self._replied:
            self.set_aside(error)
        elif self._in_a_row >= _FAILURES_IN_A_ROW:
            self._aside = f"set aside after {self._in_a_row} failures in a row"
        return not self._aside

    def summary(self) -> ModelAnswers:
        """Return how far the model is."""
        settled = [prompt_id for prompt_id in self._wanted if self._is_settled(prompt_id)]
        given_up = Counter(self._faults[prompt_id] for prompt_id in settled if self._faults[prompt_id])
        failures = Counter(kind for kind, _ in self._failures.values())
        last = self._unreachable or (list(self._failures.values())[-1][1] if self._failures else None)
        cut = sum(self._cut[prompt_id] for prompt_id in settled if not self._faults[prompt_id])
        return ModelAnswers(
            response_model=self.model.name,
            usable=len(settled) - given_up.total(),
            given_up=dict(given_up),
            failures=dict(failures),
            not_asked=len(self._wanted) - len(settled) - failures.total(),
            aside=self._aside,
            example=last.message if last else "",
            unreachable=self._unreachable is not None,
            remedy=last.remedy if last else "",
            cut=cut,
        )

    def _is_settled(self, prompt_id: str) -> bool:
        tries = self._tries.get(prompt_id, 0)
        return tries > 0 and (not self._faults[prompt_id] or tries >= self._attempts)
