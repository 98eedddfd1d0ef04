"""What the benchmark files share: the row of the table, times, peak memory of a fresh process."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from personalllm.core.types import F32
from personalllm.users import Population

__all__ = [
    "MEGABYTE",
    "Row",
    "full_size",
    "in_fresh_process",
    "measured_memory",
    "peak_bytes",
    "seconds",
    "wall_and_processor",
]

MEGABYTE = 2**20


class Row(NamedTuple):
    """One line of the table: what was measured, what is wanted, and whether it was reached (None: no target)."""

    name: str
    measured: str
    target: str
    ok: bool | None


def full_size(n_users: int, n_prompts: int = 9_402) -> tuple[Population, F32]:
    """Return users (alpha 0.05) and random standard normal scores of 8 responses by 10 reward models."""
    names = [f"rm{b}" for b in range(10)]
    scores = np.random.default_rng(0).standard_normal((n_prompts, 8, 10), dtype=np.float32)
    return Population.dirichlet(n_users, 0.05, names, seed=0), scores


def seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def wall_and_processor(function: Callable[[], Any]) -> tuple[float, float]:
    """Return wall-clock seconds and processor seconds of all threads: on a busy machine they tell which it was."""
    start, used = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - start, time.process_time() - used


def peak_bytes() -> int:
    """Return the peak of this program's memory; what `getrusage` says would include the parent's at the fork."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measured_memory(function: Callable[[], Any]) -> int:
    """Return by how many bytes the peak of this process rose during a call; for fresh processes only."""
    before = peak_bytes()
    function()
    return peak_bytes() - before


def in_fresh_process(module: str, function: str) -> Any:
    """Call a function of a benchmark file in a new interpreter and return its JSON-able result."""
    code = f"import json, {module}; print(json.dumps({module}.{function}()))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=_HERE)
    return json.loads(done.stdout.splitlines()[-1])


_HERE = __file__.rpartition("/")[0]
