"""The Bradley-Terry methods against their definitions, on small planted populations."""

from dataclasses import replace

import numpy as np
import pytest

from personalllm.core.errors import ParameterError
from personalllm.core.seeding import generator
from personalllm.core.types import Corpus, Histories
from personalllm.methods import get_method, method_class
from personalllm.methods.linear import calibrated_bayes, nearest_users
from personalllm.methods.linear.hierarchical_bt import GaussianPrior, fit_prior
from personalllm.methods.linear.ridge_user import Start
from personalllm.methods.linear.sparse_basis import MixturePopulation
from personalllm.methods.parts import low_rank
from personalllm.methods.parts.features import Pairs
from personalllm.methods.parts.logistic import MOST_RIDGE, best_ridge, newton_map, newton_pooled, sigmoid
from personalllm.methods.parts.low_rank import fit_basis
from personalllm.methods.parts.particles import log_likelihoods
from personalllm.testing import HashEmbedder

LEARNERS = (
    *("calibrated-bayes", "hierarchical-bt", "lore", "pooled-bt", "pref", "ridge-user", "sparse-basis", "user-bt"),
)


def fitted(name, pool, **params):
    return get_method(name, **params).bind(embedder=HashEmbedder(16)).fit(pool)


def accuracy(ranked, histories):
    row = np.arange(len(histories))
    return (ranked[row, histories.chosen] > ranked[row, histories.rejected]).mean()


@pytest.mark.parametrize("name", LEARNERS)
def test_each_has_a_card(name):
    cls = method_class(name)
    assert cls.log_odds
    assert cls.implements("utilities")
    for text in (cls.objective, cls.fitted_per_user, cls.cost):
        assert text.endswith(".")
        assert len(text) < 140


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("pooled-bt", {"n_features": 0}),
        ("pooled-bt", {"ridge": 0}),
        ("user-bt", {"ridge": -1.0}),
        ("user-bt", {"ridge": float("nan")}),
        ("user-bt", {"ridge": True}),
        ("hierarchical-bt", {"pseudo_users": 0}),
        ("hierarchical-bt", {"steps": 0}),
        ("lore", {"n_basis": 0}),
        ("lore", {"prior_strength": 0}),
        ("lore", {"rounds": 0}),
        ("lore", {"ridge": 0}),
        ("ridge-user", {"ridge": 0}),
        ("sparse-basis", {"n_tastes": 0}),
        ("sparse-basis", {"concentration": 0}),
        ("sparse-basis", {"prior": "dense"}),
        ("pref", {"n_basis": 1.5}),
        ("pref", {"basis_ridge": float("inf")}),
    ],
)
def test_bad_parameters(name, params):
    with pytest.raises(ParameterError, match=next(iter(params))):
        get_method(name, **params)


def test_pooled_and_user_fits_are_the_solvers(make_histories, make_queries):
    pool, targets = make_histories([9, 4, 20], "pool"), make_histories([5, 0, 8], "targets")
    queries = make_queries([0, 1, 2], [25, 26, 25], 3)
    pooled = fitted("pooled-bt", pool, n_features=6, ridge=0.3).adapt(targets)
    candidates, place = pooled.features_.candidates(pooled.embedder, queries)
    shared = newton_pooled(pooled.features_.pairs(pooled.embedder, pool), 0.3)
    assert pooled.utilities(queries) == pytest.approx(candidates[place] @ shared, abs=1e-4)
    alone = fitted("user-bt", pool, n_features=6, ridge=0.3).adapt(targets)
    own = newton_map(alone.features_.pairs(alone.embedder, targets), 0.0, 0.3).mean
    assert alone.utilities(queries) == pytest.approx((candidates[place] @ own[:, :, None])[:, :, 0], abs=1e-4)
    assert not alone.utilities(queries)[1].any()


def drawn(n_users, n_pairs, mean, root, seed):
    """Comparisons of users with normal weights, and the weights."""
    rng = generator("tests", "drawn", seed)
    d = len(mean)
    weights = mean + rng.normal(size=(n_users, d)) @ root.T
    vectors = rng.normal(size=(400, d)).astype(np.float32)
    first, second = rng.integers(0, 400, (2, n_users * n_pairs))
    user = np.repeat(np.arange(n_users), n_pairs).astype(np.int32)
    logits = ((vectors[first] - vectors[second]) * weights[user]).sum(axis=1)
    won = rng.random(len(user)) < sigmoid(logits)
    offsets = np.arange(n_users + 1) * n_pairs
    chosen, rejected = np.where(won, first, second), np.where(won, second, first)
    return Pairs(vectors, chosen, rejected, user, user, offsets), weights


