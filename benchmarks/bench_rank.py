"""The rank track on the embedded benchmark: 1,000 users, every method, embeddings from the cache."""

from __future__ import annotations

from _common import Row, in_fresh_process, wall_and_processor

from personalllm import Protocol, evaluate, load
from personalllm.backends.embedding import default_embedder


def track() -> dict[str, float]:
    benchmark, embedder = load("mini"), default_embedder()
    embedder.embed([*benchmark.prompts.to_pylist(), *benchmark.responses.to_pylist()])
    protocol = Protocol.for_benchmark(benchmark, track="rank", n_users=1000)
    wall, used = wall_and_processor(lambda: evaluate(["all"], protocol, benchmark, embedder=embedder))
    return {"seconds": wall, "processor": used}


def run() -> list[Row]:
    found = in_fresh_process("bench_rank", "track")
    measured = f"{found['seconds']:.1f} s ({found['processor']:.1f} s of processor)"
    return [Row("rank track on mini, 1,000 users, all methods", measured, "< 60 s", found["seconds"] < 60)]
