"""Compact reward models: small Bradley-Terry heads that run on a CPU in milliseconds."""

from __future__ import annotations

from personalllm.backends.reward.cards import render_cards
from personalllm.backends.reward.ensemble import CompactEnsemble, shipped_ensembles, shipped_metadata
from personalllm.backends.reward.heads import RewardHeads
from personalllm.backends.reward.metrics import Accuracy, accuracy, rank_correlation, top_agreement
from personalllm.backends.reward.preferences import Preferences, read_preferences
from personalllm.backends.reward.surface import SURFACE_FEATURES, surface_features
from personalllm.backends.reward.train import TrainedReward, TrainingReport, train_compact

__all__ = [
    "SURFACE_FEATURES",
    "Accuracy",
    "CompactEnsemble",
    "Preferences",
    "RewardHeads",
    "TrainedReward",
    "TrainingReport",
    "accuracy",
    "rank_correlation",
    "read_preferences",
    "render_cards",
    "shipped_ensembles",
    "shipped_metadata",
    "surface_features",
    "top_agreement",
    "train_compact",
]
