"""What section 4 of the paper says, as directions that another run can be held against.

A claim is a number made of the cells' means, and the sign that the paper gives it. The verdict follows from the 95 %
interval of that number in our run alone, by one rule for all claims (`verdict`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from personalllm.core.crossed import MIN_PAIRED_USERS, MIN_USERS, TAIL, Over
from personalllm.core.types import F64
from personalllm.evaluation.contract import Estimate
from personalllm.evaluation.means import Parts
from personalllm.papers.personalllm_2025.printed import win_rate_error

__all__ = [
    "ALIKE_SHARE",
    "CLAIM_METRICS",
    "FEWEST_USERS",
    "RULE",
    "Claim",
    "ClaimResult",
    "Interval",
    "Verdict",
    "crossed_interval",
    "judge",
    "paper_claims",
    "resampled_interval",
    "verdict",
]

Verdict: TypeAlias = Literal["same direction", "opposite", "unclear"]
ClaimMetric: TypeAlias = Literal["utility", "win_rate_reference"]

CLAIM_METRICS: tuple[ClaimMetric, ...] = ("utility", "win_rate_reference")
ALIKE_SHARE = 0.25
"""Methods are alike if they lie within this share of their mean improvement over zero-shot."""
FEWEST_USERS = 10
"""With fewer users no verdict is given: intervals are then a good deal too narrow."""
_STEP = 2.0**-10
RULE = (
    "Same direction: the 95 % interval of our number lies wholly on the side that the paper claims. Opposite: wholly "
    f"on the other side. Unclear: it covers 0, or there are fewer than {FEWEST_USERS} users."
)
_MODES = ("winning", "losing", "winning-and-losing", "losing-as-winning")
_EMBEDDINGS = ("winning-minus-losing", "winning", "losing")


@dataclass(frozen=True, slots=True)
class Claim:
    """A statement of the paper as the sign of a number.

    The number is `sum(coefficient * mean of the cell) - offset`; with `alike` it is the range of these cells' means
    less `ALIKE_SHARE` of the mean improvement of these cells over zero-shot.

    Attributes:
        id: Short name.
        text: The statement.
        number: What the number is, in words.
        sign: 1 if the paper says that the number is positive, -1 if negative.
        terms: Coefficients and cell ids.
        offset: Subtracted at the end.
        alike: Cell ids, for a statement that methods differ little.
        metrics: Metrics that the statement can be read in.
    """

    id: str
    text: str
    number: str
    sign: Literal[1, -1]
    terms: tuple[tuple[float, str], ...] = ()
    offset: float = 0.0
    alike: tuple[str, ...] = ()
    metrics: tuple[ClaimMetric, ...] = CLAIM_METRICS

    @property
    def cells(self) -> tuple[str, ...]:
        """Ids of the cells that the number is made of."""
        return (*self.alike, "zero-shot") if self.alike else tuple(cell for _, cell in self.terms)

    def value(self, means: Mapping[str, F64], pair: tuple[str, str] | None = None) -> F64:
        """Return the number, float64, of the shape of the means (one for each resample, say).

        Args:
            means: Mean of each cell.
            pair: With `alike`: the cells that count as highest and lowest.
        """
        if self.alike:
            high, low = pair or self.extremes(means)
            improvement = np.mean([means[cell] for cell in self.alike], axis=0) - means["zero-shot"]
            spread: F64 = means[high] - means[low] - ALIKE_SHARE * np.maximum(improvement, 0.0)
            return spread
        total: F64 = np.sum([c * np.asarray(means[cell], np.float64) for c, cell in self.terms], axis=0)
        return total - self.offset

    def extremes(self, means: Mapping[str, F64]) -> tuple[str, str]:
        """Return the highest and the lowest of the cells of `alike`."""
        return max(self.alike, key=lambda cell: float(means[cell])), min(self.alike, key=lambda c: float(means[c]))


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """A claim, the paper's number, ours, and the verdict.

    Attributes:
        claim: The claim.
        metric: Which metric the numbers are differences of.
        paper: The paper's number.
        paper_errors: How many standard errors it is from 0 (win rates of single runs; NaN elsewhere).
        ours: Our number with its paired 95 % interval.
        verdict: From `verdict`.
    """

    claim: Claim
    metric: ClaimMetric
    paper: float
    paper_errors: float
    ours: Estimate
    verdict: Verdict

    @property
    def paper_agrees(self) -> bool:
        """Whether the paper's own number has the sign of the claim in this metric."""
        return bool(self.paper * self.claim.sign > 0)


