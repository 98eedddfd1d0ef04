"""The base of the methods that learn from comparisons."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from personalllm.methods.base import OFF, Method, Need

__all__ = ["PreferenceLearner"]


@dataclass
class PreferenceLearner(Method):
    """Base of the methods that learn from comparisons and predict the log-odds of others.

    Who names the best and the worst of eight responses says 13 comparisons at once. They are not independent: all share
    the best or the worst response, so in most models those that are implied count as one together (`implied_count`).

    Args:
        implied: Whether to learn from what the best and the worst of several responses say about the others too.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"embedder"})
    log_odds: ClassVar[bool] = True
    implied_count: ClassVar[float] = 1.0

    implied: bool = field(default=True, kw_only=True, metadata={OFF: False})

    @property
    def together(self) -> float:
        """How much the comparisons that a preference implies count together; 0 if they are not used."""
        return self.implied_count if self.implied else 0.0
