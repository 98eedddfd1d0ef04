"""`personalllm report`: make the HTML report of finished runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["report_command"]


def report_command(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of runs; every run below it goes into the page.")
    ],
    out: Annotated[Path | None, typer.Option(help="File to write.  [default: DIR/report.html]")] = None,
    versus: Annotated[
        str | None, typer.Option(help="Method that differences are taken from.  [default: the best one of each run]")
    ] = None,
    figures: Annotated[Path | None, typer.Option(help="Folder to write the figures to as well, SVG and PNG.")] = None,
) -> None:
    """Make the HTML report of every run below a folder, of any track; it needs no network and no model."""
    from rich.console import Console
    from rich.text import Text

    from personalllm.core.errors import UnknownName
    from personalllm.evaluation import load_run
    from personalllm.report import render_report, show_results, write_figures

    runs, unfinished = _find_runs(directory)
    results = [load_run(run) for run in runs]
    labels = {row.label for run in results for row in run.methods}
    if versus is not None and versus not in labels:
        raise UnknownName("method in these results", versus, labels)
    page = render_report(results, out if out is not None else directory / "report.html", versus=versus)
    console = Console()
    for run in results:
        show_results(run, console, versus if any(row.label == versus for row in run.methods) else None)
    for folder in unfinished:
        console.print(Text(f"Left out, as no method is complete yet: {folder}"))
    if figures is not None:
        console.print(Text(f"Figures: {len(write_figures(results, figures))} files in {figures}"), soft_wrap=True)
    console.print(Text(f"Report: {page}"), soft_wrap=True)


def _find_runs(directory: Path) -> tuple[list[Path], list[Path]]:
    """Return the run directories at or below a folder: those with a complete method, and the others."""
    from personalllm.core.errors import UserError

    if not directory.is_dir():
        raise UserError(f"There is no folder {directory}.", "Name the folder that was given to --out.")
    runs = [path.parent for path in sorted(directory.rglob("manifest.json")) if _describes_run(path)]
    finished = [run for run in runs if any(run.glob("*/record.json"))]
    if not finished:
        raise UserError(
            f"There is no finished run in {directory}.",
            f"Make one with: personalllm evaluate random longest --out {directory}",
        )
    return finished, [run for run in runs if run not in finished]


def _describes_run(manifest: Path) -> bool:
    """Return whether a manifest is a run's; one that cannot be read counts as one, so that reading it says why."""
    try:
        value = json.loads(manifest.read_text(encoding="utf-8"))
    except ValueError:
        return True
    return isinstance(value, dict) and {"protocol", "fingerprint"} <= set(value)
