"""The leaderboard for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from personalllm.report.numbers import ABSENT, estimate, percent
from personalllm.report.views import as_sequence, track_views

if TYPE_CHECKING:
    from rich.table import Table

    from personalllm.evaluation import AlgorithmResult, Results

__all__ = ["leaderboard_table"]


def leaderboard_table(results: Results | Sequence[Results]) -> Table:
    """Return the leaderboard of one or several results as a table for the terminal.

    Algorithms stand first, best mean utility at the top; the references follow, set apart and dimmed.

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
    table.add_column("Algorithm", min_width=16)
    for heading in ("Mean utility", "Gain", "Win %"):
        table.add_column(heading, justify="right", no_wrap=True)
    for view in views:
        if len(views) > 1:
            table.add_row(Text(f"{view.track.capitalize()} track"), style="bold")
        for rows, style in ((view.algorithms, ""), (view.references, "dim italic")):
            for row in rows:
                table.add_row(Text(view.name(row)), *map(Text, _cells(row)), style=style)
            if rows:
                table.add_section()
    return table


def _cells(row: AlgorithmResult) -> tuple[str, str, str]:
    """Return mean utility, gain and win rate as text."""
    metrics = row.metrics
    return (
        estimate(metrics["mean_utility"], decimals=2) if "mean_utility" in metrics else ABSENT,
        estimate(metrics["gain"], decimals=2) if "gain" in metrics else ABSENT,
        percent(metrics["win_rate_reference"].value) if "win_rate_reference" in metrics else ABSENT,
    )
