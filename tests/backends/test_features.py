"""Text classifiers: counts made by hand, the cache, the sets, and a tiny transformer against NumPy."""

from __future__ import annotations

import math
import sys
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personalllm.backends.features import (
    CachedClassifier,
    RuleMarkers,
    TransformersClassifier,
    _common,
    build_classifiers,
)
from personalllm.core.errors import (
    MissingExtra,
    ModelFileError,
    OfflineError,
    ParameterError,
    PluginError,
    UnknownName,
    UserError,
)
from personalllm.core.protocols import TextClassifier

OFFLINE = ("syntactic", "textblob", "pyphen", "vader", "rules")
PACKAGES = {
    "syntactic": ("nltk", "textblob"),
    "textblob": ("nltk", "textblob"),
    "pyphen": ("pyphen",),
    "vader": ("vaderSentiment",),
}
TEXT = 'The quick fox isn\'t slow. "It ran quickly!" she said:\n\n- one red apple\n2. Dr. No (very bad)\n'


def classifier(name):
    for package in PACKAGES.get(name, ()):
        pytest.importorskip(package)
    (made,) = build_classifiers(name, cached=False)
    return made


kept = cache(classifier)


def measured(name, text):
    found = classifier(name)
    return dict(zip(found.features, found.measure([text])[0].tolist(), strict=True))


def test_syntactic_counts_by_hand():
    # The quick fox is n't slow . `` It ran quickly ! '' she said : - one red apple 2 . Dr . No ( very bad )
    found = measured("syntactic", TEXT)
    assert found["nltk_tokens"] == 29
    assert found["nltk_unique_words"] == 19
    assert found["nltk_punctuation"] == 10
    assert found["rule_list_items"] == 2
    assert found["textblob_adjectives_adverbs"] == 7  # quick, n't, slow, quickly, red, very, bad


@pytest.mark.parametrize(
    ("text", "tokens", "unique", "length", "stop", "punctuation", "items"),
    [
        ("I can't, no.", 6, 4, 2, 2, 2, 0),
        ("Red red RED!", 4, 1, 3, 0, 1, 0),
        ("One. Two? Three.\nFour", 7, 4, (3 + 3 + 5 + 4) / 4, 4, 3, 0),
        ("* apples\n  - pears\n10) plums\na. figs\n-dash\n3.5 kg", 13, 9, None, 1, 4, 4),
        ("She left (it rained).", 7, 4, (3 + 4 + 2 + 6) / 4, 2, 3, 0),
    ],
)
def test_each_syntactic_count(text, tokens, unique, length, stop, punctuation, items):
    found = measured("syntactic", text)
    wanted = {
        "nltk_tokens": tokens,
        "nltk_unique_words": unique,
        "nltk_mean_word_length": length,
        "sklearn_stop_words": stop,
        "nltk_punctuation": punctuation,
        "rule_list_items": items,
    }
    for name, value in wanted.items():
        if value is not None:
            assert found[name] == pytest.approx(value), name


def test_rules_by_hand():
    found = measured("rules", "Thank you! Could you wait, please? I\u2019d be happy to help. Wow!")
    assert found["rule_politeness"] == pytest.approx(100 * 5 / 12)
    assert found["rule_exclamations"] == pytest.approx(100 * 2 / 12)
    assert measured("rules", "A pleased crowd welcomed them.")["rule_politeness"] == 0


def test_reading_grade_by_hand():
    found = measured("pyphen", "The river sat. The understanding dog ran home.")
    assert found["pyphen_reading_grade"] == pytest.approx(0.39 * 8 / 2 + 11.8 * (8 + 4) / 8 - 15.59, abs=1e-5)
    assert found["pyphen_long_words"] == pytest.approx(12.5)


def test_a_list_is_not_one_long_sentence():
    short = measured("pyphen", "- one cat\n- two dogs\n- three cows")["pyphen_reading_grade"]
    assert short < measured("pyphen", "one cat and two dogs and three cows")["pyphen_reading_grade"]


def test_directions_of_the_stand_ins():
    assert measured("vader", "I love this wonderful day")["vader_sentiment"] > 0.5
    assert measured("vader", "I hate this awful day")["vader_sentiment"] < -0.5
    formal = measured("textblob", "The committee of the council approved the annual budget of the department.")
    casual = measured("textblob", "I really think you should just go and see what they do.")
    assert formal["textblob_formality"] > 50 > casual["textblob_formality"]
    assert measured("textblob", "That is a wonderful, awful idea")["textblob_subjectivity"] > 0.5
    assert measured("textblob", "The train leaves at nine")["textblob_subjectivity"] == 0


def test_formality_by_hand():
    # The/DT dog/NN of/IN the/DT house/NN: five of five formal. She/PRP ran/VBD: two of two deictic.
    assert measured("textblob", "The dog of the house")["textblob_formality"] == pytest.approx(100)
    assert measured("textblob", "She ran")["textblob_formality"] == pytest.approx(0)


