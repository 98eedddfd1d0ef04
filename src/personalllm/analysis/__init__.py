"""Analyses of populations and reward models: diversity, agreement, entropy, people, personas, opinions, audit."""

from personalllm.analysis.agreement import Agreement, agreement, answer_overlap, user_agreement
from personalllm.analysis.audit import RewardAudit, audit
from personalllm.analysis.base import Analysis
from personalllm.analysis.diversity import Diversity, diversity
from personalllm.analysis.entropy import EntropyByWords, common_first_words, entropy_by_words
from personalllm.analysis.features import Features, measure_features
from personalllm.analysis.opinion import Representativeness, representativeness
from personalllm.analysis.opinion_files import read_opinionqa, read_opinions, read_questions
from personalllm.analysis.opinion_questions import OpinionQuestion, Survey
from personalllm.analysis.people import People, pair_votes, people
from personalllm.analysis.persona import PersonaPopulation, persona_population, score_personas
from personalllm.analysis.regression import Regressions, regressions, user_regressions
from personalllm.analysis.study import Study
from personalllm.analysis.votes import Votes
from personalllm.analysis.whose import Choices, WhoseChoice, whose_choice
from personalllm.core.registry import Registry

PAGE = {
    "diversity": "personalllm.analysis.diversity:Diversity",
    "paper": "personalllm.papers.personalllm_2025.section3:PaperComparison",
    "agreement": "personalllm.analysis.agreement:Agreement",
    "entropy": "personalllm.analysis.entropy:EntropyByWords",
    "people": "personalllm.analysis.people:People",
    "personas": "personalllm.analysis.persona:PersonaPopulation",
    "regressions": "personalllm.analysis.regression:Regressions",
    "opinion": "personalllm.analysis.opinion:Representativeness",
    "opinion-prediction": "personalllm.analysis.opinion_groups:GroupPrediction",
    "whose": "personalllm.analysis.whose:WhoseChoice",
    "audit": "personalllm.analysis.audit:RewardAudit",
}
"""The built-in analyses, in the order of the page of `personalllm analyze`; a new one needs its file and one line."""

ANALYSES = Registry("analysis", PAGE)
"""All analyses; others are added through entry points of the group `personalllm.analysis`."""

__all__ = [
    "ANALYSES",
    "PAGE",
    "Agreement",
    "Analysis",
    "Choices",
    "Diversity",
    "EntropyByWords",
    "Features",
    "OpinionQuestion",
    "People",
    "PersonaPopulation",
    "Regressions",
    "Representativeness",
    "RewardAudit",
    "Study",
    "Survey",
    "Votes",
    "WhoseChoice",
    "agreement",
    "answer_overlap",
    "audit",
    "common_first_words",
    "diversity",
    "entropy_by_words",
    "measure_features",
    "pair_votes",
    "people",
    "persona_population",
    "read_opinionqa",
    "read_opinions",
    "read_questions",
    "regressions",
    "representativeness",
    "score_personas",
    "user_agreement",
    "user_regressions",
    "whose_choice",
]
