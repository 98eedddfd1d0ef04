"""Measures of a response's text beside its embedding: length, layout, marks, and nearness to the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from personalllm.core.protocols import TextEmbedder
from personalllm.core.surface import MEASURES, measure
from personalllm.core.types import F32, F64, I64, Corpus, Histories
from personalllm.methods.parts.features import FeatureMap, spread_within, text_blocks, used_responses

_SHARE = 0.1
_LEAST = 1e-9

__all__ = ["TextFeatureMap"]


@dataclass(frozen=True, eq=False)
class TextFeatureMap(FeatureMap):
    """Components of the embedding, then the measures of the text and the cosine of response and prompt.

    Each added feature is scaled so that it has a tenth of the embedding's mean squared difference within a prompt.

    Attributes:
        scales: float32 (9,), factors of the added features; 0 for one that does not vary within prompts.
    """

    scales: F32

    @classmethod
    def fit(cls, embedder: TextEmbedder, histories: Histories, n_features: int | None = None) -> Self:
        """Fit the components and the scales on the texts of the histories."""
        plain = FeatureMap.fit(embedder, histories, n_features)
        corpus = histories.corpus
        keys, _ = used_responses(histories)
        blocks = (
            (keys[block] // corpus.n_responses, _added(embedder, corpus, keys[block], texts, embedder.embed(texts)))
            for block, texts in text_blocks(corpus, keys)
        )
        spread = np.diag(spread_within(blocks, len(MEASURES) + 1))
        scales = np.where(spread > _LEAST, np.sqrt(_SHARE / np.maximum(spread, _LEAST)), 0.0)
        return cls(plain.components, scales.astype(np.float32))

    @property
    def n_features(self) -> int:
        """Number of features."""
        return int(self.components.shape[1]) + len(self.scales)

    def of_keys(self, embedder: TextEmbedder, corpus: Corpus, keys: I64) -> F32:
        """Return the features of distinct responses, float32 (n, n_features), as `FeatureMap.of_keys` does."""
        result = np.empty((len(keys), self.n_features), dtype=np.float32)
        for block, texts in text_blocks(corpus, keys):
            vectors = embedder.embed(texts)
            added = _added(embedder, corpus, keys[block], texts, vectors)
            result[block] = np.hstack([vectors @ self.components, added * self.scales])
        return result


def _added(embedder: TextEmbedder, corpus: Corpus, keys: I64, texts: Sequence[str], vectors: F32) -> F64:
    """Return the measures and the cosine with the prompt, float64 (n, 9)."""
    prompts, index = np.unique(keys // max(1, corpus.n_responses), return_inverse=True)
    asked = embedder.embed([corpus.text(row) for row in prompts.tolist()])
    near = (vectors * asked[index.ravel()]).sum(axis=1, dtype=np.float64)
    return np.column_stack([measure(texts), near])
