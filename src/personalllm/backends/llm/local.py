"""A chat model that runs in this process with llama.cpp (extra `local`)."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from personalllm.backends.llm._base import BatchChatModel, turns
from personalllm.backends.models import model_path
from personalllm.backends.transport import http_client
from personalllm.core.errors import ModelFileError, ParameterError, RunError
from personalllm.core.protocols import Done, Failed
from personalllm.core.registry import import_extra
from personalllm.core.storage import digest, file_sha256
from personalllm.core.types import ChatReply, ChatRequest, Message

__all__ = ["DEFAULT_CHAT_MODEL", "LocalChatModel"]

DEFAULT_CHAT_MODEL = "smollm2-135m-instruct"


class LocalChatModel(BatchChatModel):
    """Answers chats with a GGUF model, reproducibly.

    The layout is the fastest one whose texts do not change between runs: several single-threaded servers, each
    answering one request at a time without a prompt cache. The number of servers changes the speed, never a text.

    Args:
        name: Name of a registered model file (`personalllm models list`).
        path: A GGUF file to use instead of the registered one.
        workers: Number of servers, >= 1; by default one for each processor, at most four.
        context_length: Maximum tokens of prompt and reply together.

    Raises:
        MissingExtra: If the runtime is not installed.
        ModelFileError: If the model file is absent or is not the registered one.
    """

    def __init__(
        self,
        name: str = DEFAULT_CHAT_MODEL,
        *,
        path: Path | None = None,
        workers: int | None = None,
        context_length: int = 4096,
    ) -> None:
        if workers is not None and workers < 1:
            raise ParameterError("workers", ">= 1", workers)
        if context_length < 64:
            raise ParameterError("context_length", ">= 64 tokens", context_length)
        self._name = name
        self._path = model_path(name) if path is None else path
        if not self._path.is_file():
            raise ModelFileError(f"There is no model file at {self._path}.", "Give the path of a GGUF file.")
        self._workers = workers or min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)
        self._context_length = context_length
        self._arguments = {
            "name": name,
            "path": self._path,
            "workers": self._workers,
            "context_length": context_length,
        }
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._started = 0
        self._lock = threading.Lock()
        self._identity = ""

    @property
    def name(self) -> str:
        """Name of the model file."""
        return self._name

    @property
    def identity(self) -> str:
        """Name, and a digest of the weights, the runtime's version and the context length."""
        if not self._identity:
            from importlib.metadata import version

            _runtime()
            parts = {
                "weights": file_sha256(self._path),
                "runtime": f"xllamacpp {version('xllamacpp')}",
                "layout": "one thread, one slot, no prompt cache",
                "context_length": self._context_length,
            }
            self._identity = f"{self._name}@{digest(parts)}"
        return self._identity

    def require(self) -> None:
        """Raise `MissingExtra` if the runtime is not installed."""
        _runtime()

    @property
    def context_length(self) -> int:
        """Maximum tokens of prompt and reply together."""
        return self._context_length

    def chat_some(self, requests: Sequence[ChatRequest], done: Done, failed: Failed) -> None:
        """Answer what can be answered; a request that fails does not stop the others.

        Args:
            requests: n requests.
            done: Called in this thread with (index of the request, its reply, `"model"`).
            failed: Called in this thread with (index of the request, kind of failure, error); returns whether to go on.

        Raises:
            ModelFileError: If the model cannot be loaded.
        """
        with ThreadPoolExecutor(self._workers) as threads:
            futures = {threads.submit(self._answer, request): i for i, request in enumerate(requests)}
            try:
                for future in as_completed(futures):
                    try:
                        reply = future.result()
                    except RunError as error:
                        if not failed(futures[future], "refused request", error):
                            return
                    else:
                        done(futures[future], reply, "model")
            finally:
                threads.shutdown(wait=False, cancel_futures=True)

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Return the number of tokens of the messages, rendered with the model's own chat template."""
        with self._server() as server:
            prompt = _post(server, "/apply-template", {"messages": turns(messages)})["prompt"]
            body = {"content": prompt, "add_special": True, "parse_special": True}
            return len(_post(server, "/tokenize", body)["tokens"])

    def first_token_logprobs(self, requests: Sequence[ChatRequest], top: int) -> list[dict[str, float]]:
        """Return for each request the natural log-probabilities of the `top` most likely first tokens, by text.

        Args:
            requests: n requests; only their messages count.
            top: How many tokens, >= 1.

        Raises:
            ParameterError: If `top` < 1.
            RunError: If a prompt does not fit into the context, or the runtime fails.
        """
        if top < 1:
            raise ParameterError("top", ">= 1", top)
        with ThreadPoolExecutor(self._workers) as threads:
            return list(threads.map(lambda request: self._first_token(request, top), requests))

    def _first_token(self, request: ChatRequest, top: int) -> dict[str, float]:
        body = {
            "messages": turns(request.messages),
            "max_tokens": 1,
            "temperature": 0.0,
            "logprobs": True,
            "top_logprobs": top,
            "cache_prompt": False,
        }
        logprobs: dict[str, float] = {}
        for entry in self._complete(body)["choices"][0]["logprobs"]["content"][0]["top_logprobs"]:
            logprobs.setdefault(str(entry["token"]), float(entry["logprob"]))
        return logprobs

    def _answer(self, request: ChatRequest) -> ChatReply:
        body = {
            "messages": turns(request.messages),
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "top_k": request.top_k,
            "min_p": 0.0,
            "seed": request.seed,
            "cache_prompt": False,
        }
        reply = self._complete(body)
        choice, usage = reply["choices"][0], reply["usage"]
        reason: Literal["stop", "length"] = "length" if choice["finish_reason"] == "length" else "stop"
        text = (choice["message"].get("content") or "").strip()
        return ChatReply(text, reason, int(usage["prompt_tokens"]), int(usage["completion_tokens"]))

    def _complete(self, body: dict[str, Any]) -> Any:
        """Return the runtime's completion of a chat request."""
        with self._server() as server:
            reply = server.handle_chat_completions(body)
        if "error" in reply:
            raise RunError(
                f"{self._name} refused a request: {reply['error'].get('message', reply['error'])}.",
                "Shorten the prompt (fewer shots, a smaller history budget) or raise context_length.",
            )
        return reply

    @contextmanager
    def _server(self) -> Iterator[Any]:
        """Lend one idle server, starting another one while fewer than `workers` are up."""
        with self._lock:
            start = self._idle.empty() and self._started < self._workers
            self._started += start
        server = self._start() if start else self._idle.get()
        try:
            yield server
        finally:
            self._idle.put(server)

    def _start(self) -> Any:
        try:
            return open_server(self._path, self._context_length)
        except ModelFileError:
            with self._lock:
                self._started -= 1
            raise


