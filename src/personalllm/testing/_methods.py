"""The contract of a method, as checks."""

from __future__ import annotations

from typing import Any

from personalllm.core.protocols import ChatModel, TextEmbedder
from personalllm.methods.base import Method
from personalllm.testing._bench import Bench
from personalllm.testing._checks import Check, require_all
from personalllm.testing._method_answers import answer_checks
from personalllm.testing._method_asking import ASKING
from personalllm.testing._method_made import MADE
from personalllm.testing._method_messages import MESSAGES, MESSAGES_PERSONAL
from personalllm.testing._method_rank import LOG_ODDS, RANK, RANK_PERSONAL
from personalllm.testing._standins import EchoChatModel, HashEmbedder

__all__ = ["check_method", "method_checks"]


def check_method(
    cls: type[Method],
    params: dict[str, Any] | None = None,
    *,
    embedder: TextEmbedder | None = None,
    llm: ChatModel | None = None,
) -> None:
    """Raise `AssertionError` unless a class keeps the contract of `personalllm.methods.Method`.

    Checked: declarations; round trips by spec, pickle and save; equal results of equal seeds; results that do not
    depend on the other queries, on the order of the responses or on an earlier fit; users and pools without history;
    prompts with different numbers of responses; unicode, blank and very long texts; inputs left as they were; named
    users who get what `adapt` gives. A class that overrides `adapt` claims to personalise: its ranking must serve
    planted users with opposite tastes better than any non-personalised one could, its messages must differ between
    users. Where differences of utilities are log-odds, unknown users of opposite tastes must not be predicted with
    confidence. A policy asks users about their own prompts, and the same again with the same seed.

    Args:
        cls: The class, a dataclass.
        params: Parameters to build it with; by default its `example_params()`.
        embedder: By default `HashEmbedder()`.
        llm: By default `EchoChatModel()`.

    >>> from personalllm.methods import method_class
    >>> check_method(method_class("longest"))
    """
    require_all(method_checks(cls, params, embedder=embedder, llm=llm))


def method_checks(
    cls: type[Method],
    params: dict[str, Any] | None = None,
    *,
    embedder: TextEmbedder | None = None,
    llm: ChatModel | None = None,
) -> tuple[Check, ...]:
    """Return the clauses of `check_method`, each by itself, in the order in which it runs them.

    >>> from personalllm.methods import method_class
    >>> [check.name for check in method_checks(method_class("longest"))][:3]
    ['dataclass', 'id', 'needs-and-history']
    """
    bench = Bench(
        cls, cls.example_params() if params is None else params, embedder or HashEmbedder(), llm or EchoChatModel()
    )
    personal = cls.implements("adapt")
    checks = MADE.of(bench)
    if cls.implements("utilities"):
        checks += answer_checks(bench, "utilities") + RANK.of(bench)
        checks += RANK_PERSONAL.of(bench) if personal else ()
        checks += LOG_ODDS.of(bench) if cls.log_odds else ()
    if cls.implements("messages"):
        checks += answer_checks(bench, "messages") + MESSAGES.of(bench)
        checks += MESSAGES_PERSONAL.of(bench) if personal else ()
    if cls.implements("next_query"):
        checks += ASKING.of(bench)
    return checks
