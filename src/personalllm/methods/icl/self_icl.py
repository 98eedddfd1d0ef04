"""`self-icl`: the user's own latest interactions, whatever they were about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from personalllm.core.types import Conversation, Histories, Queries
from personalllm.methods.base import Need
from personalllm.methods.parts.prompting import InContext

__all__ = ["SelfICL"]


@dataclass
class SelfICL(InContext):
    """Shows the user's feedback on the latest `n_shots` of their n interactions, those n - n_shots + 1 to n.

    The history is of random prompts, so it tells the user's taste but nothing about the prompt at hand. Later
    interactions count as more relevant (section 4, self-ICL; the paper shows winning responses only).

    Args:
        n_shots: Examples shown, >= 1.
        feedback: `winning`, `losing`, `winning-and-losing` or `losing-as-winning` (mislabelled).
        layout: `text` (one user turn, as in the paper) or `turns` (only where all that is shown is shown as liked).
        max_history_tokens: Most tokens of history in the prompt.
        reply_tokens: Room in the context window that is left to the reply.
    """

    id: ClassVar[str] = "self-icl"
    title: ClassVar[str] = "Self-ICL"
    paper: ClassVar[str] = "Zollo et al., PersonalLLM, arXiv 2409.20296, section 4 (self-ICL)"
    needs: ClassVar[frozenset[Need]] = frozenset({"llm"})

    def adapt(self, histories: Histories) -> Self:
        """Keep the target users' histories."""
        self.histories_ = histories
        return self

    def messages(self, queries: Queries) -> list[Conversation]:
        """Return the user's latest interactions and the prompt, for each query."""
        offsets = self.histories_.offsets
        conversations = []
        for user, row in zip(queries.user.tolist(), queries.prompt.tolist(), strict=True):
            stop = int(offsets[user + 1])
            latest = range(stop - 1, max(int(offsets[user]), stop - self.n_shots) - 1, -1)
            conversations.append(self.converse(queries.corpus.messages(row), self.histories_, latest))
        return conversations
