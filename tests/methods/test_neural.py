"""The learners with a network: what they promise, beside the contract and the planted truths."""

import builtins
import copy
import sys
from dataclasses import replace

import numpy as np
import pytest
from planted_worlds import planted_world

from personalllm.core.errors import MissingExtra, ParameterError
from personalllm.core.seeding import generator
from personalllm.core.types import Histories
from personalllm.methods import method_class
from personalllm.methods.parts.episodes import Comparisons, Inputs
from personalllm.methods.parts.simplex import MixturePrior, simplex_posterior
from personalllm.testing import HashEmbedder, check_method

NEURAL = ("gpo", "mrm", "pal", "spl", "vpl")
SMALL = {"n_features": 8, "max_steps": 100}
TINY = {"n_features": 8, "max_steps": 10}
NARROW = {"gpo": {"n_hidden": 16}}


@pytest.fixture(scope="module")
def world():
    return planted_world("clustered")


def trained(name, world, seed=3, **params):
    return method_class(name)(**params).bind(embedder=world.embedder, seed=seed).fit(world.pool)


@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.torch) for name in NEURAL])
def fitted(request, world):
    return trained(request.param, world, **SMALL, **NARROW.get(request.param, {}))


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.parametrize("name", NEURAL)
def test_keeps_the_contract_in_few_steps(name):
    cls = method_class(name)
    check_method(cls, cls.example_params())


def test_comparisons_of_a_user_help(fitted, world):
    without, with_ = (world.score(fitted.adapt(world.shots(k)).utilities(world.queries)) for k in (0, 32))
    assert with_.accuracy > without.accuracy + 0.05
    assert with_.log_loss < without.log_loss - 0.04


def test_users_without_comparisons_are_ranked_alike(fitted, world):
    ranked = fitted.adapt(world.shots(0)).utilities(world.queries).reshape(world.queries.n_users, -1)
    assert np.allclose(ranked, ranked[0], atol=1e-5)
    assert np.ptp(ranked[0]) > 0


def test_the_order_of_a_history_does_not_matter(fitted, world):
    h = world.shots(16)
    turned = np.lexsort((-np.arange(len(h)), h.user))
    other = Histories(h.corpus, h.n_users, h.user[turned], h.prompt[turned], h.chosen[turned], h.rejected[turned])
    ranked = fitted.adapt(h).utilities(world.queries)
    assert np.allclose(fitted.adapt(other).utilities(world.queries), ranked, rtol=1e-3, atol=1e-4)


def test_a_user_does_not_depend_on_the_others_nor_on_how_much_they_said(fitted, world):
    h = world.targets
    kept = (h.user == 5) & (np.arange(len(h)) - h.offsets[h.user] < 9) | (h.user == 6)
    mixed = Histories(h.corpus, h.n_users, h.user[kept], h.prompt[kept], h.chosen[kept], h.rejected[kept])
    mine = world.queries.user == 5
    alone = fitted.adapt(world.shots(9)).utilities(world.queries)[mine]
    assert np.allclose(fitted.adapt(mixed).utilities(world.queries)[mine], alone, rtol=1e-3, atol=1e-4)


def test_adapt_leaves_what_was_fitted(fitted, world):
    before = copy.deepcopy(fitted.weights_)
    fitted.adapt(world.shots(4)).utilities(world.queries)
    assert all(np.array_equal(before[name], fitted.weights_[name]) for name in before)
    assert all(isinstance(value, np.ndarray) and value.dtype == np.float32 for value in before.values())


@pytest.mark.torch
@pytest.mark.parametrize("name", NEURAL)
def test_the_same_to_the_last_bit_on_any_number_of_threads(name, world):
    import torch

    threads, results = torch.get_num_threads(), []
    for n in (1, 2):
        torch.set_num_threads(n)
        torch.manual_seed(n)
        method = method_class(name)(**TINY).bind(embedder=world.embedder, seed=3)
        results.append(method.fit(world.pool).adapt(world.shots(4)).utilities(world.queries))
        assert torch.get_num_threads() == n
    torch.set_num_threads(threads)
    assert np.array_equal(*results)


@pytest.mark.torch
@pytest.mark.parametrize("name", NEURAL)
def test_a_pool_of_one_comparison_makes_nobody_sure(name, world):
    h = world.pool
    one = Histories(h.corpus, 1, h.user[:1], h.prompt[:1], h.chosen[:1], h.rejected[:1])
    method = method_class(name)(**SMALL).bind(embedder=world.embedder, seed=3).fit(one)
    assert np.ptp(method.adapt(world.shots(0)).utilities(world.queries), axis=1).max() < 3


@pytest.mark.torch
@pytest.mark.parametrize("name", NEURAL)
def test_a_seed_changes_the_training(name, world):
    first, second = (
        method_class(name)(**TINY).bind(embedder=world.embedder, seed=seed).fit(world.pool) for seed in (0, 1)
    )
    assert any(not np.array_equal(first.weights_[key], second.weights_[key]) for key in first.weights_)


