from __future__ import annotations

import csv
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from personalllm.cli.app import app
from personalllm.cli.sweep import _table
from personalllm.core.errors import ModelFileError, ParameterError, PersonalLLMError, UnknownName, UserError
from personalllm.data import Benchmark, make_synthetic, write_benchmark
from personalllm.evaluation import Protocol, get_preset, list_presets
from personalllm.evaluation import sweep as sweep_cells
from personalllm.evaluation.settings import flatten
from personalllm.testing import HashEmbedder, SurfaceRewards

WORDS = ("river,", "stone", "light", "cloud,", "garden", "music", "letter", "winter", "bread")
STANDINS = ["--embedder", "personalllm.testing:HashEmbedder", "--llm", "personalllm.testing:EchoChatModel"]
STANDINS += ["--rewards", "personalllm.testing:SurfaceRewards"]
SMALL = ["--users", "12", "--pool-users", "5", "--data", "tiny.parquet", "--out", "runs"]
GENERATE = ["--track", "generate", "--max-tokens", "6", *SMALL, *STANDINS]


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
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PERSONALLLM_CACHE", str(tmp_path / "cache"))
    return tmp_path


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, arguments)


def output(result: Any) -> str:
    assert result.exception is None, result.exception
    return str(result.stdout)


def test_one_table_comes_out_and_the_same_command_resumes(folder: Path) -> None:
    arguments = ["icl", "--vary", "n_shots=1,2", "--vary", "feedback=winning,losing"]
    arguments += ["--vary", "protocol.population.alpha=0.05,1", *GENERATE]
    first = run("sweep", *arguments)
    text = output(first)
    (table,) = Path("runs").glob("sweep-*.csv")
    assert f"Table: {table}" in text
    assert f"Table: {table.with_suffix('.parquet')}" in text
    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["n_shots"], row["feedback"], row["protocol.population.alpha"]) for row in rows] == [
        (shots, mode, alpha) for shots in "12" for mode in ("winning", "losing") for alpha in ("0.05", "1")
    ]
    lines = [line for line in text.splitlines() if line.lstrip().startswith("set ")]
    assert len(lines) == 8
    assert [line.split()[1] for line in lines] == ["0"] * 4 + ["1"] * 4
    for row, line in zip(sorted(rows, key=lambda row: int(row["users"])), lines, strict=True):
        assert f"{float(row['mean_utility']):.3f} [{float(row['mean_utility_low']):.3f}, " in line
        assert row["verdict"] in line
    assert text.count(" among 4 cells on the same 12 users") == 2
    again = run("sweep", *arguments)
    assert output(again) == text
    assert "icl[n_shots=1] protocol.population.alpha=0.05: 12 of 12 were done before" in again.stderr


def test_a_dry_run_lists_the_cells_and_runs_nothing(folder: Path) -> None:
    vary = ["--vary", "n_shots=1,3,5", "--vary", "protocol.limit=null,4"]
    text = output(run("sweep", "icl", "self-icl", *vary, *GENERATE[:-6], "--dry-run"))
    lines = text.splitlines()
    assert lines[0] == "   0  icl, n_shots=1, protocol.limit=null"
    assert lines[11] == "  11  self-icl, n_shots=5, protocol.limit=4"
    assert lines[12].startswith("12 cells under 2 protocols: 96 queries, 96 requests to the chat model ")
    assert lines[12].endswith("Nothing was run.")
    rank = output(run("sweep", "random", "--vary", "protocol.limit=2,4", *SMALL, "--dry-run"))
    assert "2 cells under 2 protocols: 24 queries, 0 requests to the chat model" in rank
    assert not Path("runs").exists()


def test_a_preset_can_be_swept(folder: Path) -> None:
    knobs = ["--preset", "paper-icl", "--set", "pool.pairs_per_user=8", "--max-tokens", "6", *SMALL, *STANDINS]
    text = output(run("sweep", "icl", "zero-shot", "--vary", "protocol.history.counterfactual=none,flipped", *knobs))
    assert "Preset paper-icl-v1, changed: population.n_users 1000 -> 12, " in text
    assert "(first cell; the table's file has the others)" in text
    (table,) = Path("runs").glob("sweep-*.csv")
    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert ["history.counterfactual none -> flipped" in row["preset"] for row in rows] == [False, True] * 2
    assert rows[2]["mean_utility"] == rows[3]["mean_utility"]


