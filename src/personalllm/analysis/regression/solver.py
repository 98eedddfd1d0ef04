"""Fit many logistic regressions at once: Newton's method on a stack of designs, without penalty and intercept.

Own code, because scikit-learn fits one user at a time, returns large coefficients where there is no finite solution,
and stops up to 0.05 from the maximum at its default tolerance. The fits of methods (`methods.parts.logistic`) have a
prior, so that a solution always exists: they need neither the test for separation nor the care for collinear features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from personalllm.core.types import F64

__all__ = ["FITTED", "NOT_CONVERGED", "SEPARABLE", "STATES", "Fit", "fit_logistic"]

U8 = npt.NDArray[np.uint8]

STATES = ("fitted", "separable", "not converged")
"""Outcomes of a regression, in the order of their codes."""

FITTED, SEPARABLE, NOT_CONVERGED = range(3)

_STEPS = 60
# A design that still moves after this many steps is probably separable; a linear programme decides, which is slow.
_PATIENCE = 25
_HALVINGS = 30
_TOLERANCE = 1e-10  # largest step, relative to the coefficients
_RANK = 1e-9  # an eigenvalue below this share of the largest one is taken for 0: the features are collinear
_RIDGE = 1e-14  # keeps the Hessian invertible in float64; too small to move a coefficient by the tolerance
_STEEP = 1e-7  # largest gradient, per row; with a tiny Hessian a small step alone does not mean a maximum


@dataclass(frozen=True, eq=False)
class Fit:
    """Solutions of a stack of regressions.

    Attributes:
        coefficients: float64 (n, n_features), log odds for one unit; NaN where there is no finite solution.
        state: uint8 (n,), codes into `STATES`.
        rank: int64 (n,), rank of each design; below n_features the solution of minimum norm is given.
        steps: int64 (n,), Newton steps.
    """

    coefficients: F64
    state: U8
    rank: npt.NDArray[np.int64]
    steps: npt.NDArray[np.int64]


def fit_logistic(design: F64, labels: npt.NDArray[np.bool_]) -> Fit:
    r"""Maximise $\sum_i \log \sigma(z_i \cdot \beta)$ for every design, $z_i = \pm x_i$ by the label.

    All designs take their Newton steps together; a step that does not raise the likelihood is halved. A design that
    some direction separates (no $z_i \cdot \beta < 0$, one > 0) has no finite solution: it is recognised by a
    certificate, or for designs that do not settle by a linear programme, and its coefficients are NaN (Albert and
    Anderson, 1984).

    Args:
        design: float64 (n, n_rows, n_features), finite; columns should have about unit variance.
        labels: bool (n_rows,), the same for all designs.
    """
    n, n_rows, n_features = design.shape
    signed = design * np.where(labels, 1.0, -1.0)[:, None]
    # Directions without variation get curvature 1 (`fill`) so that the system can be solved, and no step, so that the
    # coefficients stay in the row space: of all maxima this is the one of minimum norm.
    values, vectors = np.linalg.eigh(signed.transpose(0, 2, 1) @ signed / max(n_rows, 1))
    flat = values <= _RANK * np.maximum(values[:, -1:], np.finfo(float).tiny)
    fill = (vectors * flat[:, None, :]) @ vectors.transpose(0, 2, 1)
    beta = np.zeros((n, n_features))
    steps = np.zeros(n, np.int64)
    state = np.full(n, NOT_CONVERGED, np.uint8)
    left = np.arange(n)
    for step in range(1, _STEPS + 1):
        z = signed[left] if len(left) < n else signed
        margins = _times(z, beta[left])
        # All margins above 0: these coefficients separate the rows, so longer ones are always more likely.
        separated = margins.min(axis=1, initial=np.inf) > 0
        moved, settled = _newton_step(z, margins, beta[left], fill[left])
        beta[left] = np.where(separated[:, None], np.nan, moved)
        steps[left] = step
        state[left[settled]] = FITTED
        state[left[separated]] = SEPARABLE
        active = ~(settled | separated)
        if step == _PATIENCE and active.any():
            separable = [bool(active[i]) and _separable(z[i]) for i in range(len(left))]
            state[left[separable]] = SEPARABLE
            active &= ~np.array(separable)
        left = left[active]
        if not len(left):
            break
    beta[state != FITTED] = np.nan
    return Fit(beta, state, n_features - flat.sum(axis=1), steps)


def _times(design: F64, vectors: F64) -> F64:
    """Return the products of each design with its vector, (n, n_rows)."""
    return (design @ vectors[:, :, None])[:, :, 0]


def _newton_step(z: F64, margins: F64, beta: F64, fill: F64) -> tuple[F64, npt.NDArray[np.bool_]]:
    """Return the coefficients after one step, and which of them no longer move."""
    miss = _sigmoid(-margins)
    gradient = (miss[:, None, :] @ z)[:, 0]
    weight = miss * (1 - miss)
    hessian = (z * weight[:, :, None]).transpose(0, 2, 1) @ z
    scale = np.trace(hessian, axis1=1, axis2=2) / max(z.shape[2], 1)
    scale = np.maximum(scale, np.finfo(float).tiny)[:, None, None]
    hessian += scale * (fill + _RIDGE * np.eye(z.shape[2]))
    step = np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
    step -= (fill @ step[:, :, None])[:, :, 0]
    change = _times(z, np.asarray(step, np.float64))
    factor = _damping(margins, change)
    size = np.abs(step).max(axis=1, initial=0.0)
    small = size <= _TOLERANCE * (1 + np.abs(beta).max(axis=1, initial=0.0))
    settled = small & (np.abs(gradient).max(axis=1, initial=0.0) <= _STEEP * max(z.shape[1], 1))
    return beta + factor[:, None] * step, settled


def _damping(margins: F64, change: F64) -> F64:
    """Return by what each step is multiplied, 1, 1/2, 1/4, ..., so that the likelihood does not fall."""
    factor = np.ones(len(margins))
    loss = _loss(margins)
    falling = np.arange(len(margins))
    for _ in range(_HALVINGS):
        loss_now = _loss(margins[falling] + factor[falling, None] * change[falling])
        falling = falling[loss_now > loss[falling] * (1 + 1e-12)]
        if not len(falling):
            break
        factor[falling] /= 2
    return factor


def _loss(margins: F64) -> F64:
    """Return the negative log-likelihood of each regression, (n,)."""
    return np.asarray(np.logaddexp(0, -margins).sum(axis=1), np.float64)


def _sigmoid(values: F64) -> F64:
    """Return 1 / (1 + exp(-v)) without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * values)), np.float64)


def _separable(signed: F64) -> bool:
    """Decide by a linear programme whether a direction has no negative margin and one positive one."""
    from scipy.optimize import linprog

    total = signed.sum(axis=0)
    solution = linprog(-total, A_ub=-signed, b_ub=np.zeros(len(signed)), bounds=(-1, 1), method="highs")
    gain = -float(solution.fun or 0.0)
    return bool(solution.status == 0 and gain > 1e-6 * max(np.abs(signed).sum(), 1.0) / len(signed))
