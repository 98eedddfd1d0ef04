"""Text classifiers: syntactic features, offline stand-ins, models of transformers, and a disk cache for any of them."""

from __future__ import annotations

from personalllm.backends.features.cache import CachedClassifier
from personalllm.backends.features.registry import CLASSIFIERS, FEATURE_SETS, build_classifiers
from personalllm.backends.features.standins import PyphenReadability, RuleMarkers, TextBlobStyle, VaderSentiment
from personalllm.backends.features.syntactic import SyntacticFeatures
from personalllm.backends.features.transformer import TransformersClassifier

__all__ = [
    "CLASSIFIERS",
    "FEATURE_SETS",
    "CachedClassifier",
    "PyphenReadability",
    "RuleMarkers",
    "SyntacticFeatures",
    "TextBlobStyle",
    "TransformersClassifier",
    "VaderSentiment",
    "build_classifiers",
]
