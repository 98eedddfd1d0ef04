"""The compact reward models by name or file, and those that read text vectors as one ensemble."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from personalllm.backends.reward.heads import RewardHeads, embedding_features, read_tensors
from personalllm.backends.reward.surface import surface_features
from personalllm.backends.reward.words import WORD_FORMAT, WordRewards
from personalllm.core.errors import AxisMismatch, UnknownName
from personalllm.core.protocols import RewardEnsemble, TextEmbedder
from personalllm.core.types import F32, JSON

__all__ = ["CompactEnsemble", "load_compact", "shipped_ensembles", "shipped_metadata"]

_WEIGHTS = Path(__file__).parent / "weights"


def shipped_ensembles() -> tuple[str, ...]:
    """Return the names of the ensembles that come with the package.

    >>> shipped_ensembles()
    ('compact-v1', 'compact-v2')
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


def load_compact(source: str | Path, embedder: Callable[[], TextEmbedder]) -> RewardEnsemble:
    """Load a shipped ensemble by name, or a safetensors file by path, of either family.

    Args:
        source: `compact-v1`, `compact-v2`, or a file that `RewardHeads.save` or `WordRewards.save` wrote.
        embedder: Gives the embedder; called only if the reward models read text vectors.

    Raises:
        UnknownName: If `source` is neither.
        ModelFileError: If the file is damaged.
        AxisMismatch: If the embedder does not fit.
    """
    path = _file(source)
    if read_tensors(path)[0].get("format") == WORD_FORMAT:
        return WordRewards.load(path)
    return CompactEnsemble.load(path, embedder())


def _file(source: str | Path) -> Path:
    """Return the file of a shipped name or a path."""
    path = Path(source)
    if path.is_file() or path.suffix == ".safetensors":
        return path
    if str(source) not in shipped_ensembles():
        raise UnknownName("reward ensemble", str(source), shipped_ensembles())
    return _WEIGHTS / f"{source}.safetensors"


class CompactEnsemble:
    """Several compact reward models that read text vectors and surface: `personalllm.core.protocols.RewardEnsemble`.

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
        return cls(RewardHeads.load(_file(source)), embedder)

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
