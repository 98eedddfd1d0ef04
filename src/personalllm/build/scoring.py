"""Score every response with the reward models, block by block (third step).

A block of prompts is a work unit: frozen, picklable, named by its content. Any executor may score it; this process
writes the result to a file of that name, atomically, so a killed run goes on where it stopped. An ensemble that holds
its reward models one by one is worked off one by one, so that each is loaded once and only one is in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from personalllm.build._lock import exclusive
from personalllm.build.prompts import Prompt
from personalllm.build.responding import Response
from personalllm.core.errors import AxisMismatch, RunError
from personalllm.core.protocols import Executor, RewardEnsemble
from personalllm.core.storage import atomic_path, digest
from personalllm.core.types import F32

__all__ = ["ScoreBlock", "complete_prompts", "n_scored", "score", "score_block"]


@dataclass(frozen=True, slots=True)
class ScoreBlock:
    """Prompts that are scored together, with their responses.

    Attributes:
        prompt_ids: The prompts' ids, for messages.
        prompts: The prompts, length n.
        texts: Response texts, n rows of n_responses.
    """

    prompt_ids: tuple[str, ...]
    prompts: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(prompt, response) of every response, row by row."""
        return [(prompt, text) for prompt, row in zip(self.prompts, self.texts, strict=True) for text in row]

    @property
    def name(self) -> str:
        """Digest of the texts: equal texts have equal names, whatever their ids."""
        return digest(self.pairs, 32)

    @property
    def identity(self) -> str:
        """The name of the block in messages."""
        return f"prompts {self.prompt_ids[0]} to {self.prompt_ids[-1]}"


def complete_prompts(prompts: Sequence[Prompt], responses: Mapping[str, Mapping[str, Response]]) -> list[Prompt]:
    """Return the prompts to which every response model has a usable response, in their order."""
    return [p for p in prompts if all(p.prompt_id in of_model for of_model in responses.values())]


def score_block(ensemble: RewardEnsemble, block: ScoreBlock) -> F32:
    """Score one block: the work of a work unit.

    Returns:
        Raw scores, float32 (n_prompts, n_responses, n_reward_models).

    Raises:
        RunError: If a reward model returns a score that is not finite, or the wrong number of scores.
    """
    pairs = block.pairs
    shape = (len(block.prompts), len(block.texts[0]), len(ensemble.reward_models))
    raw = ensemble.score([prompt for prompt, _ in pairs], [text for _, text in pairs])
    if raw.shape != (len(pairs), shape[2]):
        raise RunError(f"The reward models returned shape {raw.shape}, expected {(len(pairs), shape[2])}.")
    values = raw.astype(np.float32, copy=False).reshape(shape)
    if not np.isfinite(values).all():
        row, column, model = np.argwhere(~np.isfinite(values))[0].tolist()
        raise RunError(
            f"{ensemble.reward_models[model]} scored response {column + 1} of prompt "
            f"{block.prompt_ids[row]} as {values[row, column, model]}."
        )
    return values


def score(
    prompts: Sequence[Prompt],
    texts: Sequence[Sequence[str]],
    ensemble: RewardEnsemble,
    out: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
    block: int = 64,
    executor: Executor | None = None,
) -> F32:
    """Score the responses; blocks that an earlier run has finished are read back.

    Args:
        prompts: The prompts, length n_prompts.
        texts: Response texts, n_prompts rows of n_responses.
        ensemble: The reward models; picklable unless the executor is serial. If it has an attribute `rewards` with
            ensembles that make it up in order, these are worked off one after the other, each over all prompts, and
            their method `release` is called after their turn if they have one.
        out: Working folder of the build.
        progress: Called with (done, total) prompts, first with what is there already; a prompt counts once for each
            ensemble that is worked off by itself.
        block: Prompts in a block; has no effect on any score.
        executor: Who scores the blocks; this process, one after the other, if None. Has no effect on any score.

    Returns:
        Raw scores, float32 (n_prompts, n_responses, n_reward_models).

    Raises:
        AxisMismatch: If prompts differ in their number of responses.
        RunError: If a reward model returns a score that is not finite; names it and the prompt.
        UserError: If another run is scoring in the folder.
    """
    n_responses = len(texts[0]) if texts else 0
    if len(texts) != len(prompts) or any(len(row) != n_responses for row in texts):
        raise AxisMismatch(
            f"{len(prompts)} prompts need as many rows of {n_responses} responses each.",
            "Score only prompts that every response model has answered.",
        )
    if not prompts:
        return np.empty((0, 0, len(ensemble.reward_models)), np.float32)
    blocks = _blocks(prompts, texts, block)
    with exclusive(out / "scores"):
        turns = [_Turn(part, blocks, out / "scores" / digest(part.identity)) for part in _parts(ensemble)]
        done, total = sum(turn.n_there for turn in turns), len(prompts) * len(turns)
        if progress:
            progress(done, total)
        columns: list[F32] = []
        for turn in turns:
            for n in turn.score_missing(executor):
                done += n
                if progress:
                    progress(done, total)
            columns.append(turn.read())
    return np.concatenate(columns, axis=2)


