"""The algorithms by name: listed without importing them; outsiders add theirs through entry points."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from personalllm.algorithms.base import Algorithm
from personalllm.errors import PluginError, UnknownName, UserError
from personalllm.registry import Registry
from personalllm.types import JSON

__all__ = ["ALGORITHMS", "algorithm_from_spec", "get_algorithm", "list_algorithms", "load_algorithm"]

_ROOM = "personalllm.algorithms"

ALGORITHMS = Registry(
    "algorithm",
    {
        "calibrated-bayes": f"{_ROOM}.calibrated_bayes:CalibratedBayes",
        "embedding-ranker": f"{_ROOM}.embedding_ranker:EmbeddingRanker",
        "gpo": f"{_ROOM}.gpo:GPO",
        "hierarchical-bt": f"{_ROOM}.hierarchical_bt:HierarchicalBT",
        "icl": f"{_ROOM}.icl:ICL",
        "longest": f"{_ROOM}.longest:Longest",
        "lookup-icl": f"{_ROOM}.lookup_icl:LookupICL",
        "lore": f"{_ROOM}.lore:LoRe",
        "matrix-factorisation": f"{_ROOM}.matrix_factorisation:MatrixFactorisation",
        "meta-icl": f"{_ROOM}.meta_icl:MetaICL",
        "mrm": f"{_ROOM}.mrm:MRM",
        "nearest-users": f"{_ROOM}.nearest_users:NearestUsers",
        "pal": f"{_ROOM}.pal:PAL",
        "pooled-bt": f"{_ROOM}.pooled_bt:PooledBT",
        "pooled-ranker": f"{_ROOM}.pooled_ranker:PooledRanker",
        "pref": f"{_ROOM}.pref:PReF",
        "random": f"{_ROOM}.random_choice:RandomChoice",
        "rm-mixture": f"{_ROOM}.rm_mixture:RMMixture",
        "self-icl": f"{_ROOM}.self_icl:SelfICL",
        "spl": f"{_ROOM}.spl:SPL",
        "user-bt": f"{_ROOM}.user_bt:UserBT",
        "vpl": f"{_ROOM}.vpl:VPL",
        "zero-shot": f"{_ROOM}.zero_shot:ZeroShot",
    },
)


def list_algorithms() -> tuple[str, ...]:
    """Return the registered names, plugins included, in alphabetical order; imports no algorithm.

    >>> "meta-icl" in list_algorithms()
    True
    """
    return tuple(ALGORITHMS)


def load_algorithm(name: str) -> type[Algorithm]:
    """Return the class of a registered name or of `module:Class` (a file in the working folder is found too).

    Raises:
        UnknownName: If nothing is registered under the name; lists the nearest names.
        PluginError: If the module does not load, or what it holds is not a subclass of `Algorithm`.
    """
    loaded = ALGORITHMS.load(name)
    if not (inspect.isclass(loaded) and issubclass(loaded, Algorithm)):
        raise PluginError(
            f"{name!r} is a {type(loaded).__name__}, not a subclass of personalllm.algorithms.Algorithm.",
            "Name a class, as in: module:MyAlgorithm",
        )
    return loaded


def get_algorithm(name: str, /, **params: Any) -> Algorithm:
    """Return an unfitted algorithm by its registered name, or by `module:Class`, with these parameters.

    Raises:
        UnknownName: If there is no such algorithm, or it has no such parameter; lists the nearest names.
        PluginError: If the module does not load, or what it holds is not an algorithm.
        ParameterError: If a value is outside its range.

    >>> get_algorithm("embedding-ranker", shrinkage=5.0)
    EmbeddingRanker(shrinkage=5.0)
    """
    cls = load_algorithm(name)
    known = [field.name for field in dataclasses.fields(cls) if field.init]
    for key in params:
        if key not in known:
            if not known:
                raise UserError(f"The algorithm {name!r} has no parameters, got {key!r}.", f"Leave {key!r} out.")
            raise UnknownName(f"parameter of the algorithm {name!r}", key, known)
    return cls(**params)


def algorithm_from_spec(spec: JSON, *, name: str | None = None) -> Algorithm:
    """Return the algorithm that `Algorithm.spec()` described.

    Args:
        spec: `{"id": ..., "params": {...}}`.
        name: Where to find the class if its id is not registered: `module:Class`.

    Raises:
        UserError: As `get_algorithm`, or if the spec has other keys.

    >>> spec = get_algorithm("longest").spec()
    >>> algorithm_from_spec(spec) == get_algorithm("longest")
    True
    """
    if set(spec) != {"id", "params"}:
        raise UserError(f"An algorithm's spec has the keys 'id' and 'params', got {sorted(spec)}.")
    return get_algorithm(name or spec["id"], **spec["params"])
