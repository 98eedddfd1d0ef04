"""Which cell of a sweep is best, and what can be said of it: paired tests over users, corrected for their number."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from personalllm.core.stats import holm, sign_flip_p
from personalllm.evaluation.comparisons import compare_per_user
from personalllm.evaluation.protocol import Protocol
from personalllm.evaluation.results import Estimate, MethodResult
from personalllm.evaluation.settings import shown
from personalllm.methods.base import Method

__all__ = ["LEVEL", "Comparison", "Contest", "SweepCell", "SweepRow", "hold_contests"]

LEVEL = 0.05
"""Family-wise error at which a winner is named."""

_NAMED = 6
_DRAWS = 9_999
_DRAWS_PER_COMPARISON = 400


@dataclass(frozen=True, eq=False)
class SweepCell:
    """A combination of values: one method under one protocol.

    Attributes:
        base: The method that was varied, as it was named.
        values: Axis -> value.
        method: With the cell's parameters, unfitted.
        label: The method's label.
        protocol: With the cell's settings, not yet bound to backends.
        n_users: Users who are evaluated.
        n_queries: Queries in all: in the generate track, requests to the chat model.
    """

    base: str
    values: Mapping[str, Any]
    method: Method
    label: str
    protocol: Protocol
    n_users: int
    n_queries: int

    def __str__(self) -> str:
        """Return the method and the values in one line."""
        return ", ".join([self.base, *(f"{name}={shown(value)}" for name, value in self.values.items())])


@dataclass(frozen=True, eq=False)
class SweepRow:
    """A cell and what came of it.

    Attributes:
        cell: The cell.
        result: Its metrics.
        fingerprint: Of the protocol, backends included.
        preset: How the protocol relates to its preset; empty if it has none.
    """

    cell: SweepCell
    result: MethodResult
    fingerprint: str
    preset: str = ""


@dataclass(frozen=True, eq=False)
class Comparison:
    """The best cell against another one.

    Attributes:
        row: The other one.
        difference: Mean utility of the best minus that of the other, paired by user.
        p_value: Two-sided, of the sign-flip test over users.
        p_holm: The same, corrected for all comparisons of the contest.
    """

    row: SweepRow
    difference: Estimate
    p_value: float
    p_holm: float


@dataclass(frozen=True, eq=False)
class Contest:
    """The cells that were evaluated on the same users and queries, and the best of them by mean utility.

    Attributes:
        rows: In the order of the sweep.
        best: The highest mean utility.
        comparisons: With every other row.
    """

    rows: tuple[SweepRow, ...]
    best: SweepRow
    comparisons: tuple[Comparison, ...]

    @cached_property
    def ties(self) -> tuple[SweepRow, ...]:
        """The cells that cannot be told from the best at the family-wise level."""
        return tuple(comparison.row for comparison in self.comparisons if comparison.p_holm > LEVEL)

    @property
    def winner(self) -> SweepRow | None:
        """The best cell if it beats every other one at the family-wise level, else None."""
        return self.best if self.comparisons and not self.ties else None

    def comparison(self, row: SweepRow) -> Comparison | None:
        """Return the best cell's comparison with a row; None for the best cell itself."""
        return next((compared for compared in self.comparisons if compared.row is row), None)

    def verdict(self, row: SweepRow) -> str:
        """Return what a row is, in a few words."""
        if row is self.best:
            return "winner" if self.winner else "best, no winner" if self.comparisons else "alone"
        return "cannot be told from the best" if row in self.ties else "behind"

    def sentence(self) -> str:
        """Say what can be said of the best cell."""
        n_users = self.best.result.n_users
        among = f"among {len(self.rows)} cells on the same {n_users:,} users"
        if not self.comparisons:
            return f"{self.best.cell}: the only cell on its {n_users:,} users, so it is compared with none."
        tests = f"paired sign-flip tests over users, Holm-corrected for {len(self.comparisons)} comparisons"
        largest = max(comparison.p_holm for comparison in self.comparisons)
        shrink = "It was chosen on these users: expect its lead to shrink on others."
        if self.winner:
            return f"Winner {among}: {self.best.cell} ({tests}; largest p {largest:.2g}). {shrink}"
        ties = "; ".join(str(row.cell) for row in self.ties[:_NAMED])
        if len(self.ties) > _NAMED:
            ties += f"; and {len(self.ties) - _NAMED} more, marked in the table"
        few = len(self.comparisons) * 2.0 ** (1 - n_users) > LEVEL
        return (
            f"No winner {among}. The highest mean utility is that of {self.best.cell}, but it cannot be told from: "
            f"{ties} ({tests}, at {LEVEL:.0%}).{' So few users could not make a winner.' if few else ''}"
        )


def hold_contests(rows: Sequence[SweepRow]) -> tuple[Contest, ...]:
    """Return a contest for each set of rows with the same users and queries; of equal means the first row is best."""
    groups: dict[str, list[SweepRow]] = {}
    for row in rows:
        groups.setdefault(_users(row), []).append(row)
    return tuple(_contest(tuple(group)) for group in groups.values())


def _users(row: SweepRow) -> str:
    """Return a digest of all that is the same for rows that may be compared: see `comparisons.check_paired`."""
    stored = ("oracle_utility", "population_best_utility", "reference_utility")
    content = b"".join(row.result.per_user[name].tobytes() for name in stored)
    return f"{row.result.n_users} {row.result.n_queries} {hashlib.sha256(content).hexdigest()}"


def _contest(rows: tuple[SweepRow, ...]) -> Contest:
    best = max(rows, key=lambda row: row.result.metrics["mean_utility"].value)
    others = [row for row in rows if row is not best]
    if not others:
        return Contest(rows, best, ())
    utility = [row.result.per_user["mean_utility"].astype(np.float64) for row in (best, *others)]
    gaps = utility[0][:, None] - np.stack(utility[1:], axis=1)
    protocol = best.cell.protocol
    p_values = sign_flip_p(gaps, draws=max(_DRAWS, _DRAWS_PER_COMPARISON * len(others)), seed=protocol.seed)
    differences = [
        compare_per_user(best.result, row.result, seed=protocol.seed, draws=protocol.bootstrap_draws)["mean_utility"]
        for row in others
    ]
    compared = zip(others, differences, p_values.tolist(), holm(p_values).tolist(), strict=True)
    return Contest(rows, best, tuple(Comparison(*values) for values in compared))
