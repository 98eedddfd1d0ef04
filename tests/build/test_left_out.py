"""`left_out.jsonl`: each row that is not used can be looked up."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict

import pytest

from personalllm.build import Recipe, gather_prompts
from personalllm.build.prompts import counts_of, read_record
from personalllm.core.errors import UserError


def recipe(**prompts) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "t",
            "seed": 1,
            "reward_ensemble": "compact-v1",
            "reference_response_model": "a",
            "prompts": {"source": [{"reader": "csv", "files": ["in/*.csv"], "subset": "s", "limit": 5}]} | prompts,
            "response_model": [{"name": name, "chat_model": "chat"} for name in "ab"],
        }
    )


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_row_that_is_left_out_is_there_with_file_line_reason_and_the_beginning_of_its_text(tmp_path):
    (tmp_path / "in").mkdir()
    rows = [
        '"two\nlines"',
        "x" * 60,
        "",
        "caf\ufffd",
        "hi",
        "two words 1",
        "two words 1",
        *(f"say {i}" for i in range(6)),
    ]
    (tmp_path / "in" / "p.csv").write_text("prompt\n" + "\n".join(rows).replace("\n\n", '\n""\n') + "\n")
    made = recipe(train=2, test=2, min_characters=3, max_characters=50)
    drawn = gather_prompts(made, tmp_path, tmp_path / "out")
    found = lines(tmp_path / "out" / "left_out.jsonl")
    assert found[:5] == [
        {"file": "in/p.csv", "line": "line 4", "reason": "too long", "text": "x" * 60},
        {"file": "in/p.csv", "line": "line 5", "reason": "empty", "text": ""},
        {"file": "in/p.csv", "line": "line 6", "reason": "damaged", "text": "caf\ufffd"},
        {"file": "in/p.csv", "line": "line 7", "reason": "too short", "text": "hi"},
        {"file": "in/p.csv", "line": "line 9", "reason": "duplicate", "text": "two words 1"},
    ]
    (counts,) = counts_of(read_record(tmp_path / "out"))
    left = {k.replace("_", " "): n for k, n in asdict(counts).items() if k not in ("name", "read", "drawn") and n}
    assert Counter(row["reason"] for row in found) == left
    assert left["over limit"] == 3
    assert left["not drawn"] == 1
    assert {p.prompt for p in drawn}.isdisjoint(row["text"] for row in found if row["reason"] != "duplicate")


def test_long_texts_are_shortened_and_too_few_prompts_can_be_looked_up(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "p.csv").write_text("prompt\n" + "word " * 600 + "\nfine\n")
    with pytest.raises(UserError, match=r"1 usable prompts.*row by row: .*left_out.jsonl") as caught:
        gather_prompts(recipe(train=2, test=2, max_characters=20), tmp_path, tmp_path / "out")
    assert "word" not in caught.value.message
    (row,) = lines(tmp_path / "out" / "left_out.jsonl")
    assert row["line"] == "line 2"
    assert row["text"].endswith("word ...")
    assert len(row["text"]) < 130
    assert not (tmp_path / "out" / "prompts.jsonl").exists()
