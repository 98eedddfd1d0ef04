"""Backends by name, as an object, or as a function with an identity."""

import pickle

import numpy as np
import pytest

from personalllm.backends import chat_model, embedder, reward_ensemble
from personalllm.backends.embedding import CachedEmbedder
from personalllm.backends.executor import ProcessExecutor
from personalllm.backends.given import executor
from personalllm.core.backends import backend
from personalllm.core.errors import ParameterError, PluginError, RunError, UnknownName, UserError
from personalllm.core.types import ChatRequest, Message
from personalllm.testing import EchoChatModel, HashEmbedder


def vectors(texts):
    return np.array([[len(text), 1.0] for text in texts])


def answer(messages, seed, max_tokens):
    return f" {messages[-1]['content']} {seed} {max_tokens} "


def lengths(prompts, responses):
    return [len(response) for response in responses]


class Encoder:
    """As a SentenceTransformer has it."""

    def encode(self, texts):
        return vectors(texts)

    def get_sentence_embedding_dimension(self):
        return 2


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PERSONALLLM_CACHE", str(tmp_path))


def test_objects_of_the_protocol_are_returned_as_they_are():
    for kind, given in (
        ("embedder", HashEmbedder()),
        ("chat model", EchoChatModel()),
        ("executor", ProcessExecutor(2)),
    ):
        assert backend(kind, given) is given
        assert backend(kind, None) is None


def test_names_are_built():
    assert isinstance(backend("chat model", "personalllm.testing:EchoChatModel"), EchoChatModel)
    assert isinstance(backend("embedder", "personalllm.testing:HashEmbedder"), CachedEmbedder)
    assert backend("executor", "processes:3") == ProcessExecutor(3)
    with pytest.raises(UnknownName, match=r"no chat model named 'smolm2'.*smollm2"):
        backend("chat model", "smolm2")


@pytest.mark.parametrize("given", [vectors, Encoder()])
def test_a_function_or_an_encoder_is_an_embedder_of_unit_rows(given):
    wrapped = embedder(given, identity="lengths v1")
    rows = wrapped.embed(["abc", ""])
    np.testing.assert_allclose(rows, [[3 / 10**0.5, 1 / 10**0.5], [0, 1]], rtol=1e-6)
    assert (rows.dtype, wrapped.dim, wrapped.identity) == (np.float32, 2, "lengths v1")
    assert wrapped.embed([]).shape == (0, 2)
    copy = pickle.loads(pickle.dumps(wrapped))
    np.testing.assert_array_equal(copy.embed(["abc", ""]), rows)


def test_a_function_is_a_chat_model_that_gets_the_sampling_it_takes():
    model = chat_model(answer, identity="echo v1", context_length=100)
    request = ChatRequest((Message("user", "hello there"),), max_tokens=5, seed=7)
    reply = model.chat([request])[0]
    assert reply.text == "hello there 7 5"
    assert (reply.prompt_tokens, model.context_length) == (4 + 4, 100), "four for the turn, a token for three bytes"
    assert chat_model(answer, identity="x", count_tokens=len).count_tokens(request.messages) == 1


def test_a_function_is_a_reward_ensemble():
    single = reward_ensemble(lengths, names=["long"], identity="v1")
    np.testing.assert_array_equal(single.score(["p", "p"], ["a", "bb"]), np.float32([[1], [2]]))
    with pytest.raises(RunError, match=r"returned shape \(2,\) instead of \(2, 2\)"):
        reward_ensemble(lengths, names=["a", "b"], identity="v1").score(["p", "p"], ["a", "bb"])
    with pytest.raises(ParameterError, match="names must be"):
        reward_ensemble(lengths, identity="v1")


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (
            "embedder",
            vectors,
            r"identity of the function vectors .* Wrap it: personalllm.backends.embedder\(\.\.\., id",
        ),
        ("embedder", Encoder(), r"identity of an object of type Encoder .* Wrap it: personalllm.backends.embedder"),
        ("embedder", HashEmbedder, r"got the class HashEmbedder.*Create an instance first: HashEmbedder\(\.\.\.\)"),
        ("embedder", 3, r"A name, an object or a function is needed as embedder, got 3.*dim, embed, identity, name"),
        ("chat model", answer, r"Wrap it: personalllm.backends.chat_model\("),
        ("chat model", object(), r"got an object of type object.*chat, context_length, count_tokens"),
        ("reward ensemble", lengths, r"Wrap it: personalllm.backends.reward_ensemble\(.*, names=\[\.\.\.\]\)"),
        ("executor", 4, r"An executor is needed, got 4.*'processes:4'"),
        ("executor", ProcessExecutor, r"got the class ProcessExecutor"),
    ],
)
def test_anything_else_is_refused_with_a_remedy(kind, given, message):
    with pytest.raises(UserError, match=message):
        backend(kind, given)


def test_settings_that_have_no_effect_are_refused():
    with pytest.raises(UserError, match=r"identity= is for functions; 'minilm-l6-int8' has its own"):
        embedder("minilm-l6-int8", identity="mine")
    with pytest.raises(UserError, match=r"stream only apply to a chat model's name"):
        chat_model(answer, identity="v1", stream=True)


def test_what_a_function_returns_is_checked():
    with pytest.raises(RunError, match=r"returned shape \(2,\) for 1 texts.*\(n_texts, dim\)"):
        embedder(lambda texts: [1.0, 2.0], identity="flat").embed(["a"])
    with pytest.raises(RunError, match="a vector without a direction"):
        embedder(lambda texts: [[0.0, 0.0] for _ in texts], identity="zeros").embed(["a"])
    with pytest.raises(RunError, match="a list that is no array of numbers"):
        embedder(lambda texts: [["x"] for _ in texts], identity="words").embed(["a"])
    with pytest.raises(RunError, match=r"'none' returned a NoneType.*must return the text"):
        chat_model(lambda messages: None, identity="none").chat([ChatRequest((Message("user", "a"),))])


def test_an_object_without_an_identity_is_refused():
    class Nameless(HashEmbedder):
        identity = ""

    with pytest.raises(PluginError, match=r"'Nameless': the identity of this embedder is ''"):
        backend("embedder", Nameless())
    assert executor().__class__.__name__ == "SerialExecutor"
