"""What the report shows of one track: its methods and references, in order, and how to speak of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from personalllm.evaluation import MethodResult, Results

__all__ = [
    "METRICS",
    "POPULATION_BEST",
    "Metric",
    "TrackView",
    "as_sequence",
    "flatten",
    "leaves",
    "track_views",
    "user_benefits",
    "user_values",
]

POPULATION_BEST = "population-best"


@dataclass(frozen=True, slots=True)
class Metric:
    """A column of the leaderboard: its key, its heading, what stands below the heading, and whether it is a share."""

    key: str
    heading: str
    note: str = ""
    share: bool = False


METRICS = (
    Metric("mean_utility", "Mean utility", "sd of the scores"),
    Metric("gain", "Gain", "1 = oracle"),
    Metric("win_rate_reference", "Win rate", "vs {reference_model}", share=True),
    Metric("win_rate_best", "Win rate", "vs user\u2019s best stored", share=True),
    Metric("regret", "Regret", "lower is better"),
)
"""The metrics in the order of the columns."""


@dataclass(frozen=True, eq=False)
class TrackView:
    """One track of one protocol.

    Attributes:
        key: Anchor in the page, unique among the views of a report.
        track: `"rank"` or `"generate"`.
        results: Where the numbers come from.
        methods: Methods, best mean utility first.
        references: References (computed from the scores, no method), best mean utility first.
    """

    key: str
    track: str
    results: Results
    methods: tuple[MethodResult, ...]
    references: tuple[MethodResult, ...]

    @property
    def rows(self) -> tuple[MethodResult, ...]:
        """Methods, then references."""
        return self.methods + self.references

    @property
    def drawn(self) -> tuple[MethodResult, ...]:
        """The rows that figures show: all but the worst stored response, which would squeeze the others together."""
        return tuple(row for row in self.rows if row.kind == "method" or row.id != "worst")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics that at least one row has."""
        return tuple(metric for metric in METRICS if any(metric.key in row.metrics for row in self.rows))

    @property
    def reference_model(self) -> str:
        """The response model that win rates are against."""
        return str(self.results.protocol.get("reference_response_model") or "the reference")

    @property
    def reference_method(self) -> str:
        """Title of the row that paired differences are taken from; empty if there is none."""
        row = self.find(self.results.versus)
        return self.name(row) if row is not None else self.results.versus

    @property
    def n_users(self) -> int:
        """Most target users that a row has."""
        return max((row.n_users for row in self.rows), default=0)

    def note(self, metric: Metric, *, difference: bool = False) -> str:
        """Return what stands below the heading of a metric's column, the response model and the unit filled in."""
        text = metric.note.format(reference_model=self.reference_model)
        if difference and not metric.share:
            return metric.note if metric.key == "regret" else ""
        return f"{text}, {'points' if difference else '%'}" if metric.share else text

    def name(self, row: MethodResult) -> str:
        """Return a row's title, with its parameters where two rows have the same title."""
        title = row.title or row.id
        twins = sum((other.title or other.id) == title for other in self.rows)
        return title if twins == 1 else f"{title} {row.id[row.id.find('[') :] if '[' in row.id else f'({row.id})'}"

    def find(self, identifier: str) -> MethodResult | None:
        """Return the row with an id, if there is one."""
        return next((row for row in self.rows if row.id == identifier), None)


def utility_order(row: MethodResult) -> tuple[float, str]:
    """Sort key: higher mean utility first, then the title."""
    value = row.metrics["mean_utility"].value if "mean_utility" in row.metrics else -math.inf
    return (-value if math.isfinite(value) else math.inf, row.title)


def user_values(row: MethodResult, key: str = "mean_utility") -> npt.NDArray[np.float64] | None:
    """Return one value for each user, float64 (n_users,), or None if the row does not carry the key."""
    return np.asarray(row.per_user[key], dtype=np.float64) if key in row.per_user else None


def user_benefits(row: MethodResult) -> npt.NDArray[np.float64] | None:
    """Return by how much each user fares better than under the best policy that ignores who the user is.

    Returns:
        float64 (n_users,), in units of utility, or None if the row does not carry what is needed.
    """
    own, base = user_values(row), user_values(row, "population_best_utility")
    return own - base if own is not None and base is not None and own.shape == base.shape else None


def as_sequence(results: Results | Sequence[Results]) -> tuple[Results, ...]:
    """Return one or several results as a tuple."""
    return tuple(results) if isinstance(results, Sequence) else (results,)


def track_views(results: Sequence[Results]) -> tuple[TrackView, ...]:
    """Return the tracks of several results, rank before generate, keys unique."""
    found: list[tuple[str, Results]] = []
    for result in results:
        tracks = dict.fromkeys(row.track for row in result.methods)
        found += [(str(track), result) for track in tracks]
    found.sort(key=lambda pair: (pair[0] != "rank", pair[0]))
    views: list[TrackView] = []
    for track, result in found:
        same = sum(view.track == track for view in views)
        rows = [row for row in result.methods if row.track == track]
        views.append(
            TrackView(
                key=track if not same else f"{track}-{same + 1}",
                track=track,
                results=result,
                methods=tuple(sorted((row for row in rows if row.kind == "method"), key=utility_order)),
                references=tuple(sorted((row for row in rows if row.kind != "method"), key=utility_order)),
            )
        )
    return tuple(views)


def leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) for every leaf of a JSON object; a list of plain values is a leaf.

    >>> list(leaves({"a": {"b": 1, "c": [1, 2]}, "d": None}))
    [('a.b', 1), ('a.c', [1, 2]), ('d', None)]
    """
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, (list, tuple)) and any(isinstance(inner, (Mapping, list, tuple)) for inner in value):
        for index, inner in enumerate(value):
            yield from leaves(inner, f"{prefix}[{index}]")
    else:
        yield prefix, value


def flatten(value: Any) -> dict[str, str]:
    """Return the leaves of a JSON object as text, by dotted name.

    >>> flatten({"a": {"b": True, "c": [1, 2]}, "d": None})
    {'a.b': 'yes', 'a.c': '1, 2', 'd': 'none'}
    """
    return {
        key: ", ".join(map(_leaf, leaf)) if isinstance(leaf, (list, tuple)) and leaf else _leaf(leaf)
        for key, leaf in leaves(value)
    }


def _leaf(value: Any) -> str:
    if value is None or value == [] or value == {}:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
