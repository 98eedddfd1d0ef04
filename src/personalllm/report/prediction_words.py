"""The sentences of the predict track's page: which differences are real, and which are not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from personalllm.evaluation.prediction.estimates import FEWEST_USERS
from personalllm.report.numbers import count, estimate, number, percent
from personalllm.report.prediction_views import PredictionView

if TYPE_CHECKING:
    from personalllm.evaluation.prediction.metrics import Cell
    from personalllm.evaluation.prediction.results import LearnerResult, PairedDifference

__all__ = ["Finding", "findings", "lead", "listed", "notes", "null_name"]

_COIN = math.log(2)
_CONFIDENT = 0.01


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding: what it is about, and what was found."""

    topic: str
    text: str


def listed(names: Sequence[str]) -> str:
    """Return names as a list in prose.

    >>> listed(["a", "b", "c"]), listed(["a"]), listed([])
    ('a, b and c', 'a', 'none')
    """
    if not names:
        return "none"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def lead(view: PredictionView) -> str:
    """Say what was measured."""
    head, about = view.headline, view.results.manifest
    if view.of_people:
        ties = f" ({count(about['n_ties'])} ties left out)" if about.get("n_ties") else ""
        return (
            f"{count(about['n_users'])} people made {count(about['n_comparisons'])} comparisons of two "
            f"responses{ties}. Parts of the people and of the prompts were left out in turn; each learner saw the "
            f"other people's comparisons, then up to {head.shots} of one person's own, and predicted that person's "
            "next ones."
        )
    return (
        f"{count(view.n_users(head))} simulated users of {view.source}{_met(head)} made {count(view.n_pairs(head))} "
        "comparisons that were to be predicted. Each learner was fitted on the pool and then saw up to "
        f"{head.shots} comparisons of the user in question."
    )


def _met(cell: Cell) -> str:
    return ", whom no learner had met," if cell.users == "unseen" else ""


def _share(value: Any) -> str:
    return f"{estimate(value, 'percent')} %"


def findings(view: PredictionView) -> tuple[Finding, ...]:
    """Return what can be said, from the intervals and the corrected tests alone."""
    if not view.learners or not math.isfinite(view.at(view.learners[0], "accuracy").value):
        return (Finding("Learners", "No learner was evaluated."),)
    made = (_best, _nulls, _feedback, _counterfactual, _probabilities, _length, _ceiling, _worst)
    return tuple(found for one in made if (found := one(view)) is not None)


def _groups(view: PredictionView, compared: Sequence[PairedDifference]) -> tuple[list[str], list[str], list[str]]:
    """Return the names of those that `a` of every comparison is clearly better than, not distinguishable, worse."""
    beaten = [view.name(one.b) for one in compared if one.better == one.a]
    unclear = [view.name(one.b) for one in compared if one.better is None]
    ahead = [view.name(one.b) for one in compared if one.better == one.b]
    return beaten, unclear, ahead


def _best(view: PredictionView) -> Finding:
    best = view.learners[0]
    value = view.at(best, "accuracy")
    who = "The only learner" if len(view.learners) == 1 else f"The highest of {len(view.learners)} learners"
    text = f"{who} on {view.headline} is {view.name(best)}: {_share(value)} of the comparisons right."
    among = [one.id for one in view.learners]
    compared = view.results.comparisons("accuracy", view.headline, versus=best.id, among=among)
    if not compared:
        return Finding("Which learner", text)
    beaten, unclear, _ = _groups(view, compared)
    text += (
        f" It is really better than {listed(beaten)}." if beaten else " It is really better than none of the others."
    )
    if unclear:
        text += f" It cannot be told apart from {listed(unclear)}: being first among these may be chance."
    return Finding("Which learner", f"{text} (Paired by {_singular(view.unit)}, Holm-corrected at 5 %.)")


def _singular(unit: str) -> str:
    return {"users": "user", "people": "person", "prompts": "prompt"}.get(unit, unit)


def _nulls(view: PredictionView) -> Finding | None:
    told = [_against(view, null) for null in view.nulls if null.id != "random"]
    return Finding("Against knowing nothing of the user", " ".join(told)) if told else None


