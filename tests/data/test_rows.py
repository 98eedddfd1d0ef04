"""The row reader: every format and table gives the same rows, and what is damaged is named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from personalllm.core.errors import DataError, ParameterError
from personalllm.data import Preferences, load, validate
from personalllm.data.rows import read_rows

ROWS = [{"prompt": "Ça va?", "note": "a, b"}, {"prompt": "Two\nlines", "note": "c; d"}]
COLUMNS = {"prompt": ["Ça va?", "Two\nlines"], "note": ["a, b", "c; d"]}
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
CSV = 'prompt,note\nÇa va?,"a, b"\n"Two\nlines",c; d\n'


class Stream:
    """A table that only speaks the Arrow C stream protocol."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._table.__arrow_c_stream__(requested_schema)


def cells(source: Any, **options: Any) -> list[tuple[str, str]]:
    return [(row.text("prompt"), row.text("note")) for row in read_rows(source, ("prompt", "note"), **options)]


FILES: list[tuple[str, bytes]] = [
    ("a.jsonl", LINES.encode()),
    ("a.jsonl", LINES.encode("utf-8-sig")),
    ("a.jsonl", gzip.compress(LINES.encode(), mtime=0)),
    ("a.jsonl.gz", LINES.encode()),
    ("a.jsonl.gz", gzip.compress(LINES.encode("utf-8-sig"), mtime=0)),
    ("a.json", json.dumps(ROWS, indent=1).encode()),
    ("a.json", b" \n" * 2000 + json.dumps(ROWS).encode()),
    ("a.json", LINES.encode()),
    ("a.jsonl", LINES.encode("utf-16")),
    ("a.csv", CSV.encode()),
    ("a.csv", CSV.encode("utf-8-sig")),
    ("a.csv", CSV.encode("utf-16")),
    ("a.csv", '\n  \nprompt;note\nÇa va?;a, b\n"Two\nlines";"c; d"\n'.encode()),
    ("a.csv", 'prompt;note\nÇa va?;a, b\n"Two\nlines";"c; d"\n'.encode()),
    ("a.tsv", 'note\tprompt\na, b\tÇa va?\nc; d\t"Two\nlines"\n'.encode()),
    ("a.csv.gz", gzip.compress(b'"prompt"|"note"\n\xc3\x87a va?|a, b\n\n"Two\nlines"|c; d\n', mtime=0)),
]


@pytest.mark.parametrize(("name", "data"), FILES)
def test_every_text_format_gives_the_same_rows(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    assert cells(tmp_path / name) == [tuple(row.values()) for row in ROWS]


@pytest.mark.parametrize("kind", ["parquet", "feather", "arrow file", "arrow stream", "folder"])
def test_every_table_format_gives_the_same_rows(tmp_path: Path, kind: str) -> None:
    table = pa.Table.from_pylist(ROWS)
    path = tmp_path / {"parquet": "a.parquet", "feather": "a.feather", "folder": "folder"}.get(kind, "a.arrow")
    if kind == "parquet":
        pq.write_table(table, path)
    elif kind == "feather":
        feather.write_feather(table, path)
    elif kind == "folder":
        path.mkdir()
        pq.write_table(table.slice(0, 1), path / "x-00000-of-00002.parquet")
        pq.write_table(table.slice(1, 1), path / "x-00001-of-00002.parquet")
    else:
        writer = pa.ipc.new_file if kind == "arrow file" else pa.ipc.new_stream
        with pa.OSFile(str(path), "wb") as sink, writer(sink, table.schema) as stream:
            stream.write_table(table)
    assert cells(path) == [tuple(row.values()) for row in ROWS]


def tables(library: str) -> list[Any]:
    table = pa.Table.from_pylist(ROWS)
    if library == "polars":
        pl = pytest.importorskip("polars")
        return [pl.DataFrame(COLUMNS), pl.LazyFrame(COLUMNS)]
    if library == "datasets":
        datasets = pytest.importorskip("datasets")
        dataset = datasets.Dataset.from_list([*reversed(ROWS)]).select([1, 0])
        return [dataset, dataset.to_iterable_dataset(), datasets.DatasetDict({"train": dataset})]
    if library == "pandas":
        return [pytest.importorskip("pandas").DataFrame(COLUMNS)]
    return [ROWS, iter(ROWS), {"train": ROWS}, COLUMNS, table, table.to_reader(), Stream(table)]


@pytest.mark.parametrize("library", ["python and pyarrow", "pandas", "polars", "datasets"])
def test_every_table_in_memory_gives_the_same_rows(library: str) -> None:
    for source in tables(library):
        assert cells(source) == [tuple(row.values()) for row in ROWS], type(source)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (3, "source must be a path, a list of dicts, a pandas or polars DataFrame"),
        (["text"], "Item 1 is a str, not a dict"),
        ([("a", "b")], "Item 1 is a tuple, not a dict"),
        ({"prompt": ["a"], "note": ["b", "c"]}, "The columns differ in length: 'prompt' 1, 'note' 2. Give each column"),
    ],
)
def test_other_objects_are_refused(source: Any, message: str) -> None:
    with pytest.raises((DataError, ParameterError), match=message):
        cells(source)


