"""The embedded benchmark, scored by either family of compact reward models: what its data cards promise."""

from __future__ import annotations

import re

import numpy as np
import pytest

from personalllm.analysis import Votes
from personalllm.backends.embedding import shipped_vectors, text_key
from personalllm.backends.names import build_rewards
from personalllm.backends.reward import shipped_metadata, top_agreement
from personalllm.backends.reward.reading import participation_ratio, read_by_vectors
from personalllm.build import Recipe, fault
from personalllm.core.errors import UnknownName
from personalllm.core.seeding import generator
from personalllm.data import Standardiser, load, validate
from personalllm.data.loading import mini_path
from personalllm.users import Population

CARDS = {"compact-v1": "mini-v1.md", "compact-v2": "mini.md"}
KEYWORDS = ("imagine", "opinion", "poem", "taste")
FIRST_WORDS = ("who", "what", "when", "where")


@pytest.fixture(scope="module", params=["mini@v1", "mini@v2"])
def mini(request):
    return load(request.param)


@pytest.fixture(scope="module")
def harder():
    return load("mini")


def test_the_versions_have_the_same_texts_and_a_version_that_is_not_there_is_refused(harder):
    first = load("mini@v1")
    assert first.fingerprint.startswith("31b8f68752da")
    assert (first.prompts, first.responses) == (harder.prompts, harder.responses)
    assert {name: rows.tolist() for name, rows in first.splits.items()} == {
        name: rows.tolist() for name, rows in harder.splits.items()
    }
    assert (load("mini").fingerprint, load("mini@v2").name) == (harder.fingerprint, "mini")
    with pytest.raises(UnknownName, match="no embedded benchmark named 'mini@v3'"):
        load("mini@v3")


def test_size_and_shape(mini):
    assert {split: len(rows) for split, rows in mini.splits.items()} == {"train": 500, "test": 100}
    assert mini.scores.shape == (600, 8, 10)
    path = mini_path(f"mini@{mini.metadata['reward_ensemble'].removeprefix('compact-')}")
    assert path.stat().st_size <= 2**20
    assert validate(path) == []


def test_prompts_are_open_ended_text_of_many_kinds(mini):
    prompts = mini.prompts.to_pylist()
    assert len(set(prompts)) == 600
    assert len(set(mini.subsets.to_pylist())) >= 12
    openings = [" ".join(prompt.lower().split()[:3]) for prompt in prompts]
    assert max(openings.count(opening) for opening in set(openings)) <= 12
    for word in KEYWORDS:
        assert sum(bool(re.search(rf"\b{word}", prompt.lower())) for prompt in prompts) >= 10, word
    for word in FIRST_WORDS:
        assert sum(bool(re.match(rf"{word}\b", prompt.lower())) for prompt in prompts) >= 10, word


def test_no_response_is_empty_or_repeats_itself(mini):
    assert [text for text in mini.responses.to_pylist() if fault(text)] == []


def test_provenance_names_the_recipe_the_weights_and_the_reward_models(mini, root):
    provenance = mini.metadata["provenance"]
    recipe = Recipe.read(root / "recipes" / "mini" / "build.toml")
    recipe = recipe.model_copy(update={"reward_ensemble": mini.metadata["reward_ensemble"]})
    assert provenance["recipe"] == recipe.fingerprint
    assert [m["name"] for m in provenance["response_models"]] == list(mini.response_models)
    assert len({m["identity"] for m in provenance["response_models"]}) >= 2
    assert list(mini.reward_models) == list(shipped_metadata(mini.metadata["reward_ensemble"])["reward_models"])


def assert_scored_by(rewards, mini):
    assert rewards.identity == mini.metadata["reward_ensemble_identity"]
    rows = mini.rows("test")[:20]
    prompts = [mini.prompt(row) for row in rows for _ in range(8)]
    texts = [mini.response(row, column) for row in rows for column in range(8)]
    np.testing.assert_allclose(rewards.score(prompts, texts).reshape(20, 8, 10), mini.scores[rows], atol=1e-3)


