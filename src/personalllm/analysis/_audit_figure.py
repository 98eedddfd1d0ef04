"""The figure of the audit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from personalllm.core.plotting import INK, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from personalllm.analysis.audit import RewardAudit

__all__ = ["audit_figure"]


def audit_figure(audit: RewardAudit) -> Figure:
    """Draw how often two reward models have the same top response, and what each follows."""
    from matplotlib.figure import Figure

    with drawing(text_as_paths=True):
        n = len(audit.reward_models)
        figure = Figure(figsize=(8.2, 1.6 + 0.34 * n), layout="constrained")
        matrix, bars = figure.subplots(1, 2, width_ratios=(1.15, 1))
        _matrix(matrix, audit)
        _bars(bars, audit)
        figure.draw_without_rendering()
        return figure


def _matrix(axes: Axes, audit: RewardAudit) -> None:
    n = len(audit.reward_models)
    shown = np.where(np.eye(n, dtype=bool), np.nan, audit.agreement)
    axes.imshow(shown, cmap="Greys", vmin=0, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(shown):
        if i != j:
            colour = INK["paper"] if value > 0.5 else INK["ink"]
            axes.text(j, i, f"{100 * value:.0f}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(n), [str(i + 1) for i in range(n)])
    axes.set_yticks(range(n), [f"{name}  {i + 1}" for i, name in enumerate(audit.reward_models)])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title("Same top response, % of the prompts", fontsize=9.5, loc="left")
    axes.set_xlabel(f"by chance: {100 * audit.chance:.1f} %")


def _bars(axes: Axes, audit: RewardAudit) -> None:
    rows = np.arange(len(audit.reward_models))
    axes.barh(rows - 0.19, audit.consensus, 0.36, color=INK["accent"], label="the mean of the others")
    axes.barh(rows + 0.19, audit.length, 0.36, color=INK["paper"], edgecolor=INK["mark"], hatch="////", label="length")
    axes.set_yticks(rows, [str(i + 1) for i in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.axvline(0, color=INK["ink"], linewidth=0.8)
    known = np.concatenate([audit.consensus, audit.length])
    axes.set_xlim(min(-0.25, float(known[np.isfinite(known)].min(initial=0.0)) - 0.05), 1)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=True, axis="x", color=INK["rule"], linewidth=0.5)
    axes.set_axisbelow(True)
    axes.set_title("Rank correlation with ...", fontsize=9.5, loc="left")
    axes.figure.legend(*axes.get_legend_handles_labels(), loc="outside lower right", ncols=2, frameon=False, fontsize=9)
