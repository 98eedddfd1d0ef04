"""The contract of an algorithm, as checks."""

from __future__ import annotations

from typing import Any

from personalllm.algorithms.base import Algorithm
from personalllm.protocols import ChatModel, TextEmbedder
from personalllm.testing._algorithm_made import MADE
from personalllm.testing._algorithm_messages import MESSAGES, MESSAGES_PERSONAL
from personalllm.testing._algorithm_rank import LOG_ODDS, RANK, RANK_PERSONAL
from personalllm.testing._bench import Bench
from personalllm.testing._checks import Check, require_all
from personalllm.testing._standins import EchoChatModel, HashEmbedder

__all__ = ["algorithm_checks", "check_algorithm"]


def check_algorithm(
    cls: type[Algorithm],
    params: dict[str, Any] | None = None,
    *,
    embedder: TextEmbedder | None = None,
    llm: ChatModel | None = None,
) -> None:
    """Raise `AssertionError` unless a class keeps the contract of `personalllm.algorithms.Algorithm`.

    Checked: declarations; spec and pickle round trips; equal results of equal seeds; results that do not depend on the
    other queries, on the order of the responses or on an earlier fit; users and pools without history; unicode, blank
    and very long texts; inputs left as they were. A class that overrides `adapt` claims to personalise: its ranking
    must serve planted users with opposite tastes better than any non-personalised one could, its messages must differ
    between users. Where differences of scores are log-odds, unknown users of opposite tastes must not be predicted
    with confidence.

    Args:
        cls: The class, a dataclass.
        params: Parameters to build it with; by default its `example_params()`.
        embedder: By default `HashEmbedder()`.
        llm: By default `EchoChatModel()`.

    >>> from personalllm.algorithms import load_algorithm
    >>> check_algorithm(load_algorithm("longest"))
    """
    require_all(algorithm_checks(cls, params, embedder=embedder, llm=llm))


def algorithm_checks(
    cls: type[Algorithm],
    params: dict[str, Any] | None = None,
    *,
    embedder: TextEmbedder | None = None,
    llm: ChatModel | None = None,
) -> tuple[Check, ...]:
    """Return the clauses of `check_algorithm`, each by itself, in the order in which it runs them.

    >>> from personalllm.algorithms import load_algorithm
    >>> [check.name for check in algorithm_checks(load_algorithm("longest"))][:3]
    ['dataclass', 'id-and-title', 'needs-and-history']
    """
    bench = Bench(
        cls, cls.example_params() if params is None else params, embedder or HashEmbedder(), llm or EchoChatModel()
    )
    tracks = cls.tracks()
    ranks = "rank" in tracks or "predict" in tracks
    wanted = [MADE]
    if ranks:
        wanted.append(RANK)
    if "generate" in tracks:
        wanted.append(MESSAGES)
    if cls.adapt is not Algorithm.adapt:
        wanted += [RANK_PERSONAL] if ranks else []
        wanted += [MESSAGES_PERSONAL] if "generate" in tracks else []
    if ranks and cls.log_odds:
        wanted.append(LOG_ODDS)
    return tuple(check for clauses in wanted for check in clauses.of(bench))
