"""Divide people's comparisons into those that are learned from and those that are predicted.

People, unlike simulated users, cannot be asked for more, so the conditions are made by leaving out. Prompts fall into
`prompt_folds` parts, people into `user_folds`. In turn one part of the prompts is new to everybody and another one is
new to the target users only; the rest is what the target users' histories are drawn from.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from personalllm.core.errors import UserError
from personalllm.core.seeding import generator
from personalllm.core.types import F32, F64, I32, I64, JSON, Corpus, Histories, Queries
from personalllm.data import Preferences
from personalllm.evaluation.contract import Axis, Condition, Table
from personalllm.evaluation.sources.options import Novelty, PredictOptions

__all__ = ["MIN_USERS", "Fold", "People"]

MIN_USERS = 20
"""From so many people on, one-way intervals resample people; below it, prompts."""


@dataclass(frozen=True, slots=True)
class Fold:
    """One fit: what is left out of it.

    Attributes:
        index: Position among the fits.
        prompts: The part of the prompts that nobody in the pool has judged.
        users: The part of the people that is not in the pool; None if everybody is.
    """

    index: int
    prompts: int
    users: int | None

    @property
    def kind(self) -> Novelty:
        """Whether the target users are in the pool (`seen`) or not."""
        return "seen" if self.users is None else "unseen"


@dataclass(frozen=True, eq=False)
class People:
    """What a protocol draws from people's preferences; nothing of it depends on the method.

    Attributes:
        people: The preferences.
        protocol: With `folds` and the options of the predict track.

    Raises:
        UserError: If there are too few people or prompts.
    """

    people: Preferences
    protocol: Any

    def __post_init__(self) -> None:
        people, needed = self.people, self.protocol.folds.prompt_folds
        if people.n_users < 2:
            raise UserError(f"{people.name} holds the preferences of one person.", "Give those of two or more.")
        if people.n_topics < needed:
            raise UserError(
                f"{people.name} has {people.n_topics} distinct prompts, fewer than prompt_folds = {needed}.",
                "Lower prompt_folds (minimum 3), or give more preferences.",
            )

    @property
    def fingerprint(self) -> str:
        """Digest of the preferences."""
        return self.people.fingerprint

    @property
    def name(self) -> str:
        """Name of the preferences."""
        return self.people.name

    @property
    def corpus(self) -> Corpus:
        """The texts that methods may read."""
        return self.people.histories.corpus

    @property
    def options(self) -> PredictOptions:
        """What is predicted."""
        options: PredictOptions = self.protocol.options
        return options

    def about(self) -> JSON:
        """Return name, fingerprint and sizes of the preferences, as JSON for the manifest."""
        people = self.people
        return {
            "kind": "people",
            "name": people.name,
            "fingerprint": people.fingerprint,
            "n_users": people.n_users,
            "n_comparisons": len(people.histories),
            "n_ties": people.n_ties,
            "n_prompts": people.n_topics,
            **people.about,
        }

    def describe(self) -> JSON:
        """Return what was drawn, as JSON for the manifest."""
        n_clusters = self.people.n_users if self.axis == "users" else self.people.n_topics
        sizes = {"n_fits": len(self.folds), "shots": list(self.shots)}
        sizes |= {"dropped": dropped} if (dropped := self.dropped()) else {}
        return sizes | {"resample": self.axis, "n_clusters": n_clusters}

    @cached_property
    def prompt_fold(self) -> I64:
        """int64 (n_topics,): the part of each prompt."""
        return self._parts("prompts", self.people.n_topics, self.protocol.folds.prompt_folds)

    @cached_property
    def user_fold(self) -> I64:
        """int64 (n_users,): the part of each person."""
        n_users = self.people.n_users
        return self._parts("users", n_users, min(self.protocol.folds.user_folds, n_users))

    def _parts(self, what: str, n: int, n_parts: int) -> I64:
        order = generator(self.protocol.seed, "people", what, n).permutation(n)
        parts = np.empty(n, np.int64)
        parts[order] = np.arange(n) % n_parts
        return parts

    @cached_property
    def folds(self) -> tuple[Fold, ...]:
        """Every fit: each part of the prompts with each part of the people, then with everybody in the pool."""
        parts: list[int | None] = list(range(int(self.user_fold.max()) + 1))
        parts += [None] if "seen" in self.options.users else []
        pairs = [(prompts, users) for prompts in range(self.protocol.folds.prompt_folds) for users in parts]
        return tuple(Fold(index, *pair) for index, pair in enumerate(pairs))

    @cached_property
    def shots(self) -> tuple[int, ...]:
        """The numbers of shots that at least half of the people reach; 0 if there is no such number."""
        return tuple(k for k in self.options.shots if k <= self.reached) or (0,)

    @cached_property
    def reached(self) -> int:
        """How many shots half of the people have in every fold."""
        fold, n_folds = self._known_fold, self.protocol.folds.prompt_folds
        counts = np.array([np.bincount(self._knower[fold == f], minlength=self.people.n_users) for f in range(n_folds)])
        # a fold leaves two parts of the prompts out of the histories
        left_out = counts + np.roll(counts, -1, axis=0)
        return int(np.median((counts.sum(axis=0) - left_out).min(axis=0)))

    @property
    def _knower(self) -> I32:
        """int32 (n_shots,): whom each thing that can be known is known of."""
        return self._user

    @property
    def _known_fold(self) -> I64:
        """int64 (n_shots,): the part of the prompts that it belongs to."""
        return self._row_fold

    def dropped(self) -> str:
        """Return which of the shots that were asked for are left out, and why; empty if none is."""
        asked, default = self.options.shots, type(self.options).model_fields["shots"].default
        missing = [str(k) for k in asked if k not in self.shots]
        if not missing or asked == default:
            return ""
        n_folds = self.protocol.folds.prompt_folds
        return (
            f"Shots {', '.join(missing)} are left out: with two of {n_folds} parts of the prompts held out, half of "
            f"the {self.people.n_users} people of {self.name} have {self.reached} or fewer. More prompt_folds hold out "
            "less."
        )

    @property
    def _user(self) -> I32:
        return self.people.histories.user

    @cached_property
    def topics(self) -> I32:
        """int32 (n_rows,): the prompt of each comparison, the same number for equal texts."""
        return self.people.topic[self.people.histories.prompt]

    @cached_property
    def _row_fold(self) -> I64:
        """int64 (n_rows,): the part of the prompts to which each comparison belongs."""
        return self.prompt_fold[self.topics]

    @cached_property
    def _order(self) -> I64:
        """int64 (n_rows,): all comparisons by user, those of a user in random order."""
        keys = generator(self.protocol.seed, "people", "order", len(self._user)).random(len(self._user))
        return np.lexsort((keys, self._user))

    def targets(self, fold: Fold) -> I64:
        """Return the users whose comparisons are predicted after this fit."""
        everybody = np.arange(self.people.n_users)
        return everybody if fold.users is None else everybody[self.user_fold == fold.users]

    def others_only(self, fold: Fold) -> int:
        """Return the part of the prompts that is new to the target users only."""
        n_folds: int = self.protocol.folds.prompt_folds
        return (fold.prompts + 1) % n_folds

    def pool(self, fold: Fold) -> Histories:
        """Return what is fitted on: the other people's comparisons of all but the unseen prompts."""
        fitted = np.arange(self.people.n_users)
        if fold.users is not None:
            fitted = fitted[self.user_fold != fold.users]
        rows = np.flatnonzero((self._row_fold != fold.prompts) & np.isin(self._user, fitted))
        return self._histories(rows, fitted)

    def history(self, fold: Fold, shots: int, kind: str = "true") -> Histories:
        """Return the first `shots` comparisons of each target user, in a random order that does not depend on them.

        Args:
            fold: What was left out.
            shots: Maximum of each user.
            kind: `true`, `flipped`, or `other-user`.
        """
        targets = self.targets(fold)
        owners = (targets + 1) % self.people.n_users if kind == "other-user" else targets
        row_fold = self._row_fold[self._order]
        rows = self._order[(row_fold != fold.prompts) & (row_fold != self.others_only(fold))]
        histories = self._histories(self._first(rows, shots), owners)
        if kind != "flipped":
            return histories
        return dataclasses.replace(histories, chosen=histories.rejected, rejected=histories.chosen)

    def _histories(self, rows: I64, users: I64) -> Histories:
        """Return rows as the histories of users, numbered from 0 in the order given."""
        everything = self.people.histories
        index_of = np.full(self.people.n_users, -1)
        index_of[users] = np.arange(len(users))
        owner = index_of[everything.user[rows]]
        rows, owner = rows[owner >= 0], owner[owner >= 0]
        order = np.argsort(owner, kind="stable")
        picked = {
            name: getattr(everything, name)[rows[order]] for name in ("prompt", "chosen", "rejected", "best_worst")
        }
        return Histories(everything.corpus, len(users), owner[order].astype(np.int32), **picked)

    def tests(self, fold: Fold) -> dict[str, I64]:
        """Return kind of prompts -> rows of the preferences to predict."""
        targets = np.isin(self._user[self._order], self.targets(fold))
        row_fold = self._row_fold[self._order]
        tests: dict[str, I64] = {"unseen": self._order[targets & (row_fold == fold.prompts)]}
        if fold.users is not None:
            rows = self._order[targets & (row_fold == self.others_only(fold))]
            in_pool = np.zeros(self.people.n_topics, np.bool_)
            in_pool[self.people.topic[self.pool(fold).prompt]] = True
            tests["seen"] = rows[in_pool[self.topics[rows]]]
        limit = self.options.test_pairs
        return {
            kind: rows if limit is None else self._first(rows, limit)
            for kind, rows in tests.items()
            if kind in self.options.prompts
        }

    def _first(self, rows: I64, n: int) -> I64:
        """Return the first n rows of each user, of rows by user."""
        owner = self._user[rows]
        return rows[np.arange(len(rows)) - np.searchsorted(owner, owner) < n]

    def queries(self, fold: Fold, rows: I64) -> Queries:
        """Return the rows to predict as queries of the target users, numbered as in their histories."""
        targets = self.targets(fold)
        user = np.searchsorted(targets, self._user[rows]).astype(np.int32)
        return Queries(self.corpus, len(targets), user, self.people.histories.prompt[rows])

    def histories(self, fold: Fold) -> tuple[tuple[str, int], ...]:
        """Return (kind of history, shots) of everything that is adapted to after a fit."""
        most = self.shots[-1]
        true: list[tuple[str, int]] = [("true", k) for k in self.shots]
        counterfactuals = self.options.counterfactuals if fold.users is not None and most else ()
        return tuple(true + [(kind, most) for kind in counterfactuals])

    def conditions_of(self, fold: Fold) -> tuple[Condition, ...]:
        """Return everything that is evaluated after a fit, by history, shots and prompts."""
        # nobody else's prompts are left for those who are in the pool
        kinds = [prompts for prompts in self.options.prompts if prompts == "unseen" or fold.users is not None]
        return tuple(
            Condition(fold.kind, prompts, history, shots)
            for history, shots in self.histories(fold)
            for prompts in kinds
        )

    @cached_property
    def conditions(self) -> tuple[Condition, ...]:
        """Everything that is evaluated after any fit."""
        return tuple(dict.fromkeys(condition for fold in self.folds for condition in self.conditions_of(fold)))

    def samples(self, index: int, rows: I64, margin: F32) -> Table:
        """Return the samples of a condition: a row for each comparison that is predicted.

        Columns: `condition`, `user`, `prompt` (the same number for equal texts), `row` (of the comparison), `margin`,
        `longer` (1 if the chosen response is the longer one, -1 if the shorter, else 0).

        Args:
            index: Position of the condition.
            rows: The comparisons.
            margin: float32 (n,), of each.
        """
        import pyarrow as pa

        columns: dict[str, Any] = {
            "condition": np.full(len(rows), index, np.int16),
            "user": self._user[rows],
            "prompt": self.topics[rows],
            "row": rows.astype(np.int32),
            "margin": margin,
            "longer": np.sign(self.lengths[rows]).astype(np.int8),
        }
        return pa.table(columns)

    @cached_property
    def axis(self) -> Axis:
        """What answers are added up for: people, but prompts where intervals resample those alone."""
        if self.protocol.intervals != "users":
            return "users"
        resample: Literal["auto", "users", "prompts"] = self.protocol.folds.resample
        if resample == "auto":
            return "users" if self.people.n_users >= MIN_USERS else "prompts"
        return resample

    @cached_property
    def lengths(self) -> F32:
        """float32 (n_rows,): log of the length of the chosen response over that of the rejected one, in characters."""
        return self.length_ratios(self.people.histories).astype(np.float32)

    @staticmethod
    def length_ratios(histories: Histories) -> F64:
        """Return float64 (n,): log of (characters of the chosen response + 1) over (of the rejected one + 1)."""
        corpus = histories.corpus
        start = np.concatenate([[0], np.cumsum(corpus.counts)])[histories.prompt]
        size = np.array([len(text) for row in corpus.responses for text in row], np.float64)
        chosen, rejected = (size[start + side] for side in (histories.chosen, histories.rejected))
        return np.log((chosen + 1) / (rejected + 1))
