"""Plug-ins: a real package from the documentation, installed; broken ones; `list` and `check`."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from personalllm.backends.names import build_embedder, build_llm, build_rewards
from personalllm.cli.app import app
from personalllm.cli.kinds import Kind, listings, registry_of, subject_of
from personalllm.core import registry
from personalllm.core.errors import PluginError, UnknownName, UserError
from personalllm.core.registry import Registry, load_object
from personalllm.data import Benchmark, write_benchmark
from personalllm.evaluation import load_run
from personalllm.evaluation.resolve import tracks_of
from personalllm.methods import list_methods, method_class
from personalllm.testing import Check, HashEmbedder, embedder_checks, method_checks, run_checks

ROOT = Path(__file__).resolve().parents[1]
BACKEND = '''
"""Builds a wheel from pyproject.toml with nothing but the standard library."""
import tomllib, zipfile
from pathlib import Path

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    stem = f"{project['name'].replace('-', '_')}-{project['version']}"
    points = "".join(
        f"[{group}]\\n" + "".join(f"{name} = {value}\\n" for name, value in names.items()) + "\\n"
        for group, names in project.get("entry-points", {}).items()
    )
    info = {
        "METADATA": f"Metadata-Version: 2.1\\nName: {project['name']}\\nVersion: {project['version']}\\n",
        "WHEEL": "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        "entry_points.txt": points,
    }
    name = f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(Path(wheel_directory) / name, "w") as wheel:
        for path in sorted(Path(".").glob("*/*.py")):
            if path.parent.name != "backend":
                wheel.write(path)
        for file, text in info.items():
            wheel.writestr(f"{stem}.dist-info/{file}", text)
        listed = "".join(f"{entry},,\\n" for entry in wheel.namelist()) + f"{stem}.dist-info/RECORD,,\\n"
        wheel.writestr(f"{stem}.dist-info/RECORD", listed)
    return name
'''


def documented_package(folder: Path) -> None:
    """Write the files that docs/plugins.md shows."""
    text = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    files = re.findall(r"^`([\w./]+)`\n\n```\w+\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(files) == 4
    for name, content in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documented package, installed by pip into a folder of its own, without a network."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    documented_package(source)
    project = source / "pyproject.toml"
    text = re.sub(r"\[build-system\].*?\n\n", "", project.read_text(encoding="utf-8"), flags=re.DOTALL)
    build = '[build-system]\nrequires = []\nbuild-backend = "in_tree"\nbackend-path = ["backend"]\n\n'
    project.write_text(build + text, encoding="utf-8")
    (source / "backend").mkdir()
    (source / "backend" / "in_tree.py").write_text(BACKEND, encoding="utf-8")
    flags = ["--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check", "--no-compile", "-q"]
    command = [sys.executable, "-m", "pip", "install", *flags, "--target", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture
def on_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """Put folders on the path, and forget what was imported from them."""
    before = set(sys.modules)

    def add(folder: Path) -> None:
        monkeypatch.syspath_prepend(str(folder))

    yield add
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("taste_kit", "sick", "mine_plugin"):
            del sys.modules[name]
    importlib.invalidate_caches()


def distribution(folder: Path, name: str, points: dict[str, dict[str, str]], version: str = "1.2") -> None:
    """Write what pip would for an installed distribution with these entry points."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    text = "".join(f"[{group}]\n" + "".join(f"{n} = {v}\n" for n, v in m.items()) for group, m in points.items())
    (info / "entry_points.txt").write_text(text)


