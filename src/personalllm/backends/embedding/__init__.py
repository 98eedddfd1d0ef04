"""Text embedders: all-MiniLM-L6-v2 on the CPU, and a disk cache for any embedder."""

from __future__ import annotations

from personalllm.backends.embedding.cache import CachedEmbedder, EmbedProgress
from personalllm.backends.embedding.minilm import MiniLMEmbedder

__all__ = ["CachedEmbedder", "EmbedProgress", "MiniLMEmbedder", "default_embedder"]


def default_embedder() -> CachedEmbedder:
    """Return MiniLM with its vectors cached on disk.

    Raises:
        ModelFileError: If the model files are not in the cache.
    """
    return CachedEmbedder(MiniLMEmbedder())
