"""What a dry run and a real run say about a recipe that cannot run, or not here; rates, Ctrl-C and what is done."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from personalllm.backends.models.store import model_folder
from personalllm.build.estimate import measured_rates, note_rate
from personalllm.cli import recipes
from personalllm.cli.app import app
from personalllm.core.errors import MissingExtra, ModelFileError, UnknownName, UserError

STANDINS = """
import time

import numpy as np

from personalllm.core.types import ChatReply


class Chat:
    name, identity, context_length = "chat", "chat@1", 1000
    delay = 0

    def chat(self, requests):
        time.sleep(self.delay)
        return [ChatReply(f"{r.messages[-1].content} {r.seed}", "stop", 3, 5) for r in requests]

    def count_tokens(self, messages):
        return 1


class Lengths:
    reward_models, identity = ("long", "short"), "lengths@1"

    def score(self, prompts, responses):
        time.sleep(1.1 / 40 * len(responses))
        n = np.array([len(r) for r in responses], np.float32)
        return np.stack([n, -n], axis=1)
"""
RECIPE = """
name = "tiny"
seed = 3
reward_ensemble = "standins_of_readiness:Lengths"
reference_response_model = "b"
[prompts]
files = ["p.jsonl"]
train = 12
test = 8
spare = 4
[[response_model]]
name = "a"
chat_model = "standins_of_readiness:Chat"
max_tokens = 20
[[response_model]]
name = "b"
chat_model = "standins_of_readiness:Chat"
system = "Be kind."
max_tokens = 20
"""
FIRST = '[[response_model]]\nname = "a"\nchat_model = "standins_of_readiness:Chat"\n'


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    (tmp_path / "standins_of_readiness.py").write_text(STANDINS)
    write(tmp_path, 'chat_model = "', 'chat_model = "')
    rows = [{"prompt": f"Prompt number {i}?", "subset": "xy"[i % 2]} for i in range(50)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "PERSONALLLM_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delitem(sys.modules, "standins_of_readiness", raising=False)
    yield tmp_path
    sys.modules.pop("standins_of_readiness", None)


def write(folder: Path, old: str, new: str) -> None:
    assert old in RECIPE
    (folder / "recipe.toml").write_text(RECIPE.replace(old, new))


def run(*arguments: str):
    return CliRunner().invoke(app, ["build", *arguments, "--out", "out"])


def said(*arguments: str) -> str:
    found = run(*arguments)
    assert found.exception is None, found.exception
    return " ".join(found.output.split())


@pytest.mark.parametrize("options", [("--dry-run",), ()])
@pytest.mark.parametrize(
    ("old", "new", "more", "message"),
    [
        (
            FIRST,
            FIRST.replace("standins_of_readiness:Chat", "smollm-135m"),
            (),
            r"Response model a: There is no chat model named 'smollm-135m'. Did you mean 'smollm2-135m-instruct'",
        ),
        (FIRST, FIRST.replace("standins_of_readiness:Chat", "minilm-l6-int8"), (), "is an embedder, not a chat model"),
        (FIRST, FIRST.replace("standins_of_readiness:Chat", "openai:m"), (), "address of 'openai:m' is unknown"),
        ("standins_of_readiness:Lengths", "gemma_2b=/nope", (), "There is no folder /nope"),
        ("seed = 3", "seed = 3", ("--executor", "proceses:2"), "no executor named 'proceses:2'. Did you"),
    ],
)  # fmt: skip
def test_a_recipe_that_can_run_nowhere_is_refused_before_the_first_step(folder, options, old, new, more, message):
    write(folder, old, new)
    found = run("all", "recipe.toml", *options, *more)
    assert isinstance(found.exception, UserError), found.output
    with pytest.raises(UserError, match=message):
        raise found.exception
    assert not (folder / "out").exists()


SERVER = FIRST.replace("standins_of_readiness:Chat", "openai:m") + 'base_url = "https://example.org/v1"\n'


@pytest.mark.parametrize(
    ("old", "new", "step", "message"),
    [
        (FIRST, SERVER, "respond", r"no key for https://example.org/v1.*OPENAI_API_KEY"),
        ("standins_of_readiness:Lengths", "gemma_2b", "score", r"'weqweasdas/RM-Gemma-2B' are not all on this machine"),
    ],
)
def test_what_is_missing_here_is_a_warning_in_a_dry_run_and_an_error_before_the_first_step(
    folder, old, new, step, message
):
    pytest.importorskip("torch")
    write(folder, old, new)
    text = said("all", "recipe.toml", "--dry-run")
    assert f"Warning: `{step}` cannot run here yet." in text
    other = {"respond": "score", "score": "respond"}[step]
    assert "Warning" not in said(other, "recipe.toml", "--dry-run")
    found = run("all", "recipe.toml")
    with pytest.raises(UserError, match=message):
        raise found.exception
    assert not (folder / "out").exists()
    assert said("prompts", "recipe.toml"), "the steps that need nothing of it run"


def test_a_missing_torch_is_told_before_missing_weights(folder, monkeypatch):
    from personalllm.backends.reward import transformer

    real = importlib.util.find_spec
    monkeypatch.setattr(transformer, "find_spec", lambda name: None if name == "torch" else real(name))
    write(folder, "standins_of_readiness:Lengths", "published")
    assert "The package 'torch' is not installed." in said("score", "recipe.toml", "--dry-run")
    assert isinstance(run("all", "recipe.toml").exception, MissingExtra)


def test_missing_chat_weights_are_told(folder, monkeypatch, tmp_path_factory):
    monkeypatch.setenv("PERSONALLLM_CACHE", str(tmp_path_factory.mktemp("empty")))
    write(folder, FIRST, FIRST.replace("standins_of_readiness:Chat", "smollm2-135m-instruct"))
    assert "personalllm models pull smollm2-135m-instruct" in said("respond", "recipe.toml", "--dry-run")
    assert isinstance(run("all", "recipe.toml").exception, ModelFileError)


def test_a_finished_build_needs_no_key(folder, monkeypatch):
    said("all", "recipe.toml")
    asked = []
    monkeypatch.setattr(recipes, "_of_chat_models", lambda recipe: asked.append(recipe) or [])
    said("all", "recipe.toml")
    assert asked == []
    (next((folder / "out" / "responses").glob("a-*.jsonl"))).unlink()
    said("all", "recipe.toml")
    assert asked


def test_the_dry_run_counts_what_is_scored_as_done(folder):
    said("all", "recipe.toml")
    text = said("all", "recipe.toml", "--dry-run")
    assert "Scores: 40 responses, 40 of them are done. Nothing is left to score." in text
    for path in (folder / "out" / "scores").glob("*/*.npy"):
        path.unlink()
    assert "Scores: 40 responses. About" in said("score", "recipe.toml", "--dry-run")


def test_the_rate_of_scoring_belongs_to_ensemble_and_executor(folder):
    said("prompts", "recipe.toml")
    said("respond", "recipe.toml")
    (folder / "out" / "scores").mkdir()
    note_rate(folder / "out", "score with lengths@1 by serial", 100, 50.0)
    note_rate(folder / "out", "score with other@1 by serial", 100, 2.0)
    note_rate(folder / "out", "score with lengths@1 by processes:2", 100, 10.0)
    assert "About 20 s at 2 responses a second." in said("score", "recipe.toml", "--dry-run")
    assert "at 10 responses a second" in said("score", "recipe.toml", "--dry-run", "--executor", "processes:2")
    said("score", "recipe.toml")
    noted = json.loads((folder / "out" / "rates.json").read_text())
    assert noted["score with lengths@1 by serial"]["done"] == 140


@pytest.mark.models
def test_vectors_from_the_cache_are_not_measured(folder, embedder, monkeypatch, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    (cache / "models").symlink_to(model_folder("minilm-l6-int8").parent)
    monkeypatch.setenv("PERSONALLLM_CACHE", str(cache))
    write(folder, "standins_of_readiness:Lengths", "compact-v1")
    said("all", "recipe.toml")
    path = folder / "out" / "rates.json"
    (step,) = (name for name in json.loads(path.read_text()) if name.startswith("score "))
    before = json.loads(path.read_text())[step]
    assert before["done"] == 40
    shutil.rmtree(folder / "out" / "scores")
    said("score", "recipe.toml")
    assert json.loads(path.read_text())[step] == before
    assert measured_rates(folder / "out", "score with something else").scores_per_second is None


def test_the_share_of_cut_responses_is_told(folder):
    text = STANDINS.replace('"stop", 3, 5', '"length" if int(r.seed) % 2 else "stop", 3, 5')
    (folder / "standins_of_readiness.py").write_text(text)
    said("prompts", "recipe.toml")
    shown = said("respond", "recipe.toml")
    path = next((folder / "out" / "responses").glob("a-*.jsonl"))
    cut = sum(json.loads(line)["finish_reason"] == "length" for line in path.read_text().splitlines())
    assert 0 < cut < 24
    assert f"a: 24 usable ({cut} of them, {cut / 24:.0%}, cut at max_tokens)" in shown


def test_lengths_that_are_measured_for_some_models_only_are_told(folder):
    said("prompts", "recipe.toml")
    said("respond", "recipe.toml")
    next((folder / "out" / "responses").glob("b-*.jsonl")).unlink()
    text = said("respond", "recipe.toml", "--dry-run")
    assert (
        "Lengths are those of 24 responses in the folder (a 24). Responses of b count with their maximum of tokens."
        in text
    )


def test_ctrl_c_in_a_pipe_is_one_line_that_says_what_is_kept(folder):
    slow = STANDINS.replace("delay = 0", "delay = 0.5")
    (folder / "standins_of_readiness.py").write_text(slow)
    said("prompts", "recipe.toml")
    heeds = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = f"{heeds}; from personalllm.cli import main; main()"
    child = subprocess.Popen(
        [sys.executable, "-c", command, "build", "respond", "recipe.toml", "--out", "out"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(folder)},
    )
    deadline = time.monotonic() + 60
    while not any(p.stat().st_size for p in (folder / "out" / "responses").glob("*.jsonl")):
        assert time.monotonic() < deadline
        assert child.poll() is None
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    output, errors = child.communicate(timeout=60)
    assert child.returncode == 130, errors
    assert errors == ""
    assert output.splitlines()[-1].startswith(
        "Stopped. Kept in out: 24 prompts, 24 responses. The same command continues"
    )


def test_an_unknown_reward_ensemble_is_told_by_name(folder):
    write(folder, "standins_of_readiness:Lengths", "compact-v9")
    assert isinstance(run("prompts", "recipe.toml").exception, UnknownName)
