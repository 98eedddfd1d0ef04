"""Open a source of people's judgements: find its layout, say whose data it is, count what is in it, convert it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from personalllm.core.errors import DataError, UnknownName, UserError
from personalllm.core.storage import atomic_path
from personalllm.core.types import JSON
from personalllm.data.cells import Row
from personalllm.data.files import METADATA_KEY, parquet_notes
from personalllm.data.hub import fetch_dataset, parse_hub_source
from personalllm.data.judgements import Judgement
from personalllm.data.layout_readers import Oddities, is_annotator
from personalllm.data.layouts import COLUMNS, LAYOUTS, Layout, known, layout_of
from personalllm.data.rows import parts_of, read_names, read_rows

__all__ = ["MOST_RATED", "Reading", "Tally", "columns_of", "known_repository", "open_people", "write_people"]

MOST_RATED = 20
"""From so many rated responses to one prompt on, ratings are not taken apart into comparisons."""

_BATCH = 1000
_UNTITLED = "columns without a text"


@dataclass(eq=False)
class Reading:
    """Judgements of people as they are read.

    Attributes:
        name: Whose they are.
        layout: Name of the layout.
        about: What is known of the data: `layout`, and as far as known `title`, `licence`, `citation`, `source`.
        judgements: What people said; can be read once.
        odd: What was left out or is out of the ordinary, by its name; complete once all judgements are read.
    """

    name: str
    layout: str
    about: JSON
    judgements: Iterator[Judgement]
    odd: Oddities

    @property
    def rated(self) -> bool:
        """Whether the data say more than who was preferred: they are ratings, or rankings."""
        return self.about["layout"] in ("ratings", "coval")

    def noted(self) -> JSON:
        """Return `about` with the odd cases that were met, under `odd`."""
        odd = {what: count for what, count in sorted(self.odd.items()) if count}
        return self.about | ({"odd": odd} if odd else {})


def columns_of(layout: Layout) -> str:
    """Return the columns of a layout as a sentence names them."""
    more = ", annotator1, ..." if layout.name == "pandalm" else " (or shown)" if layout.one_of else ""
    return ", ".join(layout.telling) + more


def open_people(
    source: Any,
    columns: Mapping[str, str] | None = None,
    *,
    layout: str | None = None,
    name: str | None = None,
    items: str | Path | None = None,
    terms: Mapping[str, str] | None = None,
) -> Reading:
    """Open a source of judgements.

    Args:
        source: A path, a table in memory, or `hf://datasets/OWNER/NAME@REVISION`, whose files are then fetched.
        columns: What the source calls a column.
        layout: Name of a layout; None to find it by the columns.
        name: Whose judgements they are; by default the name of the file, of the repository, or "people".
        items: Texts of the items of a ratings table, a file with the columns `item`, `text` and perhaps `prompt`. The
            table has a row a rating (`user`, `item`, `rating`) or a row a person and a column an item.
        terms: `licence` and `citation` of data that is not known here.

    Raises:
        DataError: If the layout is another or unknown, or the source is empty.
        UnknownName: If there is no such layout.
        UserError: If a source on the hub names no revision, or cannot be had.
    """
    if layout is not None and layout not in LAYOUTS:
        raise UnknownName("layout", layout, LAYOUTS)
    place, where = _located(source, layout)
    place = list(place) if isinstance(place, Iterator) else place  # it is read twice
    name = name or (Path(where or str(place)).name.partition("@")[0] if isinstance(place, str | Path) else "people")
    notes = parquet_notes(parts_of(place)).get("people", {})
    odd: Oddities = Counter(notes.get("odd"))
    if items is not None:
        found, rows = LAYOUTS["ratings"], _item_rows(place, items, columns or {}, odd)
    else:
        rows = read_rows(place, COLUMNS, columns=columns, extra=is_annotator)
        first = next(rows, None)
        if first is None:
            raise DataError(f"{name} is empty.", "Give a row for each judgement.")
        found, rows = _found(first, layout), chain([first], rows)
    about = {"layout": found.name, "source": where, **known()[found.name]._asdict()}
    about |= notes | {**(terms or {})}
    kept = {key: about[key] for key in ("layout", "title", "licence", "citation", "source") if about.get(key)}
    return Reading(name, found.name, kept, found.read(rows, odd), odd)


def _located(source: Any, layout: str | None) -> tuple[Any, str]:
    """Return the source on this machine, and where it was fetched from, with its commit; empty if it was here."""
    dataset = parse_hub_source(source)
    if dataset is None:
        return source, ""
    if "@" not in str(source):
        raise UserError(
            f"{source} names no revision, so it may be another data set tomorrow.",
            f"Add the commit, tag or branch: {source}@COMMIT; the page of the data set lists them.",
        )
    entry = known_repository(dataset.repository) or known().get(layout or "")
    folder = fetch_dataset(dataset, entry.files if entry else ())
    return folder, f"hf://datasets/{dataset.repository}@{folder.name}"


def known_repository(repository: str) -> Any:
    """Return what is known of a repository of people's data; None if nothing is."""
    return next((entry for entry in known().values() if entry.repository == repository), None)


