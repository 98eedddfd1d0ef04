r"""The built-in policies: each says what a question is worth.

$\mu$ and $s$ are the mean and the standard deviation of the difference in utility of two responses under the posterior.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from personalllm.core.types import F64
from personalllm.methods.asking.policy import Offer, Policy

__all__ = [
    "BestArms",
    "Challenger",
    "DOptimal",
    "DuelingUCB",
    "Greedy",
    "PopulationPair",
    "RandomPair",
    "Thompson",
]


@dataclass
class RandomPair(Policy):
    """Asks for any pair, each equally likely."""

    id: ClassVar[str] = "random-pair"
    title: ClassVar[str] = "A random pair"

    def value(self, offer: Offer) -> F64:
        """Return uniform numbers."""
        return offer.rng.random(offer.open.shape)


@dataclass
class Greedy(Policy):
    """Asks for the two responses that the user is expected to like best; it never explores."""

    id: ClassVar[str] = "greedy"
    title: ClassVar[str] = "The two best for the user"

    def value(self, offer: Offer) -> F64:
        """Return the expected utility of both, above that of a response to the prompt."""
        return offer.both(offer.mean - offer.mean.mean(axis=2, keepdims=True))


@dataclass
class PopulationPair(Policy):
    """Asks for the two responses that users of whom nothing is known like best, whatever was answered."""

    id: ClassVar[str] = "population-pair"
    title: ClassVar[str] = "The two best for everybody"

    def value(self, offer: Offer) -> F64:
        """Return the same as `greedy` under the prior."""
        return offer.both(offer.common - offer.common.mean(axis=2, keepdims=True))


@dataclass
class BestArms(Policy):
    """Asks for the two responses of highest upper bound, each judged by itself: the posterior's correlations are lost.

    Args:
        width: Standard deviations above the mean, >= 0.
    """

    id: ClassVar[str] = "best-arms"
    title: ClassVar[str] = "The two best upper bounds"

    width: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_number("width", above_zero=False)

    def value(self, offer: Offer) -> F64:
        """Return the sum of the two upper bounds."""
        x = offer.vectors - offer.vectors.mean(axis=2, keepdims=True)
        n, k, width, d = x.shape
        rotated = (x.reshape(n, k * width, d) @ offer.belief.covariance).reshape(x.shape)
        spread = np.sqrt(np.maximum(0.0, (rotated * x).sum(axis=3)))
        return offer.both(offer.mean - offer.mean.mean(axis=2, keepdims=True) + self.width * spread)


@dataclass
class DOptimal(Policy):
    r"""Asks for what tells most about the user's taste.

    The information of a comparison is $\frac12 \log(1 + p (1 - p) s^2)$ with p the predicted probability: by how much
    the log volume of the posterior shrinks.
    """

    id: ClassVar[str] = "d-optimal"
    title: ClassVar[str] = "The most informative pair"
    paper: ClassVar[str] = (
        "Shenfeld et al., Language Model Personalization via Reward Factorization, arXiv 2503.06358, 2025"
    )

    def value(self, offer: Offer) -> F64:
        """Return the information of each comparison."""
        won = 0.5 + 0.5 * np.tanh(0.5 * offer.gap)
        return np.asarray(0.5 * np.log1p(won * (1.0 - won) * offer.deviation**2))


@dataclass
class Thompson(Policy):
    """Asks for the best response under one taste drawn from the posterior against the best other one under a second.

    Among several prompts each has an equal chance.
    """

    id: ClassVar[str] = "thompson"
    title: ClassVar[str] = "Double Thompson sampling"
    paper: ClassVar[str] = "Wu and Liu, Double Thompson Sampling for Dueling Bandits, NeurIPS 2016"

    def value(self, offer: Offer) -> F64:
        """Return a number above 0 for the pair of each prompt."""
        first, second = offer.draw(), offer.draw()
        best = first.argmax(axis=2)
        np.put_along_axis(second, best[:, :, None], -np.inf, axis=2)
        chance = 1.0 - offer.rng.random(offer.index.shape)
        return offer.is_pair(best, second.argmax(axis=2)) * chance[:, :, None]


@dataclass
class DuelingUCB(Policy):
    r"""Asks for the pair that is least certain, among the responses that may be the best.

    A response may be the best if $\mu + c s > 0$ against every other one.

    Args:
        width: c, >= 0.
    """

    id: ClassVar[str] = "dueling-ucb"
    title: ClassVar[str] = "The least certain of the plausible winners"
    paper: ClassVar[str] = "Saha, Optimal Algorithms for Stochastic Contextual Preference Bandits, NeurIPS 2021"

    width: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_number("width", above_zero=False)

    def value(self, offer: Offer) -> F64:
        """Return the standard deviation, that of pairs with a beaten response below all others."""
        first, second = offer.pairs
        above = self.width * offer.deviation
        beaten = np.zeros(offer.mean.shape, np.bool_)
        for pair, (a, b) in enumerate(zip(first.tolist(), second.tolist(), strict=True)):
            beaten[..., a] |= offer.gap[..., pair] + above[..., pair] < 0
            beaten[..., b] |= above[..., pair] - offer.gap[..., pair] < 0
        worse = beaten[..., first].astype(np.float64) + beaten[..., second]
        return np.asarray(offer.deviation - worse * (1.0 + offer.deviation.max(initial=0.0)))


@dataclass
class Challenger(Policy):
    r"""Asks for the response that looks best against the one that may beat it by most, and stops when none may.

    That is the response of highest $\mu + c s$ above the best one. Nothing is asked about a prompt where this is below
    `tolerance`.

    Args:
        width: c, >= 0.
        tolerance: In log-odds, >= 0; 0 never stops while the order is uncertain.
    """

    id: ClassVar[str] = "challenger"
    title: ClassVar[str] = "The best against its worst challenger"
    paper: ClassVar[str] = "UserAlign, arXiv 2511.02966, 2025"

    width: float = 1.0
    tolerance: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_number("width", "tolerance", above_zero=False)

    def value(self, offer: Offer) -> F64:
        """Return by how much the challenger may be better than the best response."""
        first, second = offer.pairs
        best = offer.mean.argmax(axis=2)[..., None]
        sign = np.where(first == best, -1.0, 1.0)
        regret = sign * offer.gap + self.width * offer.deviation
        asked = ((first == best) | (second == best)) & (regret > self.tolerance)
        return np.where(asked, regret, -np.inf)
