"""Sizes of the predict track: defaults that fit a benchmark, and what cannot be run on it."""

from __future__ import annotations

from typing import Any

from personalllm.core.errors import ParameterError
from personalllm.evaluation.specs import HistorySpec, PoolSpec, PredictionSpec, several

__all__ = ["check_prediction", "fit_prediction"]

_POOL_USERS = 1000
_POOL_PAIRS = 50


def fit_prediction(nested: dict[str, dict[str, Any]], known: int, asked: int) -> None:
    """Fill in the defaults of the predict track that depend on the benchmark's size, in place.

    At most half of the history split is compared, so that there are prompts of it left to predict; a benchmark of 128
    prompts takes every default as it stands.

    Args:
        nested: The parts of a protocol as they were given.
        known: Prompts of the history split.
        asked: Prompts of the split.

    Raises:
        ParameterError: If the history is set by hand: it follows from the shots.
    """
    prediction, pool, history = nested["prediction"], nested["pool"], nested["history"]
    half = max(1, known // 2)
    pool.setdefault("n_users", _POOL_USERS)
    pool.setdefault("pairs_per_user", min(_POOL_PAIRS, half))
    own = PredictionSpec.model_fields
    prediction.update({name: several(prediction[name]) for name in ("shots", "users", "prompts") if name in prediction})
    if "shots" not in prediction:
        prediction["shots"] = tuple(k for k in own["shots"].default if k <= half)
    if not pool["n_users"] and "users" not in prediction:
        prediction["users"] = ("unseen",)
    alone = nested["population"].get("kind") == "uniform" or nested["population"].get("n_users") == 1
    if alone:
        prediction.setdefault("counterfactuals", ("flipped",))
    if isinstance(pool["n_users"], int) and pool["n_users"] > 0:
        prediction.setdefault("n_seen_users", min(own["n_seen_users"].default, pool["n_users"]))
    shots = prediction["shots"]
    compared = [k for k in (shots if isinstance(shots, (list, tuple)) else ()) if isinstance(k, int)]
    most = max([0, *compared, pool["pairs_per_user"] if isinstance(pool["pairs_per_user"], int) else 0])
    if "test_pairs" not in prediction:
        room = [own["test_pairs"].default]
        kinds = prediction.get("prompts", own["prompts"].default)
        room += [asked] if "unseen" in kinds else []
        room += [known - most] if "seen" in kinds and known > most else []
        prediction["test_pairs"] = max(1, min(room))
    fixed = {"pairs": max([0, *compared]), "nearest": 0, "counterfactual": "none"}
    for name, value in history.items():
        if value != fixed.get(name, value):
            where = "counterfactuals" if name == "counterfactual" else "shots"
            raise ParameterError(f"history.{name}", f"left out in the predict track, see prediction.{where}", value)
    history.update(fixed)


def check_prediction(
    prediction: PredictionSpec, history: HistorySpec, pool: PoolSpec, *, known: int, asked: int
) -> None:
    """Raise unless a benchmark has the prompts and the pool has the users that are asked for.

    Raises:
        ParameterError: If not; names the field, what there is and what was given.
    """
    most = max(prediction.shots)
    if history != HistorySpec(pairs=most, nearest=0):
        raise ParameterError("history", f"pairs {most} (the most shots), nearest 0, no counterfactual", history)
    if most > known:
        raise ParameterError("prediction.shots", f"at most the prompts of the history split ({known})", most)
    if "seen" in prediction.users and prediction.n_seen_users > pool.n_users:
        raise ParameterError(
            "prediction.n_seen_users", f"at most the users of the pool ({pool.n_users})", prediction.n_seen_users
        )
    compared = {"unseen": most, "seen": pool.pairs_per_user}
    left = known - max(compared[kind] for kind in prediction.users)
    for kind, there in (("unseen", asked), ("seen", left)):
        if kind in prediction.prompts and there < (prediction.test_pairs or 1):
            raise ParameterError(
                "prediction.test_pairs",
                f"at most the {kind} prompts that a user has left ({max(0, there)})",
                prediction.test_pairs,
            )
