"""A disk cache of vectors, by what was embedded and with what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from personalllm.backends.embedding.shipped import shipped_vectors, text_key
from personalllm.core.errors import AxisMismatch
from personalllm.core.protocols import TextEmbedder
from personalllm.core.storage import BlobStore, cache_file
from personalllm.core.types import F32

__all__ = ["CachedEmbedder", "EmbedProgress"]

_CHUNK = 64

EmbedProgress: TypeAlias = Callable[[int, int], None]
"""Called with (texts that were absent from the cache and are done, all that were absent)."""


class CachedEmbedder:
    """Keeps the vectors of an embedder on disk, keyed by its identity and the SHA-256 of each text.

    The cache is one SQLite file for each embedder identity. New vectors are committed while the work goes on, so a
    killed run loses at most one chunk of 64 texts; several processes may share the file. Vectors that come with the
    package (`shipped_vectors`) are used first, so that a number does not depend on what a machine's cache holds.

    Args:
        embedder: What computes the vectors that are not there yet.
        directory: Where the files are; the folder `embeddings` of the user's cache if None.
    """

    _what = "embedding"

    def __init__(self, embedder: TextEmbedder, directory: Path | str | None = None) -> None:
        self._embedder = embedder
        self._directory = None if directory is None else Path(directory)

    def __repr__(self) -> str:
        return f"CachedEmbedder({self._embedder!r})"

    @property
    def name(self) -> str:
        """Name of the embedder inside."""
        return self._embedder.name

    @property
    def identity(self) -> str:
        """Identity of the embedder inside: a cache does not change a vector; shipped ones are rounded to float16."""
        return self._embedder.identity

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self._embedder.dim

    @property
    def path(self) -> Path:
        """The SQLite file of this embedder."""
        return cache_file("embeddings", self.identity, self._directory)

    def embed(self, texts: Sequence[str], progress: EmbedProgress | None = None) -> F32:
        """Return the vectors of texts, from the cache where they are there.

        Args:
            texts: n texts.
            progress: Called after each chunk of new texts with (done, all new ones).

        Returns:
            float32 (n, dim), rows of unit length.

        Raises:
            UserError: If the cache file cannot be opened or written.
        """
        rows: dict[bytes, int] = {}
        first: list[str] = []
        index = []
        for text in texts:
            key = text_key(text)
            if key not in rows:
                rows[key] = len(rows)
                first.append(text)
            index.append(rows[key])
        vectors = np.empty((len(rows), self.dim), np.float32)
        shipped = shipped_vectors(self.identity)
        for key in rows.keys() & shipped.keys():
            vectors[rows[key]] = shipped[key]
        absent = {key: row for key, row in rows.items() if key not in shipped}
        if absent:
            self._fill(vectors, absent, first, progress)
        return vectors[index]

    def count_absent(self, texts: Sequence[str]) -> int:
        """Return how many distinct texts have no vector in the cache."""
        keys = list({text_key(text) for text in texts} - shipped_vectors(self.identity).keys())
        with self._store() as store:
            return len(keys) - sum(1 for _ in store.read(keys))

    def _store(self) -> BlobStore:
        return BlobStore(self._what, self.path, self.identity, "vectors", "text_sha256 BLOB", "vector")

    def _fill(self, vectors: F32, rows: Mapping[bytes, int], texts: list[str], progress: EmbedProgress | None) -> None:
        """Put the stored vectors in place, then compute and store the others chunk by chunk."""
        keys = {row: key for key, row in rows.items()}
        with self._store() as store:
            absent = self._read(store, vectors, rows)
            for start in range(0, len(absent), _CHUNK):
                chunk = absent[start : start + _CHUNK]
                computed = np.asarray(self._embedder.embed([texts[row] for row in chunk]), np.float32)
                if computed.shape != (len(chunk), self.dim):
                    raise AxisMismatch(f"{self.name} returned shape {computed.shape}, not {(len(chunk), self.dim)}.")
                vectors[chunk] = computed
                store.write({keys[row]: vectors[row].astype("<f4").tobytes() for row in chunk})
                if progress is not None:
                    progress(start + len(chunk), len(absent))

    def _read(self, store: BlobStore, vectors: F32, rows: Mapping[bytes, int]) -> list[int]:
        """Put the stored vectors in place and return the rows that have none."""
        stored = set[int]()
        for key, blob in store.read(list(rows)):
            if len(blob) == 4 * self.dim:
                vectors[rows[key]] = np.frombuffer(blob, "<f4")
                stored.add(rows[key])
        return [row for row in rows.values() if row not in stored]
