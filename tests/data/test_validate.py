"""Every validation error: (what was broken, kind, column, row, severity, words of the message, words of the remedy)."""

from __future__ import annotations

import gzip
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from personalllm.core.errors import AxisMismatch, DataError, ParameterError
from personalllm.data import InvalidBenchmark, load, validate, write_benchmark

Columns = dict[str, list[Any]]


def put(column: str, row: int, value: Any) -> Callable[[Columns], None]:
    def change(columns: Columns) -> None:
        columns[column] = [*columns[column][:row], value, *columns[column][row + 1 :]]

    return change


def drop(*names: str) -> Callable[[Columns], None]:
    def change(columns: Columns) -> None:
        for name in names:
            del columns[name]

    return change


def fill(column: str, value: Any) -> Callable[[Columns], None]:
    def change(columns: Columns) -> None:
        columns[column] = [value] * 4

    return change


def swap_order(columns: Columns) -> None:
    columns["response_2_rm_a"] = columns.pop("response_2_rm_a")


def only_one_response(columns: Columns) -> None:
    for name in [name for name in columns if name.startswith(("response_2", "response_3"))]:
        del columns[name]


def no_scores(columns: Columns) -> None:
    for name in [name for name in columns if "_rm_" in name]:
        del columns[name]


CHANGES: list[tuple[str, Callable[[Columns], None], str, str, int | None, str, str, str]] = [
    ("prompt column", drop("prompt"), "column-missing", "prompt", None, "error", "the column is missing", "Add it"),
    ("subset column", drop("subset"), "column-missing", "subset", None, "error", "the column is missing", "constant"),
    ("ids column", drop("prompt_id"), "column-missing", "prompt_id", None, "error", "is missing", "distinct id"),
    ("text column", drop("response_2"), "column-missing", "response_2", None, "error", "is missing", "response texts"),
    (
        "model column",
        drop("response_2_model"),
        "column-missing",
        "response_2_model",
        None,
        "error",
        "is missing",
        "who wrote response 2",
    ),
    (
        "an RM of one response",
        drop("response_3_rm_b"),
        "reward-model-missing",
        "response_3_rm_b",
        None,
        "error",
        "the reward model 'rm_b' has no column for response 3",
        "Add response_3_rm_b",
    ),
    (
        "one response",
        only_one_response,
        "n-responses",
        "",
        None,
        "error",
        "2 to 255 responses",
        "response_1, response_2",
    ),
    ("no RM", no_scores, "no-reward-model", "", None, "error", "no score column", "raw scores"),
    ("extra column", fill("note", "x"), "column-extra", "note", None, "warning", "not part of the", "ignore"),
    (
        "extra column of one response",
        fill("response_1_note", "x"),
        "column-extra",
        "response_1_note",
        None,
        "warning",
        "neither a text, a response model nor a score",
        "add its column",
    ),
    ("RM order", swap_order, "reward-model-order", "response_2_*", None, "warning", "another order", "same order"),
    ("NaN", put("response_1_rm_a", 2, np.nan), "score-not-finite", "response_1_rm_a", 2, "error", "is NaN", "again"),
    ("inf", put("response_1_rm_a", 1, -np.inf), "score-not-finite", "response_1_rm_a", 1, "error", "infinite", "again"),
    (
        "beyond float32",
        put("response_1_rm_a", 0, 1e39),
        "score-not-finite",
        "response_1_rm_a",
        0,
        "error",
        "f",
        "again",
    ),
    ("null score", put("response_2_rm_b", 3, None), "score-missing", "response_2_rm_b", 3, "error", "missing", "again"),
    ("text as score", fill("response_1_rm_b", "good"), "dtype", "response_1_rm_b", 0, "error", "not a number", "float"),
    ("number as text", fill("response_1", 7), "dtype", "response_1", 0, "error", "response is not text", "as text"),
    ("truth as score", fill("response_1_rm_b", True), "dtype", "response_1_rm_b", 0, "error", "not a number", "float"),
    ("fraction as id", fill("prompt_id", 1.5), "dtype", "prompt_id", 0, "error", "prompt id is not text", "as text"),
    (
        "empty prompt",
        put("prompt", 1, ""),
        "empty",
        "prompt",
        1,
        "error",
        "the prompt is empty",
        "leave the prompt out",
    ),
    ("blank response", put("response_3", 2, " \n"), "empty", "response_3", 2, "error", "the response is empty", "Fill"),
    ("null response", put("response_3", 0, None), "empty", "response_3", 0, "error", "the response is empty", "Fill"),
    (
        "null model",
        put("response_1_model", 0, None),
        "empty",
        "response_1_model",
        0,
        "error",
        "name of the resp",
        "Fill",
    ),
    ("empty id", put("prompt_id", 3, ""), "empty", "prompt_id", 3, "error", "the prompt id is empty", "Fill"),
    ("same id", put("prompt_id", 2, "p0"), "duplicate-id", "prompt_id", 2, "error", "stands twice", "its own id"),
    (
        "same id in both splits",
        put("prompt_id", 3, "p0"),
        "duplicate-id-across-splits",
        "prompt_id",
        3,
        "warning",
        "another split",
        "no test prompt",
    ),
    (
        "same prompt in both splits",
        put("prompt", 3, " PROMPT\n\t0 "),
        "duplicate-prompt-across-splits",
        "prompt",
        3,
        "warning",
        "(first 'p3' in 'test', also 'p0' in 'train', ",
        "Remove it from one of the splits: feedback on it would show the answer",
    ),
    ("split name", put("split", 1, "Train"), "split-mixed", "split", 1, "error", "'Train'", "lower case"),
    ("empty split", put("split", 1, None), "split-mixed", "split", 1, "error", "not usable", "every row"),
]


