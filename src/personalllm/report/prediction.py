"""The page of the predict track: learning curves, tables, calibration, strata, counterfactuals, in one HTML file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from personalllm.core.errors import UserError
from personalllm.core.plotting import drawing, save_figure
from personalllm.report import numbers
from personalllm.report.prediction_figures import prediction_figures
from personalllm.report.prediction_views import HEADINGS, LEVEL, PredictionView
from personalllm.report.prediction_words import Finding, findings, lead, notes
from personalllm.report.svg import inline_svg
from personalllm.report.template import write_page
from personalllm.report.views import flatten
from personalllm.report.words import LABELS

if TYPE_CHECKING:
    from personalllm.evaluation.prediction.metrics import Cell
    from personalllm.evaluation.prediction.results import LearnerResult, PredictResults
    from personalllm.evaluation.results import Estimate

__all__ = ["Grid", "PredictionSection", "Row", "prediction_section", "render_prediction", "write_prediction_figures"]

CAPTIONS = {
    "curves": (
        "Accuracy by number of comparisons",
        (
            "Share of the next comparisons predicted right; the best six learners have looks of their own, the others "
            "are faint. Bars are 95 % intervals; points stand side by side so that they do not hide each other. Dotted "
            "levels are nulls, dashed ones oracles; the true weights are left out where they would squeeze the curves."
        ),
    ),
    "each": (
        "Each learner's curve",
        (
            "Accuracy on unseen users and unseen prompts, or the hardest cell that was run; the band is the 95 % "
            "interval, the faint lines are the other learners. Dotted levels are nulls, dashed ones oracles."
        ),
    ),
    "log-loss": (
        "Log-loss by number of comparisons",
        (
            "Mean of minus the logarithm of the probability given to what was chosen; a coin has 0.693, lower is "
            "better. Values far above a coin's are cut off; the tables have them."
        ),
    ),
    "reliability": (
        "Calibration",
        (
            "How often a learner is right (upwards) against how sure it is (to the right), in 15 bins; the larger the "
            "circle, the more comparisons. On the dashed line the two agree; below it the learner is too sure."
        ),
    ),
    "contested": (
        "By how contested a comparison is",
        (
            "Accuracy where under a quarter of the pool population prefers the other response, up to where at least "
            "three quarters do. Where most people disagree with this user, following the population is worse than a "
            "coin."
        ),
    ),
    "counterfactuals": (
        "Other histories",
        (
            "Accuracy at the most comparisons with the user's own history, with its labels flipped, and with another "
            "user's. A learner that does not lose with another user's history has learned nothing about this one."
        ),
    ),
}
"""Title and caption of each figure."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table: whose it is, of what kind, and its cells as (value, what stands below)."""

    name: str
    id: str
    kind: str
    cells: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Grid:
    """A table.

    Attributes:
        key: Anchor within the run's part of the page.
        title: Heading.
        caption: What it shows.
        columns: (heading, what stands below it) of each column but the first.
        rows: Learners, nulls, oracles.
        folded: Whether it is shown on demand only.
    """

    key: str
    title: str
    caption: str
    columns: tuple[tuple[str, str], ...]
    rows: tuple[Row, ...]
    folded: bool = False


@dataclass(frozen=True, slots=True)
class PredictionSection:
    """One run with all that the page shows of it."""

    view: PredictionView
    lead: str
    findings: tuple[Finding, ...]
    figures: tuple[tuple[str, str, str, str], ...]
    tables: tuple[Grid, ...]
    folded: tuple[Grid, ...]
    notes: tuple[str, ...]
    settings: tuple[tuple[str, str, str], ...]


def _cell(value: Estimate, *, share: bool = False) -> tuple[str, str]:
    text = numbers.percent(value.value) if share else numbers.number(value.value)
    return text, numbers.interval(value, "percent" if share else "plain")


def _rows(view: PredictionView, cells: Any) -> tuple[Row, ...]:
    """Return a row for each learner, null and oracle that has a number in it."""
    made = [Row(view.name(one), one.id, one.kind, tuple(cells(one))) for one in view.rows]
    return tuple(row for row in made if any(text != numbers.ABSENT for text, _ in row.cells))


def _metrics_table(view: PredictionView) -> Grid:
    headings = view.headings

    def cells(one: LearnerResult) -> list[tuple[str, str]]:
        found = [_cell(view.at(one, h.key), share=h.share) for h in headings]
        return [*found, (numbers.duration(one.seconds_fit), _milliseconds(one.seconds_adapt_per_user))]

    columns = [(h.text, h.note) for h in headings]
    return Grid(
        "metrics",
        "All metrics",
        f"{str(view.headline).capitalize()}; highest accuracy first, 95 % intervals in brackets. Time of one fit, "
        "and below it of adapting one user.",
        (*columns, ("Time", "fit, adapt")),
        _rows(view, cells),
    )


def _milliseconds(seconds: float) -> str:
    return f"{numbers.number(1000 * seconds, 2)} ms" if math.isfinite(seconds) else ""


