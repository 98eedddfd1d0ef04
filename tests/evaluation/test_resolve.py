from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest

from personalllm.core.errors import PersonalLLMError, PluginError, UnknownName, UserError
from personalllm.data import Benchmark
from personalllm.evaluation import Protocol, evaluate, parse_method
from personalllm.evaluation.parts import load_track
from personalllm.evaluation.resolve import named, resolve, slug, tracks_of
from personalllm.methods.base import Method
from personalllm.methods.registry import list_methods, method_class

MINE = """
from dataclasses import dataclass
from typing import ClassVar
import numpy as np
from personalllm.methods.base import Method

@dataclass
class Mine(Method):
    id: ClassVar[str] = "mine"
    bias: float = {bias}

    def utilities(self, queries):
        return np.zeros((len(queries), queries.corpus.n_responses), np.float32)

not_a_class = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine_for_tests.py"
    path.write_text(MINE.format(bias=0.0))
    monkeypatch.delitem(sys.modules, "mine_for_tests", raising=False)
    yield path
    sys.modules.pop("mine_for_tests", None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("icl", ("icl", {})),
        ("icl[]", ("icl", {})),
        (" icl[n_shots=3] ", ("icl", {"n_shots": 3})),
        ("a-b[x=1.5, y=true ,z=null]", ("a-b", {"x": 1.5, "y": True, "z": None})),
        ("a[x=True,y=None]", ("a", {"x": True, "y": None})),
        ('m.n:C[mode=fast,items=[1,2],note="a,b"]', ("m.n:C", {"mode": "fast", "items": [1, 2], "note": "a,b"})),
    ],
)
def test_the_syntax(text: str, expected: tuple[str, dict[str, Any]]) -> None:
    assert parse_method(text) == expected


BAD: list[tuple[str, type[PersonalLLMError], str]] = [
    ("", UserError, "Cannot read the method ''"),
    ("icl[n_shots=3", UserError, r"Cannot read the method 'icl\[n_shots=3'. Write NAME"),
    ("icl[3]", UserError, "Cannot read the parameter '3'"),
    ("icl[n_shots=1,n_shots=2]", UserError, "'n_shots' stands twice"),
    ("icl[shots=1]", UnknownName, "parameter of the method 'icl' named 'shots'.*n_shots"),
    ("icl[n_shots=0]", UserError, "n_shots must be an integer >= 1, got 0"),
    ("icls", UnknownName, "no method named 'icls'. Did you mean 'icl'"),
    (
        "longest",
        UserError,
        r"'longest' does not take part in the generate track: .*`messages`. .*predict track: use --track predict",
    ),
    ("no_such_module_at_all:X", PluginError, "Cannot import 'no_such_module_at_all'"),
    ("mine_for_tests:Other", UnknownName, "named 'Other'"),
    ("mine_for_tests:not_a_class", PluginError, "not a subclass"),
]


@pytest.mark.parametrize(("text", "error", "message"), BAD)
def test_bad_names(text: str, error: type[PersonalLLMError], message: str, module: Path) -> None:
    with pytest.raises(error, match=message):
        resolve([text], load_track("generate"))


def test_a_file_beside_the_user(module: Path) -> None:
    (entry,), _ = resolve(["mine_for_tests:Mine[bias=2]"], load_track("rank"))
    assert entry.label == "mine[bias=2]"
    assert entry.key.startswith("mine-")
    (plain,), _ = resolve(["mine_for_tests:Mine"], load_track("rank"))
    assert plain.label == "mine"
    assert plain.key != entry.key


def test_an_edited_file_is_another_method(module: Path) -> None:
    (before,), _ = resolve(["mine_for_tests:Mine"], load_track("rank"))
    module.write_text(module.read_text() + "\n# edited\n")
    (after,), _ = resolve(["mine_for_tests:Mine"], load_track("rank"))
    assert before.label == after.label
    assert before.key != after.key


def test_an_edited_base_in_another_file_is_another_method(module: Path) -> None:
    derived = module.with_name("derived_for_tests.py")
    derived.write_text("from mine_for_tests import Mine\n\nclass Derived(Mine):\n    id = 'derived'\n")
    try:
        (before,), _ = resolve(["derived_for_tests:Derived"], load_track("rank"))
        (again,), _ = resolve(["derived_for_tests:Derived"], load_track("rank"))
        module.write_text(module.read_text() + "\n# edited\n")
        (after,), _ = resolve(["derived_for_tests:Derived"], load_track("rank"))
    finally:
        sys.modules.pop("derived_for_tests", None)
    assert before.key == again.key
    assert before.key != after.key


def test_an_edited_module_that_a_method_uses_makes_another_method(module: Path) -> None:
    names = ("deep_for_tests", "helper_for_tests", "user_for_tests")
    deep, helper, user = (module.with_name(f"{name}.py") for name in names)
    deep.write_text("VALUE = 1\n")
    helper.write_text("import deep_for_tests\n\ndef weigh(n): return n * deep_for_tests.VALUE\n")
    user.write_text("import json\nfrom helper_for_tests import weigh\n" + MINE.format(bias=0).replace("Mine", "User"))
    module.with_name("unused_for_tests.py").write_text("")
    try:
        keys = [named(method_class("user_for_tests:User")()).key]
        for file in (helper, deep, module.with_name("unused_for_tests.py")):
            file.write_text(file.read_text() + "# edited\n")
            keys.append(named(method_class("user_for_tests:User")()).key)
    finally:
        for name in names:
            sys.modules.pop(name, None)
    assert len(set(keys)) == 3
    assert keys[2] == keys[3]


def test_a_class_typed_into_a_session_is_warned_of(
    benchmark_: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
    space = vars(sys.modules["__main__"])
    exec(MINE.format(bias=0), space)
    protocol = Protocol.for_benchmark(benchmark_, n_users=3, pool_users=2)
    with pytest.warns(UserWarning, match="The source of mine cannot be read: it was typed into a session") as caught:
        evaluate([space["Mine"](), "random"], benchmark_, protocol=protocol, out=tmp_path)
    assert len(caught) == 1
    evaluate([space["Mine"]()], benchmark_, protocol=protocol)
    evaluate(["random"], benchmark_, protocol=protocol, out=tmp_path)


def test_a_baseline_of_another_track_is_named() -> None:
    with pytest.raises(UserError, match=r"'oracle' is a baseline of another track: .*rank\. Leave it out"):
        resolve(["oracle"], load_track("predict"))
    assert resolve(["random"], load_track("predict")) == ((), ("random",))


@pytest.mark.parametrize("track", ["rank", "generate"])
def test_all_is_every_registered_method_of_the_track(track: Any) -> None:
    entries, baselines = resolve(["all"], load_track(track))
    kinds = {name: method_class(name) for name in list_methods()}
    expected = [name for name, kind in kinds.items() if track in tracks_of(kind) and not kind.extra]
    assert [entry.label for entry in entries] == expected
    assert baselines == ()
    assert len(expected) >= 3


def test_each_method_takes_part_once_and_baselines_are_set_apart() -> None:
    entries, baselines = resolve(["random", "oracle", "random", "longest", "model:x"], load_track("rank"))
    assert [entry.label for entry in entries] == ["random", "longest"]
    assert baselines == ("oracle", "model:x")


@dataclass
class Sample(Method):
    id: ClassVar[str] = "sample"
    weights: Any = field(default_factory=lambda: [1, 2])
    name: str = "x"

    def utilities(self, queries: Any) -> Any:
        return np.zeros(1)


def test_labels_show_what_differs_from_the_defaults() -> None:
    assert named(Sample()).label == "sample"
    assert named(Sample(weights=[3], name="y")).label == "sample[weights=[3],name=y]"
    with pytest.raises(UserError, match="parameters of 'sample' cannot be written as JSON"):
        named(Sample(weights={1, 2}))


def test_names_that_would_clash_are_refused() -> None:
    @dataclass
    class Nameless(Method):
        def utilities(self, queries: Any) -> Any:
            return None

    @dataclass
    class Impostor(Sample):
        id: ClassVar[str] = "oracle"

    @dataclass
    class Twin(Sample):
        id: ClassVar[str] = "sample"

    for items, message in (
        ([Nameless()], "has no id"),
        ([Impostor()], "'oracle' belongs to a baseline or an oracle"),
        ([Sample(), Twin()], "Two different methods are called 'sample'"),
        ([3], "must be an object or a name, got int"),
        ([Sample], r"must be an object or a name, got the class Sample\. Pass Sample\(\)\."),
    ):
        with pytest.raises(UserError, match=message):
            resolve(items, load_track("rank"))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["a b", "../x", "é/ü", "model:m"])
def test_slugs_are_safe_folder_names(name: str) -> None:
    assert not set(slug(name)) & set("/\\: ")
    assert slug(name) not in ("", ".", "..")
