"""Draw the comparison of simulated users with people: two orders side by side, and how far they agree."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from personalllm.core.plotting import INK, bare, new_figure, short, whisker
from personalllm.report.numbers import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from personalllm.evaluation.transfer import Transfer

__all__ = ["agreement_figure", "orders_figure"]


def orders_figure(transfer: Transfer) -> Figure:
    """Draw each method's rank among simulated users at the left and among people at the right, joined by a line.

    Lines of pairs whose order is significant on both sides and reversed are dashed.
    """
    rows = [row for row in transfer.standings() if row.kind == "method"]
    turned = {label for pair in transfer.orders().reversals for label in pair}
    figure = new_figure(0.9 + 0.3 * len(rows))
    axis = figure.subplots()
    bare(axis, grid="x")
    axis.grid(visible=False)
    axis.spines[["left", "bottom"]].set_visible(False)
    orders = {
        key: sorted(rows, key=lambda row: (getattr(row, f"rank_{key}"), row.rank_simulated, row.label))
        for key in ("simulated", "people")
    }
    for row in rows:
        ends = [-float(order.index(row)) for order in orders.values()]
        reversed_ = row.label in turned
        colour, face = (INK["mark"], INK["paper"]) if reversed_ else (INK["accent"], INK["accent"])
        axis.plot((0, 1), ends, color=colour, linewidth=1.5, linestyle="--" if reversed_ else "-", zorder=2)
        marks: dict[str, Any] = {"markerfacecolor": face, "markeredgecolor": colour, "markersize": 6}
        axis.plot((0, 1), ends, linestyle="none", marker="D" if reversed_ else "o", zorder=3, **marks)
        for side, key in enumerate(orders):
            name, value = short(row.title, 34), percent(getattr(row, key).value)
            axis.annotate(
                f"{value}   {name}" if side else f"{name}   {value}",
                (side, ends[side]),
                xytext=(9 if side else -9, 0),
                textcoords="offset points",
                ha="left" if side else "right",
                va="center",
                fontsize=8.5,
                annotation_clip=False,
            )
    axis.set_xlim(-1.25, 2.25)
    axis.set_ylim(-len(rows) + 0.3, 0.7)
    axis.set_yticks([])
    axis.set_xticks(
        (0, 1), (f"simulated users\n{transfer.simulated.data_name}", f"people\n{transfer.people.data_name}")
    )
    axis.xaxis.tick_top()
    axis.tick_params(axis="x", length=0, labelsize=9.5, labelcolor=INK["ink"])
    return figure


def agreement_figure(transfer: Transfer) -> Figure:
    """Draw the rank correlation of the two orders by number of shots, with intervals."""
    figure = new_figure(2.6)
    axis = figure.subplots()
    bare(axis, grid="y")
    values = [transfer.agreement("accuracy", k).spearman for k in transfer.shots]
    points = [(x, value) for x, value in enumerate(values) if math.isfinite(value.value)]
    axis.plot(
        [x for x, _ in points],
        [value.value for _, value in points],
        color=INK["accent"],
        marker="o",
        linewidth=1.4,
        zorder=4,
    )
    for x, value in points:
        whisker(axis, x, value.low, value.high, upright=True, colour=INK["accent"])
    axis.axhline(0, color=INK["mark"], linewidth=1.0, linestyle=(0, (4, 3)), zorder=0.8)
    axis.set_xticks(range(len(values)), [str(k) for k in transfer.shots])
    axis.set_xlim(-0.4, max(len(values) - 0.6, 0.4))
    axis.set_ylim(-1.05, 1.05)
    axis.set_xlabel("Shots: preferences known of the user")
    axis.set_ylabel("Rank correlation")
    return figure
