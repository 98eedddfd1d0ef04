"""Choose the view of a track by its id; tracks without a view of their own get the general one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from personalllm.core.registry import Registry
from personalllm.evaluation.parts import TRACKS
from personalllm.report.views.base import HISTORIES, View

if TYPE_CHECKING:
    from personalllm.evaluation.results import Results

__all__ = ["View", "make_view", "make_views", "views"]

views = Registry(
    "view",
    {
        "rank": "personalllm.report.views.rank:RankView",
        "generate": "personalllm.report.views.generate:GenerateView",
        "predict": "personalllm.report.views.predict:PredictView",
        "online": "personalllm.report.views.online:OnlineView",
        "rank-people": "personalllm.report.views.people:PeopleRankView",
        "predict-people": "personalllm.report.views.people:PeopleView",
    },
)
"""Views by track, `TRACK-people` for runs on people; plug-ins add theirs through entry points `personalllm.view`."""


def make_view(results: Results, key: str = "", versus: str | None = None, label: str = "") -> View:
    """Return the view of a run.

    Args:
        results: Of any track.
        key: Anchor in a page; empty: the name of the track.
        versus: Label that differences are taken from; None: the best method.
        label: What to call the run among others; empty: its track.
    """
    names = [f"{results.track}-people"] if results.protocol.get("folds") else []
    cls = next((views.load(name) for name in (*names, results.track) if name in views), View)
    view: View = cls(results, key or _anchor(results.track), versus, label or results.track.capitalize())
    return view


def make_views(results: Sequence[Results], versus: str | None = None) -> tuple[View, ...]:
    """Return the views of several runs with keys that are unique in a page.

    Those on the same data are together, in the order of the tracks, and runs with other histories stand after those
    with the users' own.

    Args:
        results: One or several.
        versus: Label that differences are taken from in the runs that have it; None: the best method.
    """
    tracks = list(dict.fromkeys((*TRACKS.builtin, *sorted(run.track for run in results))))
    own = [make_view(run) for run in results]
    own.sort(key=lambda view: (view.results.data_name, tracks.index(view.results.track), view.history != "none"))
    numbers: Counter[str] = Counter()
    sections = []
    for view, label in zip(own, _labels(own), strict=True):
        numbers[view.key] += 1
        key = view.key if numbers[view.key] == 1 else f"{view.key}-{numbers[view.key]}"
        has_rival = any(row.label == versus for row in view.results.methods)
        sections.append(make_view(view.results, key, versus if has_rival else None, label))
    return tuple(sections)


def _labels(among: Sequence[View]) -> list[str]:
    """Return what to call runs of one page: the track, and what differs between those of one track."""
    tracks = Counter(view.label for view in among)
    data = Counter((view.label, view.results.data_name) for view in among)
    seen: Counter[str] = Counter()
    labels = []
    for view in among:
        words = view.label
        if tracks[view.label] > data[view.label, view.results.data_name]:
            words = f"{view.label}: {view.results.data_name}"
        if view.history != "none":
            words = f"{view.label}: {HISTORIES.get(view.history, view.history)}"
        seen[words] += 1
        labels.append(words if seen[words] == 1 else f"{words} ({seen[words]})")
    return labels


def _anchor(track: str) -> str:
    """Return the name of a track as it may stand in an address and in the name of a file."""
    return re.sub(r"[^a-z0-9]+", "-", track.lower()).strip("-") or "run"
