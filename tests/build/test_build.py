"""The build pipeline with contract-test stand-ins; the real pipeline made the embedded benchmark."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from personalllm.build import (
    Recipe,
    data_card,
    fault,
    gather_prompts,
    pack,
    read_prompts,
    read_responses,
    respond,
    score,
)
from personalllm.core.errors import RunError, UserError
from personalllm.core.types import ChatReply
from personalllm.data import load

RECIPE = """
name = "tiny"
seed = 3
reward_ensemble = "none"
reference_response_model = "b"
attempts = 2
[prompts]
files = ["*.jsonl"]
train = 6
test = 3
spare = 1
[[response_model]]
name = "a"
chat_model = "chat"
[[response_model]]
name = "b"
chat_model = "chat"
system = "Be kind."
max_tokens = 7
"""


class Chat:
    """Answers from the request alone; refuses (empty text) what `deaf` says."""

    name, identity, context_length = "chat", "chat@1", 1000

    def __init__(self, deaf=lambda request: False, delay=0.0):
        self.deaf, self.delay, self.asked = deaf, delay, 0

    def chat(self, requests):
        self.asked += len(requests)
        time.sleep(self.delay)
        return [
            ChatReply("" if self.deaf(r) else f"{r.messages[-1].content} {r.seed}", "stop", 3, r.max_tokens)
            for r in requests
        ]

    def count_tokens(self, messages):
        return 1


class Lengths:
    """Two reward models: characters, and minus characters."""

    reward_models, identity = ("long", "short"), "lengths@1"

    def __init__(self):
        self.calls = 0

    def score(self, prompts, responses):
        self.calls += 1
        lengths = np.array([len(r) for r in responses], np.float32)
        return np.stack([lengths, -lengths], axis=1)


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    rows = [{"prompt": f"Prompt number {i}?", "subset": "xy"[i % 2]} for i in range(12)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return tmp_path


def build(folder: Path, chat: Chat, ensemble: Lengths):
    recipe, out = Recipe.read(folder / "recipe.toml"), folder / "out"
    gather_prompts(recipe, folder, out)
    chats = {"chat": chat}
    given_up = respond(recipe, read_prompts(out), chats, out, block=4).given_up
    return pack(recipe, read_prompts(out), read_responses(recipe, chats, out), chats, ensemble, out), given_up


def test_from_prompts_to_a_loadable_benchmark(folder):
    made, given_up = build(folder, Chat(), Lengths())
    read = load(folder / "out" / "tiny.parquet")
    assert read.fingerprint == made.fingerprint
    assert (read.n_prompts, read.n_responses, given_up) == (9, 2, 0)
    assert {k: len(v) for k, v in read.splits.items()} == {"train": 6, "test": 3}
    assert read.reward_models == ("long", "short")
    np.testing.assert_array_equal(read.scores[..., 0], [[len(read.response(p, r)) for r in range(2)] for p in range(9)])
    assert read.metadata["reference_response_model"] == "b"
    models = [(m["name"], m["mean_tokens"]) for m in read.metadata["provenance"]["response_models"]]
    assert models == [("a", 512.0), ("b", 7.0)]
    card = data_card(read, {"something": "12 %"})
    assert "9 prompts (3 test, 6 train), 2 responses each, 2 reward models" in card
    assert "| something | 12 % |" in card


def test_the_draw_is_balanced_and_seeded(folder):
    recipe = Recipe.read(folder / "recipe.toml")
    first = gather_prompts(recipe, folder, folder / "one")
    assert first == gather_prompts(recipe, folder, folder / "two") == read_prompts(folder / "one")
    assert first != gather_prompts(recipe.model_copy(update={"seed": 4}), folder, folder / "three")
    for end in range(1, len(first) + 1):
        counts = [sum(p.subset == s for p in first[:end]) for s in "xy"]
        assert abs(counts[0] - counts[1]) <= 2


def test_finished_work_is_not_done_again(folder):
    build(folder, Chat(), Lengths())
    chat, ensemble = Chat(), Lengths()
    build(folder, chat, ensemble)
    assert (chat.asked, ensemble.calls) == (0, 0)


def test_a_changed_knob_starts_another_journal(folder):
    build(folder, Chat(), Lengths())
    (folder / "recipe.toml").write_text(RECIPE.replace("max_tokens = 7", "max_tokens = 8"))
    chat = Chat()
    build(folder, chat, Lengths())
    assert chat.asked == 10


def test_a_line_cut_by_a_kill_is_drawn_again(folder):
    whole, _ = build(folder, Chat(), Lengths())
    journal = next((folder / "out" / "responses").glob("a-*.jsonl"))
    journal.write_bytes(journal.read_bytes()[:-15])
    chat = Chat()
    again, _ = build(folder, chat, Lengths())
    assert (chat.asked, again.fingerprint) == (1, whole.fingerprint)


def test_a_sharper_filter_redraws_only_what_it_refuses(folder, monkeypatch):
    build(folder, Chat(), Lengths())
    recipe = Recipe.read(folder / "recipe.toml")
    first = read_prompts(folder / "out")[0]
    before = read_responses(recipe, {"chat": Chat()}, folder / "out")["a"][first.prompt_id]
    monkeypatch.setattr("personalllm.build.responding.fault", lambda text: "bad" if text == before.text else "")
    chat = Chat()
    build(folder, chat, Lengths())
    after = read_responses(recipe, {"chat": chat}, folder / "out")["a"][first.prompt_id]
    assert (chat.asked, after.attempt) == (1, 1)
    assert after.text != before.text


def test_refused_responses_are_drawn_again_then_given_up(folder):
    bad = "Prompt number 5?"
    chat = Chat(deaf=lambda r: r.messages[-1].content == bad)
    made, given_up = build(folder, chat, Lengths())
    drawn = {p.prompt for p in read_prompts(folder / "out")}
    assert given_up == 2 * (bad in drawn)
    assert bad not in made.prompts.to_pylist()
    assert chat.asked == 20 + 2 * (bad in drawn)
    chat.asked = 0
    build(folder, chat, Lengths())
    assert chat.asked == 0


def test_too_few_complete_prompts_is_an_error(folder):
    with pytest.raises(UserError, match=r"0 prompts have a usable response.*9 are needed"):
        build(folder, Chat(deaf=lambda r: True), Lengths())


def test_score_that_is_not_finite_names_the_reward_model(folder):
    class Broken(Lengths):
        def score(self, prompts, responses):
            return super().score(prompts, responses) * np.array([1, np.nan], np.float32)

    with pytest.raises(RunError, match=r"short scored response 1 of prompt [0-9a-f]{12} as nan"):
        build(folder, Chat(), Broken())


def test_scores_do_not_depend_on_the_block(folder, tmp_path):
    recipe = Recipe.read(folder / "recipe.toml")
    prompts = gather_prompts(recipe, folder, folder / "out")
    texts = [[p.prompt, p.prompt * 2] for p in prompts]
    one = score(prompts, texts, Lengths(), tmp_path / "one", block=1)
    np.testing.assert_array_equal(one, score(prompts, texts, Lengths(), tmp_path / "all", block=64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("seed = 3", "seed = -3"), "'seed' must be 0 or more, got -3"),
        (('name = "b"', 'name = "a"'), "names must be distinct"),
        (('model = "b"', 'model = "c"'), "reference_response_model: no response model named 'c'"),
        (
            ("max_tokens = 7", "max_token = 7"),
            r"response model 2 \('b'\): there is no key 'max_token'. Did you mean 'max_tokens'",
        ),
        (("train = 6", "train = 60"), "The sources hold 12 usable prompts, the recipe asks for 64"),
        (('"*.jsonl"', '"*.json"'), "No file matches"),
        (("seed = 3", "seed ="), "is not TOML"),
    ],
)
def test_bad_recipes(folder, change, message):
    (folder / "recipe.toml").write_text(RECIPE.replace(*change, 1))
    with pytest.raises(UserError, match=message):
        gather_prompts(Recipe.read(folder / "recipe.toml"), folder, folder / "out")


@pytest.mark.parametrize("line", ["{", '{"subset": "x"}', "[1]", '{"prompt": 3, "subset": "x"}'])
def test_a_bad_prompt_line_is_named(folder, line):
    (folder / "q.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match=r"q\.jsonl, (line|item) 1"):
        gather_prompts(Recipe.read(folder / "recipe.toml"), folder, folder / "out")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "empty"),
        (" \n\t", "empty"),
        ("word " * 30, "repetitive"),
        ("A line of words.\nB.\n" * 4, "repetitive"),
        ("He was a very " + "benevolent " * 5, "repetitive"),
        ("He was a " + "very " * 4, ""),
        ("ha ha ha ha", ""),
        ("One two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen.", ""),
    ],
)
def test_fault(text, expected):
    assert fault(text) == expected


KILLED = """
import sys; sys.path.insert(0, {here!r})
from test_build import Chat, Lengths, build
from pathlib import Path
build(Path({folder!r}), Chat(delay=0.05), Lengths())
"""


def test_sigkill_then_resume_equals_an_undisturbed_build(folder, tmp_path_factory):
    calm = tmp_path_factory.mktemp("calm")
    for name in ("recipe.toml", "p.jsonl"):
        (calm / name).write_bytes((folder / name).read_bytes())
    expected, _ = build(calm, Chat(), Lengths())
    code = KILLED.format(here=str(Path(__file__).parent), folder=str(folder))
    child = subprocess.Popen([sys.executable, "-c", code])
    journal = folder / "out" / "responses"
    deadline = time.monotonic() + 60
    while not (journal.is_dir() and any(p.stat().st_size for p in journal.iterdir())):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not (folder / "out" / "tiny.parquet").exists()
    resumed, _ = build(folder, Chat(), Lengths())
    assert resumed.fingerprint == expected.fingerprint
