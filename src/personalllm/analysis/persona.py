"""Persona prompting: the baseline population of the paper (section 3.1).

A scorer reads each prompt with a persona put before it and scores the responses; each persona votes for its best one.
"""

from __future__ import annotations

import gzip
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from personalllm.analysis._persona_effect import PersonaPopulation, persona_population
from personalllm.analysis._persona_scorers import (
    PERSONA_TEMPLATE,
    ChatRatingScorer,
    FirstTokenModel,
    PersonaScorer,
    RewardModelScorer,
)
from personalllm.analysis._persona_scores import PersonaScores, Texts
from personalllm.analysis._persona_store import Ledger
from personalllm.core.errors import AxisMismatch, DataError, ParameterError, RunError
from personalllm.core.seeding import generator
from personalllm.core.types import F32, I32
from personalllm.data import Benchmark

__all__ = [
    "PERSONA_TEMPLATE",
    "ChatRatingScorer",
    "FirstTokenModel",
    "PersonaEstimate",
    "PersonaPopulation",
    "PersonaScorer",
    "PersonaScores",
    "RewardModelScorer",
    "estimate_personas",
    "persona_population",
    "read_personas",
    "sample_personas",
    "sample_rows",
    "score_personas",
    "shipped_personas",
]

_SHIPPED = Path(__file__).parents[1] / "data" / "personas" / "personas.txt"


def shipped_personas() -> tuple[str, ...]:
    """Return the 60 short personas that come with the package, written for it.

    >>> len(shipped_personas())
    60
    """
    return read_personas(_SHIPPED)


