"""Pairs of responses of which one is preferred, and their split by prompt."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from personalllm.core.errors import AxisMismatch
from personalllm.core.types import I32

__all__ = ["Pairs"]


@dataclass(frozen=True, eq=False, slots=True)
class Pairs:
    """Pairs of responses of which somebody preferred one.

    Attributes:
        prompts: Prompt of each pair, length n.
        chosen: The preferred response of each pair.
        rejected: The other one.
        groups: What must not stand on both sides of a split, one a pair: the prompt unless the file says otherwise.
    """

    prompts: tuple[str, ...]
    chosen: tuple[str, ...]
    rejected: tuple[str, ...]
    groups: tuple[str, ...]

    def __post_init__(self) -> None:
        if not len(self.prompts) == len(self.chosen) == len(self.rejected) == len(self.groups):
            raise AxisMismatch("The columns of the pairs differ in length.")

    @classmethod
    def of(cls, rows: Iterable[tuple[str, str, str, str]]) -> Pairs:
        """Return the pairs of rows (prompt, chosen, rejected, group).

        >>> Pairs.of([("Hello?", "Hello!", "What?", "Hello?")]).chosen
        ('Hello!',)
        """
        table = list(rows)
        return cls(*(tuple(row[column] for row in table) for column in range(4)))

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, rows: Sequence[int] | npt.NDArray[Any]) -> Pairs:
        """Return the pairs at some rows, in that order."""
        columns = (self.prompts, self.chosen, self.rejected, self.groups)
        return Pairs(*(tuple(column[int(i)] for i in rows) for column in columns))

    def flipped(self) -> Pairs:
        """Return the same pairs with chosen and rejected swapped, for somebody who wants the opposite."""
        return Pairs(self.prompts, self.rejected, self.chosen, self.groups)

    def group_index(self) -> I32:
        """Return int32 (n,): pairs of one group share a number, counted from 0 in order of appearance."""
        numbers: dict[str, int] = {}
        return np.array([numbers.setdefault(group, len(numbers)) for group in self.groups], np.int32)

    def split(self, held_out: float) -> tuple[Pairs, Pairs]:
        """Split into pairs to fit on and pairs held out, by group.

        A group's side follows from the SHA-256 of its text, so it is the same in every file: models fitted on
        different files, or on mixtures of files, never see each other's held-out groups.

        Where groups are wider than prompts (dialogues that end in the same "Yes, please."), a prompt can be in groups
        of both sides; such pairs are left out of the held-out ones, so that no prompt is on both sides.

        Args:
            held_out: Expected share of groups held out, in (0, 1).

        Returns:
            (to fit on, held out).
        """
        side = {group: _unit(group) < held_out for group in dict.fromkeys(self.groups)}
        out = np.array([side[group] for group in self.groups], bool)
        fitted = self.take(np.flatnonzero(~out))
        seen = frozenset(fitted.prompts)
        return fitted, self.take([i for i, held in enumerate(out) if held and self.prompts[i] not in seen])

    @classmethod
    def concatenate(cls, parts: Sequence[Pairs]) -> Pairs:
        """Return the pairs of several collections, one after the other."""
        return cls(
            tuple(text for part in parts for text in part.prompts),
            tuple(text for part in parts for text in part.chosen),
            tuple(text for part in parts for text in part.rejected),
            tuple(text for part in parts for text in part.groups),
        )


def _unit(text: str) -> float:
    """Map a text to a number in [0, 1) that looks random and is the same everywhere."""
    digest = hashlib.sha256(b"personalllm preference split\x00" + text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2.0**64
