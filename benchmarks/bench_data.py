"""Opening a benchmark of the full size: 10,402 prompts x 8 responses x 10 reward models, 92 MB of text."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from _common import MEGABYTE, Row, in_fresh_process, measured_memory, wall_and_processor

from personalllm.data import load, make_synthetic, write_benchmark


def opened() -> dict[str, float]:
    found: dict[str, float] = {}

    def once() -> None:
        found["seconds"], found["processor"] = wall_and_processor(lambda: load(os.environ["BENCH_SYNTHETIC"]))

    return {"extra": measured_memory(once), **found}


def run() -> list[Row]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PERSONALLLM_CACHE"] = str(Path(folder) / "cache")
        os.environ["BENCH_SYNTHETIC"] = str(write_benchmark(make_synthetic(), Path(folder) / "synthetic.parquet"))
        for name in ("first", "second"):
            found = in_fresh_process("bench_data", "opened")
            measured = f"{found['seconds']:.2f} s ({found['processor']:.2f} s of processor)"
            extra = found["extra"] / MEGABYTE
            rows += [
                Row(f"full size from Parquet, {name} open", measured, "< 2 s", found["seconds"] < 2),
                Row(f"full size from Parquet, {name} open: memory", f"{extra:.0f} MB", "< 400 MB", extra < 400),
            ]
    del os.environ["PERSONALLLM_CACHE"], os.environ["BENCH_SYNTHETIC"]
    return rows
