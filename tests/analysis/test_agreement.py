"""Agreement between users: against pairs counted one by one, and the paper's overlap."""

from __future__ import annotations

import sys
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personalllm.analysis import Votes, agreement, answer_overlap, user_agreement
from personalllm.core.errors import ParameterError

RNG = np.random.default_rng(5)
CHOICES = RNG.integers(0, 3, (7, 11)).astype(np.uint8)


def test_the_matrix_against_pairs_one_by_one(monkeypatch):
    expected = [[np.mean(a == b) for b in CHOICES] for a in CHOICES]
    np.testing.assert_allclose(user_agreement(CHOICES, 3), expected, rtol=1e-6)
    monkeypatch.setattr(sys.modules["personalllm.analysis.agreement"], "_PROMPTS_PER_BLOCK", 4)
    np.testing.assert_allclose(user_agreement(CHOICES, 3), expected, rtol=1e-6)


@given(st.lists(st.lists(st.integers(0, 2), min_size=4, max_size=4), min_size=2, max_size=6))
def test_the_mean_over_pairs_of_users_is_the_mean_over_prompts(rows):
    found = agreement(Votes.from_choices("v", rows, 3), draws=100)
    over_users = found.of("users", "v")["mean"].value
    assert over_users == pytest.approx(found.of("pair agreement", "v")["mean"].value, abs=1e-6)


def test_the_spread_over_pairs():
    found = agreement(Votes.from_choices("v", CHOICES, 3), n_first=2, draws=100)
    pairs = [np.mean(a == b) for a, b in combinations(CHOICES, 2)]
    users = found.of("users", "v")
    assert users["min"].value == pytest.approx(min(pairs))
    assert users["median"].value == pytest.approx(np.median(pairs))
    assert users["max"].value == pytest.approx(max(pairs))
    assert users["95 %"].value == pytest.approx(np.quantile(pairs, 0.95))


def test_the_overlap_of_the_first_users_with_the_others():
    cross = np.array([[np.mean(a == b) for b in CHOICES[2:]] for a in CHOICES[:2]])
    found = answer_overlap(user_agreement(CHOICES, 3), 2)
    assert found.mean == pytest.approx(cross.mean())
    assert found.sd == pytest.approx(cross.mean(1).std())
    assert found.mean_of_max == pytest.approx(cross.max(1).mean())
    shown = agreement(Votes.from_choices("v", CHOICES, 3), n_first=2, draws=100).of("answer overlap", "v")
    assert {k: m.value for k, m in shown.items()} == pytest.approx(found._asdict())


@pytest.mark.parametrize("n_first", [0, 7])
def test_there_must_be_others(n_first):
    with pytest.raises(ParameterError, match="n_first"):
        answer_overlap(user_agreement(CHOICES, 3), n_first)


def test_voters_who_are_not_known_one_by_one_have_a_mean_only():
    counts = Votes(counts=[[3, 1], [2, 2]], n_voters=[4, 4], name="people")
    found = agreement(counts, draws=100)
    assert {m.quantity for m in found.measured} == {"pair agreement"}
    assert "people" in found.notes()[-1]
    assert not found.matrices
    assert found.plot().axes
    assert found.tables()["agreement"].num_rows == 1


def test_a_single_voter_is_refused():
    with pytest.raises(ParameterError, match="two or more"):
        agreement(Votes.from_choices("v", [[0, 1]], 2))
    with pytest.raises(ParameterError, match="n_first"):
        agreement(Votes.from_choices("v", CHOICES, 3), n_first=0)
