"""Rebuild compact-v1 from the public preference data: prepare, fit, calibrate, measure, write.

    python recipes/compact-v1/build.py DATA --work FOLDER [--out FOLDER]

DATA is the folder with hh-rlhf, bon16, llmbar, pandalm and alpaca8. Text vectors are cached, so an interrupted run
goes on where it stopped; from nothing it takes about fifteen minutes of two quiet cores.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).parent))
import sources

from personalllm.backends.embedding import default_embedder
from personalllm.backends.reward import (
    CompactEnsemble,
    Pairs,
    RewardHeads,
    TrainedReward,
    render_cards,
    top_agreement,
    train_compact,
)
from personalllm.backends.reward.metrics import length_correlations, lengths
from personalllm.core.seeding import generator
from personalllm.core.storage import write_json
from personalllm.core.types import F32, JSON
from personalllm.data.preferences import read_pairs

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / "src/personalllm/backends/reward/weights"
CARDS = ROOT / "docs/reward-models.md"
PART_DEFAULTS: JSON = {"flip": False, "pairs": 0, "length_ratio": 0.0}


def read_part(work: Path, part: JSON) -> Pairs:
    """Return the pairs of one part of a reward model's training data."""
    part = PART_DEFAULTS | part
    pairs = Pairs.of(read_pairs(work / f"{part['source']}.jsonl.gz"))
    if part["length_ratio"]:
        ratio = np.log(np.maximum(lengths(pairs.chosen), 1) / np.maximum(lengths(pairs.rejected), 1))
        pairs = pairs.take(np.flatnonzero(np.abs(ratio) <= np.log(part["length_ratio"])))
    if part["pairs"] and len(pairs) > part["pairs"]:
        keep = generator("compact-v1", str(part["source"])).choice(len(pairs), part["pairs"], replace=False)
        pairs = pairs.take(np.sort(keep))
    return pairs.flipped() if part["flip"] else pairs


def read_alpaca(path: Path) -> tuple[list[str], list[list[str]]]:
    """Return the prompts and the eight responses of each."""
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]
    return [row["prompt"] for row in rows], [[response["text"] for response in row["responses"]] for row in rows]


def score_alpaca(ensemble: CompactEnsemble, prompts: list[str], responses: list[list[str]]) -> F32:
    """Return float32 (n_prompts, n_responses, n_reward_models)."""
    flat = [text for row in responses for text in row]
    repeated = [prompt for prompt, row in zip(prompts, responses, strict=True) for _ in row]
    return ensemble.score(repeated, flat).reshape(len(prompts), -1, len(ensemble.reward_models))


def diversity(scores: F32, alpha: float = 0.05, n_users: int = 1000) -> JSON:
    """Return how divided simulated users are: shares of prompts by their top vote share and number of winners."""
    flat = scores.reshape(-1, scores.shape[-1]).astype(np.float64)
    standard = ((scores - flat.mean(axis=0)) / flat.std(axis=0)).astype(np.float32)
    weights = np.random.RandomState(0).dirichlet([alpha] * scores.shape[-1], size=n_users).astype(np.float32)
    best = np.stack([(weights @ prompt.T).argmax(axis=1) for prompt in standard])
    votes = np.stack([np.bincount(row, minlength=scores.shape[1]) for row in best]) / n_users
    top = votes.max(axis=1)
    winners = (votes > 0).sum(axis=1)
    return {
        "alpha": alpha,
        "n_users": n_users,
        "top_share_at_most": {str(limit): round(float((top <= limit).mean()), 4) for limit in (0.5, 0.75, 0.95)},
        "four_or_more_winners_where_divided": round(float((winners[top <= 0.5] >= 4).mean()), 4),
        "wins_by_response": [round(float(share), 4) for share in votes.mean(axis=0)],
    }


def card(model: JSON, trained: TrainedReward, about: dict[str, JSON]) -> JSON:
    """Return what is known of a reward model, for the JSON beside the weights."""
    parts = [PART_DEFAULTS | part for part in model["parts"]]
    used = [about[part["source"]] for part in parts]
    return {
        "summary": model["summary"],
        "likes": model["likes"],
        "parts": parts,
        "origins": [source["origin"] for source in used],
        "data_licence": " and ".join(dict.fromkeys(source["licence"] for source in used)),
        **trained.report.spec(),
    }


def build(recipe: JSON, data: Path, work: Path) -> tuple[RewardHeads, JSON]:
    """Fit every reward model of the recipe and measure the ensemble on alpaca8."""
    embedder = default_embedder()
    sources.write(data, work, {name: source["limit"] for name, source in recipe["sources"].items()})
    heads, cards = [], {}
    for name, model in sorted(recipe["reward_models"].items()):
        pairs = Pairs.concatenate([read_part(work, part) for part in model["parts"]])
        held_out, use_length = recipe["held_out"], model.get("use_length", True)
        trained = train_compact(pairs, name, embedder, held_out=held_out, use_length=use_length)
        heads.append(trained.heads)
        cards[name] = card(model, trained, recipe["sources"])
        sys.stderr.write(f"{name}: {trained.report.held_out}, always longer {trained.report.always_longer}\n")
    stacked = RewardHeads.stack(heads)
    prompts, responses = read_alpaca(data / recipe["alpaca8"])
    raw = score_alpaca(CompactEnsemble(stacked, embedder), prompts, responses).reshape(-1, len(heads))
    stacked = stacked.rescaled(raw.mean(axis=0, dtype=np.float64), raw.std(axis=0, dtype=np.float64))
    scores = score_alpaca(CompactEnsemble(stacked, embedder), prompts, responses)
    for name, figures in zip(stacked.reward_models, alpaca_figures(scores, responses), strict=True):
        cards[name]["alpaca8"] = figures
    metadata = {
        "ensemble": recipe["ensemble"],
        "date": str(recipe["date"]),
        "weights_licence": "Apache-2.0",
        "weights_sha256": stacked.sha256,
        "embedder": embedder.name,
        "embedder_identity": embedder.identity,
        "held_out": recipe["held_out"],
        "reward_models": cards,
        "alpaca8": {
            "n_prompts": scores.shape[0],
            "n_responses": scores.shape[1],
            "top_agreement": top_agreement(scores).round(4).tolist(),
            "diversity": diversity(scores),
        },
    }
    return stacked, metadata


def alpaca_figures(scores: F32, responses: list[list[str]]) -> list[dict[str, Any]]:
    """Return the length correlations, mean and spread of each reward model on alpaca8."""
    characters: npt.NDArray[np.int64] = np.stack([lengths(row) for row in responses])
    out = []
    for k in range(scores.shape[-1]):
        pooled, within = length_correlations(scores[:, :, k], characters)
        out.append({"length_correlation": round(pooled, 4), "length_correlation_within_prompt": round(within, 4)})
    return out


def main() -> None:
    """Read the arguments, build, and write weights, JSON and model cards."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="folder for the prepared preference files")
    parser.add_argument("--out", type=Path, help="folder for weights and JSON; the package's own by default")
    arguments = parser.parse_args()
    recipe = tomllib.loads((Path(__file__).parent / "recipe.toml").read_text(encoding="utf-8"))
    heads, metadata = build(recipe, arguments.data, arguments.work)
    out = arguments.out or WEIGHTS
    heads.save(out / f"{recipe['ensemble']}.safetensors")
    write_json(out / f"{recipe['ensemble']}.json", metadata)
    cards = CARDS if arguments.out is None else out / CARDS.name
    cards.write_text(render_cards(metadata), encoding="utf-8")


if __name__ == "__main__":
    main()
