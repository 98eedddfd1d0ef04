"""`personalllm evaluate`: run methods, watch them, see the leaderboard or, of the predict track, the table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from personalllm.cli import options as o
from personalllm.cli.leaderboard import show_leaderboard, watch

if TYPE_CHECKING:
    from personalllm.data import Benchmark
    from personalllm.evaluation import Protocol
    from personalllm.evaluation.resolve import Entry

__all__ = ["evaluate", "show_leaderboard", "watch"]

Pairs = Annotated[int | None, typer.Option(help="Preference pairs known of each target user.", show_default="5")]
Nearest = Annotated[
    int | None, typer.Option(help="The same for methods that get the nearest prompts.", show_default="5")
]
Prompts = Annotated[int | None, typer.Option(help="Prompts asked by each user.", show_default="rank: all, generate: 1")]
Standardiser = Annotated[o.StandardiserName | None, typer.Option(help="Scale of the RMs.", show_default="train")]
ReferenceModel = Annotated[
    str | None, typer.Option(help="Response model of the win rate.", show_default="the benchmark's, or the best")
]
Versus = Annotated[
    str | None, typer.Option(help="Method that differences are taken from.", show_default="random, or the first")
]


def evaluate(
    methods: o.MethodNames = None,
    preset: o.PresetName = None,
    track: o.Track = None,
    data: o.Data = "mini",
    users: o.Users = None,
    seed: o.Seed = None,
    out: o.Out = Path("runs"),
    limit: o.Limit = None,
    alpha: o.Alpha = None,
    pairs: Pairs = None,
    nearest: Nearest = None,
    shots: o.Shots = None,
    pool_users: o.PoolUsers = None,
    prompts: Prompts = None,
    max_tokens: o.MaxTokens = None,
    standardiser: Standardiser = None,
    reference_model: ReferenceModel = None,
    settings: o.Settings = None,
    versus: Versus = None,
    embedder: o.EmbedderName = "minilm-l6-int8",
    llm: o.LlmName = "smollm2-135m-instruct",
    rewards: o.RewardsName = None,
    base_url: o.BaseUrl = None,
    stream: o.Stream = False,  # noqa: FBT002
    context_length: o.ContextLength = None,
    no_reply_cache: o.NoReplyCache = False,  # noqa: FBT002
    concurrency: o.Concurrency = None,
    revision: o.Revision = None,
    embedder_url: o.EmbedderUrl = None,
    executor: o.ExecutorName = "serial",
) -> None:
    """Evaluate methods and print the leaderboard with 95 % intervals; re-running resumes.

    The predict track prints accuracy by number of comparisons, beside nulls and oracles.

    With --preset the protocol and, unless some are named, the methods are the preset's; every option that is given
    changes it, and the result says so.
    """
    names = _names(methods, preset)
    given = {
        "track": track.value if track else _only_track(names, preset),
        "n_users": users,
        "seed": seed,
        "alpha": alpha,
        "pool_users": pool_users,
        "pairs": pairs,
        "nearest": nearest,
        "shots": o.parse_shots(shots),
        "prompts_per_user": prompts,
        "max_tokens": max_tokens,
        "limit": limit,
        "standardiser": standardiser and standardiser.value,
        "reference_response_model": reference_model,
    }
    choice = o.BackendChoice(
        embedder,
        llm,
        rewards,
        base_url,
        stream,
        context_length,
        not no_reply_cache,
        concurrency,
        revision,
        embedder_url,
    )
    from personalllm.data import load

    benchmark = load(data)
    protocol = o.make_protocol(benchmark, preset, given, settings)
    run = _predict if protocol.prediction is not None else _run
    run(names, protocol, benchmark, choice, out, versus, executor)


def _run(
    names: list[str],
    protocol: Protocol,
    benchmark: Benchmark,
    choice: o.BackendChoice,
    out: Path,
    versus: str | None,
    executor: str,
) -> None:
    """Run methods, watched, and show the leaderboard."""
    from rich.console import Console

    from personalllm.backends.executor import build_executor
    from personalllm.cli.prediction import explain_left_out
    from personalllm.cli.progress import embed_texts, resumable
    from personalllm.evaluation import evaluate as run
    from personalllm.evaluation import resolve
    from personalllm.evaluation.resolve import check_references

    entries, references = resolve(names, protocol.track)
    check_references(references, protocol.reference_response_model)
    _check_versus(versus, entries, protocol)
    workers = build_executor(executor)
    backends = o.build_backends(entries, protocol.track, benchmark.metadata, choice)
    console = Console(stderr=True)
    if "all" in names:
        explain_left_out(protocol.track, console)
    if any("embedder" in entry.method.needs for entry in entries):
        embed_texts(benchmark, backends["embedder"], console)
    with resumable(console), watch(console) as progress:
        results = run(names, protocol, benchmark, out=out, progress=progress, executor=workers, **backends)
    show_leaderboard(results, versus)


def _predict(
    names: list[str],
    protocol: Protocol,
    benchmark: Benchmark,
    choice: o.BackendChoice,
    out: Path,
    versus: str | None,
    executor: str,
) -> None:
    """Run learners in the predict track, watched, and show the table."""
    from rich.console import Console

    from personalllm.backends.executor import build_executor
    from personalllm.cli.prediction import check_learner, explain_left_out, show_prediction
    from personalllm.cli.progress import embed_texts, resumable
    from personalllm.evaluation import predict, resolve

    signals = protocol.prediction is not None and protocol.prediction.reward_signals
    entries, _ = resolve(names, "predict", signals=signals)
    check_learner(versus, entries)
    workers = build_executor(executor)
    embedder = o.build_backends(entries, protocol.track, benchmark.metadata, choice)["embedder"]
    console = Console(stderr=True)
    if "all" in names:
        explain_left_out("predict", console, signals=signals)
    if embedder is not None:
        embed_texts(benchmark, embedder, console)
    with resumable(console), watch(console) as progress:
        results = predict(names, protocol, benchmark, embedder=embedder, out=out, progress=progress, executor=workers)
    show_prediction(results, versus)


def _only_track(names: list[str], preset: str | None) -> str | None:
    """Return `generate` if no track was asked for and none of the methods can rank."""
    from personalllm.evaluation import REFERENCES, parse_method
    from personalllm.methods.registry import method_class

    if preset is not None or "all" in names:
        return None
    named = [name for name in names if name not in REFERENCES and not name.startswith("model:")]
    tracks = [method_class(parse_method(name)[0]).tracks() for name in named]
    return "generate" if tracks and all(found == ("generate",) for found in tracks) else None


def _names(methods: list[str] | None, preset: str | None) -> list[str]:
    """Return the methods that were named, or the preset's."""
    from personalllm.core.errors import UserError
    from personalllm.evaluation import get_preset

    if methods:
        return methods
    if preset is None:
        raise UserError("No method is named.", "Name one, e.g. random, or all; or choose a --preset.")
    return list(get_preset(preset).methods)


def _check_versus(versus: str | None, entries: tuple[Entry, ...], protocol: Protocol) -> None:
    """Raise before the work begins if nothing in this run has the label."""
    from personalllm.core.errors import UnknownName
    from personalllm.evaluation import REFERENCES

    labels = [entry.label for entry in entries]
    known = [*labels, *REFERENCES, f"model:{protocol.reference_response_model}"]
    if versus is not None and versus not in known:
        raise UnknownName("method in this run", versus, known)
