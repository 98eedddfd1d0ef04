"""The prompts of in-context personalisation: liked responses shown before the new prompt, within a token budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from personalllm.algorithms.base import Algorithm
from personalllm.protocols import ChatModel
from personalllm.types import Conversation, Histories, Message

__all__ = ["Example", "InContext", "build_messages", "fit_examples", "liked"]

OWN = "Below are earlier prompts of this user, each with a response that the user liked."
SIMILAR = "Below are prompts of users with the same taste as this user, each with a response that they liked."
_INSTRUCTION = "Answer the last prompt with a response that this user will like as much."


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and the response that a user liked."""

    prompt: str
    liked: str


def liked(history: Histories, row: int) -> Example:
    """Return the prompt and the chosen response of one interaction."""
    prompt = int(history.prompt[row])
    return Example(history.corpus.prompts[prompt], history.corpus.responses[prompt][int(history.chosen[row])])


def build_messages(prompt: str, examples: Sequence[Example], lead: str = OWN) -> tuple[Message, ...]:
    """Return the turns: a line on what follows, each example as a user and an assistant turn, the new prompt.

    The examples are turns rather than text in one turn, because small chat models copy labels and headings into their
    replies but keep to the form of their own earlier turns.

    Args:
        prompt: What the user asks now.
        examples: Most relevant first; they are shown in reverse, so that the most relevant stands next to the prompt.
        lead: A line that says what the examples are.

    Returns:
        `2 n_examples + 2` turns; the prompt alone if there are no examples.

    >>> [turn.role for turn in build_messages("And now?", [Example("What first?", "This.")])]
    ['system', 'user', 'assistant', 'user']
    """
    asked = Message("user", prompt)
    if not examples:
        return (asked,)
    turns = [Message("system", f"{lead} {_INSTRUCTION}")]
    for example in reversed(examples):
        turns += [Message("user", example.prompt), Message("assistant", example.liked)]
    return (*turns, asked)


def fit_examples(
    llm: ChatModel, prompt: str, examples: Sequence[Example], *, lead: str, max_history_tokens: int, reply_tokens: int
) -> Conversation:
    """Return the conversation with as many examples as the budget holds, whole, the least relevant dropped first.

    The history costs `count(messages with examples) - count(prompt alone)` tokens, counted by the model itself; its
    budget is `min(max_history_tokens, context_length - count(prompt alone) - reply_tokens)`.

    Args:
        llm: Counts the tokens.
        prompt: What the user asks now.
        examples: Most relevant first.
        lead: A line that says what the examples are.
        max_history_tokens: Most tokens of history.
        reply_tokens: Room in the context window that is left to the reply.
    """
    if not examples:
        return Conversation(build_messages(prompt, ()))
    alone = llm.count_tokens(build_messages(prompt, ()))
    limit = alone + min(max_history_tokens, llm.context_length - alone - reply_tokens)
    fits, too_many = 0, len(examples) + 1
    trial = len(examples)
    while fits + 1 < too_many:
        if llm.count_tokens(build_messages(prompt, examples[:trial], lead)) <= limit:
            fits = trial
        else:
            too_many = trial
        trial = (fits + too_many) // 2
    return Conversation(build_messages(prompt, examples[:fits], lead), fits, len(examples) - fits)


@dataclass
class InContext(Algorithm):
    """Parameters that the in-context algorithms share.

    Args:
        n_shots: Examples shown, >= 1.
        max_history_tokens: Most tokens of history in the prompt (7,000 in section 4 of the PersonalLLM paper).
        reply_tokens: Room in the context window that is left to the reply (512 in the paper).
    """

    n_shots: int = 3
    max_history_tokens: int = 7_000
    reply_tokens: int = 512

    def __post_init__(self) -> None:
        self.check_positive("n_shots", "max_history_tokens", "reply_tokens")

    @classmethod
    def example_params(cls) -> dict[str, Any]:
        """Two examples are enough to see them chosen and ordered."""
        return {"n_shots": 2}

    def converse(self, prompt: str, examples: Sequence[Example], lead: str = OWN) -> Conversation:
        """Return the conversation for one prompt; examples most relevant first."""
        return fit_examples(
            self.llm,
            prompt,
            examples,
            lead=lead,
            max_history_tokens=self.max_history_tokens,
            reply_tokens=self.reply_tokens,
        )
