"""Measure the surface of a response in twenty numbers, without a model: length, layout, punctuation, wording."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from personalllm.core.errors import AxisMismatch
from personalllm.core.types import F32

__all__ = ["LENGTH_FEATURE", "SURFACE_FEATURES", "surface_features"]

SURFACE_FEATURES: tuple[str, ...] = (
    "log_words",
    "log_sentences",
    "log_words_per_sentence",
    "log_list_items",
    "log_emphasis",
    "log_lines",
    "commas_per_word",
    "log_question_marks",
    "ends_with_question",
    "log_exclamation_marks",
    "digit_share",
    "mean_word_length",
    "vocabulary_richness",
    "first_person_share",
    "second_person_share",
    "hedge_share",
    "refusal_share",
    "log_code_marks",
    "response_words_in_prompt",
    "prompt_words_in_response",
)
"""Names of the columns of `surface_features`, in order."""

LENGTH_FEATURE = 0
"""Column of `surface_features` that a length-neutral reward model is made uncorrelated with."""

_STRIP = ".,;:!?\"'()[]{}*_`#<>-\u2013\u2014\u201c\u201d\u2018\u2019"
_LEXICONS = (
    "i i'd i'll i'm i've me mine my myself our ours ourselves us we we'll we're we've",
    "you you'd you'll you're you've your yours yourself yourselves",
    (
        "about appears around believe could depends generally guess likely may maybe might often perhaps possibly "
        "probably roughly seem seems sometimes somewhat suggest suggests think typically usually"
    ),
    (
        "apologise apologize can't cannot dangerous don't harmful illegal inappropriate shouldn't sorry unable "
        "unfortunately won't"
    ),
)
"""First person, second person, hedges, refusals."""


class _Kinds(dict[str, int]):
    """Maps a word to 1 + the index of the lexicon that has it, or to 0."""

    def __missing__(self, word: str) -> int:
        return 0


_KINDS = _Kinds((word, kind) for kind, words in enumerate(_LEXICONS, 1) for word in words.split())


class _Stripped(dict[str, str]):
    """Remembers each word without the punctuation around it; words recur, so most are only looked up."""

    def __missing__(self, raw: str) -> str:
        word = self[raw] = raw.replace("\u2019", "'").strip(_STRIP)
        return word


def _words(text: str, stripped: _Stripped) -> list[str]:
    """Return the lower-case words of a text without the punctuation around them."""
    return list(filter(None, map(stripped.__getitem__, text.lower().split())))


def _list_items(lines: Sequence[str]) -> int:
    """Count the lines that begin with a bullet or a number followed by a dot or a bracket."""
    items = 0
    for line in lines:
        head = line.lstrip()[:4]
        if head[:2] in ("- ", "* ", "+ ", "\u2022 "):
            items += 1
        elif head[:1].isdigit():
            tail = head.lstrip("0123456789")[:1]
            items += tail in (".", ")") and bool(tail)
    return items


def _row(prompt_words: frozenset[str], text: str, words: Sequence[str]) -> list[float]:
    n = max(len(words), 1)
    types = set(words)
    kinds = bytes(map(_KINDS.__getitem__, words))
    lines = [line for line in text.split("\n") if line and not line.isspace()]
    questions, exclamations = text.count("?"), text.count("!")
    stops = text.count(". ") + text.count(".\n") + text.count("? ") + text.count("! ")
    sentences = max(stops + 1, len(lines))
    shared = len(types & prompt_words)
    headings = sum(line.startswith("#") for line in lines)
    return [
        math.log1p(len(words)),
        math.log1p(sentences),
        math.log(n / sentences + 1.0),
        math.log1p(_list_items(lines)),
        math.log1p(text.count("**") // 2 + headings),
        math.log1p(len(lines)),
        text.count(",") / n,
        math.log1p(questions),
        float(text.rstrip().endswith("?")),
        math.log1p(exclamations),
        sum(map(text.count, "0123456789")) / max(len(text), 1),
        sum(map(len, words)) / n,
        math.log1p(len(types)) / math.log1p(n),
        kinds.count(1) / n,
        kinds.count(2) / n,
        kinds.count(3) / n,
        kinds.count(4) / n,
        math.log1p(text.count("`") + text.count("{") + text.count(";\n")),
        shared / max(len(types), 1),
        shared / max(len(prompt_words), 1),
    ]


def surface_features(prompts: Sequence[str], responses: Sequence[str]) -> F32:
    r"""Describe each response by the twenty numbers named in `SURFACE_FEATURES`.

    Counts enter as log(1 + count), the others as shares. A row depends on its own prompt and response only. The whole
    response is read, however long it is. The word lists are English.

    Args:
        prompts: Prompt texts, length n.
        responses: Response texts, length n; an empty one gives zeros or near zeros.

    Returns:
        float32 (n, 20), finite, not standardised.

    Raises:
        AxisMismatch: If the two lists differ in length.

    >>> row = dict(zip(SURFACE_FEATURES, surface_features(["Which fruit?"], ["1. Apples\n2. Pears"])[0].tolist()))
    >>> round(row["log_list_items"], 3), round(row["log_words"], 3)
    (1.099, 1.609)
    """
    if len(prompts) != len(responses):
        raise AxisMismatch(f"{len(prompts)} prompts but {len(responses)} responses.", "Give one prompt a response.")
    stripped = _Stripped()
    vocabulary = {prompt: frozenset(_words(prompt, stripped)) for prompt in dict.fromkeys(prompts)}
    out = np.empty((len(prompts), len(SURFACE_FEATURES)), np.float32)
    for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        out[i] = _row(vocabulary[prompt], response, _words(response, stripped))
    return out
