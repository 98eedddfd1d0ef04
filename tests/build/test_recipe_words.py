"""Errors of a wrong recipe: the place, the value, and what may have been meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from personalllm.build import Recipe, draw_prompts
from personalllm.core.errors import DataError, UserError

RECIPE = """
name = "t"
seed = 1
reward_ensemble = "compact-v1"
reference_response_model = "plain"
[prompts]
train = 1
test = 1
languages = ["en"]
[[prompts.source]]
reader = "csv"
files = ["prompts.csv"]
columns = { prompt = "question", subset = "topic" }
[[response_model]]
name = "plain"
chat_model = "c"
max_tokens = 64
[[response_model]]
name = "kind"
chat_model = "c"
"""


@pytest.mark.parametrize(
    ("good", "bad", "expected"),
    [
        ('reader = "csv"', 'reader = "cvs"', "source 1: no reader named 'cvs'. Did you mean 'csv'?"),
        ('reader = "csv"\n', "", "source 1: the key 'reader' is missing."),
        ("max_tokens", "max_token",
         "response model 1 ('plain'): there is no key 'max_token'. Did you mean 'max_tokens'?"),
        ('"plain"\n[prompts', '"plane"\n[prompts',
         "reference_response_model: no response model named 'plane'. Did you mean 'plain'?"),
        ("{ prompt =", "{ promt =",
         "source 1: columns has no target 'promt': left stands what it is, right what the file calls it. Did you mean"),
        ('["en"]', '["eng"]', "prompts: no language with the code 'eng'. Did you mean 'en'?"),
        ('["en"]', '["xx"]', "prompts: no language with the code 'xx'."),
        ('["en"]', '["en-GB"]', "prompts: no language with the code 'en-GB'. Did you mean 'en'?"),
        ("test = 1", 'test = 1\nlicence = "MIT"',
         "prompts: there is no key 'licence' here; it belongs into the top of the file"),
        ("train = 1", 'train = "many"', "prompts: 'train' must be a whole number, got 'many'."),
        ("seed = 1", "seed = 1.5", "'seed' must be a whole number, got 1.5."),
        ('"compact-v1"', "7", "'reward_ensemble' must be a name, or a list"),
        ('name = "kind"', 'name = "so kind"', "response model 2 ('so kind'): 'name' must be made of letters"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_place_and_what_may_be_meant(tmp_path, good, bad, expected):
    assert good in RECIPE
    (tmp_path / "r.toml").write_text(RECIPE.replace(good, bad, 1))
    with pytest.raises(UserError) as caught:
        Recipe.read(tmp_path / "r.toml")
    assert caught.value.message.startswith(f"{tmp_path / 'r.toml'} is not a recipe: {expected}")
    assert "Input should" not in str(caught.value)


def test_several_mistakes_stand_in_a_list(tmp_path):
    (tmp_path / "r.toml").write_text(RECIPE.replace('"csv"', '"cvs"').replace("seed = 1\n", "sed = 1\n"))
    with pytest.raises(UserError) as caught:
        Recipe.read(tmp_path / "r.toml")
    assert caught.value.message.splitlines()[1:] == [
        "  - the key 'seed' is missing.",
        "  - source 1: no reader named 'cvs'. Did you mean 'csv'?",
        "  - there is no key 'sed'. Did you mean 'seed'?",
    ]


def made(folder: Path, **change: str) -> Recipe:
    text = RECIPE
    for old, new in change.items():
        text = text.replace(old, new)
    (folder / "r.toml").write_text(text)
    return Recipe.read(folder / "r.toml")


def test_a_file_that_is_not_there_is_told_with_the_folder_the_key_and_the_nearest_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.csv").write_text("question,topic\nWhy?,x\n")
    recipe = made(tmp_path, **{"prompts.csv": "promts.csv"})
    with pytest.raises(UserError) as caught:
        draw_prompts(recipe, Path())
    assert caught.value.message == f"No file matches 'promts.csv' in {tmp_path}. Did you mean 'prompts.csv'?"
    assert caught.value.remedy.startswith("Fix `files` of source 1 in the recipe")
    short = made(tmp_path, languages='files = ["x.jsonl"]\nlanguages')
    with pytest.raises(UserError, match=r"Fix `files` of \[prompts\] in the recipe"):
        draw_prompts(short, Path())


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_wrong_column_is_named_with_the_nearest_names(tmp_path, kind):
    rows = {"csv": "questoin,topic\n" + "Why?,x\n" * 50, "jsonl": '{"questoin": "Why?", "topic": "x"}\n' * 50}[kind]
    for name in ("a", "b"):
        (tmp_path / f"{name}.{kind}").write_text(rows)
    recipe = made(tmp_path, **{'"csv"': f'"{kind}"', "prompts.csv": f"*.{kind}"})
    with pytest.raises(DataError) as caught:
        draw_prompts(recipe, tmp_path)
    assert caught.value.message == f"{tmp_path / 'a'}.{kind}: there is no column 'question' (for 'prompt')."
    assert caught.value.remedy == "It has 'questoin', 'topic'. Did you mean 'questoin'?"
