"""Example conversations: two users who want different things, and what each method wrote for them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from personalllm.report.views import POPULATION_BEST

if TYPE_CHECKING:
    from personalllm.evaluation import Sample
    from personalllm.report.views import TrackView

__all__ = ["Example", "Pair", "Written", "choose_pair", "excerpt", "taste"]

_MOST_USERS = 200
_SHOWN = ("oracle", POPULATION_BEST)
_WORD = re.compile(r"\w+")
_TRAITS: dict[str, Callable[[str], float]] = {
    "the longer response": lambda text: float(len(text)),
    "more list items": lambda text: float(len(re.findall(r"(?m)^\s*(?:[-*\u2022]|\d+[.)])\s", text))),
    "more exclamation marks": lambda text: float(text.count("!")),
    "more questions": lambda text: float(text.count("?")),
    "more figures": lambda text: float(len(re.findall(r"\d+", text))),
    "the one that says \u201cI\u201d more": lambda text: float(len(re.findall(r"\bI\b", text))),
}

History = Sequence[tuple[str, str, str]]


@dataclass(frozen=True, slots=True)
class Written:
    """What one method wrote for one user, or what a reference policy chose."""

    title: str
    kind: str
    sample: Sample


@dataclass(frozen=True, slots=True)
class Example:
    """One user: what they liked before, what they asked now, and what they got.

    Attributes:
        user: Row of the user in the run.
        prompt: What the user asks.
        best_utility: Utility of the user's best stored response to the prompt.
        history: (prompt, chosen, rejected), oldest first; may be empty.
        taste: What the choices have in common, in words.
        written: One entry for each method, in the order of the leaderboard.
    """

    user: int
    prompt: str
    best_utility: float
    history: tuple[tuple[str, str, str], ...]
    taste: tuple[str, ...]
    written: tuple[Written, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two users who differ, and on what grounds they were picked.

    Attributes:
        first: One user.
        second: The other.
        same_prompt: Whether both ask the same prompt.
        n_opposed: Earlier prompts for which one chose the very response that the other rejected.
    """

    first: Example
    second: Example
    same_prompt: bool
    n_opposed: int


