"""Request a response to every prompt from every response model (second step).

Responses are appended to one journal for each response model, a JSON line each, as soon as they are there. A journal's
name carries a digest of everything that decides its texts, so a changed setting starts another journal and never mixes
with old lines; a line that a kill cut short is dropped and drawn again. Whether a response is rejected is
decided at each reading, so a stricter filter costs only the responses that it rejects.

A request that fails leaves no line: what is not in a journal is asked for by the next run.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from personalllm.build._lock import exclusive
from personalllm.build._report import ModelAnswers, RespondReport
from personalllm.build._work import Draw, Progress, Stopped, Work
from personalllm.build.filters import fault
from personalllm.build.ledger import Usage, read_ledger, write_ledger
from personalllm.build.prompts import Prompt
from personalllm.build.recipe import Recipe, ResponseModel
from personalllm.core.errors import PersonalLLMError, RunError
from personalllm.core.protocols import ChatModel, Executor, chat_some
from personalllm.core.seeding import derive_seed
from personalllm.core.storage import digest
from personalllm.core.types import ChatReply, ChatRequest

__all__ = ["ModelAnswers", "RespondReport", "Response", "journal_path", "read_given_up", "read_responses", "respond"]

_PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Response:
    """One response as it was drawn.

    Attributes:
        prompt_id: The prompt that it answers.
        text: The response.
        finish_reason: `"stop"`, or `"length"` if `max_tokens` cut it.
        tokens: New tokens.
        attempt: Which draw it was, from 0.
        fault: Why it may not be used; empty if it may.
        prompt_tokens: Tokens of the prompt.
        cached_tokens: How many of these the server took from its own prompt cache.
        refusal: Why the server withheld the response or a part of it, e.g. `"content_filter"`; empty if it did not.
        reused: Whether it came from a cache, so that nothing was paid for it here.
    """

    prompt_id: str
    text: str
    finish_reason: str
    tokens: int
    attempt: int
    fault: str
    prompt_tokens: int = 0
    cached_tokens: int = 0
    refusal: str = ""
    reused: bool = False


_OPTIONAL = {f.name: f.default for f in fields(Response)[6:]}


def journal_path(recipe: Recipe, model: ResponseModel, chat: ChatModel, out: Path) -> Path:
    """Return where the responses of a response model are kept."""
    key = digest(
        {
            "seed": recipe.seed,
            "attempts": recipe.attempts,
            "model": model.deciding,
            "chat_model": chat.identity,
        }
    )
    return out / "responses" / f"{model.name}-{key}.jsonl"


def _line(response: Response) -> bytes:
    held = asdict(response)
    stored = {name: value for name, value in held.items() if name != "fault" and value != _OPTIONAL.get(name, held)}
    return json.dumps(stored, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def _read_journal(path: Path) -> Iterator[Response]:
    if not path.is_file():
        return
    with path.open("rb") as stream:
        for line in stream:
            if not line.endswith(b"\n"):
                break
            try:
                held = json.loads(line)
                yield Response(**held, fault="refused" if held.get("refusal") else fault(held["text"]))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise RunError(
                    f"{path} holds a line that is not a response: {error}.",
                    "Move the file away and run the step again.",
                ) from error


def _mend_journal(path: Path) -> None:
    """Cut off a last line that a kill left unfinished."""
    if not path.is_file():
        return
    with path.open("r+b") as stream:
        good = 0
        for line in stream:
            if not line.endswith(b"\n"):
                stream.truncate(good)
                return
            good += len(line)


def read_responses(recipe: Recipe, chat_models: Mapping[str, ChatModel], out: Path) -> dict[str, dict[str, Response]]:
    """Return the usable responses so far: `{response model: {prompt_id: response}}`."""
    responses: dict[str, dict[str, Response]] = {}
    for model in recipe.response_model:
        path = journal_path(recipe, model, chat_models[model.chat_model], out)
        responses[model.name] = {response.prompt_id: response for response in _read_journal(path) if not response.fault}
    return responses


def read_given_up(recipe: Recipe, chat_models: Mapping[str, ChatModel], out: Path) -> dict[str, frozenset[str]]:
    """Return the prompts that are not asked again though they have no usable response: `{response model: ids}`."""
    unanswered: dict[str, frozenset[str]] = {}
    for model in recipe.response_model:
        path = journal_path(recipe, model, chat_models[model.chat_model], out)
        last = {response.prompt_id: response for response in _read_journal(path)}
        given_up = (r for r in last.values() if r.fault and r.attempt + 1 >= recipe.attempts)
        unanswered[model.name] = frozenset(response.prompt_id for response in given_up)
    return unanswered


def _drawn(draw: Draw, reply: ChatReply, source: str) -> Response:
    return Response(
        draw.prompt.prompt_id,
        reply.text,
        reply.finish_reason,
        reply.completion_tokens,
        draw.attempt,
        "refused" if reply.refusal else fault(reply.text),
        reply.prompt_tokens,
        reply.cached_tokens,
        reply.refusal,
        source == "cache",
    )


@dataclass(frozen=True, slots=True)
class _Unit:
    """Draws of one response model, to be made here or elsewhere."""

    recipe: Recipe
    model: ResponseModel
    chat: ChatModel
    draws: tuple[Draw, ...]

    def run(self, take: Callable[[Response], None], fail: Callable[[Draw, str, PersonalLLMError], bool]) -> None:
        """Draw all, then again those whose response was refused, until the attempts run out."""
        draws = self.draws
        while draws:
            draws = self._round(draws, take, fail)

    def _round(
        self,
        draws: tuple[Draw, ...],
        take: Callable[[Response], None],
        fail: Callable[[Draw, str, PersonalLLMError], bool],
    ) -> tuple[Draw, ...]:
        again: list[Draw] = []
        going = True

        def done(i: int, reply: ChatReply, source: str) -> None:
            response = _drawn(draws[i], reply, source)
            take(response)
            if response.fault and response.attempt + 1 < self.recipe.attempts:
                again.append(Draw(draws[i].prompt, response.attempt + 1))

        def failed(i: int, kind: str, error: PersonalLLMError) -> bool:
            nonlocal going
            going = fail(draws[i], kind, error) and going
            return going

        chat_some(self.chat, [self._request(draw) for draw in draws], done, failed)
        return tuple(again) if going else ()

    def _request(self, draw: Draw) -> ChatRequest:
        seed = derive_seed(self.recipe.seed, self.model.name, draw.prompt.prompt_id, draw.attempt)
        return self.model.request(draw.prompt.prompt, seed)


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The outcome of a unit."""

    responses: tuple[Response, ...]
    failures: tuple[tuple[Draw, str, PersonalLLMError], ...]


