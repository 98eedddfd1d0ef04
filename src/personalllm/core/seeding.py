"""Derive random generators from an identity, so that order and parallelism cannot change a draw."""

from __future__ import annotations

import hashlib

import numpy as np

__all__ = ["derive_seed", "generator"]


def _words(key: tuple[str | int, ...]) -> list[int]:
    """Hash a key into eight 32-bit words."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in key)
    digest = hashlib.sha256(text.encode()).digest()
    return [int.from_bytes(digest[i : i + 4], "little") for i in range(0, 32, 4)]


def generator(*key: str | int) -> np.random.Generator:
    """Return the generator that belongs to a key.

    Equal keys give equal streams on every machine; different keys give independent ones.

    Args:
        key: What the draw is for, e.g. `(seed, "history", user)`.

    >>> bool(generator(0, "a").random() == generator(0, "a").random())
    True
    >>> bool(generator(0, "a").random() == generator(0, "b").random())
    False
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(_words(key))))


def derive_seed(*key: str | int) -> int:
    """Return a seed in [0, 2**31) that belongs to a key, for samplers that take a plain integer.

    >>> derive_seed(0, "reply", 7) == derive_seed(0, "reply", 7)
    True
    """
    return _words(key)[0] >> 1
