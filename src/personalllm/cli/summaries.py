"""Describe the built-in methods without importing them, so that `personalllm list` starts fast.

A test compares this table with the classes.
"""

from __future__ import annotations

__all__ = ["METHODS"]

METHODS: dict[str, tuple[str, str, str]] = {
    "calibrated-bayes": ("Calibrated Bayes on text and embedding", "utilities", "embedder"),
    "embedding-ranker": ("Embedding ranker", "utilities", "embedder"),
    "gpo": ("Group preference optimisation", "utilities", "embedder"),
    "hierarchical-bt": ("Hierarchical Bayes Bradley-Terry", "utilities", "embedder"),
    "icl": ("ICL", "messages", "embedder llm"),
    "longest": ("Longest", "utilities", ""),
    "lookup-icl": ("Look-up ICL", "messages", "embedder llm"),
    "lore": ("LoRe: low-rank reward basis", "utilities", "embedder"),
    "matrix-factorisation": ("Matrix factorisation", "utilities", "embedder"),
    "meta-icl": ("Meta-ICL", "messages", "embedder llm"),
    "mrm": ("Meta reward modelling", "utilities", "embedder"),
    "nearest-users": ("Nearest users", "utilities", "embedder"),
    "pal": ("PAL, a mixture of prototypes", "utilities", "embedder"),
    "pooled-bt": ("Pooled Bradley-Terry", "utilities", "embedder"),
    "pooled-ranker": ("Pooled ranker", "utilities", "embedder"),
    "pref": ("PReF: reward factorisation", "utilities", "embedder"),
    "random": ("Random", "utilities", ""),
    "rm-mixture": ("Mixture of reward models", "utilities", "signals"),
    "self-icl": ("Self-ICL", "messages", "llm"),
    "spl": ("Swap-guided preference learning", "utilities", "embedder"),
    "user-bt": ("Bradley-Terry per user", "utilities", "embedder"),
    "vpl": ("Variational preference learning", "utilities", "embedder"),
    "zero-shot": ("Zero-shot", "messages", "llm"),
}
"""Name -> title, what it implements, and what it needs, separated by spaces."""
