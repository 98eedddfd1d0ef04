"""The users' logistic regressions: one stacked Newton solver against a loop of scikit-learn pipelines."""

from __future__ import annotations

from typing import Any

import numpy as np
from _common import MEGABYTE, Row, in_fresh_process, measured_memory, seconds, wall_and_processor

from personalllm.analysis.features import Features
from personalllm.analysis.regression import user_regressions
from personalllm.data import ScoreTable
from personalllm.users import Population, ranks

N_USERS, N_PROMPTS, N_FEATURES = 1_000, 1_000, 7


def scene() -> tuple[Population, ScoreTable, Features]:
    """Return users and scores of the paper's size, and correlated features that the reward models follow in part."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(N_FEATURES, N_FEATURES))
    features = rng.normal(size=(N_PROMPTS, 8, N_FEATURES)) @ mixing
    scores = features @ rng.normal(size=(N_FEATURES, 10)) * 0.2 + rng.normal(size=(N_PROMPTS, 8, 10))
    names = tuple(f"rm{b}" for b in range(10))
    users = Population.dirichlet(N_USERS, 0.05, names, seed=0)
    named = Features(features, tuple(f"f{i}" for i in range(N_FEATURES)), ("made",) * N_FEATURES)
    return users, ScoreTable(scores.astype(np.float32), names), named


def loop(users: Population, scores: ScoreTable, features: Features, **options: Any) -> Any:
    """Return the coefficients and accuracies of one pipeline for each user, as one would write it."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    placed = ranks(users, scores, (0, -1))
    table = np.asarray(features.values, np.float64)
    label = np.arange(2 * N_PROMPTS) % 2 == 0
    coefficients, accuracies = [], []
    for at in placed:
        x = table[np.arange(N_PROMPTS)[:, None], at].reshape(2 * N_PROMPTS, -1)
        parts = train_test_split(x, label, test_size=0.1, random_state=42)
        regression = LogisticRegression(C=np.inf, fit_intercept=False, max_iter=1_000, **options)
        model = make_pipeline(StandardScaler(), regression).fit(parts[0], parts[2])
        coefficients.append(model[-1].coef_[0])
        accuracies.append(model.score(parts[1], parts[3]))
    return np.array(coefficients), np.array(accuracies)


def measure() -> dict[str, float]:
    users, scores, features = scene()
    user_regressions(users.subset(np.arange(10)), scores, features)
    kept: list[Any] = []
    rise = measured_memory(lambda: kept.append(user_regressions(users, scores, features)))
    wall, used = wall_and_processor(lambda: user_regressions(users, scores, features))
    theirs: list[Any] = []
    default = seconds(lambda: theirs.append(loop(users, scores, features)))
    exact = seconds(lambda: theirs.append(loop(users, scores, features, solver="newton-cholesky", tol=1e-10)))
    (plain, _), (tight, accuracy) = theirs
    if (np.abs(kept[0].accuracy - accuracy) > 1e-12).sum() > N_USERS / 100:
        raise SystemExit("the two methods disagree on the held-out rows of more than 1 % of the users")
    return {
        "wall": wall,
        "used": used,
        "rise": rise / MEGABYTE,
        "default": default,
        "exact": exact,
        "plain_gap": float(np.abs(kept[0].coefficients - plain).max()),
        "gap": float(np.abs(kept[0].coefficients - tight).max()),
    }


def run() -> list[Row]:
    found = in_fresh_process("bench_regression", "measure")
    wall, gap = found["wall"], found["gap"]
    return [
        Row(
            "regressions, 1,000 users x 2,000 rows x 7",
            f"{wall:.2f} s ({found['used']:.2f} s of processor)",
            "< 20 s",
            wall < 20,
        ),
        Row("regressions: memory", f"{found['rise']:.0f} MB", "", None),
        Row(
            "scikit-learn loop, default (times slower), coefficients differ by",
            f"{found['default']:.2f} s ({found['default'] / wall:.1f} x), {found['plain_gap']:.0e}",
            "",
            None,
        ),
        Row(
            "scikit-learn loop, exact (times slower), coefficients differ by",
            f"{found['exact']:.2f} s ({found['exact'] / wall:.1f} x), {gap:.0e}",
            "<= 1e-6",
            gap <= 1e-6,
        ),
    ]
