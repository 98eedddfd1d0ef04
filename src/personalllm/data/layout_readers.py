"""Read judgements from rows in published layouts, a small function for each; `layouts.py` says which is whose.

What cannot be used without being wrong (nothing chosen, several chosen) is counted by what it is, under the name that
tables show.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import accumulate
from operator import and_, eq
from pathlib import Path
from typing import NamedTuple, TypeAlias

from personalllm.core.types import Message
from personalllm.data.cells import Row, conversation
from personalllm.data.files import split_of
from personalllm.data.judgements import Judgement, parse_ranking

__all__ = [
    "TURNS",
    "Oddities",
    "is_annotator",
    "prompt_of",
    "read_arena",
    "read_community",
    "read_comparisons",
    "read_coval",
    "read_multipref",
    "read_pandalm",
    "read_personalrewardbench",
    "read_picks",
    "read_prism",
    "read_ratings",
    "read_tldr",
    "verdicts_of",
]

Oddities: TypeAlias = Counter[str]
"""What was left out or is out of the ordinary, by its name."""

is_annotator = re.compile(r"annotator[0-9]+").fullmatch

NONE_CHOSEN = "no response chosen"
SEVERAL_CHOSEN = "several responses chosen"
AFTER_UNKNOWN = "turns after one without a single choice"
BOTH_BAD = "ties in which both are bad"
NO_RANKING = "without a ranking"
MORE_RANKINGS = "further rankings of the same person (the first counts)"
END_TOKENS = "end-of-text tokens removed"
NO_RATING = "responses without a rating"

_TRUTH = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
_END = "<|end_of_text|>"
TURNS = ("first", "second", "third", "fourth")
_LETTERS = "ABCD"
_STRENGTH = {
    "a-is-clearly-better": (2.0, 0.0),
    "a-is-slightly-better": (1.0, 0.0),
    "tie": (0.0, 0.0),
    "b-is-slightly-better": (0.0, 1.0),
    "b-is-clearly-better": (0.0, 2.0),
}
_WINNER = {"model_a": (1.0, 0.0), "model_b": (0.0, 1.0), "tie": (0.0, 0.0), "tie (bothbad)": (0.0, 0.0)}


def prompt_of(row: Row) -> tuple[Message, ...]:
    """Return the prompt; without one, what precedes the last message of `chosen`.

    Raises:
        BadCell: If it is no text, or messages that do not end with the user's.
    """
    if "prompt" not in row and "chosen" in row and len(before := row.messages("chosen")[:-1]) > 0:
        return _asked(row, "chosen", before)
    return _asked(row, "prompt", row.messages("prompt"))


def _asked(row: Row, column: str, turns: tuple[Message, ...]) -> tuple[Message, ...]:
    if turns[-1].role != "user":
        raise row.bad(f"the messages of {column!r} before the response do not end with the user's")
    return turns


def _texts(row: Row, column: str) -> list[str]:
    """Return a cell that holds one response or a list of them; none if it is missing."""
    value = row.cell(column) if column in row else None
    if not isinstance(value, list) or (value and isinstance(value[0], dict) and "role" in value[0]):
        return [] if value is None else [row.response(column)]
    return [row.at(column, text).response(column) for text in value]


def read_comparisons(row: Row) -> Iterator[Judgement]:
    """Read a row of `user, prompt, chosen, rejected`; `shown` and `ratings` may say more, or stand alone."""
    user, prompt = row.name("user"), prompt_of(row)
    shown, rejected = _texts(row, "shown"), _texts(row, "rejected")
    split, language = (row.optional(name) for name in ("split", "language"))
    split = split if split in ("pool", "history", "test") else ""
    ratings = _numbers(row, "ratings", len(shown))
    if ratings and ("chosen" not in row or row.cell("chosen") is None):
        yield Judgement(user, prompt, tuple(shown), None, ratings, split=split, language=language)
        return
    best = row.response("chosen")
    if not rejected and not shown:
        row.response("rejected")  # raises the error that names what is missing
    if rejected:
        others = tuple(text for text in dict.fromkeys(shown) if text not in (best, *rejected))
        yield Judgement(user, prompt, (best, *rejected), 0, others=others, split=split, language=language)
        return
    distinct = tuple(dict.fromkeys(shown if best in shown else [best, *shown]))
    rated = ratings if len(distinct) == len(shown) else ()
    yield Judgement(user, prompt, distinct, distinct.index(best), rated, split=split, language=language)


def _numbers(row: Row, column: str, n: int) -> tuple[float, ...]:
    """Return a cell with a list of n numbers, NaN where one is missing; none if there is no list."""
    values = row.cell(column) if column in row else None
    if values is None:
        return ()
    if not isinstance(values, list) or len(values) != n:
        raise row.bad(f"{column!r} is no list of {n} numbers, one for each response shown: {values!r:.40}")
    numbers = (row.at(column, value).number(column, "numbers") for value in values)
    return tuple(math.nan if number is None else number for number in numbers)


def read_pandalm(row: Row) -> Iterator[Judgement]:
    """Read each annotator's verdict on an item of PandaLM."""
    instruction = row.text("instruction", numbers=True)
    context = row.text("input", numbers=True, missing="") if "input" in row else ""
    prompt = (Message("user", "\n\n".join(part for part in (instruction, context) if part.strip())),)
    responses = (row.response("response1"), row.response("response2"))
    for annotator, verdict in verdicts_of(row):
        yield Judgement(annotator, prompt, responses, None, (float(verdict == 1), float(verdict == 2)))


