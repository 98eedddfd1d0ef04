"""Fit one logistic regression for each user: its best response against a lower one of every prompt."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from personalllm.analysis.features import Features
from personalllm.analysis.regression.solver import FITTED, fit_logistic
from personalllm.core.errors import AxisMismatch, ParameterError
from personalllm.core.types import F64, I64, U8
from personalllm.data import ScoreTable
from personalllm.users import Population, ranks

__all__ = ["Contrast", "Split", "UserRegressions", "user_regressions"]

Contrast: TypeAlias = Literal["best-worst", "best-fourth"]
"""`best-worst` is the paper's text, `best-fourth` (rank 1 against rank 4) the released notebook."""

Split: TypeAlias = Literal["rows", "prompts"]
"""What is held out: single rows as in the paper, or both rows of a prompt."""

_POSITIONS: dict[str, tuple[int, int]] = {"best-worst": (0, -1), "best-fourth": (0, 3)}
_NORMAL_95 = 1.959963984540054
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_VALUES_PER_BLOCK = 1_000_000


@dataclass(frozen=True, eq=False)
class UserRegressions:
    """One logistic regression for each user, for one set of features and one contrast.

    Attributes:
        features: Names of the columns of `coefficients`.
        contrast: Which two responses of a prompt are compared.
        coefficients: float64 (n_users, n_features), change of the log odds for one standard deviation; NaN where the
            user's regression has no finite solution, or the feature is constant in the user's training rows.
        accuracy: float64 (n_users,), share of the held-out rows that are predicted, in [0, 1]; NaN without a solution.
        state: uint8 (n_users,), 0 fitted, 1 separable (no finite solution), 2 not converged.
        rank: int64 (n_users,), rank of the standardised training rows; below n_features some features are collinear or
            constant for that user, and of all solutions the one of minimum norm is given.
        prompt_error: float64 (n_features,), standard error of the mean coefficient over the draw of the prompts.
        n_train: Training rows of a user.
        n_held_out: Held-out rows of a user.
        n_prompts: Prompts that were used, two rows each.
        n_left_out: Prompts that were not, since a feature has no value for one of their responses.
        split: Whether rows or whole prompts were held out.
    """

    features: tuple[str, ...]
    contrast: Contrast
    coefficients: F64
    accuracy: F64
    state: U8
    rank: I64
    prompt_error: F64
    n_train: int
    n_held_out: int
    n_prompts: int
    n_left_out: int
    split: Split

    @property
    def n_users(self) -> int:
        """Number of users."""
        return len(self.state)

    @property
    def n_fitted(self) -> int:
        """Number of users whose regression has a finite solution."""
        return int(np.count_nonzero(self.state == FITTED))

    def accuracy_range(self) -> tuple[float, float, float]:
        """Return the minimum, mean and maximum held-out accuracy over the fitted users; NaN if there is none."""
        fitted = self.accuracy[self.state == FITTED]
        if not fitted.size:
            return (float("nan"),) * 3
        return float(fitted.min()), float(fitted.mean()), float(fitted.max())

    def summary(self) -> list[dict[str, Any]]:
        r"""Return a row for each feature: number of users, mean with two 95 % intervals, standard deviation, quantiles.

        `low_users` to `high_users` is for another draw of users, the prompts fixed ($\bar\beta \pm 1.96\,sd/\sqrt n$);
        `low_prompts` to `high_prompts` is for another draw of prompts, the users fixed (sum of squared influences of
        the prompts). The second is the wider one unless there are few users.
        """
        rows = []
        for name, values, error in zip(self.features, self.coefficients.T, self.prompt_error, strict=True):
            finite = values[np.isfinite(values)]
            n = len(finite)
            mean = float(finite.mean()) if n else float("nan")
            spread = float(finite.std(ddof=1)) if n > 1 else float("nan")
            users, prompts = _NORMAL_95 * spread / math.sqrt(max(n, 1)), _NORMAL_95 * float(error)
            levels = np.quantile(finite, _QUANTILES) if n else np.full(len(_QUANTILES), np.nan)
            rows.append(
                {"feature": name, "n_users": n, "mean": mean, "low_users": mean - users, "high_users": mean + users}
                | {"low_prompts": mean - prompts, "high_prompts": mean + prompts, "sd": spread}
                | {f"q{100 * q:02.0f}": float(v) for q, v in zip(_QUANTILES, levels, strict=True)}
            )
        return rows


