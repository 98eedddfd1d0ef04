"""Every registered method keeps the contract."""

import numpy as np
import pytest

from personalllm.methods import list_methods, method_class
from personalllm.methods.base import Method
from personalllm.testing import HashEmbedder, check_method
from personalllm.testing._scenes import planted_scene


def _marked(name):
    """Mark what trains a network: it needs torch and takes a while."""
    return pytest.param(name, marks=[pytest.mark.torch, pytest.mark.slow] if method_class(name).extra else [])


ALL = [_marked(name) for name in list_methods()]


@pytest.mark.parametrize("name", ALL)
def test_keeps_the_contract(name):
    check_method(method_class(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_keeps_the_contract_with_its_default_parameters(name):
    cls = method_class(name)
    if cls.example_params():
        check_method(cls, {})


IN_CONTEXT = ("icl", "self-icl", "meta-icl", "lookup-icl")
SHOWN = [
    {"feedback": "losing-as-winning", "layout": "turns"},
    {"feedback": "losing"},
    {"feedback": "winning-and-losing"},
    {"feedback": "losing-as-winning"},
    {"layout": "turns"},
    {"n_shots": 50},
    {"max_history_tokens": 60},
]
ACROSS = [
    {"embedding": "winning"},
    {"embedding": "losing", "embedding_pairs": 1},
    {"embedding_pairs": 2, "feedback": "winning-and-losing"},
    {"n_similar": 500},
]


def _shown(name, params):
    """Mark all but one way of showing for the methods that show the feedback as `icl` does."""
    marks = [] if name == "icl" or params == SHOWN[0] else [pytest.mark.slow]
    return pytest.param(name, params, marks=marks, id=f"{name}-{params}")


@pytest.mark.parametrize(("name", "params"), [_shown(name, params) for name in IN_CONTEXT for params in SHOWN])
def test_in_context_methods_keep_the_contract_however_they_show_the_feedback(name, params):
    cls = method_class(name)
    check_method(cls, cls.example_params() | params)


@pytest.mark.parametrize("params", ACROSS, ids=str)
@pytest.mark.parametrize("name", ["meta-icl", "lookup-icl"])
def test_learning_across_users_keeps_the_contract_with_every_user_embedding(name, params):
    cls = method_class(name)
    check_method(cls, cls.example_params() | params)


@pytest.mark.parametrize("n_prompts", [1, 500])
def test_looking_up_keeps_the_contract_with_one_and_with_all_prompts(n_prompts):
    check_method(method_class("lookup-icl"), {"n_shots": 2, "n_similar": 2, "n_prompts": n_prompts})


def planted_utility(name: str) -> float:
    """Return the mean standardised utility of a method's choices for the planted users."""
    scene = planted_scene(HashEmbedder())
    cls = method_class(name)
    backends = {"embedder": HashEmbedder()} if cls.needs else {}
    method: Method = cls().bind(**backends, seed=3).fit(scene.pool).adapt(scene.targets)
    choice = np.argmax(method.utilities(scene.queries), axis=1)
    return float(scene.utilities[np.arange(len(choice)), choice].mean())


@pytest.mark.parametrize("name", ["longest", "pooled-ranker"])
def test_one_taste_for_everybody_gains_exactly_nothing_from_opposite_tastes(name):
    assert planted_utility(name) == pytest.approx(0, abs=1e-6)


def test_the_embedding_ranker_comes_near_the_best_choice():
    scene = planted_scene(HashEmbedder())
    oracle = float(scene.utilities.max(axis=1).mean())
    assert planted_utility("embedding-ranker") > 0.8 * oracle
    assert abs(planted_utility("random")) < 0.3 * oracle


@pytest.mark.models
@pytest.mark.parametrize("name", ["embedding-ranker", "pooled-ranker"])
def test_keeps_the_contract_with_the_real_embedder(name, embedder):
    check_method(method_class(name), embedder=embedder)


@pytest.mark.models
def test_self_icl_keeps_the_contract_with_the_real_chat_model(chat_model):
    check_method(method_class("self-icl"), llm=chat_model)
