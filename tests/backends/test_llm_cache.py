"""The reply cache: what is asked, what is kept, what survives."""

from __future__ import annotations

import os
import pickle
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace

import pytest

from personalllm.backends.llm import CachedChatModel, OpenAIChatModel
from personalllm.core.errors import RunError, UserError
from personalllm.core.storage import cache_dir
from personalllm.core.types import ChatReply, ChatRequest, Message
from personalllm.testing import EchoChatModel, check_chat_model


class Counting:
    """Answers with the number of the call; keeps what it was asked."""

    name = "counting"
    context_length = 100

    def __init__(self, identity: str = "counting@1", fail_at: int = -1) -> None:
        self.identity = identity
        self.fail_at = fail_at
        self.asked: list[ChatRequest] = []
        self.batches: list[int] = []
        self.counted = 0

    def chat(self, requests):
        self.batches.append(len(requests))
        replies = []
        for request in requests:
            if len(self.asked) == self.fail_at:
                raise RunError("the server fell over")
            self.asked.append(request)
            replies.append(ChatReply(f"{len(self.asked)} {request.messages[-1].content}", "stop", 3, 4))
        return replies

    def count_tokens(self, messages):
        self.counted += 1
        return sum(len(m.content) for m in messages)


class OneByOne(Counting):
    def chat_some(self, requests, done, failed):
        for i, request in enumerate(requests):
            try:
                (reply,) = self.chat([request])
            except RunError as error:
                if not failed(i, "failed request", error):
                    return
            else:
                done(i, reply, "model")


def ask(text: str, **knobs: object) -> ChatRequest:
    return ChatRequest((Message("user", text),), **knobs)


def test_contract(tmp_path):
    check_chat_model(CachedChatModel(EchoChatModel(), tmp_path))


def test_only_what_is_missing_is_asked_and_equal_requests_once(tmp_path):
    inner = Counting()
    model = CachedChatModel(inner, tmp_path)
    first = model.chat([ask("a"), ask("b"), ask("a")])
    assert [r.text for r in first] == ["1 a", "2 b", "1 a"]
    second = model.chat([ask("c"), ask("b"), ask("a")])
    assert [r.text for r in second] == ["3 c", "2 b", "1 a"]
    assert [r.messages[0].content for r in inner.asked] == ["a", "b", "c"]
    again = Counting()
    assert CachedChatModel(again, tmp_path).chat([ask("a"), ask("c")]) == [first[0], second[0]]
    assert CachedChatModel(again, tmp_path).chat([]) == []
    assert not again.asked


def test_every_field_of_the_request_and_the_identity_are_in_the_key(tmp_path):
    base = ChatRequest((Message("system", "s"), Message("user", "a")), 8, 0.5, 0.9, 3, 1)
    others = [
        replace(base, messages=(Message("user", "a"),)),
        replace(base, messages=(Message("assistant", "s"), Message("user", "a"))),
        replace(base, max_tokens=9),
        replace(base, temperature=0.6),
        replace(base, top_p=0.8),
        replace(base, top_k=4),
        replace(base, seed=2),
    ]
    assert len(others) >= len(base.__dataclass_fields__)
    inner = Counting()
    CachedChatModel(inner, tmp_path).chat([base, *others])
    assert len(inner.asked) == 1 + len(others)
    moved = Counting("counting@2")
    CachedChatModel(moved, tmp_path).chat([base])
    assert len(moved.asked) == 1


def test_what_is_finished_is_kept_when_a_later_slice_fails(tmp_path):
    requests = [ask(str(i)) for i in range(20)]
    with pytest.raises(RunError, match="the server fell over"):
        CachedChatModel(Counting(fail_at=18), tmp_path).chat(requests)
    healed = Counting()
    assert len(CachedChatModel(healed, tmp_path).chat(requests)) == 20
    assert healed.batches == [4]


def test_a_model_that_hands_over_replies_one_by_one_loses_none(tmp_path):
    requests = [ask(str(i)) for i in range(20)]
    with pytest.raises(RunError):
        CachedChatModel(OneByOne(fail_at=18), tmp_path).chat(requests)
    healed = OneByOne()
    CachedChatModel(healed, tmp_path).chat(requests)
    assert [r.messages[0].content for r in healed.asked] == ["18", "19"]


def test_a_failing_http_request_keeps_the_finished_ones(fault_server, tmp_path):
    fault_server.faults = ["slow:0.1", "slow:0.1", "400:too long"]
    requests = [ask(str(i)) for i in range(8)]
    model = CachedChatModel(OpenAIChatModel("m", base_url=fault_server.base_url, concurrency=3), tmp_path)
    with pytest.raises(RunError, match=r"\(2 were answered\)"):
        model.chat(requests)
    before = len(fault_server.bodies)
    assert [r.text for r in model.chat(requests)] == [f"echo {i}" for i in range(8)]
    assert len(fault_server.bodies) - before == 6


