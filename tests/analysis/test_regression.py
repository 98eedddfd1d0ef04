"""Per-user regressions, against scikit-learn user by user and against certificates made by hand."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from personalllm.analysis.features import Features
from personalllm.analysis.regression import regressions, user_regressions
from personalllm.analysis.regression import users as regression_users
from personalllm.analysis.regression.solver import FITTED, NOT_CONVERGED, SEPARABLE, fit_logistic
from personalllm.core.errors import AxisMismatch, ParameterError
from personalllm.core.plotting import WIDTH
from personalllm.data import ScoreTable
from personalllm.users import Population

RMS = ("a", "b", "c")
EXACT = partial(LogisticRegression, C=np.inf, fit_intercept=False, tol=1e-12, max_iter=10_000)


def scene(n_prompts=90, n_features=4, seed=0):
    """Features that the reward models like or dislike, with noise; two features go together."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n_prompts, 6, n_features)) * [1, 20, 0.01, 3][:n_features] + 5
    x[..., 1] += 15 * (x[..., 0] - 5)
    taste = rng.normal(size=(n_features, 3))
    scores = ((x - 5) / x.std((0, 1))) @ taste * 0.4 + rng.normal(size=(n_prompts, 6, 3)) * 2
    names = tuple(f"f{i}" for i in range(n_features))
    return ScoreTable(scores.astype(np.float32), RMS), Features(x, names, ("made",) * n_features)


def rows_by_hand(population, table, features, place, user):
    """One user's rows: best, lower, best, lower, ... in the order of the prompts, ranked by plain NumPy."""
    utility = table.values.astype(np.float64) @ population.weights[user]
    order = np.argsort(-utility, axis=1, kind="stable")
    x = np.asarray(features.values, np.float64)
    prompt = np.arange(len(x))
    return np.stack([x[prompt, order[:, 0]], x[prompt, order[:, place]]], axis=1).reshape(-1, x.shape[2])


def halves(n_prompts, split, seed=42, held_out=0.1):
    """The split of scikit-learn, from NumPy's legacy generator as its documentation has it."""
    n = 2 * n_prompts if split == "rows" else n_prompts
    order = np.random.RandomState(seed).permutation(n)
    n_test = int(np.ceil(held_out * n))
    test, train = order[:n_test], order[n_test:]
    if split == "prompts":
        train, test = (np.stack([2 * part, 2 * part + 1], 1).ravel() for part in (train, test))
    return train, test


@pytest.mark.parametrize(("contrast", "place"), [("best-worst", -1), ("best-fourth", 3)])
@pytest.mark.parametrize("split", ["rows", "prompts"])
def test_equals_a_pipeline_of_scikit_learn_for_every_user(contrast, place, split, monkeypatch):
    monkeypatch.setattr(regression_users, "_VALUES_PER_BLOCK", 5_000)
    table, features = scene()
    users = Population.dirichlet(20, 0.5, RMS, seed=1)
    found = user_regressions(users, table, features, contrast, split=split)
    train, test = halves(table.n_prompts, split)
    assert (found.n_train, found.n_held_out) == (len(train), len(test)) == (162, 18)
    assert found.n_fitted == 20
    label = np.arange(2 * table.n_prompts) % 2 == 0
    for user in range(20):
        x = rows_by_hand(users, table, features, place, user)
        model = make_pipeline(StandardScaler(), EXACT(solver="newton-cholesky")).fit(x[train], label[train])
        np.testing.assert_allclose(found.coefficients[user], model[-1].coef_[0], atol=1e-6, rtol=0)
        assert found.accuracy[user] == pytest.approx(model.score(x[test], label[test]), abs=1e-12)
    assert np.ptp(found.accuracy) > 0
    assert np.abs(found.coefficients).max() > 0.5


def test_blocks_change_nothing(monkeypatch):
    table, features = scene()
    users = Population.dirichlet(7, 0.5, RMS, seed=1)
    whole = user_regressions(users, table, features)
    monkeypatch.setattr(regression_users, "_VALUES_PER_BLOCK", 1)
    parts = user_regressions(users, table, features)
    np.testing.assert_allclose(parts.coefficients, whole.coefficients, atol=1e-9)
    np.testing.assert_allclose(parts.prompt_error, whole.prompt_error, rtol=1e-6)
    assert (parts.accuracy == whole.accuracy).all()


