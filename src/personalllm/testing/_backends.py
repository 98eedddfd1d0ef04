"""The contracts of the backends, as checks."""

from __future__ import annotations

import pickle
from collections.abc import Sequence

import numpy as np

from personalllm.errors import PersonalLLMError
from personalllm.protocols import ChatModel, RewardEnsemble, TextEmbedder
from personalllm.testing._scenes import ODD_TEXTS
from personalllm.types import ChatReply, ChatRequest, Message

__all__ = ["check_chat_model", "check_embedder", "check_reward_ensemble"]

_PLAIN = ("A short text.", "Another one, about rain in April.", "A recipe: two eggs, flour, and a pinch of salt.")


def _require(subject: object, condition: object, message: str) -> None:
    if not condition:
        raise AssertionError(f"{type(subject).__name__}: {message}.")


def _check_names(subject: TextEmbedder | ChatModel) -> None:
    for name in ("name", "identity"):
        value = getattr(subject, name)
        _require(subject, isinstance(value, str) and value, f"{name} must be a non-empty text, got {value!r}")


def check_embedder(embedder: TextEmbedder) -> None:
    """Raise `AssertionError` unless an embedder keeps the contract of `personalllm.protocols.TextEmbedder`.

    Checked: names; float32 unit rows of length `dim`; equal vectors on a second call, from a pickled copy, and for a
    text alone (to 1e-5); unicode, blank and very long texts; different texts told apart; inputs left as they were.

    >>> from personalllm.testing import HashEmbedder
    >>> check_embedder(HashEmbedder())
    """
    _check_names(embedder)
    texts = [*_PLAIN, *ODD_TEXTS]
    vectors = embedder.embed(texts)
    shape = (len(texts), embedder.dim)
    _require(embedder, texts == [*_PLAIN, *ODD_TEXTS], "embed must leave its input as it was")
    _require(embedder, vectors.dtype == np.float32, f"embed must return float32, got {vectors.dtype}")
    _require(embedder, vectors.shape == shape, f"embed must return (n_texts, dim) = {shape}, got {vectors.shape}")
    _require(embedder, np.isfinite(vectors).all(), "vectors must be finite")
    lengths = np.linalg.norm(vectors, axis=1)
    _require(embedder, np.allclose(lengths, 1, atol=1e-4), f"rows must have unit length, got {lengths}")
    _require(embedder, np.array_equal(embedder.embed(texts), vectors), "a second call must give equal vectors")
    copy = pickle.loads(pickle.dumps(embedder))  # noqa: S301
    _require(embedder, copy.identity == embedder.identity, "a pickled copy must have the same identity")
    _require(embedder, np.array_equal(copy.embed(texts), vectors), "a pickled copy must give equal vectors")
    for i, text in enumerate(texts):
        off = float(np.abs(embedder.embed([text])[0] - vectors[i]).max())
        _require(embedder, off <= 1e-5, f"a vector must not depend on the other texts; text {i} is off by {off:.1e}")
    empty = embedder.embed([])
    _require(embedder, empty.shape == (0, embedder.dim), f"embed([]) must be (0, dim), got {empty.shape}")
    cosines = vectors[: len(_PLAIN)] @ vectors[: len(_PLAIN)].T
    apart = cosines[~np.eye(len(_PLAIN), dtype=bool)].max()
    _require(embedder, apart < 0.999, f"different texts must have different vectors, got a cosine of {apart:.4f}")


def _requests() -> list[ChatRequest]:
    texts = (*_PLAIN, *ODD_TEXTS[:-1])
    plain = [ChatRequest((Message("user", text),), max_tokens=6) for text in texts]
    turns = (Message("user", "Say a word."), Message("assistant", "Rain."), Message("user", "Another."))
    system = (Message("system", "Be brief."), Message("user", "Why is the sky blue?"))
    sampled = [ChatRequest(turns, max_tokens=6, temperature=0.8, seed=seed) for seed in (1, 2)]
    return [*plain, ChatRequest(turns, max_tokens=6), ChatRequest(system, max_tokens=6), *sampled]


def check_chat_model(model: ChatModel) -> None:
    """Raise `AssertionError` unless a chat model keeps the contract of `personalllm.protocols.ChatModel`.

    Checked: names; one reply for each request, in order; equal replies on a second call, from a pickled copy, and for a
    request alone, greedy and seeded; `max_tokens` kept and `finish_reason` true; token counts that agree with
    `count_tokens`; unicode; a prompt longer than the context refused with an error of this package, not cut.

    >>> from personalllm.testing import EchoChatModel
    >>> check_chat_model(EchoChatModel())
    """
    _check_names(model)
    _require(model, model.context_length >= 1, f"context_length must be >= 1, got {model.context_length}")
    requests = _requests()
    replies = model.chat(requests)
    _check_replies(model, requests, replies)
    _require(model, model.chat([]) == [], "chat([]) must be []")
    _require(model, model.chat(requests) == replies, "a second call must give equal replies")
    copy = pickle.loads(pickle.dumps(model))  # noqa: S301
    _require(model, copy.identity == model.identity, "a pickled copy must have the same identity")
    for i in (0, len(requests) - 1):
        alone = copy.chat([requests[i]])
        _require(model, alone == [replies[i]], f"a pickled copy must reply alike to request {i} alone, got {alone}")
    reverse = model.chat(requests[::-1])[::-1]
    _require(model, reverse == replies, "a reply must not depend on the other requests")
    too_long = ChatRequest((Message("user", "word " * model.context_length),), max_tokens=1)
    try:
        model.chat([too_long])
    except PersonalLLMError:
        return
    raise AssertionError(f"{type(model).__name__}: a prompt longer than the context must raise a PersonalLLMError.")


