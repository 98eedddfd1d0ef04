"""Show runs of the rank track: what each user got, and who is better off than without personalisation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from personalllm.core.storage import shipped_tables
from personalllm.evaluation.means import user_mean
from personalllm.report.dots import Panel, Series, boxes_figure, dots_figure
from personalllm.report.numbers import ABSENT, count, metric_text, number, percent
from personalllm.report.tables import Column, Grid
from personalllm.report.views.base import Drawing, Finding, View

if TYPE_CHECKING:
    from personalllm.core.types import F64
    from personalllm.evaluation.results import MethodResult

__all__ = ["POPULATION_BEST", "RankView"]

POPULATION_BEST = "population-best"
"""Label of the baseline that gives everybody the response with the highest mean utility."""

_NOT_DRAWN = "worst"
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_SHARE_LINES: dict[float, Any] = {0.0: ("text-only", "right"), 1.0: ("known-basis", "left")}
_GAIN_LINES: dict[float, Any] = {0.0: ("best baseline", "right"), 1.0: ("oracle", "left")}


class RankView(View):
    """A run of a track that gives each user a response and measures its utility."""

    task = "chose among the stored responses to new prompts"

    @property
    def title(self) -> str:
        """What is done in the track."""
        return "Choosing among responses"

    @property
    def lead(self) -> str:
        """What was measured."""
        names = (self.results.manifest.get("source") or {}).get("reward_models")
        models = f"{len(names)} reward models" if names else "reward models"
        return (
            f"{count(self.n_clusters())} simulated users, each with weights of their own over the {models} of the "
            f"benchmark {self.results.data_name}, chose between pairs of responses to earlier prompts. Knowing only "
            f"such choices, each method {self.task}, and was judged by the utility of the result for that very user."
        )

    @cached_property
    def drawn(self) -> tuple[MethodResult, ...]:
        """All rows but the worst stored response, which would squeeze the others together."""
        return tuple(row for row in self.rows if row.label != _NOT_DRAWN)

    def utilities(self, row: MethodResult) -> F64:
        """Return float64 (n_users,): each user's mean utility."""
        return user_mean(row.sums[self.headline], "utility")

    def benefits(self, row: MethodResult) -> F64 | None:
        """Return float64 (n_users,): each user's utility above that of the best choice that ignores the user.

        None for that choice itself.
        """
        sums = row.sums[self.headline]
        if row.label == POPULATION_BEST or "population_best_utility" not in sums.columns:
            return None
        return self.utilities(row) - user_mean(sums, "population_best_utility")

    def more_findings(self) -> Iterator[Finding]:
        """Yield whether the best method gains from knowing the user."""
        best = self.methods[0]
        gain = self.at(best, "gain")
        if math.isfinite(gain.value):
            words = (
                "better than" if gain.low > 0 else "worse than" if gain.high < 0 else "not significantly different from"
            )
            text = f"{self.name(best)} has a gain of {metric_text(gain, self.results.metric('gain'))}"
            if math.isfinite(gain.low):
                text += f": it is {words} the best choice that ignores the user."
            elif self.results.shortage():
                text += "."
            else:
                text += ", without an interval: the room above the best choice that ignores the user may be 0."
            yield Finding("Gain", text)

    def blocks(self) -> Iterator[Grid | Drawing]:
        """Yield figures and tables in the order of the page."""
        if self.rows:
            yield self.intervals()
        yield self.leaderboard()
        yield from self.differences(self.results.metrics)
        if self.rows:
            yield self._boxes()
            yield self._quantiles()

    def intervals(self) -> Drawing:
        """Return the figure of the personalisation share, mean utility and gain."""
        panels = [
            Panel(metric, [Series("", [self.at(row, metric.id) for row in self.drawn])], _SHARE_LINES, clipped=True)
            for metric in self.leading
        ]
        panels.append(Panel(self.main, [Series("", [self.at(row) for row in self.drawn])]))
        if self.has("gain", self.drawn):
            gain = [self.at(row, "gain") for row in self.drawn]
            panels.append(Panel(self.results.metric("gain"), [Series("", gain)], _GAIN_LINES, clipped=True))
        left_out = " The worst stored response is in the table only." if len(self.drawn) < len(self.rows) else ""
        values = "; ".join(f"{self.name(row)} {number(self.at(row).value)}" for row in self.rows)
        return Drawing(
            "leaderboard",
            "Mean utility and gain",
            "Filled circles are methods, hollow diamonds baselines and oracles, which see the scores. "
            f"{self.results.about_intervals()} An arrowhead marks one that goes on beyond the panel.{left_out}",
            dots_figure(self, self.drawn, panels),
            f"Mean utility: {values}. The leaderboard has all the numbers.",
        )

    def _boxes(self) -> Drawing:
        panels: dict[str, list[F64 | None]] = {
            "Utility, one value per user": [self.utilities(row) for row in self.drawn],
            "Above the best choice that ignores the user": [self.benefits(row) for row in self.drawn],
        }
        users = "Each dot is a user." if self.n_clusters() <= 60 else "The hollow mark is the mean."
        return Drawing(
            "users",
            "User by user",
            "A mean can hide that a method serves some users well and others badly. Left: the utility that each user "
            "gets. Right: how much more or less that is than with the best choice that ignores who they are. Boxes "
            f"span the middle half of the users, the bar is the median, lines run from the 5 to the 95 % point. "
            f"{users}",
            boxes_figure(self, self.drawn, panels, "best baseline"),
            "The table below the figure has the numbers.",
        )

    def _quantiles(self) -> Grid:
        headings = [*(f"{100 * q:.0f} %" if q != 0.5 else "Median" for q in _QUANTILES), "Better off", "Worse off"]

        def cells(row: MethodResult) -> list[str]:
            benefits = self.benefits(row)
            shares = [ABSENT] * 2
            if benefits is not None:
                shares = [percent(float(np.mean(sign * benefits > 0))) for sign in (1, -1)]
            return [*(number(float(value)) for value in np.quantile(self.utilities(row), _QUANTILES)), *shares]

        return self.grid(
            "quantiles",
            "Utility over users",
            "Utility over users, and the share of users better or worse off than with the best choice that ignores "
            "who they are.",
            [Column(heading, "%" if "off" in heading else "") for heading in headings],
            cells,
        )

    def definitions(self) -> dict[str, str]:
        """Return terms and what they mean."""
        reference = str(self.results.protocol.get("reference_response_model"))
        terms = shipped_tables("personalllm.report.views", "rank.toml")
        return {term: text.replace("{reference}", reference) for term, text in terms.items()}
