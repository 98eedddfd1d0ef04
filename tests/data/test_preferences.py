"""Preferences of people: layouts, ties, and the errors of broken files."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from personalllm.core.errors import DataError, ParameterError
from personalllm.data import Preferences
from personalllm.data.preferences import holds_preferences

PLAIN = [
    {"user": "ann", "prompt": "Hi", "chosen": "Hello.", "rejected": "What?"},
    {"user": "bob", "prompt": "Hi", "chosen": "What?", "rejected": "Hello."},
    {"user": "ann", "prompt": "Bye", "chosen": "Ciao, a presto", "rejected": "-"},
]
PRISM = [
    {"user_id": "u1", "interaction_id": "i1", "user_prompt": "Hi", "model_response": text, "if_chosen": chosen}
    for text, chosen in (("a", False), ("b", True), ("c", False))
]
PANDALM = [
    {
        "instruction": "Shorten.",
        "input": "A long text.",
        "response1": True,
        "response2": "Text.",
        "annotator1": 2,
        "annotator2": 0,
    },
    {"instruction": "Shorten.", "input": "", "response1": "x", "response2": "y", "annotator1": 1, "annotator2": 2},
]


def said(people: Preferences) -> set[tuple[str, str, str, str]]:
    """Return every preference as texts."""
    h = people.histories
    columns = (column.tolist() for column in (h.user, h.prompt, h.chosen, h.rejected))
    texts = h.corpus.responses
    return {
        (people.users[u], h.corpus.prompts[p], texts[p][c], texts[p][r]) for u, p, c, r in zip(*columns, strict=True)
    }


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    if name.endswith(".csv"):
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return path
    text = json.dumps(rows) if name.endswith(".json") else "\n".join(map(json.dumps, rows)) + "\n"
    data = text.encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize("ending", ["csv", "jsonl", "jsonl.gz", "json", "parquet"])
def test_the_plain_layout_in_every_format(tmp_path: Path, ending: str) -> None:
    people = Preferences.from_rows(write(tmp_path / f"p.{ending}", PLAIN))
    assert people.users == ("ann", "bob")
    assert said(people) == {tuple(row.values()) for row in PLAIN}
    assert people.histories.user.tolist() == [0, 0, 1]
    assert people.name == f"p.{ending}"
    assert (people.n_topics, people.n_ties) == (2, 0)


def test_equal_content_has_an_equal_fingerprint(tmp_path: Path) -> None:
    first = Preferences.from_rows(write(tmp_path / "a.csv", PLAIN), name="x")
    second = Preferences.from_rows(write(tmp_path / "b.jsonl", PLAIN), name="x")
    turned = [*PLAIN[:2], PLAIN[2] | {"chosen": "-", "rejected": "Ciao, a presto"}]
    third = Preferences.from_rows(write(tmp_path / "c.jsonl", turned), name="x")
    assert first.fingerprint == second.fingerprint != third.fingerprint


def test_two_people_on_the_same_pair_share_a_row_of_the_corpus(tmp_path: Path) -> None:
    people = Preferences.from_rows(write(tmp_path / "p.jsonl", PLAIN))
    assert people.histories.corpus.n_prompts == 2
    assert people.histories.prompt.tolist() == [0, 1, 0]
    assert people.histories.chosen[0] == people.histories.rejected[2]


def test_prism_chosen_against_each_other_response(tmp_path: Path) -> None:
    people = Preferences.from_rows(write(tmp_path / "u.jsonl", PRISM))
    assert said(people) == {("u1", "Hi", "b", "a"), ("u1", "Hi", "b", "c")}
    assert people.topic.tolist() == [0, 0]


def test_prism_from_csv_reads_truth_values_as_texts(tmp_path: Path) -> None:
    people = Preferences.from_rows(write(tmp_path / "u.csv", PRISM))
    assert said(people) == {("u1", "Hi", "b", "a"), ("u1", "Hi", "b", "c")}


def test_pandalm_ties_are_counted_and_left_out(tmp_path: Path) -> None:
    people = Preferences.from_rows(write(tmp_path / "t.json", PANDALM))
    assert people.n_ties == 1
    assert said(people) == {
        ("annotator1", "Shorten.\n\nA long text.", "Text.", "True"),
        ("annotator1", "Shorten.", "x", "y"),
        ("annotator2", "Shorten.", "y", "x"),
    }


def test_columns_of_another_name(tmp_path: Path) -> None:
    rows = [{"who": row["user"], **{k: v for k, v in row.items() if k != "user"}} for row in PLAIN]
    path = write(tmp_path / "p.parquet", rows)
    assert Preferences.from_rows(path, columns={"user": "who"}).users == ("ann", "bob")
    with pytest.raises(DataError, match="has the columns chosen, prompt, rejected"):
        Preferences.from_rows(path)
    with pytest.raises(ParameterError, match="columns"):
        Preferences.from_rows(path, columns={"nobody": "who"})


GOOD_AND_BAD = [{"user": "a", "prompt": f"p{i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(400)]


def test_a_column_says_nothing_about_what_was_chosen() -> None:
    people = Preferences.from_rows(GOOD_AND_BAD)
    assert 0.4 < people.histories.chosen.mean() < 0.6
    other = Preferences.from_rows(GOOD_AND_BAD, seed=1)
    assert not np.array_equal(people.histories.chosen, other.histories.chosen)
    assert said(people) == said(other)


BROKEN = [
    ("p.txt", "user,prompt\n", "unknown suffix. Use one of .parquet, .jsonl"),
    ("p.csv", "user,prompt,chosen,rejected\n", "is empty"),
    ("p.csv", "user,prompt,chosen\na,b,c\n", "has the columns chosen, prompt, user"),
    ("p.csv", "user,prompt,chosen,rejected\na,b,c\n", "line 2: 3 fields where the header has 4"),
    ("p.csv", "user,prompt,chosen,rejected\n ,b,c,d\n", "line 2: 'user' is empty"),
    ("p.csv", "user,prompt,chosen,rejected\na,b,c,c\n", "holds no preference"),
    ("p.jsonl", '{"user": 1', "line 1: cut off, not JSON"),
    ("p.jsonl", "[1]", "item 1: a JSON int, not an object"),
    ("p.jsonl", '{"user": "a", "prompt": "b", "chosen": "c", "rejected": null}', "line 1: 'rejected' is empty .null."),
    ("p.json", '{"user": 1}', "p.json has the columns user. Columns: user, prompt"),
    ("p.json", "[", "cut off, or not JSON"),
    ("p.parquet", "PAR1", "cut off or damaged, or not parquet"),
    ("p.jsonl.gz", "\x1f\x8bxx", "cut off or damaged"),
]


@pytest.mark.parametrize(("name", "text", "message"), BROKEN)
def test_a_broken_file_is_told_what_is_wrong(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=message):
        Preferences.from_rows(path)


def test_what_is_wrong_with_preferences_is_not_reported_as_a_benchmark(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", PLAIN)
    with pytest.raises(DataError, match=r"no column 'usr' \(for 'user'\).*Did you mean 'user'"):
        holds_preferences(path, {"user": "usr"})
    path.write_text("user,prompt,chosen,rejected\na,b,c\nann,Hi,a,b\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 2: 3 fields where the header has 4"):
        holds_preferences(path)
    path.write_text("who,prompt,chosen,rejected\nann,Hi,a,b\n", encoding="utf-8")
    assert holds_preferences(path), "from_rows says how to map `who`"
    path.write_text("prompt,response_1,chosen\na\n", encoding="utf-8")
    assert not holds_preferences(path)
    assert not holds_preferences("mini", {"user": "usr"})


def test_a_dict_of_columns_is_a_table() -> None:
    columns = {name: [row[name] for row in PLAIN] for name in PLAIN[0]}
    assert Preferences.from_rows(columns).fingerprint == Preferences.from_rows(PLAIN).fingerprint
    arrays = {name: np.array(column) for name, column in columns.items()}
    assert Preferences.from_rows(arrays).fingerprint == Preferences.from_rows(PLAIN).fingerprint


def test_values_that_a_layout_does_not_have(tmp_path: Path) -> None:
    bad = write(tmp_path / "t.json", [PANDALM[0] | {"annotator1": 3}])
    with pytest.raises(DataError, match=r"item 1: annotator1 must be 0 \(a tie\), 1 or 2, got 3"):
        Preferences.from_rows(bad)
    bad = write(tmp_path / "u.jsonl", [PRISM[0] | {"if_chosen": "maybe"}])
    with pytest.raises(DataError, match="if_chosen must be true or false, got 'maybe'"):
        Preferences.from_rows(bad)
    bad = write(tmp_path / "v.jsonl", [PRISM[0], PRISM[1] | {"user_id": "u2"}])
    with pytest.raises(DataError, match="line 2: the interaction 'i1' has another user"):
        Preferences.from_rows(bad)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no file"):
        Preferences.from_rows(tmp_path / "p.csv")


@pytest.mark.shared
def test_pandalm_as_it_is(shared_data: Path) -> None:
    people = Preferences.from_rows(shared_data / "pandalm" / "testset-v1.json.gz", name="PandaLM")
    assert people.users == ("annotator1", "annotator2", "annotator3")
    assert len(people.histories) + people.n_ties == 3 * 999
    assert people.n_ties == 97 + 116 + 113
