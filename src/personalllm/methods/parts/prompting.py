"""The prompts of in-context personalisation: feedback shown before the new prompt, within a token budget."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal, get_args

from personalllm.core.errors import ParameterError
from personalllm.core.protocols import ChatModel
from personalllm.core.types import Conversation, Histories, Message
from personalllm.methods.base import Method

__all__ = ["Example", "Feedback", "InContext", "Layout", "build_messages", "fit_examples", "shown_example"]

Feedback = Literal["winning", "losing", "winning-and-losing", "losing-as-winning"]
Layout = Literal["text", "turns"]
Whose = Literal["own", "similar"]

_AS_LIKED = ("winning", "losing-as-winning")
_LEAD: dict[Whose, str] = {
    "own": "Here are prompts that I asked before, each with",
    "similar": "Here are prompts that people with my taste asked before, each with",
}
_WHO: dict[Whose, str] = {"own": "I", "similar": "they"}
_SHOWN = {
    (True, False): "a response that {who} liked.",
    (False, True): "a response that {who} disliked.",
    (True, True): "a response that {who} liked and a response that {who} disliked.",
}
_TASK = {
    (True, False): "Now respond to the following in a way that I will like as much.",
    (False, True): "Now respond to the following in another way, one that I will not dislike.",
    (True, True): "Now respond to the following as in the responses liked, and unlike those disliked.",
}
_LINE_ENDS = re.compile("(\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029])")
_INDENT = "  "


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt with what is shown of the feedback on it.

    Attributes:
        prompt: What was asked.
        liked: The response shown as liked, or None.
        disliked: The response shown as disliked, or None.
    """

    prompt: str
    liked: str | None = None
    disliked: str | None = None


def shown_example(history: Histories, row: int, feedback: Feedback) -> Example:
    """Return one interaction as a feedback mode shows it.

    `losing-as-winning` gives the rejected response out as the liked one; nothing in the example tells.
    """
    prompt = int(history.prompt[row])
    responses = history.corpus.responses[prompt]
    chosen, rejected = responses[int(history.chosen[row])], responses[int(history.rejected[row])]
    text = history.corpus.prompts[prompt]
    if feedback == "winning":
        return Example(text, liked=chosen)
    if feedback == "losing":
        return Example(text, disliked=rejected)
    if feedback == "losing-as-winning":
        return Example(text, liked=rejected)
    return Example(text, liked=chosen, disliked=rejected)


def build_messages(
    prompt: str | tuple[Message, ...], examples: Sequence[Example], *, whose: Whose = "own", layout: Layout = "text"
) -> tuple[Message, ...]:
    """Return the turns: a line on what the examples are, the examples, an instruction, the new prompt.

    Layout `text` is the paper's: all of it in one user turn, in the user's voice. Every line of an example's texts is
    indented, so none can pass for a label or for the instruction, and what follows the instruction is the prompt as it
    was given. Layout `turns` shows each example as a user and an assistant turn, behind a system turn with the line and
    the instruction; only responses shown as liked can stand there. A prompt with turns before it stays a conversation:
    what comes before the prompt comes before its first user turn.

    Args:
        prompt: What the user asks now, or the conversation that ends with it.
        examples: Most relevant first; they are shown in reverse, so that the most relevant stands next to the prompt.
            All show the same sides.
        whose: Whether the examples are the user's own or those of similar users.
        layout: `text` or `turns`.

    Returns:
        The prompt alone if there are no examples; else one turn (`text`) or `2 n_examples + 2` (`turns`), and the turns
        before the prompt.

    >>> print(build_messages("And now?", [Example("What first?", "This.", "That.")])[0].content)
    Here are prompts that I asked before, each with a response that I liked and a response that I disliked.
    <BLANKLINE>
    Prompt:
      What first?
    Response liked:
      This.
    Response disliked:
      That.
    <BLANKLINE>
    Now respond to the following as in the responses liked, and unlike those disliked.
    <BLANKLINE>
    And now?
    """
    asked = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    if not examples:
        return asked
    sides = (examples[0].liked is not None, examples[0].disliked is not None)
    lead = f"{_LEAD[whose]} {_SHOWN[sides].format(who=_WHO[whose])}"
    if layout == "turns":
        system = f"{lead} {_TASK[sides]}"
        if asked[0].role == "system":
            system, asked = f"{system}\n\n{asked[0].content}", asked[1:]
        turns = [Message("system", system)]
        for example in reversed(examples):
            turns += [Message("user", example.prompt), Message("assistant", example.liked or "")]
        return (*turns, *asked)
    blocks = [_block(example) for example in reversed(examples)]
    first = next(at for at, turn in enumerate(asked) if turn.role == "user")
    whole = Message("user", "\n\n".join([lead, *blocks, _TASK[sides], asked[first].content]))
    return (*asked[:first], whole, *asked[first + 1 :])


def _block(example: Example) -> str:
    """Return the text of one example."""
    parts = (("Prompt", example.prompt), ("Response liked", example.liked), ("Response disliked", example.disliked))
    return "\n".join(f"{label}:\n{_indented(text)}" for label, text in parts if text is not None)


