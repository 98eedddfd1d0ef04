"""Run methods under a frozen protocol: three tracks, metrics with intervals, runs that resume.

`evaluate` runs the rank and the generate track, `read_results` reads such a run back; `predict` and `load_prediction`
are for the predict track, `predict_people` puts its learners to people's preferences. `Protocol.for_benchmark` says
what is to be run. Methods get texts and histories only; the scores stay on this side.
"""

from personalllm.core.stats import holm, sign_flip_p
from personalllm.evaluation.comparisons import SurvivingShare, compare_per_user, surviving_share
from personalllm.evaluation.contest import Contest, SweepCell, SweepRow
from personalllm.evaluation.metrics import wins
from personalllm.evaluation.prediction.comparisons import PairedDifference
from personalllm.evaluation.prediction.metrics import PREDICTION_METRICS, Cell
from personalllm.evaluation.prediction.people import load_people, predict_people
from personalllm.evaluation.prediction.people_task import PeopleProtocol
from personalllm.evaluation.prediction.reading import load_prediction
from personalllm.evaluation.prediction.results import LearnerResult, PredictResults
from personalllm.evaluation.prediction.run import predict
from personalllm.evaluation.prediction.sweep import (
    PredictContest,
    PredictSweepResults,
    PredictSweepRow,
    run_prediction_sweep,
    sweep_prediction,
)
from personalllm.evaluation.prediction.transfer import Transfer
from personalllm.evaluation.presets import PRESETS, Preset, get_preset, list_presets
from personalllm.evaluation.progress import Progress, ProgressEvent
from personalllm.evaluation.protocol import METRICS_VERSION, Protocol
from personalllm.evaluation.reading import compare, read_results
from personalllm.evaluation.references import PREDICTORS, REFERENCES
from personalllm.evaluation.resolve import parse_method, resolve
from personalllm.evaluation.results import METRICS, Estimate, MethodResult, Results, Sample
from personalllm.evaluation.run import evaluate
from personalllm.evaluation.specs import (
    FeedbackSpec,
    GenerationSpec,
    HistorySpec,
    PoolSpec,
    PopulationSpec,
    PredictionSpec,
)
from personalllm.evaluation.sweep import SweepResults, parse_axis, plan_sweep, run_sweep, sweep

__all__ = [
    "METRICS",
    "METRICS_VERSION",
    "PREDICTION_METRICS",
    "PREDICTORS",
    "PRESETS",
    "REFERENCES",
    "Cell",
    "Contest",
    "Estimate",
    "FeedbackSpec",
    "GenerationSpec",
    "HistorySpec",
    "LearnerResult",
    "MethodResult",
    "PairedDifference",
    "PeopleProtocol",
    "PoolSpec",
    "PopulationSpec",
    "PredictContest",
    "PredictResults",
    "PredictSweepResults",
    "PredictSweepRow",
    "PredictionSpec",
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
    "Transfer",
    "compare",
    "compare_per_user",
    "evaluate",
    "get_preset",
    "holm",
    "list_presets",
    "load_people",
    "load_prediction",
    "parse_axis",
    "parse_method",
    "plan_sweep",
    "predict",
    "predict_people",
    "read_results",
    "resolve",
    "run_prediction_sweep",
    "run_sweep",
    "sign_flip_p",
    "surviving_share",
    "sweep",
    "sweep_prediction",
    "wins",
]
