"""`personalllm report`: make the HTML report of finished runs, again if need be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from personalllm.evaluation import Results

__all__ = ["report_command"]


def report_command(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of runs; every run below it goes into the page.")
    ],
    out: Annotated[Path | None, typer.Option(help="File to write.  [default: DIR/report.html]")] = None,
    versus: Annotated[
        str | None, typer.Option(help="Algorithm that differences are taken from.  [default: random]")
    ] = None,
    figures: Annotated[Path | None, typer.Option(help="Folder to write the figures to as well, SVG and PNG.")] = None,
) -> None:
    """Make the HTML report of every run below a folder; it needs no network and no model."""
    from rich.console import Console
    from rich.text import Text

    from personalllm.report import leaderboard_table, render_report, write_figures

    runs, unfinished = _find_runs(directory)
    results = _read(runs, versus)
    path = render_report(results, out if out is not None else directory / "report.html")
    console = Console()
    console.print(leaderboard_table(results))
    for run in unfinished:
        console.print(Text(f"Left out, as no algorithm is complete yet: {run}"))
    if figures is not None:
        written = write_figures(results, figures)
        console.print(Text(f"Figures: {len(written)} files in {figures}"), soft_wrap=True)
    console.print(Text(f"Report: {path}"), soft_wrap=True)


def _find_runs(directory: Path) -> tuple[list[Path], list[Path]]:
    """Return the run directories at or below a folder: those with a complete algorithm, and the others."""
    from personalllm.errors import UserError

    if not directory.is_dir():
        raise UserError(f"There is no folder {directory}.", "Name the folder that was given to --out.")
    found = [path.parent for path in sorted(directory.rglob("manifest.json")) if _describes_run(path)]
    ready = [run for run in found if any(run.glob("*/metrics.json"))]
    if not ready:
        raise UserError(
            f"There is no finished run in {directory}.",
            f"Make one with: personalllm evaluate random longest --out {directory}",
        )
    return ready, [run for run in found if run not in ready]


def _describes_run(manifest: Path) -> bool:
    """Tell whether a manifest is a run's; one that cannot be read is taken for a run's, so that reading it says why."""
    try:
        value = json.loads(manifest.read_text(encoding="utf-8"))
    except ValueError:
        return True
    return isinstance(value, dict) and {"protocol", "fingerprint"} <= set(value)


def _read(runs: list[Path], versus: str | None) -> list[Results]:
    """Read the runs; `versus` holds for those that have it, and one of them must."""
    from personalllm.errors import UnknownName
    from personalllm.evaluation import compare, read_results

    results = [read_results(run) for run in runs]
    if versus is None:
        return results
    labels = {row.id for result in results for row in result.algorithms}
    if versus not in labels:
        raise UnknownName("algorithm in these results", versus, labels)
    return [
        compare(result, versus) if any(row.id == versus for row in result.algorithms) else result for result in results
    ]