def excerpt(text: str, limit: int = 280) -> str:
    """Return the beginning of a text, cut between words and marked with an ellipsis if it is longer than the limit.

    >>> excerpt("one two three", 8)
    'one two…'
    """
    text = text.strip()
    if len(text) <= limit:
        return text
    head = text[: limit + 1]
    cut = head.rfind(" ")
    return head[: cut if cut > limit // 2 else limit].rstrip(" ,;:.\n") + "\u2026"


def _contrasts(history: History) -> npt.NDArray[np.float64]:
    """Return the sign of chosen minus rejected for each trait, float64 (n_interactions, n_traits)."""
    rows = [[np.sign(trait(chosen) - trait(rejected)) for trait in _TRAITS.values()] for _, chosen, rejected in history]
    return np.array(rows, dtype=np.float64).reshape(-1, len(_TRAITS))


def taste(history: History) -> tuple[str, ...]:
    """Describe in words what a user's choices have in common: at most three traits, the clearest first.

    >>> taste([("p", "a long answer", "short"), ("q", "a longer answer!", "brief")])[0]
    'the longer response in 2 of 2 choices'
    """
    signs = _contrasts(history)
    clear: list[tuple[float, str]] = []
    for name, column in zip(_TRAITS, signs.T, strict=True):
        decided = int(np.count_nonzero(column))
        ups = int(np.count_nonzero(column > 0))
        if decided * 2 < len(history) or not decided or ups * 2 == decided:
            continue
        wins, words = (ups, name) if ups * 2 > decided else (decided - ups, _opposite(name))
        clear.append((wins / decided, f"{words} in {wins} of {decided} choices"))
    clear.sort(key=lambda item: -item[0])
    return tuple(text for _, text in clear[:3])


def _opposite(name: str) -> str:
    """Return the words for the other end of a trait."""
    if "longer" in name:
        return name.replace("longer", "shorter")
    return name.replace("more", "fewer" if name.startswith("more") else "less")


def _opposed(first: History, second: History) -> int:
    """Count the prompts for which one chose what the other rejected."""
    mine = {prompt: (chosen, rejected) for prompt, chosen, rejected in first}
    return sum(
        prompt in mine and (mine[prompt][0] == rejected or mine[prompt][1] == chosen)
        for prompt, chosen, rejected in second
    )


def _likeness(first: str, second: str) -> float:
    """Return the share of words that two prompts have in common, in [0, 1]."""
    one, two = set(_WORD.findall(first.lower())), set(_WORD.findall(second.lower()))
    return len(one & two) / len(one | two) if one | two else 1.0


def _histories(samples: dict[str, list[Sample]]) -> dict[int, tuple[tuple[str, str, str], ...]]:
    """Return each user's interactions as far as any method's samples show them."""
    merged: dict[int, dict[tuple[str, str, str], None]] = {}
    for sample in itertools.chain.from_iterable(samples.values()):
        own = merged.setdefault(sample.user, {})
        own.update(dict.fromkeys((str(p), str(c), str(r)) for p, c, r in sample.history))
    return {user: tuple(own) for user, own in merged.items()}


def _example(
    view: TrackView, samples: dict[str, list[Sample]], asked: Sample, history: tuple[tuple[str, str, str], ...]
) -> Example:
    rows = {row.id: row for row in view.rows}
    written = [
        Written(view.name(rows[key]), rows[key].kind, sample)
        for key, own in samples.items()
        for sample in own
        if sample.user == asked.user and sample.prompt_id == asked.prompt_id
    ]
    return Example(
        user=int(asked.user),
        prompt=asked.prompt,
        best_utility=float(asked.best_utility),
        history=history,
        taste=taste(history),
        written=tuple(written),
    )


def _distance(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float:
    """Return the distance of two users' mean contrasts, at most 2 * sqrt(n_traits)."""
    if not len(first) or not len(second):
        return 0.0
    return float(np.linalg.norm(first.mean(0) - second.mean(0)))


def choose_pair(view: TrackView) -> Pair | None:
    """Pick the two users of a generate track who differ most.

    A pair counts for more the further apart the traits of what the two chose and rejected lie, the more prompts there
    are for which one chose what the other rejected, and if both ask the same (or a similar) prompt. Only the first
    200 users are looked at. The choice depends on the histories alone, never on how the methods fared.

    Returns:
        The pair; None in the rank track, or if fewer than two users have samples.
    """
    if view.track != "generate":
        return None
    shown = (*view.methods, *(row for row in view.references if row.id in _SHOWN))
    available = [row.id for row in shown if row.id in view.results.sources]
    samples = {key: own for key in available if (own := view.results.samples(key))}
    everyone = sorted(
        {(s.user, s.prompt_id): s for own in samples.values() for s in own}.values(),
        key=lambda sample: (sample.user, str(sample.prompt_id)),
    )
    users = list(dict.fromkeys(sample.user for sample in everyone))[:_MOST_USERS]
    asked = [sample for sample in everyone if sample.user in set(users)][: 2 * _MOST_USERS]
    histories = _histories(samples)
    contrasts = {user: _contrasts(histories[user]) for user in users}
    best: tuple[float, Sample, Sample, int] | None = None
    for one, two in itertools.combinations(asked, 2):
        if one.user == two.user:
            continue
        opposed = _opposed(histories[one.user], histories[two.user])
        like = 1.5 if one.prompt_id == two.prompt_id else _likeness(one.prompt, two.prompt)
        score = _distance(contrasts[one.user], contrasts[two.user]) + min(opposed, 3) + like
        if best is None or score > best[0] + 1e-12:
            best = (score, one, two, opposed)
    if best is None:
        return None
    _, one, two, opposed = best
    return Pair(
        first=_example(view, samples, one, histories[one.user]),
        second=_example(view, samples, two, histories[two.user]),
        same_prompt=one.prompt_id == two.prompt_id,
        n_opposed=opposed,
    )
