"""`longest`: the longer the better, the baseline that every reward model has to be compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from personalllm.core.types import F32, Queries
from personalllm.methods.base import Method

__all__ = ["Longest"]


@dataclass
class Longest(Method):
    """Scores a response with its number of characters."""

    id: ClassVar[str] = "longest"
    title: ClassVar[str] = "Longest"

    def utilities(self, queries: Queries) -> F32:
        """Return the lengths in characters, float32 (n_queries, n_responses)."""
        corpus = queries.corpus
        query_prompts, index = np.unique(queries.prompt, return_inverse=True)
        lengths = np.array(
            [[len(text) for text in corpus.responses[row]] for row in query_prompts.tolist()], dtype=np.float32
        )
        return lengths.reshape(len(query_prompts), corpus.n_responses)[index]