def test_the_prior_is_recovered_and_each_step_raises_the_evidence():
    mean, root = np.array([1.0, -0.5, 0.0]), np.array([[0.8, 0, 0], [0.4, 0.3, 0], [0, 0, 0.05]])
    pairs, _ = drawn(600, 40, mean, root, 0)
    method = get_method("hierarchical-bt", pseudo_users=1.0, steps=40)
    method.learn(pairs)
    assert method.prior_.mean == pytest.approx(mean, abs=0.1)
    assert method.prior_.spread == pytest.approx(root @ root.T, abs=0.15)
    evidence = np.array(method.prior_.evidence)
    assert (np.diff(evidence) > -0.01).all()
    assert evidence[-1] - evidence[0] > 10


@pytest.mark.parametrize(("scale", "low", "high"), [(0.25, 1.5, 5.0), (1.0, 0.7, 1.5), (4.0, 0.2, 0.8)])
def test_the_slope_undoes_a_prior_of_the_wrong_scale(scale, low, high, monkeypatch):
    pairs, _ = drawn(120, 30, np.array([1.5, 0.0, 0.0]), 0.3 * np.eye(3), 1)
    prompts = generator("tests", "prompts").integers(0, 40, len(pairs)).astype(np.int32)
    pairs = Pairs(pairs.vectors, pairs.chosen, pairs.rejected, pairs.user, prompts, pairs.offsets)

    def scaled(*args, **kwargs):
        prior = fit_prior(*args, **kwargs)
        return GaussianPrior(scale * prior.mean, scale**2 * prior.spread, prior.evidence)

    monkeypatch.setattr(calibrated_bayes, "fit_prior", scaled)
    method = get_method("calibrated-bayes", steps=4)
    method.learn(pairs)
    assert low <= method.slopes_[0] <= high
    off = get_method("calibrated-bayes", steps=1, calibrated=False)
    off.learn(pairs)
    assert off.slopes_.tolist() == [1, 1, 1, 1]


def test_slopes_multiply_scores_by_the_number_of_comparisons(make_histories, make_queries):
    pool, targets = make_histories([20] * 30, "pool"), make_histories([0, 2, 5, 24], "targets")
    method = fitted("calibrated-bayes", pool, n_features=6, steps=2)
    queries = make_queries([0, 1, 2, 3], [25, 26, 27, 28], 4)
    method.slopes_ = np.ones(4)
    plain = method.adapt(targets).utilities(queries)
    method.slopes_ = np.array([2.0, 3.0, 4.0, 5.0])
    scaled = method.adapt(targets).utilities(queries)
    between = np.interp(np.log1p([0, 2, 5, 24]), np.log1p([0, 2, 8, 32]), [2, 3, 4, 5])
    assert scaled == pytest.approx(plain * between[:, None], rel=1e-4)


@pytest.mark.parametrize(("name", "rank"), [("lore", "n_basis"), ("pref", "n_basis"), ("sparse-basis", "n_tastes")])
def test_low_rank_learners_find_a_planted_basis(name, rank):
    rng = generator("tests", "low rank")
    basis, weights = 4 * rng.normal(size=(8, 3)), rng.dirichlet(np.full(3, 0.3), 200)
    vectors = rng.normal(size=(600, 8)).astype(np.float32)
    first, second = rng.integers(0, 600, (2, 200 * 40))
    user = np.repeat(np.arange(200), 40).astype(np.int32)
    utility = vectors @ basis @ weights.T
    won = utility[first, user] > utility[second, user]
    chosen, rejected = np.where(won, first, second), np.where(won, second, first)
    pairs = Pairs(vectors, chosen, rejected, user, user, np.arange(201) * 40)
    method = get_method(name, **{rank: 3})
    method.learn(pairs.of_users(np.arange(150)))
    new = pairs.of_users(np.arange(150, 200))
    found = method.user_weights(new.first(16))
    if name == "sparse-basis":
        found = found @ method.population_.basis.T
    held = new.where(np.arange(len(new)) - new.offsets[new.user] >= 16)
    right = ((held.differences() * found[held.user]).sum(axis=1) > 0).mean()
    assert right > 0.93
    assert np.linalg.matrix_rank(found, tol=1e-3) <= 3


