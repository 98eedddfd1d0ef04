"""The option groups that commands share, and the objects that they build."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from typer import Argument, Option

if TYPE_CHECKING:
    from personalllm.core.errors import ParameterError
    from personalllm.core.protocols import TextEmbedder
    from personalllm.data import Benchmark, Preferences, Ratings
    from personalllm.evaluation import NamedMethod, Protocol

__all__ = [
    "BackendOptions",
    "DataOptions",
    "EmbedderOptions",
    "PeopleOptions",
    "ProtocolOptions",
    "default",
    "parse_columns",
    "parse_numbers",
    "parse_settings",
]


def complete_methods(incomplete: str) -> list[str]:
    """Return the methods that begin with the given text."""
    from personalllm.methods.registry import list_methods

    return [name for name in (*list_methods(), "all") if name.startswith(incomplete)]


def complete_presets(incomplete: str) -> list[str]:
    """Return the presets that begin with the given text."""
    from personalllm.evaluation import list_presets

    return [name for name in list_presets() if name.startswith(incomplete)]


def complete_tracks(incomplete: str) -> list[str]:
    """Return the tracks that begin with the given text."""
    from personalllm.evaluation import TRACKS

    return [name for name in TRACKS if name.startswith(incomplete)]


def default(text: str) -> Any:
    """Return the setting that shows a default which is not known before the command runs.

    A plain `show_default` draws its text in parentheses, which a plain default has not.
    """
    return {"show_default": text}


Methods = Annotated[
    list[str] | None,
    Argument(
        help="Registered names, names with parameters such as icl\\[n_shots=3], my_module:MyMethod for a file "
        "in this folder, or 'all'.",
        autocompletion=complete_methods,
        show_default=False,
    ),
]
Data = Annotated[str, Option(help="Benchmark: a name or a path.")]
Out = Annotated[Path, Option(help="Folder of runs; the same command again resumes.")]
Columns = Annotated[
    list[str] | None,
    Option("--column", metavar="COLUMN=NAME", help="What the file calls a column, e.g. user=annotator. Repeatable."),
]
Settings = Annotated[
    list[str] | None,
    Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Any field of the protocol, e.g. population.alpha=0.1; the value is JSON or text. Repeatable.",
    ),
]
Shots = Annotated[
    str | None,
    Option(metavar="K,K,...", help="Predict track: comparisons known of a user.", show_default="0,1,2,4,8,16,32,64"),
]
Executor = Annotated[str, Option(help="Who does the work: serial, processes[:N] or ray[:ADDRESS].")]
Seed = Annotated[int, Option(help="Seed of everything that is drawn.")]
DryRun = Annotated[bool, Option("--dry-run", help="Only list the cells and what they would cost.")]


def parse_columns(options: Iterable[str] | None) -> dict[str, str]:
    """Return what a source calls its columns.

    Raises:
        UserError: If an option is not of the form COLUMN=NAME.

    >>> parse_columns(["user=annotator"])
    {'user': 'annotator'}
    """
    columns: dict[str, str] = {}
    for text in options or ():
        column, _, name = (part.strip() for part in text.partition("="))
        if not (column and name):
            from personalllm.core.errors import UserError

            raise UserError(f"Cannot read --column {text!r}.", "Write COLUMN=NAME, e.g. --column user=annotator.")
        columns[column] = name
    return columns


def parse_numbers(text: str, option: str) -> tuple[int, ...]:
    """Read a list of whole numbers.

    Raises:
        UserError: If it is none.

    >>> parse_numbers("0,4,16", "--shots")
    (0, 4, 16)
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        from personalllm.core.errors import UserError

        raise UserError(f"Cannot read {option} {text!r}.", f"Write whole numbers with commas, e.g. {option} 0,4,16.")
    return tuple(int(part) for part in parts)


@dataclass(frozen=True, kw_only=True)
class PeopleOptions:
    """How rows of a file are read."""

    title: ClassVar[str] = "Data"

    name: Annotated[str | None, Option(help="Name of people's preferences.", **default("the file's name"))] = None
    column: Columns = None
    read_as: Annotated[
        Literal["comparisons", "ratings"] | None,
        Option("--as", help="What people's data are read as.", **default("ratings and rankings: ratings")),
    ] = None

    def read(self, path: str | Path) -> Preferences | Ratings:
        """Read a file of people's preferences, or of their ratings."""
        from personalllm.data import Preferences, Ratings
        from personalllm.data.people import open_people

        columns = parse_columns(self.column)
        rated = open_people(path, columns).rated if self.read_as is None else self.read_as == "ratings"
        return (Ratings if rated else Preferences).from_rows(path, columns, name=self.name)


