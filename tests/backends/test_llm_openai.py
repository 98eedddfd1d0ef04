"""The HTTP chat model against a real server on loopback that misbehaves on demand."""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
import socket
import time

import pytest

from personalllm.backends.endpoint import Endpoint
from personalllm.backends.llm import OpenAIChatModel, ServerOptions
from personalllm.core.errors import OfflineError, ParameterError, RunError, UserError
from personalllm.core.types import ChatRequest, Message

SECRET = "sk-verysecret123"


def ask(text: str, **knobs: object) -> ChatRequest:
    return ChatRequest((Message("user", text),), **{"max_tokens": 16, **knobs})


def model(server, **fields) -> OpenAIChatModel:
    options = ServerOptions(**{k: fields.pop(k) for k in ("timeout", "retries", "extra", "tokenizer") if k in fields})
    return OpenAIChatModel(fields.pop("model", "m"), base_url=server.base_url, options=options, **fields)


@pytest.mark.parametrize("stream", [False, True])
def test_a_reply_and_what_was_sent(fault_server, stream):
    request = ChatRequest((Message("system", "s"), Message("user", "hi")), 5, 0.7, 0.9, 40, 11)
    (reply,) = model(fault_server, stream=stream, extra={"min_p": 0.1}).chat([request])
    assert (reply.text, reply.finish_reason, reply.prompt_tokens, reply.completion_tokens) == ("echo hi", "stop", 7, 2)
    (body,) = fault_server.bodies
    streaming = {"stream": True, "stream_options": {"include_usage": True}}
    assert body == {
        "model": "m",
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}],
        "max_tokens": 5,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 40,
        "seed": 11,
        "min_p": 0.1,
        **(streaming if stream else {}),
    }


def test_greedy_sends_temperature_zero_and_no_top_k(fault_server):
    model(fault_server).chat([ask("hi")])
    (body,) = fault_server.bodies
    assert body["temperature"] == 0.0
    assert "top_k" not in body
    assert "min_p" not in body


def test_order_is_kept_and_concurrency_bounded(fault_server):
    fault_server.faults = ["slow:0.3"]
    requests = [ask(str(i)) for i in range(12)]
    done = []
    limited = model(fault_server, concurrency=3)
    limited.chat_some(requests, lambda i, reply, source: done.append((i, reply)), lambda *failure: False)
    assert [reply.text for _, reply in sorted(done)] == [f"echo {i}" for i in range(12)]
    assert 2 <= fault_server.most_busy <= 3
    assert sorted(i for i, _ in done) == list(range(12))
    assert [r.text for r in limited.chat(requests)] == [f"echo {i}" for i in range(12)]
    order = [i for i, _ in done]
    assert max(order.index(i) for i in range(3)) > 4, "the slow one must be handed over late, the others before it"


def test_nothing_to_ask(fault_server):
    assert model(fault_server).chat([]) == []
    assert not fault_server.seen


def test_works_inside_a_running_loop(fault_server):
    async def notebook():
        return model(fault_server).chat([ask("hi")])

    assert asyncio.run(notebook())[0].text == "echo hi"


def test_retry_after_is_honoured(fault_server):
    fault_server.faults = ["429:1.2"]
    began = time.monotonic()
    assert model(fault_server, retries=1).chat([ask("hi")])[0].text == "echo hi"
    assert time.monotonic() - began >= 1.2
    assert len(fault_server.bodies) == 2


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "fault", ["500", "503", "hangup", "text:{oops", "text:<html>", 'json:{"choices": []}', 'json:{"hello": 1}']
)
def test_a_fault_that_passes_is_asked_again(fault_server, no_pauses, fault, stream):
    fault_server.faults = [fault]
    assert model(fault_server, retries=1, stream=stream).chat([ask("hi")])[0].text == "echo hi"
    assert len(fault_server.bodies) == 2


