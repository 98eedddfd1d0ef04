"""The report: one HTML file that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from personalllm.core.errors import UserError
from personalllm.core.plotting import drawing
from personalllm.report import numbers
from personalllm.report.examples import Pair, choose_pair
from personalllm.report.figures import figures_of
from personalllm.report.replay import command
from personalllm.report.svg import inline_svg
from personalllm.report.template import write_page
from personalllm.report.views import POPULATION_BEST, TrackView, flatten, track_views, user_benefits, user_values
from personalllm.report.words import LABELS, TRACKS, describe, finding, measured

if TYPE_CHECKING:
    from markupsafe import Markup

    from personalllm.evaluation import MethodResult, Results

__all__ = ["render_report"]


@dataclass(frozen=True, slots=True)
class Spread:
    """How the users of one row fare: five quantiles of utility, and who is better off than without personalisation."""

    name: str
    kind: str
    quantiles: tuple[float, ...]
    better: float | None
    worse: float | None


@dataclass(frozen=True, slots=True)
class Section:
    """A track with all that the page shows of it."""

    view: TrackView
    noun: str
    finding: str
    figures: dict[str, Markup]
    spreads: tuple[Spread, ...]
    pair: Pair | None
    differences: tuple[MethodResult, ...]
    generated: tuple[MethodResult, ...]


@dataclass(frozen=True, slots=True)
class Setting:
    """A line of the protocol table: the value under each protocol."""

    key: str
    label: str
    values: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """Whether the protocols disagree."""
        return len(set(self.values)) > 1


def _spread(view: TrackView, row: MethodResult) -> Spread | None:
    values, benefits = user_values(row), user_benefits(row)
    if values is None or not np.isfinite(values).any():
        return None
    quantiles = np.quantile(values[np.isfinite(values)], [0.05, 0.25, 0.5, 0.75, 0.95])
    compared = benefits is not None and row.id != POPULATION_BEST
    return Spread(
        name=view.name(row),
        kind=row.kind,
        quantiles=tuple(map(float, quantiles)),
        better=float(np.mean(benefits > 0)) if benefits is not None and compared else None,
        worse=float(np.mean(benefits < 0)) if benefits is not None and compared else None,
    )


def _section(view: TrackView) -> Section:
    with drawing(text_as_paths=False):
        figures = {
            name: inline_svg(figure, key=f"{view.key}-{name}", **describe(view, name))
            for name, figure in figures_of(view).items()
        }
    return Section(
        view=view,
        noun=TRACKS.get(view.track, view.track),
        finding=finding(view),
        figures=figures,
        spreads=tuple(spread for row in view.rows if (spread := _spread(view, row)) is not None),
        pair=choose_pair(view),
        differences=tuple(row for row in view.rows if row.versus_reference and row.id != view.results.versus),
        generated=tuple(row for row in view.methods if row.counts.get("generations")),
    )


def _settings(values: Sequence[dict[str, Any]]) -> tuple[Setting, ...]:
    """Lay several JSON objects beside each other, one line for each leaf."""
    flat = [flatten(value) for value in values]
    keys = dict.fromkeys(key for one in flat for key in one)
    return tuple(Setting(key, LABELS.get(key, ""), tuple(one.get(key, numbers.ABSENT) for one in flat)) for key in keys)


def _surroundings(results: Results) -> dict[str, Any]:
    """Return what a run's manifest says besides the protocol: benchmark, backends, versions."""
    kept = ("benchmark", "backends", "reward_ensemble", "versions")
    return {key: results.manifest[key] for key in kept if results.manifest.get(key)}


def render_report(results: Sequence[Results], path: str | Path) -> Path:
    """Write one HTML page about one or several runs; equal results give an equal page.

    The page asks nobody for anything: style and figures are inside it, it has no script, and a content security
    policy forbids requests. Every text of a benchmark or a model is escaped.

    Args:
        results: One for each protocol, e.g. the rank track and the generate track.
        path: File to write; for an existing folder, `report.html` in it.

    Returns:
        The file written.

    Raises:
        UserError: If there is nothing to report.
    """
    views = track_views(results)
    if not views:
        raise UserError("There are no results to report.", "Run `personalllm evaluate` or `personalllm demo` first.")
    shown = tuple(dict.fromkeys(view.results for view in views))
    return write_page(
        path,
        "report.html",
        "report.html.j2",
        sections=tuple(_section(view) for view in views),
        measured=measured(views),
        benchmarks=", ".join(dict.fromkeys(result.benchmark_name for result in shown)),
        runs=shown,
        settings=_settings([result.protocol for result in shown]),
        versions=_settings([_surroundings(result) for result in shown]),
        commands=tuple(command(result) for result in shown),
        absent=numbers.ABSENT,
    )
