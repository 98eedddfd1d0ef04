"""`personalllm build`: what the commands print, in a pipe and on a terminal of 80 columns; the dry run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from personalllm.backends.llm import CachedChatModel, OpenAIChatModel, VLLMChatModel
from personalllm.build import Recipe
from personalllm.cli import progress, recipes
from personalllm.cli.app import app, main
from personalllm.core.errors import RunError, UserError
from personalllm.data import load

STANDINS = """
import numpy as np

from personalllm.core.errors import RunError
from personalllm.core.types import ChatReply


class Chat:
    name, identity, context_length = "chat", "chat@1", 1000

    def chat(self, requests):
        return [ChatReply(f"{r.messages[-1].content} {r.seed}", "stop", 3, 5) for r in requests]

    def count_tokens(self, messages):
        return 1


class Silent(Chat):
    identity = "silent@1"

    def chat(self, requests):
        raise AssertionError("was asked")

    count_tokens = chat


class Broken(Chat):
    identity = "broken@1"

    def chat(self, requests):
        raise RunError("The server is on fire.")


class Lengths:
    reward_models, identity = ("long", "short"), "lengths@1"
    packages = ("pydantic",)
    provenance = {"long": {"hub_id": "nobody/long", "licence": "MIT"}, "short": {"hub_id": "nobody/short"}}

    def score(self, prompts, responses):
        n = np.array([len(r) for r in responses], np.float32)
        return np.stack([n, -n], axis=1)
