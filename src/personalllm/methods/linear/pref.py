"""`pref`: a bilinear factorisation of rewards, a user's vector by maximum likelihood, and the next question to ask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from personalllm.core.types import F32, F64, I32, U8, Queries
from personalllm.methods.parts.features import Pairs
from personalllm.methods.parts.linear_method import LinearMethod
from personalllm.methods.parts.logistic import newton_map, sigmoid
from personalllm.methods.parts.low_rank import fit_basis, in_basis, some_users, start_weights

__all__ = ["PReF"]


@dataclass
class PReF(LinearMethod):
    r"""Factorises rewards: $u = \lambda_u^\top B^\top x$, $\lambda_u$ free.

    The factors start from the singular vectors of the users' own fits and are refined by the likelihood of the pool's
    comparisons, the base rewards and the users' vectors in turn; they are scaled so that the pool's vectors have second
    moment 1 in each direction. A new user's vector is $\arg\max_\lambda \sum_i \log\sigma(\lambda \cdot B^\top d_i) -
    \rho |\lambda|^2 / 2$.

    In the authors' code (github.com/idanshen/PReF_code) the base rewards are a linear head of a language model that
    learns along, and start from singular vectors of the matrix of choices; a new user's vector starts at random and
    takes 5,000 steps of gradient descent without a penalty. Here the base rewards are linear in fixed features, and all
    fits are of second order.

    Args:
        n_features: Principal components of the embedding, >= 1.
        n_basis: Base rewards, >= 1.
        ridge: rho, > 0.
        basis_ridge: Penalty of the base rewards, > 0.
        rounds: How often base rewards and vectors are fitted in turn, >= 1.
    """

    id: ClassVar[str] = "pref"
    title: ClassVar[str] = "PReF: reward factorisation"
    paper: ClassVar[str] = (
        "Shenfeld et al., Language Model Personalization via Reward Factorization, arXiv 2503.06358, 2025"
    )
    objective: ClassVar[str] = "The likelihood of the pool's comparisons under a bilinear reward of user and response."
    fitted_per_user: ClassVar[str] = "A free vector of n_basis entries by penalised maximum likelihood."
    cost: ClassVar[str] = "About six Newton steps for a user, each O(min(k, r)^3) for k comparisons and r base rewards."

    n_basis: int = 10
    ridge: float = 1.0
    basis_ridge: float = 3.0
    rounds: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("n_basis", "rounds")
        self.check_number("ridge", "basis_ridge")

    @classmethod
    def example_params(cls) -> dict[str, Any]:
        """Few features, few base rewards."""
        return {"n_features": 8, "n_basis": 3, "rounds": 3}

    def learn(self, pairs: Pairs) -> None:
        """Fit the base rewards, in turn with the vectors of the pool's users."""
        some = some_users(pairs)
        rank = min(self.n_basis, pairs.n_features)
        if not some.n_users:
            self.basis_ = np.zeros((pairs.n_features, rank))
            return
        weights = start_weights(some)
        _, _, axes = np.linalg.svd(weights, full_matrices=False)
        basis = _unit_moments(axes[:rank].T, weights @ axes[:rank].T)
        for _ in range(self.rounds):
            vectors = newton_map(in_basis(some, basis), 0.0, self.ridge).mean
            basis = fit_basis(some, vectors, basis, self.basis_ridge)
            basis = _unit_moments(basis, newton_map(in_basis(some, basis), 0.0, self.ridge).mean)
        self.basis_ = basis

    def user_weights(self, pairs: Pairs) -> F32:
        """Return B lambda_u for each user, and keep what `next_query` needs."""
        laplace = newton_map(in_basis(pairs, self.basis_), 0.0, self.ridge, covariance="each")
        self.vectors_, self.uncertainty_ = laplace.mean, laplace.covariance
        return (laplace.mean @ self.basis_.T).astype(np.float32)

    def next_query(self, queries: Queries) -> tuple[I32, U8, U8]:
        r"""Choose the comparison that tells most about each user, among the pairs of responses that are asked about.

        The information of the comparison of a and b is $\frac12 \log(1 + p (1 - p) \, d^\top V d)$ with $d = B^\top(x_a
        - x_b)$, V the covariance of the user's vector and p the predicted probability.

        Args:
            queries: The prompts that each user could be asked about.

        Returns:
            int32 (n_users,): the row among `queries`, -1 for a user without one; uint8 (n_users,) twice: the two
            responses, columns of the corpus, the lower one first.
        """
        candidates, index = self.features_.candidates(self.embedder, queries)
        z = candidates.astype(np.float64) @ self.basis_
        first, second = np.triu_indices(z.shape[1], k=1)
        best = np.full(queries.n_users, -np.inf)
        row = np.full(queries.n_users, -1, dtype=np.int32)
        pair = np.zeros(queries.n_users, dtype=np.int64)
        step = 4_096
        for start in range(0, len(index), step):
            rows = np.arange(start, min(start + step, len(index)))
            user = queries.user[rows]
            gain = self._information(z[index[rows]][:, first] - z[index[rows]][:, second], user)
            gain[second >= queries.corpus.counts[queries.prompt[rows]][:, None]] = -np.inf
            top = gain.argmax(axis=1)
            value = gain[np.arange(len(rows)), top]
            order = np.lexsort((-rows, value, user))
            last = order[np.flatnonzero(np.diff(user[order], append=-1))]
            better = last[value[last] > best[user[last]]]
            best[user[better]], row[user[better]], pair[user[better]] = value[better], rows[better], top[better]
        return row, first[pair].astype(np.uint8), second[pair].astype(np.uint8)

    def _information(self, differences: F64, user: I32) -> F64:
        """Return the information of comparisons, (n, n_pairs), for differences (n, n_pairs, n_basis)."""
        p = sigmoid((differences @ self.vectors_[user][:, :, None])[:, :, 0])
        spread = ((differences @ self.uncertainty_[user]) * differences).sum(axis=2)
        return np.asarray(0.5 * np.log1p(p * (1.0 - p) * spread))


def _unit_moments(basis: F64, vectors: F64) -> F64:
    """Return the basis in which the users' vectors have second moment 1, as far as they vary."""
    values, axes = np.linalg.eigh(vectors.T @ vectors / len(vectors))
    values, axes = values[::-1], axes[:, ::-1]
    return np.asarray((basis @ axes) * np.sqrt(np.maximum(values, 1e-8)))
