"""Opinion questions, what users and reward models answer to them, and what people did (OpinionQA)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from personalllm.core.errors import AxisMismatch, DataError, ParameterError
from personalllm.core.protocols import RewardEnsemble
from personalllm.core.types import F64
from personalllm.users import Population

__all__ = [
    "OVERALL",
    "OpinionQuestion",
    "Opinions",
    "ScoreRule",
    "Survey",
    "answer_shares",
    "representation_score",
    "with_choices",
]

Opinions = Mapping[tuple[str, str], Mapping[str, F64]]
"""Shares of the options by (attribute, group) and question, float64 (n_options,), each summing to 1."""

ScoreRule: TypeAlias = Literal["coded", "positions"]
"""What lies between two options: the difference of their codes, or that of their positions on the scale."""

OVERALL = ("overall", "overall")
_SLACK = 1e-6  # codes such as 0.333 are rounded


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


@dataclass(frozen=True, eq=False)
class Survey:
    """Questions and people's answers to them.

    Attributes:
        questions: The questions that can be compared.
        people: Everybody's answers and those of groups.
        left_out: Other questions of the set -> why they cannot be compared.
    """

    questions: tuple[OpinionQuestion, ...]
    people: Opinions
    left_out: Mapping[str, str] = field(default_factory=dict)

    def with_choices(self, rewards: RewardEnsemble) -> Survey:
        """Return the survey with the choices of an ensemble where a question lacks one of them."""
        lacking = [q for q in self.questions if not q.choices.keys() >= {*rewards.reward_models}]
        chosen = {question.key: question for question in with_choices(lacking, rewards)} if lacking else {}
        return replace(self, questions=tuple(chosen.get(question.key, question) for question in self.questions))

    def with_given(self, questions: Sequence[OpinionQuestion]) -> Survey:
        """Return the survey with the choices of other copies of its questions, matched by key and option.

        A question without a copy, or whose copy lacks an option that was chosen, is left out.
        """
        given = {question.key: question for question in questions}
        kept, left_out = [], dict(self.left_out)
        for question in self.questions:
            copy = given.get(question.key)
            chosen = {} if copy is None else {rm: copy.options[choice] for rm, choice in copy.choices.items()}
            if not chosen or not {*question.options}.issuperset(chosen.values()):
                left_out[question.key] = "no choices of reward models among its options"
                continue
            choices = {rm: question.options.index(option) for rm, option in chosen.items()}
            kept.append(replace(question, choices=choices))
        return Survey(tuple(kept), self.people, left_out)


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