def user_regressions(
    population: Population,
    scores: ScoreTable,
    features: Features,
    contrast: Contrast = "best-worst",
    *,
    held_out: float = 0.1,
    split: Split = "rows",
    seed: int = 42,
) -> UserRegressions:
    r"""Fit one logistic regression for each user on its best responses (1) and lower ones (0).

    $P(\text{best}) = \sigma(\beta_u \cdot \tilde x)$ without intercept and without penalty. Every prompt gives two
    rows, best then lower; $\tilde x$ is standardised with the mean and the standard deviation (divisor n) of the user's
    own training rows, as a pipeline of scikit-learn's StandardScaler and LogisticRegression does. The held-out rows are
    those of `sklearn.model_selection.train_test_split` and are the same for all users.

    Args:
        population: The users.
        scores: Standardised scores of the prompts.
        features: Features of the same responses; each feature must vary.
        contrast: `"best-worst"` (the paper's text) or `"best-fourth"` (the released notebook).
        held_out: Share of the rows that is held out, in (0, 1).
        split: `"rows"` as in the paper, where the other row of a held-out row's prompt is usually in training, or
            `"prompts"`, which holds out both rows of a prompt.
        seed: Seed of the split; 42 in the paper.

    Raises:
        AxisMismatch: If scores and features are of different shapes, or the reward models differ.
        ParameterError: If a value is out of range, or too few prompts have values for all features.

    >>> from personalllm.data import ScoreTable
    >>> rng = np.random.default_rng(0)
    >>> scores = ScoreTable(rng.normal(size=(40, 4, 2)).astype(np.float32), ("a", "b"))
    >>> features = Features(scores.values[:, :, :1] + rng.normal(size=(40, 4, 1)), ("like_a",), ("made",))
    >>> fitted = user_regressions(Population.one_per_reward_model(("a", "b")), scores, features)
    >>> bool(fitted.coefficients[0] > 1), bool(abs(fitted.coefficients[1]) < 0.5)
    (True, True)
    """
    complete = _complete_prompts(scores, features, contrast, split)
    parts = _split_rows(int(complete.sum()), held_out, split, seed)
    table = np.asarray(features.values[complete], np.float64)
    part = ScoreTable(np.ascontiguousarray(scores.values[complete]), scores.reward_models)
    coefficients, accuracy, state, rank, error = _fit_users(population, part, table, _POSITIONS[contrast], parts)
    return UserRegressions(
        features=features.names,
        contrast=contrast,
        coefficients=coefficients,
        accuracy=accuracy,
        state=state,
        rank=rank,
        prompt_error=error,
        n_train=len(parts[0]),
        n_held_out=len(parts[1]),
        n_prompts=int(complete.sum()),
        n_left_out=int((~complete).sum()),
        split=split,
    )


def _complete_prompts(scores: ScoreTable, features: Features, contrast: str, split: str) -> npt.NDArray[np.bool_]:
    """Check the arguments, and return which prompts have values for all features, bool (n_prompts,)."""
    if contrast not in _POSITIONS:
        raise ParameterError("contrast", f"one of {', '.join(_POSITIONS)}", contrast)
    if split not in get_args(Split):
        raise ParameterError("split", f"one of {', '.join(get_args(Split))}", split)
    if features.values.shape[:2] != scores.values.shape[:2]:
        raise AxisMismatch(
            f"Features of {features.n_prompts} prompts by {features.n_responses} responses, scores of "
            f"{scores.n_prompts} by {scores.n_responses}.",
            "Measure the features of the same rows: measure_features(benchmark, classifiers, rows).",
        )
    if not features.names:
        raise ParameterError("features", "one feature or more", 0)
    minimum = 1 + max(_POSITIONS[contrast][1], 1)
    if scores.n_responses < minimum:
        raise ParameterError(
            f"responses of a prompt, for the contrast {contrast!r},", f">= {minimum}", scores.n_responses
        )
    complete: npt.NDArray[np.bool_] = np.asarray(np.isfinite(features.values).all(axis=(1, 2)))
    if int(complete.sum()) < 2:
        raise ParameterError("prompts with values for all features", ">= 2", int(complete.sum()))
    return complete


def _split_rows(n_prompts: int, held_out: float, split: Split, seed: int) -> tuple[I64, I64]:
    """Return the training and the held-out rows, of 2 n_prompts rows; row 2 p + 1 is the lower response of prompt p.

    Raises:
        ParameterError: If `held_out` or `seed` is out of range.
    """
    from sklearn.model_selection import train_test_split

    if not 0 < held_out < 1:
        raise ParameterError("held_out", "in (0, 1)", held_out)
    if not 0 <= seed < 2**32:
        raise ParameterError("seed", "in [0, 2**32)", seed)
    n = 2 * n_prompts if split == "rows" else n_prompts
    if not np.ceil(held_out * n) < n:
        raise ParameterError("held_out", f"small enough to leave a training row of {n}", held_out)
    train, test = (
        np.asarray(p, np.int64) for p in train_test_split(np.arange(n), test_size=held_out, random_state=seed)
    )
    if split == "rows":
        return train, test
    return tuple((2 * part[:, None] + np.arange(2)).ravel() for part in (train, test))  # type: ignore[return-value]


