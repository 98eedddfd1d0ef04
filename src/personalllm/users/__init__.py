"""Simulated users: weight vectors over reward models, their utilities and their choices."""

from personalllm.users.choices import choices, choices_at, ranks
from personalllm.users.population import PUBLISHED_ALPHAS, PUBLISHED_REWARD_MODELS, PUBLISHED_USERS, Population
from personalllm.users.utility import iter_utilities, utilities

__all__ = [
    "PUBLISHED_ALPHAS",
    "PUBLISHED_REWARD_MODELS",
    "PUBLISHED_USERS",
    "Population",
    "choices",
    "choices_at",
    "iter_utilities",
    "ranks",
    "utilities",
]
