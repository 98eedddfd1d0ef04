"""The parts of a protocol: who is evaluated, on what history, how feedback arises, how text is generated."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, field_validator

__all__ = [
    "FeedbackSpec",
    "Frozen",
    "GenerationSpec",
    "HistorySpec",
    "PoolSpec",
    "PopulationSpec",
    "PredictionSpec",
    "several",
]

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Kind: TypeAlias = Literal["unseen", "seen"]


def several(value: Any) -> Any:
    """Return one value, or text with commas, as a list; anything else as it is.

    >>> several("unseen"), several("0,4"), several(8), several((1, 2))
    (['unseen'], [0, 4], [8], (1, 2))
    """
    if isinstance(value, str):
        parts = [part.strip() for part in value.split(",")] if value.strip() else []
        return [int(part) if part.isdecimal() else part for part in parts]
    return [value] if isinstance(value, int) and not isinstance(value, bool) else value


class Frozen(BaseModel):
    """A part that cannot be changed once made, and has no other fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PopulationSpec(Frozen):
    """Which target users are evaluated (paper, section 2).

    Attributes:
        kind: `dirichlet` draws weights from Dirichlet(alpha); `published` is the paper's population to the last bit;
            `one-per-reward-model` has one user for each RM; `uniform` is the single user of equal weights.
        alpha: Concentration, or one value for each RM; > 0.
        n_users: Number of users, >= 1 (set by the kind itself for the last two).
        seed: Seed of the draw.
    """

    kind: Literal["dirichlet", "published", "one-per-reward-model", "uniform"] = "dirichlet"
    alpha: Positive | tuple[Positive, ...] = 0.05
    n_users: int = Field(default=1000, ge=1)
    seed: int = 0


class PoolSpec(Frozen):
    """The other users, whose histories `fit` gets: drawn like the targets with another seed (paper, section 4).

    Attributes:
        n_users: Number of users, >= 0.
        pairs_per_user: Random train prompts with feedback of each, >= 1.
        seed: Seed of the users, their prompts and their feedback.
    """

    n_users: int = Field(default=10_000, ge=0)
    pairs_per_user: int = Field(default=50, ge=1)
    seed: int = 0


class HistorySpec(Frozen):
    """What is known of each target user (paper, section 4).

    Attributes:
        pairs: Random train prompts with feedback, for methods whose `history` is "random"; >= 0.
        nearest: Train prompts nearest to the query, for methods whose `history` is "nearest"; >= 0.
        counterfactual: `none` is the user's own feedback. To see how much of a gain the feedback of this very user
            brings, with the same prompts: `other-user` gives what another user would have said, `flipped` swaps
            chosen and rejected, `shuffled` draws a random ordered pair of responses. The pool stays as it is.
    """

    pairs: int = Field(default=5, ge=0)
    nearest: int = Field(default=5, ge=0)
    counterfactual: Literal["none", "other-user", "flipped", "shuffled"] = "none"


class FeedbackSpec(Frozen):
    """How a user turns utilities into a preference pair; the arguments of `personalllm.feedback.FeedbackRule`."""

    pairs: Literal["best-vs-worst", "random", "ranks", "contested"] = "best-vs-worst"
    ranks: tuple[int, int] = (0, -1)
    temperature: float = Field(default=0.0, ge=0)
    flip: float = Field(default=0.0, ge=0, le=1)
    tie_margin: float = Field(default=0.0, ge=0)


class GenerationSpec(Frozen):
    """How the chat model is run in the generate track.

    Attributes:
        max_tokens: Most new tokens, >= 1.
        temperature: 0 is greedy decoding.
        top_p: Nucleus mass in (0, 1].
        requests_per_chunk: Requests handed to the chat model at once, and kept on disk as one part.
    """

    max_tokens: int = Field(default=256, ge=1)
    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    requests_per_chunk: int = Field(default=8, ge=1)


class PredictionSpec(Frozen):
    """What is predicted in the predict track, and after how many comparisons.

    Histories are nested: k shots are the first k of the largest number of shots.

    Attributes:
        shots: Comparisons of a target user that a learner adapts to, each >= 0; kept in ascending order.
        users: `unseen` users are the protocol's population, of whom a learner knows the shots alone; `seen` users are
            the first of the pool, whose comparisons the learner was fitted on too. The shots of a seen user are the
            first of their comparisons in the pool; shots beyond what they have are left out.
        prompts: `unseen` prompts are those of `split`; `seen` prompts those of `history_split` that the user has not
            compared, though others have.
        test_pairs: Comparisons to predict, for each user and kind of prompt, >= 1; None = one for every prompt left.
        n_seen_users: How many users of the pool are evaluated as seen ones, >= 1.
        counterfactuals: Histories that are not the user's own, at the largest number of shots: `flipped` swaps chosen
            and rejected, `other-user` gives what another user would have said of the same prompts.
        outcome: `utility`: the better response of a test pair is the one of higher utility; `drawn`: by the same rule
            as the feedback, noise included.
        reward_signals: Whether the learners may use the scores of the RMs as features; they are what the users are
            made of, so this is another question.
    """

    shots: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(0, 1, 2, 4, 8, 16, 32, 64), min_length=1)
    users: tuple[Kind, ...] = Field(default=("unseen", "seen"), min_length=1)
    prompts: tuple[Kind, ...] = Field(default=("unseen", "seen"), min_length=1)
    test_pairs: int | None = Field(default=20, ge=1)
    n_seen_users: int = Field(default=200, ge=1)
    counterfactuals: tuple[Literal["flipped", "other-user"], ...] = ("flipped", "other-user")
    outcome: Literal["utility", "drawn"] = "utility"
    reward_signals: bool = False

    @field_validator("shots", "users", "prompts", "counterfactuals", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return several(value)

    @field_validator("shots")
    @classmethod
    def _ascending(cls, shots: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(shots)))

    @field_validator("users", "prompts")
    @classmethod
    def _unseen_first(cls, kinds: tuple[Kind, ...]) -> tuple[Kind, ...]:
        return tuple(sorted(set(kinds), reverse=True))

    @field_validator("counterfactuals")
    @classmethod
    def _each_once(
        cls, kinds: tuple[Literal["flipped", "other-user"], ...]
    ) -> tuple[Literal["flipped", "other-user"], ...]:
        return tuple(sorted(set(kinds)))
