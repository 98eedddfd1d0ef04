"""How to run it again: the command line that stands for a protocol."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

from personalllm.report.views import leaves

if TYPE_CHECKING:
    from personalllm.evaluation import MethodResult, Results

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
_DEFAULTS: dict[str, Any] = {
    "split": "test",
    "history_split": "train",
    "population.kind": "dirichlet",
    "pool.pairs_per_user": 50,
    "history.counterfactual": "none",
    "feedback.pairs": "best-vs-worst",
    "feedback.ranks": [0, -1],
    "feedback.temperature": 0.0,
    "feedback.flip": 0.0,
    "feedback.tie_margin": 0.0,
    "generation.temperature": 0.0,
    "generation.top_p": 1.0,
    "generation.requests_per_chunk": 8,
    "users_per_shard": 200,
    "bootstrap_draws": 2000,
}
_ELSEWHERE = {
    *("metrics_version", "track", "benchmark", "benchmark_fingerprint", "preset", "generation"),
    *("embedder", "llm", "rewards"),
}


def command(results: Results) -> str:
    """Return the command that makes a run again: its methods, and every setting that is not the default."""
    flat = dict(leaves(results.protocol))
    words = ["personalllm", "evaluate", *(_name(row) for row in results.methods if row.kind == "method")]
    words += ["--track", str(flat.get("track", "rank")), "--data", results.benchmark_name]
    for key, option in _OPTIONS.items():
        value = flat.get(key)
        if value is not None and not isinstance(value, (list, tuple)):
            words += [option, str(value)]
    for key, value in flat.items():
        told = key in _OPTIONS and not isinstance(value, (list, tuple))
        seeded = key in ("population.seed", "pool.seed") and value == flat.get("seed", 0)
        if not (told or seeded or key in _ELSEWHERE or _DEFAULTS.get(key) == value):
            words += ["--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    backends = results.manifest.get("backends") or {}
    for name in ("embedder", "llm"):
        if name in backends:
            words += [f"--{name}", str(backends[name])]
    return shlex.join([*words, "--out", results.directory.parent.name if results.directory else "runs"])


def _name(row: MethodResult) -> str:
    """Return what to type for a method: its label, with `module:Class` for the id if it is the user's own."""
    own = row.spec.get("class")
    return f"{own}{row.id.removeprefix(str(row.spec['id']))}" if own else row.id
