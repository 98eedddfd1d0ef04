"""Turn the public preference data into preference files: one JSON line (prompt, chosen, rejected, group) a pair.

`group` is what must not stand on both sides of the split between training and held-out pairs: the prompt itself or,
for dialogues, their opening turn.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Pair = dict[str, str]

HUMAN = "\n\nHuman:"
ASSISTANT = "\n\nAssistant:"
PICKED_BY = {
    "beaver-reward": "PKU-Alignment/beaver-7b-v1.0-reward",
    "beaver-cost": "PKU-Alignment/beaver-7b-v1.0-cost",
    "ultra": "openbmb/UltraRM-13b",
    "open-llama": "weqweasdas/hh_rlhf_rm_open_llama_3b",
    "oasst": "OpenAssistant/oasst-rm-2.1-pythia-1.4b-epoch-2.5",
    "deberta": "OpenAssistant/reward-model-deberta-v3-large-v2",
}
CANDIDATES = 6


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)


def _dialogues(path: Path) -> Iterator[Pair]:
    """The last human turn is the prompt, the last assistant turns are the responses."""
    for row in _lines(path):
        context, _, chosen = row["chosen"].rpartition(ASSISTANT)
        other, _, rejected = row["rejected"].rpartition(ASSISTANT)
        chosen, rejected = chosen.strip(), rejected.strip()
        if context != other or chosen == rejected or not chosen or not rejected:
            continue
        prompt = context.rpartition(HUMAN)[2].strip()
        opening = context.split(HUMAN)[1].partition(ASSISTANT)[0].strip()
        if prompt and HUMAN not in chosen + rejected:
            yield {"prompt": prompt, "chosen": chosen, "rejected": rejected, "group": opening}


def _shown(row: dict[str, Any]) -> list[int]:
    """Six of the sixteen candidates, every pick among them, in a random order that does not follow their length."""
    draw = random.Random(f"bon16/{row['prompt']}")  # noqa: S311
    picks = sorted(set(row["picks"].values()))
    others = [i for i in range(len(row["candidates"])) if i not in picks]
    shown = picks + draw.sample(others, CANDIDATES - len(picks))
    draw.shuffle(shown)
    return shown


def _picks(path: Path, name: str) -> Iterator[Pair]:
    """The pick of one reward model against each of the five others shown."""
    for row in _lines(path):
        texts = [row["candidates"][i].strip() for i in _shown(row)]
        chosen = row["candidates"][row["picks"][PICKED_BY[name]]].strip()
        prompt = row["prompt"].strip()
        for rejected in dict.fromkeys(texts):
            if rejected and chosen and rejected != chosen:
                yield {"prompt": prompt, "chosen": chosen, "rejected": rejected, "group": prompt}


def _llmbar(folder: Path, *, adversarial: bool) -> Iterator[Pair]:
    for path in sorted(folder.glob("*.json.gz")):
        if ("Adversarial" in path.name) == adversarial:
            for row in json.loads(gzip.decompress(path.read_bytes())):
                outputs = [row["output_1"].strip(), row["output_2"].strip()]
                better = int(row["label"]) - 1
                prompt = row["input"].strip()
                if outputs[0] != outputs[1] and all(outputs):
                    yield {
                        "prompt": prompt, "chosen": outputs[better], "rejected": outputs[1 - better], "group": prompt,
                    }  # fmt: skip


def _pandalm(path: Path) -> Iterator[Pair]:
    """Pairs on which the majority of the three annotators has a favourite."""
    for row in json.loads(gzip.decompress(path.read_bytes())):
        votes = [row[f"annotator{i}"] for i in (1, 2, 3)]
        outputs = [str(row[key]).strip() for key in ("response1", "response2")]
        if outputs[0] == outputs[1] or not all(outputs) or votes.count(1) == votes.count(2):
            continue
        better = int(votes.count(2) > votes.count(1))
        prompt = f"{row['instruction']}\n\n{row['input']}".strip()
        yield {"prompt": prompt, "chosen": outputs[better], "rejected": outputs[1 - better], "group": prompt}


def readers(data: Path) -> dict[str, Callable[[], Iterator[Pair]]]:
    """Return, for each source, the function that yields its pairs from the folder of the public data."""
    hh = data / "hh-rlhf"
    bon16 = data / "bon16/picks.jsonl.gz"
    out: dict[str, Callable[[], Iterator[Pair]]] = {
        f"hh-{name}": lambda name=name: _dialogues(hh / f"{name}_test.jsonl.gz")  # type: ignore[misc]
        for name in ("helpful-base", "harmless-base", "helpful-rejection-sampled", "helpful-online")
    }
    out |= {f"picks-{name}": lambda name=name: _picks(bon16, name) for name in PICKED_BY}  # type: ignore[misc]
    out["llmbar-adversarial"] = lambda: _llmbar(data / "llmbar", adversarial=True)
    out["llmbar-natural"] = lambda: _llmbar(data / "llmbar", adversarial=False)
    out["pandalm"] = lambda: _pandalm(data / "pandalm/testset-v1.json.gz")
    return out


def write(data: Path, out: Path, limits: dict[str, int]) -> dict[str, int]:
    """Write each source that has a limit to `out/SOURCE.jsonl.gz`; return the number of pairs of each.

    A limit is the largest number of pairs, drawn with a fixed seed; 0 takes all.
    """
    out.mkdir(parents=True, exist_ok=True)
    counts = {}
    sources = readers(data)
    for name, limit in limits.items():
        pairs = list(sources[name]())
        if limit and len(pairs) > limit:
            keep = sorted(random.Random(f"limit/{name}").sample(range(len(pairs)), limit))  # noqa: S311
            pairs = [pairs[i] for i in keep]
        text = "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs)
        (out / f"{name}.jsonl.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
        counts[name] = len(pairs)
    return counts
