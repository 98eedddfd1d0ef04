"""What `personalllm build` shows, and the backends that a recipe names."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from personalllm.cli.progress import duration
from personalllm.core.errors import PersonalLLMError, UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from rich.console import Console

    from personalllm.build import Recipe, ResponseModel
    from personalllm.build.estimate import Estimate
    from personalllm.build.prompts import Prompt, SourceCounts
    from personalllm.build.responding import Response
    from personalllm.core.protocols import ChatModel, RewardEnsemble, TextEmbedder

__all__ = [
    "Clock",
    "chat_model_of",
    "chat_models_of",
    "check_chat_model",
    "embedder_of",
    "interruptible",
    "n_absent",
    "reachable_chat_models",
    "scoring_so_far",
    "show_counts",
    "show_estimate",
]

_LEFT_OUT = (
    ("empty", "empty"),
    ("damaged", "damaged"),
    ("too_short", "too short"),
    ("too_long", "too long"),
    ("duplicate", "equal to another"),
    ("other_language", "other language"),
    ("near_duplicate", "near to another"),
    ("over_limit", "over the limit"),
    ("not_drawn", "not drawn"),
)


def chat_models_of(recipe: Recipe) -> dict[str, ChatModel]:
    """Return the chat models that a recipe names, by the names that it uses; nobody is asked anything."""
    return {model.chat_model: chat_model_of(model) for model in recipe.response_model}


def reachable_chat_models(recipe: Recipe) -> dict[str, ChatModel] | None:
    """Return the chat models of a recipe, or None if one of them is not set up here."""
    try:
        found = chat_models_of(recipe)
        _ = [chat.identity for chat in found.values()]
    except PersonalLLMError:
        return None
    return found


def embedder_of(recipe: Recipe) -> TextEmbedder | None:
    """Return the embedder that compares the prompts, if the recipe asks for one."""
    from personalllm.backends.names import build_embedder

    rule = recipe.prompts.near_duplicates
    return build_embedder(rule.embedder) if rule is not None and rule.method == "embedding" else None


def check_chat_model(model: ResponseModel) -> None:
    """Raise if a response model can be asked nowhere; nothing is loaded.

    Raises:
        UnknownName: If there is no chat model of the name.
        UserError: If a server has no address, or a setting has no effect.
    """
    from personalllm.backends.names import check_chat_model_name
    from personalllm.backends.registry import CHAT_MODELS

    name = model.chat_model
    check_chat_model_name(name)
    if name.startswith("openai:"):
        _address(model)
        return
    unused = {"base_url": model.base_url, "api_key_env": model.api_key_env, "timeout": model.timeout}
    unused |= {"requests_per_minute": model.requests_per_minute, "tokens_per_minute": model.tokens_per_minute}
    if name.startswith("vllm:"):
        _refuse(model, unused | {"concurrency": model.concurrency})
        return
    _refuse(model, unused | {"revision": model.revision})
    if ":" in name or CHAT_MODELS.is_plugin(name):
        _refuse(model, {"concurrency": model.concurrency})


def chat_model_of(model: ResponseModel) -> ChatModel:
    """Return the chat model of a response model; nobody is asked anything."""
    from personalllm.backends.llm import CachedChatModel, LocalChatModel, VLLMChatModel
    from personalllm.backends.names import build_llm
    from personalllm.backends.registry import CHAT_MODELS

    check_chat_model(model)
    name = model.chat_model
    if name.startswith("openai:"):
        return CachedChatModel(_served(model))
    if name.startswith("vllm:"):
        return VLLMChatModel(name.removeprefix("vllm:"), revision=model.revision or None)
    if ":" in name or CHAT_MODELS.is_plugin(name):
        return build_llm(name)
    return LocalChatModel(name, workers=model.concurrency)


def _refuse(model: ResponseModel, settings: Mapping[str, object]) -> None:
    """Raise if settings were given that the chat model would ignore."""
    given = [name for name, value in settings.items() if value]
    if given:
        raise UserError(
            f"Response model {model.name}: {', '.join(given)} has no effect on {model.chat_model!r}.",
            'Leave it out of the recipe, or name a server with chat_model = "openai:MODEL".',
        )


def _address(model: ResponseModel) -> str:
    address = model.base_url or os.environ.get("OPENAI_BASE_URL", "")
    if not address:
        raise UserError(
            f"Response model {model.name}: the address of {model.chat_model!r} is not known.",
            "Set base_url in the recipe, or the environment variable OPENAI_BASE_URL.",
        )
    return address


def _served(model: ResponseModel) -> ChatModel:
    from personalllm.backends.llm import OpenAIChatModel, ServerOptions

    given = {
        "requests_per_minute": model.requests_per_minute or None,
        "tokens_per_minute": model.tokens_per_minute or None,
        "timeout": model.timeout,
        "api_key_env": model.api_key_env or None,
        "tokenizer": os.environ.get("PERSONALLLM_TOKENIZER") or None,
    }
    return OpenAIChatModel(
        model.chat_model.removeprefix("openai:"),
        base_url=_address(model),
        concurrency=8 if model.concurrency is None else model.concurrency,
        revision=model.revision or None,
        options=ServerOptions(**{name: value for name, value in given.items() if value is not None}),  # type: ignore[arg-type]
    )


class Clock:
    """Measures how much was done, and how long it took, from the first call of a progress callback."""

    def __init__(self, progress: Callable[[int, int], None]) -> None:
        self._progress = progress
        self._started: float | None = None
        self._first = self._done = self._total = 0

    def __call__(self, done: int, total: int) -> None:
        """Note how far the work is and tell it."""
        if self._started is None:
            self._started, self._first = time.monotonic(), done
        self._done, self._total = done, total
        self._progress(done, total)

    @property
    def left(self) -> int:
        """What there was to do at the beginning, in the unit of the callback."""
        return self._total - self._first

    def note(self, out: Path, step: str, whole: int = 0) -> None:
        """Note the rate for later estimates.

        Args:
            out: Working folder of the build.
            step: What was measured; see `note_rate`.
            whole: Responses that the total of the callback stands for; the total itself if 0.
        """
        from personalllm.build.estimate import note_rate

        if self._started is not None and self._total:
            share = (self._done - self._first) / self._total
            note_rate(out, step, round(share * (whole or self._total)), time.monotonic() - self._started)


def n_absent(ensemble: RewardEnsemble, texts: Sequence[Sequence[str]]) -> int | None:
    """Return how many responses have no vector in the cache; None if the reward models keep no vectors.

    Where most have one, scoring is so fast that it says nothing about new responses.
    """
    from personalllm.backends.embedding import CachedEmbedder

    embedder = getattr(ensemble, "embedder", None)
    if not isinstance(embedder, CachedEmbedder):
        return None
    flat = [text for row in texts for text in row]
    return len(flat) - len(set(flat)) + embedder.count_absent(flat)


def scoring_so_far(
    recipe: Recipe,
    prompts: Sequence[Prompt],
    responses: Mapping[str, Mapping[str, Response]] | None,
    out: Path,
    executor: str,
    block: int,
) -> tuple[str, int]:
    """Return under which name the rate of scoring is noted, and how many responses are scored; nothing is fetched.

    Args:
        recipe: Who scores.
        prompts: The prompts in their order.
        responses: The usable responses, if any can be read.
        out: Working folder of the build.
        executor: Who works.
        block: Prompts in a block.
    """
    from personalllm.build.estimate import score_step
    from personalllm.build.scoring import complete_prompts, n_scored
    from personalllm.cli.readiness import ensemble_of, missing

    if not (out / "scores").is_dir() or missing(recipe, ("score",)):
        return "", 0
    ensemble = ensemble_of(recipe)
    kept = complete_prompts(prompts, responses)[: recipe.prompts.train + recipe.prompts.test] if responses else []
    texts = [[found[p.prompt_id].text for found in (responses or {}).values()] for p in kept]
    return score_step(ensemble, executor), n_scored(kept, texts, ensemble, out, block=block) if kept else 0


@contextmanager
def interruptible(console: Console, out: Path) -> Iterator[None]:
    """Turn Ctrl-C into a line that says what is kept and how to go on, and the exit status 130."""
    import typer

    try:
        yield
    except KeyboardInterrupt:
        kept = _kept(out)
        text = f"Stopped. Kept in {out}: {kept}. The same command goes on from here." if kept else "Stopped. " + _ANEW
        console.print(text, markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(130) from None


_ANEW = "Nothing was finished yet; the same command begins anew."


def _kept(out: Path) -> str:
    """Return in words what a working folder holds."""
    counts = {
        "prompts": _n_lines(out / "prompts.jsonl"),
        "responses": sum(_n_lines(path) for path in (out / "responses").glob("*.jsonl")),
        "blocks of scores": sum(1 for _ in (out / "scores").glob("*/*.npy")),
    }
    return ", ".join(f"{n:,} {what}" for what, n in counts.items() if n)


def _n_lines(path: Path) -> int:
    if not path.is_file():
        return 0
    with path.open("rb") as stream:
        return sum(line.endswith(b"\n") for line in stream)


def show_counts(console: Console, counts: Sequence[SourceCounts]) -> None:
    """Show what became of the rows of each source; the numbers of a row add up to those read."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    rows = [asdict(count) for count in counts]
    if len(rows) > 1:
        keys = ("read", "drawn", *(key for key, _ in _LEFT_OUT))
        rows.append({"name": "all"} | {key: sum(row[key] for row in rows) for key in keys})
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("source", overflow="fold")
    table.add_column("read", justify="right", no_wrap=True)
    table.add_column("drawn", justify="right", no_wrap=True)
    table.add_column("left out")
    for i, row in enumerate(rows):
        if i and i == len(counts):
            table.add_section()
        reasons = [f"{row[key]:,} {title}" for key, title in _LEFT_OUT if row[key]]
        table.add_row(escape(row["name"]), f"{row['read']:,}", f"{row['drawn']:,}", ", ".join(reasons) or "none")
    console.print(table)


