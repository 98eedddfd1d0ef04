"""Name the layouts in which people's judgements are published: their columns, their readers, and whose data it is.

A layout is a line of `LAYOUTS` with a small function in `layout_readers.py`. Titles, licences, citations and
repositories stand in `people.toml`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from personalllm.data.cells import Row
from personalllm.data.judgements import Judgement
from personalllm.data.layout_readers import (
    TURNS,
    Oddities,
    is_annotator,
    read_arena,
    read_community,
    read_comparisons,
    read_coval,
    read_multipref,
    read_pandalm,
    read_personalrewardbench,
    read_picks,
    read_prism,
    read_ratings,
    read_tldr,
)

__all__ = ["COLUMNS", "LAYOUTS", "Known", "Layout", "known", "layout_of"]


@dataclass(frozen=True, slots=True)
class Layout:
    """A layout in which people's judgements are published.

    Attributes:
        name: Key in `people.toml`.
        columns: Columns that all rows have; a source with these has this layout.
        further: Columns that are read where they are there.
        read: From rows to judgements; counts what is odd.
        one_of: Columns of which there must be one besides.
    """

    name: str
    columns: tuple[str, ...]
    further: tuple[str, ...]
    read: Callable[[Iterable[Row], Oddities], Iterator[Judgement]]
    one_of: tuple[str, ...] = ()

    @property
    def telling(self) -> tuple[str, ...]:
        """Columns by which a person would know the layout, `prompt` and `rejected` among those of comparisons."""
        return ("user", "prompt", "chosen", "rejected") if self.one_of else self.columns

    def fits(self, names: Iterable[str]) -> bool:
        """Tell whether a source with columns of these names has the layout."""
        present = set(names)
        annotated = self.name != "pandalm" or any(map(is_annotator, present))
        return annotated and present.issuperset(self.columns) and not (self.one_of and present.isdisjoint(self.one_of))


class Known(NamedTuple):
    """What is known of published data; empty where nothing is."""

    title: str
    licence: str = ""
    citation: str = ""
    repository: str = ""
    files: tuple[str, ...] = ()


@cache
def known() -> Mapping[str, Known]:
    """Return what is known of the data of each layout, by its name."""
    table = tomllib.loads((Path(__file__).parent / "people.toml").read_text(encoding="utf-8"))
    return {name: Known(**{**entry, "files": tuple(entry.get("files", ()))}) for name, entry in table.items()}


def layout_of(names: Iterable[str]) -> Layout | None:
    """Return the layout of a source with columns of these names; None if no layout has them."""
    present = [*names]
    return next((layout for layout in LAYOUTS.values() if layout.fits(present)), None)


def _each(read: Callable[[Row], Iterator[Judgement]]) -> Callable[..., Iterator[Judgement]]:
    """Return a reader of rows that stand for themselves and have nothing to count."""
    return lambda rows, _: chain.from_iterable(map(read, rows))


def _each_counted(read: Callable[[Row, Oddities], Iterator[Judgement]]) -> Callable[..., Iterator[Judgement]]:
    """Return a reader of rows that stand for themselves."""
    return lambda rows, odd: chain.from_iterable(read(row, odd) for row in rows)


_COMMUNITY = tuple(
    f"{turn}_turn_{what}"
    for turn in TURNS
    for what in ("prompt", *(f"response_{letter}" for letter in "abcd"), "preferred_response")
)
_MAY = ("prompt", "rejected", "shown", "ratings", "split", "language")

LAYOUTS: Mapping[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout("comparisons", ("user", "chosen"), _MAY, _each(read_comparisons), ("rejected", "shown")),
        Layout(
            "prism",
            ("user_id", "interaction_id", "user_prompt", "model_response", "if_chosen"),
            ("conversation_id", "turn", "score"),
            read_prism,
        ),
        Layout("pandalm", ("instruction", "response1", "response2"), ("input",), _each(read_pandalm)),
        Layout("coval", ("prompt", "responses", "metadata"), (), _each_counted(read_coval)),
        Layout(
            "community-alignment",
            ("annotator_id", "first_turn_prompt", "first_turn_response_a", "first_turn_preferred_response"),
            ("assigned_lang", *_COMMUNITY),
            _each_counted(read_community),
        ),
        Layout(
            "personalrewardbench",
            ("user_id", "context", "chosen", "rejected"),
            ("split",),
            _each(read_personalrewardbench),
        ),
        Layout(
            "chatbot-arena",
            ("judge", "conversation_a", "conversation_b", "winner"),
            ("language",),
            _each_counted(read_arena),
        ),
        Layout(
            "multipref",
            ("text", "completion_a", "completion_b", "normal_worker_annotations"),
            ("expert_worker_annotations",),
            _each_counted(read_multipref),
        ),
        Layout("tldr", ("worker", "info", "summaries", "choice"), (), _each_counted(read_tldr)),
        Layout("picks", ("prompt", "candidates", "picks"), (), _each(read_picks)),
        Layout("ratings", ("user", "response", "rating"), ("prompt",), read_ratings),
    )
}
"""Layouts by name, in the order in which they are looked for."""

COLUMNS: tuple[str, ...] = tuple(
    dict.fromkeys(name for layout in LAYOUTS.values() for name in (*layout.columns, *layout.further))
)
"""Every column that a layout has."""