def test_a_stream_that_is_cut_off_is_asked_again_and_never_returned(fault_server, no_pauses):
    fault_server.faults = ["cut"]
    assert model(fault_server, retries=1, stream=True).chat([ask("hi")])[0].text == "echo hi"
    fault_server.faults = ["cut", "cut"]
    with pytest.raises(RunError, match=r"no usable reply, 2 times in a row: the stream ended before the reply did"):
        model(fault_server, retries=1, stream=True).chat([ask("hi")])


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("401:bad key", UserError, r"refused the key: bad key.*OPENAI_API_KEY"),
        ("403", UserError, r"refused the key"),
        ("404:no such model", UserError, r"no chat or embedding model 'm': 404 no such model.*ends in /v1"),
        ("307", UserError, r"the address, which usually ends in /v1"),
        ("400:too many tokens", RunError, r"m refused a request: too many tokens.*fewer shots"),
        ("402:pay", RunError, r"refused more requests: 402 pay"),
        ("429", RunError, r"refused more requests: 429.*lower the concurrency"),
        ("500", RunError, r"failed on m: 500 status 500 for the test"),
        ("hangup", RunError, r"cannot be reached: .*Start the server"),
        ("slow:1", RunError, r"did not answer within 0.3 s, 1 times in a row"),
        ("text:{oops", RunError, r"no usable reply, 1 times in a row: it is not JSON"),
        ("text:<html>", RunError, r"it is not JSON|it is not a chat completion"),
        ('json:{"choices": []}', RunError, r"it has no choices"),
        ('json:{"choices": [{"message": {"content": "x"}}]}', RunError, r"does not say how many tokens"),
    ],
)
def test_faults_that_stay(fault_server, fault, error, message):
    fault_server.faults = [fault]
    with pytest.raises(error, match=message) as caught:
        model(fault_server, retries=0, timeout=0.3).chat([ask("hi")])
    assert type(caught.value) in (UserError, RunError)


@pytest.mark.parametrize(
    ("content", "reason", "text", "kind"),
    [
        (None, "stop", "", "stop"),
        ("a", "length", "a", "length"),
        ("a", "max_tokens", "a", "length"),
        ("a", "content_filter", "a", "stop"),
        ("a", "never heard of", "a", "stop"),
        ("a", None, "a", "stop"),
    ],
)
def test_contents_and_finish_reasons(fault_server, content, reason, text, kind):
    answer = {
        "choices": [{"index": 0, "finish_reason": reason, "message": {"content": content}}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1},
    }
    fault_server.faults = ["json:" + json.dumps(answer)]
    (reply,) = model(fault_server).chat([ask("hi")])
    assert (reply.text, reply.finish_reason) == (text, kind)


def test_no_server_at_all():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    absent = OpenAIChatModel("m", base_url=f"http://127.0.0.1:{port}/v1", options=ServerOptions(retries=0))
    for use in (lambda: absent.chat([ask("hi")]), lambda: absent.count_tokens((Message("user", "x"),))):
        with pytest.raises(RunError, match=rf"127.0.0.1:{port}/v1 cannot be reached.*Start the server"):
            use()


def test_one_failure_stops_the_rest(fault_server):
    fault_server.faults = ["slow:0.1", "400:too long"]
    with pytest.raises(RunError, match=r"Request \d of 9 failed \(1 were answered\): m refused a request: too long"):
        model(fault_server, concurrency=2, retries=0).chat([ask(str(i)) for i in range(9)])
    assert len(fault_server.bodies) == 2


