"""Divide people's ratings into those that are learned from and those that are predicted.

Who rated several responses to a prompt prefers each to those they rated lower: ratings become comparisons, and go
through the folds of people. Beyond that a person's utilities are known, so that regret and gain are defined.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np

from personalllm.core.errors import UserError
from personalllm.core.seeding import generator
from personalllm.core.storage import digest
from personalllm.core.types import F32, F64, I32, I64, JSON, Corpus, Histories, Queries
from personalllm.data import Preferences, Ratings
from personalllm.evaluation.protocol import Protocol
from personalllm.evaluation.sources.people import Fold, People

__all__ = ["Rated", "people_of"]


@dataclass(frozen=True, eq=False)
class _Comparisons:
    """Comparisons that ratings imply, by user and in the order in which the later response was rated.

    Attributes:
        user: int32 (n,).
        prompt: int32 (n,), row of the corpus.
        chosen: int64 (n,), column of the corpus.
        rejected: int64 (n,), likewise.
        later: int64 (n,): the position of the later rating among all of them.
        rated_by: int32 (n_ratings,), ascending: whose rating stands at a position.
        rated: int32 (n_ratings,): of which row of the corpus.
        n_ties: How many comparisons had equal ratings.
    """

    user: I32
    prompt: I32
    chosen: I64
    rejected: I64
    later: I64
    rated_by: I32
    rated: I32
    n_ties: int


@dataclass(frozen=True, eq=False)
class Rated(People):
    """People whose utilities are known where they rated.

    A prompt with more responses than a group has is cut into random groups, each of which counts as a prompt; people
    rate group by group, in an order of their own. After k ratings all comparisons between them are known (each response
    with the `compared` rated before it in its group).

    Attributes:
        people: The comparisons that the ratings imply.
        protocol: With `folds` and the options of the predict track.
        ratings: The ratings.
        items: int32 (n_prompts, n_responses): which response of the ratings stands at a column; -1 for none.
    """

    ratings: Ratings
    items: I32
    _comparisons: _Comparisons

    @classmethod
    def of(cls, ratings: Ratings, protocol: Protocol) -> Self:
        """Return the source of a protocol.

        Raises:
            UserError: If there are too few people or groups, or nobody rated two responses to a prompt differently.
        """
        folds = protocol.folds
        if folds is None or folds.group is None:
            raise UserError(f"{ratings.name} are ratings of people.", "Make the protocol with Protocol.for_data().")
        items = _groups(ratings, folds.group, protocol.seed)
        if len(items) < folds.prompt_folds:
            raise UserError(
                f"{ratings.name} has {len(items)} groups of responses to choose among, fewer than prompt_folds = "
                f"{folds.prompt_folds}.",
                f"Make smaller groups (folds.group is {folds.group}), or lower prompt_folds (minimum 3).",
            )
        compared = _compared(ratings, items, folds.compared or folds.group, protocol.seed)
        if not len(compared.user):
            raise UserError(
                f"In {ratings.name} nobody rated two responses to a prompt differently.",
                "Give more ratings of the same prompts.",
            )
        corpus = Corpus(
            [ratings.prompts[ratings.prompt[row[0]]] for row in items],
            [tuple(ratings.responses[item] for item in row[row >= 0].tolist()) for row in items],
        )
        columns = (compared.user, compared.prompt, compared.chosen, compared.rejected)
        people = Preferences(
            name=ratings.name,
            users=ratings.users,
            histories=Histories(corpus, ratings.n_users, *columns),  # type: ignore[arg-type]
            topic=np.arange(len(items), dtype=np.int32),
            n_ties=compared.n_ties,
            fingerprint=digest([ratings.fingerprint, folds.group, folds.compared, protocol.seed]),
        )
        return cls(people, protocol, ratings, items, compared)

    @property
    def fingerprint(self) -> str:
        """Digest of the ratings."""
        return self.ratings.fingerprint

    def about(self) -> JSON:
        """Return name, fingerprint and sizes of the ratings, as JSON for the manifest."""
        ratings = self.ratings
        sizes = {"n_ratings": ratings.n, "n_responses": ratings.n_items, "n_groups": len(self.items)}
        return super().about() | {"fingerprint": ratings.fingerprint, **sizes, **ratings.about}

    @property
    def _knower(self) -> I32:
        """int32 (n_ratings,): who rated."""
        return self._comparisons.rated_by

    @property
    def _known_fold(self) -> I64:
        """int64 (n_ratings,): the part of the prompts."""
        return self.prompt_fold[self._comparisons.rated]

    def history(self, fold: Fold, shots: int, kind: str = "true") -> Histories:
        """Return the comparisons between the first `shots` ratings of each target user.

        Args:
            fold: What was left out.
            shots: Maximum of each user.
            kind: `true`, `flipped`, or `other-user`.
        """
        targets = self.targets(fold)
        owners = (targets + 1) % self.people.n_users if kind == "other-user" else targets
        of = self.prompt_fold[self._comparisons.rated]
        allowed = (of != fold.prompts) & (of != self.others_only(fold))
        # the place of each rating among those of its user that are not left out
        number, by = np.cumsum(allowed), self._comparisons.rated_by
        place = number - np.concatenate([[0], number])[np.searchsorted(by, by)]
        later = self._comparisons.later
        histories = self._histories(np.flatnonzero(allowed[later] & (place[later] <= shots)), owners)
        if kind != "flipped":
            return histories
        return dataclasses.replace(histories, chosen=histories.rejected, rejected=histories.chosen)

    def utilities(self, users: I32, prompts: I32) -> F32:
        """Return float32 (n, n_responses): each user's own ratings of the responses to a prompt; NaN where unknown.

        Args:
            users: int32 (n,), positions of people.
            prompts: int32 (n,), rows of the corpus.
        """
        return self.ratings.at(np.asarray(users)[:, None], self.items[prompts])

    def choices(self, fold: Fold) -> dict[str, tuple[I32, I32]]:
        """Return kind of prompts -> (users, prompts), int32 (n,) each: who chooses among the responses they rated.

        A target user chooses where they rated at least two responses of a prompt.
        """
        n_prompts = len(self.items)
        by, rated = self._comparisons.rated_by, self._comparisons.rated
        mine = np.isin(by, self.targets(fold))
        cells, times = np.unique(by[mine].astype(np.int64) * n_prompts + rated[mine], return_counts=True)
        user, prompt = np.divmod(cells[times >= 2], n_prompts)
        parts = {"unseen": fold.prompts} | ({} if fold.users is None else {"seen": self.others_only(fold)})
        chosen = {
            kind: self.prompt_fold[prompt] == part for kind, part in parts.items() if kind in self.options.prompts
        }
        return {kind: (user[rows].astype(np.int32), prompt[rows].astype(np.int32)) for kind, rows in chosen.items()}

    def queries_of(self, fold: Fold, users: I32, prompts: I32) -> Queries:
        """Return the choices of people as queries of the target users, numbered as in their histories."""
        targets = self.targets(fold)
        return Queries(self.corpus, len(targets), np.searchsorted(targets, users).astype(np.int32), prompts)

    def popularity(self, fold: Fold) -> F64:
        """Return float64 (n_prompts, n_responses): how the people of the pool rate each response, above their mean.

        Those of prompts that nobody is fitted on count too: it is the best choice that ignores the user, as far as the
        ratings tell. One more rating, an average one, draws responses that few people rated to 0.
        """
        ratings, pool = self.ratings, np.ones(self.ratings.n_users, np.bool_)
        if fold.users is not None:
            pool[self.targets(fold)] = False
        means = np.bincount(ratings.user, ratings.value, ratings.n_users) / np.maximum(1, ratings.counts)
        rows = pool[ratings.user]
        item, above = ratings.item[rows], (ratings.value - means[ratings.user])[rows]
        total, n = (np.bincount(item, weights, ratings.n_items) for weights in (above, None))
        return np.where(self.items >= 0, (total / (n + 1.0))[self.items], -np.inf)


def people_of(data: Preferences | Ratings, protocol: Protocol) -> People:
    """Return the source of people's preferences or ratings."""
    return Rated.of(data, protocol) if isinstance(data, Ratings) else People(data, protocol)


