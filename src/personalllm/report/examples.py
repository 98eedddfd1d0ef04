"""Choose two users who want different things, with what each method wrote for them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from personalllm.core.types import F64

__all__ = ["Example", "Pair", "Sample", "Written", "choose_pair", "excerpt", "read_samples", "taste"]

_MAX_USERS = 200
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
class Sample:
    """One query of one user and its response.

    Attributes:
        user: Row of the user in the run.
        prompt: Position of the prompt.
        text: Text of the prompt.
        response: What was written, or the stored response for a baseline or an oracle.
        finish_reason: `stop`, `length` (cut at the token limit) or `stored`.
        n_examples: Examples of the history that were sent.
        utility: The user's utility of the response.
        best_utility: The user's utility of the best stored response.
        messages: What was sent to the chat model: `role` and `content` of each.
        history: (prompt, chosen, rejected), oldest first; may be empty.
    """

    user: int
    prompt: int
    text: str
    response: str
    finish_reason: str
    n_examples: int
    utility: float
    best_utility: float
    messages: tuple[Mapping[str, str], ...]
    history: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class Written:
    """What one method wrote for one user, or what a baseline or an oracle chose."""

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


def _contrasts(history: History) -> F64:
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
    pairs = {prompt: (chosen, rejected) for prompt, chosen, rejected in first}
    return sum(
        prompt in pairs and (pairs[prompt][0] == rejected or pairs[prompt][1] == chosen)
        for prompt, chosen, rejected in second
    )


def _likeness(first: str, second: str) -> float:
    """Return the share of words that two prompts have in common, in [0, 1]."""
    a, b = set(_WORD.findall(first.lower())), set(_WORD.findall(second.lower()))
    return len(a & b) / len(a | b) if a | b else 1.0


def read_samples(table: Any) -> list[Sample]:
    """Return the rows of the samples of a method in the generate track."""
    names = ("user", "prompt", "response", "finish_reason", "n_examples", "utility", "best_utility")
    return [
        Sample(
            **{name: row[name] for name in names},
            text=row["prompt_text"],
            messages=tuple(row["messages"] or ()),
            history=tuple((h["prompt"], h["chosen"], h["rejected"]) for h in row["history"] or ()),
        )
        for row in table.to_pylist()
    ]


def _histories(samples: Sequence[Sample]) -> dict[int, tuple[tuple[str, str, str], ...]]:
    """Return each user's interactions as far as any method's samples show them."""
    merged: dict[int, dict[tuple[str, str, str], None]] = {}
    for sample in samples:
        merged.setdefault(sample.user, {}).update(dict.fromkeys(sample.history))
    return {user: tuple(history) for user, history in merged.items()}


def _distance(first: F64, second: F64) -> float:
    """Return the distance of two users' mean contrasts, at most 2 * sqrt(n_traits)."""
    if not len(first) or not len(second):
        return 0.0
    return float(np.linalg.norm(first.mean(0) - second.mean(0)))


def choose_pair(samples: Mapping[str, Sequence[Sample]], names: Mapping[str, tuple[str, str]]) -> Pair | None:
    """Choose the two users who differ most.

    A pair counts for more the further apart the traits of what the two chose and rejected lie, the more prompts there
    are for which one chose what the other rejected, and if both have the same (or a similar) prompt. Only the first
    200 users are looked at. The choice depends on the histories alone, never on the responses.

    Args:
        samples: Label -> its samples.
        names: Label -> title and kind, in the order of the page.

    Returns:
        The pair; None if fewer than two users have samples.
    """
    every = list(itertools.chain.from_iterable(samples.values()))
    first = {(sample.user, sample.prompt): sample for sample in every}
    queries = [first[key] for key in sorted(first)]
    users = set(list(dict.fromkeys(sample.user for sample in queries))[:_MAX_USERS])
    queries = [sample for sample in queries if sample.user in users][: 2 * _MAX_USERS]
    histories = _histories(every)
    contrasts = {user: _contrasts(histories[user]) for user in users}
    best: tuple[float, Sample, Sample, int] | None = None
    for a, b in itertools.combinations(queries, 2):
        if a.user == b.user:
            continue
        opposed = _opposed(histories[a.user], histories[b.user])
        likeness = 1.5 if a.prompt == b.prompt else _likeness(a.text, b.text)
        score = _distance(contrasts[a.user], contrasts[b.user]) + min(opposed, 3) + likeness
        # the slack keeps the first of equal pairs, whatever the order of floating-point sums
        if best is None or score > best[0] + 1e-12:
            best = (score, a, b, opposed)
    if best is None:
        return None

    def example(query: Sample) -> Example:
        written = [
            Written(*names[label], sample)
            for label in names
            for sample in samples.get(label, ())
            if (sample.user, sample.prompt) == (query.user, query.prompt)
        ]
        history = histories[query.user]
        return Example(query.user, query.text, query.best_utility, history, taste(history), tuple(written))

    _, a, b, opposed = best
    return Pair(example(a), example(b), a.prompt == b.prompt, opposed)
