"""Find the features that separate a user's best response from a lower one (section 3 of the paper)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from personalllm.analysis.base import Analysis
from personalllm.analysis.features import Features
from personalllm.analysis.regression.solver import FITTED, NOT_CONVERGED, SEPARABLE, STATES
from personalllm.analysis.regression.users import Contrast, Split, UserRegressions, user_regressions
from personalllm.core.errors import ParameterError
from personalllm.core.plotting import INK, figure, label_rows, short
from personalllm.data import ScoreTable
from personalllm.users import Population

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from personalllm.analysis.study import Study

__all__ = ["Regressions", "regressions"]

_FOURTH = 4
_STYLES: tuple[dict[str, Any], ...] = (
    {"facecolor": INK["soft"], "edgecolor": INK["accent"]},
    {"facecolor": INK["paper"], "edgecolor": INK["mark"], "hatch": "////"},
    {"facecolor": INK["rule"], "edgecolor": INK["ink"], "hatch": "...."},
)
_CONTRASTS = {"best-worst": "best against worst", "best-fourth": "best against fourth"}
_LABEL_WIDTH = 34


@dataclass(frozen=True, eq=False)
class Regressions(Analysis):
    """Regressions of the users for sets of features and contrasts.

    Attributes:
        models: Name of the set of features, and its regressions; sets outermost, contrasts within.
        measured_by: Identity of the classifier of each feature, by name.
    """

    id: ClassVar[str] = "regressions"
    title: ClassVar[str] = "What separates a user's best response from a lower one"
    one_population: ClassVar[bool] = True

    models: tuple[tuple[str, UserRegressions], ...]
    measured_by: Mapping[str, str]

    @classmethod
    def of_study(cls, study: Study) -> tuple[Regressions]:
        """Fit the users of `Study.main_alpha` on each set of features of the study."""
        features = {name: study.features(name, cls.split) for name in study.classifiers}
        return (regressions(study.population(study.main_alpha), study.scores(cls.split), features),)

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
        return _figure(self)

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
    if contrasts is None:
        contrasts = both if scores.n_responses > _FOURTH else both[:1]
    if not feature_sets or not contrasts:
        raise ParameterError("feature_sets and contrasts", "one or more", (list(feature_sets), list(contrasts)))
    models = tuple(
        (name, user_regressions(population, scores, features, contrast, held_out=held_out, split=split, seed=seed))
        for name, features in feature_sets.items()
        for contrast in contrasts
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
    columns = {
        "user": pa.array(user, pa.int32()),
        "feature": pa.array(np.array(model.features, dtype=object)[feature], pa.string()),
        "coefficient": pa.array(model.coefficients.ravel(), pa.float64(), from_pandas=True),
    }
    return pa.table({name: pa.array([value] * len(user), pa.string()) for name, value in head.items()} | columns)


def _user_table(head: dict[str, Any], model: UserRegressions) -> Any:
    import pyarrow as pa

    columns = {
        "user": pa.array(np.arange(model.n_users), pa.int32()),
        "state": pa.array([STATES[code] for code in model.state], pa.string()),
        "rank": pa.array(model.rank, pa.int32()),
        "held_out_accuracy": pa.array(model.accuracy, pa.float64(), from_pandas=True),
    }
    return pa.table({name: pa.array([value] * model.n_users, pa.string()) for name, value in head.items()} | columns)


def _model_notes(name: str, model: UserRegressions) -> list[str]:
    """Return the caveats of one model: prompts, users and features that are left out."""
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


def _figure(result: Regressions) -> Figure:
    """Draw boxes (quartiles, whiskers at 5 and 95 % of the users, line: median, dot: mean) of the coefficients."""
    sets: dict[str, list[UserRegressions]] = {}
    for name, model in result.models:
        sets.setdefault(name, []).append(model)
    heights = [0.7 + 0.21 * len(models) * len(models[0].features) for models in sets.values()]
    with figure(0.75 + sum(heights)) as drawn:
        panels = np.atleast_1d(drawn.subplots(len(sets), 1, height_ratios=heights))
        for axes, (name, models) in zip(panels, sets.items(), strict=True):
            height = 0.8 / len(models)
            for i, model in enumerate(models):
                at = np.arange(len(model.features)) + (i - (len(models) - 1) / 2) * height
                _draw_boxes(axes, model, at, 0.82 * height, _STYLES[i % len(_STYLES)])
            label_rows(axes, [short(feature, _LABEL_WIDTH) for feature in models[0].features])
            axes.axvline(0, color=INK["ink"], linewidth=0.8)
            axes.set_title(short(name, _LABEL_WIDTH), loc="left", fontsize=10.5)
        panels[-1].set_xlabel(
            "change of the log odds of being the best response, for one standard deviation of the feature\n"
            "box: quartiles over the users; whiskers: 5 and 95 %; line: median; dot: mean",
            fontsize=9,
        )
        handles, labels = panels[0].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside upper left", ncols=1, frameon=False, fontsize=9)
    return drawn


def _draw_boxes(axes: Axes, model: UserRegressions, rows: Any, height: float, style: dict[str, Any]) -> None:
    label = f"{_CONTRASTS[model.contrast]}, {model.n_fitted:,} of {model.n_users:,} users"
    for at, row in zip(rows, model.summary(), strict=True):
        if not row["n_users"]:
            axes.text(0, at, "  constant, or no finite solution", va="center", fontsize=8, color=INK["muted"])
            continue
        axes.hlines(at, row["q05"], row["q95"], color=style["edgecolor"], linewidth=1.2)
        axes.barh(at, row["q75"] - row["q25"], height, left=row["q25"], linewidth=1.0, label=label, **style)
        axes.vlines(row["q50"], at - height / 2, at + height / 2, color=INK["ink"], linewidth=2)
        axes.plot(row["mean"], at, "o", markersize=3.5, color=INK["ink"], markerfacecolor=INK["paper"])
        label = "_nolegend_"
