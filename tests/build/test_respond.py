"""The step `respond` with stand-ins for chat models: journals, turns, failures, the lock, executors."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import threading
from collections import Counter

import pytest

from personalllm.backends.executor import ProcessExecutor, SerialExecutor
from personalllm.backends.llm import CachedChatModel
from personalllm.build._lock import exclusive
from personalllm.build.ledger import Usage, read_ledger
from personalllm.build.prompts import Prompt
from personalllm.build.recipe import Recipe
from personalllm.build.responding import journal_path, read_responses, respond
from personalllm.core.errors import RunError, UserError
from personalllm.core.types import ChatReply
from personalllm.testing import EchoChatModel

FROZEN = "m0-6e98293e78d8ac7b.jsonl"


class Chat:
    """Answers from the request alone; fails on the prompts in `bad`, a whole batch at a time."""

    name, context_length = "chat", 1000

    def __init__(self, bad=(), error=RunError, identity="chat@1"):
        self.bad, self.error, self.identity, self.asked = set(bad), error, identity, []

    def chat(self, requests):
        for request in requests:
            if request.messages[-1].content in self.bad:
                raise self.error(f"cannot say {request.messages[-1].content}")
        self.asked += [request.messages[-1].content for request in requests]
        return [ChatReply(f"{r.messages[-1].content} {r.seed}", "stop", 3, 5, 1) for r in requests]

    def count_tokens(self, messages):
        return 3


class Remote(Chat):
    """Hands over one by one, from whatever thread asks."""

    remote = True

    def __init__(self, before=None, **fields):
        super().__init__(**fields)
        self.before, self.threads = before, set()

    def chat_some(self, requests, done, failed):
        self.threads.add(threading.current_thread().name)
        for i, request in enumerate(requests):
            if self.before:
                self.before()
            try:
                reply = self.chat([request])[0]
            except (RunError, UserError) as error:
                if not failed(i, "server error", error):
                    return
            else:
                done(i, reply, "model")


def recipe(*chat_models: str, **fields) -> Recipe:
    models = [{"name": f"m{i}", "chat_model": name} for i, name in enumerate(chat_models)]
    return Recipe.model_validate(
        {
            "name": "r",
            "seed": 1,
            "reward_ensemble": "none",
            "reference_response_model": "m0",
            "attempts": 2,
            "prompts": {"files": ["x"], "train": 1, "test": 1},
            "response_model": models,
            **fields,
        }
    )


def prompts(n: int) -> list[Prompt]:
    return [Prompt(f"{i:012x}", f"p{i}", "s") for i in range(n)]


def rows(out):
    return Counter(
        (path.name, line) for path in (out / "responses").glob("*.jsonl") for line in path.read_bytes().splitlines()
    )


def test_the_digests_of_old_recipes_have_not_changed(tmp_path):
    """Frozen: a journal of the shipped recipe must be found again by later versions."""
    made = recipe("chat", "chat")
    assert journal_path(made, made.response_model[0], Chat(), tmp_path).name == FROZEN
    faster = made.response_model[0].model_copy(update={"concurrency": 3, "requests_per_minute": 10.0, "timeout": 1.0})
    assert journal_path(made, faster, Chat(), tmp_path).name == FROZEN
    hotter = made.response_model[0].model_copy(update={"temperature": 0.5})
    assert journal_path(made, hotter, Chat(), tmp_path).name != FROZEN


def test_lines_of_older_versions_are_read(tmp_path):
    made = recipe("chat", "chat")
    path = journal_path(made, made.response_model[0], Chat(), tmp_path)
    path.parent.mkdir()
    old = {"prompt_id": prompts(1)[0].prompt_id, "text": "Old.", "finish_reason": "length", "tokens": 7, "attempt": 0}
    path.write_text(json.dumps(old) + "\n")
    chat = Chat()
    report = respond(made, prompts(1), {"chat": chat}, tmp_path)
    assert read_responses(made, {"chat": chat}, tmp_path)["m0"][old["prompt_id"]].text == "Old."
    assert chat.asked == ["p0"]
    assert report.ledger.models["m0"] == Usage(1, 0, 0, 0, 7)
    assert report.spent == Usage(1, 0, 3, 1, 5)


def test_local_models_take_turns_block_by_block(tmp_path):
    order = []

    class Noted(Chat):
        def chat(self, requests):
            order.append((self.identity, len(requests)))
            return super().chat(requests)

    chats = {"a": Noted(identity="a"), "b": Noted(identity="b")}
    respond(recipe("a", "b"), prompts(5), chats, tmp_path, block=2)
    assert order == [("a", 2), ("b", 2), ("a", 2), ("b", 2), ("a", 1), ("b", 1)]


def test_models_behind_servers_work_side_by_side(tmp_path):
    meeting = threading.Barrier(3, timeout=60)
    chats = {
        "a": Remote(meeting.wait, identity="a"),
        "b": Remote(meeting.wait, identity="b"),
        "c": Remote(meeting.wait, identity="c"),
    }
    seen = []
    report = respond(recipe("a", "b", "c"), prompts(4), chats, tmp_path, progress=lambda *n: seen.append(n))
    assert (report.usable, seen) == (12, [(i, 12) for i in range(13)])
    assert len(set().union(*(chat.threads for chat in chats.values()))) == 3
    shared = {"a": Remote(), "b": Remote(identity="b")}
    respond(recipe("a", "a", "b"), prompts(4), shared, tmp_path / "shared")
    assert len(shared["a"].threads) == 1, "response models that share a server do not double its concurrency"


def test_a_failed_prompt_costs_only_itself(tmp_path):
    made, chat = recipe("chat", "chat"), Chat(bad=["p3"])
    report = respond(made, prompts(6), {"chat": chat}, tmp_path, block=4)
    assert (report.usable, report.failed) == (10, 2)
    assert report.models[0].failures == {"failed request": 1}
    assert "cannot say p3" in str(report.error())
    assert "cannot say" not in "".join(line.decode() for _, line in rows(tmp_path))
    chat.bad, chat.asked = set(), []
    again = respond(made, prompts(6), {"chat": chat}, tmp_path)
    assert (again.failed, again.error(), chat.asked) == (0, None, ["p3", "p3"])
    assert (again.spent.replies, again.ledger.total.replies) == (2, 12)


def test_failures_between_replies_set_no_model_aside(tmp_path):
    asked = prompts(80)
    chat = Remote(bad=[p.prompt for p in asked[::2]])
    report = respond(recipe("chat", "chat"), asked, {"chat": chat}, tmp_path)
    assert [(m.usable, m.failures, m.not_asked, m.aside) for m in report.models] == [
        (40, {"server error": 40}, 0, "")
    ] * 2
    chat.bad = {p.prompt for p in asked}
    model = respond(recipe("chat", "chat"), asked, {"chat": chat}, tmp_path).models[0]
    assert (model.usable, model.failures, model.not_asked) == (40, {"server error": 25}, 15)
    assert model.aside == "set aside after 25 failures in a row"


@pytest.mark.parametrize("kind", [Chat, Remote])
def test_a_user_error_ends_the_run(tmp_path, kind):
    chats = {"a": kind(), "b": kind(bad=["p0"], error=UserError, identity="b")}
    with pytest.raises(UserError, match="cannot say p0"):
        respond(recipe("a", "b"), prompts(3), chats, tmp_path)
    assert json.loads((tmp_path / "ledger.json").read_text())["models"]["m1"]["replies"] == 0
    chats["b"].bad = set()
    assert respond(recipe("a", "b"), prompts(3), chats, tmp_path).usable == 6


def test_after_an_error_no_other_model_writes(tmp_path):
    go, failed = threading.Event(), threading.Event()

    def wait():
        failed.set()
        assert go.wait(60)

    slow, wrong = Remote(wait, identity="slow"), Remote(lambda: failed.wait(60), bad=["p0"], error=UserError)

    def release():
        failed.wait(60)
        threading.Timer(0.5, go.set).start()

    releasing = threading.Thread(target=release)
    releasing.start()
    with pytest.raises(UserError):
        respond(recipe("slow", "wrong"), prompts(3), {"slow": slow, "wrong": wrong}, tmp_path)
    releasing.join()
    assert not rows(tmp_path)
    assert slow.asked == ["p0"], "its first reply came too late and ended it"


def test_reading_leaves_a_line_that_is_being_written_alone(tmp_path):
    made, chats = recipe("chat", "chat"), {"chat": Chat()}
    respond(made, prompts(3), chats, tmp_path)
    journal = min((tmp_path / "responses").glob("m0-*.jsonl"))
    cut = journal.read_bytes()[:-9]
    journal.write_bytes(cut)
    assert len(read_responses(made, chats, tmp_path)["m0"]) == 2
    assert read_ledger(made, tmp_path).models["m0"].replies == 2
    assert journal.read_bytes() == cut
    respond(made, prompts(3), chats, tmp_path)
    assert len(journal.read_bytes().splitlines()) == 3
    assert len(read_responses(made, chats, tmp_path)["m0"]) == 3


@pytest.mark.parametrize("line", ["{", "[]", "3", '{"text": "x"}', '{"prompt_id": "a", "text": "x", "more": 1}'])
def test_a_damaged_journal_is_named(tmp_path, line):
    made, chats = recipe("chat", "chat"), {"chat": Chat()}
    path = journal_path(made, made.response_model[0], chats["chat"], tmp_path)
    path.parent.mkdir()
    path.write_text(line + "\n")
    with pytest.raises(RunError, match=rf"{path.name} holds a line that is not a response"):
        respond(made, prompts(1), chats, tmp_path)


def test_text_that_is_no_unicode_does_not_stop_a_run(tmp_path):
    class Odd(Chat):
        def chat(self, requests):
            return [ChatReply("half \ud83d, line\u2028line", "stop", 1, 1) for _ in requests]

    made, chats = recipe("chat", "chat"), {"chat": Odd()}
    respond(made, prompts(1), chats, tmp_path)
    assert read_responses(made, chats, tmp_path)["m0"][prompts(1)[0].prompt_id].text == "half ?, line\u2028line"


HOLD = """
import sys, time
from pathlib import Path
from personalllm.build._lock import exclusive
with exclusive(Path({folder!r})):
    print("held", flush=True)
    time.sleep(600)
