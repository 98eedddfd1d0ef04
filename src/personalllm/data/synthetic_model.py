"""Define the factor model of the synthetic benchmark: scores and lengths from independent normal draws."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from personalllm.core.types import F32
from personalllm.data.standardise import PUBLISHED

__all__ = ["FAMILIES", "N_RESPONSES", "REWARD_MODELS", "FactorModel", "draw_noise", "synthetic_scores"]

N_RESPONSES = 8
REWARD_MODELS = tuple(PUBLISHED)
FAMILIES = (0, 1, 1, 2, 3, 4, 3, 5, 5, 5)
"""Family of each reward model: those of one family share a factor."""


@dataclass(frozen=True, slots=True)
class FactorModel:
    """Parameters of the factor model, one number for each RM or response model.

    Within a prompt, RM b sees response r (of response model m) as

        `W = length_b * L + quality_b * Q + family_b * F + noise_b * s * E`

    with L and Q normal around `model_length_m` and `model_quality_m`, Q scaled for each prompt, F shared by the RMs of
    a family, E its own, and s a log-normal scale of the prompt. Between prompts it adds
    `B = between_b * L_prompt + sqrt(1 - between_b**2) * E_prompt`. The score is the sum of both, each of
    variance 1/2.

    Attributes:
        length: Loadings on the length factor, (10,).
        quality: Loadings on the quality factor, (10,).
        family: Loadings on the factor of the family, (10,).
        noise: Loadings on the RM's own factor, (10,).
        between: Correlation of the prompt's mean score with its mean length, (10,).
        model_length: Mean of the length factor of each response model, (8,).
        model_quality: Mean of the quality factor of each response model, (8,).
        spread: Log-sd of the scale of the own factors over prompts, and of the quality factor, (2,).
    """

    length: tuple[float, ...]
    quality: tuple[float, ...]
    family: tuple[float, ...]
    noise: tuple[float, ...]
    between: tuple[float, ...]
    model_length: tuple[float, ...]
    model_quality: tuple[float, ...]
    spread: tuple[float, ...]

    def flat(self) -> Any:
        """Return all parameters as one float64 vector, in the order of the attributes."""
        return np.concatenate([np.asarray(getattr(self, item.name)) for item in fields(self)])


def draw_noise(n_prompts: int, rng: np.random.Generator) -> dict[str, F32]:
    """Return the independent standard normal draws of the model, float32."""
    n_models = len(REWARD_MODELS)
    shapes = {
        "length": (n_prompts, N_RESPONSES),
        "quality": (n_prompts, N_RESPONSES),
        "family": (n_prompts, N_RESPONSES, max(FAMILIES) + 1),
        "own": (n_prompts, N_RESPONSES, n_models),
        "prompt_length": (n_prompts, 1),
        "prompt_own": (n_prompts, 1, n_models),
        "prompt_scale": (n_prompts, 2),
    }
    return {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def synthetic_scores(model: FactorModel, noise: dict[str, F32]) -> tuple[F32, F32]:
    """Return scores and lengths, both with mean 0 and standard deviation 1 for each RM over the draw.

    Args:
        model: The parameters.
        noise: From `draw_noise`.

    Returns:
        float32 (n_prompts, 8, 10) standardised scores, and float32 (n_prompts, 8) standardised lengths.
    """
    own_spread, quality_spread = model.spread
    scale = np.exp(own_spread * noise["prompt_scale"][:, :1] - own_spread**2)
    stretch = np.exp(quality_spread * noise["prompt_scale"][:, 1:] - quality_spread**2)
    length = noise["length"] + np.asarray(model.model_length, np.float32)
    quality = (noise["quality"] + np.asarray(model.model_quality, np.float32)) * stretch
    within = length[..., None] * np.asarray(model.length, np.float32)
    within += quality[..., None] * np.asarray(model.quality, np.float32)
    within += noise["family"][..., FAMILIES] * np.asarray(model.family, np.float32)
    within += noise["own"] * scale[..., None] * np.asarray(model.noise, np.float32)
    between = np.asarray(model.between, np.float32)
    prompt = noise["prompt_length"][..., None] * between + noise["prompt_own"] * np.sqrt(1 - between**2)
    scores = _standard(within) + np.broadcast_to(_standard(prompt), within.shape)
    lengths = _standard(length) + _standard(noise["prompt_length"])
    return _standard(scores), _standard(lengths)


def _standard(values: F32) -> F32:
    axes = (0, 1)
    mean = values.mean(axis=axes, dtype=np.float64)
    sd = values.std(axis=axes, dtype=np.float64)
    standard: F32 = ((values - mean) / np.where(sd > 0, sd, 1)).astype(np.float32)
    return standard
