"""The fit of a reward model, its report and its file."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personalllm.backends.reward import (
    CompactEnsemble,
    Pairs,
    RewardHeads,
    accuracy,
    rank_correlation,
    top_agreement,
    train_compact,
)
from personalllm.backends.reward.bradley_terry import choose_penalty, fit_bradley_terry
from personalllm.backends.reward.metrics import length_correlations
from personalllm.core.errors import AxisMismatch, ModelFileError, ParameterError, UserError
from personalllm.core.seeding import generator

ROWS = [
    {"prompt": "What is a kite?", "chosen": "A toy, or a bird.", "rejected": "No\nidea."},
    {"prompt": "Ça va?", "chosen": 'Yes, "very" well', "rejected": "no"},
]


class HashEmbedder:
    """Unit vectors that depend on the text alone."""

    name = "hash"
    identity = "hash/1"
    dim = 8

    def embed(self, texts):
        vectors = np.stack([generator("hash", text).normal(size=self.dim) for text in texts])
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def polite_preferences(n=240):
    """Chosen responses address the reader; lengths are unrelated."""
    rng = generator("polite", n)
    rows = []
    for i in range(n):
        filler = [" ".join(["word", "thing", "place", "idea"][j] for j in rng.integers(0, 4, size)) for size in
                  rng.integers(5, 40, 2)]  # fmt: skip
        rows.append((f"prompt {i // 2}", f"you will like your {filler[0]}", f"they will like their {filler[1]}"))
    prompts, chosen, rejected = zip(*rows, strict=True)
    return Pairs(prompts, chosen, rejected, prompts)


def wordy_preferences(n=240):
    """The longer response is chosen nine times in ten."""
    rng = generator("wordy", n)
    rows = []
    for i in range(n):
        sizes = sorted(rng.integers(3, 60, 2) + np.array([0, 1]))
        short, long = (" ".join(["alpha", "beta", "gamma"][j] for j in rng.integers(0, 3, size)) for size in sizes)
        pair = (long, short) if rng.random() < 0.9 else (short, long)
        rows.append((f"prompt {i}", *pair))
    prompts, chosen, rejected = zip(*rows, strict=True)
    return Pairs(prompts, chosen, rejected, prompts)


@given(st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=40), st.floats(0.05, 0.95))
def test_no_group_is_on_both_sides_and_the_side_is_its_own(groups, held_out):
    n = len(groups)
    pairs = Pairs(tuple(groups), tuple(map(str, range(n))), ("r",) * n, tuple(groups))
    fitted, tested = pairs.split(held_out)
    assert not set(fitted.groups) & set(tested.groups)
    assert sorted(fitted.chosen + tested.chosen) == sorted(pairs.chosen)
    alone, _ = pairs.take([0]).split(held_out)
    assert bool(len(alone)) == (groups[0] in fitted.groups)


def test_a_prompt_of_two_groups_is_not_on_both_sides():
    groups = tuple(f"dialogue {i}" for i in range(100))
    prompts = ("Yes, please.",) * 50 + groups[50:]
    fitted, tested = Pairs(prompts, groups, ("r",) * 100, groups).split(0.5)
    assert "Yes, please." in fitted.prompts
    assert not set(fitted.prompts) & set(tested.prompts)
    assert len(tested) > 10


def test_the_fit_meets_the_gradient_condition():
    x = generator("fit").normal(size=(60, 5)) + 0.3
    w = fit_bradley_terry(x, 0.1)
    lost = 1 / (1 + np.exp(x @ w))
    np.testing.assert_allclose(0.1 * w, (x * lost[:, None]).mean(axis=0), atol=1e-5)
    assert np.linalg.norm(fit_bradley_terry(x, 1.0)) < np.linalg.norm(w)


def test_the_largest_penalty_that_is_no_worse_than_one_standard_error_is_chosen():
    rng = generator("penalty")
    truth = np.r_[np.ones(3), np.zeros(37)]
    x = rng.normal(size=(400, 40))
    won = rng.random(400) < 1 / (1 + np.exp(-3 * (x @ truth)))
    x = np.where(won[:, None], x, -x)
    groups = np.arange(400, dtype=np.int32)
    best, tried = choose_penalty(x, groups, (1e-3, 1e-2, 0.1))
    assert best == 0.1
    top = max(tried.values())
    assert tried[best] >= top - np.sqrt(top * (1 - top) / 400)
    blind = np.c_[0.02 * x[:, :3], 30 * rng.normal(size=(400, 3))]
    chosen, tried = choose_penalty(blind, groups, (1e-6, 1e4))
    assert tried[1e-6] > tried[1e4] + 0.05
    assert chosen == 1e-6
    with pytest.raises(ParameterError, match="at least two"):
        choose_penalty(x, np.zeros(400, np.int32))


def test_accuracy_counts_ties_half_and_widens_with_grouping():
    margins = np.tile([1.0, 1.0, 1.0, -1.0], 50)
    alone = accuracy(margins, np.arange(200))
    grouped = accuracy(np.sort(margins), np.arange(200) // 10)
    assert alone.value == grouped.value == 0.75
    assert alone.low < 0.75 < alone.high
    assert grouped.high - grouped.low > 2 * (alone.high - alone.low)
    assert alone == accuracy(margins, np.arange(200))
    assert accuracy([0.0, 0.0], [0, 1]).value == 0.5
    for bad in ([], [[1.0]]):
        with pytest.raises(AxisMismatch):
            accuracy(bad, np.zeros(len(bad)))


def test_rank_correlation_is_spearmans():
    from scipy.stats import spearmanr

    a, b = generator("rank").normal(size=(2, 50)).round(1)
    assert rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert rank_correlation(a, np.ones(50)) == 0.0
    pooled, within = length_correlations([[1, 2], [11, 12]], [[10, 20], [4, 5]])
    assert within == pytest.approx(1.0)
    assert pooled == pytest.approx(-0.6)


def test_top_agreement():
    scores = np.zeros((4, 3, 2), np.float32)
    scores[np.arange(4), [0, 1, 2, 0], 0] = 1
    scores[np.arange(4), [0, 1, 1, 1], 1] = 1
    np.testing.assert_array_equal(top_agreement(scores), [[1, 0.5], [0.5, 1]])


def test_a_planted_taste_is_learned_on_held_out_prompts():
    trained = train_compact(polite_preferences(), "polite", HashEmbedder())
    report = trained.report
    assert report.held_out.value > 0.9
    assert report.beats_chance
    assert report.n_fitted + report.n_held_out == 240
    assert abs(report.always_longer.value - 0.5) < 0.2
    assert report.spec()["chance"] == 0.5
    ensemble = CompactEnsemble(trained.heads, HashEmbedder())
    scores = ensemble.score(["Hi"] * 2, ["you and your word", "they and their word"])[:, 0]
    assert scores[0] > scores[1]


def test_scores_have_unit_spread_over_the_responses_fitted_on():
    pairs = polite_preferences()
    fitted, _ = pairs.split(0.25)
    ensemble = CompactEnsemble(train_compact(pairs, "polite", HashEmbedder()).heads, HashEmbedder())
    scores = ensemble.score(fitted.prompts * 2, fitted.chosen + fitted.rejected)
    assert scores.mean() == pytest.approx(0, abs=1e-3)
    assert scores.std() == pytest.approx(1, abs=1e-3)


def test_a_length_neutral_model_cannot_use_the_length():
    pairs = wordy_preferences()
    reading = train_compact(pairs, "wordy", HashEmbedder()).report
    neutral = train_compact(pairs, "wordy", HashEmbedder(), use_length=False)
    assert reading.held_out.value > 0.8
    assert reading.length_correlation > 0.7
    assert not neutral.report.uses_length
    fitted, _ = pairs.split(0.25)
    texts = fitted.chosen + fitted.rejected
    scores = CompactEnsemble(neutral.heads, HashEmbedder()).score(fitted.prompts * 2, texts)[:, 0]
    words = np.log1p([len(text.split()) for text in texts])
    assert abs(np.corrcoef(scores, words)[0, 1]) < 0.02


def test_training_twice_gives_the_same_bytes_and_the_file_gives_the_same_heads(tmp_path):
    paths = [tmp_path / f"{i}.safetensors" for i in range(2)]
    for path in paths:
        train_compact(polite_preferences(), "polite", HashEmbedder()).heads.save(path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    heads = RewardHeads.load(paths[0])
    assert heads.reward_models == ("polite",)
    assert heads.sha256 == RewardHeads.load(paths[1]).sha256
    assert b"pickle" not in paths[0].read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": " x"}, "name must be"),
        ({"name": ""}, "name must be"),
        ({"name": "x", "held_out": 0.0}, "held_out must be in (0, 1)"),
        ({"name": "x", "held_out": 1.0}, "held_out must be in (0, 1)"),
        ({"name": "x", "penalties": ()}, "penalties must be"),
        ({"name": "x", "penalties": (0.0,)}, "penalties must be"),
    ],
)
def test_bad_training_parameters(arguments, message):
    with pytest.raises(ParameterError, match=re.escape(message)):
        train_compact(polite_preferences(20), embedder=HashEmbedder(), **arguments)


def test_too_few_prompts():
    pairs = polite_preferences().take([0, 1])
    with pytest.raises(ParameterError, match="two prompts on each side"):
        train_compact(pairs, "x", HashEmbedder())


def test_a_damaged_or_foreign_file_is_refused(tmp_path):
    from safetensors.numpy import save_file

    good = tmp_path / "good.safetensors"
    train_compact(polite_preferences(40), "polite", HashEmbedder()).heads.save(good)
    cut, foreign, old = (tmp_path / f"{name}.safetensors" for name in ("cut", "foreign", "old"))
    cut.write_bytes(good.read_bytes()[:-40])
    save_file({"a": np.zeros(3)}, foreign)
    about = json.dumps({"format": "personalllm-reward-heads/0"})
    save_file({"a": np.zeros(3)}, old, {"personalllm": about})
    for path, message in ((cut, "damaged"), (foreign, "not a reward model"), (old, "not a reward model")):
        with pytest.raises(ModelFileError, match=message):
            RewardHeads.load(path)
    with pytest.raises(ModelFileError, match="no reward model file"):
        RewardHeads.load(tmp_path / "absent.safetensors")


def test_heads_that_do_not_fit_are_refused():
    heads = train_compact(polite_preferences(40), "polite", HashEmbedder()).heads
    with pytest.raises(AxisMismatch, match="distinct names"):
        RewardHeads.stack([heads, heads])

    def changed(**values):
        fields = {name: getattr(heads, name) for name in heads.__slots__}
        return RewardHeads(**fields | values)

    with pytest.raises(AxisMismatch, match="different embedders"):
        RewardHeads.stack([heads, changed(reward_models=("b",), embedder_identity="other")])
    both = RewardHeads.stack([changed(reward_models=("z",)), changed(reward_models=("a",))])
    assert both.reward_models == ("a", "z")
    for values in ({"bias": np.zeros(2)}, {"surface_sd": heads.surface_sd * 0}, {"bias": np.array([np.nan])}):
        with pytest.raises(UserError):
            changed(**values)
