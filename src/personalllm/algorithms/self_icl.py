"""`self-icl`: the user's own latest interactions, whatever they were about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from personalllm.algorithms._prompting import InContext, liked
from personalllm.algorithms.base import Need
from personalllm.types import Conversation, Histories, Queries

__all__ = ["SelfICL"]


@dataclass
class SelfICL(InContext):
    """Shows the chosen responses of the user's `n_shots` latest interactions (section 4, self-ICL, winning only).

    The history is of random prompts, so it tells the user's taste but nothing about the prompt at hand. Later
    interactions count as more relevant.
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
        """Return the user's latest liked responses and the prompt, for each query."""
        history, offsets = self.histories_, self.histories_.offsets
        conversations = []
        for user, row in zip(queries.user.tolist(), queries.prompt.tolist(), strict=True):
            stop = int(offsets[user + 1])
            latest = range(stop - 1, max(int(offsets[user]), stop - self.n_shots) - 1, -1)
            examples = [liked(history, i) for i in latest]
            conversations.append(self.converse(queries.corpus.prompts[row], examples))
        return conversations
