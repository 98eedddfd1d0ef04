"""Check the rankings of a method."""

from __future__ import annotations

import numpy as np

from personalllm.core.types import Histories, Queries
from personalllm.testing._bench import Bench
from personalllm.testing._checks import Clauses
from personalllm.testing._method_answers import close
from personalllm.testing._scenes import Scene, permuted, ragged

__all__ = ["LOG_ODDS", "RANK", "RANK_PERSONAL"]

RANK: Clauses[Bench] = Clauses()
RANK_PERSONAL: Clauses[Bench] = Clauses()
"""For those that learn from the target users' histories."""
LOG_ODDS: Clauses[Bench] = Clauses()
"""For those that say that differences of their scores are log-odds."""

_ALLOWED_LOSS = 0.02


@RANK.clause("rank-order", after=("rank-seeds",))
def _rank_order_of_responses(bench: Bench) -> None:
    """Permuted responses give permuted scores.

    Do not use a response's column: it is shuffled. Break ties by the text if you must.
    """
    moved, order = permuted(bench.scene)
    expected = np.take_along_axis(bench.first("utilities"), order[bench.scene.queries.prompt], axis=1)
    bench.require(
        close(bench.answers("utilities", moved), expected),
        "permuting the responses of the prompts must permute the scores and change nothing else",
    )


@RANK.clause("rank-ragged", after=("rank",))
def _rank_ragged(bench: Bench) -> None:
    """It ranks prompts with different numbers of responses.

    Take the number of responses from queries.corpus.n_responses, which is that of the prompts at hand.
    """
    scene = ragged(bench.scene)
    corpus = scene.queries.corpus
    there = np.arange(corpus.n_responses) < corpus.counts[scene.queries.prompt][:, None]
    scores = bench.trained(scene).utilities(scene.queries)
    bench.require(scores.shape == there.shape, f"utilities must have shape {there.shape}, got {scores.shape}")
    bench.require(np.isfinite(scores[there]).all(), "the utilities of responses that are there must be finite")
    bench.require((scores[~there] == -np.inf).all(), "utilities are -inf beyond the responses of a prompt")


@RANK_PERSONAL.clause("serves-users", after=("rank",))
def _serves_planted_users(bench: Bench) -> None:
    """It serves users of opposite tastes, since it learns from their histories.

    Check the sign (higher is better) and that each query is ranked with its own user's history.
    """
    # Require a mean utility of the choices that is above 0 by 2.6 standard errors over queries (p < .005).
    scene = bench.planted
    chosen = np.argmax(bench.answers("utilities", scene), axis=1)
    gained = scene.utilities[np.arange(len(chosen)), chosen].astype(np.float64)
    mean, error = float(gained.mean()), float(gained.std(ddof=1) / np.sqrt(len(gained)))
    bench.require(
        mean > 2.6 * error,
        "it overrides adapt but does not serve users with opposite tastes: the mean utility of its choices is "
        f"{mean:.3f} (standard error {error:.3f}), a random choice has 0",
    )


@RANK_PERSONAL.clause("adapts-anew", after=("rank-seeds",))
def _adapts_anew(bench: Bench) -> None:
    """adapt() forgets the users of an earlier adapt and leaves what fit learned as it was.

    Write what adapt learns to attributes of its own, and never into those of fit.
    """
    scene, trained = bench.scene, bench.trained(bench.scene)
    trained.adapt(scene.pool).utilities(Queries(scene.queries.corpus, scene.pool.n_users, [0, 3], [20, 21]))  # type: ignore[arg-type]
    trained.adapt(Histories.empty(scene.queries.corpus, scene.targets.n_users)).utilities(scene.queries)
    again = trained.adapt(scene.targets).utilities(scene.queries)
    bench.require(
        np.array_equal(again, bench.first("utilities")), "adapting to others first must not change a user's scores"
    )


@RANK_PERSONAL.clause("adapts-alone", after=("rank-alone",))
def _adapts_alone(bench: Bench) -> None:
    """A user's scores do not depend on who else is adapted to.

    Learn what users share in fit; adapt handles each user by themself.
    """
    scene, trained = bench.scene, bench.trained(bench.scene)
    h, q = scene.targets, scene.queries
    for user in range(h.n_users):
        asked = q.user == user
        trained.adapt(h.of_users(user, user + 1))
        scores = trained.utilities(Queries(q.corpus, 1, np.zeros(int(asked.sum()), dtype=np.int32), q.prompt[asked]))
        bench.require(
            close(scores, bench.first("utilities")[asked]),
            f"the scores of user {user} must not depend on the other target users",
        )


@RANK_PERSONAL.clause("named-users", after=("adapts-alone",))
def _named_users(bench: Bench) -> None:
    """Named users who are updated in turn get the utilities of adapt, and none forgets.

    Let adapt rebind its attributes: a named user shares those of fit and has its own of adapt.
    """
    if "signals" in bench.cls.needs:
        return
    scene, method = bench.scene, bench.trained(bench.scene)
    h, q = scene.targets, scene.queries
    texts = h.corpus.responses
    for rank in range(int(np.diff(h.offsets).max())):
        for user in np.flatnonzero(np.diff(h.offsets) > rank).tolist():
            row = h.offsets[user] + rank
            prompt, chosen, rejected = int(h.prompt[row]), int(h.chosen[row]), int(h.rejected[row])
            shown = list(texts[prompt])
            handle = method.user(f"user {user}")
            pair = {"chosen": shown[chosen], "rejected": shown[rejected]}
            handle.update(h.corpus.prompts[prompt], **pair, shown=shown, best_worst=bool(h.best_worst[row]))
            handle.utilities("in between", ["one", "another"])
    for i, (user, prompt) in enumerate(zip(q.user.tolist(), q.prompt.tolist(), strict=True)):
        scores = method.user(f"user {user}").utilities(q.corpus.prompts[prompt], q.corpus.responses[prompt])
        bench.require(
            close(scores, bench.first("utilities")[i]),
            f"a named user must get the utilities of adapt: {scores}, after adapt {bench.first('utilities')[i]}",
        )


@LOG_ODDS.clause("card")
def _has_a_card(bench: Bench) -> None:
    """It says what it fits and what a new user costs.

    Set the class attributes objective, fitted_per_user and cost, one sentence each.
    """
    for name in ("objective", "fitted_per_user", "cost"):
        value = getattr(bench.cls, name, "")
        bench.require(isinstance(value, str) and value.strip(), f"set the class attribute {name!r} to a sentence")


@LOG_ODDS.clause("cautious-at-first", after=("rank",))
def _cautious_at_first(bench: Bench) -> None:
    """It is not confidently wrong about users of whom it knows nothing.

    Shrink what is learned from the pool, and average over how users differ.
    """
    # Require a log-loss of at most log 2 + 0.02 for unknown users, half of whom want the opposite of the others. Over
    # such users every prediction has a probability of 1/2, so log-odds of l cost `log(2 cosh(l / 2))`, never less
    # than log 2.
    scene = bench.planted
    unknown = Histories.empty(scene.queries.corpus, scene.targets.n_users)
    scores = bench.answers("utilities", Scene(scene.pool, unknown, scene.queries)).astype(np.float64)
    first, second = np.triu_indices(scores.shape[1], 1)
    half = 0.5 * np.abs(scores[:, first] - scores[:, second])
    loss = float((half + np.log1p(np.exp(-2.0 * half))).mean())
    bench.require(
        loss <= np.log(2.0) + _ALLOWED_LOSS,
        f"without a comparison its log-loss is {loss:.3f} where users have opposite tastes, and a coin's is 0.693",
    )