def n_scored(
    prompts: Sequence[Prompt], texts: Sequence[Sequence[str]], ensemble: RewardEnsemble, out: Path, *, block: int = 64
) -> int:
    """Return how many responses `score` would read back rather than score; arguments as there.

    Where reward models are worked off one by one, a response counts for the share of them that is done.
    """
    blocks = _blocks(prompts, texts, block)
    turns = [_Turn(part, blocks, out / "scores" / digest(part.identity)) for part in _parts(ensemble)]
    return sum(turn.n_there for turn in turns) * (len(texts[0]) if texts else 0) // len(turns)


def _parts(ensemble: RewardEnsemble) -> Sequence[RewardEnsemble]:
    """Return the ensembles that make up another one in order, or that one alone if it does not say."""
    parts = getattr(ensemble, "rewards", None)
    if not isinstance(parts, Sequence) or not all(isinstance(part, RewardEnsemble) for part in parts):
        return (ensemble,)
    names = tuple(name for part in parts for name in part.reward_models)
    return parts if names == tuple(ensemble.reward_models) else (ensemble,)


class _Turn:
    """The work of one ensemble over all blocks, and the folder of its scores.

    Args:
        ensemble: Who scores.
        blocks: What is scored.
        folder: Where the scores of each block are kept under its name.
    """

    def __init__(self, ensemble: RewardEnsemble, blocks: Sequence[ScoreBlock], folder: Path) -> None:
        self._ensemble = ensemble
        self._blocks = blocks
        self._folder = folder
        self._paths = [folder / f"{block.name}.npy" for block in blocks]
        self._missing = [i for i, path in enumerate(self._paths) if not path.is_file()]

    @property
    def n_there(self) -> int:
        """Prompts whose scores are there from an earlier run."""
        missing = set(self._missing)
        return sum(len(block.prompts) for i, block in enumerate(self._blocks) if i not in missing)

    def score_missing(self, executor: Executor | None) -> Iterator[int]:
        """Score and write the blocks that are not there; yield the number of prompts after each."""
        for leftover in self._folder.glob(".*.npy.*.part"):  # of a run that was killed while it wrote
            leftover.unlink(missing_ok=True)
        if not self._missing:
            return
        function, units = partial(score_block, self._ensemble), [self._blocks[i] for i in self._missing]
        results = map(function, units) if executor is None else executor.map(function, units)
        for i, values in zip(self._missing, results, strict=True):
            with atomic_path(self._paths[i]) as temporary, temporary.open("wb") as stream:
                np.save(stream, values, allow_pickle=False)
            yield len(values)
        release = getattr(self._ensemble, "release", None)
        if callable(release):
            release()

    def read(self) -> F32:
        """Return the scores of all blocks, float32 (n_prompts, n_responses, n_reward_models)."""
        n_models = len(self._ensemble.reward_models)
        return np.concatenate(
            [
                _read(path, (len(block.prompts), len(block.texts[0]), n_models))
                for block, path in zip(self._blocks, self._paths, strict=True)
            ]
        )


def _blocks(prompts: Sequence[Prompt], texts: Sequence[Sequence[str]], size: int) -> list[ScoreBlock]:
    starts = range(0, len(prompts), size)
    return [
        ScoreBlock(
            tuple(p.prompt_id for p in prompts[start : start + size]),
            tuple(p.prompt for p in prompts[start : start + size]),
            tuple(tuple(row) for row in texts[start : start + size]),
        )
        for start in starts
    ]


def _read(path: Path, shape: tuple[int, int, int]) -> F32:
    remedy = "Remove the file and run again."
    try:
        values: F32 = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise RunError(f"{path} cannot be read: {error}.", remedy) from error
    if values.shape != shape or values.dtype != np.float32:
        raise RunError(f"{path} has shape {values.shape} of {values.dtype}, expected {shape} of float32.", remedy)
    return values