def test_pref_asks_the_comparison_that_tells_most(make_histories, make_queries):
    pool, targets = make_histories([20] * 30, "pool"), make_histories([3, 0, 8], "targets")
    method = fitted("pref", pool, n_features=6, n_basis=3, rounds=2).adapt(targets)
    queries = make_queries([0, 2, 0, 2, 0], [25, 26, 27, 28, 29], 3)
    asking = method.asking().adapt(targets)
    row, first, second = asking.next_query(queries)
    assert row[1] == -1
    z, place = method.tastes(queries)
    belief = asking.belief_
    for user in (0, 2):
        gains = {}
        for i in np.flatnonzero(queries.user == user):
            for a in range(4):
                for b in range(a + 1, 4):
                    d = z[place[i]][a] - z[place[i]][b]
                    p = 1 / (1 + np.exp(-d @ belief.mean[user]))
                    gains[i, a, b] = 0.5 * np.log1p(p * (1 - p) * d @ belief.covariance[user] @ d)
        assert max(gains, key=gains.get) == (row[user], first[user], second[user])
    single = asking.next_query(make_queries([0], [queries.prompt[row[0]]], 3))
    assert [part[0] for part in single] == [0, first[0], second[0]]


@pytest.mark.parametrize("name", LEARNERS)
def test_adapting_leaves_what_was_fitted(name, make_histories, make_queries, corpus):
    pool = make_histories([12] * 20, "pool")
    method = fitted(name, pool, **method_class(name).example_params())
    queries = make_queries([0, 1], [25, 26], 2)
    before = method.adapt(Histories.empty(corpus, 2)).utilities(queries)
    method.adapt(make_histories([9, 3], "targets"))
    assert np.array_equal(method.adapt(Histories.empty(corpus, 2)).utilities(queries), before)


def test_users_who_differ_in_few_directions_are_told_apart_where_prompts_are_few():
    """A variance alike in all directions sees no difference between them; both methods made all of them one user."""
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(120, 48)).astype(np.float32) / 7
    kind = rng.choice([-1.0, 1.0], 80)
    taste = 2 * kind[:, None] * rng.normal(size=48) + rng.normal(size=48)
    prompt = np.stack([rng.permutation(24)[:12] for _ in range(80)])
    utility = np.einsum("urcd,ud->urc", vectors.reshape(24, 5, 48)[prompt], taste)
    chosen, rejected = (5 * prompt + side for side in (utility.argmax(axis=2), utility.argmin(axis=2)))
    user, offsets = np.repeat(np.arange(80, dtype=np.int32), 12), np.arange(0, 961, 12)
    pairs = Pairs(vectors, chosen.ravel(), rejected.ravel(), user, prompt.ravel().astype(np.int32), offsets)
    pooled = newton_pooled(pairs, 1.0)
    assert best_ridge(pairs, pooled) == MOST_RIDGE

    prior = fit_prior(pairs, 20, 10.0)
    own = prior.posterior(pairs).mean - prior.mean
    assert np.linalg.eigvalsh(prior.spread)[-1] > 5 * np.linalg.eigvalsh(prior.spread)[-2]
    first = np.linalg.svd(own)[2][0]
    assert abs(np.corrcoef(own @ first, kind)[0, 1]) > 0.9

    precision = nearest_users._precision(pairs.of_users(np.arange(60)), pairs.of_users(np.arange(60, 80)))
    assert precision < nearest_users._PRECISIONS[-1]
    apart = newton_map(pairs, pooled, precision).mean - pooled
    assert np.linalg.norm(apart, axis=1).mean() > 0.1 * np.linalg.norm(pooled)


def best_and_worst(n_users, n_pairs, seed, mixture=0.2):
    """Users who mix few of three tastes name the best and the worst of six responses; their histories and weights."""
    rng = generator("tests", "best and worst", seed)
    tastes, weights = 3 * rng.normal(size=(3, 8)), rng.dirichlet(np.full(3, mixture), n_users)
    vectors = rng.normal(size=(60, 6, 8)).astype(np.float32)
    utility = np.einsum("prd,kd,uk->upr", vectors, tastes, weights)
    prompt = np.stack([rng.permutation(40)[:n_pairs] for _ in range(n_users)])
    seen = np.take_along_axis(utility, prompt[:, :, None], axis=1)
    return vectors, prompt, seen.argmax(axis=2), seen.argmin(axis=2), utility


def pairs_of(vectors, prompt, best, worst):
    """Return the comparisons in feature space, those that are implied too."""
    n_users, n_pairs = prompt.shape
    corpus = Corpus([f"p{i}" for i in range(60)], [[f"r{i}-{j}" for j in range(6)] for i in range(60)])
    user = np.repeat(np.arange(n_users), n_pairs)
    columns = [column.ravel() for column in (prompt, best, worst)]
    implied, row = Histories(corpus, n_users, user, *columns, True).implied()
    keys = implied.prompt.astype(np.int64) * 6
    sides = keys + implied.chosen, keys + implied.rejected
    return Pairs(vectors.reshape(-1, 8), *sides, implied.user, implied.prompt, implied.offsets, row)


