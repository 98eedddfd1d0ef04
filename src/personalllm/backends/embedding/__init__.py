"""Text embedders: all-MiniLM-L6-v2 on the CPU, OpenAI-compatible servers, and a disk cache for any embedder."""

from __future__ import annotations

from personalllm.backends.embedding.cache import CachedEmbedder, EmbedProgress
from personalllm.backends.embedding.minilm import MiniLMEmbedder
from personalllm.backends.embedding.openai import OpenAIEmbedder
from personalllm.backends.embedding.shipped import shipped_vectors, text_key, write_vectors

__all__ = [
    "CachedEmbedder",
    "EmbedProgress",
    "MiniLMEmbedder",
    "OpenAIEmbedder",
    "default_embedder",
    "shipped_vectors",
    "text_key",
    "write_vectors",
]


def default_embedder() -> CachedEmbedder:
    """Return MiniLM with its vectors cached on disk.

    Raises:
        ModelFileError: If the model files are not in the cache.
    """
    return CachedEmbedder(MiniLMEmbedder())
