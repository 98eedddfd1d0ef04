"""How users rank the responses that they compared, and what a pool of users thinks of any response."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Self

import numpy as np
import numpy.typing as npt

from personalllm.core.protocols import TextEmbedder
from personalllm.core.types import F32, F64, I32, I64, Corpus, Histories
from personalllm.methods.parts.features import FeatureMap, text_blocks, used_responses

__all__ = ["Names", "Standings", "Tastes", "pool_weights", "response_names"]

Names = npt.NDArray[np.uint64]

_PSEUDO_RATERS = 1.0
_PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 1e9)
"""On the squares of slopes; the last one says that text tells nothing."""

_HELD_OUT = 4
_TUNED_ON = 100
_BLOCK = 200


def response_names(corpus: Corpus, keys: I64) -> Names:
    """Return 64 bits that stand for the texts of prompt and response, uint64 (n,), of ascending keys."""
    result = np.empty(len(keys), dtype=np.uint64)
    prompts = (keys // max(1, corpus.n_responses)).tolist()
    for block, texts in text_blocks(corpus, keys):
        for i, text in enumerate(texts, block.start):
            name = blake2b(f"{corpus.prompts[prompts[i]]}\0{text}".encode(), digest_size=8)
            result[i] = int.from_bytes(name.digest(), "little")
    return result


@dataclass(frozen=True, eq=False)
class Standings:
    """How users rank the responses that they compared.

    The standing of a response for a user is (wins - losses) / (comparisons + 1), in (-1, 1): with all comparisons among
    the responses of a prompt it is their rank. All comparisons that an interaction implies count.

    Attributes:
        n_users: Number of users.
        user: int64 (n,), ascending.
        item: int64 (n,), rows of `names`.
        value: float64 (n,).
        names: uint64 (n_items,), ascending: the texts.
        features: float64 (n_items, n_features), of the responses, less their mean in the prompt.
        prompt: int64 (n_items,): a number for each prompt.
    """

    n_users: int
    user: I64
    item: I64
    value: F64
    names: Names
    features: F64
    prompt: I64

    @classmethod
    def of(cls, histories: Histories, features: FeatureMap, embedder: TextEmbedder) -> Self:
        """Return the standings in some histories."""
        comparisons = histories.implied()[0]
        keys, sides = used_responses(comparisons)
        names, first, item_of = np.unique(
            response_names(comparisons.corpus, keys), return_index=True, return_inverse=True
        )
        vectors = features.of_keys(embedder, comparisons.corpus, keys)[first].astype(np.float64)
        prompt = keys[first] // max(1, comparisons.corpus.n_responses)
        cell = np.concatenate(
            [comparisons.user.astype(np.int64) * len(names) + item_of.ravel()[side] for side in sides]
        )
        won = np.repeat([1.0, -1.0], len(comparisons))
        cells, index, times = np.unique(cell, return_inverse=True, return_counts=True)
        value = np.bincount(index.ravel(), won, len(cells)) / (times + 1.0)
        user, item = np.divmod(cells, max(1, len(names)))
        return cls(comparisons.n_users, user, item, value, names, within(vectors, prompt), prompt)

    @cached_property
    def offsets(self) -> I64:
        """int64 (n_users + 1,): the rows of user u are `offsets[u]:offsets[u + 1]`."""
        return np.searchsorted(self.user, np.arange(self.n_users + 1)).astype(np.int64)

    def where(self, rows: npt.NDArray[np.bool_], users: I64 | None = None) -> Standings:
        """Return some rows, of all users or of those listed, ascending, who are numbered from 0; the items stay."""
        user, n_users = self.user, self.n_users
        if users is not None:
            number = np.full(self.n_users, -1)
            number[users] = np.arange(len(users))
            user, n_users = number[self.user], len(users)
            rows = rows & (user >= 0)
        return Standings(n_users, user[rows], self.item[rows], self.value[rows], self.names, self.features, self.prompt)


def within(values: F64, prompt: I64) -> F64:
    """Return values, (n, n_features), less their mean over the rows of the same prompt."""
    index = np.unique(prompt, return_inverse=True)[1].ravel()
    total = np.zeros((int(index.max(initial=-1)) + 1, values.shape[1]))
    np.add.at(total, index, values)
    centred: F64 = values - (total / np.maximum(1, np.bincount(index))[:, None])[index]
    return centred


@dataclass(frozen=True, eq=False)
class Tastes:
    """What each user of a pool thinks of any response: a column of standings, observed or expected from the text.

    Attributes:
        names: uint64 (n_items,), ascending: responses that somebody ranked.
        mean: float64 (n_items,): their mean standings, those that few ranked drawn to what their text says.
        mean_slopes: float64 (n_features,): the mean standing of a text.
        user_slopes: float64 (n_users, n_features): how a user's standing of a text differs from it.
        rows: int32 (n,), which users ranked the items beyond what text and mean say, item by item.
        extra: float32 (n,): by how much, times users over raters, so that products of columns are covariances.
        starts: int64 (n_items + 1,): item j has the rows `starts[j]:starts[j + 1]`.
        variance: Of a standing about its mean.
    """

    names: Names
    mean: F64
    mean_slopes: F64
    user_slopes: F64
    rows: I32
    extra: F32
    starts: I64
    variance: float

    @classmethod
    def fit(cls, standings: Standings) -> Self:
        """Fit them to the standings of a pool; the two penalties are those that predict prompts held out best."""
        x, n_items = standings.features, len(standings.names)
        raters = np.bincount(standings.item, minlength=n_items).astype(np.float64)
        total = np.bincount(standings.item, standings.value, n_items).astype(np.float64)
        mean_slopes = _mean_slopes(x, total, raters, standings.prompt)
        mean = (total + _PSEUDO_RATERS * (x @ mean_slopes)) / (raters + _PSEUDO_RATERS)
        above = standings.value - mean[standings.item]
        user_slopes = _user_slopes(standings, above)
        extra = above - np.einsum("nd,nd->n", x[standings.item], user_slopes[standings.user])
        share = (raters + _PSEUDO_RATERS) / (standings.n_users + _PSEUDO_RATERS)
        order = np.lexsort((standings.user, standings.item))
        return cls(
            names=standings.names,
            mean=mean,
            mean_slopes=mean_slopes,
            user_slopes=user_slopes,
            rows=standings.user[order].astype(np.int32),
            extra=(extra / share[standings.item])[order].astype(np.float32),
            starts=np.concatenate([[0], np.cumsum(raters)]).astype(np.int64),
            variance=float(np.mean(above**2)) if len(above) else 1.0,
        )

    @property
    def n_users(self) -> int:
        """Number of users of the pool."""
        return len(self.user_slopes)

    def index(self, names: Names) -> I64:
        """Return int64 (n,): the position of each response among those that somebody ranked; -1 for a new one."""
        if not len(self.names):
            return np.full(len(names), -1)
        place = np.minimum(np.searchsorted(self.names, names), len(self.names) - 1)
        return np.where(self.names[place] == names, place, -1)

    def means(self, names: Names, features: F64) -> F64:
        """Return the mean standing of responses, float64 (n,)."""
        index, means = self.index(names), features @ self.mean_slopes
        return np.where(index >= 0, self.mean[index] if len(self.mean) else 0.0, means)

    def columns(self, names: Names, features: F64) -> F64:
        """Return how each user of the pool stands to responses beyond the mean, float64 (n_users, n)."""
        columns: F64 = self.user_slopes @ features.T
        for place, item in enumerate(self.index(names).tolist()):
            if item >= 0:
                of = slice(self.starts[item], self.starts[item + 1])
                columns[self.rows[of], place] += self.extra[of]
        return columns


def pool_weights(tastes: Tastes, standings: Standings, noise: float) -> F64:
    r"""Return the weights of the pool's users with which their standings add up to new users', (n_users, n_pool_users).

    The standings z of all responses are jointly Gaussian with the covariance $Z^\top Z / n$ of the pool's users, plus
    `noise` times the variance on the diagonal. What a new user compared says how responses h stand to each other within
    a prompt, $M z_h$; the expectation of $z$ given that is $m + Z^\top a$ with
    $a = Z_h M^\top (M K_h M^\top)^{-1} M (y - m_h) / n$.

    Args:
        tastes: Of the pool.
        standings: Of new users.
        noise: Share of the variance, > 0.
    """
    n = max(1, tastes.n_users)
    weights = np.zeros((standings.n_users, tastes.n_users))
    for start in range(0, standings.n_users, _BLOCK):
        stop = min(standings.n_users, start + _BLOCK)
        first, *_, last = standings.offsets[start : stop + 1]
        items, place = np.unique(standings.item[first:last], return_inverse=True)
        names, x = standings.names[items], standings.features[items]
        columns, means = tastes.columns(names, x).T.copy(), tastes.means(names, x)
        for user in range(start, stop):
            rows = slice(standings.offsets[user], standings.offsets[user + 1])
            of = place.ravel()[rows.start - first : rows.stop - first]
            if not len(of):
                continue
            prompt = standings.prompt[items[of]]
            same = (prompt[:, None] == prompt).astype(np.float64)
            centred = np.eye(len(of)) - same / same.sum(axis=1)
            z = centred @ columns[of]
            kernel = z @ z.T / n + noise * tastes.variance * np.eye(len(of))
            weights[user] = np.linalg.solve(kernel, centred @ (standings.value[rows] - means[of])) @ z / n
    return weights


def _mean_slopes(x: F64, total: F64, raters: F64, prompt: I64) -> F64:
    """Return the slopes of the mean standing, each item weighted by how sure its mean is."""
    weight = raters / (raters + _PSEUDO_RATERS)
    mean = total / np.maximum(1.0, raters)

    def slopes(items: npt.NDArray[np.bool_], penalty: float) -> F64:
        of = x[items] * weight[items, None]
        gram = of.T @ x[items] + penalty * np.eye(x.shape[1])
        return np.asarray(np.linalg.solve(gram, of.T @ mean[items]), np.float64)

    held = _held(prompt)
    losses = [
        float((weight[held] * (mean[held] - x[held] @ slopes(~held, penalty)) ** 2).sum()) for penalty in _PENALTIES
    ]
    return slopes(np.ones(len(x), np.bool_), _PENALTIES[int(np.argmin(losses))])


def _user_slopes(standings: Standings, above: F64) -> F64:
    """Return each user's slopes beyond those of the mean, float64 (n_users, n_features)."""
    d, rows = standings.features.shape[1], np.ones(len(above), np.bool_)
    some = np.unique(np.linspace(0, max(0, standings.n_users - 1), _TUNED_ON).astype(np.int64))[: standings.n_users]

    def slopes(used: npt.NDArray[np.bool_], penalty: float, users: I64) -> F64:
        result = np.zeros((standings.n_users, d))
        for user in users.tolist():
            of = slice(standings.offsets[user], standings.offsets[user + 1])
            x = standings.features[standings.item[of][used[of]]]
            if len(x):
                result[user] = np.linalg.solve(x.T @ x + penalty * np.eye(d), x.T @ above[of][used[of]])
        return result

    held = _held(standings.prompt[standings.item])
    tested = held & np.isin(standings.user, some)

    def loss(penalty: float) -> float:
        expected = np.einsum(
            "nd,nd->n", standings.features[standings.item[tested]], slopes(~held, penalty, some)[standings.user[tested]]
        )
        return float(((above[tested] - expected) ** 2).sum())

    penalty = _PENALTIES[int(np.argmin([loss(penalty) for penalty in _PENALTIES]))]
    return slopes(rows, penalty, np.arange(standings.n_users))


def _held(prompt: I64) -> npt.NDArray[np.bool_]:
    """Return whether each row is of a prompt that is held out: every fourth."""
    return np.isin(prompt, np.unique(prompt)[_HELD_OUT - 1 :: _HELD_OUT])
