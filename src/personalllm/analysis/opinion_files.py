"""Read questions and people's answers from files, and from the folder of the OpinionQA release (docs/analyses.md)."""

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from personalllm.analysis.opinion_questions import OVERALL, OpinionQuestion, Opinions, Survey
from personalllm.core.errors import DataError
from personalllm.data.cells import BadCell, Row
from personalllm.data.rows import read_rows

__all__ = ["OPINION_COLUMNS", "read_opinionqa", "read_opinions", "read_questions"]

_Answers: TypeAlias = dict[tuple[str, str], dict[str, Any]]
OPINION_COLUMNS = ("question", "attribute", "group", "option", "share")
_REFUSED = "Refused"
_NO_GROUP = (_REFUSED, "nan")
_NO_ATTRIBUTE = "NONE"
_ABOUT = ("MC_options", "question_text")
_NO_COUNTS = "no answers of people in the folder"
_NO_ORDER = "its options have no order"
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


def read_opinionqa(folder: str | Path, questions: str = "all") -> Survey:
    """Read the release of OpinionQA, `human_resp` or a part of it.

    Each survey is a folder with `info.csv` (`key`, `question`, `option_mapping`, `option_ordinal`) and one
    `<ATTRIBUTE>_data.json` for each attribute, with the number of people of each group who chose each option. A folder
    with `info.csv` alone is a set of questions. Attributes that cross two others, and people who refused to say their
    group or the option, are left out; everybody is who answered, whatever their group. Options without a place on the
    scale ("Not sure") are left out; questions without any order are, too, and are listed.

    Args:
        folder: The folder of the surveys.
        questions: `all` that have answers, or the folder of a set of questions, or a part of its name (`500`).

    Raises:
        DataError: If there is no survey or no such set, or a file is not as described; names it.
    """
    base = Path(folder).expanduser()
    surveys = sorted(path.parent for path in base.glob("*/info.csv")) or (
        [base] if (base / "info.csv").is_file() else []
    )
    counted = [path for path in surveys if any(path.glob("*_data.json"))]
    if not counted:
        raise DataError(f"{base} holds no survey of OpinionQA.", "Give the folder human_resp of its release.")
    wanted = _wanted(base, [path for path in surveys if path not in counted], questions)
    rows = {row.name("key"): row for path in counted for row in read_rows(path / "info.csv", _INFO)}
    rows |= {row.name("key"): row for row in wanted}
    keys = list(dict.fromkeys(row.name("key") for row in wanted)) or list(rows)
    counts = _counts(counted)
    read: dict[str, OpinionQuestion] = {}
    left_out: dict[str, str] = {}
    for key in keys:
        if key not in counts:
            left_out[key] = _NO_COUNTS
        elif (question := _released(rows[key])) is None:
            left_out[key] = _NO_ORDER
        else:
            read[key] = question
    return Survey(tuple(read.values()), _shares(read, counts), left_out)


_INFO = ("key", "question", "option_mapping", "option_ordinal")


def _wanted(base: Path, sets: list[Path], questions: str) -> list[Row]:
    """Return the rows of a set of questions; none if all questions are wanted."""
    if questions == "all":
        return []
    found = [path for path in sets if questions in path.name]
    if len(found) != 1:
        names = ", ".join(["all", *(path.name for path in sets)])
        raise DataError(
            f"{base} has no set of questions {questions!r}.", f"Give one of {names}, or a part of its name."
        )
    return list(read_rows(found[0] / "info.csv", _INFO))


def _released(row: Row) -> OpinionQuestion | None:
    """Return a question of the release; None if its options have no order."""
    try:
        mapping, ordinals = (ast.literal_eval(row.text(column)) for column in _INFO[2:])
        options = [str(option) for option in mapping.values() if option != _REFUSED][: len(ordinals)]
        values = np.array(ordinals, np.float64)
    except (ValueError, SyntaxError, AttributeError, TypeError) as error:
        raise row.bad(f"no options: {error}", "Copy the file of the release again.") from None
    if len(options) < 2 or len({*ordinals}) < len(options):
        return None
    return OpinionQuestion(row.name("key"), row.text("question"), tuple(options), values, {})


def _counts(surveys: list[Path]) -> dict[str, dict[tuple[str, str], Counter[str]]]:
    """Return how many people chose each option, by question and (attribute, group); everybody first."""
    counts: dict[str, dict[tuple[str, str], Counter[str]]] = {}
    for path in (file for survey in surveys for file in sorted(survey.glob("*_data.json"))):
        attribute = path.name.removesuffix("_data.json")
        if attribute == _NO_ATTRIBUTE:
            continue
        for key, groups in _answers_of(path):
            of = counts.setdefault(key, {OVERALL: Counter()})
            everybody: Counter[str] = Counter()
            for group, chosen in groups.items():
                everybody.update(chosen)
                if group not in _NO_GROUP:
                    of[attribute, group] = Counter(chosen)
            # groups of one attribute may lack people who are in those of another
            if everybody.total() > of[OVERALL].total():
                of[OVERALL] = everybody
    return counts


def _answers_of(path: Path) -> Iterator[tuple[str, dict[str, dict[str, float]]]]:
    """Yield (question, counts by group and option) of a file, but of those that cross two attributes."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        for key, entry in table.items():
            groups = {group: chosen for group, chosen in entry.items() if group not in _ABOUT}
            if not any(isinstance(value, dict) for chosen in groups.values() for value in chosen.values()):
                yield key, {group: {o: float(n) for o, n in chosen.items()} for group, chosen in groups.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise DataError(f"{path} cannot be read: {error}.", "Copy the file of the release again.") from None


def _shares(
    questions: Mapping[str, OpinionQuestion], counts: Mapping[str, Mapping[tuple[str, str], Counter[str]]]
) -> Opinions:
    """Return the shares of the options; a group of which nobody chose any is left out of the question."""
    answers: _Answers = {OVERALL: {}}
    for key, question in questions.items():
        places = {option.casefold(): place for place, option in enumerate(question.options)}
        for group, chosen in counts[key].items():
            shares = np.zeros(len(question.options))
            for option, number in chosen.items():
                if (place := places.get(option.casefold())) is not None:
                    shares[place] += number
            if shares.sum() > 0:
                answers.setdefault(group, {})[key] = shares / shares.sum()
    return answers
