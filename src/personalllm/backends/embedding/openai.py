"""Embeddings from an OpenAI-compatible server (extra `openai`)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np

from personalllm.backends.endpoint import ODD, BrokenReply, Endpoint, openai_sdk
from personalllm.backends.functions import unit_rows
from personalllm.backends.transport import back_off, run_coroutine
from personalllm.core.errors import ParameterError, RunError
from personalllm.core.storage import digest
from personalllm.core.types import F32

__all__ = ["OpenAIEmbedder"]

_CONCURRENCY = 4


class OpenAIEmbedder:
    """Embeds texts over HTTP and scales each vector to unit length: `v / |v|`.

    Equal texts are sent once. A server may compute a batch with other roundings than a single text; with `batch=1` each
    text is sent alone. Put a `CachedEmbedder` around it, so that a text is sent once in a lifetime.

    Args:
        model: The model's name on the server.
        base_url: Address of the API, e.g. `http://127.0.0.1:8000/v1`.
        dim: Length of a vector; learned from the server with one short text if None.
        revision: What fixes the weights; takes the place of the address in the identity.
        batch: Maximum texts in one request, >= 1.
        max_chars: Only the first `max_chars` characters of a text are sent, >= 1; part of the identity. All of it if
            None, and the server refuses what is too long.
        timeout: Maximum seconds without a byte from the server.
        retries: Further tries after a transient failure.

    Raises:
        UserError: If the address cannot be used.
        OfflineError: If `PERSONALLLM_OFFLINE` is set and the server is not on this machine.
    """

    def __init__(
        self,
        model: str,
        base_url: str,
        *,
        dim: int | None = None,
        revision: str | None = None,
        batch: int = 32,
        max_chars: int | None = None,
        timeout: float = 300.0,
        retries: int = 4,
    ) -> None:
        if not model:
            raise ParameterError("model", "the model's name on the server", model)
        for name, value in (("batch", batch), ("dim", dim), ("max_chars", max_chars)):
            if value is not None and value < 1:
                raise ParameterError(name, ">= 1", value)
        self._endpoint = Endpoint(base_url, timeout, retries)
        self._model = model
        self._dim = dim
        self._revision = revision
        self._batch = batch
        self._max_chars = max_chars

    def __repr__(self) -> str:
        return f"OpenAIEmbedder({self._model!r}, base_url={self._endpoint.base_url!r})"

    @property
    def name(self) -> str:
        """The model's name on the server."""
        return self._model

    @property
    def identity(self) -> str:
        """Name, and a digest of the revision (else of the address) and of where texts are cut."""
        server = self._endpoint.base_url if self._revision is None else f"revision {self._revision}"
        parts = {"api": "openai embeddings", "server": server, "max_chars": self._max_chars}
        return f"{self._model}@{digest(parts)}"

    @property
    def dim(self) -> int:
        """Length of a vector; asks the server if it is not known yet."""
        if self._dim is None:
            self._dim = self._rows(["length"]).shape[1]
        return self._dim

    def embed(self, texts: Sequence[str]) -> F32:
        """Return the vectors of texts.

        Args:
            texts: n texts. What is no valid Unicode (a lone surrogate) becomes `?`, and the empty text a space, which
                servers that refuse it take.

        Returns:
            float32 (n, dim), rows of unit length.

        Raises:
            UserError: If the key, the model's name or the address is refused.
            RunError: If the server fails, or gives vectors of another length, zeros or no numbers.
        """
        rows: dict[str, int] = {}
        index = [rows.setdefault(self._sent(text), len(rows)) for text in texts]
        if not rows:
            return np.empty((0, self.dim), np.float32)
        vectors = self._rows(list(rows))
        if self._dim is not None and vectors.shape[1] != self._dim:
            raise RunError(f"{self._model} gave vectors of length {vectors.shape[1]}, not {self._dim}.")
        self._dim = vectors.shape[1]
        embedded: F32 = vectors[index]
        return embedded

    def _sent(self, text: str) -> str:
        """Return what is sent of a text."""
        return text[: self._max_chars].encode("utf-8", "replace").decode() or " "

    def _rows(self, texts: list[str]) -> F32:
        """Return the unit vectors of distinct texts."""
        parts = [texts[start : start + self._batch] for start in range(0, len(texts), self._batch)]
        rows = [row for part in run_coroutine(self._all(parts)) for row in part]
        if len({len(row) for row in rows}) != 1:
            raise RunError(f"{self._model} gave vectors of several lengths.", "See the server's own log.")
        return unit_rows(np.array(rows, np.float64), self._model)

    async def _all(self, parts: list[list[str]]) -> list[list[list[float]]]:
        gate = asyncio.Semaphore(_CONCURRENCY)

        async def one(part: list[str]) -> list[list[float]]:
            async with gate:
                return await self._answer(client, part)

        async with self._endpoint.client() as client:
            tasks = [asyncio.create_task(one(part)) for part in parts]
            try:
                return list(await asyncio.gather(*tasks))
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, client: Any, part: list[str]) -> list[list[float]]:
        failed = openai_sdk().OpenAIError
        for attempt in range(self._endpoint.retries + 1):
            try:
                answer = await client.embeddings.create(model=self._model, input=part, encoding_format="float")
                return _vectors(answer, len(part))
            except failed as error:
                raise self._endpoint.failure(error, self._model) from None
            except (BrokenReply, ValueError) as error:
                if attempt == self._endpoint.retries:
                    raise RunError(
                        f"{self._endpoint.base_url} gave no usable embeddings: {self._endpoint.scrub(str(error))}.",
                        "See the server's own log.",
                    ) from None
            await asyncio.sleep(back_off(attempt))
        raise AssertionError("unreachable")


def _vectors(answer: Any, n: int) -> list[list[float]]:
    """Return the vectors of an answer in the order of the texts."""
    data = getattr(answer, "data", None)
    try:
        if not data or sorted(entry.index for entry in data) != list(range(n)):
            raise BrokenReply(f"not one vector for each of {n} texts")
        return [[float(x) for x in entry.embedding] for entry in sorted(data, key=lambda entry: int(entry.index))]
    except ODD as error:
        raise BrokenReply("not a list of vectors") from error
