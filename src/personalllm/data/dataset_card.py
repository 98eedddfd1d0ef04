"""Render the card of a benchmark on the hub: `README.md` with the front matter that the hub reads."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from personalllm.data.benchmark import Benchmark

__all__ = ["dataset_card", "licence_id"]

_LICENCES = (
    "apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0",
    "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0", "odbl", "odc-by", "pddl", "gpl-3.0",
    "llama2", "llama3", "gemma",
)  # fmt: skip
_SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
_SIZE_NAMES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M")
_SUBSETS_SHOWN = 50


def licence_id(text: str) -> str:
    """Return the hub's id of a licence: `unknown` if none is stated, `other` if it is none of the common ones.

    >>> licence_id("CC BY 4.0"), licence_id("Apache 2.0"), licence_id("Prompts: MIT. Scores: ours."), licence_id("")
    ('cc-by-4.0', 'apache-2.0', 'other', 'unknown')
    """
    if not text.strip():
        return "unknown"
    licence = re.sub(r"[\s_]+", "-", text.strip().lower().rstrip("."))
    return licence if licence in _LICENCES else "other"


def dataset_card(benchmark: Benchmark, files: Mapping[str, Sequence[str]], repository: str) -> str:
    """Return the card as Markdown; all text from the benchmark is escaped.

    Args:
        benchmark: What is published.
        files: Names of the splits as the hub shows them -> paths of their files in the repository.
        repository: `OWNER/NAME`.
    """
    licence = str(benchmark.metadata.get("licence") or benchmark.metadata.get("license") or "")
    name = _plain(str(benchmark.metadata.get("name") or "")) or repository.partition("/")[2]
    head = [
        "---",
        f"license: {licence_id(licence)}",
        *([f"license_name: {_quoted('see the card')}"] if licence_id(licence) == "other" else []),
        f"pretty_name: {_quoted(name)}",
        f"size_categories:\n- {_size_name(benchmark.n_prompts)}",
        "tags:\n- personalllm\n- personalization\n- preference\n- reward-model",
        "configs:",
        "- config_name: default",
        "  data_files:",
    ]
    for split, paths in files.items():
        head += [f"  - split: {split}", "    path:", *(f"    - {path}" for path in paths)]
    return "\n".join([*head, "---", "", *_body(benchmark, name, licence, repository), ""])


def _body(benchmark: Benchmark, name: str, licence: str, repository: str) -> list[str]:
    splits = ", ".join(f"{len(rows):,} {_escaped(split)}" for split, rows in benchmark.splits.items())
    lines = [
        f"# {_escaped(name)}",
        "",
        (
            f"A benchmark of LLM personalisation for the package personalllm: {benchmark.n_prompts:,} prompts "
            f"({splits}), {benchmark.n_responses} responses each, scored by {len(benchmark.reward_models)} reward "
            "models. Scores are raw, higher is better."
        ),
        "",
        "```python",
        "import personalllm",
        "",
        f'benchmark = personalllm.load("hf://datasets/{repository}")',
        "```",
        "",
        f"Fingerprint of the content: `{benchmark.fingerprint}`",
        "",
        f"Licence: {_escaped(licence) or 'not stated'}",
        "",
        (
            "Each row has `prompt`, `subset`, `prompt_id` and, for each response i, `response_i`, `response_i_model` "
            "and one column `response_i_RM` for each reward model RM."
        ),
        "",
        "## Response models",
        "",
    ]
    counts = np.bincount(benchmark.response_model_index.ravel(), minlength=len(benchmark.response_models))
    writers = zip(benchmark.response_models, counts.tolist(), strict=True)
    lines += _table(("response model", "responses"), [(model, f"{count:,}") for model, count in writers])
    scores = np.asarray(benchmark.scores, np.float64).reshape(-1, len(benchmark.reward_models))
    figures = zip(benchmark.reward_models, scores.mean(0).tolist(), scores.std(0).tolist(), strict=True)
    lines += ["## Reward models", ""]
    lines += _table(("reward model", "mean", "sd"), [(rm, f"{mean:.4g}", f"{sd:.4g}") for rm, mean, sd in figures])
    subsets = Counter(benchmark.subsets.to_pylist()).most_common()
    rows = [(subset, f"{count:,}") for subset, count in subsets[:_SUBSETS_SHOWN]]
    if len(subsets) > _SUBSETS_SHOWN:
        rows.append((f"{len(subsets) - _SUBSETS_SHOWN} more", ""))
    lines += ["## Prompts by subset", "", *_table(("subset", "prompts"), rows)]
    if benchmark.metadata:
        note = json.dumps(benchmark.metadata, indent=2, sort_keys=True, ensure_ascii=True)
        fence = "`" * (3 + max((len(run) for run in re.findall("`+", note)), default=0))
        lines += ["## How it was made", "", "What its maker noted:", "", f"{fence}json", note, fence, ""]
    return lines


def _size_name(n: int) -> str:
    return _SIZE_NAMES[sum(n >= size for size in _SIZES)]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return [*lines, *("| " + " | ".join(map(_escaped, row)) + " |" for row in rows), ""]


def _plain(text: str) -> str:
    """Return a text on one line, without characters that cannot be printed."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _quoted(text: str) -> str:
    """Return a text as a YAML scalar in double quotes."""
    return json.dumps(_plain(text), ensure_ascii=False)


def _escaped(text: str) -> str:
    """Return a text that Markdown and HTML show as it is."""
    safe = _plain(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#+!|~$])", r"\\\1", safe)
