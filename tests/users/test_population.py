import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from personalllm.core.errors import AxisMismatch, ParameterError, UserError
from personalllm.core.storage import canonical_json
from personalllm.users import PUBLISHED_REWARD_MODELS, Population, choices

GOLDEN = Path(__file__).parents[1] / "golden" / "published_population.json"
AB = ("a", "b")


def test_published_rows_equal_the_printed_ones():
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    weights = Population.published(golden["alpha"]).weights
    assert weights.shape == (golden["n_users"], 10)
    checked = 0
    for row, printed in golden["rows"].items():
        for value, expected in zip(weights[int(row)], printed, strict=True):
            if expected is not None:
                assert float(f"{value:.8e}") == expected
                checked += 1
    assert checked == 36


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1])
def test_published_users_equal_scipys_to_the_last_bit(alpha):
    expected = scipy.stats.dirichlet.rvs([alpha] * 10, size=1000, random_state=0)
    assert np.array_equal(Population.published(alpha).weights, expected)


def test_published_reward_models_are_sorted():
    assert len(PUBLISHED_REWARD_MODELS) == 10
    assert list(PUBLISHED_REWARD_MODELS) == sorted(PUBLISHED_REWARD_MODELS)
    assert Population.published().reward_models == PUBLISHED_REWARD_MODELS


def test_published_alpha_too_small_for_the_legacy_generator_is_refused():
    with pytest.raises(ParameterError, match="legacy generator"):
        Population.published(1e-5)


@settings(max_examples=40, deadline=None)
@given(
    alpha=st.floats(1e-9, 1e6),
    n_users=st.integers(1, 40),
    n_rms=st.integers(1, 12),
    seed=st.integers(0, 2**31),
)
def test_dirichlet_rows_are_on_the_simplex(alpha, n_users, n_rms, seed):
    weights = Population.dirichlet(n_users, alpha, [f"r{i}" for i in range(n_rms)], seed).weights
    assert weights.shape == (n_users, n_rms)
    assert np.isfinite(weights).all()
    assert (weights >= 0).all()
    assert np.allclose(weights.sum(axis=1), 1, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.05, 0.5, 5.0])
def test_dirichlet_moments(alpha):
    weights = Population.dirichlet(40_000, alpha, [f"r{i}" for i in range(4)], seed=1).weights
    variance = (0.25 * 0.75) / (4 * alpha + 1)
    assert np.allclose(weights.mean(axis=0), 0.25, atol=0.01)
    assert np.allclose(weights.var(axis=0), variance, rtol=0.04)


def test_dirichlet_marginal_is_the_beta_distribution():
    weights = Population.dirichlet(20_000, [0.3, 0.5, 1.2], ("a", "b", "c"), seed=3).weights
    for column, alpha in enumerate((0.3, 0.5, 1.2)):
        assert scipy.stats.kstest(weights[:, column], scipy.stats.beta(alpha, 2.0 - alpha).cdf).pvalue > 1e-3


def test_tiny_alpha_collapses_onto_single_reward_models():
    weights = Population.dirichlet(3_000, 1e-5, AB, seed=0).weights
    assert (weights.max(axis=1) > 0.999).mean() > 0.99
    assert abs(weights[:, 0].mean() - 0.5) < 0.05


@pytest.mark.parametrize(
    "draw",
    [
        lambda n: Population.dirichlet(n, 0.05, AB, seed=4),
        lambda n: Population.mixed(n, [0.01, 5.0], AB, seed=4, shares=[0.3, 0.7]),
    ],
)
@pytest.mark.parametrize(("few", "many"), [(10, 100), (1_000, 1_500), (1_024, 2_100)])
def test_first_users_do_not_depend_on_the_number_of_users(draw, few, many):
    assert np.array_equal(draw(few).weights, draw(many).weights[:few])


