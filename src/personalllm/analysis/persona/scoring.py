"""Score the responses of a benchmark for personas: personas, prompts, the resumable run, and its estimate."""

from __future__ import annotations

import gzip
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from personalllm.analysis.persona.scorers import PersonaScorer
from personalllm.analysis.persona.scores import PersonaScores, Texts
from personalllm.analysis.persona.store import Ledger
from personalllm.core.errors import AxisMismatch, DataError, ParameterError, RunError
from personalllm.core.seeding import generator
from personalllm.core.types import F32, I32
from personalllm.data import Benchmark

__all__ = [
    "PersonaEstimate",
    "estimate_personas",
    "read_personas",
    "sample_personas",
    "sample_rows",
    "score_personas",
    "shipped_personas",
]

_SHIPPED = Path(__file__).parents[2] / "data" / "personas" / "personas.txt"


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
    """Score the responses once for each persona, and once without one.

    Scores are kept on disk, one entry for each scorer, persona and prompt with its responses. A run that was stopped
    continues where it stopped and ends with the same numbers.

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
        stored = task.stored(persona)
        missing = [i for i, key in enumerate(task.texts.keys) if key not in stored]
        for i, key in enumerate(task.texts.keys):
            if key in stored:
                scores[voice, i] = stored[key]
        done += n_prompts - len(missing)
        for start in range(0, len(missing), block):
            chunk = missing[start : start + block]
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
    """The estimated time of a run.

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

    The scores of the probe are kept for the run. A scorer may do part of its work once for each prompt, e.g. embed the
    responses for all personas; that cost is measured apart from the cost of each persona.

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
    missing = {persona: task.missing(persona) for persona in task.voices}
    n_pairs, n_missing = len(task.voices) * len(task.texts.keys), sum(map(len, missing.values()))
    # The persona with most to score; one with a text before the empty one, whose prompts are shorter.
    persona, prompts = max(missing.items(), key=lambda item: (len(item[1]), bool(item[0])))
    if not prompts:
        return PersonaEstimate(n_pairs, n_pairs, float("nan"), 0.0)
    # The first prompt is not timed: it pays for loading the model.
    warm_up = prompts[:1] if len(prompts) > 1 else []
    timed = prompts[len(warm_up) : len(warm_up) + probe]
    both = [i for i in timed if persona and i in missing[""]]
    if warm_up:
        task.score(persona, warm_up)
    first = _seconds_each(task, "", both) if both else 0.0
    again = _seconds_each(task, persona, timed)
    n_left = n_missing - len(warm_up) - len(timed) - len(both)
    n_unread = len(set(missing[""]) - {*warm_up, *timed}) if both else 0
    seconds = n_left * again + max(first - again, 0.0) * n_unread
    return PersonaEstimate(n_pairs, n_pairs - n_missing, again, seconds)


def _seconds_each(task: _Task, persona: str, prompts: list[int]) -> float:
    """Score some prompts and return the seconds for each."""
    begin = time.perf_counter()
    task.score(persona, prompts)
    return (time.perf_counter() - begin) / len(prompts)


@dataclass(frozen=True, eq=False, slots=True)
class _Task:
    """Everything that a run scores: the voices are the empty persona, then the personas."""

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

    def stored(self, persona: str) -> dict[bytes, F32]:
        return self.ledger.read(persona, self.texts.keys, self.texts.n_responses)

    def missing(self, persona: str) -> list[int]:
        stored = self.stored(persona)
        return [i for i, key in enumerate(self.texts.keys) if key not in stored]

    def score(self, persona: str, rows: Sequence[int]) -> F32:
        """Score some prompts, float32 (n, n_responses), and store the scores."""
        texts = self.texts
        flat = [(texts.prompts[i], response) for i in rows for response in texts.responses[i]]
        raw = np.asarray(self.scorer.score(persona, [p for p, _ in flat], [r for _, r in flat]), np.float32)
        if raw.shape != (len(flat),):
            raise AxisMismatch(f"{self.scorer.identity} returned shape {raw.shape} for {len(flat)} responses.")
        scores = raw.reshape(len(rows), texts.n_responses)
        if np.isinf(scores).any():
            row, column = np.argwhere(np.isinf(scores))[0].tolist()
            raise RunError(
                f"{self.scorer.identity} scored response {column + 1} of prompt "
                f"{texts.prompt_ids[rows[row]]} as {scores[row, column]} for the persona {persona[:60]!r}.",
                "A score must be finite, or NaN for an answer that cannot be read.",
            )
        self.ledger.write(persona, {texts.keys[i]: row for i, row in zip(rows, scores, strict=True)})
        return scores
