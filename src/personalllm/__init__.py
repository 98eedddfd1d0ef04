"""The benchmark of LLM personalisation: simulated users with truly different tastes, methods, protocols, reports.

The names below are the front door; the rooms behind it (`personalllm.data`, `personalllm.users`, ...) hold the rest.

>>> from personalllm import Population
>>> Population.dirichlet(3, 0.05, ("kind", "brief"), seed=0).weights.shape
(3, 2)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from personalllm.data import Benchmark, Standardiser, load
    from personalllm.evaluation import Protocol, Results, evaluate, read_results
    from personalllm.methods.base import Method
    from personalllm.users import Population, choices

__version__ = "0.1.0"

__all__ = [
    "Benchmark",
    "Method",
    "Population",
    "Protocol",
    "Results",
    "Standardiser",
    "__version__",
    "choices",
    "evaluate",
    "load",
    "read_results",
]

_ROOMS = {
    "Method": "personalllm.methods.base",
    "Benchmark": "personalllm.data",
    "Population": "personalllm.users",
    "Protocol": "personalllm.evaluation",
    "Results": "personalllm.evaluation",
    "Standardiser": "personalllm.data",
    "choices": "personalllm.users",
    "evaluate": "personalllm.evaluation",
    "load": "personalllm.data",
    "read_results": "personalllm.evaluation",
}


def __getattr__(name: str) -> Any:
    """Load a front-door name from its room when it is first used, so that the import itself stays light."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_ROOMS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
