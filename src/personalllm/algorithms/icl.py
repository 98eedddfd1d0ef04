"""`icl`: the user's own feedback on the prompts most like the one at hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from personalllm.algorithms._prompting import InContext, liked
from personalllm.algorithms._retrieval import similarities, top_rows
from personalllm.algorithms._vectors import embed_prompts
from personalllm.algorithms.base import HistoryRule, Need
from personalllm.types import Conversation, Histories, Queries

__all__ = ["ICL"]


@dataclass
class ICL(InContext):
    """Shows the chosen responses of the `n_shots` interactions whose prompts are nearest to the query's prompt.

    Nearest by the cosine of prompt embeddings. It is evaluated with the user's feedback on the nearest train prompts,
    so it says how far in-context learning gets when the history is as relevant as it can be (section 4, personalised
    ICL, winning only).
    """

    id: ClassVar[str] = "icl"
    title: ClassVar[str] = "ICL"
    paper: ClassVar[str] = "Zollo et al., PersonalLLM, arXiv 2409.20296, section 4 (personalised ICL)"
    needs: ClassVar[frozenset[Need]] = frozenset({"embedder", "llm"})
    history: ClassVar[HistoryRule] = "nearest"

    def adapt(self, histories: Histories) -> Self:
        """Embed the prompts of the target users' histories."""
        self.histories_ = histories
        self.vectors_, self.place_ = embed_prompts(self.embedder, histories.corpus, histories.prompt)
        return self

    def messages(self, queries: Queries) -> list[Conversation]:
        """Return the nearest liked responses and the prompt, for each query."""
        history, offsets = self.histories_, self.histories_.offsets
        asked, place = embed_prompts(self.embedder, queries.corpus, queries.prompt)
        conversations = []
        for i, (user, row) in enumerate(zip(queries.user.tolist(), queries.prompt.tolist(), strict=True)):
            own = slice(int(offsets[user]), int(offsets[user + 1]))
            near = similarities(asked[place[i]][None, :], self.vectors_[self.place_[own]])
            nearest = top_rows(near, self.n_shots)[0] + own.start
            examples = [liked(history, j) for j in nearest.tolist()]
            conversations.append(self.converse(queries.corpus.prompts[row], examples))
        return conversations
