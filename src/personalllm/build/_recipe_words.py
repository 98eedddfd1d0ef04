"""Describe what is wrong with a recipe: where, the value, and what may have been intended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from personalllm.core.storage import shipped_tables

__all__ = ["LANGUAGES", "explain", "hint", "language_fault"]

_WORDS = shipped_tables("personalllm.build", "recipe_words.toml")
LANGUAGES: frozenset[str] = frozenset(_WORDS["codes"].split())
"""Codes of the languages that the detector tells apart."""

_SECRET = ("api_key_env", "base_url")

Location = tuple[int | str, ...]


def hint(name: str, known: Iterable[str]) -> str:
    """Return the nearest of the known names as a question, else all of them.

    >>> hint("cvs", ["csv", "jsonl"])
    "Did you mean 'csv'?"
    >>> hint("xml", ["csv", "jsonl"])
    "Known: 'csv', 'jsonl'."
    """
    names = sorted(known)
    near = get_close_matches(name, names, n=2, cutoff=0.6)
    if near:
        return f"Did you mean {' or '.join(map(repr, near))}?"
    return f"Known: {', '.join(map(repr, names))}." if names else ""


def explain(error: ValidationError, data: Mapping[str, Any], recipe: type[BaseModel]) -> list[str]:
    """Return a sentence or two for each thing that is wrong.

    Args:
        error: The errors of the recipe's class.
        data: The content of the file.
        recipe: The recipe's class, for the names of its keys.
    """
    sentences: dict[str, None] = {}
    errors = error.errors(include_url=False)
    locations = [detail["loc"] for detail in errors]
    for detail in errors:
        if detail["type"] == "too_short" and any(
            detail["loc"] == other[: len(detail["loc"])] != other for other in locations
        ):
            continue  # what is wrong inside is not counted
        loc = tuple(part for part in detail["loc"] if part != "[key]")
        where = _where(loc, data)
        words = _sentence(detail["type"], loc, detail, recipe)
        sentences[f"{where}: {words}" if where else words] = None
    return list(sentences)


def _where(loc: Location, data: Mapping[str, Any]) -> str:
    """Return where something stands: `source 1`, `response model 2 ('kind')`, `prompts`, or nothing for the top."""
    if loc[:2] == ("prompts", "source") and len(loc) > 2 and isinstance(loc[2], int):
        return f"source {loc[2] + 1}"
    if loc[:1] == ("response_model",) and len(loc) > 1 and isinstance(loc[1], int):
        tables = data.get("response_model")
        table = tables[loc[1]] if isinstance(tables, list) and loc[1] < len(tables) else None
        name = table.get("name") if isinstance(table, dict) else None
        return f"response model {loc[1] + 1}" + (f" ({name!r})" if isinstance(name, str) else "")
    if loc[:2] == ("prompts", "near_duplicates"):
        return "prompts.near_duplicates"
    return "prompts" if loc[:1] == ("prompts",) and (len(loc) > 1 or "prompts" in data) else ""


def _sentence(kind: str, loc: Location, detail: Any, recipe: type[BaseModel]) -> str:
    key, given = _key(loc), detail.get("input")
    special: dict[str, Callable[[], str]] = {
        "missing": lambda: f"the key {key!r} is missing",
        "extra_forbidden": lambda: _unknown_key(key, loc, recipe),
        "literal_error": lambda: _not_one_of(key, loc, given, recipe),
        "value_error": lambda: str(detail["ctx"]["error"]),
        "too_short": lambda: (
            f"{key!r} needs {detail['ctx']['min_length']} or more, got {detail['ctx']['actual_length']}"
        ),
        "too_long": lambda: (
            f"{key!r} takes at most {detail['ctx']['max_length']}, got {detail['ctx']['actual_length']}"
        ),
        "string_too_short": lambda: f"{key!r} must not be empty",
    }
    if loc[:1] == ("reward_ensemble",) and kind != "missing":
        return "'reward_ensemble' must be a name, or a list of names of published reward models"
    if kind in special:
        return special[kind]()
    shown = "" if key in _SECRET else f", got {given!r}"
    if kind in _WORDS["bounds"]:
        bound, words = _WORDS["bounds"][kind]
        return f"{key!r} must be {words.format(format(detail['ctx'][bound], 'g'))}{shown}"
    if kind in _WORDS["kinds"]:
        what = "a number such as 0.8, or a table" if key == "near_duplicates" else _WORDS["kinds"][kind]
        return f"{key!r} must be {what}{shown}"
    if kind == "string_pattern_mismatch" and key in _WORDS["patterns"]:
        return f"{key!r} must be {_WORDS['patterns'][key]}{shown}"
    return f"{key!r}: {detail['msg'][:1].lower()}{detail['msg'][1:]}"


def _key(loc: Location) -> str:
    """Return the last name in a place; an index in a list belongs to the list's name."""
    names = [part for part in loc if isinstance(part, str)]
    return names[-1] if names else "the recipe"


