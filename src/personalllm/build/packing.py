"""Join prompts, responses and scores into one benchmark in the released wide schema (fourth step)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from personalllm.build.prompts import Prompt, read_record
from personalllm.build.provenance import package_versions
from personalllm.build.recipe import Recipe
from personalllm.build.responding import Response
from personalllm.build.scoring import complete_prompts, score
from personalllm.core.errors import UserError
from personalllm.core.protocols import ChatModel, RewardEnsemble
from personalllm.core.seeding import generator
from personalllm.core.storage import file_sha256
from personalllm.core.types import JSON
from personalllm.data import Benchmark, write_benchmark

__all__ = ["pack"]

_PACKAGES = ("personalllm", "numpy", "pyarrow")


def _splits(recipe: Recipe, n_prompts: int) -> list[str]:
    test = set(generator(recipe.seed, "split").permutation(n_prompts)[: recipe.prompts.test].tolist())
    return ["test" if row in test else "train" for row in range(n_prompts)]


def _response_models(
    recipe: Recipe,
    chat_models: Mapping[str, ChatModel],
    responses: Mapping[str, Mapping[str, Response]],
    used: Sequence[Prompt],
) -> list[JSON]:
    models = []
    for model in recipe.response_model:
        chat = chat_models[model.chat_model]
        drawn = [responses[model.name][p.prompt_id] for p in used]
        models.append(
            model.deciding
            | {
                "identity": chat.identity,
                "template": str(getattr(chat, "template", "") or "the chat model's own"),
                "mean_tokens": round(sum(r.tokens for r in drawn) / len(drawn), 1),
                "cut_share": round(sum(r.finish_reason == "length" for r in drawn) / len(drawn), 4),
                "redrawn": sum(r.attempt > 0 for r in drawn),
            }
        )
    return models


def _drops(
    recipe: Recipe, prompts: Sequence[Prompt], responses: Mapping[str, Mapping[str, Response]], used: Sequence[Prompt]
) -> JSON:
    """Count the drawn prompts that were kept, that were spare, and that lack a usable response of some model."""
    n_complete = len(complete_prompts(prompts, responses))
    missing = {
        m.name: sum(p.prompt_id not in responses[m.name] for p in prompts)
        for m in recipe.response_model
        if any(p.prompt_id not in responses[m.name] for p in prompts)
    }
    return {
        "drawn": len(prompts),
        "kept": len(used),
        "spare": n_complete - len(used),
        "without_a_response": len(prompts) - n_complete,
        "without_a_response_of": missing,
    }


def _packages(recipe: Recipe, ensemble: RewardEnsemble) -> list[str]:
    """Return the packages that were used; a reward ensemble names its own in `packages`."""
    packages = [*_PACKAGES, *getattr(ensemble, "packages", ())]
    for model in recipe.response_model:
        kind, colon, _ = model.chat_model.partition(":")
        if not colon:
            packages.append("xllamacpp")
        elif kind in ("openai", "vllm"):
            packages.append(kind)
    return packages


def _provenance(
    recipe: Recipe,
    models: list[JSON],
    drops: JSON,
    ensemble: RewardEnsemble,
    out: Path,
) -> JSON:
    provenance: dict[str, Any] = {
        "recipe": recipe.fingerprint,
        "seed": recipe.seed,
        "response_models": models,
        "prompts": drops,
        "packages": package_versions(_packages(recipe, ensemble)),
    }
    record = read_record(out)
    if record and record.get("sha256") == file_sha256(out / "prompts.jsonl"):
        provenance["sources"] = record["sources"]
        provenance["filters"] = record["filters"]
        provenance["packages"] |= record["packages"]
    rewards = getattr(ensemble, "provenance", None)
    if rewards:
        provenance["reward_models"] = rewards
    return provenance


def pack(
    recipe: Recipe,
    prompts: Sequence[Prompt],
    responses: Mapping[str, Mapping[str, Response]],
    chat_models: Mapping[str, ChatModel],
    ensemble: RewardEnsemble,
    out: Path,
) -> Benchmark:
    """Write `out/<name>.parquet` and return the benchmark.

    The first train + test prompts that every response model could answer are kept; the split is drawn with the seed.
    The metadata record how every part was made: sources and filters of the prompts, response models with identity,
    template and sampling, reward models, versions of the packages; of the ensemble also its attributes `provenance`
    (JSON) and `packages` (names), if it has them.

    Raises:
        UserError: If too few prompts are complete.
    """
    n_prompts = recipe.prompts.train + recipe.prompts.test
    complete = complete_prompts(prompts, responses)
    used = complete[:n_prompts]
    if len(used) < n_prompts:
        raise UserError(
            f"{len(used)} prompts have a usable response of every response model, {n_prompts} are needed"
            f"{_missing(recipe, prompts, responses)}.",
            "Run `build respond` to its end; then raise `spare` or `attempts`, or lower train or test.",
        )
    texts = [[responses[m.name][p.prompt_id].text for m in recipe.response_model] for p in used]
    models = _response_models(recipe, chat_models, responses, used)
    benchmark = Benchmark.from_arrays(
        name=recipe.name,
        prompt_ids=[p.prompt_id for p in used],
        prompts=[p.prompt for p in used],
        subsets=[p.subset for p in used],
        splits=_splits(recipe, len(used)),
        responses=texts,
        response_models=[m.name for m in recipe.response_model],
        reward_models=ensemble.reward_models,
        scores=score(used, texts, ensemble, out),
        metadata={
            "name": recipe.name,
            "reward_ensemble": recipe.model_dump(mode="json")["reward_ensemble"],
            "reward_ensemble_identity": ensemble.identity,
            "reference_response_model": recipe.reference_response_model,
            "licence": recipe.licence,
            "provenance": _provenance(recipe, models, _drops(recipe, prompts, responses, used), ensemble, out),
            "built_with": f"personalllm {version('personalllm')}",
        },
    )
    write_benchmark(benchmark, out / f"{recipe.name}.parquet")
    return benchmark


def _missing(recipe: Recipe, prompts: Sequence[Prompt], responses: Mapping[str, Mapping[str, Response]]) -> str:
    missing = Counter(
        {m.name: sum(p.prompt_id not in responses[m.name] for p in prompts) for m in recipe.response_model}
    )
    largest = [f"{name} {n:,}" for name, n in missing.most_common(3) if n]
    return f" (missing: {', '.join(largest)})" if largest else ""
