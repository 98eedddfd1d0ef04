"""The local runtime's own HTTP server: the same texts over HTTP as in process, and exactly one BOS."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest

from personalllm.backends.llm import ChatServer, ChatTokenizer, LocalChatModel, OpenAIChatModel, ServerOptions
from personalllm.backends.llm.local import _post
from personalllm.core.errors import ModelFileError, ParameterError, RunError, UserError
from personalllm.core.types import ChatRequest, Message
from personalllm.testing import check_chat_model

BOS = 1
WITHOUT = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
TEMPLATE = "{{ bos_token }}" + WITHOUT
MESSAGES = (Message("system", "be brief"), Message("user", "hello, what is rain?"))


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@contextmanager
def served(path, **fields):
    with ChatServer("tiny", path=path, context_length=512, **fields) as server:
        yield server


def requests() -> list[ChatRequest]:
    texts = ["hello there", "what is rain?", "grüße aus köln 🌧️", "a"]
    greedy = [ChatRequest((Message("user", text),), 24) for text in texts]
    return [*greedy, ChatRequest(MESSAGES, 24, temperature=0.9, top_p=0.8, top_k=7, seed=5), ChatRequest(MESSAGES, 24)]


def test_the_same_texts_over_http_as_in_process_streamed_or_not(tiny_llama):
    expected = LocalChatModel("tiny", path=tiny_llama, workers=1, context_length=512).chat(requests())
    assert len({reply.text for reply in expected}) > 3
    assert all(reply.completion_tokens == 24 for reply in expected if reply.finish_reason == "length")
    with served(tiny_llama) as server:
        for stream in (False, True):
            model = OpenAIChatModel("tiny", base_url=server.base_url, stream=stream)
            assert model.chat(requests()) == expected
            assert model.context_length == 512


@pytest.mark.parametrize("stream", [False, True])
def test_contract_over_http(tiny_llama, stream):
    with served(tiny_llama) as server:
        check_chat_model(OpenAIChatModel("tiny", base_url=server.base_url, stream=stream))


@pytest.mark.parametrize(
    ("template", "add_bos"),
    [(TEMPLATE, True), (WITHOUT, True), (TEMPLATE, False), ("<s>" + WITHOUT, True)],
    ids=["template-and-tokenizer", "tokenizer", "template", "literal-and-tokenizer"],
)
def test_exactly_one_bos(make_llama, template, add_bos):
    path = make_llama(template=template, add_bos=add_bos)
    local = LocalChatModel("tiny", path=path, workers=1, context_length=512)
    expected = "[system]be brief[user]hello, what is rain?[assistant]".replace(" ", "\N{LOWER ONE EIGHTH BLOCK}")
    with local._server() as runtime:
        turns = [{"role": m.role, "content": m.content} for m in MESSAGES]
        prompt = _post(runtime, "/apply-template", {"messages": turns})["prompt"]
        ids = _post(runtime, "/tokenize", {"content": prompt, "add_special": True, "parse_special": True})["tokens"]
    assert ids[0] == BOS
    assert ids.count(BOS) == 1
    assert len(ids) == 1 + len(expected.encode()), "one BOS and one token for each byte"
    (reply,) = local.chat([ChatRequest(MESSAGES, 1)])
    assert reply.prompt_tokens == local.count_tokens(MESSAGES) == len(ids)
    with served(path) as server:
        model = OpenAIChatModel("tiny", base_url=server.base_url)
        (reply,) = model.chat([ChatRequest(MESSAGES, 1)])
        assert reply.prompt_tokens == model.count_tokens(MESSAGES) == len(ids)


def test_a_prompt_longer_than_the_context_is_refused(tiny_llama):
    with served(tiny_llama) as server:
        model = OpenAIChatModel("tiny", base_url=server.base_url)
        with pytest.raises(
            RunError, match=r"tiny refused a request: .*exceeds the available context size.*fewer shots"
        ):
            model.chat([ChatRequest((Message("user", "word " * 200),), 4)])
        assert model.chat([ChatRequest((Message("user", "a"),), 4)])[0].completion_tokens == 4


def test_the_server_listens_on_this_machine_under_the_given_name_and_stops(tiny_llama):
    with served(tiny_llama) as server:
        assert server.base_url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(f"{server.base_url}/models", timeout=10) as answer:
            assert [entry["id"] for entry in json.load(answer)["data"]] == ["tiny"]
        port = int(server.base_url.split(":")[2].removesuffix("/v1"))
        with pytest.raises(UserError, match=rf"Port {port} cannot be listened on: .*another --port"):
            ChatServer("tiny", path=tiny_llama, port=port)
    with served(tiny_llama, port=port) as again:
        assert again.base_url == f"http://127.0.0.1:{port}/v1"
    silent = OpenAIChatModel("tiny", base_url=again.base_url, options=ServerOptions(retries=0))
    with pytest.raises(RunError, match="cannot be reached"):
        silent.chat(requests())


def test_another_model_is_refused_in_the_words_of_the_protocol(tiny_llama):
    with served(tiny_llama) as server:
        for stream in (False, True):
            other = OpenAIChatModel("gpt-4", base_url=server.base_url, stream=stream)
            with pytest.raises(
                UserError, match=r"has no chat or embedding model 'gpt-4': 404 .*this server has 'tiny'"
            ):
                other.chat(requests()[:1])
        body = json.dumps({"model": "gpt-4", "messages": [{"role": "user", "content": "a"}]}).encode()
        request = urllib.request.Request(f"{server.base_url}/chat/completions", body)
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=10)
        with caught.value as answer:
            assert answer.code == 404
            error = json.load(answer)["error"]
        assert (error["code"], error["type"], error["param"]) == ("model_not_found", "invalid_request_error", "model")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"port": -1}, "port must be in"),
        ({"port": 65536}, "port must be in"),
        ({"context_length": 1}, "context_length must be >= 64"),
        ({"threads": 0}, "threads must be >= 1"),
    ],
)
def test_bad_parameters(tmp_path, fields, message):
    with pytest.raises(ParameterError, match=message):
        ChatServer("tiny", path=tmp_path / "absent.gguf", **fields)
    with pytest.raises(ModelFileError, match="There is no model file at"):
        ChatServer("tiny", path=tmp_path / "absent.gguf")


@pytest.mark.models
@pytest.mark.slow
def test_the_real_model_over_http(chat_model):
    asked = [
        ChatRequest((Message("system", "Answer in German."), Message("user", "Grüße! 🌧️ Name three birds.")), 12),
        ChatRequest((Message("user", "Tell me a story."),), 8, temperature=0.8, seed=3),
    ]
    expected = chat_model.chat(asked)
    with ChatServer(chat_model.name) as server:
        for stream in (False, True):
            model = OpenAIChatModel(chat_model.name, base_url=server.base_url, stream=stream, concurrency=2)
            assert model.chat(asked) == expected
        assert [model.count_tokens(r.messages) for r in asked] == [reply.prompt_tokens for reply in expected]


@pytest.fixture
def tokenizer_folder(tmp_path):
    """A word tokenizer whose post-processor adds a BOS of its own."""
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {"<unk>": 0, "<s>": 1, "hello": 2, "rain": 3, "assistant": 4, "user": 5}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    template = "{{ bos_token }}{% for m in messages %} {{ m.role }} {{ m.content }}{% endfor %}"
    template += "{% if add_generation_prompt %} assistant{% endif %}"
    config = {"bos_token": {"content": "<s>"}, "chat_template": template}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


def test_a_tokenizer_on_disk_counts_one_bos_and_asks_nobody(tokenizer_folder):
    messages = (Message("user", "hello rain"),)
    tokenizer = ChatTokenizer(tokenizer_folder)
    assert tokenizer.render(messages) == "<s> user hello rain assistant"
    assert tokenizer.ids(messages) == [1, 5, 2, 3, 4]
    options = ServerOptions(tokenizer=tokenizer_folder, retries=0)
    assert OpenAIChatModel("m", base_url="http://127.0.0.1:9/v1", options=options).count_tokens(messages) == 5


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% if x", "cannot be read"),
        ("", "There is no chat template"),
        ("{{ raise_exception('no system turn') }}", "refuses the messages: no system turn"),
        ("{{ messages.__class__.__mro__ }}", "refuses the messages"),
    ],
)
def test_templates_that_fail_say_so(tokenizer_folder, template, message):
    (tokenizer_folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    with pytest.raises(UserError, match=message):
        ChatTokenizer(tokenizer_folder).count((Message("user", "x"),))


def test_tokenizer_files_that_cannot_be_read(tokenizer_folder, tmp_path):
    (tokenizer_folder / "chat_template.jinja").write_text("beside")
    assert ChatTokenizer(tokenizer_folder).render((Message("user", "x"),)) == "beside"
    (tokenizer_folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelFileError, match=r"tokenizer.json cannot be read"):
        ChatTokenizer(tokenizer_folder)
    with pytest.raises(ModelFileError, match=r"cannot be read: .*Give the folder"):
        ChatTokenizer(tmp_path / "nowhere")


@pytest.mark.parametrize("embeddings", [False, True])
def test_a_server_can_be_closed_before_anyone_asks(tiny_llama, embeddings):
    code = (
        "import sys; from pathlib import Path; from personalllm.backends.llm.serve import ChatServer\n"
        "for _ in range(5):\n"
        "    ChatServer('t', path=Path(sys.argv[1]), context_length=64, embeddings=sys.argv[2] == 'True').close()"
    )
    command = [sys.executable, "-c", code, str(tiny_llama), str(embeddings)]
    assert subprocess.run(command, timeout=60).returncode == 0


def test_a_model_that_only_counted_tokens_ends(tiny_llama):
    code = (
        "import sys; from pathlib import Path; from personalllm.backends.llm import LocalChatModel\n"
        "from personalllm.core.types import Message\n"
        "print(LocalChatModel('tiny', path=Path(sys.argv[1])).count_tokens((Message('user', 'a'),)))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tiny_llama)], timeout=60).returncode == 0