@dataclass(frozen=True, kw_only=True)
class DataOptions(PeopleOptions):
    """What is evaluated: a benchmark, whose users are simulated, or the preferences of people."""

    data: Annotated[
        str,
        Option(
            help="Benchmark: a name or a path. Or a file of people's preferences: JSONL, JSON, CSV, TSV, Parquet or "
            "Arrow with the columns user, prompt, chosen, rejected, or in a layout of `personalllm people`."
        ),
    ] = "mini"

    def load(self) -> Benchmark | Preferences | Ratings:
        """Read the data.

        Raises:
            UserError: If they are neither, or a benchmark is given a name.
        """
        from personalllm.core.errors import UserError
        from personalllm.data import load
        from personalllm.data.preferences import holds_preferences

        columns = parse_columns(self.column)
        if holds_preferences(self.data, columns):
            return self.read(self.data)
        if self.name is not None:
            raise UserError(
                f"--name is for people's preferences, and {self.data!r} does not hold any.",
                "Leave it out for a benchmark, or map the columns user, prompt, chosen and rejected with --column.",
            )
        return load(self.data, columns=columns)


@dataclass(frozen=True, kw_only=True)
class ProtocolOptions:
    """How methods are compared; an option that is None leaves the preset's or the protocol's default."""

    title: ClassVar[str] = "Protocol"

    preset: Annotated[
        str | None, Option(help="Named protocol, see `personalllm presets`.", autocompletion=complete_presets)
    ] = None
    track: Annotated[
        str | None,
        Option(
            metavar="NAME",
            help="rank stored responses, generate new ones, predict which of two a user prefers, or that of a plug-in.",
            autocompletion=complete_tracks,
            **default("rank, or generate if no method can rank; people: predict"),
        ),
    ] = None
    users: Annotated[int | None, Option(help="Size of the population.", **default("1000"))] = None
    seed: Annotated[int | None, Option(help="Seed of everything that is drawn.", **default("0"))] = None
    limit: Annotated[int | None, Option(help="Evaluate only the first users of the population.")] = None
    alpha: Annotated[float | None, Option(help="Concentration of the users' weights.", **default("0.05"))] = None
    pairs: Annotated[int | None, Option(help="Preferences known of each target user.", **default("5"))] = None
    nearest: Annotated[
        int | None, Option(help="The same for methods that get the nearest prompts.", **default("5"))
    ] = None
    shots: Shots = None
    pool_users: Annotated[int | None, Option(help="Number of other users to learn from.", **default("10000"))] = None
    prompts: Annotated[int | None, Option(help="Test prompts of each user.", **default("rank: all, generate: 1"))] = (
        None
    )
    max_tokens: Annotated[
        int | None, Option(help="Maximum of new tokens of a generated response.", **default("256"))
    ] = None
    standardiser: Annotated[
        Literal["train", "published", "none"] | None, Option(help="Scale of the RMs.", **default("train"))
    ] = None
    reference_model: Annotated[
        str | None, Option(help="Response model of the win rate.", **default("the benchmark's, or the best"))
    ] = None
    settings: Settings = None

    def build(self, data: Benchmark | Preferences | Ratings, methods: Sequence[str] = ()) -> Protocol:
        """Return the protocol that a command line describes.

        Args:
            data: What is evaluated.
            methods: Names of the methods, from which the track follows if nothing names one.

        Raises:
            UserError: If a setting is unknown, out of range or given twice.
        """
        from personalllm.core.errors import ParameterError, UserError
        from personalllm.data import Benchmark
        from personalllm.evaluation import get_preset
        from personalllm.evaluation.presets import as_protocol
        from personalllm.evaluation.resolve import only_track
        from personalllm.evaluation.settings import nest

        values = {
            "track": self.track,
            "n_users": self.users,
            "seed": self.seed,
            "limit": self.limit,
            "alpha": self.alpha,
            "pairs": self.pairs,
            "nearest": self.nearest,
            "shots": None if self.shots is None else parse_numbers(self.shots, "--shots"),
            "pool_users": self.pool_users,
            "prompts_per_user": self.prompts,
            "max_tokens": self.max_tokens,
            "standardiser": self.standardiser,
            "reference_response_model": self.reference_model,
        }
        given = {name: value for name, value in values.items() if value is not None}
        settings = nest(given | parse_settings(self.settings))
        try:
            if self.preset is None:
                return as_protocol(settings, data, settings.get("track") or only_track(methods))
            if not isinstance(data, Benchmark):
                raise UserError("A preset describes simulated users, but the data are people's.", "Leave --preset out.")
            return get_preset(self.preset).protocol_for(data, **settings)
        except ParameterError as error:
            raise _of_option(error, given) from None


_OPTIONS = {"n_users": "users", "prompts_per_user": "prompts", "reference_response_model": "reference-model"}
"""Settings whose options have another name."""