def show_estimate(console: Console, found: Estimate, steps: Sequence[str]) -> None:
    """Show what the steps `respond` and `score` will ask for."""
    if "respond" in steps:
        console.print(_requests_table(found))
        console.print(_respond_words(found), markup=False, highlight=False)
    if "score" in steps:
        done = f", {found.scored:,} of them are done" if found.scored else ""
        text = f"Scores: {found.scores:,} responses{done}. "
        hours, rate = found.score_hours, found.rates.scores_per_second
        text += (
            f"About {duration(hours * 3600)} at {rate:.3g} responses a second."
            if hours and rate is not None
            else "Nothing is left to score."
            if hours == 0
            else "Time unknown: give --scores-per-second, or score a few first."
        )
        console.print(text, markup=False, highlight=False)


def _requests_table(found: Estimate) -> object:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    priced = found.dollars is not None
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("response model", overflow="fold")
    columns = ("requests", "prompt\ntokens", "new tokens\nexpected", "\nat most")
    for title in (*columns, *(("dollars\nexpected", "\nat most") if priced else ())):
        table.add_column(title, justify="right", no_wrap=True)
    for m in found.models:
        numbers = (m.requests, m.prompt_tokens, m.new_tokens, m.most_new_tokens)
        cells = [f"{number:,}" for number in numbers]
        if priced:
            cells += [_dollars(m.dollars), _dollars(m.most_dollars)]
        table.add_row(escape(m.name), *cells)
    table.add_section()
    sums = [sum(getattr(m, key) for m in found.models) for key in ("prompt_tokens", "new_tokens", "most_new_tokens")]
    cells = [f"{found.requests:,}", *(f"{number:,}" for number in sums)]
    if priced:
        cells += [_dollars(found.dollars), _dollars(found.most_dollars)]
    table.add_row("all", *cells)
    return table


