"""Embedders, chat models and reward ensembles by name: listed without importing them; plug-ins add theirs.

A built-in name here is what the command line knows under that name; what it needs besides (an address, a cache) is
given in `personalllm.backends.names`. A plugin is a class or a function that is called without arguments.
"""

from __future__ import annotations

from personalllm.backends.models.registry import REGISTRY
from personalllm.core.protocols import RewardEnsemble, TextEmbedder
from personalllm.core.registry import Registry

__all__ = [
    "CHAT_MODELS",
    "EMBEDDERS",
    "REWARD_ENSEMBLES",
    "compact_v1",
    "compact_v2",
    "minilm_l6_int8",
    "published",
    "published_as_released",
]

_HERE = "personalllm.backends.registry"

EMBEDDERS = Registry("embedder", {"minilm-l6-int8": f"{_HERE}:minilm_l6_int8"})
"""Entry points `personalllm.embedder` add more."""

CHAT_MODELS = Registry(
    "chat model",
    {name: "personalllm.backends.llm:LocalChatModel" for name, entry in REGISTRY.items() if entry.kind == "chat"},
)
"""The chat models of `personalllm models list` that ship; entry points `personalllm.chat_model` add more."""

REWARD_ENSEMBLES = Registry(
    "reward ensemble",
    {
        "compact-v1": f"{_HERE}:compact_v1",
        "compact-v2": f"{_HERE}:compact_v2",
        "published": f"{_HERE}:published",
        "published-as-released": f"{_HERE}:published_as_released",
    },
)
"""Entry points `personalllm.reward_ensemble` add more; single reward models are in `personalllm.backends.reward`."""


def minilm_l6_int8() -> TextEmbedder:
    """all-MiniLM-L6-v2 in int8 on the CPU, 384 numbers a text."""
    from personalllm.backends.embedding import default_embedder

    return default_embedder()


def compact_v1() -> RewardEnsemble:
    """Ten compact reward models that read MiniLM vectors and the surface of the text."""
    from personalllm.backends.reward import CompactEnsemble

    return CompactEnsemble.load("compact-v1", minilm_l6_int8())


def compact_v2() -> RewardEnsemble:
    """Ten compact reward models that read words, alone and crossed with the prompt."""
    from personalllm.backends.reward import load_compact

    return load_compact("compact-v2", minilm_l6_int8)


def published() -> RewardEnsemble:
    """The ten reward models of the paper, each as its authors put texts to it."""
    from personalllm.backends.reward import load_rewards

    return load_rewards("published")


def published_as_released() -> RewardEnsemble:
    """The ten reward models of the paper, as the code that scored the release puts texts to them."""
    from personalllm.backends.reward import load_rewards

    return load_rewards("published-as-released")
