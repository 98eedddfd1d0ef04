"""The benchmark of LLM personalisation: simulated users with truly different tastes, methods, protocols, reports.

The names below are the front door; the rooms behind it (`personalllm.data`, `personalllm.users`, ...) hold the rest.

>>> import personalllm as pl
>>> pl.Population.dirichlet(3, 0.05, ("kind", "brief"), seed=0).weights.shape
(3, 2)
>>> pl.methods.LoRe().title
'LoRe: low-rank reward basis'
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from personalllm import backends, methods
    from personalllm.data import Benchmark, Preferences, Ratings, Standardiser, load
    from personalllm.evaluation import Protocol, Results, evaluate, load_results, load_run
    from personalllm.methods import Method, load_method
    from personalllm.users import Population, choices

__version__ = "0.1.0"

__all__ = [
    "Benchmark",
    "Method",
    "Population",
    "Preferences",
    "Protocol",
    "Ratings",
    "Results",
    "Standardiser",
    "__version__",
    "backends",
    "choices",
    "evaluate",
    "load",
    "load_method",
    "load_results",
    "load_run",
    "methods",
]

_ROOMS = {
    "Benchmark": "personalllm.data",
    "Method": "personalllm.methods",
    "Population": "personalllm.users",
    "Preferences": "personalllm.data",
    "Protocol": "personalllm.evaluation",
    "Ratings": "personalllm.data",
    "Results": "personalllm.evaluation",
    "Standardiser": "personalllm.data",
    "backends": "",
    "choices": "personalllm.users",
    "evaluate": "personalllm.evaluation",
    "load": "personalllm.data",
    "load_method": "personalllm.methods",
    "load_results": "personalllm.evaluation",
    "load_run": "personalllm.evaluation",
    "methods": "",
}
"""Name -> the room that holds it; empty for a room of that name."""


def __getattr__(name: str) -> Any:
    """Load a front-door name from its room when it is first used, so that the import itself stays light."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room = _ROOMS[name]
    return getattr(importlib.import_module(room), name) if room else importlib.import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return sorted(__all__)
