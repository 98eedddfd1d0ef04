from __future__ import annotations

import csv
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from personalllm.cli.sweep import _show
from personalllm.core.errors import ModelFileError, ParameterError, PersonalLLMError, UnknownName, UserError
from personalllm.data import Benchmark
from personalllm.evaluation import get_preset, list_presets
from personalllm.evaluation import sweep as sweep_cells
from personalllm.evaluation.settings import flatten
from personalllm.testing import HashEmbedder

STANDINS = ["--embedder", "personalllm.testing:HashEmbedder", "--llm", "personalllm.testing:EchoChatModel"]
STANDINS += ["--rewards", "personalllm.testing:SurfaceRewards"]
SMALL = ["--users", "12", "--pool-users", "5", "--data", "tiny.parquet", "--out", "runs", "--set", "intervals=users"]
PREDICT = ["--track", "predict", "--set", "prediction.n_seen_users=3", "--shots", "0,2", *SMALL, *STANDINS[:2]]
ALPHA = ["--vary", "protocol.population.alpha=0.05,1"]
GENERATE = ["--track", "generate", "--max-tokens", "6", *SMALL, *STANDINS]


def test_one_table_comes_out_and_the_same_command_resumes(
    folder: Path, run: Callable[..., Any], output: Callable[..., str]
) -> None:
    arguments = ["icl", "--vary", "n_shots=1,2", "--vary", "feedback=winning,losing"]
    arguments += ["--vary", "protocol.population.alpha=0.05,1", *GENERATE]
    text = output("sweep", *arguments)
    (table,) = Path("runs").glob("sweep-*.csv")
    assert f"Table: {table}" in text
    assert f"Table: {table.with_suffix('.parquet')}" in text
    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["n_shots"], row["feedback"], row["protocol.population.alpha"]) for row in rows] == [
        (shots, mode, alpha) for shots in "12" for mode in ("winning", "losing") for alpha in ("0.05", "1")
    ]
    lines = [line for line in text.splitlines() if line.startswith("icl (set ")]
    assert [line.split()[2] for line in lines] == ["0)"] * 4 + ["1)"] * 4
    for row, line in zip(sorted(rows, key=lambda row: int(row["users"])), lines, strict=True):
        assert f"{float(row['utility']):.3f} [{float(row['utility_low']):.3f}, " in line.replace("\u2212", "-")
        assert row["verdict"].split()[0] in line
    assert text.count(" among 4 cells on the same 12 users") == 2
    again = run("sweep", *arguments)
    assert again.stdout == text
    assert "icl[n_shots=1] protocol.population.alpha=0.05: 12 of 12 were done before" in again.stderr


def test_a_dry_run_lists_the_cells_and_runs_nothing(folder: Path, output: Callable[..., str]) -> None:
    vary = ["--vary", "n_shots=1,3,5", "--vary", "protocol.limit=null,4"]
    text = output("sweep", "icl", "self-icl", *vary, *GENERATE[:-6], "--dry-run")
    lines = text.splitlines()
    assert lines[0] == "   0  icl, n_shots=1, protocol.limit=null"
    assert lines[11] == "  11  self-icl, n_shots=5, protocol.limit=4"
    assert lines[12].startswith("12 cells under 2 protocols: 96 requests to the chat model, fewer ")
    assert lines[12].endswith("Nothing was run.")
    rank = output("sweep", "random", "--vary", "protocol.limit=2,4", *SMALL, "--dry-run")
    assert "2 cells under 2 protocols: 24 queries, fewer where" in rank
    assert not Path("runs").exists()


def test_a_preset_can_be_swept(folder: Path, output: Callable[..., str]) -> None:
    knobs = ["--preset", "paper-icl", "--set", "pool.pairs_per_user=8", "--max-tokens", "6", *SMALL, *STANDINS]
    text = output("sweep", "icl", "zero-shot", "--vary", "protocol.history.counterfactual=none,flipped", *knobs)
    assert "Preset paper-icl-v1, changed: population.n_users 1000 -> 12, " in text
    assert "(first cell; the table's file has the others)" in text
    (table,) = Path("runs").glob("sweep-*.csv")
    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert ["history.counterfactual none -> flipped" in row["preset"] for row in rows] == [False, True] * 2
    assert rows[2]["utility"] == rows[3]["utility"]


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
def test_bad_arguments(
    folder: Path, arguments: list[str], error: type[PersonalLLMError], message: str, run: Callable[..., Any]
) -> None:
    result = run("sweep", *arguments)
    assert isinstance(result.exception, error), (result.exception, result.output)
    with pytest.raises(error, match=message):
        raise result.exception
    assert not Path("runs").exists()


