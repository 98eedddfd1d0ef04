"""A posterior over a finite set of tastes: which of them a user's comparisons speak for, and how these would vote."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from personalllm.core.types import F32, F64, I64
from personalllm.methods.parts.beliefs import Belief
from personalllm.methods.parts.features import Pairs

__all__ = ["learned", "log_likelihoods", "posterior", "vote"]

_NUMBERS = 4_000_000
_LEAST = 1e-4  # a unanimous vote has no finite log-odds; +-9.2 is as sure as any prediction gets


def log_likelihoods(pairs: Pairs, tastes: npt.NDArray[np.floating[Any]]) -> F64:
    r"""Return $\sum_i \omega_i \log \sigma(w_p \cdot d_i)$ over each user's comparisons, float64 (n_users, n_tastes).

    Args:
        pairs: The comparisons, $\omega_i$ their `weights`.
        tastes: (n_tastes, n_features), the weights $w_p$.
    """
    from scipy.sparse import csr_array

    # users of a pool meet the same comparisons again and again: each distinct one is judged once
    n = len(pairs.vectors)
    distinct, index = np.unique(pairs.chosen * n + pairs.rejected, return_inverse=True)
    times = csr_array((pairs.weights, (pairs.user, index.ravel())), shape=(pairs.n_users, len(distinct))).tocsc()
    result, weights = np.zeros((pairs.n_users, len(tastes))), tastes.astype(np.float32).T
    step = max(1, _NUMBERS // max(1, len(tastes)))
    for start in range(0, len(distinct), step):
        block = distinct[start : start + step]
        logits = (pairs.vectors[block // n] - pairs.vectors[block % n]) @ weights
        # log(1 + exp(-x)) without overflow; faster than logaddexp, and this line is where the time goes
        losses = np.maximum(-logits, 0) + np.log1p(np.exp(-np.abs(logits)))
        result -= times[:, start : start + step] @ losses.astype(np.float64)
    return result


def learned(tastes: F64, log_prior: F64, pairs: Pairs, before: Belief | None = None) -> Belief:
    """Return the posterior over tastes, (n_tastes, n_features), as a belief; `before` as in `Posterior.belief`."""
    n = pairs.n_preferences
    if before is None or before.log_shares is None:
        return Belief.of_particles(tastes, log_prior + log_likelihoods(pairs, tastes), n)
    new = pairs.where(pairs.places >= before.n[pairs.user])
    return Belief.of_particles(tastes, before.log_shares + log_likelihoods(new, tastes), n)


def posterior(log_prior: npt.ArrayLike, log_likelihood: F64) -> F64:
    """Return the share of each taste, float64 (n_users, n_tastes), rows of sum 1."""
    log = np.asarray(log_prior) + log_likelihood
    shares = np.exp(log - log.max(axis=1, keepdims=True))  # the largest is exp(0): no row underflows to all zeros
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def vote(shares: F64, tastes: npt.NDArray[np.floating[Any]], candidates: F32, index: I64, user: npt.ArrayLike) -> F32:
    r"""Return scores whose differences come nearest to the log-odds of the tastes' vote.

    The vote of a pair is $P_{ab} = \sum_p \pi_p \sigma(w_p \cdot (x_a - x_b))$. Log-odds of votes need not be
    differences of scores, so the scores are the least-squares fit over the pairs of a prompt:
    $s_a = \frac{1}{m} \sum_b \log \frac{P_{ab}}{P_{ba}}$. Votes are kept in [0.0001, 0.9999].

    Args:
        shares: float64 (n_users, n_tastes).
        tastes: (n_tastes, n_features).
        candidates: float32 (n_distinct_prompts, n_responses, n_features).
        index: int64 (n_queries,), the prompt of each query among the candidates.
        user: Integers (n_queries,).

    Returns:
        float32 (n_queries, n_responses).
    """
    width = candidates.shape[1]
    result = np.zeros((len(index), width), dtype=np.float32)
    first, second = np.triu_indices(width, 1)
    fold = np.zeros((len(first), width))
    fold[np.arange(len(first)), first], fold[np.arange(len(first)), second] = 1.0 / width, -1.0 / width
    who, weights = np.asarray(user), tastes.astype(np.float32).T
    order = np.argsort(index, kind="stable")
    bounds = np.searchsorted(index[order], np.arange(len(candidates) + 1))
    for prompt, features in enumerate(candidates):
        rows = order[bounds[prompt] : bounds[prompt + 1]]
        utilities = features @ weights
        votes = 0.5 + 0.5 * np.tanh(0.5 * (utilities[first] - utilities[second]).astype(np.float64))
        won = np.clip(shares[who[rows]] @ votes.T, _LEAST, 1.0 - _LEAST)
        result[rows] = np.log(won / (1.0 - won)) @ fold
    return result