def test_the_key_comes_from_the_environment_and_is_nowhere_else(fault_server, monkeypatch, caplog, no_pauses):
    caplog.set_level(logging.DEBUG)
    model(fault_server).chat([ask("hi")])
    assert fault_server.seen[-1][1]["authorization"] == "Bearer none"
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    fault_server.faults = ["500"]
    keyed = model(fault_server, retries=1)
    keyed.chat([ask("hi")])
    assert fault_server.seen[-1][1]["authorization"] == f"Bearer {SECRET}"
    fault_server.faults = [f"401:wrong key {SECRET} given"]
    with pytest.raises(UserError, match=r"wrong key \[key\] given") as caught:
        keyed.chat([ask("hi")])
    assert caught.value.__suppress_context__
    fault_server.extra["/tokenize"] = (401, {"error": f"wrong key {SECRET}"})
    with pytest.raises(UserError, match=r"wrong key \[key\]"):
        keyed.count_tokens((Message("user", "x"),))
    monkeypatch.setenv("OPENAI_API_KEY", f"{SECRET}\n")
    with pytest.raises(UserError, match=r"wrong key \[key\]"):
        keyed.count_tokens((Message("user", "x"),))
    assert fault_server.seen[-1][1]["authorization"] == f"Bearer {SECRET}"
    seen = [repr(keyed), keyed.identity, repr(pickle.dumps(keyed)), str(vars(keyed)), caplog.text]
    assert not any(SECRET in text for text in seen)


