"""Drop prompts that nearly repeat another one.

The prompts are taken in the order in which they are given; one is kept unless it is near to one that was kept before.
So no two kept prompts are near, each left-out prompt is near to a kept one, and nothing depends on files or batches.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from personalllm.build.recipe import NearDuplicates
from personalllm.core.errors import UserError
from personalllm.core.protocols import TextEmbedder
from personalllm.core.registry import import_extra
from personalllm.core.types import F32

__all__ = ["jaccard", "near_duplicates"]

_GRAM = 5
_BLOCK = 1024
_NOT_WORD = re.compile(r"[\W_]+")
_MISSED = 1e-3  # share of the pairs at the threshold that may share no band

Progress = Callable[[int, int], None]


def near_duplicates(
    texts: Sequence[str],
    rule: NearDuplicates,
    embedder: TextEmbedder | None = None,
    progress: Progress | None = None,
) -> npt.NDArray[np.bool_]:
    """Return which texts are left out because a kept text before them is near.

    Args:
        texts: n texts; the first of two near ones is kept.
        rule: What near means.
        embedder: Makes the vectors for the method `"embedding"`.
        progress: Called with (done, total) texts.

    Returns:
        bool (n,).

    Raises:
        MissingExtra: If MinHash is asked for and datasketch is not installed.
        UserError: If vectors are asked for and there is no embedder.
    """
    if rule.method == "minhash":
        return _by_minhash(texts, rule, progress)
    if embedder is None:
        raise UserError("near_duplicates by embedding needs an embedder.", 'Hand one over, or use method = "minhash".')
    return _by_embedding(texts, rule.threshold, embedder, progress)


def shingles(text: str) -> frozenset[str]:
    """Return the sequences of five characters of a text; case, punctuation and spacing have no effect.

    >>> sorted(shingles("Hi, YOU!"))
    ['hi yo', 'i you']
    """
    plain = _NOT_WORD.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()
    return frozenset(plain[i : i + _GRAM] for i in range(max(1, len(plain) - _GRAM + 1)))


def jaccard(first: str, second: str) -> float:
    """Return the share of two texts' sequences of five characters that both have, in [0, 1].

    >>> jaccard("Tell me a joke.", "tell me a joke")
    1.0
    """
    a, b = shingles(first), shingles(second)
    return len(a & b) / len(a | b)


def _signatures(texts: Sequence[str], permutations: int) -> Iterator[tuple[frozenset[str], Any]]:
    empty = import_extra("datasketch", "build").MinHash(num_perm=permutations, seed=1)
    for text in texts:
        grams = shingles(text)
        signature = empty.copy()
        signature.update_batch([gram.encode("utf-8", "surrogatepass") for gram in sorted(grams)])
        yield grams, signature


def _bands(threshold: float, permutations: int) -> tuple[int, int]:
    """Return (bands, rows of a band) with the longest bands that miss few of the pairs at the threshold.

    Two texts of similarity s share no band with probability (1 - s^rows)^bands. Candidates are compared exactly, so
    short bands cost time only.

    >>> _bands(0.8, 128)
    (25, 5)
    """
    # Long bands first: they propose the fewest candidates, and a pair is missed with the probability bounded here.
    for rows in range(permutations, 1, -1):
        bands = permutations // rows
        if (1 - threshold**rows) ** bands <= _MISSED:
            return bands, rows
    return permutations, 1


def _min_equal(threshold: float, permutations: int) -> int:
    """Return how many of the hashes of a pair at the threshold are equal, less six standard deviations.

    Below it the exact comparison is spared: texts from one template share bands with all others, but are not near.

    >>> _min_equal(0.8, 128)
    75
    """
    return int(threshold * permutations - 6 * (threshold * (1 - threshold) * permutations) ** 0.5)


def _by_minhash(texts: Sequence[str], rule: NearDuplicates, progress: Progress | None) -> npt.NDArray[np.bool_]:
    bands = _bands(rule.threshold, rule.permutations)
    lsh = import_extra("datasketch", "build").MinHashLSH
    index = lsh(threshold=rule.threshold, num_perm=rule.permutations, params=bands)
    dropped = np.zeros(len(texts), dtype=bool)
    hashes = np.zeros((len(texts), rule.permutations), np.uint32)
    minimum = _min_equal(rule.threshold, rule.permutations)
    for i, (grams, signature) in enumerate(_signatures(texts, rule.permutations)):
        hashes[i] = signature.hashvalues
        # Signatures agree in a binomial number of hashes; six deviations below the mean, one pair in 1e9 is lost.
        candidates = np.array(index.query(signature), dtype=np.intp)
        equal = np.count_nonzero(hashes[candidates] == hashes[i], axis=1)
        for j in candidates[equal >= minimum].tolist():
            other = shingles(texts[j])
            if len(grams & other) >= rule.threshold * len(grams | other):
                dropped[i] = True
                break
        else:
            index.insert(i, signature, check_duplication=False)
        if progress and ((i + 1) % _BLOCK == 0 or i + 1 == len(texts)):
            progress(i + 1, len(texts))
    return dropped


def _by_embedding(
    texts: Sequence[str], threshold: float, embedder: TextEmbedder, progress: Progress | None
) -> npt.NDArray[np.bool_]:
    dropped = np.zeros(len(texts), dtype=bool)
    blocks: list[F32] = []
    for start in range(0, len(texts), _BLOCK):
        vectors = embedder.embed(texts[start : start + _BLOCK])
        near = np.zeros(len(vectors), dtype=bool)
        for block in blocks:
            near |= (vectors @ block.T >= threshold).any(axis=1)
        # Inside a block a text counts as near only to earlier texts that stay, as across blocks, so the size of a block
        # has no effect; hence the loop, which reads what it has decided.
        within = np.tril(vectors @ vectors.T >= threshold, k=-1)
        for i in range(len(vectors)):
            near[i] = near[i] or bool((within[i] & ~near).any())
        dropped[start : start + len(vectors)] = near
        blocks.append(vectors[~near])
        if progress:
            progress(start + len(vectors), len(texts))
    return dropped
