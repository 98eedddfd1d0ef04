"""The only reasons to refuse a response: it is empty, or it repeats itself."""

from __future__ import annotations

from collections import Counter
from itertools import groupby

__all__ = ["fault"]

_GRAM = 4
_MIN_WORDS = 16
_MAX_REPEATED = 0.25
_MAX_RUN = 4


def fault(text: str) -> str:
    """Return why a response is refused: `"empty"`, `"repetitive"`, or `""` if it is fine.

    Repetitive means that more than 25 % of its sequences of four words occurred before in it, that a word stands in
    it more than four times in a row, or that one line of three words or more stands in it four times.

    >>> fault("  ")
    'empty'
    >>> fault("I make them, I write them. " * 8)
    'repetitive'
    >>> fault("A short, ordinary response.")
    ''
    """
    if not text.strip():
        return "empty"
    words = text.lower().split()
    if max(sum(1 for _ in run) for _, run in groupby(words)) > _MAX_RUN:
        return "repetitive"
    if len(words) >= _MIN_WORDS:
        grams = list(zip(*(words[i:] for i in range(_GRAM)), strict=False))
        if 1 - len(set(grams)) / len(grams) > _MAX_REPEATED:
            return "repetitive"
    lines = Counter(line.strip().lower() for line in text.splitlines() if len(line.split()) >= 3)
    return "repetitive" if lines and max(lines.values()) >= 4 else ""