SICK = {
    "personalllm.method": {
        "fine": "sick.fine:Fine",
        "absent-module": "sick.nowhere:Thing",
        "absent-name": "sick.fine:Nothing",
        "raises": "sick.raises:Thing",
        "exits": "sick.leaves:Thing",
        "no-class": "sick.fine:NUMBER",
        "no-attribute": "sick.fine",
        "longest": "sick.fine:Fine",
        "twice": "sick.fine:Fine",
        "misnamed": "sick.fine:Fine",
        "asks-badly": "sick.fine:AsksBadly",
    },
    "personalllm.embedder": {"number": "sick.fine:NUMBER", "half": "sick.fine:Half", "wrong-kind": "sick.fine:Echo"},
    "personalllm.chat_model": {"hungry": "sick.fine:Hungry", "nameless": "sick.fine:Nameless"},
    "personalllm.model_file": {"text": "sick.fine:NUMBER"},
    "personalllm.reward_model": {"integer": "sick.fine:NUMBER"},
}
SICK_FILES = {
    "__init__": "",
    "raises": "1 / 0\n",
    "leaves": "import sys\nsys.exit('[red]gone\\n')\n",
    "fine": """
        from dataclasses import dataclass
        from typing import ClassVar
        from personalllm.methods.baselines.longest import Longest
        from personalllm.testing import EchoChatModel as Echo
        NUMBER = 7

        @dataclass
        class Fine(Longest):
            id: ClassVar[str] = "fine"
            title: ClassVar[str] = "[bold]Fine"

        class Tracks(type(Longest)):
            pass

        @dataclass
        class AsksBadly(Longest):
            id: ClassVar[str] = "asks-badly"
            needs: ClassVar = 7

        class Half:
            def embed(self, texts):
                return None

        class Hungry(Echo):
            def __init__(self, key):
                pass

        class Nameless(Echo):
            @property
            def identity(self):
                return ""
    """,
}


@pytest.fixture
def sick(tmp_path: Path, on_path: Callable[[Path], None]) -> Path:
    """A package with one sound plug-in and every way to be broken, and a rival for one name."""
    site = tmp_path / "sick_site"
    (site / "sick").mkdir(parents=True)
    for name, text in SICK_FILES.items():
        (site / "sick" / f"{name}.py").write_text(textwrap.dedent(text))
    distribution(site, "sick-kit", SICK)
    distribution(site, "rival", {"personalllm.method": {"twice": "sick.fine:Fine"}}, "9")
    on_path(site)
    return site


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, arguments)


def flat(text: str) -> str:
    return " ".join(text.split())


def test_the_real_command_line_sees_an_installed_package(installed: Path, tmp_path: Path) -> None:
    path = os.pathsep.join(filter(None, [str(installed), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "NO_COLOR": "1"}

    def real(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "personalllm", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)

    listed = real("list")
    assert listed.returncode == 0, listed.stderr
    for name in ("likes-alike", "letters", "parrot", "surface"):
        (line,) = [line for line in listed.stdout.splitlines() if line.split()[:1] == [name]]
        assert line.rstrip().endswith("taste-kit 0.3.0")
    checked = real("check", "parrot")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "parrot: chat model, from taste-kit 0.3.0" in checked.stdout
    assert "12 of 12 checks passed" in checked.stdout


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("likes-alike", Kind.METHOD),
        ("letters", Kind.EMBEDDER),
        ("parrot", Kind.CHAT_MODEL),
        ("surface", Kind.REWARD_ENSEMBLE),
    ],
)
def test_the_documented_package_keeps_every_contract(
    installed: Path, on_path: Callable[[Path], None], name: str, kind: Kind
) -> None:
    on_path(installed)
    subject = subject_of(name)
    assert (subject.kind, subject.origin) == (kind, "taste-kit 0.3.0")
    result = run("check", name)
    assert result.exit_code == 0, result.output
    assert "0 failed, 0 skipped" in result.output


