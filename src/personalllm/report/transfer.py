"""The page that sets simulated users and people side by side."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from personalllm.core.plotting import drawing
from personalllm.report import numbers
from personalllm.report.prediction import Grid, Row, prediction_section
from personalllm.report.prediction_views import PredictionView
from personalllm.report.prediction_words import Finding, listed, null_name
from personalllm.report.svg import inline_svg
from personalllm.report.template import write_page
from personalllm.report.transfer_figures import agreement_figure, orders_figure

if TYPE_CHECKING:
    from personalllm.evaluation.prediction.transfer import Standing, Transfer
    from personalllm.evaluation.results import Estimate

__all__ = ["render_transfer", "transfer_findings"]


def transfer_findings(transfer: Transfer) -> tuple[Finding, ...]:
    """Return what can be said about the two orders, from intervals and corrected tests alone."""
    found, orders = transfer.agreement(), transfer.orders()
    made = [Finding("Do the two orders agree?", _agreement_text(found.spearman, found.n_learners, found.shots))]
    if orders.total:
        text = (
            f"Of {orders.total} pairs of learners, {orders.same} are clearly different on both sides in the same "
            f"order, {orders.reversed} clearly different on both and reversed, {orders.simulated_only} clear among "
            f"simulated users alone, {orders.people_only} among people alone, {orders.neither} on neither side."
        )
        if orders.reversals:
            pairs = [f"{_title(transfer, a)} over {_title(transfer, b)}" for a, b in orders.reversals]
            text += f" Reversed, as simulated users have them: {listed(pairs)}."
        made.append(Finding("What is clear on both sides?", text))
    made += _moves(transfer) + _ahead(transfer)
    return tuple(made)


def _agreement_text(rho: Estimate, n: int, shots: int) -> str:
    if not math.isfinite(rho.value):
        return f"{n} learners are too few, or too equal, for a rank correlation."
    text = (
        f"After {shots} comparisons the {n} learners stand in orders whose rank correlation is "
        f"{numbers.estimate(rho, decimals=2)}"
    )
    if rho.low > 0:
        return f"{text}: they agree more than chance."
    if rho.high < 0:
        return f"{text}: they disagree more than chance; what is best for simulated users is not best for these people."
    return f"{text}, an interval that covers 0: these data do not show that the order carries over."


def _title(transfer: Transfer, label: str) -> str:
    one = transfer.simulated[label]
    return one.title or one.id


def _moves(transfer: Transfer) -> list[Finding]:
    rows = [one for one in transfer.standings() if one.kind == "learner"]
    if len(rows) < 2:
        return []
    most = max(rows, key=lambda one: (abs(one.rank_people - one.rank_simulated), one.id))
    best = min(rows, key=lambda one: (one.rank_simulated, one.id))
    text = (
        f"The best among simulated users, {best.title}, is number {_rank(best.rank_people)} of {len(rows)} among "
        f"people. {most.title} moves furthest, from {_rank(most.rank_simulated)} to {_rank(most.rank_people)}."
    )
    return [Finding("Who moves?", text)]


def _rank(value: float) -> str:
    return f"{value:g}"


def _ahead(transfer: Transfer) -> list[Finding]:
    """Say which learners beat length on people: whether anything but a common taste for longer text was learned."""
    people, view = transfer.people, PredictionView(transfer.people)
    null = view.nulls[0] if view.nulls else None
    if null is None:
        return []
    among = [null.id, *(one.id for one in view.learners)]
    compared = people.comparisons("accuracy", view.headline, versus=null.id, among=among)
    ahead = [view.name(one.b) for one in compared if one.better == one.b]
    behind = [view.name(one.b) for one in compared if one.better == one.a]
    text = (
        f"On people the best null is {null_name(null)}, {numbers.estimate(view.at(null, 'accuracy'), 'percent')} %. "
        f"Really better than it: {listed(ahead)}. Really worse: {listed(behind)}. All others cannot be told apart "
        "from it."
    )
    return [Finding("Is anything learned about people?", text)]


def _standings_table(transfer: Transfer) -> Grid:
    def cells(one: Standing) -> tuple[tuple[str, str], ...]:
        made: list[tuple[str, str]] = []
        for value, rank in ((one.simulated, one.rank_simulated), (one.people, one.rank_people)):
            made.append((numbers.percent(value.value), numbers.interval(value, "percent")))
            made.append((_rank(rank) if math.isfinite(rank) else numbers.ABSENT, ""))
        return tuple(made)

    rows = tuple(Row(one.title, one.id, one.kind, cells(one)) for one in transfer.standings())
    names = (transfer.simulated.benchmark_name, transfer.people.benchmark_name)
    columns = (("Simulated users", f"{names[0]}, %"), ("Rank", ""), ("People", f"{names[1]}, %"), ("Rank", ""))
    caption = (
        f"Accuracy on unseen users and unseen prompts after {transfer.shots[-1]} comparisons; best among people first."
    )
    return Grid("standings", "Both orders", caption, columns, rows)


def _agreement_table(transfer: Transfer) -> Grid:
    rows = []
    for metric, name in (("accuracy", "Accuracy"), ("log_loss", "Log-loss")):
        cells = []
        for shots in transfer.shots:
            rho = transfer.agreement(metric, shots).spearman
            cells.append((numbers.number(rho.value, 2), numbers.interval(rho, decimals=2)))
        rows.append(Row(name, name, "learner", tuple(cells)))
    columns = tuple((f"{k}", "") for k in transfer.shots)
    return Grid(
        "agreement", "Agreement by number of comparisons", "Rank correlation of the two orders.", columns, tuple(rows)
    )


def _notes(transfer: Transfer) -> tuple[str, ...]:
    n = len(transfer.learners)
    return (
        (
            f"The rank correlation is over {n} learners; its interval resamples users on the one side and "
            f"{PredictionView(transfer.people).unit} on the other, and does not speak of other learners."
        ),
        (
            "People and simulated users judged other prompts and other responses, and the pools differ in size, so a "
            "difference between the orders is one of the data as well as of the users."
        ),
        "Every learner was fitted anew on each side: on other simulated users, and on other people.",
        (
            "Annotators who follow one guideline may agree so much that there is little to personalise; where the "
            "share of the other people predicts seen prompts nearly always, methods differ in how they learn the "
            "common taste."
        ),
    )


def render_transfer(transfer: Transfer, path: str | Path) -> Path:
    """Write one HTML page that sets the two sides beside each other, then shows the people's side in full.

    Args:
        transfer: The two sides.
        path: File to write; for an existing folder, `transfer.html` in it.

    Returns:
        The file written.
    """
    with drawing(text_as_paths=False):
        figures = [
            (
                "orders",
                "Two orders",
                (
                    "Place and accuracy of each learner among simulated users (left) and among people (right), best at "
                    "the top. Dashed with hollow diamonds: learners of a pair whose order is clear on both sides and "
                    "reversed."
                ),
                orders_figure(transfer),
            ),
            (
                "agreement",
                "Agreement by number of comparisons",
                "Rank correlation of the two orders by accuracy, with 95 % intervals; 1 is the same order, 0 none.",
                agreement_figure(transfer),
            ),
        ]
        drawn = tuple(
            (name, title, caption, inline_svg(figure, key=f"transfer-{name}", title=title, description=caption))
            for name, title, caption, figure in figures
        )
    section = prediction_section(PredictionView(transfer.people, "people"))
    return write_page(
        path,
        "transfer.html",
        "transfer.html.j2",
        transfer=transfer,
        findings=transfer_findings(transfer),
        figures=drawn,
        tables=(_standings_table(transfer), _agreement_table(transfer)),
        notes=(*_notes(transfer), *section.notes),
        section=section,
    )
