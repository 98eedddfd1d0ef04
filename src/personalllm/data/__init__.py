"""The data room: load, check, fingerprint, split and standardise the prompt x response x reward-model table."""

from personalllm.data.benchmark import Benchmark, ScoreTable
from personalllm.data.loading import load, validate
from personalllm.data.preferences import Preferences
from personalllm.data.problems import InvalidBenchmark, Problem
from personalllm.data.ratings import Ratings
from personalllm.data.standardise import Standardiser
from personalllm.data.synthetic import make_synthetic
from personalllm.data.synthetic_texts import make_synthetic_over
from personalllm.data.writing import write_benchmark

__all__ = [
    "Benchmark",
    "InvalidBenchmark",
    "Preferences",
    "Problem",
    "Ratings",
    "ScoreTable",
    "Standardiser",
    "load",
    "make_synthetic",
    "make_synthetic_over",
    "validate",
    "write_benchmark",
]
