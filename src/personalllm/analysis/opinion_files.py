"""Read questions and people's answers from files; the formats are described in docs/analyses.md."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from personalllm.analysis.opinion import OVERALL, OpinionQuestion, Opinions
from personalllm.core.errors import DataError

__all__ = ["read_opinions", "read_questions"]

_COLUMNS = ("question", "attribute", "group", "option", "share")
_QUESTION = (
    '{"question": "KEY", "text": "...", "options": ["...", "..."], "values": [0, 1], "choices": {"RM": "option"}}'
)


def read_questions(path: str | Path) -> list[OpinionQuestion]:
    """Read questions, one JSON object a line: `question`, `text`, `options`, and optionally `values` and `choices`.

    `values` are the options' places on the scale (default: 0, 1, ... in the order listed); `choices` maps a reward
    model to the text of the option that it chooses.

    Raises:
        DataError: If a line is no such object, a key stands twice, or a choice is no option; names file and line.
    """
    path = Path(path)
    questions: dict[str, OpinionQuestion] = {}
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        question = _question(where, line)
        if question.key in questions:
            raise DataError(f"{where}: the question {question.key!r} stands twice.", "Give each question its own key.")
        questions[question.key] = question
    if not questions:
        raise DataError(f"{path} holds no questions.", f"Write one object a line: {_QUESTION}")
    return list(questions.values())


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Cannot read {path}: {error}.", "Give a UTF-8 text file.") from None


def _question(where: str, line: str) -> OpinionQuestion:
    try:
        found = json.loads(line)
        options = tuple(str(option) for option in found["options"])
        values = [float(value) for value in found.get("values", range(len(options)))]
        choices = {str(name): options.index(str(option)) for name, option in found.get("choices", {}).items()}
        key, text = str(found["question"]), str(found["text"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{where} is not a question: {error!r}.", f"Write one object a line: {_QUESTION}") from None
    try:
        return OpinionQuestion(key, text, options, np.array(values), choices)
    except DataError as error:
        raise DataError(f"{where}: {error.message}", error.remedy) from None


def read_opinions(path: str | Path, questions: list[OpinionQuestion]) -> Opinions:
    """Read people's answers from a CSV file with the columns `question`, `attribute`, `group`, `option` and `share`.

    A share is the (weighted) number or fraction of the group's people who chose the option; shares are normalised for
    each question and group, and an option without a row has the share 0. Everybody's answers have the attribute and the
    group `overall`.

    Raises:
        DataError: If a column is missing, a question or an option is unknown, a row stands twice, or a share is no
            number >= 0; names file and line.
    """
    path = Path(path)
    rows = csv.DictReader(_text(path).splitlines())
    missing = [name for name in _COLUMNS if name not in (rows.fieldnames or ())]
    if missing:
        raise DataError(
            f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(rows.fieldnames or ()) or 'none'}.",
            f"The first line must be: {','.join(_COLUMNS)}",
        )
    known = {question.key: question for question in questions}
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        where = f"{path}, line {rows.line_num}"
        question = known.get(row["question"])
        if question is None:
            raise DataError(f"{where}: there is no question {row['question']!r}.", "Leave the row out, or add it.")
        if row["option"] not in question.options:
            raise DataError(
                f"{where}: {row['option']!r} is no option of {question.key!r}: {', '.join(question.options)}.",
                "Write the option as the file of questions does; leave refusals out.",
            )
        by_question = found.setdefault((row["attribute"], row["group"]), {})
        shares = by_question.setdefault(question.key, np.full(len(question.options), np.nan))
        place = question.options.index(row["option"])
        if not np.isnan(shares[place]):
            raise DataError(f"{where}: this option stands twice for this group.", "Give each option once.")
        shares[place] = _share(where, row["share"])
    return _ordered(_normalised(path, found))


def _share(where: str, text: str | None) -> float:
    try:
        share = float(text or "")
    except ValueError:
        share = -1.0
    if not 0 <= share < float("inf"):
        raise DataError(f"{where}: the share is {text!r}.", "Give a number >= 0.")
    return share


def _normalised(path: Path, found: dict[tuple[str, str], dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    for (attribute, group), by_question in found.items():
        for key, shares in by_question.items():
            filled = np.nan_to_num(shares)
            if filled.sum() <= 0:
                raise DataError(
                    f"{path}: nobody of {attribute}: {group} answered {key!r}.", "Leave such rows out of the file."
                )
            by_question[key] = filled / filled.sum()
    return found


def _ordered(found: dict[tuple[str, str], dict[str, Any]]) -> Opinions:
    """Put everybody first."""
    first = {OVERALL: found[OVERALL]} if OVERALL in found else {}
    return first | found