def test_columns_are_recognised_in_other_case_and_by_mapping(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("Prompt, NOTE \nhi,x\n", encoding="utf-8")
    assert cells(tmp_path / "a.csv") == [("hi", "x")]
    (tmp_path / "b.jsonl").write_text('{"question": "hi", "note": "x"}\n', encoding="utf-8")
    assert cells(tmp_path / "b.jsonl", columns={"prompt": "question"}) == [("hi", "x")]
    with pytest.raises(DataError, match=r"there is no 'prompt'; it has 'note', 'question'.*--column prompt=NAME"):
        cells(tmp_path / "b.jsonl")
    with pytest.raises(DataError, match=r"no column 'questions' \(for 'prompt'\).*Did you mean 'question'"):
        cells(tmp_path / "b.jsonl", columns={"prompt": "questions"})
    with pytest.raises(ParameterError, match="columns must be of note, prompt, got"):
        cells(tmp_path / "b.jsonl", columns={"reply": "question"})


def test_names_are_matched_for_every_row_of_json(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "note": "b"}] * 600 + [{"Prompt": "c", "NOTE": "d"}, {"text": "e", "note": "f"}]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    read = list(read_rows(path, ("prompt", "note"), columns={"prompt": "text"}))
    assert read[601].text("prompt") == "e"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:601]), encoding="utf-8")
    assert cells(path)[600] == ("c", "d")
    with pytest.raises(
        DataError, match=r"no column 'text' \(for 'prompt'\). It has 'prompt', 'note', 'Prompt', 'NOTE'"
    ):
        cells(path, columns={"prompt": "text"})


def test_a_question_ends_with_its_own_mark() -> None:
    with pytest.raises(DataError, match=r"it has 'notes', 'prompt'\. Did you mean 'notes'\? If a column"):
        cells([{"prompt": "a", "notes": "b"}])


@pytest.mark.parametrize("encoding", ["utf-32-le", "utf-32-be"])
def test_utf_32_is_named(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.csv").write_bytes(("\ufeff" + CSV).encode(encoding))
    with pytest.raises(DataError, match=r"a\.csv: the file is UTF-32\. Save it as UTF-8\."):
        cells(tmp_path / "a.csv")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    for number in (0, 2):
        pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / f"test-{number:05d}-of-00003.parquet")
    with pytest.raises(DataError, match=r"lacks test-00001-of-00003\.parquet, of 3 shards"):
        cells(tmp_path)
    assert "lacks test-00001-of-00003.parquet" in validate(tmp_path)[0].message
    assert len(cells(tmp_path / "test-00002-of-00003.parquet")) == 2


def test_shards_that_are_counted_from_one_are_whole(tmp_path: Path) -> None:
    for number in (1, 2):
        pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / f"x-{number:05d}-of-00002.parquet")
    assert len(cells(tmp_path)) == 4


BAD_CELLS: list[tuple[str, str]] = [
    ('{"user": NaN, "prompt": "p", "chosen": "c", "rejected": "r"}', r"line 1: 'user' is empty \(null\)"),
    ('{"user": "u", "prompt": "p", "chosen": NaN, "rejected": "r"}', r"line 1: 'chosen' is empty \(null\)"),
    ('{"user": "u", "prompt": "p", "chosen": "\\ud83d", "rejected": "r"}', "'chosen' is not valid Unicode"),
    ('{"user": "a\\u0000b", "prompt": "p", "chosen": "c", "rejected": "r"}', "line 1: 'user' holds a NUL character"),
    ('{"user": 1.5, "prompt": "p", "chosen": "c", "rejected": "r"}', "'user' is not a text: 1.5"),
    ('{"user": "u", "prompt": "p", "chosen": {"a": 1}, "rejected": "r"}', "'chosen' is not a text"),
    ('{"user": "u", "prompt": "p", "chosen": "c"}', "has the columns chosen, prompt, user"),
]