def verdicts_of(row: Row) -> Iterator[tuple[str, int]]:
    """Yield (annotator, 0, 1 or 2) of a row in the layout of PandaLM, for those who judged it."""
    for column in sorted(filter(is_annotator, row.values)):
        value = row.number(column, "0 (a tie), 1 or 2")
        if value not in (None, 0, 1, 2):
            raise row.bad(f"{column} must be 0 (a tie), 1 or 2, got {row.cell(column)!r:.40}")
        if value is not None:
            yield column, int(value)


class _Interaction(NamedTuple):
    """The responses to one prompt of a PRISM conversation; the first row says where it belongs."""

    user: str
    prompt: str
    conversation: str
    turn: float
    responses: list[str]
    chosen: list[int]
    scores: list[float]


def read_prism(rows: Iterable[Row], odd: Oddities) -> Iterator[Judgement]:
    """Read PRISM's utterances, a row a response: the chosen one of an interaction, and the conversation before it."""
    found: dict[str, _Interaction] = {}
    for row in rows:
        user, key, prompt = row.name("user_id"), row.name("interaction_id"), row.name("user_prompt")
        talk = row.optional("conversation_id") or f"\0{key}"
        turn = (row.number("turn", "a number") if "turn" in row else None) or 0.0
        seen = found.setdefault(key, _Interaction(user, prompt, talk, turn, [], [], []))
        if (seen.user, seen.prompt) != (user, prompt):
            raise row.bad(f"the interaction {key!r:.40} has another user or prompt before")
        value = str(row.cell("if_chosen")).strip().lower()
        if value not in _TRUTH:
            raise row.bad(f"if_chosen must be true or false, got {row.cell('if_chosen')!r:.40}")
        if _TRUTH[value]:
            seen.chosen.append(len(seen.responses))
        seen.responses.append(row.response("model_response"))
        score = row.number("score", "a number from 1 to 100") if "score" in row else None
        seen.scores.append(math.nan if score is None else score)
    before: dict[str, tuple[Message, ...] | None] = {}
    by_turn = sorted(found.items(), key=lambda item: item[1].turn)
    said = {key: _prism_turn(seen, before, odd) for key, seen in by_turn}
    yield from (judged for key in found if (judged := said[key]) is not None)


def _prism_turn(seen: _Interaction, before: dict[str, tuple[Message, ...] | None], odd: Oddities) -> Judgement | None:
    """Return what was said at a turn, and put it behind what was said before in the conversation."""
    past = before.get(seen.conversation, ())
    texts = {seen.responses[at] for at in seen.chosen}
    if past is None or len(texts) != 1:
        odd[AFTER_UNKNOWN if past is None else SEVERAL_CHOSEN if texts else NONE_CHOSEN] += 1
        before[seen.conversation] = None
        return None
    prompt = (*past, Message("user", seen.prompt))
    (best,) = texts
    before[seen.conversation] = (*prompt, Message("assistant", best))
    # the chosen text may be there twice: that it is as good as itself is no tie
    keep = [at for at, text in enumerate(seen.responses) if at == seen.chosen[0] or text != best]
    ratings = () if all(map(math.isnan, seen.scores)) else tuple(seen.scores[at] for at in keep)
    responses = tuple(seen.responses[at] for at in keep)
    return Judgement(seen.user, prompt, responses, keep.index(seen.chosen[0]), ratings)


