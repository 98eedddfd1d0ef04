"""What the messages to a chat model must keep to."""

from __future__ import annotations

from typing import Any

from personalllm.core.types import Conversation
from personalllm.testing._bench import Bench, bare_scenes
from personalllm.testing._checks import Clauses
from personalllm.testing._scenes import Scene, alone, odd_scene, permuted, small_scene, snapshot

__all__ = ["MESSAGES", "MESSAGES_PERSONAL"]

MESSAGES: Clauses[Bench] = Clauses()
MESSAGES_PERSONAL: Clauses[Bench] = Clauses()
"""For those that learn from the target users' histories."""


def _check_conversations(bench: Bench, asked: list[Conversation], scene: Scene) -> None:
    n = len(scene.queries)
    bench.require(len(asked) == n, f"messages must return one conversation for each of {n} queries, got {len(asked)}")
    for row, conversation in zip(scene.queries.prompt.tolist(), asked, strict=True):
        bench.require(
            isinstance(conversation, Conversation), f"messages must return Conversations, got {conversation!r}"
        )
        turns = conversation.messages
        bench.require(type(turns) is tuple and len(turns), "a conversation holds a non-empty tuple of turns")
        bench.require(turns[-1].role == "user", f"the last turn is the user's, got {turns[-1].role!r}")
        prompt = scene.queries.corpus.prompts[row]
        bench.require(prompt in turns[-1].content, "the last turn must hold the prompt of the query, whole")
        counts = (conversation.n_examples, conversation.n_dropped)
        bench.require(min(counts) >= 0, f"n_examples and n_dropped must be >= 0, got {counts}")


@MESSAGES.clause(
    "messages",
    "messages returns one Conversation for each query, with the whole prompt in the user's last turn.",
    "Return Conversation(messages=(..., Message('user', ... + prompt)), n_examples=..., n_dropped=...).",
    after=("parameters-stay",),
)
def _asks(bench: Bench) -> None:
    _check_conversations(bench, bench.conversations, bench.scene)


@MESSAGES.clause(
    "messages-inputs",
    "Asking leaves its inputs as they were.",
    "Copy before you change: the corpus and the histories belong to the evaluation.",
    after=("messages",),
)
def _messages_leave_inputs(bench: Bench) -> None:
    scene = small_scene()
    before = snapshot(scene)
    bench.asked(scene)
    bench.require(snapshot(scene) == before, "fit, adapt and messages must leave their inputs as they were")


@MESSAGES.clause(
    "messages-seeds",
    "Equal seeds give equal messages.",
    "Draw with personalllm.core.seeding.generator(self.seed, ...), not with np.random or random.",
    after=("messages", "messages-inputs"),
)
def _messages_equal_seeds(bench: Bench) -> None:
    bench.require(bench.asked(bench.scene) == bench.conversations, "equal seeds must give equal messages")


@MESSAGES.clause(
    "messages-pickle",
    "A copy by pickle asks alike after fit and adapt.",
    "Keep arrays and plain values, no lambda, generator or open file.",
    after=("messages-seeds",),
)
def _messages_pickle(bench: Bench) -> None:
    copy = bench.copied(bench.trained(bench.scene), "after fit and adapt")
    asked = copy.messages(bench.scene.queries)
    bench.require(asked == bench.conversations, "a pickled copy must ask alike after fit and adapt")


@MESSAGES.clause(
    "messages-saved",
    "A copy by save and load_method asks alike.",
    "Learn arrays, numbers, texts, and lists, tuples, dicts or dataclasses of these.",
    after=("messages-seeds",),
)
def _messages_saved(bench: Bench) -> None:
    asked = bench.reloaded(bench.scene).adapt(bench.scene.targets).messages(bench.scene.queries)
    bench.require(asked == bench.conversations, "a saved and loaded copy must ask alike")


@MESSAGES.clause(
    "messages-alone",
    "A query's messages are the same alone and in a batch.",
    "Derive draws from the query (user and prompt), not from its place in the batch.",
    after=("messages-seeds",),
)
def _messages_alone(bench: Bench) -> None:
    trained = bench.trained(bench.scene)
    trained.messages(bench.scene.queries)
    for i in range(len(bench.scene.queries)):
        single = trained.messages(alone(bench.scene.queries, i))
        same = single == [bench.conversations[i]]
        bench.require(same, f"the messages of query {i} must not depend on the other queries")


@MESSAGES.clause(
    "messages-refit",
    "A second fit replaces the first.",
    "Start from nothing in fit and adapt.",
    after=("messages-seeds",),
)
def _messages_refit(bench: Bench) -> None:
    scene, trained = bench.scene, bench.trained(bench.scene)
    again = trained.fit(scene.pool).adapt(scene.targets).messages(scene.queries)
    bench.require(again == bench.conversations, "a second fit must replace the first, not add to it")


@MESSAGES.clause(
    "messages-order",
    "The order of the responses does not change the messages.",
    "Show texts, never the number of a response's column: columns are shuffled.",
    after=("messages-seeds",),
)
def _messages_order_of_responses(bench: Bench) -> None:
    moved, _ = permuted(bench.scene)
    same = bench.asked(moved) == bench.conversations
    bench.require(same, "the order of the responses in the corpus must not change the messages")


@MESSAGES.clause(
    "messages-bare",
    "It asks without pool, without history, without queries.",
    "Handle n_users == 0, len(histories) == 0 and len(queries) == 0.",
    after=("messages",),
)
def _messages_without_history(bench: Bench) -> None:
    for bare in bare_scenes(bench.scene):
        _check_conversations(bench, bench.asked(bare), bare)


@MESSAGES.clause(
    "messages-odd-texts",
    "It asks with unicode, blank and very long texts.",
    "Drop examples that do not fit, never the prompt.",
    after=("messages",),
)
def _messages_odd_texts(bench: Bench) -> None:
    scene = odd_scene()
    _check_conversations(bench, bench.asked(scene), scene)


@MESSAGES_PERSONAL.clause(
    "tells-users-apart",
    "Users of opposite tastes get different messages, since it learns from their histories.",
    "Put something of the user's own history into the messages, or leave adapt alone.",
    after=("messages",),
)
def _tells_users_apart(bench: Bench) -> None:
    scene = bench.planted
    asked = bench.asked(scene)
    by_prompt: dict[int, set[tuple[Any, ...]]] = {}
    for row, conversation in zip(scene.queries.prompt.tolist(), asked, strict=True):
        by_prompt.setdefault(row, set()).add(conversation.messages)
    bench.require(
        any(len(different) > 1 for different in by_prompt.values()),
        "it overrides adapt but asks the same for users with opposite tastes",
    )
