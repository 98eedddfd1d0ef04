"""`icl`: the user's own feedback on the prompts most like the one at hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from personalllm.core.types import Conversation, Histories, Queries
from personalllm.methods.base import HistoryRule, Need
from personalllm.methods.parts.prompting import InContext
from personalllm.methods.parts.retrieval import similarities, top_rows
from personalllm.methods.parts.vectors import embed_prompts

__all__ = ["ICL"]


@dataclass
class ICL(InContext):
    """Shows the user's feedback on the `n_shots` interactions whose prompts are nearest to the query's prompt.

    Nearest by `cos(e(prompt_i), e(query))`, e the embedding; ties go to the earlier interaction. It is evaluated with
    the user's feedback on the nearest train prompts, so it says how far in-context learning gets when the history is
    as relevant as it can be (section 4, personalised ICL: winning only, losing only, both, losing mislabelled).

    Args:
        n_shots: Examples shown, >= 1.
        feedback: `winning`, `losing`, `winning-and-losing` or `losing-as-winning` (mislabelled).
        layout: `text` (one user turn, as in the paper) or `turns` (only where all that is shown is shown as liked).
        max_history_tokens: Most tokens of history in the prompt.
        reply_tokens: Room in the context window that is left to the reply.
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
        """Return the nearest interactions and the prompt, for each query."""
        offsets = self.histories_.offsets
        query_vectors, index = embed_prompts(self.embedder, queries.corpus, queries.prompt)
        conversations = []
        for i, (user, row) in enumerate(zip(queries.user.tolist(), queries.prompt.tolist(), strict=True)):
            rows = slice(int(offsets[user]), int(offsets[user + 1]))
            near = similarities(query_vectors[index[i]][None, :], self.vectors_[self.place_[rows]])
            nearest = top_rows(near, self.n_shots)[0] + rows.start
            conversations.append(self.converse(queries.corpus.messages(row), self.histories_, nearest.tolist()))
        return conversations
