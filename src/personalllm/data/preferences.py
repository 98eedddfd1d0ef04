"""Read preferences of people: who preferred which of two responses.

Rows come from files or tables in memory, in one of three layouts that are recognised by their columns:

- `user, prompt, chosen, rejected`: a row is one comparison. `rejected` may be a list, or be absent where `shown` lists
  the candidates; then `chosen` is preferred to each of the others.
- `user_id, interaction_id, user_prompt, model_response, if_chosen`, the layout of PRISM's utterances: a row is one
  response; the chosen one of an interaction is preferred to each of the others.
- `instruction, input, response1, response2, annotator1, annotator2, ...`, the layout of the PandaLM test set: 0 is a
  tie, 1 or 2 the response preferred, nothing that the annotator did not judge the item.

A prompt or response may be a list of chat messages (`role`, `content`). It may be the empty text, but not be missing
(null, NaN); an empty cell of a CSV file is missing, so write empty texts as JSON or Parquet.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np

from personalllm.core.errors import DataError, UserError
from personalllm.core.seeding import generator
from personalllm.core.storage import digest
from personalllm.core.types import I32, Corpus, Histories
from personalllm.data.cells import Row, conversation, is_messages
from personalllm.data.rows import parts_of, read_names, read_rows

__all__ = ["Preferences", "holds_preferences", "is_annotator", "judgements", "read_pairs", "resembles_preferences"]

_PLAIN = ("user", "prompt", "chosen", "rejected")
_PRISM = ("user_id", "interaction_id", "user_prompt", "model_response", "if_chosen")
_PANDALM = ("instruction", "response1", "response2")
_NAMES = (*_PLAIN, "shown", *_PRISM, *_PANDALM, "input")
_LAYOUTS = (
    f"Columns: {', '.join(_PLAIN)} (or shown); or {', '.join(_PRISM)} (PRISM); or {', '.join(_PANDALM)}, annotator1 "
    "(PandaLM). Map other names: --column user=NAME, or columns={'user': NAME}."
)
_TRUTH = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
_Comparison: TypeAlias = tuple[str, str, str, str, tuple[str, ...]]
"""User, prompt, chosen, rejected (equal to chosen for a tie), and other responses that were shown."""

is_annotator = re.compile(r"annotator[0-9]+").fullmatch


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
        fingerprint: Digest of everything above.
    """

    name: str
    users: tuple[str, ...]
    histories: Histories
    topic: I32
    n_ties: int
    fingerprint: str

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

    @classmethod
    def from_rows(
        cls, rows: Any, columns: Mapping[str, str] | None = None, *, name: str | None = None, seed: int = 0
    ) -> Self:
        """Read comparisons in one of three layouts (see the module).

        Args:
            rows: A list of dicts, a pandas or polars DataFrame, a pyarrow table, a `datasets.Dataset`, a dict of
                columns of equal length, or the path of a file or folder (JSONL, JSON, CSV, TSV, Parquet, Arrow; texts
                also gzipped).
            columns: What the rows call a column, e.g. `{"user": "annotator"}`.
            name: Whose preferences they are; by default the name of the file, or "people".
            seed: Seed of the order of the two responses.

        Raises:
            DataError: If there is no comparison but ties, the layout is unknown, or a value cannot be used; says where.
            ParameterError: If `columns` names a column that no layout has, or `rows` is of another kind.

        >>> rows = [{"user": "ann", "prompt": "Hi", "chosen": "Hello.", "rejected": "What?"},
        ...         {"user": "bob", "prompt": "Hi", "chosen": "a", "shown": ["a", "b", "c"]}]
        >>> Preferences.from_rows(rows)
        Preferences('people': 3 of 2 users, 1 prompts, fingerprint ...)
        """
        name = name or (Path(rows).name if isinstance(rows, str | Path) else "people")
        return cls._collected(_comparisons(name, _read(rows, columns)), name, seed)

    @classmethod
    def _collected(cls, comparisons: Iterable[_Comparison], name: str, seed: int) -> Self:
        users: dict[str, int] = {}
        items: dict[tuple[str, str, str, tuple[str, ...]], int] = {}
        rows: list[tuple[int, int, bool]] = []
        ties = 0
        for user, prompt, chosen, rejected, others in comparisons:
            if chosen == rejected:
                ties += 1
                continue
            first, second = sorted((chosen, rejected))
            item = items.setdefault((prompt, first, second, others), len(items))
            rows.append((users.setdefault(user, len(users)), item, chosen == first))
        if not rows:
            raise DataError(f"{name} holds no preference.", "Give a comparison whose two responses differ.")
        swapped = generator(seed, "people", "response order").random(len(items)) < 0.5
        owner, pair, first_wins = (np.array(column) for column in zip(*rows, strict=True))
        order = np.argsort(owner, kind="stable")
        pair = pair[order]
        won = ~first_wins[order] ^ swapped[pair]
        topics: dict[str, int] = {}
        corpus = Corpus(
            [prompt for prompt, *_ in items],
            [
                ((b, a) if swap else (a, b)) + others
                for (_, a, b, others), swap in zip(items, swapped.tolist(), strict=True)
            ],
        )
        histories = Histories(corpus, len(users), owner[order], pair, won.astype(np.uint8), (~won).astype(np.uint8))
        topic = np.array([topics.setdefault(prompt, len(topics)) for prompt in corpus.prompts], np.int32)
        content = [list(users), list(corpus.prompts), list(map(list, corpus.responses))]
        indexes = [column.tolist() for column in (histories.user, histories.prompt, histories.chosen)]
        return cls(name, tuple(users), histories, topic, ties, digest([name, *content, *indexes, ties]))


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
        prompt, chosen, rejected = _prompt(row), row.response("chosen"), row.response("rejected")
        if not prompt.strip():
            raise row.bad("'prompt' is empty", "Leave such pairs out.")
        if chosen == rejected:
            raise row.bad("chosen and rejected are the same text", "Leave such pairs out.")
        pairs.append((prompt, chosen, rejected, row.optional("group") or prompt))
    if not pairs:
        raise DataError(f"{source} has no preference pair.", "Give rows with prompt, chosen and rejected.")
    return pairs


