"""The main job from end to end with the real models, small: both tracks, the report, and a run that was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from personalllm.cli.app import app
from personalllm.evaluation import load_run

pytestmark = pytest.mark.models

ARGUMENTS = ["demo", "--users", "40", "--writers", "2", "--max-tokens", "8"]


def demo(out: Path) -> str:
    done = CliRunner().invoke(app, [*ARGUMENTS, "--out", str(out)])
    assert done.exit_code == 0, done.output
    return done.output


def metrics(out: Path) -> dict[str, object]:
    return {
        f"{path.parent.parent.name}/{path.parent.name}": json.loads(path.read_text())
        for path in sorted(out.rglob("record.json"))
    }


@pytest.fixture(scope="module")
def calm(tmp_path_factory, chat_model, embedder):
    out = tmp_path_factory.mktemp("calm")
    return out, demo(out)


def test_the_demo_runs_both_tracks_and_writes_the_report(calm):
    out, text = calm
    assert "rank track" in text
    assert "generate track" in text
    page = (out / "report.html").read_text(encoding="utf-8")
    for name in ("Embedding ranker", "Meta-ICL", "User&#39;s best stored response"):
        assert name in page
    assert "<script" not in page
    tracks = {load_run(path.parent).protocol["track"] for path in out.rglob("manifest.json")}
    assert tracks == {"rank", "generate"}


def test_a_second_demo_reads_everything_back(calm):
    out, _ = calm
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    demo(out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")} == before


def test_a_demo_killed_while_the_model_writes_resumes_to_the_same_metrics(calm, tmp_path):
    command = [sys.executable, "-m", "personalllm", *ARGUMENTS, "--out", str(tmp_path)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
    deadline = time.monotonic() + 240
    while not any("icl" in path.parent.parent.name for path in tmp_path.rglob("part-*.parquet")):
        assert child.poll() is None, "the demo ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not (tmp_path / "report.html").exists()
    demo(tmp_path)
    assert metrics(tmp_path) == metrics(calm[0])
