"""Rate limits, patience, accounting and partial failure of the HTTP chat model."""

from __future__ import annotations

import asyncio
import json
import pickle
import random
import time
from email.utils import formatdate

import pytest

from personalllm.backends.endpoint import Endpoint
from personalllm.backends.llm import CachedChatModel, OpenAIChatModel, RateLimiter, ServerOptions
from personalllm.core.errors import ParameterError, RunError, UserError
from personalllm.core.types import ChatReply, ChatRequest, Message

SECRET = "sk-verysecret123"


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def ask(text: str, **knobs: object) -> ChatRequest:
    return ChatRequest((Message("user", text),), **{"max_tokens": 16, **knobs})


def model(server, **fields) -> OpenAIChatModel:
    names = ("timeout", "retries", "requests_per_minute", "tokens_per_minute", "api_key_env")
    options = ServerOptions(**{k: fields.pop(k) for k in names if k in fields})
    return OpenAIChatModel(fields.pop("model", "m"), base_url=server.base_url, options=options, **fields)


def outcomes(chat, requests, go_on=lambda kind: True):
    done, failed = {}, {}

    def keep(i, reply, source):
        assert i not in done
        done[i] = (reply, source)

    def note(i, kind, error):
        assert i not in failed
        failed[i] = (kind, error)
        return go_on(kind)

    chat.chat_some(requests, keep, note)
    return done, failed


def begin(line: RateLimiter, clock: Clock, tokens: float = 0) -> float:
    """Wait by the clock until a request may begin; return when that was."""
    since = clock.now
    while left := line.take(tokens, since):
        assert left > 0
        clock.now += left
    return clock.now


@pytest.mark.parametrize("seed", range(5))
def test_no_minute_holds_more_than_the_limits(seed):
    clock, dice = Clock(), random.Random(seed)
    line = RateLimiter(30, 900, clock=clock)
    begun = []
    for _ in range(300):
        clock.now += dice.choice([0.0, 0.0, 0.0, 0.5, 20.0])
        tokens = dice.randrange(1, 90)
        begun.append((begin(line, clock, tokens), tokens))
    for first, (start, _) in enumerate(begun):
        inside = [used for moment, used in begun[first:] if moment < start + 60 - 1e-6]
        assert len(inside) <= 30
        assert sum(inside[:-1]) <= 900
    assert any(sum(1 for m, _ in begun[i:] if m < start + 60) >= 14 for i, (start, _) in enumerate(begun))


def test_a_pause_is_not_followed_by_a_burst_and_a_late_timer_costs_nothing():
    clock = Clock()
    line = RateLimiter(60, clock=clock)
    clock.now += 1000
    start = clock.now
    assert [begin(line, clock) - start for _ in range(4)] == [0, 1, 2, 3]
    clock.now += 1.04
    assert line.take(0, waiting_since=clock.now - 1) == 0
    assert line.take(0) == pytest.approx(0.96), "it counts from when it could have begun"
    clock.now += 500
    assert line.take(0, waiting_since=clock.now - 499) == 0
    assert line.take(0) == pytest.approx(0.95), "a machine that slept does not catch up"


def test_tokens_are_settled_and_a_hold_stops_everybody():
    clock = Clock()
    line = RateLimiter(tokens_per_minute=60, clock=clock)
    assert (line.take(30), line.take(1)) == (0, 30)
    line.settle(30, 10)
    assert line.take(1) == 10
    line.settle(1, 5)
    assert line.take(1) == 14
    line.hold(40)
    line.hold(20)
    assert line.take(1) == 40


def test_without_limits_nobody_waits():
    line = RateLimiter(clock=Clock())
    assert {line.take(10**9) for _ in range(5)} == {0}


@pytest.mark.parametrize("limits", [(0, None), (None, 0), (-1, None), (None, float("nan"))])
def test_limits_must_be_positive(limits):
    with pytest.raises(ParameterError, match=r"_per_minute must be > 0"):
        RateLimiter(*limits)


def test_first_come_first_served_and_what_is_settled_wakes_the_first():
    line, order = RateLimiter(tokens_per_minute=600), []

    async def one(name: str, tokens: int) -> None:
        await line.wait(tokens)
        order.append(name)

    async def main() -> None:
        await one("a", 6000)
        began = time.monotonic()
        others = [asyncio.create_task(one(name, 1)) for name in "bcd"]
        await asyncio.sleep(0.01)
        others[1].cancel()
        await asyncio.sleep(0.01)
        assert order == ["a"]
        line.settle(6000, 1)
        await asyncio.gather(others[0], others[2])
        assert 0.1 <= time.monotonic() - began < 60

    asyncio.run(main())
    assert order == ["a", "b", "d"]


def test_one_who_leaves_the_line_lets_the_next_go_on():
    line = RateLimiter(tokens_per_minute=60_000)

    async def main() -> tuple[bool, bool]:
        await line.wait(200)
        first = asyncio.create_task(line.wait(1))
        second = asyncio.create_task(line.wait(1))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait_for(second, 60)
        return first.cancelled(), second.done()

    assert [asyncio.run(main()) for _ in range(2)] == [(True, True)] * 2


