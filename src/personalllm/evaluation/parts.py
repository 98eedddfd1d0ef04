"""Define the parts of a protocol, and the registry of the tracks, which have parts of their own.

This file is below `protocol.py`, so that the protocol knows no track by name: a track is loaded when a protocol is
made, never when a module is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from personalllm.core.errors import ParameterError
from personalllm.core.registry import Registry
from personalllm.core.types import JSON

__all__ = [
    "TRACKS",
    "FeedbackSpec",
    "FoldSpec",
    "Frozen",
    "HistorySpec",
    "Options",
    "PoolSpec",
    "PopulationSpec",
    "Sizes",
    "list_of",
    "load_track",
    "options_of",
    "track_options",
]

_GROUP = 8
"""Responses of a group, as many as most benchmarks have for a prompt."""

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

TRACKS = Registry(
    "track",
    {
        "rank": "personalllm.evaluation.tracks.rank:RankTrack",
        "generate": "personalllm.evaluation.tracks.generate:GenerateTrack",
        "predict": "personalllm.evaluation.tracks.predict:PredictTrack",
        "online": "personalllm.evaluation.tracks.online:OnlineTrack",
    },
)
"""Tracks by name; plug-ins add theirs through entry points of the group `personalllm.track`."""


def load_track(name: str) -> Any:
    """Return the class of a track, a subclass of `contract.Track`.

    Raises:
        ParameterError: If the name is no text.
        UnknownName: If there is no such track; lists the nearest.
        PluginError: If it does not load.
    """
    if not isinstance(name, str):
        raise ParameterError("track", f"the name of a track ({', '.join(TRACKS)})", name)
    return TRACKS.load(name)


def options_of(track: str, *, people: bool) -> type[Options] | None:
    """Return the options that a track has for people or for simulated users; None if it has none.

    Raises:
        ParameterError, UnknownName, PluginError: As `load_track`.
    """
    loaded = load_track(track)
    options: type[Options] | None = (loaded.people_options if people else None) or loaded.options
    return options


def track_options() -> dict[str, type[Options]]:
    """Return the options of all tracks: part -> class; loads the tracks."""
    classes = [_options(name) for name in TRACKS]
    return {options.part: options for options in classes if options is not None}


@cache
def _options(name: str) -> type[Options] | None:
    loaded: type[Options] | None = load_track(name).options
    return loaded


def list_of(value: Any) -> Any:
    """Return a single value, or text with commas, as a list; anything else as it is.

    >>> list_of("unseen"), list_of("0,4"), list_of(8), list_of((1, 2))
    (['unseen'], [0, 4], [8], (1, 2))
    """
    if isinstance(value, str):
        items = [item.strip() for item in value.split(",")] if value.strip() else []
        return [int(item) if item.isdecimal() else item for item in items]
    return [value] if isinstance(value, int) and not isinstance(value, bool) else value


@dataclass(frozen=True, slots=True)
class Sizes:
    """Numbers of prompts that bound the settings of a protocol.

    Attributes:
        history: Prompts of the history split; for people, their distinct prompts.
        queries: Prompts of the split of the queries; for people, their distinct prompts.
        users: People; 0 for simulated users, whose number is a setting.
        rated: Whether people rated responses, rather than compared them.
    """

    history: int
    queries: int
    users: int = 0
    rated: bool = False


class Frozen(BaseModel):
    """A part that cannot be changed once made, and has no other fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Options(Frozen):
    """The settings that only one track has.

    Class attributes:
        part: Their name in a protocol, before the dot of a setting: `prediction` in `prediction.shots`.
        short: Short forms of settings, which are keyword arguments and options of the command line too: name -> field.
        derived: Parts of the protocol that follow from these options and are not set by hand.
    """

    part: ClassVar[str]
    short: ClassVar[Mapping[str, str]] = {}
    derived: ClassVar[tuple[str, ...]] = ()

    @property
    def signals(self) -> bool:
        """Whether methods may use the scores of the RMs."""
        return False

    @classmethod
    def complete(cls, given: JSON, sizes: Sizes) -> JSON:  # noqa: ARG003
        """Return the settings of a protocol with the defaults that depend on the size of the data.

        Args:
            given: All settings as they were given, nested parts as dicts (each part is there, maybe empty); may be
                changed in place. People's protocols have the part `folds`.
            sizes: Of the data.
        """
        return given

    def check(self, protocol: Any, sizes: Sizes) -> None:
        """Raise `ParameterError` if the protocol cannot be run on data of these sizes."""


