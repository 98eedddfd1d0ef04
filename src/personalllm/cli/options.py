"""Options that `evaluate` and `sweep` share, and what they stand for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from personalllm.core.protocols import ChatModel, RewardEnsemble, TextEmbedder
    from personalllm.core.types import JSON
    from personalllm.data import Benchmark
    from personalllm.evaluation import Protocol
    from personalllm.evaluation.resolve import Entry

__all__ = ["BackendChoice", "StandardiserName", "TrackName", "build_backends", "make_protocol", "parse_shots"]


class TrackName(StrEnum):
    """The tracks."""

    RANK = "rank"
    GENERATE = "generate"
    PREDICT = "predict"


class StandardiserName(StrEnum):
    """The standardisers."""

    TRAIN = "train"
    PUBLISHED = "published"
    NONE = "none"


def complete_methods(incomplete: str) -> list[str]:
    """Return the methods that begin with what was typed."""
    from personalllm.methods.registry import list_methods

    return [name for name in (*list_methods(), "all") if name.startswith(incomplete)]


def complete_presets(incomplete: str) -> list[str]:
    """Return the presets that begin with what was typed."""
    from personalllm.evaluation import list_presets

    return [name for name in list_presets() if name.startswith(incomplete)]


def _default(text: str) -> Any:
    return {"show_default": text}


MethodNames = Annotated[
    list[str] | None,
    typer.Argument(
        help="Registered names, names with parameters such as icl\\[n_shots=3], my_module:MyMethod for a file "
        "in this folder, or 'all'.",
        autocompletion=complete_methods,
        show_default=False,
    ),
]
PresetName = Annotated[
    str | None,
    typer.Option(help="Named protocol, see `personalllm presets`.", autocompletion=complete_presets),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Any field of the protocol, e.g. population.alpha=0.1; the value is JSON or text. Repeatable.",
    ),
]
Track = Annotated[
    TrackName | None,
    typer.Option(
        help="rank stored responses, generate new ones, or predict which of two a user prefers.",
        **_default("rank, or generate if no method can rank"),
    ),
]
Data = Annotated[str, typer.Option(help="Benchmark: a name or a path.")]
Users = Annotated[int | None, typer.Option(help="Size of the population.", **_default("1000"))]
Seed = Annotated[int | None, typer.Option(help="Seed of everything that is drawn.", **_default("0"))]
Out = Annotated[Path, typer.Option(help="Folder of runs; the same command again resumes.")]
Limit = Annotated[int | None, typer.Option(help="Evaluate only the first users of the population.")]
Alpha = Annotated[float | None, typer.Option(help="Concentration of the users' weights.", **_default("0.05"))]
Shots = Annotated[
    str | None,
    typer.Option(
        metavar="K,K,...", help="Predict track: comparisons known of a user.", show_default="0,1,2,4,8,16,32,64"
    ),
]
PoolUsers = Annotated[int | None, typer.Option(help="Number of other users to learn from.", **_default("10000"))]
MaxTokens = Annotated[int | None, typer.Option(help="Most new tokens of a generated response.", **_default("256"))]
EmbedderName = Annotated[str, typer.Option(help="Embedder, openai:MODEL for a server, or module:factory.")]
LlmName = Annotated[
    str, typer.Option(help="Chat model, openai:MODEL for a server, vllm:MODEL in this process, or module:factory.")
]
RewardsName = Annotated[
    str | None, typer.Option(help="Reward ensemble, or module:factory.", **_default("the benchmark's own"))
]
BaseUrl = Annotated[
    str | None, typer.Option(help="Address of the server for openai:MODEL.", **_default("$OPENAI_BASE_URL"))
]
EmbedderUrl = Annotated[
    str | None,
    typer.Option(help="Address of the server for --embedder openai:MODEL.", **_default("the one of --base-url")),
]
Stream = Annotated[bool, typer.Option("--stream", help="Receive a server's replies piece by piece.")]
ContextLength = Annotated[
    int | None,
    typer.Option(help="Most tokens of prompt and reply together.", **_default("4096, or what the server says")),
]
ExecutorName = Annotated[
    str, typer.Option("--executor", help="Who does the rank track's work: serial, processes[:N] or ray[:ADDRESS].")
]
Concurrency = Annotated[int | None, typer.Option(min=1, help="Requests in flight to a server.", **_default("8"))]
Revision = Annotated[
    str | None,
    typer.Option(
        help="Names the weights behind --llm openai:MODEL, in place of its address; of vllm:MODEL, the commit.",
        show_default=False,
    ),
]
NoReplyCache = Annotated[
    bool, typer.Option("--no-reply-cache", help="Ask the chat model again, whatever it answered before.")
]


@dataclass(frozen=True, slots=True)
class BackendChoice:
    """Which backends a command was given.

    Attributes:
        embedder: Name of the embedder.
        llm: Name of the chat model.
        rewards: Name of the reward ensemble; None for the benchmark's own.
        base_url: Address of the server for `openai:MODEL`.
        stream: Whether a server's replies are received piece by piece.
        context_length: Most tokens of prompt and reply together; None for the model's own.
        cache: Whether the replies of earlier runs are used.
        concurrency: Requests in flight to a server; None for the default.
        revision: Names the weights of a server; None to take its address for them.
        embedder_url: Address of the embedder's server; None for `base_url`.
    """

    embedder: str
    llm: str
    rewards: str | None = None
    base_url: str | None = None
    stream: bool = False
    context_length: int | None = None
    cache: bool = True
    concurrency: int | None = None
    revision: str | None = None
    embedder_url: str | None = None


def parse_shots(text: str | None) -> tuple[int, ...] | None:
    """Read `0,4,16`.

    Raises:
        UserError: If it is no list of whole numbers.

    >>> parse_shots("0,4,16")
    (0, 4, 16)
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        from personalllm.core.errors import UserError

        raise UserError(f"Cannot read --shots {text!r}.", "Write whole numbers with commas, e.g. --shots 0,4,16.")
    return tuple(int(part) for part in parts)


