"""SIGKILL at ten random moments of the steps `prompts` and `pack` and of `all`: resumed, every byte is the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the driver forks")

STANDINS = '''
import time

import numpy as np

from personalllm.core.types import ChatReply


class Chat:
    """Answers from the request alone, slowly; refuses a few requests once."""

    name, identity, context_length = "chat", "chat@1", 1000

    def chat(self, requests):
        time.sleep(0.002 * len(requests))
        return [
            ChatReply("" if r.seed % 7 == 0 else f"{r.messages[-1].content} {r.seed}", "stop", 3, 1 + r.seed % 9)
            for r in requests
        ]

    def count_tokens(self, messages):
        return 1


class Lengths:
    """Two reward models: characters, and minus characters."""

    reward_models, identity = ("long", "short"), "lengths@1"

    def score(self, prompts, responses):
        time.sleep(0.02)
        lengths = np.array([len(r) for r in responses], np.float32)
        return np.stack([lengths, -lengths], axis=1)
'''
RECIPE = """
name = "tiny"
seed = 3
reward_ensemble = "standins_of_kill:Lengths"
reference_response_model = "b"
attempts = 4
[prompts]
files = ["*.jsonl"]
train = 120
test = 40
spare = 20
[[response_model]]
name = "a"
chat_model = "standins_of_kill:Chat"
[[response_model]]
name = "b"
chat_model = "standins_of_kill:Chat"
system = "Be kind."
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    found = tmp_path_factory.mktemp("killed")
    (found / "standins_of_kill.py").write_text(STANDINS)
    (found / "recipe.toml").write_text(RECIPE)
    for i in range(4):
        rows = [{"prompt": f"Prompt number {j}?", "subset": "xyz"[j % 3]} for j in range(i, 800, 4)]
        (found / f"p{i}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return found


def python(folder: Path, *arguments: str) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "files"),
    [
        ("prompts", ["prompts.json", "prompts.jsonl"]),
        ("pack", ["tiny.md", "tiny.parquet"]),
        ("all", ["prompts.json", "prompts.jsonl", "tiny.md", "tiny.parquet"]),
    ],
)
def test_killed_at_ten_random_moments_and_resumed_the_output_is_the_same(folder, tmp_path, command, files):
    prepared = tmp_path / "prepared"
    prepared.mkdir()
    if command == "pack":
        for step in ("prompts", "respond"):
            python(folder, "-m", "personalllm", "build", step, "recipe.toml", "--out", str(prepared))
    driver = str(Path(__file__).with_name("killing.py"))
    found = json.loads(python(folder, driver, command, "recipe.toml", str(prepared), str(tmp_path), "10"))
    assert set(files) <= set(found["files"])
    assert found["unequal"] == []
    assert found["killed"] >= 6
    assert found["partial"] >= 4
