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
    from personalllm.evaluation.contract import Estimate
    from personalllm.evaluation.differences import Difference

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
    true = [view for view in views if view.history == "none"]
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
        n, harm = (sum(comparison.helped is helped for comparison in comparisons) for helped in (True, False))
        verdict = f"In part: {n} of {len(comparisons)} comparisons below are significant at 5 % in its favour"
        verdict += f", {harm} to its harm." if harm else "."
    findings = tuple(Finding(comparison.topic, comparison.text) for comparison in comparisons)
    return Answer(verdict, findings, next((view for view in true if view.has_curves), None))


def _against_zero(view: View) -> Iterator[_Comparison]:
    """Compare the best method with the zero."""
    best = view.methods[0] if view.methods else None
    if best is None or not any(row.label == ZERO for row in view.baselines):
        return
    (pair,) = view.results.comparisons(versus=ZERO, among=[ZERO, best.label])
    gap = negated(pair.difference)
    text = (
        f"With {view.headline.shots} preferences known of each user, {view.name(best)} has "
        f"{view.main.heading.lower()} {view.text(best)}, {_amount(view, gap)} {'more' if gap.value >= 0 else 'less'} "
        f"than the best that treats all users alike ({ZERO})."
    )
    if view.has("ps", [best]):
        text += f" On the way from there to all that these preferences tell, this is {view.text(best, 'ps')} "
        text += "(personalisation share)."
    yield _Comparison(view.heading, text, _helped(pair, best.label))


def _against_others(view: View, views: Sequence[View]) -> Iterator[_Comparison]:
    """Compare the user's own history with another user's, where a run has those."""
    best = view.methods[0] if view.methods else None
    for other in views:
        if best is None or other.history != "other-user" or other.results.track != view.results.track:
            continue
        try:
            pair = between_runs(view.results, other.results, best.label)
        except UserError:  # another benchmark, other users, or without the method
            continue
        gap = pair.difference
        words = f"{_amount(view, gap)} {'less' if gap.value >= 0 else 'more'}"
        text = f"With the history of another user instead of the user's own, the same method has {words}: it is "
        text += f"{'' if pair.better == pair.a else 'not shown that it is '}this user's taste that it reads."
        yield _Comparison(other.heading, text, _helped(pair, pair.a))


def _amount(view: View, gap: Estimate) -> str:
    """Return how large a difference is, whatever its sign; where its interval covers 0, that begins below 0."""
    return metric_text(gap if gap.value >= 0 else negated(gap), view.main, signed=True).replace("+", "")


def _helped(pair: Difference, method: str) -> bool | None:
    if pair.better is None or math.isnan(pair.difference.value):
        return None
    return pair.better == method
