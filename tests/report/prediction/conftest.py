"""Results of the predict track made up from a seed; nothing is evaluated."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from personalllm.core.seeding import generator
from personalllm.evaluation.prediction.estimates import estimate_cell
from personalllm.evaluation.prediction.metrics import Cell, PairSamples, Sums, user_sums
from personalllm.evaluation.prediction.results import LearnerResult, PredictResults

SHOTS = (0, 1, 2, 4, 8, 16, 32, 64)
RMS = ("rm-a", "rm-b", "rm-c")
ROWS = (
    ("hierarchical-bt", "Hierarchical Bayes Bradley-Terry", "learner", 0.3, 1.6, True),
    ("pref", "PReF", "learner", 0.3, 1.45, True),
    ("lore", "LoRe", "learner", 0.3, 1.2, True),
    ("user-bt", "Per-user Bradley-Terry", "learner", 0.0, 1.3, True),
    ("pooled-bt", "Pooled Bradley-Terry", "learner", 0.6, 0.6, True),
    ("vpl", "Variational preference learning", "learner", 0.3, 0.7, True),
    ("gpo", "Group preference optimisation", "learner", 0.5, 0.9, True),
    ("longest", "Longest response", "learner", 0.25, 0.25, False),
    ("random", "Coin (p = 1/2)", "null", 0.0, 0.0, True),
    ("longer", "Longer response", "null", 0.25, 0.25, True),
    ("population", "Share of the population", "null", 0.7, 0.7, True),
    ("best-linear", "Best linear in the embedding", "oracle", 2.4, 2.4, True),
    ("true-weights", "True weights", "oracle", 60.0, 60.0, True),
)
"""Label, title, kind, skill without a comparison, skill after the most, whether it gives probabilities."""


def cells(shots: tuple[int, ...] = SHOTS) -> list[Cell]:
    found = [Cell(u, p, "true", k) for u in ("unseen", "seen") for p in ("unseen", "seen") for k in shots]  # type: ignore[arg-type]
    return [*found, *(Cell("unseen", "unseen", kind, shots[-1]) for kind in ("flipped", "other-user"))]  # type: ignore[arg-type]


def sums(cell: Cell, low: float, high: float, log_odds: bool, n_users: int, tests: int) -> Sums:
    """A margin is the true one (a normal number above 0 on average), blurred the more the less skill there is."""
    rng = generator(0, "predict", cell.users, cell.prompts, n_users)
    user = np.repeat(np.arange(n_users, dtype=np.int32), tests)
    noise, size, share = rng.normal(size=len(user)), np.abs(rng.normal(size=len(user))), rng.random(len(user))
    skill = low + (high - low) * math.log2(cell.shots + 1) / math.log2(65)
    skill = {"flipped": -skill, "other-user": low}.get(cell.history, skill) + 0.1 * (cell.users == "seen") * (high > 0)
    margin = (skill * size * (1.3 - share) + noise * (high > 0)).astype(np.float32)
    samples = PairSamples(
        n_users=n_users,
        user=user,
        margin=margin,
        regret=np.abs(rng.normal(size=len(user))).astype(np.float32) / np.float32(1 + max(skill, 0)),
        tau=np.clip(rng.normal(skill / 4, 0.3, len(user)), -1, 1).astype(np.float32),
        share=share.astype(np.float32),
        longer=rng.choice(np.array([-1, 1], np.int8), len(user)),
        log_odds=log_odds,
    )
    return user_sums(samples, (np.arange(n_users) % len(RMS)).astype(np.int32))


def learner(row: tuple[Any, ...], n_users: int, tests: int, shots: tuple[int, ...]) -> LearnerResult:
    label, title, kind, low, high, log_odds = row
    of = {cell: sums(cell, low, high, log_odds, n_users, tests) for cell in cells(shots)}
    return LearnerResult(
        id=label,
        title=title,
        spec={"id": label, "params": {}},
        kind=kind,
        paper="",
        log_odds=log_odds,
        seconds_fit=1.5 if kind == "learner" else math.nan,
        seconds_adapt_per_user=0.002 if kind == "learner" else math.nan,
        sums=of,
        estimates={cell: estimate_cell(found, RMS, draws=200, seed=0) for cell, found in of.items()},
    )


@pytest.fixture(scope="session")
def make_predicted() -> Callable[..., PredictResults]:
    """Return a function `(n_users, rows, **changes) -> PredictResults`."""

    def make(n_users: int = 60, rows: Any = ROWS, *, shots: tuple[int, ...] = SHOTS, **changes: Any) -> PredictResults:
        protocol = {
            "track": "predict",
            "benchmark": "mini",
            "seed": 0,
            "bootstrap_draws": 200,
            "population": {"kind": "dirichlet", "alpha": 0.05, "n_users": n_users},
            "pool": {"n_users": 1000, "pairs_per_user": 50},
            "feedback": {"pairs": "random", "temperature": 0.0},
            "prediction": {"shots": list(shots), "test_pairs": 20},
            "embedder": "minilm-l6-int8/2c81",
        }
        values: dict[str, Any] = {
            "protocol": protocol,
            "fingerprint": "5a1d0a5be2c94411",
            "benchmark_name": "mini",
            "learners": tuple(learner(row, n_users, 12, shots) for row in rows),
            "reward_models": RMS,
            "manifest": {"benchmark": {"name": "mini", "reward_models": list(RMS)}, "versions": [{"numpy": "2"}]},
        }
        return PredictResults(**(values | changes))

    return make


@pytest.fixture(scope="session")
def predicted(make_predicted: Callable[..., PredictResults]) -> PredictResults:
    return make_predicted()
