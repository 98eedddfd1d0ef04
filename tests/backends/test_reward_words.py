"""Word heads: what they read, how they score, their file, and the ten that ship as compact-v2."""

from __future__ import annotations

import gzip
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personalllm.backends.names import build_rewards
from personalllm.backends.reward import WordFeatures, WordRewards, load_compact, shipped_metadata, top_agreement
from personalllm.backends.reward.reading import participation_ratio, read_by_features, read_by_words
from personalllm.backends.reward.words import tokens
from personalllm.core.errors import AxisMismatch, DataError, ModelFileError
from personalllm.core.protocols import RewardEnsemble
from personalllm.core.seeding import generator

TEXTS = st.text(max_size=200) | st.sampled_from(["How so?", "boil the egg, the egg", "", "~ * : how", "12 don\u2019t"])


def some_features():
    idf = np.array([1, 2, 1.5, 1, 3, 2, 1], np.float16)
    return WordFeatures(("the", "egg", "!"), ("how:egg", "*:egg", "~:egg", "how::"), idf)


def some_rewards():
    features = some_features()
    coefficients = generator("word heads").normal(size=(2, features.n_features)).astype(np.float16)
    return WordRewards(("a", "b"), features, coefficients, np.array([0.5, -0.5], np.float32))


def refuse_embedder():
    raise AssertionError("word heads read no vectors")


def test_a_row_is_the_documented_formula():
    row = some_features().rows(["How do I boil an egg?"], ["The egg! Egg: the pan"]).toarray()[0]
    count = 1 + math.log(2)
    plain, crossed = np.array([count, 2 * count, 1.5]), np.array([count, 2 * count, 1.0])
    expected = np.zeros(7)
    expected[:3] = plain / np.linalg.norm(plain) / math.sqrt(2)
    expected[[3, 5, 6]] = crossed / np.linalg.norm(crossed) / math.sqrt(2)
    np.testing.assert_allclose(row, expected)


@pytest.mark.parametrize(
    ("prompt", "columns"),
    [
        ("How?", [1, 3]),  # the class is known, the prompt has no egg
        ("Boil an egg", [1, 4, 5]),  # another class, the prompt has it
        ("~ egg", [1, 4, 5]),  # a mark is no class, though ~ stands before crossed features
        ("* egg", [1, 4, 5]),
        ("", [1, 4]),
    ],
)
def test_the_prompt_decides_the_crossed_features(prompt, columns):
    assert some_features().rows([prompt], ["egg"]).indices.tolist() == columns


def test_only_the_beginning_of_a_long_text_is_read():
    assert tokens("a " * 1_500 + "egg") == ["a"] * 1_500
    assert tokens("IT\u2019S 3.5\u20ac_x") == ["it's", "3", ".", "5", "\u20ac", "x"]


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6), st.integers(0, 10**6))
def test_a_score_is_the_same_bits_in_any_batch(pairs, seed):
    rewards = some_rewards()
    prompts, responses = zip(*pairs, strict=True)
    together = rewards.score(prompts, responses)
    assert together.shape == (len(pairs), 2)
    assert together.dtype == np.float32
    assert np.isfinite(together).all()
    alone = np.concatenate([rewards.score([p], [r]) for p, r in pairs])
    np.testing.assert_array_equal(together, alone)
    order = generator("order", seed).permutation(len(pairs))
    np.testing.assert_array_equal(
        rewards.score([prompts[i] for i in order], [responses[i] for i in order]), together[order]
    )


def test_the_file_keeps_the_heads_and_is_read_by_its_format(tmp_path):
    rewards, path = some_rewards(), tmp_path / "two.safetensors"
    rewards.save(path)
    read = load_compact(path, refuse_embedder)
    assert isinstance(read, RewardEnsemble)
    assert (read.reward_models, read.identity) == (("a", "b"), rewards.identity)
    np.testing.assert_array_equal(read.score(["How?"], ["egg"]), rewards.score(["How?"], ["egg"]))
    first = path.read_bytes()
    read.save(path)
    assert path.read_bytes() == first
    assert replace(rewards, bias=np.ones(2, np.float32)).identity != rewards.identity


