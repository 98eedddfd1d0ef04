"""Second step: let every response model answer every prompt.

Responses are appended to one journal for each response model, a JSON line each, flushed to disk block by block. A
journal's name carries a digest of everything that decides its texts, so a changed knob starts another journal and
never mixes with old lines; a line that a kill cut short is dropped and drawn again. Whether a response is refused is
not kept but decided anew at each reading, so a sharper filter costs only the responses that it refuses.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from personalllm.build.filters import fault
from personalllm.build.prompts import Prompt
from personalllm.build.recipe import Recipe, ResponseModel
from personalllm.errors import RunError
from personalllm.protocols import ChatModel
from personalllm.seeding import derive_seed
from personalllm.storage import digest

__all__ = ["Response", "journal_path", "read_responses", "respond"]


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
    """

    prompt_id: str
    text: str
    finish_reason: str
    tokens: int
    attempt: int
    fault: str


def journal_path(recipe: Recipe, model: ResponseModel, chat: ChatModel, out: Path) -> Path:
    """Return where the responses of a response model are kept."""
    key = digest(
        {
            "seed": recipe.seed,
            "attempts": recipe.attempts,
            "model": model.model_dump(mode="json"),
            "chat_model": chat.identity,
        }
    )
    return out / "responses" / f"{model.name}-{key}.jsonl"


def _line(response: Response) -> bytes:
    fields = {name: value for name, value in asdict(response).items() if name != "fault"}
    return json.dumps(fields, ensure_ascii=False).encode() + b"\n"


def _read_journal(path: Path) -> Iterator[Response]:
    if not path.is_file():
        return
    with path.open("r+b") as stream:
        good = 0
        for line in stream:
            if not line.endswith(b"\n"):
                stream.truncate(good)
                break
            good += len(line)
            try:
                fields = json.loads(line)
                yield Response(**fields, fault=fault(fields["text"]))
            except (json.JSONDecodeError, TypeError, KeyError) as error:
                raise RunError(
                    f"{path} holds a line that is not a response: {error}.",
                    "Move the file away and run the step again.",
                ) from error


def read_responses(recipe: Recipe, chat_models: Mapping[str, ChatModel], out: Path) -> dict[str, dict[str, Response]]:
    """Return the usable responses so far: `{response model: {prompt_id: response}}`."""
    found: dict[str, dict[str, Response]] = {}
    for model in recipe.response_model:
        path = journal_path(recipe, model, chat_models[model.chat_model], out)
        found[model.name] = {response.prompt_id: response for response in _read_journal(path) if not response.fault}
    return found


def _draw(
    recipe: Recipe, model: ResponseModel, chat: ChatModel, prompts: Sequence[Prompt], done: Mapping[str, int]
) -> Iterator[list[Response]]:
    """Yield rounds of responses: all prompts once, then those whose response was refused, until attempts run out."""
    todo = [(prompt, done.get(prompt.prompt_id, 0)) for prompt in prompts]
    while todo := [(prompt, attempt) for prompt, attempt in todo if attempt < recipe.attempts]:
        seeds = [derive_seed(recipe.seed, model.name, prompt.prompt_id, attempt) for prompt, attempt in todo]
        replies = chat.chat([model.request(p.prompt, s) for (p, _), s in zip(todo, seeds, strict=True)])
        drawn = [
            Response(p.prompt_id, r.text, r.finish_reason, r.completion_tokens, attempt, fault(r.text))
            for (p, attempt), r in zip(todo, replies, strict=True)
        ]
        yield drawn
        todo = [(p, a + 1) for (p, a), response in zip(todo, drawn, strict=True) if response.fault]


def respond(
    recipe: Recipe,
    prompts: Sequence[Prompt],
    chat_models: Mapping[str, ChatModel],
    out: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
    block: int = 32,
) -> int:
    """Draw every response that is still missing, block of prompts by block of prompts.

    Args:
        recipe: The response models and the seed.
        prompts: The prompts, in the order in which they are answered.
        chat_models: The chat models by the names that the recipe uses.
        out: Working folder of the build.
        progress: Called with (done, total) pairs of prompt and response model.
        block: Prompts between two flushes to disk; has no effect on any text.

    Returns:
        Number of (prompt, response model) pairs that were given up: empty or repetitive in every attempt.
    """
    attempts: dict[str, dict[str, int]] = {}
    settled: dict[str, set[str]] = {}
    journals = {m.name: journal_path(recipe, m, chat_models[m.chat_model], out) for m in recipe.response_model}
    for model in recipe.response_model:
        tries, ready = attempts.setdefault(model.name, {}), settled.setdefault(model.name, set())
        for response in _read_journal(journals[model.name]):
            tries[response.prompt_id] = response.attempt + 1
            if not response.fault or response.attempt + 1 >= recipe.attempts:
                ready.add(response.prompt_id)
    (out / "responses").mkdir(parents=True, exist_ok=True)
    total, wanted = len(prompts) * len(recipe.response_model), {p.prompt_id for p in prompts}
    done = sum(len(ids & wanted) for ids in settled.values())
    if progress:
        progress(done, total)
    for start in range(0, len(prompts), block):
        for model in recipe.response_model:
            todo = [p for p in prompts[start : start + block] if p.prompt_id not in settled[model.name]]
            if not todo:
                continue
            chat = chat_models[model.chat_model]
            with journals[model.name].open("ab") as journal:
                for drawn in _draw(recipe, model, chat, todo, attempts[model.name]):
                    journal.writelines(_line(response) for response in drawn)
                    journal.flush()
                    os.fsync(journal.fileno())
            done += len(todo)
            if progress:
                progress(done, total)
    usable = read_responses(recipe, chat_models, out)
    return total - sum(len(found.keys() & wanted) for found in usable.values())
