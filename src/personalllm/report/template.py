"""The templates of the pages: every text is escaped, a missing value is an error."""

from __future__ import annotations

import json
from functools import partial
from importlib import resources
from typing import TYPE_CHECKING

from personalllm.report import numbers
from personalllm.report.examples import excerpt

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["environment", "stylesheet"]


def environment() -> Environment:
    """Return the environment in which all pages are rendered."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    folder = resources.files("personalllm.report").joinpath("templates")
    made = Environment(
        loader=FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "number": numbers.number,
        "signed": partial(numbers.number, signed=True),
        "percent": numbers.percent,
        "count": numbers.count,
        "duration": numbers.duration,
        "excerpt": excerpt,
        "interval": numbers.interval,
        "quoted": lambda text: text.replace("'", "\u2019"),
        "json": partial(json.dumps, indent=2, sort_keys=True, ensure_ascii=False),
    }
    return made


def stylesheet() -> str:
    """Return the style of all pages."""
    return resources.files("personalllm.report").joinpath("templates", "report.css").read_text(encoding="utf-8")
