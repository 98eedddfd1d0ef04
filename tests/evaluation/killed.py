"""Jobs to be killed while a chat model writes. As a program: one of them, with a chat model that takes its time.

`python killed.py JOB BENCHMARK FOLDER PAUSE`, PAUSE in seconds before each call of the chat model.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import personalllm
from personalllm.data import load
from personalllm.evaluation import Protocol, evaluate, sweep
from personalllm.papers.personalllm_2025.plan import make_plan
from personalllm.papers.personalllm_2025.reproduction import reproduce
from personalllm.testing import EchoChatModel, HashEmbedder, SurfaceRewards

SOURCE = str(Path(personalllm.__file__).parent.parent)
JOBS = ("evaluate", "sweep", "reproduce")


@dataclass(frozen=True)
class Slow(EchoChatModel):
    """Waits before it answers; the seconds are no part of its identity."""

    pause: float = 0.0

    def chat(self, requests: Any) -> Any:
        time.sleep(self.pause)
        return super().chat(requests)


def do(job: str, source: Path, out: Path, pause: float = 0.0) -> None:
    """Do one of `JOBS` to its end."""
    benchmark = load(source, cache=False)
    backends = {"embedder": HashEmbedder(), "llm": Slow(pause=pause), "rewards": SurfaceRewards(), "out": out}
    if job == "reproduce":
        plan = make_plan(
            benchmark, shots=(3,), limit=3, max_tokens=10, pool_users=20, pool_pairs=6, bootstrap_draws=100
        )
        reproduce(plan, benchmark, **backends)
        return
    sizes = {"n_users": 40, "pool_users": 30} if job == "evaluate" else {"n_users": 16, "pool_users": 6}
    protocol = Protocol.for_benchmark(
        benchmark,
        track="generate",
        max_tokens=12,
        intervals="users",
        bootstrap_draws=200,
        generation={"requests_per_chunk": 4},
        **sizes,
    )
    if job == "evaluate":
        evaluate(["zero-shot", "meta-icl"], benchmark, protocol=protocol, **backends)
    else:
        grid = {"n_shots": [1, 2], "protocol.population.alpha": [0.05, 1.0]}
        sweep(["icl"], grid, benchmark, protocol=protocol, **backends)


def kill(job: str, source: Path, out: Path, pause: float, reached: Callable[[], bool]) -> None:
    """Do a job in a process of its own, and kill it as soon as `reached()`."""
    command = [sys.executable, __file__, job, str(source), str(out), str(pause)]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": SOURCE})
    try:
        deadline = time.monotonic() + 600
        while not reached():
            assert process.poll() is None, "the job ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL


def contents(folder: Path, *, unfinished: bool = True) -> dict[str, bytes]:
    """Return all that a job leaves but wall-clock seconds; `unfinished` files, which only a kill leaves, on request."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "timing.json" and (unfinished or path.suffix != ".part")
    }


if __name__ == "__main__":
    do(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4]))
