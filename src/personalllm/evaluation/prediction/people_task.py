"""The task that the preferences of people set: which comparisons are learned from, and which are predicted.

People, unlike simulated users, can be asked nothing more, so the grid is made by leaving out. Prompts fall into
`prompt_folds` parts, people into `user_folds`. In turn one part of the prompts is new to everybody and another one is
new to the target users only; the rest is what the target users' histories are drawn from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator

from personalllm.core.errors import UserError
from personalllm.core.seeding import generator
from personalllm.core.types import F32, I32, I64, JSON, Histories, Queries
from personalllm.data.preferences import Preferences
from personalllm.evaluation.prediction.metrics import Cell
from personalllm.evaluation.specs import Frozen

__all__ = ["PEOPLE_VERSION", "PeopleProtocol", "PeopleTask", "Split"]

Bools: TypeAlias = npt.NDArray[np.bool_]

PEOPLE_VERSION = 1
"""Raised whenever the same protocol would give other numbers."""

FEWEST_USERS = 20
"""From so many people on, intervals resample people; below it, prompts."""


class PeopleProtocol(Frozen):
    """What decides the numbers of an evaluation on people's preferences.

    Attributes:
        shots: Comparisons of a target user that a learner adapts to. Somebody who made fewer is adapted with all they
            made, so that every number of shots is judged on the same people.
        user_folds: Parts of the people; each part in turn is the unseen users, >= 2. No more than there are people.
        prompt_folds: Parts of the prompts, >= 3: one is unseen, one is judged by others only, the rest is history.
        seen_users: Whether users whose comparisons were in the pool are evaluated too.
        counterfactuals: Histories that are not the user's own, at the largest number of shots: `flipped` swaps chosen
            and rejected, `other-user` is what the next user compared.
        test_pairs: Most comparisons to predict of each user, kind of prompt and fold; None = all.
        resample: What the intervals resample: `users`; `prompts`, with the people held fixed, so that intervals say
            nothing about other people; `auto` takes users from 20 people on.
        seed: Seed of the folds, the order of the comparisons and the learners.
        bootstrap_draws: Resamples behind each interval, >= 100.
    """

    shots: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(0, 1, 2, 4, 8, 16, 32, 64), min_length=1)
    user_folds: int = Field(default=5, ge=2)
    prompt_folds: int = Field(default=4, ge=3)
    seen_users: bool = True
    counterfactuals: tuple[Literal["flipped", "other-user"], ...] = ("flipped", "other-user")
    test_pairs: int | None = Field(default=None, ge=1)
    resample: Literal["auto", "users", "prompts"] = "auto"
    seed: int = 0
    bootstrap_draws: int = Field(default=2000, ge=100)

    @field_validator("shots")
    @classmethod
    def _ascending(cls, shots: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(shots)))

    def spec(self) -> JSON:
        """Return the protocol as JSON."""
        return {"track": "people", "people_version": PEOPLE_VERSION, **self.model_dump(mode="json")}


@dataclass(frozen=True, slots=True)
class Split:
    """One fit: what is left out of it.

    Attributes:
        index: Position among the fits.
        prompts: The part of the prompts that nobody in the pool has judged.
        users: The part of the people that is not in the pool; None if everybody is.
    """

    index: int
    prompts: int
    users: int | None


@dataclass(frozen=True, eq=False)
class PeopleTask:
    """What a protocol draws from people's preferences; nothing of it depends on the learner.

    Attributes:
        people: The preferences.
        protocol: The protocol.
    """

    people: Preferences
    protocol: PeopleProtocol

    def __post_init__(self) -> None:
        people, wanted = self.people, self.protocol.prompt_folds
        if people.n_users < 2:
            raise UserError(f"{people.name} holds the preferences of one person.", "Give those of two or more.")
        if people.n_topics < wanted:
            raise UserError(
                f"{people.name} has {people.n_topics} distinct prompts, fewer than prompt_folds = {wanted}.",
                "Lower prompt_folds (3 is the least), or give more preferences.",
            )

    @cached_property
    def prompt_fold(self) -> I64:
        """int64 (n_topics,): the part of each prompt."""
        return self._parts("prompts", self.people.n_topics, self.protocol.prompt_folds)

    @cached_property
    def user_fold(self) -> I64:
        """int64 (n_users,): the part of each person."""
        return self._parts("users", self.people.n_users, min(self.protocol.user_folds, self.people.n_users))

    def _parts(self, what: str, n: int, parts: int) -> I64:
        order = generator(self.protocol.seed, "people", what, n).permutation(n)
        found = np.empty(n, np.int64)
        found[order] = np.arange(n) % parts
        return found

    @cached_property
    def splits(self) -> tuple[Split, ...]:
        """Every fit: each part of the prompts with each part of the people, then with everybody in the pool."""
        parts: list[int | None] = list(range(int(self.user_fold.max()) + 1))
        parts += [None] if self.protocol.seen_users else []
        pairs = [(fold, part) for fold in range(self.protocol.prompt_folds) for part in parts]
        return tuple(Split(index, *pair) for index, pair in enumerate(pairs))

    @cached_property
    def shots(self) -> tuple[int, ...]:
        """The numbers of shots that at least half of the people reach; 0 if there is no such number."""
        most = float(np.median(self._known_counts))
        return tuple(k for k in self.protocol.shots if k <= most) or (0,)

    @cached_property
    def _known_counts(self) -> I64:
        """int64 (n_users,): the fewest comparisons that a history of the user could hold, over the folds."""
        fold, folds = self._row_fold, self.protocol.prompt_folds
        counts = np.array([np.bincount(self._user[fold == f], minlength=self.people.n_users) for f in range(folds)])
        left_out = counts + np.roll(counts, -1, axis=0)
        return np.asarray((counts.sum(axis=0) - left_out).min(axis=0))

    @property
    def _user(self) -> I32:
        return self.people.histories.user

    @cached_property
    def _row_fold(self) -> I64:
        """int64 (n_rows,): the part of the prompts to which each comparison belongs."""
        return self.prompt_fold[self.people.topic[self.people.histories.prompt]]

    @cached_property
    def _order(self) -> I64:
        """int64 (n_rows,): all comparisons by user, those of a user in random order."""
        keys = generator(self.protocol.seed, "people", "order", len(self._user)).random(len(self._user))
        return np.lexsort((keys, self._user))

    def targets(self, split: Split) -> I64:
        """Return the users whose comparisons are predicted after this fit."""
        everybody = np.arange(self.people.n_users)
        return everybody if split.users is None else everybody[self.user_fold == split.users]

    def pool(self, split: Split) -> Histories:
        """Return what is fitted on: the other people's comparisons of all but the unseen prompts."""
        fitted = np.arange(self.people.n_users)
        if split.users is not None:
            fitted = fitted[self.user_fold != split.users]
        rows = np.flatnonzero((self._row_fold != split.prompts) & np.isin(self._user, fitted))
        return self._histories(rows, fitted)

    def history(self, split: Split, shots: int, kind: str = "true") -> Histories:
        """Return the first `shots` comparisons of each target user, in a random order that does not depend on them.

        Args:
            split: What was left out.
            shots: Most comparisons of each.
            kind: `true`, `flipped`, or `other-user`.
        """
        targets = self.targets(split)
        speakers = (targets + 1) % self.people.n_users if kind == "other-user" else targets
        others_only = (split.prompts + 1) % self.protocol.prompt_folds
        fold = self._row_fold[self._order]
        rows = self._order[(fold != split.prompts) & (fold != others_only)]
        owner = self._user[rows]
        place = np.arange(len(rows)) - np.searchsorted(owner, owner)
        found = self._histories(rows[place < shots], speakers)
        if kind != "flipped":
            return found
        return dataclasses.replace(found, chosen=found.rejected, rejected=found.chosen)

    def _histories(self, rows: I64, users: I64) -> Histories:
        """Return rows as the histories of users, numbered from 0 in the order given."""
        everything = self.people.histories
        place = np.full(self.people.n_users, -1)
        place[users] = np.arange(len(users))
        owner = place[everything.user[rows]]
        rows, owner = rows[owner >= 0], owner[owner >= 0]
        order = np.argsort(owner, kind="stable")
        rows = rows[order]
        columns = (everything.prompt[rows], everything.chosen[rows], everything.rejected[rows])
        return Histories(everything.corpus, len(users), owner[order].astype(np.int32), *columns)

    def tests(self, split: Split) -> Iterator[tuple[str, I64]]:
        """Yield (kind of prompts, rows of the preferences to predict)."""
        targets = np.isin(self._user[self._order], self.targets(split))
        fold = self._row_fold[self._order]
        yield "unseen", self._first(self._order[targets & (fold == split.prompts)])
        if split.users is not None:
            others_only = (split.prompts + 1) % self.protocol.prompt_folds
            rows = self._order[targets & (fold == others_only)]
            judged = np.zeros(self.people.n_topics, np.bool_)
            judged[self.people.topic[self.pool(split).prompt]] = True
            yield "seen", self._first(rows[judged[self.people.topic[self.people.histories.prompt[rows]]]])

    def _first(self, rows: I64) -> I64:
        limit = self.protocol.test_pairs
        if limit is None:
            return rows
        owner = self._user[rows]
        return rows[np.arange(len(rows)) - np.searchsorted(owner, owner) < limit]

    def queries(self, split: Split, rows: I64) -> Queries:
        """Return the rows to predict as queries of the target users, numbered as in their histories."""
        targets = self.targets(split)
        user = np.searchsorted(targets, self._user[rows]).astype(np.int32)
        return Queries(self.people.histories.corpus, len(targets), user, self.people.histories.prompt[rows])

    def conditions(self, split: Split) -> tuple[tuple[str, int], ...]:
        """Return (kind of history, shots) of everything that is evaluated after a fit."""
        most = self.shots[-1]
        true: list[tuple[str, int]] = [("true", k) for k in self.shots]
        others = self.protocol.counterfactuals if split.users is not None and most else ()
        return tuple(true + [(kind, most) for kind in others])

    def cell(self, split: Split, prompts: str, history: str, shots: int) -> Cell:
        """Return the cell of the grid that a condition belongs to."""
        users = "seen" if split.users is None else "unseen"
        return Cell.from_spec({"users": users, "prompts": prompts, "history": history, "shots": shots})

    @cached_property
    def clusters(self) -> tuple[str, I32, int]:
        """What intervals resample: its name, int32 (n_rows,) the cluster of each comparison, and how many there are."""
        unit = self.protocol.resample
        if unit == "auto":
            unit = "users" if self.people.n_users >= FEWEST_USERS else "prompts"
        if unit == "users":
            return unit, self._user, self.people.n_users
        return unit, self.people.topic[self.people.histories.prompt], self.people.n_topics

    @cached_property
    def lengths(self) -> F32:
        """float32 (n_rows,): log of the length of the chosen response over that of the rejected one, in characters."""
        everything = self.people.histories
        size = np.array([[len(text) for text in row] for row in everything.corpus.responses], np.float64)
        chosen, rejected = (size[everything.prompt, side] for side in (everything.chosen, everything.rejected))
        return np.log((chosen + 1) / (rejected + 1)).astype(np.float32)
