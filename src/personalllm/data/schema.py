"""Define the released wide schema: the columns of a benchmark file and their meaning."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from personalllm.data.problems import ProblemLog

__all__ = ["MAX_RESPONSES", "TEXT_COLUMNS", "Schema", "column_names", "detect_schema"]

MAX_RESPONSES = 255
TEXT_COLUMNS = ("prompt", "subset", "prompt_id")
_RESPONSE = re.compile(r"response_([1-9][0-9]*)(?:_(.+))?\Z")


@dataclass(frozen=True, slots=True)
class Schema:
    """The columns of a file and their roles.

    Attributes:
        n_responses: Responses of each prompt.
        reward_models: RM names in sorted order, the order of the last axis of `Benchmark.scores`.
        columns: The columns that are read.
        has_split: True if there is a column `split`.
        complete: True if no column is missing.
    """

    n_responses: int
    reward_models: tuple[str, ...]
    columns: tuple[str, ...]
    has_split: bool
    complete: bool


def column_names(n_responses: int, reward_models: Sequence[str], *, split: bool = False) -> list[str]:
    """Return the columns of the released wide schema, in its order.

    >>> column_names(2, ["rm"])[3:6]
    ['response_1', 'response_1_model', 'response_1_rm']
    """
    names = [*TEXT_COLUMNS, *(["split"] if split else [])]
    for i in range(1, n_responses + 1):
        names += [f"response_{i}", f"response_{i}_model", *(f"response_{i}_{rm}" for rm in reward_models)]
    return names


def detect_schema(file: object, columns: Sequence[str], log: ProblemLog) -> Schema:
    """Read responses and RMs off the column names; what is missing or odd goes to the log.

    The RMs are the X of the columns `response_i_X` other than `response_i_model`. An X that stands for fewer than
    half of the responses is an extra column; one that stands for at least half, but not for all, is an RM with
    missing columns.

    Args:
        file: Named in the problems.
        columns: Column names in file order.
        log: Receives the problems.
    """
    texts, suffixes = _group(columns)
    numbers = texts | {i for i, names in suffixes.items() if "model" in names}
    n_responses = max(numbers, default=0)
    seen: dict[str, list[int]] = {}
    for i, names in suffixes.items():
        for name in names:
            if name != "model":
                seen.setdefault(name, []).append(i)
    reward_models = tuple(
        sorted(n for n, at in seen.items() if 2 * len([i for i in at if i <= n_responses]) >= max(n_responses, 1))
    )
    expected = column_names(n_responses, reward_models)
    present = set(columns)
    missing = [name for name in expected if name not in present]
    for name in missing:
        _report_missing(file, name, reward_models, log)
    _report_counts(file, n_responses, reward_models, log)
    _report_extra(file, [name for name in columns if name not in expected and name != "split"], log)
    _report_duplicates(file, columns, log)
    if not missing:
        _report_order(file, n_responses, suffixes, reward_models, log)
    return Schema(
        n_responses=n_responses,
        reward_models=reward_models,
        columns=tuple(name for name in [*expected, "split"] if name in present),
        has_split="split" in present,
        complete=not missing and 2 <= n_responses <= MAX_RESPONSES and bool(reward_models),
    )


def _group(columns: Sequence[str]) -> tuple[set[int], dict[int, list[str]]]:
    texts: set[int] = set()
    suffixes: dict[int, list[str]] = {}
    for column in columns:
        match = _RESPONSE.match(column)
        if match is None:
            continue
        number, suffix = int(match[1]), match[2]
        if suffix is None:
            texts.add(number)
        else:
            suffixes.setdefault(number, []).append(suffix)
    return texts, suffixes


def _report_missing(file: object, name: str, reward_models: Sequence[str], log: ProblemLog) -> None:
    match = _RESPONSE.match(name)
    suffix = match[2] if match else None
    if match and suffix in reward_models:
        log.add(
            "reward-model-missing",
            file,
            name,
            f"the reward model {suffix!r} has no column for response {match[1]}",
            f"Add {name}, or remove {suffix!r} from every response.",
        )
        return
    what = {
        "prompt": "the prompt texts",
        "subset": "the part of the corpus that a prompt comes from; one constant name will do",
        "prompt_id": "a distinct id for each prompt",
    }.get(name, f"the response models (who wrote response {match[1]})" if match and suffix else "the response texts")
    log.add("column-missing", file, name, "the column is missing", f"Add it: {what}.")


def _report_counts(file: object, n_responses: int, reward_models: Sequence[str], log: ProblemLog) -> None:
    if not 2 <= n_responses <= MAX_RESPONSES:
        log.add(
            "n-responses",
            file,
            "",
            f"there must be 2 to {MAX_RESPONSES} responses for each prompt, found {n_responses}",
            "Name the columns response_1, response_2, ... in the released wide schema.",
        )
    if n_responses and not reward_models:
        log.add(
            "no-reward-model",
            file,
            "",
            "there is no score column",
            "Add columns response_i_NAME with the raw scores of at least one reward model for every response.",
        )


def _report_extra(file: object, extra: Sequence[str], log: ProblemLog) -> None:
    for name in extra:
        if name.startswith("response_"):
            message = "the column is neither a text, a response model nor a score of all responses, and is not read"
            remedy = "Remove it; if it is a reward model, add its column for the other responses."
        else:
            message = "the column is not part of the released schema, and is not read"
            remedy = "Remove it, or ignore this warning."
        log.add("column-extra", file, name, message, remedy, severity="warning")


def _report_duplicates(file: object, columns: Sequence[str], log: ProblemLog) -> None:
    for name in dict.fromkeys(name for name in columns if columns.count(name) > 1):
        log.add("column-twice", file, name, "the column stands twice in the file", "Remove or rename one of the two.")


def _report_order(
    file: object, n_responses: int, suffixes: dict[int, list[str]], reward_models: Sequence[str], log: ProblemLog
) -> None:
    first = [name for name in suffixes[1] if name in reward_models] if n_responses else []
    for i in range(2, n_responses + 1):
        order = [name for name in suffixes[i] if name in reward_models]
        if order != first:
            log.add(
                "reward-model-order",
                file,
                f"response_{i}_*",
                f"the reward models stand in another order ({', '.join(order)}) than those of response 1 "
                f"({', '.join(first)}); scores are matched by name, so they are read rightly",
                "Write the score columns of every response in the same order.",
                severity="warning",
            )
