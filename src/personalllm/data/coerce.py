"""Convert a batch of one column to texts or scores, and name the rows that cannot be converted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from personalllm.core.types import F32
from personalllm.data.rows import Column

__all__ = ["Scores", "Texts", "to_scores", "to_texts"]


@dataclass(frozen=True, slots=True)
class Texts:
    """A text column.

    Attributes:
        values: pyarrow large_string array without nulls (`""` stands for what cannot be used).
        wrong: Rows that hold something else than text.
        undecodable: Rows that hold text which is not valid Unicode.
        empty: Rows that are null, empty or white space.
    """

    values: Any
    wrong: Sequence[int]
    undecodable: Sequence[int]
    empty: Sequence[int]


@dataclass(frozen=True, slots=True)
class Scores:
    """A score column.

    Attributes:
        values: float32 (n,); NaN stands for what cannot be used.
        wrong: Rows that hold something else than a number.
        missing: Rows that hold nothing.
        not_finite: Rows that hold NaN, an infinity, or more than float32 can hold.
    """

    values: F32
    wrong: Sequence[int]
    missing: Sequence[int]
    not_finite: Sequence[int]


def to_texts(column: Column, *, integers: bool = False) -> Texts:
    """Return a column as texts.

    Args:
        column: A pyarrow array, or a list of Python values.
        integers: True if whole numbers are accepted and written in decimal (prompt ids).
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    wrong: Sequence[int] = ()
    undecodable: Sequence[int] = ()
    if isinstance(column, list):
        column, wrong, undecodable = _texts_of_list(column, integers=integers)
    elif not _is_text(column.type):
        if integers and pa.types.is_integer(column.type):
            column = column.cast(pa.string())
        else:
            wrong = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False)).tolist()
            column = pa.nulls(len(column), pa.large_string())
    values = column.cast(pa.large_string())
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        raw = values.cast(pa.large_binary()).to_pylist()
        undecodable = [row for row, value in enumerate(raw) if value is not None and not _decodes(value)]
        bad = set(undecodable)
        values = pa.array([None if row in bad else value for row, value in enumerate(raw)], pa.large_binary())
        values = values.cast(pa.large_string())
    values = pc.fill_null(values, "")
    blank = pc.or_(pc.equal(pc.binary_length(values), 0), pc.utf8_is_space(values))
    empty = np.flatnonzero(blank.to_numpy(zero_copy_only=False))
    reported = {*wrong, *undecodable}
    return Texts(values, wrong, undecodable, [int(row) for row in empty if int(row) not in reported])


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind) or kind == pa.string_view()
    )


def _texts_of_list(column: list[Any], *, integers: bool) -> tuple[Any, list[int], list[int]]:
    import pyarrow as pa

    wrong: list[int] = []
    undecodable: list[int] = []
    values: list[str | None] = []
    # pandas writes a missing text as NaN.
    column = [None if isinstance(value, float) and np.isnan(value) else value for value in column]
    for row, value in enumerate(column):
        text = str(value) if integers and isinstance(value, int) and not isinstance(value, bool) else value
        if text is not None and not isinstance(text, str):
            wrong.append(row)
            text = None
        elif text is not None and not text.isascii() and not _encodes(text):
            undecodable.append(row)
            text = None
        values.append(text)
    return pa.array(values, pa.large_string()), wrong, undecodable


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _decodes(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def to_scores(column: Column, *, parse: bool = False) -> Scores:
    """Return a column as float32 scores.

    Args:
        column: A pyarrow array, or a list of Python values.
        parse: True if the values are texts that spell numbers (CSV).
    """
    wrong: Sequence[int] = ()
    if isinstance(column, list):
        numbers, wrong, missing = _numbers_of_list(column, parse=parse)
    else:
        numbers, wrong, missing = _numbers_of_arrow(column)
    with np.errstate(over="ignore"):
        values = numbers.astype(np.float32)
    reported = {*wrong, *missing}
    not_finite = [int(row) for row in np.flatnonzero(~np.isfinite(values)) if int(row) not in reported]
    return Scores(values, wrong, missing, not_finite)


def _numbers_of_arrow(column: Any) -> tuple[Any, list[int], list[int]]:
    import pyarrow as pa

    kind = column.type
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    missing = np.flatnonzero(~valid).tolist()
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind)):
        return np.full(len(column), np.nan), np.flatnonzero(valid).tolist(), missing
    if not pa.types.is_floating(kind):
        column = column.cast(pa.float64(), safe=False)
    return column.to_numpy(zero_copy_only=False).astype(np.float64), [], missing


def _numbers_of_list(column: list[Any], *, parse: bool) -> tuple[Any, list[int], list[int]]:
    wrong: list[int] = []
    missing: list[int] = []
    numbers = np.full(len(column), np.nan)
    for row, value in enumerate(column):
        if value is None or (parse and isinstance(value, str) and not value.strip()):
            missing.append(row)
        elif isinstance(value, bool) or not isinstance(value, str if parse else (int, float)):
            wrong.append(row)
        else:
            try:
                numbers[row] = float(value)
            except ValueError:
                wrong.append(row)
            except OverflowError:
                numbers[row] = np.inf
    return numbers, wrong, missing
