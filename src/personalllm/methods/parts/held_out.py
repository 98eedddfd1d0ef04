"""Judge a fit on prompts and users that it has not seen, and calibrate its log-odds there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np

from personalllm.core.types import F32, F64, I64
from personalllm.methods.parts.features import Pairs

__all__ = ["SHOTS", "HeldOut", "user_slopes"]

SHOTS = (0, 2, 8, 32)
"""Numbers of preferences for which a slope is fitted."""

_JUDGES = 300
_PSEUDO = 20.0
_SLOPES = np.exp(np.linspace(np.log(0.2), np.log(5.0), 65))


@dataclass(frozen=True, eq=False)
class HeldOut:
    """A pool in parts: a fit on many users and few prompts is off in scale on new prompts, which these parts show.

    Attributes:
        taught: What may be learned from: three quarters of the prompts, two thirds of the users.
        history: The other users (at most 300) on the same prompts.
        tests: The same users on the prompts held out; only comparisons that were made, none that is implied.
    """

    taught: Pairs
    history: Pairs
    tests: Pairs

    @classmethod
    def of(cls, pairs: Pairs) -> Self | None:
        """Return the parts, or None if there are too few comparisons for them."""
        is_held = np.isin(pairs.prompt, np.unique(pairs.prompt)[3::4])
        train, held_out = pairs.where(~is_held), pairs.where(is_held)
        if not len(held_out) or not len(train):
            return None
        users = np.arange(pairs.n_users)
        judges = users[users % 3 == 0][:_JUDGES]
        teachers = np.setdiff1d(users, judges) if len(users) >= 3 else users
        return cls(train.of_users(teachers), train.of_users(judges), held_out.of_users(judges).given())

    def log_loss(self, predict: Callable[[Pairs], F64]) -> float:
        """Return the mean log-loss of the tests over `SHOTS`; `predict` as in `slopes`."""
        return float(np.mean([np.logaddexp(0.0, -predict(self.history.first(shots))).mean() for shots in SHOTS]))

    def slopes(self, predict: Callable[[Pairs], F64]) -> tuple[F64, float]:
        """Return the slope that makes the tests most probable for each of `SHOTS`, and the mean log-loss with them.

        Args:
            predict: Maps the judges' histories to the log-odds of `tests`, float64 (n_tests,).
        """
        slopes, total = np.ones(len(SHOTS)), 0.0
        for i, shots in enumerate(SHOTS):
            margins = predict(self.history.first(shots))
            losses = np.logaddexp(0.0, -_SLOPES[:, None] * margins).sum(axis=1)
            best = int((losses + _PSEUDO * np.log(_SLOPES) ** 2).argmin())
            slopes[i] = _SLOPES[best]
            total += float(losses[best]) / (len(SHOTS) * max(1, len(margins)))
        return slopes, total


def user_slopes(slopes: F64, n_preferences: I64) -> F32:
    """Return each user's slope, float32 (n_users,), interpolated in the log of 1 + the number of preferences."""
    return np.interp(np.log1p(n_preferences), np.log1p(SHOTS), slopes).astype(np.float32)
