"""Ask simulated users round by round: which prompts come, what they answer, and how their tastes drift."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator

from personalllm.core.errors import ParameterError
from personalllm.core.seeding import derive_seed, generator
from personalllm.core.types import F32, F64, I8, I32, I64, JSON, U8, Histories
from personalllm.evaluation.parts import HistorySpec, Options, Sizes, list_of
from personalllm.evaluation.sources.counterfactual import partners
from personalllm.evaluation.sources.people import Fold
from personalllm.evaluation.sources.rated import Rated
from personalllm.evaluation.sources.simulated import Simulated
from personalllm.feedback import outcomes, sample_prompts
from personalllm.users.draws import user_blocks

__all__ = ["Asked", "Asking", "OnlineOptions", "RatedAsking"]

_ROUNDS, _CHECKPOINTS = 60, (0, 5, 10, 20, 40, 60)
_POOL_USERS, _POOL_PAIRS, _QUERIES = 1_000, 50, 20


class OnlineOptions(Options):
    """What is asked in the online track, and when it is measured.

    Attributes:
        mode: In a `stream` a prompt comes each round and two of its responses are chosen; in a `survey` the prompt is
            chosen too, among those of a pool that is the same for all users, and no pair is asked twice.
        rounds: Questions of each user, >= 1.
        checkpoints: Rounds after which is measured, each >= 0; kept in ascending order, the last round among them.
        prompts: Prompts of the pool of a survey, >= 1.
        drift: `none`; `switch` gives each user another one's taste from `drift_at` on; `rotate` moves each taste
            linearly to another one's, which it reaches in the last round.
        drift_at: Answers before the switch, >= 1.
        reward_signals: Whether methods may use the scores of the RMs as features.
    """

    part: ClassVar[str] = "online"
    short: ClassVar[Mapping[str, str]] = {"mode": "mode", "rounds": "rounds", "drift": "drift"}
    derived: ClassVar[tuple[str, ...]] = ("history",)

    mode: Literal["stream", "survey"] = "stream"
    rounds: int = Field(default=_ROUNDS, ge=1)
    checkpoints: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=_CHECKPOINTS, min_length=1)
    prompts: int = Field(default=30, ge=1)
    drift: Literal["none", "switch", "rotate"] = "none"
    drift_at: int | None = Field(default=None, ge=1)
    reward_signals: bool = False

    @property
    def signals(self) -> bool:
        """Whether methods may use the scores of the RMs."""
        return self.reward_signals

    @field_validator("checkpoints", mode="before")
    @classmethod
    def _as_list(cls, value: Any) -> Any:
        return list_of(value)

    @field_validator("checkpoints")
    @classmethod
    def _ascending(cls, checkpoints: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(checkpoints)))

    @classmethod
    def complete(cls, given: JSON, sizes: Sizes) -> JSON:
        """Return the settings with defaults that fit the data's size.

        Users compare two responses, so the pool's do as well: `feedback.pairs` is `random` unless it is set.

        Raises:
            ParameterError: If a history is set by hand: it is what was asked.
        """
        values = given["online"]
        rounds = values.get("rounds", _ROUNDS)
        if isinstance(rounds, int):
            last = {rounds} if rounds > 0 else set()
            values.setdefault("checkpoints", sorted({t for t in _CHECKPOINTS if t <= rounds} | last))
            if values.get("drift") == "switch":
                values.setdefault("drift_at", max(1, rounds // 2))
        values.setdefault("prompts", min(cls.model_fields["prompts"].default, sizes.history))
        fixed = {"pairs": 0, "nearest": 0, "counterfactual": "none"}
        for name, value in given["history"].items():
            if value != fixed.get(name, value):
                raise ParameterError(f"history.{name}", "left out in the online track, see online.rounds", value)
        given.setdefault("prompts_per_user", min(_QUERIES, sizes.queries))
        pool = {"n_users": _POOL_USERS, "pairs_per_user": min(_POOL_PAIRS, sizes.history)} | given["pool"]
        feedback = {"pairs": "random"} | given["feedback"]
        return given | {"history": fixed, "pool": pool, "feedback": feedback}

    def check(self, protocol: Any, sizes: Sizes) -> None:
        """Raise `ParameterError` unless the data have the prompts and the settings fit together."""
        feedback = protocol.feedback
        if feedback.pairs_per_prompt is not None or feedback.responses:
            name = "responses" if feedback.responses else "pairs_per_prompt"
            raise ParameterError(
                f"feedback.{name}", "left out in the online track: policies choose the pairs", getattr(feedback, name)
            )
        if protocol.history != HistorySpec(pairs=0, nearest=0):
            raise ParameterError("history", "empty: it is what was asked", protocol.history)
        if max(self.checkpoints) > self.rounds:
            raise ParameterError("online.checkpoints", f"at most the rounds ({self.rounds})", list(self.checkpoints))
        if self.mode == "survey" and self.prompts > sizes.history:
            raise ParameterError(
                "online.prompts", f"at most the prompts of the history split ({sizes.history})", self.prompts
            )
        if (self.drift == "switch") != (self.drift_at is not None):
            raise ParameterError("online.drift_at", "given with drift=switch and only then", self.drift_at)
        if self.drift != "none" and (protocol.limit or protocol.population.n_users) < 2:
            raise ParameterError("online.drift", "none for one user, who has nobody to become", self.drift)


class Asked(Protocol):
    """Users who can be asked round by round; responses are columns of the corpus, users rows from 0."""

    @property
    def rounds(self) -> int:
        """Rounds of each user."""

    @property
    def prompts(self) -> I32:
        """int32 (n_prompts,), ascending: those that may be asked about."""

    def offered(self, users: slice, t: int) -> I64:
        """Return what users may be asked about in round t, int64 (n_users, n_offered), places in `prompts`."""

    def utilities(self, users: I32, prompts: I32, t: int) -> F32:
        """Return float32 (n, n_responses): utilities after t answers."""

    def answers(self, users: slice, t: int, gap: F64) -> I8:
        """Return what users answer in round t, int8 (n,): 1 for the first response, -1 for the second, 0 for a tie."""


@dataclass(frozen=True, eq=False)
class Asking:
    """What users are asked and answer; no draw depends on the policy, nor those of the first users on who follows.

    Responses are columns of the corpus throughout.

    Attributes:
        source: The users.
    """

    source: Simulated

    @property
    def options(self) -> OnlineOptions:
        """The settings of the track."""
        options = self.source.protocol.options
        assert isinstance(options, OnlineOptions)  # noqa: S101
        return options

    @property
    def rounds(self) -> int:
        """Rounds of each user."""
        return self.options.rounds

    @cached_property
    def prompts(self) -> I32:
        """int32 (n_prompts,), ascending: those that may be asked about."""
        rows = self.source.history_rows
        if self.options.mode == "stream":
            return rows
        return np.sort(sample_prompts(1, rows, self.options.prompts, self._seed("survey"))[0])

    @cached_property
    def stream(self) -> I64:
        """int64 (n_users, rounds + 1): the prompt that comes in each round, a place in `prompts`."""
        left, n = self.options.rounds + 1, len(self.prompts)
        parts: list[I32] = []
        while left > 0:  # prompts come again when all have come
            seed = self._seed("stream", len(parts))
            parts.append(sample_prompts(self.source.n_users, np.arange(n), min(n, left), seed))
            left -= n
        return np.concatenate(parts, axis=1).astype(np.int64)

    def offered(self, users: slice, t: int) -> I64:
        """Return what users may be asked about in round t, int64 (n_users, n_offered), places in `prompts`."""
        if self.options.mode == "stream":
            return self.stream[users, t : t + 1]
        return np.broadcast_to(np.arange(len(self.prompts)), (users.stop - users.start, len(self.prompts)))

    def utilities(self, users: I32, prompts: I32, t: int) -> F32:
        """Return float32 (n, n_responses): utilities after t answers, by column of the corpus.

        Args:
            users: int32 (n,), rows of the population.
            prompts: int32 (n,), rows of the corpus.
            t: Rounds so far.
        """
        values, share = self.source.utilities(users, prompts), self.drifted(t)
        if share:
            values = (1.0 - share) * values + share * self.source.utilities(self._partners[users], prompts)
        return np.take_along_axis(values.astype(np.float32), self.source.view.order[prompts].astype(np.intp), axis=1)

    def drifted(self, t: int) -> float:
        """Return how far tastes have moved after t answers, in [0, 1]."""
        if self.options.drift == "rotate":
            return t / self.options.rounds
        return float(self.options.drift_at is not None and t >= self.options.drift_at)

    def answers(self, users: slice, t: int, gap: F64) -> I8:
        """Return what users answer in round t, int8 (n,): 1 for the first response, -1 for the second, 0 for a tie.

        Args:
            users: A slice of the population, n of them.
            t: Round.
            gap: float64 (n,): utility of the first response above that of the second.
        """
        uniform = {name: values[users, t] for name, values in self._uniform.items()}
        wins, tie = outcomes(self.source.rule, gap, uniform)
        even = tie & (self.source.rule.tie_margin > 0)
        return np.where(even, 0, np.where(wins, 1, -1)).astype(np.int8)

    @cached_property
    def tests(self) -> U8:
        """uint8 (n_users, n_queries, 2): of each query the two columns whose order is predicted."""
        n, width = self.source.prompts.shape, self.source.view.n_responses
        pairs = np.empty((*n, 2), np.uint8)
        for block, users in user_blocks(n[0]):
            rng = generator(self._seed("tests"), "pairs", block)
            drawn = rng.random((users.stop - users.start, n[1], width))
            pairs[users] = drawn.argsort(axis=2)[:, :, :2]
        return pairs

    @cached_property
    def random_history(self) -> Histories:
        """What users answer to a random pair in each round, and a random prompt of a survey."""
        n, rounds, width = self.source.n_users, self.options.rounds, self.source.view.n_responses
        shown, place = np.empty((n, rounds, 2), np.int64), np.empty((n, rounds), np.int64)
        for block, users in user_blocks(n):
            rng = generator(self._seed("random questions"), "pairs", block)
            shape = (users.stop - users.start, rounds)
            shown[users] = rng.random((*shape, width)).argsort(axis=2)[:, :, :2]
            chance = generator(self._seed("random questions"), "prompts", block).random(shape)
            place[users] = (chance * len(self.prompts)).astype(np.int64)
        if self.options.mode == "stream":
            place = self.stream[:, :rounds]
        everybody, won = np.arange(n, dtype=np.int32), np.empty((n, rounds), np.bool_)
        for t in range(rounds):
            values = self.utilities(everybody, self.prompts[place[:, t]], t).astype(np.float64)
            gap = values[everybody, shown[:, t, 0]] - values[everybody, shown[:, t, 1]]
            won[:, t] = self.answers(slice(0, n), t, gap) >= 0
        side = np.where(won[..., None], shown, shown[..., ::-1]).reshape(-1, 2).astype(np.uint8)
        user = np.repeat(everybody, rounds)
        return Histories(self.source.corpus, n, user, self.prompts[place].ravel(), side[:, 0], side[:, 1])

    @cached_property
    def _partners(self) -> I32:
        return partners(self.source.n_users, self._seed("partners"))

    @cached_property
    def _uniform(self) -> dict[str, F64]:
        rule, shape = self.source.rule, (self.source.n_users, self.options.rounds)
        purposes = ["coin", *["outcome"] * (rule.temperature > 0), *["flip"] * (rule.flip > 0)]
        numbers = {purpose: np.empty(shape) for purpose in purposes}
        for purpose, values in numbers.items():
            for block, users in user_blocks(shape[0]):
                rng = generator(self._seed("answers"), purpose, block)
                values[users] = rng.random((users.stop - users.start, shape[1]))
        return numbers

    def _seed(self, *purpose: str | int) -> int:
        return derive_seed(self.source.protocol.seed, "online", *purpose)


@dataclass(frozen=True, eq=False)
class RatedAsking:
    """The target users of a fold, who answer by their own ratings: the response that they rated higher wins.

    They are asked about groups of responses all of which they rated, outside the parts that the fold leaves out, and
    take part if there is one, and one to choose in of the unseen part.

    Attributes:
        source: The ratings.
        fold: What is left out.
        rounds: Rounds of each user.
    """

    source: Rated
    fold: Fold
    rounds: int

    @cached_property
    def _parts(self) -> tuple[I64, I64, npt.NDArray[np.bool_]]:
        """The groups of the two parts, to ask about and to choose in, and who rated all of a group, (n_users, n)."""
        source, of = self.source, self.source.prompt_fold
        whole = (source.items >= 0).all(axis=1)
        asked = whole & (of != self.fold.prompts) & (of != source.others_only(self.fold))
        table = ~np.isnan(source.ratings.table())
        rated: npt.NDArray[np.bool_] = np.asarray(table[:, np.maximum(source.items, 0)].all(axis=2))
        to_ask: I64 = np.asarray(np.flatnonzero(asked), np.int64)
        to_choose: I64 = np.asarray(np.flatnonzero(whole & (of == self.fold.prompts)), np.int64)
        return to_ask, to_choose, rated

    @cached_property
    def users(self) -> I32:
        """int32 (n_users,), ascending: who takes part, positions of people."""
        asked, chosen, rated = self._parts
        targets = self.source.targets(self.fold)
        able = rated[targets][:, asked].any(axis=1) & rated[targets][:, chosen].any(axis=1)
        return targets[able].astype(np.int32)

    @cached_property
    def prompts(self) -> I32:
        """int32 (n_prompts,), ascending: groups that may be asked about."""
        return self._parts[0].astype(np.int32)

    @cached_property
    def queries(self) -> tuple[I32, I32]:
        """Who chooses in which group of the unseen part, int32 (n,) each: rows of `users`, and groups."""
        _, chosen, rated = self._parts
        user, place = np.nonzero(rated[self.users][:, chosen])
        return user.astype(np.int32), chosen[place].astype(np.int32)

    @cached_property
    def tests(self) -> U8:
        """uint8 (n_queries, 2): of each query the two columns whose order is predicted."""
        shape = (len(self.queries[0]), self.source.items.shape[1])
        return self._random("tests", *shape).argsort(axis=1)[:, :2].astype(np.uint8)

    @cached_property
    def stream(self) -> I64:
        """int64 (n_users, rounds + 1): the group that comes in each round; all come before one comes again."""
        there = self._parts[2][self.users][:, self._parts[0]]
        order = np.where(there, self._random("stream", *there.shape), np.inf).argsort(axis=1)
        turn = np.arange(self.rounds + 1) % there.sum(axis=1)[:, None]
        return np.take_along_axis(order, turn, axis=1)

    def offered(self, users: slice, t: int) -> I64:
        """Return what users may be asked about in round t, int64 (n_users, 1), places in `prompts`."""
        return self.stream[users, t : t + 1]

    def utilities(self, users: I32, prompts: I32, t: int) -> F32:
        """Return float32 (n, n_responses): the users' ratings, which do not drift."""
        return self.source.utilities(self.users[users], prompts)

    def answers(self, users: slice, t: int, gap: F64) -> I8:
        """Return the sign of the difference of the ratings."""
        return np.sign(gap).astype(np.int8)

    def _random(self, purpose: str, *shape: int) -> F64:
        return generator(self.source.protocol.seed, "online people", purpose, self.fold.index).random(shape)