def judgements(row: Row) -> Iterator[tuple[str, int]]:
    """Yield (annotator, 0, 1 or 2) of a row in the layout of PandaLM, for those who judged it."""
    for column in sorted(filter(is_annotator, row.values)):
        value = row.number(column, "0 (a tie), 1 or 2")
        if value not in (None, 0, 1, 2):
            raise row.bad(f"{column} must be 0 (a tie), 1 or 2, got {row.cell(column)!r:.40}")
        if value is not None:
            yield column, int(value)


def _comparisons(name: str, rows: Iterator[Row]) -> Iterator[_Comparison]:
    """Yield the comparisons of a source by the layout of its first row."""
    first = next(rows, None)
    if first is None:
        raise DataError(f"{name} is empty.", _LAYOUTS)
    if (layout := _layout(first)) is None:
        benchmark = "response_1" in first.present
        raise DataError(
            f"{first.source} has the columns {', '.join(sorted(map(str, first.present)))}.",
            "It looks like a benchmark, which personalllm.load reads." if benchmark else _LAYOUTS,
        )
    yield from layout(chain([first], rows))


def _layout(row: Row) -> Callable[[Iterable[Row]], Iterator[_Comparison]] | None:
    """Return what reads rows with the columns of this one; None if no layout has them."""
    columns = row.values.keys()
    if columns >= {"user", "chosen"} and not columns.isdisjoint(("rejected", "shown")):
        return _by_row(_plain)
    if columns >= set(_PRISM):
        return _by_interaction
    if columns >= set(_PANDALM) and any(map(is_annotator, columns)):
        return _by_row(_annotated)
    return None


