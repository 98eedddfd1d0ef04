from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from personalllm.cli.evaluate import evaluate
from personalllm.cli.wiring import build_embedder, build_llm, build_rewards
from personalllm.data import Benchmark, write_benchmark
from personalllm.errors import ModelFileError, ParameterError, PersonalLLMError, PluginError, UnknownName, UserError
from personalllm.evaluation import read_results
from personalllm.testing import SurfaceRewards

WORDS = ("river,", "stone", "light", "cloud,", "garden", "music", "letter", "winter", "bread")
STANDINS = ["--embedder", "personalllm.testing:HashEmbedder", "--llm", "personalllm.testing:EchoChatModel"]
STANDINS += ["--rewards", "personalllm.testing:SurfaceRewards"]
SMALL = ["--users", "20", "--pool-users", "10", "--data", "tiny.parquet", "--out", "runs"]

MINE = """
from dataclasses import dataclass
from typing import ClassVar
import numpy as np
from personalllm.algorithms.base import Algorithm

@dataclass
class Shortest(Algorithm):
    id: ClassVar[str] = "shortest"
    def rank(self, queries):
        return np.float32([[-len(r) for r in queries.corpus.responses[p]] for p in queries.prompt])
"""


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
        response_models=["small", "middle", "large"],
        reward_models=rewards.reward_models,
        scores=np.stack(scores),
    )
    write_benchmark(benchmark, tmp_path / "tiny.parquet")
    (tmp_path / "shortest_for_tests.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PERSONALLLM_CACHE", str(tmp_path / "cache"))
    return tmp_path


def run(*arguments: str) -> Any:
    app = typer.Typer()
    app.command()(evaluate)
    return CliRunner().invoke(app, list(arguments), catch_exceptions=True)


def output(result: Any) -> str:
    assert result.exception is None, result.exception
    return str(result.stdout)


def test_the_rank_track_prints_a_leaderboard_and_resumes(folder: Path) -> None:
    arguments = ("random", "longest", "shortest_for_tests:Shortest", *SMALL)
    first = run(*arguments)
    text = output(first)
    assert "95 % intervals over users" in text
    rows = [line.split()[0] for line in text.splitlines() if "[" in line]
    assert set(rows) == {
        *("random", "longest", "shortest", "oracle", "population-best", "best-single-rm", "worst"),
        f"model:{read_results('runs').protocol['reference_response_model']}",
    }
    assert rows[0] == "oracle"
    assert rows[-1] == "worst"
    assert read_results("runs")["shortest"].spec["class"] == "shortest_for_tests:Shortest"
    (directory,) = Path("runs").iterdir()
    assert f"Results: runs/{directory.name}" in text
    assert f"personalllm report runs/{directory.name}" in text
    again = run(*arguments)
    assert output(again) == text
    assert "random: 20 of 20 were done before" in again.stderr


def test_the_generate_track(folder: Path) -> None:
    text = output(run("zero-shot", "icl[n_shots=2]", "--track", "generate", "--limit", "5", *SMALL, *STANDINS))
    assert "generate track: 5 users, 5 queries" in text
    assert "icl[n_shots=2]" in text
    assert len(read_results("runs").samples("zero-shot")) == 5


def test_versus(folder: Path) -> None:
    assert "utility vs longest" in output(run("random", "longest", "--versus", "longest", *SMALL))


def test_cut_and_empty_responses_are_reported(folder: Path) -> None:
    text = output(run("zero-shot", "--track", "generate", "--max-tokens", "1", *SMALL, *STANDINS))
    assert "zero-shot: of 20 responses 0 were empty and 20 were cut at the token limit; all are counted." in text


def test_a_history_shorter_than_asked_for_is_reported(folder: Path) -> None:
    text = output(run("self-icl[n_shots=7]", "self-icl[n_shots=4]", "--track", "generate", *SMALL, *STANDINS))
    notes = [line for line in text.splitlines() if "examples each" in line]
    assert notes == ["self-icl[n_shots=7]: 5.0 examples each; the history holds no more, or the budget was full"]


BAD: list[tuple[list[str], type[PersonalLLMError], str]] = [
    (["randum", *SMALL], UnknownName, "Did you mean 'random'"),
    (["random", "--users", "0", *SMALL[2:]], ParameterError, r"n_users must be .*1, got 0"),
    (["random", "--alpha", "-1", *SMALL], ParameterError, "alpha"),
    (["random", "--limit", "0", *SMALL], ParameterError, "limit"),
    (["random", "--pairs", "9", *SMALL], ParameterError, r"pairs must be at most .*\(8\), got 9"),
    (["random", "--versus", "longest", *SMALL], UnknownName, "algorithm in this run named 'longest'"),
    (["random", "--max-tokens", "5", *SMALL], ParameterError, "left out in the rank track"),
    (["random", "--reference-model", "smal", *SMALL], UnknownName, "Did you mean 'small'"),
    (["random", "model:nope", *SMALL], UserError, "'model:nope' is not the ref.*--reference-model nope"),
    (["embedding-ranker", *SMALL], ModelFileError, "personalllm models pull"),
    (["embedding-ranker", *SMALL, "--embedder", "other"], UserError, "no embedder named 'other'"),
    (["zero-shot", "--track", "generate", *SMALL], UserError, "does not say which reward ensemble"),
    (["zero-shot", "--track", "generate", *SMALL, *STANDINS[4:]], ModelFileError, "personalllm models pull"),
    (["zero-shot", *SMALL], UserError, "does not take part in the rank track"),
    (["random", *SMALL, "--data", "absent.parquet"], UserError, "absent.parquet"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD, ids=lambda value: str(value)[:60])
def test_bad_arguments(folder: Path, arguments: list[str], error: type[PersonalLLMError], message: str) -> None:
    result = run(*arguments)
    assert isinstance(result.exception, error), (result.exception, result.output)
    with pytest.raises(error, match=message):
        raise result.exception
    assert not Path("runs").exists()


def test_an_interrupted_run_says_how_to_go_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("personalllm.evaluation.evaluate", interrupt)
    result = run("random", *SMALL)
    assert result.exit_code == 130
    assert "The same command goes on from here" in result.stderr


def test_wiring_checks_what_a_factory_returns() -> None:
    for build in (build_embedder, build_llm, lambda name: build_rewards({}, None, name)):
        with pytest.raises(PluginError, match=r"'builtins:object' returned a object, which is no .*It needs: "):
            build("builtins:object")


def test_the_command_line_starts_light() -> None:
    heavy = ["matplotlib", "sklearn", "numba", "pyarrow", "onnxruntime", "xllamacpp", "scipy"]
    modules = "import sys, personalllm.cli.evaluate, personalllm.cli.wiring"
    code = f"{modules}; print([m for m in sys.argv[1:] if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
