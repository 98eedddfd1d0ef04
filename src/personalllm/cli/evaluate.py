"""`personalllm evaluate`: run algorithms, watch them, see the leaderboard."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID
    from rich.table import Table

    from personalllm.evaluation import AlgorithmResult, Estimate, Progress, ProgressEvent, Protocol, Results
    from personalllm.evaluation.resolve import Entry
    from personalllm.protocols import ChatModel, RewardEnsemble, TextEmbedder
    from personalllm.types import JSON

__all__ = ["TrackName", "evaluate", "show_leaderboard", "watch"]

_WIDE = 150


class TrackName(StrEnum):
    """The tracks."""

    RANK = "rank"
    GENERATE = "generate"


class StandardiserName(StrEnum):
    """The standardisers."""

    TRAIN = "train"
    PUBLISHED = "published"


def _complete(incomplete: str) -> list[str]:
    """Return the algorithms that begin with what was typed."""
    from personalllm.algorithms.registry import list_algorithms

    return [name for name in (*list_algorithms(), "all") if name.startswith(incomplete)]


def evaluate(
    algorithms: Annotated[
        list[str],
        typer.Argument(
            help="Registered names, names with parameters such as icl\\[n_shots=3], my_module:MyAlgorithm for a file "
            "in this folder, or 'all'.",
            autocompletion=_complete,
            show_default=False,
        ),
    ],
    track: Annotated[TrackName, typer.Option(help="rank stored responses, or generate new ones.")] = TrackName.RANK,
    data: Annotated[str, typer.Option(help="Benchmark: a name or a path.")] = "mini",
    users: Annotated[int, typer.Option(help="Size of the population.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder of runs; the same command again resumes.")] = Path("runs"),
    limit: Annotated[int | None, typer.Option(help="Evaluate only the first users of the population.")] = None,
    alpha: Annotated[float, typer.Option(help="Concentration of the users' weights.")] = 0.05,
    pairs: Annotated[
        int | None, typer.Option(help="Preference pairs known of each target user.", show_default="5")
    ] = None,
    nearest: Annotated[
        int | None, typer.Option(help="The same for algorithms that get the nearest prompts.", show_default="5")
    ] = None,
    pool_users: Annotated[int, typer.Option(help="Number of other users to learn from.")] = 10_000,
    prompts: Annotated[
        int | None, typer.Option(help="Prompts asked by each user.", show_default="rank: all, generate: 1")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Most new tokens of a generated response.", show_default="256")
    ] = None,
    standardiser: Annotated[StandardiserName, typer.Option(help="Scale of the RMs.")] = StandardiserName.TRAIN,
    reference_model: Annotated[
        str | None,
        typer.Option(help="Response model of the win rate.", show_default="the benchmark's, or the best"),
    ] = None,
    versus: Annotated[
        str | None, typer.Option(help="Algorithm that differences are taken from.", show_default="random, or the first")
    ] = None,
    embedder: Annotated[str, typer.Option(help="Embedder, or module:factory.")] = "minilm-l6-int8",
    llm: Annotated[str, typer.Option(help="Chat model, or module:factory.")] = "smollm2-135m-instruct",
    rewards: Annotated[
        str | None, typer.Option(help="Reward ensemble, or module:factory.", show_default="the benchmark's own")
    ] = None,
) -> None:
    """Evaluate algorithms and print the leaderboard with 95 % intervals; re-running resumes."""
    from rich.console import Console

    from personalllm.cli.progress import embed_texts
    from personalllm.data import load
    from personalllm.evaluation import Protocol, resolve
    from personalllm.evaluation import evaluate as run
    from personalllm.evaluation.resolve import check_references

    entries, references = resolve(algorithms, track.value)
    benchmark = load(data)
    required = {"n_users": users, "seed": seed, "alpha": alpha, "pool_users": pool_users}
    optional = {
        "pairs": pairs,
        "nearest": nearest,
        "prompts_per_user": prompts,
        "max_tokens": max_tokens,
        "limit": limit,
        "reference_response_model": reference_model,
    }
    given: JSON = {name: value for name, value in optional.items() if value is not None}
    protocol = Protocol.for_benchmark(
        benchmark, track=track.value, standardiser=standardiser.value, **required, **given
    )
    check_references(references, protocol.reference_response_model)
    _check_versus(versus, entries, protocol)
    backends = _backends(entries, track, benchmark.metadata, (embedder, llm, rewards))
    console = Console(stderr=True)
    if any("embedder" in entry.algorithm.needs for entry in entries):
        embed_texts(benchmark, backends["embedder"], console)
    try:
        with watch(console) as progress:
            results = run(algorithms, protocol, benchmark, out=out, progress=progress, **backends)
    except KeyboardInterrupt:
        console.print("Stopped. The same command goes on from here.")
        raise typer.Exit(130) from None
    show_leaderboard(results, versus)


def _check_versus(versus: str | None, entries: tuple[Entry, ...], protocol: Protocol) -> None:
    """Raise before the work begins if nothing in this run has the label."""
    from personalllm.errors import UnknownName
    from personalllm.evaluation import REFERENCES

    labels = [entry.label for entry in entries]
    known = [*labels, *REFERENCES, f"model:{protocol.reference_response_model}"]
    if versus is not None and versus not in known:
        raise UnknownName("algorithm in this run", versus, known)


def _backends(
    entries: tuple[Entry, ...], track: TrackName, metadata: JSON, names: tuple[str, str, str | None]
) -> dict[str, Any]:
    """Build what the run needs; in the rank track an embedder joins whenever its files are here.

    Its identity is part of the protocol, so `random` alone and `random` beside an embedding ranker share one run.
    """
    from personalllm.cli.wiring import build_embedder, build_llm, build_rewards, optional_embedder

    embedder_name, llm_name, rewards_name = names
    needs = {need for entry in entries for need in entry.algorithm.needs}
    if "embedder" in needs or any(entry.algorithm.history == "nearest" for entry in entries):
        embedder: TextEmbedder | None = build_embedder(embedder_name)
    else:
        embedder = optional_embedder(embedder_name)
    llm: ChatModel | None = None
    rewards: RewardEnsemble | None = None
    if track is TrackName.GENERATE:
        rewards = build_rewards(metadata, embedder, rewards_name)
    if track is TrackName.GENERATE or "llm" in needs:
        llm = build_llm(llm_name)
    return {"embedder": embedder, "llm": llm, "rewards": rewards}


@contextmanager
def watch(console: Console) -> Iterator[Progress]:
    """Yield a progress callback: live bars with the time left on a terminal, a line for each algorithm elsewhere."""
    from rich.markup import escape

    from personalllm.cli.progress import bars

    tasks: dict[str, TaskID] = {}
    with bars(console, disable=not console.is_terminal) as shown:

        def show(event: ProgressEvent) -> None:
            label = escape(event.algorithm)
            if event.stage == "damaged":
                console.print(f"[yellow]{label}[/]: {escape(event.message)}", soft_wrap=True)
                return
            if event.stage == "start":
                tasks[event.algorithm] = shown.add_task(label, total=event.total, completed=event.done)
                if event.done:
                    console.print(f"{label}: {event.done} of {event.total} were done before", highlight=False)
            learning = " (learning)" if event.stage == "prepare" else ""
            shown.update(tasks[event.algorithm], completed=event.done, description=label + learning)
            if event.stage == "finish" and not console.is_terminal:
                console.print(f"{label}: {event.total} done", highlight=False)

        yield show


def show_leaderboard(results: Results, versus: str | None = None, console: Console | None = None) -> None:
    """Print the leaderboard, best first, and where the run is kept.

    Args:
        results: What was found.
        versus: Label of the algorithm that differences are taken from; None: the results' own.
        console: Where to print; standard output if None.
    """
    from rich.console import Console as RichConsole
    from rich.markup import escape

    from personalllm.evaluation import compare

    if versus is not None and versus != results.versus:
        results = compare(results, versus)
    if console is None:
        console = RichConsole()
        if not console.is_terminal:
            console = RichConsole(width=200)
    console.print(_table(results, wide=console.width >= _WIDE, plain=not console.is_terminal))
    shown = [result for result in results.algorithms if result.kind == "algorithm"]
    for result in shown:
        empty, cut = result.counts.get("empty", 0), result.counts.get("cut", 0)
        if empty or cut:
            total = result.counts["generations"]
            console.print(
                f"{escape(result.id)}: of {total} responses {empty} were empty and {cut} were cut at the token limit; "
                "all are counted.",
                highlight=False,
            )
        if _lacks_examples(result):
            each = result.counts["examples"] / result.counts["generations"]
            console.print(
                f"{escape(result.id)}: {each:.1f} examples each; the history holds no more, or the budget was full",
                highlight=False,
            )
    if results.directory is not None:
        where = escape(str(results.directory))
        console.print(f"Results: {where}", highlight=False, soft_wrap=True)
        console.print(f"Report:  personalllm report {where}", highlight=False, soft_wrap=True)


def _lacks_examples(result: AlgorithmResult) -> bool:
    """Tell whether fewer examples were sent than the algorithm asked for."""
    wanted = result.spec["params"].get("n_shots")
    generations = result.counts.get("generations", 0)
    return isinstance(wanted, int) and result.counts.get("examples", 0) < wanted * generations


def _table(results: Results, *, wide: bool, plain: bool) -> Table:
    """Return the leaderboard; the narrow one leaves out regret and the win rate against the best."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    first = results.algorithms[0]
    protocol = results.protocol
    title = (
        f"{results.benchmark_name}, {protocol['track']} track: {first.n_users:,} users, {first.n_queries:,} queries, "
        f"95 % intervals over users; reference: {protocol['reference_response_model']}"
    )
    table = Table(title=escape(title), box=None if plain else box.SIMPLE_HEAD, title_justify="left")
    table.add_column("algorithm", no_wrap=wide, overflow="fold")
    columns = [
        ("mean_utility", "utility"),
        ("gain", "gain"),
        ("win_rate_reference", "wins vs reference %"),
        *((("win_rate_best", "wins vs best %"), ("regret", "regret")) if wide else ()),
    ]
    for _, heading in columns:
        table.add_column(heading, justify="right")
    table.add_column(f"utility vs {escape(results.versus)}", justify="right")
    ranked = sorted(results.algorithms, key=lambda result: -result.metrics["mean_utility"].value)
    for result in ranked:
        gap = " " if wide else "\n"
        cells = [_cell(result.metrics[name], gap, percent="%" in heading) for name, heading in columns]
        difference = result.versus_reference["mean_utility"]
        same = result.id == results.versus
        cells.append("-" if same else _cell(difference, gap, percent=False, signed=True))
        style = "dim" if result.kind == "reference" else None
        table.add_row(escape(result.id), *cells, style=style)
    return table


def _cell(estimate: Estimate, gap: str, *, percent: bool, signed: bool = False) -> str:
    """Return `value [low, high]`, or a dash where the number is not defined."""
    if math.isnan(estimate.value):
        return "-"
    scale, form = (100, ".1f") if percent else (1, ".3f")
    sign = "+" if signed else ""
    value = f"{estimate.value * scale:{sign}{form}}"
    return f"{value}{gap}[{estimate.low * scale:{form}}, {estimate.high * scale:{form}}]"