def _by_row(read: Callable[[Row], Iterator[_Comparison]]) -> Callable[[Iterable[Row]], Iterator[_Comparison]]:
    return lambda rows: chain.from_iterable(map(read, rows))


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
    try:
        first = next(_read(source, columns), None)
    except UserError:
        if resembles_preferences(_headings(source), columns):
            raise
        return False  # what reads it as something else reports what is wrong
    return first is not None and (_layout(first) is not None or resembles_preferences(first.present, columns))


def _headings(source: Any) -> list[str]:
    """Return the names of the columns of a source; none if they cannot be read."""
    try:
        return [heading for part in parts_of(source) for heading in read_names(part)]
    except UserError:
        return []


def resembles_preferences(headings: Iterable[str], columns: Mapping[str, str] | None) -> bool:
    """Return whether at most one column of a layout is missing; one that `columns` maps, even wrongly, is not."""
    names = {"_".join(heading.casefold().split()) for heading in headings} | {*(columns or ())}
    return any(len({*layout} - names) <= 1 for layout in (_PLAIN, _PRISM, _PANDALM))


def _read(source: Any, columns: Mapping[str, str] | None) -> Iterator[Row]:
    return read_rows(source, _NAMES, columns=columns, extra=lambda column: is_annotator(column) is not None)


def _prompt(row: Row) -> str:
    """Return the prompt; without one, what precedes the last message of `chosen`."""
    if "prompt" not in row and is_messages(messages := row.values.get("chosen")) and len(messages) > 1:
        return conversation(messages[:-1])
    return row.text("prompt", numbers=True)


def _texts(row: Row, column: str) -> list[str]:
    """Return a cell that holds one response or a list of them; none if it is missing."""
    value = row.cell(column) if column in row else None
    if not isinstance(value, list) or is_messages(value):
        return [] if value is None else [row.response(column)]
    return [Row(row.source, row.location, {column: text}).response(column) for text in value]


def _plain(row: Row) -> Iterator[_Comparison]:
    user, prompt, chosen = row.name("user"), _prompt(row), row.response("chosen")
    shown, rejected = _texts(row, "shown"), _texts(row, "rejected")
    if not rejected and not shown:
        row.response("rejected")  # raises the error that names what is missing
    rejected = rejected or [text for text in dict.fromkeys(shown) if text != chosen]
    candidates = sorted({*shown, *rejected}) if shown or len(rejected) > 1 else []
    for text in rejected:
        yield user, prompt, chosen, text, tuple(other for other in candidates if other not in (chosen, text))


def _annotated(row: Row) -> Iterator[_Comparison]:
    """Yield each annotator's comparison of an item of PandaLM."""
    instruction = row.text("instruction", numbers=True)
    context = row.text("input", numbers=True, missing="") if "input" in row else ""
    prompt = "\n\n".join(part for part in (instruction, context) if part.strip())
    responses = (row.response("response1"), row.response("response2"))
    for annotator, verdict in judgements(row):
        chosen = responses[max(verdict, 1) - 1]
        yield annotator, prompt, chosen, responses[2 - verdict] if verdict else chosen, ()


def _by_interaction(rows: Iterable[Row]) -> Iterator[_Comparison]:
    """Yield, for each interaction of PRISM's utterances, its chosen response against each other one."""
    interactions: dict[str, tuple[str, str, list[str], list[str]]] = {}
    for row in rows:
        user, key, prompt = row.name("user_id"), row.name("interaction_id"), row.name("user_prompt")
        owner, text, chosen, rejected = interactions.setdefault(key, (user, prompt, [], []))
        if (owner, text) != (user, prompt):
            raise row.bad(f"the interaction {key!r:.40} has another user or prompt before")
        value = str(row.cell("if_chosen")).strip().lower()
        if value not in _TRUTH:
            raise row.bad(f"if_chosen must be true or false, got {row.cell('if_chosen')!r:.40}")
        (chosen if _TRUTH[value] else rejected).append(row.response("model_response"))
    for user, prompt, chosen, rejected in interactions.values():
        for winner in chosen[:1]:
            yield from ((user, prompt, winner, loser, ()) for loser in rejected)
