"""Feedback: preference pairs, ratings, pools of interactions, and the view of the texts that methods get."""

from personalllm.feedback.fixed import FixedPairs
from personalllm.feedback.interactions import interact, outcomes, sample_prompts
from personalllm.feedback.pool import InteractionPool, RatingPool
from personalllm.feedback.ratings import ratings
from personalllm.feedback.rules import FeedbackRule, RatingRule
from personalllm.feedback.view import CorpusView

__all__ = [
    "CorpusView",
    "FeedbackRule",
    "FixedPairs",
    "InteractionPool",
    "RatingPool",
    "RatingRule",
    "interact",
    "outcomes",
    "ratings",
    "sample_prompts",
]
