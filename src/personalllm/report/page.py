"""Write the page of one or several runs of any tracks: one HTML file that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from personalllm.core.errors import UserError
from personalllm.core.plotting import drawing, save_figure
from personalllm.report.answer import Answer, answer
from personalllm.report.examples import Pair
from personalllm.report.replay import command, side_by_side
from personalllm.report.svg import inline_svg
from personalllm.report.tables import Grid
from personalllm.report.template import write_page
from personalllm.report.views import View, make_views
from personalllm.report.views.base import Drawing, Finding

if TYPE_CHECKING:
    from markupsafe import Markup

    from personalllm.evaluation.results import Results

__all__ = ["Figure", "Section", "draw", "make_section", "render_report", "write_figures"]

_SURROUNDINGS = ("source", "drawn", "backends", "reward_ensemble", "versions")


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure as the page shows it."""

    key: str
    title: str
    caption: str
    svg: Markup


@dataclass(frozen=True, slots=True)
class Section:
    """A run with all that the page shows of it."""

    view: View
    findings: tuple[Finding, ...]
    blocks: tuple[Grid | Figure, ...]
    pair: Pair | None


def draw(drawn: Drawing, key: str) -> Figure:
    """Return a figure for the page; call within `core.plotting.drawing`."""
    description = f"{drawn.caption} {drawn.description}"
    svg = inline_svg(drawn.figure, key=f"{key}-{drawn.key}-svg", title=drawn.title, description=description)
    return Figure(drawn.key, drawn.title, drawn.caption, svg)


def make_section(view: View) -> Section:
    """Return what the page shows of a run."""
    with drawing(text_as_paths=False):
        blocks = tuple(draw(block, view.key) if isinstance(block, Drawing) else block for block in view.blocks())
    return Section(view, view.findings(), blocks, view.pair())


def _opening(views: Sequence[View]) -> tuple[Answer, Figure | None] | None:
    """Return the answer that the page opens with, and its curve."""
    answered = answer(views)
    if answered is None or answered.curve is None:
        return None if answered is None else (answered, None)
    with drawing(text_as_paths=False):
        view = answered.curve
        caption = (
            f"{view.heading}. From nothing known of a user, on the left, to {view.headline.shots} preferences. Bars "
            "are 95 % intervals; points of several methods stand side by side. Dotted levels are baselines, which "
            "treat all users alike, dashed ones oracles, which see the scores."
        )
        return answered, draw(replace(view.curves(view.main, "answer"), caption=caption), "opening")


def _surroundings(results: Results) -> dict[str, Any]:
    """Return what a run's manifest has besides the protocol: data, backends, versions."""
    return {key: results.manifest[key] for key in _SURROUNDINGS if results.manifest.get(key)}


def render_report(results: Sequence[Results], path: str | Path, *, versus: str | None = None) -> Path:
    """Write one HTML page about one or several runs; equal results give an equal page.

    The page makes no request: style and figures are inside it, it has no script, and a content security policy
    forbids requests. Every text of a benchmark, a method or a chat model is escaped.

    Args:
        results: Of any tracks, on simulated users or on people.
        path: File to write; for an existing folder, `report.html` in it.
        versus: Label that differences are taken from; None: the best method of each run.

    Returns:
        The file written.

    Raises:
        UserError: If there is nothing to report.
    """
    views = make_views(results, versus)
    if not views:
        raise UserError("There are no results to report.", "Run `personalllm evaluate` or `personalllm demo` first.")
    runs = [view.results for view in views]
    return write_page(
        path,
        "report.html",
        "run.html.j2",
        opening=_opening(views),
        sections=[make_section(view) for view in views],
        names=", ".join(dict.fromkeys(run.data_name for run in runs)),
        settings=side_by_side([run.protocol for run in runs]),
        versions=side_by_side([_surroundings(run) for run in runs]),
        commands=[command(run) for run in runs],
        definitions={term: text for view in views for term, text in view.definitions().items()},
        notes=dict.fromkeys(note for view in views for note in view.notes()),
    )


def write_figures(results: Sequence[Results], directory: str | Path) -> list[Path]:
    """Write the figures of every run as SVG and PNG, `<track>-<figure>.svg` and `.png`; equal input, equal SVG.

    Args:
        results: One or several runs of any tracks.
        directory: Where to write; made if absent.

    Returns:
        The files, in the order in which they were written.
    """
    files: list[Path] = []
    with drawing(text_as_paths=True):
        for view in make_views(results):
            for block in view.blocks():
                if isinstance(block, Drawing):
                    files += save_figure(block.figure, Path(directory) / f"{view.key}-{block.key}")
    return files
