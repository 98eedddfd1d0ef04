"""The parts of a protocol: who is evaluated, on what history, how feedback arises, how text is generated."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["FeedbackSpec", "Frozen", "GenerationSpec", "HistorySpec", "PoolSpec", "PopulationSpec"]

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


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
        pairs: Random train prompts with feedback, for algorithms whose `history` is "random"; >= 0.
        nearest: Train prompts nearest to the query, for algorithms whose `history` is "nearest"; >= 0.
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
