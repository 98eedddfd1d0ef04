"""`personalllm evaluate`: run methods with progress bars, then print the leaderboard or the predict track's table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from personalllm.cli import options as o
from personalllm.cli.leaderboard import show_leaderboard, watch

if TYPE_CHECKING:
    from personalllm.data import Benchmark
    from personalllm.evaluation import Protocol
    from personalllm.evaluation.resolve import Entry

__all__ = ["evaluate", "show_leaderboard", "watch"]

Out = Annotated[Path, typer.Option(help="Folder of runs; the same command again resumes.")]
Versus = Annotated[
    str | None, typer.Option(help="Method that differences are taken from.", **o.default("random, or the first"))
]


def evaluate(
    methods: o.Methods = None,
    *,
    data: o.Data = "mini",
    out: Out = Path("runs"),
    protocol: o.ProtocolOptions,
    versus: Versus = None,
    backends: o.BackendOptions,
    executor: o.Executor = "serial",
) -> None:
    """Evaluate methods and print the leaderboard with 95 % intervals; re-running resumes.

    The predict track prints accuracy by number of comparisons, beside baselines and oracles.

    With --preset the protocol and, unless some are named, the methods are the preset's; every option that is given
    changes it, and the result says so.
    """
    from personalllm.data import load

    names = _names(methods, protocol.preset)
    benchmark = load(data)
    built = protocol.build(benchmark, track=_only_track(names))
    run = _predict if built.prediction is not None else _run
    run(names, built, benchmark, backends, out=out, versus=versus, executor=executor)


def _run(
    names: list[str], protocol: Protocol, benchmark: Benchmark, options: o.BackendOptions, **settings: Any
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
    _check_versus(settings["versus"], entries, protocol)
    workers = build_executor(settings["executor"])
    backends = options.build(entries, protocol.track, benchmark.metadata)
    console = Console(stderr=True)
    if "all" in names:
        explain_left_out(protocol.track, console)
    if any("embedder" in entry.method.needs for entry in entries):
        embed_texts(benchmark, backends["embedder"], console)
    with resumable(console), watch(console) as progress:
        results = run(names, protocol, benchmark, out=settings["out"], progress=progress, executor=workers, **backends)
    show_leaderboard(results, settings["versus"])


def _predict(
    names: list[str], protocol: Protocol, benchmark: Benchmark, options: o.BackendOptions, **settings: Any
) -> None:
    """Run methods in the predict track, watched, and show the table."""
    from rich.console import Console

    from personalllm.backends.executor import build_executor
    from personalllm.cli.prediction import check_learner, explain_left_out, show_prediction
    from personalllm.cli.progress import embed_texts, resumable
    from personalllm.evaluation import predict, resolve

    signals = protocol.prediction is not None and protocol.prediction.reward_signals
    entries, _ = resolve(names, "predict", signals=signals)
    check_learner(settings["versus"], entries)
    workers = build_executor(settings["executor"])
    embedder = options.build(entries, protocol.track, benchmark.metadata)["embedder"]
    console = Console(stderr=True)
    if "all" in names:
        explain_left_out("predict", console, signals=signals)
    if embedder is not None:
        embed_texts(benchmark, embedder, console)
    with resumable(console), watch(console) as progress:
        results = predict(
            names, protocol, benchmark, embedder=embedder, out=settings["out"], progress=progress, executor=workers
        )
    show_prediction(results, settings["versus"])


def _only_track(names: list[str]) -> str | None:
    """Return `generate` if no track was named and none of the methods can rank."""
    from personalllm.evaluation import REFERENCES, parse_method
    from personalllm.methods.registry import method_class

    if "all" in names:
        return None
    classes = [
        method_class(parse_method(name)[0])
        for name in names
        if name not in REFERENCES and not name.startswith("model:")
    ]
    return "generate" if classes and all(cls.tracks() == ("generate",) for cls in classes) else None


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

    labels = [*(entry.label for entry in entries), *REFERENCES, f"model:{protocol.reference_response_model}"]
    if versus is not None and versus not in labels:
        raise UnknownName("method in this run", versus, labels)
