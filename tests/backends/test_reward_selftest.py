"""The self-test: passes for what is invariant, names what is not, and prints a verdict."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from personalllm.backends.reward import selftest
from personalllm.cli import main


class Plain:
    """Scores by lengths; `fault` makes the score depend on something else."""

    reward_models = ("a", "b")
    identity = "plain"

    def __init__(self, fault=""):
        self.fault = fault
        self.calls = 0

    def score(self, prompts, responses):
        self.calls += 1
        rows = [[len(r) - 0.1 * len(p), len(p) + r.count("e")] for p, r in zip(prompts, responses, strict=True)]
        out = np.array(rows, np.float32)
        if self.fault == "batch":
            out[:, 1] += 2e-5 * len(prompts)
        elif self.fault == "order":
            out[:, 0] += np.float32(1e-3) * np.arange(len(prompts))
        elif self.fault == "repeat":
            out += np.float32(1e-3) * self.calls
        elif self.fault == "flat":
            out[:, 1] = 3.0
        elif self.fault == "nan":
            out[[not r for r in responses], 0] = np.nan
        return out


@pytest.mark.parametrize(
    ("fault", "failing"),
    [
        ("", set()),
        ("batch", {"batch of 1 against all together"}),
        ("order", {"order of the texts", "batch of 1 against all together"}),
        ("flat", {"models that score all texts alike"}),
    ],
)
def test_a_fault_is_named(fault, failing):
    (result,) = selftest(Plain(fault))
    assert {check.name for check in result.checks if check.verdict == "failed"} == failing
    assert result.passed == (not failing)


@pytest.mark.parametrize(("fault", "name"), [("repeat", "the same call again"), ("nan", "scores that are not numbers")])
def test_a_fault_that_touches_more_is_named_too(fault, name):
    (result,) = selftest(Plain(fault))
    assert name in {check.name for check in result.checks if check.verdict == "failed"}
    assert not result.passed


@pytest.mark.models
def test_compact_models_pass(reward_ensemble):
    (result,) = selftest(reward_ensemble)
    assert result.passed
    assert len(result.sd) == 10


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["personalllm", "rewards", *arguments])
    try:
        main()
    except SystemExit as stop:
        return stop.code or 0
    return 0


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "mine_for_selftest.py").write_text(Path(__file__).read_text().split("@pytest.mark")[0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")


@pytest.mark.parametrize(("fault", "code", "verdict"), [("", 0, "passed"), ("flat", 1, "failed")])
def test_the_command_prints_a_verdict_and_its_status_says_it(own_module, monkeypatch, capsys, fault, code, verdict):
    text = f"\n\ndef made():\n    return Plain({fault!r})\n"
    path = Path("mine_for_selftest.py")
    path.write_text(path.read_text() + text)
    sys.modules.pop("mine_for_selftest", None)
    assert run(monkeypatch, "selftest", "mine_for_selftest:made") == code
    out = capsys.readouterr().out
    assert f"Self-test {verdict}" in out
    assert "batch of 1 against all together" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("selftest", "gemma_2b"), "hf download weqweasdas/RM-Gemma-2B"),
        (("selftest", "someone/oasst-rm-2.1-epoch-2.5"), "hf download someone/oasst-rm-2.1-epoch-2.5"),
        (("selftest", "compact-v1", "--dtype", "bfloat16"), "Leave out --dtype"),
    ],
)
def test_the_command_says_what_is_wrong(monkeypatch, capfd, tmp_path, arguments, message):
    if message.startswith("hf download"):
        for package in ("torch", "transformers", "huggingface_hub"):
            pytest.importorskip(package, reason=f"{package} is not installed")
    monkeypatch.setenv("COLUMNS", "300")
    assert run(monkeypatch, *arguments) == 2
    assert message in capfd.readouterr().err.replace("\n", " ")


def test_the_list_shows_compact_and_published_models(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    assert run(monkeypatch, "list") == 0
    out = capsys.readouterr().out
    assert "compact-v1" in out
    assert "PKU-Alignment/beaver-7b-v1.0-cost" in out
    assert run(monkeypatch, "list", "published") == 0
    assert "compact-v1" not in capsys.readouterr().out


def _tiny():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location("_tiny_rewards", Path(__file__).with_name("_tiny_rewards.py"))
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    return tiny


_QUICK = (("llama", "float32"),)
_MODELS = [
    pytest.param(architecture, dtype, marks=() if (architecture, dtype) in _QUICK else pytest.mark.slow)
    for architecture in ("llama", "mistral", "gemma", "deberta", "oasst", "oasst-mean", "beaver")
    for dtype in ("float32", "bfloat16")
]


@pytest.mark.torch
@pytest.mark.parametrize(("architecture", "dtype"), _MODELS)
def test_the_command_on_a_model_of_transformers(tmp_path, monkeypatch, capsys, architecture, dtype):
    tiny = _tiny()
    tiny.make(architecture, tmp_path)
    names = {
        "deberta": "oasst_deberta_v3=",
        "oasst": "oasst_pythia_7b=",
        "oasst-mean": "oasst_pythia_1b=",
        "beaver": "beaver_7b=",
    }
    monkeypatch.setenv("COLUMNS", "120")
    assert run(monkeypatch, "selftest", f"{names.get(architecture, '')}{tmp_path}", "--dtype", dtype) == 0
    out = capsys.readouterr().out
    for row in ("padding left against right", "texts cut wrongly", "BOS in front twice", "Self-test passed"):
        assert row in out


@pytest.mark.torch
def test_a_head_that_reads_the_padding_fails(tmp_path, monkeypatch):
    tiny = _tiny()
    tiny.make("llama", tmp_path)
    from personalllm.backends.reward import TransformersReward, _networks

    def last_column(weight, bias, device):
        return lambda hidden, mask, skipped: hidden[:, -1].float() @ weight.detach().float()[0]

    monkeypatch.setattr(_networks, "_at_end", last_column)
    (result,) = selftest(TransformersReward(tmp_path))
    failed = {check.name for check in result.checks if check.verdict == "failed"}
    assert {"all in one padded batch", "padding left against right"} <= failed
