"""Methods that learn from histories and rank or generate for one user; they see texts, never weights or scores.

Every built-in class is imported when it is first used:

>>> from personalllm import methods
>>> methods.LoRe(n_basis=4)
LoRe(implied=True, n_features=None, n_basis=4, prior_strength=None, ridge=None, rounds=5)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from personalllm.methods.base import HistoryRule, Method, Need
from personalllm.methods.registry import BUILT_IN, get_method, list_methods, method_class, method_from_spec
from personalllm.methods.saved import load_method

if TYPE_CHECKING:
    from personalllm.methods.asking.policies import (
        BestArms,
        Challenger,
        DOptimal,
        DuelingUCB,
        Greedy,
        PopulationPair,
        RandomPair,
        Thompson,
    )
    from personalllm.methods.asking.policy import Offer, Policy
    from personalllm.methods.baselines.embedding_ranker import EmbeddingRanker
    from personalllm.methods.baselines.longest import Longest
    from personalllm.methods.baselines.pooled_ranker import PooledRanker
    from personalllm.methods.baselines.random_choice import RandomChoice
    from personalllm.methods.icl.icl import ICL
    from personalllm.methods.icl.lookup_icl import LookupICL
    from personalllm.methods.icl.meta_icl import MetaICL
    from personalllm.methods.icl.self_icl import SelfICL
    from personalllm.methods.icl.zero_shot import ZeroShot
    from personalllm.methods.linear.calibrated_bayes import CalibratedBayes
    from personalllm.methods.linear.hierarchical_bt import HierarchicalBT
    from personalllm.methods.linear.joint_gaussian import JointGaussian
    from personalllm.methods.linear.lore import LoRe
    from personalllm.methods.linear.matrix_factorisation import MatrixFactorisation
    from personalllm.methods.linear.nearest_users import NearestUsers
    from personalllm.methods.linear.pooled_bt import PooledBT
    from personalllm.methods.linear.pref import PReF
    from personalllm.methods.linear.ridge_user import RidgeUser
    from personalllm.methods.linear.rm_mixture import RMMixture
    from personalllm.methods.linear.sparse_basis import SparseBasis
    from personalllm.methods.linear.user_bt import UserBT
    from personalllm.methods.neural.gpo import GPO
    from personalllm.methods.neural.mrm import MRM
    from personalllm.methods.neural.pal import PAL
    from personalllm.methods.neural.spl import SPL
    from personalllm.methods.neural.vpl import VPL

__all__ = [
    "GPO",
    "ICL",
    "MRM",
    "PAL",
    "SPL",
    "VPL",
    "BestArms",
    "CalibratedBayes",
    "Challenger",
    "DOptimal",
    "DuelingUCB",
    "EmbeddingRanker",
    "Greedy",
    "HierarchicalBT",
    "HistoryRule",
    "JointGaussian",
    "LoRe",
    "Longest",
    "LookupICL",
    "MatrixFactorisation",
    "MetaICL",
    "Method",
    "NearestUsers",
    "Need",
    "Offer",
    "PReF",
    "Policy",
    "PooledBT",
    "PooledRanker",
    "PopulationPair",
    "RMMixture",
    "RandomChoice",
    "RandomPair",
    "RidgeUser",
    "SelfICL",
    "SparseBasis",
    "Thompson",
    "UserBT",
    "ZeroShot",
    "get_method",
    "list_methods",
    "load_method",
    "method_class",
    "method_from_spec",
]

_CLASSES = {cls: f"{__name__}.{module}" for module, cls in (table["class"].split(":") for table in BUILT_IN.values())}
_CLASSES |= dict.fromkeys(("Offer", "Policy"), f"{__name__}.asking.policy")


def __getattr__(name: str) -> Any:
    """Import a built-in class when it is first used: some need SciPy or torch."""
    if name not in _CLASSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_CLASSES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
