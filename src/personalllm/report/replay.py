"""How to run it again: the command line that stands for a protocol."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from personalllm.report.views import leaves

if TYPE_CHECKING:
    from personalllm.evaluation import AlgorithmResult, Results

__all__ = ["command"]

_OPTIONS = {
    "population.n_users": "--users",
    "seed": "--seed",
    "population.alpha": "--alpha",
    "limit": "--limit",
    "history.pairs": "--pairs",
    "history.nearest": "--nearest",
    "pool.n_users": "--pool-users",
    "prompts_per_user": "--prompts",
    "generation.max_tokens": "--max-tokens",
    "standardiser": "--standardiser",
    "reference_response_model": "--reference-model",
}
_FIXED: dict[str, Any] = {
    "split": "test",
    "history_split": "train",
    "population.kind": "dirichlet",
    "pool.pairs_per_user": 50,
    "feedback.pairs": "best-vs-worst",
    "feedback.temperature": 0.0,
    "feedback.flip": 0.0,
    "feedback.tie_margin": 0.0,
    "generation.temperature": 0.0,
    "generation.top_p": 1.0,
    "bootstrap_draws": 2000,
}


def command(results: Results) -> str | None:
    """Return the command that makes a run again.

    Returns:
        The command; None if the protocol has a setting that the command line cannot express.
    """
    flat = dict(leaves(results.protocol))
    seeds = {flat.get(key, 0) for key in ("seed", "population.seed", "pool.seed")}
    fixed = all(flat.get(key, value) == value for key, value in _FIXED.items())
    if len(seeds) > 1 or not fixed or isinstance(flat.get("population.alpha"), (list, tuple)):
        return None
    words = ["personalllm", "evaluate", *(_name(row) for row in results.algorithms if row.kind == "algorithm")]
    words += ["--track", str(flat.get("track", "rank")), "--data", results.benchmark_name]
    for key, option in _OPTIONS.items():
        if flat.get(key) is not None:
            words += [option, str(flat[key])]
    backends = results.manifest.get("backends") or {}
    for name in ("embedder", "llm"):
        if name in backends:
            words += [f"--{name}", str(backends[name])]
    return shlex.join([*words, "--out", results.directory.parent.name if results.directory else "runs"])


def _name(row: AlgorithmResult) -> str:
    """Return what to type for an algorithm: its label, with `module:Class` for the id if it is the user's own."""
    own = row.spec.get("class")
    return f"{own}{row.id.removeprefix(str(row.spec['id']))}" if own else row.id