def _answer(unit: _Unit) -> _Outcome:
    """Run a unit away from the journals."""
    responses: list[Response] = []
    failures: list[tuple[Draw, str, PersonalLLMError]] = []

    def fail(draw: Draw, kind: str, error: PersonalLLMError) -> bool:
        failures.append((draw, kind, error))
        return bool(responses) or kind != "unreachable"

    unit.run(responses.append, fail)
    return _Outcome(tuple(responses), tuple(failures))


def _is_remote(chat: ChatModel) -> bool:
    """Return whether the model runs elsewhere, so that others can run on this machine meanwhile."""
    return bool(getattr(chat, "remote", False))


class _Run:
    """One run of the step over all response models."""

    def __init__(self, recipe: Recipe, prompts: Sequence[Prompt], works: Sequence[Work], block: int) -> None:
        self.recipe = recipe
        self.prompts = prompts
        self.works = works
        self.block = block
        self.progress = Progress(None, 0)
        self._stop = threading.Event()

    def here(self) -> None:
        """Answer in this process: models behind a server side by side, the others one after the other."""
        lanes: dict[int, list[Work]] = {}
        for work in self.works:
            if _is_remote(work.chat):
                lanes.setdefault(id(work.chat), []).append(work)
        ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        threads = [
            threading.Thread(target=self._lane, args=(works, ended), daemon=True, name=f"respond {works[0].model.name}")
            for works in lanes.values()
        ]
        for thread in threads:
            thread.start()
        try:
            for start in range(0, len(self.prompts), self.block):
                for work in self.works:
                    if not _is_remote(work.chat):
                        self._exhaust(work, self.prompts[start : start + self.block])
            for _ in threads:
                error = ended.get()
                if error is not None:
                    raise error
        finally:
            self._stop.set()
            patience = time.monotonic() + _PATIENCE
            for thread in threads:
                thread.join(max(0.0, patience - time.monotonic()))

    def elsewhere(self, executor: Executor) -> None:
        """Request responses on an executor, a block of prompts of one response model at a time."""
        units, owners = [], []
        for start in range(0, len(self.prompts), self.block):
            for work in self.works:
                draws = work.pending(self.prompts[start : start + self.block])
                if draws:
                    units.append(_Unit(self.recipe, work.model, work.chat, draws))
                    owners.append(work)
        for work, outcome in zip(owners, executor.map(_answer, units), strict=True):
            with work.journal():
                for response in outcome.responses:
                    self._take(work, response)
            for draw, kind, error in outcome.failures:
                work.fail(draw, kind, error)

    def _lane(self, works: Sequence[Work], ended: queue.SimpleQueue[BaseException | None]) -> None:
        """Answer for the response models that share one chat model."""
        try:
            unreachable = None
            for work in works:
                if unreachable is None:
                    self._exhaust(work, self.prompts)
                    unreachable = work.unreachable
                else:
                    work.set_aside(unreachable)
        except Stopped:
            ended.put(None)
        except BaseException as error:  # noqa: BLE001  (it is raised again in the main thread)
            ended.put(error)
        else:
            ended.put(None)

    def _exhaust(self, work: Work, prompts: Sequence[Prompt]) -> None:
        """Draw until every prompt is settled, has failed, or the model is set aside."""
        draws = work.pending(prompts)
        if draws and not work.aside:
            with work.journal():
                _Unit(self.recipe, work.model, work.chat, draws).run(
                    lambda response: self._take(work, response), work.fail
                )

    def _take(self, work: Work, response: Response) -> None:
        if self._stop.is_set():
            raise Stopped
        if work.take(response, _line(response), self.block):
            self.progress.advance()