def _against(view: PredictionView, null: LearnerResult) -> str:
    """Say which learners are better than a null."""
    among = [null.id, *(one.id for one in view.learners)]
    compared = view.results.comparisons("accuracy", view.headline, versus=null.id, among=among)
    beaten, unclear, ahead = _groups(view, compared)
    text = (
        f"The null {null_name(null)} has {_share(view.at(null, 'accuracy'))}. Really better than it: {listed(ahead)}."
    )
    text += f" Not distinguishable: {listed(unclear)}." if unclear else ""
    return text + (f" Really worse: {listed(beaten)}." if beaten else "")


def null_name(one: LearnerResult) -> str:
    """Return the label of a null or an oracle with its title behind it."""
    return f"{one.id} ({one.title[:1].lower()}{one.title[1:]})" if one.title else one.id


def _gaps(view: PredictionView, cell: Cell, other: Cell) -> list[tuple[LearnerResult, Any]]:
    """Return each learner's accuracy in one cell minus that in another, for those that have both."""
    return [
        (one, view.results.change(one.id, "accuracy", cell, other))
        for one in view.learners
        if cell in one.estimates and other in one.estimates
    ]


def _feedback(view: PredictionView) -> Finding | None:
    shots = view.shots(view.headline)
    if len(shots) < 2:
        return None
    first = type(view.headline)(view.headline.users, view.headline.prompts, "true", shots[0])
    gaps = sorted(_gaps(view, view.headline, first), key=lambda pair: -pair[1].value)
    if not gaps:
        return None
    up = [view.name(one) for one, gap in gaps if gap.low > 0]
    down = [view.name(one) for one, gap in gaps if gap.high < 0]
    flat = [view.name(one) for one, gap in gaps if not (gap.low > 0 or gap.high < 0)]
    most, gap = gaps[0]
    text = (
        f"From {shots[0]} to {shots[-1]} comparisons {view.name(most)} changes most, by {_points(gap)}. "
        f"Learners whose accuracy rises: {listed(up)}. No clear change: {listed(flat)}."
    )
    text += f" Falls: {listed(down)}." if down else ""
    return Finding("What the comparisons are worth", f"{text} (95 % intervals of the paired change, uncorrected.)")


def _points(gap: Any) -> str:
    return f"{estimate(gap, 'signed-percent')} points"


def _counterfactual(view: PredictionView) -> Finding | None:
    sentences = []
    said = {"flipped": "its labels flipped", "other-user": "another user's history in place of the own"}
    of = {"flipped": "what the user chose", "other-user": "whose history it was"}
    for cell in view.counterfactuals:
        gaps = sorted(_gaps(view, cell, view.headline), key=lambda pair: pair[1].value)
        lose = [(one, gap) for one, gap in gaps if gap.high < 0]
        keep = [view.name(one) for one, gap in gaps if not gap.high < 0]
        text = f"With {said.get(cell.history, cell.history)}, {len(lose)} of {len(gaps)} learners lose accuracy"
        most = f", most of all {view.name(lose[0][0])} ({_points(lose[0][1])})." if lose else ""
        text += most or ": nothing shows that it matters."
        if keep and lose:
            text += f" Not shown for {listed(keep)}: nothing shows that these rest on {of.get(cell.history, 'it')}."
        sentences.append(text)
    return Finding("Is it really the user's own feedback?", " ".join(sentences)) if sentences else None


def _probabilities(view: PredictionView) -> Finding | None:
    known = [one for one in view.learners if math.isfinite(view.at(one, "ece").value)]
    if not known:
        return None
    ordered = sorted(known, key=lambda one: view.at(one, "ece").value)
    text = f"Smallest calibration error: {view.name(ordered[0])} (ECE {estimate(view.at(ordered[0], 'ece'))})"
    text += f", largest {view.name(ordered[-1])} ({estimate(view.at(ordered[-1], 'ece'))})." if ordered[1:] else "."
    head, shots = view.headline, view.shots(view.headline)
    wrong = []
    for k in shots:
        cell = type(head)(head.users, head.prompts, "true", k)
        for one in known:
            loss = view.at(one, "log_loss", cell)
            if math.isfinite(loss.low) and loss.low > _COIN + _CONFIDENT:
                wrong.append(f"{view.name(one)} at {k} ({number(loss.value)})")
    text += f" Log-loss clearly above a coin's 0.693, so confidently wrong: {listed(wrong)}."
    return Finding("Are the probabilities honest?", text)