def read_personas(path: str | Path) -> tuple[str, ...]:
    """Return the personas of a text file, one a line; empty lines and repeated personas are left out.

    Args:
        path: UTF-8 text; gzipped if its name ends in `.gz`.

    Raises:
        DataError: If the file is absent, is not UTF-8 text or holds no persona.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"Personas cannot be read from {path}: {error}.", "Give a text file, one a line.") from error
    personas = tuple(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if not personas:
        raise DataError(f"{path} holds no persona.", "Give a text file, one persona a line.")
    return personas


def sample_personas(personas: Sequence[str], n: int, *, seed: int = 0) -> tuple[str, ...]:
    """Draw n different personas; a larger n adds to a smaller one, so that scores are used again.

    Raises:
        ParameterError: If there are not so many.

    >>> sample_personas(("a", "b", "c"), 3)[:2] == sample_personas(("a", "b", "c"), 2)
    True
    """
    if not 1 <= n <= len(personas):
        raise ParameterError("n_personas", f"in [1, {len(personas)}]", n)
    order = generator(seed, "personas", len(personas)).permutation(len(personas))
    return tuple(personas[i] for i in order[:n])


def sample_rows(benchmark: Benchmark, n: int | None = None, *, split: str = "test", seed: int = 0) -> I32:
    """Draw n prompts of a split, as ascending rows of the benchmark; all of the split if `n` is None or larger.

    A larger n adds to a smaller one.

    Raises:
        ParameterError: If n < 1 or the benchmark has no such split.
    """
    rows = benchmark.rows(split)
    if n is None:
        return rows
    if n < 1:
        raise ParameterError("n_prompts", ">= 1", n)
    order = generator(seed, "persona prompts", len(rows)).permutation(len(rows))
    return np.sort(rows[order[:n]])


def score_personas(
    benchmark: Benchmark,
    personas: Sequence[str],
    scorer: PersonaScorer,
    *,
    rows: npt.ArrayLike | None = None,
    directory: Path | str | None = None,
    block: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> PersonaScores:
    """Let a scorer score the responses once for each persona, and once without any.

    Scores are kept on disk, one entry for each scorer, persona and prompt with its responses. A run that was stopped
    goes on where it was and ends with the same numbers.

    Args:
        benchmark: Prompts and responses; its own scores are not read.
        personas: Different, not empty, length n_personas.
        scorer: Who scores.
        rows: Rows of the benchmark, (n_prompts,); None for its test split.
        directory: Where scores are kept; the folder `personas` of the user's cache if None.
        block: Prompts scored between two writes, >= 1; has no effect on any score.
        progress: Called with (done, all) pairs of persona and prompt, those without a persona included.

    Raises:
        ParameterError: If a persona is empty or stands twice, a row is out of range, or `block` < 1.
        RunError: If the scorer returns an infinite number.
        AxisMismatch: If it returns another number of scores.
    """
    task = _Task.of(benchmark, personas, scorer, rows, directory)
    if block < 1:
        raise ParameterError("block", ">= 1", block)
    n_prompts, n_responses = task.texts.n_characters.shape
    scores = np.empty((len(task.voices), n_prompts, n_responses), np.float32)
    done, total = 0, len(task.voices) * n_prompts
    for voice, persona in enumerate(task.voices):
        kept = task.kept(persona)
        for at, key in enumerate(task.texts.keys):
            if key in kept:
                scores[voice, at] = kept[key]
        absent = [at for at, key in enumerate(task.texts.keys) if key not in kept]
        done += n_prompts - len(absent)
        for start in range(0, len(absent), block):
            chunk = absent[start : start + block]
            scores[voice, chunk] = task.score(persona, chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, total)
    if progress is not None:
        progress(total, total)
    return PersonaScores(
        personas=task.voices[1:], scores=scores[1:], baseline=scores[0], scorer=scorer.identity, texts=task.texts
    )


@dataclass(frozen=True, slots=True)
class PersonaEstimate:
    """How long a run will take.

    Attributes:
        n_pairs: Pairs of persona and prompt, those without a persona included.
        n_kept: Pairs that earlier runs have scored.
        seconds_per_pair: Measured; NaN if nothing is left to be scored.
        seconds: Of the whole run from here on.
    """

    n_pairs: int
    n_kept: int
    seconds_per_pair: float
    seconds: float


def estimate_personas(
    benchmark: Benchmark,
    personas: Sequence[str],
    scorer: PersonaScorer,
    *,
    rows: npt.ArrayLike | None = None,
    directory: Path | str | None = None,
    probe: int = 4,
) -> PersonaEstimate:
    """Measure how long `score_personas` will take: score a few prompts without and with a persona.

    What the probe scores is kept, so it is not lost. What is done once for each prompt (a scorer may read the responses
    once for all personas) is told apart from what each persona costs.

    Args:
        benchmark: As for `score_personas`; so are `personas`, `scorer`, `rows` and `directory`.
        personas: See there.
        scorer: See there.
        rows: See there.
        directory: See there.
        probe: Prompts to score, >= 1.

    Raises:
        ParameterError: As `score_personas`.
    """
    task = _Task.of(benchmark, personas, scorer, rows, directory)
    if probe < 1:
        raise ParameterError("probe", ">= 1", probe)
    absent = {persona: task.absent(persona) for persona in task.voices}
    n_pairs, left = len(task.voices) * len(task.texts.keys), sum(map(len, absent.values()))
    persona, places = max(absent.items(), key=lambda item: (len(item[1]), bool(item[0])))
    if not places:
        return PersonaEstimate(n_pairs, n_pairs, float("nan"), 0.0)
    warm = places[:1] if len(places) > 1 else []
    timed = places[len(warm) : len(warm) + probe]
    alone = [at for at in timed if persona and at in absent[""]]
    if warm:
        task.score(persona, warm)
    once = _seconds_each(task, "", alone) if alone else 0.0
    each = _seconds_each(task, persona, timed)
    rest = left - len(warm) - len(timed) - len(alone)
    unread = len(set(absent[""]) - {*warm, *timed}) if alone else 0
    seconds = rest * each + max(once - each, 0.0) * unread
    return PersonaEstimate(n_pairs, n_pairs - left, each, seconds)


def _seconds_each(task: _Task, persona: str, places: list[int]) -> float:
    """Score some prompts and return the seconds that each took."""
    begin = time.perf_counter()
    task.score(persona, places)
    return (time.perf_counter() - begin) / len(places)


@dataclass(frozen=True, eq=False, slots=True)
class _Task:
    """What is to be scored: the voices are nobody, then the personas."""

    voices: tuple[str, ...]
    texts: Texts
    scorer: PersonaScorer
    ledger: Ledger

    @classmethod
    def of(
        cls,
        benchmark: Benchmark,
        personas: Sequence[str],
        scorer: PersonaScorer,
        rows: npt.ArrayLike | None,
        directory: Path | str | None,
    ) -> _Task:
        names = tuple(personas)
        if not names or not all(name.strip() for name in names):
            raise ParameterError("personas", "one or more texts that are not empty", names[:3])
        if len(set(names)) != len(names):
            raise ParameterError("personas", "different from each other", max(names, key=names.count))
        texts = Texts.of(benchmark, benchmark.rows("test") if rows is None else rows)
        return cls(("", *names), texts, scorer, Ledger(scorer.identity, directory))

    def kept(self, persona: str) -> dict[bytes, F32]:
        return self.ledger.read(persona, self.texts.keys, self.texts.n_responses)

    def absent(self, persona: str) -> list[int]:
        kept = self.kept(persona)
        return [at for at, key in enumerate(self.texts.keys) if key not in kept]

    def score(self, persona: str, places: Sequence[int]) -> F32:
        """Score some prompts, float32 (n, n_responses), and keep the scores."""
        flat = [(self.texts.prompts[at], response) for at in places for response in self.texts.responses[at]]
        made = np.asarray(self.scorer.score(persona, [p for p, _ in flat], [r for _, r in flat]), np.float32)
        if made.shape != (len(flat),):
            raise AxisMismatch(f"{self.scorer.identity} returned shape {made.shape} for {len(flat)} responses.")
        scores = made.reshape(len(places), self.texts.n_responses)
        if np.isinf(scores).any():
            row, column = np.argwhere(np.isinf(scores))[0].tolist()
            raise RunError(
                f"{self.scorer.identity} scored response {column + 1} of prompt "
                f"{self.texts.prompt_ids[places[row]]} as {scores[row, column]} for the persona {persona[:60]!r}.",
                "A score must be finite, or NaN for an answer that cannot be read.",
            )
        self.ledger.write(persona, {self.texts.keys[at]: row for at, row in zip(places, scores, strict=True)})
        return scores
