"""Hold what people preferred: who preferred which of two responses, read from any layout of `data.layouts`.

A prompt or response may be a list of chat messages (`role`, `content`). It may be the empty text, but not be missing
(null, NaN); an empty cell of a CSV file is missing, so write empty texts as JSON or Parquet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from personalllm.core.errors import DataError, ParameterError, UserError
from personalllm.core.seeding import generator
from personalllm.core.storage import digest
from personalllm.core.types import I32, JSON, Corpus, Histories, Message
from personalllm.data.cells import conversation
from personalllm.data.hub import parse_hub_source
from personalllm.data.judgements import Judgement
from personalllm.data.layout_readers import is_annotator, prompt_of
from personalllm.data.layouts import COLUMNS, LAYOUTS, layout_of
from personalllm.data.people import MOST_RATED, known_repository, open_people
from personalllm.data.rows import parts_of, read_names, read_rows

_FEW = 3

__all__ = ["Preferences", "holds_preferences", "read_pairs", "resembles_preferences"]


@dataclass(frozen=True, eq=False)
class Preferences:
    """Comparisons that people made, as methods learn from them.

    A row of the corpus is a prompt with the two responses that somebody compared, in a seeded random order, so that a
    column says nothing about the outcome; other responses that were shown follow. A prompt to which other pairs were
    compared has several rows, so users need not have seen equal numbers of responses.

    Attributes:
        name: Whose preferences they are.
        users: Names of the people, in the order in which they first appear.
        histories: All comparisons but the ties, those of each user in the order of the rows.
        topic: int32 (n_items,): which rows of the corpus have the same prompt, numbered from 0.
        n_ties: Number of comparisons without a preference; they are left out.
        fingerprint: Digest of everything above, and of `splits`.
        splits: For each comparison `pool`, `history` or `test`; empty where the data have no splits of their own.
        about: What is known of the data, as JSON: `layout`, `licence`, `citation`, and under `odd` counts of what was
            left out.
    """

    name: str
    users: tuple[str, ...]
    histories: Histories
    topic: I32
    n_ties: int
    fingerprint: str
    splits: tuple[str, ...] = ()
    about: JSON = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        return (
            f"Preferences({self.name!r}: {self.n} of {self.n_users} users, {self.n_topics} prompts, "
            f"fingerprint {self.fingerprint[:12]})"
        )

    @property
    def n(self) -> int:
        """Number of comparisons, ties left out."""
        return len(self.histories)

    @property
    def n_users(self) -> int:
        """Number of people with a preference."""
        return len(self.users)

    @property
    def n_topics(self) -> int:
        """Number of distinct prompts."""
        return int(self.topic.max()) + 1

    def part(self, *splits: str) -> Histories:
        """Return the comparisons of some parts of data with splits of their own, of the same users.

        A method is fitted on the part `pool` (all but `test` where there is none), adapted to `history`, and predicts
        `test`.

        Raises:
            ParameterError: If the data have no such part.

        >>> row = {"user": "ann", "prompt": "Hi", "chosen": "a", "rejected": "b"}
        >>> people = Preferences.from_rows([row | {"split": "history"}, row | {"split": "test", "prompt": "Bye"}])
        >>> len(people.part("test")), len(people.part("history", "test"))
        (1, 2)
        """
        held = sorted({*self.splits} - {""})
        if not {*splits} <= {*held}:
            raise ParameterError("splits", f"of {', '.join(held)}" if held else "none, the data have none", splits)
        return self.histories.rows(np.isin(self.splits, splits))

    @classmethod
    def from_rows(
        cls,
        rows: Any,
        columns: Mapping[str, str] | None = None,
        *,
        name: str | None = None,
        seed: int = 0,
        layout: str | None = None,
    ) -> Self:
        """Read comparisons in any of the layouts of docs/people.md.

        Args:
            rows: A list of dicts, a pandas or polars DataFrame, a pyarrow table, a `datasets.Dataset`, a dict of
                columns of equal length, the path of a file or folder (JSONL, JSON, CSV, TSV, Parquet, Arrow; texts
                also gzipped), or `hf://datasets/OWNER/NAME@REVISION`, which is then fetched.
            columns: What the rows call a column, e.g. `{"user": "annotator"}`.
            name: Whose preferences they are; by default the name of the file, or "people".
            seed: Seed of the order of the two responses.
            layout: Name of the layout; None to find it by the columns.

        Raises:
            DataError: If there is no comparison but ties, the layout is unknown, or a value cannot be used; says where.
            ParameterError: If `columns` names a column that no layout has, or `rows` is of another kind.
            UserError: If a source on the hub names no revision, or cannot be had.

        >>> rows = [{"user": "ann", "prompt": "Hi", "chosen": "Hello.", "rejected": "What?"},
        ...         {"user": "bob", "prompt": "Hi", "chosen": "a", "shown": ["a", "b", "c"]}]
        >>> Preferences.from_rows(rows)
        Preferences('people': 3 of 2 users, 1 prompts, fingerprint ...)
        """
        reading = open_people(rows, columns, layout=layout, name=name)
        preferences = cls._collected(reading.judgements, reading.name, seed)
        return replace(preferences, about=reading.noted())

    @classmethod
    def _collected(cls, judgements: Iterable[Judgement], name: str, seed: int) -> Self:
        found = _Found()
        for said in judgements:
            found.add(said, name)
        if not found.rows:
            raise DataError(f"{name} holds no preference.", "Give a comparison whose two responses differ.")
        swapped = generator(seed, "people", "response order").random(len(found.items)) < 0.5
        owner, pair, first_wins = (np.array(column) for column in zip(*found.rows, strict=True))
        order = np.argsort(owner, kind="stable")
        pair = pair[order]
        won = ~first_wins[order] ^ swapped[pair]
        topics: dict[str, int] = {}
        prompts = [prompt for prompt, *_ in found.items]
        corpus = Corpus(
            prompts,
            [
                ((b, a) if swap else (a, b)) + others
                for (_, a, b, others), swap in zip(found.items, swapped.tolist(), strict=True)
            ],
            {row: found.turns[prompt] for row, prompt in enumerate(prompts) if prompt in found.turns},
        )
        users = tuple(found.users)
        histories = Histories(corpus, len(users), owner[order], pair, won.astype(np.uint8), (~won).astype(np.uint8))
        topic = np.array([topics.setdefault(prompt, len(topics)) for prompt in corpus.prompts], np.int32)
        content = [list(users), prompts, list(map(list, corpus.responses))]
        indexes = [column.tolist() for column in (histories.user, histories.prompt, histories.chosen)]
        splits = tuple(found.splits[row] for row in order.tolist()) if any(found.splits) else ()
        fingerprint = digest([name, *content, *indexes, found.ties, *([list(splits)] if splits else [])])
        return cls(name, users, histories, topic, found.ties, fingerprint, splits)


@dataclass(eq=False)
class _Found:
    """Comparisons as they are collected: users and items in the order in which they first appear."""

    users: dict[str, int] = field(default_factory=dict)
    items: dict[tuple[str, str, str, tuple[str, ...]], int] = field(default_factory=dict)
    turns: dict[str, tuple[Message, ...]] = field(default_factory=dict)
    rows: list[tuple[int, int, bool]] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    ties: int = 0

    def add(self, said: Judgement, name: str) -> None:
        if said.chosen is None and len(said.responses) > MOST_RATED:
            raise DataError(
                f"{name} has {len(said.responses)} ratings by {said.user!r:.40} of responses to one prompt.",
                "Read them as ratings (personalllm.Ratings); taken apart they are too many comparisons.",
            )
        prompt = said.text
        if len(said.prompt) > 1:
            self.turns[prompt] = said.prompt
        for chosen, rejected, others in said.comparisons():
            if chosen == rejected:
                self.ties += 1
                continue
            first, second = sorted((chosen, rejected))
            item = self.items.setdefault((prompt, first, second, others), len(self.items))
            self.rows.append((self.users.setdefault(said.user, len(self.users)), item, chosen == first))
            self.splits.append(said.split)


def read_pairs(source: Any, columns: Mapping[str, str] | None = None) -> list[tuple[str, str, str, str]]:
    """Read pairs of responses of which one is preferred, for the training of a reward model.

    Args:
        source: As for `Preferences.from_rows`, with the columns `prompt`, `chosen` and `rejected`; the optional column
            `group` names what must stay on one side of a split, the prompt if absent.
        columns: What the source calls a column.

    Returns:
        (prompt, chosen, rejected, group) of each pair, in the order of the rows.

    Raises:
        DataError: If a row cannot be used, its two responses are equal, or there is none; says where.

    >>> read_pairs([{"prompt": "Hello?", "chosen": "Hello!", "rejected": "What?"}])
    [('Hello?', 'Hello!', 'What?', 'Hello?')]
    """
    pairs = []
    for row in read_rows(source, ("prompt", "chosen", "rejected", "group"), columns=columns):
        turns = prompt_of(row)
        prompt = conversation([{"role": turn.role, "content": turn.content} for turn in turns])
        chosen, rejected = row.response("chosen"), row.response("rejected")
        if not prompt.strip():
            raise row.bad("'prompt' is empty", "Leave such pairs out.")
        if chosen == rejected:
            raise row.bad("chosen and rejected are the same text", "Leave such pairs out.")
        pairs.append((prompt, chosen, rejected, row.optional("group") or prompt))
    if not pairs:
        raise DataError(f"{source} has no preference pair.", "Give rows with prompt, chosen and rejected.")
    return pairs


def holds_preferences(source: Any, columns: Mapping[str, str] | None = None) -> bool:
    """Return whether a source holds people's preferences, by its columns.

    It does if its first row has those of a layout. It also does if one column is missing or misnamed: an error of
    `Preferences.from_rows` then says more than that of whatever else would read it.

    Args:
        source: As for `Preferences.from_rows`, or what `load` takes besides.
        columns: As for `Preferences.from_rows`.

    Raises:
        UserError: If the columns are those of preferences and the first row cannot be read.
    """
    if isinstance(source, str) and (dataset := parse_hub_source(source)) is not None:
        return known_repository(dataset.repository) is not None
    try:
        first = next(read_rows(source, COLUMNS, columns=columns, extra=is_annotator), None)
    except UserError:
        if resembles_preferences(_headings(source), columns):
            raise
        return False  # what reads it as something else reports what is wrong
    return first is not None and (layout_of(first.values) is not None or resembles_preferences(first.present, columns))


def _headings(source: Any) -> list[str]:
    """Return the names of the columns of a source; none if they cannot be read."""
    try:
        return [heading for part in parts_of(source) for heading in read_names(part)]
    except UserError:
        return []


def resembles_preferences(headings: Iterable[str], columns: Mapping[str, str] | None) -> bool:
    """Return whether at most one column of a layout is missing; one that `columns` maps, even wrongly, is not.

    A layout with few columns must have them all, or everything would look like it.
    """
    names = {"_".join(heading.casefold().split()) for heading in headings} | {*(columns or ())}
    return any(len({*layout.telling} - names) <= (len(layout.telling) > _FEW) for layout in LAYOUTS.values())
