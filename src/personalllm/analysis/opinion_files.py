"""Read questions and people's answers from files; the formats are described in docs/analyses.md."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from personalllm.analysis.opinion import OVERALL, OpinionQuestion, Opinions
from personalllm.core.errors import DataError
from personalllm.data.cells import BadCell, Row
from personalllm.data.rows import read_rows

__all__ = ["OPINION_COLUMNS", "read_opinions", "read_questions"]

_Answers: TypeAlias = dict[tuple[str, str], dict[str, Any]]
OPINION_COLUMNS = ("question", "attribute", "group", "option", "share")
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
    questions: dict[str, OpinionQuestion] = {}
    for row in read_rows(path, ("question", "text", "options", "values", "choices")):
        question = _question(row)
        if question.key in questions:
            raise row.bad(f"the question {question.key!r} is there twice", "Give each question its own key.")
        questions[question.key] = question
    if not questions:
        raise DataError(f"{path} holds no questions.", f"Write one object a line: {_QUESTION}")
    return list(questions.values())


def _question(row: Row) -> OpinionQuestion:
    try:
        options = tuple(str(option) for option in row.cell("options"))
        values = [float(value) for value in row.values.get("values") or range(len(options))]
        choices = {str(rm): options.index(str(option)) for rm, option in (row.values.get("choices") or {}).items()}
        return OpinionQuestion(row.name("question"), row.text("text"), options, np.array(values), choices)
    except (ValueError, TypeError, AttributeError) as error:
        raise row.bad(f"not a question: {error!r}", f"Write one object a line: {_QUESTION}") from None
    except BadCell:
        raise
    except DataError as error:
        raise DataError(f"{row.where}: {error.message}", error.remedy) from None


def read_opinions(
    path: str | Path, questions: list[OpinionQuestion], columns: Mapping[str, str] | None = None
) -> Opinions:
    """Read people's answers from a file with the columns `question`, `attribute`, `group`, `option` and `share`.

    A share is the (weighted) number or fraction of the group's people who chose the option; shares are normalised for
    each question and group, and an option without a row has the share 0. Everybody's answers have the attribute and the
    group `overall`.

    Args:
        path: The file.
        questions: From `read_questions`.
        columns: What the file calls a column, e.g. `{"share": "weight"}`.

    Raises:
        DataError: If a column is missing, a question or an option is unknown, a row stands twice, or a share is no
            number >= 0; names file and line.
    """
    by_key = {question.key: question for question in questions}
    answers: _Answers = {}
    for row in read_rows(path, OPINION_COLUMNS, columns=columns):
        key, attribute, group, option = (row.name(column) for column in OPINION_COLUMNS[:4])
        question = by_key.get(key)
        if question is None:
            raise row.bad(f"there is no question {key!r}", "Leave the row out, or add it.")
        if option not in question.options:
            raise row.bad(
                f"{option!r} is no option of {key!r}: {', '.join(question.options)}",
                "Write the option as the file of questions does; leave refusals out.",
            )
        by_question = answers.setdefault((attribute, group), {})
        shares = by_question.setdefault(key, np.full(len(question.options), np.nan))
        index = question.options.index(option)
        if not np.isnan(shares[index]):
            raise row.bad("this option is there twice for this group", "Give each option once.")
        share = row.number("share", "a number >= 0")
        if share is None or share < 0:
            raise row.bad(f"the share is {row.cell('share')!r}", "Give a number >= 0.")
        shares[index] = share
    return _ordered(_normalised(path, answers))


def _normalised(
    path: str | Path, answers: dict[tuple[str, str], dict[str, Any]]
) -> dict[tuple[str, str], dict[str, Any]]:
    for (attribute, group), by_question in answers.items():
        for key, shares in by_question.items():
            filled = np.nan_to_num(shares)
            if filled.sum() <= 0:
                raise DataError(
                    f"{path}: nobody of {attribute}: {group} answered {key!r}.", "Leave such rows out of the file."
                )
            by_question[key] = filled / filled.sum()
    return answers


def _ordered(answers: _Answers) -> Opinions:
    """Put everybody first."""
    first = {OVERALL: answers[OVERALL]} if OVERALL in answers else {}
    return first | answers
