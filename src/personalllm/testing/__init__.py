"""Contract suite: plain functions that raise `AssertionError`, for methods and backends of this package and yours.

    from personalllm.testing import check_method
    check_method(MyMethod)

`method_checks` and its sisters give the same clauses one by one; `run_checks` says of each whether it is kept.
The stand-ins (`HashEmbedder`, `EchoChatModel`, `SurfaceRewards`) are for contract tests only, never for results.
"""

from personalllm.testing._chat_models import chat_model_checks, check_chat_model
from personalllm.testing._checks import Check, Outcome, run_checks
from personalllm.testing._embedders import check_embedder, embedder_checks
from personalllm.testing._methods import check_method, method_checks
from personalllm.testing._reward_ensembles import check_reward_ensemble, reward_ensemble_checks
from personalllm.testing._standins import EchoChatModel, HashEmbedder, SurfaceRewards

__all__ = [
    "Check",
    "EchoChatModel",
    "HashEmbedder",
    "Outcome",
    "SurfaceRewards",
    "chat_model_checks",
    "check_chat_model",
    "check_embedder",
    "check_method",
    "check_reward_ensemble",
    "embedder_checks",
    "method_checks",
    "reward_ensemble_checks",
    "run_checks",
]
