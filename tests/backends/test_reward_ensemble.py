"""Surface features, scoring, the shipped ensemble, its JSON and its cards."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personalllm.backends.reward import (
    SURFACE_FEATURES,
    CompactEnsemble,
    RewardHeads,
    WordRewards,
    load_compact,
    render_cards,
    shipped_ensembles,
    shipped_metadata,
    surface_features,
    top_agreement,
)
from personalllm.backends.reward.metrics import length_correlations, lengths
from personalllm.core.errors import AxisMismatch, UnknownName
from personalllm.core.protocols import RewardEnsemble
from personalllm.core.seeding import generator

TEXTS = st.text(max_size=200)


class HashEmbedder:
    """Unit vectors that depend on the text alone, in place of the model files."""

    def __init__(self, dim=8, name="hash"):
        self.dim = dim
        self.name = name
        self.identity = f"{name}/{dim}"

    def embed(self, texts):
        vectors = [generator("hash", text).normal(size=self.dim) for text in texts]
        vectors = np.array(vectors).reshape(len(texts), self.dim)
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def random_heads(names=("a", "b", "c"), dim=8):
    rng = generator("heads", len(names))
    n, surface = len(names), len(SURFACE_FEATURES)
    return RewardHeads(
        tuple(names),
        rng.normal(size=(n, 2 * dim + surface)).astype(np.float32),
        rng.normal(size=n).astype(np.float32),
        rng.normal(size=(n, surface)).astype(np.float32),
        rng.uniform(0.5, 2, size=(n, surface)).astype(np.float32),
        "hash",
        f"hash/{dim}",
    )


def feature(response, name, prompt="What?"):
    return float(surface_features([prompt], [response])[0, SURFACE_FEATURES.index(name)])


@pytest.mark.parametrize(
    ("name", "more", "less"),
    [
        ("log_words", "one two three", "one two"),
        ("log_sentences", "One. Two. Three", "One two three"),
        ("log_words_per_sentence", "one two three four", "One two. Three four"),
        ("log_list_items", "- one\n- two", "one\ntwo"),
        ("log_list_items", "1. one\n12) two", "1 one\n12 two"),
        ("log_list_items", "\u2022 one", "one"),
        ("log_emphasis", "**one** two", "one two"),
        ("log_emphasis", "# One", "One"),
        ("log_lines", "one\n\ntwo", "one two"),
        ("commas_per_word", "one, two", "one two"),
        ("log_question_marks", "one? two", "one two"),
        ("ends_with_question", "one? ", "one? two"),
        ("log_exclamation_marks", "one!", "one"),
        ("digit_share", "a1", "ab"),
        ("mean_word_length", "longer", "long"),
        ("vocabulary_richness", "one two three", "one one one"),
        ("first_person_share", "I\u2019ll see", "they see"),
        ("second_person_share", "Your idea", "An idea"),
        ("hedge_share", "Perhaps so", "Surely so"),
        ("refusal_share", "Sorry, no", "Gladly, yes"),
        ("log_code_marks", "`x`", "x"),
        ("response_words_in_prompt", "what else", "something else"),
        ("prompt_words_in_response", "what", "that"),
    ],
)
def test_each_surface_feature_sees_what_it_is_named_after(name, more, less):
    assert feature(more, name) > feature(less, name)


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6))
def test_surface_features_are_finite_and_each_row_is_its_own(pairs):
    prompts, responses = zip(*pairs, strict=True)
    together = surface_features(prompts, responses)
    assert together.shape == (len(pairs), len(SURFACE_FEATURES))
    assert np.isfinite(together).all()
    alone = np.concatenate([surface_features([p], [r]) for p, r in pairs])
    np.testing.assert_array_equal(together, alone)


def test_surface_features_of_extremes():
    assert surface_features([], []).shape == (0, len(SURFACE_FEATURES))
    assert np.isfinite(surface_features(["", "x"], ["", "word " * 20_000])).all()
    with pytest.raises(AxisMismatch, match="1 prompts but 2 responses"):
        surface_features(["a"], ["b", "c"])


@given(st.integers(1, 700), st.integers(0, 10**6))
def test_a_score_is_the_same_bits_in_any_batch(n, seed):
    heads, rng = random_heads(), generator("batch", seed)
    vectors = rng.normal(size=(n, 16)).astype(np.float32)
    surface = rng.normal(size=(n, len(SURFACE_FEATURES))).astype(np.float32)
    together = heads.evaluate(vectors, surface)
    row = int(rng.integers(n))
    np.testing.assert_array_equal(heads.evaluate(vectors[row : row + 1], surface[row : row + 1])[0], together[row])
    order = rng.permutation(n)
    np.testing.assert_array_equal(heads.evaluate(vectors[order], surface[order]), together[order])


def test_the_score_is_the_documented_formula():
    heads, embedder = random_heads(), HashEmbedder()
    prompts, responses = ["Why?", "Who?"], ["Because, I think.", "- You\n- Me"]
    p, r = embedder.embed(prompts).astype(float), embedder.embed(responses).astype(float)
    s = surface_features(prompts, responses)
    expected = np.empty((2, 3))
    for k in range(3):
        z = np.clip((s - heads.surface_mean[k]) / heads.surface_sd[k], -3, 3)
        x = np.concatenate([3 * r, 3 * np.sqrt(8) * p * r, z], axis=1)
        expected[:, k] = x @ heads.coefficients[k].astype(float) + heads.bias[k]
    scores = CompactEnsemble(heads, embedder).score(prompts, responses)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)


def test_the_ensemble_says_who_it_is(tmp_path):
    heads = random_heads()
    ensemble = CompactEnsemble(heads, HashEmbedder())
    assert isinstance(ensemble, RewardEnsemble)
    assert ensemble.reward_models == ("a", "b", "c")
    assert ensemble.score([], []).shape == (0, 3)
    path = tmp_path / "three.safetensors"
    heads.save(path)
    assert CompactEnsemble.load(path, HashEmbedder()).identity == ensemble.identity
    assert CompactEnsemble(replace(heads, bias=heads.bias + 1), HashEmbedder()).identity != ensemble.identity
    other = HashEmbedder()
    other.identity = "hash/retrained"
    assert CompactEnsemble(heads, other).identity != ensemble.identity


@pytest.mark.parametrize("embedder", [HashEmbedder(dim=4), HashEmbedder(name="other")])
def test_another_embedder_is_refused(embedder):
    with pytest.raises(AxisMismatch, match="read vectors of 'hash'"):
        CompactEnsemble(random_heads(), embedder)


def test_an_unknown_ensemble_is_refused_with_the_nearest_name():
    for call in (lambda: load_compact("compact-v9", HashEmbedder), lambda: shipped_metadata("compact-v9")):
        with pytest.raises(UnknownName, match="compact-v1"):
            call()


@pytest.fixture(scope="module")
def shipped():
    return shipped_metadata("compact-v1")


@pytest.mark.parametrize(("name", "kind"), [("compact-v1", RewardHeads), ("compact-v2", WordRewards)])
def test_the_shipped_weights_are_those_that_the_json_describes(root, name, kind):
    assert shipped_ensembles() == ("compact-v1", "compact-v2")
    shipped = shipped_metadata(name)
    heads = kind.load(root / f"src/personalllm/backends/reward/weights/{name}.safetensors")
    assert heads.sha256 == shipped["weights_sha256"]
    assert list(heads.reward_models) == list(shipped["reward_models"]) == sorted(shipped["reward_models"])
    assert len(heads.reward_models) == 10
    assert getattr(heads, "embedder_identity", None) == shipped.get("embedder_identity")


@pytest.mark.parametrize("ensemble", ["compact-v1", "compact-v2"])
def test_each_shipped_model_beats_chance_on_its_held_out_pairs(ensemble):
    for name, card in shipped_metadata(ensemble)["reward_models"].items():
        assert card["held_out"]["low"] > 0.5, name
        assert card["held_out"]["low"] <= card["held_out"]["value"] <= card["held_out"]["high"], name
        assert card["n_held_out_groups"] >= 50, name
        assert card["data_licence"], name


def test_the_shipped_models_differ(shipped):
    matrix = np.array(shipped["alpaca8"]["top_agreement"])
    assert matrix.shape == (10, 10)
    assert matrix[~np.eye(10, dtype=bool)].max() <= 0.8
    lengths_ = [abs(card["alpaca8"]["length_correlation"]) for card in shipped["reward_models"].values()]
    within = [abs(card["alpaca8"]["length_correlation_within_prompt"]) for card in shipped["reward_models"].values()]
    assert sum(a < 0.5 and b < 0.5 for a, b in zip(lengths_, within, strict=True)) >= 4
    assert shipped["alpaca8"]["diversity"]["top_share_at_most"]["0.5"] >= 0.4


@pytest.mark.parametrize(("name", "page"), [("compact-v1", "reward-models-v1"), ("compact-v2", "reward-models")])
def test_the_model_cards_are_made_from_the_json(root, name, page):
    assert (root / f"docs/{page}.md").read_text(encoding="utf-8") == render_cards(shipped_metadata(name))


@pytest.mark.models
def test_the_shipped_embedder_is_the_one_that_the_heads_were_fitted_on(embedder, shipped):
    assert embedder.identity == shipped["embedder_identity"]


@pytest.mark.models
@pytest.mark.slow
@pytest.mark.shared
def test_the_figures_on_alpaca8_follow_from_the_weights(reward_ensemble, shared_data, shipped):
    raw = gzip.decompress((shared_data / "alpaca8/responses.jsonl.gz").read_bytes())
    rows = [json.loads(line) for line in raw.decode().splitlines()]
    prompts = [row["prompt"] for row in rows for _ in row["responses"]]
    texts = [response["text"] for row in rows for response in row["responses"]]
    scores = reward_ensemble.score(prompts, texts).reshape(len(rows), -1, 10)
    again = reward_ensemble.score(prompts, texts).reshape(scores.shape)
    np.testing.assert_array_equal(again, scores)
    np.testing.assert_allclose(scores.reshape(-1, 10).mean(axis=0), 0, atol=0.02)
    np.testing.assert_allclose(scores.reshape(-1, 10).std(axis=0), 1, atol=0.02)
    agreement = top_agreement(scores)
    assert agreement[~np.eye(10, dtype=bool)].max() <= 0.8
    np.testing.assert_allclose(agreement, shipped["alpaca8"]["top_agreement"], atol=0.01)
    characters = lengths(texts).reshape(scores.shape[:2])
    for k, card in enumerate(shipped["reward_models"].values()):
        pooled, within = length_correlations(scores[:, :, k], characters)
        assert pooled == pytest.approx(card["alpaca8"]["length_correlation"], abs=0.01)
        assert within == pytest.approx(card["alpaca8"]["length_correlation_within_prompt"], abs=0.01)