def _of_option(error: ParameterError, given: Mapping[str, Any]) -> ParameterError:
    """Return the error of a setting as that of the option that set it, if one did.

    Args:
        error: Names a field of the protocol, a part of it, or a short form.
        given: Settings that came from options -> their values.
    """
    from personalllm.core.errors import ParameterError
    from personalllm.evaluation.settings import short_forms

    for name, value in given.items():
        fields = [(part, field) for part, field in short_forms().get(name, ()) if part]
        # the seed belongs to the users and the pool too, which it does not set
        parts = {part for part, _ in fields if name != "seed"}
        own = error.parameter == name or any(
            f"{error.parameter}.".startswith(f"{part}.{field}.") for part, field in fields
        )
        if own or error.parameter in parts:
            option = f"--{_OPTIONS.get(name, name).replace('_', '-')}"
            return ParameterError(option, error.allowed, error.given if own else value)
    return error


def parse_settings(settings: Iterable[str] | None) -> dict[str, Any]:
    """Read `--set` options.

    Raises:
        UserError: If one cannot be read, or a field is set twice.
    """
    from personalllm.core.errors import UserError
    from personalllm.evaluation.settings import parse_setting

    values: dict[str, Any] = {}
    for text in settings or ():
        name, value = parse_setting(text)
        if name in values:
            raise UserError(f"--set {name} is given twice.", "Give it once.")
        values[name] = value
    return values


@dataclass(frozen=True, kw_only=True)
class EmbedderOptions:
    """The embedder."""

    title: ClassVar[str] = "Backends"

    embedder: Annotated[str, Option(help="Embedder, openai:MODEL for a server, or module:factory.")] = "minilm-l6-int8"
    embedder_url: Annotated[
        str | None,
        Option(help="Address of the server for --embedder openai:MODEL.", **default("the one of --base-url")),
    ] = None

    def build_embedder(self, *, required: bool, base_url: str | None = None) -> TextEmbedder | None:
        """Return the embedder; None if it is not required and its files are not on this machine.

        An embedder that is here joins every run: its identity is part of the protocol, so that `random` alone and
        `random` beside an embedding ranker share one run.
        """
        from personalllm.backends.names import build_embedder, optional_embedder

        if self.embedder.startswith("openai:"):
            return build_embedder(self.embedder, self.embedder_url or base_url)
        return build_embedder(self.embedder) if required else optional_embedder(self.embedder)


@dataclass(frozen=True, kw_only=True)
class BackendOptions(EmbedderOptions):
    """The embedder, the chat model and the reward ensemble."""

    llm: Annotated[
        str, Option(help="Chat model, openai:MODEL for a server, vllm:MODEL in this process, or module:factory.")
    ] = "smollm2-135m-instruct"
    rewards: Annotated[
        str | None, Option(help="Reward ensemble, or module:factory.", **default("the benchmark's own"))
    ] = None
    base_url: Annotated[
        str | None, Option(help="Address of the server for openai:MODEL.", **default("$OPENAI_BASE_URL"))
    ] = None
    revision: Annotated[
        str | None,
        Option(
            help="Names the weights behind --llm openai:MODEL, in place of its address; of vllm:MODEL, the commit.",
            show_default=False,
        ),
    ] = None
    context_length: Annotated[
        int | None,
        Option(help="Maximum of tokens of prompt and reply together.", **default("4096, or what the server reports")),
    ] = None
    concurrency: Annotated[int | None, Option(min=1, help="Requests in flight to a server.", **default("8"))] = None
    stream: Annotated[bool, Option("--stream", help="Receive a server's replies piece by piece.")] = False
    no_reply_cache: Annotated[
        bool, Option("--no-reply-cache", help="Request replies again that an earlier run has.")
    ] = False

    def build(self, methods: Iterable[NamedMethod], tracks: Iterable[str], data: Any) -> dict[str, Any]:
        """Return the backends that a run needs, by the names that `evaluate` gives them."""
        from personalllm.backends.names import build_llm, build_rewards
        from personalllm.evaluation import load_track

        entries = tuple(methods)
        needs = {need for entry in entries for need in entry.method.needs}
        needs |= {need for track in tracks for need in load_track(track).needs}
        nearest = any(entry.method.history == "nearest" for entry in entries)
        embedder = self.build_embedder(required="embedder" in needs or nearest, base_url=self.base_url)
        rewards = build_rewards(data.metadata, embedder, self.rewards) if "rewards" in needs else None
        llm = None
        if "llm" in needs:
            served = self.llm.startswith("openai:") or not self.embedder.startswith("openai:")
            llm = build_llm(
                self.llm,
                base_url=self.base_url if served else None,  # else it is the embedder's
                stream=self.stream,
                context_length=self.context_length,
                concurrency=self.concurrency,
                revision=self.revision,
                cache=not self.no_reply_cache,
            )
        return {"embedder": embedder, "llm": llm, "rewards": rewards}