def _found(row: Row, wanted: str | None) -> Layout:
    """Return the layout of a source by its first row.

    Raises:
        DataError: If it is not the one that is wanted, or unknown.
    """
    held = ", ".join(sorted(map(str, row.present)))
    if wanted is not None:
        layout = LAYOUTS[wanted]
        if not layout.fits(row.values):
            remedy = "Map other names: --column COLUMN=NAME, or columns={'COLUMN': 'NAME'}."
            if wanted == "ratings":
                remedy = f"Give the texts with --items (columns item, text) where it has items. {remedy}"
            raise DataError(f"{row.source} has the columns {held}; {wanted} has {columns_of(layout)}.", remedy)
        return layout
    layout_found = layout_of(row.values)
    if layout_found is None:
        benchmark = "response_1" in row.present
        titles = ", ".join(known()[name].title for name in LAYOUTS if name != "comparisons")
        remedy = (
            f"Columns: user, prompt, chosen, rejected (or shown); or those of {titles} (docs/people.md). Map other "
            "names: --column user=NAME, or columns={'user': NAME}."
        )
        if benchmark:
            remedy = "It looks like a benchmark, which personalllm.load reads."
        raise DataError(f"{row.source} has the columns {held}.", remedy)
    return layout_found


def _item_rows(source: Any, items: str | Path, columns: Mapping[str, str], odd: Oddities) -> Iterator[Row]:
    """Yield the ratings of a table whose items have their texts elsewhere, a row a rating."""
    named = {column: heading for column, heading in columns.items() if column in ("item", "text", "prompt")}
    texts = {
        row.name("item"): {
            "response": row.text("text"),
            "prompt": row.text("prompt", missing="") if "prompt" in row else "",
        }
        for row in read_rows(items, ("item", "text", "prompt"), columns=named)
    }
    present = {heading for part in parts_of(source) for heading in read_names(part)}
    here = {column: heading for column, heading in columns.items() if heading in present or column == "user"}
    names = ("user", "item", "rating")
    long = present.issuperset(here.get(name, name) for name in names[1:])
    if not long:
        here.pop("item", None)
        odd[_UNTITLED] += len(present - {*texts, here.get("user", "user")})
        if not present.intersection(texts):
            raise DataError(
                f"{source} has neither a column 'item' nor one of the items of {items}.",
                "Its columns must be user, item, rating, or user and one column for each item.",
            )
    for row in read_rows(source, names, columns=here, extra=texts.__contains__):
        user = row.cell("user") if "user" in row else row.location
        for item in [row.name("item")] if long else [name for name in texts if name in row]:
            if item not in texts:
                raise row.bad(f"the item {item!r:.40} has no text in {items}", "Add it there, or leave the row out.")
            values = {"user": user, "rating": row.cell("rating" if long else item), **texts[item]}
            yield Row(row.source, row.location, values, row.present)


