"""The vLLM chat model against a stand-in for the package `vllm`.

vLLM itself needs an accelerator and cannot be installed where these tests run. The stand-in has the shape that vLLM
documents for offline inference: `LLM(model=..., **engine)`, `LLM.chat(conversations, [SamplingParams], use_tqdm=...)`
returning `RequestOutput`s in order (or raising `ValueError` for the whole call if one prompt is too long), and
`get_tokenizer().apply_chat_template`. Texts come from the conversation and the sampling parameters alone.
"""

from __future__ import annotations

import pickle
import sys
from types import ModuleType, SimpleNamespace

import pytest

from personalllm.backends.llm import VLLMChatModel
from personalllm.backends.llm import vllm as room
from personalllm.core.errors import MissingExtra, ModelFileError, ParameterError, RunError, UserError
from personalllm.core.types import ChatRequest, Message
from personalllm.testing import check_chat_model

LENGTH = 64


class SamplingParams:
    def __init__(self, *, n, max_tokens, temperature, top_p, top_k, min_p, repetition_penalty, seed):
        assert n == 1
        assert 0 <= seed < 2**63
        self.max_tokens, self.temperature, self.seed = max_tokens, temperature, seed
        self.top_p, self.top_k, self.min_p, self.repetition_penalty = top_p, top_k, min_p, repetition_penalty


class Tokenizer:
    def apply_chat_template(self, conversation, *, add_generation_prompt, tokenize):
        assert add_generation_prompt
        assert tokenize
        return [t for turn in conversation for t in ("<", turn["role"], *turn["content"].split(), ">")] + ["<"]


class LLM:
    started: list[dict] = []
    calls: list[tuple] = []
    reason = None

    def __init__(self, model, **engine):
        if model == "absent":
            raise OSError("absent is not a local folder")
        self.started.append({"model": model, **engine})
        length = engine.get("max_model_len", LENGTH)
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=length))

    def get_tokenizer(self):
        return Tokenizer()

    def chat(self, messages, sampling_params=None, use_tqdm=True):
        assert not use_tqdm
        self.calls.append((messages, sampling_params))
        prompts = [Tokenizer().apply_chat_template(m, add_generation_prompt=True, tokenize=True) for m in messages]
        limit = self.llm_engine.model_config.max_model_len
        if any(len(prompt) >= limit for prompt in prompts):
            raise ValueError("The decoder prompt is longer than the maximum model length")
        return [self.output(*pair, limit) for pair in zip(prompts, sampling_params, strict=True)]

    def output(self, prompt, params, limit):
        drawn = f"s{params.seed}" if params.temperature else "greedy"
        wanted = [drawn, *prompt[-6:], "end"]
        room_left = min(params.max_tokens, limit - len(prompt))
        tokens = wanted[:room_left]
        reason = self.reason or ("stop" if len(tokens) == len(wanted) else "length")
        completion = SimpleNamespace(text=" " + " ".join(tokens) + "\n", token_ids=tokens, finish_reason=reason)
        return SimpleNamespace(prompt_token_ids=prompt, outputs=[completion], num_cached_tokens=3)


@pytest.fixture
def engine(monkeypatch):
    package = ModuleType("vllm")
    package.LLM, package.SamplingParams, package.__version__ = LLM, SamplingParams, "0.33.0"
    monkeypatch.setitem(sys.modules, "vllm", package)
    monkeypatch.setattr(room, "_ENGINES", {})
    monkeypatch.setattr(LLM, "started", [])
    monkeypatch.setattr(LLM, "calls", [])
    return LLM


def ask(text: str, **knobs: object) -> ChatRequest:
    return ChatRequest((Message("system", "s"), Message("user", text)), **{"max_tokens": 16, **knobs})


def test_contract(engine):
    check_chat_model(VLLMChatModel("org/model"))


def test_one_call_with_the_knobs_of_each_request(engine):
    requests = [
        ask("hello there", temperature=0.7, top_p=0.9, top_k=40, seed=11),
        ask("hello", max_tokens=2, temperature=1.0, seed=2**70),
        ask("greedy", top_p=0.5, top_k=3),
    ]
    replies = VLLMChatModel("org/model").chat(requests)
    ((conversations, params),) = engine.calls
    assert conversations[0] == [{"role": "system", "content": "s"}, {"role": "user", "content": "hello there"}]
    assert [(p.temperature, p.top_p, p.top_k, p.seed) for p in params] == [
        (0.7, 0.9, 40, 11),
        (1.0, 1.0, 0, 2**70 % 2**63),
        (0.0, 1.0, 0, 0),
    ]
    assert all((p.min_p, p.repetition_penalty) == (0.0, 1.0) for p in params)
    assert [r.finish_reason for r in replies] == ["stop", "length", "stop"]
    assert replies[0].text.startswith("s11 ")
    assert [(r.prompt_tokens, r.completion_tokens, r.cached_tokens) for r in replies] == [
        (10, 8, 3),
        (9, 2, 3),
        (9, 8, 3),
    ]
    assert replies[2].text.startswith("greedy ")


