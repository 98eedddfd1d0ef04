"""Features and Bradley-Terry fits against their definitions, one user at a time."""

import numpy as np
import pytest
from scipy.optimize import minimize

from personalllm.core.seeding import generator
from personalllm.core.types import Histories
from personalllm.methods.parts import features, logistic, low_rank, surface
from personalllm.methods.parts.features import FeatureMap, Pairs
from personalllm.methods.parts.linear_method import moderated_margins, moderated_scores, score_queries
from personalllm.testing import HashEmbedder

COUNTS = [0, 3, 7, 12, 1, 0, 6, 30]


def some_pairs(counts=COUNTS, d=6, key="pairs"):
    rng = generator("tests", key)
    n = sum(counts)
    vectors = rng.normal(size=(50, d)).astype(np.float32)
    chosen = rng.integers(0, 50, n)
    rejected = (chosen + rng.integers(1, 50, n)) % 50
    user = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Pairs(vectors, chosen, rejected, user, rng.integers(0, 9, n).astype(np.int32), offsets)


def prior(d=6):
    rng = generator("tests", "prior")
    root = rng.normal(size=(d, d))
    return rng.normal(size=d), root @ root.T + 0.2 * np.eye(d)


def objective(w, x, mean, precision):
    return np.logaddexp(0, -x @ w).sum() + 0.5 * (w - mean) @ precision @ (w - mean)


def hessian(w, x, precision):
    p = 1 / (1 + np.exp(-x @ w))
    return precision + (x * (p * (1 - p))[:, None]).T @ x


@pytest.mark.parametrize("block", [4_000_000, 1])
def test_every_user_stands_at_the_maximum_with_the_hessians_inverse(block, monkeypatch):
    monkeypatch.setattr(logistic, "_BLOCK_NUMBERS", block)
    pairs, (mean, precision) = some_pairs(), prior()
    means = mean + np.arange(len(COUNTS))[:, None] / 10
    found = logistic.newton_map(pairs, means, precision, covariance="each")
    for user in range(pairs.n_users):
        x = pairs.differences(*pairs.offsets[user : user + 2]).astype(float)
        best = minimize(objective, means[user], (x, means[user], precision), method="BFGS", options={"gtol": 1e-8})
        assert found.mean[user] == pytest.approx(best.x, abs=1e-5)
        curved = hessian(found.mean[user], x, precision)
        assert found.covariance[user] @ curved == pytest.approx(np.eye(6), abs=1e-8)
        evidence = -best.fun - 0.5 * (np.linalg.slogdet(curved)[1] - np.linalg.slogdet(precision)[1])
        assert found.log_evidence[user] == pytest.approx(evidence, abs=1e-6)


def test_the_sum_of_covariances_and_a_start_change_nothing_else():
    pairs, (mean, precision) = some_pairs(), prior()
    each = logistic.newton_map(pairs, mean, precision, covariance="each")
    summed = logistic.newton_map(pairs, mean, precision, covariance="sum", start=each.mean + 0.3)
    assert summed.covariance[0] == pytest.approx(each.covariance.sum(axis=0), abs=1e-8)
    assert summed.mean == pytest.approx(each.mean, abs=1e-5)
    assert logistic.newton_map(pairs, mean, precision).covariance.shape == (0, 6, 6)


def test_a_weak_prior_and_separable_comparisons_do_not_overshoot():
    pairs = some_pairs([2, 40])
    found = logistic.newton_map(pairs, 0.0, 1e-4)
    for user in range(2):
        x = pairs.differences(*pairs.offsets[user : user + 2]).astype(float)
        p = 1 / (1 + np.exp(-x @ found.mean[user]))
        assert x.T @ (1 - p) - 1e-4 * found.mean[user] == pytest.approx(np.zeros(6), abs=1e-4)


@pytest.mark.parametrize("counts", [[4], [40], [0, 4, 40, 3]])
def test_a_prior_far_on_the_wrong_side_is_overcome(counts):
    """There the likelihood has no curvature to speak of, and a full Newton step overshoots a million times."""
    pairs = some_pairs(counts, key="far")
    wrong = -300.0 * pairs.differences().astype(float).mean(axis=0)
    found = logistic.newton_map(pairs, wrong, 1e-6).mean
    pooled = logistic.newton_pooled(pairs, 1e-6, prior_mean=wrong)
    everything = Pairs(
        pairs.vectors, pairs.chosen, pairs.rejected, np.zeros(len(pairs)), pairs.prompt, np.array([0, len(pairs)])
    )
    for w, some, user in [*((found[u], pairs, u) for u in np.flatnonzero(counts)), (pooled, everything, 0)]:
        x = some.differences(*some.offsets[user : user + 2]).astype(float)
        gradient = x.T @ (1 - logistic.sigmoid(x @ w)) - 1e-6 * (w - wrong)
        curved = hessian(w, x, 1e-6 * np.eye(6))
        assert gradient @ np.linalg.solve(curved, gradient) < 1e-5


