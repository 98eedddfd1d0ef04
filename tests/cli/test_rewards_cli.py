"""`personalllm rewards`."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from personalllm.backends import names
from personalllm.backends.reward import CompactEnsemble, shipped_metadata
from personalllm.cli.app import app, main
from personalllm.core.errors import UserError
from personalllm.core.seeding import generator


class HashEmbedder:
    name, identity, dim = "hash", "hash/1", 8

    def embed(self, texts):
        vectors = np.stack([generator("hash", text).normal(size=self.dim) for text in texts])
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": f"prompt {i}", "chosen": f"you have {i} kites", "rejected": f"they have {i} kites"}
        for i in range(120)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setattr(names, "build_embedder", HashEmbedder)
    return lambda *arguments: CliRunner(env={"COLUMNS": "120"}).invoke(app, ["rewards", *map(str, arguments)])


def test_train_writes_weights_that_load_and_a_report_that_is_shown(run, pairs, tmp_path):
    out = tmp_path / "new" / "kites.safetensors"
    result = run("train", pairs, "--name", "kites", "--out", out, "--held-out", 0.3)
    assert result.exit_code == 0, result.output
    report = json.loads(out.with_suffix(".json").read_text())["reward_models"]["kites"]
    for shown in ("held-out accuracy", "always the longer", "chance", "rank correlation with length"):
        assert shown in result.output
    assert f"{report['held_out']['value']:.3f}" in result.output
    assert report["held_out"]["value"] == 1.0
    assert report["always_longer"]["value"] == 0.0
    assert report["n_fitted"] + report["n_held_out"] == 120
    assert report["uses_length"]
    ensemble = CompactEnsemble.load(out, HashEmbedder())
    assert ensemble.reward_models == ("kites",)
    assert np.diff(ensemble.score(["prompt"] * 2, ["they have kites", "you have kites"])[:, 0]) > 0


def test_train_without_length(run, pairs, tmp_path):
    out = tmp_path / "kites.safetensors"
    result = run("train", pairs, "--name", "kites", "--out", out, "--no-length", "--limit", 60)
    assert result.exit_code == 0, result.output
    report = json.loads(out.with_suffix(".json").read_text())["reward_models"]["kites"]
    assert not report["uses_length"]
    assert report["n_fitted"] + report["n_held_out"] == 60


def test_train_says_when_a_model_is_no_better_than_chance(run, pairs, tmp_path):
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    rng = generator("coin")
    for row in rows:
        if rng.random() < 0.5:
            row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run("train", pairs, "--name", "coin", "--out", tmp_path / "coin.safetensors")
    assert result.exit_code == 0
    assert "no better than chance" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.jsonl", "--name", "x", "--out", "x.safetensors"], "There is no file or folder"),
        (["{pairs}", "--name", "x", "--out", "x.bin"], "does not end in .safetensors"),
        (["{pairs}", "--name", "x", "--out", "x.safetensors", "--held-out", "1.5"], "held_out must be"),
    ],
)
def test_train_refuses_bad_arguments(run, pairs, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = run("train", *(argument.format(pairs=pairs) for argument in arguments))
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)
    assert not list(tmp_path.glob("x.*"))


def test_list_shows_the_shipped_ten(run):
    result = run("list")
    assert result.exit_code == 0, result.output
    for name, card in shipped_metadata()["reward_models"].items():
        assert name in result.output
        assert f"{card['held_out']['value']:.3f}" in result.output
        assert f"{card['alpaca8']['length_correlation']:+.2f}" in result.output


def test_list_of_an_unknown_ensemble_exits_with_2(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["personalllm", "rewards", "list", "compact-v9"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert "compact-v1" in capsys.readouterr().err


def test_help_needs_no_heavy_import(run):
    assert run("--help").exit_code == 0