def test_a_damaged_or_foreign_file_is_refused(tmp_path, root):
    path = tmp_path / "x.safetensors"
    with pytest.raises(ModelFileError, match="There is no reward model file"):
        WordRewards.load(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ModelFileError, match="is damaged"):
        load_compact(path, refuse_embedder)
    with pytest.raises(ModelFileError, match="not a reward model file of the format personalllm-word-heads/1"):
        WordRewards.load(root / "src/personalllm/backends/reward/weights/compact-v1.safetensors")


def test_heads_that_do_not_fit_are_refused():
    features = some_features()
    numbers, bias = np.zeros((1, 7), np.float16), np.zeros(1, np.float32)
    with pytest.raises(AxisMismatch, match=r"distinct, sorted names, got \['b', 'a'\]"):
        WordRewards(("b", "a"), features, np.zeros((2, 7), np.float16), np.zeros(2, np.float32))
    with pytest.raises(AxisMismatch, match="read 7 features"):
        WordRewards(("a",), features, numbers[:, :6], bias)
    with pytest.raises(DataError, match="not finite"):
        WordRewards(("a",), features, numbers + np.float16(np.inf), bias)
    with pytest.raises(AxisMismatch, match="2 features but"):
        WordFeatures(("a",), ("b:a",), np.ones(3, np.float16))
    with pytest.raises(AxisMismatch, match="must be distinct"):
        WordFeatures(("a", "a"), (), np.ones(2, np.float16))
    with pytest.raises(AxisMismatch, match="2 prompts but 1 responses"):
        some_rewards().score(["a", "b"], ["c"])


def test_compact_v2_is_built_by_name_without_model_files():
    rewards = build_rewards({}, name="compact-v2")
    assert list(rewards.reward_models) == list(shipped_metadata("compact-v2")["reward_models"])
    scores = rewards.score(["How do I boil an egg?"] * 2, ["Boil it for eight minutes.", "Eggs are nice."])
    assert (scores[0] != scores[1]).all()


def test_participation_and_readable_share_of_planted_scores():
    rng = generator("planted")
    seen, unseen = rng.normal(size=(2, 200, 8, 3))
    scores = np.concatenate([seen[..., :1], seen[..., 1:2] + unseen[..., :1], unseen[..., 1:2]], axis=2)
    np.testing.assert_allclose(read_by_features(seen + rng.normal(size=(200, 1, 1)), scores), [1, 0.5, 0], atol=0.05)
    assert participation_ratio(scores) > 2.5
    texts = [["red fox", "red hen", "blue fox", "blue hen"]] * 40
    red = np.array([1.0, 1, 0, 0])[None, :, None] + np.zeros((40, 1, 1))
    assert read_by_words(texts, np.concatenate([red, rng.normal(size=(40, 4, 1))], axis=2)).round(1).tolist()[0] == 1.0
    assert participation_ratio(scores[..., [0, 0, 0]] + 0.1 * unseen) < 1.1


@pytest.mark.slow
@pytest.mark.shared
def test_the_figures_on_alpaca8_follow_from_the_weights(shared_data):
    raw = gzip.decompress((shared_data / "alpaca8/responses.jsonl.gz").read_bytes())
    rows = [json.loads(line) for line in raw.decode().splitlines()]
    prompts = [row["prompt"] for row in rows for _ in row["responses"]]
    texts = [response["text"] for row in rows for response in row["responses"]]
    scores = load_compact("compact-v2", refuse_embedder).score(prompts, texts)
    np.testing.assert_allclose(scores.mean(axis=0), 0, atol=0.02)
    np.testing.assert_allclose(scores.std(axis=0), 1, atol=0.02)
    agreement = top_agreement(scores.reshape(len(rows), -1, 10))
    np.testing.assert_allclose(agreement, shipped_metadata("compact-v2")["alpaca8"]["top_agreement"], atol=0.01)
