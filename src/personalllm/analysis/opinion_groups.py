"""How well a group's answers are predicted from a few of them, with the answers of other groups (the task of GPO).

Groups are divided into a pool, all of whose answers are known, and groups of which k questions' answers are known; the
answers to their other questions are predicted (Zhao et al., Group preference optimization, arXiv 2310.11523).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from personalllm.analysis.base import Analysis
from personalllm.analysis.opinion_questions import OVERALL, OpinionQuestion, ScoreRule, Survey, representation_score
from personalllm.core.errors import ParameterError, UserError
from personalllm.core.plotting import INK, bare, figure
from personalllm.core.seeding import generator
from personalllm.core.stats import intervals
from personalllm.core.types import F64

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from personalllm.analysis.study import Study

__all__ = ["GroupPrediction", "PredictionScore", "predict_groups"]

SHOTS = (0, 5, 10, 20, 40, 80)
_POOL_SHARE = 0.4
_SPLITS = 20
_FEWEST_GROUPS = 6
_NOISE = (0.0003, 0.001, 0.003, 0.01, 0.03)
_MEAN, _UNIFORM, _NEAREST, _JOINT = "other groups' mean", "uniform answers", "nearest group", "joint Gaussian"
_LOOKS = {
    _UNIFORM: (INK["muted"], "s"),
    _MEAN: (INK["mark"], "D"),
    _NEAREST: (INK["ink"], "^"),
    _JOINT: (INK["accent"], "o"),
}


class PredictionScore(NamedTuple):
    """How near predicted answers are to a group's own, after those to `shots` questions.

    `score` is the mean representation score over questions, groups and splits; `gain` the difference from the other
    groups' mean on the same questions; both with 95 % intervals by resampling the questions.
    """

    predictor: str
    shots: int
    n_questions: int
    score: float
    low: float
    high: float
    gain: float
    gain_low: float
    gain_high: float


@dataclass(frozen=True, eq=False)
class GroupPrediction(Analysis):
    """Predicted answers of groups beside their own.

    Attributes:
        scores: One for each predictor and number of shots.
        n_groups: Groups, without everybody.
        n_pool: Groups of each split whose answers are all known.
        splits: Times that groups and known questions were drawn.
        rule: What lies between two options.
    """

    id: ClassVar[str] = "opinion-prediction"
    title: ClassVar[str] = "Opinions: a group's answers from a few of them"

    scores: tuple[PredictionScore, ...]
    n_groups: int
    n_pool: int
    splits: int
    rule: ScoreRule

    @classmethod
    def of_study(cls, study: Study) -> tuple[GroupPrediction]:
        """Predict the groups of the given survey."""
        if study.survey is None:
            raise UserError("No opinions of people were given.", "Give --opinions, see docs/analyses.md.")
        return (predict_groups(study.survey, rule=study.opinion_score, seed=study.seed),)

    def of(self, predictor: str, shots: int) -> PredictionScore:
        """Return one score.

        Raises:
            ParameterError: If there is none.
        """
        for score in self.scores:
            if (score.predictor, score.shots) == (predictor, shots):
                return score
        allowed = f"one of {sorted({(s.predictor, s.shots) for s in self.scores})}"
        raise ParameterError("predictor, shots", allowed, (predictor, shots))

    def tables(self) -> dict[str, Any]:
        """Return `opinion_prediction`, a row for each predictor and number of shots."""
        import pyarrow as pa

        fields = PredictionScore._fields
        return {"opinion_prediction": pa.table({name: [getattr(s, name) for s in self.scores] for name in fields})}

    def plot(self) -> Figure:
        """Draw the scores over the number of known questions."""
        with figure(3.6) as drawn:
            axis = drawn.subplots()
            for name, (colour, marker) in _LOOKS.items():
                of = [score for score in self.scores if score.predictor == name]
                values = [score.score for score in of]
                ends = [[s.score - s.low for s in of], [s.high - s.score for s in of]]
                places = np.arange(len(of)) + 0.06 * (list(_LOOKS).index(name) - 1.5)
                axis.errorbar(places, values, yerr=ends, fmt=f"{marker}-", color=colour, label=name, linewidth=1.2)
            shots = sorted({score.shots for score in self.scores})
            axis.set_xticks(range(len(shots)), [str(k) for k in shots])
            axis.set_xlabel("questions of the group whose answers are known")
            axis.set_ylabel("representation score")
            bare(axis, grid="y")
            drawn.legend(loc="outside upper left", ncols=4, frameon=False, fontsize=9)
        return drawn

    def notes(self) -> tuple[str, ...]:
        """Return what was found, and what to keep in mind."""
        last = max(score.shots for score in self.scores)
        joint = self.of(_JOINT, last)
        ends = f"[{100 * joint.gain_low:+.2f}, {100 * joint.gain_high:+.2f}]"
        points = f"{100 * joint.gain:+.2f} points {ends}"
        return (
            f"{self.n_groups} groups, {self.n_pool} of them the pool of a split; {self.splits} splits.",
            "Intervals are by resampling the questions; they hold the groups fixed.",
            f"After {last} questions the joint Gaussian is {points} from the other groups' mean.",
            "The joint Gaussian has the pool's mean and covariance, and noise that the pool chooses.",
            "The nearest group of the pool is that whose answers to the known questions differ least.",
            "Groups of one attribute share out the same people, so those in the pool say much about the others.",
        )


@dataclass(frozen=True, eq=False)
class _Answers:
    """The answers of groups as one row each, the options of a question side by side.

    Attributes:
        questions: Questions that every group answered.
        shares: float64 (n_groups, n_entries).
        of: int64 (n_entries,): the question of each entry.
    """

    questions: tuple[OpinionQuestion, ...]
    shares: F64
    of: npt.NDArray[np.int64]

    @classmethod
    def collect(cls, survey: Survey) -> _Answers:
        groups = [answered for group, answered in survey.people.items() if group != OVERALL]
        asked = tuple(q for q in survey.questions if all(q.key in answered for answered in groups))
        if len(groups) < _FEWEST_GROUPS or len(asked) < 2:
            raise UserError(
                f"{len(groups)} groups answered the same {len(asked)} questions.",
                f"Give the answers of {_FEWEST_GROUPS} groups or more to the same questions.",
            )
        rows = [np.concatenate([answered[question.key] for question in asked]) for answered in groups]
        return cls(asked, np.array(rows), np.repeat(np.arange(len(asked)), [len(q.options) for q in asked]))

    def normalised(self, row: F64) -> F64:
        """Return predicted shares as distributions: none negative, those of a question adding up to 1."""
        positive = np.maximum(row, 1e-6)
        return positive / np.bincount(self.of, positive)[self.of]

    def steps(self, rule: ScoreRule) -> tuple[npt.NDArray[np.intp], F64]:
        """Return the order of the entries along the scale of each question, and what lies behind each entry.

        What lies behind the last entry of a question is 0, and the others of one add up to its range / (n_options - 1).
        """
        order, behind = [], []
        for question, first in zip(self.questions, np.flatnonzero(np.diff(self.of, prepend=-1)), strict=True):
            n = len(question.options)
            representation_score(
                question, np.full(n, 1 / n), np.full(n, 1 / n), rule
            )  # refuses values that are no codes
            gaps = np.diff(question.values[question.order]) if rule == "coded" else np.ones(n - 1)
            order.append(first + question.order)
            behind.append(np.append(gaps / (n - 1), 0.0))
        return np.concatenate(order), np.concatenate(behind)


def predict_groups(
    survey: Survey,
    shots: Sequence[int] = SHOTS,
    *,
    splits: int = _SPLITS,
    rule: ScoreRule = "coded",
    seed: int = 0,
) -> GroupPrediction:
    """Predict the answers of groups from a few of them.

    Args:
        survey: Of 6 groups or more.
        shots: Numbers of known questions, each >= 0; those that leave no question to predict are left out.
        splits: Times that the pool (40 % of the groups) and the known questions are drawn, >= 1.
        rule: What lies between two options.
        seed: Of the draws and the resampling.

    Raises:
        UserError: If too few groups answered the same questions.
        ParameterError: If an argument is out of its range.
    """
    if rule not in get_args(ScoreRule):
        raise ParameterError("rule", f"one of {', '.join(get_args(ScoreRule))}", rule)
    if splits < 1 or min(shots, default=-1) < 0:
        raise ParameterError("splits, shots", "splits >= 1 and some shots >= 0", (splits, tuple(shots)))
    answers = _Answers.collect(survey)
    n_groups, n_questions = len(answers.shares), len(answers.questions)
    used = sorted({k for k in shots if k < n_questions}) or [0]
    n_pool = max(3, round(_POOL_SHARE * n_groups))
    order, behind = answers.steps(rule)
    total = {(name, k): np.zeros(n_questions) for k in used for name in _LOOKS}
    times = {k: np.zeros(n_questions) for k in used}
    for split in range(splits):
        rng = generator(seed, "analysis", "opinion groups", split)
        drawn = rng.permutation(n_groups)
        pool, targets = answers.shares[drawn[:n_pool]], drawn[n_pool:]
        asked = [rng.permutation(n_questions) for _ in targets]
        for k in used:
            masks = [np.isin(answers.of, questions[:k]) for questions in asked]
            noise = _noise(pool, masks[0])
            for target, questions, known in zip(targets.tolist(), asked, masks, strict=True):
                own, test = answers.shares[target], questions[k:]
                times[k][test] += 1
                for name, row in _predicted(answers, pool, known, own, noise).items():
                    # both add up to 1 for each question, so one running sum serves all questions
                    gaps = np.abs(np.cumsum((row - own)[order])) * behind
                    total[name, k][test] += 1 - np.bincount(answers.of, gaps)[test]
    scores = []
    for name in _LOOKS:
        for k in used:
            seen = times[k] > 0
            value, mean = (total[which, k][seen] / times[k][seen] for which in (name, _MEAN))
            both = intervals(np.column_stack([value, value - mean]), seed=seed)
            scores.append(PredictionScore(name, k, int(seen.sum()), *both[0], *both[1]))
    return GroupPrediction(tuple(scores), n_groups, n_pool, splits, rule)


def _predicted(answers: _Answers, pool: F64, known: npt.NDArray[np.bool_], own: F64, noise: float) -> dict[str, F64]:
    """Return the answers to all questions that each predictor expects of a group with some known answers."""
    mean = pool.mean(axis=0)
    uniform = 1 / np.bincount(answers.of)[answers.of]
    if not known.any():
        return {_UNIFORM: uniform, _MEAN: mean, _NEAREST: mean, _JOINT: mean}
    nearest = pool[np.square(pool[:, known] - own[known]).sum(axis=1).argmin()]
    joint = answers.normalised(_joint(pool, known, own[known], noise))
    return {_UNIFORM: uniform, _MEAN: mean, _NEAREST: nearest, _JOINT: joint}


def _joint(pool: F64, known: npt.NDArray[np.bool_], values: F64, noise: float) -> F64:
    """Return the mean of all entries given the known ones, for the Gaussian of the pool with added noise.

    The covariance of n rows has rank n - 1, so the posterior is that of n coefficients of the centred rows.
    """
    mean = pool.mean(axis=0)
    rows = pool - mean
    seen = rows[:, known]
    gram = seen @ seen.T + (len(pool) - 1) * noise * np.eye(len(pool))
    weights = np.linalg.solve(gram, seen @ (values - mean[known]))
    return np.asarray(mean + weights @ rows)


def _noise(pool: F64, known: npt.NDArray[np.bool_]) -> float:
    """Return the variance of the noise with which the pool's groups predict each other best."""
    rest = ~known
    losses = []
    for noise in _NOISE:
        loss = 0.0
        for left_out in range(len(pool)):
            others = np.delete(pool, left_out, axis=0)
            row = _joint(others, known, pool[left_out, known], noise)
            loss += float(np.square(row[rest] - pool[left_out, rest]).sum())
        losses.append(loss)
    return _NOISE[int(np.argmin(losses))]
