"""A benchmark whose users are linear in what a policy reads: the reward models are directions of the embedding."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from personalllm.core.types import F32
from personalllm.data import Benchmark
from personalllm.evaluation import Protocol, Results, evaluate

_ROW = re.compile(r"r(\d+)\Z")


@dataclass(frozen=True, eq=False)
class PlantedEmbedder:
    """Returns the vector that a response was made with; prompts are at the origin."""

    vectors: F32
    name: ClassVar[str] = "planted"
    identity: ClassVar[str] = "planted"

    @property
    def dim(self) -> int:
        return int(self.vectors.shape[1])

    def embed(self, texts: Sequence[str]) -> F32:
        found = [_ROW.search(text) for text in texts]
        rows = [self.vectors[int(match[1])] if match else np.zeros(self.dim, np.float32) for match in found]
        return np.asarray(rows, np.float32).reshape(-1, self.dim)


def planted(
    n_train: int = 80, n_test: int = 20, n_responses: int = 6, dim: int = 5, seed: int = 0, *, taste: bool = True
) -> tuple[Benchmark, PlantedEmbedder]:
    """Return the benchmark and its embedder; without taste all responses are alike to users."""
    rng = np.random.default_rng(seed)
    n = n_train + n_test
    vectors = rng.standard_normal((n * n_responses, dim)).astype(np.float32)
    directions = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    scores = np.concatenate([vectors @ directions, -vectors @ directions], axis=1)
    if not taste:  # a score of the prompt alone
        scores = np.repeat(rng.standard_normal((n, 2 * dim)), n_responses, axis=0)
    benchmark = Benchmark.from_arrays(
        name=f"planted-{seed}",
        prompt_ids=[f"p{i:03d}" for i in range(n)],
        prompts=[f"Prompt {i}?" for i in range(n)],
        subsets=["s"] * n,
        splits=["train"] * n_train + ["test"] * n_test,
        responses=[[f"response r{i * n_responses + j}" for j in range(n_responses)] for i in range(n)],
        response_models=[f"m{j}" for j in range(n_responses)],
        reward_models=[f"{sign}{k}" for sign in ("plus", "minus") for k in range(dim)],
        scores=scores.reshape(n, n_responses, -1).astype(np.float32),
        metadata={},
    )
    return benchmark, PlantedEmbedder(vectors)


def asked(methods: Any, benchmark: Benchmark, embedder: Any, **settings: Any) -> Results:
    """Evaluate policies on few users."""
    small: dict[str, Any] = {"n_users": 40, "alpha": 0.3, "pool_users": 40, "pool_pairs": 30, "seed": 1}
    protocol = Protocol.for_data(benchmark, track="online", **(small | settings))
    return evaluate(methods, benchmark, protocol=protocol, embedder=embedder)


def slope(results: Results, label: str, metric: str = "average_regret", first: int = 10) -> float:
    """Return by what power of the rounds a cumulative regret grows, from `first` on."""
    curve = results.curve(label, metric)
    at = [t for t in curve if t >= first]
    return float(np.polyfit(np.log(at), np.log([curve[t].value for t in at]), 1)[0])