@pytest.mark.parametrize("key", ["sk-secret\nrest", "sk-secret\rrest", "sk secret", "\u043a\u043b\u044e\u0447-secret"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(fault_server, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    for ask_it in (lambda m: m.chat([ask("hi")]), lambda m: m.count_tokens((Message("user", "x"),))):
        with pytest.raises(UserError, match="OPENAI_API_KEY cannot be sent") as caught:
            ask_it(model(fault_server))
        assert "secret" not in str(caught.value)
    assert not fault_server.seen


def test_redirects_are_not_followed(fault_server):
    fault_server.faults = ["307:/elsewhere"]
    with pytest.raises(UserError, match="the address"):
        model(fault_server, retries=0).chat([ask("hi")])
    for path in ("/tokenize", "/apply-template"):
        fault_server.extra[path] = (302, {})
    with pytest.raises(UserError, match="does not count tokens"):
        model(fault_server, retries=0).count_tokens((Message("user", "x"),))
    assert "/elsewhere" not in {path for path, _, _ in fault_server.seen}


def test_identity_holds_what_can_change_a_text(fault_server):
    plain = model(fault_server)
    same = [
        model(fault_server, stream=True),
        model(fault_server, concurrency=1),
        model(fault_server, timeout=1.0, retries=0),
        pickle.loads(pickle.dumps(plain)),
    ]
    assert {m.identity for m in same} == {plain.identity}
    other = [
        model(fault_server, model="n"),
        model(fault_server, extra={"min_p": 0.1}),
        model(fault_server, revision="abc"),
        model(fault_server, context_length=99),
        OpenAIChatModel("m", base_url="http://127.0.0.1:1/v1"),
    ]
    assert len({m.identity for m in [plain, *other]}) == 6
    moved = OpenAIChatModel("m", base_url="http://localhost:1/v1/", revision="abc")
    assert moved.identity == model(fault_server, revision="abc").identity
    assert plain.identity.startswith("m@")


def test_pickling_keeps_every_field(fault_server):
    full = model(
        fault_server, stream=True, concurrency=2, context_length=7, revision="r", extra={"a": 1}, timeout=3.0, retries=2
    )
    assert pickle.loads(pickle.dumps(full)).__reduce__() == full.__reduce__()


@pytest.mark.parametrize(
    ("listed", "props", "length"),
    [
        ({"data": [{"id": "n", "max_model_len": 1}, {"id": "m", "max_model_len": 8192}]}, None, 8192),
        ({"data": [{"id": "m", "context_length": 131072}]}, None, 131072),
        ({"data": [{"id": "else", "meta": {"n_ctx": 4096}}]}, {"default_generation_settings": {"n_ctx": 1024}}, 1024),
        ({"data": [{"id": "else", "meta": {"n_ctx": 4096}}]}, None, 4096),
    ],
)
def test_the_server_tells_its_context_length(fault_server, listed, props, length):
    fault_server.extra["/v1/models"] = (200, listed)
    if props:
        fault_server.extra["/props"] = (200, props)
    asked = model(fault_server)
    assert (asked.context_length, asked.context_length) == (length, length)
    assert sum(path == "/v1/models" for path, _, _ in fault_server.seen) == 1


def test_a_silent_server_needs_a_context_length(fault_server):
    fault_server.extra["/v1/models"] = (200, {"data": [{"id": "a"}, {"id": "b"}]})
    with pytest.raises(UserError, match=r"does not say how many tokens 'm' can read.*Give context_length"):
        _ = model(fault_server).context_length
    assert model(fault_server, context_length=5).context_length == 5


def test_counts_come_from_vllm_once(fault_server):
    fault_server.extra["/tokenize"] = (200, lambda body: {"count": len(body["messages"][0]["content"]), "tokens": []})
    asked = model(fault_server)
    assert [asked.count_tokens((Message("user", t),)) for t in ("abc", "abcd", "abc")] == [3, 4, 3]
    assert [path for path, _, _ in fault_server.seen] == ["/tokenize"] * 2
    assert fault_server.seen[0][2] == {"model": "m", "messages": [{"role": "user", "content": "abc"}]}


def test_counts_come_from_llama(fault_server):
    fault_server.extra["/tokenize"] = (200, lambda body: {"tokens": list(body.get("content", ""))})
    fault_server.extra["/apply-template"] = (200, lambda body: {"prompt": "<" + body["messages"][0]["content"] + ">"})
    assert model(fault_server).count_tokens((Message("user", "abc"),)) == 5
    assert fault_server.seen[-1][2] == {"content": "<abc>", "add_special": True, "parse_special": True}


def test_a_server_without_a_tokenizer_says_what_to_do(fault_server):
    with pytest.raises(UserError, match=r"does not count tokens.*tokenizer.json.*PERSONALLLM_TOKENIZER"):
        model(fault_server).count_tokens((Message("user", "x"),))
    fault_server.extra["/tokenize"] = (400, {"error": {"message": "no system turn"}})
    with pytest.raises(UserError, match=r"/tokenize refused to count tokens: .*no system turn"):
        model(fault_server).count_tokens((Message("user", "x"),))


def test_counting_survives_a_busy_server(fault_server, no_pauses):
    answers = iter([503, 429, 200])

    class Later:
        def __getitem__(self, path):
            return next(answers), {"count": 3}

        def __contains__(self, path):
            return path == "/tokenize"

    fault_server.extra = Later()
    assert model(fault_server).count_tokens((Message("user", "x"),)) == 3
    fault_server.extra = {"/tokenize": (503, {})}
    with pytest.raises(RunError, match=r"/tokenize failed: status 503"):
        model(fault_server, retries=1).count_tokens((Message("user", "x"),))


def test_lone_surrogates_do_not_break_a_run(fault_server):
    text = "a\ud800b"
    assert model(fault_server).chat([ask(text)])[0].text == "echo a?b"
    fault_server.extra["/tokenize"] = (200, {"count": 3})
    assert model(fault_server).count_tokens((Message("user", text),)) == 3


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("https://api.example.org/v1", OfflineError, "PERSONALLLM_OFFLINE is set, and https://api.example.org/v1"),
        ("http://127.0.0.1.example.org/v1", OfflineError, "is not on this machine"),
        ("http://10.0.0.1/v1", OfflineError, "is not on this machine"),
        ("ftp://127.0.0.1/v1", UserError, "is not the address of a server"),
        ("127.0.0.1:8000/v1", UserError, "is not the address of a server"),
        ("http://u:secret@127.0.0.1/v1", UserError, "carries a user name, a password or a query"),
        ("http://127.0.0.1/v1?key=secret", UserError, "carries a user name, a password or a query"),
        ("http://[::1/v1", UserError, "is not the address of a server: Invalid IPv6 URL"),
        ("http://127.0.0.1:abc/v1", UserError, "is not the address of a server: Port could not be cast"),
        ("http://127.0.0.1:99999/v1", UserError, "is not the address of a server: Port out of range"),
    ],
)
def test_addresses_that_are_refused(url, error, message):
    with pytest.raises(error, match=message) as caught:
        OpenAIChatModel("m", base_url=url)
    assert "secret" not in str(caught.value)


def test_the_offline_switch_is_read_when_it_matters(monkeypatch):
    monkeypatch.setenv("PERSONALLLM_OFFLINE", "0")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    far = OpenAIChatModel("m", base_url="https://api.example.org/v1")
    with pytest.raises(UserError, match=r"no key for https://api.example.org/v1.*OPENAI_API_KEY"):
        far.chat([ask("hi")])
    monkeypatch.setenv("PERSONALLLM_OFFLINE", "1")
    for use in (lambda: far.chat([ask("hi")]), lambda: far.count_tokens((Message("user", "x"),))):
        with pytest.raises(OfflineError):
            use()


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1", "http://127.3.2.1/v1", "http://[::1]:8/v1", "http://localhost/v1"]
)
def test_loopback_addresses(url):
    assert Endpoint(url).loopback
    assert Endpoint(url + "/").base_url == url


