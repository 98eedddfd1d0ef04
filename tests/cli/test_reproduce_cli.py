from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from personalllm.cli.reproduce import app
from personalllm.core.errors import ParameterError, UserError
from personalllm.data import Benchmark, write_benchmark
from personalllm.testing import EchoChatModel, SurfaceRewards

WORDS = ("river,", "stone", "light", "cloud,", "garden", "music", "letter", "winter", "bread")
STANDINS = ["--embedder", "personalllm.testing:HashEmbedder", "--llm", "personalllm.testing:EchoChatModel"]
STANDINS += ["--rewards", "personalllm.testing:SurfaceRewards"]
SMALL = ["paper", "--data", "tiny.parquet", "--users", "5", "--max-tokens", "8", "--shots", "3", "--out", "made"]
SMALL += ["--set", "pool.n_users=8", "--set", "pool.pairs_per_user=4", "--set", "bootstrap_draws=100"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rng = np.random.default_rng(0)
    prompts = [f"Tell me about {word} {i}" for i in range(3) for word in WORDS[:4]]
    responses = [[" ".join(rng.choice(WORDS, int(n))) + f" {i}" for n in (3, 9, 20)] for i in range(12)]
    rewards = SurfaceRewards()
    scores = [rewards.score([prompt] * 3, row) for prompt, row in zip(prompts, responses, strict=True)]
    benchmark = Benchmark.from_arrays(
        name="tiny",
        prompt_ids=[f"p{i}" for i in range(12)],
        prompts=prompts,
        subsets=["s"] * 12,
        splits=["train"] * 8 + ["test"] * 4,
        responses=responses,
        response_models=["a", "b", "c"],
        reward_models=rewards.reward_models,
        scores=np.stack(scores),
    )
    write_benchmark(benchmark, tmp_path / "tiny.parquet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, arguments)


@pytest.mark.parametrize(
    ("more", "parts", "cells", "last"),
    [
        (["--no-counterfactuals"], [], 10, ""),
        pytest.param([], ["What survives"], 37, ", shuffled history", marks=pytest.mark.slow),
    ],
)
def test_it_runs_prints_writes_and_asks_nothing_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, more: list[str], parts: list[str], cells: int, last: str
) -> None:
    result = run(*SMALL, *STANDINS, *more, "--no-reply-cache")
    assert result.exit_code == 0, result.output
    out = result.stdout
    for part in ("Section 4, ours beside the paper's", "The paper's claims as directions", "not comparable", *parts):
        assert part in out
    n = cells * 5
    assert f"{cells} cells x 5 users = {n} replies" in result.stderr
    assert f"{n} of {n}: Look-up ICL, winning, 3 shots{last}" in result.stderr
    names = {path.name for path in Path("made").iterdir()}
    assert {
        "reproduction.html",
        "reproduction.md",
        "reproduction.png",
        "reproduction.svg",
        "cells.csv",
        "runs",
    } <= names
    before = json.loads(Path("made/reproduction.json").read_text(encoding="utf-8"))

    def refuse(*_: Any) -> Any:
        raise AssertionError("asked again")

    monkeypatch.setattr(EchoChatModel, "chat", refuse)
    again = run(*SMALL, *STANDINS, *more, "--no-reply-cache")
    assert again.exit_code == 0, again.output
    assert again.stdout == out
    assert json.loads(Path("made/reproduction.json").read_text(encoding="utf-8")) == before
    dry = run(*SMALL, "--dry-run")
    assert "measured in the finished cells" in dry.stdout


def test_a_dry_run_builds_no_model_and_writes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a backend was built")

    for name in ("build_llm", "build_embedder", "build_rewards"):
        monkeypatch.setattr(f"personalllm.backends.names.{name}", refuse)
    result = run(*SMALL, "--dry-run")
    assert result.exit_code == 0, result.output
    assert "37 cells under 4 protocols, 5 users: 185 requests" in result.stdout
    assert "at most 1,480 new ones" in result.stdout
    assert "is unknown: give --rate" in result.stdout
    assert "paper-icl-v1: limit is 5, not None" in result.stdout
    assert "s at 1,000 tokens a second (given)" in run(*SMALL, "--dry-run", "--rate", "1000").stdout
    own = run(*SMALL, "--dry-run", "--no-counterfactuals")
    assert "10 cells under 1 protocol, 5 users" in own.stdout
    assert not Path("made").exists()


def test_small_sizes_unless_the_data_are_the_papers(folder: Path) -> None:
    arguments = [part for part in SMALL if part not in {"--users", "5", "--max-tokens", "8"}]
    assert "24 users" in run(*arguments, "--dry-run").stdout
    assert "generation.max_tokens is 64, not 512" in run(*arguments, "--dry-run").stdout


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--shots", "1,x"], UserError, "Write whole numbers with commas"),
        (["--shots", "0"], ParameterError, "integers >= 1"),
        (["--set", "nonsense"], UserError, "NAME=VALUE"),
        (["--data", "absent.parquet"], UserError, "absent.parquet"),
    ],
)
def test_bad_arguments(folder: Path, arguments: list[str], error: type[Exception], message: str) -> None:
    result = run(*SMALL, *arguments, "--dry-run")
    assert isinstance(result.exception, error), (result.exception, result.output)
    with pytest.raises(error, match=message):
        raise result.exception


def test_stopped_it_says_how_to_go_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("personalllm.papers.personalllm_2025.reproduction.reproduce", interrupt)
    result = run(*SMALL, *STANDINS)
    assert result.exit_code == 130
    assert "The same command continues from here" in result.stderr
