"""The floor: errors, values, registry, seeds, storage."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personalllm.core import errors, seeding, storage
from personalllm.core.registry import Registry, load_object
from personalllm.core.types import ChatRequest, Corpus, Histories, Message, Queries

CORPUS = Corpus(["p", "q"], [["a", "b", "c"], ["d", "e", "f"]])


@pytest.mark.parametrize(
    "error",
    [
        errors.ParameterError("alpha", "> 0", -1),
        errors.UnknownName("method", "rndom", ["random", "oracle"]),
        errors.MissingExtra("torch", "torch"),
        errors.DataError("It is broken.", "Fix it."),
    ],
)
def test_errors_survive_pickling_with_message_and_remedy(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (str(copy), copy.message, copy.remedy) == (str(error), error.message, error.remedy)


def test_every_error_is_of_one_of_the_two_families():
    names = set(errors.__all__) - {"PersonalLLMError", "UserError", "RunError"}
    assert all(issubclass(getattr(errors, name), errors.UserError) for name in names)
    assert not issubclass(errors.RunError, errors.UserError)


def test_unknown_name_suggests_the_nearest_or_lists_all():
    assert "Did you mean 'random'?" in str(errors.UnknownName("method", "rndom", ["random", "oracle"]))
    assert "Known: oracle, random." in str(errors.UnknownName("method", "zzz", ["random", "oracle"]))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user": [0, 2]}, r"user must be in \[0, 2\)"),
        ({"user": [1, 0]}, "user must be ascending"),
        ({"prompt": [0, -1]}, r"prompt must be in \[0, 2\)"),
        ({"chosen": [0, 3]}, r"chosen must be in \[0, 3\)"),
        ({"rejected": [[0, 1]]}, "rejected must be one-dimensional"),
        ({"prompt": [0]}, "differ in length"),
        ({"best_worst": [True]}, "differ in length"),
        ({"best_worst": [[True, False]]}, "best_worst must be one-dimensional"),
    ],
)
def test_histories_refuse_bad_columns(columns, message):
    good = {"user": [0, 1], "prompt": [0, 1], "chosen": [0, 1], "rejected": [1, 2]}
    with pytest.raises(errors.UserError, match=message):
        Histories(CORPUS, 2, **(good | columns))


def test_histories_are_read_only_and_know_their_offsets():
    histories = Histories(CORPUS, 4, [0, 2, 2], [0, 1, 0], [0, 1, 2], [1, 2, 0])
    assert histories.offsets.tolist() == [0, 1, 1, 3, 3]
    assert Histories.empty(CORPUS, 2).offsets.tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="read-only"):
        histories.user[0] = 1
    for column in (histories.user, histories.prompt, histories.chosen, histories.rejected):
        with pytest.raises(ValueError, match="cannot set WRITEABLE"):
            column.setflags(write=True)


def test_the_best_and_the_worst_imply_what_lies_between_and_a_pair_implies_itself():
    ragged = Corpus(["p", "q"], [["a", "b", "c", "d"], ["a", "b", "c"]])
    histories = Histories(ragged, 2, [0, 0, 1], [0, 1, 1], [3, 2, 0], [1, 0, 1], [True, True, False])
    comparisons, row = histories.implied()
    found = list(zip(row.tolist(), comparisons.chosen.tolist(), comparisons.rejected.tolist(), strict=True))
    assert found == [(0, 3, 1), (0, 3, 0), (0, 3, 2), (0, 0, 1), (0, 2, 1), (1, 2, 0), (1, 2, 1), (1, 1, 0), (2, 0, 1)]
    assert comparisons.user.tolist() == histories.user[row].tolist()
    assert comparisons.prompt.tolist() == histories.prompt[row].tolist()
    assert not comparisons.best_worst.any()
    assert len(Histories.empty(ragged, 3).implied()[0]) == 0
    eight = Corpus(["p"], [list("abcdefgh")])
    assert len(Histories(eight, 1, [0], [0], [5], [2], np.array(True)).implied()[0]) == 13


def test_parts_of_histories_keep_what_was_shown():
    histories = Histories(CORPUS, 3, [0, 0, 2], [0, 1, 0], [0, 1, 0], [1, 0, 1], [True, False, True])
    assert histories.first(1).best_worst.tolist() == [True, True]
    assert histories.of_users(1, 3).best_worst.tolist() == [True]
    assert histories.of_users(1, 3).user.tolist() == [1]
    assert histories.first(1).user.tolist() == [0, 2]


def test_queries_and_corpus_refuse_mismatches():
    with pytest.raises(errors.AxisMismatch, match="2 prompts but 1 rows"):
        Corpus(["p", "q"], [["a"]])
    with pytest.raises(errors.AxisMismatch, match="differ in length"):
        Queries(CORPUS, 2, [0, 1], [0])


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"messages": ()}, "messages must be non-empty"),
        ({"messages": (Message("assistant", "x"),)}, "end with a user turn"),
        ({"max_tokens": 0}, "max_tokens must be >= 1, got 0"),
        ({"temperature": -0.1}, "temperature must be >= 0"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\]"),
        ({"top_k": -1}, "top_k must be >= 0"),
    ],
)
def test_chat_request_refuses_bad_knobs(knobs, message):
    with pytest.raises(errors.ParameterError, match=message):
        ChatRequest(**({"messages": (Message("user", "x"),)} | knobs))


def test_registry_lists_without_importing_and_names_what_fails(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    registry = Registry("method", {"heavy": "no_such_module_xyz:Thing", "join": "os.path:join"})
    assert list(registry) == ["heavy", "join"]
    assert registry.load("join") is os.path.join
    with pytest.raises(errors.PluginError, match="Cannot import 'no_such_module_xyz'"):
        registry.load("heavy")
    with pytest.raises(errors.UnknownName, match="Did you mean 'join'"):
        registry.load("joim")


def test_a_file_beside_the_user_is_loaded_and_its_failure_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_a.py").write_text("class Thing: pass\n")
    (tmp_path / "mine_b.py").write_text("1 / 0\n")
    assert load_object("mine_a:Thing").__name__ == "Thing"
    with pytest.raises(errors.UnknownName, match="Did you mean 'Thing'"):
        load_object("mine_a:Thingg")
    with pytest.raises(errors.PluginError, match="ZeroDivisionError"):
        load_object("mine_b:Thing")
    assert str(tmp_path) not in sys.path


@given(st.lists(st.one_of(st.integers(-(2**70), 2**70), st.text()), max_size=4))
def test_generators_belong_to_their_key(key):
    first = seeding.generator(*key).integers(0, 2**62, 4)
    assert (first == seeding.generator(*key).integers(0, 2**62, 4)).all()
    assert (first != seeding.generator(*key, 0).integers(0, 2**62, 4)).any()
    assert 0 <= seeding.derive_seed(*key) < 2**31


def test_keys_of_different_types_or_splits_differ():
    draws = {seeding.derive_seed(*key) for key in [(1, 2), ("1", 2), (12,), ("1", "2"), (1, "2"), ("12",)]}
    assert len(draws) == 6
    assert seeding.derive_seed(0, "published", 7) == 1895977583


def test_atomic_path_leaves_nothing_half_written(tmp_path):
    target = tmp_path / "deep" / "file.txt"
    with storage.atomic_path(target) as temporary:
        temporary.write_text("first")
    with pytest.raises(FileNotFoundError), storage.atomic_path(target) as temporary:
        (temporary.parent / "absent").rename(temporary)
    assert target.read_text() == "first"
    assert [p.name for p in target.parent.iterdir()] == ["file.txt"]
    assert target.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_atomic_directory_keeps_the_faster_one(tmp_path):
    target = tmp_path / "made"
    with storage.atomic_directory(target) as temporary:
        (temporary / "a").write_text("1")
    with storage.atomic_directory(target) as temporary:
        (temporary / "a").write_text("2")
    assert (target / "a").read_text() == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["made"]


def test_canonical_json_refuses_what_it_cannot_replay():
    assert storage.digest({"b": [1, 2.5], "a": None}) == storage.digest({"a": None, "b": [1, 2.5]})
    with pytest.raises(ValueError, match="not JSON compliant"):
        storage.canonical_json(float("nan"))
    with pytest.raises(TypeError):
        storage.canonical_json({"a": np.float32(1)})


def test_cache_dir_can_be_moved(tmp_path, monkeypatch):
    monkeypatch.setenv("PERSONALLLM_CACHE", str(tmp_path))
    assert storage.cache_dir("a", "b") == tmp_path / "a" / "b"
    monkeypatch.delenv("PERSONALLLM_CACHE")
    assert "personalllm" in str(storage.cache_dir())


@pytest.mark.parametrize(
    ("value", "expected"), [("", False), ("0", False), ("false", False), ("1", True), ("yes", True)]
)
def test_offline_switch(value, expected, monkeypatch):
    monkeypatch.setenv("PERSONALLLM_OFFLINE", value)
    assert storage.offline() is expected


HEAVY = ("matplotlib", "sklearn", "numba", "scipy", "onnxruntime", "xllamacpp", "torch", "ray", "pyarrow.dataset")


@pytest.mark.parametrize("module", ["personalllm", "personalllm.cli", "personalllm.methods"])
def test_importing_the_front_doors_is_light(module):
    code = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
