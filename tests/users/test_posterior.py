"""Users' weights inferred from comparisons: against importance sampling, planted truths, and themselves."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from personalllm.core.errors import ParameterError
from personalllm.users.draws import dirichlet_rows
from personalllm.users.posterior import _filtered, enumerated_weights, posterior_weights

N_RMS, N_RESPONSES = 5, 6
ALPHA = 0.3


def comparisons(weights, k, seed, *, implied, temperature=0.0, flip=0.0):
    """Return rows and starts of each user's k comparisons of their best with their worst response."""
    rng = np.random.default_rng(seed)
    rows, first = [], []
    for w in weights:
        of_user = []
        for _ in range(k):
            scores = rng.standard_normal((N_RESPONSES, len(w)))
            order = np.argsort(scores @ w)[::-1]
            gap = (scores[order[0]] - scores[order[-1]]) @ w
            right = rng.random() < (1 / (1 + np.exp(-gap / temperature)) if temperature else 1.0)
            if right == (rng.random() < flip):
                order = order[::-1]
            best, worst = order[0], order[-1]
            of_user.append(scores[best] - scores[worst])
            for other in order[1:-1] if implied else ():
                of_user += [scores[best] - scores[other], scores[other] - scores[worst]]
        rows.append(np.array(of_user).reshape(-1, len(w)))
        first.append(np.arange(k + 1) * (1 + 2 * (N_RESPONSES - 2) * implied))
    return rows, first


def users(n, seed=0):
    return dirichlet_rows(n, np.full(N_RMS, ALPHA), seed).astype(np.float64)


@pytest.mark.parametrize("implied", [False, True])
@pytest.mark.parametrize("noise", [{}, {"temperature": 0.7, "flip": 0.1}, {"flip": 0.2}])
def test_it_agrees_with_importance_sampling_from_the_prior(implied, noise):
    rows, first = comparisons(users(6), 2, 1, implied=implied, **noise)
    found = posterior_weights(ALPHA, rows, first, (1, 2), range(6), n_particles=1024, **noise)
    prior = users(200_000, seed=9)
    temperature, flip = noise.get("temperature", 0.0), noise.get("flip", 0.0)
    checked = 0
    for user, (of_user, starts) in enumerate(zip(rows, first, strict=True)):
        share = np.ones(len(prior))
        for shown, (start, stop) in enumerate(pairwise(starts)):
            margins = prior @ of_user[start:stop].T
            wins = 1 / (1 + np.exp(-margins[:, 0] / temperature)) if temperature else margins[:, 0] > 0
            share *= (1 - flip) * wins + flip * (1 - wins)
            if implied:
                share *= (margins >= 0).all(axis=1) | ((margins <= 0).all(axis=1) & bool(noise))
            if share.sum() ** 2 / (share**2).sum() > 2_000:
                assert np.abs(share @ prior / share.sum() - found.mean[shown, user]).max() < 0.06
                checked += 1
    assert checked >= 6
    assert np.allclose(found.shares.sum(axis=2), 1.0)
    assert np.allclose(found.mean.sum(axis=2), 1.0)


def test_it_is_calibrated_on_planted_users_and_finds_them():
    truth = users(150, seed=3)
    rows, first = comparisons(truth, 12, 4, implied=True)
    found = posterior_weights(ALPHA, rows, first, (0, 1, 3, 12), range(150))
    error = ((found.mean - truth) ** 2).sum(axis=2).mean(axis=1)
    spread = ((found.particles - found.mean[:, :, None]) ** 2).sum(axis=3)
    expected = (found.shares * spread).sum(axis=2).mean(axis=1)
    # on average over users of the prior, the squared error of a posterior mean is the posterior variance
    assert np.all(np.abs(error[:3] / expected[:3] - 1) < 0.25)
    assert error[0] > 5 * error[2] > 25 * error[3]


def test_more_particles_and_sweeps_change_nothing_but_the_noise():
    rows, first = comparisons(users(25, seed=5), 6, 6, implied=True)
    coarse = posterior_weights(ALPHA, rows, first, (6,), range(25)).mean[0]
    fine = posterior_weights(ALPHA, rows, first, (6,), range(100, 125), n_particles=1024, sweeps=10).mean[0]
    assert np.abs(coarse - fine).mean() < 0.01


def test_a_user_does_not_depend_on_the_others_nor_on_what_is_shown_besides():
    rows, first = comparisons(users(3), 4, 2, implied=True)
    together = posterior_weights(ALPHA, rows, first, (1, 4, 9), (7, 8, 9))
    alone = posterior_weights(ALPHA, rows[1:2], first[1:2], (4,), (8,))
    assert np.array_equal(together.mean[1, 1], alone.mean[0, 0])
    assert np.array_equal(together.mean[1], together.mean[2])


def test_a_concentration_may_be_tiny_or_large_and_differ_between_reward_models():
    rows, first = comparisons(users(4), 3, 8, implied=True)
    for alpha in (0.001, 20.0, (0.1, 0.1, 0.1, 0.1, 5.0)):
        mean = posterior_weights(alpha, rows, first, (0, 3), range(4)).mean
        assert np.isfinite(mean).all()
        assert np.allclose(mean.sum(axis=2), 1.0)
    with pytest.raises(ParameterError, match="n_particles must be >= 2, got 1"):
        posterior_weights(ALPHA, rows, first, (1,), range(4), n_particles=1)


def test_a_population_of_a_few_vectors_is_counted():
    rows, first = comparisons(np.eye(N_RMS)[[0, 3]], 8, 3, implied=True)
    found = enumerated_weights(np.eye(N_RMS), rows, first, (0, 8))
    assert np.allclose(found.mean[0], 1 / N_RMS)
    assert np.allclose(found.mean[1], np.eye(N_RMS)[[0, 3]])
    rows, first = comparisons(np.eye(N_RMS)[[0, 3]], 8, 3, implied=False)
    noisy = enumerated_weights(np.eye(N_RMS), rows, first, (1, 8), temperature=1.0, flip=0.1)
    assert (noisy.mean[0].max(axis=1) < 1).all()


def test_a_user_who_is_asked_for_again_is_not_sampled_again():
    rows, first = comparisons(users(3), 2, 5, implied=False)
    before = _filtered.cache_info()
    posterior_weights(ALPHA, rows, first, (2,), (901, 902, 903))
    again = posterior_weights(ALPHA, rows[1:], first[1:], (2,), (902, 903))
    posterior_weights(ALPHA, rows[:1], first[:1], (2,), (904,))
    after = _filtered.cache_info()
    assert (after.misses - before.misses, after.hits - before.hits) == (4, 2)
    again.particles[:] = 0.0
    assert posterior_weights(ALPHA, rows[1:], first[1:], (2,), (902, 903)).particles.all()
