"""Run algorithms under a frozen protocol: two tracks, metrics with intervals, runs that resume.

`evaluate` runs, `read_results` reads a run back, `Protocol.for_benchmark` says what is to be run. Algorithms get texts
and histories only; the scores stay on this side.
"""

from personalllm.evaluation.metrics import wins
from personalllm.evaluation.progress import Progress, ProgressEvent
from personalllm.evaluation.protocol import (
    METRICS_VERSION,
    FeedbackSpec,
    GenerationSpec,
    HistorySpec,
    PoolSpec,
    PopulationSpec,
    Protocol,
)
from personalllm.evaluation.reading import compare, read_results
from personalllm.evaluation.references import REFERENCES
from personalllm.evaluation.resolve import parse_algorithm, resolve
from personalllm.evaluation.results import METRICS, AlgorithmResult, Estimate, Results, Sample
from personalllm.evaluation.run import evaluate

__all__ = [
    "METRICS",
    "METRICS_VERSION",
    "REFERENCES",
    "AlgorithmResult",
    "Estimate",
    "FeedbackSpec",
    "GenerationSpec",
    "HistorySpec",
    "PoolSpec",
    "PopulationSpec",
    "Progress",
    "ProgressEvent",
    "Protocol",
    "Results",
    "Sample",
    "compare",
    "evaluate",
    "parse_algorithm",
    "read_results",
    "resolve",
    "wins",
]