def verdict(estimate: Estimate, sign: int, n_users: int = FEWEST_USERS) -> Verdict:
    """Compare an interval with a sign; with fewer than `FEWEST_USERS` users the verdict is unclear.

    >>> verdict(Estimate(0.2, 0.1, 0.3), 1), verdict(Estimate(0.2, 0.1, 0.3), -1), verdict(Estimate(0.2, -0.1, 0.5), 1)
    ('same direction', 'opposite', 'unclear')
    """
    if n_users < FEWEST_USERS:
        return "unclear"
    if estimate.low > 0:
        return "same direction" if sign > 0 else "opposite"
    if estimate.high < 0:
        return "same direction" if sign < 0 else "opposite"
    return "unclear"


def _mean(cells: Sequence[str], sign: float = 1.0) -> tuple[tuple[float, str], ...]:
    return tuple((sign / len(cells), cell) for cell in cells)


def paper_claims(shots: Sequence[int]) -> tuple[Claim, ...]:
    """Return the claims that can be put to a run with these numbers of shots; means are over those of 1, 3, 5.

    Args:
        shots: Numbers of shots of the run.
    """
    ks = sorted({1, 3, 5}.intersection(shots))
    claims = [*_single(ks), *_pairs(ks), *_shots(ks)] if ks else []
    return tuple([*claims, *_across()] if 3 in ks else claims)


def _over(ks: Sequence[int]) -> str:
    return f"mean over {', '.join(map(str, ks))} shots" if len(ks) > 1 else f"{ks[0]} shots"


def _icl(mode: str, ks: Sequence[int]) -> list[str]:
    return [f"icl/{mode}/{k}" for k in ks]


def _single(ks: Sequence[int]) -> list[Claim]:
    """Each way of showing the history against none."""
    names = {"winning": "winning only", "losing": "losing only", "winning-and-losing": "winning and losing"}
    names["losing-as-winning"] = "losing mislabelled as winning"
    claims = [
        Claim(
            f"icl-{mode}-beats-zero-shot",
            f"ICL with the nearest prompts, {names[mode]}, beats zero-shot",
            f"ICL ({names[mode]}) minus zero-shot, {_over(ks)}",
            1,
            (*_mean(_icl(mode, ks)), (-1.0, "zero-shot")),
        )
        for mode in _MODES
    ]
    self_icl = [f"self-icl/winning/{k}" for k in ks]
    text = "ICL with five random prompts of the user (self-ICL) beats zero-shot"
    terms = (*_mean(self_icl), (-1.0, "zero-shot"))
    claims.append(Claim("self-icl-beats-zero-shot", text, f"self-ICL minus zero-shot, {_over(ks)}", 1, terms))
    return claims


def _pairs(ks: Sequence[int]) -> list[Claim]:
    """One way of showing the history against another."""
    table = (
        ("losing-below-winning", "Losing responses alone help less than winning ones", "losing only", "winning only",
         "losing", "winning"),
        ("losing-adds-nothing", "Adding the losing responses to the winning ones does not help", "winning and losing",
         "winning only", "winning-and-losing", "winning"),
        ("mislabelling-hurts-most", "Losing responses passed off as winning are the worst to show",
         "losing mislabelled as winning", "losing only", "losing-as-winning", "losing"),
    )  # fmt: skip
    claims = [
        Claim(name, text, f"{a} minus {b}, {_over(ks)}", -1, (*_mean(_icl(mode, ks)), *_mean(_icl(other, ks), -1.0)))
        for name, text, a, b, mode, other in table
    ]
    self_icl = [f"self-icl/winning/{k}" for k in ks]
    text, number = "Prompts near to the question help more than random ones", f"ICL minus self-ICL, {_over(ks)}"
    claims.append(Claim("near-beats-random", text, number, 1, (*_mean(_icl("winning", ks)), *_mean(self_icl, -1.0))))
    best = f"icl/winning/{ks[-1]}"
    text = "The best personalised prompt stays below the reference response model"
    number = f"win rate of ICL (winning only, {ks[-1]} shots) minus one half"
    claims.append(Claim("below-reference", text, number, -1, ((1.0, best),), 0.5, metrics=("win_rate_reference",)))
    return claims


def _shots(ks: Sequence[int]) -> list[Claim]:
    claims = []
    if len(ks) > 1:
        first, last = ks[0], ks[-1]
        for name, who, cell in (("icl", "ICL, winning only", "icl"), ("self-icl", "self-ICL", "self-icl")):
            terms = ((1.0, f"{cell}/winning/{last}"), (-1.0, f"{cell}/winning/{first}"))
            text = f"More shots help ({who})"
            claims.append(Claim(f"more-shots-{name}", text, f"{last} shots minus {first}, {who}", 1, terms))
    if ks == [1, 3, 5]:
        low, middle, high = _icl("winning", ks)
        bend = ((2.0, middle), (-1.0, low), (-1.0, high))
        text = "The second and third shot add more than the fourth and fifth (ICL, winning only)"
        claims.append(Claim("first-shots-count", text, "(3 minus 1 shots) minus (5 minus 3 shots)", 1, bend))
    return claims


