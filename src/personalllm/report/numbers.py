"""Format numbers and lists: fixed decimals, a true minus sign, intervals in brackets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from personalllm.evaluation.contract import Estimate, Metric

__all__ = [
    "ABSENT",
    "Style",
    "count",
    "duration",
    "estimate",
    "interval",
    "listed",
    "metric_style",
    "metric_text",
    "metric_value",
    "number",
    "percent",
]

Style: TypeAlias = Literal["plain", "percent", "signed", "signed-percent"]

ABSENT = "\u2013"
"""What stands for a number that is not defined."""


def number(value: float, decimals: int = 3, *, signed: bool = False) -> str:
    """Return a number with fixed decimals and a true minus sign; a number that is not finite gives a dash.

    >>> number(0.25, 2, signed=True), number(1234.5, 1), number(float("nan")) == ABSENT
    ('+0.25', '1,234.5', True)
    """
    if not math.isfinite(value):
        return ABSENT
    text = f"{value:+,.{decimals}f}" if signed else f"{value:,.{decimals}f}"
    if float(text.replace(",", "")) == 0.0:
        text = text.lstrip("+-")
    return text.replace("-", "\u2212")


def percent(value: float, *, signed: bool = False) -> str:
    """Return a share in [0, 1] as a percentage with one decimal, without the sign for percent.

    >>> percent(0.1234)
    '12.3'
    """
    return number(100 * value, 1, signed=signed)


def count(value: int) -> str:
    """Return a whole number with thousands separated by commas.

    >>> count(10402)
    '10,402'
    """
    return f"{value:,d}"


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it.

    >>> duration(0.0321), duration(12.34), duration(200), duration(7384)
    ('0.03 s', '12.3 s', '3 min 20 s', '2 h 03 min')
    """
    if not math.isfinite(seconds):
        return ABSENT
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _part(value: float, style: Style, decimals: int) -> str:
    signed = style.startswith("signed")
    return percent(value, signed=signed) if style.endswith("percent") else number(value, decimals, signed=signed)


def interval(value: Estimate, style: Style = "plain", decimals: int = 3) -> str:
    """Return the interval of an estimate in brackets, empty if it has none."""
    if not (math.isfinite(value.low) and math.isfinite(value.high)):
        return ""
    return f"[{_part(value.low, style, decimals)}, {_part(value.high, style, decimals)}]"


def estimate(value: Estimate, style: Style = "plain", decimals: int = 3) -> str:
    """Return an estimate and its interval, e.g. `0.412 [0.380, 0.444]`."""
    return f"{_part(value.value, style, decimals)} {interval(value, style, decimals)}".strip()


def metric_style(metric: Metric, *, signed: bool = False) -> Style:
    """Return how the values of a metric are written: shares in percent, all else with three decimals."""
    if metric.unit == "share":
        return "signed-percent" if signed else "percent"
    return "signed" if signed else "plain"


def metric_value(value: Estimate, metric: Metric, *, signed: bool = False) -> str:
    """Return an estimate of a metric, its interval on a line below; a dash if it is not defined."""
    style = metric_style(metric, signed=signed)
    return f"{_part(value.value, style, 3)}\n{interval(value, style)}".rstrip()


def metric_text(value: Estimate, metric: Metric, *, signed: bool = False) -> str:
    """Return an estimate of a metric in a sentence, e.g. `67.1 [64.0, 70.2] %`."""
    unit = "" if metric.unit != "share" else (" points" if signed else " %")
    return estimate(value, metric_style(metric, signed=signed)) + unit


def listed(names: Sequence[str]) -> str:
    """Return names as a list in prose.

    >>> listed(["a", "b", "c"]), listed(["a"]), listed([])
    ('a, b and c', 'a', 'none')
    """
    if not names:
        return "none"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