"""
RECIPE = """
name = "tiny"
seed = 3
licence = "Apache-2.0"
reward_ensemble = "standins_of_cli:Lengths"
reference_response_model = "b"
[prompts]
train = 12
test = 8
spare = 4
max_characters = 60
[[prompts.source]]
reader = "jsonl"
name = "questions [of mine]"
files = ["p.jsonl"]
licence = "CC0"
[[response_model]]
name = "a"
chat_model = "standins_of_cli:Chat"
price_per_million_prompt_tokens = 1
price_per_million_new_tokens = 1000
max_tokens = 100
[[response_model]]
name = "b"
chat_model = "standins_of_cli:Chat"
system = "Be kind."
max_tokens = 100
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    (tmp_path / "standins_of_cli.py").write_text(STANDINS)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    rows = [{"prompt": f"Prompt number {i}?" + "x" * i, "subset": "xy"[i % 2]} for i in range(50)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delitem(sys.modules, "standins_of_cli", raising=False)
    yield tmp_path
    sys.modules.pop("standins_of_cli", None)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["build", *arguments, "--out", "out"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def words(text: str) -> str:
    return " ".join(text.split())


def test_all_steps_make_a_benchmark_and_a_card_that_says_how(folder):
    text = run("all", "recipe.toml")
    assert "24 prompts in out/prompts.jsonl" in text
    assert "a: 24 usable" in text
    assert "80 scores of 20 prompts" in text
    assert max(map(len, text.splitlines())) <= 120
    card = (folder / "out" / "tiny.md").read_text()
    for line in (
        "| source | rows read | too long | not drawn | drawn |",
        "| `questions [of mine]` | 50 | 6 | 20 | 24 |",
        "Kept are prompts of 1 to 60 characters.",
        "Licences of the prompts: `questions [of mine]`: CC0.",
        "Of 24 drawn prompts 20 are in the benchmark, 4 were spare.",
        "Licence: Apache-2.0",
        "hub_id nobody/long, licence MIT",
    ):
        assert line in card, line
    assert re.search(r"\| `b` \| `chat@1` \| Be kind\. .* \| 0% \| 0 \|", card)
    versions = card.partition("## Versions")[2]
    assert re.search(
        r"^numpy [\d.]+, personalllm [\d.]+, pyarrow [\d.]+, pydantic [\d.]+, python [\d.]+$", versions, re.MULTILINE
    )
    assert "wins of each response model" in card
    before = {
        p: p.read_bytes() for p in (folder / "out").rglob("*") if p.suffix in (".md", ".parquet", ".jsonl", ".npy")
    }
    run("all", "recipe.toml")
    assert before == {p: p.read_bytes() for p in before}


def test_the_metadata_say_where_the_prompts_came_from_unless_they_were_changed_by_hand(folder):
    run("all", "recipe.toml")
    provenance = load(folder / "out" / "tiny.parquet").metadata["provenance"]
    (source,) = provenance["sources"]
    assert (source["reader"], source["read"], source["drawn"], source["licence"]) == ("jsonl", 50, 24, "CC0")
    assert [f["file"] for f in source["files"]] == ["p.jsonl"]
    assert provenance["prompts"] == {
        "drawn": 24,
        "kept": 20,
        "spare": 4,
        "without_a_response": 0,
        "without_a_response_of": {},
    }
    assert [m["template"] for m in provenance["response_models"]] == ["the chat model's own"] * 2
    lines = (folder / "out" / "prompts.jsonl").read_text().splitlines(keepends=True)
    (folder / "out" / "prompts.jsonl").write_text("".join(lines[1:]))
    run("pack", "recipe.toml")
    changed = load(folder / "out" / "tiny.parquet").metadata["provenance"]
    assert "sources" not in changed
    assert changed["prompts"]["drawn"] == 23


@pytest.mark.slow
def test_a_benchmark_without_a_train_split_has_a_card(folder):
    (folder / "recipe.toml").write_text(RECIPE.replace("train = 12", "train = 0"))
    text = run("all", "recipe.toml")
    assert "is not measured" not in text
    assert "## Measured" in (folder / "out" / "tiny.md").read_text()


def test_a_card_without_figures_says_why(folder):
    """A reward model that gives every response one score cannot be standardised; the benchmark is there."""
    flat = STANDINS.replace("np.stack([n, -n], axis=1)", "np.stack([n, 0 * n], axis=1)")
    (folder / "standins_of_cli.py").write_text(flat)
    text = words(run("all", "recipe.toml"))
    assert "The diversity is not measured: short gives every response of the split 'train' of tiny the same" in text
    assert load(folder / "out" / "tiny.parquet").n_prompts == 20
    assert "## Measured" not in (folder / "out" / "tiny.md").read_text()


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_a_wrong_reward_ensemble_shows_before_anything_is_paid_for(folder, options):
    (folder / "recipe.toml").write_text(RECIPE.replace("standins_of_cli:Lengths", "compact-v9"))
    found = CliRunner().invoke(app, ["build", "all", "recipe.toml", "--out", "out", *options])
    assert isinstance(found.exception, UserError)
    assert "There is no reward ensemble named 'compact-v9'" in found.exception.message
    assert not (folder / "out").exists()


@pytest.mark.slow
def test_worker_processes_make_the_same_benchmark(folder):
    run("all", "recipe.toml")
    alone = {name: (folder / "out" / name).read_bytes() for name in ("tiny.parquet", "tiny.md")}
    command = [sys.executable, "-m", "personalllm", "build", "all", "recipe.toml", "--out", "shared"]
    done = subprocess.run([*command, "--executor", "processes:2"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert {name: (folder / "shared" / name).read_bytes() for name in alone} == alone


def test_the_dry_run_asks_nothing_and_writes_nothing(folder):
    (folder / "recipe.toml").write_text(RECIPE.replace("standins_of_cli:Chat", "standins_of_cli:Silent"))
    for step in ("prompts", "respond", "score", "all"):
        text = run(step, "recipe.toml", "--dry-run")
        assert "nothing was written" in text.lower()
        assert not (folder / "out").exists()
        assert text.splitlines() == [line.rstrip() for line in text.splitlines()]
    assert "24 prompts (12 train, 8 test, 4 spare)" in text
    assert "Responses: 48 requests for 24 prompts. Time unknown" in words(text)
    assert "Scores: 40 responses. Time unknown" in words(text)
    assert re.search(r"all +48 +\d+ +4,800 +4,800 +2\.40 +2\.40", text)
    text = words(run("all", "recipe.toml", "--dry-run", "--responses-per-second", "0.01", "--scores-per-second", "4"))
    assert "About 1 h 20 min at 0.01 responses a second." in text
    assert "About 10 s at 4 responses a second." in text


def test_a_pilot_tells_length_and_speed(folder):
    run("prompts", "recipe.toml")
    run("respond", "recipe.toml", "--first", "10")
    text = words(run("respond", "recipe.toml", "--dry-run"))
    assert "Responses: 28 requests for 24 prompts. About" in text
    assert "Lengths are those of 20 responses in the folder (a 10, b 10)." in text
    assert re.search(r"all 28 \d+ 140 2,800 0\.07 1\.40", text)
    assert "10 prompts have all responses, 20 are needed" in run("pack", "recipe.toml", "--dry-run")
    with pytest.raises(UserError, match=r"10 prompts have a usable response .* \(missing: a 14, b 14\)"):
        run("pack", "recipe.toml")


def test_a_model_that_fails_ends_the_command_with_an_error(folder):
    (folder / "recipe.toml").write_text(RECIPE.replace("standins_of_cli:Chat", "standins_of_cli:Broken"))
    run("prompts", "recipe.toml")
    with pytest.raises(RunError, match="on fire"):
        run("respond", "recipe.toml")
    assert not (folder / "out" / "tiny.parquet").exists()


def test_on_a_terminal_there_is_a_bar_and_in_a_pipe_a_few_lines():
    terminal = Console(force_terminal=True, width=80, record=True, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    with terminal.file, progress.reported("responses", terminal) as report:
        for done in range(0, 101, 10):
            report(done, 100)
        assert terminal.is_terminal
    piped = Console(width=80, record=True, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    with piped.file, progress.reported("responses", piped) as report:
        for done in range(1001):
            report(done, 1000)
    text = piped.export_text()
    assert text.splitlines()[0] == "responses: 0 of 1,000 (0%)"
    assert text.splitlines()[-1].startswith("responses: 1,000 of 1,000 (100%), took ")
    assert len(text.splitlines()) <= 12


def test_the_time_left_is_reckoned_from_what_this_run_did(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    console = Console(width=80, record=True, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    with console.file, progress.reported("responses", console) as report:
        report(800, 1000)
        now[0] += 59
        report(810, 1000)
        now[0] += 1
        report(810, 1000)
        now[0] += 10
        report(850, 1000)
        now[0] += 1
        report(905, 1000)
    assert console.export_text().splitlines() == [
        "responses: 800 of 1,000 (80%)",
        "responses: 810 of 1,000 (81%), 1 min so far, about 19 min left",
    ]


def test_a_recipe_names_its_chat_models(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    lines = {
        "openai:served": 'timeout = 5\nrequests_per_minute = 60\napi_key_env = "KEY"\nconcurrency = 3\nrevision = "r1"',
        "vllm:org/model": 'revision = "main"',
    }
    models = "".join(
        f'[[response_model]]\nname = "{chr(97 + i)}"\nchat_model = "{name}"\n{more}\n'
        for i, (name, more) in enumerate(lines.items())
    )
    head = RECIPE[: RECIPE.index("[[response_model]]")]
    (tmp_path / "r.toml").write_text(head + models)
    found = recipes.chat_models_of(Recipe.read(tmp_path / "r.toml"))
    assert isinstance(found["openai:served"], CachedChatModel)
    assert isinstance(found["vllm:org/model"], VLLMChatModel)
    given = {
        "base_url": "http://127.0.0.1:9/v1",
        "revision": "r1",
    }
    assert found["openai:served"].identity == OpenAIChatModel("served", **given).identity


@pytest.mark.parametrize(
    ("chat_model", "line", "message"),
    [
        ("openai:m", "", r"Response model a: the address of 'openai:m' is unknown"),
        ("vllm:m", "requests_per_minute = 3", r"Response model a: requests_per_minute has no effect on 'vllm:m'"),
        ("standins:Chat", 'base_url = "http://x"\ntimeout = 3', r"base_url, timeout has no effect on 'standins:Chat'"),
        ("smollm2-135m-instruct", 'revision = "x"', r"revision has no effect on 'smollm2-135m-instruct'"),
    ],
)
def test_settings_without_effect_are_refused(tmp_path, monkeypatch, chat_model, line, message):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    head = RECIPE[: RECIPE.index("[[response_model]]")]
    models = "".join(f'[[response_model]]\nname = "{n}"\nchat_model = "{chat_model}"\n{line}\n' for n in "ab")
    (tmp_path / "r.toml").write_text(head + models)
    with pytest.raises(UserError, match=message):
        recipes.chat_models_of(Recipe.read(tmp_path / "r.toml"))


def test_a_user_error_ends_with_status_2_and_its_remedy(folder, monkeypatch, capsys):
    (folder / "p.jsonl").write_text("nonsense\n")
    monkeypatch.setattr(sys, "argv", ["personalllm", "build", "prompts", "recipe.toml", "--out", "out"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    errors = capsys.readouterr().err
    assert re.search(r"error: 1 row cannot be read as jsonl:\n  - .*p.jsonl, line 1: not JSON", errors)
    assert "Fix or remove them" in errors
