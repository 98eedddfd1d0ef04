"""Scoring reward model by reward model, and one run at a time in a folder."""

from __future__ import annotations

import numpy as np
import pytest

from personalllm.build._lock import exclusive
from personalllm.build.prompts import Prompt
from personalllm.build.scoring import score
from personalllm.core.errors import UserError

PROMPTS = [Prompt(f"p{i}", f"Prompt {i}?", "x") for i in range(50)]
TEXTS = [[f"{p.prompt} says {j}" * (1 + (i + j) % 4) for j in range(3)] for i, p in enumerate(PROMPTS)]


class One:
    """One reward model of several; keeps a diary."""

    def __init__(self, name, sign, diary):
        self.reward_models, self.identity = (name,), f"one {name}"
        self._sign, self._diary = sign, diary

    def score(self, prompts, responses):
        self._diary.append(self.reward_models[0])
        return np.array([[self._sign * len(text)] for text in responses], np.float32)

    def release(self):
        self._diary.append("released")


class Several:
    """An ensemble that holds its reward models one by one, as the published ones are held."""

    def __init__(self, *rewards, names=()):
        self.rewards = rewards
        self.reward_models = names or tuple(name for reward in rewards for name in reward.reward_models)

    @property
    def identity(self):
        return "several"

    def score(self, prompts, responses):
        return np.concatenate([reward.score(prompts, responses) for reward in self.rewards], axis=1)


def test_reward_models_are_worked_off_one_by_one_and_each_is_loaded_once(tmp_path):
    diary, seen = [], []
    ensemble = Several(One("a", 1, diary), One("b", -1, diary))
    values = score(PROMPTS, TEXTS, ensemble, tmp_path, block=25, progress=lambda *now: seen.append(now))
    assert diary == ["a", "a", "released", "b", "b", "released"]
    assert seen == [(0, 100), (25, 100), (50, 100), (75, 100), (100, 100)]
    np.testing.assert_array_equal(values, [[[len(t), -len(t)] for t in row] for row in TEXTS])
    diary.clear()
    again = score(PROMPTS, TEXTS, ensemble, tmp_path, block=25, progress=lambda *now: seen.append(now))
    assert again.tobytes() == values.tobytes()
    assert diary == []
    assert seen[5:] == [(100, 100)]


def test_a_reward_model_that_is_added_does_not_cost_the_others_again(tmp_path):
    diary = []
    score(PROMPTS, TEXTS, Several(One("a", 1, diary)), tmp_path, block=50)
    diary.clear()
    score(PROMPTS, TEXTS, Several(One("a", 1, diary), One("b", 2, diary)), tmp_path, block=50)
    assert diary == ["b", "released"]


def test_parts_that_do_not_make_up_the_ensemble_are_left_alone(tmp_path):
    diary = []
    values = score(PROMPTS, TEXTS, Several(One("a", 1, diary), names=("other",)), tmp_path, block=50)
    assert values.shape == (50, 3, 1)
    assert diary == ["a"]


def test_a_folder_that_is_being_scored_is_not_touched(tmp_path):
    ensemble = Several(One("a", 1, []))
    score(PROMPTS, TEXTS, ensemble, tmp_path, block=25)
    path = next(tmp_path.rglob("*.npy"))
    path.unlink()
    half = path.parent / f".{path.name}.abc123.part"
    half.write_bytes(b"half")
    with exclusive(tmp_path / "scores"), pytest.raises(UserError, match="Another run is writing to"):
        score(PROMPTS, TEXTS, ensemble, tmp_path, block=25)
    assert half.exists()
    assert not path.exists()
    score(PROMPTS, TEXTS, ensemble, tmp_path, block=25)
    assert path.exists()
    assert not half.exists()