def _differences_table(view: PredictionView) -> Grid | None:
    """Return what is real: each learner against the best learner and the best null, and against no comparisons."""
    if len(view.learners) < 2:
        return None
    best, results, head = view.learners[0].id, view.results, view.headline
    among = [one.id for one in view.learners]
    rivals = {best: results.comparisons("accuracy", head, versus=best, among=among)}
    if view.nulls:
        null = view.nulls[0].id
        rivals[null] = results.comparisons("accuracy", head, versus=null, among=[null, *among])
    rows = []
    for one in view.learners:
        found: list[tuple[str, str]] = []
        for rival, compared in rivals.items():
            pair = next((pair for pair in compared if pair.b == one.id), None)
            if pair is None:
                found += [(numbers.ABSENT, "")] * 2
                continue
            gap = type(pair.difference)(-pair.difference.value, -pair.difference.high, -pair.difference.low)
            found.append((numbers.percent(gap.value, signed=True), numbers.interval(gap, "signed-percent")))
            verdict = {None: "not clear", one.id: "better"}.get(pair.better, "worse")
            found.append((_p(pair.p_holm), verdict))
            del rival
        rows.append(Row(view.name(one), one.id, one.kind, tuple(found)))
    columns: list[tuple[str, str]] = []
    for rival in rivals:
        columns += [(f"Minus {view.name(rival)}", "points of accuracy"), ("p", "Holm")]
    return Grid(
        "differences",
        "Which differences are real",
        f"{str(head).capitalize()}; differences paired by what intervals resample, p by flipping signs, corrected "
        f"by Holm within each column; a difference is clear if p is at most {LEVEL:g}.",
        tuple(columns),
        tuple(rows),
    )


def _p(value: float) -> str:
    if not math.isfinite(value):
        return numbers.ABSENT
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _strata_table(view: PredictionView, key: str, title: str, caption: str, strata: Sequence[str]) -> Grid | None:
    if not strata:
        return None
    names = [stratum.removeprefix("rm:").replace("contested-", "quarter ") for stratum in strata]

    def cells(one: LearnerResult) -> list[tuple[str, str]]:
        return [_cell(view.at(one, "accuracy", None, stratum), share=True) for stratum in strata]

    sizes = [view.stratum_users(stratum) for stratum in strata]
    columns = tuple((name, f"%, {numbers.count(n)} user{'s' * (n != 1)}") for name, n in zip(names, sizes, strict=True))
    return Grid(key, title, caption, columns, _rows(view, cells))


def _curve_table(view: PredictionView, cell: Cell, metric: str, heading: str, *, share: bool) -> Grid:
    shots = view.shots(cell)

    def cells(one: LearnerResult) -> list[tuple[str, str]]:
        return [
            _cell(view.at(one, metric, type(cell)(cell.users, cell.prompts, cell.history, k)), share=share)
            for k in shots
        ]

    where = f"{cell.users} users, {cell.prompts} prompts"
    return Grid(
        f"{metric}-{cell.users}-{cell.prompts}".replace("_", "-"),
        f"{heading}: {where}",
        f"{heading} by number of comparisons{', %' if share else ''}.",
        tuple((str(k), "") for k in shots),
        _rows(view, cells),
        folded=True,
    )


def _tables(view: PredictionView) -> tuple[Grid, ...]:
    contested = "Accuracy by the share of the pool population that prefers the other response: quarter 1 is below 25 %."
    strongest = "Accuracy over the users whose largest weight is on the reward model."
    made = [
        _metrics_table(view),
        _differences_table(view),
        _strata_table(view, "contest", "By contest", contested, view.contested),
        _strata_table(view, "reward-models", "By strongest reward model", strongest, view.reward_models),
    ]
    for key in ("accuracy", "log_loss"):
        heading = next(h for h in HEADINGS if h.key == key)
        if heading in view.headings:
            made += [_curve_table(view, cell, key, heading.text, share=heading.share) for cell in view.panels]
    return tuple(table for table in made if table is not None)


def prediction_section(view: PredictionView) -> PredictionSection:
    """Return what the page shows of a run."""
    with drawing(text_as_paths=False):
        drawn = [
            (
                name,
                *CAPTIONS[name],
                inline_svg(
                    figure,
                    key=f"{view.key}-{name}",
                    title=CAPTIONS[name][0],
                    description=f"{CAPTIONS[name][1]} The tables have the numbers.",
                ),
            )
            for name, figure in prediction_figures(view).items()
        ]
    tables = _tables(view)
    flat = flatten(view.results.protocol)
    return PredictionSection(
        view=view,
        lead=lead(view),
        findings=findings(view),
        figures=tuple((name, title, caption, svg) for name, title, caption, svg in drawn),
        tables=tuple(table for table in tables if not table.folded),
        folded=tuple(table for table in tables if table.folded),
        notes=notes(view),
        settings=tuple((key, LABELS.get(key, ""), value) for key, value in flat.items()),
    )


def render_prediction(results: Sequence[PredictResults], path: str | Path) -> Path:
    """Write one HTML page about one or several runs of the predict track; equal results give an equal page.

    Style and figures are inside it, it has no script, and a content security policy forbids requests. Every text of a
    benchmark or a plugin is escaped.

    Args:
        results: From `predict`, `load_prediction`, `predict_people` or `load_people`.
        path: File to write; for an existing folder, `report.html` in it.

    Returns:
        The file written.

    Raises:
        UserError: If there is nothing to report.
    """
    if not results:
        raise UserError("There are no results to report.", "Run `personalllm evaluate --track predict` first.")
    keys = ["predict", *(f"predict-{n}" for n in range(2, len(results) + 1))]
    sections = [prediction_section(PredictionView(one, key)) for one, key in zip(results, keys, strict=True)]
    return write_page(path, "report.html", "prediction.html.j2", sections=sections)


def write_prediction_figures(results: Sequence[PredictResults], directory: str | Path) -> list[Path]:
    """Write the figures of every run as SVG and PNG, `predict-<figure>.svg` and `.png`; equal input, equal SVG.

    Args:
        results: One or several runs.
        directory: Where to write; made if absent.

    Returns:
        The files, in the order in which they were written.
    """
    written: list[Path] = []
    with drawing(text_as_paths=True):
        for index, one in enumerate(results):
            key = "predict" if not index else f"predict-{index + 1}"
            for name, figure in prediction_figures(PredictionView(one, key)).items():
                written += save_figure(figure, Path(directory) / f"{key}-{name}")
    return written