def _check_replies(model: ChatModel, requests: Sequence[ChatRequest], replies: Sequence[ChatReply]) -> None:
    n = len(requests)
    _require(model, len(replies) == n, f"chat must return one reply for each of {n} requests, got {len(replies)}")
    for request, reply in zip(requests, replies, strict=True):
        _require(model, isinstance(reply, ChatReply), f"chat must return ChatReply objects, got {reply!r}")
        _require(model, reply.text == reply.text.strip(), f"white space around a reply must be removed: {reply.text!r}")
        within = 0 <= reply.completion_tokens <= request.max_tokens
        _require(model, within, f"{reply.completion_tokens} new tokens, more than max_tokens={request.max_tokens}")
        reason = reply.finish_reason
        _require(model, reason in ("stop", "length"), f"finish_reason must be 'stop' or 'length', got {reason!r}")
        cut = reason == "length"
        _require(
            model,
            not cut or reply.completion_tokens == request.max_tokens,
            f"finish_reason is 'length' after {reply.completion_tokens} of {request.max_tokens} tokens",
        )
        counted = model.count_tokens(request.messages)
        _require(
            model,
            counted == reply.prompt_tokens,
            f"count_tokens says {counted}, the reply says {reply.prompt_tokens} prompt tokens",
        )


def check_reward_ensemble(ensemble: RewardEnsemble) -> None:
    """Raise `AssertionError` unless an ensemble keeps the contract of `personalllm.protocols.RewardEnsemble`.

    Checked: distinct names; finite float32 scores; equal scores on a second call, from a pickled copy, and for a pair
    alone (to 1e-4); unicode, blank and very long texts; scores that depend on the response; unequal lengths refused.

    >>> from personalllm.testing import SurfaceRewards
    >>> check_reward_ensemble(SurfaceRewards())
    """
    names = ensemble.reward_models
    _require(ensemble, bool(names) and type(names) is tuple, f"reward_models must be a non-empty tuple, got {names!r}")
    _require(ensemble, len(set(names)) == len(names), f"the names of the reward models must differ, got {names}")
    _require(ensemble, type(ensemble.identity) is str and ensemble.identity, "identity must be a non-empty text")
    texts = [*_PLAIN, *ODD_TEXTS]
    pairs = [(prompt, response) for prompt in (_PLAIN[0], *ODD_TEXTS) for response in texts[:5]]
    pairs += [(_PLAIN[1], text) for text in texts]
    prompts, responses = [prompt for prompt, _ in pairs], [response for _, response in pairs]
    scores = ensemble.score(prompts, responses)
    shape = (len(pairs), len(names))
    _require(ensemble, scores.dtype == np.float32, f"score must return float32, got {scores.dtype}")
    _require(ensemble, scores.shape == shape, f"score must return (n, n_reward_models) = {shape}, got {scores.shape}")
    _require(ensemble, np.isfinite(scores).all(), "scores must be finite")
    _require(ensemble, [*zip(prompts, responses, strict=True)] == pairs, "score must leave its inputs as they were")
    _require(ensemble, np.array_equal(ensemble.score(prompts, responses), scores), "a second call must score alike")
    copy = pickle.loads(pickle.dumps(ensemble))  # noqa: S301
    _require(ensemble, copy.reward_models == names, "a pickled copy must have the same reward models")
    _require(ensemble, np.array_equal(copy.score(prompts, responses), scores), "a pickled copy must score alike")
    scale = np.maximum(1.0, np.abs(scores).max(axis=0))
    for i, (prompt, response) in enumerate(pairs):
        off = float((np.abs(ensemble.score([prompt], [response])[0] - scores[i]) / scale).max())
        _require(ensemble, off <= 1e-4, f"a score must not depend on the other pairs; pair {i} is off by {off:.1e}")
    empty = ensemble.score([], [])
    _require(ensemble, empty.shape == (0, len(names)), f"score([], []) must be (0, {len(names)}), got {empty.shape}")
    same = [name for name, column in zip(names, scores[-len(texts) :].T, strict=True) if np.ptp(column) == 0]
    _require(ensemble, not same, f"scores must depend on the response; constant: {same}")
    try:
        ensemble.score(["one", "two"], ["only one"])
    except (PersonalLLMError, ValueError):
        return
    raise AssertionError(f"{type(ensemble).__name__}: score must refuse two prompts with one response.")
