"""The leaderboard, and the table of the predict track, for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from personalllm.report.numbers import ABSENT, count, estimate, number, percent
from personalllm.report.views import as_sequence, track_views

if TYPE_CHECKING:
    from rich.table import Table

    from personalllm.evaluation import Cell, LearnerResult, MethodResult, PredictResults, Results

__all__ = ["leaderboard_table", "prediction_table", "shots_shown"]

_MOST_SHOTS = 8
_FEW_SHOTS = 4
_WIDTH = 120
_NAME_WIDTH = 22
_AT_MOST_SHOTS = {"log_loss": "log-loss", "ece": "ECE", "regret": "regret", "tau": "tau", "worst_decile": "worst 10%"}
_NARROW = ("log_loss", "worst_decile")


def leaderboard_table(results: Results | Sequence[Results]) -> Table:
    """Return the leaderboard of one or several results as a table for the terminal.

    Methods stand first, best mean utility at the top; the references follow, set apart and dimmed.

    Args:
        results: One or several results.

    Returns:
        A table to print with rich; texts from the results are shown as they are, without markup.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    views = track_views(as_sequence(results))
    models = dict.fromkeys(view.reference_model for view in views)
    caption = f"95 % intervals over users. Win rate: against {' or '.join(models)}. References in italics."
    table = Table(box=box.SIMPLE_HEAD, caption=Text(caption), caption_justify="left", padding=(0, 1), pad_edge=False)
    table.add_column("Method", min_width=16)
    for heading in ("Mean utility", "Gain", "Win %"):
        table.add_column(heading, justify="right", no_wrap=True)
    for view in views:
        if len(views) > 1:
            table.add_row(Text(f"{view.track.capitalize()} track"), style="bold")
        for rows, style in ((view.methods, ""), (view.references, "dim italic")):
            for row in rows:
                table.add_row(Text(view.name(row)), *map(Text, _cells(row)), style=style)
            if rows:
                table.add_section()
    return table


def _cells(row: MethodResult) -> tuple[str, str, str]:
    """Return mean utility, gain and win rate as text."""
    metrics = row.metrics
    return (
        estimate(metrics["mean_utility"], decimals=2) if "mean_utility" in metrics else ABSENT,
        estimate(metrics["gain"], decimals=2) if "gain" in metrics else ABSENT,
        percent(metrics["win_rate_reference"].value) if "win_rate_reference" in metrics else ABSENT,
    )


def shots_shown(shots: Sequence[int], most: int = _MOST_SHOTS) -> tuple[int, ...]:
    """Return at most so many of the numbers of shots, the first and the last among them.

    >>> shots_shown(range(0, 20, 2))
    (0, 2, 4, 6, 10, 12, 14, 18)
    """
    if len(shots) <= most:
        return tuple(shots)
    return tuple(shots[place * (len(shots) - 1) // (most - 1)] for place in range(most))


def prediction_table(results: PredictResults, cell: Cell | None = None, *, width: int = _WIDTH) -> Table:
    """Return the predict track's results as a table of at most 120 columns, of at most 80 where there is no more room.

    Accuracy by number of comparisons; at the most of them its interval, log-loss, calibration error, regret, tau and
    the accuracy of the worst tenth of users. Learners stand first, best accuracy at the top; nulls and oracles follow,
    set apart and dimmed. Metrics that nobody has are left out.

    Args:
        results: Of a run.
        cell: Whose users and prompts are shown; None: the run's headline, unseen users and prompts if it has them.
        width: Columns of the terminal; below 120 there are fewer shots and metrics, and the heading says so.

    Returns:
        A table to print with rich.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = cell or results.headline
    curves = {learner.id: results.curve(learner.id, "accuracy", shown) for learner in results.learners}
    wide = width >= _WIDTH
    every = sorted({k for curve in curves.values() for k in curve})
    shots = shots_shown(every, _MOST_SHOTS if wide else _FEW_SHOTS)
    known = [one for one in results.learners if shown in one.estimates]
    metrics = [
        metric
        for metric in (_AT_MOST_SHOTS if wide else _NARROW)
        if any(math.isfinite(one.estimates[shown]["all", metric].value) for one in known)
    ]
    table = Table(
        title=Text(_heading(results, shown) + ("" if wide else "; a wider terminal shows more")),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
        show_edge=False,
    )
    table.add_column("", min_width=_NAME_WIDTH, max_width=_NAME_WIDTH, overflow="fold")
    for k in shots:
        table.add_column(f"k={k}" if k == shots[0] else str(k), justify="right", no_wrap=True)
    for heading in (f"95 % at {shots[-1]}", *(_AT_MOST_SHOTS[metric] for metric in metrics)):
        table.add_column(heading, justify="right", no_wrap=True)
    for kind, style in (("learner", ""), ("null", "dim"), ("oracle", "dim italic")):
        rows = [learner for learner in results.learners if learner.kind == kind and curves[learner.id]]
        for learner in sorted(rows, key=lambda one: -curves[one.id][max(curves[one.id])].value):
            cells = [percent(curves[learner.id][k].value) if k in curves[learner.id] else "" for k in shots]
            table.add_row(Text(learner.id), *cells, *_at_most_shots(learner, shown, metrics), style=style)
        if rows:
            table.add_section()
    return table


def _heading(results: PredictResults, cell: Cell) -> str:
    sums = next(learner.sums[cell]["n"] for learner in results.learners if cell in learner.sums)
    users = f"{count(int((sums > 0).sum()))} {cell.users} users, {cell.prompts} prompts"
    if results.protocol.get("track") == "people":
        about = results.manifest
        users = f"{count(int(about['n_users']))} {cell.users} people, {cell.prompts} prompts"
        if about["resample"] == "prompts":
            users += f", intervals over {count(int(about['n_clusters']))} prompts"
    return f"{results.benchmark_name}, predict track: {users}; accuracy in % after k comparisons"


def _at_most_shots(learner: LearnerResult, cell: Cell, metrics: Sequence[str]) -> list[str]:
    """Return the interval of the accuracy and the other metrics at the most shots as text."""
    if cell not in learner.estimates:
        return [""] * (1 + len(metrics))
    found = learner.estimates[cell]
    accuracy = found["all", "accuracy"]
    cells = [f"{percent(accuracy.low)}-{percent(accuracy.high)}" if math.isfinite(accuracy.low) else ABSENT]
    for metric in metrics:
        value = found["all", metric].value
        cells.append(percent(value) if metric == "worst_decile" else number(value, 3))
    return cells
