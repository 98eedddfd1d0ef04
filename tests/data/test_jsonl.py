"""JSONL: rows need not have the same keys, and a damaged file is checked up to the damage."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from personalllm.data import validate, write_benchmark

Columns = dict[str, list[Any]]

LATER_KEYS: list[tuple[list[str], list[tuple[str, str, str, int | None, int]]]] = [
    (["response_1_rm_b"], [("score-missing", "error", "response_1_rm_b", 1, 3)]),
    (
        [f"response_{i}_rm_b" for i in (1, 2, 3)],
        [("score-missing", "error", f"response_{i}_rm_b", 1, 3) for i in (1, 2, 3)],
    ),
    (
        ["response_3", "response_3_model", "response_3_rm_a", "response_3_rm_b"],
        [
            ("empty", "error", "response_3", 1, 3),
            ("empty", "error", "response_3_model", 1, 3),
            ("score-missing", "error", "response_3_rm_a", 1, 3),
            ("score-missing", "error", "response_3_rm_b", 1, 3),
        ],
    ),
    (["note"], [("column-extra", "warning", "note", None, 1)]),
]


@pytest.mark.parametrize(("keys", "expected"), LATER_KEYS)
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_keys_that_only_a_later_jsonl_row_has(
    tmp_path: Path,
    columns: Columns,
    name: str,
    keys: list[str],
    expected: list[tuple[str, str, str, int | None, int]],
) -> None:
    table = columns | {"note": ["x"] * 4}
    early = [key for key in columns if key not in keys]
    rows = [{key: table[key][row] for key in (early if row < 3 else [*early, *keys])} for row in range(4)]
    raw = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (tmp_path / name).write_bytes(gzip.compress(raw, mtime=0) if name.endswith(".gz") else raw)
    problems = validate(tmp_path / name)
    assert sorted((p.kind, p.severity, p.column, p.row, p.count) for p in problems) == sorted(expected)


def test_rows_before_the_damage_of_a_jsonl_file_are_still_checked(tmp_path: Path, make_benchmark: Any) -> None:
    path = write_benchmark(make_benchmark(n_prompts=700), tmp_path / "a.jsonl")
    path.write_bytes(path.read_bytes().replace(b'"Response 1 to 3\\n"', b'""') + b'{"prompt": ')
    problems = validate(path)
    assert [(p.kind, p.column, p.row) for p in problems] == [("empty", "response_2", 4), ("truncated", "", 701)]
