"""Pairs for the training of reward models: formats, groups, and refused rows."""

from __future__ import annotations

import gzip
import json
import re

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from personalllm.core.errors import DataError
from personalllm.data.preferences import read_pairs

ROWS = [
    {"prompt": "What is a kite?", "chosen": "A toy, or a bird.", "rejected": "No\nidea."},
    {"prompt": "Ça va?", "chosen": 'Yes, "very" well', "rejected": "no"},
]


def write(path, rows):
    table = pa.Table.from_pylist(rows)
    if path.suffix == ".csv":
        pacsv.write_csv(table, path)
    elif path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        text = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet", ".csv"])
def test_each_format_gives_the_same_pairs(tmp_path, suffix):
    pairs = read_pairs(write(tmp_path / f"pairs{suffix}", ROWS))
    assert pairs == [(row["prompt"], row["chosen"], row["rejected"], row["prompt"]) for row in ROWS]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv"])
def test_a_group_column_replaces_the_prompt(tmp_path, suffix):
    rows = [{**row, "group": "g"} for row in ROWS]
    assert [row[3] for row in read_pairs(write(tmp_path / f"pairs{suffix}", rows))] == ["g", "g"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.jsonl", None, "There is no file"),
        ("pairs.txt", b"x", "unknown suffix"),
        ("pairs.jsonl", b"", "no preference pair"),
        ("pairs.jsonl", b'{"prompt": "a"\n', "line 1: not JSON ("),
        ("pairs.jsonl", b"[1]\n", "item 1: a JSON int, not an object"),
        ("pairs.jsonl", b'{"prompt": "a", "chosen": "b"}\n', "line 1: there is no 'rejected'"),
        ("pairs.jsonl", b'{"prompt": "a", "chosen": {}, "rejected": "c"}\n', "'chosen' is not a text: {}"),
        ("pairs.jsonl", b'{"prompt": " ", "chosen": "b", "rejected": "c"}\n', "'prompt' is empty"),
        ("pairs.jsonl", b'{"prompt": "a", "chosen": "b", "rejected": "b"}\n', "same text"),
        ("pairs.jsonl", b'\xff{"prompt"\n', "line 1: not UTF-8"),
        ("pairs.jsonl.gz", b"no gzip", "cut off, not JSON"),
        (
            "pairs.jsonl.gz",
            gzip.compress(json.dumps(ROWS[0]).encode() * 50, mtime=0)[:-9],
            "cut off or damaged",
        ),
        ("pairs.parquet", b"PAR1", "cut off or damaged, or not parquet"),
        ("pairs.csv", b"prompt,chosen\na,b\n", "line 2: there is no 'rejected'; it has 'chosen', 'prompt'"),
    ],
)
def test_a_bad_file_is_refused_with_the_place(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        read_pairs(path)
    assert caught.value.remedy
