"""Show runs of the online track: regret, how many questions are needed, and what was asked of two users."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from personalllm.core.storage import shipped_tables
from personalllm.evaluation.tracks.asking import ASKED
from personalllm.report.numbers import ABSENT, count, listed, number, percent
from personalllm.report.tables import Column, Grid, Row
from personalllm.report.views.base import Drawing, Finding, View

if TYPE_CHECKING:
    from personalllm.evaluation.contract import Estimate
    from personalllm.evaluation.results import MethodResult

__all__ = ["OnlineView", "first_reached"]

_SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)
_STANDARD, _ZERO = "known-basis", "text-only"
_SHOWN = 12
_WIDTH = 90
_ANSWERS = {1: "the first", -1: "the second", 0: "neither"}


def first_reached(curve: Mapping[int, float], level: float, *, higher_is_better: bool = True) -> float:
    """Return after how many rounds a curve reaches a level, a straight line between measurements; NaN if it does not.

    >>> first_reached({0: 0.0, 10: 0.5, 20: 1.0}, 0.75)
    15.0
    """
    sign = 1 if higher_is_better else -1
    points = [(t, sign * value) for t, value in sorted(curve.items()) if math.isfinite(value)]
    for (before, low), (t, high) in zip([(0, -math.inf), *points], points, strict=False):
        if high >= sign * level:
            return (
                float(t)
                if low == -math.inf or high == low
                else before + (t - before) * (sign * level - low) / (high - low)
            )
    return math.nan


class OnlineView(View):
    """A run of the online track."""

    @property
    def title(self) -> str:
        """Heading of the run."""
        return f"Asking users of {self.results.data_name}"

    @property
    def options(self) -> dict[str, Any]:
        """The settings of the track."""
        options: dict[str, Any] = self.results.protocol.get("online") or {}
        return options

    @property
    def lead(self) -> str:
        """What was measured."""
        who, rounds = "users", self.options.get("rounds", max(self.shots(self.headline)))
        how = "a prompt came and two of its responses were chosen"
        if self.options.get("mode") == "survey":
            how = f"one of {self.options['prompts']} prompts and two of its responses were chosen"
        if self.results.protocol.get("folds"):
            who, how = "people", "a group of responses that they had rated came and two of these were chosen"
        return (
            f"{count(self.n_clusters())} {who} of {self.results.data_name} were asked for {rounds} rounds: in each "
            f"{how} by a policy, the user said which is better, and a method learned from it. It was judged by what it "
            "recommends on other prompts."
        )

    def more_findings(self) -> Iterator[Finding]:
        """Yield how many questions are needed."""
        needed = {self.name(row): self.needed(row, 0.5) for row in self.methods}
        known = {name: t for name, t in needed.items() if math.isfinite(t)}
        if known:
            best = min(known, key=lambda name: known[name])
            text = f"{best} needs {number(known[best], 0)} questions for half of what {_STANDARD} knows at the end"
            others = [name for name in needed if name not in known]
            text += f"; not reached by {listed(others)}." if others else "."
            yield Finding("Questions needed", text)

    def utilities(self, label: str) -> dict[int, float]:
        """Return a row's mean utility by rounds."""
        return {t: estimate.value for t, estimate in self._curve(label, "utility").items()}

    def _curve(self, label: str, metric: str) -> Mapping[int, Estimate]:
        curve: Mapping[int, Estimate] = self.results.curve(label, metric, self.headline)
        return curve

    @property
    def _ends(self) -> tuple[float, float] | None:
        """Utility of the zero, and of known-basis after the last round; None without them."""
        labels = {row.label for row in self.rows}
        if not {_STANDARD, _ZERO} <= labels:
            return None
        zero, standard = self.utilities(_ZERO), self.utilities(_STANDARD)
        return zero[max(zero)], standard[max(standard)]

    def needed(self, row: MethodResult, share: float) -> float:
        """Return how many rounds a row needs for a share of the way from text-only to known-basis after the last."""
        if self._ends is None:
            return math.nan
        zero, standard = self._ends
        return first_reached(self.utilities(row.label), zero + share * (standard - zero))

    def blocks(self) -> Iterator[Grid | Drawing]:
        """Yield figures and tables in the order of the page."""
        yield self.leaderboard()
        if self.has_curves:
            yield self.curves(self.main)
            for metric in ("average_regret", "weak_regret"):
                if self.has(metric, self.methods):
                    yield self.curves(self.results.metric(metric), metric.replace("_", "-"))
        if self._ends is not None:
            yield self._questions()
        if self.options.get("drift") == "switch":
            yield self._recovery()
        yield from self.differences((self.main, *(m for m in self.results.metrics if m.id in {"average_regret", "ps"})))
        yield from self._asked()
        yield from self.curve_tables([self.main, *(self.results.metric(m) for m in ("average_regret", "changed"))])

    def _questions(self) -> Grid:
        last = max(self.shots(self.headline))

        def cells(row: MethodResult) -> list[str]:
            zero, standard = self._ends or (math.nan, math.nan)
            reached = (self.utilities(row.label)[last] - zero) / (standard - zero)
            return [*(number(self.needed(row, share), 0) for share in _SHARES), percent(reached)]

        return self.grid(
            "questions",
            "Questions needed",
            f"Rounds until a policy has so much of the way from {_ZERO} to what {_STANDARD} reaches after {last} "
            f"random questions; a dash where {last} are not enough. Between measurements a straight line is assumed.",
            [*(Column(f"{share:.0%}".replace("%", " %")) for share in _SHARES), Column("Reached", f"%, at {last}")],
            cells,
            [row for row in self.rows if row.kind == "method" or row.label == _STANDARD],
        )

    def _recovery(self) -> Grid:
        at = int(self.options["drift_at"])

        def cells(row: MethodResult) -> list[str]:
            curve = {t: estimate.value for t, estimate in self._curve(row.label, self.main.id).items()}
            before = max((t for t in curve if t < at), default=None)
            after = {t - at: value for t, value in curve.items() if t >= at}
            if before is None or not after:
                return [ABSENT] * 3
            rounds = first_reached(after, curve[before], higher_is_better=self.main.higher_is_better)
            return [number(curve[before]), number(after[min(after)]), number(rounds, 0)]

        return self.grid(
            "recovery",
            "After the switch",
            f"Each user gets another one's taste after {at} answers. Rounds until the regret is what it was at the "
            "last measurement before; a dash where that is not reached.",
            [Column("Before"), Column("At the switch"), Column("Rounds to recover")],
            cells,
            self.methods,
        )

    def _asked(self) -> Iterator[Grid]:
        """Yield what the best policy asked of the first two users, and what each answer changed."""
        if not self.methods or self.methods[0].label not in self.results.sources:
            return
        best = self.methods[0]
        table = self.results.samples(best.label)
        asked = table.filter(np.asarray(table["condition"]) == ASKED)
        for user in (0, 1):
            rows = asked.filter(np.asarray(asked["user"]) == user).to_pylist()[:_SHOWN]
            texts = [row for row in rows if row["texts"]]
            if not texts:
                return
            yield Grid(
                f"asked-{user + 1}",
                f"What was asked of user {user + 1}",
                f"The first {len(texts)} questions of {self.name(best)}, the answers, and how likely the user was "
                "thought to prefer the first response before and after the answer.",
                (
                    *(Column(heading, numeric=False) for heading in ("Prompt", "First", "Second", "Answer")),
                    Column("Before", "%"),
                    Column("After", "%"),
                ),
                tuple(Row(str(row["round"] + 1), tuple(_question(row))) for row in texts),
                "Round",
                folded=True,
            )

    def definitions(self) -> dict[str, str]:
        """Return terms and what they mean."""
        return shipped_tables("personalllm.report.views", "online.toml")


def _question(row: Mapping[str, Any]) -> Iterator[str]:
    for text in row["texts"]:
        flat = " ".join(text.split())
        yield flat if len(flat) <= _WIDTH else f"{flat[: _WIDTH - 1]}\u2026"
    yield _ANSWERS[row["answer"]]
    for margin in (row["margin"], row["after"]):
        yield percent(0.5 + 0.5 * math.tanh(0.5 * margin))
