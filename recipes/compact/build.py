"""Rebuild a compact ensemble from the public preference data: prepare, fit, calibrate, measure, write.

    python recipes/compact/build.py compact-v2 DATA --work FOLDER [--out FOLDER]

DATA is the folder with hh-rlhf, bon16, llmbar, pandalm and alpaca8. compact-v2 takes a minute. compact-v1 reads text
vectors, which are cached, so an interrupted run goes on where it stopped; from nothing it takes about fifteen minutes
of two quiet cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import json
import sys
import tomllib
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).parent))
import sources
import words

from personalllm.backends.embedding import default_embedder
from personalllm.backends.reward import (
    CompactEnsemble,
    Pairs,
    RewardHeads,
    WordRewards,
    render_cards,
    top_agreement,
    train_compact,
)
from personalllm.backends.reward.metrics import length_correlations, lengths
from personalllm.core.protocols import RewardEnsemble
from personalllm.core.seeding import generator
from personalllm.core.storage import write_json
from personalllm.core.types import F32, JSON
from personalllm.data.preferences import read_pairs

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / "src/personalllm/backends/reward/weights"
CARDS = {"compact-v1": "reward-models-v1.md", "compact-v2": "reward-models.md"}
Heads = TypeVar("Heads", RewardHeads, WordRewards)
Alpaca = tuple[list[str], list[list[str]]]
Built = tuple[RewardHeads | WordRewards, RewardEnsemble, dict[str, JSON], JSON]
PART_DEFAULTS: JSON = {"flip": False, "pairs": 0, "length_ratio": 0.0}


def read_part(work: Path, part: JSON, ensemble: str) -> Pairs:
    """Return the pairs of one part of a reward model's training data."""
    part = PART_DEFAULTS | part
    pairs = Pairs.of(read_pairs(work / f"{part['source']}.jsonl.gz"))
    if part["length_ratio"]:
        ratio = np.log(np.maximum(lengths(pairs.chosen), 1) / np.maximum(lengths(pairs.rejected), 1))
        pairs = pairs.take(np.flatnonzero(np.abs(ratio) <= np.log(part["length_ratio"])))
    if part["pairs"] and len(pairs) > part["pairs"]:
        keep = generator(ensemble, str(part["source"])).choice(len(pairs), part["pairs"], replace=False)
        pairs = pairs.take(np.sort(keep))
    return pairs.flipped() if part["flip"] else pairs


def read_alpaca(path: Path) -> tuple[list[str], list[list[str]]]:
    """Return the prompts and the eight responses of each."""
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]
    return [row["prompt"] for row in rows], [[response["text"] for response in row["responses"]] for row in rows]


def score_alpaca(ensemble: RewardEnsemble, prompts: list[str], responses: list[list[str]]) -> F32:
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


def card(model: JSON, report: JSON, about: dict[str, JSON]) -> JSON:
    """Return what is known of a reward model, for the JSON beside the weights."""
    parts = [PART_DEFAULTS | part for part in model["parts"]]
    used = [about[part["source"]] for part in parts]
    return {
        "summary": model["summary"],
        "likes": model["likes"],
        "parts": parts,
        "origins": [source["origin"] for source in used],
        "data_licence": " and ".join(dict.fromkeys(source["licence"] for source in used)),
        **report,
    }


def pairs_of(recipe: JSON, work: Path) -> dict[str, Pairs]:
    """Return the pairs of each reward model, by name."""
    return {
        name: Pairs.concatenate([read_part(work, part, recipe["ensemble"]) for part in model["parts"]])
        for name, model in sorted(recipe["reward_models"].items())
    }


def rescaled(heads: Heads, raw: F32) -> Heads:
    """Return heads whose scores have mean 0 and standard deviation 1 where theirs are `raw`, (n, n_reward_models)."""
    mean, sd = raw.mean(axis=0, dtype=np.float64), raw.std(axis=0, dtype=np.float64)
    coefficients = (heads.coefficients / sd[:, None]).astype(heads.coefficients.dtype)
    return dataclasses.replace(heads, coefficients=coefficients, bias=((heads.bias - mean) / sd).astype(np.float32))


