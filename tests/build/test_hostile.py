"""Files, recipes and folders as nobody would wish them."""

from __future__ import annotations

import gzip
import json
import random

import pytest
from typer.testing import CliRunner

from personalllm.build import (
    NearDuplicates,
    Recipe,
    Source,
    dedup,
    draw_prompts,
    estimate,
    gather_prompts,
    read_prompts,
)
from personalllm.build.prompts import Prompt, read_record
from personalllm.build.responding import read_given_up, respond
from personalllm.cli.app import app
from personalllm.core.errors import DataError, UserError
from personalllm.core.types import ChatReply


def recipe(*sources: dict, seed: int = 1, **prompts) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "t",
            "seed": seed,
            "reward_ensemble": "compact-v1",
            "reference_response_model": "a",
            "attempts": 2,
            "prompts": {"source": sources, "train": 1, "test": 1} | prompts,
            "response_model": [{"name": name, "chat_model": "chat"} for name in "ab"],
        }
    )


def plain(*prompts: str, subset: str = "s") -> bytes:
    return "".join(json.dumps({"prompt": p, "subset": subset}) + "\n" for p in prompts).encode()


DEEP = b'{"prompt": ' + b"[" * 200_000 + b"\n"


@pytest.mark.parametrize(
    ("reader", "name", "data", "message"),
    [
        ("jsonl", "f.jsonl", plain("one", "two") + DEEP, r"f.jsonl, line 3: not JSON \(maximum recursion depth"),
        ("alpacaeval", "f.json", b"[" * 200_000, r"f.json: the file is cut off, or not JSON \(maximum recursion depth"),
        ("jsonl", "f.jsonl", plain("one", subset="\ud800"), r"line 1: 'subset' is not valid Unicode"),
        (
            "jsonl",
            "f.jsonl",
            plain("one", subset="a\nb"),
            r"line 1: 'a\\nb', the name of its subset, holds a character",
        ),
        ("jsonl", "f.jsonl", plain("one", subset=" "), r"line 1: the name of its subset is empty"),
        ("csv", "f.csv", "prompt,süb\na,b\n".encode("latin-1"), r"f.csv: the header is not UTF-8 .* at byte 7"),
        ("jsonl", "f.jsonl", b"", r"Source 'jsonl f.jsonl' holds no row in 1 file\. Look whether the files"),
        ("jsonl", "f.jsonl", gzip.compress(b"", mtime=0), r"holds no row in 1 file"),
        ("csv", "f.csv", b"prompt,subset\n", r"holds no row in 1 file"),
    ],
)
def test_a_hostile_file_is_an_error_that_names_it(tmp_path, reader, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message):
        draw_prompts(recipe({"reader": reader, "files": [name]}), tmp_path)


def test_texts_from_one_template_are_not_all_compared_exactly(monkeypatch):
    """They share bands with all others, so all are candidates; only those that may be near are worth a comparison."""
    rng, calls, shingles = random.Random(0), [], dedup.shingles
    monkeypatch.setattr(dedup, "shingles", lambda text: calls.append(1) or shingles(text))
    words = ["".join(rng.choices("abcdefghijklmnop", k=6)) for _ in range(5000)]
    template = "Please read the following instruction carefully and answer it step by step for a general audience: "
    texts = [template + " ".join(rng.choices(words, k=9)) for _ in range(500)]
    dropped = dedup.near_duplicates([*texts, texts[7] + " please"], NearDuplicates(threshold=0.8))
    assert dropped.tolist() == [False] * 500 + [True]
    assert len(calls) < 5 * 500


def test_the_draw_from_a_source_with_a_limit_does_not_depend_on_its_name(tmp_path):
    for name in ("one.jsonl", "two.jsonl"):
        (tmp_path / name).write_bytes(plain(*(f"Prompt number {i}" for i in range(40))))
    drawn = [
        draw_prompts(recipe({"reader": "jsonl", "files": [name], "limit": 10, "name": label}), tmp_path)[0]
        for name, label in (("one.jsonl", ""), ("two.jsonl", ""), ("two.jsonl", "mine"))
    ]
    assert drawn[0] == drawn[1] == drawn[2]