def test_steep_but_finite_solutions_are_found():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(400, 2))
    label = x @ [30, -10] + rng.logistic(size=400) > 0
    fit = fit_logistic(x[None], label)
    expected = EXACT(solver="newton-cholesky").fit(x, label).coef_[0]
    assert fit.state.tolist() == [FITTED]
    assert abs(expected[0]) > 15
    np.testing.assert_allclose(fit.coefficients[0], expected, rtol=1e-6)


@pytest.mark.parametrize("kind", ["all apart", "touching at zero", "one direction only"])
def test_separable_rows_have_no_coefficients(kind):
    rng = np.random.default_rng(0)
    label = np.arange(60) % 2 == 0
    x = rng.normal(size=(60, 2))
    if kind == "all apart":
        x[:, 0] = np.where(label, 1, -1) * rng.uniform(0.1, 2, 60)
    elif kind == "touching at zero":
        x[:, 0] = np.where(label, 1, -1) * (np.arange(60) == 4)
    else:
        x[:, 0] = np.where(label, 1, -1) * np.maximum(rng.normal(size=60), 0)
    both = np.stack([x, rng.normal(size=(60, 2))])
    fit = fit_logistic(both, label)
    assert fit.state.tolist() == [SEPARABLE, FITTED]
    assert fit.steps[0] < 20 if kind == "all apart" else fit.steps[0] == 25
    assert np.isnan(fit.coefficients[0]).all()
    assert np.isfinite(fit.coefficients[1]).all()
    np.testing.assert_allclose(
        fit.coefficients[1], EXACT(solver="newton-cholesky").fit(both[1], label).coef_[0], atol=1e-8
    )


def test_nearly_separable_rows_are_not_called_separable():
    label = np.arange(60) % 2 == 0
    x = np.where(label, 1.0, -1.0)[:, None] * np.linspace(0.1, 2, 60)[:, None]
    x[7] *= -1
    fit = fit_logistic(x[None], label)
    assert fit.state.tolist() == [FITTED]
    np.testing.assert_allclose(fit.coefficients[0], EXACT(solver="newton-cholesky").fit(x, label).coef_[0], rtol=1e-6)


def test_heavy_tails_do_not_make_the_steps_diverge():
    rng = np.random.default_rng(910)  # undamped steps do not settle on these rows
    n = int(rng.integers(8, 40))
    x = rng.standard_t(1, size=(n, 2))
    label = x[:, 0] * rng.normal() + rng.logistic(size=n) * 0.3 > 0
    fit = fit_logistic(x[None], label)
    assert fit.state.tolist() == [FITTED]
    miss = label - 0.5 * (1 + np.tanh(x @ fit.coefficients[0] / 2))
    assert np.abs(miss @ x).max() < 1e-6


def test_collinear_features_share_as_in_scikit_learn():
    table, features = scene(n_features=2)
    doubled = Features(
        np.concatenate([features.values, 2 * features.values[..., :1] - 1], axis=2), ("f0", "f1", "twin"), ("made",) * 3
    )
    users = Population.dirichlet(5, 0.5, RMS, seed=1)
    found = user_regressions(users, table, doubled)
    assert found.rank.tolist() == [2] * 5
    np.testing.assert_allclose(found.coefficients[:, 0], found.coefficients[:, 2], atol=1e-5)
    train, _ = halves(table.n_prompts, "rows")
    label = np.arange(2 * table.n_prompts) % 2 == 0
    x = StandardScaler().fit_transform(rows_by_hand(users, table, doubled, -1, 0)[train])
    np.testing.assert_allclose(found.coefficients[0], EXACT().fit(x, label[train]).coef_[0], atol=1e-5)
    single = user_regressions(users, table, features)
    np.testing.assert_allclose(found.coefficients[:, [0, 2]].sum(1), single.coefficients[:, 0], atol=1e-5)
    assert any("combination of the others" in note for note in regressions(users, table, {"s": doubled}).notes())


def test_a_feature_that_does_not_vary_has_no_coefficient_and_changes_nothing_else():
    table, features = scene(n_features=2)
    flat = Features(
        np.concatenate([features.values, np.full_like(features.values[..., :1], 0.1)], axis=2),
        ("f0", "f1", "flat"),
        ("made",) * 3,
    )
    users = Population.dirichlet(5, 0.5, RMS, seed=1)
    found, plain = user_regressions(users, table, flat), user_regressions(users, table, features)
    assert np.isnan(found.coefficients[:, 2]).all()
    np.testing.assert_allclose(found.coefficients[:, :2], plain.coefficients, atol=1e-9)
    assert (found.accuracy == plain.accuracy).all()
    result = regressions(users, table, {"s": flat})
    assert any("flat did not vary" in note for note in result.notes())
    assert not any("combination" in note for note in result.notes())
    assert result.models[0][1].summary()[2]["n_users"] == 0
    result.plot()


