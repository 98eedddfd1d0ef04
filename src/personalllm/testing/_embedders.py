"""The contract of an embedder, as checks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from personalllm.core.protocols import TextEmbedder
from personalllm.core.types import F32
from personalllm.testing._backends import COPY, IDENTITY, PLAIN, TEXTS, WHOLE, check_array, check_name, pickled, require
from personalllm.testing._checks import Check, Clauses, require_all

__all__ = ["check_embedder", "embedder_checks"]


@dataclass(frozen=True)
class _Embedding:
    """An embedder under test."""

    embedder: TextEmbedder

    @cached_property
    def vectors(self) -> F32:
        """Of the texts, checked for shape and type."""
        texts = list(TEXTS)
        vectors = self.embedder.embed(texts)
        require(self.embedder, texts == list(TEXTS), "embed must leave its input as it was")
        check_array(self.embedder, vectors, "embed", (len(texts), self.embedder.dim), "(n_texts, dim)")
        require(self.embedder, np.isfinite(vectors).all(), "vectors must be finite")
        return vectors


_EMBEDDER: Clauses[_Embedding] = Clauses()


@_EMBEDDER.clause("names", IDENTITY)
def _embedder_names(at: _Embedding) -> None:
    """Its name and identity are texts that stay the same."""
    check_name(at.embedder, "name")
    check_name(at.embedder, "identity")


@_EMBEDDER.clause("embed")
def _embeds(at: _Embedding) -> None:
    """embed() returns finite float32 (n_texts, dim), also for unicode, blank and very long texts.

    End with np.asarray(vectors, np.float32); cut long texts inside; dim is the length of a row.
    """
    _ = at.vectors


@_EMBEDDER.clause("unit-length", after=("embed",))
def _unit_rows(at: _Embedding) -> None:
    """Rows have unit length.

    Divide each row by its norm.
    """
    lengths = np.linalg.norm(at.vectors, axis=1)
    require(at.embedder, np.allclose(lengths, 1, atol=1e-4), f"rows must have unit length, got {lengths}")


@_EMBEDDER.clause("repeatable", after=("embed",))
def _embeds_again(at: _Embedding) -> None:
    """A second call gives equal vectors.

    Switch dropout off and fix every seed.
    """
    again = at.embedder.embed(list(TEXTS))
    require(at.embedder, np.array_equal(again, at.vectors), "a second call must give equal vectors")


@_EMBEDDER.clause("pickle", COPY, after=("embed",))
def _embedder_pickles(at: _Embedding) -> None:
    """A copy by pickle has the same identity and gives equal vectors."""
    copy = pickled(at.embedder)
    require(at.embedder, copy.identity == at.embedder.identity, "a pickled copy must have the same identity")
    same = np.array_equal(copy.embed(list(TEXTS)), at.vectors)
    require(at.embedder, same, "a pickled copy must give equal vectors")


@_EMBEDDER.clause("alone", WHOLE, after=("embed",))
def _embeds_alone(at: _Embedding) -> None:
    """A text's vector does not depend on the other texts (to 1e-5)."""
    for i, text in enumerate(TEXTS):
        off = float(np.abs(at.embedder.embed([text])[0] - at.vectors[i]).max())
        require(at.embedder, off <= 1e-5, f"a vector must not depend on the other texts; text {i} is off by {off:.1e}")


@_EMBEDDER.clause("empty")
def _embeds_nothing(at: _Embedding) -> None:
    """No texts give an array (0, dim).

    Return np.empty((0, self.dim), np.float32).
    """
    empty = at.embedder.embed([])
    wanted = (0, at.embedder.dim)
    require(at.embedder, np.shape(empty) == wanted, f"embed([]) must be (0, dim), got {np.shape(empty)}")


@_EMBEDDER.clause("tells-apart", after=("embed",))
def _embeds_apart(at: _Embedding) -> None:
    """Different texts have different vectors.

    Check that the text reaches the model.
    """
    cosines = at.vectors[: len(PLAIN)] @ at.vectors[: len(PLAIN)].T
    apart = cosines[~np.eye(len(PLAIN), dtype=bool)].max()
    require(at.embedder, apart < 0.999, f"different texts must have different vectors, got a cosine of {apart:.4f}")


def embedder_checks(embedder: TextEmbedder) -> tuple[Check, ...]:
    """Return the clauses of `check_embedder`, each by itself, in the order in which it runs them."""
    return _EMBEDDER.of(_Embedding(embedder))


def check_embedder(embedder: TextEmbedder) -> None:
    """Raise `AssertionError` unless an embedder keeps the contract of `personalllm.core.protocols.TextEmbedder`.

    Checked: names; float32 unit rows of length `dim`; equal vectors on a second call, from a pickled copy, and for a
    text alone (to 1e-5); unicode, blank and very long texts; different texts distinguished; inputs left as they were.

    >>> from personalllm.testing import HashEmbedder
    >>> check_embedder(HashEmbedder())
    """
    require_all(embedder_checks(embedder))
