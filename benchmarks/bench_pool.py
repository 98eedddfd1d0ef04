"""A pool of 10,000 users x 50 pairs from scores, and with its texts on disk."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from _common import MEGABYTE, Row, full_size, in_fresh_process, measured_memory, seconds, wall_and_processor

from personalllm.feedback import FeedbackRule, InteractionPool, interact, sample_prompts

N_USERS, N_PAIRS, N_PROMPTS = 10_000, 50, 9_402


def make(population: Any, scores: Any, rule: FeedbackRule) -> InteractionPool:
    prompts = sample_prompts(N_USERS, np.arange(N_PROMPTS, dtype=np.int32), N_PAIRS, seed=0)
    return interact(population, scores, prompts, rule, seed=0)


def texts() -> Any:
    """Return a stand-in for a benchmark of the full size: 92 MB of random words."""
    import pyarrow as pa

    rng = np.random.default_rng(0)
    words = np.array(["".join(rng.choice(list("abcdefghijklmnoprstuvwy"), rng.integers(2, 9))) for _ in range(5_000)])

    def sentences(n: int, length: int) -> Any:
        return pa.array([" ".join(row) for row in words[rng.integers(0, len(words), (n, length))]], pa.large_string())

    return SimpleNamespace(
        n_prompts=N_PROMPTS,
        n_responses=8,
        prompt_ids=pa.array([f"prompt-{i}" for i in range(N_PROMPTS)], pa.large_string()),
        prompts=sentences(N_PROMPTS, 20),
        responses=sentences(N_PROMPTS * 8, 195),
    )


def from_scores() -> dict[str, float]:
    population, scores = full_size(N_USERS)
    rule = FeedbackRule()
    extra = measured_memory(lambda: make(population, scores, rule))
    wall, used = min(wall_and_processor(lambda: make(population, scores, rule)) for _ in range(5))
    noisy = FeedbackRule(pairs="contested", temperature=0.5, flip=0.1, tie_margin=0.01)
    return {
        "seconds": wall,
        "processor": used,
        "extra": extra,
        "noisy": seconds(lambda: make(population, scores, noisy)),
    }


def to_disk() -> dict[str, float]:
    population, scores = full_size(N_USERS)
    pool, benchmark = make(population, scores, FeedbackRule()), texts()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pool.parquet"
        wall, used = wall_and_processor(lambda: pool.write(path, benchmark))
        return {"seconds": wall, "processor": used, "bytes": path.stat().st_size, "texts": benchmark.responses.nbytes}


def _times(result: dict[str, float]) -> str:
    return f"{result['seconds']:.2f} s ({result['processor']:.2f} s of processor)"


def run() -> list[Row]:
    made, written = in_fresh_process("bench_pool", "from_scores"), in_fresh_process("bench_pool", "to_disk")
    extra = made["extra"] / MEGABYTE
    return [
        Row("pool, 10,000 users x 50 pairs, from scores (best of 5)", _times(made), "< 0.5 s", made["seconds"] < 0.5),
        Row("pool, 10,000 users x 50 pairs: extra memory", f"{extra:.0f} MB", "< 100 MB", extra < 100),
        Row("pool, the same, contested pairs with noise", f"{made['noisy']:.2f} s", "", None),
        Row(
            f"pool with texts to Parquet ({written['bytes'] / MEGABYTE:.0f} MB)",
            _times(written),
            "< 10 s",
            written["seconds"] < 10,
        ),
    ]
