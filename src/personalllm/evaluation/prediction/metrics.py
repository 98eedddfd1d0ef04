"""Metrics of the predict track: from test pairs to sums over each user's pairs.

A test pair has a margin, `rank[chosen] - rank[rejected]`, of which everything else follows. `user_sums` goes through
the pairs once; every metric, and every resample of users, is made of these sums (`prediction_estimates`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from personalllm.core.errors import AxisMismatch, ParameterError
from personalllm.core.types import F32, F64, I8, I32, JSON

__all__ = [
    "HIGHER_IS_BETTER",
    "N_BINS",
    "PREDICTION_METRICS",
    "USER_MEANS",
    "Cell",
    "PairSamples",
    "Sums",
    "best_of_n_regret",
    "contested_quarter",
    "kendall_tau",
    "user_means",
    "user_sums",
]

Sums: TypeAlias = dict[str, F32]

USER_MEANS = ("accuracy", "log_loss", "brier", "regret", "tau")
"""Metrics that are a mean over users of the user's own mean over test pairs."""

PREDICTION_METRICS = (
    *("accuracy", "log_loss", "ece", "brier", "regret", "tau"),
    *("length_controlled", "worst_decile", "minority"),
)
"""Metric keys of the predict track, in the order of its tables."""

HIGHER_IS_BETTER = {name: name not in ("log_loss", "ece", "brier", "regret") for name in PREDICTION_METRICS}
"""Whether more of a metric is better."""

N_BINS = 15
"""Equal-width bins of the confidence, from 1/2 to 1."""

_MOST_MARGIN = 60.0
_ROWS = 200_000
_SUM_OF = {"accuracy": "correct", "log_loss": "log_loss", "brier": "brier", "regret": "regret", "tau": "tau"}


@dataclass(frozen=True, order=True, slots=True)
class Cell:
    """A cell of the predict track's grid.

    Attributes:
        users: `unseen` (the target population) or `seen` (users of the pool).
        prompts: `unseen` (the split of the queries) or `seen` (the split of the histories).
        history: `true`, or a counterfactual: `flipped` labels, the history of an `other-user`.
        shots: Comparisons of the user that the learner adapted to.
    """

    users: Literal["unseen", "seen"]
    prompts: Literal["unseen", "seen"]
    history: Literal["true", "flipped", "other-user"]
    shots: int

    def __str__(self) -> str:
        """Return the cell in words.

        >>> str(Cell("unseen", "seen", "true", 4))
        'unseen users, seen prompts, 4 shots'
        """
        told = "" if self.history == "true" else f", {self.history} history"
        return f"{self.users} users, {self.prompts} prompts{told}, {self.shots} shots"

    def spec(self) -> JSON:
        """Return the cell as JSON."""
        return {name: getattr(self, name) for name in ("users", "prompts", "history", "shots")}

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Self:
        """Return the cell that `spec()` described."""
        return cls(spec["users"], spec["prompts"], spec["history"], int(spec["shots"]))


@dataclass(frozen=True, eq=False, slots=True)
class PairSamples:
    """The test pairs of a cell and what a learner made of them; rows may stand in any order.

    Attributes:
        n_users: Users of the cell; rows of the sums.
        user: int32 (n,), in [0, n_users).
        margin: float32 (n,), `rank[chosen] - rank[rejected]`; log-odds if the learner says so.
        regret: float32 (n,), see `best_of_n_regret`; None where utilities are not known.
        tau: float32 (n,), see `kendall_tau`; None where utilities are not known.
        share: float32 (n,), share of the pool population that prefers the rejected response; None if not known.
        longer: int8 (n,), 1 if the chosen response is the longer one, -1 if the shorter, 0 if equal; None if not
            known.
        log_odds: Whether margins are log-odds, so that log-loss, Brier score and ECE are defined.
    """

    n_users: int
    user: I32
    margin: F32
    regret: F32 | None = None
    tau: F32 | None = None
    share: F32 | None = None
    longer: I8 | None = None
    log_odds: bool = True

    def __post_init__(self) -> None:
        for name in ("margin", "regret", "tau", "share", "longer"):
            column = getattr(self, name)
            if column is not None and column.shape != self.user.shape:
                raise AxisMismatch(f"{len(self.user)} users of test pairs but {name} of shape {column.shape}.")
        if len(self.user) and not (self.user.min() >= 0 and self.user.max() < self.n_users):
            raise ParameterError("user", f"in [0, {self.n_users})", (int(self.user.min()), int(self.user.max())))
        if np.isnan(self.margin).any():
            raise ParameterError("margin", "without NaN", "NaN")


def best_of_n_regret(rank: F32, utility: F32) -> F32:
    """Return the user's best utility minus that of the response ranked first; of a tie for first place the mean.

    Args:
        rank: float32 (n, n_responses), a learner's preference.
        utility: float32 (n, n_responses), the user's.

    Returns:
        float32 (n,), >= 0.

    >>> best_of_n_regret(np.float32([[2, 1, 0], [1, 1, 0]]), np.float32([[0, 3, 1], [4, 0, 1]])).tolist()
    [3.0, 2.0]
    """
    first = rank == rank.max(axis=1, keepdims=True)
    reached = np.where(first, utility, 0).sum(axis=1, dtype=np.float64) / first.sum(axis=1)
    lost: F32 = (utility.max(axis=1) - reached).astype(np.float32)
    return lost