def test_an_interrupted_sweep_says_how_to_go_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Any]
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("personalllm.evaluation.run_sweep", interrupt)
    result = run("sweep", "random", "--vary", "protocol.limit=1,2", *SMALL)
    assert result.exit_code == 130
    assert "The same command continues from here" in result.stderr


def test_presets_are_listed(output: Callable[..., str]) -> None:
    text = output("presets")
    for name in list_presets():
        assert f"{name}  {get_preset(name).title}; {len(get_preset(name).methods)} methods" in text


@pytest.mark.parametrize("name", ["paper-icl", "paper-meta", "paper-meta-logged-v1"])
def test_a_preset_is_shown_whole(name: str, output: Callable[..., str]) -> None:
    preset = get_preset(name)
    text = output("presets", name)
    assert preset.id in text
    shown = {line.split()[0]: line.split(maxsplit=1)[1].strip() for line in text.splitlines() if len(line.split()) > 1}
    for field, value in flatten(preset.protocol).items():
        assert field in shown, field
        if not isinstance(value, (tuple, type(None))):
            assert shown[field] == str(value)
    for method in preset.methods:
        assert f"  {method}\n" in text


def test_an_unknown_preset_is_named(run: Callable[..., Any]) -> None:
    result = run("presets", "paper-mata")
    with pytest.raises(UnknownName, match="Did you mean 'paper-meta'"):
        raise result.exception


def test_the_command_line_starts_light() -> None:
    heavy = ["matplotlib", "sklearn", "numba", "pyarrow", "onnxruntime", "xllamacpp", "scipy", "openai", "faiss"]
    modules = "import sys, personalllm.cli.sweep, personalllm.cli.presets"
    code = f"{modules}; print([m for m in sys.argv[1:] if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_cells_of_the_predict_track(folder: Path, output: Callable[..., str]) -> None:
    text = output("sweep", "longest", "embedding-ranker", *ALPHA, *PREDICT)
    (path,) = folder.glob("runs/sweep-*.csv")
    assert f"Table: runs/{path.name}" in text
    assert (
        text.count("inner by accuracy among 2 cells on the same 12 users (unseen users, unseen prompts, 2 shots)") == 2
    )
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    assert [row["protocol.population.alpha"] for row in rows] == ["0.05", "1"] * 2
    for row in rows:
        assert f"{100 * float(row['accuracy']):.1f} [" in text
    long = pq.read_table(path.with_name(f"{path.stem}-long.parquet"))
    baselines = {"random", "longer", "population", "best-linear", "true-weights", "text-only", "known-basis"}
    assert set(long.filter(pc.is_null(long["sweep_cell"]))["method"].to_pylist()) == baselines


def test_a_plan_counts_test_pairs(folder: Path, output: Callable[..., str]) -> None:
    text = output("sweep", "longest", *ALPHA, *PREDICT, "--set", "prediction.test_pairs=3", "--dry-run")
    assert "2 cells under 2 protocols: 720 predictions, fewer where an earlier run has them. Nothing was run." in text
    assert not (folder / "runs").exists()


def test_a_preset_of_the_predict_track_needs_no_chat_model(output: Callable[..., str]) -> None:
    text = output("presets", "lore")
    assert "Run: personalllm evaluate --preset lore-v1 --data BENCHMARK; change" in text
    assert "prediction.shots" in text
    assert "--llm MODEL" in output("presets", "paper-icl")


@pytest.mark.parametrize(("width", "wide"), [(80, False), (200, True)])
def test_no_number_is_cut_on_a_narrow_terminal(tiny: Benchmark, width: int, wide: bool) -> None:
    axes = {"shrinkage": [1.0, 25.0], "protocol.history.pairs": [1, 5]}
    settings = {"n_users": 20, "pool_users": 5, "bootstrap_draws": 100, "intervals": "users"}
    swept = sweep_cells(["embedding-ranker"], axes, tiny, protocol=settings, embedder=HashEmbedder())
    console = Console(width=width, record=True, file=io.StringIO(), force_terminal=True, color_system=None)
    _show(swept, console)
    table = console.export_text().partition("\nWinner")[0].partition("\nNo winner")[0]
    assert "\u2026" not in table
    assert table.count("[") == table.count("]") >= 2 * 4 - 1
    assert ("Holm" in table.partition("A wider")[0]) is wide
