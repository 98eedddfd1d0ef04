"""Algorithms that learn from histories and rank or generate for one user; they see texts, never weights or scores."""

from personalllm.algorithms.base import Algorithm, HistoryRule, Need, Track
from personalllm.algorithms.registry import algorithm_from_spec, get_algorithm, list_algorithms, load_algorithm

__all__ = [
    "Algorithm",
    "HistoryRule",
    "Need",
    "Track",
    "algorithm_from_spec",
    "get_algorithm",
    "list_algorithms",
    "load_algorithm",
]