def read_coval(row: Row, odd: Oddities) -> Iterator[Judgement]:
    """Read the personal rankings of the four responses to a prompt."""
    prompt = _asked(row, "prompt", row.messages("prompt"))
    listed = row.cell("responses")
    cells = [row.at("responses", cell) for cell in listed] if isinstance(listed, list) else []
    names = [str((cell.cell("responses") or {}).get("response_index")) for cell in cells]
    if not cells or len({*names}) < len(names):
        raise row.bad("'responses' is no list of responses, each with its own response_index")
    responses = tuple(cell.response("responses") for cell in cells)
    for said in (row.cell("metadata") or {}).get("assessments") or []:
        user = row.at("annotator_id", said.get("annotator_id")).name("annotator_id")
        blocks = [block.get("ranking") for block in (said.get("ranking_blocks") or {}).get("personal") or []]
        rankings = [str(ranking) for ranking in blocks if ranking and str(ranking).strip()]
        odd[NO_RANKING] += not rankings
        odd[MORE_RANKINGS] += max(0, len(rankings) - 1)
        for ranking in rankings[:1]:
            try:
                ratings = parse_ranking(ranking, names)
            except ValueError as error:
                raise row.bad(f"the ranking {ranking!r:.40} of {user!r} cannot be read: {error}") from None
            yield Judgement(user, prompt, responses, None, ratings)


def read_community(row: Row, odd: Oddities) -> Iterator[Judgement]:
    """Read the turns of a conversation, at each of which one of four responses was preferred."""
    user, language = row.name("annotator_id"), row.optional("assigned_lang")
    past: tuple[Message, ...] | None = ()
    for turn in TURNS:
        column = f"{turn}_turn_prompt"
        if column not in row or row.cell(column) is None:
            continue
        preferred = row.optional(f"{turn}_turn_preferred_response").removeprefix("response_").casefold()
        shown = {letter: f"{turn}_turn_response_{letter}" for letter in "abcd"}
        texts = {
            k: _stripped(row, name, odd) for k, name in shown.items() if name in row and row.cell(name) is not None
        }
        if past is None or preferred not in texts or len(texts) < 2:
            odd[AFTER_UNKNOWN if past is None else NONE_CHOSEN] += 1
            past = None
            continue
        prompt = (*past, Message("user", _stripped(row, column, odd)))
        past = (*prompt, Message("assistant", texts[preferred]))
        yield Judgement(user, prompt, tuple(texts.values()), [*texts].index(preferred), language=language)


def _stripped(row: Row, column: str, odd: Oddities) -> str:
    """Return a text without the tokens that a model ended it with."""
    text = row.text(column, numbers=True)
    odd[END_TOKENS] += text.count(_END)
    return text.replace(_END, "").rstrip() if _END in text else text


def read_personalrewardbench(row: Row) -> Iterator[Judgement]:
    """Read a pair with its context; people of the train files are the pool, others have a history and a test."""
    prompt = _asked(row, "context", row.messages("context"))
    split = row.optional("split")
    if split not in ("train", "val", "validation", "test", ""):
        raise row.bad(f"'split' must be train, val or test, got {split!r:.40}")
    part = "test" if split == "test" else "history"
    part = "pool" if split_of(Path(row.source).name) == "train" else part
    responses = (row.response("chosen"), row.response("rejected"))
    yield Judgement(row.name("user_id"), prompt, responses, 0, split=part if split else "")