def test_the_pooled_fit_is_the_fit_of_one_user_with_all_comparisons():
    pairs, (mean, precision) = some_pairs(), prior()
    one = Pairs(
        pairs.vectors, pairs.chosen, pairs.rejected, np.zeros(len(pairs)), pairs.prompt, np.array([0, len(pairs)])
    )
    expected = logistic.newton_map(one, mean, precision).mean[0]
    assert logistic.newton_pooled(pairs, precision, prior_mean=mean) == pytest.approx(expected, abs=1e-6)


def test_the_best_ridge_is_where_users_weights_come_from():
    rng = generator("tests", "ridge")
    for variance in (0.25, 16.0):
        pairs = some_pairs([40] * 60, key=f"ridge{variance}")
        weights = rng.normal(0, np.sqrt(variance), (60, 6))
        swap = rng.random(len(pairs)) > logistic.sigmoid((pairs.differences() * weights[pairs.user]).sum(axis=1))
        drawn = Pairs(
            pairs.vectors,
            np.where(swap, pairs.rejected, pairs.chosen),
            np.where(swap, pairs.chosen, pairs.rejected),
            pairs.user,
            pairs.prompt,
            pairs.offsets,
        )
        assert 0.5 <= logistic.best_ridge(drawn) * variance <= 2
    assert logistic.best_ridge(some_pairs([0, 0])) == 1.0


def test_parts_of_pairs():
    pairs = some_pairs()
    some = pairs.of_users(np.array([3, 0, 7])).first(4)
    assert some.counts.tolist() == [4, 0, 4]
    assert np.array_equal(some.differences(4), pairs.differences(*(pairs.offsets[7] + [0, 4])))
    even = pairs.where(pairs.prompt % 2 == 0)
    assert even.counts.tolist() == np.bincount(pairs.user[pairs.prompt % 2 == 0], minlength=8).tolist()
    assert np.array_equal(even.differences(), pairs.differences()[pairs.prompt % 2 == 0])


def test_differences_within_prompts_have_mean_squared_norm_one(make_histories):
    embedder, pool = HashEmbedder(12), make_histories([24] * 20)
    width = pool.corpus.n_responses
    features = FeatureMap.fit(embedder, pool)
    seen = np.zeros((pool.corpus.n_prompts, width), bool)
    seen[pool.prompt, pool.chosen] = seen[pool.prompt, pool.rejected] = True
    assert seen[:24].all()
    x = features.of_keys(embedder, pool.corpus, np.arange(24 * width)).reshape(24, width, -1)
    first, second = np.triu_indices(width, k=1)
    apart = x[:, first] - x[:, second]
    assert (apart**2).sum(axis=2).mean() == pytest.approx(1, abs=1e-5)
    moments = np.einsum("pki,pkj->ij", apart, apart)
    assert moments - np.diag(np.diag(moments)) == pytest.approx(np.zeros_like(moments), abs=1e-3)
    assert (np.diff(np.diag(moments)) <= 1e-5).all()
    few = FeatureMap.fit(embedder, pool, 3)
    assert few.components / np.linalg.norm(few.components) == pytest.approx(
        features.components[:, :3] / np.linalg.norm(features.components[:, :3]), abs=1e-5
    )


def test_features_do_not_depend_on_the_size_of_a_block(make_histories, make_queries, monkeypatch):
    embedder, pool = HashEmbedder(12), make_histories([24] * 5)
    queries = make_queries([0, 1, 0], [29, 3, 29], 2)
    for kind in (FeatureMap, surface.TextFeatureMap):
        monkeypatch.setattr(features, "_TEXT_BLOCK", 4_096)
        whole = kind.fit(embedder, pool, 5)
        pairs, (candidates, place) = whole.pairs(embedder, pool), whole.candidates(embedder, queries)
        assert place.tolist() == [1, 0, 1]
        for block in (1, 7):
            monkeypatch.setattr(features, "_TEXT_BLOCK", block)
            again = kind.fit(embedder, pool, 5)
            assert again.pairs(embedder, pool).vectors == pytest.approx(pairs.vectors, abs=1e-4)
            assert again.candidates(embedder, queries)[0] == pytest.approx(candidates, abs=1e-4)
        assert pairs.differences()[3] == pytest.approx(
            kind.candidates(whole, embedder, make_queries([0], [pool.prompt[3]], 1))[0][0][pool.chosen[3]]
            - kind.candidates(whole, embedder, make_queries([0], [pool.prompt[3]], 1))[0][0][pool.rejected[3]],
            abs=1e-5,
        )


def test_without_a_pool_the_features_are_axes_of_the_embedding(corpus):
    features = FeatureMap.fit(HashEmbedder(12), Histories.empty(corpus, 0), 5)
    assert np.array_equal(features.components, np.eye(12, 5))
    texts = surface.TextFeatureMap.fit(HashEmbedder(12), Histories.empty(corpus, 0), 5)
    assert texts.n_features == 14
    assert not texts.scales.any()