def test_the_engine_starts_once_when_needed_and_runs_no_foreign_code(engine):
    first = VLLMChatModel("org/model", revision="abc", context_length=32, engine={"dtype": "bfloat16"})
    _ = first.identity, repr(first)
    assert engine.started == []
    first.chat([ask("a")])
    copy = pickle.loads(pickle.dumps(first))
    copy.chat([ask("b")])
    assert copy.context_length == 32
    assert engine.started == [
        {
            "model": "org/model",
            "revision": "abc",
            "max_model_len": 32,
            "trust_remote_code": False,
            "dtype": "bfloat16",
        }
    ]
    assert first.chat([]) == []


def test_a_prompt_that_is_too_long_does_not_spoil_the_batch(engine):
    chat, done, failed = VLLMChatModel("org/model"), {}, {}

    def note(i, kind, error):
        failed[i] = (kind, error.message)
        return True

    requests = [ask("a"), ask("word " * LENGTH), ask("b")]
    chat.chat_some(requests, lambda i, reply, source: done.update({i: source}), note)
    assert done == {0: "model", 2: "model"}
    assert failed == {
        1: ("refused request", f"A prompt of {LENGTH + 8} tokens does not fit into a context of {LENGTH}.")
    }
    assert len(engine.calls) == 1
    with pytest.raises(RunError, match=r"does not fit into a context of 64\. Shorten it"):
        chat.chat(requests)
    done.clear()
    chat.chat_some(requests[1:], lambda i, reply, source: done.update({i: source}), lambda *a: False)
    assert done == {}


def test_identity_holds_what_can_change_a_text(engine, monkeypatch):
    plain = VLLMChatModel("org/model")
    assert VLLMChatModel("org/model", engine={"gpu_memory_utilization": 0.5}).identity == plain.identity
    others = [
        VLLMChatModel("org/other"),
        VLLMChatModel("org/model", revision="abc"),
        VLLMChatModel("org/model", context_length=10),
        VLLMChatModel("org/model", engine={"quantization": "fp8"}),
    ]
    assert len({m.identity for m in [plain, *others]}) == 5
    before = plain.identity
    monkeypatch.setattr(sys.modules["vllm"], "__version__", "0.34.0")
    assert plain.identity != before


def test_what_goes_wrong_is_said(engine, monkeypatch):
    with pytest.raises(ModelFileError, match=r"vLLM cannot load absent: absent is not a local folder"):
        VLLMChatModel("absent").chat([ask("a")])
    monkeypatch.setattr(LLM, "reason", "abort")
    with pytest.raises(RunError, match="ended a reply with 'abort'"):
        VLLMChatModel("org/model").chat([ask("a")])

    def out_of_memory(*args, **kwargs):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(LLM, "chat", out_of_memory)
    with pytest.raises(RunError, match=r"vLLM failed on org/model: CUDA out of memory.*lower gpu_memory_utilization"):
        VLLMChatModel("org/model").chat([ask("a")])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": ""}, "model must be a folder"),
        ({"context_length": 0}, "context_length must be >= 1 token"),
        ({"engine": {"trust_remote_code": True}}, "engine must be free of"),
        ({"engine": {"hf_token": "x"}}, "engine must be free of"),
        ({"engine": {"x": object()}}, "engine must be JSON values"),
    ],
)
def test_bad_parameters(fields, message):
    with pytest.raises(ParameterError, match=message):
        VLLMChatModel(**{"model": "m", **fields})


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingExtra, match=r"personalllm\[vllm\]"):
        VLLMChatModel("m").chat([ask("a")])
    assert issubclass(MissingExtra, UserError)


def test_a_package_that_is_there_but_does_not_load_is_another_error(tmp_path, monkeypatch):
    """The extra is not named: it is installed, its compiled part fails."""
    (tmp_path / "vllm.py").write_text("raise ImportError('libcudart.so.12: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    with pytest.raises(RunError, match=r"vLLM is installed but cannot be imported: libcudart.so.12"):
        VLLMChatModel("m").chat([ask("a")])
