"""`personalllm data`: what it prints and how it exits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from personalllm.cli.data import app
from personalllm.core.errors import DataError, UserError
from personalllm.data import load, make_synthetic, write_benchmark


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_validate_a_sound_file(tmp_path: Path, make_benchmark: Any, run: Any) -> None:
    result = run("validate", write_benchmark(make_benchmark(), tmp_path / "a.parquet"))
    assert result.exit_code == 0
    assert "0 errors, 0 warnings; it can be loaded" in " ".join(result.output.split())


def test_validate_shows_column_row_and_remedy(tmp_path: Path, columns: Any, write_jsonl: Any, run: Any) -> None:
    columns["response_2_rm_a"][2] = float("inf")
    columns["note"] = ["[red]x"] * 4
    result = run("validate", write_jsonl(tmp_path / "a.jsonl", columns))
    assert result.exit_code == 1
    flat = " ".join(result.output.split())
    for words in ("response_2_rm_a", "infinite", "Score the response again", "1 error, 1 warning; it cannot be loaded"):
        assert words in flat


def test_validate_with_warnings_only_is_a_success(tmp_path: Path, columns: Any, write_jsonl: Any, run: Any) -> None:
    columns["note"] = ["x"] * 4
    assert run("validate", write_jsonl(tmp_path / "a.jsonl", columns)).exit_code == 0


def test_validate_names_the_file_where_there_are_several(
    tmp_path: Path, columns: Any, write_jsonl: Any, run: Any
) -> None:
    del columns["split"]
    columns["prompt"][0] = ""
    write_jsonl(tmp_path / "b" / "train.jsonl", columns)
    write_jsonl(tmp_path / "b" / "test.jsonl", columns | {"prompt_id": list("wxyz")})
    flat = " ".join(run("validate", tmp_path / "b").output.split())
    assert "train.jsonl: the prompt is empty" in flat
    assert "test.jsonl: the prompt is empty" in flat


def test_validate_of_nothing(tmp_path: Path, run: Any) -> None:
    result = run("validate", tmp_path / "nowhere.csv")
    assert result.exit_code == 1
    assert "There is no file or folder" in " ".join(result.output.split())


def test_info_tells_sizes_models_and_fingerprint(tmp_path: Path, make_benchmark: Any, run: Any) -> None:
    bench = make_benchmark(metadata={"reward_ensemble": "compact-v1"})
    result = run("info", write_benchmark(bench, tmp_path / "a.parquet"))
    assert result.exit_code == 0
    for words in (bench.fingerprint, "train 4, test 2", "even 3, odd 3", "rm_a", "rm_b", "model-2", "compact-v1"):
        assert words in result.output
    mean = bench.scores[bench.rows("train")][:, :, 1].astype(float).mean()
    assert f"{mean:.4f}" in result.output


def test_info_of_a_broken_file_raises_for_the_root_to_print(tmp_path: Path, run: Any) -> None:
    (tmp_path / "a.csv").write_text("prompt\nx\n")
    assert isinstance(run("info", tmp_path / "a.csv").exception, DataError)


def test_synthetic_writes_what_make_synthetic_returns(tmp_path: Path, run: Any) -> None:
    result = run("synthetic", "--n-prompts", 40, "--seed", 3, "--out", tmp_path / "synthetic.parquet")
    assert result.exit_code == 0
    bench = load(tmp_path / "synthetic.parquet")
    assert bench.fingerprint == make_synthetic(40, seed=3).fingerprint
    assert bench.fingerprint in "".join(result.output.split())


def test_synthetic_does_not_make_missing_folders(tmp_path: Path, run: Any) -> None:
    error = run("synthetic", "--n-prompts", 40, "--out", tmp_path / "no" / "where" / "synthetic.parquet").exception
    assert isinstance(error, UserError)
    assert str(tmp_path / "no" / "where") in error.message
    assert "--out" in error.remedy
    assert not (tmp_path / "no").exists()