def test_measures_of_a_text():
    found = surface.measure(["- One?\n2) Two!! 34\n\u2022 x", "", "no list - here"])
    assert np.expm1(found[0]).round(6).tolist()[3:] == [2, 3, 1, 2, 3]
    assert np.expm1(found[0, :2]).round(6).tolist() == [22, 7]
    assert found[0, 2] == pytest.approx(22 / 7)
    assert not found[1].any()
    assert found[2, 4] == 0


def test_moderation_draws_each_pair_in_and_scores_come_nearest_in_least_squares(monkeypatch):
    rng = generator("tests", "moderation")
    mean, root = rng.normal(size=(3, 4)), rng.normal(size=(3, 4, 4))
    covariance = (root @ root.transpose(0, 2, 1)).astype(np.float32)
    candidates, place, user = rng.normal(size=(2, 5, 4)).astype(np.float32), np.array([1, 0, 1]), np.array([2, 0, 1])
    for numbers in (8_000_000, 1):
        monkeypatch.setattr("personalllm.methods.parts.linear_method._NUMBERS", numbers)
        scores = moderated_scores(mean, covariance, candidates, place, user)
        for i, (p, u) in enumerate(zip(place, user, strict=True)):
            apart = candidates[p][:, None] - candidates[p][None]
            variance = np.einsum("abi,ij,abj->ab", apart, covariance[u], apart)
            wanted = apart @ mean[u] / np.sqrt(1 + np.pi / 8 * variance)
            solved = np.linalg.lstsq(
                np.repeat(np.eye(5), 5, axis=0) - np.tile(np.eye(5), (5, 1)), wanted.ravel(), rcond=None
            )[0]
            assert scores[i] == pytest.approx(solved, abs=1e-4)
    two = moderated_scores(mean, covariance, candidates[:, :2], place, user)
    pairs = Pairs(candidates[:, :2].reshape(-1, 4), 2 * place, 2 * place + 1, user, place, np.arange(4))
    assert two[:, 0] - two[:, 1] == pytest.approx(moderated_margins(mean, covariance, pairs), abs=1e-5)
    certain = moderated_scores(mean, 0 * covariance, candidates, place, user)
    plain = score_queries(mean, candidates, place, user)
    assert certain - certain[:, :1] == pytest.approx(plain - plain[:, :1], abs=1e-4)


def simplex_objective(t, x, prior):
    w = np.exp(t - np.logaddexp.reduce(t))
    return np.logaddexp(0, -x @ w).sum() - prior @ np.log(w)


def test_weights_on_the_simplex_stand_at_their_maximum():
    pairs, prior = some_pairs(d=4), np.array([0.4, 0.1, 1.0, 0.5])
    found = low_rank.simplex_map(pairs, prior)
    assert found.sum(axis=1) == pytest.approx(np.ones(len(COUNTS)))
    assert (found > 0).all()
    assert found[0] == pytest.approx(prior / 2)
    for user in range(pairs.n_users):
        x = pairs.differences(*pairs.offsets[user : user + 2]).astype(float)
        best = minimize(simplex_objective, np.zeros(4), (x, prior), method="BFGS", options={"gtol": 1e-7})
        assert found[user] == pytest.approx(np.exp(best.x - np.logaddexp.reduce(best.x)), abs=2e-4)


def test_the_basis_stands_at_its_maximum_for_given_weights():
    pairs, rng = some_pairs(), generator("tests", "basis")
    weights = rng.dirichlet(np.ones(3), len(COUNTS))
    found = low_rank.fit_basis(pairs, weights, np.zeros((6, 3)), 0.3, steps=60)
    x, w = pairs.differences().astype(float), weights[pairs.user]
    miss = 1 - 1 / (1 + np.exp(-((x @ found) * w).sum(axis=1)))
    assert x.T @ (w * miss[:, None]) - 0.3 * found == pytest.approx(np.zeros((6, 3)), abs=2e-2)


def test_extreme_points_of_a_simplex_are_found():
    rng = generator("tests", "corners")
    corners = rng.normal(size=(4, 6))
    inside = rng.dirichlet(np.ones(4), 50)
    inside[[3, 9, 20, 33]] = np.eye(4)
    found = low_rank.start_points(inside @ corners, 4).T
    nearest = np.abs(found[:, None] - corners).sum(axis=2)
    assert sorted(nearest.argmin(axis=1)) == [0, 1, 2, 3]
    assert nearest.min(axis=1) == pytest.approx(np.zeros(4), abs=1e-8)


def test_at_most_so_many_users_evenly_spread():
    pairs = some_pairs()
    some = low_rank.some_users(pairs, 3)
    assert some.counts.tolist() == [3, 12, 30]
    assert len(low_rank.some_users(some_pairs([0]), 3)) == 0
