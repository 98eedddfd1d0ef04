"""Persona prompting, the baseline population of the paper (section 3.1).

A scorer scores the responses to each prompt with a persona put before it; each persona votes for its best response.
"""

from personalllm.analysis.persona.population import PersonaPopulation, persona_population
from personalllm.analysis.persona.scorers import (
    PERSONA_TEMPLATE,
    ChatRatingScorer,
    FirstTokenModel,
    PersonaScorer,
    RewardModelScorer,
)
from personalllm.analysis.persona.scores import PersonaScores
from personalllm.analysis.persona.scoring import (
    PersonaEstimate,
    estimate_personas,
    read_personas,
    sample_personas,
    sample_rows,
    score_personas,
    shipped_personas,
)

__all__ = [
    "PERSONA_TEMPLATE",
    "ChatRatingScorer",
    "FirstTokenModel",
    "PersonaEstimate",
    "PersonaPopulation",
    "PersonaScorer",
    "PersonaScores",
    "RewardModelScorer",
    "estimate_personas",
    "persona_population",
    "read_personas",
    "sample_personas",
    "sample_rows",
    "score_personas",
    "shipped_personas",
]
