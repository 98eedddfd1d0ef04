"""The step `respond` over real HTTP, with the real client, against a server that misbehaves at random (seeded)."""

from __future__ import annotations

import json
import logging
import random
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from personalllm.backends.llm import CachedChatModel, OpenAIChatModel, ServerOptions
from personalllm.build._work import Work
from personalllm.build.prompts import Prompt
from personalllm.build.recipe import Recipe
from personalllm.build.responding import Response, read_responses, respond
from personalllm.core.errors import RunError, UserError

QUICK_FAULTS = ("429", "500", "503", "cut", "short", "hangup", "empty", "nothing")
FAULTS = (*QUICK_FAULTS * 4, "slow")
FEWEST_ASKED_ALIKE = 3
SECRET = "sk-verysecret-0123456789"


class Server(ThreadingHTTPServer):
    """Answers from the model and the prompt alone; how it fails depends on these, the seed and how often it was asked.

    The first `FEWEST_ASKED_ALIKE` times that it is asked for the same, it fails with probability `rate`; later never.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, rate: float = 0.0, kinds: tuple[str, ...] = FAULTS, seed: int = 0, delay: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.base_url = f"http://127.0.0.1:{self.server_port}/v1"
        self.rate, self.kinds, self.seed, self.delay = rate, kinds, seed, delay
        self.lock = threading.Lock()
        self.asked: Counter[tuple[str, str]] = Counter()
        self.failed: Counter[str] = Counter()
        self.used: Counter[str] = Counter()
        self.arrivals: list[float] = []
        self.keys: set[str] = set()
        self.busy: Counter[str] = Counter()
        self.most_busy: Counter[str] = Counter()
        self.said: dict[str, tuple[int, dict]] = {}

    def fault(self, model: str, prompt: str, time_asked: int) -> str:
        dice = random.Random(f"{self.seed} {model} {prompt} {time_asked}")
        if time_asked >= FEWEST_ASKED_ALIKE or dice.random() >= self.rate:
            return ""
        return dice.choice(self.kinds)

    def __enter__(self):
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()
        return super().__enter__()

    def __exit__(self, *args):
        self.shutdown()
        self.thread.join()
        super().__exit__(*args)

    def handle_error(self, request, client_address):
        """A client that is killed leaves broken pipes behind."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        server, arrived = self.server, time.monotonic()
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        model, prompt = body["model"], body["messages"][-1]["content"]
        with server.lock:
            server.arrivals.append(arrived)
            server.keys.add(self.headers["Authorization"])
            fault = server.fault(model, prompt, server.asked[model, prompt])
            server.asked[model, prompt] += 1
            server.failed[fault] += 1
            server.busy[model] += 1
            server.most_busy[model] = max(server.most_busy[model], server.busy[model])
        try:
            time.sleep(server.delay)
            if model in server.said:
                self.send(server.said[model][0], server.said[model][1])
            else:
                self.answer(fault, model, prompt)
        finally:
            with server.lock:
                server.busy[model] -= 1

    def answer(self, fault: str, model: str, prompt: str) -> None:
        if fault.isdigit():
            headers = {"Retry-After": "0.05"} if fault == "429" else {}
            self.send(int(fault), {"error": {"message": "no"}}, headers)
        elif fault == "slow":
            select.select([self.connection], [], [], 60)
            self.close_connection = True
        elif fault == "hangup":
            self.close_connection = True
        elif fault == "nothing":
            self.send(200, {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}})
        elif fault in ("cut", "short"):
            data = json.dumps(completion(text_of(model, prompt), prompt)).encode()
            self.send(200, data[: len(data) // 2], length=len(data) if fault == "short" else None)
            self.close_connection = True
        else:
            self.count(completion("" if fault == "empty" else text_of(model, prompt), prompt))

    def count(self, payload: dict) -> None:
        usage = payload["usage"]
        with self.server.lock:
            self.server.used.update(
                replies=1,
                prompt_tokens=usage["prompt_tokens"],
                new_tokens=usage["completion_tokens"],
                cached_tokens=usage["prompt_tokens_details"]["cached_tokens"],
            )
        self.send(200, payload)

    def send(self, status: int, payload, headers=None, length: int | None = None) -> None:
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data) if length is None else length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def text_of(model: str, prompt: str) -> str:
    return f"{model} says of {prompt!r}:\nyes, {len(prompt)}."


def completion(text: str, prompt: str) -> dict:
    n = len(prompt.split())
    usage = {"prompt_tokens": n, "completion_tokens": len(text.split()) + 1, "total_tokens": 0}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        "usage": usage | {"prompt_tokens_details": {"cached_tokens": n // 2}},
    }


def recipe(n_models: int, **fields) -> Recipe:
    models = [
        {
            "name": f"m{i}",
            "chat_model": f"openai:w{i}",
            "price_per_million_prompt_tokens": 2.0 + i,
            "price_per_million_new_tokens": 10.0,
            **fields,
        }
        for i in range(n_models)
    ]
    return Recipe.model_validate(
        {
            "name": "r",
            "seed": 1,
            "reward_ensemble": "none",
            "reference_response_model": "m0",
            "attempts": 6,
            "prompts": {"files": ["x"], "train": 1, "test": 1},
            "response_model": models,
        }
    )


def prompts(n: int) -> list[Prompt]:
    return [Prompt(f"{i:012x}", f"Prompt number {i}, please?", "s") for i in range(n)]


def chats(base_url: str, n_models: int, cache: Path | None = None, concurrency: int = 4, **options):
    found = {}
    for i in range(n_models):
        chat = OpenAIChatModel(
            f"w{i}",
            base_url=base_url,
            revision="1",
            concurrency=concurrency,
            options=ServerOptions(**{"timeout": 8.0, "retries": 4, **options}),
        )
        found[f"openai:w{i}"] = chat if cache is None else CachedChatModel(chat, cache)
    return found


def texts(made: Recipe, chat_models, out: Path) -> dict[tuple[str, str], str]:
    found = read_responses(made, chat_models, out)
    return {(name, prompt_id): r.text for name, rows in found.items() for prompt_id, r in rows.items()}


def lines(out: Path) -> list[dict]:
    found = []
    for path in sorted((out / "responses").glob("*.jsonl")):
        found += [{"file": path.name, **json.loads(line)} for line in path.read_bytes().splitlines()]
    return found


def check_complete(made: Recipe, chat_models, out: Path, asked: list[Prompt]) -> None:
    """No row lost, none twice, every text the one of a server without faults."""
    assert texts(made, chat_models, out) == {
        (m.name, p.prompt_id): text_of(m.chat_model.removeprefix("openai:"), p.prompt)
        for m in made.response_model
        for p in asked
    }
    drawn = Counter((line["file"], line["prompt_id"], line["attempt"]) for line in lines(out))
    assert set(drawn.values()) == {1}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No key; short waits between tries."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr("personalllm.backends.endpoint.back_off", lambda attempt: 0.01)
    monkeypatch.setattr("personalllm.backends.llm.openai.back_off", lambda attempt: 0.01)


def test_a_run_through_faults_equals_a_calm_one(tmp_path):
    made, asked = recipe(4), prompts(60)
    seen = []
    with Server(rate=0.2, seed=3) as server:
        chat_models = chats(server.base_url, 4, tmp_path / "cache")
        report = respond(made, asked, chat_models, tmp_path / "out", progress=lambda d, t: seen.append((d, t)))
    assert all(server.failed[fault] for fault in FAULTS), server.failed
    check_complete(made, chat_models, tmp_path / "out", asked)
    assert (report.usable, report.given_up, report.failed, report.error()) == (240, 0, 0, None)
    assert seen == [(i, 240) for i in range(241)]
    assert set(server.keys) == {"Bearer none"}
    assert max(server.most_busy.values()) <= 4
    total = report.ledger.total
    assert (total.replies, total.prompt_tokens) == (server.used["replies"], server.used["prompt_tokens"])
    assert (total.new_tokens, total.cached_tokens) == (server.used["new_tokens"], server.used["cached_tokens"])
    assert total == report.spent
    dollars = sum(
        usage.prompt_tokens * (2.0 + i) / 1e6 + usage.new_tokens * 10 / 1e6
        for i, usage in enumerate(report.ledger.models.values())
    )
    assert total.dollars == pytest.approx(dollars, abs=1e-5)
    assert json.loads((tmp_path / "out" / "ledger.json").read_text()) == report.ledger.to_dict()
    redrawn = [line for line in lines(tmp_path / "out") if line["attempt"]]
    assert redrawn, "an empty reply is drawn again"

    with Server() as calm:
        calm_models = chats(calm.base_url, 4)
        again = respond(made, asked, calm_models, tmp_path / "calm")
        assert texts(made, calm_models, tmp_path / "calm") == texts(made, chat_models, tmp_path / "out")
        asked_before = calm.used["replies"]
        assert respond(made, asked, calm_models, tmp_path / "calm").ledger == again.ledger
        assert calm.used["replies"] == asked_before == 240, "what is there is not asked for again, nor counted twice"


def test_what_fails_is_kept_out_and_made_again_by_the_next_run(tmp_path):
    made, asked = recipe(3), prompts(60)
    kinds = ("429", "500", "hangup", "cut")
    with Server(rate=0.5, kinds=kinds, seed=5) as server:
        chat_models = chats(server.base_url, 3, retries=0)
        left = []
        while not left or (left[-1] and len(left) < 12):
            report = respond(made, asked, chat_models, tmp_path)
            left.append(report.failed)
            assert report.usable + report.failed == 180
            assert len(lines(tmp_path)) == report.usable
            if len(left) == 1:
                first = report
    assert left == sorted(left, reverse=True)
    assert left[0] > 20
    assert left[-1] == 0
    found = sum((Counter(dict(m.failures)) for m in first.models), Counter())
    assert set(found) == {"rate limit", "server error", "lost connection", "broken reply"}
    message = str(first.error())
    assert message.startswith(f"{left[0]} of 180 responses are missing: m0: ")
    assert message.endswith("Run the same command again: only these are asked for.")
    for model in first.models:
        assert str(model) in message
        assert "failed (server error)" in str(model)
    check_complete(made, chat_models, tmp_path, asked)
    assert report.ledger.total.replies == server.used["replies"] == 180


def test_a_dead_model_is_set_aside_and_the_others_go_on(tmp_path):
    made, asked = recipe(3), prompts(80)
    with Server() as server:
        server.said = {"w1": (500, {"error": {"message": "broken"}}), "w2": (402, {"error": {"message": "pay"}})}
        report = respond(made, asked, chats(server.base_url, 3, retries=0, concurrency=2), tmp_path)
        good, dead, poor = report.models
        assert (good.usable, dead.usable, poor.usable) == (80, 0, 0)
        assert 25 <= dead.failures["server error"] <= 26
        assert 1 <= poor.failures["quota"] <= 2
        assert dead.failed == poor.failed == 80
        assert "set aside after 25 failures in a row" in str(dead) or "26" in str(dead)
        assert "set aside: quota" in str(poor)
        assert "pay" in str(report.error())
        server.said = {}
        assert respond(made, asked, chats(server.base_url, 3, retries=0), tmp_path).error() is None


def test_a_wrong_setting_ends_the_run_at_once_unless_the_model_has_answered(tmp_path):
    made, asked = recipe(2), prompts(12)
    with Server() as server:
        server.said = {"w1": (404, {"error": {"message": "no such model"}})}
        with pytest.raises(UserError, match="has no chat or embedding model 'w1'"):
            respond(made, asked, chats(server.base_url, 2), tmp_path)
        server.said = {}
        respond(made, asked[:4], chats(server.base_url, 2), tmp_path)
        server.said = {"w1": (401, {"error": {"message": "expired"}})}
        report = respond(made, asked, chats(server.base_url, 2, concurrency=1), tmp_path)
    assert [m.usable for m in report.models] == [12, 4]
    assert (report.models[1].failures, report.models[1].not_asked) == ({"key": 1}, 7)


@pytest.mark.parametrize("n_models", [1, 3])
def test_a_server_that_is_not_there_is_told_at_once_with_its_remedy(tmp_path, monkeypatch, n_models):
    with Server() as server:
        address = server.base_url
    monkeypatch.setattr("personalllm.backends.endpoint.back_off", lambda attempt: 0.01)
    monkeypatch.setattr("personalllm.backends.llm.openai.back_off", lambda attempt: 0.01)
    made, asked, chat = recipe(3), prompts(80), chats(address, n_models, concurrency=4)
    one = chat if n_models == 3 else dict.fromkeys(("openai:w0", "openai:w1", "openai:w2"), chat["openai:w0"])
    report = respond(made, asked, one, tmp_path)
    tried = [sum(m.failures.values()) for m in report.models]
    assert tried == ([4, 4, 4] if n_models == 3 else [4, 0, 0])
    error = report.error()
    assert error.message.startswith(f"{address} cannot be reached: ")
    assert error.message.count("cannot be reached") == 1
    assert "240 of 240 responses are missing" in error.message
    assert error.remedy.startswith("Start the server, or check the address and the port. Then run the same command")


def test_a_server_that_goes_away_in_the_middle_is_not_given_up_at_once(tmp_path):
    """Who has replied in this run may come back: 25 failures in a row are waited for, as with any other fault."""
    made = recipe(2).response_model[0]
    work = Work(made, None, tmp_path / "j", prompts(40), 3)
    gone = RunError("gone", "Start it.")
    with work.journal():
        work.take(Response("p0", "fine", "stop", 1, 0, ""), b"{}\n", 9)
    draws = work.pending(prompts(40))
    verdicts = [work.fail(draw, "unreachable", gone) for draw in draws[:25]]
    assert verdicts == [True] * 24 + [False]
    fresh = Work(made, None, tmp_path / "j", prompts(40), 3)
    assert not fresh.fail(draws[0], "unreachable", gone)
    assert Work(made, None, tmp_path / "j", prompts(40), 3).fail(draws[0], "lost connection", gone)


def test_content_filters_are_recorded_as_refusals(tmp_path):
    made, asked = recipe(3), prompts(3)
    withheld = completion("half a", "p")
    withheld["choices"][0]["finish_reason"] = "content_filter"
    refused = completion("", "p")
    refused["choices"][0]["message"] |= {"content": None, "refusal": "I cannot."}
    with Server() as server:
        server.said = {
            "w0": (400, {"error": {"message": "filtered", "code": "content_filter"}}),
            "w1": (200, withheld),
            "w2": (200, refused),
        }
        report = respond(made, asked, chats(server.base_url, 3), tmp_path)
    assert (report.usable, report.given_up, report.failed, report.error()) == (0, 9, 0, None)
    assert [m.given_up for m in report.models] == [{"refused": 3}] * 3
    assert {(line["file"][:2], line["refusal"]) for line in lines(tmp_path)} == {
        ("m0", "content_filter"),
        ("m1", "content_filter"),
        ("m2", "refusal"),
    }
    assert len(lines(tmp_path)) == 9 * made.attempts
    assert report.ledger.total.new_tokens == 18 * (3 + 1)


def test_a_cache_is_not_paid_twice(tmp_path):
    made, asked = recipe(2), prompts(10)
    with Server() as server:
        first = respond(made, asked, chats(server.base_url, 2, tmp_path / "cache"), tmp_path / "one")
        second = respond(made, asked, chats(server.base_url, 2, tmp_path / "cache"), tmp_path / "two")
    assert server.used["replies"] == 20
    assert (first.spent.replies, first.spent.reused) == (20, 0)
    assert (second.spent.replies, second.spent.reused, second.spent.dollars) == (0, 20, 0.0)
    assert second.ledger.total.reused == 20
    assert "0 replies, 20 from the cache" in second.lines[-1]


def test_limits_hold_at_the_server_for_models_that_share_a_connection(tmp_path):
    made, asked = recipe(2, chat_model="openai:w0"), prompts(12)
    with Server() as server:
        began = time.monotonic()
        respond(made, asked, chats(server.base_url, 1, requests_per_minute=1200), tmp_path / "a")
        assert len(server.arrivals) == 24
        assert max(server.arrivals) - began >= 23 * 60 / 1200
        assert max(server.most_busy.values()) <= 4


def test_the_key_is_nowhere(tmp_path, monkeypatch, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("MY_KEY", SECRET)
    made, asked = recipe(2, api_key_env="MY_KEY"), prompts(8)
    said = []
    with Server(rate=0.4, kinds=("500", "hangup", "cut")) as server:
        chat_models = chats(server.base_url, 2, tmp_path / "cache", api_key_env="MY_KEY", retries=1)
        report = respond(made, asked, chat_models, tmp_path / "out")
        assert server.keys == {f"Bearer {SECRET}"}
        server.said = {f"w{i}": (status, {"error": {"message": f"bad {SECRET}"}}) for i, status in ((0, 400), (1, 500))}
        more = respond(made, prompts(12), chat_models, tmp_path / "out")
        assert "bad [key]" in str(more.error())
        server.said = {"w0": (401, {"error": {"message": f"bad {SECRET}"}})}
        with pytest.raises(UserError, match="MY_KEY") as caught:
            respond(made, asked, chats(server.base_url, 2, api_key_env="MY_KEY"), tmp_path / "other")
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    said += [*shown.format(), str(caught.value), repr(caught.value)]
    said += [str(report), repr(more), repr(chat_models), *(c.identity for c in chat_models.values()), caplog.text]
    said += capfd.readouterr()
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 4
    assert not any(SECRET in text for text in said)
    assert not any(SECRET.encode() in data for data in written)


def test_an_interrupt_ends_a_run_and_what_is_there_is_kept(tmp_path):
    made, asked, out = recipe(3), prompts(80), tmp_path / "out"
    with Server(delay=0.02) as server:
        code = RUN.format(here=str(Path(__file__).parent), url=server.base_url, out=str(out), cache="None")
        with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as child:
            deadline = time.monotonic() + 120
            try:
                while server.used["replies"] < 40:
                    assert child.poll() is None, "the run ended before it was interrupted"
                    assert time.monotonic() < deadline
                    time.sleep(0.001)
                child.send_signal(signal.SIGINT)
                said = child.communicate(timeout=120)[1]
            finally:
                child.kill()
        assert child.returncode in (1, 130, -signal.SIGINT)
        assert said.rstrip().endswith("KeyboardInterrupt")
        assert said.count("Traceback") == 1
        kept = len(lines(out))
        assert kept > 20
        assert json.loads((out / "ledger.json").read_text())["total"]["replies"] == kept
        chat_models = chats(server.base_url, 3)
        assert respond(made, asked, chat_models, out).spent.replies == 240 - kept
    check_complete(made, chat_models, out, asked)


RUN = """
import signal; signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell makes its background jobs deaf to it
import sys; sys.path.insert(0, {here!r})
from pathlib import Path
import test_respond_http as t
import personalllm.backends.endpoint, personalllm.backends.llm.openai as o
personalllm.backends.endpoint.back_off = o.back_off = lambda attempt: 0.01
t.respond(t.recipe(3), t.prompts(80), t.chats({url!r}, 3, {cache}), Path({out!r}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kills", [2, 10])
@pytest.mark.parametrize("cached", [True, False])
def test_sigkill_at_random_moments_then_resume_equals_a_calm_run(tmp_path, kills, cached):
    made, asked, out = recipe(3), prompts(80), tmp_path / "out"
    cache = tmp_path / "cache" if cached else None
    moments = sorted(random.Random(kills).sample(range(5, 225), kills))
    with Server(rate=0.15, kinds=("429", "500", "cut", "hangup", "empty"), seed=kills, delay=0.02) as server:
        held = "None" if cache is None else f"Path({str(cache)!r})"
        code = RUN.format(here=str(Path(__file__).parent), url=server.base_url, out=str(out), cache=held)
        for moment in moments:
            with subprocess.Popen([sys.executable, "-c", code]) as child:
                deadline = time.monotonic() + 120
                try:
                    while server.used["replies"] < moment:
                        assert child.poll() is None, "the run ended before it was killed"
                        assert time.monotonic() < deadline
                        time.sleep(0.001)
                finally:
                    child.send_signal(signal.SIGKILL)
                assert child.wait() == -signal.SIGKILL
        chat_models = chats(server.base_url, 3, cache)
        report = respond(made, asked, chat_models, out)
    check_complete(made, chat_models, out, asked)
    assert report.error() is None
    assert report.spent.replies < 240
    lost = server.used["replies"] - report.ledger.total.replies
    assert 0 <= lost <= kills * 3 * 4, "only what was under way at a kill may be paid for without being kept"
