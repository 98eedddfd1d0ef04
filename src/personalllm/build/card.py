"""The data card of a built benchmark, as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from personalllm.data import Benchmark

__all__ = ["data_card"]


def _row(*cells: object) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _table(head: tuple[str, ...], rows: list[tuple[object, ...]]) -> list[str]:
    return [_row(*head), _row(*("---" for _ in head)), *(_row(*row) for row in rows), ""]


def data_card(benchmark: Benchmark, figures: Mapping[str, str]) -> str:
    """Describe a benchmark: what it holds, how each part was made, and figures that the caller measured.

    Args:
        benchmark: A benchmark that `pack` made.
        figures: Further lines for the table of measured figures, `{what: value}`.
    """
    meta = benchmark.metadata
    provenance = meta.get("provenance", {})
    sizes = {split: len(rows) for split, rows in benchmark.splits.items()}
    lines = [
        f"# Data card: `{benchmark.name}`",
        "",
        (
            f"{benchmark.n_prompts} prompts ({', '.join(f'{n} {split}' for split, n in sorted(sizes.items()))}), "
            f"{benchmark.n_responses} responses each, {len(benchmark.reward_models)} reward models. "
            f"Fingerprint `{benchmark.fingerprint}`. Built with {meta.get('built_with', 'an unknown version')}, "
            f"recipe `{provenance.get('recipe', 'unknown')}`, seed {provenance.get('seed', 'unknown')}."
        ),
        "",
        f"Licence: {meta.get('licence') or 'not stated'}",
        "",
        "## Response models",
        "",
        (
            "Responses are as the model wrote them; only empty and repetitive ones were drawn again. *Cut* is the "
            "share that the token limit ended, *redrawn* the number of responses that took more than one draw."
        ),
        "",
    ]
    rows: list[tuple[object, ...]] = [
        (
            f"`{m['name']}`",
            f"`{m['identity']}`",
            m["system"] or "none",
            m["temperature"],
            m["top_p"],
            m["max_tokens"],
            m["mean_tokens"],
            f"{m['cut_share']:.0%}",
            m["redrawn"],
        )
        for m in provenance.get("response_models", [])
    ]
    head = ("name", "weights and runtime", "style instruction", "temperature", "top-p", "most tokens", "mean tokens")
    lines += _table((*head, "cut", "redrawn"), rows)
    lines += ["## Reward models", "", f"Ensemble `{meta.get('reward_ensemble', 'unknown')}`, raw scores.", ""]
    flat = np.asarray(benchmark.scores, np.float64).reshape(-1, len(benchmark.reward_models))
    mean, sd = flat.mean(0), flat.std(0)
    lines += _table(
        ("reward model", "mean", "sd"),
        [(f"`{n}`", f"{mean[i]:.3f}", f"{sd[i]:.3f}") for i, n in enumerate(benchmark.reward_models)],
    )
    if figures:
        lines += ["## Measured", "", *_table(("what", "value"), list(figures.items()))]
    subsets = Counter(benchmark.subsets.to_pylist())
    lines += ["## Prompts by subset", "", *_table(("subset", "prompts"), sorted(subsets.items()))]
    return "\n".join(lines)
