"""The local chat model, with the real runtime and real weights."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys

import pytest

from personalllm.backends.llm import LocalChatModel
from personalllm.core.errors import ModelFileError, ParameterError, RunError
from personalllm.core.types import ChatReply, ChatRequest, Message
from personalllm.testing import check_chat_model

pytestmark = pytest.mark.models


def ask(text: str, **knobs: object) -> ChatRequest:
    return ChatRequest((Message("user", text),), **{"max_tokens": 16, **knobs})


def test_contract_with_a_tiny_model(tiny_llama):
    check_chat_model(LocalChatModel("tiny", path=tiny_llama, workers=1, context_length=512))


def test_replies_do_not_depend_on_company_or_workers(chat_model):
    requests = [
        ask(f"Name a thing that is {w}.", temperature=0.8, seed=i, max_tokens=8)
        for i, w in enumerate(["red", "old", "wet"])
    ]
    together = chat_model.chat(requests)
    alone = LocalChatModel(workers=1).chat(list(reversed(requests)))
    assert [r.text for r in together] == [r.text for r in reversed(alone)]
    assert len({r.text for r in together}) == 3


def test_replies_to_one_prompt_are_written_together_and_the_same_again(tiny_llama):
    def replies(workers: int) -> list[ChatReply]:
        model = LocalChatModel("tiny", path=tiny_llama, workers=workers, context_length=256, slots=3)
        assert [len(of) for of in model._together(requests)] == [3, 2, 1, 3]
        return model.chat(requests)

    knobs = {"temperature": 1.0, "max_tokens": 20}
    requests = [ask("Say a.", seed=seed, **knobs) for seed in (5, 6, 7, 8, 9, 11)]
    requests += [ask("Say b.", seed=seed, **knobs) for seed in (5, 6, 7)]
    first = replies(1)
    assert first == replies(2)
    assert len({reply.text for reply in first}) > 3
    assert all(1 <= reply.completion_tokens <= 21 and reply.prompt_tokens > 3 for reply in first)
    one_slot = LocalChatModel("tiny", path=tiny_llama, workers=1, context_length=256)
    assert one_slot.chat([requests[5]])[0].text == first[5].text
    assert one_slot.identity != LocalChatModel("tiny", path=tiny_llama, slots=3, context_length=256).identity


@pytest.mark.slow
def test_what_is_written_together_does_not_depend_on_what_was_written_before(chat_model):
    model = LocalChatModel(workers=1, context_length=256, slots=3)
    requests = [
        ask(f"Tell me of {thing}.", seed=seed, temperature=0.7, max_tokens=12)
        for thing, n in (("rain", 2), ("snow and wind in the mountains", 3), ("fog", 1))
        for seed in range(n)
    ]
    assert [len(of) for of in model._together(requests)] == [2, 3, 1]
    first = model.chat(requests)
    again = model.chat([*requests[2:5], requests[5], *requests[:2]])
    assert [*again[4:], *again[:4]] == first


@pytest.mark.slow
def test_greedy_text_is_the_same_in_another_process(chat_model):
    code = (
        "from personalllm.backends.llm import LocalChatModel;from personalllm.core.types import *;import sys;"
        "sys.stdout.write(LocalChatModel().chat([ChatRequest((Message('user','What is rain?'),),8)])[0].text)"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout == chat_model.chat([ask("What is rain?", max_tokens=8)])[0].text != ""


@pytest.mark.slow
def test_seed_matters_only_above_temperature_zero(chat_model):
    def text(temperature: float, seed: int) -> str:
        return chat_model.chat([ask("Tell me a story.", temperature=temperature, seed=seed, max_tokens=6)])[0].text

    assert text(0.0, 1) == text(0.0, 2)
    assert text(1.0, 1) != text(1.0, 2)
    assert text(1.0, 1) == text(1.0, 1)


def test_token_count_equals_what_the_model_reads(chat_model):
    messages = (Message("system", "Be brief."), Message("user", "Grüße aus Köln! 🌧️ <|im_end|>"))
    reply = chat_model.chat([ChatRequest(messages, 1)])[0]
    assert chat_model.count_tokens(messages) == reply.prompt_tokens


def test_cut_and_complete_replies_say_so(chat_model):
    cut, done = chat_model.chat(
        [ask("Write a long essay about the sea.", max_tokens=5), ask("Say ok.", max_tokens=200)]
    )
    assert (cut.finish_reason, cut.completion_tokens) == ("length", 5)
    assert done.finish_reason == "stop"


def test_prompt_longer_than_the_context_is_refused():
    model = LocalChatModel(context_length=128, workers=1)
    with pytest.raises(RunError, match=r"exceeds the available context size.*Shorten the prompt"):
        model.chat([ask("word " * 400)])
    assert model.chat([ask("Say ok.")])[0].text


def test_pickles_and_keeps_its_identity(chat_model):
    copy = pickle.loads(pickle.dumps(chat_model))
    assert copy.identity == chat_model.identity
    assert LocalChatModel(context_length=256).identity != chat_model.identity


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"workers": 0}, "workers must be >= 1, got 0"),
        ({"slots": 0}, "slots must be >= 1, got 0"),
        ({"context_length": 8}, "context_length must be >= 64 tokens"),
    ],
)
def test_bad_parameters(knobs, message, chat_model):
    with pytest.raises(ParameterError, match=message):
        LocalChatModel(**knobs)


def test_a_file_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(ModelFileError, match="There is no model file at"):
        LocalChatModel(path=tmp_path / "absent.gguf")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF but not really")
    with pytest.raises(ModelFileError, match="cannot be loaded"):
        LocalChatModel(path=broken).chat([ask("hello")])


def test_first_token_probabilities_agree_with_what_is_written(chat_model):
    requests = [ask("What is the capital of France? One word.", max_tokens=1), ask("Count: 1, 2, 3,", max_tokens=1)]
    found = chat_model.first_token_logprobs(requests, 5)
    for tokens, reply in zip(found, chat_model.chat(requests), strict=True):
        assert max(tokens, key=tokens.__getitem__).strip() == reply.text
        assert 1 <= len(tokens) <= 5
        assert 0 < sum(math.exp(value) for value in tokens.values()) <= 1 + 1e-5
    assert found[0] != found[1]
    with pytest.raises(ParameterError, match="top"):
        chat_model.first_token_logprobs(requests, 0)
