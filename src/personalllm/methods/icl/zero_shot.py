"""`zero-shot`: the prompt alone, the chat model without any personalisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from personalllm.core.types import Conversation, Queries
from personalllm.methods.base import Method, Need
from personalllm.methods.parts.prompting import build_messages

__all__ = ["ZeroShot"]


@dataclass
class ZeroShot(Method):
    """Sends the prompt as it is, without a system turn (section 4 of the PersonalLLM paper, zero-shot)."""

    id: ClassVar[str] = "zero-shot"
    title: ClassVar[str] = "Zero-shot"
    paper: ClassVar[str] = "Zollo et al., PersonalLLM, arXiv 2409.20296, section 4"
    needs: ClassVar[frozenset[Need]] = frozenset({"llm"})

    def messages(self, queries: Queries) -> list[Conversation]:
        """Return one user turn for each query."""
        return [Conversation(build_messages(queries.corpus.messages(row), ())) for row in queries.prompt.tolist()]