def test_waiting_is_not_busy(monkeypatch):
    line, looks = RateLimiter(240), []
    take = RateLimiter._take
    monkeypatch.setattr(RateLimiter, "_take", lambda *args: looks.append(1) or take(*args))

    async def main() -> None:
        await asyncio.gather(*(line.wait(1) for _ in range(5)))

    asyncio.run(main())
    assert len(looks) <= 15


def test_one_line_for_whoever_asks_the_same_model(fault_server):
    one, two = (model(fault_server, requests_per_minute=600) for _ in range(2))
    other = model(fault_server, model="n", requests_per_minute=600)
    assert one._limiter is two._limiter is pickle.loads(pickle.dumps(one))._limiter
    assert other._limiter is not one._limiter
    began = time.monotonic()
    for i in range(3):
        one.chat([ask(f"a{i}")])
        two.chat([ask(f"b{i}")])
    assert time.monotonic() - began >= 5 * 0.1
    assert len(fault_server.bodies) == 6


def test_tokens_that_were_not_used_are_given_back(fault_server):
    chat, began = model(fault_server, tokens_per_minute=600, concurrency=3), time.monotonic()
    assert len(chat.chat([ask(t, max_tokens=400) for t in "abc"])) == 3
    assert 2 * 0.9 <= time.monotonic() - began < 60, "400 tokens each would take 40 seconds each"


def test_tries_that_fail_count_as_requests(fault_server, no_pauses):
    fault_server.faults = ["500", "500", "500"]
    began = time.monotonic()
    model(fault_server, requests_per_minute=300, retries=3).chat([ask("a")])
    assert time.monotonic() - began >= 3 * 0.2


def test_limits_are_not_part_of_the_identity(fault_server):
    fields = {"requests_per_minute": 60, "tokens_per_minute": 1000, "api_key_env": "MY_KEY"}
    limited = model(fault_server, **fields)
    assert limited.identity == model(fault_server).identity
    copy = pickle.loads(pickle.dumps(limited))
    assert copy.__reduce__() == limited.__reduce__()


def test_a_failure_does_not_stop_the_others(fault_server, no_pauses):
    fault_server.faults = ["400:too long", "500", "429", "hangup", "text:{oops", "402:pay"]
    done, failed = outcomes(model(fault_server, retries=0, concurrency=1), [ask(str(i)) for i in range(9)])
    assert {i: kind for i, (kind, _) in failed.items()} == {
        0: "refused request",
        1: "server error",
        2: "rate limit",
        3: "lost connection",
        4: "broken reply",
        5: "quota",
    }
    assert "too long" in failed[0][1].message
    assert {i: (r.text, source) for i, (r, source) in done.items()} == {i: (f"echo {i}", "model") for i in (6, 7, 8)}


def test_asking_ends_when_told(fault_server, no_pauses):
    fault_server.faults = ["500"] * 9
    _, failed = outcomes(model(fault_server, retries=0, concurrency=2), [ask("a")] * 9, lambda kind: False)
    assert 1 <= len(failed) <= 2
    assert len(fault_server.bodies) == len(failed)


def test_an_error_in_a_callback_ends_the_call_and_is_raised(fault_server):
    def done(i, reply, source):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        model(fault_server).chat_some([ask(str(i)) for i in range(20)], done, lambda *a: True)
    assert len(fault_server.bodies) <= 16


@pytest.mark.parametrize(
    ("fault", "tries"), [("429:600", 1), ('json429:{"code": "insufficient_quota"}', 1), ("501", 1), ("503", 3)]
)
def test_no_patience_where_it_would_not_help(fault_server, no_pauses, fault, tries):
    if fault.startswith("json429:"):
        error = {"error": {"message": "no credit", **json.loads(fault.removeprefix("json429:"))}}
        fault_server.extra["/v1/chat/completions"] = (429, error)
    fault_server.faults = [fault] * 3
    _, failed = outcomes(model(fault_server, retries=2), [ask("a")])
    assert len(fault_server.bodies) == tries
    assert failed[0][0] == {"429:600": "rate limit", "501": "server error", "503": "server error"}.get(fault, "quota")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after": "7", "retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "soon"}, 0.5),
        ({"retry-after": "-3"}, 0.5),
        ({}, 0.5),
        ({"retry-after": "121"}, None),
        ({"retry-after": "nan"}, 0.5),
    ],
)
def test_how_long_a_server_makes_us_wait(headers, seconds):
    import httpx2 as httpx
    import openai

    response = httpx.Response(429, headers=headers, request=httpx.Request("POST", "http://127.0.0.1/v1"))
    error = openai.RateLimitError("slow down", response=response, body=None)
    endpoint = Endpoint("http://127.0.0.1:1/v1", retries=2)
    assert endpoint.pause(error, 0) == seconds
    assert endpoint.pause(error, 2) is None


