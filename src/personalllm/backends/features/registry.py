"""Text classifiers by name, and the sets of them that an analysis takes."""

from __future__ import annotations

from pathlib import Path

from personalllm.backends.features.cache import CachedClassifier
from personalllm.core.errors import PluginError, UnknownName
from personalllm.core.protocols import TextClassifier
from personalllm.core.registry import Registry

__all__ = ["CLASSIFIERS", "FEATURE_SETS", "build_classifiers"]

_HERE = "personalllm.backends.features"

CLASSIFIERS = Registry(
    "text classifier",
    {
        "fineweb-edu": f"{_HERE}.transformer:fineweb_edu",
        "go-emotions": f"{_HERE}.transformer:go_emotions",
        "pyphen": f"{_HERE}.standins:PyphenReadability",
        "roberta-formality": f"{_HERE}.transformer:roberta_formality",
        "rules": f"{_HERE}.standins:RuleMarkers",
        "syntactic": f"{_HERE}.syntactic:SyntacticFeatures",
        "textblob": f"{_HERE}.standins:TextBlobStyle",
        "vader": f"{_HERE}.standins:VaderSentiment",
    },
)
"""Name -> class or function without required arguments; entry points `personalllm.text_classifier` add more."""

FEATURE_SETS: dict[str, tuple[str, ...]] = {
    "syntactic": ("syntactic",),
    "semantic-offline": ("textblob", "pyphen", "vader", "rules"),
    "semantic-paper": ("roberta-formality", "fineweb-edu", "go-emotions"),
}
"""Sets of classifiers: the first two install from a package index; the third needs torch and weights from the hub."""


def build_classifiers(name: str, *, cached: bool = True, directory: Path | str | None = None) -> list[TextClassifier]:
    """Return the classifiers of a set, or one classifier by its name or as `module:attribute`.

    Args:
        name: A key of `FEATURE_SETS`, a name in `CLASSIFIERS`, or `module:attribute`.
        cached: Whether the values are kept on disk.
        directory: Folder of the cache; the folder `features` of the user's cache if None.

    Raises:
        UnknownName: If nothing has that name; lists the nearest ones.
        PluginError: If what stands behind the name is not a text classifier.
    """
    if name not in FEATURE_SETS and name not in CLASSIFIERS and ":" not in name:
        raise UnknownName("feature set or text classifier", name, {*FEATURE_SETS, *CLASSIFIERS})
    classifiers: list[TextClassifier] = []
    for part in FEATURE_SETS.get(name, (name,)):
        classifier = CLASSIFIERS.load(part)
        if not hasattr(classifier, "measure") or isinstance(classifier, type):
            classifier = classifier()
        if not callable(getattr(classifier, "measure", None)) or not hasattr(type(classifier), "features"):
            raise PluginError(f"The text classifier {part!r} is a {type(classifier).__name__} without measure().")
        classifiers.append(CachedClassifier(classifier, directory) if cached else classifier)
    return classifiers