@pytest.mark.parametrize("file_format", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("change", "kind", "column", "row", "severity", "message", "remedy"),
    [case[1:] for case in CHANGES],
    ids=[case[0] for case in CHANGES],
)
def test_problem_names_column_row_and_remedy(
    tmp_path: Path,
    columns: Columns,
    write_jsonl: Any,
    write_parquet: Any,
    file_format: str,
    change: Callable[[Columns], None],
    kind: str,
    column: str,
    row: int | None,
    severity: str,
    message: str,
    remedy: str,
) -> None:
    change(columns)
    write = write_jsonl if file_format == "jsonl" else write_parquet
    path = write(tmp_path / f"bench.{file_format}", columns)
    problems = validate(path)
    # the table counts rows as Python does, a problem from 1
    expected = (kind, column, None if row is None else row + 1, severity)
    assert [(p.kind, p.column, p.row, p.severity) for p in problems] == [expected]
    assert problems[0].file == str(path)
    assert message in problems[0].message
    assert remedy in problems[0].remedy
    if severity == "error":
        with pytest.raises(InvalidBenchmark) as caught:
            load(path)
        assert message in str(caught.value)
        assert caught.value.problems == problems
        assert pickle.loads(pickle.dumps(caught.value)).problems == problems
    else:
        assert load(path).n_prompts == 4


def test_sound_files_have_no_problem(tmp_path: Path, columns: Columns, write_jsonl: Any, write_parquet: Any) -> None:
    assert validate(write_jsonl(tmp_path / "a.jsonl", columns)) == []
    assert validate(write_parquet(tmp_path / "a.parquet", columns)) == []
    assert load(tmp_path / "a.jsonl").fingerprint == load(tmp_path / "a.parquet").fingerprint


def test_all_problems_are_found_in_one_pass(tmp_path: Path, columns: Columns, write_jsonl: Any) -> None:
    put("prompt", 0, "")(columns)
    put("response_2_rm_a", 1, float("nan"))(columns)
    drop("subset")(columns)
    fill("note", 1)(columns)
    kinds = [(p.kind, p.severity) for p in validate(write_jsonl(tmp_path / "a.jsonl", columns))]
    assert kinds[-1] == ("column-extra", "warning")
    assert {kind for kind, _ in kinds[:-1]} == {"column-missing", "empty", "score-not-finite"}


