"""Option groups, lazy commands, help and completion."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, ClassVar

import pytest
import typer
from typer.testing import CliRunner

from personalllm.cli.app import app
from personalllm.cli.groups import command, command_group, with_groups
from personalllm.cli.options import BackendOptions, DataOptions, ProtocolOptions

COMMANDS = ["", "data", "data info", "models pull", "rewards train", "build all", "reproduce", "reproduce paper"]
COMMANDS += ["personas score", "evaluate", "presets", "sweep", "transfer", "analyze", "report", "demo", "list", "check"]


@dataclass(frozen=True, kw_only=True)
class Size:
    title: ClassVar[str] = "Size of it"
    users: Annotated[int, typer.Option(min=1, help="How many users.")] = 3
    text: Annotated[str | None, typer.Option()] = None


def test_a_command_gets_the_object() -> None:
    calls: list[tuple[str, Size]] = []
    group = command_group("A test.")

    @command(group)
    def show(name: Annotated[str, typer.Argument()], *, size: Size) -> None:
        """Show
        it."""
        calls.append((name, size))

    assert CliRunner().invoke(group, ["show", "a", "--users", "2"]).exit_code == 0
    assert CliRunner().invoke(group, ["show", "b"]).exit_code == 0
    assert calls == [("a", Size(users=2)), ("b", Size())]
    refused = CliRunner().invoke(group, ["show", "b", "--users", "0"])
    assert (refused.exit_code, len(calls)) == (2, 2)
    assert "--users" in refused.output
    shown = CliRunner().invoke(group, ["show", "--help"]).output
    assert "Show it." in shown
    assert "Size of it" in shown
    assert "How many users." in shown


def test_the_functions_keep_what_they_are() -> None:
    def plain(name: str = "x") -> None:
        """Say it."""

    assert (with_groups(plain).__name__, with_groups(plain).__doc__) == ("plain", "Say it.")


@pytest.mark.parametrize("arguments", COMMANDS)
def test_help_fits_eighty_columns(arguments: str, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = run(*arguments.split(), "--help")
    assert result.exit_code == 0
    assert all(len(line) <= 80 for line in result.output.splitlines())
    assert "Usage:" in result.output


def test_groups_without_a_command_show_their_help(run: Callable[..., Any]) -> None:
    for group in ("", "data", "reproduce"):
        assert "Commands" in run(*group.split()).output


@pytest.mark.parametrize("options", [BackendOptions, DataOptions, ProtocolOptions])
def test_every_field_is_an_option_of_evaluate(options: type, output: Callable[..., str]) -> None:
    shown = output("evaluate", "--help")
    for field in fields(options):
        assert field.default is not MISSING
        assert {"settings": "--set", "read_as": "--as"}.get(field.name, f"--{field.name.replace('_', '-')}") in shown


def test_mistyped_names_get_a_suggestion(run: Callable[..., Any]) -> None:
    for arguments, message in (
        (["evaluate", "--alfa", "3"], "No such option: --alfa (Possible options: --alpha"),
        (["evalute"], "No such command 'evalute'. Did you mean 'evaluate'?"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2
        assert message in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("words", "completion"),
    [
        ("evaluate hierar", "hierarchical-bt"),
        ("evaluate --preset paper-i", "paper-icl-v1"),
        ("evaluate --track gen", "generate"),
        ("check minilm", "minilm-l6-int8"),
        ("swe", "sweep"),
    ],
)
def test_words_are_completed(words: str, completion: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_PERSONALLLM_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"personalllm {words}")
    monkeypatch.setenv("COMP_CWORD", str(len(words.split())))
    assert completion in CliRunner().invoke(app, [], prog_name="personalllm").output.split()


def test_a_command_imports_no_other_one() -> None:
    code = "import sys; from personalllm.cli.app import app\ntry: app(['presets', '--help'])\nexcept SystemExit: pass\n"
    code += "print([m for m in sys.modules if m.startswith('personalllm.') and m.count('.') > 1])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = done.stdout.splitlines()[-1]
    assert "personalllm.cli.presets" in modules
    for name in ("cli.evaluate", "cli.analyze", "evaluation", "backends", "data."):
        assert f"personalllm.{name}" not in modules
