"""Turn a user's utilities into feedback: which pair is shown, and how reliably the better response wins."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from personalllm.core.errors import ParameterError
from personalllm.core.types import F32, JSON

__all__ = ["FeedbackRule", "PairRule", "RatingRule", "minorities"]

PairRule = Literal["best-vs-worst", "random", "ranks", "contested", "disputed"]
Scale = Literal["quantiles", "thresholds"]

_MAX_STARS = 100


def _check_number(name: str, value: float, *, upper: float = math.inf) -> None:
    allowed = f"in [0, {upper:g}]" if math.isfinite(upper) else "finite and >= 0"
    if isinstance(value, bool) or not (math.isfinite(value) and 0 <= value <= upper):
        raise ParameterError(name, allowed, value)


@dataclass(frozen=True, slots=True)
class FeedbackRule:
    r"""A rule that chooses two responses for a user to compare, and the outcome.

    The pairs:

    - `"best-vs-worst"`: the user's best and worst response (the paper, section 4).
    - `"random"`: two different responses, every ordered pair equally likely.
    - `"ranks"`: the responses at two positions of the user's ranking, see `ranks`.
    - `"contested"`: one of the pairs on which the reward models disagree most. The disagreement of a pair is the
      number of reward models in the minority, $\min(n_{a>b}, n_{b>a})$; among the pairs of a prompt that reach the
      maximum one is drawn, each equally likely. It depends on the scores alone, not on the user.
    - `"disputed"`: a pair on which not all reward models agree; only with `pairs_per_prompt`, since a prompt may have
      none.

    With a temperature T > 0 the outcome is drawn (Bradley-Terry):
    $P(a \succ b) = 1 / (1 + e^{-(u_a - u_b) / T})$; with T = 0 the response of higher utility wins.

    Attributes:
        pairs: Which pair is shown.
        ranks: For `"ranks"`: two positions, 0 the best, negative ones from the worst.
        temperature: T, >= 0, in units of utility.
        flip: Probability in [0, 1] that the label of a pair that is not a tie is swapped afterwards.
        tie_margin: A pair with $|u_a - u_b|$ at most this is a tie: it is marked, and its order is a fair coin.
        pairs_per_prompt: Each prompt has (at most) so many pairs, the same for every user (see `FixedPairs`); None:
            each user is shown a pair of their own.
        responses: Positions, from 0, of the responses that are shown; empty: all of them.

    Raises:
        ParameterError: If a value is out of its range, or pairs that depend on the user are to be the same for all.

    >>> FeedbackRule(temperature=0.5).spec()["temperature"]
    0.5
    """

    pairs: PairRule = "best-vs-worst"
    ranks: tuple[int, int] = (0, -1)
    temperature: float = 0.0
    flip: float = 0.0
    tie_margin: float = 0.0
    pairs_per_prompt: int | None = None
    responses: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.pairs not in get_args(PairRule):
            raise ParameterError("pairs", f"one of {', '.join(get_args(PairRule))}", self.pairs)
        ranks: Sequence[object] = tuple(self.ranks)
        if len(ranks) != 2 or not all(type(rank) is int for rank in ranks) or ranks[0] == ranks[1]:
            raise ParameterError("ranks", "two different integers", self.ranks)
        object.__setattr__(self, "ranks", ranks)
        _check_number("temperature", self.temperature)
        _check_number("flip", self.flip, upper=1.0)
        _check_number("tie_margin", self.tie_margin)
        object.__setattr__(self, "responses", tuple(self.responses))
        if len(self.responses) == 1 or len({*self.responses}) < len(self.responses) or min((0, *self.responses)) < 0:
            raise ParameterError("responses", "two different positions or more, each >= 0", self.responses)
        if self.pairs_per_prompt is None:
            if self.pairs == "disputed":
                raise ParameterError(
                    "pairs_per_prompt", "given for disputed pairs, of which a prompt may have none", None
                )
        elif self.pairs in {"best-vs-worst", "ranks"}:
            raise ParameterError(
                "pairs_per_prompt", f"left out for {self.pairs}: each user has another pair", self.pairs_per_prompt
            )
        elif self.pairs_per_prompt < 1:
            raise ParameterError("pairs_per_prompt", ">= 1", self.pairs_per_prompt)

    def shown(self, n_responses: int) -> npt.NDArray[np.int64]:
        """Return the responses that are shown, positions in [0, n_responses).

        Raises:
            ParameterError: If one of them does not exist.
        """
        if max((0, *self.responses)) >= n_responses:
            raise ParameterError("responses", f"in [0, {n_responses})", self.responses)
        return np.asarray(self.responses or range(n_responses), np.int64)

    def best_worst(self, n_responses: int) -> bool:
        """Whether the pair is a user's best and worst of n responses, so that it says something about the others too.

        >>> FeedbackRule().best_worst(8), FeedbackRule(pairs="ranks", ranks=(0, 1)).best_worst(8)
        (True, False)
        """
        ends = [rank % n_responses for rank in self.ranks]
        return not self.responses and (
            self.pairs == "best-vs-worst" or (self.pairs == "ranks" and ends == [0, n_responses - 1])
        )

    def spec(self) -> JSON:
        """Return the rule as JSON."""
        return {**dataclasses.asdict(self), "ranks": list(self.ranks), "responses": list(self.responses)}

    @classmethod
    def from_spec(cls, spec: JSON) -> FeedbackRule:
        """Return the rule that `spec()` described.

        >>> FeedbackRule.from_spec(FeedbackRule(pairs="ranks", ranks=(0, 3)).spec()).ranks
        (0, 3)
        """
        return cls(**{**spec, "ranks": tuple(spec.get("ranks", (0, -1)))})


def minorities(scores: F32) -> npt.NDArray[np.int16]:
    """Return how many reward models are in the minority on each pair of responses, int16 (n_pairs, n).

    Args:
        scores: float32 (n, n_responses, n_reward_models); the pairs are in the order of `np.triu_indices`.
    """
    first, second = np.triu_indices(scores.shape[1], k=1)
    above = np.zeros((len(first), len(scores)), np.int16)
    below = np.zeros_like(above)
    for of_one in np.ascontiguousarray(scores.transpose(2, 1, 0)):
        left, right = of_one[first], of_one[second]
        above += left > right
        below += left < right
    return np.minimum(above, below)


@dataclass(frozen=True, slots=True)
class RatingRule:
    r"""A rule that gives a response its stars.

    The scale turns a utility u into $1 + \#\{c : c < u\}$ stars, where the n - 1 cuts c are

    - `"quantiles"`: the quantiles 1/n, ..., (n-1)/n of this user's utilities of all responses to the prompts it is
      shown, so each user uses the whole scale;
    - `"thresholds"`: the same utilities for all users, so a user who is harder to please gives fewer stars.

    Attributes:
        n_stars: Number of stars on the scale, in [2, 100].
        scale: Where the cuts come from.
        thresholds: For `"thresholds"`: n_stars - 1 ascending utilities.
        responses_per_prompt: Responses rated of each prompt, >= 1, drawn without repetition.
        noise: Standard deviation, >= 0, of normal noise added to each utility before it is cut.

    Raises:
        ParameterError: If a value is out of its range.

    >>> RatingRule(n_stars=3, scale="thresholds", thresholds=(-1.0, 1.0)).n_stars
    3
    """

    n_stars: int = 5
    scale: Scale = "quantiles"
    thresholds: tuple[float, ...] = ()
    responses_per_prompt: int = 1
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.scale not in get_args(Scale):
            raise ParameterError("scale", f"one of {', '.join(get_args(Scale))}", self.scale)
        if type(self.n_stars) is not int or not 2 <= self.n_stars <= _MAX_STARS:
            raise ParameterError("n_stars", f"an integer in [2, {_MAX_STARS}]", self.n_stars)
        cuts = tuple(float(cut) for cut in self.thresholds)
        object.__setattr__(self, "thresholds", cuts)
        n_values = self.n_stars - 1 if self.scale == "thresholds" else 0
        ascending = all(a < b for a, b in pairwise(cuts)) and all(map(math.isfinite, cuts))
        if len(cuts) != n_values or not ascending:
            raise ParameterError("thresholds", f"{n_values} finite ascending utilities for this scale", self.thresholds)
        if type(self.responses_per_prompt) is not int or self.responses_per_prompt < 1:
            raise ParameterError("responses_per_prompt", "an integer >= 1", self.responses_per_prompt)
        _check_number("noise", self.noise)

    def spec(self) -> JSON:
        """Return the rule as JSON."""
        return {**dataclasses.asdict(self), "thresholds": list(self.thresholds)}

    @classmethod
    def from_spec(cls, spec: JSON) -> RatingRule:
        """Return the rule that `spec()` described."""
        return cls(**{**spec, "thresholds": tuple(spec.get("thresholds", ()))})