def test_repeats_are_counted_not_listed(tmp_path: Path, columns: Columns, write_parquet: Any) -> None:
    fill("response_1_rm_a", float("nan"))(columns)
    (problem,) = validate(write_parquet(tmp_path / "a.parquet", columns))
    assert (problem.row, problem.count) == (1, 4)
    assert problem.message.endswith("in 4 rows (1, 2, 3, ...)")


def test_many_columns_of_one_kind_are_summed_up(tmp_path: Path, columns: Columns, write_parquet: Any) -> None:
    for i in range(30):
        fill(f"note_{i}", "x")(columns)
    problems = validate(write_parquet(tmp_path / "a.parquet", columns))
    assert len(problems) == 13
    assert "18 more columns" in problems[-1].message


def test_row_numbers_count_on_over_batches(tmp_path: Path, make_benchmark: Any) -> None:
    bench = make_benchmark(n_prompts=1200)
    path = write_benchmark(bench, tmp_path / "a.csv")
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"p1100"', '"p7"'), encoding="utf-8", newline="")
    warnings = validate(path)
    assert [(p.kind, p.row) for p in warnings] == [("duplicate-id-across-splits", 1101)]


@pytest.mark.parametrize(("split", "meant"), [("tset", "test"), ("tran", "train"), ("trian", "train")])
def test_a_misspelt_split_is_refused_with_the_one_that_is_meant(
    tmp_path: Path, columns: Columns, write_jsonl: Any, split: str, meant: str
) -> None:
    put("split", 2, split)(columns)
    problem = next(p for p in validate(write_jsonl(tmp_path / "a.jsonl", columns)) if p.severity == "error")
    assert (problem.column, problem.row) == ("split", 3)
    assert f"the split {split!r} is not known: did you mean {meant!r}?" in str(problem)


@pytest.mark.parametrize("split", ["dev", "validation", "test-hard", "train2", "tests"])
def test_other_names_of_splits_are_taken(tmp_path: Path, columns: Columns, write_jsonl: Any, split: str) -> None:
    put("split", 2, split)(columns)
    assert not [p for p in validate(write_jsonl(tmp_path / "a.jsonl", columns)) if p.severity == "error"]


def test_the_same_prompt_in_one_split_is_no_leak(tmp_path: Path, columns: Columns, write_jsonl: Any) -> None:
    put("prompt", 2, "Prompt 0")(columns)
    assert validate(write_jsonl(tmp_path / "a.jsonl", columns)) == []


def test_prompts_of_both_splits_are_counted_over_files(tmp_path: Path, columns: Columns, write_jsonl: Any) -> None:
    del columns["split"]
    write_jsonl(tmp_path / "b" / "train.jsonl", columns)
    columns["prompt_id"] = [f"q{i}" for i in range(4)]
    columns["prompt"] = ["prompt 0", "Another", "Prompt  2", "Prompt 2"]
    write_jsonl(tmp_path / "b" / "test.jsonl", columns)
    (problem,) = validate(tmp_path / "b")
    assert (problem.kind, problem.severity, problem.row, problem.count) == (
        "duplicate-prompt-across-splits",
        "warning",
        1,
        3,
    )
    assert "first 'q0' in 'test', also 'p0' in 'train', train.jsonl row 1) in 3 rows (1, 3, 4)" in problem.message
    assert problem.file.endswith("test.jsonl")


def cut(path: Path, keep: float) -> Path:
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * keep)])
    return path


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.jsonl.gz", "a.csv", "a.csv.gz"])
@pytest.mark.parametrize("keep", [0.2, 0.9, 0.997])
def test_truncated_file(tmp_path: Path, make_benchmark: Any, name: str, keep: float) -> None:
    path = cut(write_benchmark(make_benchmark(n_prompts=700), tmp_path / name), keep)
    (problem,) = [p for p in validate(path) if p.severity == "error"]
    assert problem.kind == "truncated"
    assert "cut off" in problem.message
    assert "again" in problem.remedy
    with pytest.raises(DataError, match="cut off"):
        load(path)


