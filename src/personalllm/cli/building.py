"""What `personalllm build` shows, and the backends that a recipe names."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from personalllm.cli.progress import duration
from personalllm.errors import PersonalLLMError, UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    from personalllm.build import Recipe, ResponseModel
    from personalllm.build.estimate import Estimate
    from personalllm.build.prompts import SourceCounts
    from personalllm.protocols import ChatModel, TextEmbedder

__all__ = ["chat_models_of", "embedder_of", "reachable_chat_models", "show_counts", "show_estimate"]

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
    return {model.chat_model: _chat_model(model) for model in recipe.response_model}


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
    from personalllm.cli.wiring import build_embedder

    rule = recipe.prompts.near_duplicates
    return build_embedder(rule.embedder) if rule is not None and rule.method == "embedding" else None


def _chat_model(model: ResponseModel) -> ChatModel:
    from personalllm.backends.llm import CachedChatModel, LocalChatModel, VLLMChatModel
    from personalllm.backends.registry import CHAT_MODELS
    from personalllm.cli.wiring import build_llm

    name = model.chat_model
    if name.startswith("openai:"):
        return CachedChatModel(_served(model))
    unused = {"base_url": model.base_url, "api_key_env": model.api_key_env, "timeout": model.timeout}
    unused |= {"requests_per_minute": model.requests_per_minute, "tokens_per_minute": model.tokens_per_minute}
    if name.startswith("vllm:"):
        _refuse(model, unused | {"concurrency": model.concurrency})
        return VLLMChatModel(name.removeprefix("vllm:"), revision=model.revision or None)
    _refuse(model, unused | {"revision": model.revision})
    if ":" in name or CHAT_MODELS.is_plugin(name):
        _refuse(model, {"concurrency": model.concurrency})
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


def _served(model: ResponseModel) -> ChatModel:
    import os

    from personalllm.backends.llm import OpenAIChatModel, ServerOptions

    address = model.base_url or os.environ.get("OPENAI_BASE_URL", "")
    if not address:
        raise UserError(
            f"Response model {model.name}: the address of {model.chat_model!r} is not known.",
            "Set base_url in the recipe, or the environment variable OPENAI_BASE_URL.",
        )
    given = {
        "requests_per_minute": model.requests_per_minute or None,
        "tokens_per_minute": model.tokens_per_minute or None,
        "timeout": model.timeout,
        "api_key_env": model.api_key_env or None,
        "tokenizer": os.environ.get("PERSONALLLM_TOKENIZER") or None,
    }
    return OpenAIChatModel(
        model.chat_model.removeprefix("openai:"),
        base_url=address,
        concurrency=8 if model.concurrency is None else model.concurrency,
        revision=model.revision or None,
        options=ServerOptions(**{name: value for name, value in given.items() if value is not None}),  # type: ignore[arg-type]
    )


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
        text = f"Scores: {found.scores:,} responses; finished blocks are not scored again. "
        hours = found.score_hours
        text += (
            f"About {duration(hours * 3600)} at {found.rates.scores_per_second:.3g} responses a second."
            if hours is not None
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
    measured = [m.measured for m in found.models]
    if found.requests and min(measured):
        lines.append(f"Lengths are those of {sum(measured):,} responses in the folder.")
    elif found.requests:
        lines.append("No lengths are measured yet, so every response counts with its most tokens.")
    if found.requests and found.unpriced:
        whose = "no response model" if found.dollars is None else f"all but {', '.join(found.unpriced)}"
        lines.append(f"The recipe has prices for {whose}.")
    if found.requests:
        lines.append("A prompt counts with a token for four characters; redraws and retries come on top.")
    return " ".join(lines)
