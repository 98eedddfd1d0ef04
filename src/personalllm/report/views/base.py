"""Show a run of any track: what follows from its metrics and conditions alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from personalllm.evaluation.contract import Condition, Estimate
from personalllm.report.curves import curves_figure
from personalllm.report.dots import Panel, Series, dots_figure
from personalllm.report.leaderboard import UNDEFINED, differences, leaderboard, leading_metrics, ranked
from personalllm.report.numbers import count, listed, metric_text, metric_value, number
from personalllm.report.tables import Column, Drawing, Finding, Grid, Row

if TYPE_CHECKING:
    from personalllm.evaluation.contract import Metric
    from personalllm.evaluation.differences import Difference
    from personalllm.evaluation.results import MethodResult, Results
    from personalllm.report.examples import Pair

__all__ = ["HISTORIES", "Drawing", "Finding", "View"]

HISTORIES = {"flipped": "the labels of the history flipped", "other-user": "another user's history"}
"""Kinds of histories that are not the user's own, in words."""

_UNITS = {"users": "user", "prompts": "prompt", "users and prompts": "user and prompt"}
_FIXED = {"users": " and the prompts", "prompts": " and the users"}


@dataclass(frozen=True, eq=False)
class View:
    """What the report says of one run; subclasses add what only their track has.

    Attributes:
        results: Where the numbers come from.
        key: Anchor in the page, unique among the views of a report.
        versus: Label that differences are taken from; None: the best method.
        label: What to call the run among the others of a page; empty: its track.
    """

    results: Results
    key: str
    versus: str | None = None
    label: str = ""

    @property
    def title(self) -> str:
        """What is done in the track."""
        return f"{self.results.track.capitalize()} track"

    @property
    def heading(self) -> str:
        """What was done, on which data, and with whose histories if not the users' own."""
        history = "" if self.history == "none" else f", with {HISTORIES.get(self.history, self.history)}"
        return f"{self.title}: {self.results.data_name}{history}"

    @property
    def history(self) -> str:
        """Whose histories the whole run has: `none` for the users' own, else the kind of counterfactual."""
        return str(self.results.protocol.get("history", {}).get("counterfactual", "none"))

    @property
    def lead(self) -> str:
        """What was measured, in a sentence or two."""
        return (
            f"{count(len(self.methods))} methods were evaluated on {count(self.n_clusters())} {self.unit} of "
            f"{self.results.data_name} in the {self.results.track} track."
        )

    @property
    def main(self) -> Metric:
        """The main metric of the run."""
        return self.results.metric(self.results.main_metric)

    @property
    def over(self) -> str:
        """What intervals and tests take to be drawn at random, in words."""
        return self.results.over

    @property
    def unit(self) -> str:
        """What answers are added up for: `users` or `prompts`."""
        sums = next((row.sums[self.headline] for row in self.rows if self.headline in row.sums), None)
        return "users" if sums is None else sums.axis

    @cached_property
    def headline(self) -> Condition:
        """The condition that the tables and the text are about."""
        return self.results.headline

    @cached_property
    def rows(self) -> tuple[MethodResult, ...]:
        """Methods, then baselines, then oracles, the best of each kind first."""
        return ranked(self.results)

    @property
    def methods(self) -> tuple[MethodResult, ...]:
        """Methods, the best first."""
        return tuple(row for row in self.rows if row.kind == "method")

    @property
    def baselines(self) -> tuple[MethodResult, ...]:
        """Baselines, which ignore the user, the best first."""
        return tuple(row for row in self.rows if row.kind == "baseline")

    @property
    def oracles(self) -> tuple[MethodResult, ...]:
        """Oracles, which see the scores, the best first."""
        return tuple(row for row in self.rows if row.kind == "oracle")

    @property
    def drawn(self) -> tuple[MethodResult, ...]:
        """The rows that figures show."""
        return self.rows

    @cached_property
    def _titles(self) -> Counter[str]:
        return Counter(row.title or row.label for row in self.rows)

    def name(self, row: MethodResult | str) -> str:
        """Return the title of a row, with its parameters or its label where several have the same title."""
        row = self.results[row] if isinstance(row, str) else row
        title = row.title or row.label
        if self._titles[title] < 2:
            return title
        _, bracket, parameters = row.label.partition("[")
        return f"{title} [{parameters}" if bracket else f"{title} ({row.label})"

    def at(
        self, row: MethodResult, metric: str | None = None, at: Condition | None = None, stratum: str = "all"
    ) -> Estimate:
        """Return a number, `UNDEFINED` if the method does not have it; by default the main metric at the headline."""
        estimates = row.estimates.get(at or self.headline, {})
        return estimates.get((stratum, metric or self.main.id), UNDEFINED)

    def has(self, metric: str, rows: Sequence[MethodResult] | None = None) -> bool:
        """Whether some row has a number under the headline condition."""
        return any(math.isfinite(self.at(row, metric).value) for row in (self.rows if rows is None else rows))

    def best_first(self, metric: str) -> list[MethodResult]:
        """Return the methods that have a metric, the best first."""
        sign = -1 if self.results.metric(metric).higher_is_better else 1
        known = [row for row in self.methods if math.isfinite(self.at(row, metric).value)]
        return sorted(known, key=lambda row: sign * self.at(row, metric).value)

    def text(self, row: MethodResult, metric: str | None = None) -> str:
        """Return a number with its interval as it stands in a sentence."""
        return metric_text(self.at(row, metric), self.results.metric(metric or self.main.id))

    def n_clusters(self, at: Condition | None = None) -> int:
        """Return how many users (or prompts) a condition has."""
        sums = next((row.sums[at or self.headline] for row in self.rows if (at or self.headline) in row.sums), None)
        if sums is None:
            return 0
        return int((sums.columns["n"] > 0).sum()) if "n" in sums.columns else sums.n_clusters

    @cached_property
    def panels(self) -> tuple[Condition, ...]:
        """One condition with true histories for each kind of users and prompts, at its largest number of shots."""
        true = sorted(c for c in self.results.conditions if c.history == "true")
        last = {(c.users, c.prompts): c for c in true}
        return tuple(c for c in dict.fromkeys(last[c.users, c.prompts] for c in self.results.conditions if c in true))

    def shots(self, at: Condition) -> tuple[int, ...]:
        """Return the numbers of shots that the curve through a condition has."""
        return tuple(sorted({c.shots for c in self.results.conditions if replace(c, shots=at.shots) == at}))

    @property
    def has_curves(self) -> bool:
        """Whether there are several numbers of shots."""
        return len(self.shots(self.headline)) > 1

    @cached_property
    def counterfactuals(self) -> tuple[Condition, ...]:
        """The conditions like the headline whose histories are not the user's own."""
        return tuple(
            c for c in self.results.conditions if c != self.headline and replace(c, history="true") == self.headline
        )

    def findings(self) -> tuple[Finding, ...]:
        """Return what can be concluded from the intervals and the corrected tests alone."""
        if not self.methods or not math.isfinite(self.at(self.methods[0]).value):
            return (Finding("Which method", "No method was evaluated."),)
        others = (*self._baselines(), *self._shots(), *self._histories(), *self.more_findings())
        return (*self._leading(), self._best(), *others)

    def more_findings(self) -> Iterator[Finding]:
        """Yield what only this track can say."""
        yield from ()

    def blocks(self) -> Iterator[Grid | Drawing]:
        """Yield figures and tables in the order of the page; call within `core.plotting.drawing`."""
        yield self.leaderboard()
        yield self.curves(self.main) if self.has_curves else self.intervals()
        yield from self.differences((self.main,))
        yield from self.curve_tables((self.main,))

    def notes(self) -> tuple[str, ...]:
        """Return what to keep in mind."""
        text = (
            f"{self.results.about_intervals()} Differences are paired. Held fixed "
            f"are the pool, the seed of a method's own fit{_FIXED.get(self.over, '')}."
        )
        return (text,)

    def definitions(self) -> dict[str, str]:
        """Return terms and what they mean."""
        return {}

    def pair(self) -> Pair | None:
        """Return two users as examples, with what each method wrote for them."""
        return None

    def remarks(self) -> tuple[str, ...]:
        """Return what a terminal shows below the leaderboard."""
        return ()

    def leaderboard(self) -> Grid:
        """Return the leaderboard, all metrics under the headline condition."""
        return replace(leaderboard(self.results, versus=self.versus), title="Leaderboard")

    def intervals(self) -> Drawing:
        """Return the figure of the main metric with intervals."""
        values = [self.at(row) for row in self.drawn]
        figure = dots_figure(self, self.drawn, [Panel(self.main, [Series("", values)])])
        caption = f"Filled circles are methods, hollow diamonds baselines and oracles. {self.results.about_intervals()}"
        return Drawing("leaderboard", self.main.heading, caption, figure)

    def curves(self, metric: Metric, key: str = "curves") -> Drawing:
        """Return the figure of a metric by number of shots."""
        caption = (
            "The best six methods are drawn in full, the others faint. Bars are 95 % intervals; points of several "
            "methods stand side by side so that none hides another. Dotted levels are baselines, dashed ones oracles; "
            "levels far outside are left out. The tables have the numbers."
        )
        return Drawing(key, f"{metric.heading} by number of shots", caption, curves_figure(self, metric))

    def differences(self, metrics: Sequence[Metric]) -> Iterator[Grid]:
        """Yield the tables of differences from `versus` (or the best method) and from the best baseline."""
        best = self.versus or (self.methods[0].label if self.methods else None)
        rivals = [best, *(row.label for row in self.baselines[:1])]
        for index, label in enumerate(dict.fromkeys(rival for rival in rivals if rival)):
            grid = differences(self.results, label, metrics, key=f"differences-{index + 1}")
            if grid.rows:
                yield grid

    def curve_tables(self, metrics: Sequence[Metric]) -> Iterator[Grid]:
        """Yield, folded, a metric by number of shots for each kind of users and prompts."""
        for metric in metrics if self.has_curves else ():
            for panel in self.panels:
                conditions = [replace(panel, shots=shots) for shots in self.shots(panel)]
                title = f"{metric.heading}: {panel.users} users, {panel.prompts} prompts"
                caption = f"{metric.heading} by number of shots{', %' * (metric.unit == 'share')}."
                key = f"{metric.id}-{panel.users}-{panel.prompts}".replace("_", "-")
                columns = [Column(str(condition.shots)) for condition in conditions]
                grid = self.grid(
                    *(key, title, caption, columns),
                    lambda row: [metric_value(self.at(row, metric.id, at), metric) for at in conditions],  # noqa: B023
                )
                yield replace(grid, folded=True)

    def grid(
        self,
        key: str,
        title: str,
        caption: str,
        columns: Sequence[Column],
        cells: Callable[[MethodResult], Sequence[str]],
        rows: Sequence[MethodResult] | None = None,
    ) -> Grid:
        """Return a table with a row for each method, baseline and oracle, or for some of them."""
        of_rows = [Row(self.name(row), tuple(cells(row)), row.label, row.kind) for row in rows or self.rows]
        return Grid(key, title, caption, tuple(columns), tuple(of_rows))

    def _compared(self, versus: str) -> tuple[list[str], list[str], list[str]]:
        """Return the names of the methods that tests find better than a row, not different, and worse."""
        among = list(dict.fromkeys([versus, *(row.label for row in self.methods)]))
        pairs: tuple[Difference, ...] = self.results.comparisons(versus=versus, among=among)
        better = [self.name(pair.b) for pair in pairs if pair.better == pair.b]
        equal = [self.name(pair.b) for pair in pairs if pair.better is None and math.isfinite(pair.p_holm)]
        return better, equal, [self.name(pair.b) for pair in pairs if pair.better == pair.a]

    @property
    def leading(self) -> tuple[Metric, ...]:
        """The metrics that stand before the main one and are known of some method."""
        return tuple(metric for metric in leading_metrics(self.results) if self.has(metric.id, self.methods))

    def _leading(self) -> Iterator[Finding]:
        """Yield the headline of the best method, at each number of shots."""
        for metric in self.leading:
            best = self.best_first(metric.id)[0]
            text = f"{self.name(best)} has {metric.heading}({self.headline.shots}) = {self.text(best, metric.id)}"
            curve = self.results.curve(best.label, metric.id, self.headline)
            known = [k for k in curve if k != self.headline.shots and math.isfinite(curve[k].value)]
            if known:
                shown = [f"{number(curve[k].value, 2)} at {k}" for k in known]
                text += f"; {listed(shown)} preferences"
            yield Finding("How much of what the preferences tell", f"{text} ({metric.note}).")

    def _best(self) -> Finding:
        best = self.methods[0]
        first = "The only method" if len(self.methods) == 1 else f"The best of {len(self.methods)} methods"
        where = f" on {self.headline}" if len(self.results.conditions) > 1 else ""
        text = f"{first}{where} is {self.name(best)}: {self.main.heading.lower()} {self.text(best)}."
        _, equal, worse = self._compared(best.label)
        if worse:
            text += f" It is significantly better than {listed(worse)}."
        if equal:
            text += f" It is not significantly different from {listed(equal)}: being first among these may be chance."
        if worse or equal:
            text += f" (Paired by {_UNITS[self.over]}, Holm-corrected at 5 %.)"
        elif self.results.shortage():
            text += f" {self.results.shortage()}"
        return Finding("Which method", text)

    def _baselines(self) -> Iterator[Finding]:
        if self.baselines:
            base = self.baselines[0]
            better, equal, worse = self._compared(base.label)
            text = f"The best baseline is {self.name(base)}: {self.main.heading.lower()} {self.text(base)}. "
            if better or equal or worse:
                text += f"Significantly better than it: {listed(better)}."
            text += f" Not significantly different: {listed(equal)}." if equal else ""
            text += f" Significantly worse: {listed(worse)}." if worse else ""
            yield Finding("Against ignoring the user", text.strip())

    def changes(self, at: Condition, other: Condition) -> list[tuple[MethodResult, Estimate]]:
        """Return how the main metric changes from `other` to `at`, where there is an interval; best first."""
        sign = -1 if self.main.higher_is_better else 1
        changes = [
            (row, self.results.change(row.label, self.main.id, at, other))
            for row in self.methods
            if at in row.estimates and other in row.estimates
        ]
        known = [(row, change) for row, change in changes if math.isfinite(change.low)]
        return sorted(known, key=lambda change: sign * change[1].value)

    def improves(self, change: Estimate) -> bool | None:
        """Return whether a change is for the better; None if its interval covers 0 or is not defined."""
        if change.low > 0 or change.high < 0:
            return (change.value > 0) == self.main.higher_is_better
        return None

    def _names(self, changes: Sequence[tuple[MethodResult, Estimate]]) -> str:
        return listed([self.name(row) for row, _ in changes])

    def _shots(self) -> Iterator[Finding]:
        shots = self.shots(self.headline)
        changes = self.changes(self.headline, replace(self.headline, shots=shots[0])) if len(shots) > 1 else []
        if changes:
            better, equal, worse = (
                [(row, change) for row, change in changes if self.improves(change) is verdict]
                for verdict in (True, None, False)
            )
            text = f"From {shots[0]} to {shots[-1]} shots significantly better: {self._names(better)}"
            if better:
                row, change = better[0]
                text += f" (most of all {self.name(row)}, {metric_text(change, self.main, signed=True)})"
            text += f". No significant change: {self._names(equal)}."
            text += f" Worse: {self._names(worse)}." if worse else ""
            yield Finding("What more shots are worth", f"{text} (95 % intervals of the paired change, uncorrected.)")

    def _histories(self) -> Iterator[Finding]:
        sentences = []
        for condition in self.counterfactuals:
            changes = self.changes(condition, self.headline)[::-1]
            if not changes:
                continue
            losers = [(row, change) for row, change in changes if self.improves(change) is False]
            others = [(row, change) for row, change in changes if self.improves(change) is not False]
            history = HISTORIES.get(condition.history, condition.history)
            text = f"With {history}, {len(losers)} of {len(changes)} methods become significantly worse"
            if losers:
                row, change = losers[0]
                text += f", most of all {self.name(row)} ({metric_text(change, self.main, signed=True)})"
            text += f"; not shown for {self._names(others)}." if others and losers else "."
            sentences.append(text)
        if sentences:
            yield Finding("Is it the user's own feedback?", " ".join(sentences))