def read_arena(row: Row, odd: Oddities) -> Iterator[Judgement]:
    """Read a battle: what both conversations begin with is the prompt, what follows in each is the response."""
    one, other = row.messages("conversation_a"), row.messages("conversation_b")
    common = sum(accumulate(map(eq, one, other), and_))
    while common and one[common - 1].role != "user":
        common -= 1
    winner = row.optional("winner")
    if winner not in _WINNER:
        raise row.bad(f"winner must be one of {', '.join(_WINNER)}, got {winner!r:.40}")
    if not common or len(one) == common or len(other) == common:
        raise row.bad("the two conversations do not begin with the same prompt, or one has no response")
    odd[BOTH_BAD] += winner == "tie (bothbad)"
    responses = (_rest(one[common:]), _rest(other[common:]))
    language = row.optional("language")
    yield Judgement(row.name("judge"), one[:common], responses, None, _WINNER[winner], language=language)


def _rest(turns: tuple[Message, ...]) -> str:
    """Return what follows the prompt as one text: a response as it is, more turns with their roles."""
    return conversation([{"role": turn.role, "content": turn.content} for turn in turns])


def read_multipref(row: Row, odd: Oddities) -> Iterator[Judgement]:
    """Read the judgements of a pair on a scale of five, by crowd workers and by experts."""
    prompt, responses = row.messages("text"), (row.response("completion_a"), row.response("completion_b"))
    for column in ("normal_worker_annotations", "expert_worker_annotations"):
        for said in (row.cell(column) if column in row else None) or []:
            preference = str(said.get("overall_pref") or "").casefold()
            if not preference:
                odd[NONE_CHOSEN] += 1
                continue
            if preference not in _STRENGTH:
                raise row.bad(f"overall_pref must be one of {', '.join(_STRENGTH)}, got {preference!r:.40}")
            user = row.at("evaluator", said.get("evaluator")).name("evaluator")
            yield Judgement(user, prompt, responses, None, _STRENGTH[preference])


def read_tldr(row: Row, odd: Oddities) -> Iterator[Judgement]:
    """Read a worker's choice between two summaries of a post or an article."""
    info, summaries = row.cell("info") or {}, row.cell("summaries") or []
    parts = [str(info[name]) for name in ("title", "post", "article") if info.get(name)]
    if not parts or len(summaries) != 2:
        raise row.bad("a row needs info.post (or info.article) and two summaries")
    choice = row.number("choice", "0 or 1")
    if choice is None:
        odd[NONE_CHOSEN] += 1
        return
    if choice not in (0, 1):
        raise row.bad(f"choice must be 0 or 1, got {row.cell('choice')!r:.40}")
    responses = tuple(row.at("summaries", summary.get("text")).text("summaries") for summary in summaries)
    yield Judgement(row.name("worker"), (Message("user", "\n\n".join(parts)),), responses, int(choice))


def read_picks(row: Row) -> Iterator[Judgement]:
    """Read which of several candidates each of several voters (or reward models) picked."""
    prompt = _asked(row, "prompt", row.messages("prompt"))
    candidates = tuple(_texts(row, "candidates"))
    for user, place in (row.cell("picks") or {}).items():
        if place is None:
            continue
        if not isinstance(place, int) or isinstance(place, bool) or not 0 <= place < len(candidates):
            raise row.bad(f"the pick of {user!r:.40} must be a position from 0 to {len(candidates) - 1}, got {place!r}")
        best = candidates[place]
        distinct = tuple(dict.fromkeys(candidates))  # two equal candidates are one
        yield Judgement(str(user), prompt, distinct, distinct.index(best))


def read_ratings(rows: Iterable[Row], odd: Oddities) -> Iterator[Judgement]:
    """Read a row a rating: what a person said of the responses to one prompt together is a judgement."""
    found: dict[tuple[str, tuple[Message, ...]], tuple[list[str], list[float]]] = {}
    for row in rows:
        prompt = row.messages("prompt") if "prompt" in row else (Message("user", ""),)
        rating = row.number("rating", "a number")
        odd[NO_RATING] += rating is None
        if rating is not None:
            texts, ratings = found.setdefault((row.name("user"), prompt), ([], []))
            texts.append(row.response("response"))
            ratings.append(rating)
    for (user, prompt), (texts, ratings) in found.items():
        yield Judgement(user, prompt, tuple(texts), None, tuple(ratings))
