"""What the commands show of a run: progress while it goes on, the leaderboard when it is done."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID
    from rich.table import Table

    from personalllm.evaluation import Estimate, MethodResult, Progress, ProgressEvent, Results

__all__ = ["interval_cell", "output_console", "show_leaderboard", "watch"]

_WIDE = 150


@contextmanager
def watch(console: Console) -> Iterator[Progress]:
    """Yield a progress callback: live bars with the time left on a terminal, a line for each method elsewhere."""
    from rich.markup import escape

    from personalllm.cli.progress import bars

    tasks: dict[str, TaskID] = {}
    with bars(console, disable=not console.is_terminal) as shown:

        def show(event: ProgressEvent) -> None:
            label = escape(event.method)
            if event.stage == "damaged":
                console.print(f"[yellow]{label}[/]: {escape(event.message)}", soft_wrap=True)
                return
            if event.stage == "start":
                tasks[event.method] = shown.add_task(label, total=event.total, completed=event.done)
                if event.done:
                    console.print(
                        f"{label}: {event.done} of {event.total} were done before", highlight=False, soft_wrap=True
                    )
            learning = " (learning)" if event.stage == "prepare" else ""
            shown.update(tasks[event.method], completed=event.done, description=label + learning)
            if event.stage == "finish" and not console.is_terminal:
                console.print(f"{label}: {event.total} done", highlight=False, soft_wrap=True)

        yield show


def output_console() -> Console:
    """Return a console on standard output, 200 columns wide where that is no terminal."""
    from rich.console import Console as RichConsole

    console = RichConsole()
    return console if console.is_terminal else RichConsole(width=200)


def show_leaderboard(results: Results, versus: str | None = None, console: Console | None = None) -> None:
    """Print the leaderboard, best first, and where the run is kept.

    Args:
        results: What was found.
        versus: Label of the method that differences are taken from; None: the results' own.
        console: Where to print; standard output if None.
    """
    from rich.markup import escape

    from personalllm.evaluation import compare

    if versus is not None and versus != results.versus:
        results = compare(results, versus)
    console = console or output_console()
    if results.preset:
        console.print(f"Preset {escape(results.preset)}", highlight=False, soft_wrap=True)
    console.print(_table(results, wide=console.width >= _WIDE, plain=not console.is_terminal))
    shown = [result for result in results.methods if result.kind == "method"]
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


def _lacks_examples(result: MethodResult) -> bool:
    """Tell whether fewer examples were sent than the method asked for."""
    wanted = result.spec["params"].get("n_shots")
    generations = result.counts.get("generations", 0)
    return isinstance(wanted, int) and result.counts.get("examples", 0) < wanted * generations


def _table(results: Results, *, wide: bool, plain: bool) -> Table:
    """Return the leaderboard; the narrow one leaves out regret and the win rate against the best."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    first = results.methods[0]
    protocol = results.protocol
    history = protocol["history"].get("counterfactual", "none")
    counterfactual = "" if history == "none" else f", counterfactual history ({history})"
    title = (
        f"{results.benchmark_name}, {protocol['track']} track{counterfactual}: {first.n_users:,} users, "
        f"{first.n_queries:,} queries, "
        f"95 % intervals over users; reference: {protocol['reference_response_model']}"
    )
    table = Table(title=escape(title), box=None if plain else box.SIMPLE_HEAD, title_justify="left")
    table.add_column("method", no_wrap=wide, overflow="fold")
    columns = [
        ("mean_utility", "utility"),
        ("gain", "gain"),
        ("win_rate_reference", "wins vs reference %"),
        *((("win_rate_best", "wins vs best %"), ("regret", "regret")) if wide else ()),
    ]
    for _, heading in columns:
        table.add_column(heading, justify="right")
    table.add_column(f"utility vs {escape(results.versus)}", justify="right")
    ranked = sorted(results.methods, key=lambda result: -result.metrics["mean_utility"].value)
    for result in ranked:
        gap = " " if wide else "\n"
        cells = [interval_cell(result.metrics[name], gap, percent="%" in heading) for name, heading in columns]
        difference = result.versus_reference["mean_utility"]
        same = result.id == results.versus
        cells.append("-" if same else interval_cell(difference, gap, percent=False, signed=True))
        style = "dim" if result.kind == "reference" else None
        table.add_row(escape(result.id), *cells, style=style)
    return table


def interval_cell(estimate: Estimate, gap: str, *, percent: bool = False, signed: bool = False) -> str:
    """Return `value [low, high]`, or a dash where the number is not defined."""
    if math.isnan(estimate.value):
        return "-"
    scale, form = (100, ".1f") if percent else (1, ".3f")
    sign = "+" if signed else ""
    value = f"{estimate.value * scale:{sign}{form}}"
    if math.isnan(estimate.low):
        return value
    return f"{value}{gap}[{estimate.low * scale:{form}}, {estimate.high * scale:{form}}]"
