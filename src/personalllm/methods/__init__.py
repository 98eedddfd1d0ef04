"""Methods that learn from histories and rank or generate for one user; they see texts, never weights or scores."""

from personalllm.methods.base import HistoryRule, Method, Need, Track
from personalllm.methods.registry import get_method, list_methods, method_class, method_from_spec

__all__ = [
    "HistoryRule",
    "Method",
    "Need",
    "Track",
    "get_method",
    "list_methods",
    "method_class",
    "method_from_spec",
]
