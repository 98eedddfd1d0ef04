"""A tiny random Llama in a GGUF file, and a server on loopback that misbehaves on demand."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
_BOS = 1


def write_tiny_llama(path: Path, *, template: str = _TEMPLATE, add_bos: bool = True, pooled: bool = False) -> None:
    """Write a random Llama (one layer, 64 dimensions) whose vocabulary has <s>, </s>, the bytes and ASCII letters."""
    import gguf

    rng = np.random.default_rng(0)
    letters = "abcdefghijklmnopqrstuvwxyz.,!?"
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *letters]
    kinds = [gguf.TokenType.UNKNOWN, *[gguf.TokenType.CONTROL] * 2, *[gguf.TokenType.BYTE] * 256]
    kinds += [gguf.TokenType.NORMAL] * len(letters)
    n, dim, inner = len(tokens), 64, 128
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(dim)
    writer.add_block_count(1)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(dim // 2)
    writer.add_vocab_size(n)
    writer.add_file_type(0)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * n)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(_BOS)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(add_bos)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(template)
    if pooled:
        writer.add_pooling_type(gguf.PoolingType.MEAN)

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(name, (0.3 * rng.standard_normal(shape)).astype(np.float32))

    add("token_embd.weight", n, dim)
    output = (0.3 * rng.standard_normal((n, dim))).astype(np.float32)
    output[: n - len(letters)] = 0.0
    writer.add_tensor("output.weight", output)
    for norm in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{norm}.weight", np.ones(dim, np.float32))
    for part in ("q", "k", "v", "output"):
        add(f"blk.0.attn_{part}.weight", dim, dim)
    add("blk.0.ffn_gate.weight", inner, dim)
    add("blk.0.ffn_up.weight", inner, dim)
    add("blk.0.ffn_down.weight", dim, inner)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory) -> Path:
    """A GGUF file: begin-of-sequence token added by the tokenizer *and* written by the chat template."""
    pytest.importorskip("xllamacpp")
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    write_tiny_llama(path)
    return path


@pytest.fixture
def make_llama(tmp_path):
    """A function that writes such a file, with `template`, `add_bos` and `pooled` as wanted."""
    pytest.importorskip("xllamacpp")

    def make(**fields) -> Path:
        path = tmp_path / "made.gguf"
        write_tiny_llama(path, **fields)
        return path

    return make


class FaultServer(ThreadingHTTPServer):
    """Answers chats with an echo; `faults` are used up first, one for each request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.base_url = f"http://127.0.0.1:{self.server_port}/v1"
        self.faults: list[str] = []
        self.seen: list[tuple[str, dict[str, str], Any]] = []
        self.lock = threading.Lock()
        self.busy = self.most_busy = 0
        self.extra: dict[str, tuple[int, Any]] = {}

    @property
    def bodies(self) -> list[Any]:
        """What was asked of the chat endpoint."""
        return [body for path, _, body in self.seen if path == "/v1/chat/completions"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultServer

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.answer(None)

    def do_POST(self) -> None:
        self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def answer(self, body: Any) -> None:
        server = self.server
        with server.lock:
            server.seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            server.busy += 1
            server.most_busy = max(server.most_busy, server.busy)
            chat = self.path == "/v1/chat/completions"
            fault = server.faults.pop(0) if server.faults and self.path.startswith("/v1/") and body else ""
        try:
            if self.path in server.extra:
                status, payload = server.extra[self.path]
                self.send(status, payload(body) if callable(payload) else payload, {"Location": "/elsewhere"})
            elif fault:
                self.misbehave(fault, body)
            elif not chat:
                self.send(404, {"error": "no such path"})
            elif body.get("stream"):
                self.stream(echo(body))
            else:
                time.sleep(0.02)
                self.send(200, completion(echo(body)))
        finally:
            with server.lock:
                server.busy -= 1

    def misbehave(self, fault: str, body: Any) -> None:
        kind, _, detail = fault.partition(":")
        if kind.isdigit():
            names = {"429": "Retry-After", "307": "Location"}
            headers = {names[kind]: detail} if detail and kind in names else {}
            said = detail or f"status {kind} for the test"
            self.send(int(kind), {"error": {"message": said, "type": "test"}}, headers)
        elif kind == "slow":
            time.sleep(float(detail))
            self.send(200, completion(echo(body)))
        elif kind == "cut":
            self.stream(echo(body), cut=True)
        elif kind == "hangup":
            self.close_connection = True
        elif kind == "text":
            self.send(200, detail.encode())
        else:
            self.send(200, json.loads(fault.partition(":")[2]))

    def send(self, status: int, payload: Any, headers: dict[str, str] | None = None) -> None:
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def stream(self, text: str, *, cut: bool = False) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.close_connection = True
        for piece in (text[:3], text[3:]):
            self.event({"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]})
            if cut:
                return
        self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        self.event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}})
        self.wfile.write(b"data: [DONE]\n\n")

    def event(self, payload: Any) -> None:
        self.wfile.write(b"data: " + json.dumps(payload).encode() + b"\n\n")
        self.wfile.flush()


def echo(body: Any) -> str:
    """Return the text with which the server answers."""
    return f" echo {body['messages'][-1]['content']}\n"


def completion(content: str | None, reason: str | None = "stop") -> dict[str, Any]:
    """Return the body of a good answer."""
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": content}}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9},
    }


@pytest.fixture
def fault_server(monkeypatch):
    """A `FaultServer` on loopback; no key is set."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "PERSONALLLM_TOKENIZER"):
        monkeypatch.delenv(name, raising=False)
    with FaultServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def no_pauses(monkeypatch):
    """Let the waits between tries be short, ours and the client's."""
    monkeypatch.setattr("personalllm.backends.endpoint.back_off", lambda attempt: 0.01)
    monkeypatch.setattr("personalllm.backends.llm.openai.back_off", lambda attempt: 0.01)
    monkeypatch.setattr("personalllm.backends.embedding.openai.back_off", lambda attempt: 0.01)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01, raising=False)
