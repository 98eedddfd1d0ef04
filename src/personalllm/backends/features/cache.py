"""A disk cache of features, by what was measured and with what."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from personalllm.backends.embedding.cache import CachedEmbedder, EmbedProgress
from personalllm.core.protocols import TextClassifier
from personalllm.core.storage import cache_dir
from personalllm.core.types import F32

__all__ = ["CachedClassifier"]


class CachedClassifier:
    """Keeps the features of a classifier on disk, keyed by its identity and the SHA-256 of each text.

    One SQLite file for each identity; new values are committed in chunks of 64 texts while the work goes on.

    Args:
        classifier: What measures the texts that are not there yet.
        directory: Where the files are; the folder `features` of the user's cache if None.
    """

    def __init__(self, classifier: TextClassifier, directory: Path | str | None = None) -> None:
        self._classifier = classifier
        self._directory = None if directory is None else Path(directory)

    def __repr__(self) -> str:
        return f"CachedClassifier({self._classifier!r})"

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features."""
        return self._classifier.features

    @property
    def identity(self) -> str:
        """Identity of the classifier inside: a cache does not change a value."""
        return self._classifier.identity

    @property
    def path(self) -> Path:
        """The SQLite file of this classifier."""
        return self._store.path

    @property
    def _store(self) -> _Store:
        return _Store(_AsVectors(self._classifier), self._directory or cache_dir("features"))

    def measure(self, texts: Sequence[str], progress: EmbedProgress | None = None) -> F32:
        """Return the features of texts, from the cache where they are there.

        Args:
            texts: n texts.
            progress: Called after each chunk of new texts with (done, all new ones).

        Returns:
            float32 (n, n_features).

        Raises:
            UserError: If the cache file cannot be opened or written.
        """
        return self._store.embed(texts, progress)


class _Store(CachedEmbedder):
    """The same store under another name."""

    _what = "feature"


class _AsVectors:
    """A classifier in the shape that the store of vectors expects."""

    def __init__(self, classifier: TextClassifier) -> None:
        self._classifier = classifier
        self.name = "The classifier"
        self.dim = len(classifier.features)
        self.identity = f"{classifier.identity}\n{','.join(classifier.features)}"

    def embed(self, texts: Sequence[str]) -> F32:
        """Return the features, float32 (n, n_features)."""
        return self._classifier.measure(texts)
