"""Sign flips and Holm's correction."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personalllm.core.errors import ParameterError
from personalllm.core.stats import holm, sign_flip_p

HOLM: list[tuple[list[float], list[float]]] = [
    ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
    ([0.01, 0.02, 0.03], [0.03, 0.04, 0.04]),
    ([0.5, 0.5], [1.0, 1.0]),
    ([0.04], [0.04]),
    ([0.02, 0.02, 0.02], [0.06, 0.06, 0.06]),
    ([0.0, 1.0], [0.0, 1.0]),
    ([0.0001, 0.9, 0.02, 0.02, 0.6], [0.0005, 1.0, 0.08, 0.08, 1.0]),
    ([], []),
]


@pytest.mark.parametrize(("given_", "expected"), HOLM, ids=str)
def test_holm_against_values_worked_by_hand(given_: list[float], expected: list[float]) -> None:
    assert holm(given_).tolist() == pytest.approx(expected)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_the_p_values_and_bonferroni(p_values: list[float]) -> None:
    corrected = holm(p_values)
    assert np.all(corrected >= np.asarray(p_values))
    assert np.all(corrected <= np.minimum(1, len(p_values) * np.asarray(p_values)) + 1e-15)
    assert np.argsort(corrected, kind="stable").tolist() == sorted(
        range(len(p_values)), key=lambda i: (corrected[i], i)
    )
    assert holm(p_values[::-1]).tolist() == corrected[::-1].tolist()
    order = np.argsort(p_values, kind="stable")
    assert np.all(np.diff(corrected[order]) >= 0)


@pytest.mark.parametrize("bad", [[-0.1], [1.1], [float("nan")], [[0.5]]], ids=str)
def test_holm_refuses_what_is_no_p_value(bad: Any) -> None:
    with pytest.raises(ParameterError, match="p_values must be a column of numbers in"):
        holm(bad)


def test_sign_flips_of_few_users_are_counted_exactly() -> None:
    assert sign_flip_p([[1.0], [2.0], [3.0]]).tolist() == [2 / 8]
    assert sign_flip_p([[1.0], [-2.0], [3.0]]).tolist() == [6 / 8]
    assert sign_flip_p([[0.1]] * 10).tolist() == [2 / 1024]
    assert sign_flip_p([[0.0, 5.0]] * 4).tolist() == [1.0, 2 / 16]
    assert sign_flip_p([[0.1], [0.2], [-0.3]]).tolist() == [1.0]


def test_sign_flips_of_many_users_are_drawn() -> None:
    rng = np.random.default_rng(0)
    effect = np.array([0.0, 0.1, 0.3])
    gaps = rng.normal(size=(300, 3)) + effect
    p = sign_flip_p(gaps, draws=9_999, seed=5)
    assert p.tolist() == sign_flip_p(gaps, draws=9_999, seed=5).tolist()
    assert p.tolist() != sign_flip_p(gaps, draws=9_999, seed=6).tolist()
    z = gaps.mean(0) / (gaps.std(0) / np.sqrt(300))
    normal = [math.erfc(abs(value) / math.sqrt(2)) for value in z]
    assert p[:2] == pytest.approx(normal[:2], abs=0.02)
    assert p[2] == pytest.approx(1 / 10_000)
    assert sign_flip_p(-gaps, draws=9_999, seed=5).tolist() == p.tolist()


def test_sign_flips_keep_their_level() -> None:
    rng = np.random.default_rng(3)
    p = sign_flip_p(rng.standard_t(3, size=(80, 2000)), draws=499, seed=0)
    rejected = float(np.mean(p <= 0.05))
    assert abs(rejected - 0.05) < 4 * math.sqrt(0.05 * 0.95 / 2000)


@pytest.mark.parametrize(
    ("differences", "draws", "message"),
    [([[1.0]], 10, "draws must be >= 99"), ([1.0, 2.0], 999, "an array"), (np.empty((0, 2)), 999, "with a user")],
)
def test_sign_flips_refuse(differences: Any, draws: int, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        sign_flip_p(differences, draws=draws)


@pytest.mark.parametrize("n_users", [4, 40], ids=["every pattern", "drawn patterns"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")], ids=str)
def test_a_column_that_is_not_finite_has_no_p_value(n_users: int, bad: float) -> None:
    gaps = np.random.default_rng(0).normal(size=(n_users, 2))
    spoilt = np.column_stack([gaps, gaps[:, 0]])
    spoilt[1, 2] = bad
    p = sign_flip_p(spoilt, draws=999)
    assert np.isnan(p[2])
    assert p[:2].tolist() == sign_flip_p(gaps, draws=999).tolist()
