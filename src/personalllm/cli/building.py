"""Print what `personalllm build` counts, expects and keeps."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from personalllm.cli.progress import duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from rich.console import Console

    from personalllm.build.estimate import Estimate
    from personalllm.build.prompts import SourceCounts

__all__ = ["interruptible", "show_counts", "show_estimate"]


@contextmanager
def interruptible(console: Console, out: Path) -> Iterator[None]:
    """Turn Ctrl-C into a line that says what is kept and how to go on, and the exit status 130."""
    import typer

    try:
        yield
    except KeyboardInterrupt:
        contents = _contents(out)
        text = "Stopped. Nothing was finished yet; the same command starts again."
        if contents:
            text = f"Stopped. Kept in {out}: {contents}. The same command continues from here."
        console.print(text, markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(130) from None


def _contents(out: Path) -> str:
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
    from rich.markup import escape

    from personalllm.build.card import DROPS
    from personalllm.report.terminal import show_rows

    rows = [asdict(count) for count in counts]
    if len(rows) > 1:
        keys = ("read", "drawn", *(key for key, _ in DROPS))
        rows.append({"name": "all"} | {key: sum(row[key] for row in rows) for key in keys})
    lines: list[Sequence[str] | None] = []
    for i, row in enumerate(rows):
        reasons = [f"{row[key]:,} {title}" for key, title in DROPS if row[key]]
        lines += [None] if i and i == len(counts) else []
        lines.append((escape(row["name"]), f"{row['read']:,}", f"{row['drawn']:,}", ", ".join(reasons) or "none"))
    show_rows(console, ("source", "read", "drawn", "left out"), lines, numeric=("read", "drawn"))


def show_estimate(console: Console, costs: Estimate, steps: Sequence[str]) -> None:
    """Show what the steps `respond` and `score` will ask for."""
    if "respond" in steps:
        _show_requests(console, costs)
        console.print(_respond_words(costs), markup=False, highlight=False)
    if "score" in steps:
        done = f", {costs.scored:,} of them are done" if costs.scored else ""
        text = f"Scores: {costs.scores:,} responses{done}. "
        hours, rate = costs.score_hours, costs.rates.scores_per_second
        text += (
            f"About {duration(hours * 3600)} at {rate:.3g} responses a second."
            if hours and rate is not None
            else "Nothing is left to score."
            if hours == 0
            else "Time unknown: give --scores-per-second, or score a few first."
        )
        console.print(text, markup=False, highlight=False)


def _show_requests(console: Console, costs: Estimate) -> None:
    from rich.markup import escape

    from personalllm.report.terminal import show_rows

    numeric: tuple[str, ...] = ("requests", "prompt\ntokens", "new tokens\nexpected", "new tokens\nat most")
    numeric += ("dollars\nexpected", "dollars\nat most") if costs.dollars is not None else ()

    def cells(name: str, numbers: Iterable[int], *dollars: float | None) -> tuple[str, ...]:
        prices = ("?" if value is None else f"{value:,.2f}" for value in dollars)
        return (escape(name), *(f"{number:,}" for number in numbers), *prices)[: 1 + len(numeric)]

    counted = [(m.requests, m.prompt_tokens, m.new_tokens, m.max_new_tokens) for m in costs.models]
    rows: list[tuple[str, ...] | None] = [
        cells(m.name, numbers, m.dollars, m.max_dollars) for m, numbers in zip(costs.models, counted, strict=True)
    ]
    total = cells("all", map(sum, zip(*counted, strict=True)), costs.dollars, costs.max_dollars)
    show_rows(console, ("response model", *numeric), [*rows, None, total], numeric=numeric)


def _respond_words(costs: Estimate) -> str:
    lines = [f"Responses: {costs.requests:,} requests for {costs.prompts:,} prompts."]
    hours, rate = costs.respond_hours, costs.rates.responses_per_second
    if hours is None:
        lines.append("Time unknown: give --responses-per-second, or measure it with `build respond --first 20`.")
    elif costs.requests and rate is not None:
        lines.append(f"About {duration(hours * 3600)} at {rate:.3g} responses a second.")
    if costs.min_hours:
        lines.append(f"The limits for a minute demand at least {duration(costs.min_hours * 3600)}.")
    measured = {m.name: m.measured for m in costs.models if m.measured}
    if costs.requests and measured:
        each = ", ".join(f"{name} {n:,}" for name, n in measured.items())
        lines.append(f"Lengths are those of {sum(measured.values()):,} responses in the folder ({each}).")
        unmeasured = [m.name for m in costs.models if not m.measured]
        if unmeasured:
            lines.append(f"Responses of {', '.join(unmeasured)} count with their maximum of tokens.")
    elif costs.requests:
        lines.append("No lengths are measured yet, so every response counts with its maximum of tokens.")
    if costs.requests and costs.unpriced:
        whose = "no response model" if costs.dollars is None else f"all but {', '.join(costs.unpriced)}"
        lines.append(f"The recipe has prices for {whose}.")
    if costs.requests:
        lines.append("A prompt counts with a token for four characters; redraws and retries come on top.")
    return " ".join(lines)
