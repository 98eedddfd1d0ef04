"""Answer the question that a page opens with: did personalisation help?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from personalllm.core.errors import UserError
from personalllm.evaluation.differences import between_runs
from personalllm.report.leaderboard import negated
from personalllm.report.numbers import metric_text
from personalllm.report.views.base import Finding, View

if TYPE_CHECKING:
    from personalllm.evaluation.differences import Difference
    from personalllm.evaluation.results import Results

__all__ = ["Answer", "answer"]

ZERO = "text-only"
"""The baseline that personalisation must beat: it reads text and the pool, and gives everybody the same response."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What several runs say together.

    Attributes:
        verdict: A sentence: yes, no, in part, or undecided.
        findings: What it follows from, a comparison each.
        curve: The view with a learning curve; None without one.
    """

    verdict: str
    findings: tuple[Finding, ...]
    curve: View | None


@dataclass(frozen=True, slots=True)
class _Comparison:
    """A personalised method against what knows nothing, or the wrong things, of the user."""

    topic: str
    text: str
    helped: bool | None


def answer(views: Sequence[View]) -> Answer | None:
    """Return the answer that the runs of a page give; None if none of them has both a method and the zero.

    Every run with true histories compares its best method with the zero; runs of the same users and queries with
    another user's history compare what the same method makes of the user's own.
    """
    true = [view for view in views if _history(view.results) == "none"]
    comparisons = [c for view in true for c in (*_against_zero(view), *_against_others(view, views))]
    if not comparisons:
        return None
    votes = {comparison.helped for comparison in comparisons}
    verdict = {
        frozenset({True}): "Yes: every comparison below is significant at 5 %.",
        frozenset({False}): "No: it did harm, in every comparison below.",
        frozenset({None}): "Not shown: no comparison below is significant at 5 %.",
    }.get(frozenset(votes))
    if verdict is None:
        n = sum(comparison.helped is True for comparison in comparisons)
        verdict = f"In part: {n} of {len(comparisons)} comparisons below are significant at 5 % in its favour."
    findings = tuple(Finding(comparison.topic, comparison.text) for comparison in comparisons)
    return Answer(verdict, findings, next((view for view in true if view.has_curves), None))


def _history(results: Results) -> str:
    return str(results.protocol.get("history", {}).get("counterfactual", "none"))


def _against_zero(view: View) -> Iterator[_Comparison]:
    """Compare the best method with the zero."""
    best = view.methods[0] if view.methods else None
    if best is None or not any(row.label == ZERO for row in view.baselines):
        return
    (pair,) = view.results.comparisons(versus=ZERO, among=[ZERO, best.label])
    shots = view.headline.shots
    text = (
        f"After {shots} preferences of each user, {view.name(best)} reaches {view.text(best)}, "
        f"{_difference(view, pair)} more than the best that treats all users alike ({ZERO})."
    )
    if view.has("ps", [best]):
        text += f" That is a personalisation share of {view.text(best, 'ps')}: 1 is all that these preferences tell."
    yield _Comparison(_topic(view), text, _helped(pair, best.label))


def _against_others(view: View, views: Sequence[View]) -> Iterator[_Comparison]:
    """Compare the user's own history with another user's, where a run has those."""
    best = view.methods[0] if view.methods else None
    for other in views:
        if best is None or _history(other.results) != "other-user" or other.results.track != view.results.track:
            continue
        try:
            pair = between_runs(view.results, other.results, best.label)
        except UserError:  # another benchmark, other users, or without the method
            continue
        gap = _difference(view, pair, of_first=True)
        text = "With the history of another user instead of the user's own, the same method "
        if pair.better == pair.a:
            text += f"is worse by {gap.replace('+', '')}: it is this user's taste that it reads."
        else:
            text += f"differs by {gap}: it is not shown that it reads this user's taste."
        yield _Comparison(f"{_topic(view)}: own or another's history", text, _helped(pair, pair.a))


def _difference(view: View, pair: Difference, *, of_first: bool = False) -> str:
    gap = pair.difference if of_first else negated(pair.difference)
    return metric_text(gap, view.main, signed=True)


def _helped(pair: Difference, method: str) -> bool | None:
    if pair.better is None or math.isnan(pair.difference.value):
        return None
    return pair.better == method


def _topic(view: View) -> str:
    return f"{view.results.data_name}, {view.results.track} track"
