"""The compact reward models as one ensemble that scores prompts and responses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from personalllm.backends.reward.heads import RewardHeads, embedding_features
from personalllm.backends.reward.surface import surface_features
from personalllm.core.errors import AxisMismatch, UnknownName
from personalllm.core.protocols import TextEmbedder
from personalllm.core.types import F32, JSON

__all__ = ["CompactEnsemble", "shipped_ensembles", "shipped_metadata"]

_WEIGHTS = Path(__file__).parent / "weights"


def shipped_ensembles() -> tuple[str, ...]:
    """Return the names of the ensembles that come with the package.

    >>> shipped_ensembles()
    ('compact-v1',)
    """
    return tuple(sorted(path.stem for path in _WEIGHTS.glob("*.safetensors")))


def shipped_metadata(name: str = "compact-v1") -> JSON:
    """Return what is known of a shipped ensemble: training data, accuracies, licences, agreement.

    Raises:
        UnknownName: If no ensemble has that name.

    >>> len(shipped_metadata("compact-v1")["reward_models"])
    10
    """
    if name not in shipped_ensembles():
        raise UnknownName("reward ensemble", name, shipped_ensembles())
    metadata: JSON = json.loads((_WEIGHTS / f"{name}.json").read_text(encoding="utf-8"))
    return metadata


class CompactEnsemble:
    """Several compact reward models that share one embedder: `personalllm.core.protocols.RewardEnsemble`.

    Score of head k: `bias_k + c_k . [3 r, 3 sqrt(d) p * r, z_k(s)]` with unit vectors p and r of prompt and response
    and z_k(s) the clipped, standardised surface features. The embedder reads the beginning of a long text only (256
    tokens for MiniLM), the surface features read all of it.

    Args:
        heads: The linear reward models.
        embedder: What gives the vectors; must be the embedder that the heads were fitted on.

    Raises:
        AxisMismatch: If the embedder has another name or another vector length.
    """

    def __init__(self, heads: RewardHeads, embedder: TextEmbedder) -> None:
        if (embedder.name, embedder.dim) != (heads.embedder, heads.dim):
            raise AxisMismatch(
                f"The reward models read vectors of {heads.embedder!r} ({heads.dim} numbers), "
                f"not of {embedder.name!r} ({embedder.dim}).",
                f"Hand in the embedder {heads.embedder!r}.",
            )
        self.heads = heads
        self.embedder = embedder

    def __repr__(self) -> str:
        return f"CompactEnsemble({len(self.reward_models)} reward models, {self.embedder!r})"

    @classmethod
    def load(cls, source: str | Path, embedder: TextEmbedder) -> CompactEnsemble:
        """Load a shipped ensemble by name, or a safetensors file by path.

        Args:
            source: `compact-v1`, or the path of a file that `RewardHeads.save` or `personalllm rewards train` wrote.
            embedder: What gives the vectors.

        Raises:
            UnknownName: If `source` is neither.
            ModelFileError: If the file is damaged.
            AxisMismatch: If the embedder does not fit.
        """
        path = Path(source)
        if not path.is_file() and path.suffix != ".safetensors":
            if str(source) not in shipped_ensembles():
                raise UnknownName("reward ensemble", str(source), shipped_ensembles())
            path = _WEIGHTS / f"{source}.safetensors"
        return cls(RewardHeads.load(path), embedder)

    @property
    def reward_models(self) -> tuple[str, ...]:
        """Names, sorted, in the order of the last axis of `score`."""
        return self.heads.reward_models

    @property
    def identity(self) -> str:
        """SHA-256 over the weights and the identity of the embedder."""
        return hashlib.sha256(f"{self.heads.sha256}\n{self.embedder.identity}".encode()).hexdigest()

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> F32:
        """Score response i as an answer to prompt i.

        Scores have no unit; the shipped ones have about mean 0 and standard deviation 1 on answers of strong LLMs to
        everyday prompts. A score does not depend on the rest of the batch.

        Args:
            prompts: Prompt texts, length n.
            responses: Response texts, length n.

        Returns:
            float32 (n, n_reward_models).

        Raises:
            AxisMismatch: If the two lists differ in length.
        """
        surface = surface_features(prompts, responses)
        vectors = self.embedder.embed([*prompts, *responses])
        n = len(prompts)
        return self.heads.evaluate(embedding_features(vectors[:n], vectors[n:]), surface)
