"""Read the votes of people from files.

One row is one vote (columns `prompt`, `option`, `voter`) or the total of one option of one prompt (columns `prompt`,
`option`, `count`). `prompt` is an id or the text itself; a column `text` may give the text beside an id. `option` names
the option, by position or by who wrote it, and is empty for a tie between the options of the prompt. A row without a
voter, or with a count of 0, says that an option was shown and got no vote.

Rows with `annotator1`, `annotator2`, ... have the layout of the PandaLM test set: `instruction`, `input`, and for each
annotator 0 for a tie, 1 or 2. Rows with `item_id`, `rater_id`, `context`, `response` and `Q_overall` have that of
DICES: one rater's answer whether a conversation is unsafe.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from personalllm.core.errors import DataError, ParameterError
from personalllm.core.storage import atomic_path
from personalllm.core.types import F64
from personalllm.data.cells import Row
from personalllm.data.layout_readers import is_annotator, verdicts_of
from personalllm.data.rows import read_rows

__all__ = ["TIE", "VOTE_COLUMNS", "Columns", "Ties", "VoteCounts", "convert_votes", "read_votes"]

Ties: TypeAlias = Literal["split", "option", "drop"]
"""What a tie is: a vote shared among the options of the prompt, an option of its own, or left out."""

Columns: TypeAlias = Mapping[str, str] | None
"""What a file calls a column, e.g. `{"voter": "annotator"}`."""

TIE = "tie"
"""Name of the option that ties become with `ties="option"`."""

_MAX_OPTIONS = 255  # options are indexed by uint8
_DICES = ("item_id", "rater_id", "context", "response", "Q_overall")
VOTE_COLUMNS = ("prompt", "option", "voter", "count", "text", "instruction", "input", *_DICES)
_PANDALM_OPTIONS = ("response 1", "response 2")


class VoteCounts(NamedTuple):
    """The counted votes of a file; `analysis.votes.Votes` has the meaning of each field."""

    counts: F64
    n_voters: F64
    options: tuple[str, ...]
    prompts: tuple[str, ...]
    prompt_ids: tuple[str, ...]
    squares: F64 | None


class _Ballot:
    """Collects the votes of a file: prompts and options in the order of their first appearance."""

    def __init__(self) -> None:
        self.prompts: dict[str, int] = {}
        self.options: dict[str, int] = {}
        self.texts: dict[int, str] = {}
        self.offered: set[tuple[int, int]] = set()
        self.votes: list[tuple[int, int, float]] = []
        self.voters: dict[tuple[int, str], str] = {}

    def add(self, prompt: str, option: str, weight: float, text: str | None = None) -> None:
        """Add `weight` votes for an option, or for a tie if the option is empty."""
        row = self.prompts.setdefault(prompt, len(self.prompts))
        if text:
            self.texts.setdefault(row, text)
        column = -1
        if option:
            column = self.options.setdefault(option, len(self.options))
            self.offered.add((row, column))
        if weight:
            self.votes.append((row, column, weight))


def read_votes(path: Path, ties: Ties = "split", columns: Columns = None) -> VoteCounts:
    """Count the votes of a file; `Votes.from_file` describes the arguments.

    Raises:
        DataError: If the file is absent or breaks the format; says where and how to fix it.
        ParameterError: If `ties` is not one of the three rules.
    """
    if ties not in ("split", "option", "drop"):
        raise ParameterError("ties", "'split', 'option' or 'drop'", ties)
    path = path.expanduser()
    rows = _rows(path, columns)
    ballot = _Ballot()
    first = next(rows, None)
    add = _add_pandalm if first is not None and any(map(is_annotator, first.values)) else _add_row
    for row in chain([] if first is None else [first], rows):
        add(ballot, row)
    if not ballot.votes:
        raise DataError(f"{path.name} holds no votes.", "Give at least one row with an option and a voter or a count.")
    if len(ballot.options) > _MAX_OPTIONS:
        raise DataError(
            f"{path.name} names {len(ballot.options)} distinct options, more than {_MAX_OPTIONS}.",
            "Name options by position or by who wrote them, not by their texts.",
        )
    return _counted(ballot, path.name, ties)


def convert_votes(path: Path, out: Path, columns: Columns = None) -> None:
    """Write the votes of a file of single votes as Parquet, with the columns `prompt`, `option`, `voter` and `text`.

    Raises:
        DataError: If the file holds none, or counts instead of votes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = ("prompt", "option", "voter", "text")
    table: dict[str, list[str]] = {name: [] for name in names}
    for row in _rows(path, columns):
        row.cell("voter")
        for name in names:
            table[name].append(row.optional(name))
    with atomic_path(out) as temporary:
        pq.write_table(pa.table(table, pa.schema([(name, pa.string()) for name in names])), temporary)


