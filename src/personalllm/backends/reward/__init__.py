"""Reward models: compact ones that run on a CPU in milliseconds, and published ones that transformers runs."""

from __future__ import annotations

from personalllm.backends.reward.cards import render_cards
from personalllm.backends.reward.ensemble import CompactEnsemble, load_compact, shipped_ensembles, shipped_metadata
from personalllm.backends.reward.entries import PUBLISHED, REWARD_MODELS, Released, RewardEntry, Template, find_reward
from personalllm.backends.reward.heads import RewardHeads
from personalllm.backends.reward.invariance import Check, SelfTest, selftest
from personalllm.backends.reward.metrics import Accuracy, accuracy, rank_correlation, top_agreement
from personalllm.backends.reward.pairs import Pairs
from personalllm.backends.reward.published import ENSEMBLES, PublishedEnsemble, is_published, load_rewards
from personalllm.backends.reward.surface import SURFACE_FEATURES, surface_features
from personalllm.backends.reward.train import TrainedReward, TrainingReport, train_compact
from personalllm.backends.reward.transformer import TransformersReward
from personalllm.backends.reward.words import WordFeatures, WordRewards

__all__ = [
    "ENSEMBLES",
    "PUBLISHED",
    "REWARD_MODELS",
    "SURFACE_FEATURES",
    "Accuracy",
    "Check",
    "CompactEnsemble",
    "Pairs",
    "PublishedEnsemble",
    "Released",
    "RewardEntry",
    "RewardHeads",
    "SelfTest",
    "Template",
    "TrainedReward",
    "TrainingReport",
    "TransformersReward",
    "WordFeatures",
    "WordRewards",
    "accuracy",
    "find_reward",
    "is_published",
    "load_compact",
    "load_rewards",
    "rank_correlation",
    "render_cards",
    "selftest",
    "shipped_ensembles",
    "shipped_metadata",
    "surface_features",
    "top_agreement",
    "train_compact",
]