def build_v1(recipe: JSON, pairs: dict[str, Pairs], alpaca: Alpaca) -> Built:
    """Fit heads on text vectors and surface features."""
    embedder = default_embedder()
    heads, reports = [], {}
    for name, part in pairs.items():
        use_length = recipe["reward_models"][name].get("use_length", True)
        trained = train_compact(part, name, embedder, held_out=recipe["held_out"], use_length=use_length)
        heads.append(trained.heads)
        reports[name] = trained.report.spec()
    stacked = RewardHeads.stack(heads)
    raw = score_alpaca(CompactEnsemble(stacked, embedder), *alpaca).reshape(-1, len(heads))
    stacked = rescaled(stacked, raw)
    about = {"embedder": embedder.name, "embedder_identity": embedder.identity}
    return stacked, CompactEnsemble(stacked, embedder), reports, about


def build_v2(recipe: JSON, pairs: dict[str, Pairs], alpaca: Alpaca) -> Built:
    """Fit heads on words and crossed words."""
    models = recipe["reward_models"]
    split = {name: part.split(recipe["held_out"]) for name, part in pairs.items()}
    fitted = {name: parts[0] for name, parts in split.items()}
    features = words.fit_features(list(fitted.values()), recipe["features"])
    rewards = words.fit_heads(models, fitted, features, recipe["shared_penalty"])
    raw = score_alpaca(rewards, *alpaca).reshape(-1, len(models))
    rewards = rescaled(rewards, raw)
    reports = {
        name: {key: models[name][key] for key in ("penalty", "follows", "shared")}
        | words.report(rewards, name, *split[name])
        for name in pairs
    }
    return rewards, rewards, reports, {"features": recipe["features"], "shared_penalty": recipe["shared_penalty"]}


def build(recipe: JSON, data: Path, work: Path) -> tuple[RewardHeads | WordRewards, JSON]:
    """Fit every reward model of the recipe and measure the ensemble on alpaca8."""
    sources.write(data, work, {name: source["limit"] for name, source in recipe["sources"].items()})
    alpaca = read_alpaca(data / recipe["alpaca8"])
    family = {"compact-v1": build_v1, "compact-v2": build_v2}[recipe["ensemble"]]
    heads, ensemble, reports, about = family(recipe, pairs_of(recipe, work), alpaca)
    scores = score_alpaca(ensemble, *alpaca)
    cards = {
        name: card(recipe["reward_models"][name], report, recipe["sources"]) | {"alpaca8": figures}
        for (name, report), figures in zip(reports.items(), alpaca_figures(scores, alpaca[1]), strict=True)
    }
    metadata = {
        "ensemble": recipe["ensemble"],
        "date": str(recipe["date"]),
        "weights_licence": "Apache-2.0",
        "weights_sha256": heads.sha256,
        **about,
        "held_out": recipe["held_out"],
        "reward_models": cards,
        "alpaca8": {
            "n_prompts": scores.shape[0],
            "n_responses": scores.shape[1],
            "top_agreement": top_agreement(scores).round(4).tolist(),
            "diversity": diversity(scores),
        },
    }
    return heads, metadata


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
    parser.add_argument("ensemble", choices=sorted(CARDS))
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="folder for the prepared preference files")
    parser.add_argument("--out", type=Path, help="folder for weights, JSON and cards; the package's own by default")
    arguments = parser.parse_args()
    recipe = tomllib.loads((Path(__file__).parent / f"{arguments.ensemble}.toml").read_text(encoding="utf-8"))
    heads, metadata = build(recipe, arguments.data, arguments.work)
    heads.save((arguments.out or WEIGHTS) / f"{recipe['ensemble']}.safetensors")
    write_json((arguments.out or WEIGHTS) / f"{recipe['ensemble']}.json", metadata)
    cards = (arguments.out or ROOT / "docs") / CARDS[recipe["ensemble"]]
    cards.write_text(render_cards(metadata), encoding="utf-8")
    for name, model in metadata["reward_models"].items():
        sys.stderr.write(f"{name}: {model['held_out']}, always longer {model['always_longer']}\n")


if __name__ == "__main__":
    main()
