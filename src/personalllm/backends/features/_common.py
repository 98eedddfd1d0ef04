"""Share helpers of the classifiers: optional imports, versions, words."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np

from personalllm.core.registry import import_extra
from personalllm.core.types import F32

__all__ = [
    "EXTRA",
    "per_hundred",
    "per_text",
    "sentences",
    "tagged",
    "textblob_analyser",
    "textblob_tagger",
    "tokens",
    "treebank_tokeniser",
    "versions",
    "words",
]

EXTRA = "features"

_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
_SENTENCE_END = re.compile(r"(?<=[.!?\u2026])\s+|(?<=[.!?\u2026][\"'\u201d\u2019)\]])\s+|\n+")


@cache
def treebank_tokeniser() -> Any:
    """Return NLTK's Treebank word tokeniser, which needs no data.

    Raises:
        MissingExtra: If nltk is not installed.
    """
    return import_extra("nltk.tokenize.destructive", EXTRA).NLTKWordTokenizer()


def tokens(text: str) -> list[list[str]]:
    """Return the tokens of each sentence of a text."""
    return [treebank_tokeniser().tokenize(part) for part in sentences(text)]


@cache
def textblob_tagger() -> Any:
    """Return TextBlob's pattern tagger with its lexicon loaded.

    Raises:
        MissingExtra: If textblob is not installed.
    """
    return _loaded(import_extra("textblob.en.taggers", EXTRA).PatternTagger(), "tag")


def tagged(tokenised: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    """Return (token, tag of the Penn Treebank) for tokens in sentences, by TextBlob's pattern tagger."""
    text = "\n".join(" ".join(sentence) for sentence in tokenised)
    return list(textblob_tagger().tag(text, tokenize=False))


@cache
def textblob_analyser() -> Any:
    """Return TextBlob's pattern analyser of sentiment with its lexicon loaded.

    Raises:
        MissingExtra: If textblob is not installed.
    """
    return _loaded(import_extra("textblob.en.sentiments", EXTRA).PatternAnalyzer(), "analyze")


def _loaded(model: Any, method: str) -> Any:
    """Return a model of TextBlob after a first call, which reads its lexicon and leaves the file open."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        getattr(model, method)("word")
    return model


def versions(*packages: str) -> str:
    """Return `"name version"` of installed packages, for an identity."""
    return ", ".join(f"{package} {version(package)}" for package in packages)


def words(text: str) -> list[str]:
    """Return the words of a text: runs of letters and digits, joined by inner hyphens and apostrophes.

    >>> words("It's a well-known *fact*, no. 7!")
    ["It's", 'a', 'well-known', 'fact', 'no', '7']
    """
    return _WORD.findall(text)


def sentences(text: str) -> list[str]:
    r"""Return the parts of a text between an end mark and white space, or between new lines; none is empty.

    >>> sentences("One. Two (3.5)?\n- three")
    ['One.', 'Two (3.5)?', '- three']
    """
    return [part for part in _SENTENCE_END.split(text) if part.strip()]


def per_hundred(count: float, n_words: int) -> float:
    """Return a count for a hundred words; NaN without words."""
    return 100.0 * count / n_words if n_words else float("nan")


def per_text(measure: Callable[[str], Sequence[float]], texts: Sequence[str], n_features: int) -> F32:
    """Return float32 (n_texts, n_features), one text after the other."""
    out = np.empty((len(texts), n_features), np.float32)
    for row, text in enumerate(texts):
        out[row] = measure(text)
    return out
