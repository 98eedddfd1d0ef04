"""Fit a linear Bradley-Terry model: the chance that a response wins is a logistic function of its score margin."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from personalllm.core.errors import ParameterError
from personalllm.core.seeding import generator
from personalllm.core.types import F64

__all__ = ["PENALTIES", "choose_penalty", "fit_bradley_terry"]


PENALTIES: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Ridge penalties tried by default."""


def fit_bradley_terry(differences: F64, penalty: float, start: F64 | None = None) -> F64:
    """Return the weights w of a linear Bradley-Terry model.

    w minimises mean(log(1 + exp(-x . w))) + penalty / 2 * |w|^2 over rows x = features(chosen) - features(rejected).
    The minimum is unique; it is found with L-BFGS in float64.

    Args:
        differences: (n, n_features).
        penalty: Ridge penalty, > 0.
        start: (n_features,) first guess, zeros by default; affects the time only.

    Returns:
        float64 (n_features,).

    Raises:
        ParameterError: If the penalty is not positive.

    >>> w = fit_bradley_terry(np.array([[1.0, 0.0], [1.0, 0.5], [1.0, -0.5]]), penalty=0.1)
    >>> bool(w[0] > 1), bool(abs(w[1]) < 1e-6)
    (True, True)
    """
    from scipy.optimize import minimize

    if not penalty > 0:
        raise ParameterError("penalty", "> 0", penalty)
    n, dim = differences.shape

    def loss(w: F64) -> tuple[float, F64]:
        margins = differences @ w
        value = float(np.logaddexp(0.0, -margins).mean() + 0.5 * penalty * (w @ w))
        lost = np.exp(-np.logaddexp(0.0, margins))
        return value, penalty * w - (lost @ differences) / n

    first = np.zeros(dim) if start is None else start
    fit = minimize(loss, first, jac=True, method="L-BFGS-B", options={"maxiter": 1000, "ftol": 1e-11, "gtol": 1e-6})
    return np.asarray(fit.x, np.float64)


def choose_penalty(
    differences: F64, groups: npt.NDArray[np.int32], penalties: Sequence[float] = PENALTIES, folds: int = 5
) -> tuple[float, dict[float, float]]:
    """Choose the ridge penalty by cross-validation with whole groups in one fold.

    The largest penalty is chosen whose pair accuracy on the folds left out is within one standard error of the best:
    the smoothest model that the data cannot tell from the best one. The error is that of a share over n_groups draws.

    Args:
        differences: (n, n_features).
        groups: int32 (n,), numbered from 0.
        penalties: Candidates.
        folds: Number of folds, >= 2; fewer if there are fewer groups.

    Returns:
        The penalty, and the accuracy of each candidate.

    Raises:
        ParameterError: If there are fewer than two groups.
    """
    n_groups = int(groups.max()) + 1 if groups.size else 0
    if n_groups < 2:
        raise ParameterError("preferences", "of at least two different prompts", n_groups)
    folds = min(folds, n_groups)
    fold = (generator("reward folds", n_groups).permutation(n_groups) % folds)[groups]
    right = dict.fromkeys(penalties, 0.0)
    for k in range(folds):
        inside, outside = differences[fold != k], differences[fold == k]
        w: F64 | None = None
        for penalty in sorted(penalties, reverse=True):
            w = fit_bradley_terry(inside, penalty, w)
            margins = outside @ w
            right[penalty] += float(((margins > 0) + 0.5 * (margins == 0)).sum())
    scores = {penalty: value / len(differences) for penalty, value in right.items()}
    best = max(scores.values())
    error = float(np.sqrt(best * (1.0 - best) / n_groups))
    return max(penalty for penalty, score in scores.items() if score >= best - error), scores
