"""Bring the raw scores of the reward models to a common scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from personalllm.core.errors import AxisMismatch, DataError, ParameterError
from personalllm.core.storage import shipped_tables
from personalllm.core.types import F32, JSON

if TYPE_CHECKING:
    from personalllm.data.benchmark import Benchmark

__all__ = ["PUBLISHED", "Standardiser"]

PUBLISHED: dict[str, tuple[float, float]] = {
    name: (mean, sd) for name, (mean, sd) in shipped_tables("personalllm.data", "published_scores.toml").items()
}
"""Mean and standard deviation of the ten reward models of the paper on its train split (section 2).

They are part of the release; other data need constants of their own, see `Standardiser.fit`.
"""


@dataclass(frozen=True, slots=True)
class Standardiser:
    """Shift and scale of each reward model: `z = (raw - mean) / sd`.

    Attributes:
        reward_models: Names in the order of the last axis of the scores.
        mean: Mean raw score of each RM.
        sd: Standard deviation of the raw scores of each RM, > 0.

    >>> Standardiser(("a", "b"), (1.0, 0.0), (2.0, 1.0)).apply([[3.0, 5.0]]).tolist()
    [[1.0, 5.0]]
    """

    reward_models: tuple[str, ...]
    mean: tuple[float, ...]
    sd: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "reward_models", tuple(self.reward_models))
        object.__setattr__(self, "mean", tuple(float(value) for value in self.mean))
        object.__setattr__(self, "sd", tuple(float(value) for value in self.sd))
        if not len(self.reward_models) == len(self.mean) == len(self.sd):
            raise AxisMismatch(
                f"{len(self.reward_models)} reward models, {len(self.mean)} means and {len(self.sd)} deviations.",
                "Give one mean and one sd for each reward model.",
            )
        if not all(math.isfinite(value) for value in self.mean):
            raise ParameterError("mean", "finite", self.mean)
        if not all(math.isfinite(value) and value > 0 for value in self.sd):
            raise ParameterError("sd", "finite and > 0", self.sd)

    @classmethod
    def fit(cls, benchmark: Benchmark, split: str = "train") -> Standardiser:
        """Return the mean and the (population) standard deviation of each RM over all responses of a split.

        Args:
            benchmark: Its raw scores are used.
            split: Name of the split.

        Raises:
            ParameterError: If the benchmark has no such split.
            DataError: If a reward model gives every response the same score.
        """
        # float64: 75,000 float32 scores added up in float32 have a mean that is off in the fifth decimal.
        scores = benchmark.scores[benchmark.rows(split)].astype(np.float64)
        mean, sd = scores.mean(axis=(0, 1)), scores.std(axis=(0, 1))
        # `not sd > 0` also catches NaN, which no comparison holds for.
        flat = [name for name, value in zip(benchmark.reward_models, sd, strict=True) if not value > 0]
        if flat:
            raise DataError(
                f"{', '.join(flat)} gives every response of the split {split!r} of {benchmark.name} the same score.",
                "Leave that reward model out.",
            )
        return cls(benchmark.reward_models, tuple(mean.tolist()), tuple(sd.tolist()))

    @classmethod
    def published(cls) -> Standardiser:
        """Return the constants of the paper for its ten reward models, in sorted order (section 2)."""
        means, sds = zip(*(PUBLISHED[name] for name in sorted(PUBLISHED)), strict=True)
        return cls(tuple(sorted(PUBLISHED)), means, sds)

    @classmethod
    def none(cls, reward_models: Sequence[str]) -> Standardiser:
        """Return the standardiser that leaves raw scores as they are: an RM of larger scale weighs more.

        >>> Standardiser.none(("a", "b")).apply([[3.0, 5.0]]).tolist()
        [[3.0, 5.0]]
        """
        return cls(tuple(reward_models), (0.0,) * len(reward_models), (1.0,) * len(reward_models))

    @classmethod
    def from_spec(cls, spec: JSON) -> Standardiser:
        """Return the standardiser that `spec` described."""
        return cls(tuple(spec["reward_models"]), tuple(spec["mean"]), tuple(spec["sd"]))

    def apply(self, scores: npt.ArrayLike) -> F32:
        """Return `(scores - mean) / sd`, computed in float64 and rounded once to float32.

        Args:
            scores: Raw scores (..., n_reward_models).

        Raises:
            AxisMismatch: If the last axis has another length.
        """
        raw = np.asarray(scores)
        if raw.ndim == 0 or raw.shape[-1] != len(self.reward_models):
            raise AxisMismatch(
                f"Scores of shape {raw.shape} do not have a last axis of {len(self.reward_models)} reward models."
            )
        # One reward model at a time, so that the float64 copy is of one column and not of the whole table.
        out = np.empty(raw.shape, np.float32)
        for b, (mean, sd) in enumerate(zip(self.mean, self.sd, strict=True)):
            out[..., b] = (raw[..., b].astype(np.float64) - mean) / sd
        return out

    def spec(self) -> JSON:
        """Return the constants as JSON, for a protocol and its fingerprint."""
        names: Sequence[str] = self.reward_models
        return {"reward_models": list(names), "mean": list(self.mean), "sd": list(self.sd)}
