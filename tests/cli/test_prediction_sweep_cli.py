from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from personalllm.cli.app import app
from personalllm.core.errors import UserError
from personalllm.data import make_synthetic, write_benchmark
from personalllm.evaluation import load_prediction

SMALL = ["--data", "tiny.parquet", "--out", "runs", "--users", "12", "--pool-users", "6"]
PREDICT = ["--track", "predict", "--set", "prediction.n_seen_users=3", "--shots", "0,2"]
PREDICT += ["--embedder", "personalllm.testing:HashEmbedder", *SMALL]
ALPHA = ["--vary", "protocol.population.alpha=0.05,1"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_benchmark(make_synthetic(40, seed=0), tmp_path / "tiny.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PERSONALLLM_CACHE", str(tmp_path / "cache"))
    return tmp_path


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, arguments)


def test_a_sweep_prints_accuracy_and_writes_the_long_table(folder: Path) -> None:
    done = run("sweep", "longest", "embedding-ranker", *ALPHA, *PREDICT)
    assert done.exit_code == 0, done.exception
    lines = done.stdout.splitlines()
    assert lines[0].split()[:5] == ["pairs", "method", "population.alpha", "shots", "accuracy"]
    assert sum(line.startswith("set ") for line in lines) == 4
    assert done.stdout.count("inner by accuracy among 2 cells that predict the same pairs of 12 users") == 2
    (path,) = folder.glob("runs/sweep-*.csv")
    assert f"Table: runs/{path.name}" in done.stdout
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    assert {row["protocol.population.alpha"] for row in rows} == {"0.05", "1"}
    assert {row["learner"] for row in rows if row["sweep_cell"] == ""} == {
        *("random", "longer", "population"),
        *("best-linear", "true-weights"),
    }
    runs = [load_prediction(manifest.parent) for manifest in folder.glob("runs/*/manifest.json")]
    assert len(runs) == 2
    shown = {f"{found.estimate('longest', 'accuracy', found.headline).value * 100:.1f}" for found in runs}
    assert all(any(value in line for line in lines) for value in shown)


def test_a_plan_counts_test_pairs(folder: Path) -> None:
    done = run("sweep", "longest", *ALPHA, *PREDICT, "--set", "prediction.test_pairs=3", "--dry-run")
    assert done.exit_code == 0, done.exception
    assert "2 cells under 2 protocols: 180 test pairs, each predicted once for every number of shots." in done.stdout
    assert "chat model" not in done.stdout
    assert not (folder / "runs").exists()


def test_tracks_are_not_mixed(folder: Path) -> None:
    done = run("sweep", "longest", "--vary", "protocol.track=rank,predict", "--set", "pool.pairs_per_user=5", *SMALL)
    assert isinstance(done.exception, UserError)
    assert "cannot be swept together" in str(done.exception)


def test_a_preset_of_the_predict_track_needs_no_chat_model() -> None:
    shown = run("presets", "lore").stdout
    assert "Run: personalllm evaluate --preset lore-v1 --data BENCHMARK; change" in shown
    assert "prediction.shots" in shown
    assert "--llm MODEL" in run("presets", "paper-icl").stdout
