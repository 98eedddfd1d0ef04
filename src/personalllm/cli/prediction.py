"""What the commands show of a run of the predict track."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from personalllm.evaluation import PredictResults
    from personalllm.evaluation.protocol import TrackName
    from personalllm.evaluation.resolve import Entry

__all__ = ["check_learner", "explain_left_out", "show_prediction", "show_table"]

_TABLE_WIDTH = 120


def check_learner(versus: str | None, entries: tuple[Entry, ...]) -> None:
    """Raise before the work begins if nothing in this run has the label.

    Raises:
        UnknownName: Lists the nearest.
    """
    from personalllm.core.errors import UnknownName
    from personalllm.evaluation import PREDICTORS

    known = [*(entry.label for entry in entries), *PREDICTORS]
    if versus is not None and versus not in known:
        raise UnknownName("learner in this run", versus, known)


def explain_left_out(track: TrackName, console: Console, *, signals: bool = False) -> None:
    """Say what `all` does not stand for here, and why."""
    from rich.markup import escape

    from personalllm.evaluation.resolve import left_out

    for name, reason in left_out(track, signals=signals).items():
        console.print(f"{name} is left out: {escape(reason)}", highlight=False, soft_wrap=True)


def show_table(results: PredictResults, console: Console) -> int:
    """Print the table as wide as the terminal allows, 120 columns where there is none; return that width."""
    from personalllm.report.terminal import prediction_table

    width = min(console.width, _TABLE_WIDTH) if console.is_terminal else _TABLE_WIDTH
    console.print(prediction_table(results, width=width), width=width, crop=False)
    return width


def show_prediction(results: PredictResults, versus: str | None = None, console: Console | None = None) -> None:
    """Print the table, what can be said of its differences, and where the run is kept.

    Args:
        results: What was found.
        versus: Label that differences are taken from; None: the best learner.
        console: Where to print; standard output if None.
    """
    from rich.markup import escape

    from personalllm.cli.leaderboard import output_console

    console = console or output_console()
    if results.preset:
        console.print(f"Preset {escape(results.preset)}", highlight=False, soft_wrap=True)
    width = show_table(results, console)
    for line in (*_legend(results), *_differences(results, versus)):
        console.print(escape(line), highlight=False, width=width)
    if results.directory is not None:
        where = escape(str(results.directory))
        console.print(f"Results: {where}", highlight=False, soft_wrap=True)
        console.print(f"Report:  personalllm report {where}", highlight=False, soft_wrap=True)


def _legend(results: PredictResults) -> list[str]:
    blank = [learner.id for learner in results.learners if not learner.log_odds]
    lines = ["Intervals resample users. Dim: nulls, which learn nothing of a user, and oracles, which know the scores."]
    if blank:
        lines.append(f"No log-loss and ECE: {', '.join(blank)} rank without probabilities.")
    return lines


def _differences(results: PredictResults, versus: str | None) -> list[str]:
    """Say which learners are not shown to differ in accuracy at the most shots."""
    cell = results.headline
    found = results.comparisons("accuracy", cell, versus=versus)
    if not found:
        return []
    first = found[0].a
    alike = [one.b for one in found if one.better is None]
    ahead = [one.b for one in found if one.better == one.b]
    told = f"Accuracy at k={cell.shots}, {first} against {len(found)} others (paired over users, Holm, 5 %): "
    parts = [f"no difference shown from {', '.join(alike)}"] if alike else []
    parts += [f"worse than {', '.join(ahead)}"] if ahead else []
    if len(alike) + len(ahead) < len(found):
        parts.append("better than the rest" if parts else "better than all of them")
    return [told + "; ".join(parts) + "."]
