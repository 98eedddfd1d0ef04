from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from personalllm.backends.names import build_embedder, build_llm, build_rewards
from personalllm.cli.app import app
from personalllm.core.errors import (
    ModelFileError,
    ParameterError,
    PersonalLLMError,
    PluginError,
    UnknownName,
    UserError,
)
from personalllm.data import Benchmark, write_benchmark
from personalllm.evaluation import read_results
from personalllm.testing import EchoChatModel, SurfaceRewards

WORDS = ("river,", "stone", "light", "cloud,", "garden", "music", "letter", "winter", "bread")
STANDINS = ["--embedder", "personalllm.testing:HashEmbedder", "--llm", "personalllm.testing:EchoChatModel"]
STANDINS += ["--rewards", "personalllm.testing:SurfaceRewards"]
SMALL = ["--users", "20", "--pool-users", "10", "--data", "tiny.parquet", "--out", "runs"]

MINE = """
from dataclasses import dataclass
from typing import ClassVar
import numpy as np
from personalllm.methods.base import Method

@dataclass
class Shortest(Method):
    id: ClassVar[str] = "shortest"
    def utilities(self, queries):
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
    return CliRunner().invoke(app, ["evaluate", *arguments])


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


PAPER = ["--preset", "paper-icl", "--set", "pool.pairs_per_user=8", "--max-tokens", "6", *SMALL, *STANDINS]


def test_a_preset_brings_its_protocol_and_its_methods(folder: Path) -> None:
    text = output(run(*PAPER, "--limit", "3"))
    results = read_results("runs")
    assert results.preset in text
    assert "Preset paper-icl-v1, changed: population.n_users 1000 -> 20, " in text
    assert "not comparable with the preset's numbers" in text
    assert "beside the preset's own" not in text
    assert len([row for row in results.methods if row.kind == "method"]) == 16
    assert results.protocol["track"] == "generate"
    assert results.protocol["pool"] == {"n_users": 10, "pairs_per_user": 8, "seed": 0}
    assert (results.protocol["generation"]["max_tokens"], results.protocol["limit"]) == (6, 3)
    assert results.protocol["history"]["counterfactual"] == "none"


def test_named_methods_replace_the_presets(folder: Path) -> None:
    text = output(run("zero-shot", "icl[n_shots=2]", *PAPER, "--set", "counterfactual=other-user"))
    results = read_results("runs")
    assert [row.id for row in results.methods if row.kind == "method"] == ["zero-shot", "icl[n_shots=2]"]
    assert "history.counterfactual none -> other-user" in text
    assert "beside the preset's own methods: icl[n_shots=2]" in text


def test_set_reaches_every_field_and_wins_over_options(folder: Path) -> None:
    settings = ["feedback.flip=0.25", "population.kind=dirichlet", "alpha=[1,2,3,4]", "bootstrap_draws=100"]
    flags = [flag for setting in settings for flag in ("--set", setting)]
    text = output(run("random", "--alpha", "0.3", *SMALL, *flags))
    protocol = read_results("runs").protocol
    assert protocol["feedback"]["flip"] == 0.25
    assert protocol["population"]["alpha"] == [1, 2, 3, 4]
    assert protocol["bootstrap_draws"] == 100
    assert protocol["preset"] is None
    assert "Preset" not in text


def test_the_chat_model_gets_the_options(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    def build(name: str, **options: Any) -> EchoChatModel:
        asked.append((name, options))
        return EchoChatModel()

    monkeypatch.setattr("personalllm.backends.names.build_llm", build)
    base = ["zero-shot", "--track", "generate", *SMALL, *STANDINS[:2], *STANDINS[4:], "--llm", "openai:m"]
    output(run(*base))
    server = ["--base-url", "http://127.0.0.1:9/v1", "--stream", "--context-length", "99", "--no-reply-cache"]
    server += ["--concurrency", "3", "--revision", "r1"]
    output(run(*base, *server))
    plain = {"base_url": None, "stream": False, "context_length": None, "cache": True}
    plain |= {"concurrency": None, "revision": None}
    given = {"base_url": "http://127.0.0.1:9/v1", "stream": True, "context_length": 99, "cache": False}
    given |= {"concurrency": 3, "revision": "r1"}
    assert asked == [("openai:m", plain), ("openai:m", given)]


BAD: list[tuple[list[str], type[PersonalLLMError], str]] = [
    (["randum", *SMALL], UnknownName, "Did you mean 'random'"),
    (["random", "--users", "0", *SMALL[2:]], ParameterError, r"n_users must be .*1, got 0"),
    (["random", "--alpha", "-1", *SMALL], ParameterError, "alpha"),
    (["random", "--limit", "0", *SMALL], ParameterError, "limit"),
    (["random", "--pairs", "9", *SMALL], ParameterError, r"pairs must be at most .*\(8\), got 9"),
    (["random", "--versus", "longest", *SMALL], UnknownName, "method in this run named 'longest'"),
    (["random", "--max-tokens", "5", *SMALL], ParameterError, "left out in the rank track"),
    (["random", "--reference-model", "smal", *SMALL], UnknownName, "Did you mean 'small'"),
    (["random", "model:nope", *SMALL], UserError, "'model:nope' is not the ref.*--reference-model nope"),
    (["embedding-ranker", *SMALL], ModelFileError, "personalllm models pull"),
    (["embedding-ranker", *SMALL, "--embedder", "other"], UserError, "no embedder named 'other'"),
    (["zero-shot", "--track", "generate", *SMALL], UserError, "does not say which reward ensemble"),
    (["zero-shot", "--track", "generate", *SMALL, *STANDINS[4:]], ModelFileError, "personalllm models pull"),
    (["zero-shot", "random", *SMALL], UserError, "does not take part in the rank track"),
    (["random", *SMALL, "--data", "absent.parquet"], UserError, "absent.parquet"),
    ([*SMALL], UserError, "No method is named. Name one, e.g. random, or all; or choose a --preset"),
    (["--preset", "paper-ic", *SMALL], UnknownName, "no preset named 'paper-ic'. Did you mean 'paper-icl'"),
    (["--preset", "paper-icl", *SMALL], UserError, r"Override it: --set pool.pairs_per_user=8 \("),
    (["random", "--set", "alpha", *SMALL], UserError, "Cannot read the setting 'alpha'. Write NAME=VALUE"),
    (["random", "--set", "alhpa=1", *SMALL], ParameterError, "alhpa must be a field of the protocol"),
    (["random", "--set", "limit=1", "--set", "limit=2", *SMALL], UserError, "--set limit is given twice"),
    (["random", "--set", "llm=x", *SMALL], UserError, "'llm' is no setting of the protocol"),
    (["random", "--set", "a.b=1", *SMALL], UserError, "There is no setting 'a.b' in the protocol. Before the dot"),
    (["random", "--set", "seed=null", *SMALL], ParameterError, "seed must be"),
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
    assert "The same command continues from here" in result.stderr


def test_names_check_what_a_factory_returns() -> None:
    for build in (build_embedder, build_llm, lambda name: build_rewards({}, None, name)):
        with pytest.raises(PluginError, match=r"'builtins:object' returned a object, which is no .*It needs: "):
            build("builtins:object")


def test_the_command_line_starts_light() -> None:
    heavy = ["matplotlib", "sklearn", "numba", "pyarrow", "onnxruntime", "xllamacpp", "scipy"]
    modules = "import sys, personalllm.cli.evaluate, personalllm.backends.names"
    code = f"{modules}; print([m for m in sys.argv[1:] if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_track_follows_from_what_the_methods_can_do(folder: Path) -> None:
    shown = output(run("zero-shot", "self-icl", *SMALL, *STANDINS))
    assert "generate track" in shown
    refused = run("zero-shot", "random", *SMALL, *STANDINS)
    assert "use --track generate" in str(refused.exception.remedy)


def test_a_counterfactual_history_is_named(folder: Path) -> None:
    shown = output(run("random", "--set", "history.counterfactual=flipped", *SMALL))
    assert "rank track, counterfactual history (flipped)" in " ".join(shown.split())