def kendall_tau(rank: F32, utility: F32) -> F32:
    r"""Return Kendall's tau-b of each row; 0 where one side is constant.

    $\tau_b = \sum_{i<j} s_{ij} t_{ij} / \sqrt{\sum s_{ij}^2 \sum t_{ij}^2}$ with the signs s, t of the differences.

    Args:
        rank: float32 (n, n_responses).
        utility: float32 (n, n_responses).

    Returns:
        float32 (n,), in [-1, 1].

    >>> kendall_tau(np.float32([[1, 2, 3], [1, 1, 1]]), np.float32([[3, 2, 1], [3, 2, 1]])).tolist()
    [-1.0, 0.0]
    """
    a, b = np.triu_indices(rank.shape[1], 1)
    found = np.zeros(len(rank), np.float32)
    for start in range(0, len(rank), _ROWS):
        rows = slice(start, start + _ROWS)
        s, t = (_signs(side[rows], a, b) for side in (rank, utility))
        concordant = (s * t).sum(axis=1, dtype=np.int64)
        untied = np.count_nonzero(s, axis=1) * np.count_nonzero(t, axis=1)
        found[rows] = np.divide(concordant, np.sqrt(untied), out=np.zeros(len(s)), where=untied > 0)
    return found


def _signs(values: F32, a: npt.NDArray[np.intp], b: npt.NDArray[np.intp]) -> I8:
    """Return int8 (n, n_pairs): 1 where the first of a pair is higher, -1 where it is lower."""
    higher: I8 = (values[:, a] > values[:, b]).astype(np.int8)
    higher -= values[:, a] < values[:, b]
    return higher


def contested_quarter(share: F32) -> npt.NDArray[np.int64]:
    """Return in which quarter of [0, 1] a share lies, 1 to 4; 4 where at least three quarters prefer the other.

    >>> contested_quarter(np.float32([0, 0.25, 0.6, 1])).tolist()
    [1, 2, 3, 4]
    """
    quarter: npt.NDArray[np.int64] = np.minimum((share * 4).astype(np.int64), 3) + 1
    return quarter


def user_sums(samples: PairSamples, strongest: I32 | None = None) -> Sums:
    """Add up each user's test pairs.

    Args:
        samples: The pairs of a cell.
        strongest: int32 (n_users,), the RM on which a user's weight is largest; None if users have no weights.

    Returns:
        float32 (n_users,) each: `n`, `correct` (a margin of 0 counts 1/2), `regret`, `tau`; `log_loss`, `brier` and
        for each bin `bin00_n`, `bin00_confidence`, `bin00_correct` if margins are log-odds; for each quarter of
        contest `contested1_n`, `contested1_correct`, `contested1_log_loss`; `longer_n`, `longer_correct`,
        `shorter_n`, `shorter_correct`; `strongest`. What is not known is left out.
    """
    correct = np.where(samples.margin > 0, 1.0, np.where(samples.margin < 0, 0.0, 0.5))
    columns: dict[str, F64] = {"n": np.ones(len(correct)), "correct": correct}
    for name in ("regret", "tau"):
        if getattr(samples, name) is not None:
            columns[name] = getattr(samples, name).astype(np.float64)
    margin = np.clip(samples.margin.astype(np.float64), -_MOST_MARGIN, _MOST_MARGIN)
    wrong = 1.0 / (1.0 + np.exp(margin))
    if samples.log_odds:
        columns |= {"log_loss": np.logaddexp(0.0, -margin), "brier": wrong**2}
    sums = _added(samples, None, ("",), columns)
    counted: dict[str, F64] = {name: columns[name] for name in ("n", "correct", "log_loss") if name in columns}
    if samples.log_odds:
        confidence = np.maximum(wrong, 1.0 - wrong)
        bins = np.minimum(((confidence - 0.5) * (2 * N_BINS)).astype(np.int64), N_BINS - 1)
        of_bin = {"n": columns["n"], "confidence": confidence, "correct": correct}
        sums |= _added(samples, bins, [f"bin{b:02d}_" for b in range(N_BINS)], of_bin)
    if samples.share is not None:
        sums |= _added(samples, contested_quarter(samples.share) - 1, [f"contested{q}_" for q in range(1, 5)], counted)
    if samples.longer is not None:
        side = samples.longer.astype(np.int64) + 1
        of_side = {name: counted[name] for name in ("n", "correct")}
        sides = _added(samples, side, ("shorter_", "equal_", "longer_"), of_side)
        sums |= {name: values for name, values in sides.items() if not name.startswith("equal_")}
    if strongest is not None:
        sums["strongest"] = strongest.astype(np.float32)
    return sums


def _added(
    samples: PairSamples,
    place: npt.NDArray[np.int64] | None,
    prefixes: Sequence[str],
    columns: Mapping[str, F64],
) -> Sums:
    """Add up each user's pairs by place, an index into the prefixes; None: all in the first."""
    width = len(prefixes)
    cell = samples.user if place is None else samples.user.astype(np.int64) * width + place
    sums: Sums = {}
    for name, values in columns.items():
        added = np.bincount(cell, values, minlength=samples.n_users * width).reshape(-1, width).astype(np.float32)
        sums |= {f"{prefix}{name}": np.ascontiguousarray(added[:, b]) for b, prefix in enumerate(prefixes)}
    return sums


def user_means(sums: Mapping[str, F32], metric: str) -> F64:
    """Return float64 (n_users,): each user's own mean of one of `USER_MEANS`; NaN where it is not known.

    Raises:
        ParameterError: If the metric is not a mean over users.
    """
    if metric not in _SUM_OF:
        raise ParameterError("metric", f"one of {', '.join(USER_MEANS)}", metric)
    n = sums["n"].astype(np.float64)
    total = sums.get(_SUM_OF[metric])
    if total is None:
        return np.full(len(n), np.nan)
    mean: F64 = np.divide(total, n, out=np.full(len(n), np.nan), where=n > 0)
    return mean
