"""Tiny deterministic stand-ins for the backends: for contract tests only, never for results."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from personalllm.core.errors import AxisMismatch, RunError
from personalllm.core.types import F32, I32, U8, ChatReply, ChatRequest, Corpus, Message

__all__ = ["EchoChatModel", "HashEmbedder", "PlantedSignals", "SurfaceRewards", "surface_signals"]


@lru_cache(maxsize=65_536)
def _word_vector(word: str, dim: int) -> F32:
    """Return the Gaussian direction that belongs to a word, float32 (dim,)."""
    seed = int.from_bytes(hashlib.sha256(word.encode("utf-8", "surrogatepass")).digest()[:8], "little")
    vector = np.random.Generator(np.random.PCG64(seed)).standard_normal(dim).astype(np.float32)
    vector.setflags(write=False)
    return vector


@lru_cache(maxsize=16_384)
def _text_vector(text: str, dim: int) -> F32:
    """Return the unit sum of the words' directions, float32 (dim,); tests embed the same texts many times."""
    words = text.lower().split() or [""]
    vector = np.sum([_word_vector(word, dim) for word in words], axis=0, dtype=np.float64)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


@dataclass(frozen=True)
class HashEmbedder:
    """Bag of words: each word has a fixed random direction, a text is their sum at unit length.

    For contract tests only: it knows words, no meaning. Figures obtained with it are not results.

    >>> HashEmbedder(dim=8).embed(["two words", "words two"]).shape
    (2, 8)
    """

    dim: int = 64
    name: ClassVar[str] = "hash-stand-in"

    @property
    def identity(self) -> str:
        """Name and length of a vector."""
        return f"{self.name}-{self.dim}"

    def embed(self, texts: Sequence[str]) -> F32:
        """Return float32 (n_texts, dim), rows of unit length."""
        result = np.zeros((len(texts), self.dim), dtype=np.float32)
        for i, text in enumerate(texts):
            result[i] = _text_vector(text, self.dim)
        return result


@dataclass(frozen=True)
class EchoChatModel:
    """Replies with words drawn from the messages by a hash of (messages, temperature > 0, seed).

    For contract tests only: it understands nothing. A token is a word, plus four for each turn.

    >>> EchoChatModel().chat([ChatRequest((Message("user", "say one thing"),), max_tokens=2)])[0].completion_tokens
    2
    """

    context_length: int = 8_192
    name: ClassVar[str] = "echo-stand-in"

    @property
    def identity(self) -> str:
        """Name and context length."""
        return f"{self.name}-{self.context_length}"

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Return the number of words plus four for each turn."""
        return sum(4 + len(message.content.split()) for message in messages)

    def chat(self, requests: Sequence[ChatRequest]) -> list[ChatReply]:
        """Reply to each request.

        Raises:
            RunError: If messages and reply do not fit into the context window.
        """
        return [self._reply(request) for request in requests]

    def _reply(self, request: ChatRequest) -> ChatReply:
        used = self.count_tokens(request.messages)
        if used + request.max_tokens > self.context_length:
            raise RunError(
                f"{used} prompt tokens and {request.max_tokens} new ones exceed the context of {self.context_length}."
            )
        words = " ".join(message.content for message in request.messages).split() or ["nothing"]
        draw = (repr(request.messages), request.temperature > 0 and request.seed)
        digest = hashlib.sha256(repr(draw).encode("utf-8", "surrogatepass")).digest()
        length = 4 + digest[0] % 13
        n = min(length, request.max_tokens)
        text = " ".join(words[(digest[i % 32] * 257 + i) % len(words)] for i in range(n))
        return ChatReply(text, "stop" if n == length else "length", used, n)


@dataclass(frozen=True)
class SurfaceRewards:
    """Four reward models that count characters, distinct words, words shared with the prompt, and (-) commas.

    For contract tests only: surface counts are not preferences.
    """

    reward_models: ClassVar[tuple[str, ...]] = ("characters", "distinct", "few_commas", "on_topic")

    @property
    def identity(self) -> str:
        """Fixed."""
        return "surface-stand-in"

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> F32:
        """Return counts, float32 (n, 4).

        Raises:
            AxisMismatch: If there are not as many responses as prompts.
        """
        if len(prompts) != len(responses):
            raise AxisMismatch(f"{len(prompts)} prompts but {len(responses)} responses.")
        rows = [
            (len(response), len(set(response.split())), -response.count(","), _shared(prompt, response))
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        return np.array(rows, dtype=np.float32).reshape(len(rows), len(self.reward_models))


@dataclass(frozen=True, eq=False)
class PlantedSignals:
    """Scores of planted reward models.

    Attributes:
        scores: float32 (n_prompts, n_responses, n_reward_models), standardised over all responses.
    """

    scores: F32
    identity: ClassVar[str] = "planted-signals"

    @property
    def reward_models(self) -> tuple[str, ...]:
        """`planted-1`, `planted-2` and so on."""
        return tuple(f"planted-{i + 1}" for i in range(self.scores.shape[2]))

    def vectors(self, prompts: I32, columns: U8) -> F32:
        """Return the scores of these responses, float32 (n, n_reward_models)."""
        return self.scores[prompts, columns]


def surface_signals(corpus: Corpus) -> PlantedSignals:
    """Return the scores of `SurfaceRewards` for the responses of a corpus, standardised."""
    rewards = SurfaceRewards()
    scores = np.zeros((corpus.n_prompts, corpus.n_responses, len(rewards.reward_models)))
    for row, (prompt, responses) in enumerate(zip(corpus.prompts, corpus.responses, strict=True)):
        scores[row, : len(responses)] = rewards.score([prompt] * len(responses), responses)
    spread = scores.std(axis=(0, 1))
    scaled = (scores - scores.mean(axis=(0, 1))) / np.where(spread > 0, spread, 1.0)
    return PlantedSignals(scaled.astype(np.float32))


def _shared(prompt: str, response: str) -> int:
    """Count the distinct words that a prompt and a response share."""
    return len({*prompt.lower().split()} & {*response.lower().split()})