class PopulationSpec(Frozen):
    """Which target users are evaluated (paper, section 2).

    Attributes:
        kind: `dirichlet` draws weights from Dirichlet(alpha); `published` is the paper's population to the last bit;
            `one-per-reward-model` has one user for each RM; `uniform` is the single user of equal weights.
        alpha: Concentration, or one value for each RM; > 0.
        n_users: Number of users, >= 1 (set by the kind itself for the last two).
        reward_models: The RMs that users are made of; empty: all of the benchmark.
        seed: Seed of the draw.
    """

    kind: Literal["dirichlet", "published", "one-per-reward-model", "uniform"] = "dirichlet"
    alpha: Positive | tuple[Positive, ...] = 0.05
    n_users: int = Field(default=1000, ge=1)
    reward_models: tuple[str, ...] = ()
    seed: int = 0

    @field_validator("reward_models", mode="before")
    @classmethod
    def _as_list(cls, value: Any) -> Any:
        return list_of(value)


class FoldSpec(Frozen):
    """How people are divided into those of the pool and those who are evaluated; in the place of a population.

    Attributes:
        user_folds: Parts of the people; each part in turn is the unseen users, >= 2. No more than there are people.
        prompt_folds: Parts of the prompts, >= 3: one is unseen, one is judged by others only, the rest is history.
        resample: What one-way intervals (`intervals="users"`) resample: `users`; `prompts`, with the people held fixed,
            so that intervals say nothing about other people; `auto` takes users from 20 people on.
        group: Of ratings: the responses to a prompt are cut into random groups of so many, each of which counts as a
            prompt, in [2, 255]; a prompt with fewer stays as it is, what is left over is not used. None where people
            compared responses.
        compared: Of ratings: with how many of those rated before in its group a response is compared, >= 1. None
            where people compared responses.
    """

    user_folds: int = Field(default=5, ge=2)
    prompt_folds: int = Field(default=4, ge=3)
    resample: Literal["auto", "users", "prompts"] = "auto"
    group: int | None = Field(default=None, ge=2, le=255)
    compared: int | None = Field(default=None, ge=1)

    @classmethod
    def complete(cls, given: Mapping[str, Any], *, rated: bool) -> JSON:
        """Return the fields with the defaults of people who rated responses, or who compared them.

        Raises:
            ParameterError: If a field is given that means nothing for them.
        """
        if rated:
            group = given.get("group") or _GROUP
            return {"group": group, "compared": group - 1 if isinstance(group, int) else None, **given}
        for name in ("group", "compared"):
            if given.get(name) is not None:
                raise ParameterError(f"folds.{name}", "left out where people compared responses", given[name])
        return dict(given)

    @model_serializer(mode="wrap")
    def _serialized(self, handler: SerializerFunctionWrapHandler) -> JSON:
        """Leave out what means nothing where people compared responses."""
        return {name: value for name, value in handler(self).items() if value is not None}


class PoolSpec(Frozen):
    """The other users, whose histories `fit` gets (paper, section 4).

    Attributes:
        users: `drawn` like the targets with another seed; `population`: the first users of the population, who are then
            the seen ones, and the rest of it the unseen ones.
        n_users: Number of users, >= 0.
        pairs_per_user: Random train prompts with feedback of each, >= 1.
        seed: Seed of the users, their prompts and their feedback.
    """

    users: Literal["drawn", "population"] = "drawn"
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

    pairs: Literal["best-vs-worst", "random", "ranks", "contested", "disputed"] = "best-vs-worst"
    ranks: tuple[int, int] = (0, -1)
    temperature: float = Field(default=0.0, ge=0)
    flip: float = Field(default=0.0, ge=0, le=1)
    tie_margin: float = Field(default=0.0, ge=0)
    pairs_per_prompt: int | None = Field(default=None, ge=1)
    responses: tuple[int, ...] = ()

    @field_validator("responses", mode="before")
    @classmethod
    def _as_list(cls, value: Any) -> Any:
        return list_of(value)
