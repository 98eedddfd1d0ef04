"""Read the files of a source in one pass: check every row and pass on the valid ones.

`validate` and `load` both use it, so they cannot disagree.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from personalllm.core.types import F32
from personalllm.data.coerce import Converted, to_scores, to_texts
from personalllm.data.files import Part
from personalllm.data.problems import ProblemLog
from personalllm.data.rows import Block, Column, match_names, read_blocks, read_names
from personalllm.data.schema import TEXT_COLUMNS, Schema, detect_schema
from personalllm.data.text_rows import Unreadable

__all__ = ["Batch", "Scan"]

_AGAIN = "Score the response again, or leave the prompt out."
_FAULTS = {
    (False, "dtype"): ("the {noun} is not text", "Store {column} as text."),
    (False, "encoding"): ("the {noun} is not valid Unicode", "Write the text as UTF-8 without lone surrogates."),
    (False, "empty"): ("the {noun} is empty", "Fill it in, or leave the prompt out."),
    (True, "dtype"): ("the score is not a number", "Store {column} as floating-point numbers."),
    (True, "score-missing"): ("the score is missing", _AGAIN),
    (True, "score-not-finite"): ("the score is NaN, infinite or beyond float32", _AGAIN),
}
"""(Whether a score, kind) -> message and remedy."""
_SPLIT_NAME = re.compile(r"[a-z][a-z0-9_-]*\Z")


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows of a source.

    Attributes:
        prompt_ids: pyarrow large_string (b,).
        prompts: pyarrow large_string (b,).
        subsets: pyarrow large_string (b,).
        splits: Split of each row, length b.
        responses: pyarrow large_string (b * n_responses,), row-major.
        models: pyarrow large_string (b * n_responses,), row-major.
        scores: float32 (b, n_responses, n_reward_models), raw.
    """

    prompt_ids: Any
    prompts: Any
    subsets: Any
    splits: list[str]
    responses: Any
    models: Any
    scores: F32