@pytest.mark.parametrize(("line", "message"), BAD_CELLS)
def test_a_cell_that_cannot_be_used_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "p.jsonl").write_text(line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=message):
        Preferences.from_rows(tmp_path / "p.jsonl")


def test_fractions_of_pandas_are_whole_numbers() -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {
            "instruction": ["a", "b"],
            "input": [None, "x"],
            "response1": ["1", "1"],
            "response2": ["2", "2"],
            "annotator1": [1.0, None],
            "annotator2": [2, 0],
        }
    )
    people = Preferences.from_rows(frame)
    assert (people.users, people.n, people.n_ties) == (("annotator1", "annotator2"), 2, 1)
    ids = pd.DataFrame({"user": [7.0, 8.0], "prompt": "p", "chosen": "c", "rejected": ["r", None]})
    with pytest.raises(DataError, match=r"row 2: 'rejected' is empty \(null\)"):
        Preferences.from_rows(ids)
    assert Preferences.from_rows(ids.head(1)).users == ("7",)


def test_an_empty_cell_of_csv_is_a_missing_value_as_in_pandas(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    path = tmp_path / "p.csv"
    path.write_text("user,prompt,chosen,rejected\nann,Hi,Hello.,What?\nbob,Hi,Hello.,\n", encoding="utf-8")
    for source in (path, pd.read_csv(path)):
        with pytest.raises(DataError, match=r"(line 3|row 2): 'rejected' is empty \(null\)"):
            Preferences.from_rows(source)
    rows = [{"user": "ann", "prompt": "Hi", "chosen": "Hello.", "rejected": ""}]
    assert Preferences.from_rows(rows).histories.corpus.n_responses == 2


def test_chat_messages_are_read_as_texts() -> None:
    user = {"role": "user", "content": "Hi"}
    reply, other = ({"role": "assistant", "content": text} for text in "AB")
    explicit = [{"user": "u", "prompt": [user], "chosen": [reply], "rejected": [other]}]
    implicit = [{"user": "u", "chosen": [user, reply], "rejected": [user, other]}]
    plain = [{"user": "u", "prompt": "Hi", "chosen": "A", "rejected": "B"}]
    expected = Preferences.from_rows(plain).fingerprint
    assert Preferences.from_rows(explicit).fingerprint == Preferences.from_rows(implicit).fingerprint == expected
    assert Preferences.from_rows(pa.Table.from_pylist(explicit)).fingerprint == expected
    with pytest.raises(DataError, match="messages of 'chosen' do not end with the assistant's"):
        Preferences.from_rows([{"user": "u", "prompt": "Hi", "chosen": [user], "rejected": [other]}])


def test_candidates_of_any_number() -> None:
    rows = [
        {"user": "ann", "prompt": "p", "chosen": "b", "shown": ["a", "b", "c"]},
        {"user": "Bob O'Neil\n", "prompt": "p", "chosen": "x", "rejected": ["y"], "shown": []},
        {"user": 3, "prompt": "q", "chosen": "x", "rejected": "y", "shown": ["x", "y", "z"]},
    ]
    people = Preferences.from_rows(rows)
    texts = people.histories.corpus.responses
    h = people.histories
    pairs = [(texts[p][c], texts[p][r]) for p, c, r in zip(h.prompt, h.chosen, h.rejected, strict=True)]
    assert people.users == ("ann", "Bob O'Neil\n", "3")
    assert pairs == [("b", "a"), ("b", "c"), ("x", "y"), ("x", "y")]
    assert sorted(map(len, texts)) == [2, 3, 3, 3]
    with pytest.raises(DataError, match="there is no 'rejected'"):
        Preferences.from_rows([{"user": "u", "prompt": "p", "chosen": "c", "shown": None}])


def test_a_benchmark_from_memory_equals_the_file(tmp_path: Path, columns: Any, write_parquet: Any) -> None:
    pd = pytest.importorskip("pandas")
    expected = load(write_parquet(tmp_path / "a.parquet", columns)).fingerprint
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    for source in (rows, pd.DataFrame(columns), pa.table(columns)):
        assert load(source).fingerprint == expected
    renamed = [{{"prompt": "question"}.get(name, name): value for name, value in row.items()} for row in rows]
    assert load(renamed, columns={"prompt": "question"}).fingerprint == expected
    without = [{name: value for name, value in row.items() if name != "split"} for row in rows]
    assert {s: len(r) for s, r in load({"train": without[:3], "test": without[3:]}).splits.items()} == {
        "train": 3,
        "test": 1,
    }
    with pytest.raises(DataError, match="the response is empty"):
        load(pd.DataFrame(columns | {"response_1": ["a", None, "b", "c"]}))
