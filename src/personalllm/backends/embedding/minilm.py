"""all-MiniLM-L6-v2 on onnxruntime."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from personalllm.backends.models import model_path
from personalllm.core.errors import ModelFileError, ParameterError
from personalllm.core.registry import import_extra
from personalllm.core.storage import digest, file_sha256
from personalllm.core.types import F32

__all__ = ["MiniLMEmbedder"]

_CODE_VERSION = 1
_DIM = 384


def _available_cpus() -> int:
    """Return the number of CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class MiniLMEmbedder:
    """Embeds texts with all-MiniLM-L6-v2 (int8 weights, ONNX) on the CPU.

    A text is lower-cased, cut at `max_tokens` tokens, encoded, averaged over its tokens and scaled to unit length:
    `v = mean_t h_t / |mean_t h_t|`. Each text is run by itself, on one thread, so that its vector does not depend on
    the other texts nor on the number of threads. The session is opened at the first text.

    Args:
        path: Folder with `model.onnx` and `tokenizer.json`; the verified files of the cache if None.
        max_tokens: Maximum tokens of a text, the two special ones included; in [2, 512].
        threads: Texts embedded at the same time; the CPUs of this process if None.

    Raises:
        ModelFileError: If the model files are not in the cache or are not the right ones.
        ParameterError: If `max_tokens` or `threads` is out of range.
    """

    def __init__(self, path: Path | str | None = None, *, max_tokens: int = 256, threads: int | None = None) -> None:
        if not 2 <= max_tokens <= 512:
            raise ParameterError("max_tokens", "in [2, 512]", max_tokens)
        if threads is not None and threads < 1:
            raise ParameterError("threads", ">= 1", threads)
        self._given = None if path is None else Path(path)
        self._folder = model_path("minilm-l6-int8") if path is None else Path(path)
        self._max_tokens = max_tokens
        self._threads = threads
        files = [self._folder / "model.onnx", self._folder / "tokenizer.json"]
        missing = [str(file) for file in files if not file.is_file()]
        if missing:
            raise ModelFileError(f"Not found: {', '.join(missing)}.", "Run: personalllm models pull minilm-l6-int8")
        hashes = [file_sha256(file) for file in files]
        self._identity = f"minilm-l6-int8/{digest([*hashes, max_tokens, _CODE_VERSION])}"
        self._lock = threading.Lock()
        self._loaded: tuple[Any, Any] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._given, self._max_tokens, self._threads)

    def __repr__(self) -> str:
        return f"MiniLMEmbedder({str(self._folder)!r}, max_tokens={self._max_tokens})"

    @property
    def name(self) -> str:
        """`minilm-l6-int8`."""
        return "minilm-l6-int8"

    @property
    def identity(self) -> str:
        """Name and a hash of the model file, the tokenizer file, the truncation and the version of this code."""
        return self._identity

    @property
    def dim(self) -> int:
        """384."""
        return _DIM

    def embed(self, texts: Sequence[str]) -> F32:
        """Return the vectors of texts.

        Equal texts are embedded once. A character that is not valid Unicode (a lone surrogate) counts as `?`.

        Args:
            texts: n texts of any length; the empty text has a vector too.

        Returns:
            float32 (n, 384), rows of unit length.

        Raises:
            MissingExtra: If onnxruntime or tokenizers is not installed.
        """
        rows: dict[str, int] = {}
        index = [rows.setdefault(_clean(text), len(rows)) for text in texts]
        unique = list(rows)
        vectors = np.empty((len(unique), _DIM), np.float32)
        if not unique:
            return vectors
        tokenizer, session = self._load()

        def run(row: int) -> None:
            ids = np.array([tokenizer.encode(unique[row]).ids], np.int64)
            inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
            pooled = session.run(["last_hidden_state"], inputs)[0][0].mean(axis=0, dtype=np.float32)
            vectors[row] = pooled / np.sqrt(np.sum(pooled * pooled, dtype=np.float32))

        longest_first = sorted(range(len(unique)), key=lambda row: -len(unique[row]))
        threads = min(self._threads or _available_cpus(), len(unique))
        if threads == 1:
            for row in longest_first:
                run(row)
        else:
            with ThreadPoolExecutor(threads) as pool:
                for _ in pool.map(run, longest_first):
                    pass
        return vectors[index]

    def _load(self) -> tuple[Any, Any]:
        """Return the tokenizer and the session, opened once."""
        with self._lock:
            if self._loaded is None:
                self._loaded = (_open_tokenizer(self._folder, self._max_tokens), _open_session(self._folder))
            return self._loaded


def _rebuild(path: Path | None, max_tokens: int, threads: int | None) -> MiniLMEmbedder:
    """Make an embedder again in another process."""
    return MiniLMEmbedder(path, max_tokens=max_tokens, threads=threads)


def _clean(text: str) -> str:
    """Return a text that can be encoded as UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _open_tokenizer(folder: Path, max_tokens: int) -> Any:
    """Read the tokenizer; the padding and truncation stored in its file are replaced."""
    tokenizer = import_extra("tokenizers", "local").Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return tokenizer


def _open_session(folder: Path) -> Any:
    """Open the model for calls that each use the calling thread only."""
    onnxruntime = import_extra("onnxruntime", "local")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
