"""The stand-ins and the real backends keep the contracts."""

import pytest

from personalllm.backends.names import build_rewards
from personalllm.testing import (
    EchoChatModel,
    HashEmbedder,
    SurfaceRewards,
    check_chat_model,
    check_embedder,
    check_reward_ensemble,
)


@pytest.mark.parametrize("dim", [4, 64])
def test_hash_embedder(dim):
    check_embedder(HashEmbedder(dim))


@pytest.mark.parametrize("context_length", [64, 8_192])
def test_echo_chat_model(context_length):
    check_chat_model(EchoChatModel(context_length))


def test_surface_rewards():
    check_reward_ensemble(SurfaceRewards())


@pytest.mark.models
def test_the_embedder(embedder):
    check_embedder(embedder)


@pytest.mark.slow
@pytest.mark.models
def test_the_chat_model(chat_model):
    check_chat_model(chat_model)


@pytest.mark.models
def test_the_compact_reward_models(reward_ensemble):
    check_reward_ensemble(reward_ensemble)


def test_the_compact_reward_models_that_read_words():
    check_reward_ensemble(build_rewards({}, name="compact-v2"))
