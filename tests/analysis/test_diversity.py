"""Preference diversity, against counts made by hand and against a slow reference."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import percentileofscore

from personalllm.analysis import diversity
from personalllm.data import ScoreTable
from personalllm.users import Population

# Four users with one reward model each; three prompts: all agree, two against two, all differ.
SCORES = np.zeros((3, 4, 4), np.float32)
SCORES[0, 2, :] = 1
SCORES[1, 0, :2] = SCORES[1, 3, 2:] = 1
SCORES[2, range(4), range(4)] = 1
TABLE = ScoreTable(SCORES, ("a", "b", "c", "d"))


@pytest.fixture
def found():
    return diversity(Population.one_per_reward_model(TABLE.reward_models), TABLE)


def test_votes_by_hand(found):
    assert found.top_share.tolist() == [1.0, 0.5, 0.25]
    assert found.n_winners.tolist() == [1, 2, 4]
    assert found.winners_histogram() == {1: 1 / 3, 2: 1 / 3, 3: 0, 4: 1 / 3}
    np.testing.assert_allclose(found.wins, np.array([2 + 1, 1, 4 + 1, 2 + 1]) / 12, rtol=1e-6)
    np.testing.assert_allclose(found.entropy, [0, np.log(2), np.log(4)], rtol=1e-6)


@pytest.mark.parametrize("threshold", [0.2, 0.25, 0.5, 0.75, 1.0])
def test_ties_count_half_as_in_the_paper(found, threshold):
    expected = percentileofscore(found.top_share, threshold, kind="mean") / 100
    assert found.share_at_most(threshold) == pytest.approx(expected)


def test_a_larger_alpha_means_more_agreement():
    scores = np.random.default_rng(0).normal(size=(200, 8, 10)).astype(np.float32)
    table = ScoreTable(scores, tuple("abcdefghij"))
    entropy = [
        diversity(Population.dirichlet(500, alpha, table.reward_models, seed=0), table).entropy.mean()
        for alpha in (0.05, 1.0, 50.0)
    ]
    assert entropy[0] > entropy[1] > entropy[2]