@dataclass
class Tally:
    """Counts of judgements as they pass by.

    Attributes:
        comparisons: Comparisons of each person, ties left out; of people with ratings alone, their ratings.
        prompts: Distinct conversations.
        ratings: Responses that were rated.
        judgements: Judgements.
        ties: Comparisons without a preference.
        longer: Judgements with turns before the prompt.
        rated_only: Judgements of more than `MOST_RATED` responses, which are not taken apart into comparisons.
        languages: Judgements by language, of data that say it.
        splits: Judgements by part, of data with splits of their own.
    """

    comparisons: Counter[str] = field(default_factory=Counter)
    prompts: set[int] = field(default_factory=set)
    ratings: int = 0
    judgements: int = 0
    ties: int = 0
    longer: int = 0
    rated_only: int = 0
    languages: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)

    def passing(self, judgements: Iterable[Judgement]) -> Iterator[Judgement]:
        """Yield the judgements again, counted."""
        for said in judgements:
            self.judgements += 1
            self.prompts.add(hash(said.prompt))
            rated = sum(rating == rating for rating in said.ratings)  # NaN differs from itself
            self.ratings += rated
            self.longer += len(said.prompt) > 1
            self.languages.update([said.language] if said.language else ())
            self.splits.update([said.split] if said.split else ())
            if said.chosen is None and rated > MOST_RATED:
                self.rated_only += 1
                self.comparisons[said.user] += rated
            else:
                pairs = [winner == loser for winner, loser, _ in said.comparisons()]
                self.ties += sum(pairs)
                self.comparisons[said.user] += len(pairs) - sum(pairs)
            yield said


def write_people(reading: Reading, path: Path) -> Tally:
    """Write judgements as Parquet, a row each: `user, prompt, chosen, rejected, shown, ratings, split, language`.

    The file is read like any other, comparisons and ratings alike; licence and citation stand in its metadata. Prompts
    are lists of messages. `rejected` is given where more was shown than judged; otherwise all others of `shown` are.

    Raises:
        DataError: If there is no judgement.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    text, texts = pa.string(), pa.list_(pa.string())
    turns = pa.list_(pa.struct([("role", text), ("content", text)]))
    kinds = [text, turns, text, texts, texts, pa.list_(pa.float64()), text, text]
    names = ("user", "prompt", "chosen", "rejected", "shown", "ratings", "split", "language")
    schema = pa.schema(list(zip(names, kinds, strict=True)))
    tally = Tally()
    with atomic_path(path) as temporary:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            batch: list[JSON] = []
            for said in tally.passing(reading.judgements):
                batch.append(_as_row(said))
                if len(batch) == _BATCH:
                    writer.write_table(pa.Table.from_pylist(batch, schema))
                    batch = []
            writer.write_table(pa.Table.from_pylist(batch, schema))
            note = {"people": {**reading.noted(), "name": reading.name}}
            writer.add_key_value_metadata({METADATA_KEY: json.dumps(note)})
        if not tally.judgements:
            raise DataError(f"{reading.name} holds no judgement.", "See what was left out without --out.")
    return tally


def _as_row(said: Judgement) -> JSON:
    best = None if said.chosen is None else said.responses[said.chosen]
    rest = [text for at, text in enumerate(said.responses) if at != said.chosen]
    return {
        "user": said.user,
        "prompt": [{"role": turn.role, "content": turn.content} for turn in said.prompt],
        "chosen": best,
        "rejected": rest if said.others and best is not None else None,
        "shown": [*said.responses, *said.others],
        "ratings": [*said.ratings, *[None] * len(said.others)] if said.ratings else None,
        "split": said.split or None,
        "language": said.language or None,
    }