@pytest.mark.parametrize("name", OFFLINE)
@pytest.mark.parametrize("text", ["", "   \n", "...", "\u200b", "**"])
def test_a_text_without_words_has_counts_but_no_means(name, text):
    for feature, value in measured(name, text).items():
        mean = feature.startswith(("textblob_f", "textblob_s", "pyphen", "rule_pol", "rule_ex")) or "mean" in feature
        assert math.isnan(value) == mean, feature


@pytest.mark.parametrize("name", OFFLINE)
def test_the_protocol_is_met(name):
    found = classifier(name)
    assert isinstance(found, TextClassifier)
    assert found.identity == classifier(name).identity
    assert found.measure([]).shape == (0, len(found.features))
    both = found.measure([TEXT, "Short."])
    assert both.dtype == np.float32
    np.testing.assert_array_equal(both[1:], found.measure(["Short."]))
    assert all(
        feature.split("_")[0] in {"nltk", "sklearn", "rule", "textblob", "pyphen", "vader"}
        for feature in found.features
    )


@pytest.mark.parametrize("name", OFFLINE)
@given(st.text(max_size=40))
def test_any_text_can_be_measured(name, text):
    values = kept(name).measure([text])
    assert not np.isinf(values).any()


@pytest.mark.parametrize(("name", "package"), [(n, p) for n, ps in PACKAGES.items() for p in ps])
def test_a_missing_package_names_the_extra(name, package, monkeypatch):
    found = classifier(name)
    for load in (_common.textblob_tagger, _common.textblob_analyser, _common.treebank_tokeniser):
        load.cache_clear()
    for module in [m for m in sys.modules if m == package or m.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=r"personalllm\[features\]"):
        found.measure(["text"])
    with pytest.raises(MissingExtra, match=r"personalllm\[features\]"):
        _ = found.identity


class Counting:
    """Length, and NaN for what has none; notes what it was asked."""

    def __init__(self, identity="counting-1", features=("length", "none")):
        self.identity, self.features, self.asked = identity, features, []

    def measure(self, texts):
        self.asked += texts
        return np.array([[len(t), np.nan] for t in texts], np.float32).reshape(-1, 2)


def test_the_cache_measures_each_text_once(tmp_path):
    inner, said = Counting(), []
    first = CachedClassifier(inner, tmp_path).measure(["a", "bb", "a"], lambda done, total: said.append((done, total)))
    again = Counting()
    second = CachedClassifier(again, tmp_path).measure(["bb", "a", "ccc"])
    assert inner.asked == ["a", "bb"]
    assert again.asked == ["ccc"]
    assert said == [(2, 2)]
    np.testing.assert_array_equal(first, [[1, np.nan], [2, np.nan], [1, np.nan]])
    np.testing.assert_array_equal(second[:, 0], [2, 1, 3])


@pytest.mark.parametrize("other", [Counting("counting-2"), Counting(features=("length", "other"))])
def test_another_classifier_has_another_file(tmp_path, other):
    CachedClassifier(Counting(), tmp_path).measure(["a"])
    CachedClassifier(other, tmp_path).measure(["a"])
    assert other.asked == ["a"]


def test_the_cache_lies_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PERSONALLLM_CACHE", str(tmp_path))
    cached = CachedClassifier(Counting())
    assert cached.path.parent == tmp_path / "features"
    assert (cached.identity, cached.features) == ("counting-1", ("length", "none"))
    assert isinstance(cached, TextClassifier)


def test_a_cache_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"The feature cache .* cannot be used"):
        CachedClassifier(Counting(), tmp_path / "file").measure(["a"])


def test_sets_and_names(tmp_path):
    made = build_classifiers("semantic-offline", directory=tmp_path)
    assert [m.features[0].split("_")[0] for m in made] == ["textblob", "pyphen", "vader", "rule"]
    assert all(isinstance(m, CachedClassifier) for m in made)
    paper = build_classifiers("semantic-paper", cached=False)
    assert [name for m in paper for name in m.features] == [
        "roberta_formality",
        "fineweb_edu_educational",
        *(f"go_emotions_{name}" for name in ("approval", "caring", "excitement", "joy", "optimism")),
    ]
    assert [m.activation for m in paper] == ["softmax", "none", "sigmoid"]
    by_reference = build_classifiers("personalllm.backends.features.standins:RuleMarkers", cached=False)
    assert isinstance(by_reference[0], RuleMarkers)
    with pytest.raises(UnknownName, match="Did you mean 'syntactic'"):
        build_classifiers("syntactics")
    with pytest.raises(PluginError, match=r"without measure\(\)"):
        build_classifiers("builtins:list")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": {}}, "labels must be one label or more"),
        ({"labels": {"a": "x", "b": "x"}}, "with distinct names"),
        ({"activation": "relu"}, "activation must be one of softmax, sigmoid, none"),
        ({"max_tokens": 1}, "max_tokens must be >= 2"),
        ({"batch_size": 0}, "batch_size must be >= 1"),
    ],
)
def test_parameters_of_a_transformer(change, message):
    with pytest.raises(ParameterError, match=message):
        TransformersClassifier(**({"model": "m", "labels": {"a": "x"}} | change))


# A Roberta of one layer, computed a second time with NumPy.
VOCABULARY = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "red", "apple", "good", "bad", "day"]


