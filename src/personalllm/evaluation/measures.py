"""Measure answers: from choices and test pairs to numbers of each user, which every metric is made of."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from personalllm.core.crossed import N_BUCKETS, hashed_cells
from personalllm.core.errors import AxisMismatch, ParameterError
from personalllm.core.types import F32, F64, I8, I32, I64

__all__ = [
    "MEAN_GRAIN",
    "N_BINS",
    "SUM_GRAIN",
    "PairAnswers",
    "best_of_n_regret",
    "choice_columns",
    "contested_quarter",
    "crossed",
    "kendall_tau",
    "margins",
    "pair_columns",
    "pair_strata",
    "pair_sums",
    "pairing_digest",
    "reliability",
    "rounded",
    "wins",
]

Columns: TypeAlias = dict[str, F32]

N_BINS = 15
"""Equal-width bins of the confidence, from 1/2 to 1."""

SUM_GRAIN, MEAN_GRAIN = 2.0**24, 2.0**32
"""Multiples of 1 / grain that sums and means of users are rounded to before they are added over users.

With 53 bits of a float64, sums over users of up to 2**29 and means of up to 2**21 are then exact, so neither the order
of the users nor the number of threads of the matrix product can change a digit.
"""

_MAX_MARGIN = 60.0
_COUNTED = ("n", "correct", "log_loss")
"""Columns that strata of pairs have."""
_TAU_ROWS = 200_000


def wins(utility: F32, other: F32) -> F32:
    """Return 1 where `utility` is higher, 0.5 where both are equal, 0 where it is lower.

    Args:
        utility: float32, any shape, in standard deviations of the RMs.
        other: float32, the same shape.

    Returns:
        float32, the same shape; `wins(a, b) + wins(b, a) == 1`.

    >>> wins(np.float32([2, 1, 0]), np.float32([1, 1, 1])).tolist()
    [1.0, 0.5, 0.0]
    """
    won: F32 = np.greater(utility, other).astype(np.float32)
    return won + np.float32(0.5) * np.equal(utility, other).astype(np.float32)


def choice_columns(utility: F32, *, best: F32, population_best: F32, reference: F32 | None = None) -> dict[str, F64]:
    """Return what a method's choices gave, for each query.

    Args:
        utility: float32, any shape, of the chosen or written responses.
        best: The same of the user's best stored response.
        population_best: The same of the best choice that gives everybody the same response.
        reference: The same of the reference response model's response; None without one.

    Returns:
        float64 of that shape for each of `utility`, `win_rate_reference`, `win_rate_best`, `regret` = best - utility,
        `oracle_utility`, `population_best_utility`, `reference_utility`; without a reference those of it are left out.

    Raises:
        AxisMismatch: If the shapes differ.
    """
    given = [side for side in (utility, best, population_best, reference) if side is not None]
    if len({side.shape for side in given}) > 1:
        raise AxisMismatch(f"Utilities of different queries: {', '.join(str(side.shape) for side in given)}.")
    columns: dict[str, npt.NDArray[Any]] = {
        "utility": utility,
        "win_rate_best": wins(utility, best),
        # in float64: the difference of two near utilities would lose its last digits in float32
        "regret": best.astype(np.float64) - utility,
        "oracle_utility": best,
        "population_best_utility": population_best,
    }
    if reference is not None:
        columns |= {"win_rate_reference": wins(utility, reference), "reference_utility": reference}
    return {name: column.astype(np.float64) for name, column in columns.items()}


def crossed(
    user: I32,
    prompt: I32,
    columns: Mapping[str, npt.NDArray[Any]],
    groups: Mapping[str, npt.NDArray[np.bool_]] | None = None,
    strata: Mapping[str, npt.NDArray[np.bool_]] | None = None,
    *,
    pooled: bool = False,
) -> tuple[Columns, Columns]:
    """Return what intervals over users and prompts need beside the sums of users: `Sums.prompts` and `Sums.cells`.

    Every user weighs the same, however many answers they gave; if pooled, every answer does.

    Args:
        user: int32 (n,), of each answer, >= 0.
        prompt: int32 (n,), likewise; any numbers that stand for prompts.
        columns: Name -> (n,): what metrics are means of.
        groups: Groups of users -> bool (n,): whether an answer is of one.
        strata: Strata of answers, in which every answer weighs the same -> bool (n,): whether an answer is in it.
        pooled: Whether answers weigh the same, not users.
    """
    index = np.unique(prompt, return_inverse=True)[1].ravel()
    weights = np.ones(len(user)) if pooled or not len(user) else 1.0 / np.bincount(user)[user]
    bucket, sign = hashed_cells(user, prompt)
    values = {"n": np.ones(len(user)), **columns}
    prompts: Columns = {}
    cells: Columns = {}

    def add(part: str, name: str, amounts: F64) -> None:
        prompts[f"{part}:{name}"] = _total(index, amounts)

    for name, column in values.items():
        weighted = weights * column
        add("all", name, weighted)
        cells[f"all:{name}"] = _total(bucket, sign * weighted, N_BUCKETS)
        for group, member in (groups or {}).items():
            add(group, name, np.where(member, weighted, 0.0))
        if name in _COUNTED:
            for stratum, member in (strata or {}).items():
                add(stratum, name, np.where(member, column, 0.0))
    return prompts, cells


def _total(index: I64, values: F64, length: int = 0) -> F32:
    return np.bincount(index, values, minlength=length).astype(np.float32)


def margins(preference: F32, chosen: npt.NDArray[Any], rejected: npt.NDArray[Any]) -> F32:
    """Return the preference for the chosen response minus that for the rejected one, float32 (n,).

    Two equal infinities are a tie: their difference would be NaN, although neither response is preferred.

    Args:
        preference: float32 (n, n_responses), higher is better.
        chosen: Integers (n,), columns of `preference`.
        rejected: Likewise.

    >>> margins(np.float32([[np.inf, np.inf, 1]] * 2), np.array([0, 0]), np.array([1, 2])).tolist()
    [0.0, inf]
    """
    row = np.arange(len(preference))
    first, second = preference[row, chosen], preference[row, rejected]
    with np.errstate(invalid="ignore", over="ignore"):
        margin: F32 = np.where(first == second, np.float32(0), first - second)
    return margin


def best_of_n_regret(preference: F32, utility: F32) -> F32:
    """Return the user's best utility minus that of the response ranked first; of a tie for first index the mean.

    The mean over ties is what a random choice among them would lose; the first of them would depend on the order of
    the columns.

    Args:
        preference: float32 (n, n_responses), of a method.
        utility: float32 (n, n_responses), of the user.

    Returns:
        float32 (n,), >= 0.

    >>> best_of_n_regret(np.float32([[2, 1, 0], [1, 1, 0]]), np.float32([[0, 3, 1], [4, 0, 1]])).tolist()
    [3.0, 2.0]
    """
    first = preference == preference.max(axis=1, keepdims=True)
    reached = np.where(first, utility, 0).sum(axis=1, dtype=np.float64) / first.sum(axis=1)
    regret: F32 = (utility.max(axis=1) - reached).astype(np.float32)
    return regret


def kendall_tau(preference: F32, utility: F32) -> F32:
    r"""Return Kendall's tau-b of each row; 0 where one side is constant.

    $\tau_b = \sum_{i<j} s_{ij} t_{ij} / \sqrt{\sum s_{ij}^2 \sum t_{ij}^2}$ with the signs s, t of the differences.

    Args:
        preference: float32 (n, n_responses), of a method.
        utility: float32 (n, n_responses), of the user.

    Returns:
        float32 (n,), in [-1, 1].

    >>> kendall_tau(np.float32([[1, 2, 3], [1, 1, 1]]), np.float32([[3, 2, 1], [3, 2, 1]])).tolist()
    [-1.0, 0.0]
    """
    a, b = np.triu_indices(preference.shape[1], 1)
    tau = np.zeros(len(preference), np.float32)
    for start in range(0, len(preference), _TAU_ROWS):
        rows = slice(start, start + _TAU_ROWS)
        s, t = (_signs(side[rows], a, b) for side in (preference, utility))
        concordant = (s * t).sum(axis=1, dtype=np.int64)
        untied = np.count_nonzero(s, axis=1) * np.count_nonzero(t, axis=1)
        tau[rows] = np.divide(concordant, np.sqrt(untied), out=np.zeros(len(s)), where=untied > 0)
    return tau


def _signs(values: F32, a: npt.NDArray[np.intp], b: npt.NDArray[np.intp]) -> I8:
    """Return int8 (n, n_pairs): 1 where the first of a pair is higher, -1 where it is lower.

    Compared, not subtracted: two equal infinities are a tie.
    """
    higher: I8 = (values[:, a] > values[:, b]).astype(np.int8)
    higher -= values[:, a] < values[:, b]
    return higher


def contested_quarter(share: F32) -> I64:
    """Return in which quarter of [0, 1] a share lies, 1 to 4; 4 where at least three quarters prefer the other.

    >>> contested_quarter(np.float32([0, 0.25, 0.6, 1])).tolist()
    [1, 2, 3, 4]
    """
    quarter: I64 = np.minimum((share * 4).astype(np.int64), 3) + 1
    return quarter


@dataclass(frozen=True, eq=False, slots=True)
class PairAnswers:
    """Test pairs and what a method predicts of them; rows may stand in any order.

    Attributes:
        n_clusters: Users, or prompts, whose pairs are added up.
        cluster: int32 (n,), in [0, n_clusters).
        margin: float32 (n,), see `margins`; log-odds if the method says so.
        regret: float32 (n,), see `best_of_n_regret`; None where utilities are unknown.
        tau: float32 (n,), see `kendall_tau`; None where utilities are unknown.
        share: float32 (n,), share of the pool population that prefers the rejected response; None if unknown.
        longer: int8 (n,), 1 if the chosen response is the longer one, -1 if the shorter, 0 if equal; None if unknown.
        log_odds: Whether margins are log-odds, so that log-loss, Brier score and ECE are defined.
    """

    n_clusters: int
    cluster: I32
    margin: F32
    regret: F32 | None = None
    tau: F32 | None = None
    share: F32 | None = None
    longer: I8 | None = None
    log_odds: bool = True

    def __post_init__(self) -> None:
        for name in ("margin", "regret", "tau", "share", "longer"):
            column = getattr(self, name)
            if column is not None and column.shape != self.cluster.shape:
                raise AxisMismatch(f"{len(self.cluster)} test pairs but {name} of shape {column.shape}.")
        if len(self.cluster) and not (self.cluster.min() >= 0 and self.cluster.max() < self.n_clusters):
            ends = (int(self.cluster.min()), int(self.cluster.max()))
            raise ParameterError("cluster", f"in [0, {self.n_clusters})", ends)
        if np.isnan(self.margin).any():
            raise ParameterError("margin", "without NaN", "NaN")


def pair_columns(answers: PairAnswers) -> dict[str, F64]:
    """Return what each test pair adds to the metrics, float64 (n,) each.

    `correct` (a margin of 0 counts 1/2); `regret` and `tau` if utilities are known; `log_loss` and `brier` if margins
    are log-odds.
    """
    columns = {"correct": np.where(answers.margin > 0, 1.0, np.where(answers.margin < 0, 0.0, 0.5))}
    for name in ("regret", "tau"):
        if getattr(answers, name) is not None:
            columns[name] = getattr(answers, name).astype(np.float64)
    if answers.log_odds:
        margin = _clipped(answers)
        columns |= {"log_loss": np.logaddexp(0.0, -margin), "brier": (1.0 / (1.0 + np.exp(margin))) ** 2}
    return columns


def _clipped(answers: PairAnswers) -> F64:
    """Return margins within +-60: there a wrong one's loss stays finite and a right one's is below 1e-26."""
    return np.clip(answers.margin.astype(np.float64), -_MAX_MARGIN, _MAX_MARGIN)


def pair_strata(answers: PairAnswers) -> dict[str, npt.NDArray[np.bool_]]:
    """Return stratum of test pairs -> bool (n,): `contested-1` to `-4`, and `longer` and `shorter` chosen responses."""
    strata: dict[str, npt.NDArray[np.bool_]] = {}
    if answers.share is not None:
        quarter = contested_quarter(answers.share)
        strata = {f"contested-{q}": quarter == q for q in range(1, 5)}
    if answers.longer is not None:
        strata |= {"shorter": answers.longer < 0, "longer": answers.longer > 0}
    return strata


def pair_sums(answers: PairAnswers) -> Columns:
    """Add up the test pairs of each user (or prompt): one pass over the pairs, of which every metric is made.

    Args:
        answers: The pairs under one condition.

    Returns:
        float32 (n_clusters,) each: `n`, those of `pair_columns`; for each bin `bin00_n`, `bin00_confidence`,
        `bin00_correct` if margins are log-odds; for each quarter of contest `contested1_n`, `contested1_correct`,
        `contested1_log_loss`; `longer_n`, `longer_correct`, `shorter_n`, `shorter_correct`. What is unknown is left
        out, so that it becomes NaN and never 0.
    """
    columns = {"n": np.ones(len(answers.margin)), **pair_columns(answers)}
    sums = _add(answers, None, ("",), columns)
    counted: dict[str, F64] = {name: columns[name] for name in _COUNTED if name in columns}
    if answers.log_odds:
        wrong = 1.0 / (1.0 + np.exp(_clipped(answers)))
        confidence = np.maximum(wrong, 1.0 - wrong)
        # a confidence of 1 belongs to the last bin, not to one behind it
        bins = np.minimum(((confidence - 0.5) * (2 * N_BINS)).astype(np.int64), N_BINS - 1)
        binned = {"n": columns["n"], "confidence": confidence, "correct": columns["correct"]}
        sums |= _add(answers, bins, [f"bin{b:02d}_" for b in range(N_BINS)], binned)
    if answers.share is not None:
        sums |= _add(answers, contested_quarter(answers.share) - 1, [f"contested{q}_" for q in range(1, 5)], counted)
    if answers.longer is not None:
        side = answers.longer.astype(np.int64) + 1
        sided = _add(
            answers, side, ("shorter_", "equal_", "longer_"), {name: counted[name] for name in ("n", "correct")}
        )
        sums |= {name: values for name, values in sided.items() if not name.startswith("equal_")}
    return sums


def _add(answers: PairAnswers, part: I64 | None, prefixes: Sequence[str], columns: Mapping[str, F64]) -> Columns:
    """Add up each cluster's pairs by part, an index into the prefixes; None: all in the first.

    Added in float64 and cast last: sums in float32 would depend on the order of the pairs.
    """
    width = len(prefixes)
    index = answers.cluster if part is None else answers.cluster.astype(np.int64) * width + part
    sums: Columns = {}
    for name, values in columns.items():
        total = np.bincount(index, values, minlength=answers.n_clusters * width).reshape(-1, width).astype(np.float32)
        sums |= {f"{prefix}{name}": np.ascontiguousarray(total[:, b]) for b, prefix in enumerate(prefixes)}
    return sums


def pairing_digest(*columns: npt.NDArray[Any], data: str = "") -> str:
    """Return a digest of what was asked of whom: results with equal digests may be compared user by user.

    Args:
        columns: What no method can change, e.g. the user, the prompt and the two responses of every test pair.
        data: Fingerprint of the data that the columns are positions in; empty if they are the content themselves.

    >>> pairing_digest(np.array([1, 2])) == pairing_digest(np.array([2, 1]))
    False
    """
    content = hashlib.sha256(data.encode())
    for column in columns:
        little = np.ascontiguousarray(column.astype(column.dtype.newbyteorder("<")))
        content.update(f"{little.dtype.str}{little.shape}".encode())
        content.update(little.tobytes())
    return content.hexdigest()[:24]


def rounded(values: F64, grain: float) -> F64:
    """Return the nearest multiples of 1 / grain."""
    multiples: F64 = np.rint(values * grain) / grain
    return multiples


def reliability(columns: Mapping[str, F32]) -> list[tuple[float, float, int, float, float]]:
    """Return a row for each bin of confidence: its ends, its number of pairs, their mean confidence and accuracy.

    Args:
        columns: From `pair_sums`, of one method under one condition.

    Returns:
        Empty if the margins are not log-odds; confidence and accuracy are NaN in an empty bin.
    """
    rows = []
    for b in range(N_BINS if "bin00_n" in columns else 0):
        n, confidence, correct = (
            math.fsum(columns[f"bin{b:02d}_{name}"].tolist()) for name in ("n", "confidence", "correct")
        )
        means = (confidence / n, correct / n) if n else (math.nan, math.nan)
        rows.append((0.5 + b / (2 * N_BINS), 0.5 + (b + 1) / (2 * N_BINS), int(n), *means))
    return rows
