"""Matrix factorisation, nearest users, and the mixture of reward models, where the answer can be worked out by hand."""

import numpy as np
import pytest

from personalllm.core.errors import UserError
from personalllm.core.seeding import generator
from personalllm.core.types import Corpus, Histories, Queries
from personalllm.methods import get_method
from personalllm.methods.linear.matrix_factorisation import _by_text
from personalllm.methods.parts.factors import _Problem, fit_factors, held_out, population
from personalllm.methods.parts.features import FeatureMap, Pairs, used_responses
from personalllm.methods.parts.particles import log_likelihoods, posterior, vote
from personalllm.methods.parts.standings import Standings, Tastes, pool_weights, response_names
from personalllm.testing import HashEmbedder
from personalllm.testing._standins import PlantedSignals


def random_pairs(n_users=6, n_items=12, n_features=3, n=60, key="pairs"):
    rng = generator("tests", key)
    user = np.sort(rng.integers(0, n_users, n)).astype(np.int32)
    chosen = rng.integers(0, n_items, n)
    rejected = (chosen + rng.integers(1, n_items, n)) % n_items
    vectors = rng.standard_normal((n_items, n_features)).astype(np.float32)
    offsets = np.searchsorted(user, np.arange(n_users + 1)).astype(np.int64)
    return Pairs(vectors, chosen, rejected, user, (chosen // 2).astype(np.int32), offsets)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_log_likelihoods_are_sums_over_each_users_comparisons(monkeypatch):
    pairs = random_pairs(n_users=9, n=40)
    tastes = generator("tests", "tastes").standard_normal((5, 3))
    logits = pairs.differences() @ tastes.T
    expected = [np.log(sigmoid(logits[pairs.user == u])).sum(axis=0) for u in range(9)]
    assert log_likelihoods(pairs, tastes) == pytest.approx(np.array(expected), abs=1e-4)
    monkeypatch.setattr("personalllm.methods.parts.particles._NUMBERS", 7)
    assert log_likelihoods(pairs, tastes) == pytest.approx(np.array(expected), abs=1e-4)


def test_the_posterior_is_bayes_rule_and_stands_large_numbers():
    shares = posterior(np.log([0.2, 0.8]), np.array([[0.0, 0.0], [-1e4, -1e4 + np.log(0.5)]]))
    assert shares == pytest.approx(np.array([[0.2, 0.8], [1 / 3, 2 / 3]]))


def test_a_vote_of_one_taste_is_its_utility_and_of_two_responses_is_exact():
    rng = generator("tests", "vote")
    candidates = rng.standard_normal((4, 3, 2)).astype(np.float32)
    tastes = rng.standard_normal((2, 2))
    place, user = np.array([3, 0, 3, 1]), np.array([1, 0, 0, 1])
    alone = vote(np.eye(2), tastes, candidates, place, user)
    expected = np.einsum("nmd,nd->nm", candidates[place], tastes[user])
    assert alone == pytest.approx(expected - expected.mean(axis=1, keepdims=True), abs=1e-4)
    shares = np.array([[0.3, 0.7], [0.5, 0.5]])
    two = vote(shares, tastes, candidates[:, :2], place, user)
    apart = (candidates[place, 0] - candidates[place, 1]) @ tastes.T
    p = (shares[user] * sigmoid(apart)).sum(axis=1)
    assert two[:, 0] - two[:, 1] == pytest.approx(np.log(p / (1 - p)), abs=1e-4)


def liking_world(n_users=40, n_prompts=60):
    """Return a corpus of responses that say `yes` or `no`, and histories of those who like the one or the other."""
    words = [f"w{i}" for i in range(30)]
    rng = generator("tests", "liking")
    texts = [[" ".join([side, *rng.choice(words, 3), f"t{i}"]) for side in ("yes", "no")] for i in range(n_prompts)]
    corpus = Corpus([f"prompt {i}" for i in range(n_prompts)], texts)

    def histories(likes_yes, k):
        n = len(likes_yes)
        user = np.repeat(np.arange(n), k)
        prompt = np.concatenate([rng.permutation(n_prompts - 5)[:k] for _ in range(n)])
        chosen = np.where(np.repeat(likes_yes, k), 0, 1)
        return Histories(corpus, n, user, prompt, chosen, 1 - chosen)

    return corpus, histories, histories(np.arange(n_users) < 0.75 * n_users, 12)


@pytest.mark.parametrize("name", ["nearest-users", "matrix-factorisation"])
def test_strangers_get_the_majority_and_the_minority_is_found_after_few_comparisons(name):
    corpus, histories, pool = liking_world()
    method = get_method(name).bind(embedder=HashEmbedder()).fit(pool)
    queries = Queries(corpus, 2, [0, 1], [57, 57])
    margin = lambda h: np.subtract(*method.adapt(h).utilities(queries).T)  # noqa: E731
    strangers = margin(Histories.empty(corpus, 2))
    assert strangers[0] == pytest.approx(strangers[1])
    assert 0.2 < strangers[0] < np.log(0.75 / 0.25) + 0.3
    yes, no = margin(histories(np.array([True, False]), 5))
    assert yes > strangers[0] > 0 > no


def test_only_the_nearest_users_vote():
    corpus, histories, pool = liking_world()
    method = get_method("nearest-users", n_neighbours=3).bind(embedder=HashEmbedder()).fit(pool)
    method.adapt(histories(np.array([False]), 5))
    voters = np.flatnonzero(method.shares_[0])
    assert len(voters) == 3
    assert voters.min() >= 30
    method.adapt(Histories.empty(corpus, 1))
    assert method.shares_[0] == pytest.approx(1 / 40)


def test_the_gradient_of_the_factorisation_is_the_slope_of_its_objective():
    pairs = random_pairs()
    problem = _Problem(pairs, 2, 0.7, 3.0)
    size = sum(int(np.prod(shape)) for shape in problem.shapes)
    at = generator("tests", "at").standard_normal(size)
    gradient = problem(at)[1]
    for i in range(0, size, 5):
        step = np.zeros(size)
        step[i] = 1e-5
        slope = (problem(at + step)[0] - problem(at - step)[0]) / 2e-5
        assert gradient[i] == pytest.approx(slope, rel=1e-4, abs=1e-5)


def test_held_out_comparisons_are_on_other_prompts():
    known, later = held_out(random_pairs())
    assert len(known) + len(later) == 60
    assert not set(known.prompt.tolist()) & set(later.prompt.tolist())
    assert known.offsets[-1] == len(known)


def test_a_response_that_everybody_prefers_gets_factors_of_its_own():
    vectors = np.ones((2, 3), dtype=np.float32)
    n = 30
    users = np.arange(n, dtype=np.int32)
    pairs = Pairs(vectors, np.zeros(n, int), np.ones(n, int), users, np.zeros(n, np.int32), np.arange(n + 1))
    factors = fit_factors(pairs, 1, 1.0, 1.0)
    items = factors.of(pairs).vectors
    assert items[0, 0] - items[1, 0] > 1
    assert fit_factors(pairs, 1, 1.0, 1e6).of(pairs).vectors[0, 0] == pytest.approx(
        fit_factors(pairs, 1, 1.0, 1e6).of(pairs).vectors[1, 0], abs=1e-3
    )


def test_known_responses_use_their_own_factors_and_unknown_ones_their_features():
    corpus, _, pool = liking_world()
    method = get_method("matrix-factorisation", n_features=8).bind(embedder=HashEmbedder()).fit(pool)
    assert method.deviations_.shape == (len(method.names_), 1 + method.size_)
    method.deviations_ = method.deviations_ + 5.0
    features = FeatureMap.of_keys(method.features_, HashEmbedder(), corpus, np.arange(2 * 60))
    items = method._items(features, response_names(corpus, np.arange(2 * 60)))
    own = items - features.astype(np.float64) @ method.slopes_
    known = np.isin(np.arange(2 * 60), used_responses(pool)[0])
    assert np.all(own[known] > 4)
    assert np.all(own[~known] == 0)
    assert known[:110].sum() > 90
    assert not known[110:].any()


def test_a_response_is_known_by_its_texts_not_by_its_place():
    """Another corpus may hold the same texts elsewhere, or the same text twice."""
    corpus, _, pool = liking_world()
    method = get_method("matrix-factorisation", n_features=8).bind(embedder=HashEmbedder()).fit(pool)
    method.deviations_ = generator("tests", "own").standard_normal(method.deviations_.shape)
    prompts, rows = list(corpus.prompts), [list(row) for row in corpus.responses]

    def ranked(other, row):
        return method.adapt(Histories.empty(other, 1)).utilities(Queries(other, 1, [0], [row]))[0]

    turned = Corpus(prompts[::-1], [row[::-1] for row in rows[::-1]])
    assert ranked(turned, 59 - 3) == pytest.approx(ranked(corpus, 3)[::-1], abs=1e-5)
    twice = Corpus(prompts, [[row[0], row[0]] for row in rows])
    assert ranked(twice, 3)[0] == pytest.approx(ranked(twice, 3)[1], abs=1e-6)
    others = Corpus(["another prompt", *prompts[1:]], rows)
    assert abs(np.ptp(ranked(others, 0)) - np.ptp(ranked(corpus, 0))) > 0.01


def test_equal_responses_of_a_prompt_share_their_factors():
    pairs = random_pairs()
    merged, names = _by_text(pairs, np.array([9, 9, *range(100, 110)], dtype=np.uint64))
    assert names.tolist() == [9, *range(100, 110)]
    assert merged.vectors.shape == (11, 3)
    assert np.array_equal(
        merged.vectors[merged.chosen][pairs.chosen != 1], pairs.vectors[pairs.chosen[pairs.chosen != 1]]
    )
    assert set(merged.chosen[pairs.chosen == 1].tolist()) <= {0}


def test_the_population_of_factors_is_that_of_the_users():
    rng = generator("tests", "population")
    n_users, k = 400, 30
    truth = rng.standard_normal((n_users, 2)) * [0.3, 1.5] + [1.0, 0.0]
    vectors = rng.standard_normal((n_users * k * 2, 2)).astype(np.float32)
    first, second = np.arange(0, len(vectors), 2), np.arange(1, len(vectors), 2)
    user = np.repeat(np.arange(n_users, dtype=np.int32), k)
    kept = rng.random(len(user)) < sigmoid(((vectors[first] - vectors[second]) * truth[user]).sum(axis=1))
    chosen, rejected = np.where(kept, first, second), np.where(kept, second, first)
    pairs = Pairs(vectors, chosen, rejected, user, user, np.arange(0, len(user) + 1, k))
    mean, spread = population(pairs)
    assert mean == pytest.approx([1.0, 0.0], abs=0.2)
    assert spread[1, 1] == pytest.approx(2.25, rel=0.3)
    assert spread[0, 0] < 0.4


def signals_world():
    rng = generator("tests", "signals")
    n_prompts, n_responses, n_models = 60, 4, 3
    scores = rng.standard_normal((n_prompts, n_responses, n_models)).astype(np.float32)
    corpus = Corpus([f"p{i}" for i in range(n_prompts)], [[f"r{i}-{j}" for j in range(4)] for i in range(n_prompts)])

    def histories(weights, k):
        weights = np.asarray(weights, dtype=np.float64)
        user = np.repeat(np.arange(len(weights)), k)
        prompt = np.concatenate([rng.permutation(50)[:k] for _ in weights])
        utilities = np.einsum("nrm,nm->nr", scores[prompt], weights[user])
        return Histories(corpus, len(weights), user, prompt, utilities.argmax(axis=1), utilities.argmin(axis=1))

    return corpus, PlantedSignals(scores), histories


def test_the_mixture_finds_the_reward_model_that_a_user_is():
    corpus, signals, histories = signals_world()
    pool = histories(np.eye(3)[[0] * 20 + [1] * 10], 10)
    method = get_method("rm-mixture").bind(signals=signals).fit(pool)
    queries = Queries(corpus, 2, np.repeat([0, 1], 10), np.tile(np.arange(50, 60), 2))
    strangers = method.adapt(Histories.empty(corpus, 2)).utilities(queries)
    assert np.array_equal(strangers[:10], strangers[10:])
    shared = vote(np.array([[2 / 3, 1 / 3]]), 8 * np.eye(3)[:2], signals.scores[50:], np.arange(10), np.zeros(10, int))
    assert np.corrcoef(strangers[:10].ravel(), shared.ravel())[0, 1] > 0.95
    known = method.adapt(histories(np.eye(3)[[0, 1]], 6)).utilities(queries)
    assert (known[:10].argmax(axis=1) == signals.scores[50:, :, 0].argmax(axis=1)).mean() >= 0.9
    assert (known[10:].argmax(axis=1) == signals.scores[50:, :, 1].argmax(axis=1)).mean() >= 0.9


def test_the_mixture_serves_users_who_dislike_what_a_reward_model_likes():
    corpus, signals, histories = signals_world()
    method = get_method("rm-mixture").bind(signals=signals).fit(histories(-np.eye(3)[[0] * 20 + [1] * 10], 10))
    queries = Queries(corpus, 1, np.zeros(10), np.arange(50, 60))
    known = method.adapt(histories(-np.eye(3)[[0]], 6)).utilities(queries)
    assert (known.argmax(axis=1) == signals.scores[50:, :, 0].argmin(axis=1)).mean() >= 0.9


def test_the_mixture_needs_a_protocol_that_allows_it():
    with pytest.raises(UserError, match="reward"):
        get_method("rm-mixture").bind()


def test_without_a_pool_the_mixture_of_nobody_in_particular_is_near_the_mean_of_the_reward_models():
    corpus, signals, _ = signals_world()
    method = get_method("rm-mixture").bind(signals=signals).fit(Histories.empty(corpus, 0))
    scores = method.adapt(Histories.empty(corpus, 1)).utilities(Queries(corpus, 1, np.zeros(10), np.arange(50, 60)))
    shared = signals.scores[50:].mean(axis=2)
    assert np.corrcoef(scores.ravel(), (shared - shared.mean(axis=1, keepdims=True)).ravel())[0, 1] > 0.95


def ranked_world(n_pool=60, n_new=20, n_prompts=16, known=1.0):
    """Return a corpus of four responses a prompt, and who ranks all of them, by one hidden trait that no text says.

    The texts are random, so only what others thought of the same responses can help.
    """
    rng = generator("tests", "ranked")
    corpus = Corpus([f"p{i}" for i in range(n_prompts)], [[f"r{i}.{j}" for j in range(4)] for i in range(n_prompts)])
    loadings = rng.standard_normal((n_prompts, 4))

    def histories(traits, prompts):
        values = traits[:, None, None] * loadings[prompts] + 0.3 * rng.standard_normal((len(traits), len(prompts), 4))
        rows = [
            (user, prompt, *((a, b) if values[user, place, a] > values[user, place, b] else (b, a)))
            for user in range(len(traits))
            for place, prompt in enumerate(prompts)
            for a, b in zip(*np.triu_indices(4, 1), strict=True)
            if rng.random() < known
        ]
        return Histories(corpus, len(traits), *map(np.array, zip(*rows, strict=True)))

    traits = rng.choice([-1.0, 1.0], n_new)
    everything = list(range(n_prompts))
    return corpus, histories(rng.choice([-1.0, 1.0], n_pool), everything), traits, loadings, histories


@pytest.mark.parametrize(("known", "least"), [(1.0, 0.9), (0.4, 0.8)])
def test_the_joint_gaussian_finds_what_no_text_says(known, least):
    corpus, pool, traits, loadings, histories = ranked_world(known=known)
    method = get_method("joint-gaussian", n_features=4).bind(embedder=HashEmbedder()).fit(pool)
    method.adapt(histories(traits, list(range(12))))
    users, prompts = np.repeat(np.arange(len(traits)), 4), np.tile(np.arange(12, 16), len(traits))
    utilities = method.utilities(Queries(corpus, len(traits), users, prompts))
    likes = traits[users, None] * loadings[prompts]
    chosen = likes[np.arange(len(likes)), utilities.argmax(axis=1)]
    assert chosen.sum() > least * likes.max(axis=1).sum()
    strangers = method.adapt(Histories.empty(corpus, 1)).utilities(Queries(corpus, 1, [0], [13]))
    assert np.abs(strangers).max() < np.abs(utilities).max()


def test_the_weights_of_the_pool_are_the_conditional_expectation_of_the_gaussian():
    _, pool, traits, _, histories = ranked_world()
    embedder = HashEmbedder()
    features = FeatureMap.fit(embedder, pool, 4)
    tastes = Tastes.fit(Standings.of(pool, features, embedder))
    new = Standings.of(histories(traits[:1], [0, 1, 2]), features, embedder)
    items = np.arange(len(tastes.names))
    whole = Standings.of(pool, features, embedder)
    z, mean = tastes.columns(whole.names, whole.features), tastes.means(whole.names, whole.features)
    covariance = z.T @ z / tastes.n_users
    h = tastes.index(new.names[new.item])
    prompt = new.prompt[new.item]
    centre = np.eye(len(h)) - (prompt[:, None] == prompt) / (prompt[:, None] == prompt).sum(axis=1)
    noise = 0.5 * tastes.variance * np.eye(len(h))
    inner = centre @ covariance[np.ix_(h, h)] @ centre.T + noise
    expected = mean + covariance[np.ix_(items, h)] @ centre.T @ np.linalg.solve(inner, centre @ (new.value - mean[h]))
    got = mean + pool_weights(tastes, new, 0.5)[0] @ z
    assert got == pytest.approx(expected, abs=1e-9)


def test_the_standing_of_a_response_is_its_rank_within_the_prompt():
    corpus = Corpus(["p"], [["a", "b", "c"]])
    everything = Histories(corpus, 1, [0, 0, 0], [0, 0, 0], [2, 2, 0], [0, 1, 1])
    embedder = HashEmbedder()
    standings = Standings.of(everything, FeatureMap.fit(embedder, everything, 2), embedder)
    of = dict(zip(standings.names[standings.item].tolist(), standings.value.tolist(), strict=True))
    a, b, c = response_names(corpus, np.arange(3)).tolist()
    assert (of[a], of[b], of[c]) == pytest.approx((0.0, -2 / 3, 2 / 3))
    best_worst = Standings.of(
        Histories(corpus, 1, [0], [0], [2], [1], True), FeatureMap.fit(embedder, everything, 2), embedder
    )
    assert sorted(best_worst.value.tolist()) == pytest.approx([-2 / 3, 0.0, 2 / 3])