@pytest.mark.torch
def test_torch_keeps_its_own_random_state(world):
    import torch

    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    method_class("vpl")(n_features=4, max_steps=20).bind(embedder=world.embedder).fit(world.pool)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("name", NEURAL)
def test_without_torch_says_what_to_install(name, world, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtra, match=r"personalllm\[torch\]"):
        method_class(name)().bind(embedder=world.embedder).fit(world.pool)


@pytest.mark.parametrize("name", NEURAL)
def test_importing_a_learner_does_not_import_torch(name, monkeypatch):
    real = builtins.__import__

    def guarded(module, *args, **kwargs):
        assert module.partition(".")[0] != "torch"
        return real(module, *args, **kwargs)

    monkeypatch.delitem(sys.modules, f"personalllm.methods.neural.{name}", raising=False)
    monkeypatch.setattr(builtins, "__import__", guarded)
    __import__(f"personalllm.methods.neural.{name}")


@pytest.mark.parametrize("name", NEURAL)
def test_the_card_is_complete(name):
    cls = method_class(name)
    assert cls.log_odds
    assert cls.extra == "torch"
    for text in (cls.objective, cls.fitted_per_user, cls.cost):
        assert text.endswith(".")
    assert "arXiv" in cls.paper


WRONG = [
    ("gpo", {"n_hidden": 6}, "n_hidden"),
    ("gpo", {"n_layers": 0}, "n_layers"),
    ("mrm", {"n_bases": 0}, "n_bases"),
    ("mrm", {"n_steps": 0}, "n_steps"),
    ("mrm", {"hard_share": 1.0}, "hard_share"),
    ("mrm", {"smoothing": 0.0}, "smoothing"),
    ("pal", {"n_prototypes": 0}, "n_prototypes"),
    ("spl", {"guidance": -1.0}, "guidance"),
    ("spl", {"n_flows": -1}, "n_flows"),
    ("vpl", {"kl_weight": float("inf")}, "kl_weight"),
    ("vpl", {"n_latent": 0}, "n_latent"),
    ("vpl", {"max_steps": 0}, "max_steps"),
    ("vpl", {"n_features": 0}, "n_features"),
]


@pytest.mark.parametrize(("name", "params", "field"), WRONG)
def test_wrong_parameters_are_refused(name, params, field):
    with pytest.raises(ParameterError, match=field):
        method_class(name)(**params)


@pytest.mark.torch
def test_a_swapped_user_is_the_mirror_for_spl(world):
    import torch

    loose, guided = (trained("spl", world, n_features=8, max_steps=50, guidance=g) for g in (0.0, 1.0))
    cosines = []
    for method in (loose, guided):
        state = method.adapt(world.shots(16)).state_
        cosines.append(float(torch.cosine_similarity(torch.tensor(state[0]), torch.tensor(state[4])).mean()))
    assert cosines[1] < -0.9
    assert cosines[1] < cosines[0]


def test_inputs_are_centred_within_prompts_and_scaled(world):
    inputs = Inputs.fit(world.embedder, world.pool, 8)
    table, place = inputs.of(world.embedder, world.corpus, world.pool.prompt)
    assert table.shape == (len(np.unique(world.pool.prompt)), 4, 16)
    assert table[:, :, :8].mean(axis=1) == pytest.approx(0, abs=1e-5)
    assert np.square(table[:, :, :8]).mean() == pytest.approx(1, abs=1e-3)
    assert not table[:, :, 8:].any()
    assert np.array_equal(np.unique(world.pool.prompt)[place], world.pool.prompt)


def test_inputs_hold_what_the_prompts_responses_have_in_common(corpus, make_histories):
    embedder, histories = HashEmbedder(), make_histories([9, 0, 12])
    table, _ = Inputs.fit(embedder, histories, 6).of(embedder, corpus, histories.prompt)
    assert np.square(table[:, :, 6:]).mean() == pytest.approx(0.01, abs=1e-4)
    assert np.ptp(table[:, :, 6:], axis=1) == pytest.approx(0, abs=1e-6)


def episodes(corpus, make_histories):
    embedder, histories = HashEmbedder(), make_histories([9, 1, 0, 12])
    return Comparisons.of(Inputs.fit(embedder, histories, 6), embedder, histories)


def test_an_episode_splits_the_comparisons_of_each_user(corpus, make_histories):
    pairs = episodes(corpus, make_histories)
    users = np.array([3, 0, 1])
    drawn = pairs.drawn(users, 4, 5, generator("tests", "episode"))
    assert drawn.support_mask.sum(axis=1).tolist() == [4, 4, 0]
    assert drawn.target_mask.sum(axis=1).tolist() == [5, 5, 1]
    for i, user in enumerate(users):
        rows = slice(pairs.offsets[user], pairs.offsets[user + 1])
        own = {vector.tobytes() for vector in pairs.inputs[pairs.sides[rows, 0]]}
        shown = [
            v.tobytes() for v in (*drawn.support[i][drawn.support_mask[i]], *drawn.target[i][drawn.target_mask[i]])
        ]
        assert len(set(shown)) == len(shown)
        assert set(shown) <= own


