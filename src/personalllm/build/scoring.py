"""Third step: let the reward models score every response, block by block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from personalllm.build.prompts import Prompt
from personalllm.build.responding import Response
from personalllm.errors import RunError
from personalllm.protocols import RewardEnsemble
from personalllm.storage import atomic_path, digest
from personalllm.types import F32

__all__ = ["complete_prompts", "score"]


def complete_prompts(prompts: Sequence[Prompt], responses: Mapping[str, Mapping[str, Response]]) -> list[Prompt]:
    """Return the prompts to which every response model has a usable response, in their order."""
    return [p for p in prompts if all(p.prompt_id in found for found in responses.values())]


def score(
    prompts: Sequence[Prompt],
    texts: Sequence[Sequence[str]],
    ensemble: RewardEnsemble,
    out: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
    block: int = 64,
) -> F32:
    """Score the responses; blocks that an earlier run has finished are read back.

    Args:
        prompts: The prompts, length n_prompts.
        texts: Response texts, n_prompts rows of n_responses.
        ensemble: The reward models.
        out: Working folder of the build.
        progress: Called with (done, total) prompts.
        block: Prompts in a block; has no effect on any score.

    Returns:
        Raw scores, float32 (n_prompts, n_responses, n_reward_models).

    Raises:
        RunError: If a reward model returns a score that is not finite; names it and the prompt.
    """
    folder = out / "scores" / digest(ensemble.identity)
    blocks: list[F32] = []
    n_responses = len(texts[0]) if texts else 0
    for start in range(0, len(prompts), block):
        rows = range(start, min(start + block, len(prompts)))
        flat = [(prompts[i].prompt, text) for i in rows for text in texts[i]]
        path = folder / f"{digest(flat, 32)}.npy"
        shape = (len(rows), n_responses, len(ensemble.reward_models))
        if path.is_file():
            values = np.load(path, allow_pickle=False)
        else:
            values = ensemble.score([prompt for prompt, _ in flat], [text for _, text in flat]).reshape(shape)
            if not np.isfinite(values).all():
                row, column, model = np.argwhere(~np.isfinite(values))[0].tolist()
                raise RunError(
                    f"{ensemble.reward_models[model]} scored response {column + 1} of prompt "
                    f"{prompts[start + row].prompt_id} as {values[row, column, model]}."
                )
            with atomic_path(path) as temporary, temporary.open("wb") as stream:
                np.save(stream, values.astype(np.float32), allow_pickle=False)
        if values.shape != shape:
            raise RunError(f"{path} has shape {values.shape}, expected {shape}.", "Remove the file and run again.")
        blocks.append(values.astype(np.float32, copy=False))
        if progress:
            progress(rows.stop, len(prompts))
    return np.concatenate(blocks) if blocks else np.empty((0, n_responses, len(ensemble.reward_models)), np.float32)
