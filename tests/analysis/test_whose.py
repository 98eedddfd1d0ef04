"""Whose choice is it: planted tastes are found, what all like is not, and real reward models are told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from personalllm.analysis import Choices, whose_choice
from personalllm.core.errors import DataError, ParameterError, UserError

WORDS = ("river", "stone", "light", "cloud", "garden", "music", "letter", "winter", "bread", "paper")


def rows_of(tastes: dict[str, float], n_prompts: int = 60) -> list[dict[str, Any]]:
    """Return prompts with eight candidates; everybody likes long ones, each likes or dislikes question marks."""
    rng = np.random.default_rng(0)
    rows = []
    for n in range(n_prompts):
        marks, lengths = rng.integers(0, 5, 8), rng.integers(4, 9, 8)
        texts = [
            " ".join(rng.choice(WORDS, int(length))) + "?" * int(mark)
            for length, mark in zip(lengths, marks, strict=True)
        ]
        picks = {who: int(np.argmax(taste * marks + 0.5 * lengths)) for who, taste in tastes.items()}
        rows.append({"prompt": f"Prompt {n}", "candidates": texts, "picks": picks})
    return rows


def test_opposite_tastes_are_told_apart_and_length_is_right_half_of_the_time() -> None:
    result = whose_choice(Choices.from_rows(rows_of({"asks": 2.0, "tells": -2.0})), (1, 20), splits=3)
    assert result.of(20).accuracy > 0.9
    assert result.of(20).accuracy > result.of(1).accuracy
    assert result.of(20).low < result.of(20).accuracy < result.of(20).high
    assert result.of(20, "asks").accuracy == pytest.approx(result.of(20).accuracy, abs=0.1)
    assert result.longer == pytest.approx(0.5)
    assert result.of(20, known="own and others'").accuracy >= result.of(20).accuracy
    assert result.tables()["whose"].num_rows == 2 * 2 * 3
    assert result.plot().axes
    assert "after 20 own choices" in result.notes()[0]
    with pytest.raises(ParameterError, match="known, voter, shots"):
        result.of(3)


def test_voters_who_choose_at_random_are_not_told_apart() -> None:
    rows = rows_of({"a": 0.0, "b": 0.0, "c": 0.0}, 120)
    rng = np.random.default_rng(1)
    for row in rows:
        row["picks"] = {who: int(rng.integers(8)) for who in "abc"}
    score = whose_choice(Choices.from_rows(rows), (50,), splits=3).of(50)
    assert score.low < 0.5 < score.high


def test_choices_come_from_any_layout_with_one() -> None:
    comparisons = [
        {"user": who, "prompt": "Hi", "chosen": text, "shown": ["b", "a", "c"]}
        for who, text in (("x", "c"), ("y", "a"))
    ]
    choices = Choices.from_rows(comparisons)
    assert (choices.users, choices.responses, choices.chosen.tolist()) == (("x", "y"), (("a", "b", "c"),), [[2], [0]])
    with pytest.raises(DataError, match="holds no choice"):
        Choices.from_rows([{"user": "x", "response": "a", "rating": 1}])


def test_what_cannot_be_told() -> None:
    alike = Choices.from_rows(rows_of({"a": 1.0, "b": 1.0}))
    with pytest.raises(UserError, match="too few or all choices alike"):
        whose_choice(alike)
    with pytest.raises(ParameterError, match="some shots >= 1"):
        whose_choice(alike, (0,))


@pytest.mark.shared
@pytest.mark.slow
def test_six_reward_models_are_told_apart(shared_data: Path) -> None:
    choices = Choices.from_rows(shared_data / "bon16" / "picks.jsonl.gz")
    result = whose_choice(choices, (5, 50, 555))
    assert len(choices.users) == 6
    assert result.longer == pytest.approx(0.5)
    assert result.of(5).accuracy > 0.514
    assert result.of(50).accuracy > 0.55
    assert result.of(555).accuracy > 0.568
    assert result.of(50, known="own and others'").accuracy > 0.567
