"""`random`: a uniformly random order, the floor of the rank track."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from personalllm.core.seeding import derive_seed
from personalllm.core.types import F32, Queries
from personalllm.methods.base import Method

__all__ = ["RandomChoice"]

U64 = npt.NDArray[np.uint64]


def _mixed(values: U64) -> U64:
    """Scramble 64-bit words (the finaliser of SplitMix64): every input bit reaches every output bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@dataclass
class RandomChoice(Method):
    """Scores each response with a uniform draw that belongs to (seed, user, prompt, response).

    The draw belongs to the texts, not to their places, so it follows a response that moves and does not depend on the
    other queries. Responses with equal texts tie.
    """

    id: ClassVar[str] = "random"
    title: ClassVar[str] = "Random"

    def utilities(self, queries: Queries) -> F32:
        """Return uniform draws in [0, 1), float32 (n_queries, n_responses)."""
        corpus = queries.corpus
        query_prompts, index = np.unique(queries.prompt, return_inverse=True)
        key = derive_seed(self.seed, "random").to_bytes(4, "little")
        words = np.array(
            [
                [_word(key, corpus.prompts[row], response) for response in corpus.responses[row]]
                for row in query_prompts.tolist()
            ],
            dtype=np.uint64,
        ).reshape(len(query_prompts), corpus.n_responses)
        users = _mixed((queries.user.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))
        draws = _mixed(words[index] ^ users[:, None])
        return (draws >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)


def _word(key: bytes, prompt: str, response: str) -> int:
    """Hash a prompt and a response into 64 bits."""
    text = f"{len(prompt)}:{prompt}{response}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8, key=key).digest(), "little")
