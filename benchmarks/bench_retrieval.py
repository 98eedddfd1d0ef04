"""Nearest users and nearest prompts, beside the obvious loop and FAISS.

The FAISS rows use clustered keys (a centre for every 200 keys, noise as large as the centres) and 1,000 queries from
the same clusters, 384 dimensions, k = 20; times are seconds of processor, of all threads. HNSW is left out at 1,000,000
keys: its index takes ten minutes to build.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from _common import MEGABYTE, Row, in_fresh_process, measured_memory, wall_and_processor

from personalllm.core.types import F32
from personalllm.methods.parts.retrieval import nearest, nearest_interactions, unit_rows

N_QUERIES, N_USERS, N_PROMPTS, N_PAIRS, K, SHOTS = 1_000, 10_000, 9_402, 50, 20, 3
LOOPED = 40


def rows(n: int, dim: int, seed: int, centres: F32 | None = None) -> F32:
    """Return random unit rows, around centres if there are any; written in blocks, for the sake of memory."""
    rng = np.random.default_rng(seed)
    result = np.empty((n, dim), np.float32)
    for start in range(0, n, 4_000):
        block = rng.standard_normal((min(4_000, n - start), dim), dtype=np.float32)
        if centres is not None:
            block += centres[rng.integers(0, len(centres), len(block))]
        result[start : start + 4_000] = unit_rows(block)
    return result


def loop(asked: F32, targets: F32, pool: F32, prompts: F32, place: Any, offsets: Any) -> None:
    from sklearn.metrics.pairwise import cosine_similarity

    for target, prompt in zip(targets, asked, strict=True):
        similar = np.argsort(-cosine_similarity(target[None], pool)[0], kind="stable")[:K]
        mine = np.concatenate([np.arange(offsets[u], offsets[u + 1]) for u in similar])
        np.argsort(-cosine_similarity(prompt[None], prompts[place[mine]])[0], kind="stable")[:SHOTS]


def users() -> dict[str, float]:
    targets, pool, prompts = rows(N_QUERIES, 1024, 0), rows(N_USERS, 1024, 1), rows(N_PROMPTS, 1024, 2)
    asked, offsets = rows(N_QUERIES, 1024, 3), np.arange(N_USERS + 1) * N_PAIRS
    place = np.random.default_rng(4).integers(0, N_PROMPTS, N_USERS * N_PAIRS)

    def ours() -> None:
        nearest_interactions(asked, prompts, place, offsets, nearest(targets, pool, K), SHOTS)

    ours()
    wall, used = min(wall_and_processor(ours) for _ in range(7))
    some = slice(0, LOOPED)
    looped, _ = wall_and_processor(lambda: loop(asked[some], targets[some], pool, prompts, place, offsets))
    return {"seconds": wall, "processor": used, "loop": looped * N_QUERIES / LOOPED}


def million() -> dict[str, float]:
    queries, keys = rows(N_QUERIES, 384, 0), rows(1_000_000, 384, 1)
    nearest(queries[:2], keys[:9_000], K)
    extra = measured_memory(lambda: nearest(queries, keys, K))
    wall, used = min(wall_and_processor(lambda: nearest(queries, keys, K)) for _ in range(2))
    same = np.repeat(keys[:1], 100_000, axis=0)
    equal, _ = wall_and_processor(lambda: nearest(queries, same, K))
    return {"seconds": wall, "processor": used, "extra": extra, "equal": equal}


def _recall(found: Any, truth: Any) -> float:
    return float((found[:, :, None] == truth[:, None, :]).any(axis=1).mean())


def _hnsw(keys: F32) -> Any:
    import faiss

    index = faiss.IndexHNSWFlat(keys.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction, index.hnsw.efSearch = 80, 64
    index.add(keys)
    return index


def _flat(keys: F32) -> Any:
    import faiss

    index = faiss.IndexFlatIP(keys.shape[1])
    index.add(keys)
    return index


def compared(queries: F32, keys: F32, kinds: dict[str, Callable[[F32], Any]]) -> dict[str, Any]:
    """Return, for each way to search, seconds of processor to build and to search all queries, and recall."""
    from personalllm.methods.parts import retrieval_faiss as offered

    nearest(queries[:2], keys[:9_000], K)
    start = time.process_time()
    truth = nearest(queries, keys, K)
    result: dict[str, Any] = {"queries": len(queries), "exact": (0.0, time.process_time() - start, 1.0)}
    for name, make in kinds.items():
        start = time.process_time()
        index = make(keys)
        built = time.process_time()
        found = index.search(queries, K)[1]
        result[name] = (built - start, time.process_time() - built, _recall(found, truth))
    start = time.process_time()
    index = offered.build(queries, keys, K, nearest)
    built = time.process_time()
    found = offered.search(index, queries, keys, K, nearest)
    result["IVF, as offered"] = (built - start, time.process_time() - built, _recall(found, truth))
    return result


def _clustered(n: int, kinds: dict[str, Callable[[F32], Any]]) -> dict[str, Any]:
    centres = np.random.default_rng(0).standard_normal((n // 200, 384), dtype=np.float32)
    return compared(rows(N_QUERIES, 384, 1, centres), rows(n, 384, 2, centres), kinds)


def faiss_10000() -> dict[str, Any]:
    return _clustered(10_000, {"Flat": _flat, "HNSW": _hnsw})


def faiss_100000() -> dict[str, Any]:
    return _clustered(100_000, {"Flat": _flat, "HNSW": _hnsw})


def faiss_1000000() -> dict[str, Any]:
    return _clustered(1_000_000, {"Flat": _flat})


def faiss_mini() -> dict[str, Any]:
    """Every tenth response of `mini` asks, the others are the keys (embeddings of the local model)."""
    from personalllm.backends.embedding import default_embedder
    from personalllm.data import load

    benchmark = load("mini")
    texts = benchmark.responses.to_pylist()
    vectors = default_embedder().embed(texts)
    asks = np.arange(len(vectors)) % 10 == 0
    return compared(vectors[asks], vectors[~asks], {"Flat": _flat, "HNSW": _hnsw})


def _faiss_rows(function: str, what: str) -> list[Row]:
    result = in_fresh_process("bench_retrieval", function)
    n, exact = result.pop("queries"), result["exact"][1]
    lines = []
    for name, (built, searched, recall) in result.items():
        worth = f", pays from {n * built / (exact - searched):,.0f} queries" if built and searched < exact else ""
        lines.append(
            Row(
                f"{what}: {name}",
                f"build {built:.2f} s, search {searched:.3f} s, recall@20 {recall:.4f}{worth}",
                "",
                None,
            )
        )
    return lines


def run() -> list[Row]:
    many, large = in_fresh_process("bench_retrieval", "users"), in_fresh_process("bench_retrieval", "million")
    extra = large["extra"] / MEGABYTE
    return [
        Row(
            "20 of 10,000 users, then 3 of their prompts, for 1,000 targets, 1,024 dimensions (best of 7)",
            f"{many['seconds']:.2f} s ({many['processor']:.2f} s of processor)",
            "< 0.7 s",
            many["seconds"] < 0.7,
        ),
        Row(f"the same, a loop with sklearn (from {LOOPED} targets)", f"{many['loop']:.0f} s", "", None),
        Row(
            "20 of 1,000,000, for 1,000 queries, 384 dimensions (best of 2)",
            f"{large['seconds']:.2f} s ({large['processor']:.2f} s of processor)",
            "< 8 s",
            large["seconds"] < 8,
        ),
        Row("the same: extra memory", f"{extra:.0f} MB", "< 100 MB", extra < 100),
        Row("20 of 100,000 equal keys, for 1,000 queries", f"{large['equal']:.2f} s", "", None),
        *_faiss_rows("faiss_mini", "mini"),
        *_faiss_rows("faiss_10000", "10,000 keys"),
        *_faiss_rows("faiss_100000", "100,000 keys"),
        *_faiss_rows("faiss_1000000", "1,000,000 keys"),
    ]