def _dollars(value: float | None) -> str:
    return "?" if value is None else f"{value:,.2f}"


def _respond_words(found: Estimate) -> str:
    lines = [f"Responses: {found.requests:,} requests for {found.prompts:,} prompts."]
    hours, rate = found.respond_hours, found.rates.responses_per_second
    if hours is None:
        lines.append("Time unknown: give --responses-per-second, or measure it with `build respond --first 20`.")
    elif found.requests and rate is not None:
        lines.append(f"About {duration(hours * 3600)} at {rate:.3g} responses a second.")
    if found.least_hours:
        lines.append(f"The limits for a minute demand at least {duration(found.least_hours * 3600)}.")
    measured = {m.name: m.measured for m in found.models if m.measured}
    if found.requests and measured:
        each = ", ".join(f"{name} {n:,}" for name, n in measured.items())
        lines.append(f"Lengths are those of {sum(measured.values()):,} responses in the folder ({each}).")
        rest = [m.name for m in found.models if not m.measured]
        if rest:
            lines.append(f"Responses of {', '.join(rest)} count with their most tokens.")
    elif found.requests:
        lines.append("No lengths are measured yet, so every response counts with its most tokens.")
    if found.requests and found.unpriced:
        whose = "no response model" if found.dollars is None else f"all but {', '.join(found.unpriced)}"
        lines.append(f"The recipe has prices for {whose}.")
    if found.requests:
        lines.append("A prompt counts with a token for four characters; redraws and retries come on top.")
    return " ".join(lines)