"""


def test_two_runs_on_one_folder_are_refused_and_a_kill_lets_go(tmp_path):
    made, chats = recipe("chat", "chat"), {"chat": Chat()}
    code = HOLD.format(folder=str(tmp_path / "responses"))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout.readline() == "held\n"
            with pytest.raises(UserError, match=r"Another run is writing to .*responses.*another --out"):
                respond(made, prompts(1), chats, tmp_path)
            assert chats["chat"].asked == []
        finally:
            child.kill()
    assert respond(made, prompts(1), chats, tmp_path).usable == 2
    with exclusive(tmp_path / "responses"), pytest.raises(UserError, match="Another run"):
        respond(made, prompts(1), chats, tmp_path)
    with exclusive(tmp_path / "responses"):
        pass


class Pickled:
    """Runs units as a worker elsewhere would: from copies."""

    def map(self, function, units):
        function = pickle.loads(pickle.dumps(function))
        for unit in units:
            yield pickle.loads(pickle.dumps(function(pickle.loads(pickle.dumps(unit)))))


@pytest.mark.parametrize("executor", [SerialExecutor(), Pickled()])
def test_any_executor_draws_the_same_responses(tmp_path, executor):
    made = recipe("a", "b")
    chats = {"a": EchoWithGaps(), "b": EchoWithGaps(identity="b")}
    seen = []
    here = respond(made, prompts(11), chats, tmp_path / "here", block=4)
    there = respond(
        made,
        prompts(11),
        chats,
        tmp_path / "there",
        block=4,
        executor=executor,
        progress=lambda *n: seen.append(n),
    )
    assert rows(tmp_path / "here") == rows(tmp_path / "there")
    assert here == there
    assert (here.usable, here.given_up, here.failed) == (18, 2, 2)
    assert seen[-1] == (20, 22)
    again = respond(made, prompts(11), chats, tmp_path / "there", executor=executor)
    assert (again.spent.replies, again.failed) == (0, 2)


@pytest.mark.slow
def test_processes_draw_the_same_responses(tmp_path):
    made = recipe("a", "b", attempts=1)
    chats = {name: CachedChatModel(EchoChatModel(), tmp_path / "cache") for name in "ab"}
    there = respond(made, prompts(11), chats, tmp_path / "there", block=4, executor=ProcessExecutor(2))
    here = respond(made, prompts(11), {name: EchoChatModel() for name in "ab"}, tmp_path / "here")
    assert rows(tmp_path / "here") == rows(tmp_path / "there")
    assert here.ledger == there.ledger


class EchoWithGaps(Chat):
    """Says nothing to p7 and fails on p8, wherever it runs."""

    def __init__(self, identity="chat@1"):
        super().__init__(bad=["p8"], identity=identity)

    def chat(self, requests):
        found = super().chat(requests)
        return [ChatReply("", "stop", 3, 1) if r.text.startswith("p7 ") else r for r in found]


def test_a_full_disk_is_an_error_with_a_remedy(tmp_path, monkeypatch):
    import personalllm.build._work as room

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(room.os, "fsync", full)
    with pytest.raises((RunError, OSError), match="No space left"):
        respond(recipe("chat", "chat"), prompts(3), {"chat": Chat()}, tmp_path, block=1)