def _rows(path: Path, columns: Columns) -> Iterator[Row]:
    """Yield the rows of a file, those of DICES as single votes."""
    for row in read_rows(path, VOTE_COLUMNS, columns=columns, extra=is_annotator):
        if not row.values.keys() >= {*_DICES}:
            yield row
            continue
        text = "\n\n".join(row.text(name, numbers=True, missing="") for name in ("context", "response"))
        vote = {"prompt": row.name("item_id"), "option": row.name("Q_overall"), "voter": row.name("rater_id")}
        yield Row(row.source, row.location, {**vote, "text": text}, row.present)


def _add_row(ballot: _Ballot, row: Row) -> None:
    """Check a row and add its votes."""
    row.cell("prompt"), row.cell("option")
    if ("voter" in row) == ("count" in row):
        raise row.bad("there must be a column 'voter' or a column 'count', and not both")
    prompt, option = row.optional("prompt"), row.optional("option")
    if not prompt:
        raise row.bad("the prompt is empty", "Give its id or its text.")
    if "count" in row:
        weight = row.number("count", "an integer >= 0")
        if weight is None or weight < 0 or not weight.is_integer():
            raise row.bad(
                f"count must be an integer >= 0, got {row.cell('count')!r}", "Write 0 for an option without votes."
            )
    else:
        voter = row.optional("voter")
        weight = 1.0 if voter else 0.0
        key = (ballot.prompts.get(prompt, len(ballot.prompts)), voter)
        if voter and key in ballot.voters:
            raise row.bad(
                f"voter {voter!r} votes twice on the prompt {prompt[:40]!r} (first: {ballot.voters[key]})",
                "Keep one vote of each voter for each prompt.",
            )
        if voter:
            ballot.voters[key] = row.location
    if not option and not weight:
        raise row.bad("neither an option nor a vote", "Remove the row.")
    ballot.add(prompt, option, weight, row.optional("text"))


def _add_pandalm(ballot: _Ballot, row: Row) -> None:
    """Add the votes of a row in the layout of the PandaLM test set."""
    prompt = str(len(ballot.prompts))
    parts = (row.optional("instruction"), row.optional("input"))
    for option in _PANDALM_OPTIONS:
        ballot.add(prompt, option, 0.0, "\n".join(part for part in parts if part))
    for _, verdict in verdicts_of(row):
        ballot.add(prompt, _PANDALM_OPTIONS[verdict - 1] if verdict else "", 1.0)


def _counted(ballot: _Ballot, file: str, ties: Ties) -> VoteCounts:
    """Count the votes of a ballot by a rule for ties."""
    n_prompts, n_options = len(ballot.prompts), len(ballot.options)
    rows, columns, weights = (np.array(part) for part in zip(*ballot.votes, strict=True))
    tied = columns < 0
    counts = np.zeros((n_prompts, n_options))
    np.add.at(counts, (rows[~tied], columns[~tied]), weights[~tied])
    tie = np.bincount(rows[tied], weights[tied], n_prompts)
    # A whole vote has the square 1; a vote shared by n options has n (1/n)^2 = 1/n.
    squares = n_voters = counts.sum(1)
    if ties != "drop":
        n_voters = n_voters + tie
    ids, options = list(ballot.prompts), list(ballot.options)
    if ties == "option" and tie.any():
        counts = np.column_stack([counts, tie])
        options.append(_free_name(options))
    elif ties == "split" and tie.any():
        offered = np.zeros((n_prompts, n_options), bool)
        for row, column in ballot.offered:
            offered[row, column] = True
        n_offered = offered.sum(1)
        alone = np.flatnonzero((tie > 0) & (n_offered < 2))
        if alone.size:
            raise DataError(
                f"{file}: the prompt {ids[int(alone[0])][:40]!r} has a tie but fewer than two named options.",
                "Add a row without a voter (or with a count of 0) for every option that was shown.",
            )
        part = tie / np.maximum(n_offered, 1)
        counts = counts + offered * part[:, None]
        squares = squares + part
    used = np.flatnonzero(n_voters > 0)
    if not used.size:
        raise DataError(f"{file} holds nothing but ties.", 'Read it with ties="split" or ties="option".')
    return VoteCounts(
        counts=counts[used],
        n_voters=n_voters[used],
        options=tuple(options),
        prompts=tuple(ballot.texts.get(row, ids[row]) for row in used.tolist()),
        prompt_ids=tuple(ids[row] for row in used.tolist()),
        squares=squares[used] if ties == "split" and tie.any() else None,
    )


def _free_name(options: Iterable[str]) -> str:
    name = TIE
    while name in options:
        name += "'"
    return name