def test_a_plugins_name_works_wherever_a_built_in_name_does(
    installed: Path, on_path: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_path(installed)
    monkeypatch.chdir(tmp_path)
    rewards = build_rewards({"reward_ensemble": "surface"})
    rng = np.random.default_rng(0)
    prompts = [f"Question {i}?" for i in range(9)]
    responses = [[" ".join(rng.choice(["red", "blueish", "g"], int(n))) for n in (3, 9, 20)] for _ in prompts]
    write_benchmark(
        Benchmark.from_arrays(
            name="tiny",
            prompt_ids=[f"p{i}" for i in range(9)],
            prompts=prompts,
            subsets=["s"] * 9,
            splits=["train"] * 6 + ["test"] * 3,
            responses=responses,
            response_models=["a", "b", "c"],
            reward_models=rewards.reward_models,
            scores=np.stack([rewards.score([p] * 3, r) for p, r in zip(prompts, responses, strict=True)]),
            metadata={"reward_ensemble": "surface"},
        ),
        tmp_path / "tiny.parquet",
    )
    small = ["--data", "tiny.parquet", "--users", "8", "--pool-users", "4", "--out", "runs"]
    ranked = run("evaluate", "likes-alike", "random", "--embedder", "letters", *small)
    assert ranked.exit_code == 0, (ranked.output, ranked.exception)
    assert "likes-alike" in ranked.output
    backends = ["--embedder", "letters", "--llm", "parrot"]
    written = run("evaluate", "icl", "--track", "generate", *backends, *small, "--out", "written")
    assert written.exit_code == 0, (written.output, written.exception)
    backends_used = str(load_run("written").protocol)
    assert "taste-kit letters 1" in backends_used
    assert "taste-kit parrot 1" in backends_used
    assert build_llm("parrot").identity == "taste-kit parrot 1"
    assert build_embedder("letters").identity == "taste-kit letters 1"


def test_lists_name_what_is_broken_and_show_the_rest(sick: Path) -> None:
    result = run("list", "methods")
    assert result.exit_code == 0, result.output
    text = flat(result.output)
    for reason in (
        "absent-module broken, see below sick-kit 1.2",
        "absent-module: The method 'absent-module' of sick-kit 1.2 (sick.nowhere:Thing) does not load",
        "does not load: ModuleNotFoundError: No module named 'sick.nowhere'.",
        "'absent-name' of sick-kit 1.2 (sick.fine:Nothing) does not load: AttributeError",
        "'raises' of sick-kit 1.2 (sick.raises:Thing) does not load: ZeroDivisionError: division by zero.",
        "'exits' of sick-kit 1.2 (sick.leaves:Thing) does not load: SystemExit: [red]gone",
        "no-class: 'no-class' is a int, not a subclass of personalllm.methods.Method.",
        "its entry point names no object in a module",
        "'longest' of sick-kit 1.2 has the name of a built-in one and is not used.",
        "'twice' is registered by rival 9 and sick-kit 1.2.",
        "TypeError: argument of type 'int' is not iterable",
    ):
        assert reason in text, reason
    assert "fine [bold]Fine predict, rank sick-kit 1.2" in text
    assert "longest Longest predict, rank built in" in text
    assert re.search(r"\b10 plugins are broken; everything else works\.", text)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("model-files", "text: The model file 'text' of sick-kit 1.2 is an int, not a ModelEntry."),
        ("reward-models", "integer: The reward model 'integer' of sick-kit 1.2 is an int, not a RewardEntry."),
        ("embedders", "number: The embedder 'number' of sick-kit 1.2 is an int, which cannot be called"),
    ],
)
def test_a_plugin_of_the_wrong_type_is_broken(sick: Path, kind: str, message: str) -> None:
    text = flat(run("list", kind).output)
    assert "1 plugin is broken" in text
    assert message in text


def test_reward_models_and_servers_are_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    assert subject_of("gemma_2b").built.reward_models == ("gemma_2b",)
    assert subject_of("published").kind is Kind.REWARD_ENSEMBLE
    assert subject_of("transformers:someone/model").built.reward_models == ("model",)
    assert subject_of("openai:some-model").kind is Kind.CHAT_MODEL


def test_other_names_work_beside_broken_plugins(sick: Path) -> None:
    assert {"fine", "raises", "longest"} <= set(list_methods())
    assert method_class("longest").__module__ == "personalllm.methods.baselines.longest"
    assert method_class("fine").title == "[bold]Fine"
    with pytest.raises(PluginError, match=r"'raises' of sick-kit 1\.2 .*ZeroDivisionError") as caught:
        method_class("raises")
    assert "uninstall sick-kit" in caught.value.remedy
    with pytest.raises(PluginError, match="registered by rival 9 and sick-kit"):
        method_class("twice")
    with pytest.raises(UnknownName, match="Did you mean 'raises'"):
        method_class("raise")