def test_a_date_to_come_back_at():
    import httpx2 as httpx
    import openai

    headers = {"retry-after": formatdate(time.time() + 30, usegmt=True)}
    response = httpx.Response(429, headers=headers, request=httpx.Request("POST", "http://127.0.0.1/v1"))
    pause = Endpoint("http://127.0.0.1:1/v1").pause(openai.RateLimitError("", response=response, body=None), 0)
    assert 25 < pause <= 30


def test_a_server_that_says_slow_down_holds_all_requests(fault_server):
    fault_server.faults = ["429:1"]
    chat = model(fault_server, concurrency=4)
    began = time.monotonic()
    done, failed = outcomes(chat, [ask(str(i)) for i in range(30)])
    assert (len(done), failed) == (30, {})
    assert time.monotonic() - began >= 1
    assert list(done).index(0) < 15, "the others have waited too"


def test_a_reply_that_trickles_for_ever_is_given_up(fault_server):
    fault_server.extra["/v1/chat/completions"] = (200, lambda body: time.sleep(1) or {})
    _, failed = outcomes(model(fault_server, timeout=0.2, retries=0), [ask("a")])
    assert failed[0][0] == "timeout"
    assert "did not answer within 0.2 s" in failed[0][1].message


@pytest.mark.parametrize("stream", [False, True])
def test_cached_tokens_and_refusals_are_told(fault_server, stream):
    if stream:
        assert model(fault_server, stream=True).chat([ask("a")])[0].refusal == ""
        return
    answer = {
        "choices": [{"index": 0, "finish_reason": "content_filter", "message": {"content": "half"}}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 8}},
    }
    fault_server.faults = ["json:" + json.dumps(answer)]
    assert model(fault_server).chat([ask("a")]) == [ChatReply("half", "stop", 9, 2, 8, "content_filter")]


@pytest.mark.parametrize(
    ("status", "error", "withheld"),
    [
        (400, {"code": "content_filter"}, True),
        (400, {"innererror": {"code": "ResponsibleAIPolicyViolation"}}, True),
        (403, {"metadata": {"flagged_input": "x"}}, True),
        (400, {"code": "context_length_exceeded"}, False),
        (500, {"code": "content_filter"}, False),
    ],
)
def test_a_content_filter_is_no_failure(fault_server, no_pauses, status, error, withheld):
    fault_server.extra["/v1/chat/completions"] = (status, {"error": {"message": "m", **error}})
    done, failed = outcomes(model(fault_server, retries=0), [ask("a")])
    assert bool(done) == withheld != bool(failed)
    if withheld:
        assert done[0][0] == ChatReply("", "stop", 0, 0, 0, "content_filter")


def test_the_key_has_the_name_that_was_given(fault_server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "wrong")
    monkeypatch.setenv("MY_KEY", SECRET)
    chat = model(fault_server, api_key_env="MY_KEY", retries=0)
    chat.chat([ask("a")])
    assert fault_server.seen[-1][1]["authorization"] == f"Bearer {SECRET}"
    fault_server.faults = [f"401:bad {SECRET}"]
    with pytest.raises(UserError, match=r"bad \[key\].*variable MY_KEY") as caught:
        chat.chat([ask("a")])
    assert SECRET not in str(caught.value) + repr(chat) + repr(pickle.dumps(chat))
    with pytest.raises(UserError, match="does not hold the name of a variable") as caught:
        model(fault_server, api_key_env=SECRET)
    assert SECRET not in str(caught.value)


def test_the_cache_hands_over_before_it_stores(fault_server, tmp_path, no_pauses):
    fault_server.faults = ["400:too long"]
    chat = CachedChatModel(model(fault_server, retries=0, concurrency=1), tmp_path)
    done, failed = outcomes(chat, [ask("a"), ask("b"), ask("a"), ask("b")])
    assert sorted(failed) == [0, 2]
    assert {i: source for i, (_, source) in done.items()} == {1: "model", 3: "cache"}
    done, failed = outcomes(chat, [ask("a"), ask("b")])
    assert ({i: source for i, (_, source) in done.items()}, failed) == ({0: "model", 1: "cache"}, {})

    def full(i, reply, source):
        raise RunError("disk full")

    with pytest.raises(RunError, match="disk full"):
        chat.chat_some([ask("c")], full, lambda *a: True)
    assert outcomes(chat, [ask("c")])[0][0][1] == "model", "what was not accounted for is not in the cache"


def test_a_plain_model_in_a_cache_goes_on_too(tmp_path):
    class Plain:
        name = identity = "plain"
        context_length = 10
        asked = 0

        def chat(self, requests):
            self.asked += len(requests)
            if any(r.messages[0].content == "bad" for r in requests):
                raise RunError("no")
            return [ChatReply(r.messages[0].content, "stop", 1, 1) for r in requests]

        def count_tokens(self, messages):
            return 1

    words = [*"abcdefgh", "bad", *"ij"]
    done, failed = outcomes(CachedChatModel(Plain(), tmp_path), [ask(w) for w in words])
    assert list(failed) == [8]
    assert {i: r.text for i, (r, _) in done.items()} == {i: w for i, w in enumerate(words) if w != "bad"}
    assert not CachedChatModel(Plain(), tmp_path).remote
