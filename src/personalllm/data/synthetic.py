"""Draw a synthetic benchmark in the released schema whose reward models agree as the real ones do."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from personalllm.core.errors import ParameterError
from personalllm.core.seeding import generator
from personalllm.core.types import F32
from personalllm.data.benchmark import Benchmark
from personalllm.data.standardise import PUBLISHED
from personalllm.data.synthetic_model import N_RESPONSES, REWARD_MODELS, FactorModel, draw_noise, synthetic_scores

__all__ = ["CALIBRATED", "RESPONSE_MODELS", "as_published", "make_synthetic"]

RESPONSE_MODELS = (
    "cohere/command-r-plus",
    "openai/gpt-4-turbo",
    "openai/gpt-4o",
    "anthropic/claude-3-opus",
    "anthropic/claude-3-sonnet",
    "meta-llama/llama-3-70b-instruct",
    "google/gemini-pro-1.5",
    "mistralai/mixtral-8x22b-instruct",
)
_TRAIN_SHARE = 9402 / 10402
_SUBSETS = {
    "hh-rlhf-helpful-base": 4797,
    "hh-rlhf-helpful-online": 3320,
    "HelpSteer": 1290,
    "alpacaeval-hard": 285,
    "alpacaeval-easy": 259,
    "alpacaeval-length": 219,
    "xstest-should-respond": 65,
    "llmbar-adver-neighbor": 43,
    "llmbar-adver-GPTInst": 34,
    "llmbar-natural": 27,
    "llmbar-adver-manual": 19,
    "llmbar-adver-GPTOut": 15,
    "mt-bench-med": 14,
    "mt-bench-hard": 10,
    "mt-bench-easy": 5,
}
_WORDS = (
    "a about after again air all an and answer any around as at back be because before better between book both but "
    "by can change city clear close cold colour come could day different door each early easy end even every example "
    "far few find first food for from garden give go good great green hand have help here high home hour house how "
    "idea if important in into is it its keep kind know large last late learn less letter life light like line little "
    "long look make many matter may mean more morning most move much music name near need never new next night not "
    "now number of often old on one only open or order other our out over page paper part people place plan point "
    "possible quite rather read reason right river road room same say school season see several short should show "
    "side simple slow small so some song sound start step still stone story street such sure table take tell than "
    "that the their them then there these they thing think this those though time to together too town tree true "
    "under until up use very walk warm was water way well were what when where which while white who why winter with "
    "without word work world would write year yet you young"
)
_MEAN_LENGTH = 1_060.0
_LENGTH_SPREAD = 0.55
_LENGTH_RANGE = (60, 4_000)
_PROMPT_RANGE = (40, 2_400)
_POOL_SENTENCES = 4_000

CALIBRATED = FactorModel(
    length=(-0.2624, 0.6316, 0.9008, 0.6895, 0.7870, 1.3208, 0.8104, 0.2205, 0.1824, 0.1358),
    quality=(-0.3601, 0.5939, 0.4889, 0.5568, 0.5993, 0.5866, 0.5713, 0.4151, 0.4521, 0.3811),
    family=(-0.1239, 0.7395, 0.3318, 0.3679, 0.5015, 0.0069, 0.5968, 0.0232, 0.3639, 0.3019),
    noise=(1.3079, -0.0559, 0.5574, 0.5158, 0.2666, 0.6461, 0.2427, 0.9570, 1.1311, 0.7391),
    between=(-0.1025, 0.9500, 0.7014, 0.7191, 0.6261, 0.3667, 0.6634, 0.4413, 0.1450, 0.2096),
    model_length=(-0.2202, 0.3133, 0.5903, -0.2060, -0.2083, -0.0922, 0.0393, -0.9889),
    model_quality=(0.2193, 0.2615, 0.7151, 0.0799, 0.0376, 0.1260, 0.1345, -0.9515),
    spread=(0.0883, 0.0555),
)
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
    names = list(_SUBSETS)
    odds = np.array(list(_SUBSETS.values()), dtype=float)
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
    """Give standardised scores exactly the published mean and standard deviation over the train rows."""
    train_scores = standard[train].astype(np.float64)
    mean, sd = train_scores.mean(axis=(0, 1)), train_scores.std(axis=(0, 1))
    published = np.array([PUBLISHED[name] for name in REWARD_MODELS])
    raw = (standard - mean) / sd * published[:, 1] + published[:, 0]
    as_released: F32 = raw.astype(np.float32)
    return as_released


def _pool(rng: np.random.Generator) -> tuple[str, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Return a long run of sentences of random words, and where each sentence starts."""
    vocabulary = _WORDS.split()
    sentences = []
    for size in rng.integers(6, 18, _POOL_SENTENCES):
        words = " ".join(vocabulary[k] for k in rng.integers(0, len(vocabulary), size))
        sentences.append(f"{words[0].upper()}{words[1:]}. ")
    starts = np.concatenate([[0], np.cumsum([len(sentence) for sentence in sentences])[:-1]])
    return "".join(sentences) + "".join(sentences[: _LENGTH_RANGE[1] // 20]), starts.astype(np.int64)


def _text(head: str, pool: str, start: int, size: int) -> str:
    body = pool[start : start + max(0, size - len(head) - 2)].rstrip(" .")
    return f"{head} {body}."