@pytest.mark.parametrize(
    ("build", "name", "message"),
    [
        (build_embedder, "number", "'number' is of the type int, which cannot be called"),
        (build_embedder, "half", "'half' returned a Half, which is no embedder.*missing: dim, identity, name"),
        (build_embedder, "wrong-kind", "returned a EchoChatModel, which is no embedder"),
        (build_llm, "hungry", "called without arguments and failed: TypeError.*'key'"),
        (build_llm, "nameless", "the identity of this chat model is '', not a text"),
    ],
)
def test_what_a_factory_makes_is_checked(sick: Path, build: Any, name: str, message: str) -> None:
    with pytest.raises(PluginError) as caught:
        build(name)
    assert re.search(message, str(caught.value)), str(caught.value)


def test_a_servers_settings_are_refused_for_a_plugin(installed: Path, on_path: Callable[[Path], None]) -> None:
    on_path(installed)
    with pytest.raises(UserError, match="base_url only apply to a server"):
        build_llm("parrot", base_url="http://127.0.0.1:1/v1")
    with pytest.raises(UserError, match="context_length only apply"):
        build_llm("parrot", context_length=9)


def test_what_is_installed_while_python_runs_is_seen_and_nothing_is_read_twice(
    tmp_path: Path, on_path: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    monkeypatch.setattr(registry, "entry_points", lambda: reads.append(1) or metadata.entry_points())
    on_path(tmp_path)
    assert "late" not in list_methods()
    distribution(tmp_path, "late-kit", {"personalllm.method": {"late": "sick.fine:Fine"}})
    assert "late" in list_methods()
    assert "late" in list_methods()
    assert len(reads) == 2


def test_listing_imports_no_built_in_file() -> None:
    code = (
        "import sys; from personalllm.cli.kinds import Kind, listings\n"
        "rows = [row for kind in Kind for row in listings(kind)]; assert len(rows) > 20, rows\n"
        "mine = ('personalllm.methods.icl.icl', 'personalllm.methods.linear.lore',"
        " 'personalllm.backends.llm.local')\n"
        "heavy = ('numba', 'sklearn', 'onnxruntime', 'xllamacpp', 'torch', 'transformers', 'nltk', 'pyarrow')\n"
        "print([m for m in (*mine, *heavy) if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_is_read_off_the_built_in_files_is_what_they_say() -> None:
    for row in listings(Kind.METHOD):
        cls = method_class(row.entry.name)
        assert (row.title, row.tracks, set(row.needs)) == (cls.title, tracks_of(cls), set(cls.needs))
    for kind in Kind:
        for row in listings(kind):
            assert row.title, row
            assert (row.problem, row.entry.origin) == ("", "built in")
        assert [row.entry.name for row in listings(kind)] == list(registry_of(kind))


def test_every_kind_is_listed_and_a_kind_by_itself() -> None:
    everything = run("list").output
    for kind in Kind:
        assert f"{kind.value}  entry points personalllm." in everything
    only = run("list", "embedders").output
    assert "minilm-l6-int8" in only
    assert "longest" not in only


MINE = """
from dataclasses import dataclass
from typing import ClassVar
import numpy as np
from personalllm.methods.baselines.longest import Longest
from personalllm.testing import Check, HashEmbedder, EchoChatModel, SurfaceRewards

@dataclass
class Unseeded(Longest):
    id: ClassVar[str] = "unseeded"
    title: ClassVar[str] = "[red]Unseeded"
    def utilities(self, queries):
        return super().utilities(queries) * np.random.default_rng().random(dtype=np.float32)

@dataclass
class Crashes(Longest):
    id: ClassVar[str] = "crashes"
    def utilities(self, queries):
        return super().utilities(queries) / len(queries.user[queries.user > 9][0])

class LongRows(HashEmbedder):
    def embed(self, texts):
        return super().embed(texts) * np.float32(2)

class Restless(HashEmbedder):
    identity = property(lambda self: f"restless {id(self)}")

def embedder():
    return HashEmbedder()

ready = SurfaceRewards()
chats = EchoChatModel
made = Longest()
NUMBER = 3

class Half:
    def score(self, prompts, responses):
        return None

def needy(key):
    return HashEmbedder()

def nothing():
    return None
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_path: Any) -> None:
    (tmp_path / "mine_plugin.py").write_text(MINE)
    (tmp_path / "mine_needs.py").write_text("import no_such_package")
    (tmp_path / "mine_wrong.py").write_text("def (:")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.chdir(tmp_path)


def test_check_names_the_broken_clause_and_goes_on(mine: None) -> None:
    result = run("check", "mine_plugin:Unseeded")
    assert result.exit_code == 1, result.output
    lines = {
        line.split()[3]: line.split()[0] for line in result.output.splitlines() if re.match(r"\w+ +\d+\.\d\d s", line)
    }
    assert lines["rank-seeds"] == "failed"
    assert {name for name, verdict in lines.items() if verdict == "skipped"} == {
        *("rank-pickle", "rank-saved", "rank-alone", "rank-refit", "rank-order")
    }
    assert lines["rank-odd-texts"] == lines["dataclass"] == "passed"
    text = flat(result.output)
    assert "Unseeded: equal seeds must give equal utilities. Draw with personalllm.core.seeding.generator" in text
    assert "14 of 20 checks passed, 1 failed, 5 skipped" in text
    assert "mine_plugin:Unseeded breaks the contract of a method." in text


def test_check_shows_where_a_strangers_code_raises(mine: None) -> None:
    result = run("check", "mine_plugin:Crashes")
    assert result.exit_code == 1
    assert re.search(r"It raises IndexError: .*\(mine_plugin\.py, line \d+\)", flat(result.output))


@pytest.mark.parametrize(
    ("target", "what", "status"),
    [
        ("mine_plugin:embedder", "embedder", 0),
        ("mine_plugin:ready", "reward ensemble", 0),
        ("mine_plugin:chats", "chat model", 0),
        ("mine_plugin:LongRows", "embedder", 1),
        ("mine_plugin:Restless", "embedder", 1),
        ("longest", "method", 0),
    ],
)
def test_check_finds_out_what_a_thing_is(mine: None, target: str, what: str, status: int) -> None:
    result = run("check", target)
    assert result.exit_code == status, result.output
    assert f"{target}: {what}, from" in flat(result.output)


def test_an_identity_that_changes_is_found(mine: None) -> None:
    text = flat(run("check", "mine_plugin:Restless").output)
    assert "Built twice, it has two identities: 'restless" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mine_plugin:NUMBER",), "'mine_plugin:NUMBER' is an int, which is neither a method nor an embedder"),
        (("mine_plugin:nothing",), "makes a NoneType, which is neither"),
        (
            ("mine_plugin:Half",),
            r"has score\(\) but is not one of the reward-ensembles.*lacks: identity, reward_models",
        ),
        (("mine_plugin:needy",), "called without arguments and failed: TypeError.*Give every argument a default"),
        (("mine_plugin:made",), "a method that was already made.*Name its class"),
        (("personalllm.methods:Method",), "is the base class itself"),
        (("mine_plugin:Nothing",), "no attribute of 'mine_plugin' named 'Nothing'"),
        (("mine_plugin.py:Half",), "the name of a file, not of a module.*Write mine_plugin:Half"),
        (("./a/b.py:C",), r"Write a\.b:C"),
        (("no_such_module:Thing",), "Cannot import 'no_such_module'"),
        (("mine_needs:Thing",), "No module named 'no_such_package'.*It needs no_such_package: install that"),
        (("mine_wrong:Thing",), "SyntaxError.*The module is there, but its code fails: fix it"),
        (("no_such_folder.part:Thing",), "Cannot import.*must be importable from the folder you are in"),
        (("mine_plugin",), "'mine_plugin' is a file here, and it may hold several.*Name one: mine_plugin:Thing"),
        (("mine_plugin.py",), "is a file here, and it may hold several.*Name one: mine_plugin:Thing"),
        (("openai:some-model",), "The address of the server of 'openai:some-model' is unknown.*Set.*OPENAI_BASE_URL"),
        (("gemma_2b=/nope",), "^There is no folder /nope"),
        (("gemma_2b",), "are not all on this machine|is not installed"),
        (("longes",), "Did you mean 'longest'"),
        (("vader",), "is one of the text-classifiers; there is no contract suite"),
        (("agreement",), "is one of the analyses; there is no contract suite"),
        (("gemma3-270m",), "is one of the model-files; there is no contract suite"),
        (("mine_plugin:embedder", "--kind", "chat-models"), "is one of the embedders, not of the chat-models"),
        (("longest", "--kind", "chat-models"), "There is no chat model named 'longest'"),
        (("mine_plugin:embedder", "--llm", "x"), "--embedder and --llm are for methods"),
    ],
)
def test_check_says_why_there_is_nothing_to_check(
    mine: None, arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    error = run("check", *arguments).exception
    assert isinstance(error, UserError), error
    assert re.search(message, str(error)), str(error)


def test_a_name_of_two_kinds_has_to_be_told_apart(sick: Path, on_path: Callable[[Path], None], tmp_path: Path) -> None:
    site = tmp_path / "both"
    site.mkdir()
    target = "personalllm.testing:{}"
    points = {"personalllm.embedder": "HashEmbedder", "personalllm.chat_model": "EchoChatModel"}
    distribution(site, "both", {group: {"same": target.format(name)} for group, name in points.items()})
    on_path(site)
    with pytest.raises(UserError, match=r"one of the embedders and of the chat-models.*--kind embedders"):
        subject_of("same")
    assert subject_of("same", Kind.CHAT_MODEL).kind is Kind.CHAT_MODEL
    with pytest.raises(PluginError, match=r"registered as one of the embedders, but is one of the chat-models"):
        subject_of("wrong-kind")


def test_only_chat_models_are_offered_in_place_of_an_unknown_one() -> None:
    with pytest.raises(UnknownName, match=r"no chat model named 'smollm-135m'. Did you mean 'smollm2-135m-instruct'"):
        build_llm("smollm-135m")
    with pytest.raises(UnknownName) as caught:
        build_llm("zzz")
    assert "minilm" not in caught.value.remedy
    assert "gemma3" not in caught.value.remedy
    for name, what in (("minilm-l6-int8", "an embedder"), ("gemma3-270m", "a base model")):
        with pytest.raises(UserError, match=rf"'{name}' is {what}.*not a chat model"):
            build_llm(name)
        error = CliRunner().invoke(app, ["models", "serve", name]).exception
        assert isinstance(error, UserError)
        assert what in error.message


def test_a_methods_id_must_be_its_registered_name(sick: Path) -> None:
    result = run("check", "misnamed")
    assert result.exit_code == 1
    assert "It is registered as 'misnamed', but its id is 'fine'." in flat(result.output)


def test_a_method_can_be_checked_with_another_embedder(mine: None) -> None:
    result = run("check", "embedding-ranker", "--embedder", "personalllm.testing:HashEmbedder")
    assert result.exit_code == 0, result.output


def test_the_clauses_have_names_of_their_own_and_remedies() -> None:
    for checks in (method_checks(method_class("icl")), embedder_checks(HashEmbedder())):
        names = [check.name for check in checks]
        assert len(set(names)) == len(names)
        for check in checks:
            assert check.remedy
            assert set(check.after) <= set(names[: names.index(check.name)])
    assert all(outcome.seconds >= 0 for outcome in run_checks(embedder_checks(HashEmbedder())))


def test_what_builds_on_a_skipped_check_is_skipped_too() -> None:
    def fail() -> None:
        raise AssertionError("broken")

    after = [("a", ()), ("b", ("a",)), ("c", ("b",)), ("d", ())]
    checks = [Check(name, name, fail if name == "a" else lambda: None, after=names) for name, names in after]
    outcomes = {outcome.check.name: (outcome.verdict, outcome.message) for outcome in run_checks(checks)}
    assert outcomes == {
        "a": ("failed", "broken"),
        "b": ("skipped", "it builds on a"),
        "c": ("skipped", "it builds on b"),
        "d": ("passed", ""),
    }


def test_modules_that_exit_when_imported_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "leaves_for_tests.py").write_text("import sys\nsys.exit(3)\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PluginError, match="SystemExit: 3"):
        load_object("leaves_for_tests:Thing")


def test_the_documented_group_names_are_the_real_ones() -> None:
    text = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    for kind in Kind:
        assert f"| {kind.value} | `{registry_of(kind).group}` |" in text
    package = re.search(r"```toml\n(.*?)```", text, re.DOTALL)
    assert package is not None
    groups = tomllib.loads(package[1])["project"]["entry-points"]
    assert set(groups) <= {registry_of(kind).group for kind in Kind}
    assert Registry("reward ensemble", {}).group == "personalllm.reward_ensemble"
