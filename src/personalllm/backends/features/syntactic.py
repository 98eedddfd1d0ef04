"""The paper's syntactic features, measured with tools that work offline (paper, section 3)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property

from personalllm.backends.features._common import (
    per_text,
    tagged,
    textblob_tagger,
    tokens,
    treebank_tokeniser,
    versions,
)
from personalllm.core.types import F32

__all__ = ["SyntacticFeatures"]

_LIST_ITEM = re.compile(
    r"^[ \t]*(?:[-*+\u2022\u2023\u25aa\u2013]|\(?\d{1,3}[.)]|\(?[A-Za-z][.)])[ \t]+\S", re.MULTILINE
)


class SyntacticFeatures:
    """Counts tokens, unique words, stop words, punctuation, list items and adjectives with adverbs.

    The name of a feature begins with the tool that measures it:

    - `nltk_tokens`: tokens of NLTK's Treebank word tokeniser. The paper cuts sentences with NLTK's Punkt model, which
      must be downloaded; here a rule does (end mark and white space, or a new line).
    - `nltk_unique_words`: distinct words, case folded; a word is a token with a letter or a digit.
    - `nltk_mean_word_length`: characters of a word; NaN without words.
    - `sklearn_stop_words`: words in scikit-learn's English list (318 words; NLTK's list must be downloaded).
    - `nltk_punctuation`: tokens without letter and digit.
    - `rule_list_items`: lines that begin with a bullet, a number or a letter as in `-`, `1.`, `a)`.
    - `textblob_adjectives_adverbs`: tags JJ* and RB* of TextBlob's pattern tagger (a lexicon of 94,000 words with
      context rules; NLTK's perceptron must be downloaded).

    Raises:
        MissingExtra: On first use, if nltk or textblob is not installed.
    """

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the seven features."""
        return (
            "nltk_tokens",
            "nltk_unique_words",
            "nltk_mean_word_length",
            "sklearn_stop_words",
            "nltk_punctuation",
            "rule_list_items",
            "textblob_adjectives_adverbs",
        )

    @property
    def identity(self) -> str:
        """Rules and library versions."""
        textblob_tagger()
        treebank_tokeniser()
        return f"syntactic-1: {versions('nltk', 'textblob', 'scikit-learn')}"

    @cached_property
    def _stop_words(self) -> frozenset[str]:
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

        return frozenset(ENGLISH_STOP_WORDS)

    def measure(self, texts: Sequence[str]) -> F32:
        """Return float32 (n_texts, 7): counts, and characters for the mean word length."""
        return per_text(self._values, texts, len(self.features))

    def _values(self, text: str) -> Sequence[float]:
        tokenised = tokens(text)
        flat = [token for sentence in tokenised for token in sentence]
        lowered = [token.casefold() for token in flat if any(c.isalnum() for c in token)]
        tags = tagged(tokenised) if lowered else []
        return (
            len(flat),
            len(set(lowered)),
            sum(map(len, lowered)) / len(lowered) if lowered else float("nan"),
            sum(word in self._stop_words for word in lowered),
            len(flat) - len(lowered),
            len(_LIST_ITEM.findall(text)),
            sum(tag.startswith(("JJ", "RB")) for _, tag in tags),
        )
