"""Draw the prompts that users see and their feedback on the responses."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from personalllm.core.errors import AxisMismatch, ParameterError
from personalllm.core.seeding import generator
from personalllm.core.types import F32, F64, I32, U8
from personalllm.feedback.pool import InteractionPool
from personalllm.feedback.rules import FeedbackRule, minorities
from personalllm.users.choices import check_positions, places
from personalllm.users.draws import check_count, user_blocks
from personalllm.users.population import Population
from personalllm.users.tables import blocks, checked_scores, checked_weights, rows_of
from personalllm.users.utility import PAIRS_PER_BLOCK, pair_utilities

if TYPE_CHECKING:
    from personalllm.data import ScoreTable

__all__ = ["interact", "outcomes", "sample_prompts"]

Index = npt.NDArray[np.int64]
Pair: TypeAlias = tuple[npt.NDArray[np.integer[Any]], npt.NDArray[np.integer[Any]]]

_USERS_PER_BLOCK = 256
_DENSE_FACTOR = 64


def sample_prompts(n_users: int, rows: npt.ArrayLike, k: int, seed: int) -> I32:
    """Draw k different prompts for each user, in random order; the first users do not depend on how many follow.

    Args:
        n_users: Number of users, >= 1.
        rows: Distinct integers (n,): what is drawn from, e.g. `benchmark.rows("train")`.
        k: Prompts of each user, in [1, n].
        seed: Seed of the draw.

    Returns:
        int32 (n_users, k), values of `rows`.

    Raises:
        ParameterError: If k or n_users is out of range, or `rows` is not a column of integers.

    >>> sample_prompts(2, [3, 5, 8], 3, seed=0).shape
    (2, 3)
    """
    source = np.asarray(rows)
    if source.ndim != 1 or not np.issubdtype(source.dtype, np.integer):
        raise ParameterError("rows", "a column of integers", f"{source.dtype} of shape {source.shape}")
    count = check_count("n_users", n_users)
    if check_count("k", k) > len(source):
        raise ParameterError("k", f"in [1, {len(source)}], the number of rows", k)
    out = np.empty((count, k), np.int32)
    draw = _draw_sparse if k * k <= _DENSE_FACTOR * len(source) else _draw_dense
    for block, users in user_blocks(count, _USERS_PER_BLOCK):
        rank = draw(users.stop - users.start, len(source), k, (seed, "prompts", block))
        out[users] = source[rank]
    return out


def _draw_sparse(n_users: int, n: int, k: int, key: tuple[str | int, ...]) -> Index:
    """Draw k of n by Floyd's method for all users at once, then shuffle."""
    uniform = generator(*key, "draw").random((n_users, k))
    chosen = np.empty((n_users, k), np.int64)
    for j, last in enumerate(range(n - k, n)):
        candidate = (uniform[:, j] * (last + 1)).astype(np.int64)
        repeated = (chosen[:, :j] == candidate[:, None]).any(axis=1)
        chosen[:, j] = np.where(repeated, last, candidate)
    order = generator(*key, "order").random((n_users, k)).argsort(axis=1)
    return np.take_along_axis(chosen, order, axis=1)


def _draw_dense(n_users: int, n: int, k: int, key: tuple[str | int, ...]) -> Index:
    """Draw k of n as the first of a random order of all."""
    stream = generator(*key, "draw")
    out = np.empty((n_users, k), np.int64)
    for user in blocks(n_users, 16):
        out[user] = stream.random((user.stop - user.start, n)).argsort(axis=1)[:, :k]
    return out


def interact(
    population: Population,
    scores: ScoreTable | F32,
    prompts: npt.ArrayLike,
    rule: FeedbackRule,
    seed: int,
    shown: Pair | None = None,
) -> InteractionPool:
    """Draw every user's comparison of two responses to each of its prompts (paper, section 4).

    The first users do not depend on how many follow; the pairs that are shown do not depend on temperature, flips
    or ties.

    Args:
        population: The users.
        scores: Standardised scores (n_prompts, n_responses, n_reward_models), at least 2 responses.
        prompts: Integers (n_users, k), rows of the scores, in the order in which they are shown.
        rule: Which pair is shown, and how the comparison comes out.
        seed: Seed of all draws.
        shown: The two responses that are compared, integers (n_users, k) each, as `FixedPairs.of` returns them; None:
            the rule chooses them.

    Returns:
        n_users * k interactions, ties marked.

    Raises:
        AxisMismatch: If the reward models differ, or there is not one row of prompts for each user.
        ParameterError: If a prompt or a rank is out of range, or a score is not finite.

    >>> users = Population.one_per_reward_model(("a", "b"))
    >>> scores = np.array([[[1, 3], [2, 0]]], np.float32)
    >>> pool = interact(users, scores, [[0], [0]], FeedbackRule(), seed=0)
    >>> pool.chosen.tolist(), pool.rejected.tolist()
    ([1, 0], [0, 1])
    """
    values, weights = checked_scores(population, scores), checked_weights(population)
    n_prompts, n_responses = values.shape[:2]
    _check(rule, n_responses, shown)
    rows = rows_of(prompts, population.n_users, n_prompts)
    chosen, rejected, tie = _compare_all(weights, values, rows, rule, seed, shown)
    return InteractionPool(
        user=np.repeat(np.arange(population.n_users, dtype=np.int32), rows.shape[1]),
        prompt=rows.ravel(),
        chosen=chosen.ravel(),
        rejected=rejected.ravel(),
        tie=tie.ravel(),
        n_users=population.n_users,
        n_prompts=n_prompts,
        n_responses=n_responses,
        best_worst=shown is None and rule.best_worst(n_responses),
        origin={"rule": rule.spec(), "seed": int(seed)},
    )


