"""What separates a user's best response from a lower one: a logistic regression for each user (paper, section 3)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, get_args

import numpy as np

from personalllm.analysis._regression_fit import Split, fit_users, split_rows
from personalllm.analysis._solver import FITTED, NOT_CONVERGED, SEPARABLE, STATES
from personalllm.analysis.base import Analysis
from personalllm.analysis.features import Features
from personalllm.core.errors import AxisMismatch, ParameterError
from personalllm.data import ScoreTable
from personalllm.users import Population

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from personalllm.core.types import F64, U8

__all__ = ["Contrast", "Regressions", "UserRegressions", "regressions", "user_regressions"]

Contrast: TypeAlias = Literal["best-worst", "best-fourth"]
"""`best-worst` is the paper's text, `best-fourth` (rank 1 against rank 4) the released notebook."""

_POSITIONS: dict[str, tuple[int, int]] = {"best-worst": (0, -1), "best-fourth": (0, 3)}
_FOURTH = 4
_NORMAL_95 = 1.959963984540054
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, eq=False)
class UserRegressions:
    """One logistic regression for each user, for one set of features and one contrast.

    Attributes:
        features: Names of the columns of `coefficients`.
        contrast: Which two responses of a prompt are told apart.
        coefficients: float64 (n_users, n_features), change of the log odds for one standard deviation; NaN where the
            user's regression has no finite solution, or the feature is constant in the user's training rows.
        accuracy: float64 (n_users,), share of the held-out rows that are predicted, in [0, 1]; NaN without a solution.
        state: uint8 (n_users,), 0 fitted, 1 separable (no finite solution), 2 not converged.
        rank: int64 (n_users,), rank of the standardised training rows; below n_features some features are collinear or
            constant for that user, and of all solutions the one of least length is given.
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
    rank: Any
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
        """Return the least, the mean and the greatest held-out accuracy over the fitted users; NaN if there is none."""
        known = self.accuracy[self.state == FITTED]
        if not known.size:
            return (float("nan"),) * 3
        return float(known.min()), float(known.mean()), float(known.max())

    def summary(self) -> list[dict[str, Any]]:
        r"""Return a row for each feature: number of users, mean with two 95 % intervals, standard deviation, quantiles.

        `low_users` to `high_users` is for another draw of users, the prompts fixed ($\bar\beta \pm 1.96\,sd/\sqrt n$);
        `low_prompts` to `high_prompts` is for another draw of prompts, the users fixed (sum of squared influences of
        the prompts). The second is the wider one unless there are few users.
        """
        rows = []
        for name, values, error in zip(self.features, self.coefficients.T, self.prompt_error, strict=True):
            known = values[np.isfinite(values)]
            n = len(known)
            mean = float(known.mean()) if n else float("nan")
            spread = float(known.std(ddof=1)) if n > 1 else float("nan")
            users, prompts = _NORMAL_95 * spread / math.sqrt(max(n, 1)), _NORMAL_95 * float(error)
            levels = np.quantile(known, _QUANTILES) if n else np.full(len(_QUANTILES), np.nan)
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
    kept = _check(scores, features, contrast, split)
    train, test = split_rows(int(kept.sum()), held_out, split, seed)
    table = np.asarray(features.values[kept], np.float64)
    part = ScoreTable(np.ascontiguousarray(scores.values[kept]), scores.reward_models)
    fitted = fit_users(population, part, table, _POSITIONS[contrast], (train, test))
    return UserRegressions(
        features=features.names,
        contrast=contrast,
        coefficients=fitted.coefficients,
        accuracy=fitted.accuracy,
        state=fitted.state,
        rank=fitted.rank,
        prompt_error=fitted.prompt_error,
        n_train=len(train),
        n_held_out=len(test),
        n_prompts=int(kept.sum()),
        n_left_out=int((~kept).sum()),
        split=split,
    )


def _check(scores: ScoreTable, features: Features, contrast: str, split: str) -> Any:
    """Return which prompts have values for all features, bool (n_prompts,), after a check of the arguments."""
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
    least = 1 + max(_POSITIONS[contrast][1], 1)
    if scores.n_responses < least:
        raise ParameterError(
            f"responses of a prompt, for the contrast {contrast!r},", f">= {least}", scores.n_responses
        )
    kept = np.isfinite(features.values).all(axis=(1, 2))
    if int(kept.sum()) < 2:
        raise ParameterError("prompts with values for all features", ">= 2", int(kept.sum()))
    return kept


@dataclass(frozen=True, eq=False)
class Regressions(Analysis):
    """Regressions of the users for sets of features and contrasts.

    Attributes:
        models: Name of the set of features, and its regressions; sets outermost, contrasts within.
        measured_by: Identity of the classifier of each feature, by name.
    """

    id: ClassVar[str] = "regressions"
    title: ClassVar[str] = "What separates a user's best response from a lower one"

    models: tuple[tuple[str, UserRegressions], ...]
    measured_by: Mapping[str, str]

    def tables(self) -> dict[str, Any]:
        """Return `accuracy` and `summary` (a row for each model, or model and feature), `coefficients` and `users`."""
        import pyarrow as pa

        accuracy, summary, coefficients, users = [], [], [], []
        for name, model in self.models:
            head = {"feature_set": name, "contrast": model.contrast}
            summary += [head | row | {"measured_by": self.measured_by[row["feature"]]} for row in model.summary()]
            accuracy.append(head | _accuracy_row(model))
            coefficients.append(_coefficient_table(head, model))
            users.append(_user_table(head, model))
        return {
            "accuracy": pa.Table.from_pylist(accuracy),
            "summary": pa.Table.from_pylist(summary),
            "coefficients": pa.concat_tables(coefficients),
            "users": pa.concat_tables(users),
        }

    def plot(self) -> Figure:
        """Return box plots of the coefficients over the users, a panel for each set of features."""
        from personalllm.analysis._regression_figure import regression_figure

        return regression_figure(self)

    def notes(self) -> tuple[str, ...]:
        """Return the caveats."""
        first = self.models[0][1]
        lines = [
            (
                "Coefficients are changes of the log odds for one standard deviation of the feature in the user's own "
                "training rows; the regressions have no penalty and no intercept."
            ),
            f"Of {2 * first.n_prompts} rows (two for each prompt) {first.n_held_out} are held out, the same for all "
            "users; chance is 50 %."
            + (
                " As in the paper single rows are held out, so the other response of the prompt is usually in training."
                if first.split == "rows"
                else " Both rows of a prompt are held out together."
            ),
            (
                "Features that go together share their effect: a coefficient says what one feature adds beside the "
                "others of its set, not whether users like it."
            ),
            "Equal utilities keep the order of the responses.",
        ]
        return (*lines, *(line for name, model in self.models for line in _model_notes(name, model)))


def regressions(
    population: Population,
    scores: ScoreTable,
    feature_sets: Mapping[str, Features],
    *,
    contrasts: Sequence[Contrast] | None = None,
    held_out: float = 0.1,
    split: Split = "rows",
    seed: int = 42,
) -> Regressions:
    """Fit the users' regressions for each set of features and each contrast (paper, section 3).

    Args:
        population: The users.
        scores: Standardised scores of the prompts.
        feature_sets: Features of the same responses, by the name of the set, e.g. `"syntactic"`.
        contrasts: See `user_regressions`; None for both, or `best-worst` alone where there are four responses or fewer.
        held_out: Share of the rows that is held out, in (0, 1).
        split: `"rows"` as in the paper, or `"prompts"`.
        seed: Seed of the split.

    Raises:
        AxisMismatch: If scores and features are of different shapes, or the reward models differ.
        ParameterError: If there is no set or no contrast, or a value is out of range.
    """
    both: tuple[Contrast, ...] = ("best-worst", "best-fourth")
    wanted = (both if scores.n_responses > _FOURTH else both[:1]) if contrasts is None else contrasts
    if not feature_sets or not wanted:
        raise ParameterError("feature_sets and contrasts", "one or more", (list(feature_sets), list(wanted)))
    models = tuple(
        (name, user_regressions(population, scores, features, contrast, held_out=held_out, split=split, seed=seed))
        for name, features in feature_sets.items()
        for contrast in wanted
    )
    identities = {
        n: by for table in feature_sets.values() for n, by in zip(table.names, table.measured_by, strict=True)
    }
    return Regressions(models, identities)


def _accuracy_row(model: UserRegressions) -> dict[str, Any]:
    low, mean, high = model.accuracy_range()
    return {
        "accuracy_min": low,
        "accuracy_mean": mean,
        "accuracy_max": high,
        "n_users": model.n_users,
        "n_fitted": model.n_fitted,
        "n_separable": int(np.count_nonzero(model.state == SEPARABLE)),
        "n_not_converged": int(np.count_nonzero(model.state == NOT_CONVERGED)),
        "n_collinear": int(np.count_nonzero(model.rank < np.isfinite(model.coefficients).sum(axis=1))),
        "n_train_rows": model.n_train,
        "n_held_out_rows": model.n_held_out,
        "n_prompts": model.n_prompts,
        "n_prompts_left_out": model.n_left_out,
    }


def _coefficient_table(head: dict[str, Any], model: UserRegressions) -> Any:
    import pyarrow as pa

    user, feature = np.indices(model.coefficients.shape).reshape(2, -1)
    columns = {name: pa.array([value] * len(user), pa.string()) for name, value in head.items()}
    columns["user"] = pa.array(user, pa.int32())
    columns["feature"] = pa.array(np.array(model.features, dtype=object)[feature], pa.string())
    columns["coefficient"] = pa.array(model.coefficients.ravel(), pa.float64(), from_pandas=True)
    return pa.table(columns)


def _user_table(head: dict[str, Any], model: UserRegressions) -> Any:
    import pyarrow as pa

    columns = {name: pa.array([value] * model.n_users, pa.string()) for name, value in head.items()}
    columns["user"] = pa.array(np.arange(model.n_users), pa.int32())
    columns["state"] = pa.array([STATES[code] for code in model.state], pa.string())
    columns["rank"] = pa.array(model.rank, pa.int32())
    columns["held_out_accuracy"] = pa.array(model.accuracy, pa.float64(), from_pandas=True)
    return pa.table(columns)


def _model_notes(name: str, model: UserRegressions) -> list[str]:
    """Return what went otherwise than usual in one model."""
    where = f"{name}, {model.contrast}"
    counts = _accuracy_row(model)
    notes = []
    if model.n_left_out:
        total = model.n_prompts + model.n_left_out
        notes.append(f"{where}: {model.n_left_out} of {total} prompts left out: a feature has no value for a response.")
    if counts["n_separable"]:
        notes.append(
            f"{where}: for {counts['n_separable']} of {model.n_users} users the features separate the training rows, "
            "so there is no finite coefficient; they are left out of the figure and the accuracies."
        )
    if counts["n_not_converged"]:
        notes.append(f"{where}: {counts['n_not_converged']} regressions did not converge and are left out.")
    constant = [
        f for f, c in zip(model.features, model.coefficients[model.state == FITTED].T, strict=True) if np.isnan(c).any()
    ]
    if constant:
        notes.append(f"{where}: {', '.join(constant)} did not vary for some users, who have no coefficient there.")
    if counts["n_collinear"]:
        notes.append(
            f"{where}: for {counts['n_collinear']} users some features are a combination of the others; "
            "of all equally good coefficients the shortest vector is given, which splits an effect between "
            "collinear features."
        )
    return notes
