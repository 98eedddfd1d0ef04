"""A chat model that runs in this process with llama.cpp (extra `local`)."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

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

    With several slots, requests of one call that are equal but for seeds s, s + 1, s + 2 ... are answered together:
    their prompt is read once, which for short replies halves the time. Equal calls still give equal texts, but
    arithmetic on several sequences at once rounds differently, so a text may depend on which of these are together.

    Args:
        name: Name of a registered model file (`personalllm models list`).
        path: A GGUF file to use instead of the registered one.
        workers: Number of servers, >= 1; by default one for each processor, at most four.
        context_length: Maximum tokens of prompt and reply together.
        slots: How many replies to one prompt a server writes together, >= 1.

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
        slots: int = 1,
    ) -> None:
        for setting, value in (("workers", workers), ("slots", slots)):
            if value is not None and value < 1:
                raise ParameterError(setting, ">= 1", value)
        if context_length < 64:
            raise ParameterError("context_length", ">= 64 tokens", context_length)
        self._name = name
        self._path = model_path(name) if path is None else path
        if not self._path.is_file():
            raise ModelFileError(f"There is no model file at {self._path}.", "Give the path of a GGUF file.")
        self._workers = workers or min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)
        self._context_length, self._slots = context_length, slots
        self._arguments = {
            "name": name,
            "path": self._path,
            "workers": self._workers,
            "context_length": context_length,
            "slots": slots,
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
        """Name, and a digest of the weights, the runtime's version, the layout and the context length."""
        if not self._identity:
            from importlib.metadata import version

            _runtime()
            parts = {
                "weights": file_sha256(self._path),
                "runtime": f"xllamacpp {version('xllamacpp')}",
                "layout": f"one thread, {'one slot' if self._slots == 1 else f'{self._slots} slots'}, no prompt cache",
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
            futures = {threads.submit(self._answer, [requests[i] for i in of]): of for of in self._together(requests)}
            try:
                for future in as_completed(futures):
                    try:
                        replies = future.result()
                    except RunError as error:
                        verdicts = [failed(i, "refused request", error) for i in futures[future]]
                        if not all(verdicts):
                            return
                    else:
                        for i, reply in zip(futures[future], replies, strict=True):
                            done(i, reply, "model")
            finally:
                threads.shutdown(wait=False, cancel_futures=True)

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Return the number of tokens of the messages, rendered with the model's own chat template."""
        with self._server() as server:
            prompt = _post(server, "/apply-template", {"messages": turns(messages)})["prompt"]
            return len(_tokens(server, prompt, add_special=True, parse_special=True))

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
        with self._server() as server:
            reply = self._complete(server, body)
        for entry in reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]:
            logprobs.setdefault(str(entry["token"]), float(entry["logprob"]))
        return logprobs

    def _together(self, requests: Sequence[ChatRequest]) -> list[list[int]]:
        """Return the positions of requests that are answered together: equal but for seeds that follow one another."""
        groups: list[list[int]] = []
        for i, request in enumerate(requests):
            of = groups[-1] if groups else []
            if 0 < len(of) < self._slots and replace(requests[of[0]], seed=requests[of[0]].seed + len(of)) == request:
                of.append(i)
            else:
                groups.append([i])
        return groups

    def _answer(self, requests: Sequence[ChatRequest]) -> list[ChatReply]:
        """Answer requests that are equal but for seeds that follow one another, which is how the runtime seeds them."""
        request = requests[0]
        body = {
            "messages": turns(request.messages),
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "top_k": request.top_k,
            "min_p": 0.0,
            "seed": request.seed,
            "n": len(requests),
            "cache_prompt": False,
        }
        with self._server() as server:
            reply = self._complete(server, body)
            choices = sorted(reply["choices"], key=lambda choice: int(choice["index"]))
            texts = [choice["message"].get("content") or "" for choice in choices]
            cut = [choice["finish_reason"] == "length" for choice in choices]
            n_prompt, n_new = (int(reply["usage"][name]) for name in ("prompt_tokens", "completion_tokens"))
            # the runtime says how many are new for the first alone; a reply that ends has its end besides its text
            lengths = [n_new] + [
                request.max_tokens if of_max else len(_tokens(server, text)) + 1
                for text, of_max in zip(texts[1:], cut[1:], strict=True)
            ]
        return [
            ChatReply(text.strip(), "length" if of_max else "stop", n_prompt, length)
            for text, of_max, length in zip(texts, cut, lengths, strict=True)
        ]

    def _complete(self, server: Any, body: dict[str, Any]) -> Any:
        """Return the runtime's completion of a chat request."""
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
            return open_server(self._path, self._context_length, slots=self._slots)
        except ModelFileError:
            with self._lock:
                self._started -= 1
            raise


def open_server(
    path: Path,
    context_length: int,
    *,
    threads: int = 1,
    slots: int = 1,
    port: int = 0,
    alias: str | None = None,
    embeddings: bool = False,
) -> Any:
    """Start the runtime in the reproducible layout: no prompt cache, a sampler with neutral settings.

    Args:
        path: A GGUF file.
        context_length: Maximum tokens of prompt and reply together.
        threads: Threads of the computation.
        slots: Replies that are written together: of one request, since several at a time would change texts.
        port: Port on 127.0.0.1; 0 takes a free one.
        alias: Name by which HTTP clients know the model; the file's if None.
        embeddings: Serve embeddings instead of chats.

    Raises:
        ModelFileError: If the file cannot be loaded.
    """
    runtime = _runtime()
    params = runtime.CommonParams()
    params.model.path = str(path)
    params.n_ctx = slots * context_length
    # slots that share their memory would write texts that depend on what was written before
    params.n_parallel, params.kv_unified = slots, False
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


def _tokens(server: Any, text: str, **options: bool) -> list[int]:
    """Return a text as tokens."""
    tokens: list[int] = _post(server, "/tokenize", {"content": text, **options})["tokens"]
    return tokens


def _post(server: Any, path: str, body: dict[str, Any]) -> Any:
    """Call the runtime's own loopback endpoint: only there are its template and tokenizer."""
    with http_client(60.0, trust_env=False) as client:
        response = client.post(server.listening_address + path, json=body)
    if response.status_code != 200:
        raise RunError(f"The local runtime answered {response.status_code} on {path}: {response.text}.")
    return response.json()