BAD: list[tuple[list[str], type[PersonalLLMError], str]] = [
    (
        ["icl", "--vary", "n_shots=0,1", *GENERATE],
        UserError,
        "The cell 'icl, n_shots=0' cannot be run: n_shots must",
    ),
    (["icl", "--vary", "n_shots=1", *SMALL], UserError, "does not take part in the rank track"),
    (["icl", "--vary", "n_shots=", *GENERATE], ParameterError, "the axis 'n_shots' must be a list of different"),
    (["icl", "--vary", "n_shots", *GENERATE], UserError, "Cannot read the setting 'n_shots'"),
    (["icl", "--vary", "n_shots=1", "--vary", "n_shots=2", *GENERATE], UserError, "--vary n_shots is given twice"),
    (
        ["random", "--vary", "protocol.alpha=0.1,-2", *SMALL],
        UserError,
        "'random, protocol.alpha=-2' cannot be run",
    ),
    (["random", "--vary", "protocol.limit=1", "--preset", "paper", *SMALL], UnknownName, "no preset named 'paper'"),
    (["embedding-ranker", "--vary", "shrinkage=1,2", *SMALL], ModelFileError, "personalllm models pull"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD, ids=lambda value: str(value)[:60])
def test_bad_arguments(folder: Path, arguments: list[str], error: type[PersonalLLMError], message: str) -> None:
    result = run("sweep", *arguments)
    assert isinstance(result.exception, error), (result.exception, result.output)
    with pytest.raises(error, match=message):
        raise result.exception
    assert not Path("runs").exists()


def test_an_interrupted_sweep_says_how_to_go_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("personalllm.evaluation.run_sweep", interrupt)
    result = run("sweep", "random", "--vary", "protocol.limit=1,2", *SMALL)
    assert result.exit_code == 130
    assert "The same command continues from here" in result.stderr


def test_presets_are_listed() -> None:
    text = output(run("presets"))
    for name in list_presets():
        assert f"{name}  {get_preset(name).title}; {len(get_preset(name).methods)} methods" in text


@pytest.mark.parametrize("name", ["paper-icl", "paper-meta", "paper-meta-logged-v1"])
def test_a_preset_is_shown_whole(name: str) -> None:
    preset = get_preset(name)
    text = output(run("presets", name))
    assert preset.id in text
    shown = {line.split()[0]: line.split(maxsplit=1)[1].strip() for line in text.splitlines() if len(line.split()) > 1}
    for field, value in flatten(preset.protocol).items():
        assert field in shown, field
        if not isinstance(value, (tuple, type(None))):
            assert shown[field] == str(value)
    for method in preset.methods:
        assert f"  {method}\n" in text


def test_an_unknown_preset_is_named() -> None:
    result = run("presets", "paper-mata")
    with pytest.raises(UnknownName, match="Did you mean 'paper-meta'"):
        raise result.exception


def test_the_command_line_starts_light() -> None:
    heavy = ["matplotlib", "sklearn", "numba", "pyarrow", "onnxruntime", "xllamacpp", "scipy", "openai", "faiss"]
    modules = "import sys, personalllm.cli.sweep, personalllm.cli.presets"
    code = f"{modules}; print([m for m in sys.argv[1:] if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("width", "wide"), [(80, False), (150, True)])
def test_no_number_is_cut_on_a_narrow_terminal(width: int, wide: bool) -> None:
    synthetic = make_synthetic(60, seed=0)
    protocol = Protocol.for_benchmark(synthetic, n_users=20, pool_users=5, bootstrap_draws=100)
    axes = {"shrinkage": [1.0, 25.0], "protocol.history.pairs": [1, 5]}
    table = _table(
        sweep_cells(["embedding-ranker"], axes, protocol, synthetic, embedder=HashEmbedder()), plain=False, wide=wide
    )
    console = Console(width=width, file=io.StringIO())
    console.print(table)
    shown = console.file.getvalue()
    assert "\u2026" not in shown
    assert shown.count("[") == shown.count("]") == (4 * 4 - 1 if wide else 2 * 4 - 1)
    assert ("Holm p" in shown) is wide
