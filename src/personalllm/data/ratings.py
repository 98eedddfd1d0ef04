"""Hold people's ratings of responses: each person's own utilities, where they are known."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from personalllm.core.errors import AxisMismatch, DataError, ParameterError
from personalllm.core.storage import digest
from personalllm.core.types import F32, I32, I64, JSON
from personalllm.data.people import open_people

__all__ = ["Ratings"]


@dataclass(frozen=True, eq=False)
class Ratings:
    """What people said of responses as numbers, higher is better; make it with `from_rows`, `from_table` or `collect`.

    A ranking is a rating too: the share of the other ranked responses that a response is preferred to, ties half.
    Texts that answer no prompt, such as jokes, have one prompt in common, which may be empty.

    Attributes:
        name: Whose ratings they are.
        users: Names of the people.
        prompts: Distinct prompts.
        responses: Texts, length n_items.
        prompt: int32 (n_items,), ascending: the prompt that each response answers.
        user: int32 (n,), ascending: who rated.
        item: int32 (n,): which response; ascending for each user, each at most once.
        value: float32 (n,), finite: how good it is, in the units of the source.
        about: What is known of the source, as JSON: `licence`, `citation`, counts of what was left out.
    """

    name: str
    users: tuple[str, ...]
    prompts: tuple[str, ...]
    responses: tuple[str, ...]
    prompt: I32
    user: I32
    item: I32
    value: F32
    about: JSON = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not len(self.user) == len(self.item) == len(self.value) or len(self.prompt) != len(self.responses):
            raise AxisMismatch(
                f"{len(self.user)} users, {len(self.item)} items and {len(self.value)} values; {len(self.prompt)} "
                f"prompts of {len(self.responses)} responses.",
                "Give one user, item and value for each rating, and one prompt for each response.",
            )
        if not np.isfinite(self.value).all():
            raise ParameterError("value", "finite (leave out what is unknown)", float("nan"))
        if np.any(np.diff(self.prompt) < 0):
            raise ParameterError("prompt", "ascending", "an unsorted column")
        if np.any(np.diff(self._cell) <= 0):
            raise ParameterError("user, item", "ascending, each pair once", "an unsorted column or a repeated pair")

    def __repr__(self) -> str:
        return (
            f"Ratings({self.name!r}: {self.n} ratings of {self.n_items} responses to {self.n_prompts} prompts by "
            f"{self.n_users} users, fingerprint {self.fingerprint[:12]})"
        )

    @cached_property
    def _cell(self) -> I64:
        return self.user.astype(np.int64) * max(1, self.n_items) + self.item

    @property
    def n(self) -> int:
        """Number of ratings."""
        return len(self.user)

    @property
    def n_users(self) -> int:
        """Number of people."""
        return len(self.users)

    @property
    def n_items(self) -> int:
        """Number of responses."""
        return len(self.responses)

    @property
    def n_prompts(self) -> int:
        """Number of distinct prompts."""
        return len(self.prompts)

    @cached_property
    def counts(self) -> I64:
        """int64 (n_users,): how many responses each person rated."""
        return np.bincount(self.user, minlength=self.n_users)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of everything but `about`."""
        columns = b"".join(column.tobytes() for column in (self.prompt, self.user, self.item, self.value))
        texts = [self.name, list(self.users), list(self.prompts), list(self.responses)]
        return digest([*texts, hashlib.sha256(columns).hexdigest()])

    def table(self) -> F32:
        """Return float32 (n_users, n_items): a person's utilities, NaN where they are unknown."""
        values = np.full((self.n_users, self.n_items), np.nan, np.float32)
        values[self.user, self.item] = self.value
        return values

    def at(self, users: npt.ArrayLike, items: npt.ArrayLike) -> F32:
        """Return the values at some cells of `table`, float32 of the arguments' common shape; an item of -1 gives NaN.

        Args:
            users: Integers in [0, n_users).
            items: Integers in [-1, n_items).

        >>> Ratings.from_table([[1, float("nan")]], ["a", "b"]).at(0, [[0, 1, -1]]).tolist()
        [[1.0, nan, nan]]
        """
        user, item = np.broadcast_arrays(np.asarray(users, np.int64), np.asarray(items, np.int64))
        cell = user * max(1, self.n_items) + item
        row = np.minimum(np.searchsorted(self._cell, cell), self.n - 1)
        values: F32 = np.where((item >= 0) & (self._cell[row] == cell), self.value[row], np.float32(np.nan))
        return values

    def of_users(self, users: npt.ArrayLike) -> Self:
        """Return the ratings of some people, by a mask or by ascending positions.

        >>> two = Ratings.from_table([[1, 2], [3, float("nan")]], ["a", "b"])
        >>> two.of_users(two.counts == 2).users
        ('user 1',)
        """
        chosen = np.arange(self.n_users)[np.asarray(users)]
        number = np.full(self.n_users, -1, np.int32)
        number[chosen] = np.arange(len(chosen), dtype=np.int32)
        rows = number[self.user] >= 0
        return replace(
            self,
            users=tuple(self.users[index] for index in chosen.tolist()),
            user=number[self.user[rows]],
            item=self.item[rows],
            value=self.value[rows],
        )

    @classmethod
    def from_rows(
        cls,
        rows: Any,
        columns: Mapping[str, str] | None = None,
        *,
        name: str | None = None,
        layout: str | None = None,
        items: str | Path | None = None,
    ) -> Self:
        """Read ratings or rankings in any of the layouts of docs/people.md that has them.

        A prompt with turns before it is one text here.

        Args:
            rows: As for `Preferences.from_rows`.
            columns: What the rows call a column.
            name: Whose ratings they are; by default the name of the file, or "people".
            layout: Name of the layout; None to find it by the columns.
            items: A file with the texts of the items of a table (see `data.people.open_people`).

        Raises:
            DataError: If there is no rating, the layout is unknown, or a value cannot be used; says where.

        >>> Ratings.from_rows([{"user": "ann", "prompt": "Hi", "response": r, "rating": len(r)} for r in ("a", "bb")])
        Ratings('people': 2 ratings of 2 responses to 1 prompts by 1 users, fingerprint ...)
        """
        reading = open_people(rows, columns, layout=layout, name=name, items=items)
        known = (
            (said.user, said.text, response, rating)
            for said in reading.judgements
            if said.ratings
            for response, rating in zip(said.responses, said.ratings, strict=True)
            if not math.isnan(rating)
        )
        ratings = cls.collect(known, name=reading.name)
        return replace(ratings, about=reading.noted())

    @classmethod
    def from_table(
        cls,
        values: npt.ArrayLike,
        responses: Sequence[str],
        prompts: Sequence[str] | str = "",
        *,
        users: Sequence[str] | None = None,
        name: str = "people",
        about: Mapping[str, Any] | None = None,
    ) -> Self:
        """Return the ratings of a table.

        Args:
            values: (n_users, n_items), NaN where unknown.
            responses: Length n_items.
            prompts: The prompt of each response, or one for all.
            users: Names; by default `user 1` and so on.
            name: Whose ratings they are.
            about: What is known of the source.

        Raises:
            AxisMismatch: If the lengths differ.
            DataError: If nothing is known.

        >>> Ratings.from_table([[1, 5, 3], [4, float("nan"), 2]], ["a", "b", "c"], "Tell me a joke.")
        Ratings('people': 5 ratings of 3 responses to 1 prompts by 2 users, fingerprint ...)
        """
        table = np.asarray(values, np.float32)
        of = [prompts] * len(responses) if isinstance(prompts, str) else list(prompts)
        names = [f"user {row}" for row in range(1, len(table) + 1)] if users is None else list(users)
        if table.shape != (len(names), len(responses)) or len(of) != len(responses):
            raise AxisMismatch(
                f"A table of shape {table.shape} for {len(names)} users, {len(responses)} responses and {len(of)} "
                "prompts.",
                "Give (n_users, n_items) values, and a text and a prompt for each item.",
            )
        user, item = np.nonzero(~np.isnan(table))
        rows = zip(user.tolist(), item.tolist(), table[user, item].tolist(), strict=True)
        return cls.collect(((names[u], of[i], responses[i], value) for u, i, value in rows), name=name, about=about)

    @classmethod
    def collect(
        cls,
        rows: Iterable[tuple[str, str, str, float]],
        *,
        name: str = "people",
        about: Mapping[str, Any] | None = None,
    ) -> Self:
        """Return the ratings of rows (user, prompt, response, value); equal texts are one response.

        Who rated a response several times has the mean of these. Users, prompts and responses are in the order in which
        they first appear.

        Raises:
            DataError: If there is none.
        """
        users: dict[str, int] = {}
        prompts: dict[str, int] = {}
        items: dict[tuple[int, str], int] = {}
        columns: list[tuple[int, int, float]] = []
        for user, prompt, response, value in rows:
            key = (prompts.setdefault(prompt, len(prompts)), response)
            columns.append((users.setdefault(user, len(users)), items.setdefault(key, len(items)), value))
        if not columns:
            raise DataError(
                f"{name} holds no rating.",
                "Give a rating of a response by a person; choices without ratings are read by Preferences.",
            )
        owner, first, given = (np.array(column) for column in zip(*columns, strict=True))
        of = np.array([prompt for prompt, _ in items], np.int32)
        order = np.argsort(of, kind="stable")
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        cells, row, times = np.unique(owner * len(items) + place[first], return_inverse=True, return_counts=True)
        texts = [text for _, text in items]
        return cls(
            name=name,
            users=tuple(users),
            prompts=tuple(prompts),
            responses=tuple(texts[index] for index in order.tolist()),
            prompt=of[order],
            user=(cells // len(items)).astype(np.int32),
            item=(cells % len(items)).astype(np.int32),
            value=(np.bincount(row.ravel(), given.astype(np.float64)) / times).astype(np.float32),
            about=dict(about or {}),
        )
