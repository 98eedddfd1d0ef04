"""A run of the predict track that is killed goes on as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from personalllm.core.errors import DataError
from personalllm.data import Benchmark, load, write_benchmark
from personalllm.evaluation import ProgressEvent, Protocol, load_prediction, predict
from personalllm.testing import HashEmbedder

DRIVER = """
import os, signal, sys
from personalllm.data import load
from personalllm.evaluation import Protocol, predict
from personalllm.testing import HashEmbedder

steps = 0

def watch(event):
    global steps
    steps += event.stage == "step"
    if steps == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

benchmark = load(sys.argv[1], cache=False)
protocol = Protocol.for_benchmark(benchmark, track="predict", n_users=30, pool_users=20, pool_pairs=10, seen_users=12,
                                  shots=(0, 1, 8), users_per_shard=11, bootstrap_draws=100)
predict(["longest", "embedding-ranker"], protocol, benchmark, embedder=HashEmbedder(), out=sys.argv[2], progress=watch)
"""


def comparable(run: Path) -> dict[str, bytes]:
    """Everything but the wall-clock seconds."""
    apart = {"timing.json", "cost.json"}
    files = [path for path in sorted(run.rglob("*")) if path.is_file() and path.name not in apart]
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


def protocol_for(benchmark: Benchmark) -> Protocol:
    knobs: dict[str, Any] = {"n_users": 9, "pool_users": 8, "pool_pairs": 5, "seen_users": 4, "users_per_shard": 4}
    return Protocol.for_benchmark(benchmark, track="predict", shots=(0, 2), bootstrap_draws=100, **knobs)


def test_a_killed_run_resumes_to_the_same_bytes(benchmark_: Benchmark, tmp_path: Path) -> None:
    source, script = tmp_path / "tiny.parquet", tmp_path / "driver.py"
    write_benchmark(benchmark_, source)
    script.write_text(DRIVER)

    def run(out: str, kill_at: int) -> int:
        command = [sys.executable, str(script), str(source), str(tmp_path / out), str(kill_at)]
        return subprocess.run(command, env=os.environ | {"PYTHONPATH": ""}, check=False).returncode

    for kill_at in (7, 31):
        assert run("killed", kill_at) == -signal.SIGKILL
    parts = sorted((tmp_path / "killed").glob("*/*/samples/*.parquet"))
    assert {path.parents[1].name.rpartition("-")[0] for path in parts} == {"longest", "embedding-ranker"}
    assert len(list((tmp_path / "killed").glob("*/*/metrics.json"))) == 1
    before = {path: path.stat().st_mtime_ns for path in parts}
    assert run("killed", -1) == 0
    assert {path: path.stat().st_mtime_ns for path in parts} == before
    again = Protocol.from_spec(load_prediction(tmp_path / "killed").protocol)
    names = ["longest", "embedding-ranker"]
    predict(names, again, load(str(source), cache=False), embedder=HashEmbedder(), out=tmp_path / "whole")
    one, other = comparable(tmp_path / "killed"), comparable(tmp_path / "whole")
    assert {name: content for name, content in one.items() if not name.endswith(".part")} == other
    for left, right in zip(*(load_prediction(tmp_path / name).learners for name in ("killed", "whole")), strict=True):
        assert left.id == right.id
        for cell, sums in left.sums.items():
            assert all(np.array_equal(values, right.sums[cell][name]) for name, values in sums.items())


@pytest.mark.parametrize("damage", ["cut", "flip", "swap", "no note"])
def test_a_damaged_part_is_made_again(benchmark_: Benchmark, tmp_path: Path, damage: str) -> None:
    protocol = protocol_for(benchmark_)
    predict(["longest"], protocol, benchmark_, embedder=HashEmbedder(), out=tmp_path)
    whole = comparable(tmp_path)
    (part,) = tmp_path.glob("*/longest-*/samples/part-00003.parquet")
    content = part.read_bytes()
    part.write_bytes(
        {
            "cut": content[:60],
            "flip": content[:80] + bytes([content[80] ^ 1]) + content[81:],
            "swap": part.with_name("part-00002.parquet").read_bytes(),
            "no note": content,
        }[damage]
    )
    if damage == "no note":
        part.with_suffix(".json").unlink()
    (part.parents[1] / "metrics.json").unlink()
    events: list[ProgressEvent] = []
    predict(["longest"], protocol, benchmark_, embedder=HashEmbedder(), out=tmp_path, progress=events.append)
    (told,) = [event.message for event in events if event.stage == "damaged"]
    assert str(part) in told
    assert sum(event.stage == "step" for event in events) == 1
    assert comparable(tmp_path) == whole


@pytest.mark.parametrize("name", ["longest-*", "population-*"])
def test_altered_results_are_refused_and_mended(benchmark_: Benchmark, tmp_path: Path, name: str) -> None:
    protocol = protocol_for(benchmark_)
    predict(["longest"], protocol, benchmark_, out=tmp_path)
    whole = comparable(tmp_path)
    (path,) = tmp_path.glob(f"*/{name}/metrics.json")
    path.write_bytes(path.read_bytes().replace(b"0.5", b"0.9", 1))
    assert comparable(tmp_path) != whole
    with pytest.raises(DataError, match="was altered or cut off"):
        load_prediction(tmp_path)
    predict(["longest"], protocol, benchmark_, out=tmp_path)
    assert comparable(tmp_path) == whole


def test_a_learner_joins_a_run_and_changes_nothing_of_the_others(benchmark_: Benchmark, tmp_path: Path) -> None:
    protocol = protocol_for(benchmark_)
    predict(["longest"], protocol, benchmark_, embedder=HashEmbedder(), out=tmp_path)
    before = {name: content for name, content in comparable(tmp_path).items() if "leaderboard" not in name}
    joined = predict(["pooled-ranker"], protocol, benchmark_, embedder=HashEmbedder(), out=tmp_path)
    assert [one.id for one in joined.learners if one.kind == "learner"] == ["pooled-ranker"]
    after = comparable(tmp_path)
    assert {name: after[name] for name in before} == before
    read = [one.id for one in load_prediction(tmp_path).learners]
    assert read == ["pooled-ranker", "longest", "random", "longer", "population", "best-linear", "true-weights"]
