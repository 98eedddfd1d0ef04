"""`personalllm report`: make the HTML report of finished runs, again if need be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from personalllm.evaluation import Results

__all__ = ["report_command"]


def report_command(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of runs; every run below it goes into the page.")
    ],
    out: Annotated[Path | None, typer.Option(help="File to write.  [default: DIR/report.html]")] = None,
    versus: Annotated[
        str | None, typer.Option(help="Method that differences are taken from.  [default: random]")
    ] = None,
    figures: Annotated[Path | None, typer.Option(help="Folder to write the figures to as well, SVG and PNG.")] = None,
) -> None:
    """Make the HTML report of every run below a folder; it needs no network and no model.

    Runs of the predict track, and evaluations on people, get a page of their own: report.html if there are no others,
    else report-predict.html beside it.
    """
    from rich.console import Console
    from rich.text import Text

    runs, unfinished = _find_runs(directory)
    predicted = [run for run in runs if _track(run) != "other"]
    others = [run for run in runs if run not in predicted]
    target = out if out is not None else directory / "report.html"
    console = Console()
    pages: list[Path] = []
    written: list[Path] = []
    if others:
        pages += _report(others, versus, target, figures, written, console)
    if predicted:
        target = target.with_stem(f"{target.stem}-predict") if others else target
        pages += _report_predicted(predicted, None if others else versus, target, figures, written, console)
    for run in unfinished:
        console.print(Text(f"Left out, as no method is complete yet: {run}"))
    if figures is not None:
        console.print(Text(f"Figures: {len(written)} files in {figures}"), soft_wrap=True)
    for page in pages:
        console.print(Text(f"Report: {page}"), soft_wrap=True)


def _report(
    runs: list[Path], versus: str | None, target: Path, figures: Path | None, written: list[Path], console: Console
) -> list[Path]:
    """Make the page of runs of the rank and the generate track."""
    from personalllm.report import leaderboard_table, render_report, write_figures

    results = _read(runs, versus)
    page = render_report(results, target)
    console.print(leaderboard_table(results))
    written += [] if figures is None else write_figures(results, figures)
    return [page]


def _report_predicted(
    runs: list[Path], versus: str | None, target: Path, figures: Path | None, written: list[Path], console: Console
) -> list[Path]:
    """Make the page of runs of the predict track and of evaluations on people."""
    from personalllm.cli.prediction import show_table
    from personalllm.core.errors import UserError
    from personalllm.evaluation import load_prediction
    from personalllm.evaluation.prediction.people import load_people
    from personalllm.report.prediction import render_prediction, write_prediction_figures

    if versus is not None:
        raise UserError(
            "--versus is of the rank and the generate track.",
            "Leave it out: the page of the predict track compares with the best learner and the best null.",
        )
    results = [load_people(run) if _track(run) == "people" else load_prediction(run) for run in runs]
    page = render_prediction(results, target)
    for one in results:
        show_table(one, console)
    written += [] if figures is None else write_prediction_figures(results, figures)
    return [page]


def _track(run: Path) -> str:
    """Return `people`, `predict`, or `other` for what the run of a folder is."""
    if (run / "people.json").is_file():
        return "people"
    try:
        manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "other"
    protocol = manifest.get("protocol") if isinstance(manifest, dict) else None
    return "predict" if isinstance(protocol, dict) and protocol.get("track") == "predict" else "other"


def _find_runs(directory: Path) -> tuple[list[Path], list[Path]]:
    """Return the run directories at or below a folder: those with a complete method, and the others."""
    from personalllm.core.errors import UserError

    if not directory.is_dir():
        raise UserError(f"There is no folder {directory}.", "Name the folder that was given to --out.")
    found = [path.parent for path in sorted(directory.rglob("manifest.json")) if _describes_run(path)]
    ready = [run for run in found if any(run.glob("*/metrics.json"))]
    people = [path.parent for path in sorted(directory.rglob("people.json")) if _describes_run(path)]
    ready += people
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
    from personalllm.core.errors import UnknownName
    from personalllm.evaluation import compare, read_results

    results = [read_results(run) for run in runs]
    if versus is None:
        return results
    labels = {row.id for result in results for row in result.methods}
    if versus not in labels:
        raise UnknownName("method in these results", versus, labels)
    return [
        compare(result, versus) if any(row.id == versus for row in result.methods) else result for result in results
    ]