def _across() -> list[Claim]:
    """Learning across users, at 3 shots."""
    cells = tuple(f"meta-icl/{embedding}/3" for embedding in _EMBEDDINGS)
    self_icl = "self-icl/winning/3"
    return [
        Claim(
            "across-beats-self",
            "Borrowing from similar users (winning minus losing) beats the user's own random history",
            "meta-ICL minus self-ICL, 3 shots",
            1,
            ((1.0, cells[0]), (-1.0, self_icl)),
        ),
        Claim(
            "embeddings-alike",
            "The three user embeddings differ little",
            f"their range, less {ALIKE_SHARE:g} of their mean improvement over zero-shot, 3 shots",
            -1,
            alike=cells,
        ),
    ]


Interval: TypeAlias = Callable[[Claim, Mapping[str, float], float], tuple[float, float]]
"""From a claim, our value of each cell and the probability beyond each end to the ends of an interval."""


def resampled_interval(
    draws: Mapping[str, F64], claim: Claim, values: Mapping[str, float], tail: float
) -> tuple[float, float]:
    """Return the interval of a claim's number over resampled users, the same users in every cell.

    Args:
        draws: Value of each cell of resampled users, float64 (n_draws,).
        claim: The claim.
        values: Our value of each cell.
        tail: Probability beyond each end.
    """
    pair = claim.extremes(_arrays(claim, values)) if claim.alike else None
    sampled = claim.value({cell: draws[cell] for cell in claim.cells}, pair)
    low, high = (float(end) for end in np.quantile(sampled, (tail, 1 - tail)))
    return low, high


def crossed_interval(
    parts: Mapping[str, Parts], claim: Claim, values: Mapping[str, float], tail: float, *, over: Over
) -> tuple[float, float]:
    """Return the interval of a claim's number over users and prompts; NaN where they are too few.

    Args:
        parts: The metric of each cell.
        claim: The claim.
        values: Our value of each cell.
        tail: Probability beyond each end.
        over: What the interval takes to be drawn at random.
    """
    means = _arrays(claim, values)
    terms = [parts[cell].top for cell in claim.cells]
    usable = [term for term in terms if term is not None]
    if len(usable) < len(terms):
        return math.nan, math.nan
    # the number is linear, or piecewise so (`alike`): the coefficients are its differences for a change of one cell
    pair, at = claim.extremes(means) if claim.alike else None, float(claim.value(means))
    steps = [float(claim.value(means | {cell: means[cell] + _STEP}, pair)) - at for cell in claim.cells]
    first, *further = (term * (step / _STEP) for term, step in zip(usable, steps, strict=True))
    fewest = MIN_PAIRED_USERS if len(usable) > 1 else MIN_USERS
    total = sum(further, first)
    return Parts(replace(total, value=at), None).interval(over, fewest, tail)


def _arrays(claim: Claim, values: Mapping[str, float]) -> dict[str, F64]:
    return {cell: np.asarray(values[cell], np.float64) for cell in claim.cells}


def judge(
    claim: Claim,
    metric: ClaimMetric,
    paper: Mapping[str, float],
    values: Mapping[str, float],
    interval: Interval,
    n_users: int,
) -> ClaimResult:
    """Compare a claim with our numbers.

    The interval is the 95 % one. For methods that are alike it is that of the difference between our highest and
    lowest, widened (Bonferroni) because they are picked among several pairs.

    Args:
        claim: The claim.
        metric: `utility` or `win_rate_reference`.
        paper: The paper's value of each cell.
        values: Ours.
        interval: Of the claim's number.
        n_users: Number of users behind ours.
    """
    printed = float(claim.value(_arrays(claim, paper)))
    point = float(claim.value(_arrays(claim, values)))
    tail = TAIL / math.comb(len(claim.alike), 2) if claim.alike else TAIL
    estimate = Estimate(point, *interval(claim, values, tail))
    errors = math.nan
    if metric == "win_rate_reference" and not claim.alike:
        rates, weights = [paper[cell] for cell in claim.cells], [c for c, _ in claim.terms]
        errors = abs(printed) / win_rate_error(*rates, weights=weights)
    return ClaimResult(claim, metric, printed, errors, estimate, verdict(estimate, claim.sign, n_users))
