"""From names to backends."""

import subprocess
import sys

import pytest

from personalllm.backends.embedding import CachedEmbedder, OpenAIEmbedder
from personalllm.backends.llm import CachedChatModel, OpenAIChatModel, VLLMChatModel
from personalllm.backends.names import build_embedder, build_llm, build_rewards
from personalllm.core.errors import ModelFileError, OfflineError, ParameterError, UnknownName, UserError
from personalllm.testing import EchoChatModel

URL = "http://127.0.0.1:8000/v1"
ECHO = "personalllm.testing:EchoChatModel"


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "PERSONALLLM_TOKENIZER"):
        monkeypatch.delenv(name, raising=False)


def test_a_served_model_gets_every_setting():
    built = build_llm(
        "openai:org/model:tag",
        base_url=URL,
        stream=True,
        context_length=8192,
        concurrency=3,
        revision="abc",
        cache=False,
    )
    wanted = OpenAIChatModel(
        "org/model:tag", base_url=URL, stream=True, context_length=8192, concurrency=3, revision="abc"
    )
    assert built.__reduce__() == wanted.__reduce__()
    assert (built.name, built.identity, built.context_length) == (wanted.name, wanted.identity, 8192)


def test_replies_are_cached_unless_told_otherwise():
    built = build_llm("openai:m", base_url=URL)
    assert isinstance(built, CachedChatModel)
    assert built.identity == OpenAIChatModel("m", base_url=URL).identity
    assert isinstance(build_llm("openai:m", base_url=URL, cache=False), OpenAIChatModel)
    assert isinstance(build_llm(ECHO), EchoChatModel), "only its author knows what the identity of a factory covers"


def test_the_address_comes_from_the_environment_if_not_given(monkeypatch):
    for build in (build_llm, build_embedder):
        with pytest.raises(UserError, match=r"'openai:m' is behind a server.*--base-url or set OPENAI_BASE_URL"):
            build("openai:m")
    monkeypatch.setenv("OPENAI_BASE_URL", URL)
    assert build_llm("openai:m").identity == OpenAIChatModel("m", base_url=URL).identity
    assert build_embedder("openai:m").identity == OpenAIEmbedder("m", URL).identity
    other = "http://127.0.0.1:9000/v1"
    assert build_llm("openai:m", base_url=other).identity == OpenAIChatModel("m", base_url=other).identity
    assert build_embedder("openai:m", other).identity == OpenAIEmbedder("m", other).identity


def test_a_served_embedder_is_cached():
    assert isinstance(build_embedder("openai:m", base_url=URL), CachedEmbedder)


def test_vllm_in_this_process_gets_its_settings_and_is_not_started():
    built = build_llm("vllm:org/model", context_length=4096, revision="abc", cache=False)
    assert built.__reduce__() == VLLMChatModel("org/model", context_length=4096, revision="abc").__reduce__()
    assert isinstance(build_llm("vllm:org/model"), CachedChatModel)
    for given in ({"base_url": URL}, {"stream": True}, {"concurrency": 3}):
        with pytest.raises(UserError, match=f"{next(iter(given))} only apply to a server"):
            build_llm("vllm:org/model", **given)


def test_a_reward_ensemble_that_is_none_gets_the_nearest_names_of_all_kinds():
    for name, near in (("publishd", "'published'"), ("gemma_2", "'gemma_2b'"), ("compact-v3", "'compact-v2'")):
        with pytest.raises(UnknownName, match=f"no reward ensemble named '{name}'. Did you mean .*{near}"):
            build_rewards({"reward_ensemble": name})


def test_the_offline_switch_holds_here_too():
    for build in (build_llm, build_embedder):
        with pytest.raises(OfflineError):
            build("openai:m", base_url="https://api.example.org/v1")


def test_a_tokenizer_folder_from_the_environment(monkeypatch, tmp_path):
    pytest.importorskip("tokenizers")
    monkeypatch.setenv("PERSONALLLM_TOKENIZER", str(tmp_path))
    with pytest.raises(ModelFileError, match=r"tokenizer.json cannot be read"):
        build_llm("openai:m", base_url=URL)


@pytest.mark.parametrize(
    ("name", "settings", "error", "message"),
    [
        ("smollm2-135m-instruct", {"base_url": URL}, UserError, "base_url only apply to a server, openai:MODEL"),
        (ECHO, {"stream": True, "revision": "x"}, UserError, "stream, revision only apply to a server"),
        (ECHO, {"context_length": 9}, UserError, "context_length only apply to a named model or a server"),
        ("openai:", {"base_url": URL}, ParameterError, "model must be the model's name"),
        ("openai:m", {"base_url": URL, "concurrency": 0}, ParameterError, "concurrency must be >= 1"),
        ("openai:m", {"base_url": "nonsense"}, UserError, "is not the address of a server"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(name, settings, error, message):
    with pytest.raises(error, match=message):
        build_llm(name, **settings)


@pytest.mark.models
def test_a_local_model_takes_its_settings(chat_model):
    built = build_llm(chat_model.name, context_length=512, concurrency=1, cache=False)
    assert (built.context_length, built._workers) == (512, 1)
    assert build_llm(chat_model.name).identity == chat_model.identity


def test_building_a_served_model_imports_no_client():
    code = "import sys, personalllm.backends.embedding, personalllm.backends.llm, personalllm.backends.names as names\n"
    code += f"names.build_llm('openai:m', base_url={URL!r}).identity\n"
    code += "print({'jinja2', 'openai', 'tokenizers', 'torch', 'vllm', 'xllamacpp'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