def test_a_card_does_not_tell_where_the_files_lie_on_your_disk(tmp_path):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "p.jsonl").write_bytes(plain("one", "two", "three"))
    made = recipe({"reader": "jsonl", "files": [str(tmp_path / "corpus" / "*.jsonl")]})
    gather_prompts(made, tmp_path / "elsewhere", tmp_path / "out")
    assert str(tmp_path) not in json.dumps(read_record(tmp_path / "out"))
    assert made.prompts.sources[0].label == "jsonl corpus/*.jsonl"
    assert recipe(files=[str(tmp_path / "corpus" / "*.jsonl")]).prompts.sources[0].label == "corpus/*.jsonl"
    assert Source(reader="csv", files=("../mine/a.csv",)).label == "csv mine/a.csv"
    assert Source(reader="csv", files=("data/mine/a.csv",)).label == "csv data/mine/a.csv"


def test_prompts_of_another_recipe_are_not_taken(tmp_path):
    (tmp_path / "p.jsonl").write_bytes(plain(*(f"Prompt number {i}" for i in range(9))))
    source = {"reader": "jsonl", "files": ["p.jsonl"]}
    made, out = recipe(source), tmp_path / "out"
    drawn = gather_prompts(made, tmp_path, out)
    assert read_prompts(out, made) == read_prompts(out) == drawn
    for other in (recipe(source, seed=2), recipe(source, train=2)):
        with pytest.raises(
            UserError, match=r"were drawn before the recipe's seed or prompts were changed.*Run the step"
        ):
            read_prompts(out, other)
    with_another_limit = made.model_copy(update={"attempts": 7})
    assert read_prompts(out, with_another_limit) == drawn, "what does not touch the draw is free"
    record = json.loads((out / "prompts.json").read_text())
    del record["drawing"]
    (out / "prompts.json").write_text(json.dumps(record))
    assert read_prompts(out, recipe(source, seed=2)) == drawn, "a folder of an older version says nothing"


class Mute:
    """Has nothing to say to half of the prompts."""

    name, identity, context_length = "mute", "mute@1", 100

    def chat(self, requests):
        return [ChatReply("" if r.messages[-1].content.endswith("0") else "Yes.", "stop", 3, 2) for r in requests]

    def count_tokens(self, messages):
        return 1


def test_prompts_that_were_given_up_are_not_in_the_estimate(tmp_path):
    made, asked = recipe({"reader": "jsonl", "files": ["p"]}), [Prompt(f"p{i}", f"Say {i}", "s") for i in (0, 1, 10, 2)]
    report = respond(made, asked[:3], {"chat": Mute()}, tmp_path)
    assert (report.usable, report.given_up) == (2, 4)
    lost = read_given_up(made, {"chat": Mute()}, tmp_path)
    assert lost == {"a": frozenset({"p0", "p10"}), "b": frozenset({"p0", "p10"})}
    have = {name: {"p1": None} for name in "ab"}
    assert [model.requests for model in estimate(made, asked, have, None, lost).models] == [1, 1]
    assert lost == read_given_up(made, {"chat": Mute()}, tmp_path)
    patient = made.model_copy(update={"attempts": 3})
    assert read_given_up(patient, {"chat": Mute()}, tmp_path) == {"a": frozenset(), "b": frozenset()}


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("folder", None, "cannot be read: Is a directory"),
        ("r.toml", b"\xff\xfe\x00", "is not TOML"),
        ("r.toml", b'\xef\xbb\xbfname = "t"\n', "is not a recipe:\n  - the key 'seed' is missing."),
    ],
)
def test_a_recipe_that_cannot_be_read_is_a_user_error(tmp_path, name, data, message):
    if data is None:
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message):
        Recipe.read(tmp_path / name)


def test_a_step_after_a_change_of_the_recipe_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.jsonl").write_bytes(plain(*(f"Prompt number {i}" for i in range(9))))
    text = (
        'name = "t"\nseed = 1\nreward_ensemble = "compact-v1"\nreference_response_model = "a"\n'
        '[prompts]\nfiles = ["p.jsonl"]\ntrain = 1\ntest = 1\n'
        + "".join(f'[[response_model]]\nname = "{name}"\nchat_model = "no:thing"\n' for name in "ab")
    )
    (tmp_path / "r.toml").write_text(text)
    assert CliRunner().invoke(app, ["build", "prompts", "r.toml", "--out", "out"]).exit_code == 0
    (tmp_path / "r.toml").write_text(text.replace("seed = 1", "seed = 2"))
    found = CliRunner().invoke(app, ["build", "respond", "r.toml", "--out", "out"])
    assert isinstance(found.exception, UserError)
    assert "were drawn before" in found.exception.message
