"""What a ranking must keep to."""

from __future__ import annotations

import numpy as np

from personalllm.core.types import F32, Histories, Queries
from personalllm.testing._bench import Bench, bare_scenes
from personalllm.testing._checks import Clauses
from personalllm.testing._scenes import Scene, alone, odd_scene, permuted, ragged, small_scene, snapshot

__all__ = ["LOG_ODDS", "RANK", "RANK_PERSONAL"]

RANK: Clauses[Bench] = Clauses()
RANK_PERSONAL: Clauses[Bench] = Clauses()
"""For those that learn from the target users' histories."""
LOG_ODDS: Clauses[Bench] = Clauses()
"""For those that say that differences of their scores are log-odds."""

_ALLOWED_LOSS = 0.02


def _close(scores: F32, expected: F32) -> bool:
    """Tell whether scores agree but for the rounding of float32 sums."""
    scale = float(np.abs(expected).max(initial=0.0))
    return bool(np.allclose(scores, expected, rtol=1e-4, atol=1e-5 * scale))


@RANK.clause(
    "rank",
    "utilities returns finite float32 (n_queries, n_responses).",
    "One row for each query, one column for each response: end with .astype(np.float32).",
    after=("parameters-stay",),
)
def _ranks(bench: Bench) -> None:
    _ = bench.scores


@RANK.clause(
    "rank-inputs",
    "Ranking leaves its inputs as they were.",
    "Copy before you change: the corpus and the histories belong to the evaluation.",
    after=("rank",),
)
def _rank_leaves_inputs(bench: Bench) -> None:
    scene = small_scene()
    before = snapshot(scene)
    bench.ranked(scene)
    bench.require(snapshot(scene) == before, "fit, adapt and rank must leave their inputs as they were")


@RANK.clause(
    "rank-seeds",
    "Equal seeds give equal ranks.",
    "Draw with personalllm.core.seeding.generator(self.seed, ...), not with np.random or random.",
    after=("rank", "rank-inputs"),
)
def _rank_equal_seeds(bench: Bench) -> None:
    bench.require(np.array_equal(bench.ranked(bench.scene), bench.scores), "equal seeds must give equal ranks")


@RANK.clause(
    "rank-pickle",
    "A copy by pickle ranks alike after fit and adapt.",
    "Keep arrays and plain values, no lambda, generator or open file.",
    after=("rank-seeds",),
)
def _rank_pickles(bench: Bench) -> None:
    copy = bench.copied(bench.trained(bench.scene), "after fit and adapt")
    ranked = copy.utilities(bench.scene.queries)
    bench.require(np.array_equal(ranked, bench.scores), "a pickled copy must rank alike after fit and adapt")


@RANK.clause(
    "rank-alone",
    "A query is ranked alike alone and in a batch.",
    "Do not normalise over the batch, and draw nothing in the order of the queries.",
    after=("rank-seeds",),
)
def _rank_alone(bench: Bench) -> None:
    trained = bench.trained(bench.scene)
    trained.utilities(bench.scene.queries)
    for i in range(len(bench.scene.queries)):
        single = trained.utilities(alone(bench.scene.queries, i))[0]
        bench.require(
            _close(single, bench.scores[i]),
            f"a query's scores must not depend on the other queries: {single} alone, {bench.scores[i]} in the batch",
        )


@RANK.clause(
    "rank-refit",
    "A second fit replaces the first.",
    "Start from nothing in fit and adapt.",
    after=("rank-seeds",),
)
def _rank_refit(bench: Bench) -> None:
    scene, trained = bench.scene, bench.trained(bench.scene)
    again = trained.fit(scene.pool).adapt(scene.targets).utilities(scene.queries)
    bench.require(np.array_equal(again, bench.scores), "a second fit must replace the first, not add to it")


@RANK.clause(
    "rank-order",
    "Permuted responses give permuted scores.",
    "Do not use a response's column: it is shuffled. Break ties by the text if you must.",
    after=("rank-seeds",),
)
def _rank_order_of_responses(bench: Bench) -> None:
    moved, order = permuted(bench.scene)
    expected = np.take_along_axis(bench.scores, order[bench.scene.queries.prompt], axis=1)
    bench.require(
        _close(bench.ranked(moved), expected),
        "permuting the responses of the prompts must permute the scores and change nothing else",
    )


@RANK.clause(
    "rank-bare",
    "It ranks without pool, without history, without queries.",
    "Handle n_users == 0, len(histories) == 0 and len(queries) == 0.",
    after=("rank",),
)
def _rank_without_history(bench: Bench) -> None:
    for bare in bare_scenes(bench.scene):
        bench.ranked(bare)


@RANK.clause(
    "rank-odd-texts",
    "It ranks unicode, blank and very long texts.",
    "Assume nothing about a text's length or script.",
    after=("rank",),
)
def _rank_odd_texts(bench: Bench) -> None:
    bench.ranked(odd_scene())


@RANK.clause(
    "rank-ragged",
    "It ranks prompts with different numbers of responses.",
    "Take the number of responses from queries.corpus.n_responses, which is that of the prompts at hand.",
    after=("rank",),
)
def _rank_ragged(bench: Bench) -> None:
    scene = ragged(bench.scene)
    corpus = scene.queries.corpus
    there = np.arange(corpus.n_responses) < corpus.counts[scene.queries.prompt][:, None]
    scores = bench.trained(scene).utilities(scene.queries)
    bench.require(scores.shape == there.shape, f"utilities must have shape {there.shape}, got {scores.shape}")
    bench.require(np.isfinite(scores[there]).all(), "the utilities of responses that are there must be finite")
    bench.require((scores[~there] == -np.inf).all(), "utilities are -inf beyond the responses of a prompt")