@pytest.mark.models
def test_the_stored_scores_of_version_1_are_those_of_the_shipped_ensemble(reward_ensemble):
    assert_scored_by(reward_ensemble, load("mini@v1"))


def test_the_stored_scores_of_version_2_are_those_of_the_shipped_ensemble(harder):
    assert_scored_by(build_rewards(harder.metadata), harder)


class Shipped:
    """The shipped vectors as an embedder, which needs no model file."""

    identity = shipped_metadata("compact-v1")["embedder_identity"]

    def embed(self, texts):
        vectors = shipped_vectors(self.identity)
        return np.stack([vectors[text_key(text)] for text in texts])


def test_methods_cannot_read_the_scores_of_version_2_off_vectors_and_measures(harder):
    texts = np.array(harder.responses.to_pylist(), object).reshape(600, 8)
    scores = np.concatenate([harder.scores, load("mini@v1").scores], axis=2)
    found = read_by_vectors(harder.prompts.to_pylist(), texts.tolist(), scores, Shipped())
    assert found[:10].max() <= 0.6
    assert found[:10].mean() <= 0.45
    assert found[10:].mean() >= 0.9, "the reader reads what there is to read"


def test_the_reward_models_of_version_2_agree_like_those_of_the_paper(harder):
    cards = shipped_metadata("compact-v2")["reward_models"]
    follows = np.array([cards[name]["follows"] for name in harder.reward_models])
    assert follows.sum() == 6
    assert participation_ratio(harder.scores) >= 3
    agreement = top_agreement(harder.scores)
    pairs = np.triu(np.ones((10, 10), bool), 1)
    six, others = (agreement[pairs & (np.outer(follows, follows) == chosen)] for chosen in (True, False))
    assert (len(six), len(others)) == (15, 30)
    assert 0.40 <= six.min() <= six.max() <= 0.75
    assert 0.04 <= others.min() <= others.max() <= 0.30
    assert sum(card["held_out"]["value"] > card["always_longer"]["value"] for card in cards.values()) >= 5


def test_users_of_version_2_are_divided_as_in_the_paper(harder):
    table = harder.score_table(Standardiser.fit(harder), harder.rows("test"))
    found = Votes.of("alpha 0.05", Population.dirichlet(1000, 0.05, table.reward_models, seed=0), table)
    assert 0.35 <= found.share_at_most(0.5) <= 0.60


def test_users_disagree_about_the_test_prompts(mini):
    table = mini.score_table(Standardiser.fit(mini), mini.rows("test"))
    found = Votes.of("alpha 0.05", Population.dirichlet(1000, 0.05, table.reward_models, seed=0), table)
    assert found.share_at_most(0.5) >= 0.30
    assert np.mean(found.n_winners() >= 4) >= 0.5


def test_the_reference_response_model_is_clearly_better_than_the_chat_model_of_the_demo(mini):
    utility = mini.score_table(Standardiser.fit(mini)).values.mean(axis=2)
    by_name = dict(zip(mini.response_models, utility.T, strict=True))
    ahead = by_name[mini.metadata["reference_response_model"]] - by_name["smol-plain"]
    draws = generator("mini", "bootstrap").integers(0, len(ahead), (2000, len(ahead)))
    assert np.quantile(ahead[draws].mean(axis=1), 0.025) > 0


def test_the_data_card_describes_this_file(mini, root):
    card = (root / "docs" / CARDS[mini.metadata["reward_ensemble"]]).read_text(encoding="utf-8")
    for words in ("R^2 within prompts, ridge on vectors and measures", "word TF-IDF", "participation ratio"):
        assert words in card
    assert mini.fingerprint in card
    for name in (*mini.response_models, *mini.reward_models):
        assert f"`{name}`" in card