def make_roberta(folder, *, labels=("formal", "informal", "other"), safe=True):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing

    torch.manual_seed(0)
    config = transformers.RobertaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=20,
        type_vocab_size=1,
        initializer_range=1.0,
        id2label=dict(enumerate(labels)),
        label2id={name: i for i, name in enumerate(labels)},
    )
    network = transformers.RobertaForSequenceClassification(config)
    network.save_pretrained(folder)
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "cls_token": "<s>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    if not safe:
        torch.save(network.state_dict(), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    return folder


def numpy_logits(folder, tokens):
    """Return what the Roberta says of one text, from its weights alone."""
    from safetensors.numpy import load_file

    w = load_file(folder / "model.safetensors")

    def linear(x, name):
        return x @ w[f"{name}.weight"].T.astype(float) + w[f"{name}.bias"]

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        scale = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
        return centred / scale * w[f"{name}.weight"] + w[f"{name}.bias"]

    def gelu(x):
        return x * np.array([[0.5 * (1 + math.erf(v / math.sqrt(2))) for v in row] for row in x])

    body = "roberta.embeddings"
    x = w[f"{body}.word_embeddings.weight"][tokens].astype(float) + w[f"{body}.token_type_embeddings.weight"][0]
    x = norm(x + w[f"{body}.position_embeddings.weight"][2 + np.arange(len(tokens))], f"{body}.LayerNorm")
    layer = "roberta.encoder.layer.0"
    heads = []
    q, k, v = (linear(x, f"{layer}.attention.self.{part}") for part in ("query", "key", "value"))
    for head in (slice(0, 4), slice(4, 8)):
        weight = np.exp(q[:, head] @ k[:, head].T / 2)
        heads.append(weight / weight.sum(1, keepdims=True) @ v[:, head])
    attended = linear(np.concatenate(heads, axis=1), f"{layer}.attention.output.dense")
    x = norm(x + attended, f"{layer}.attention.output.LayerNorm")
    x = norm(
        x + linear(gelu(linear(x, f"{layer}.intermediate.dense")), f"{layer}.output.dense"), f"{layer}.output.LayerNorm"
    )
    return linear(np.tanh(linear(x[0], "classifier.dense")), "classifier.out_proj")


ROBERTA_TEXTS = ["red apple", "good", "bad bad day", "red day", "", "good good good good good good good good"]


def tokens_of(text, most=512):
    inner = [VOCABULARY.index(word) for word in text.split()]
    return [0, *inner[: most - 2], 2]


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "none"])
@pytest.mark.torch
def test_a_transformer_against_numpy(tmp_path, activation):
    folder = make_roberta(tmp_path)
    labels = {"other": "tiny_other", "formal": "tiny_formal"}
    found = TransformersClassifier(str(folder), labels, activation, max_tokens=6, batch_size=2)
    assert found.features == ("tiny_other", "tiny_formal")
    logits = np.stack([numpy_logits(folder, tokens_of(text, 6)) for text in ROBERTA_TEXTS])
    wanted = {
        "softmax": np.exp(logits) / np.exp(logits).sum(1, keepdims=True),
        "sigmoid": 1 / (1 + np.exp(-logits)),
        "none": logits,
    }[activation]
    made = found.measure(ROBERTA_TEXTS)
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, wanted[:, [2, 0]], atol=1e-4)
    assert np.ptp(made[:, 0]) > 0.01
    np.testing.assert_allclose(found.measure(ROBERTA_TEXTS[2:3]), made[2:3], atol=1e-6)
    assert found.measure([]).shape == (0, 2)


@pytest.mark.slow
@pytest.mark.torch
def test_the_identity_of_a_transformer_follows_its_files_and_parameters(tmp_path):
    folder = make_roberta(tmp_path / "a")
    labels = {"formal": "f"}
    first = TransformersClassifier(str(folder), labels).identity
    assert TransformersClassifier(str(folder), labels, batch_size=1).identity == first
    others = [
        TransformersClassifier(str(folder), labels, "sigmoid").identity,
        TransformersClassifier(str(folder), labels, max_tokens=9).identity,
        TransformersClassifier(str(folder), {"other": "f"}).identity,
    ]
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    others.append(TransformersClassifier(str(folder), labels).identity)
    assert len({first, *others}) == 5


@pytest.mark.slow
@pytest.mark.torch
def test_what_a_transformer_cannot_do_is_said(tmp_path):
    folder = make_roberta(tmp_path / "good")
    with pytest.raises(UnknownName, match="Did you mean 'formal'"):
        TransformersClassifier(str(folder), {"formel": "x"}).measure(["red"])
    with pytest.raises(ModelFileError, match="cannot be loaded"):
        TransformersClassifier(str(make_roberta(tmp_path / "pickled", safe=False)), {"formal": "x"}).measure(["red"])
    with pytest.raises(OfflineError, match="PERSONALLLM_OFFLINE is set"):
        TransformersClassifier("nobody/nothing", {"formal": "x"}).measure(["red"])


def test_a_transformer_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"personalllm\[torch\]"):
        TransformersClassifier("m", {"a": "x"}).measure(["red"])
