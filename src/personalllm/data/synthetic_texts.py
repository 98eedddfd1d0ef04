"""Draw synthetic scores over real texts: the factor model of `synthetic`, with factors that the texts give."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from personalllm.core.errors import AxisMismatch, DataError, ParameterError
from personalllm.core.protocols import TextEmbedder
from personalllm.core.seeding import generator
from personalllm.core.types import F32, F64
from personalllm.data.benchmark import Benchmark
from personalllm.data.synthetic import CALIBRATED, as_published
from personalllm.data.synthetic_model import FAMILIES, N_RESPONSES, REWARD_MODELS, draw_noise, synthetic_scores

__all__ = ["make_synthetic_over"]


_TOO_SMALL = 1e-9


def make_synthetic_over(
    benchmark: Benchmark, embedder: TextEmbedder, *, seed: int = 0, explained: float = 0.5
) -> Benchmark:
    r"""Return a benchmark with the texts of another one and synthetic scores.

    The length factor is the log length of the response. Each other factor (the shared quality, that of a family, the
    RM's own) is $\sqrt{s}\, v \cdot e + \sqrt{1 - s}\, z$: v a random direction, e the embedding of the response about
    the mean of its prompt's, scaled so that $v \cdot e$ has variance 1, z standard normal, s the share explained. So
    the RMs agree with each other and with length about as in `make_synthetic`, and a known share of each factor is a
    linear function of the embedding. This says nothing about how well the scores of real RMs can be learned.

    Args:
        benchmark: Real texts, 8 responses of each prompt; its own scores are left aside.
        embedder: Gives the vectors e; another embedder sees less of the factors.
        seed: Seed of directions and noise.
        explained: s, in [0, 1].

    Raises:
        ParameterError: If `explained` is out of range.
        AxisMismatch: If there are not 8 responses of each prompt.
        DataError: If the embedder gives all responses of each prompt the same vector, or there are no train rows.
    """
    if not 0 <= explained <= 1:
        raise ParameterError("explained", "in [0, 1]", explained)
    if benchmark.n_responses != N_RESPONSES:
        raise AxisMismatch(
            f"{benchmark.name!r} has {benchmark.n_responses} responses of each prompt.",
            f"Synthetic scores are for {N_RESPONSES}.",
        )
    train = benchmark.rows("train") if "train" in benchmark.splits else np.empty(0, np.int32)
    if not len(train):
        raise DataError(f"The benchmark {benchmark.name!r} has no train rows.", "Mark some in the column `split`.")
    texts = benchmark.responses.to_pylist()
    scores = _scores(texts, embedder, seed, explained)
    return Benchmark.from_arrays(
        name=f"synthetic-over-{benchmark.name}",
        prompt_ids=benchmark.prompt_ids.to_pylist(),
        prompts=benchmark.prompts.to_pylist(),
        subsets=benchmark.subsets.to_pylist(),
        splits=benchmark.row_splits(),
        responses=[texts[start : start + N_RESPONSES] for start in range(0, len(texts), N_RESPONSES)],
        response_models=[
            [benchmark.response_models[model] for model in row] for row in benchmark.response_model_index.tolist()
        ],
        reward_models=REWARD_MODELS,
        scores=as_published(scores, train),
        metadata={
            "synthetic": {
                "texts": benchmark.fingerprint,
                "embedder": embedder.identity,
                "explained": explained,
                "seed": seed,
            }
        },
    )


def _scores(texts: list[str], embedder: TextEmbedder, seed: int, explained: float) -> F32:
    """Return standardised scores, float32 (n_prompts, 8, 10), whose factors are read from the texts."""
    shape = (len(texts) // N_RESPONSES, N_RESPONSES)
    lengths = np.log(np.maximum(1.0, [len(text) for text in texts])).reshape(shape)
    vectors = np.asarray(embedder.embed(texts), np.float64).reshape(*shape, -1)
    noise = draw_noise(shape[0], generator(seed, "twin over texts", "noise"))
    n_factors = 1 + max(FAMILIES) + 1 + len(REWARD_MODELS)
    read = _projections(vectors, n_factors, generator(seed, "twin over texts", "directions"))
    mixed = np.sqrt(explained) * read + np.sqrt(1 - explained) * np.concatenate(
        [noise["quality"][..., None], noise["family"], noise["own"]], axis=2
    )
    means = lengths.mean(axis=1, keepdims=True)
    factors: dict[str, F32] = {
        "length": _scaled(lengths - means),
        "prompt_length": _scaled(means - means.mean()),
        "quality": mixed[..., 0].astype(np.float32),
        "family": mixed[..., 1 : 1 + noise["family"].shape[2]].astype(np.float32),
        "own": mixed[..., -len(REWARD_MODELS) :].astype(np.float32),
    }
    no_effect = (0.0,) * N_RESPONSES
    scores, _ = synthetic_scores(replace(CALIBRATED, model_length=no_effect, model_quality=no_effect), noise | factors)
    return scores


def _projections(vectors: F64, n_factors: int, rng: np.random.Generator) -> F64:
    """Return (n_prompts, n_responses, n_factors): responses on random directions, each of variance 1 within prompts.

    The directions are drawn in the space where the responses have the same variance in every direction that they use.
    """
    centred = vectors - vectors.mean(axis=1, keepdims=True)
    flat = centred.reshape(-1, centred.shape[2])
    values, axes = np.linalg.eigh(flat.T @ flat / len(flat))
    used = values > values[-1] * 1e-6
    if values[-1] < _TOO_SMALL:
        raise DataError("The embedder gives the responses of a prompt the same vector.", "Use another embedder.")
    read = centred @ (axes[:, used] / np.sqrt(values[used])) @ rng.standard_normal((int(used.sum()), n_factors))
    return np.asarray(read / read.std(axis=(0, 1)))


def _scaled(values: F64) -> F32:
    sd = values.std()
    return np.asarray(values / sd if sd > 0 else values, np.float32)