def _length(view: PredictionView) -> Finding | None:
    best = view.learners[0]
    plain, controlled = view.at(best, "accuracy"), view.at(best, "length_controlled")
    if not math.isfinite(controlled.value):
        return None
    text = (
        f"{view.name(best)} is right in {_share(plain)}, and in {_share(controlled)} when pairs whose longer "
        "response was chosen count as much as those whose shorter one was."
    )
    length = next((one for one in view.nulls if one.id == "longer"), None)
    if length is not None:
        text += f" Choosing by length alone gives {percent(view.at(length, 'accuracy').value)} %."
    return Finding("Is it length?", text)


def _ceiling(view: PredictionView) -> Finding | None:
    top = next((one for one in view.oracles if one.id == "best-linear"), None)
    if top is None or not math.isfinite(view.at(top, "accuracy").value):
        return None
    best = view.learners[0]
    reached, ceiling = view.at(best, "accuracy").value, view.at(top, "accuracy").value
    text = (
        f"The oracle {null_name(top)}, fitted to each user alone on noise-free comparisons of all train prompts, has "
        f"{_share(view.at(top, 'accuracy'))}."
    )
    if ceiling > max(reached, 0.5):
        part = (reached - 0.5) / (ceiling - 0.5)
        text += f" {view.name(best)} has gone {percent(part)} % of the way there from a coin."
    else:
        text += (
            f" {view.name(best)} is not below it: the oracle knows more of this user, but borrows nothing from others "
            "and sees the embedding alone, not length or layout."
        )
    return Finding("How far to go", text)


def _worst(view: PredictionView) -> Finding | None:
    known = [one for one in view.learners if math.isfinite(view.at(one, "worst_decile").value)]
    if not known:
        return None
    kindest = max(known, key=lambda one: view.at(one, "worst_decile").value)
    text = f"For the worst-served tenth of the {view.unit}, {view.name(kindest)} does best: "
    text += f"{_share(view.at(kindest, 'worst_decile'))}."
    groups = [stratum for stratum in view.reward_models if view.stratum_users(stratum) >= FEWEST_USERS]
    if groups:
        low = min(groups, key=lambda s: view.at(view.learners[0], "accuracy", None, s).value)
        value = view.at(view.learners[0], "accuracy", None, low)
        text += (
            f" Of the groups of at least {FEWEST_USERS} users with the same strongest reward model, "
            f"{view.name(view.learners[0])} serves that of {low.removeprefix('rm:')} worst: {_share(value)}."
        )
    return Finding("Who is left behind?", text)


def notes(view: PredictionView) -> tuple[str, ...]:
    """Return what to keep in mind."""
    unit = view.unit
    found = [
        (
            f"Intervals are over {unit}, 95 %, the same resamples for every row, so that differences are paired. They "
            "do not cover the draw of the pool, nor the seed of a learner's own fit."
        ),
        (
            "Learners that only rank give no probabilities; their log-loss, Brier score and calibration error are "
            "blank. A tie of two responses counts as half right."
        ),
    ]
    if view.of_people:
        found += [
            (
                "People say nothing about responses that they did not compare, so there is no regret, no rank "
                "correlation, no true weights and no best linear function here."
            ),
            "Somebody who made fewer than k comparisons is adapted with all that they made.",
        ]
        if unit == "prompts":
            found.append(
                f"With {count(view.results.manifest['n_users'])} people, intervals resample prompts with the people "
                "held fixed: they say how sure the numbers are for these people, and nothing about others. "
                "Accuracies are means over prompts."
            )
    else:
        found.append(
            "A user of a simulated population is a weight vector over reward models; that a learner predicts such "
            "users does not show that it predicts people."
        )
    if view.oracles:
        found.append(
            "Nulls and oracles know what no learner sees (all scores, or the population); they are no competitors."
        )
    return tuple(found)
