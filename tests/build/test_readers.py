"""Every reader on small files in the format of the real data set, damaged rows, and the real hh-rlhf."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from personalllm.build import Source
from personalllm.build.readers import RawPrompt, read_source, source_files
from personalllm.core.errors import DataError, UserError


def read(folder: Path, reader: str, *files: str, **fields) -> list[tuple[str, str]]:
    source = Source(reader=reader, files=files or ("*",), **fields)
    return [(raw.text, raw.subset) for raw in read_source(source, source_files(source, folder))]


def lines(*rows) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def dialogue(*turns: str) -> str:
    return "".join(f"\n\n{('Human', 'Assistant')[i % 2]}: {turn}" for i, turn in enumerate(turns))


def test_hh_rlhf_gives_the_first_human_turn_and_names_the_subset_by_folder_or_file(tmp_path):
    row = {
        "chosen": dialogue("How do I knit?\n\nA scarf, I mean.", "Slowly.", "Thanks"),
        "rejected": dialogue("x", "y"),
    }
    empty = {"chosen": dialogue("", "Hello!"), "rejected": dialogue("", "What?")}
    twice = {"chosen": "\n\nHuman: First\n\nHuman: second\n\nAssistant: ok", "rejected": ""}
    (tmp_path / "helpful-base").mkdir()
    (tmp_path / "helpful-base" / "train.jsonl.gz").write_bytes(gzip.compress(lines(row, empty)))
    (tmp_path / "helpful-online_test.jsonl").write_bytes(lines(twice))
    assert read(tmp_path, "hh-rlhf", "**/*.jsonl*") == [
        ("How do I knit?\n\nA scarf, I mean.", "hh-rlhf-helpful-base"),
        ("", "hh-rlhf-helpful-base"),
        ("First", "hh-rlhf-helpful-online"),
    ]
    assert read(tmp_path, "hh-rlhf", "*.jsonl", subset="mine") == [("First", "mine")]


def test_helpsteer_gives_the_prompt_and_of_a_dialogue_its_first_turn(tmp_path):
    scores = {"helpfulness": 4, "correctness": 4, "coherence": 4, "complexity": 2, "verbosity": 2}
    rows = [
        {"prompt": "What is a llama? ", "response": "An animal.", **scores},
        {"prompt": "Hi\n<extra_id_1>Assistant\nHello\n<extra_id_1>User\nBye", "response": "Bye", **scores},
    ]
    (tmp_path / "train.jsonl.gz").write_bytes(gzip.compress(lines(*rows)))
    assert read(tmp_path, "helpsteer") == [("What is a llama?", "HelpSteer"), ("Hi", "HelpSteer")]


def test_rewardbench_keeps_the_subsets_that_are_asked_for(tmp_path):
    subsets = ["alpacaeval-easy", "xstest-should-respond", "hep-python"]
    table = pa.table(
        {
            "prompt": ["a", "b", "c"],
            "chosen": ["x"] * 3,
            "chosen_model": ["m"] * 3,
            "rejected": ["y"] * 3,
            "rejected_model": ["n"] * 3,
            "subset": pa.array(subsets).dictionary_encode(),
            "id": [1, 2, 3],
        }
    )
    pq.write_table(table, tmp_path / "filtered-00000-of-00001.parquet")
    assert read(tmp_path, "rewardbench") == list(zip("abc", subsets, strict=True))
    assert read(tmp_path, "rewardbench", only=("hep-python", "alpacaeval-easy")) == [
        ("a", "alpacaeval-easy"),
        ("c", "hep-python"),
    ]
    with pytest.raises(UserError, match=r"holds no row of the subsets 'hep-pyton'"):
        read(tmp_path, "rewardbench", only=("hep-pyton",))


@pytest.mark.parametrize("name", ["alpaca_eval.json", "alpaca_eval.jsonl", "alpaca_eval.json.gz"])
def test_alpacaeval_reads_its_array_and_lines(tmp_path, name):
    rows = [
        {"instruction": "Name a fish.", "output": "Carp", "generator": "text_davinci_003", "dataset": "helpful_base"},
        {"instruction": "Why?", "output": "So", "generator": "text_davinci_003", "dataset": "koala"},
    ]
    data = lines(*rows) if name.endswith("jsonl") else json.dumps(rows, indent=1).encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    expected = [("Name a fish.", "alpacaeval-helpful_base"), ("Why?", "alpacaeval-koala")]
    assert read(tmp_path, "alpacaeval") == expected
    assert read(tmp_path, "alpacaeval", only=("alpacaeval-koala",)) == expected[1:]


ROWS = [{"q": "Line\none?", "kind": "x", "n": 1}, {"q": 'Say "hi", please', "kind": "ÿ", "n": 2}]


@pytest.mark.parametrize("reader", ["jsonl", "csv", "parquet"])
def test_plain_files_with_other_column_names(tmp_path, reader):
    if reader == "jsonl":
        (tmp_path / "f").write_bytes(b"\xef\xbb\xbf" + lines(*ROWS) + b"\n")
    elif reader == "csv":
        (tmp_path / "f").write_text('n,q,kind\n1,"Line\none?",x\n\n2,"Say ""hi"", please",ÿ\n', encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "f")
    assert read(tmp_path, reader, columns={"prompt": "q", "subset": "kind"}) == [
        ("Line\none?", "x"),
        ('Say "hi", please', "ÿ"),
    ]
    assert [s for _, s in read(tmp_path, reader, columns={"prompt": "q"}, subset="all")] == ["all", "all"]


@pytest.mark.parametrize("reader", ["jsonl", "csv", "parquet"])
def test_a_missing_prompt_is_an_empty_one(tmp_path: Path, reader: str) -> None:
    rows = [{"prompt": None, "subset": "s"}, {"prompt": "p", "subset": "s"}]
    if reader == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "f")
    else:
        (tmp_path / "f").write_bytes(lines(*rows) if reader == "jsonl" else b"prompt,subset\n,s\np,s\n")
    assert read(tmp_path, reader) == [("", "s"), ("p", "s")]


GOOD = {"prompt": "p", "subset": "s"}
BAD = [
    ("jsonl", lines(GOOD) + b"{broken\n", r"f, line 2: not JSON \("),
    ("jsonl", lines(GOOD, GOOD)[:-4], r"f, line 2: cut off, not JSON \("),
    ("jsonl", lines(GOOD, [1]), r"f, line 2: a JSON list, not an object"),
    ("jsonl", b"\n" + lines({"prompt": "p"}), r"f, line 2: there is no 'subset'; it has 'prompt'"),
    ("jsonl", lines({"prompt": 3, "subset": "s"}), r"f, line 1: 'prompt' is not a text"),
    ("jsonl", lines({"prompt": "p", "subset": None}), r"f, line 1: 'subset' is empty \(null\)"),
    ("jsonl", b'{"prompt": "caf\xe9", "subset": "s"}\n' + lines(GOOD), r"f, line 1: not UTF-8 \(.* at byte 15\)"),
    ("csv", b'prompt,subset\n"two\nlines",s\np\n', r"f, line 4: 1 fields where the header has 2"),
    ("csv", b'prompt,subset\n"two\nlines"\n', r"f, line 2: 1 fields where the header has 2"),
    ("csv", b"prompt,subset\np,s\ncaf\xe9,s\n", r"f, line 3: not UTF-8"),
    ("csv", b"prompt,prompt\np,s\n", r"f: the header names prompt twice"),
    ("csv", b'prompt,subset\np,"s\n', r"f: line 2: .*wrongly quoted"),
    ("parquet", b"PAR1 nothing", r"f: the file is cut off or damaged, or not parquet"),
    ("hh-rlhf", lines({"chosen": "Human: x"}), r"f.jsonl, line 1: 'chosen' does not begin with a human turn"),
    ("hh-rlhf", lines({"chosen": "\n\nAssistant: x"}), r"f.jsonl, line 1: 'chosen' does not begin with a human turn"),
    ("alpacaeval", lines({"instruction": "x"}), r"f.jsonl, line 1: there is no 'dataset'; it has 'instruction'"),
]


@pytest.mark.parametrize(("reader", "data", "message"), BAD)
def test_a_bad_row_is_named_by_file_and_line(tmp_path, reader, data, message):
    (tmp_path / ("f" if reader in ("jsonl", "csv", "parquet") else "f.jsonl")).write_bytes(data)
    with pytest.raises(DataError, match=message):
        read(tmp_path, reader)


def test_all_bad_rows_are_counted_and_five_are_named(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"x\n" * 4 + lines(GOOD))
    (tmp_path / "b.jsonl").write_bytes(b"x\n" * 3)
    with pytest.raises(DataError) as caught:
        read(tmp_path, "jsonl")
    text = caught.value.message
    assert text.startswith("7 rows cannot be read as jsonl")
    assert text.count("not JSON") == 5
    assert "b.jsonl, line 1" in text
    assert text.endswith("and 2 more")


OTHER = [
    ("hh-rlhf", "f.txt", b"x", r"f.txt has an unknown suffix"),
    ("alpacaeval", "f.json", b'{"a": 1}', r"line 1: there is no 'instruction'; it has 'a'"),
    ("alpacaeval", "f.json", b"[1", r"f.json: the file is cut off, or not JSON"),
    ("alpacaeval", "f.json", b"[1]", r"f.json, item 1: a JSON int, not an object"),
    ("alpacaeval", "f.json", b'["\xff"]', r"f.json: the file is not UTF-8"),
    (
        "jsonl",
        "f.jsonl.gz",
        gzip.compress(lines(GOOD) * 2000, mtime=0)[:-30],
        r"f.jsonl.gz: the file is cut off or damaged",
    ),
    ("parquet", "f.parquet", b"", r"f.parquet: the file is cut off or damaged, or not parquet"),
]


@pytest.mark.parametrize(("reader", "name", "data", "message"), OTHER)
def test_a_bad_file_is_named(tmp_path, reader, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message):
        read(tmp_path, reader)


def test_numbers_in_a_parquet_text_column_are_refused_by_row(tmp_path):
    pq.write_table(pa.table({"prompt": [1, 2], "subset": ["a", "b"]}), tmp_path / "f.parquet")
    with pytest.raises(DataError, match=r"f.parquet, row 1: 'prompt' is not a text"):
        read(tmp_path, "parquet")


def test_files_are_found_once_whatever_the_pattern(tmp_path, monkeypatch):
    folder = tmp_path / "a" / "recipes"
    folder.mkdir(parents=True)
    (tmp_path / "a" / "x.jsonl").write_bytes(lines(GOOD))
    (folder / "y.jsonl").write_bytes(lines(GOOD))
    monkeypatch.setenv("HOME", str(tmp_path))
    source = Source(reader="jsonl", files=("*.jsonl", "y*", "../*.jsonl", str(folder / "*.jsonl"), "~/a/x.jsonl"))
    assert len({path.resolve() for path in source_files(source, folder)}) == 2
    assert len(read(folder, "jsonl", *source.files)) == len(source_files(source, folder)) == 2
    with pytest.raises(UserError, match=r"No file matches 'z\*'"):
        source_files(Source(reader="jsonl", files=("z*",)), folder)


@pytest.mark.shared
def test_the_real_hh_rlhf(shared_data):
    source = Source(reader="hh-rlhf", files=("hh-rlhf/*.jsonl.gz",))
    found = list(read_source(source, source_files(source, shared_data)))
    assert Counter(raw.subset for raw in found) == {
        "hh-rlhf-harmless-base": 2312,
        "hh-rlhf-helpful-base": 2354,
        "hh-rlhf-helpful-online": 1137,
        "hh-rlhf-helpful-rejection-sampled": 2749,
    }
    assert (
        RawPrompt("Do you know why turkeys became the official food of thanksgiving?", "hh-rlhf-helpful-base") in found
    )
    assert not any("\n\nAssistant:" in raw.text or "\n\nHuman:" in raw.text for raw in found)