def test_a_proxy_is_not_asked_about_this_machine(fault_server, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    fault_server.extra["/tokenize"] = (200, {"count": 3})
    asked = model(fault_server, retries=0)
    assert asked.chat([ask("hi")])[0].text == "echo hi"
    assert asked.count_tokens((Message("user", "x"),)) == 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": ""}, "model must be the model's name"),
        ({"concurrency": 0}, "concurrency must be >= 1"),
        ({"context_length": 0}, "context_length must be >= 1 token"),
        ({"timeout": 0}, "timeout must be > 0 seconds"),
        ({"retries": -1}, "retries must be >= 0"),
        ({"extra": {"seed": 1}}, "extra must be free of seed, which the request sets"),
        ({"extra": {"x": object()}}, "extra must be JSON values"),
    ],
)
def test_bad_parameters(fault_server, fields, message):
    with pytest.raises(ParameterError, match=message):
        model(fault_server, **fields)


USAGE = '"usage": {"prompt_tokens": 7, "completion_tokens": 2}'
GOOD = '{"choices": [{"finish_reason": "stop", "KIND": {"content": "a"}}], "usage": '
ODD = [
    "[1, 2]",
    '"text"',
    "null",
    '{"choices": {"a": 1}}',
    '{"choices": "abc"}',
    '{"choices": [1]}',
    '{"choices": [null]}',
    '{"choices": [{"index": 0, "finish_reason": "stop", "KIND": "hello"}], USAGE}',
    '{"choices": [{"index": 0, "finish_reason": "stop", "KIND": {"content": [{"type": "text"}]}}], USAGE}',
    '{"choices": [{"index": 0, "finish_reason": "stop", "KIND": {"content": 5}}], USAGE}',
    '{"choices": [{"index": 0, "finish_reason": "stop", "KIND": {"content": "a"}}], "usage": [1]}',
    GOOD + '{"prompt_tokens": "many", "completion_tokens": 2}}',
    GOOD + '{"prompt_tokens": 1e400, "completion_tokens": 2}}',
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("body", ODD)
def test_json_of_another_shape_is_a_broken_reply(fault_server, no_pauses, body, stream):
    text = body.replace("KIND", "delta" if stream else "message").replace("USAGE", USAGE)
    said = f"data: {text}\n\ndata: [DONE]\n\n" if stream else text
    fault_server.extra["/v1/chat/completions"] = (200, said.encode())
    with pytest.raises(RunError, match="gave no usable reply, 2 times in a row"):
        model(fault_server, retries=1, stream=stream).chat([ask("hi")])
    assert len(fault_server.bodies) == 2
