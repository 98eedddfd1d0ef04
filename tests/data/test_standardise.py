"""Standardiser: published constants, fitting, axis checks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from personalllm.core.errors import AxisMismatch, DataError, ParameterError
from personalllm.data import Standardiser

GOLDEN = {
    "beaver_7b": (6.233516894340515, 3.012641148973965),
    "gemma_2b": (4.3304170169830325, 2.038611338958803),
    "gemma_7b": (1.6259730467796325, 2.6096741570264976),
    "llama3_sfairx": (1.0637639780044557, 2.953017385451928),
    "mistral_raft": (8.309211883544922, 3.0728436748484533),
    "mistral_ray": (3.0136284782886507, 1.6902981149232585),
    "mistral_weqweasdas": (7.071075622558594, 2.578636650248985),
    "oasst_deberta_v3": (2.8976835689097644, 1.7207868789061331),
    "oasst_pythia_1b": (4.293944010734558, 2.3018268820938133),
    "oasst_pythia_7b": (4.706351243972779, 1.3659142113789966),
}


def test_published_constants() -> None:
    standardiser = Standardiser.published()
    assert standardiser.reward_models == tuple(GOLDEN)
    pairs = zip(standardiser.mean, standardiser.sd, strict=True)
    assert dict(zip(standardiser.reward_models, pairs, strict=True)) == GOLDEN
    raw = np.array([mean + 2 * sd for mean, sd in GOLDEN.values()])
    np.testing.assert_allclose(standardiser.apply(raw), 2, rtol=1e-6)


def test_spec_gives_the_same_standardiser_again() -> None:
    assert Standardiser.from_spec(Standardiser.published().spec()) == Standardiser.published()


def test_fit_is_mean_and_population_sd_of_the_split(make_benchmark: Any) -> None:
    scores = np.arange(36, dtype=float).reshape(6, 3, 2)
    standardiser = Standardiser.fit(make_benchmark(scores=scores), split="test")
    np.testing.assert_allclose(standardiser.mean, scores[4:].mean(axis=(0, 1)))
    np.testing.assert_allclose(standardiser.sd, scores[4:].std(axis=(0, 1)))


def test_apply_rounds_once_from_float64() -> None:
    scores = np.float32([[1e7, 1e7 + 1]])
    out = Standardiser(("a", "b"), (1e7, 1e7), (3.0, 3.0)).apply(scores)
    assert out.dtype == np.float32
    assert out.tolist() == [[0.0, float(np.float32(1 / 3))]]


def test_fit_names_a_flat_reward_model(make_benchmark: Any) -> None:
    scores = np.random.default_rng(0).standard_normal((6, 3, 2))
    scores[:, :, 1] = 4
    with pytest.raises(DataError, match="rm_b gives every response"):
        Standardiser.fit(make_benchmark(scores=scores))


def test_score_table_refuses_other_reward_models(make_benchmark: Any) -> None:
    with pytest.raises(AxisMismatch, match="the benchmark has rm_a, rm_b"):
        make_benchmark().score_table(Standardiser.published())


BAD: list[tuple[tuple[Any, Any, Any], type[Exception], str]] = [
    ((("a",), (0.0,), (0.0,)), ParameterError, "sd must be finite and > 0"),
    ((("a",), (0.0,), (-1.0,)), ParameterError, "sd must be finite and > 0"),
    ((("a",), (math.nan,), (1.0,)), ParameterError, "mean must be finite"),
    ((("a",), (0.0,), (math.inf,)), ParameterError, "sd must be finite and > 0"),
    ((("a", "b"), (0.0,), (1.0,)), AxisMismatch, "2 reward models, 1 means"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD)
def test_bad_constants(arguments: tuple[Any, Any, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Standardiser(*arguments)


def test_apply_refuses_another_axis() -> None:
    with pytest.raises(AxisMismatch, match="last axis of 10"):
        Standardiser.published().apply(np.zeros((2, 9)))