def open_server(
    path: Path,
    context_length: int,
    *,
    threads: int = 1,
    port: int = 0,
    alias: str | None = None,
    embeddings: bool = False,
) -> Any:
    """Start the runtime in the reproducible layout: one slot, no prompt cache, a sampler with neutral settings.

    Args:
        path: A GGUF file.
        context_length: Maximum tokens of prompt and reply together.
        threads: Threads of the computation.
        port: Port on 127.0.0.1; 0 takes a free one.
        alias: Name by which HTTP clients know the model; the file's if None.
        embeddings: Serve embeddings instead of chats.

    Raises:
        ModelFileError: If the file cannot be loaded.
    """
    runtime = _runtime()
    params = runtime.CommonParams()
    params.model.path = str(path)
    params.n_ctx = context_length
    params.n_parallel = 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_gpu_layers = 0
    params.cache_prompt = False
    params.cache_ram_mib = 0
    params.warmup = False
    params.ui = False
    params.endpoint_slots = False
    params.endpoint_metrics = True
    params.verbosity = -1
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.embedding = embeddings
    if embeddings:
        params.n_batch = params.n_ubatch = context_length
    params.sampling.top_k = 0
    params.sampling.min_p = 0.0
    if alias is not None:
        params.model_alias = {alias}
    try:
        server = runtime.Server(params)
    except RuntimeError as error:
        raise ModelFileError(
            f"{path} cannot be loaded: {error}.", "The file must be a GGUF model that llama.cpp knows."
        ) from error
    server.handle_metrics()  # closed before it has done a task, the runtime never stops waiting for itself
    return server


def _runtime() -> Any:
    return import_extra("xllamacpp", "local")


def _post(server: Any, path: str, body: dict[str, Any]) -> Any:
    """Call the runtime's own loopback endpoint: only there are its template and tokenizer."""
    with http_client(60.0, trust_env=False) as client:
        response = client.post(server.listening_address + path, json=body)
    if response.status_code != 200:
        raise RunError(f"The local runtime answered {response.status_code} on {path}: {response.text}.")
    return response.json()