def _sections(recipe: type[BaseModel]) -> dict[str, frozenset[str]]:
    """Return the keys of each kind of table, by the words that name the table."""
    prompts = _inner(recipe, "prompts")
    return {
        "the top of the file, before the first [table]": frozenset(recipe.model_fields),
        "[prompts]": frozenset(prompts.model_fields),
        "[[prompts.source]]": frozenset(_inner(prompts, "source").model_fields),
        "[[response_model]]": frozenset(_inner(recipe, "response_model").model_fields),
        "[prompts.near_duplicates]": frozenset(_inner(prompts, "near_duplicates").model_fields),
    }


def _inner(model: type[BaseModel], field: str) -> type[BaseModel]:
    """Return the class of the tables below a field."""
    waiting: list[Any] = [model.model_fields[field].annotation]
    while waiting:
        sentences = waiting.pop()
        if isinstance(sentences, type) and issubclass(sentences, BaseModel):
            return sentences
        waiting += get_args(sentences)
    raise TypeError(f"{field} holds no table")


def _unknown_key(key: str, loc: Location, recipe: type[BaseModel]) -> str:
    sections = _sections(recipe)
    here = {
        ("prompts",): "[prompts]",
        ("prompts", "source"): "[[prompts.source]]",
        ("prompts", "near_duplicates"): "[prompts.near_duplicates]",
        ("response_model",): "[[response_model]]",
    }.get(tuple(part for part in loc[:-1] if isinstance(part, str)), next(iter(sections)))
    elsewhere = [name for name, keys in sections.items() if key in keys and name != here]
    if elsewhere and not get_close_matches(key, sections[here], n=1, cutoff=0.8):
        return f"there is no key {key!r} here; it belongs into {' or '.join(elsewhere)}."
    return f"there is no key {key!r}. {hint(key, sections[here])}"


def _not_one_of(key: str, loc: Location, given: object, recipe: type[BaseModel]) -> str:
    prompts = _inner(recipe, "prompts")
    source = _inner(prompts, "source")
    if "columns" in loc:
        targets = ("prompt", "subset")
        return f"columns has no target {key!r}: left stands what it is, right what the file calls it. " + hint(
            str(given), targets
        )
    model, noun = (source, "reader") if key == "reader" else (_inner(prompts, "near_duplicates"), "method")
    known: Sequence[str] = [name for name in get_args(model.model_fields[key].annotation) if isinstance(name, str)]
    return f"no {noun} named {given!r}. {hint(str(given), known)}"


def language_fault(code: str) -> str:
    """Return what is wrong with a language code, or nothing."""
    if code in LANGUAGES:
        return ""
    lower = code.lower()
    meant = _WORDS["language_names"].get(lower) or next(
        (c for c in (lower.replace("_", "-").split("-")[0],) if c in LANGUAGES), ""
    )
    what = (
        f"Did you mean {meant!r}?" if meant else hint(code, LANGUAGES) if len(code) < 4 else "Give a code such as 'en'."
    )
    return f"no language with the code {code!r}. {what}"