@RANK.clause(
    "rank-saved",
    "A copy by save and load_method ranks alike.",
    "Learn arrays, numbers, texts, and lists, tuples, dicts or dataclasses of these.",
    after=("rank-seeds",),
)
def _rank_saved(bench: Bench) -> None:
    ranked = bench.reloaded(bench.scene).adapt(bench.scene.targets).utilities(bench.scene.queries)
    bench.require(np.array_equal(ranked, bench.scores), "a saved and loaded copy must rank alike")


@RANK_PERSONAL.clause(
    "serves-users",
    "It serves users of opposite tastes, since it learns from their histories.",
    "Check the sign (higher is better) and that each query is ranked with its own user's history.",
    after=("rank",),
)
def _serves_planted_users(bench: Bench) -> None:
    """Require a mean utility of the choices that is above 0 by 2.6 standard errors over queries (p < .005)."""
    scene = bench.planted
    chosen = np.argmax(bench.ranked(scene), axis=1)
    gained = scene.utilities[np.arange(len(chosen)), chosen].astype(np.float64)
    mean, error = float(gained.mean()), float(gained.std(ddof=1) / np.sqrt(len(gained)))
    bench.require(
        mean > 2.6 * error,
        "it overrides adapt but does not serve users with opposite tastes: the mean utility of its choices is "
        f"{mean:.3f} (standard error {error:.3f}), a random choice has 0",
    )


@RANK_PERSONAL.clause(
    "adapts-anew",
    "adapt forgets the users of an earlier adapt and leaves what fit learned as it was.",
    "Write what adapt learns to attributes of its own, and never into those of fit.",
    after=("rank-seeds",),
)
def _adapts_anew(bench: Bench) -> None:
    scene, trained = bench.scene, bench.trained(bench.scene)
    trained.adapt(scene.pool).utilities(Queries(scene.queries.corpus, scene.pool.n_users, [0, 3], [20, 21]))  # type: ignore[arg-type]
    trained.adapt(Histories.empty(scene.queries.corpus, scene.targets.n_users)).utilities(scene.queries)
    again = trained.adapt(scene.targets).utilities(scene.queries)
    bench.require(np.array_equal(again, bench.scores), "adapting to others first must not change a user's scores")


@RANK_PERSONAL.clause(
    "adapts-alone",
    "A user's scores do not depend on who else is adapted to.",
    "Learn what users share in fit; adapt handles each user by themself.",
    after=("rank-alone",),
)
def _adapts_alone(bench: Bench) -> None:
    scene, trained = bench.scene, bench.trained(bench.scene)
    h, q = scene.targets, scene.queries
    for user in range(h.n_users):
        own, asked = h.user == user, q.user == user
        columns = (h.prompt[own], h.chosen[own], h.rejected[own])
        zeros = np.zeros(int(own.sum()), dtype=np.int32)
        trained.adapt(Histories(h.corpus, 1, zeros, *columns))
        scores = trained.utilities(Queries(q.corpus, 1, np.zeros(int(asked.sum()), dtype=np.int32), q.prompt[asked]))
        bench.require(
            _close(scores, bench.scores[asked]),
            f"the scores of user {user} must not depend on the other target users",
        )


@RANK_PERSONAL.clause(
    "named-users",
    "Named users who are updated in turn get the utilities of adapt, and none forgets.",
    "Let adapt rebind its attributes: a named user shares those of fit and has its own of adapt.",
    after=("adapts-alone",),
)
def _named_users(bench: Bench) -> None:
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
            handle.update(h.corpus.prompts[prompt], chosen=shown[chosen], rejected=shown[rejected], shown=shown)
            handle.utilities("in between", ["one", "another"])
    for i, (user, prompt) in enumerate(zip(q.user.tolist(), q.prompt.tolist(), strict=True)):
        scores = method.user(f"user {user}").utilities(q.corpus.prompts[prompt], q.corpus.responses[prompt])
        bench.require(
            _close(scores, bench.scores[i]),
            f"a named user must get the utilities of adapt: {scores}, after adapt {bench.scores[i]}",
        )


@LOG_ODDS.clause(
    "card",
    "It says what it fits and what a new user costs.",
    "Set the class attributes objective, fitted_per_user and cost, one sentence each.",
)
def _has_a_card(bench: Bench) -> None:
    for name in ("objective", "fitted_per_user", "cost"):
        value = getattr(bench.cls, name, "")
        bench.require(isinstance(value, str) and value.strip(), f"set the class attribute {name!r} to a sentence")


@LOG_ODDS.clause(
    "cautious-at-first",
    "It is not confidently wrong about users of whom it knows nothing.",
    "Shrink what is learned from the pool, and average over how users differ.",
    after=("rank",),
)
def _cautious_at_first(bench: Bench) -> None:
    """Require a log-loss of at most log 2 + 0.02 for unknown users, half of whom want the opposite of the others.

    Over such users every prediction has a probability of 1/2, so log-odds of l cost `log(2 cosh(l / 2))`, never less
    than log 2.
    """
    scene = bench.planted
    unknown = Histories.empty(scene.queries.corpus, scene.targets.n_users)
    scores = bench.ranked(Scene(scene.pool, unknown, scene.queries)).astype(np.float64)
    first, second = np.triu_indices(scores.shape[1], 1)
    half = 0.5 * np.abs(scores[:, first] - scores[:, second])
    loss = float((half + np.log1p(np.exp(-2.0 * half))).mean())
    bench.require(
        loss <= np.log(2.0) + _ALLOWED_LOSS,
        f"without a comparison its log-loss is {loss:.3f} where users have opposite tastes, and a coin's is 0.693",
    )