def test_a_prompt_without_a_value_is_left_out():
    table, features = scene()
    values = features.values.copy()
    values[11, 2, 1] = np.nan
    users = Population.dirichlet(5, 0.5, RMS, seed=1)
    found = user_regressions(users, table, Features(values, features.names, features.measured_by))
    rest = np.delete(np.arange(90), 11)
    expected = user_regressions(
        users,
        ScoreTable(table.values[rest], RMS),
        Features(features.values[rest], features.names, features.measured_by),
    )
    assert (found.n_left_out, found.n_prompts) == (1, 89)
    np.testing.assert_array_equal(found.coefficients, expected.coefficients)
    holed = Features(values, features.names, features.measured_by)
    assert any("1 of 90 prompts left out" in note for note in regressions(users, table, {"s": holed}).notes())


def test_separable_users_are_reported_and_left_out_of_the_accuracies():
    table, features = scene(n_prompts=6)
    users = Population.dirichlet(30, 0.5, RMS, seed=1)
    result = regressions(users, table, {"few": features}, contrasts=("best-worst",))
    (_, model) = result.models[0]
    apart = model.state == SEPARABLE
    assert apart.any()
    assert np.isnan(model.coefficients[apart]).all()
    assert np.isnan(model.accuracy[apart]).all()
    assert np.isfinite(model.accuracy[~apart]).all()
    assert model.n_fitted == 30 - apart.sum()
    known = model.accuracy[~apart]
    assert model.accuracy_range() == pytest.approx((known.min(), known.mean(), known.max()))
    rest = user_regressions(users.subset(np.flatnonzero(~apart)), table, features)
    np.testing.assert_allclose(model.prompt_error, rest.prompt_error)
    assert any(f"for {apart.sum()} of 30 users" in note for note in result.notes())
    tables = result.tables()
    assert tables["accuracy"]["n_separable"].to_pylist() == [int(apart.sum())]
    assert tables["coefficients"]["coefficient"].null_count == 4 * apart.sum()
    assert tables["users"]["state"].to_pylist().count("separable") == apart.sum()


def test_influences_are_what_leaving_a_row_out_does():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(3, 200, 2))
    label = np.arange(200) % 2 == 0
    x[..., 0] += 0.7 * label
    beta = fit_logistic(x, label).coefficients
    effect = regression_users._influence(x, label, beta, np.ones((3, 2), bool))
    kept = [np.delete(np.arange(200), row) for row in range(200)]
    truth = np.stack([(beta - fit_logistic(x[:, rest], label[rest]).coefficients).sum(axis=0) for rest in kept])
    assert np.corrcoef(effect[:, 0], truth[:, 0])[0, 1] > 0.999
    np.testing.assert_allclose(effect.std(0), truth.std(0), rtol=0.05)


def test_the_interval_over_prompts_covers_another_draw_of_prompts():
    users = Population.uniform(RMS)
    rng = np.random.default_rng(0)
    table, features = scene(n_prompts=6_000, seed=9)
    parts = rng.permutation(6_000).reshape(40, 150)
    found = [
        user_regressions(
            users,
            ScoreTable(table.values[rows], RMS),
            Features(features.values[rows], features.names, features.measured_by),
        )
        for rows in parts
    ]
    spread = np.std([model.coefficients[0] for model in found], axis=0, ddof=1)
    stated = np.mean([model.prompt_error for model in found], axis=0)
    np.testing.assert_allclose(stated, spread, rtol=0.3)
    row = found[0].summary()[0]
    half = 1.959963984540054 * found[0].prompt_error[0]
    assert (row["low_prompts"], row["high_prompts"]) == pytest.approx((row["mean"] - half, row["mean"] + half))


def test_the_summary_by_hand():
    table, features = scene()
    users = Population.dirichlet(25, 0.5, RMS, seed=1)
    model = user_regressions(users, table, features)
    row = model.summary()[2]
    values = model.coefficients[:, 2]
    half = 1.959963984540054 * values.std(ddof=1) / 5
    assert row["feature"] == "f2"
    assert (row["mean"], row["low_users"], row["high_users"]) == pytest.approx(
        (values.mean(), values.mean() - half, values.mean() + half)
    )
    assert (row["q05"], row["q50"], row["q95"]) == pytest.approx(tuple(np.quantile(values, [0.05, 0.5, 0.95])))
    assert model.accuracy_range() == pytest.approx((model.accuracy.min(), model.accuracy.mean(), model.accuracy.max()))


