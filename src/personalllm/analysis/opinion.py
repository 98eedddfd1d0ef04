"""How well a simulated population represents people's opinions (OpinionQA; section 3.3 and appendix of the paper).

Each reward model chooses one option of a multiple-choice question. A user answers with the option whose value is
nearest to the weighted mean of the values that the reward models chose. The distribution of the population's answers
is compared with that of people, group by group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, get_args

import numpy as np

from personalllm.analysis.base import Analysis
from personalllm.analysis.opinion_questions import (
    OVERALL,
    OpinionQuestion,
    Opinions,
    ScoreRule,
    answer_shares,
    representation_score,
)
from personalllm.core.errors import DataError, ParameterError, UserError
from personalllm.core.plotting import INK, figure, label_rows
from personalllm.core.stats import intervals
from personalllm.core.types import F64
from personalllm.users import Population

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from personalllm.analysis.study import Study

__all__ = ["GroupDifference", "GroupScore", "Representativeness", "representativeness"]

POPULATION = "population"
_EQUAL = 1e-12  # scores are means of the same terms in another order, so equal ones may differ in the last bits
_COLUMNS = ("attribute", "group", "n_questions", "best")
_ANSWERERS = (
    "answerer",
    "n_questions",
    "score",
    "low",
    "high",
    "best_group",
    "best_score",
    "worst_group",
    "worst_score",
    "population_nearer",
    "clearly",
    "groups",
)
_MAX_GROUPS = 80
_RULES = {
    "coded": "Distances are between the options' codes, the middle option counted, as in the paper.",
    "positions": "Distances are between the options' positions on the scale, not between their codes as in the paper.",
}
_MARKERS: tuple[dict[str, Any], ...] = (
    {"marker": "D", "markerfacecolor": INK["paper"], "color": INK["muted"]},
    {"marker": "s", "markerfacecolor": INK["paper"], "color": INK["mark"]},
    {"marker": "^", "markerfacecolor": INK["paper"], "color": INK["ink"]},
    {"marker": "v", "markerfacecolor": INK["soft"], "color": INK["ink"]},
)


@dataclass(frozen=True, slots=True)
class GroupScore:
    """How well one answerer represents one group of people.

    Attributes:
        answerer: `population`, `equal weights`, `uniform answers`, `RM` and a reward model, or another source.
        attribute: What the group is defined by, e.g. `education`.
        group: Its name.
        n_questions: Questions with answers of the group.
        score: Mean over questions of the representation score, in [0, 1].
        low: Lower end of the 95 % interval, by resampling questions; NaN for a single question.
        high: Upper end.
    """

    answerer: str
    attribute: str
    group: str
    n_questions: int
    score: float
    low: float
    high: float


class GroupDifference(NamedTuple):
    """How much nearer the population is to a group than another answerer, over the questions that both answered.

    `gain` is the difference of the mean scores, with its 95 % interval by resampling questions (NaN for a single one).
    """

    answerer: str
    attribute: str
    group: str
    n_questions: int
    gain: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Representativeness(Analysis):
    """Representation scores of a population, and of what to compare it with, for each group of people.

    Attributes:
        scores: One for each answerer and group, groups in the order of the file.
        n_users: Users of the population.
        questions: Keys of the questions that were compared.
        rule: What W1 is measured between.
        differences: The population against each other answerer, in each group.
        left_out: Questions of the set that were not compared -> why.
    """

    id: ClassVar[str] = "opinion"
    title: ClassVar[str] = "Opinions: the population beside people"
    one_population: ClassVar[bool] = True

    scores: tuple[GroupScore, ...]
    n_users: int
    questions: tuple[str, ...]
    rule: ScoreRule = "coded"
    differences: tuple[GroupDifference, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_study(cls, study: Study) -> tuple[Representativeness]:
        """Compare the users of `Study.main_alpha` with the given answers of people."""
        survey = study.survey
        if survey is None:
            raise UserError(
                "No opinions of people were given.", "Give --opinions FOLDER, or --questions and --opinions."
            )
        users = study.population(study.main_alpha)
        made = representativeness(survey.questions, users, survey.people, rule=study.opinion_score, seed=study.seed)
        return (replace(made, left_out=survey.left_out),)

    def of(self, answerer: str, attribute: str = OVERALL[0], group: str = OVERALL[1]) -> GroupScore:
        """Return one score.

        Raises:
            ParameterError: If there is none of that name.
        """
        for score in self.scores:
            if (score.answerer, score.attribute, score.group) == (answerer, attribute, group):
                return score
        names = sorted({(s.answerer, s.attribute, s.group) for s in self.scores})
        raise ParameterError("answerer, attribute, group", f"one of {names[:8]} ...", (answerer, attribute, group))

    def groups_led(self, answerer: str = POPULATION, among: Collection[str] | None = None) -> tuple[int, int]:
        """Return in how many groups the answerer has the highest score, and the number of groups (without overall).

        A tie at the top counts for each of those who tie.

        Args:
            answerer: Who should lead.
            among: Whom to compare with; None for all answerers (the paper compares with language models).
        """
        best = [names for group, names in self._best(None if among is None else {answerer, *among}) if group != OVERALL]
        return sum(answerer in names for names in best), len(best)

    def _best(self, among: Collection[str] | None = None) -> list[tuple[tuple[str, str], list[str]]]:
        """Return for each group the answerers with the highest score."""
        groups: dict[tuple[str, str], dict[str, float]] = {}
        for score in self.scores:
            if among is None or score.answerer in among:
                groups.setdefault((score.attribute, score.group), {})[score.answerer] = score.score
        return [
            (group, [name for name, score in scores.items() if score >= max(scores.values()) - _EQUAL])
            for group, scores in groups.items()
        ]

    def answerers(self) -> dict[str, list[Any]]:
        """Return a column for each fact about each answerer, the population first.

        Overall score with its interval; the groups of highest and lowest score; in how many groups the population is
        nearer to the people than the answerer, and in how many of these the interval of the difference is above 0.
        """
        rows = []
        for name in dict.fromkeys(score.answerer for score in self.scores):
            of = [score for score in self.scores if score.answerer == name]
            overall = next((score for score in of if (score.attribute, score.group) == OVERALL), None)
            groups = sorted((s for s in of if (s.attribute, s.group) != OVERALL), key=lambda score: -score.score)
            beaten = [d for d in self.differences if d.answerer == name and (d.attribute, d.group) != OVERALL]
            numbers = [overall and getattr(overall, part) for part in ("n_questions", "score", "low", "high")]
            ends = [part for end in (groups[:1], groups[-1:]) for part in _named(end)]
            nearer = [sum(d.gain > _EQUAL for d in beaten), sum(d.low > 0 for d in beaten), len(beaten)]
            rows.append([name, *numbers, *ends, *(nearer if beaten else [None] * 3)])
        return dict(zip(_ANSWERERS, map(list, zip(*rows, strict=True)), strict=True))

    def tables(self) -> dict[str, Any]:
        """Return five tables.

        `opinion_answerers` (`answerers()`), `opinion_groups` (a row for each group, a column for each answerer),
        `opinion_scores` and `opinion_differences` (tidy), `opinion_left_out` (questions that were not compared).
        """
        import pyarrow as pa

        names = ("answerer", "attribute", "group", "n_questions", "score", "low", "high")
        scores = {(s.attribute, s.group, s.answerer): s for s in self.scores}
        best = self._best()
        heads = ([a for (a, _), _ in best], [g for (_, g), _ in best])
        numbers = [scores[*group, POPULATION].n_questions for group, _ in best]
        leaders = [", ".join(who) for _, who in best]
        groups: dict[str, Any] = dict(zip(_COLUMNS, (*heads, numbers, leaders), strict=True))
        for answerer in dict.fromkeys(score.answerer for score in self.scores):
            column = [scores.get((*group, answerer)) for group, _ in best]
            groups[answerer] = pa.array([score and score.score for score in column], pa.float64())
        pairs = {name: [getattr(d, name) for d in self.differences] for name in GroupDifference._fields}
        left_out = {"question": [*self.left_out], "why": [*self.left_out.values()]}
        tables = {
            "opinion_answerers": pa.table(self.answerers()),
            "opinion_groups": pa.table(groups),
            "opinion_scores": pa.table({name: [getattr(s, name) for s in self.scores] for name in names}),
            "opinion_differences": pa.table(pairs),
        }
        return tables | ({"opinion_left_out": pa.table(left_out)} if self.left_out else {})

    def plot(self) -> Figure:
        """Draw the scores of each group."""
        return _figure(self)

    def notes(self) -> tuple[str, ...]:
        """Return what was found, and what to keep in mind."""
        led, groups = self.groups_led()
        leads = f"Among all answerers the population is best, or tied for best, in {led} of {groups} groups."
        return (
            f"{len(self.questions)} questions, {self.n_users:,} users; intervals by resampling the questions.",
            *self._note_left_out(),
            *([*self._note_population(), leads] if groups else []),
            _RULES[self.rule],
            "A user's answer is the option nearest to the weighted mean of what its reward models choose.",
            "Answers spread evenly over the options score high too: read the population beside `uniform answers`.",
        )

    def _note_left_out(self) -> list[str]:
        reasons = Counter(self.left_out.values())
        listed = "; ".join(f"{count}: {why}" for why, count in reasons.most_common())
        total = len(self.questions) + len(self.left_out)
        return [f"{len(self.left_out)} of {total} questions are left out and listed ({listed})."] if reasons else []

    def _note_population(self) -> list[str]:
        table = self.answerers()
        row = {name: column[table["answerer"].index(POPULATION)] for name, column in table.items()}
        ends = [f"{row[f'{end}_group']} ({row[f'{end}_score']:.3f})" for end in ("best", "worst")]
        models: dict[tuple[str, str], list[GroupDifference]] = {}
        for d in self.differences:
            if d.answerer.startswith("RM ") and (d.attribute, d.group) != OVERALL:
                models.setdefault((d.attribute, d.group), []).append(d)
        nearer = sum(all(d.gain > _EQUAL for d in of) for of in models.values())
        clear = sum(all(d.low > 0 for d in of) for of in models.values())
        return [
            f"The population is nearest to {ends[0]} and furthest from {ends[1]}.",
            f"It is nearer to the people than every single reward model in {nearer} of {len(models)} groups.",
            f"In {clear} of them it is clearly so: the interval of the difference from each model is above 0.",
        ]


def representativeness(
    questions: Sequence[OpinionQuestion],
    population: Population,
    people: Opinions,
    *,
    others: Mapping[str, Mapping[str, F64]] | None = None,
    rule: ScoreRule = "coded",
    seed: int = 0,
) -> Representativeness:
    """Compare a population's answers with people's, group by group.

    Score of a group = mean over questions of `1 - W1(D, D_H) / (n_options - 1)`, see `representation_score`.

    Args:
        questions: With the choices of the population's reward models.
        population: The users.
        people: Shares by (attribute, group) and question, as `read_opinions` returns them.
        others: Further answerers, e.g. language models: shares by question; a question that one lacks is left out of
            its mean.
        rule: What W1 is measured between; the paper's rule by default.
        seed: Of the resampling.

    Raises:
        DataError: If no question has answers of people, or shares or codes do not fit a question.
        ParameterError: If one of `others` has the name of a built-in answerer, or there is no such rule.
    """
    if rule not in get_args(ScoreRule):
        raise ParameterError("rule", f"one of {', '.join(get_args(ScoreRule))}", rule)
    by_key = {question.key: question for question in questions}
    answered = {key for by_question in people.values() for key in by_question}
    used = [key for key in by_key if key in answered]
    if not used:
        raise DataError("None of the questions has answers of people.", "The keys of both files must agree.")
    answers: dict[str, Mapping[str, F64]] = dict(_answerers([by_key[key] for key in used], population))
    clashes = sorted({*answers, *_COLUMNS} & set(others or ()))
    if clashes:
        raise ParameterError("others", f"other names than {', '.join((*answers, *_COLUMNS))}", clashes)
    answers.update(others or {})
    scores: list[GroupScore] = []
    differences: list[GroupDifference] = []
    for group, by_question in people.items():
        keys = [key for key in used if key in by_question]
        of = {
            name: {
                key: _score(name, by_key[key], shares[key], (group, by_question[key]), rule)
                for key in keys
                if key in shares
            }
            for name, shares in answers.items()
        }
        for name, values in of.items():
            if values:
                (mean,) = intervals(np.array([*values.values()])[:, None], seed=seed)
                scores.append(GroupScore(name, *group, len(values), *mean))
            if values and name != POPULATION:
                gains = np.array([of[POPULATION][key] - value for key, value in values.items()])
                (mean,) = intervals(gains[:, None], seed=seed)
                differences.append(GroupDifference(name, *group, len(gains), *mean))
    return Representativeness(tuple(scores), population.n_users, tuple(used), rule, tuple(differences))


def _named(end: list[GroupScore]) -> list[Any]:
    """Return the name of a group and its score."""
    return [f"{end[0].attribute}: {end[0].group}", end[0].score] if end else [None, None]


def _answerers(questions: Sequence[OpinionQuestion], population: Population) -> dict[str, dict[str, F64]]:
    """Return the shares of the population, of its mean user, of answers at random, and of each reward model."""
    names = population.reward_models
    answers = {
        POPULATION: {q.key: answer_shares(q, population) for q in questions},
        "equal weights": {q.key: answer_shares(q, Population.uniform(names)) for q in questions},
        "uniform answers": {q.key: np.full(len(q.options), 1 / len(q.options)) for q in questions},
    }
    for name in names:
        answers[f"RM {name}"] = {q.key: np.eye(len(q.options))[q.choices[name]] for q in questions}
    return answers


def _score(
    answerer: str, question: OpinionQuestion, shares: F64, people: tuple[tuple[str, str], F64], rule: ScoreRule
) -> float:
    """Return the score of one question, after a check of both distributions."""
    group, answered = people
    for whose, values in ((answerer, shares), (f"{group[0]}: {group[1]}", answered)):
        if values.shape != question.values.shape or (values < 0).any() or abs(values.sum() - 1) > 1e-6:
            raise DataError(
                f"The shares of {whose!r} for {question.key!r} are {values.tolist()}.",
                f"Give {len(question.options)} shares >= 0 that sum to 1.",
            )
    return representation_score(question, shares, answered, rule)


def _figure(result: Representativeness) -> Figure:
    """Draw one row for each group: the population with its interval, and the other answerers but the single RMs."""
    groups = list(dict.fromkeys((score.attribute, score.group) for score in result.scores))[:_MAX_GROUPS]
    names = list(dict.fromkeys(s.answerer for s in result.scores if not s.answerer.startswith("RM ")))
    names.sort(key=lambda name: name != POPULATION)
    row_of = {group: row for row, group in enumerate(groups)}
    with figure(1.5 + 0.28 * len(groups)) as drawn:
        axis = drawn.subplots()
        for i, name in enumerate(names):
            scores = [s for s in result.scores if s.answerer == name and (s.attribute, s.group) in row_of]
            rows, values = [row_of[s.attribute, s.group] for s in scores], [s.score for s in scores]
            if i == 0:
                ends = [[s.score - s.low for s in scores], [s.high - s.score for s in scores]]
                axis.errorbar(values, rows, xerr=ends, fmt="o", color=INK["accent"], label=name)
            else:
                axis.plot(values, rows, linestyle="", label=name, **_MARKERS[(i - 1) % len(_MARKERS)])
        models = [s for s in result.scores if s.answerer.startswith("RM ") and (s.attribute, s.group) in row_of]
        best = [max(s.score for s in models if (s.attribute, s.group) == group) for group in row_of]
        axis.plot(best, [*row_of.values()], "x", color=INK["muted"], label="best single reward model")
        label_rows(axis, [group if attribute == group else f"{attribute}: {group}" for attribute, group in groups])
        axis.set_xlabel("representation score (1 = the same distribution as the group)")
        drawn.legend(loc="outside upper left", ncols=min(4, len(names) + 1), frameon=False, fontsize=9)
    return drawn