def _indented(text: str) -> str:
    """Return the text with every line indented."""
    return _INDENT + _LINE_ENDS.sub(lambda end: end[0] + _INDENT, text)


def fit_examples(
    llm: ChatModel,
    prompt: str | tuple[Message, ...],
    examples: Sequence[Example],
    *,
    max_history_tokens: int,
    reply_tokens: int,
    whose: Whose = "own",
    layout: Layout = "text",
) -> Conversation:
    """Return the conversation with as many examples as the budget holds, whole, the least relevant dropped first.

    The history costs `count(messages with examples) - count(prompt alone)` tokens, counted by the model itself; its
    budget is `min(max_history_tokens, context_length - count(prompt alone) - reply_tokens)`. One count is enough where
    all examples fit for certain, two where they fit; else the lengths in characters say where to look for the cut.

    Args:
        llm: Counts the tokens.
        prompt: What the user asks now, or the conversation that ends with it.
        examples: Most relevant first.
        max_history_tokens: Most tokens of history.
        reply_tokens: Room in the context window that is left to the reply.
        whose: Whether the examples are the user's own or those of similar users.
        layout: `text` or `turns`.
    """

    def built(n: int) -> tuple[Message, ...]:
        return build_messages(prompt, examples[:n], whose=whose, layout=layout)

    room = llm.context_length - reply_tokens
    total = len(examples)
    if not total:
        return Conversation(built(0))
    tokens = {total: llm.count_tokens(built(total))}
    if tokens[total] <= min(max_history_tokens, room):
        return Conversation(built(total), total)
    tokens[0] = llm.count_tokens(built(0))
    limit = min(tokens[0] + max_history_tokens, room)
    fits = total if tokens[total] <= limit else _cut(examples, tokens, limit, lambda n: llm.count_tokens(built(n)))
    return Conversation(built(fits), fits, total - fits)


def _cut(examples: Sequence[Example], tokens: dict[int, int], limit: int, count: Callable[[int], int]) -> int:
    """Return the most examples whose messages have at most `limit` tokens, in few counts.

    Args:
        examples: Most relevant first.
        tokens: Tokens with no example and with all of them; filled in as more are counted.
        limit: Most tokens.
        count: Counts the tokens with the first n examples.
    """
    lengths = [sum(len(text or "") for text in (e.prompt, e.liked, e.disliked)) for e in examples]
    size = [0, *accumulate(lengths)]
    fits, too_many, step = 0, len(examples), 0
    while fits + 1 < too_many and tokens[0] < limit:
        share = (limit - tokens[fits]) / (tokens[too_many] - tokens[fits])
        guess = bisect_right(size, size[fits] + share * (size[too_many] - size[fits])) - 1
        step += 1
        trial = (fits + too_many) // 2 if step % 3 == 0 else min(max(guess, fits + 1), too_many - 1)
        tokens[trial] = count(trial)
        if tokens[trial] <= limit:
            fits = trial
        else:
            too_many = trial
    return fits


@dataclass
class InContext(Method):
    """Parameters that the in-context methods share.

    Args:
        n_shots: Examples shown, >= 1.
        feedback: What is shown of each example: the `winning` response as liked, the `losing` one as disliked, both
            (`winning-and-losing`), or the losing one as if it had been liked (`losing-as-winning`, a counterfactual).
        layout: `text`, all in one user turn as in the paper, or `turns`, each example a user and an assistant turn
            (only where what is shown is shown as liked).
        max_history_tokens: Most tokens of history in the prompt (7,000 in section 4 of the PersonalLLM paper).
        reply_tokens: Room in the context window that is left to the reply (512 in the paper).

    Raises:
        ParameterError: If a value is outside its range, or the layout cannot show the feedback.
    """

    n_shots: int = 3
    feedback: Feedback = "winning"
    layout: Layout = "text"
    max_history_tokens: int = 7_000
    reply_tokens: int = 512

    def __post_init__(self) -> None:
        self.check_positive("n_shots", "max_history_tokens", "reply_tokens")
        self.check_one_of("feedback", get_args(Feedback))
        self.check_one_of("layout", get_args(Layout))
        if self.layout == "turns" and self.feedback not in _AS_LIKED:
            raise ParameterError("layout", f"'text' where feedback is {self.feedback!r}", self.layout)

    @classmethod
    def example_params(cls) -> dict[str, Any]:
        """Two examples are enough to see them chosen and ordered."""
        return {"n_shots": 2}

    def converse(
        self, prompt: tuple[Message, ...], history: Histories, rows: Sequence[int], whose: Whose = "own"
    ) -> Conversation:
        """Return the conversation for one prompt; rows of the history most relevant first."""
        return fit_examples(
            self.llm,
            prompt,
            [shown_example(history, row, self.feedback) for row in rows],
            max_history_tokens=self.max_history_tokens,
            reply_tokens=self.reply_tokens,
            whose=whose,
            layout=self.layout,
        )