@pytest.mark.parametrize("name", ["calibrated-bayes", "hierarchical-bt", "lore", "pref", "ridge-user", "sparse-basis"])
def test_what_the_best_and_the_worst_imply_helps(name):
    vectors, prompt, best, worst, utility = best_and_worst(120, 20, 1)
    pairs = pairs_of(vectors, prompt, best, worst).counting(get_method(name).together)
    pool, targets = pairs.of_users(np.arange(80)), pairs.of_users(np.arange(80, 120)).first(3)

    def chosen(pool, targets):
        method = get_method(name).bind(embedder=HashEmbedder())
        method.learn(pool)
        weights = method.user_weights(targets)
        if name == "sparse-basis":
            weights = weights @ method.population_.basis.T
        scores = np.einsum("prd,ud->upr", vectors[40:], weights)
        return np.take_along_axis(utility[80:, 40:], scores.argmax(axis=2)[:, :, None], axis=2).mean()

    best_possible = utility[80:, 40:].max(axis=2).mean()
    with_implied, without = chosen(pool, targets), chosen(pool.given(), targets.given())
    assert without < with_implied < best_possible


def test_preferences_are_counted_and_cut_with_what_they_imply():
    pairs = pairs_of(*best_and_worst(5, 4, 2)[:4])
    assert len(pairs) == 5 * 4 * 9
    assert pairs.n_preferences.tolist() == [4] * 5
    assert pairs.places.tolist() == np.tile(np.repeat(np.arange(4), 9), 5).tolist()
    assert pairs.weights.tolist() == [1] * len(pairs)
    lighter = pairs.counting(2.0).where(pairs.prompt != pairs.prompt[0]).first(1)
    assert lighter.weights[:9].tolist() == [1, *[0.25] * 8]
    assert lighter.given().weights.tolist() == [1] * 5
    two = pairs.where(pairs.prompt != pairs.prompt[0]).of_users(np.array([3, 0])).first(2)
    assert two.counts.tolist() == [18, 18]
    assert two.n_preferences.tolist() == [2, 2]
    own = pairs.of_users(np.array([0])).given()
    assert two.of_users(np.array([1])).given().chosen.tolist() == own.chosen[1:3].tolist()


def test_a_user_of_ridge_user_is_one_newton_step_with_the_largest_curvature():
    pairs = drawn(40, 30, np.ones(5), np.eye(5), 3)[0]
    method = get_method("ridge-user", ridge=2.0)
    method.learn(pairs)
    shared, x = method.start_.shared, pairs.of_users(np.array([7])).differences().astype(float)
    rest = 1 / (1 + np.exp(x @ shared))
    expected = shared + np.linalg.solve(x.T @ x / 4 + 2.0 * np.eye(5), x.T @ rest)
    assert method.user_weights(pairs)[7] == pytest.approx(expected, rel=1e-4)
    few = pairs.first(3)  # fewer comparisons than features: solved in the comparisons
    x = few.of_users(np.array([7])).differences().astype(float)
    rest = 1 / (1 + np.exp(x @ shared))
    expected = shared + np.linalg.solve(x.T @ x / 4 + 2.0 * np.eye(5), x.T @ rest)
    assert method.user_weights(few)[7] == pytest.approx(expected, rel=1e-4)


def test_particles_of_sparse_basis_give_bayes_rule():
    pairs = drawn(3, 6, np.zeros(2), np.eye(2), 5)[0]
    basis = np.array([[1.0, 0.0], [0.0, -2.0]])
    particles, prior = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]), np.array([0.5, 0.2, 0.3])
    mean, spread = MixturePopulation(basis, particles, np.log(prior)).posterior(pairs)
    for user in range(3):
        logits = pairs.of_users(np.array([user])).differences() @ basis @ particles.T
        shares = prior * np.prod(1 / (1 + np.exp(-logits)), axis=0)
        shares /= shares.sum()
        assert mean[user] == pytest.approx(shares @ particles, abs=1e-5)
        assert spread[user] == pytest.approx(np.cov(particles.T, aweights=shares, bias=True), abs=1e-5)


