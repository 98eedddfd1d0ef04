"""Synthetic scores over real texts: agreement as in `make_synthetic`, a known share of the factors in the embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from personalllm.core.errors import AxisMismatch, DataError, ParameterError, PersonalLLMError
from personalllm.core.seeding import generator
from personalllm.core.types import F32
from personalllm.data import Benchmark, Standardiser, make_synthetic, make_synthetic_over


@dataclass(frozen=True)
class Hashing:
    """A vector for each text, drawn from the text itself."""

    dim: int = 24
    name: str = "hashing"
    identity: str = "hashing/1"

    def embed(self, texts: Sequence[str]) -> F32:
        rows = np.stack([generator(3, "vector", text).standard_normal(self.dim) for text in texts])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


class Constant(Hashing):
    def embed(self, texts: Sequence[str]) -> F32:
        return np.full((len(texts), self.dim), self.dim**-0.5, np.float32)


@pytest.fixture(scope="module")
def texts() -> Benchmark:
    return make_synthetic(600, seed=5)


def within(benchmark: Benchmark) -> F32:
    values = benchmark.score_table(Standardiser.fit(benchmark)).values
    return values - values.mean(axis=1, keepdims=True)


def explained_by(vectors: F32, values: F32) -> float:
    """Share of the variance within prompts that a linear function of the vectors explains, on prompts held out."""
    half = len(values) // 2
    fit = np.linalg.lstsq(vectors[:half].reshape(-1, vectors.shape[2]), values[:half].ravel(), rcond=None)[0]
    return float(1 - ((vectors[half:] @ fit - values[half:]) ** 2).sum() / (values[half:] ** 2).sum())


def centred(benchmark: Benchmark, embedder: Hashing) -> F32:
    vectors = embedder.embed(benchmark.responses.to_pylist()).reshape(*benchmark.scores.shape[:2], -1)
    return vectors - vectors.mean(axis=1, keepdims=True)


def test_texts_ids_and_splits_stay_and_scores_are_new(texts: Benchmark) -> None:
    made = make_synthetic_over(texts, Hashing())
    assert made.prompts.equals(texts.prompts)
    assert made.responses.equals(texts.responses)
    assert made.prompt_ids.equals(texts.prompt_ids)
    assert made.row_splits() == texts.row_splits()
    assert made.response_models == texts.response_models
    assert not np.allclose(made.scores, texts.scores)


def test_reward_models_agree_as_in_the_synthetic(texts: Benchmark) -> None:
    def correlations(benchmark: Benchmark) -> F32:
        return np.corrcoef(within(benchmark).reshape(-1, 10).T)

    made, synthetic = correlations(make_synthetic_over(texts, Hashing())), correlations(texts)
    assert np.abs(made - synthetic).max() < 0.2
    assert np.corrcoef(made[np.triu_indices(10, 1)], synthetic[np.triu_indices(10, 1)])[0, 1] > 0.9


def test_the_share_explained_is_what_was_asked_for(texts: Benchmark) -> None:
    vectors = centred(texts, Hashing())
    found = []
    for share in (0.0, 0.5, 1.0):
        own = within(make_synthetic_over(texts, Hashing(), explained=share))
        lengths = np.log([len(text) for text in texts.responses.to_pylist()]).reshape(texts.scores.shape[:2])
        both = np.concatenate([vectors, (lengths - lengths.mean(1, keepdims=True))[..., None]], axis=2)
        found.append(np.mean([explained_by(both, own[..., rm]) for rm in range(10)]))
    none, half, full = found
    assert none < half - 0.15 < full - 0.3
    assert full > 0.85


def test_the_seed_decides(texts: Benchmark) -> None:
    first, again, other = (make_synthetic_over(texts, Hashing(), seed=seed).fingerprint for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"explained": 1.5}, ParameterError, "explained"),
        ({"explained": float("nan")}, ParameterError, "explained"),
        ({"embedder": Constant()}, DataError, "same vector"),
    ],
)
def test_refusals(texts: Benchmark, change: dict, error: type[PersonalLLMError], says: str) -> None:
    with pytest.raises(error, match=says):
        make_synthetic_over(texts, change.pop("embedder", Hashing()), **change)


def test_other_numbers_of_responses_are_refused() -> None:
    few = Benchmark.from_arrays(
        name="few", prompt_ids=["a"], prompts=["Hi?"], subsets=["s"], splits=["train"], responses=[["Hello.", "Yes."]],
        response_models=["m1", "m2"], reward_models=["z"], scores=[[[1.0], [3.0]]],
    )  # fmt: skip
    with pytest.raises(AxisMismatch, match="are for 8"):
        make_synthetic_over(few, Hashing())