@dataclass(slots=True)
class Scan:
    """Reads the parts of a source and collects their problems.

    Args:
        parts: The files, in row order.
        log: Receives the problems.
        columns: What the source calls a column, e.g. `{"prompt": "question"}`.

    Attributes:
        schema: Schema of the source, after the first file was opened.
        n_rows: Rows read so far.
    """

    parts: list[Part]
    log: ProblemLog
    columns: Mapping[str, str] = field(default_factory=dict)
    schema: Schema | None = None
    n_rows: int = 0
    _ids: dict[str, tuple[str, str]] = field(default_factory=dict)
    _prompts: dict[bytes, tuple[str, str, str]] = field(default_factory=dict)
    _unlabelled: list[Path] = field(default_factory=list)
    _splits: set[str] = field(default_factory=set)

    def batches(self) -> Iterator[Batch]:
        """Yield the rows in order; batches come only while every column that is needed is there."""
        for part in self.parts:
            yield from self._part(part)
        if self._unlabelled and self._splits:
            for path in self._unlabelled:
                self.log.add(
                    "split-mixed",
                    path,
                    "",
                    f"the file belongs to no split, while other files belong to {', '.join(sorted(self._splits))}",
                    "Name it after its split (train-..., test-...), or add a column `split`.",
                )
        source = self.parts[0].path if len(self.parts) == 1 else self.parts[0].path.parent
        if not self.n_rows and not self.log.has_errors:
            self.log.add("no-rows", source, "", "there are no rows", "Write at least one prompt.")

    def _part(self, part: Part) -> Iterator[Batch]:
        row = 0
        try:
            present = read_names(part)
            if not present:
                self.log.add("no-rows", part.path, "", "the file is empty", "Write at least one prompt, or remove it.")
                return
            renames = match_names(present, (*TEXT_COLUMNS, "split"), self.columns)
            schema = self._schema(part, [renames.get(name, name) for name in present])
            headings = {column: name for name, column in renames.items()}
            needed = {headings.get(name, name) for name in schema.columns}
            for block in read_blocks(part, needed.__contains__):
                batch = self._check(part, schema, block, row, headings) if len(block) else None
                row += len(block)
                self.n_rows += len(block)
                if batch is not None:
                    yield batch
                if block.bad is not None:
                    self.log.add(block.bad.kind, part.path, "", block.bad.reason, block.bad.remedy, rows=[row])
                    return
        except Unreadable as error:
            message = error.message + (f"; {row} rows could be read" if row else "")
            self.log.add(error.kind, part.path, "", message, error.remedy)
            return
        if part.expected_rows is not None and row != part.expected_rows:
            message = f"the file has {row} rows, its folder promises {part.expected_rows}; it is cut off"
            self.log.add("truncated", part.path, "", message, "Copy the folder again.")
        if not schema.has_split and part.split is None and row:
            self._unlabelled.append(part.path)

    def _schema(self, part: Part, columns: list[str]) -> Schema:
        schema = detect_schema(part.path, columns, self.log)
        if self.schema is None:
            self.schema = schema
        elif (schema.n_responses, schema.reward_models) != (self.schema.n_responses, self.schema.reward_models):
            self.log.add(
                "files-differ",
                part.path,
                "",
                f"the file has {schema.n_responses} responses and the reward models "
                f"{', '.join(schema.reward_models)}; {self.parts[0].path.name} has {self.schema.n_responses} and "
                f"{', '.join(self.schema.reward_models)}",
                "Give all files of a benchmark the same columns.",
            )
            return Schema(schema.n_responses, schema.reward_models, schema.columns, schema.has_split, complete=False)
        return schema

    def _check(self, part: Part, schema: Schema, block: Block, start: int, headings: Mapping[str, str]) -> Batch | None:
        """Check the rows of a block, the first of which is row `start`; None if a column is missing."""
        import pyarrow as pa

        n_rows = len(block)
        texts: dict[str, Any] = {}
        scores: dict[str, F32] = {}
        for name in schema.columns:
            if _is_score(name, schema):
                scores[name] = self._scores(part, name, block.column(headings.get(name, name)), start)
            elif name != "split":
                texts[name] = self._texts(part, name, block.column(headings.get(name, name)), start)
        splits = self._row_splits(
            part, block.column(headings.get("split", "split")) if schema.has_split else None, n_rows, start
        )
        if "prompt_id" in texts:
            ids = texts["prompt_id"].to_pylist()
            self._check_ids(part, ids, splits, start)
            if "prompt" in texts:
                self._check_prompts(part, texts["prompt"].to_pylist(), ids, splits, start)
        if not schema.complete:
            return None
        numbers = range(1, schema.n_responses + 1)
        order = np.arange(n_rows * schema.n_responses).reshape(schema.n_responses, n_rows).T.ravel()
        table = np.empty((n_rows, schema.n_responses, len(schema.reward_models)), np.float32)
        for i in numbers:
            for b, name in enumerate(schema.reward_models):
                table[:, i - 1, b] = scores[f"response_{i}_{name}"]
        return Batch(
            prompt_ids=texts["prompt_id"],
            prompts=texts["prompt"],
            subsets=texts["subset"],
            splits=splits,
            responses=pa.concat_arrays([texts[f"response_{i}"] for i in numbers]).take(pa.array(order)),
            models=pa.concat_arrays([texts[f"response_{i}_model"] for i in numbers]).take(pa.array(order)),
            scores=table,
        )

    def _report(self, part: Part, column: str, noun: str, converted: Converted, start: int) -> None:
        """Record the rows of a column that cannot be used; `start` is the first row of the block."""
        for kind, rows in converted.bad.items():
            if rows:
                message, remedy = (text.format(noun=noun, column=column) for text in _FAULTS[noun == "score", kind])
                self.log.add(kind, part.path, column, message, remedy, rows=[start + row for row in rows])

    def _texts(self, part: Part, name: str, column: Column, start: int) -> Any:
        texts = to_texts(column, integers=name == "prompt_id")
        self._report(part, name, _noun(name), texts, start)
        return texts.values

    def _scores(self, part: Part, name: str, column: Column, start: int) -> F32:
        scores = to_scores(column, parse=part.format == "csv")
        self._report(part, name, "score", scores, start)
        values: F32 = scores.values
        return values

    def _row_splits(self, part: Part, column: Column | None, n_rows: int, start: int) -> list[str]:
        if column is None:
            if part.split is not None:
                self._splits.add(part.split)
            return [part.split or "test"] * n_rows
        splits: list[str] = to_texts(column).values.to_pylist()
        bad = [row for row, split in enumerate(splits) if not _SPLIT_NAME.match(split)]
        if bad:
            named = sorted({splits[row] for row in bad})
            what = f"the split name is not usable ({', '.join(map(repr, named[:3]))})"
            remedy = 'Use "train" and "test", in lower case, in every row.'
            self.log.add("split-mixed", part.path, "split", what, remedy, rows=[start + row for row in bad])
        for split in sorted({*splits}):
            meant = next((name for name in ("train", "test") if _misspells(split, name)), None)
            if meant is not None:
                rows = [start + row for row, name in enumerate(splits) if name == split]
                what = f"the split {split!r} is not known: did you mean {meant!r}?"
                self.log.add(
                    "split-mixed", part.path, "split", what, "Correct the column, or choose another name.", rows=rows
                )
        self._splits.update(splits)
        if part.split is not None:
            other = [start + row for row, split in enumerate(splits) if split != part.split]
            if other:
                self.log.add(
                    "split-conflict",
                    part.path,
                    "split",
                    f"the column says another split than the file name ({part.split!r}); the column is believed",
                    "Rename the file, or correct the column.",
                    rows=other,
                    severity="warning",
                )
        return splits

    def _check_ids(self, part: Part, ids: list[str], splits: list[str], start: int) -> None:
        for row, (name, split) in enumerate(zip(ids, splits, strict=True), start):
            if not name:
                continue
            where = f"{part.path.name} row {row + 1}"
            earlier = self._ids.setdefault(name, (split, where))
            if earlier[1] == where:
                continue
            same = earlier[0] == split
            self.log.add(
                "duplicate-id" if same else "duplicate-id-across-splits",
                part.path,
                "prompt_id",
                f"the prompt id stands twice in the split {split!r} (first {name!r}, also {earlier[1]})"
                if same
                else f"the prompt id also stands in another split (first {name!r}, also {earlier[1]})",
                "Give every prompt its own id." if same else "Make sure that no test prompt is also a train prompt.",
                rows=[row],
                severity="error" if same else "warning",
            )

    def _check_prompts(self, part: Part, prompts: list[str], ids: list[str], splits: list[str], start: int) -> None:
        for row, (prompt, name, split) in enumerate(zip(prompts, ids, splits, strict=True), start):
            words = " ".join(prompt.split()).casefold()
            if not words:
                continue
            key = hashlib.sha256(words.encode()).digest()
            here = (split, name, f"{part.path.name} row {row + 1}")
            first_split, first_name, where = self._prompts.setdefault(key, here)
            if first_split == split or first_name == name:
                continue
            self.log.add(
                "duplicate-prompt-across-splits",
                part.path,
                "prompt",
                f"the same prompt also stands in another split under another id (first {name!r} in {split!r}, "
                f"also {first_name!r} in {first_split!r}, {where})",
                "Remove it from one of the splits: feedback on it would show the answer to the query.",
                rows=[row],
                severity="warning",
            )


def _is_score(name: str, schema: Schema) -> bool:
    number, _, suffix = name.removeprefix("response_").partition("_")
    return name.startswith("response_") and number.isdigit() and suffix in schema.reward_models


def _noun(name: str) -> str:
    if name in TEXT_COLUMNS:
        return name.replace("_", " ")
    return "name of the response model" if name.endswith("_model") else "response"


def _misspells(split: str, name: str) -> bool:
    """Return whether a split's name is another one with letters swapped or one left out, as in `tset` and `tran`."""
    if split == name:
        return False
    left_out = {name[:index] + name[index + 1 :] for index in range(len(name))}
    return sorted(split) == sorted(name) or split in left_out
