"""From the predictions of a learner on people to the results of the predict track."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from personalllm.evaluation.prediction.estimates import Estimates, estimate_cell
from personalllm.evaluation.prediction.metrics import PREDICTION_METRICS, Cell, PairSamples, Sums, user_sums
from personalllm.evaluation.prediction.results import LearnerResult
from personalllm.evaluation.results import Estimate

__all__ = ["PEOPLE_METRICS", "learner_result"]

PEOPLE_METRICS = ("accuracy", "log_loss", "ece", "brier", "length_controlled", "worst_decile")
"""What is known of people; the other metrics need utilities, which people do not reveal, and are NaN."""

_UNKNOWN = Estimate(math.nan, math.nan, math.nan)
_CELL = ("users", "prompts", "history", "shots")


def learner_result(
    about: Mapping[str, Any], table: Any, n_clusters: int, *, by_user: bool, draws: int, seed: int, seconds: float
) -> LearnerResult:
    """Add up the predictions of a learner and estimate its metrics.

    Args:
        about: `id`, `title`, `kind`, `paper`, `spec`, `log_odds` of the learner.
        table: Columns `users`, `prompts`, `history`, `shots`, `cluster`, `margin`, `longer`.
        n_clusters: Users or prompts that intervals resample.
        by_user: Whether these are users; the worst tenth of prompts is of no interest.
        draws: Number of resamples.
        seed: Seed of the resamples.
        seconds: Wall-clock seconds of a fit, on average.
    """
    sums = _sums(table, n_clusters, log_odds=bool(about["log_odds"]))
    estimates: dict[Cell, Estimates] = {}
    for cell, of_cell in sums.items():
        found = estimate_cell(of_cell, draws=draws, seed=seed)
        known = {("all", metric) for metric in PEOPLE_METRICS if by_user or metric != "worst_decile"}
        of_all = [("all", metric) for metric in PREDICTION_METRICS]
        estimates[cell] = {key: found[key] if key in known else _UNKNOWN for key in of_all}
    return LearnerResult(
        id=str(about["id"]),
        title=str(about["title"]),
        spec=dict(about["spec"]),
        kind=about["kind"],
        paper=str(about["paper"]),
        log_odds=bool(about["log_odds"]),
        seconds_fit=seconds if about["kind"] == "learner" else math.nan,
        seconds_adapt_per_user=math.nan,
        sums=sums,
        estimates=estimates,
    )


def _sums(table: Any, n_clusters: int, *, log_odds: bool) -> dict[Cell, Sums]:
    """Return, for each cell, the sums of what intervals resample."""
    cells = table.select(list(_CELL)).group_by(list(_CELL)).aggregate([]).to_pylist()
    values = {name: table[name].to_numpy() for name in ("cluster", "margin", "longer")}
    found: dict[Cell, Sums] = {}
    columns = {name: table[name].to_numpy(zero_copy_only=False) for name in _CELL}
    for spec in cells:
        rows = np.all([columns[name] == spec[name] for name in _CELL], axis=0)
        samples = PairSamples(
            n_users=n_clusters,
            user=values["cluster"][rows].astype(np.int32),
            margin=values["margin"][rows].astype(np.float32),
            longer=values["longer"][rows].astype(np.int8),
            log_odds=log_odds,
        )
        found[Cell.from_spec(spec)] = user_sums(samples)
    return dict(sorted(found.items()))
