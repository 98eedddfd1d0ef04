"""The figure of the regressions: coefficients over users as boxes, a panel for each set of features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from personalllm.core.plotting import INK, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from personalllm.analysis.regression import Regressions, UserRegressions

__all__ = ["regression_figure"]

_STYLES: tuple[dict[str, Any], ...] = (
    {"facecolor": INK["soft"], "edgecolor": INK["accent"]},
    {"facecolor": INK["paper"], "edgecolor": INK["mark"], "hatch": "////"},
    {"facecolor": INK["rule"], "edgecolor": INK["ink"], "hatch": "...."},
)
_CONTRASTS = {"best-worst": "best against worst", "best-fourth": "best against fourth"}
_MOST_LETTERS = 34


def regression_figure(result: Regressions) -> Figure:
    """Draw boxes (quartiles, whiskers at 5 and 95 % of the users, line: median, dot: mean) of the coefficients."""
    from matplotlib.figure import Figure

    sets: dict[str, list[UserRegressions]] = {}
    for name, model in result.models:
        sets.setdefault(name, []).append(model)
    heights = [0.7 + 0.21 * len(models) * len(models[0].features) for models in sets.values()]
    with drawing(text_as_paths=True):
        figure = Figure(figsize=(8.0, 0.75 + sum(heights)), layout="constrained")
        panels = np.atleast_1d(figure.subplots(len(sets), 1, height_ratios=heights))
        for axes, (name, models) in zip(panels, sets.items(), strict=True):
            _panel(axes, name, models)
        panels[-1].set_xlabel(
            "change of the log odds of being the best response, for one standard deviation of the feature\n"
            "box: quartiles over the users; whiskers: 5 and 95 %; line: median; dot: mean",
            fontsize=9,
        )
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=1, frameon=False, fontsize=9)
        figure.draw_without_rendering()
        return figure


def _panel(axes: Axes, name: str, models: list[UserRegressions]) -> None:
    height = 0.8 / len(models)
    for i, model in enumerate(models):
        style = _STYLES[i % len(_STYLES)]
        places = np.arange(len(model.features)) + (i - (len(models) - 1) / 2) * height
        _boxes(axes, model, places, 0.82 * height, style)
    features = models[0].features
    axes.set_yticks(range(len(features)), [_short(feature) for feature in features])
    axes.set_ylim(len(features) - 0.45, -0.55)
    axes.axvline(0, color=INK["ink"], linewidth=0.8)
    axes.set_title(_short(name), loc="left", fontsize=10.5)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(visible=True, axis="x", color=INK["rule"], linewidth=0.5)
    axes.set_axisbelow(True)


def _boxes(axes: Axes, model: UserRegressions, places: Any, height: float, style: dict[str, Any]) -> None:
    label = f"{_CONTRASTS[model.contrast]}, {model.n_fitted:,} of {model.n_users:,} users"
    for place, row in zip(places, model.summary(), strict=True):
        if not row["n_users"]:
            axes.text(0, place, "  constant, or no finite solution", va="center", fontsize=8, color=INK["muted"])
            continue
        axes.hlines(place, row["q05"], row["q95"], color=style["edgecolor"], linewidth=1.2)
        axes.barh(place, row["q75"] - row["q25"], height, left=row["q25"], linewidth=1.0, label=label, **style)
        axes.vlines(row["q50"], place - height / 2, place + height / 2, color=INK["ink"], linewidth=2)
        axes.plot(row["mean"], place, "o", markersize=3.5, color=INK["ink"], markerfacecolor=INK["paper"])
        label = "_nolegend_"


def _short(name: str) -> str:
    """Return a name that leaves room for the boxes."""
    return name if len(name) <= _MOST_LETTERS else f"{name[: _MOST_LETTERS - 1]}…"