def respond(
    recipe: Recipe,
    prompts: Sequence[Prompt],
    chat_models: Mapping[str, ChatModel],
    out: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
    block: int = 32,
    executor: Executor | None = None,
) -> RespondReport:
    """Draw every response that is still missing.

    Response models behind servers work side by side, each with its own concurrency and rate limit; models that run on
    this machine take turns, a block of prompts at a time. Each response is in its journal as soon as it is there. A
    request that fails after all its tries stops no other; nothing of it is kept, and the next run makes it again.

    Args:
        recipe: The response models and the seed.
        prompts: The prompts, in the order in which they are answered.
        chat_models: The chat models by the names that the recipe uses.
        out: Working folder of the build.
        progress: Called with (done, total) pairs of prompt and response model, perhaps from another thread.
        block: Prompts of a model's turn, and responses between two syncs to disk; has no effect on any text.
        executor: Who works: None for this process. With an executor a block is journalled when all of it is there, and
            rate limits hold for each worker by itself.

    Returns:
        What was done, what is missing and why, and what it cost; `ledger.json` holds the latter.

    Raises:
        UserError: If another run writes to the folder, or a setting of a model that never answered is wrong.
        RunError: If a model fails as a whole, or a journal is damaged or cannot be written.
    """
    with exclusive(out / "responses"):
        works = []
        for model in recipe.response_model:
            chat = chat_models[model.chat_model]
            path = journal_path(recipe, model, chat, out)
            _mend_journal(path)
            work = Work(model, chat, path, prompts, recipe.attempts)
            for response in _read_journal(path):
                work.recall(response)
            works.append(work)
        run = _Run(recipe, prompts, works, block)
        run.progress = Progress(progress, len(prompts) * len(works))
        run.progress.advance(sum(work.n_settled for work in works))
        try:
            run.here() if executor is None else run.elsewhere(executor)
        finally:
            ledger = read_ledger(recipe, out)
            write_ledger(ledger, out)
        spent = sum((work.spent.priced(work.model) for work in works if work.spent != Usage()), Usage(dollars=0.0))
        return RespondReport(tuple(work.summary() for work in works), spent, ledger)
