"""Stand-ins for the paper's semantic classifiers: lexicons and rules, without weights to download.

None of them is one of the paper's features. Each name begins with the tool that measures it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from personalllm.backends.features._common import (
    EXTRA,
    per_hundred,
    per_text,
    sentences,
    tagged,
    textblob_analyser,
    textblob_tagger,
    tokens,
    treebank_tokeniser,
    versions,
    words,
)
from personalllm.core.registry import import_extra
from personalllm.core.types import F32

__all__ = ["PyphenReadability", "RuleMarkers", "TextBlobStyle", "VaderSentiment"]

_NAN = float("nan")


class VaderSentiment:
    """Measures sentiment with VADER's lexicon and rules: `vader_sentiment`, from -1 (negative) to 1 (positive).

    Raises:
        MissingExtra: On first use, if vaderSentiment is not installed.
    """

    features = ("vader_sentiment",)

    @property
    def identity(self) -> str:
        """Library version."""
        self._analyser  # noqa: B018
        return f"vader-1: {versions('vaderSentiment')}"

    @cached_property
    def _analyser(self) -> Any:
        return import_extra("vaderSentiment.vaderSentiment", EXTRA).SentimentIntensityAnalyzer()

    def measure(self, texts: Sequence[str]) -> F32:
        """Return float32 (n_texts, 1), VADER's compound score; 0 for a text without words of the lexicon."""
        return per_text(lambda text: (self._analyser.polarity_scores(text)["compound"],), texts, 1)


class PyphenReadability:
    """Measures how hard a text is to read, a stand-in for the educational value of the paper.

    Syllables are counted with Pyphen's English hyphenation (one more than the places where a word may be cut).

    - `pyphen_reading_grade`: the grade of Flesch and Kincaid, 0.39 words a sentence + 11.8 syllables a word - 15.59, in
      school years; NaN without words. A line is a sentence of its own, so a list is not one long sentence.
    - `pyphen_long_words`: words of three syllables or more, for a hundred words; NaN without words.

    Raises:
        MissingExtra: On first use, if pyphen is not installed.
    """

    features = ("pyphen_reading_grade", "pyphen_long_words")

    @property
    def identity(self) -> str:
        """Library version."""
        self._hyphens  # noqa: B018
        return f"pyphen-1: {versions('pyphen')}"

    @cached_property
    def _hyphens(self) -> Any:
        return import_extra("pyphen", EXTRA).Pyphen(lang="en_US")

    def measure(self, texts: Sequence[str]) -> F32:
        """Return float32 (n_texts, 2)."""
        return per_text(self._values, texts, len(self.features))

    def _values(self, text: str) -> Sequence[float]:
        tokenised = words(text)
        if not tokenised:
            return _NAN, _NAN
        syllables = [len(self._hyphens.positions(word.lower())) + 1 for word in tokenised]
        n_sentences = sum(bool(words(part)) for part in sentences(text))
        grade = 0.39 * len(tokenised) / n_sentences + 11.8 * sum(syllables) / len(tokenised) - 15.59
        return grade, per_hundred(sum(n >= 3 for n in syllables), len(tokenised))


class TextBlobStyle:
    r"""Measures formality and subjectivity with TextBlob's tagger and lexicon.

    - `textblob_formality`: the formality score of Heylighen and Dewaele (1999), (nouns + adjectives + prepositions +
      articles - pronouns - verbs - adverbs - interjections + 100) / 2 in percent of the words, by the tags of
      TextBlob's pattern tagger, in [0, 100]; NaN without words. A stand-in for the paper's formality classifier.
    - `textblob_subjectivity`: mean subjectivity of the words in Pattern's lexicon, from 0 (fact) to 1 (opinion).

    Raises:
        MissingExtra: On first use, if textblob or nltk is not installed.
    """

    features = ("textblob_formality", "textblob_subjectivity")

    @property
    def identity(self) -> str:
        """Library version."""
        textblob_tagger()
        treebank_tokeniser()
        return f"textblob-style-1: {versions('textblob', 'nltk')}"

    def measure(self, texts: Sequence[str]) -> F32:
        """Return float32 (n_texts, 2)."""
        return per_text(self._values, texts, len(self.features))

    def _values(self, text: str) -> Sequence[float]:
        if not words(text):
            return _NAN, _NAN
        return _formality(tagged(tokens(text))), textblob_analyser().analyze(text).subjectivity


def _formality(tags: Sequence[tuple[str, str]]) -> float:
    """Return the formality score of tagged tokens, in [0, 100]; NaN without words."""
    kinds = Counter(_kind(token, tag) for token, tag in tags if any(c.isalnum() for c in token))
    total = sum(kinds.values())
    return 50 * (1 + (kinds["formal"] - kinds["deictic"]) / total) if total else _NAN


def _kind(token: str, tag: str) -> str:
    """Return whether a word counts as formal, as deictic, or as neither."""
    if tag.startswith(("NN", "JJ", "IN", "TO")) or token.lower() in {"a", "an", "the"}:
        return "formal"
    return "deictic" if tag.startswith(("PRP", "WP", "VB", "MD", "RB", "WRB", "UH")) else "other"


_POLITE = re.compile(
    r"\b(?:please|kindly|thank you|thanks|sorry|apologi[sz]e|apologies|pardon|excuse me|you['\u2019]re welcome"
    r"|(?:would|could|may|might) (?:you|i|we)|i would|i['\u2019]d|happy to|glad to|feel free|appreciate|i hope"
    r"|of course)\b",
    re.IGNORECASE,
)


class RuleMarkers:
    """Counts markers by rules of this package, for a hundred words; NaN without words.

    - `rule_politeness`: please, kindly, thanks, apologies, `could you`, `I would`, `happy to`, `feel free`, `of course`
      and the like.
    - `rule_exclamations`: exclamation marks. A stand-in for excitement.
    """

    features = ("rule_politeness", "rule_exclamations")
    identity = "rule-markers-1"

    def measure(self, texts: Sequence[str]) -> F32:
        """Return float32 (n_texts, 2)."""
        return per_text(self._values, texts, len(self.features))

    def _values(self, text: str) -> Sequence[float]:
        n = len(words(text))
        return per_hundred(len(_POLITE.findall(text)), n), per_hundred(text.count("!"), n)
