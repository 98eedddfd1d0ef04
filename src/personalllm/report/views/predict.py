"""Show runs of the predict track: learning curves, calibration, strata and other histories."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from personalllm.core.plotting import INK, bare
from personalllm.evaluation.estimates import stratum_sizes
from personalllm.evaluation.measures import reliability
from personalllm.evaluation.metrics import MIN_GROUP
from personalllm.report.curves import each_figure, small_panels
from personalllm.report.dots import Panel, Series, dots_figure
from personalllm.report.numbers import count, listed, metric_value, number, percent
from personalllm.report.tables import Column, Grid
from personalllm.report.views.base import Drawing, Finding, View

if TYPE_CHECKING:
    from matplotlib.figure import Figure


__all__ = ["PredictView"]

_COIN = math.log(2)
_SLACK = 0.01
_CEILING, _LENGTH = "best-linear", "longer"
_DIAGONAL = (0, (6, 2))


class PredictView(View):
    """A run of the predict track."""

    @property
    def title(self) -> str:
        """What is done in the track."""
        return "Predicting choices"

    @property
    def lead(self) -> str:
        """What was measured."""
        head = self.headline
        sums = next((row.sums[head] for row in self.rows if head in row.sums), None)
        n_pairs = stratum_sizes(sums)["all"][1] if sums is not None else 0
        unseen = ", whom no method had met," if head.users == "unseen" else ""
        return (
            f"{count(self.n_clusters())} simulated users of {self.results.data_name}{unseen} made {count(n_pairs)} "
            "choices that were to be predicted. Each method was fitted on the pool and then adapted to up to "
            f"{head.shots} choices of the user in question."
        )

    def strata(self, prefix: str) -> tuple[str, ...]:
        """Return the strata of the headline condition whose names begin with a prefix."""
        every = dict.fromkeys(s for row in self.rows for s, _ in row.estimates.get(self.headline, {}))
        return tuple(stratum for stratum in every if stratum.startswith(prefix))

    @cached_property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """Stratum -> users and test pairs under the headline condition."""
        sums = next((row.sums[self.headline] for row in self.rows if self.headline in row.sums), None)
        return stratum_sizes(sums) if sums is not None else {}

    def more_findings(self) -> Iterator[Finding]:
        """Yield findings on probabilities, length, the ceiling and those who are served worst."""
        yield from self._probabilities()
        yield from self._length()
        yield from self._ceiling()
        yield from self._worst()

    def blocks(self) -> Iterator[Grid | Drawing]:
        """Yield figures and tables in the order of the page."""
        log_loss = self.results.metric("log_loss")
        yield self.leaderboard()
        if self.has_curves:
            for metric in self.leading:
                yield self.curves(metric, metric.id)
            yield self.curves(self.main)
            if self.methods:
                caption = (
                    f"{self.main.heading} on unseen users and unseen prompts, or the hardest condition of the run; the "
                    "band is the 95 % interval, the faint lines are the other methods. Dotted levels are baselines, "
                    "dashed ones oracles."
                )
                yield Drawing("each", "Each method's curve", caption, each_figure(self, self.main))
        if self.has("log_loss", self.methods):
            if self.has_curves:
                yield self.curves(log_loss, "log-loss")
            yield self._reliability()
        yield from self._dots()
        yield from self.differences((self.main, log_loss) if self.has("log_loss", self.methods) else (self.main,))
        yield from self._strata_tables()
        yield from self.curve_tables([metric for metric in (self.main, log_loss) if self.has(metric.id)])

    def _reliability(self) -> Drawing:
        caption = (
            "How often a method is right (upwards) against how sure it is (to the right), in 15 bins; the larger the "
            "circle, the more pairs. On the dashed line the two agree; below it the method is too sure."
        )
        return Drawing("reliability", "Calibration", caption, reliability_figure(self))

    def _dots(self) -> Iterator[Drawing]:
        quarters = self.strata("contested-")
        if quarters:
            series = [
                Series(f"{25 * i}\u2013{25 * (i + 1)} % disagree", [self.at(row, stratum=s) for row in self.drawn])
                for i, s in enumerate(quarters)
            ]
            caption = (
                "From pairs on which under a quarter of the pool population prefers the other response, up to those on "
                "which at least three quarters do. Where most people disagree with this user, following the population "
                "is worse than a coin."
            )
            panel = Panel(self.main, series, {0.5: ("coin", "center")})
            yield Drawing("contested", "By how contested a pair is", caption, dots_figure(self, self.drawn, [panel]))
        rows = [row for row in self.methods if math.isfinite(self.at(row).value)]
        if self.counterfactuals and rows:
            names = {"flipped": "own, labels flipped", "other-user": "another user's"}
            series = [Series("own history", [self.at(row) for row in rows])]
            series += [
                Series(names.get(c.history, c.history), [self.at(row, at=c) for row in rows])
                for c in self.counterfactuals
            ]
            caption = (
                "At the largest number of shots, with the user's own history and with others. A method that does not "
                "lose with another user's history has learned nothing about this one."
            )
            panel = Panel(self.main, series, {0.5: ("coin", "center")})
            yield Drawing("counterfactuals", "Other histories", caption, dots_figure(self, rows, [panel]))

    def _strata_tables(self) -> Iterator[Grid]:
        tables = (
            ("contested-", "By contest", ("the share of the pool population that prefers the other response: quarter 1 "
             "is below 25 %.")),
            ("rm:", "By strongest reward model", "the reward model that the user's largest weight is on."),
        )  # fmt: skip
        for prefix, title, caption in tables:
            strata = self.strata(prefix)
            if not strata:
                continue
            names = [stratum.removeprefix("rm:").replace("contested-", "quarter ") for stratum in strata]
            sizes = [f"{count(self.sizes[stratum][0])} users" for stratum in strata]
            yield self.grid(
                prefix.strip(":-"),
                title,
                f"{self.main.heading} in %, by {caption}",
                [Column(name, size) for name, size in zip(names, sizes, strict=True)],
                lambda row: [metric_value(self.at(row, stratum=s), self.main) for s in strata],  # noqa: B023
            )

    def _probabilities(self) -> Iterator[Finding]:
        calibrated = self.best_first("ece")
        if not calibrated:
            return
        first, last = calibrated[0], calibrated[-1]
        text = f"Smallest calibration error: {self.name(first)} (ECE {self.text(first, 'ece')})"
        text += f", largest {self.name(last)} ({self.text(last, 'ece')})." if last is not first else "."
        wrong = []
        for shots in self.shots(self.headline):
            for row in calibrated:
                loss = self.at(row, "log_loss", replace(self.headline, shots=shots))
                if math.isfinite(loss.low) and loss.low > _COIN + _SLACK:
                    wrong.append(f"{self.name(row)} at {shots} ({number(loss.value)})")
        if not self.results.shortage():
            text += f" Log-loss significantly above a coin's 0.693, so confidently wrong: {listed(wrong)}."
        yield Finding("Are the probabilities honest?", text)

    def _length(self) -> Iterator[Finding]:
        best = self.methods[0]
        if not math.isfinite(self.at(best, "length_controlled").value):
            return
        text = (
            f"{self.name(best)} is right in {self.text(best)}, and in {self.text(best, 'length_controlled')} when "
            "pairs whose longer response was chosen count as much as those whose shorter one was."
        )
        for row in self.baselines:
            if row.label == _LENGTH:
                text += f" Choosing by length alone gives {percent(self.at(row).value)} %."
        yield Finding("Is it length?", text)

    def _ceiling(self) -> Iterator[Finding]:
        ceiling = next((row for row in self.oracles if row.label == _CEILING), None)
        if ceiling is None or not math.isfinite(self.at(ceiling).value):
            return
        best = self.methods[0]
        reached, top = self.at(best).value, self.at(ceiling).value
        text = (
            f"The oracle {self.name(ceiling)}, fitted to each user alone on noise-free choices of all training "
            f"prompts, has {self.text(ceiling)}."
        )
        if top > max(reached, 0.5):
            text += f" {self.name(best)} is {percent((reached - 0.5) / (top - 0.5))} % of the way there from a coin."
        else:
            text += (
                f" {self.name(best)} is not below it: the oracle knows more of this user, but learns nothing from "
                "others and sees the embedding alone, not length or layout."
            )
        yield Finding("How far to go", text)

    def _worst(self) -> Iterator[Finding]:
        ordered = self.best_first("worst_decile")
        if not ordered:
            return
        text = f"For the worst-served tenth of the users, {self.name(ordered[0])} does best: "
        text += f"{self.text(ordered[0], 'worst_decile')}."
        groups = [stratum for stratum in self.strata("rm:") if self.sizes[stratum][0] >= MIN_GROUP]
        if groups:
            best = self.methods[0]
            lowest = min(groups, key=lambda stratum: self.at(best, stratum=stratum).value)
            value = metric_value(self.at(best, stratum=lowest), self.main).replace("\n", " ")
            text += (
                f" Of the groups of at least {MIN_GROUP} users with the same strongest reward model, {self.name(best)} "
                f"serves that of {lowest.removeprefix('rm:')} worst: {value} %."
            )
        yield Finding("Who is left behind?", text)

    def notes(self) -> tuple[str, ...]:
        """Return what to keep in mind."""
        return (
            *super().notes(),
            (
                "Methods that only rank give no probabilities; their log-loss, Brier score and calibration error are "
                "blank. A tie of two responses counts as half right."
            ),
            *self._about_users(),
        )

    def _about_users(self) -> tuple[str, ...]:
        text = (
            "A user of a simulated population is a weight vector over reward models; that a method predicts such users "
            "does not show that it predicts people."
        )
        return (text,)


def reliability_figure(view: PredictView) -> Figure:
    """Draw, for each method that gives probabilities, how often it is right against how sure it is."""
    figure, axes = small_panels(view, 1.75)
    for axis, row in zip(axes, view.methods, strict=False):
        bare(axis, grid="both")
        axis.set_xlim(0.46, 1.05)
        axis.set_ylim(0.25, 1.1)
        axis.plot([0.5, 1], [0.5, 1], color=INK["muted"], linewidth=0.9, linestyle=_DIAGONAL, zorder=1)
        bins = reliability(row.sums[view.headline].columns) if view.headline in row.sums and row.log_odds else []
        full = np.array([(n, confidence, right) for _, _, n, confidence, right in bins if n], dtype=np.float64)
        if not len(full):
            axis.text(0.75, 0.6, "no probabilities", ha="center", va="center", fontsize=8.5, color=INK["muted"])
            continue
        sizes, confidence, right = full.T
        axis.plot(confidence, right, color=INK["accent"], linewidth=0.8, zorder=2)
        style = {"facecolor": INK["soft"], "edgecolor": INK["accent"], "linewidth": 1, "zorder": 3}
        axis.scatter(confidence, right, s=6 + 150 * sizes / sizes.sum(), **style)  # type: ignore[arg-type]
    axes[0].set_ylabel("Share right")
    axes[-1].set_xlabel("How sure")
    return figure