def _compare_all(
    weights: F32, values: F32, rows: I32, rule: FeedbackRule, seed: int, shown: Pair | None
) -> tuple[U8, U8, npt.NDArray[np.bool_]]:
    """Return chosen and rejected response and whether they tie, (n_users, k) each, a block of users at a time."""
    chosen, rejected = np.empty(rows.shape, np.uint8), np.empty(rows.shape, np.uint8)
    tie = np.empty(rows.shape, np.bool_)
    for block, users in user_blocks(len(rows), _USERS_PER_BLOCK):
        shape = rows[users].shape
        uniform = _uniforms(rule, shape, (seed, "interact", block))
        flat, user = rows[users].ravel(), np.repeat(np.arange(users.start, users.stop), shape[1])
        given = [side[users].ravel().astype(np.int64) for side in shown or ()]
        parts = [
            _compare(
                *(rule, weights[user[part]], values[flat[part]], {name: u[part] for name, u in uniform.items()}),
                shown=(given[0][part], given[1][part]) if given else None,
            )
            for part in blocks(len(flat), PAIRS_PER_BLOCK)
        ]
        if parts:
            columns = [np.concatenate(column).reshape(shape) for column in zip(*parts, strict=True)]
            chosen[users], rejected[users], tie[users] = columns
    return chosen, rejected, tie


def _check(rule: FeedbackRule, n_responses: int, shown: Pair | None) -> None:
    """Raise unless the rule can choose two of the responses, or was given them."""
    if n_responses < 2:
        raise AxisMismatch("A comparison needs two responses, the scores have one.", "Give scores of 2 or more.")
    n_shown = len(rule.shown(n_responses))
    if rule.pairs == "ranks" and len(set(check_positions(rule.ranks, n_shown))) < 2:
        raise ParameterError("ranks", f"two different positions of {n_shown}", rule.ranks)
    if shown is None and rule.pairs_per_prompt is not None:
        raise ParameterError("shown", "given, since the rule fixes the pairs of each prompt", None)


def _uniforms(rule: FeedbackRule, shape: tuple[int, ...], key: tuple[str | int, ...]) -> dict[str, Any]:
    """Return the uniform numbers that a rule needs, flat, each purpose from a stream of its own."""
    purposes = ["coin"]
    if rule.pairs in {"random", "contested"}:
        purposes += ["first", "second"]
    if rule.temperature:
        purposes.append("outcome")
    if rule.flip:
        purposes.append("flip")
    return {purpose: generator(*key, purpose).random(shape).ravel() for purpose in purposes}


def _compare(
    rule: FeedbackRule, weights: F32, scores: F32, uniform: dict[str, F64], *, shown: tuple[Index, Index] | None
) -> tuple[U8, U8, npt.NDArray[np.bool_]]:
    """Return chosen, rejected and tie, each (n,), for weights (n, n_rms) and scores (n, n_responses, n_rms)."""
    values = pair_utilities(weights, scores)
    first, second = shown or _pairs(rule, values, scores, uniform)
    at = np.arange(len(values))
    wins, tie = outcomes(rule, values[at, first].astype(np.float64) - values[at, second], uniform)
    return np.where(wins, first, second).astype(np.uint8), np.where(wins, second, first).astype(np.uint8), tie


def outcomes(
    rule: FeedbackRule, difference: F64, uniform: Mapping[str, F64]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return whether the first of two responses wins, a tie by a fair coin, and whether they tie; any shape.

    Args:
        rule: How comparisons come out.
        difference: Utility of the first response above that of the second.
        uniform: Uniform numbers of the same shape: `coin`, and `outcome` and `flip` if the rule needs them.
    """
    tie = np.abs(difference) <= rule.tie_margin
    if rule.temperature:
        with np.errstate(over="ignore"):
            probability = 0.5 + 0.5 * np.tanh(difference / rule.temperature / 2)
        wins = uniform["outcome"] < probability
    else:
        wins = difference > 0
    if rule.flip:
        wins = wins ^ (uniform["flip"] < rule.flip)
    return np.where(tie, uniform["coin"] < 0.5, wins), tie


def _pairs(rule: FeedbackRule, values: F32, scores: F32, uniform: dict[str, F64]) -> tuple[Index, Index]:
    """Return two different responses of each row, each (n,)."""
    if rule.responses:
        of_rule, only = dataclasses.replace(rule, responses=()), rule.shown(values.shape[1])
        first, second = _pairs(of_rule, np.ascontiguousarray(values[:, only]), scores[:, only], uniform)
        return only[first], only[second]
    n_responses = values.shape[1]
    if rule.pairs == "best-vs-worst":
        best, worst = values.argmax(axis=1), values.argmin(axis=1)
        return best, np.where(worst == best, n_responses - 1, worst)
    if rule.pairs == "ranks":
        rank = places(np.ascontiguousarray(values.T))
        high, low = (rank == position for position in check_positions(rule.ranks, n_responses))
        return high.argmax(axis=0), low.argmax(axis=0)
    if rule.pairs == "random":
        first = (uniform["first"] * n_responses).astype(np.int64)
        other = (uniform["second"] * (n_responses - 1)).astype(np.int64)
        return first, other + (other >= first)
    return _contested(scores, uniform["first"])


def _contested(scores: F32, uniform: F64) -> tuple[Index, Index]:
    """Return one of the pairs of each row on which the most reward models are in the minority."""
    first, second = np.triu_indices(scores.shape[1], k=1)
    minority = minorities(scores)
    candidates = (minority == minority.max(axis=0)).cumsum(axis=0)
    pick = (candidates > (uniform * candidates[-1]).astype(np.int64)).argmax(axis=0)
    return first[pick], second[pick]
