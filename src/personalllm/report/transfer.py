"""Write the page that compares simulated users with people."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from personalllm.core.plotting import drawing
from personalllm.report import numbers
from personalllm.report.numbers import listed
from personalllm.report.page import draw, make_section
from personalllm.report.replay import side_by_side
from personalllm.report.tables import Column, Grid, Row
from personalllm.report.template import write_page
from personalllm.report.transfer_figures import agreement_figure, orders_figure
from personalllm.report.views import View, make_view
from personalllm.report.views.base import Drawing, Finding

if TYPE_CHECKING:
    from personalllm.evaluation.contract import Estimate
    from personalllm.evaluation.transfer import Standing, Transfer

__all__ = ["render_transfer", "standings_table", "transfer_findings"]


def transfer_findings(transfer: Transfer) -> tuple[Finding, ...]:
    """Return what can be said about the two orders, from intervals and corrected tests alone."""
    agreement = transfer.agreement()
    text = _agreement_text(agreement.spearman, agreement.n_methods, agreement.shots)
    findings = [Finding("Do the two orders agree?", text), *_clear(transfer), *_moves(transfer)]
    view = make_view(transfer.people)
    learned = [finding for finding in view.findings() if finding.topic == "Against ignoring the user"]
    findings += [Finding("Is anything learned about people?", finding.text) for finding in learned]
    if transfer.dropped:
        findings.append(Finding("Which shots are missing?", " ".join(transfer.dropped)))
    return (*findings, *_next(transfer, view))


def _next(transfer: Transfer, view: View) -> Iterator[Finding]:
    """Yield what to try next, as far as the numbers suggest something."""
    agreement, orders, steps = transfer.agreement(), transfer.orders(), list[str]()
    if not math.isfinite(agreement.spearman.value):
        steps.append("evaluate more methods: a rank correlation needs three that differ")
    elif not agreement.spearman.low > 0:
        steps.append(f"evaluate more methods than these {agreement.n_methods}, with more people")
    if orders.total and not orders.same + orders.reversed + orders.people_only:
        steps.append(
            "collect more comparisons: among these people no two methods are significantly different "
            "(personalllm.evaluation.people_needed says how many people show which difference)"
        )
    if transfer.dropped:
        steps.append("raise prompt_folds, or take people with longer histories, for the shots that are missing")
    other = next((condition for condition in view.counterfactuals if condition.history == "other-user"), None)
    changes = view.changes(other, view.headline) if other else []
    worse = [view.name(row) for row, change in changes[::-1] if view.improves(change) is False]
    if changes and not worse:
        steps.append(
            "look for people who disagree: another person's history serves these as well as their own, so there is "
            "little to personalise"
        )
    if worse:
        steps.append(f"begin with {listed(worse)}, which use what a person said and not what anybody said")
    if steps:
        yield Finding("What to try next", f"{steps[0][0].upper()}{'; '.join(steps)[1:]}.")


def _agreement_text(rho: Estimate, n: int, shots: int) -> str:
    if not math.isfinite(rho.value):
        return f"{n} methods are too few, or too equal, for a rank correlation."
    text = (
        f"After {shots} shots the {n} methods stand in orders whose rank correlation is "
        f"{numbers.estimate(rho, decimals=2)}"
    )
    if not math.isfinite(rho.low):
        return f"{text}, without an interval: users or prompts are too few."
    if rho.low > 0:
        return f"{text}: they agree more than chance."
    if rho.high < 0:
        return f"{text}: they disagree more than chance; what is best for simulated users is not best for these people."
    return f"{text}, an interval that covers 0: these data do not show that the order carries over."


def _clear(transfer: Transfer) -> Iterator[Finding]:
    orders = transfer.orders()
    if orders.total:
        text = (
            f"Of {orders.total} pairs of methods, {orders.same} are significantly different on both sides in the same "
            f"order, {orders.reversed} on both and reversed, {orders.simulated_only} among simulated users alone, "
            f"{orders.people_only} among people alone, {orders.neither} on neither side."
        )
        if orders.reversals:
            view = make_view(transfer.simulated)
            pairs = [f"{view.name(a)} over {view.name(b)}" for a, b in orders.reversals]
            text += f" Reversed, as simulated users have them: {listed(pairs)}."
        yield Finding("What is significant on both sides?", text)


def _moves(transfer: Transfer) -> Iterator[Finding]:
    rows = [row for row in transfer.standings() if row.kind == "method"]
    if len(rows) > 1:
        largest = max(rows, key=lambda row: (abs(row.rank_people - row.rank_simulated), row.label))
        best = min(rows, key=lambda row: (row.rank_simulated, row.label))
        text = (
            f"The best among simulated users, {best.title}, is number {best.rank_people:g} of {len(rows)} among "
            f"people. {largest.title} moves furthest, from {largest.rank_simulated:g} to {largest.rank_people:g}."
        )
        yield Finding("Who moves?", text)


def _blocks(transfer: Transfer) -> Iterator[Grid | Drawing]:
    """Yield figures and tables in the order of the page; call within `core.plotting.drawing`."""
    yield Drawing(
        "orders",
        "Two orders",
        "Rank and accuracy of each method among simulated users (left) and among people (right), the best at the top. "
        "Dashed with hollow diamonds: methods of a pair whose order is significant on both sides and reversed.",
        orders_figure(transfer),
    )
    yield Drawing(
        "correlation",
        "Agreement by number of shots",
        "Rank correlation of the two orders by accuracy, with 95 % intervals; 1 is the same order, 0 none.",
        agreement_figure(transfer),
    )
    yield standings_table(transfer)
    rows = []
    for name in ("accuracy", "log_loss"):
        values = [transfer.agreement(name, shots).spearman for shots in transfer.shots]
        cells = [f"{numbers.number(rho.value, 2)}\n{numbers.interval(rho, decimals=2)}".rstrip() for rho in values]
        rows.append(Row(transfer.people.metric(name).heading, tuple(cells)))
    columns = tuple(Column(str(shots)) for shots in transfer.shots)
    caption = "Rank correlation of the two orders."
    yield Grid("agreement", "Agreement by number of shots", caption, columns, tuple(rows), first="Order by")


def standings_table(transfer: Transfer) -> Grid:
    """Return accuracy and rank of each method on both sides, best among people first."""
    metric = transfer.people.metric("accuracy")

    def cells(row: Standing) -> Iterator[str]:
        for value, rank in ((row.simulated, row.rank_simulated), (row.people, row.rank_people)):
            yield numbers.metric_value(value, metric)
            yield f"{rank:g}" if math.isfinite(rank) else numbers.ABSENT

    rows = tuple(Row(row.title, tuple(cells(row)), row.label, row.kind) for row in transfer.standings())
    runs = (("Simulated users", transfer.simulated), ("People", transfer.people))
    sides = [Column(name, f"{run.data_name}, %") for name, run in runs]
    columns = (sides[0], Column("Rank"), sides[1], Column("Rank"))
    caption = f"Accuracy on unseen users and unseen prompts after {transfer.shots[-1]} shots; best among people first."
    return Grid("standings", "Both orders", caption, columns, rows)


def _notes(transfer: Transfer, people: View) -> tuple[str, ...]:
    correlation = (
        f"The rank correlation is over {len(transfer.methods)} methods; its interval is over {transfer.simulated.over} "
        f"on the one side and {people.over} on the other, and does not cover other methods."
    )
    data = (
        "People and simulated users judged other prompts and other responses, and the pools differ in size, so a "
        "difference between the orders is one of the data as well as of the users."
    )
    fits = "Every method was fitted anew on each side: on other simulated users, and on other people."
    guidelines = (
        "Annotators who follow one guideline may agree so much that there is little to personalise; where the share of "
        "the other people predicts seen prompts nearly always, methods differ in how they learn the common preference."
    )
    return (correlation, data, fits, guidelines, *people.notes())


def render_transfer(transfer: Transfer, path: str | Path) -> Path:
    """Write one HTML page that compares the two sides, then shows the people's side in full.

    Args:
        transfer: The two sides.
        path: File to write; for an existing folder, `transfer.html` in it.

    Returns:
        The file written.
    """
    with drawing(text_as_paths=False):
        blocks = [draw(block, "transfer") if isinstance(block, Drawing) else block for block in _blocks(transfer)]
    section = make_section(make_view(transfer.people, "people"))
    return write_page(
        path,
        "transfer.html",
        "transfer.html.j2",
        transfer=transfer,
        runs=[transfer.simulated, transfer.people],
        n_people=(transfer.people.manifest.get("source") or {}).get("n_users", 0),
        findings=transfer_findings(transfer),
        blocks=blocks,
        section=section,
        notes=_notes(transfer, section.view),
        settings=side_by_side([transfer.simulated.protocol, transfer.people.protocol]),
    )