def make_protocol(benchmark: Benchmark, preset: str | None, options: JSON, settings: list[str] | None) -> Protocol:
    """Return the protocol that a command line asks for.

    Args:
        benchmark: What is evaluated.
        preset: Name of a preset, or None for the defaults.
        options: Fields and short forms from options; those that are None were not given.
        settings: From `--set`; they win over the options.

    Raises:
        UserError: If a setting is unknown, out of range or given twice.
    """
    from personalllm.core.errors import UserError
    from personalllm.evaluation import Protocol, get_preset
    from personalllm.evaluation.settings import nest, parse_setting

    pairs = [parse_setting(text) for text in settings or ()]
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--set {name} is given twice.", "Give it once.")
    overrides = nest({name: value for name, value in options.items() if value is not None} | dict(pairs))
    if preset is None:
        return Protocol.for_benchmark(benchmark, **overrides)
    return get_preset(preset).protocol_for(benchmark, **overrides)


def build_backends(entries: tuple[Entry, ...], track: str, metadata: JSON, choice: BackendChoice) -> dict[str, Any]:
    """Build what the run needs; in the tracks that write nothing an embedder joins whenever its files are here.

    Its identity is part of the protocol, so `random` alone and `random` beside an embedding ranker share one run.
    """
    from personalllm.backends.names import build_embedder, build_llm, build_rewards, optional_embedder

    needs = {need for entry in entries for need in entry.method.needs}
    served = choice.embedder.startswith("openai:")
    if served or "embedder" in needs or any(entry.method.history == "nearest" for entry in entries):
        embedder: TextEmbedder | None = build_embedder(
            choice.embedder, (choice.embedder_url or choice.base_url) if served else None
        )
    else:
        embedder = optional_embedder(choice.embedder)
    llm: ChatModel | None = None
    rewards: RewardEnsemble | None = None
    if track == TrackName.GENERATE:
        rewards = build_rewards(metadata, embedder, choice.rewards)
    if track == TrackName.GENERATE or "llm" in needs:
        llm = build_llm(
            choice.llm,
            base_url=None if served and not choice.llm.startswith("openai:") else choice.base_url,
            stream=choice.stream,
            context_length=choice.context_length,
            concurrency=choice.concurrency,
            revision=choice.revision,
            cache=choice.cache,
        )
    return {"embedder": embedder, "llm": llm, "rewards": rewards}
