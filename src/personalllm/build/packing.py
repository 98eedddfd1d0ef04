"""Fourth step: join prompts, responses and scores into one benchmark in the released wide schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from personalllm.build.prompts import Prompt
from personalllm.build.recipe import Recipe
from personalllm.build.responding import Response
from personalllm.build.scoring import complete_prompts, score
from personalllm.data import Benchmark, write_benchmark
from personalllm.errors import UserError
from personalllm.protocols import ChatModel, RewardEnsemble
from personalllm.seeding import generator
from personalllm.types import JSON

__all__ = ["pack"]


def _splits(recipe: Recipe, n_prompts: int) -> list[str]:
    test = set(generator(recipe.seed, "split").permutation(n_prompts)[: recipe.prompts.test].tolist())
    return ["test" if row in test else "train" for row in range(n_prompts)]


def _provenance(
    recipe: Recipe,
    chat_models: Mapping[str, ChatModel],
    responses: Mapping[str, Mapping[str, Response]],
    kept: Sequence[Prompt],
) -> JSON:
    models = []
    for model in recipe.response_model:
        drawn = [responses[model.name][p.prompt_id] for p in kept]
        models.append(
            model.model_dump(mode="json")
            | {
                "identity": chat_models[model.chat_model].identity,
                "mean_tokens": round(sum(r.tokens for r in drawn) / len(drawn), 1),
                "cut_share": round(sum(r.finish_reason == "length" for r in drawn) / len(drawn), 4),
                "redrawn": sum(r.attempt > 0 for r in drawn),
            }
        )
    return {"recipe": recipe.fingerprint, "seed": recipe.seed, "response_models": models}


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

    Raises:
        UserError: If too few prompts are complete.
    """
    wanted = recipe.prompts.train + recipe.prompts.test
    kept = complete_prompts(prompts, responses)[:wanted]
    if len(kept) < wanted:
        raise UserError(
            f"{len(kept)} prompts have a usable response of every response model, {wanted} are needed.",
            "Run the step `build respond` to its end; then raise `spare` or `attempts`, or lower train or test.",
        )
    texts = [[responses[m.name][p.prompt_id].text for m in recipe.response_model] for p in kept]
    benchmark = Benchmark.from_arrays(
        name=recipe.name,
        prompt_ids=[p.prompt_id for p in kept],
        prompts=[p.prompt for p in kept],
        subsets=[p.subset for p in kept],
        splits=_splits(recipe, len(kept)),
        responses=texts,
        response_models=[m.name for m in recipe.response_model],
        reward_models=ensemble.reward_models,
        scores=score(kept, texts, ensemble, out),
        metadata={
            "name": recipe.name,
            "reward_ensemble": recipe.reward_ensemble,
            "reward_ensemble_identity": ensemble.identity,
            "reference_response_model": recipe.reference_response_model,
            "licence": recipe.licence,
            "provenance": _provenance(recipe, chat_models, responses, kept),
            "built_with": f"personalllm {version('personalllm')}",
        },
    )
    write_benchmark(benchmark, out / f"{recipe.name}.parquet")
    return benchmark