def test_damaged_entries_are_asked_again(tmp_path):
    inner = Counting()
    model = CachedChatModel(inner, tmp_path)
    model.chat([ask("a"), ask("b"), ask("c")])
    with sqlite3.connect(model.path) as connection:
        connection.execute("UPDATE replies SET reply = x'00ff' WHERE rowid = 1")
        connection.execute("UPDATE replies SET crc = crc + 1 WHERE rowid = 2")
    connection.close()
    assert [r.text for r in model.chat([ask("a"), ask("b"), ask("c")])] == ["4 a", "5 b", "3 c"]
    assert [r.text for r in model.chat([ask("a"), ask("b"), ask("c")])] == ["4 a", "5 b", "3 c"]


def test_a_damaged_file_is_made_anew(tmp_path):
    model = CachedChatModel(Counting(), tmp_path)
    model.path.write_bytes(b"this is no database, whatever its name says" * 100)
    assert [r.text for r in model.chat([ask("a")])] == ["1 a"]
    assert [r.text for r in model.chat([ask("a")])] == ["1 a"]


def test_a_folder_that_cannot_be_used_says_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"reply cache .* cannot be used: .*PERSONALLLM_CACHE"):
        CachedChatModel(Counting(), tmp_path / "file").chat([ask("a")])


def test_the_default_folder_and_delegation():
    inner = Counting()
    model = CachedChatModel(inner)
    assert model.path.parent == cache_dir("replies")
    assert (model.name, model.identity, model.context_length) == ("counting", "counting@1", 100)
    assert [model.count_tokens((Message("user", t),)) for t in ("abc", "abc", "a\ud800")] == [3, 3, 2]
    assert inner.counted == 2
    assert model.count_tokens((Message("system", "abc"),)) == 3
    assert inner.counted == 3
    assert pickle.loads(pickle.dumps(model)).path == model.path


def test_texts_that_are_no_valid_unicode_are_kept(tmp_path):
    model = CachedChatModel(Counting(), tmp_path)
    assert model.chat([ask("a\ud800")]) == model.chat([ask("a\ud800")])
    assert model.chat([ask("a?")])[0].text == "2 a?"


_OTHER = """
import sys, time
from personalllm.backends.llm import CachedChatModel
from personalllm.core.types import ChatReply, ChatRequest, Message

class Other:
    name = identity = "counting@1"
    context_length = 100
    asked = 0
    def count_tokens(self, messages):
        return 1
    def chat(self, requests):
        raise NotImplementedError
    def chat_some(self, requests, done, failed):
        for i, request in enumerate(requests):
            if i == hang_at:
                print("hanging", flush=True)
                time.sleep(60)
            self.asked += 1
            done(i, ChatReply("kept " + request.messages[0].content, "stop", 1, 1), "model")

folder, start, stop, hang_at = sys.argv[1], *map(int, sys.argv[2:])
model = Other()
CachedChatModel(model, folder).chat([ChatRequest((Message("user", str(i)),)) for i in range(start, stop)])
print(model.asked)
"""


def other_process(folder, start: int, stop: int, hang_at: int = -1) -> subprocess.Popen:
    arguments = [sys.executable, "-c", _OTHER, str(folder), str(start), str(stop), str(hang_at)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def test_two_processes_share_the_file(tmp_path):
    with other_process(tmp_path, 0, 40) as one, other_process(tmp_path, 20, 60) as two:
        asked = [int(process.communicate(timeout=60)[0]) for process in (one, two)]
    assert [one.returncode, two.returncode] == [0, 0]
    assert 60 <= sum(asked) <= 80
    after = OneByOne()
    replies = CachedChatModel(after, tmp_path).chat([ask(str(i)) for i in range(60)])
    assert [r.text for r in replies] == [f"kept {i}" for i in range(60)]
    assert not after.asked


def test_replies_survive_sigkill(tmp_path):
    with other_process(tmp_path, 0, 9, hang_at=5) as process:
        assert process.stdout.readline() == "hanging\n"
        os.kill(process.pid, signal.SIGKILL)
    inner = OneByOne()
    replies = CachedChatModel(inner, tmp_path).chat([ask(str(i)) for i in range(9)])
    assert [r.text for r in replies[:5]] == [f"kept {i}" for i in range(5)]
    assert len(inner.asked) == 4
