"""What section 4 of the paper reports: the numbers of its log, and which of them it prints."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from personalllm.core.storage import shipped_text

__all__ = ["PAPER_USERS", "PaperRow", "cross_user_row", "find_paper_row", "paper_rows", "win_rate_error"]

PAPER_USERS = 1000
"""Users, each with one query, behind every number of section 4."""


@dataclass(frozen=True, slots=True)
class PaperRow:
    """One run of the paper's log (one seed, 1,000 users, Llama-3-8B-Instruct, 512 new tokens).

    Attributes:
        method: Registered id of the method here.
        shots: Examples shown; 0 for zero-shot.
        feedback: What of each pair is shown; empty for zero-shot.
        embedding: How a user's vector is made (`meta-icl`); empty elsewhere.
        embedding_pairs: Pairs of each pool user that the vector is made from; 0 where there is none.
        n_similar: Similar users that examples are taken from; 0 where there are none.
        pool_users: Users of the pool; 0 where there is none.
        utility: Mean utility, in standard deviations of the RMs.
        win_rate_reference: Share of responses better than gpt-4o's, in [0, 1].
        win_rate_best: Share of responses better than the user's best stored one, in [0, 1].
        printed: The paper prints this run's numbers.
        run_again: A later run of the same settings replaced this one.
    """

    method: str
    shots: int
    feedback: str
    embedding: str
    embedding_pairs: int
    n_similar: int
    pool_users: int
    utility: float
    win_rate_reference: float
    win_rate_best: float
    printed: bool
    run_again: bool

    def value(self, metric: str) -> float:
        """Return `utility`, `win_rate_reference` or `win_rate_best`."""
        return float(getattr(self, metric))


@cache
def paper_rows() -> tuple[PaperRow, ...]:
    """Return all runs of the paper's log, in its order.

    >>> sum(row.printed for row in paper_rows()), len(paper_rows())
    (19, 123)
    """
    text = shipped_text("personalllm.papers.personalllm_2025", "section4.csv")
    return tuple(_row(values) for values in csv.DictReader(text.splitlines()))


def _row(values: dict[str, str]) -> PaperRow:
    return PaperRow(
        method=values["method"],
        shots=int(values["shots"]),
        feedback=values["feedback"],
        embedding=values["embedding"],
        embedding_pairs=int(values["embedding_pairs"] or 0),
        n_similar=int(values["n_similar"] or 0),
        pool_users=int(values["pool_users"] or 0),
        utility=float(values["mean_utility"]),
        win_rate_reference=round(float(values["win_rate_reference_percent"]) / 100, 6),
        win_rate_best=round(float(values["win_rate_best_percent"]) / 100, 6),
        printed=values["printed"] == "yes",
        run_again=values["run_again"] == "yes",
    )


def find_paper_row(
    method: str,
    shots: int,
    *,
    feedback: str = "",
    embedding: str = "",
    pool_users: int = 10_000,
    n_similar: int = 20,
) -> PaperRow | None:
    """Return the run to set beside a result of ours, or None if the log has none.

    A printed run comes first. Of several that are not printed, the one whose pool and then whose number of similar
    users are nearest to what is wanted (the smaller of two as near); the defaults are those of the paper's text.

    Args:
        method: Registered id.
        shots: Examples shown.
        feedback: What of each pair is shown; not looked at for zero-shot.
        embedding: How a user's vector is made; looked at for `meta-icl` only.
        pool_users: Wanted users of the pool, where no run is printed.
        n_similar: Wanted similar users, where no run is printed.

    >>> find_paper_row("icl", 3, feedback="winning").utility
    -0.232245
    >>> find_paper_row("lookup-icl", 3, feedback="winning").n_similar
    15
    """
    rows = [
        row
        for row in paper_rows()
        if (row.method, row.shots) == (method, shots)
        and (row.feedback == feedback or method == "zero-shot")
        and (row.embedding == embedding or method != "meta-icl")
    ]
    return _preferred(rows, pool_users, n_similar)


def _preferred(rows: Iterable[PaperRow], pool_users: int = 10_000, n_similar: int = 20) -> PaperRow | None:
    def order(row: PaperRow) -> tuple[bool, int, int, int, int]:
        pool, similar = abs(row.pool_users - pool_users), abs(row.n_similar - n_similar)
        return (not row.printed, pool, -row.embedding_pairs, similar, row.n_similar)

    return min(rows, key=order, default=None)


def cross_user_row(embedding: str) -> PaperRow | None:
    """Return the run of `meta-icl` in the log whose settings are nearest to the text of section 4.

    The text says 10,000 pool users, 50 pairs for each embedding, 20 similar users; the log has 5 or 30 of the last.

    >>> row = cross_user_row("winning")
    >>> row.pool_users, row.embedding_pairs, row.n_similar
    (10000, 50, 30)
    """
    rows = [row for row in paper_rows() if row.method == "meta-icl" and row.embedding == embedding]
    return _preferred(row for row in rows if not row.printed)


def win_rate_error(*rates: float, weights: Iterable[float] | None = None, n: int = PAPER_USERS) -> float:
    r"""Return the standard error of a sum of win rates, taken as independent.

    $\sqrt{\sum_i c_i^2 p_i (1 - p_i) / n}$. The paper's runs share their users, so the error of a difference of two
    runs is likely smaller, and that of a mean over the shots of one method may be larger; its log does not tell.

    Args:
        *rates: Shares in [0, 1].
        weights: Their coefficients; None for all 1.
        n: Number of users.

    >>> round(100 * win_rate_error(0.204), 2), round(100 * win_rate_error(0.245, 0.177, weights=(1, -1)), 2)
    (1.27, 1.82)
    """
    coefficients = (1.0,) * len(rates) if weights is None else tuple(weights)
    return math.sqrt(sum(c * c * p * (1 - p) for c, p in zip(coefficients, rates, strict=True)) / n)
