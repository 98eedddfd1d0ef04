"""Published layouts of people's judgements: small files as they are published, with the odd cases that they hold."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from personalllm.core.errors import DataError, ParameterError, UnknownName, UserError
from personalllm.core.types import Message
from personalllm.data import Preferences, Ratings
from personalllm.data.judgements import Judgement, parse_ranking, rank_shares
from personalllm.data.layouts import LAYOUTS, known
from personalllm.data.people import Tally, open_people, write_people
from personalllm.data.preferences import holds_preferences

NAN = math.nan


def jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read(source: Any, **options: Any) -> tuple[list[Judgement], dict[str, int], Tally]:
    """Return judgements, the odd cases that occurred, and the counts."""
    reading, tally = open_people(source, **options), Tally()
    judgements = list(tally.passing(reading.judgements))
    return judgements, {what: count for what, count in reading.odd.items() if count}, tally


def user(text: str) -> Message:
    return Message("user", text)


def prism(turn: int, within: int, text: str, *, chosen: bool, score: int, **changes: Any) -> dict[str, Any]:
    row = {
        "utterance_id": f"ut{turn}{within}",
        "interaction_id": f"int{turn}",
        "conversation_id": "c1",
        "user_id": "user7",
        "turn": turn,
        "within_turn_id": within,
        "conversation_type": "unguided",
        "user_prompt": f"Question {turn}?",
        "model_response": text,
        "model_name": "some-model",
        "model_provider": "someone",
        "score": score,
        "if_chosen": chosen,
        "included_in_balanced_subset": True,
    }
    return row | changes


PRISM = [
    prism(0, 0, "a", chosen=False, score=20),
    prism(0, 1, "b", chosen=True, score=90),
    prism(0, 2, "c", chosen=False, score=20),
    prism(1, 0, "d", chosen=True, score=70),
    prism(1, 1, "e", chosen=False, score=60),
]


def test_prism_has_the_conversation_before_a_turn(tmp_path: Path) -> None:
    (first, second), odd, tally = read(jsonl(tmp_path / "utterances.jsonl", PRISM))
    assert (first.prompt, first.responses, first.chosen) == ((user("Question 0?"),), ("a", "b", "c"), 1)
    assert first.ratings == (20, 90, 20)
    assert second.prompt == (user("Question 0?"), Message("assistant", "b"), user("Question 1?"))
    assert (odd, tally.longer, tally.ties) == ({}, 1, 0), "what is not chosen is not said to be equal"
    people = Preferences.from_rows(tmp_path / "utterances.jsonl")
    corpus = people.histories.corpus
    row = next(row for row in range(corpus.n_prompts) if "d" in corpus.responses[row])
    assert corpus.prompts[row] == "User: Question 0?\n\nAssistant: b\n\nUser: Question 1?"
    assert corpus.text(row) == "Question 1?\n\nAssistant: b\n\nUser: Question 0?"
    assert corpus.messages(row) == second.prompt
    assert corpus.messages(1 - row if row < 2 else 0) == (user("Question 0?"),)
    assert people.about["licence"] == known()["prism"].licence


def test_prism_in_another_order_is_the_same(tmp_path: Path) -> None:
    said = read(jsonl(tmp_path / "a.jsonl", [*PRISM[3:], *PRISM[:3]]))[0]
    assert [judgement.prompt for judgement in reversed(said)] == [j.prompt for j in read(PRISM)[0]]


def test_prism_without_one_choice_is_counted(tmp_path: Path) -> None:
    none = [row | {"if_chosen": False} if row["turn"] == 0 else row for row in PRISM]
    assert read(none)[1] == {"no response chosen": 1, "turns after one without a single choice": 1}
    two = [row | {"if_chosen": True} if row["model_response"] == "a" else row for row in PRISM]
    assert read(two)[1] == {"several responses chosen": 1, "turns after one without a single choice": 1}
    twice = [*PRISM, prism(1, 2, "d", chosen=True, score=70)]
    judgements, odd, tally = read(twice)
    assert (odd, judgements[1].responses, tally.ties) == ({}, ("d", "e"), 0), "the same text chosen twice is one"


def coval(ranking: str | None, annotator: str = "ann", **more: str) -> dict[str, Any]:
    personal = [] if ranking is None else [{"ranking": ranking, "rationale": "..."}]
    personal += [{"ranking": text} for text in more.values()]
    return {
        "conversation_id": "x",
        "annotator_id": annotator,
        "importance": "very",
        "ranking_blocks": {"personal": personal, "world": [{"ranking": "D>C>B>A"}], "unacceptable": []},
    }


def coval_row(*assessments: dict[str, Any], prompt: Sequence[dict[str, str]] | None = None) -> dict[str, Any]:
    messages = prompt or [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "¿Qué hago?"}]
    responses = [
        {"response_index": letter, "messages": [{"role": "assistant", "content": f"Response {letter}"}]}
        for letter in "ABCD"
    ]
    return {
        "prompt_id": "p",
        "prompt": {"id": "p", "messages": list(messages)},
        "responses": responses,
        "metadata": {"assessments": list(assessments)},
    }


def test_coval_rankings(tmp_path: Path) -> None:
    rows = [coval_row(coval("B>A=C=D"), coval("A=C", "bob"), coval(None, "cem"), coval("A>B>C>D", "dee", x="D>A"))]
    path = jsonl(tmp_path / "comparisons.jsonl", rows)
    (ann, bob, dee), odd, tally = read(path, layout="coval")
    assert ann.ratings == (1 / 3, 1, 1 / 3, 1 / 3)
    assert list(map(str, bob.ratings)) == ["0.5", "nan", "0.5", "nan"], "of the others nothing was said"
    assert dee.ratings == (1, 2 / 3, 1 / 3, 0)
    assert ann.prompt == (Message("system", "Be brief."), user("¿Qué hago?"))
    assert odd == {"without a ranking": 1, "further rankings of the same person (the first counts)": 1}
    assert (tally.ties, dict(tally.comparisons)) == (3 + 1, {"ann": 3, "bob": 0, "dee": 6})
    people = Preferences.from_rows(path)
    assert (people.users, people.n, people.n_ties) == (("ann", "dee"), 9, 4)
    assert people.about["odd"]["without a ranking"] == 1
    with pytest.raises(DataError, match=r"line 1: the ranking 'A>E' of 'ann' cannot be read: 'E' is no response"):
        read(jsonl(path, [coval_row(coval("A>E"))]))
    with pytest.raises(DataError, match="'A' is there twice"):
        read(jsonl(path, [coval_row(coval("A>B>A"))]))


def test_ratings_of_a_ranking() -> None:
    assert rank_shares([3.0, NAN, 1.0, 3.0])[::2] == (0.75, 0.0)
    assert all(map(math.isnan, parse_ranking("C", "ABCD"))), "one alone is compared with nothing"


def community(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    turns = ("first", "second", "third", "fourth")
    head = ["conversation_id", "assigned_lang", "annotator_id"]
    for turn in turns:
        head += [f"{turn}_turn_prompt", *(f"{turn}_turn_response_{letter}" for letter in "abcd")]
        head += [f"{turn}_turn_preferred_response", f"{turn}_turn_feedback"]
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, head)
        writer.writeheader()
        writer.writerows(rows)
    return path


def turn_of(turn: str, preferred: str, lang: str = "en", end: str = "<|end_of_text|>") -> dict[str, str]:
    responses = {f"{turn}_turn_response_{letter}": f"{turn} {letter}{end}" for letter in "abcd"}
    return {f"{turn}_turn_prompt": f"{turn}, {lang}?", **responses, f"{turn}_turn_preferred_response": preferred}


def test_community_alignment(tmp_path: Path) -> None:
    rows = [
        {"conversation_id": "1", "assigned_lang": "en", "annotator_id": "7"}
        | turn_of("first", "response_c")
        | turn_of("second", "response_a"),
        {"conversation_id": "2", "assigned_lang": "it", "annotator_id": "8"}
        | turn_of("first", "", "it")
        | turn_of("second", "response_b", "it"),
        {"conversation_id": "3", "assigned_lang": "hi", "annotator_id": "8"} | turn_of("first", "response_d", "hi", ""),
    ]
    path = community(tmp_path / "data.csv", rows)
    (first, second, hindi), odd, tally = read(path)
    assert (first.responses, first.chosen) == (("first a", "first b", "first c", "first d"), 2)
    assert second.prompt == (user("first, en?"), Message("assistant", "first c"), user("second, en?"))
    assert (hindi.user, hindi.language, hindi.chosen) == ("8", "hi", 3)
    assert odd == {
        "no response chosen": 1,
        "turns after one without a single choice": 1,
        "end-of-text tokens removed": 16,
    }
    assert dict(tally.languages) == {"en": 2, "hi": 1}
    assert Preferences.from_rows(path).n == 9


def bench(person: str, split: str, n: int = 0, **changes: Any) -> dict[str, Any]:
    context = [
        {"role": "user", "content": f"Question {n}?"},
        {"role": "assistant", "content": "An answer."},
        {"role": "user", "content": "And?"},
    ]
    pair = {name: {"role": "assistant", "content": f"{name} {n}"} for name in ("chosen", "rejected")}
    return {"user_id": person, "split": split, "conversation_id": str(n), "context": context, **pair} | changes


def test_personalrewardbench_has_its_own_splits(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name, rows in {
        "train": [bench("ann", split, n) for n, split in enumerate(("train", "val", "test"))],
        "test": [bench("bob", split, n + 5) for n, split in enumerate(("train", "val", "test"))],
    }.items():
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data" / f"{name}-00000-of-00001.parquet")
    judgements, _, tally = read(tmp_path, layout="personalrewardbench")
    assert [said.split for said in judgements] == ["pool"] * 3 + ["history", "history", "test"]
    assert (judgements[0].responses, judgements[0].chosen, len(judgements[0].prompt)) == (
        ("chosen 0", "rejected 0"),
        0,
        3,
    )
    assert dict(tally.splits) == {"pool": 3, "history": 2, "test": 1}
    people = Preferences.from_rows(tmp_path)
    assert people.splits == ("pool", "pool", "pool", "history", "history", "test")
    assert people.part("history").user.tolist() == [1, 1]
    assert people.part("pool", "test").user.tolist() == [0, 0, 0, 1]
    with pytest.raises(ParameterError, match="splits must be of history, pool, test, got"):
        people.part("train")
    other = Preferences.from_rows([bench("ann", "test"), bench("ann", "train", 1)], name=people.name)
    assert other.splits == ("test", "history")
    lists = bench("ann", "") | {name: [{"role": "assistant", "content": name}] for name in ("chosen", "rejected")}
    assert Preferences.from_rows([lists]).splits == ()
    with pytest.raises(DataError, match="'split' must be train, val or test, got 'other'"):
        read([bench("ann", "other")])


def arena(winner: str, judge: str = "arena_user_973", turns: int = 1) -> dict[str, Any]:
    def conversation(model: str) -> list[dict[str, str]]:
        said = []
        for turn in range(turns):
            said += [{"role": "user", "content": f"Frage {turn}"}, {"role": "assistant", "content": f"{model} {turn}"}]
        return said

    models = {f"model_{side}": side for side in "ab"}
    talks = {f"conversation_{side}": conversation(side) for side in "ab"}
    return {
        "question_id": "q",
        **models,
        "winner": winner,
        "judge": judge,
        **talks,
        "turn": turns,
        "language": "German",
    }


def test_chatbot_arena(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "arena.jsonl", [arena("model_b"), arena("tie"), arena("tie (bothbad)"), arena("model_a", "z", 2)]
    )
    judgements, odd, tally = read(path)
    assert judgements[0].prompt == (user("Frage 0"),)
    assert judgements[3].responses[0] == "Assistant: a 0\n\nUser: Frage 1\n\nAssistant: a 1", (
        "the whole of it was judged"
    )
    assert (odd, tally.ties, tally.languages["German"]) == ({"ties in which both are bad": 1}, 2, 4)
    assert dict(tally.comparisons) == {"arena_user_973": 1, "z": 1}
    people = Preferences.from_rows(path)
    chosen = people.histories.corpus.responses[0][people.histories.chosen[0]]
    assert (people.n, chosen) == (2, "b 0")
    with pytest.raises(DataError, match=r"winner must be one of model_a, model_b, tie, tie \(bothbad\), got 'nobody'"):
        read([arena("nobody")])
    with pytest.raises(DataError, match="do not begin with the same prompt"):
        read([arena("tie") | {"conversation_b": [{"role": "user", "content": "Other"}]}])


def test_multipref() -> None:
    def said(who: str, what: str | None) -> dict[str, Any]:
        return {"evaluator": who, "overall_pref": what, "helpful_pref": "Tie", "time_spent": 9}

    row = {
        "comparison_id": "c",
        "prompt_id": "p",
        "text": "Explain.",
        "completion_a": "A",
        "completion_b": "B",
        "model_a": "m",
        "model_b": "n",
        "normal_worker_annotations": [said("w1", "A-is-clearly-better"), said("w2", "Tie")],
        "expert_worker_annotations": [said("e1", "B-is-slightly-better"), said("e2", None)],
    }
    judgements, odd, tally = read([row])
    assert [judgement.ratings for judgement in judgements] == [(2, 0), (0, 0), (0, 1)]
    assert (odd, tally.ties) == ({"no response chosen": 1}, 1)
    with pytest.raises(DataError, match="overall_pref must be one of a-is-clearly-better"):
        read([row | {"normal_worker_annotations": [said("w", "better")]}])


def test_tldr(tmp_path: Path) -> None:
    row = {
        "info": {"id": "t3", "post": "A long post.", "title": "A title", "subreddit": "r"},
        "split": "train",
        "summaries": [{"text": " First.", "policy": "ref"}, {"text": " Second.", "policy": "sup"}],
        "choice": 1,
        "worker": "w",
        "batch": "batch3",
        "extra": {},
    }
    news = row | {"info": {"article": "News."}, "choice": None}
    path = tmp_path / "batch3.json"
    jsonl(path, [row, news])
    (said,), odd, _ = read(path)
    assert (said.prompt, said.chosen, said.split) == ((user("A title\n\nA long post."),), 1, "")
    assert odd == {"no response chosen": 1}
    with pytest.raises(DataError, match="choice must be 0 or 1, got 2"):
        read([row | {"choice": 2}])


LONG = [
    {"user": who, "item": item, "rating": value}
    for who, item, value in (("ann", "i1", 3), ("ann", "i2", -1.5), ("bob", "i2", 2), ("bob", "i1", None))
]
ITEMS = [{"item": "i1", "text": "One."}, {"item": "i2", "text": "Two."}, {"item": "i3", "text": "Three."}]


def test_ratings_long_and_wide_are_the_same(tmp_path: Path) -> None:
    items = jsonl(tmp_path / "texts.jsonl", ITEMS)
    wide = tmp_path / "wide.csv"
    wide.write_text("user,i1,i2,i3,age\nann,3,-1.5,,40\nbob,,2,,41\n", encoding="utf-8")
    renamed = jsonl(tmp_path / "jokes.jsonl", [{"joke": row["item"], "text": row["text"]} for row in ITEMS])
    other = jsonl(tmp_path / "o.jsonl", [{"who": r["user"], "joke": r["item"], "rating": r["rating"]} for r in LONG])
    expected = [("ann", ("One.", "Two."), (3, -1.5)), ("bob", ("Two.",), (2,))]
    for source, texts, columns, odd_cases in (
        (jsonl(tmp_path / "long.jsonl", LONG), items, None, {"responses without a rating": 1}),
        (wide, items, None, {"responses without a rating": 3, "columns without a text": 1}),
        (other, renamed, {"user": "who", "item": "joke"}, {"responses without a rating": 1}),
    ):
        judgements, odd, tally = read(source, items=texts, columns=columns, layout="ratings")
        assert [(said.user, said.responses, said.ratings) for said in judgements] == expected
        assert (odd, tally.ratings, tally.comparisons["bob"]) == (odd_cases, 3, 0)


def test_ratings_with_their_texts() -> None:
    rows = [
        {"user": "ann", "prompt": prompt, "response": text, "rating": value}
        for prompt, text, value in (("p", "a", 1), ("q", "a", 5), ("p", "b", 2))
    ]
    judgements = read(rows)[0]
    assert [(said.text, said.responses) for said in judgements] == [("p", ("a", "b")), ("q", ("a",))]
    assert Preferences.from_rows(rows).n == 1


def test_ratings_that_do_not_fit(tmp_path: Path) -> None:
    items = jsonl(tmp_path / "texts.jsonl", ITEMS)
    with pytest.raises(DataError, match=r"the item 'i9' has no text in .*texts.jsonl. Add it there"):
        read([{"user": "a", "item": "i9", "rating": 1}], items=items)
    with pytest.raises(DataError, match="neither a column 'item' nor one of the items"):
        read([{"user": "a", "x": 1}], items=items)
    with pytest.raises(DataError, match=r"has user, response, rating\. Give the texts with --items"):
        read([{"user": "a", "item": "i1", "rating": 1}], layout="ratings")
    many = [{"user": "a", "response": str(n), "rating": n} for n in range(21)]
    with pytest.raises(DataError, match=r"21 ratings by 'a' of responses to one prompt\. Read them as ratings"):
        Preferences.from_rows(many)
    assert read(many)[2].rated_only == 1


EVERY = {
    "prism": PRISM,
    "coval": [coval_row(coval("B>A=C=D"), coval("D>A", "bob"))],
    "community-alignment": [{"annotator_id": "7", "assigned_lang": "en"} | turn_of("first", "response_c")],
    "personalrewardbench": [bench("ann", "train"), bench("ann", "test", 1)],
    "chatbot-arena": [arena("model_b"), arena("tie"), arena("model_a", "z", 2)],
    "comparisons": [
        {"user": "ann", "prompt": "Hi", "chosen": "a", "rejected": ["b"], "shown": ["a", "b", "c"]},
        {"user": "ann", "prompt": "Hi", "chosen": "a", "rejected": None, "shown": ["a", "b", "c"]},
    ],
    "pandalm": [
        {"instruction": "x", "input": "", "response1": "a", "response2": "b", "annotator1": 1, "annotator2": 0}
    ],
}


@pytest.mark.parametrize("name", EVERY)
def test_what_is_written_is_read_back_with_its_terms(tmp_path: Path, name: str) -> None:
    rows = EVERY[name]
    assert holds_preferences(rows)
    assert open_people(rows).layout == name
    made = tmp_path / "made.parquet"
    tally = write_people(open_people(rows, name="x"), made)
    again = read(made)
    assert again[2] == tally
    one, other = Preferences.from_rows(rows, name="x"), Preferences.from_rows(made, name="x")
    assert one.fingerprint == other.fingerprint
    assert other.about == one.about
    assert other.about.get("licence", "") == known()[name].licence
    texts = [[other.histories.corpus.text(row) for row in range(p.histories.corpus.n_prompts)] for p in (one, other)]
    assert texts[0] == texts[1]


def test_names_and_sources_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="prsm"):
        open_people(PRISM, layout="prsm")
    with pytest.raises(DataError, match="coval has prompt, responses, metadata"):
        open_people(PRISM, layout="coval")
    with pytest.raises(DataError, match="people is empty"):
        open_people([])
    with pytest.raises(UserError, match=r"names no revision.*openai/collective-alignment-1@COMMIT"):
        open_people("hf://datasets/openai/collective-alignment-1")
    with pytest.raises(DataError, match="holds no judgement"):
        write_people(open_people([coval_row()]), tmp_path / "none.parquet")
    assert not (tmp_path / "none.parquet").exists()


def test_every_layout_has_its_entry() -> None:
    assert {*LAYOUTS} | {"dices"} == {*known()}
    own = ("comparisons", "picks", "ratings")
    assert all(entry.licence and entry.citation for name, entry in known().items() if name not in own)


def test_roles_that_nobody_has() -> None:
    with pytest.raises(DataError, match="'prompt' has a message of the role 'tool'"):
        read([coval_row(prompt=[{"role": "tool", "content": "x"}])])
    with pytest.raises(DataError, match="do not end with the user's"):
        read([coval_row(prompt=[{"role": "assistant", "content": "x"}])])


def test_picks_of_reward_models() -> None:
    row = {"prompt": "Hi", "candidates": ["a", "b", "a", "c"], "picks": {"x": 2, "y": 3, "z": None}}
    (first, second), _, tally = read([row])
    assert (first.user, first.responses, first.chosen) == ("x", ("a", "b", "c"), 0), "two equal candidates are one"
    assert (second.chosen, tally.ties, dict(tally.comparisons)) == (2, 0, {"x": 2, "y": 2})
    with pytest.raises(DataError, match="the pick of 'x' must be a position from 0 to 3, got 4"):
        read([row | {"picks": {"x": 4}}])


def test_rankings_and_ratings_are_read_as_a_population(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "comparisons.jsonl", [coval_row(coval("B>A=C=D"), coval("A=C", "bob"))])
    ratings = Ratings.from_rows(path)
    assert (ratings.users, ratings.n, ratings.about["licence"]) == (("ann", "bob"), 6, "CC-BY-4.0")
    assert ratings.table()[0].tolist() == pytest.approx([1 / 3, 1, 1 / 3, 1 / 3])
    made = tmp_path / "made.parquet"
    write_people(open_people(LONG, items=jsonl(tmp_path / "t.jsonl", ITEMS)), made)
    again = Ratings.from_rows(made)
    assert (again.n, again.prompts, again.responses) == (3, ("",), ("One.", "Two."))
    assert open_people(made).rated
    assert open_people(path).rated
    assert not open_people(PRISM).rated, "its scores are read as ratings only if that is asked for"
    assert Ratings.from_rows(PRISM).n == 5
    with pytest.raises(DataError, match="choices without ratings are read by Preferences"):
        Ratings.from_rows(EVERY["comparisons"])
