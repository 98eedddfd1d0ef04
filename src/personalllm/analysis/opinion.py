"""How well a simulated population represents people's opinions (OpinionQA; section 3.3 and appendix of the paper).

Each reward model chooses one option of a multiple-choice question. A user answers with the option whose value is
nearest to the weighted mean of the values that the reward models chose. The distribution of the population's answers
is compared with that of people, group by group.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from personalllm.analysis.base import Analysis
from personalllm.core.errors import AxisMismatch, DataError, ParameterError, UserError
from personalllm.core.plotting import INK, figure, label_rows
from personalllm.core.protocols import RewardEnsemble
from personalllm.core.stats import intervals
from personalllm.core.types import F64
from personalllm.users import Population

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from personalllm.analysis.study import Study

__all__ = [
    "GroupScore",
    "OpinionQuestion",
    "Opinions",
    "Representativeness",
    "ScoreRule",
    "answer_shares",
    "representation_score",
    "representativeness",
    "with_choices",
]

Opinions = Mapping[tuple[str, str], Mapping[str, F64]]
"""Shares of the options by (attribute, group) and question, float64 (n_options,), each summing to 1."""

ScoreRule: TypeAlias = Literal["coded", "positions"]
"""What lies between two options: the difference of their codes, or that of their positions on the scale."""

OVERALL = ("overall", "overall")
_SLACK = 1e-6  # codes such as 0.333 are rounded
_EQUAL = 1e-12  # scores are means of the same terms in another order, so equal ones may differ in the last bits
_COLUMNS = ("attribute", "group", "n_questions", "best")
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


@dataclass(frozen=True, eq=False)
class OpinionQuestion:
    """A multiple-choice question with ordered options.

    Attributes:
        key: Name, e.g. `SAFECRIME_W26`.
        text: The question's words.
        options: Option texts, without refusals; at least 2.
        values: float64 (n_options,), distinct: the options' codes, one apart, a middle option halfway, e.g. 1, 2, 1.5.
        choices: Option that each reward model chooses, an index into `options`; empty until known.
    """

    key: str
    text: str
    options: tuple[str, ...]
    values: F64
    choices: Mapping[str, int]

    def __post_init__(self) -> None:
        values = np.asarray(self.values, dtype=np.float64)
        object.__setattr__(self, "values", values)
        if len(self.options) < 2 or values.shape != (len(self.options),) or len(np.unique(values)) != len(values):
            raise DataError(
                f"The question {self.key!r} has {len(self.options)} options and the values {values.tolist()}.",
                "Give at least 2 options and one distinct value for each.",
            )
        for name, choice in self.choices.items():
            if not 0 <= choice < len(self.options):
                raise ParameterError(f"choice of {name!r} in {self.key!r}", f"in [0, {len(self.options)})", choice)

    @property
    def order(self) -> npt.NDArray[np.intp]:
        """Options from the lowest value to the highest."""
        return np.argsort(self.values)


def answer_shares(question: OpinionQuestion, population: Population) -> F64:
    """Return the share of the users who answer with each option, float64 (n_options,).

    User i's answer is `argmin_o |values[o] - sum_b w_b^i values[choices[b]]|`; the first listed option wins a tie.

    Args:
        question: With the choice of every reward model of the population.
        population: The users.

    Raises:
        AxisMismatch: If the choice of a reward model is missing.
    """
    missing = [name for name in population.reward_models if name not in question.choices]
    if missing:
        raise AxisMismatch(
            f"The question {question.key!r} has no choice of the reward models {', '.join(missing)}.",
            "Give the option that each reward model of the population chooses, or use with_choices().",
        )
    chosen = question.values[[question.choices[name] for name in population.reward_models]]
    opinion = population.weights @ chosen
    answer = np.abs(opinion[:, None] - question.values[None, :]).argmin(axis=1)
    return np.bincount(answer, minlength=len(question.options)) / population.n_users


def representation_score(question: OpinionQuestion, shares: F64, people: F64, rule: ScoreRule = "coded") -> float:
    r"""Return `1 - W1(shares, people) / (n_options - 1)` in [0, 1]; 1 where both distributions are equal.

    W1 is the Wasserstein distance between the values of the options.

    Args:
        question: Whose options are compared.
        shares: float64 (n_options,), summing to 1.
        people: float64 (n_options,), summing to 1.
        rule: `coded`, as the paper computes it: n_options counts the middle option too, so that codes of 1, 2, 1.5 are
            at most 1 apart of 2 and no score is below 1/2. `positions`: 0, 1, 2, ... in the order of the values.

    Raises:
        DataError: If codes are not one apart, so that `coded` would not be in [0, 1] or its scores far too high.

    >>> question = OpinionQuestion("Q", "Better?", ("yes", "no", "the same"), np.array([1.0, 2.0, 1.5]), {})
    >>> yes, no = np.array([1.0, 0, 0]), np.array([0, 1.0, 0])
    >>> representation_score(question, yes, no), representation_score(question, yes, no, "positions")
    (0.5, 0.0)
    """
    steps = np.ones(len(shares) - 1)
    if rule == "coded":
        steps = np.diff(question.values[question.order])
        if not len(steps) - 1 - _SLACK <= steps.sum() <= len(steps) + _SLACK:
            raise DataError(
                f"The values of {question.key!r} are {question.values.tolist()}: these are no codes.",
                "Give codes that are one apart, a middle option halfway (1, 2, 1.5), or score by positions "
                "(rule='positions', --opinion-score positions).",
            )
    gap = np.abs(np.cumsum((shares - people)[question.order])[:-1])
    return float(1 - gap @ steps / len(steps))


def with_choices(questions: Sequence[OpinionQuestion], rewards: RewardEnsemble) -> list[OpinionQuestion]:
    """Let a reward ensemble choose: each reward model's option is the one it scores highest as a response.

    Args:
        questions: Earlier choices are replaced.
        rewards: Scores each option's text as the response to the question's text; the first option wins a tie.
    """
    prompts = [question.text for question in questions for _ in question.options]
    raw = rewards.score(prompts, [option for question in questions for option in question.options])
    chosen, start = [], 0
    for question in questions:
        best = raw[start : start + len(question.options)].argmax(axis=0)
        chosen.append(replace(question, choices=dict(zip(rewards.reward_models, best.tolist(), strict=True))))
        start += len(question.options)
    return chosen


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


@dataclass(frozen=True, eq=False)
class Representativeness(Analysis):
    """Representation scores of a population, and of what to compare it with, for each group of people.

    Attributes:
        scores: One for each answerer and group, groups in the order of the file.
        n_users: Users of the population.
        questions: Keys of the questions that were compared.
        rule: What W1 is measured between.
    """

    id: ClassVar[str] = "opinion"
    title: ClassVar[str] = "Opinions: the population beside people"
    one_population: ClassVar[bool] = True

    scores: tuple[GroupScore, ...]
    n_users: int
    questions: tuple[str, ...]
    rule: ScoreRule = "coded"

    @classmethod
    def of_study(cls, study: Study) -> tuple[Representativeness]:
        """Compare the users of `Study.main_alpha` with the given answers of people."""
        if study.opinions is None:
            raise UserError("No opinion questions were given.", "Give --questions FILE --opinions FILE.")
        questions, people = study.opinions
        users = study.population(study.main_alpha)
        return (representativeness(questions, users, people, rule=study.opinion_score, seed=study.seed),)

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

    def groups_led(self, answerer: str = "population", among: Collection[str] | None = None) -> tuple[int, int]:
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

    def tables(self) -> dict[str, Any]:
        """Return `opinion_groups` (a row for each group, a column for each answerer) and `opinion_scores` (tidy)."""
        import pyarrow as pa

        names = ("answerer", "attribute", "group", "n_questions", "score", "low", "high")
        scores = {(s.attribute, s.group, s.answerer): s for s in self.scores}
        best = self._best()
        heads = ([a for (a, _), _ in best], [g for (_, g), _ in best])
        numbers = [scores[*group, "population"].n_questions for group, _ in best]
        leaders = [", ".join(who) for _, who in best]
        groups: dict[str, Any] = dict(zip(_COLUMNS, (*heads, numbers, leaders), strict=True))
        for answerer in dict.fromkeys(score.answerer for score in self.scores):
            column = [scores.get((*group, answerer)) for group, _ in best]
            groups[answerer] = pa.array([score and score.score for score in column], pa.float64())
        return {
            "opinion_groups": pa.table(groups),
            "opinion_scores": pa.table({name: [getattr(s, name) for s in self.scores] for name in names}),
        }

    def plot(self) -> Figure:
        """Draw the scores of each group."""
        return _figure(self)

    def notes(self) -> tuple[str, ...]:
        """Return what to keep in mind."""
        led, groups = self.groups_led()
        leads = f"Among all answerers the population is best, or tied for best, in {led} of {groups} groups."
        return (
            f"{len(self.questions)} questions, {self.n_users:,} users; intervals by resampling the questions.",
            *([leads] if groups else []),
            _RULES[self.rule],
            "A user's answer is the option nearest to the weighted mean of what its reward models choose.",
            "Answers spread evenly over the options score high too: read the population beside `uniform answers`.",
        )


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
    scores = [
        _group_score(
            name,
            group,
            [(by_key[key], shares[key], by_question[key]) for key in used if key in by_question and key in shares],
            rule,
            seed,
        )
        for group, by_question in people.items()
        for name, shares in answers.items()
    ]
    return Representativeness(tuple(s for s in scores if s is not None), population.n_users, tuple(used), rule)


def _answerers(questions: Sequence[OpinionQuestion], population: Population) -> dict[str, dict[str, F64]]:
    """Return the shares of the population, of its mean user, of answers at random, and of each reward model."""
    names = population.reward_models
    answers = {
        "population": {q.key: answer_shares(q, population) for q in questions},
        "equal weights": {q.key: answer_shares(q, Population.uniform(names)) for q in questions},
        "uniform answers": {q.key: np.full(len(q.options), 1 / len(q.options)) for q in questions},
    }
    for name in names:
        answers[f"RM {name}"] = {q.key: np.eye(len(q.options))[q.choices[name]] for q in questions}
    return answers


def _group_score(
    answerer: str, group: tuple[str, str], compared: list[tuple[OpinionQuestion, F64, F64]], rule: ScoreRule, seed: int
) -> GroupScore | None:
    """Return the mean over questions with its interval; None without any question."""
    if not compared:
        return None
    for question, shares, people in compared:
        for whose, values in ((answerer, shares), (f"{group[0]}: {group[1]}", people)):
            if values.shape != question.values.shape or (values < 0).any() or abs(values.sum() - 1) > 1e-6:
                raise DataError(
                    f"The shares of {whose!r} for {question.key!r} are {values.tolist()}.",
                    f"Give {len(question.options)} shares >= 0 that sum to 1.",
                )
    values = np.array([representation_score(question, shares, people, rule) for question, shares, people in compared])
    (mean,) = intervals(values[:, None], seed=seed)
    return GroupScore(answerer, *group, len(values), *mean)


def _figure(result: Representativeness) -> Figure:
    """Draw one row for each group: the population with its interval, and the other answerers but the single RMs."""
    groups = list(dict.fromkeys((score.attribute, score.group) for score in result.scores))[:_MAX_GROUPS]
    names = list(dict.fromkeys(s.answerer for s in result.scores if not s.answerer.startswith("RM ")))
    names.sort(key=lambda name: name != "population")
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
        label_rows(axis, [group if attribute == group else f"{attribute}: {group}" for attribute, group in groups])
        axis.set_xlabel("representation score (1 = the same distribution as the group)")
        drawn.legend(loc="outside upper left", ncols=min(4, len(names)), frameon=False, fontsize=9)
    return drawn
