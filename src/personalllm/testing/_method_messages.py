"""Check the messages of a method to a chat model."""

from __future__ import annotations

from typing import Any

from personalllm.testing._bench import Bench
from personalllm.testing._checks import Clauses
from personalllm.testing._scenes import permuted

__all__ = ["MESSAGES", "MESSAGES_PERSONAL"]

MESSAGES: Clauses[Bench] = Clauses()
MESSAGES_PERSONAL: Clauses[Bench] = Clauses()
"""For those that learn from the target users' histories."""


@MESSAGES.clause("messages-order", after=("messages-seeds",))
def _messages_order_of_responses(bench: Bench) -> None:
    """The order of the responses does not change the messages.

    Show texts, never the number of a response's column: columns are shuffled.
    """
    moved, _ = permuted(bench.scene)
    same = bench.answers("messages", moved) == bench.first("messages")
    bench.require(same, "the order of the responses in the corpus must not change the messages")


@MESSAGES_PERSONAL.clause("tells-users-apart", after=("messages",))
def _tells_users_apart(bench: Bench) -> None:
    """Users of opposite tastes get different messages, since it learns from their histories.

    Put something of the user's own history into the messages, or leave adapt alone.
    """
    scene = bench.planted
    result = bench.answers("messages", scene)
    by_prompt: dict[int, set[tuple[Any, ...]]] = {}
    for row, conversation in zip(scene.queries.prompt.tolist(), result, strict=True):
        by_prompt.setdefault(row, set()).add(conversation.messages)
    bench.require(
        any(len(different) > 1 for different in by_prompt.values()),
        "it overrides adapt but asks the same for users with opposite tastes",
    )
