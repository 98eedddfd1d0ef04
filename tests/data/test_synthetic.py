"""The synthetic benchmark: reproducible, in the released schema, with the figures it was calibrated to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from personalllm.core.errors import ParameterError
from personalllm.data import Benchmark, Standardiser, load, make_synthetic, write_benchmark

SHARES = {0.01: (49.55, 93.6, 99.8), 0.05: (42.6, 89.6, 99.8), 0.1: (34.0, 83.0, 99.7)}
BINS = {
    0.01: (0.058, 0.186, 0.283, 0.289, 0.182),
    0.05: (0.053, 0.167, 0.277, 0.287, 0.214),
    0.1: (0.066, 0.173, 0.275, 0.292, 0.192),
}


@pytest.fixture(scope="module")
def synthetic() -> Benchmark:
    return make_synthetic(4000, seed=0)


def counts(bench: Benchmark, alpha: float) -> Any:
    """Votes of the published users for each response, (n_prompts, 8)."""
    weights = np.random.RandomState(0).dirichlet([alpha] * 10, size=1000).astype(np.float32)
    scores = bench.score_table(Standardiser.published()).values
    winner = np.concatenate([(block @ weights.T).argmax(1) for block in np.array_split(scores, 20)])
    return np.stack([(winner == r).sum(1) for r in range(8)], axis=1)


def test_same_seed_same_scores_other_seed_others() -> None:
    assert make_synthetic(30, seed=1).fingerprint == make_synthetic(30, seed=1).fingerprint
    assert make_synthetic(30, seed=1).fingerprint != make_synthetic(30, seed=2).fingerprint


def test_schema_and_splits(tmp_path: Path, synthetic: Benchmark) -> None:
    assert synthetic.reward_models == Standardiser.published().reward_models
    assert (synthetic.n_prompts, synthetic.n_responses) == (4000, 8)
    assert {split: len(rows) for split, rows in synthetic.splits.items()} == {"train": 3615, "test": 385}
    assert len(set(synthetic.response_models)) == 8
    small = make_synthetic(25, seed=5)
    assert load(write_benchmark(small, tmp_path / "synthetic.parquet")).fingerprint == small.fingerprint


@pytest.mark.parametrize(("n_prompts", "train"), [(2, 1), (3, 2), (10, 9), (104, 94)])
def test_every_size_has_both_splits(n_prompts: int, train: int) -> None:
    assert len(make_synthetic(n_prompts).rows("train")) == train
    with pytest.raises(ParameterError, match="n_prompts must be >= 2"):
        make_synthetic(1)


def test_train_scores_have_the_published_constants(synthetic: Benchmark) -> None:
    fitted, published = Standardiser.fit(synthetic), Standardiser.published()
    np.testing.assert_allclose(fitted.mean, published.mean, rtol=1e-5)
    np.testing.assert_allclose(fitted.sd, published.sd, rtol=1e-5)


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1])
def test_diversity_is_near_the_paper(synthetic: Benchmark, alpha: float) -> None:
    votes = counts(synthetic, alpha)
    top = votes.max(1) / 10
    shares = [100 * ((top < x).mean() + (top == x).mean() / 2) for x in (50, 75, 95)]
    np.testing.assert_allclose(shares, SHARES[alpha], atol=3.5)
    n = np.bincount((votes > 0).sum(1), minlength=9)[1:] / len(votes)
    plotted = [n[1] + n[2], n[3], n[4], n[5], n[6] + n[7]]
    np.testing.assert_allclose(plotted, BINS[alpha], atol=0.035)


def test_response_models_win_as_in_the_paper(synthetic: Benchmark) -> None:
    wins = 100 * counts(synthetic, 0.05).sum(0) / (1000 * synthetic.n_prompts)
    np.testing.assert_allclose(wins, (10.8, 16.62, 26.23, 9.74, 9.91, 11.45, 12.27, 3.0), atol=3)


def test_reward_models_agree_as_the_real_ones(synthetic: Benchmark) -> None:
    top = synthetic.scores.argmax(1)
    agree = (top[:, :, None] == top[:, None, :]).mean(0)
    names = {name: b for b, name in enumerate(synthetic.reward_models)}
    assert agree[names["gemma_2b"], names["gemma_7b"]] == pytest.approx(0.57, abs=0.04)
    assert agree[names["mistral_raft"], names["mistral_weqweasdas"]] == pytest.approx(0.76, abs=0.04)
    others = [b for b in range(10) if b != names["beaver_7b"]]
    assert agree[names["beaver_7b"], others].max() < 0.15


def test_length_correlates_with_the_scores(synthetic: Benchmark) -> None:
    lengths = np.array([len(text) for text in synthetic.responses.to_pylist()])
    ranks = lengths.argsort().argsort()
    wanted = {"gemma_2b": 0.77, "gemma_7b": 0.73, "mistral_raft": 0.69, "llama3_sfairx": 0.69, "mistral_ray": 0.60}
    for name, correlation in wanted.items():
        scores = synthetic.scores[:, :, synthetic.reward_models.index(name)].ravel().argsort().argsort()
        assert np.corrcoef(ranks, scores)[0, 1] == pytest.approx(correlation, abs=0.06), name


def test_texts_are_distinct_placeholders_of_varying_length(synthetic: Benchmark) -> None:
    texts = synthetic.responses.to_pylist()
    assert len(set(texts)) == len(texts)
    assert all(text.startswith("[Placeholder response ") for text in texts[:16])
    sizes = np.array([len(text) for text in texts])
    assert 900 < sizes.mean() < 1250
    assert sizes.std() > 300
