"""Choose the view of a track by its id; tracks without a view of their own get the general one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from personalllm.core.registry import Registry
from personalllm.evaluation.parts import TRACKS
from personalllm.report.views.base import View

if TYPE_CHECKING:
    from personalllm.evaluation.results import Results

__all__ = ["View", "make_view", "make_views", "views"]

views = Registry(
    "view",
    {
        "rank": "personalllm.report.views.rank:RankView",
        "generate": "personalllm.report.views.generate:GenerateView",
        "predict": "personalllm.report.views.predict:PredictView",
        "predict-people": "personalllm.report.views.people:PeopleView",
    },
)
"""Views by track, `TRACK-people` for runs on people; outsiders add theirs through entry points `personalllm.view`."""


def make_view(results: Results, key: str = "", versus: str | None = None) -> View:
    """Return the view of a run.

    Args:
        results: Of any track.
        key: Anchor in a page; empty: the name of the track.
        versus: Label that differences are taken from; None: the best method.
    """
    names = [f"{results.track}-people"] if results.protocol.get("folds") else []
    cls = next((views.load(name) for name in (*names, results.track) if name in views), View)
    view: View = cls(results, key or _anchor(results.track), versus)
    return view


def make_views(results: Sequence[Results], versus: str | None = None) -> tuple[View, ...]:
    """Return the views of several runs, those of one track together, with keys that are unique in a page.

    Args:
        results: One or several.
        versus: Label that differences are taken from in the runs that have it; None: the best method.
    """
    order = list(dict.fromkeys((*TRACKS.builtin, *sorted(run.track for run in results))))
    numbers: Counter[str] = Counter()
    sections = []
    for run in sorted(results, key=lambda run: order.index(run.track)):
        anchor = _anchor(run.track)
        numbers[anchor] += 1
        key = anchor if numbers[anchor] == 1 else f"{anchor}-{numbers[anchor]}"
        has_rival = any(row.label == versus for row in run.methods)
        sections.append(make_view(run, key, versus if has_rival else None))
    return tuple(sections)


def _anchor(track: str) -> str:
    """Return the name of a track as it may stand in an address and in the name of a file."""
    return re.sub(r"[^a-z0-9]+", "-", track.lower()).strip("-") or "run"
