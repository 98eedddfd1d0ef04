"""`personalllm people`: what it counts, prints and writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from personalllm.analysis import Votes
from personalllm.core.errors import DataError, UnknownName, UserError
from personalllm.data import Preferences

ROW = {
    "prompt": {"messages": [{"role": "user", "content": "What now?"}]},
    "responses": [
        {"response_index": letter, "messages": [{"role": "assistant", "content": letter * 3}]} for letter in "ABCD"
    ],
    "metadata": {
        "assessments": [
            {"annotator_id": who, "ranking_blocks": {"personal": [{"ranking": ranking}]}}
            for who, ranking in (("ann", "B>A=C=D"), ("bob", "A=C"), ("cem", "A>B"), ("dee", ""))
        ]
    },
}


def test_counts_terms_and_a_file(folder: Path, output: Callable[..., str]) -> None:
    Path("coval.jsonl").write_text(json.dumps(ROW) + "\n", encoding="utf-8")
    text = output("people", "coval", "coval.jsonl", "--out", "made.parquet")
    lines = {" ".join(line.split()) for line in text.splitlines()}
    assert {
        "people 3",
        "judgements 3",
        "comparisons 4",
        "ties, left out 4",
        "people with one comparison 1",
        "people with no comparison 1",
        "without a ranking 1",
        "licence CC-BY-4.0",
        "Written: made.parquet",
    } <= lines
    assert "citation" in text
    assert "OpenAI, Collective alignment" in " ".join(text.split())
    people = Preferences.from_rows("made.parquet")
    assert (people.n, people.users) == (4, ("ann", "cem"))
    assert "people 3" in {
        " ".join(line.split()) for line in output("people", "comparisons", "made.parquet").splitlines()
    }


def test_a_table_of_ratings_gets_terms(folder: Path, output: Callable[..., str]) -> None:
    Path("wide.csv").write_text("user,i1,i2\nann,3,1\nbob,,2\n", encoding="utf-8")
    Path("texts.csv").write_text("item,text\ni1,One\ni2,Two\n", encoding="utf-8")
    arguments = ("people", "ratings", "wide.csv", "--items", "texts.csv")
    assert "under which terms, nothing here says" in " ".join(output(*arguments).split())
    text = output(*arguments, "--licence", "CC0", "--citation", "Me, 2025", "--out", "r.parquet")
    assert "CC0" in text
    assert "CC0" in pq.read_metadata("r.parquet").metadata[b"personalllm"].decode()
    (comparison,) = Preferences.from_rows("r.parquet").histories.corpus.responses
    assert sorted(comparison) == ["One", "Two"]


def test_dices_as_votes(folder: Path, output: Callable[..., str]) -> None:
    head = "rater_id,rater_gender,item_id,context,response,Q_overall\n"
    rows = "".join(f'r{rater},Woman,i{item},"LAMDA: hi, you",No.,{vote}\n' for rater, item, vote in (
        (1, 1, "Yes"), (2, 1, "No"), (3, 1, "Unsure"), (1, 2, "No"), (2, 2, "No")
    ))  # fmt: skip
    Path("dices.csv").write_text(head + rows, encoding="utf-8")
    text = output("people", "dices", "dices.csv", "--out", "votes.parquet")
    assert "votes for No" in text
    assert "CC-BY-4.0" in text
    one, other = Votes.from_file("dices.csv"), Votes.from_file("votes.parquet")
    assert one.counts.tolist() == other.counts.tolist() == [[1, 1, 1], [0, 2, 0]]
    assert one.prompts == other.prompts
    assert "LAMDA: hi, you\n\nNo." in str(one.prompts[0]) or one.prompts[0] == "LAMDA: hi, you\n\nNo."


def test_all_layouts_are_listed(output: Callable[..., str]) -> None:
    text = output("people")
    assert "community-alignment" in text
    assert "not stated by the publisher" in " ".join(text.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("people", "prism"), "There is no PATH. Give the file: personalllm people prism FILE."),
        (("people", "prism", "x", "--out", "x.csv"), "x.csv is no Parquet file"),
        (("people", "prism", "x", "--items", "y"), "--items is for ratings, not for prism"),
        (("people", "prism", "x", "--out", "no/x.parquet"), "There is no folder 'no' to write to"),
    ],
)
def test_what_does_not_go(output: Callable[..., str], arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        output(*arguments)


def test_names_and_files_that_are_not_there(output: Callable[..., str]) -> None:
    with pytest.raises(UnknownName, match="prisn"):
        output("people", "prisn", "x")
    with pytest.raises(DataError, match="There is no file or folder 'nowhere'"):
        output("people", "prism", "nowhere")
