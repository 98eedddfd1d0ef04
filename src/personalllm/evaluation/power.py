"""How many people, comparisons and prompts a study needs to show a difference."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from personalllm.core.errors import ParameterError, UserError
from personalllm.evaluation.differences import check_paired
from personalllm.evaluation.means import Parts

if TYPE_CHECKING:
    from personalllm.evaluation.contract import Condition
    from personalllm.evaluation.results import Results

__all__ = ["Spread", "people_needed", "power"]

_LEVEL = 0.05
_MOST = 10_000_000


@dataclass(frozen=True, slots=True)
class Spread:
    r"""How much a paired difference varies, in the units of its metric.

    One comparison by person i on prompt p shows $d + a_i + b_p + e_{ip}$.

    Attributes:
        person: Standard deviation of a: how unequal people are in what they gain, >= 0.
        prompt: That of b, >= 0.
        comparison: That of e, >= 0.
    """

    person: float
    prompt: float
    comparison: float

    def __post_init__(self) -> None:
        for name in ("person", "prompt", "comparison"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ParameterError(name, "finite and >= 0", getattr(self, name))

    @classmethod
    def of(
        cls,
        results: Results,
        a: str,
        b: str,
        metric: str | None = None,
        at: Condition | None = None,
        other: Condition | None = None,
    ) -> Self:
        """Estimate it from a study that was done: method `a` less method `b`.

        The variances that leaving out people, prompts and cells shows are solved for the three; one below 0 becomes 0.

        Args:
            results: Of any track.
            a: Label.
            b: Label; `a` itself where two conditions are compared.
            metric: A mean or a ratio; None: the main one.
            at: Condition; None: the headline.
            other: Condition of `b`, e.g. another user's history; None: the same.

        Raises:
            UserError: If the two were not asked the same, or the metric has no variance of this kind.
        """
        chosen = results.metric(metric or results.main_metric)
        sums = {f"{a} at {at}": results.sums(a, at), f"{b} at {other or at}": results.sums(b, other or at)}
        check_paired(sums)
        parts = [Parts.of(side, chosen) for side in sums.values()]
        difference = parts[0] - parts[1] if len(parts) == 2 else Parts(None, None)
        if difference.top is None:
            raise UserError(f"No spread of {chosen.id} between {a!r} and {b!r}.", "Name two methods, and a mean.")
        mean, first = difference.linear(), next(iter(sums.values()))
        answers = float(first.columns["n"].sum()) if "n" in first.columns else float(len(first.prompts["all:n"]))
        users, prompts, cells = (float(side @ side) for side in (mean.users, mean.prompts, mean.cells))
        # a cell varies by all three; so does the mean of a user, but by one person
        sides = ((users, mean.n_users), (prompts, mean.n_prompts))
        person, prompt = (max(0.0, (side - cells) / (1 / n - 1 / answers)) if answers > n else 0.0 for side, n in sides)
        comparison = max(0.0, cells * answers - person - prompt)
        return cls(math.sqrt(person), math.sqrt(prompt), math.sqrt(comparison))

    def error(self, n_people: int, n_comparisons: int, n_prompts: int | None = None) -> float:
        """Return the standard error of the mean difference.

        Args:
            n_people: >= 2.
            n_comparisons: Of each person, >= 1.
            n_prompts: Distinct prompts, >= 1, all of which people draw from; None: each comparison has its own.
        """
        total = n_people * n_comparisons
        shared = self.prompt**2 / min(total, n_prompts or total)
        return math.sqrt(self.person**2 / n_people + shared + self.comparison**2 / total)


def power(effect: float, spread: Spread, n_people: int, n_comparisons: int, n_prompts: int | None = None) -> float:
    """Return the probability that a two-sided test at 5 % shows a difference.

    Args:
        effect: The true mean difference, in the units of the metric.
        spread: How much it varies.
        n_people: >= 2.
        n_comparisons: Of each person, >= 1.
        n_prompts: As in `Spread.error`.

    >>> few, many = (power(0.02, Spread(0.05, 0.0, 0.45), n, 20) for n in (50, 500))
    >>> round(few, 2), round(many, 2)
    (0.23, 0.98)
    """
    from scipy.stats import nct, t

    for name, value, least in (("n_people", n_people, 2), ("n_comparisons", n_comparisons, 1)):
        if value < least:
            raise ParameterError(name, f">= {least}", value)
    error, df = spread.error(n_people, n_comparisons, n_prompts), min(n_people, n_prompts or n_people) - 1
    if error == 0 or df < 1:
        return float(effect != 0 and df >= 1)
    critical, shift = float(t.ppf(1 - _LEVEL / 2, df)), abs(effect) / error
    return float(nct.sf(critical, df, shift) + nct.cdf(-critical, df, shift))


def people_needed(
    effect: float, spread: Spread, n_comparisons: int, n_prompts: int | None = None, *, chance: float = 0.8
) -> int | None:
    """Return the fewest people with whom a difference is shown with some probability.

    Args:
        effect: The true mean difference, not 0.
        spread: How much it varies.
        n_comparisons: Of each person, >= 1.
        n_prompts: As in `Spread.error`.
        chance: Probability that the test shows it, in (0, 1).

    Returns:
        None if no number of people suffices: prompts are too few for so small a difference.

    >>> [people_needed(0.02, Spread(0.05, 0.0, 0.45), n) for n in (5, 20, 80)]
    [846, 250, 101]
    """
    if not 0 < chance < 1:
        raise ParameterError("chance", "in (0, 1)", chance)
    if not effect:
        raise ParameterError("effect", "other than 0", effect)

    def enough(n: int) -> bool:
        return power(effect, spread, n, n_comparisons, n_prompts) >= chance

    return _first(enough)


def _first(enough: Callable[[int], bool]) -> int | None:
    """Return the least number of people, >= 2, that is enough; the more the better."""
    low, high = 1, 2
    while not enough(high):
        low, high = high, high * 2
        if high > _MOST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
