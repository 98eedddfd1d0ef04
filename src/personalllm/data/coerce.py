"""Convert a batch of one column to texts or scores, and name the rows that cannot be converted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from personalllm.data.rows import Column

__all__ = ["Converted", "to_scores", "to_texts"]

Bad: TypeAlias = dict[str, Sequence[int]]
"""Kind of the problem (see `Problem.kind`) -> the rows that have it."""

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Converted:
    """A column as texts or scores.

    Attributes:
        values: Texts: pyarrow large_string without nulls, `""` where a row cannot be used. Scores: float32 (n,), NaN
            there.
        bad: Rows that cannot be used: of texts `dtype` (something else), `encoding` (no valid Unicode) and `empty`
            (null, empty or white space); of scores `dtype`, `score-missing` and `score-not-finite` (NaN, an infinity,
            or more than float32 can hold).
    """

    values: Any
    bad: Bad


def to_texts(column: Column, *, integers: bool = False) -> Converted:
    """Return a column as texts.

    Args:
        column: A pyarrow array, or a list of Python values.
        integers: True if whole numbers are accepted and written in decimal (prompt ids).
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    bad: Bad = {"dtype": (), "encoding": ()}
    if isinstance(column, list):
        column, bad = _texts_of_list(column, integers=integers)
    elif not _is_text(column.type):
        if integers and pa.types.is_integer(column.type):
            column = column.cast(pa.string())
        else:
            bad["dtype"] = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False)).tolist()
            column = pa.nulls(len(column), pa.large_string())
    values = column.cast(pa.large_string())
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        raw = values.cast(pa.large_binary()).to_pylist()
        texts = [value if value is None else value.decode("utf-8", "surrogateescape") for value in raw]
        values, bad = _texts_of_list(texts)
    values = pc.fill_null(values, "")
    blank = pc.or_(pc.equal(pc.binary_length(values), 0), pc.utf8_is_space(values))
    empty = np.flatnonzero(blank.to_numpy(zero_copy_only=False)).tolist()
    reported = {*bad["dtype"], *bad["encoding"]}
    return Converted(values, bad | {"empty": [row for row in empty if row not in reported]})


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind) or kind == pa.string_view()
    )


def _texts_of_list(column: list[Any], *, integers: bool = False) -> tuple[Any, Bad]:
    import pyarrow as pa

    bad: dict[str, list[int]] = {"dtype": [], "encoding": []}
    values: list[str | None] = []
    for row, value in enumerate(column):
        text = str(value) if integers and isinstance(value, int) and not isinstance(value, bool) else value
        if text is None or (isinstance(text, float) and np.isnan(text)):  # pandas writes a missing text as NaN
            values.append(None)
        elif isinstance(text, str) and (text.isascii() or not _SURROGATE.search(text)):
            values.append(text)
        else:
            bad["encoding" if isinstance(text, str) else "dtype"].append(row)
            values.append(None)
    return pa.array(values, pa.large_string()), {**bad}


def to_scores(column: Column, *, parse: bool = False) -> Converted:
    """Return a column as float32 scores.

    Args:
        column: A pyarrow array, or a list of Python values.
        parse: True if the values are texts that spell numbers (CSV).
    """
    numbers, bad = _numbers_of_list(column, parse=parse) if isinstance(column, list) else _numbers_of_arrow(column)
    with np.errstate(over="ignore"):
        values = numbers.astype(np.float32)
    reported = {*bad["dtype"], *bad["score-missing"]}
    not_finite = np.flatnonzero(~np.isfinite(values)).tolist()
    return Converted(values, bad | {"score-not-finite": [row for row in not_finite if row not in reported]})


def _numbers_of_arrow(column: Any) -> tuple[Any, Bad]:
    import pyarrow as pa

    kind = column.type
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    missing = np.flatnonzero(~valid).tolist()
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind)):
        wrong = np.flatnonzero(valid).tolist()
        return np.full(len(column), np.nan), {"dtype": wrong, "score-missing": missing}
    if not pa.types.is_floating(kind):
        column = column.cast(pa.float64(), safe=False)
    numbers = column.to_numpy(zero_copy_only=False).astype(np.float64)
    return numbers, {"dtype": (), "score-missing": missing}


def _numbers_of_list(column: list[Any], *, parse: bool) -> tuple[Any, Bad]:
    bad: dict[str, list[int]] = {"dtype": [], "score-missing": []}
    numbers = np.full(len(column), np.nan)
    for row, value in enumerate(column):
        if value is None or (parse and isinstance(value, str) and not value.strip()):
            bad["score-missing"].append(row)
        elif isinstance(value, bool) or not isinstance(value, str if parse else (int, float)):
            bad["dtype"].append(row)
        else:
            try:
                numbers[row] = float(value)
            except ValueError:
                bad["dtype"].append(row)
            except OverflowError:
                numbers[row] = np.inf
    return numbers, {**bad}