def test_seed_and_mixture_shares_matter():
    assert not np.array_equal(
        Population.dirichlet(5, 0.1, AB, seed=0).weights, Population.dirichlet(5, 0.1, AB, seed=1).weights
    )
    mixed = Population.mixed(10_000, [0.001, 1e6], AB, seed=0, shares=[0.2, 0.8]).weights
    assert abs((mixed.max(axis=1) > 0.9).mean() - 0.2) < 0.02
    equal = Population.mixed(10_000, [0.001, 1e6], AB, seed=0).weights
    assert abs((equal.max(axis=1) > 0.9).mean() - 0.5) < 0.02


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Population(weights=[[0.5, np.nan]], reward_models=AB), ParameterError, "user 0 must be finite"),
        (
            lambda: Population(weights=[[0.5, 0.5], [1.5, -0.5]], reward_models=AB),
            ParameterError,
            "user 1 must be >= 0",
        ),
        (lambda: Population(weights=[[0.5, 0.4]], reward_models=AB), ParameterError, "sum to 1"),
        (lambda: Population(weights=[[0.5, 0.5 + 2e-6]], reward_models=AB), ParameterError, "sum to 1"),
        (lambda: Population(weights=[0.5, 0.5], reward_models=AB), AxisMismatch, "shape"),
        (lambda: Population(weights=[[1.0]], reward_models=AB), AxisMismatch, "1 columns of weights but 2"),
        (lambda: Population(weights=[[0.5, 0.5]], reward_models=("a", "a")), ParameterError, "distinct"),
        (lambda: Population.dirichlet(0, 0.1, AB, 0), ParameterError, "n_users must be an integer >= 1"),
        (lambda: Population.dirichlet(2.5, 0.1, AB, 0), ParameterError, "n_users"),
        (lambda: Population.dirichlet(2, 0.0, AB, 0), ParameterError, "alpha"),
        (lambda: Population.dirichlet(2, np.inf, AB, 0), ParameterError, "alpha"),
        (lambda: Population.dirichlet(2, np.nan, AB, 0), ParameterError, "alpha"),
        (lambda: Population.dirichlet(2, [0.1, 0.1, 0.1], AB, 0), AxisMismatch, "3 values of alpha for 2"),
        (lambda: Population.dirichlet(2, 0.1, (), 0), ParameterError, "reward_models"),
        (lambda: Population.mixed(2, [], AB, 0), ParameterError, "alphas"),
        (lambda: Population.mixed(2, [0.1, -1], AB, 0), ParameterError, "alpha"),
        (lambda: Population.mixed(2, [0.1], AB, 0, shares=[0.5, 0.5]), AxisMismatch, "1 alphas but 2 shares"),
        (lambda: Population.mixed(2, [0.1, 1], AB, 0, shares=[0.5, 0.4]), ParameterError, "shares"),
        (lambda: Population.uniform(()), AxisMismatch, "shape"),
        (lambda: Population.published(-1), ParameterError, "alpha"),
        (lambda: Population.uniform(AB).subset([1]), ParameterError, r"rows must be in \[0, 1\)"),
        (lambda: Population.uniform(AB).subset([-1]), ParameterError, "rows"),
        (lambda: Population.uniform(AB).subset([0.5]), ParameterError, "integers"),
        (lambda: Population.uniform(AB).without_near_duplicates(1.5), ParameterError, "tolerance"),
        (lambda: Population.from_spec({"kind": "nobody"}), UserError, "kind 'nobody'"),
        (lambda: Population.from_spec({"kind": "published", "beta": 1}), UserError, "beta"),
    ],
)
def test_bad_values(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_order_of_reward_models_must_agree():
    users = Population.one_per_reward_model(AB)
    table = SimpleNamespace(values=np.zeros((1, 2, 2), np.float32), reward_models=("b", "a"))
    with pytest.raises(AxisMismatch, match="another order"):
        choices(users, table)
    other = SimpleNamespace(values=np.zeros((1, 2, 2), np.float32), reward_models=("a", "c"))
    with pytest.raises(AxisMismatch, match="a, c"):
        choices(users, other)
    choices(users, SimpleNamespace(values=np.zeros((1, 2, 2), np.float32), reward_models=AB))


def test_weights_are_a_read_only_copy():
    given = np.array([[0.5, 0.5]])
    users = Population(weights=given, reward_models=AB)
    given[0] = 7
    assert users.weights.tolist() == [[0.5, 0.5]]
    with pytest.raises(ValueError, match="read-only"):
        users.weights[0, 0] = 1


POPULATIONS = {
    "dirichlet": lambda: Population.dirichlet(5, 0.05, AB, seed=3),
    "per-rm": lambda: Population.dirichlet(5, [0.05, 2.0], AB, seed=3),
    "numpy-alpha": lambda: Population.dirichlet(5, np.array([0.05, 2.0]), AB, seed=3),
    "mixed": lambda: Population.mixed(5, [0.05, 1], AB, seed=3),
    "one": lambda: Population.one_per_reward_model(AB),
    "uniform": lambda: Population.uniform(AB),
    "published": lambda: Population.published(0.1),
    "hand": lambda: Population(weights=[[1 / 3, 2 / 3]], reward_models=AB),
    "subset": lambda: Population.published(0.1).subset([5, 2, 2]),
    "distinct": lambda: Population.dirichlet(50, 0.05, AB, seed=3).without_near_duplicates(0.1),
}


@pytest.mark.parametrize("name", POPULATIONS)
def test_spec_is_json_and_makes_the_same_population(name):
    users = POPULATIONS[name]()
    again = Population.from_spec(json.loads(canonical_json(users.spec())))
    assert np.array_equal(again.weights, users.weights)
    assert again.reward_models == users.reward_models
    assert again.spec() == users.spec()


def test_near_duplicates_match_the_plain_definition():
    users = Population.dirichlet(700, 0.3, ("a", "b", "c"), seed=0)
    kept = []
    for row in users.weights:
        if all(np.abs(row - other).sum() / 2 > 0.1 for other in kept):
            kept.append(row)
    filtered = users.without_near_duplicates(0.1)
    assert 10 < filtered.n_users < 700
    assert np.array_equal(filtered.weights, np.array(kept))
    assert users.without_near_duplicates(1.0).n_users == 1


def test_exact_duplicates_go_at_tolerance_zero():
    users = Population(weights=[[1, 0], [0, 1], [1, 0]], reward_models=AB)
    assert users.without_near_duplicates(0.0).n_users == 2
