"""The scores of personas, and the texts that were scored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from personalllm.analysis.persona.store import prompt_key, read_table, write_table
from personalllm.core.errors import AxisMismatch, DataError, ParameterError
from personalllm.core.types import F32, I32, U8
from personalllm.data import Benchmark

__all__ = ["PersonaScores", "Texts"]


@dataclass(frozen=True, eq=False, slots=True)
class Texts:
    """Some prompts of a benchmark with their responses.

    Attributes:
        benchmark: Name of the benchmark.
        fingerprint: Its fingerprint.
        rows: int32 (n_prompts,), different rows of the benchmark.
        prompt_ids: Length n_prompts.
        prompts: Length n_prompts.
        responses: n_prompts rows of n_responses.
        response_models: Names of the response models.
        response_model_index: uint8 (n_prompts, n_responses) into them.
        n_characters: int32 (n_prompts, n_responses), length of each response.
        keys: SHA-256 of each prompt with its responses.
    """

    benchmark: str
    fingerprint: str
    rows: I32
    prompt_ids: tuple[str, ...]
    prompts: tuple[str, ...]
    responses: tuple[tuple[str, ...], ...]
    response_models: tuple[str, ...]
    response_model_index: U8
    n_characters: I32
    keys: tuple[bytes, ...]

    @property
    def n_responses(self) -> int:
        """Number of responses of each prompt."""
        return int(self.n_characters.shape[1])

    @classmethod
    def of(cls, benchmark: Benchmark, rows: npt.ArrayLike) -> Texts:
        """Return some rows of a benchmark.

        Raises:
            ParameterError: If there is no row, a row is out of range or stands twice.
        """
        at = np.asarray(rows)
        inside = at.ndim == 1 and at.size and np.issubdtype(at.dtype, np.integer)
        if not inside or at.min() < 0 or at.max() >= benchmark.n_prompts or len(np.unique(at)) != len(at):
            raise ParameterError("rows", f"different integers in [0, {benchmark.n_prompts}), one or more", rows)
        columns = range(benchmark.n_responses)
        prompts = tuple(benchmark.prompt(int(row)) for row in at)
        responses = tuple(tuple(benchmark.response(int(row), column) for column in columns) for row in at)
        return cls(
            benchmark=benchmark.name,
            fingerprint=benchmark.fingerprint,
            rows=at.astype(np.int32),
            prompt_ids=tuple(benchmark.prompt_ids[int(row)].as_py() for row in at),
            prompts=prompts,
            responses=responses,
            response_models=benchmark.response_models,
            response_model_index=benchmark.response_model_index[at],
            n_characters=np.array([[len(text) for text in row] for row in responses], np.int32),
            keys=tuple(prompt_key(p, r) for p, r in zip(prompts, responses, strict=True)),
        )


@dataclass(frozen=True, eq=False, slots=True)
class PersonaScores:
    """The score of each response for each persona, and without one.

    Attributes:
        personas: Length n_personas.
        scores: float32 (n_personas, n_prompts, n_responses), NaN where no answer could be read.
        baseline: float32 (n_prompts, n_responses), scores without a persona.
        scorer: Identity of who scored.
        texts: The prompts and responses.
    """

    personas: tuple[str, ...]
    scores: F32
    baseline: F32
    scorer: str
    texts: Texts

    def __post_init__(self) -> None:
        shape = (len(self.personas), *self.texts.n_characters.shape)
        if self.scores.shape != shape or self.baseline.shape != shape[1:]:
            raise AxisMismatch(
                f"Scores of shapes {self.scores.shape} and {self.baseline.shape} do not fit {shape[0]} personas, "
                f"{shape[1]} prompts and {shape[2]} responses."
            )

    @property
    def scorer_name(self) -> str:
        """The part of the scorer's identity that is for people."""
        return self.scorer.rsplit("@", 1)[0]

    def write(self, path: str | Path) -> None:
        """Write the scores to a Parquet file, atomically.

        One row a persona and prompt: `persona` (empty: without one), `prompt_id`, `scores` (a list, one for each
        response). Scorer and benchmark stand in the metadata.
        """
        about = {"scorer": self.scorer, "benchmark": self.texts.benchmark, "fingerprint": self.texts.fingerprint}
        stacked = np.concatenate([self.baseline[None], self.scores])
        write_table(Path(path), ("", *self.personas), self.texts.prompt_ids, stacked, about)

    @classmethod
    def read(cls, path: str | Path, benchmark: Benchmark) -> PersonaScores:
        """Read a file that `write` wrote.

        Args:
            path: The file.
            benchmark: The benchmark whose responses were scored.

        Raises:
            DataError: If the file is absent, damaged, or was made on another benchmark.
        """
        personas, prompt_ids, scores, about = read_table(Path(path))
        if about["fingerprint"] != benchmark.fingerprint:
            raise DataError(
                f"{path} holds scores of the benchmark {about['benchmark']} ({about['fingerprint'][:12]}), "
                f"not of {benchmark.name} ({benchmark.fingerprint[:12]}).",
                "Load the benchmark that was scored.",
            )
        rows = {name: row for row, name in enumerate(benchmark.prompt_ids.to_pylist())}
        texts = Texts.of(benchmark, np.array([rows[name] for name in prompt_ids], np.int32))
        return cls(tuple(personas[1:]), scores[1:], scores[0], about["scorer"], texts)