def _fit_users(
    population: Population, scores: ScoreTable, features: F64, positions: tuple[int, int], parts: tuple[I64, I64]
) -> tuple[F64, F64, U8, I64, F64]:
    """Fit the regression of every user, a block of users at a time.

    Args:
        population: The users.
        scores: Standardised scores (n_prompts, n_responses, n_reward_models).
        features: float64 (n_prompts, n_responses, n_features), finite.
        positions: Ranks, in a user's order, of the response labelled 1 and of the one labelled 0.
        parts: Training and held-out rows.

    Returns:
        Coefficients, accuracies, states and ranks of the users, and the standard error of the mean coefficients.
    """
    train, _ = parts
    n_features = features.shape[2]
    size = max(1, _VALUES_PER_BLOCK // (2 * len(features) * n_features))
    blocks: list[tuple[Any, ...]] = []
    influence, counts = np.zeros((len(features), n_features)), np.zeros(n_features)
    prompt = np.arange(len(features))[None, :, None]
    for start in range(0, population.n_users, size):
        block = population.subset(np.arange(start, min(start + size, population.n_users)))
        rows = features[prompt, ranks(block, scores, positions)].reshape(block.n_users, -1, n_features)
        coefficients, accuracy, state, rank, effect = _fit_block(rows, parts)
        blocks.append((coefficients, accuracy, state, rank))
        np.add.at(influence, train // 2, effect)
        counts += np.isfinite(coefficients).sum(axis=0)
    coefficients, accuracy, state, rank = (np.concatenate(column) for column in zip(*blocks, strict=True))
    # The two rows of a prompt are one cluster; n / (n - 1) corrects for the number of clusters.
    n_clusters = len(np.unique(train // 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = influence / counts
        error = np.sqrt((mean**2).sum(axis=0) * n_clusters / (n_clusters - 1))
    return coefficients, accuracy, state, rank, error


def _fit_block(rows: F64, parts: tuple[I64, I64]) -> tuple[F64, F64, U8, I64, F64]:
    """Return coefficients, accuracies, states, ranks and the summed influence of each training row on the former."""
    train, test = parts
    design = rows[:, train]
    mean = design.mean(axis=1, keepdims=True)
    # A constant column is recognised by its range: rounding can leave its standard deviation just above 0.
    constant = np.ptp(design, axis=1, keepdims=True) == 0
    scale = np.where(constant, 1.0, design.std(axis=1, keepdims=True))
    design = np.where(constant, 0.0, (design - mean) / scale)
    labels = train % 2 == 0
    fit = fit_logistic(design, labels)
    fitted = fit.state == FITTED
    plain = np.where(fitted[:, None], fit.coefficients, 0.0)
    unseen = (rows[:, test] - mean) / scale
    unseen[np.broadcast_to(constant, unseen.shape)] = 0.0
    right = ((unseen @ plain[:, :, None])[:, :, 0] > 0) == (test % 2 == 0)
    accuracy = np.where(fitted, right.mean(axis=1), np.nan)
    coefficients = np.where(constant[:, 0], np.nan, fit.coefficients)
    usable = np.isfinite(coefficients)
    effect = _influence(design[fitted], labels, plain[fitted], usable[fitted])
    return coefficients, accuracy, fit.state, fit.rank, effect


def _influence(design: F64, labels: npt.NDArray[np.bool_], beta: F64, usable: npt.NDArray[np.bool_]) -> F64:
    r"""Return $\sum_u H_u^{+} x_{ui} (y_i - p_{ui})$, float64 (n_rows, n_features): first-order effects of the rows."""
    chance = 0.5 * (1 + np.tanh(0.5 * (design @ beta[:, :, None])[:, :, 0]))
    weight = chance * (1 - chance)
    inverse = np.linalg.pinv((design * weight[:, :, None]).transpose(0, 2, 1) @ design, rcond=1e-9, hermitian=True)
    effect = (design * (labels - chance)[:, :, None]) @ inverse
    return np.asarray((effect * usable[:, None, :]).sum(axis=0), np.float64)