def _groups(ratings: Ratings, size: int, seed: int) -> I32:
    """Return int32 (n_groups, size): the responses of each group in random order, -1 where it has fewer.

    Groups of one response are left out: there is nothing to choose.
    """
    order = np.lexsort((generator(seed, "people", "response groups").random(ratings.n_items), ratings.prompt))
    ends = np.searchsorted(ratings.prompt, np.arange(ratings.n_prompts + 1)).tolist()
    groups: list[I64] = []
    for start, stop in pairwise(ends):
        n = max(size, (stop - start) // size * size)
        groups += [order[first : min(first + size, stop)] for first in range(start, min(start + n, stop), size)]
    groups = [group for group in groups if len(group) > 1]
    width = max((len(group) for group in groups), default=0)
    items = np.full((len(groups), width), -1, np.int32)
    for row, group in enumerate(groups):
        items[row, : len(group)] = group
    return items


def _compared(ratings: Ratings, items: I32, most: int, seed: int) -> _Comparisons:
    """Return the comparisons of each response with at most `most` of those rated before it in its group."""
    row_of, column_of = (np.full(ratings.n_items, -1, np.int64) for _ in range(2))
    row, column = np.nonzero(items >= 0)
    row_of[items[row, column]], column_of[items[row, column]] = row, column
    used = np.flatnonzero(row_of[ratings.item] >= 0)
    user, item, value = (getattr(ratings, name)[used] for name in ("user", "item", "value"))
    row, column = row_of[item], column_of[item]
    random = generator(seed, "people", "rating order")
    cell, of = np.unique(user.astype(np.int64) * max(1, len(items)) + row, return_inverse=True)
    order = np.lexsort((random.random(len(used)), random.random(len(cell))[of.ravel()], user))
    user, row, column, value, cell_of = user[order], row[order], column[order], value[order], of.ravel()[order]
    # positions in a group, counted from the first rating of the same user and group
    new = np.flatnonzero(np.diff(cell_of, prepend=-1))
    place = np.arange(len(user)) - np.repeat(new, np.diff(new, append=len(user)))
    later, earlier = _pairs(place, most)
    by_time = np.lexsort((earlier, later))
    later, earlier = later[by_time], earlier[by_time]
    differ = value[later] != value[earlier]
    later, earlier = later[differ], earlier[differ]
    up = value[later] > value[earlier]
    return _Comparisons(
        user=user[later],
        prompt=row[later].astype(np.int32),
        chosen=np.where(up, column[later], column[earlier]),
        rejected=np.where(up, column[earlier], column[later]),
        later=later,
        rated_by=user,
        rated=row.astype(np.int32),
        n_ties=int((~differ).sum()),
    )


def _pairs(place: I64, most: int) -> tuple[I64, I64]:
    """Return positions of ratings and of those before them in their group, at most `most` for each."""

    def of_lags() -> Iterator[tuple[I64, I64]]:
        for lag in range(1, min(most, int(place.max(initial=0))) + 1):
            later = np.flatnonzero(place >= lag)
            yield later, later - lag

    pairs = list(of_lags()) or [(np.empty(0, np.int64),) * 2]
    later, earlier = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return later, earlier
