"""Make a benchmark: prompts -> responses -> scores -> packed table, each step resumable."""

from personalllm.build.candidates import write_candidates
from personalllm.build.card import data_card
from personalllm.build.estimate import Estimate, Rates, estimate, measured_rates
from personalllm.build.filters import fault
from personalllm.build.packing import pack
from personalllm.build.prompts import SourceCounts, draw_prompts, gather_prompts, read_prompts
from personalllm.build.recipe import NearDuplicates, PromptSource, Recipe, ResponseModel, Source
from personalllm.build.responding import RespondReport, read_responses, respond
from personalllm.build.scoring import score
from personalllm.build.tables import RespondRows, ScoreRows

__all__ = [
    "Estimate",
    "NearDuplicates",
    "PromptSource",
    "Rates",
    "Recipe",
    "RespondReport",
    "RespondRows",
    "ResponseModel",
    "ScoreRows",
    "Source",
    "SourceCounts",
    "data_card",
    "draw_prompts",
    "estimate",
    "fault",
    "gather_prompts",
    "measured_rates",
    "pack",
    "read_prompts",
    "read_responses",
    "respond",
    "score",
    "write_candidates",
]