def test_the_first_comparisons_are_padded(corpus, make_histories):
    pairs = episodes(corpus, make_histories)
    sides, there = pairs.first(np.arange(4), 10)
    assert there.sum(axis=1).tolist() == [9, 1, 0, 10]
    assert np.array_equal(sides[0, :9], pairs.inputs[pairs.sides[:9, 0]])
    assert np.array_equal(sides[3], pairs.inputs[pairs.sides[10:20, 0]])


def test_what_a_preference_implies_is_given_with_it_and_never_asked(corpus, make_histories):
    embedder, histories = HashEmbedder(), replace(make_histories([9, 1, 0, 12]), best_worst=np.array(True))
    pairs = Comparisons.of(Inputs.fit(embedder, histories, 6), embedder, histories, implied=True)
    implied, row = histories.implied()
    following = int((row == 0).sum())
    assert following == 2 * corpus.n_responses - 3
    assert pairs.counts.tolist() == [9, 1, 0, 12]
    support, there = pairs.first(np.arange(4), 2)
    assert there.sum(axis=1).tolist() == [2 * following, following, 0, 2 * following]
    own = pairs.inputs[pairs.sides[0]]
    assert np.array_equal(support[0, :following], own)
    episode = pairs.drawn(np.array([0, 3]), 4, 5, generator("tests", "implied"))
    assert episode.support_mask.sum(axis=1).tolist() == [4 * following] * 2
    assert episode.target_mask.sum(axis=1).tolist() == [5, 5]
    made = {v.tobytes() for v in pairs.inputs[pairs.sides[:, 0]]}
    assert {v.tobytes() for v in episode.target[episode.target_mask]} <= made
    assert len(implied) == following * 22


def drawn_weights(prior, n, rng):
    pure = np.eye(len(prior.mean))[rng.choice(len(prior.mean), n, p=prior.mean)]
    return np.where(rng.random((n, 1)) < prior.pure, pure, rng.dirichlet(prior.strength * prior.mean + 1, n))


@pytest.mark.parametrize("pure", [0.0, 0.4])
@pytest.mark.parametrize("n", [1, 6, 40])
def test_the_mixture_posterior_is_near_the_integral(pure, n):
    """Its maximum stands in for the mean of users who mix, which is further from the corners after few comparisons."""
    rng = generator("tests", "mixture", n)
    prior = MixturePrior(np.array([0.5, 0.3, 0.2]), 3.0, pure)
    margins = 2.0 * rng.standard_normal((1, n, 3)) + np.array([1.0, 0.0, -1.0])
    weights = drawn_weights(prior, 200_000, rng)
    log = -np.logaddexp(0, -weights @ margins[0].T).sum(axis=1)
    share = np.exp(log - log.max())
    share /= share.sum()
    exact = share @ weights
    spread = (share[:, None] * (weights - exact)).T @ (weights - exact)
    mean, covariance = simplex_posterior(margins, np.ones((1, n)), prior)
    near = 0.05 if n == 40 or pure else 0.16
    assert mean[0] == pytest.approx(exact, abs=near)
    assert np.sqrt(np.diag(covariance[0])) == pytest.approx(np.sqrt(np.diag(spread)), abs=near)
    assert mean[0].sum() == pytest.approx(1)
    assert covariance[0].sum(axis=0) == pytest.approx(0, abs=1e-9)


def test_a_mixture_without_comparisons_is_the_mean_and_padding_says_nothing():
    prior = MixturePrior(np.array([0.6, 0.4]), 2.0, 0.5)
    mean, covariance = simplex_posterior(np.ones((1, 3, 2)), np.zeros((1, 3)), prior)
    assert mean[0] == pytest.approx(prior.mean)
    assert covariance[0, 0, 0] > 0
    empty, _ = simplex_posterior(np.ones((1, 0, 2)), np.ones((1, 0)), prior)
    assert empty[0] == pytest.approx(prior.mean)


def test_a_mixture_follows_many_comparisons():
    rng = generator("tests", "many")
    margins = 4.0 * rng.standard_normal((5, 400, 4))
    truth = rng.dirichlet(np.ones(4), 5)
    signs = np.where(rng.random((5, 400)) < 1 / (1 + np.exp(-np.einsum("unk,uk->un", margins, truth))), 1, -1)
    prior = MixturePrior(np.full(4, 0.25), 1.0, 0.5)
    mean, covariance = simplex_posterior(margins * signs[..., None], np.ones((5, 400)), prior)
    assert mean == pytest.approx(truth, abs=0.15)
    assert np.abs(mean - truth).max() < 4 * np.sqrt(covariance.max())
