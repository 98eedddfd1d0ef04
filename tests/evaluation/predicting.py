"""Small runs of the predict track, which the tests of the track and of its baselines share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from personalllm.data import Benchmark
from personalllm.evaluation import Condition, Protocol, Results, evaluate
from personalllm.evaluation.sources.pairs import Pairs
from personalllm.evaluation.sources.simulated import Simulated

SMALL: dict[str, Any] = {
    "n_users": 30,
    "pool_users": 20,
    "pool_pairs": 10,
    "intervals": "users",
    "bootstrap_draws": 100,
    "seen_users": 12,
    "shots": (0, 1, 8),
    "users_per_shard": 11,
    "seed": 3,
}
HEAD = Condition("unseen", "unseen", "true", 8)


def small(benchmark: Benchmark, **overrides: Any) -> Protocol:
    return Protocol.for_benchmark(benchmark, track="predict", **(SMALL | overrides))


def run(methods: Sequence[Any], protocol: Protocol, benchmark: Benchmark, **more: Any) -> Results:
    return evaluate(methods, benchmark, protocol=protocol, **more)


def value(results: Results, label: str, metric: str, at: Condition = HEAD) -> float:
    return results.estimate(label, metric, at).value


def pairs_of(protocol: Protocol, benchmark: Benchmark) -> Pairs:
    return Pairs(Simulated(protocol, benchmark), protocol.options)
