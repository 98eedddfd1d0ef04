"""Render the data card of a built benchmark as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from personalllm.data import Benchmark

__all__ = ["DROPS", "data_card"]

DROPS = (
    ("empty", "empty"),
    ("damaged", "damaged"),
    ("too_short", "too short"),
    ("too_long", "too long"),
    ("duplicate", "equal to another"),
    ("other_language", "other language"),
    ("near_duplicate", "near to another"),
    ("over_limit", "over the source's limit"),
    ("not_drawn", "not drawn"),
)
"""Why a prompt of a source is left out: field of `SourceCounts`, and words for it."""


def _row(*cells: object) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    return [_row(*head), _row(*("---" for _ in head)), *(_row(*row) for row in rows), ""]


def data_card(
    benchmark: Benchmark,
    figures: Mapping[str, str],
    columns: Mapping[str, Sequence[str]] | None = None,
    remark: str = "",
) -> str:
    """Describe a benchmark: what it holds, how each part was made, and figures that the caller measured.

    Args:
        benchmark: A benchmark that `pack` made.
        figures: Further lines for the table of measured figures, `{what: value}`.
        columns: Further columns of the table of reward models, `{head: one cell for each}`.
        remark: What they mean; a paragraph below that table.
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
        *_sources(provenance),
        *_response_models(benchmark, provenance),
        *_reward_models(benchmark, provenance, columns or {}),
        *([remark, ""] if remark else []),
    ]
    if figures:
        lines += ["## Measured", "", *_table(("what", "value"), list(figures.items()))]
    subsets = Counter(benchmark.subsets.to_pylist())
    lines += ["## Prompts by subset", "", *_table(("subset", "prompts"), sorted(subsets.items()))]
    packages = provenance.get("packages", {})
    if packages:
        lines += ["## Versions", "", ", ".join(f"{n} {v}" for n, v in sorted(packages.items())), ""]
    return "\n".join(lines)


def _sources(provenance: Mapping[str, Any]) -> list[str]:
    """Describe where the prompts come from and what was left out, as far as the metadata say it."""
    sources = provenance.get("sources", [])
    if not sources:
        return []
    lines = ["## Prompts", ""]
    shown = [(key, title) for key, title in DROPS if any(source.get(key) for source in sources)]
    rows = [
        (f"`{s['name']}`", f"{s['read']:,}", *(f"{s[key]:,}" for key, _ in shown), f"{s['drawn']:,}") for s in sources
    ]
    if len(sources) > 1:
        totals = [f"{sum(s[key] for s in sources):,}" for key in ("read", *(key for key, _ in shown), "drawn")]
        rows.append(("all", *totals))
    lines += _table(("source", "rows read", *(title for _, title in shown), "drawn"), rows)
    lines += [_filters(provenance.get("filters", {})), ""]
    licences = [f"`{s['name']}`: {s['licence']}" for s in sources if s.get("licence")]
    if licences:
        lines += [f"Licences of the prompts: {'; '.join(licences)}.", ""]
    lines += _kept(provenance.get("prompts", {}))
    return lines


def _filters(filters: Mapping[str, Any]) -> str:
    low, high = filters.get("characters", (1, 2400))
    parts = [f"Kept are prompts of {low:,} to {high:,} characters"]
    languages = filters.get("languages")
    if languages:
        parts.append(
            f"that are not surely (confidence {languages['confidence']:g}) in another language than "
            f"{', '.join(languages['kept'])}"
        )
    near = filters.get("near_duplicates")
    if near:
        measure = "Jaccard similarity of five-character sequences" if near["method"] == "minhash" else "cosine"
        by = f" of vectors of `{near['embedder']}`" if "embedder" in near else ""
        parts.append(f"of which no two are near ({measure}{by} >= {near['threshold']:g})")
    return ", ".join(parts) + "."


def _kept(drops: Mapping[str, Any]) -> list[str]:
    if not drops:
        return []
    text = f"Of {drops['drawn']:,} drawn prompts {drops['kept']:,} are in the benchmark"
    if drops["without_a_response"]:
        whose = ", ".join(f"`{name}` {n:,}" for name, n in drops["without_a_response_of"].items())
        text += f", {drops['without_a_response']:,} have no usable response of some response model ({whose})"
    if drops["spare"]:
        text += f", {drops['spare']:,} were spare"
    return [f"{text}.", ""]


def _response_models(benchmark: Benchmark, provenance: Mapping[str, Any]) -> list[str]:
    lengths = _characters(benchmark)
    rows = [
        (
            f"`{m['name']}`",
            f"`{m['identity']}`" + (f", revision `{m['revision']}`" if m.get("revision") else ""),
            m["system"] or "none",
            m["temperature"],
            m["top_p"],
            m["max_tokens"],
            m["mean_tokens"],
            lengths.get(m["name"], ""),
            f"{m['cut_share']:.0%}",
            m["redrawn"],
        )
        for m in provenance.get("response_models", [])
    ]
    head = ("name", "weights and runtime", "style instruction", "temperature", "top-p", "maximum tokens", "mean tokens")
    return [
        "## Response models",
        "",
        (
            "Responses are as the model wrote them; only empty and repetitive ones were drawn again. *Characters* are "
            "the 10th, 50th and 90th percentile, *cut* is the share that the token limit ended, *redrawn* the number "
            "of responses that took more than one draw."
        ),
        "",
        *_table((*head, "characters", "cut", "redrawn"), rows),
    ]


def _characters(benchmark: Benchmark) -> dict[str, str]:
    """Return percentiles of the lengths of each response model's responses."""
    lengths = np.array([len(text) for text in benchmark.responses.to_pylist()], np.int64)
    writers = np.asarray(benchmark.response_model_index).reshape(-1)
    percentiles = {}
    for i, name in enumerate(benchmark.response_models):
        of_model = lengths[writers == i]
        if len(of_model):
            percentiles[name] = " / ".join(f"{value:,.0f}" for value in np.percentile(of_model, (10, 50, 90)))
    return percentiles


def _reward_models(
    benchmark: Benchmark, provenance: Mapping[str, Any], columns: Mapping[str, Sequence[str]]
) -> list[str]:
    meta = benchmark.metadata
    ensemble = meta.get("reward_ensemble", "unknown")
    ensemble = ensemble if isinstance(ensemble, str) else ", ".join(ensemble)
    flat = np.asarray(benchmark.scores, np.float64).reshape(-1, len(benchmark.reward_models))
    mean, sd = flat.mean(0), flat.std(0)
    about = provenance.get("reward_models", {})
    about = about if isinstance(about, Mapping) and any(name in about for name in benchmark.reward_models) else {}
    rows = [
        (
            f"`{n}`",
            f"{mean[i]:.3f}",
            f"{sd[i]:.3f}",
            *(cells[i] for cells in columns.values()),
            *([_brief(about.get(n))] if about else []),
        )
        for i, n in enumerate(benchmark.reward_models)
    ]
    return [
        "## Reward models",
        "",
        (f"Ensemble `{ensemble}`, raw scores. Identity `{meta.get('reward_ensemble_identity', 'unknown')}`."),
        "",
        *_table(("reward model", "mean", "sd", *columns, *(["weights"] if about else [])), rows),
    ]


def _brief(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {part}" for key, part in value.items() if isinstance(part, str | int | float) and part)
    return str(value or "")
