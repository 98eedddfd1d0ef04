"""Run algorithms under a frozen protocol: two tracks, metrics with intervals, runs that resume.

`evaluate` runs, `read_results` reads a run back, `Protocol.for_benchmark` says what is to be run. Algorithms get texts
and histories only; the scores stay on this side.
"""

from personalllm.evaluation.comparisons import SurvivingShare, compare_per_user, surviving_share
from personalllm.evaluation.contest import Contest, SweepCell, SweepRow
from personalllm.evaluation.metrics import wins
from personalllm.evaluation.presets import PRESETS, Preset, get_preset, list_presets
from personalllm.evaluation.progress import Progress, ProgressEvent
from personalllm.evaluation.protocol import METRICS_VERSION, Protocol
from personalllm.evaluation.reading import compare, read_results
from personalllm.evaluation.references import REFERENCES
from personalllm.evaluation.resolve import parse_algorithm, resolve
from personalllm.evaluation.results import METRICS, AlgorithmResult, Estimate, Results, Sample
from personalllm.evaluation.run import evaluate
from personalllm.evaluation.significance import holm, sign_flip_p
from personalllm.evaluation.specs import FeedbackSpec, GenerationSpec, HistorySpec, PoolSpec, PopulationSpec
from personalllm.evaluation.sweep import SweepResults, parse_axis, plan_sweep, run_sweep, sweep

__all__ = [
    "METRICS",
    "METRICS_VERSION",
    "PRESETS",
    "REFERENCES",
    "AlgorithmResult",
    "Contest",
    "Estimate",
    "FeedbackSpec",
    "GenerationSpec",
    "HistorySpec",
    "PoolSpec",
    "PopulationSpec",
    "Preset",
    "Progress",
    "ProgressEvent",
    "Protocol",
    "Results",
    "Sample",
    "SurvivingShare",
    "SweepCell",
    "SweepResults",
    "SweepRow",
    "compare",
    "compare_per_user",
    "evaluate",
    "get_preset",
    "holm",
    "list_presets",
    "parse_algorithm",
    "parse_axis",
    "plan_sweep",
    "read_results",
    "resolve",
    "run_sweep",
    "sign_flip_p",
    "surviving_share",
    "sweep",
    "wins",
]