def test_sparse_basis_learns_how_sparse_users_are():
    for mixture, pure in ((0.02, True), (20.0, False)):
        vectors, prompt, best, worst, _ = best_and_worst(100, 20, 4, mixture=mixture)
        method = get_method("sparse-basis", n_tastes=3, calibrated=False)
        method.learn(pairs_of(vectors, prompt, best, worst))
        largest = method.population_.particles.max(axis=1)
        weight = np.exp(method.population_.log_prior)
        assert (weight @ (largest > 0.9) / weight.sum() > 0.5) == pure


@pytest.mark.parametrize(("shown", "together"), [(3, 1.0), (3, np.inf), (8, 1.0)])
def test_ridge_user_takes_two_rows_for_what_a_preference_implies(shown, together):
    """It is exact for three responses, and for more if what lies between best and worst scatters as in the pool."""
    rng = generator("tests", "shown")
    vectors, n_users = rng.normal(size=(30 * shown, 6)).astype(np.float32), 40
    corpus = Corpus([f"p{i}" for i in range(30)], [[str(j) for j in range(shown)]] * 30)
    user, prompt = np.repeat(np.arange(n_users), 4), rng.integers(0, 30, 4 * n_users)
    sides = rng.random((len(user), shown)).argsort(axis=1)[:, :2].T
    if shown > 3:  # everybody names the same two responses of one prompt
        prompt, sides = np.zeros_like(prompt), np.tile([[5], [2]], len(user))
    made, row = Histories(corpus, n_users, user, prompt, *sides, True).implied()
    keys = made.prompt * shown
    columns = keys + made.chosen, keys + made.rejected, made.user, made.prompt, made.offsets, row
    pairs = Pairs(vectors, *(column.astype(np.int64) for column in columns)).counting(together)
    start = Start.of(pairs)
    moves = start.moved(pairs, 1.5) - start.shared
    for u in (0, 17):
        own = pairs.of_users(np.array([u]))
        x, weights = own.differences().astype(float), own.weights
        rest = weights / (1 + np.exp(x @ start.shared))
        move = np.linalg.solve((x * weights[:, None]).T @ x / 4 + 1.5 * np.eye(6), x.T @ rest)
        assert np.linalg.norm(moves[u] - move) < 1e-5 * np.linalg.norm(move)


def test_weights_count_in_every_fit():
    vectors, prompt, best, worst, _ = best_and_worst(12, 6, 3)
    pairs = pairs_of(vectors, prompt, best, worst).counting(1.0)

    def pull(x, weights, w):
        return x.T @ (weights / (1 + np.exp(x @ w)))

    x = pairs.differences().astype(float)
    pooled = newton_pooled(pairs, 0.7)
    assert pull(x, pairs.weights, pooled) == pytest.approx(0.7 * pooled, abs=1e-5)
    own = newton_map(pairs, 0.0, 0.7).mean[3]
    rows = pairs.user == 3
    assert pull(x[rows], pairs.weights[rows], own) == pytest.approx(0.7 * own, abs=1e-5)
    likelihood = log_likelihoods(pairs, pooled[None])[3, 0]
    assert likelihood == pytest.approx(-(pairs.weights * np.logaddexp(0, -x @ pooled))[rows].sum(), rel=1e-5)
    basis = fit_basis(pairs, np.ones((12, 1)), np.zeros((8, 1)), 0.7, steps=30)
    assert basis[:, 0] == pytest.approx(pooled, abs=1e-3)


def test_a_sample_of_the_comparisons_is_curvature_enough(monkeypatch):
    pairs, _ = drawn(50, 40, np.ones(6), np.eye(6), 7)
    start, weights = np.zeros((6, 1)), np.ones((50, 1))
    whole = fit_basis(pairs, weights, start, 1.0, steps=30)
    monkeypatch.setattr(low_rank, "_CURVATURE_ROWS", 200)
    assert fit_basis(pairs, weights, start, 1.0, steps=30) == pytest.approx(whole, rel=0.02, abs=0.02)


@pytest.mark.parametrize("name", LEARNERS)
def test_implied_comparisons_are_learned_from_unless_switched_off(name, make_histories):
    histories = make_histories([3, 2], "pool")
    shown = replace(histories, best_worst=np.array(True))
    on, off = (fitted(name, shown, **method_class(name).example_params(), implied=implied) for implied in (True, False))
    assert len(on.comparisons(shown)) == 5 * 5  # four responses
    assert on.comparisons(shown).n_preferences.tolist() == [3, 2]
    assert len(off.comparisons(shown)) == len(on.comparisons(histories)) == 5
    assert off.identity()["params"] == {key: value for key, value in off.params().items() if key != "implied"}
    assert on.identity()["params"] == on.params()
