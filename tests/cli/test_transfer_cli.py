"""`personalllm transfer`: a run on simulated users beside people."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from personalllm.core.errors import UserError
from personalllm.data import make_synthetic
from personalllm.evaluation import evaluate

FEW = ("--shots", "0,2", "--set", "folds.prompt_folds=3", "--set", "folds.user_folds=2", "--set", "bootstrap_draws=100")
EMBEDDER = ("--embedder", "personalllm.testing:HashEmbedder")


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated")
    small = {"shots": (0, 2), "test_pairs": 3, "n_seen_users": 2, "counterfactuals": ()}
    settings = {"n_users": 6, "pool_users": 5, "pool_pairs": 4, "prediction": small, "bootstrap_draws": 100}
    evaluate(["longest"], make_synthetic(60, 0), "predict", settings, out=folder)
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_the_run_s_methods_are_evaluated_on_a_file(simulated: Path, folder: Path, output: Callable[..., str]) -> None:
    text = output("transfer", simulated, "mine.csv", "--column", "user=who", "--out", "made", *FEW, *EMBEDDER)
    assert "longest" in text
    assert "Do the two orders agree?" in text
    assert "mine.csv" in Path("made/transfer.html").read_text(encoding="utf-8")
    assert {row["side"] for row in rows_of(Path("made/transfer.csv"))} == {"simulated", "people"}
    rows = [
        row for row in rows_of(Path("made/people.csv")) if (row["method"], row["metric"]) == ("longest", "accuracy")
    ]
    assert {float(row["value"]) for row in rows} == {0.75}


def test_shots_that_are_dropped_are_named_with_the_reason(
    simulated: Path, folder: Path, output: Callable[..., str]
) -> None:
    few = ["0,2,40" if value == "0,2" else value for value in FEW]
    text = output("transfer", simulated, "mine.csv", "--column", "user=who", "--out", "made", *few, *EMBEDDER)
    assert "Which shots are missing? Shots 40 are left out: with two of 3 parts of the prompts held out" in text
    assert "What to try next" in text
    assert "raise prompt_folds" in text.lower()
    assert "Shots 40 are left out" in Path("made/transfer.html").read_text(encoding="utf-8")


def test_a_finished_run_on_people_is_read(simulated: Path, folder: Path, output: Callable[..., str]) -> None:
    people = ["--data", "mine.csv", "--column", "user=who", "--name", "Mine", "--out", "people"]
    output("evaluate", "longest", *people, *FEW, *EMBEDDER)
    text = output("transfer", simulated, "people", "--out", "made")
    assert "Do the two orders agree?" in text
    assert "Mine" in Path("made/transfer.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mine.csv", "--column", "user"), "Cannot read --column 'user'. Write COLUMN=NAME"),
        (("mine.csv", "--column", "user=who", "--set", "folds.prompt_folds=2"), "prompt_folds"),
        (("mine.csv", "--column", "user=who", "--set", "fold=2"), "fold must be a field of the protocol"),
        (("mine.csv", "--column", "user=who", "--shots", "a"), "Cannot read --shots 'a'. Write whole numbers"),
        (("absent.csv",), "absent.csv"),
    ],
)
def test_what_cannot_be_read(
    simulated: Path, folder: Path, run: Callable[..., Any], arguments: tuple[str, ...], message: str
) -> None:
    result = run("transfer", simulated, *arguments, "--out", "made", *EMBEDDER)
    with pytest.raises(UserError, match=message):
        raise result.exception
    assert not Path("made").exists()
