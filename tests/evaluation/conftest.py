"""Small benchmarks whose scores are the surface rewards', so that live scores and stored scores agree."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from personalllm.backends.executor import ProcessExecutor
from personalllm.data import Benchmark
from personalllm.testing import EchoChatModel, HashEmbedder, SurfaceRewards

sys.path.insert(0, str(Path(__file__).parent))
"""Tests share helpers in modules beside this file, which pytest's importlib mode does not find by itself."""

WORDS = (
    *("river,", "stone", "light", "cloud,", "garden", "music", "letter", "winter", "bread", "window,", "story"),
    *("colour", "green", "quiet,", "long", "short", "friend", "market,", "ocean", "paper", "dream", "forest,"),
)
MODELS = ("alpha-1", "alpha-2", "beta-1", "beta-2", "gamma-1")


def build(n_train: int = 24, n_test: int = 8, n_responses: int = 5, seed: int = 0, **metadata: str) -> Benchmark:
    rng = np.random.default_rng(seed)
    n = n_train + n_test

    def text(least: int, most: int) -> str:
        return " ".join(rng.choice(WORDS, int(rng.integers(least, most))))

    prompts = [f"Tell me about {text(3, 7)} ({i})?" for i in range(n)]
    responses = [[f"{text(4, 30)} {i}.{j}" for j in range(n_responses)] for i in range(n)]
    rewards = SurfaceRewards()
    flat = rewards.score([p for p in prompts for _ in range(n_responses)], [r for row in responses for r in row])
    return Benchmark.from_arrays(
        name=f"tiny-{seed}",
        prompt_ids=[f"p{i:03d}" for i in range(n)],
        prompts=prompts,
        subsets=["s"] * n,
        splits=["train"] * n_train + ["test"] * n_test,
        responses=responses,
        response_models=list(MODELS[:n_responses]),
        reward_models=rewards.reward_models,
        scores=flat.reshape(n, n_responses, -1),
        metadata=dict(metadata),
    )


@pytest.fixture(scope="session")
def make_benchmark() -> Callable[..., Benchmark]:
    return build


@pytest.fixture(scope="session")
def benchmark_(make_benchmark: Callable[..., Benchmark]) -> Benchmark:
    return make_benchmark()


class Pickled:
    """An executor that hands everything over as to another process, and starts none."""

    def map(self, function: Callable[[Any], Any], units: Sequence[Any]) -> Iterator[Any]:
        there = pickle.dumps(function)
        for unit in units:
            yield pickle.loads(pickle.dumps(pickle.loads(there)(pickle.loads(pickle.dumps(unit)))))


@pytest.fixture(params=["pickled", pytest.param("processes", marks=pytest.mark.slow)])
def elsewhere(request: pytest.FixtureRequest) -> Any:
    """An executor of which nothing comes back but what was sent."""
    return Pickled() if request.param == "pickled" else ProcessExecutor(2)


@pytest.fixture
def standins() -> dict[str, object]:
    return {"embedder": HashEmbedder(), "llm": EchoChatModel(), "rewards": SurfaceRewards()}
