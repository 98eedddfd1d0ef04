"""Measure how a text is written: length, layout, marks."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from personalllm.core.types import F64

__all__ = ["MEASURES", "measure"]

_ITEM = re.compile(r"\n[ \t]*(?:[-*\u2022]|\d+[.)])[ \t]")
_DIGITS = "0123456789"

MEASURES = (
    "log characters",
    "log words",
    "characters per word",
    "log line breaks",
    "log list items",
    "log question marks",
    "log exclamation marks",
    "log digits",
)
"""What `measure` returns for each text; the log of 1 + the count."""


def measure(texts: Sequence[str]) -> F64:
    """Return the measures of each text, float64 (n, 8).

    >>> measure(["Yes!"])[0, 6].round(3)
    np.float64(0.693)
    """
    result = np.empty((len(texts), len(MEASURES)))
    for i, text in enumerate(texts):
        words = len(text.split())
        result[i] = (
            math.log1p(len(text)),
            math.log1p(words),
            len(text) / words if words else 0.0,
            math.log1p(text.count("\n")),
            math.log1p(len(_ITEM.findall("\n" + text))),
            math.log1p(text.count("?")),
            math.log1p(text.count("!")),
            math.log1p(sum(map(text.count, _DIGITS))),
        )
    return result
