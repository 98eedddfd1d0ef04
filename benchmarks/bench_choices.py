"""Best and worst response of every user: compiled loop against a blocked matrix product with argmax and argmin."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
from _common import MEGABYTE, Row, full_size, in_fresh_process, peak_bytes, seconds, wall_and_processor

from personalllm.core.types import F32, U8
from personalllm.users import Population, choices

ROUNDS = 3


def matrix_product(population: Population, scores: F32, users_per_block: int = 64) -> tuple[U8, U8]:
    n_prompts, n_responses, n_rms = scores.shape
    weights = population.weights.astype(np.float32)
    table = np.ascontiguousarray(scores.reshape(-1, n_rms).T)
    best = np.empty((len(weights), n_prompts), np.uint8)
    worst = np.empty_like(best)
    for start in range(0, len(weights), users_per_block):
        utility = (weights[start : start + users_per_block] @ table).reshape(-1, n_prompts, n_responses)
        best[start : start + users_per_block] = utility.argmax(axis=2)
        worst[start : start + users_per_block] = utility.argmin(axis=2)
    return best, worst


def versus_matrix_product() -> list[float]:
    """Return the median seconds of both and the median of the ratios, measured alternately."""
    population, scores = full_size(10_000)
    ours, theirs = choices(population, scores, threads=2), matrix_product(population, scores)
    if (ours[0] != theirs[0]).mean() > 1e-4 or (ours[1] != theirs[1]).mean() > 1e-4:
        raise SystemExit("the two methods disagree by more than rounding")
    pairs = [
        (
            seconds(lambda: matrix_product(population, scores)),
            seconds(lambda: choices(population, scores, threads=2)),
        )
        for _ in range(ROUNDS)
    ]
    return [statistics.median(column) for column in (*zip(*pairs, strict=True), [a / b for a, b in pairs])]


def million() -> dict[str, Any]:
    population, scores = full_size(1_000_000, 1_000)
    choices(population.subset(np.arange(10_000)), scores, threads=2)
    kept: list[Any] = []
    before = peak_bytes()
    wall, used = wall_and_processor(lambda: kept.append(choices(population, scores, threads=2)))
    extra = peak_bytes() - before - sum(array.nbytes for array in kept[0])
    return {"seconds": wall, "processor": used, "extra": extra}


def first_call() -> float:
    population, scores = full_size(1_000)
    return seconds(lambda: choices(population, scores, threads=2))


def run() -> list[Row]:
    product, ours, ratio = in_fresh_process("bench_choices", "versus_matrix_product")
    large = in_fresh_process("bench_choices", "million")
    extra = large["extra"] / MEGABYTE
    return [
        Row("matrix product + argmax + argmin, 10,000 x 9,402", f"{product:.2f} s", "", None),
        Row("choices, 10,000 x 9,402, two threads", f"{ours:.3f} s", "", None),
        Row("choices: times faster (median of ratios)", f"{ratio:.1f} x", ">= 12 x", ratio >= 12),
        Row(
            "choices, 1,000,000 x 1,000, two threads",
            f"{large['seconds']:.2f} s ({large['processor']:.2f} s of processor)",
            "< 2 s",
            large["seconds"] < 2,
        ),
        Row("choices, 1,000,000 x 1,000: memory beyond output", f"{extra:.0f} MB", "<= 300 MB", extra <= 300),
        Row(
            "choices, first call of a process (kernel from the disk cache)",
            f"{in_fresh_process('bench_choices', 'first_call'):.2f} s",
            "",
            None,
        ),
    ]