@given(st.lists(st.sampled_from([-8.0, -1.0, -0.25, 0.5, 1.0, 64.0]), min_size=4, max_size=4))
def test_the_unit_of_a_feature_does_not_matter(scale):
    table, features = scene(n_prompts=40)
    users = Population.uniform(RMS)
    other = Features(features.values * np.float32(scale), features.names, features.measured_by)
    plain, scaled = (user_regressions(users, table, f) for f in (features, other))
    np.testing.assert_allclose(scaled.coefficients * np.sign(scale), plain.coefficients, atol=1e-8)
    assert (scaled.accuracy == plain.accuracy).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"contrast": "best-fifth"}, ParameterError, "contrast must be one of best-worst, best-fourth"),
        ({"split": "users"}, ParameterError, "split must be one of rows, prompts"),
        ({"held_out": 0.0}, ParameterError, r"held_out must be in \(0, 1\)"),
        ({"held_out": 0.999}, ParameterError, "held_out must be small enough"),
        ({"seed": -1}, ParameterError, "seed must be in"),
        ({"features": "shorter"}, AxisMismatch, "Features of 89 prompts"),
        ({"features": "none"}, ParameterError, "prompts with values for all features must be >= 2"),
        ({"features": "empty"}, ParameterError, "features must be one feature or more"),
        ({"scores": "three responses"}, ParameterError, "contrast 'best-fourth'"),
        ({"population": "other"}, AxisMismatch, "reward models"),
    ],
)
def test_what_cannot_be_fitted_is_said(change, error, message):
    table, features = scene()
    users = Population.uniform(RMS)
    options = {"contrast": "best-fourth"} | {
        k: v for k, v in change.items() if k in {"contrast", "split", "held_out", "seed"}
    }
    match change:
        case {"features": "shorter"}:
            features = Features(features.values[:89], features.names, features.measured_by)
        case {"features": "none"}:
            features = Features(np.full_like(features.values, np.nan), features.names, features.measured_by)
        case {"features": "empty"}:
            features = Features(features.values[..., :0], (), ())
        case {"scores": _}:
            table = ScoreTable(table.values[:, :3], RMS)
            features = Features(features.values[:, :3], features.names, features.measured_by)
        case {"population": _}:
            users = Population.uniform(("a", "b", "z"))
    with pytest.raises(error, match=message):
        user_regressions(users, table, features, **options)


def test_regressions_need_a_set_and_a_contrast():
    table, features = scene()
    for sets, contrasts in [({}, ("best-worst",)), ({"s": features}, ())]:
        with pytest.raises(ParameterError, match="feature_sets and contrasts"):
            regressions(Population.uniform(RMS), table, sets, contrasts=contrasts)


def test_tables_notes_and_figure():
    table, features = scene()
    users = Population.dirichlet(40, 0.5, RMS, seed=1)
    result = regressions(users, table, {"first": features, "second": features.select(["f1", "f0"])})
    tables = result.tables()
    assert {name: t.num_rows for name, t in tables.items()} == {
        "accuracy": 4,
        "summary": 12,
        "coefficients": 40 * 12,
        "users": 160,
    }
    assert set(tables["summary"]["measured_by"].to_pylist()) == {"made"}
    assert tables["coefficients"]["coefficient"][5].as_py() == result.models[0][1].coefficients[1, 1]
    assert "18 are held out" in result.notes()[1]
    assert "other response of the prompt" in result.notes()[1]
    assert "together" in regressions(users, table, {"s": features}, split="prompts").notes()[1]
    figure = result.plot()
    texts = [t for axes in figure.axes for t in (*axes.get_yticklabels(), *axes.get_xticklabels(), axes.title)]
    assert min(t.get_fontsize() for t in texts) >= 8
    assert [t.get_text() for t in figure.axes[1].get_yticklabels()] == ["f1", "f0"]
    bars = figure.axes[0].patches
    assert {bar.get_hatch() for bar in bars} == {None, "////"}
    row = result.models[0][1].summary()[0]
    assert (bars[0].get_x(), bars[0].get_width()) == pytest.approx((row["q25"], row["q75"] - row["q25"]))
    assert figure.get_size_inches()[0] == WIDTH


def test_states_have_codes():
    assert (FITTED, SEPARABLE, NOT_CONVERGED) == (0, 1, 2)
