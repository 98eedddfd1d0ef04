"""Draw a synthetic benchmark in the released schema whose reward models agree as the real ones do."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from personalllm.core.errors import ParameterError
from personalllm.core.seeding import generator
from personalllm.core.storage import shipped_tables
from personalllm.core.types import F32
from personalllm.data.benchmark import Benchmark
from personalllm.data.standardise import PUBLISHED
from personalllm.data.synthetic_model import N_RESPONSES, REWARD_MODELS, FactorModel, draw_noise, synthetic_scores

__all__ = ["CALIBRATED", "RESPONSE_MODELS", "as_published", "make_synthetic"]

_CONSTANTS = shipped_tables("personalllm.data", "synthetic.toml")
RESPONSE_MODELS: tuple[str, ...] = tuple(_CONSTANTS["response_models"])
_TRAIN_SHARE = 9402 / 10402
_MEAN_LENGTH = 1_060.0
_LENGTH_SPREAD = 0.55
_LENGTH_RANGE = (60, 4_000)
_PROMPT_RANGE = (40, 2_400)
_POOL_SENTENCES = 4_000

CALIBRATED = FactorModel(**{name: tuple(values) for name, values in _CONSTANTS["calibrated"].items()})
"""Constants found by `benchmarks/calibrate_synthetic.py`; `docs/synthetic.md` shows how near they come to the paper."""


def make_synthetic(n_prompts: int = 10_402, seed: int = 0) -> Benchmark:
    """Return a synthetic benchmark that behaves like the release under simulated users.

    The scores follow a factor model (`personalllm.data.synthetic_model`) with constants chosen such that the reward
    models agree on the top response, correlate with length, reward the response models and divide the 1,000 published
    users as the paper reports. They have exactly the published mean and standard deviation of each RM over the train
    rows. The texts are placeholders of random words whose length follows the length factor; they mean nothing, so
    nothing about language can be learned from them.

    Args:
        n_prompts: Number of prompts, >= 2; the default is the size of the release. Of these 9402/10402 are train.
        seed: Seed of every draw.

    Raises:
        ParameterError: If `n_prompts` is below 2.

    >>> make_synthetic(20, seed=1)
    Benchmark('synthetic': 20 prompts (train 18, test 2), 8 responses, 10 reward models, fingerprint ...)
    """
    if n_prompts < 2:
        raise ParameterError("n_prompts", ">= 2", n_prompts)
    n_train = min(max(1, round(n_prompts * _TRAIN_SHARE)), n_prompts - 1)
    standard, lengths = synthetic_scores(CALIBRATED, draw_noise(n_prompts, generator(seed, "twin", "scores")))
    rng = generator(seed, "twin", "texts")
    pool, starts = _pool(rng)
    mean_log = np.log(_MEAN_LENGTH) - _LENGTH_SPREAD**2 / 2
    sizes = np.clip(np.exp(mean_log + _LENGTH_SPREAD * lengths), *_LENGTH_RANGE).astype(int)
    at = starts[rng.integers(0, len(starts), sizes.shape)]
    prompt_sizes = np.clip(np.exp(rng.normal(4.6, 0.8, n_prompts)), *_PROMPT_RANGE).astype(int)
    prompt_at = starts[rng.integers(0, len(starts), n_prompts)]
    subsets: dict[str, int] = _CONSTANTS["subsets"]
    names, odds = list(subsets), np.array(list(subsets.values()), dtype=float)
    responses = [
        [
            _text(f"[Placeholder response {j + 1} to prompt {i}]", pool, int(at[i, j]), int(sizes[i, j]))
            for j in range(N_RESPONSES)
        ]
        for i in range(n_prompts)
    ]
    return Benchmark.from_arrays(
        name="synthetic",
        prompt_ids=[f"synthetic-{i:06d}" for i in range(n_prompts)],
        prompts=[
            _text(f"[Placeholder prompt {i}]", pool, int(prompt_at[i]), int(prompt_sizes[i])) for i in range(n_prompts)
        ],
        subsets=[names[k] for k in rng.choice(len(names), n_prompts, p=odds / odds.sum())],
        splits=["train"] * n_train + ["test"] * (n_prompts - n_train),
        responses=responses,
        response_models=RESPONSE_MODELS,
        reward_models=REWARD_MODELS,
        scores=as_published(standard, np.arange(n_train)),
        metadata={"synthetic": {"n_prompts": n_prompts, "seed": seed}},
    )


def as_published(standard: F32, train: npt.NDArray[np.integer[Any]]) -> F32:
    """Shift and scale standardised scores to the published mean and standard deviation over the train rows."""
    train_scores = standard[train].astype(np.float64)
    mean, sd = train_scores.mean(axis=(0, 1)), train_scores.std(axis=(0, 1))
    published = np.array([PUBLISHED[name] for name in REWARD_MODELS])
    raw = (standard - mean) / sd * published[:, 1] + published[:, 0]
    as_released: F32 = raw.astype(np.float32)
    return as_released


def _pool(rng: np.random.Generator) -> tuple[str, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Return a long run of sentences of random words, and where each sentence starts."""
    vocabulary = _CONSTANTS["words"].split()
    sentences = []
    for size in rng.integers(6, 18, _POOL_SENTENCES):
        words = " ".join(vocabulary[k] for k in rng.integers(0, len(vocabulary), size))
        sentences.append(f"{words[0].upper()}{words[1:]}. ")
    starts = np.concatenate([[0], np.cumsum([len(sentence) for sentence in sentences])[:-1]])
    return "".join(sentences) + "".join(sentences[: _LENGTH_RANGE[1] // 20]), starts.astype(np.int64)


def _text(head: str, pool: str, start: int, size: int) -> str:
    body = pool[start : start + max(0, size - len(head) - 2)].rstrip(" .")
    return f"{head} {body}."
