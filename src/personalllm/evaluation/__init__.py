"""Evaluate methods under a frozen protocol: tracks, metrics with intervals, runs that resume.

`evaluate` runs any track, on simulated users or on people; `load_results` reads runs back; `sweep` varies settings.
`Protocol.for_data` says what is run. Methods get texts and histories only; the scores stay on this side.
"""

from personalllm.evaluation.contract import (
    Backends,
    Condition,
    Estimate,
    Metric,
    NamedMethod,
    Outcome,
    Sums,
    Track,
    Unit,
)
from personalllm.evaluation.differences import Difference, between_runs
from personalllm.evaluation.flips import FlipRate, flip_rate
from personalllm.evaluation.measures import reliability
from personalllm.evaluation.parts import (
    TRACKS,
    FeedbackSpec,
    FoldSpec,
    HistorySpec,
    Options,
    PoolSpec,
    PopulationSpec,
    load_track,
)
from personalllm.evaluation.power import Spread, people_needed, power
from personalllm.evaluation.presets import PRESETS, Preset, get_preset, list_presets
from personalllm.evaluation.progress import Progress, ProgressEvent
from personalllm.evaluation.protocol import METRICS_VERSION, RUN_FORMAT, Protocol
from personalllm.evaluation.reading import load_results, load_run
from personalllm.evaluation.resolve import parse_method, resolve
from personalllm.evaluation.results import MethodResult, Results
from personalllm.evaluation.run import evaluate
from personalllm.evaluation.sweep import Sweep, parse_axis, plan_sweep, run_sweep, sweep
from personalllm.evaluation.transfer import Transfer

__all__ = [
    "METRICS_VERSION",
    "PRESETS",
    "RUN_FORMAT",
    "TRACKS",
    "Backends",
    "Condition",
    "Difference",
    "Estimate",
    "FeedbackSpec",
    "FlipRate",
    "FoldSpec",
    "HistorySpec",
    "MethodResult",
    "Metric",
    "NamedMethod",
    "Options",
    "Outcome",
    "PoolSpec",
    "PopulationSpec",
    "Preset",
    "Progress",
    "ProgressEvent",
    "Protocol",
    "Results",
    "Spread",
    "Sums",
    "Sweep",
    "Track",
    "Transfer",
    "Unit",
    "between_runs",
    "evaluate",
    "flip_rate",
    "get_preset",
    "list_presets",
    "load_results",
    "load_run",
    "load_track",
    "parse_axis",
    "parse_method",
    "people_needed",
    "plan_sweep",
    "power",
    "reliability",
    "resolve",
    "run_sweep",
    "sweep",
]
