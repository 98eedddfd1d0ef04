"""Linear reward heads: what they read, how they score, and their safetensors file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from personalllm.backends.reward.surface import SURFACE_FEATURES
from personalllm.core.errors import AxisMismatch, DataError, ModelFileError, UserError
from personalllm.core.storage import atomic_path, canonical_json
from personalllm.core.types import F32

__all__ = ["RESPONSE_SCALE", "RewardHeads", "embedding_features", "read_tensors"]

RESPONSE_SCALE = 3.0
"""Norm given to the response embedding and, on average, to its product with the prompt embedding."""

_CLIP = 3.0
_BLOCK = 256
_FORMAT = "personalllm-reward-heads/1"
_TENSORS = ("coefficients", "bias", "surface_mean", "surface_sd")


def embedding_features(prompt_vectors: F32, response_vectors: F32) -> F32:
    """Return [3 r, 3 sqrt(d) p * r] for unit vectors p of prompts and r of responses, elementwise.

    Args:
        prompt_vectors: float32 (n, d).
        response_vectors: float32 (n, d).

    Returns:
        float32 (n, 2 d).
    """
    cross = np.float32(RESPONSE_SCALE * np.sqrt(response_vectors.shape[1]))
    scaled = np.float32(RESPONSE_SCALE) * response_vectors
    return np.concatenate([scaled, cross * (prompt_vectors * response_vectors)], axis=1)


@dataclass(frozen=True, eq=False, slots=True)
class RewardHeads:
    """Linear reward models over the same text vectors.

    Head k scores `bias_k + c_k . [3 r, 3 sqrt(d) p * r, clip((s - mean_k) / sd_k, -3, 3)]`, with p and r the vectors of
    prompt and response and s the surface features.

    Attributes:
        reward_models: Their names.
        coefficients: float32 (n_reward_models, 2 d + n_surface).
        bias: float32 (n_reward_models,).
        surface_mean: float32 (n_reward_models, n_surface).
        surface_sd: float32 (n_reward_models, n_surface), > 0.
        embedder: Name of the embedder whose vectors they read.
        embedder_identity: Its identity when the heads were fitted.
    """

    reward_models: tuple[str, ...]
    coefficients: F32
    bias: F32
    surface_mean: F32
    surface_sd: F32
    embedder: str
    embedder_identity: str

    def __post_init__(self) -> None:
        n, surface = len(self.reward_models), len(SURFACE_FEATURES)
        if len(set(self.reward_models)) != n or not n:
            raise AxisMismatch(f"Reward models must have distinct names, got {list(self.reward_models)}.")
        for name in _TENSORS:
            array = np.ascontiguousarray(getattr(self, name), np.float32)
            rows_fit = array.shape[:1] == (n,) and array.ndim == (1 if name == "bias" else 2)
            if not rows_fit or (name.startswith("surface") and array.shape[1] != surface):
                raise AxisMismatch(f"The shape {array.shape} of {name} does not fit {n} reward models.")
            if not np.isfinite(array).all() or (name == "surface_sd" and not (array > 0).all()):
                raise DataError(f"{name} holds numbers that are not finite or not positive.", "Fit the model again.")
            object.__setattr__(self, name, array)
        if self.dim < 1 or (self.coefficients.shape[1] - surface) % 2:
            raise AxisMismatch(f"The coefficients have {self.coefficients.shape[1]} columns, not 2 d + {surface}.")

    @property
    def dim(self) -> int:
        """Length of the text vectors."""
        return (int(self.coefficients.shape[1]) - len(SURFACE_FEATURES)) // 2

    @property
    def sha256(self) -> str:
        """Hash of the names and numbers, in hexadecimal."""
        state = hashlib.sha256(canonical_json([_FORMAT, list(self.reward_models)]).encode())
        for name in _TENSORS:
            state.update(getattr(self, name).astype("<f4").tobytes())
        return state.hexdigest()

    def evaluate(self, vectors: F32, surface: F32) -> F32:
        """Return the scores of responses.

        Products are summed row by row in float64 in a fixed order, without BLAS, so a row's score is the same bits in
        any batch.

        Args:
            vectors: float32 (n, 2 d), from `embedding_features`.
            surface: float32 (n, n_surface), from `surface_features`.

        Returns:
            float32 (n, n_reward_models).
        """
        n, wide = len(vectors), 2 * self.dim
        if vectors.shape != (n, wide) or surface.shape != (n, len(SURFACE_FEATURES)):
            raise AxisMismatch(f"Features of shapes {vectors.shape} and {surface.shape} do not fit {wide} columns.")
        out = np.empty((n, len(self.reward_models)), np.float32)
        for start in range(0, n, _BLOCK):
            rows = slice(start, start + _BLOCK)
            block = np.empty((len(vectors[rows]), self.coefficients.shape[1]), np.float64)
            block[:, :wide] = vectors[rows]
            for k, coefficients in enumerate(self.coefficients.astype(np.float64)):
                standard = (surface[rows] - self.surface_mean[k]) / self.surface_sd[k]
                block[:, wide:] = np.clip(standard, -_CLIP, _CLIP)
                out[rows, k] = (block * coefficients).sum(axis=1) + np.float64(self.bias[k])
        return out

    @classmethod
    def stack(cls, parts: Sequence[RewardHeads]) -> RewardHeads:
        """Put several heads together, sorted by name.

        Raises:
            AxisMismatch: If a name occurs twice or the embedders differ.
        """
        if len({(part.embedder, part.embedder_identity) for part in parts}) != 1:
            raise AxisMismatch("Heads that read different embedders cannot be put together.", "Use one embedder.")
        names = [name for part in parts for name in part.reward_models]
        order = np.argsort(names, kind="stable")
        arrays = {name: np.concatenate([getattr(part, name) for part in parts])[order] for name in _TENSORS}
        return cls(
            tuple(names[i] for i in order),
            embedder=parts[0].embedder,
            embedder_identity=parts[0].embedder_identity,
            **arrays,
        )

    def save(self, path: Path | str) -> None:
        """Write the heads to a safetensors file, atomically; equal heads give equal bytes."""
        from safetensors.numpy import save

        about = {
            "format": _FORMAT,
            "reward_models": list(self.reward_models),
            "surface_features": list(SURFACE_FEATURES),
            "embedder": self.embedder,
            "embedder_identity": self.embedder_identity,
        }
        payload = save({name: getattr(self, name) for name in _TENSORS}, {"personalllm": canonical_json(about)})
        with atomic_path(Path(path)) as temporary:
            temporary.write_bytes(payload)

    @classmethod
    def load(cls, path: Path | str) -> RewardHeads:
        """Read heads from a safetensors file.

        Raises:
            ModelFileError: If the file is absent, damaged, or holds something else.
        """
        path = Path(path)
        about, tensors = read_tensors(path)
        if about.get("format") != _FORMAT or about.get("surface_features") != list(SURFACE_FEATURES):
            raise ModelFileError(
                f"{path} is not a reward model file of the format {_FORMAT}.", "Fit it again: personalllm rewards train"
            )
        try:
            return cls(
                tuple(about["reward_models"]),
                embedder=about["embedder"],
                embedder_identity=about["embedder_identity"],
                **{name: tensors[name] for name in _TENSORS},
            )
        except (KeyError, TypeError) as error:
            raise ModelFileError(f"{path} lacks {error}.", "Fit it again: personalllm rewards train") from error
        except UserError as error:
            raise ModelFileError(f"{path}: {error.message}", "Fit it again: personalllm rewards train") from error


def read_tensors(path: Path) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Return the description and the tensors of a safetensors file.

    Raises:
        ModelFileError: If it is absent or damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ModelFileError(f"There is no reward model file {path}.", "See: personalllm rewards list")
    try:
        with safe_open(path, "numpy") as stream:
            about = json.loads((stream.metadata() or {}).get("personalllm", "{}"))
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
        raise ModelFileError(f"{path} is damaged: {error}.", "Copy or fit it again.") from error
    return (about if isinstance(about, dict) else {}), tensors
