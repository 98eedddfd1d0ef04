"""The main job from end to end with the real models, small: its tracks, the report, and a run that was killed."""

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

from personalllm.cli import demo as demo_command
from personalllm.cli.app import app
from personalllm.evaluation import load_run
from personalllm.testing import EchoChatModel, HashEmbedder, SurfaceRewards

ARGUMENTS = ["demo", "--users", "40", "--prompts", "3"]


def demo(out: Path, *more: str) -> str:
    done = CliRunner().invoke(app, [*ARGUMENTS, *more, "--out", str(out)])
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


@pytest.mark.models
@pytest.mark.slow
def test_the_demo_runs_its_tracks_and_opens_the_report_with_the_answer(calm):
    out, text = calm
    check_demo(out, text)
    assert "smollm2-135m-instruct writes 8 responses to 3 prompts" in text


def test_its_stages_fit_together(make_tiny, monkeypatch, tmp_path):
    """The same stages on a small benchmark, with stand-ins for the models."""
    names = "personalllm.backends.names"
    monkeypatch.setattr("personalllm.data.load", lambda name: make_tiny(40))
    monkeypatch.setattr(f"{names}.build_embedder", HashEmbedder)
    monkeypatch.setattr("personalllm.backends.llm.LocalChatModel", lambda **sizes: EchoChatModel())
    monkeypatch.setattr(f"{names}.build_rewards", lambda metadata, embedder: SurfaceRewards())
    monkeypatch.setattr(demo_command, "POOL", {"n_users": 20, "pairs_per_user": 6})
    monkeypatch.setattr(demo_command, "METHODS", ("ridge-user", "pooled-bt"))
    text = demo(tmp_path, "--users", "10")
    check_demo(tmp_path, text, users=10)
    assert "writes 3 responses to 3 prompts" in text


def check_demo(out: Path, text: str, users: int = 40) -> None:
    words = " ".join(text.split())
    assert f"Choose among stored responses (rank track): {users} users, 20 preferences known of each" in words
    assert f"Predict preferences (predict track): {users} users, 0 to 20 preferences known of each" in words
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.index("<h1>Did personalisation help?</h1>") < page.index("Leaderboard")
    for label in ("Rank: another user\u2019s history", "Predict"):
        assert f">{label}</a>" in page
    assert "Did personalisation help?" in text
    for name in ("Pooled Bradley-Terry", "Best on text and pool alone"):
        assert name in page
    assert "<script" not in page
    runs = [load_run(path.parent).protocol for path in out.rglob("manifest.json")]
    assert sorted((run["track"], run["history"]["counterfactual"]) for run in runs) == [
        ("predict", "none"), ("rank", "none"), ("rank", "none"), ("rank", "other-user"),
    ]  # fmt: skip


@pytest.mark.models
@pytest.mark.slow
def test_a_second_demo_reads_everything_back(calm):
    out, _ = calm
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    demo(out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")} == before


@pytest.mark.models
@pytest.mark.slow
def test_a_demo_killed_while_the_model_writes_resumes_to_the_same_metrics(calm, tmp_path):
    command = [sys.executable, "-m", "personalllm", *ARGUMENTS, "--out", str(tmp_path)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
    deadline = time.monotonic() + 400
    while not list((tmp_path / "replies").glob("*.sqlite")):
        assert child.poll() is None, "the demo ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not (tmp_path / "report.html").exists()
    demo(tmp_path)
    assert metrics(tmp_path) == metrics(calm[0])
