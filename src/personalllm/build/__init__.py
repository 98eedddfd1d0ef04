"""Make a benchmark: prompts -> responses -> scores -> packed table, each step resumable."""

from personalllm.build.card import data_card
from personalllm.build.filters import fault
from personalllm.build.packing import pack
from personalllm.build.prompts import gather_prompts, read_prompts
from personalllm.build.recipe import PromptSource, Recipe, ResponseModel
from personalllm.build.responding import read_responses, respond
from personalllm.build.scoring import score

__all__ = [
    "PromptSource",
    "Recipe",
    "ResponseModel",
    "data_card",
    "fault",
    "gather_prompts",
    "pack",
    "read_prompts",
    "read_responses",
    "respond",
    "score",
]
