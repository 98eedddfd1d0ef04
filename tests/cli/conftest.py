"""A small benchmark in a folder of its own, and the command line in this process."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from personalllm.cli.app import app
from personalllm.data import Benchmark, write_benchmark
from personalllm.testing import SurfaceRewards

WORDS = ("river,", "stone", "light", "cloud,", "garden", "music", "letter", "winter", "bread")
METHODS = """
from dataclasses import dataclass
from typing import ClassVar
import numpy as np
from personalllm.methods.base import Method

@dataclass
class Shortest(Method):
    id: ClassVar[str] = "shortest"
    def utilities(self, queries):
        return np.float32([[-len(r) for r in queries.corpus.responses[p]] for p in queries.prompt])

@dataclass
class Hinted(Method):
    id: ClassVar[str] = "hinted"
    needs: ClassVar = frozenset({"signals"})
    def utilities(self, queries):
        n = queries.corpus.n_responses
        return np.float32([self.signals.vectors(np.full(n, p), np.arange(n)).mean(axis=1) for p in queries.prompt])
"""


def build(n: int) -> Benchmark:
    """Return n prompts, a third of them of the test split, with three responses of different lengths."""
    rng = np.random.default_rng(0)
    prompts = [f"Tell me about {WORDS[i % 4]} {i // 4}" for i in range(n)]
    responses = [[" ".join(rng.choice(WORDS, int(k))) + f" {i}" for k in (3, 9, 20)] for i in range(n)]
    rewards = SurfaceRewards()
    scores = [rewards.score([prompt] * 3, row) for prompt, row in zip(prompts, responses, strict=True)]
    return Benchmark.from_arrays(
        name="tiny",
        prompt_ids=[f"p{i}" for i in range(n)],
        prompts=prompts,
        subsets=["s"] * n,
        splits=["train"] * (n - n // 3) + ["test"] * (n // 3),
        responses=responses,
        response_models=["small", "middle", "large"],
        reward_models=rewards.reward_models,
        scores=np.stack(scores),
    )


@pytest.fixture(scope="session")
def make_tiny() -> Callable[[int], Benchmark]:
    return build


@pytest.fixture(scope="session")
def tiny() -> Benchmark:
    """12 prompts, 8 of the train and 4 of the test split."""
    return build(12)


@pytest.fixture
def folder(tiny: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with `tiny.parquet`, people's `mine.csv` and the methods of `methods_for_tests.py`."""
    write_benchmark(tiny, tmp_path / "tiny.parquet")
    write_people(tmp_path / "mine.csv")
    (tmp_path / "methods_for_tests.py").write_text(METHODS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_people(path: Path) -> None:
    """Write choices of four people on eight prompts; all but the first prefer the longer response."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["who", "prompt", "chosen", "rejected"])
        for user in range(4):
            for prompt in range(8):
                long, brief = f"{prompt} and more", str(prompt)
                writer.writerow([user, f"p{prompt}", *((long, brief) if user else (brief, long))])


@pytest.fixture(scope="session")
def run() -> Callable[..., Any]:
    """Run a command; the result has `exception`, `exit_code`, `stdout` and `stderr`."""
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="session")
def output(run: Callable[..., Any]) -> Callable[..., str]:
    """Run a command that must succeed; return its standard output."""

    def of(*arguments: object) -> str:
        result = run(*arguments)
        if result.exception is not None:
            raise result.exception
        return str(result.stdout)

    return of
