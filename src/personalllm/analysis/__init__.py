"""What a population wants, how far it is from people, and what its reward models are worth."""

from personalllm.analysis.agreement import Agreement, agreement, answer_overlap, user_agreement
from personalllm.analysis.audit import RewardAudit, audit
from personalllm.analysis.base import Analysis
from personalllm.analysis.diversity import Diversity, diversity
from personalllm.analysis.entropy import EntropyByWords, common_first_words, entropy_by_words
from personalllm.analysis.features import Features, measure_features
from personalllm.analysis.opinion import OpinionQuestion, Representativeness, representativeness
from personalllm.analysis.opinion_files import read_opinions, read_questions
from personalllm.analysis.people import People, pair_votes, people
from personalllm.analysis.persona import PersonaPopulation, persona_population, score_personas
from personalllm.analysis.regression import Regressions, regressions, user_regressions
from personalllm.analysis.study import Study
from personalllm.analysis.votes import Votes

__all__ = [
    "Agreement",
    "Analysis",
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
    "Votes",
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
    "read_opinions",
    "read_questions",
    "regressions",
    "representativeness",
    "score_personas",
    "user_agreement",
    "user_regressions",
]
