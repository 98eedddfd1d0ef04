"""Contract suite: plain functions that raise `AssertionError`, for algorithms and backends of this package and yours.

    from personalllm.testing import check_algorithm
    check_algorithm(MyAlgorithm)

The stand-ins (`HashEmbedder`, `EchoChatModel`, `SurfaceRewards`) are for contract tests only, never for results.
"""

from personalllm.testing._algorithms import check_algorithm
from personalllm.testing._backends import check_chat_model, check_embedder, check_reward_ensemble
from personalllm.testing._standins import EchoChatModel, HashEmbedder, SurfaceRewards

__all__ = [
    "EchoChatModel",
    "HashEmbedder",
    "SurfaceRewards",
    "check_algorithm",
    "check_chat_model",
    "check_embedder",
    "check_reward_ensemble",
]
