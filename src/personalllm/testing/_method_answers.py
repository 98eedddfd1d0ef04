"""Check the answers of a method, utilities or messages."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np

from personalllm.core.types import F32
from personalllm.methods.base import Method
from personalllm.testing._bench import Bench, bare_scenes
from personalllm.testing._checks import Check, Clauses
from personalllm.testing._scenes import Scene, alone, odd_scene, small_scene, snapshot

__all__ = ["answer_checks", "close"]

Hook: TypeAlias = Literal["utilities", "messages"]

_NAMES = {"utilities": "rank", "messages": "messages"}
_FORMS = {
    "utilities": (
        "utilities returns finite float32 (n_queries, n_responses)",
        "One row for each query, one column for each response: end with .astype(np.float32).",
    ),
    "messages": (
        "messages returns one Conversation for each query, with the whole prompt in the user's last turn",
        "Return Conversation(messages=(..., Message('user', ... + prompt)), n_examples=..., n_dropped=...).",
    ),
}


def close(scores: F32, expected: F32) -> bool:
    """Return whether scores agree but for the rounding of float32 sums."""
    scale = float(np.abs(expected).max(initial=0.0))
    return bool(np.allclose(scores, expected, rtol=1e-4, atol=1e-5 * scale))


@dataclass(frozen=True)
class Answers:
    """One hook of a class under test."""

    bench: Bench
    hook: Hook

    @property
    def first(self) -> Any:
        """Return the answers of a freshly trained method in the small scene."""
        return self.bench.first(self.hook)

    def fresh(self, scene: Scene) -> Any:
        """Return what a freshly trained method answers in a scene, checked for its form."""
        return self.bench.answers(self.hook, scene)

    def of(self, method: Method) -> Any:
        """Return what a method answers in the small scene."""
        return getattr(method, self.hook)(self.bench.scene.queries)

    def agree(self, answer: Any) -> bool:
        """Return whether an answer is the first one."""
        return np.array_equal(answer, self.first) if self.hook == "utilities" else bool(answer == self.first)


def answer_checks(bench: Bench, hook: Hook) -> tuple[Check, ...]:
    """Return the checks of a hook."""
    name, (asks, remedy) = _NAMES[hook], _FORMS[hook]

    def filled(text: str) -> str:
        return text.format(name=name, hook=hook, asks=asks, remedy=remedy)

    return tuple(
        replace(
            check,
            name=filled(check.name),
            asks=filled(check.asks),
            remedy=filled(check.remedy),
            after=tuple(map(filled, check.after)),
        )
        for check in _SHARED.of(Answers(bench, hook))
    )


_SHARED: Clauses[Answers] = Clauses()
"""Their texts are filled in for each hook."""


@_SHARED.clause("{name}", after=("parameters-stay",))
def _form(answers: Answers) -> None:
    """{asks}.

    {remedy}
    """
    _ = answers.first


@_SHARED.clause("{name}-inputs", after=("{name}",))
def _inputs(answers: Answers) -> None:
    """{hook} leaves its inputs as they were.

    Copy before you change: the corpus and the histories belong to the evaluation.
    """
    scene = small_scene()
    before = snapshot(scene)
    answers.fresh(scene)
    answers.bench.require(
        snapshot(scene) == before, f"fit, adapt and {answers.hook} must leave their inputs as they were"
    )


@_SHARED.clause("{name}-seeds", after=("{name}", "{name}-inputs"))
def _equal_seeds(answers: Answers) -> None:
    """Equal seeds give equal {hook}.

    Draw with personalllm.core.seeding.generator(self.seed, ...), not with np.random or random.
    """
    answers.bench.require(
        answers.agree(answers.fresh(answers.bench.scene)), f"equal seeds must give equal {answers.hook}"
    )


@_SHARED.clause("{name}-pickle", after=("{name}-seeds",))
def _pickles(answers: Answers) -> None:
    """A copy by pickle has equal {hook} after fit and adapt.

    Keep arrays and plain values, no lambda, generator or open file.
    """
    copy = answers.bench.copied(answers.bench.trained(answers.bench.scene), "after fit and adapt")
    answers.bench.require(answers.agree(answers.of(copy)), f"a pickled copy must have equal {answers.hook}")


@_SHARED.clause("{name}-saved", after=("{name}-seeds",))
def _saved(answers: Answers) -> None:
    """A copy by save and load_method has equal {hook}.

    Learn arrays, numbers, texts, and lists, tuples, dicts or dataclasses of these.
    """
    copy = answers.bench.reloaded(answers.bench.scene).adapt(answers.bench.scene.targets)
    answers.bench.require(answers.agree(answers.of(copy)), f"a saved copy must have equal {answers.hook}")


@_SHARED.clause("{name}-alone", after=("{name}-seeds",))
def _alone(answers: Answers) -> None:
    """The {hook} of a query are the same alone and in a batch.

    Do not normalise over the batch; derive draws from user and prompt, not from the place in the batch.
    """
    queries, trained, expected = answers.bench.scene.queries, answers.bench.trained(answers.bench.scene), answers.first
    answers.of(trained)
    for i in range(len(queries)):
        single = getattr(trained, answers.hook)(alone(queries, i))[0]
        agrees = close(single, expected[i]) if answers.hook == "utilities" else single == expected[i]
        message = f"the {answers.hook} of query {i} must not depend on the other queries"
        answers.bench.require(agrees, f"{message}: {single}, in the batch {expected[i]}")


@_SHARED.clause("{name}-refit", after=("{name}-seeds",))
def _refit(answers: Answers) -> None:
    """A second fit replaces the first.

    Start from nothing in fit and adapt.
    """
    again = answers.bench.trained(answers.bench.scene).fit(answers.bench.scene.pool).adapt(answers.bench.scene.targets)
    answers.bench.require(answers.agree(answers.of(again)), "a second fit must replace the first, not add to it")


@_SHARED.clause("{name}-bare", after=("{name}",))
def _bare(answers: Answers) -> None:
    """It answers without pool, without history, without queries.

    Handle n_users == 0, len(histories) == 0 and len(queries) == 0.
    """
    for scene in bare_scenes(answers.bench.scene):
        answers.fresh(scene)


@_SHARED.clause("{name}-odd-texts", after=("{name}",))
def _odd_texts(answers: Answers) -> None:
    """It answers to unicode, blank and very long texts.

    Assume nothing about a text's length or script; drop examples that do not fit, never the prompt.
    """
    answers.fresh(odd_scene())
