"""Preferences of people: who preferred which of two responses, read from a file.

Three layouts are known by their columns. CSV, JSONL (both also gzipped), Parquet and JSON (a list of objects) are read.

- `user, prompt, chosen, rejected`: one row is one comparison, the texts themselves.
- `user_id, interaction_id, user_prompt, model_response, if_chosen`, the layout of PRISM's utterances: one row is one
  response; the chosen one of an interaction is preferred to each of the others.
- `instruction, input, response1, response2, annotator1, annotator2, ...`, the layout of the PandaLM test set: 0 is a
  tie, 1 or 2 the response preferred.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np

from personalllm.core.errors import DataError, ParameterError
from personalllm.core.seeding import generator
from personalllm.core.storage import digest
from personalllm.core.types import I32, JSON, Corpus, Histories
from personalllm.data.rows import rows_of_file

__all__ = ["PeoplePreferences", "Preference"]

_PLAIN = ("user", "prompt", "chosen", "rejected")
_PRISM = ("user_id", "interaction_id", "user_prompt", "model_response", "if_chosen")
_PANDALM = ("instruction", "response1", "response2")
_ANNOTATOR = re.compile(r"annotator[0-9]+\Z")
_LAYOUTS = (
    f"Columns: {', '.join(_PLAIN)}; or {', '.join(_PRISM)} (PRISM); or {', '.join(_PANDALM)}, annotator1 (PandaLM)."
)


@dataclass(frozen=True, slots=True)
class Preference:
    """One comparison: `user` saw two responses to `prompt` and preferred `chosen`; a tie if the two are equal."""

    user: str
    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True, eq=False)
class PeoplePreferences:
    """Comparisons that people made, as the methods read histories.

    A row of the corpus is a prompt with the two responses that somebody compared; the two stand in a seeded random
    order, so a column says nothing. A prompt to which other pairs were compared has several rows.

    Attributes:
        name: Whose preferences they are.
        users: Names of the people, in the order in which they first appear.
        histories: All comparisons but the ties, those of each user in the order of the file.
        topic: int32 (n_items,): which rows of the corpus have the same prompt, numbered from 0.
        n_ties: Comparisons without a preference; they are left out.
        fingerprint: Digest of everything above.
    """

    name: str
    users: tuple[str, ...]
    histories: Histories
    topic: I32
    n_ties: int
    fingerprint: str = field(default="")

    @property
    def n_users(self) -> int:
        """Number of people with a preference."""
        return len(self.users)

    @property
    def n_topics(self) -> int:
        """Number of distinct prompts."""
        return int(self.topic.max()) + 1

    @classmethod
    def of(cls, preferences: Iterable[Preference], *, name: str = "people", seed: int = 0) -> Self:
        """Collect comparisons.

        Args:
            preferences: In the order in which they were made.
            name: Whose they are.
            seed: Seed of the order of the two responses.

        Raises:
            DataError: If there is no comparison but ties.

        >>> made = [Preference("ann", "Hi", "Hello.", "What?"), Preference("bob", "Hi", "x", "x")]
        >>> people = PeoplePreferences.of(made)
        >>> people.users, len(people.histories), people.n_ties
        (('ann',), 1, 1)
        """
        users: dict[str, int] = {}
        items: dict[tuple[str, str, str], int] = {}
        rows: list[tuple[int, int, bool]] = []
        ties = 0
        for one in preferences:
            if one.chosen == one.rejected:
                ties += 1
                continue
            first, second = sorted((one.chosen, one.rejected))
            item = items.setdefault((one.prompt, first, second), len(items))
            rows.append((users.setdefault(one.user, len(users)), item, one.chosen == first))
        if not rows:
            raise DataError(f"{name} holds no preference.", "Give a comparison whose two responses differ.")
        flipped = generator(seed, "people", "response order").random(len(items)) < 0.5
        owner, pair, first_wins = (np.array(column) for column in zip(*rows, strict=True))
        order = np.argsort(owner, kind="stable")
        pair = pair[order]
        won = ~first_wins[order] ^ flipped[pair]
        topics: dict[str, int] = {}
        corpus = Corpus(
            [prompt for prompt, _, _ in items],
            [(b, a) if flip else (a, b) for (_, a, b), flip in zip(items, flipped.tolist(), strict=True)],
        )
        histories = Histories(corpus, len(users), owner[order], pair, won.astype(np.uint8), (~won).astype(np.uint8))
        topic = np.array([topics.setdefault(prompt, len(topics)) for prompt in corpus.prompts], np.int32)
        content = [list(users), list(corpus.prompts), list(map(list, corpus.responses))]
        columns = [column.tolist() for column in (histories.user, histories.prompt, histories.chosen)]
        return cls(name, tuple(users), histories, topic, ties, digest([name, *content, *columns, ties]))

    @classmethod
    def from_file(
        cls, path: str | Path, *, name: str | None = None, columns: Mapping[str, str] | None = None, seed: int = 0
    ) -> Self:
        """Read a file in one of the three layouts (see the module).

        Args:
            path: The file; a leading `~` stands for the home folder.
            name: Whose preferences they are; the file's name if None.
            columns: What the file calls a column, e.g. `{"user": "annotator"}`.
            seed: Seed of the order of the two responses.

        Raises:
            DataError: If the file is absent, has another layout, or a value cannot be used; says where.
            ParameterError: If `columns` names a column that no layout has.
        """
        path = Path(path).expanduser()
        own = dict(columns or {})
        known = {*_PLAIN, *_PRISM, *_PANDALM, "input"}
        if not own.keys() <= known:
            raise ParameterError("columns", f"of {', '.join(sorted(known))}", sorted(own.keys() - known))
        names = {own.get(column, column) for column in known}

        def wanted(column: str) -> bool:
            return column in names or _ANNOTATOR.match(column) is not None

        rows = ((f"{path.name}, {place}", row) for place, row in rows_of_file(path, "preferences", wanted))
        return cls.of(_preferences(path.name, rows, own), name=name or path.name, seed=seed)


def _preferences(file: str, rows: Iterator[tuple[str, JSON]], own: Mapping[str, str]) -> Iterator[Preference]:
    """Yield the comparisons of a file by the layout of its first row."""
    first = next(rows, None)
    if first is None:
        raise DataError(f"{file} is empty.", _LAYOUTS)
    renamed = {theirs: ours for ours, theirs in own.items()}
    everything = (
        (place, {renamed.get(key, key): value for key, value in row.items()}) for place, row in _chain(first, rows)
    )
    names = {renamed.get(key, key) for key in first[1]}
    if names >= set(_PLAIN):
        for place, row in everything:
            yield Preference(*(_cell(place, row, column, empty=column != "user") for column in _PLAIN))
    elif names >= set(_PRISM):
        yield from _by_interaction(everything)
    elif names >= set(_PANDALM) and any(map(_ANNOTATOR.match, names)):
        for place, row in everything:
            yield from _annotated(place, row)
    else:
        raise DataError(f"{file} has the columns {', '.join(sorted(map(str, first[1])))}.", _LAYOUTS)


def _chain(first: tuple[str, JSON], rest: Iterator[tuple[str, JSON]]) -> Iterator[tuple[str, JSON]]:
    yield first
    yield from rest


def _cell(place: str, row: JSON, column: str, *, empty: bool = True) -> str:
    """Return a cell as text: a number or a truth value as JSON writes it in Python, surrounding space kept."""
    value = row.get(column)
    if value is None or isinstance(value, (dict, list)):
        raise DataError(f"{place}: {column} must be a text, got {value!r:.40}.", "An empty response is an empty text.")
    text = str(value)
    if not empty and not text.strip():
        raise DataError(f"{place}: {column} is empty.", "Name who made the comparison.")
    return text


def _annotated(place: str, row: JSON) -> Iterator[Preference]:
    """Yield each annotator's comparison of an item of PandaLM."""
    parts = (_cell(place, row, "instruction"), _cell(place, {"input": "", **row}, "input"))
    prompt = "\n\n".join(part for part in parts if part.strip())
    responses = (_cell(place, row, "response1"), _cell(place, row, "response2"))
    for name in sorted(filter(_ANNOTATOR.match, row)):
        said = row[name]
        if isinstance(said, bool) or said not in (0, 1, 2):
            raise DataError(f"{place}: {name} must be 0 (a tie), 1 or 2, got {said!r:.40}.")
        chosen = responses[max(said, 1) - 1]
        yield Preference(name, prompt, chosen, responses[2 - said] if said else chosen)


def _by_interaction(rows: Iterable[tuple[str, JSON]]) -> Iterator[Preference]:
    """Yield, for each interaction of PRISM's utterances, its chosen response against each other one."""
    found: dict[str, tuple[str, str, list[str], list[str]]] = {}
    for place, row in rows:
        user, key, prompt = (_cell(place, row, column, empty=False) for column in _PRISM[:3])
        owner, asked, chosen, rejected = found.setdefault(key, (user, prompt, [], []))
        if (owner, asked) != (user, prompt):
            raise DataError(f"{place}: the interaction {key!r:.40} has another user or prompt before.")
        side = chosen if _truth(place, row.get("if_chosen")) else rejected
        side.append(_cell(place, row, "model_response"))
    for user, prompt, chosen, rejected in found.values():
        for winner in chosen[:1]:
            yield from (Preference(user, prompt, winner, loser) for loser in rejected)


def _truth(place: str, value: object) -> bool:
    known = {"true": True, "1": True, "false": False, "0": False}
    text = str(value).strip().lower()
    if text not in known:
        raise DataError(f"{place}: if_chosen must be true or false, got {value!r:.40}.")
    return known[text]
