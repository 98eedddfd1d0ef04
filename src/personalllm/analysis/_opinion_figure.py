"""The figure of the representation scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from personalllm.core.plotting import INK, drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from personalllm.analysis.opinion import Representativeness

__all__ = ["opinion_figure"]

_LOOKS: tuple[dict[str, Any], ...] = (
    {"marker": "D", "markerfacecolor": INK["paper"], "color": INK["muted"]},
    {"marker": "s", "markerfacecolor": INK["paper"], "color": INK["mark"]},
    {"marker": "^", "markerfacecolor": INK["paper"], "color": INK["ink"]},
    {"marker": "v", "markerfacecolor": INK["soft"], "color": INK["ink"]},
)
_MOST_GROUPS = 80


def opinion_figure(result: Representativeness) -> Figure:
    """Draw one row for each group: the population with its interval, and the other answerers but the single RMs."""
    from matplotlib.figure import Figure

    groups = list(dict.fromkeys((score.attribute, score.group) for score in result.scores))[:_MOST_GROUPS]
    names = list(dict.fromkeys(s.answerer for s in result.scores if not s.answerer.startswith("RM ")))
    names.sort(key=lambda name: name != "population")
    place = {group: row for row, group in enumerate(groups)}
    with drawing(text_as_paths=True):
        figure = Figure(figsize=(8.2, 1.5 + 0.28 * len(groups)), layout="constrained")
        axes = figure.subplots()
        for i, name in enumerate(names):
            found = [s for s in result.scores if s.answerer == name and (s.attribute, s.group) in place]
            rows = [place[s.attribute, s.group] for s in found]
            if i == 0:
                spans = [[s.score - s.low for s in found], [s.high - s.score for s in found]]
                axes.errorbar([s.score for s in found], rows, xerr=spans, fmt="o", color=INK["accent"], label=name)
            else:
                axes.plot([s.score for s in found], rows, linestyle="", label=name, **_LOOKS[(i - 1) % len(_LOOKS)])
        labels = [group if attribute == group else f"{attribute}: {group}" for attribute, group in groups]
        axes.set_yticks(range(len(groups)), labels)
        axes.set_ylim(len(groups) - 0.4, -0.6)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=True, color=INK["rule"], linewidth=0.5)
        axes.set_axisbelow(True)
        axes.set_xlabel("representation score (1 = the same distribution as the group)")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=min(4, len(names)), frameon=False)
        figure.draw_without_rendering()
        return figure