def test_truncated_datasets_folder(tmp_path: Path, make_benchmark: Any) -> None:
    path = write_benchmark(make_benchmark(n_prompts=1700), tmp_path / "folder")
    cut(path / "train" / "data-00000-of-00001.arrow", 0.8)
    problems = validate(path)
    assert {p.kind for p in problems} == {"truncated"}
    assert problems[0].file.endswith("data-00000-of-00001.arrow")


def test_datasets_folder_with_a_lost_file(tmp_path: Path, make_benchmark: Any) -> None:
    path = write_benchmark(make_benchmark(), tmp_path / "folder")
    (path / "test" / "data-00000-of-00001.arrow").unlink()
    (problem,) = validate(path)
    assert "data-00000-of-00001.arrow" in problem.message
    assert "whole folder" in problem.remedy


OTHER_FILES: list[tuple[str, bytes, str, str]] = [
    ("a.parquet", b"not parquet at all", "truncated", "or not parquet"),
    ("a.parquet", b"", "truncated", "or not parquet"),
    ("a.jsonl", b'{"prompt": "x"}\n[1]\n', "not-json", "a JSON list, not an object in row 2"),
    ("a.jsonl", b'{"prompt": "x"}\nhello\n{"prompt": "y"}\n', "not-json", "not JSON ("),
    ("a.jsonl", b"", "no-rows", "the file is empty"),
    ("a.csv", b"", "no-rows", "the file is empty"),
    ("a.csv", b"prompt,subset\nx,y\nz\n", "truncated", "1 fields where the header has 2"),
    ("a.jsonl", b'{"prompt": "\xff"}\n', "encoding", "not UTF-8"),
    ("a.jsonl.gz", b"plain", "truncated", "line 1: cut off"),
]


@pytest.mark.parametrize(("name", "raw", "kind", "message"), OTHER_FILES)
def test_damaged_file(tmp_path: Path, name: str, raw: bytes, kind: str, message: str) -> None:
    (tmp_path / name).write_bytes(raw)
    found = [p for p in validate(tmp_path / name) if p.kind == kind]
    assert len(found) == 1
    assert message in found[0].message
    with pytest.raises(DataError):
        load(tmp_path / name)


def test_no_rows(tmp_path: Path, columns: Columns) -> None:
    (tmp_path / "a.csv").write_text(",".join(columns) + "\n", encoding="utf-8")
    (problem,) = validate(tmp_path / "a.csv")
    assert problem.kind == "no-rows"
    assert "at least one prompt" in problem.remedy


def test_csv_scores_that_are_not_numbers(tmp_path: Path, make_benchmark: Any) -> None:
    bench = make_benchmark(n_prompts=3, n_responses=2, reward_models=("rm",))
    path = write_benchmark(bench, tmp_path / "a.csv")
    text = path.read_bytes().decode()
    value = repr(float(bench.scores[0, 1, 0]))
    assert value in text
    for bad, kind in (("high", "dtype"), ("", "score-missing"), ("nan", "score-not-finite")):
        path.write_text(text.replace(value, bad), encoding="utf-8", newline="")
        (problem,) = validate(path)
        assert (problem.kind, problem.column, problem.row) == (kind, "response_2_rm", 1)


