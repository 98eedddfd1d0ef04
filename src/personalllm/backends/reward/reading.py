"""How far scores can be read off what methods see of a text: R^2 within prompts of two readers that know scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from personalllm.backends.reward.surface import surface_features
from personalllm.backends.reward.words import TOKEN
from personalllm.core.protocols import TextEmbedder
from personalllm.core.seeding import generator
from personalllm.core.types import F64

__all__ = ["participation_ratio", "read_by_features", "read_by_vectors", "read_by_words"]

_FOLDS = 5
_PENALTIES = tuple(10.0**power for power in range(-1, 5))
_WORD_PENALTIES = (0.1, 0.3)


def participation_ratio(scores: npt.ArrayLike) -> float:
    """Return how many independent reward models an ensemble acts like within prompts, in [1, n_reward_models].

    (sum l)^2 / sum l^2 over the eigenvalues l of the correlation matrix of scores minus their prompt's mean.

    Args:
        scores: (n_prompts, n_responses, n_reward_models), no reward model constant within all prompts.

    >>> independent = np.random.default_rng(0).normal(size=(500, 8, 4))
    >>> round(participation_ratio(independent), 1)
    4.0
    >>> round(participation_ratio(independent[..., :1].repeat(4, axis=2)), 1)
    1.0
    """
    values = np.linalg.eigvalsh(np.corrcoef(_flat(_within(scores)).T))
    return float(values.sum() ** 2 / (values**2).sum())


def read_by_features(features: npt.ArrayLike, scores: npt.ArrayLike) -> F64:
    """Return R^2 within prompts: the share of each score that a ridge regression recovers on prompts left out.

    Features (to sd 1) and scores are centred within prompts. Five folds of prompts; of six penalties the best for each
    reward model, so the share is an upper end rather than a lower one.

    Args:
        features: (n_prompts, n_responses, n_features).
        scores: (n_prompts, n_responses, n_reward_models).

    Returns:
        float64 (n_reward_models,), at most 1; 0 for no better than the prompt's mean.
    """
    x, y = _within(features), _within(scores)
    x /= np.maximum(_flat(x).std(axis=0), 1e-9)
    lost = np.zeros((len(_PENALTIES), y.shape[-1]))
    for outside in _folds(len(x)):
        known, asked = _flat(x[~outside]), _flat(x[outside])
        values, vectors = np.linalg.eigh(known.T @ known)
        projected, rotated = vectors.T @ (known.T @ _flat(y[~outside])), asked @ vectors
        for i, penalty in enumerate(_PENALTIES):
            guess = rotated @ (projected / (values + penalty)[:, None])
            lost[i] += ((guess - _flat(y[outside])) ** 2).sum(axis=0)
    return _explained(lost, y)


def read_by_vectors(
    prompts: Sequence[str], responses: Sequence[Sequence[str]], scores: npt.ArrayLike, embedder: TextEmbedder
) -> F64:
    """Return `read_by_features` of all numbers that built-in methods have of a response, and more.

    The whole vector of the response, its cosine with that of the prompt, and the twenty surface features.

    Args:
        prompts: Length n_prompts.
        responses: n_prompts rows of n_responses texts.
        scores: (n_prompts, n_responses, n_reward_models).
        embedder: Gives the vectors.
    """
    texts = [text for row in responses for text in row]
    repeated = [prompt for prompt, row in zip(prompts, responses, strict=True) for _ in row]
    vectors = embedder.embed(texts)
    nearness = (vectors * embedder.embed(repeated)).sum(axis=1, keepdims=True)
    features = np.concatenate([vectors, nearness, surface_features(repeated, texts)], axis=1)
    return read_by_features(features.reshape(len(prompts), -1, features.shape[1]), scores)


def read_by_words(responses: Sequence[Sequence[str]], scores: npt.ArrayLike) -> F64:
    """Return the same share for a ridge regression on word TF-IDF (words of two responses or more).

    Args:
        responses: n_prompts rows of n_responses texts.
        scores: (n_prompts, n_responses, n_reward_models).
    """
    from scipy import sparse
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import ridge_regression

    y = _within(scores)
    texts = [text for row in responses for text in row]
    words: Any = TfidfVectorizer(sublinear_tf=True, min_df=2, token_pattern=TOKEN.pattern).fit_transform(texts)
    mean = np.full((y.shape[1], y.shape[1]), 1.0 / y.shape[1])
    centred = (words - sparse.kron(sparse.eye(len(y)), mean) @ words).tocsr()
    lost = np.zeros((len(_WORD_PENALTIES), y.shape[-1]))
    for fold in _folds(len(y)):
        outside = np.repeat(fold, y.shape[1])
        for i, penalty in enumerate(_WORD_PENALTIES):
            w = ridge_regression(centred[~outside], _flat(y[~fold]), penalty, solver="sparse_cg", tol=1e-4)
            lost[i] += ((centred[outside] @ w.T - _flat(y[fold])) ** 2).sum(axis=0)
    return _explained(lost, y)


def _folds(n_prompts: int) -> list[npt.NDArray[np.bool_]]:
    """Return the prompts of each fold, bool (n_prompts,)."""
    fold = generator("readable share", n_prompts).permutation(n_prompts) % _FOLDS
    return [fold == k for k in range(_FOLDS)]


def _within(rows: npt.ArrayLike) -> F64:
    """Return (n_prompts, n_responses, d) rows minus the mean of their prompt."""
    values = np.asarray(rows, np.float64)
    centred: F64 = values - values.mean(axis=1, keepdims=True)
    return centred


def _flat(rows: F64) -> F64:
    flat: F64 = rows.reshape(-1, rows.shape[-1])
    return flat


def _explained(lost: F64, centred: F64) -> F64:
    """Return 1 - the smallest loss of each reward model by its variance."""
    return np.asarray(1.0 - lost.min(axis=0) / (centred**2).sum(axis=(0, 1)), np.float64)