def test_lone_surrogates_and_bad_utf8(tmp_path: Path, columns: Columns, write_jsonl: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    put("response_1", 1, "\ud800")(columns)
    (problem,) = validate(write_jsonl(tmp_path / "a.jsonl", columns))
    assert (problem.kind, problem.column, problem.row) == ("encoding", "response_1", 2)
    columns["response_1"] = [b"ok", b"ok", b"\xff\xfe", b"ok"]
    arrays = {name: pa.array(values) for name, values in columns.items()}
    raw = arrays["response_1"]
    arrays["response_1"] = pa.Array.from_buffers(pa.string(), 4, raw.buffers())
    pq.write_table(pa.table(arrays), tmp_path / "a.parquet")
    (problem,) = validate(tmp_path / "a.parquet")
    assert (problem.kind, problem.column, problem.row) == ("encoding", "response_1", 3)


def test_files_of_one_folder_must_agree(tmp_path: Path, columns: Columns, write_jsonl: Any) -> None:
    del columns["split"]
    write_jsonl(tmp_path / "b" / "train.jsonl", columns)
    for i in (1, 2, 3):
        del columns[f"response_{i}_rm_b"]
    columns["prompt_id"] = [f"q{i}" for i in range(4)]
    columns["prompt"] = [f"Question {i}" for i in range(4)]
    write_jsonl(tmp_path / "b" / "test.jsonl", columns)
    (problem,) = validate(tmp_path / "b")
    assert problem.kind == "files-differ"
    assert problem.file.endswith("test.jsonl")


def test_files_with_and_without_a_split(tmp_path: Path, columns: Columns, write_jsonl: Any) -> None:
    del columns["split"]
    write_jsonl(tmp_path / "b" / "train.jsonl", columns)
    columns["prompt_id"] = [f"q{i}" for i in range(4)]
    columns["prompt"] = [f"Question {i}" for i in range(4)]
    write_jsonl(tmp_path / "b" / "more.jsonl", columns)
    (problem,) = validate(tmp_path / "b")
    assert problem.kind == "split-mixed"
    assert problem.file.endswith("more.jsonl")
    assert "train" in problem.message


def test_split_column_against_file_name(tmp_path: Path, columns: Columns, write_jsonl: Any) -> None:
    path = write_jsonl(tmp_path / "test.jsonl", columns)
    (problem,) = validate(path)
    assert (problem.kind, problem.severity) == ("split-conflict", "warning")
    assert list(load(path).rows("train")) == [0, 1, 2]


def test_duplicate_csv_column(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,prompt\nx,y\n", encoding="utf-8")
    assert "column-twice" in {p.kind for p in validate(tmp_path / "a.csv")}


SOURCES: list[tuple[str, str, str]] = [
    ("nowhere.parquet", "There is no file or folder", "Give a path"),
    ("a.txt", "unknown suffix", "Use one of .parquet"),
    ("empty", "holds no file of rows", "Put .parquet"),
    ("mixed", "several formats (csv, json)", "one format"),
]


@pytest.mark.parametrize(("name", "message", "remedy"), SOURCES)
def test_sources_that_are_none(tmp_path: Path, name: str, message: str, remedy: str) -> None:
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "a.csv").write_text("x")
    (tmp_path / "mixed" / "a.jsonl").write_text("{}")
    (problem,) = validate(tmp_path / name)
    assert message in problem.message
    assert remedy in problem.remedy
    with pytest.raises(DataError) as caught:
        load(tmp_path / name)
    assert message in str(caught.value)


def test_gzip_of_a_cut_jsonl_is_named_by_its_row(tmp_path: Path, columns: Columns, write_jsonl: Any) -> None:
    raw = write_jsonl(tmp_path / "a.jsonl", columns).read_bytes()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(raw[:-20], mtime=0))
    (problem,) = validate(tmp_path / "a.jsonl.gz")
    assert (problem.kind, problem.row) == ("truncated", 4)


ARRAYS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"scores": np.zeros((6, 3))}, AxisMismatch, "shape (6, 3)"),
    ({"scores": np.zeros((5, 3, 2))}, AxisMismatch, "have 5 prompts"),
    ({"scores": np.full((6, 3, 2), np.nan)}, DataError, "is NaN"),
    ({"prompts": ["x"]}, AxisMismatch, "prompt 1"),
    ({"responses": [["x", "y"]] * 6}, AxisMismatch, "responses[0] has 2 entries"),
    ({"response_models": ["x"]}, AxisMismatch, "response_models[0] has 1 entries"),
    ({"prompt_ids": ["x"] * 6}, DataError, "stands twice"),
    ({"reward_models": ("a", "a")}, ParameterError, "distinct names"),
    ({"reward_models": ("a", "model")}, ParameterError, "none of them 'model'"),
]


@pytest.mark.parametrize(("change", "error", "message"), ARRAYS)
def test_from_arrays_checks_as_a_file_is_checked(
    make_benchmark: Any, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        make_benchmark(**change)
    assert message in str(caught.value)
