"""The embedded benchmark: what its data card and the issue of disagreement promise."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import personalllm
from personalllm.analysis import Votes
from personalllm.backends.reward import shipped_metadata
from personalllm.build import Recipe, fault
from personalllm.core.seeding import generator
from personalllm.data import Standardiser, load, validate
from personalllm.users import Population

PATH = Path(personalllm.__file__).parent / "data" / "mini" / "mini.parquet"
KEYWORDS = ("imagine", "opinion", "poem", "taste")
FIRST_WORDS = ("who", "what", "when", "where")


@pytest.fixture(scope="module")
def mini():
    return load("mini")


def test_size_and_shape(mini):
    assert {split: len(rows) for split, rows in mini.splits.items()} == {"train": 500, "test": 100}
    assert mini.scores.shape == (600, 8, 10)
    assert PATH.stat().st_size <= 6 * 2**20
    assert validate(PATH) == []


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
    assert provenance["recipe"] == recipe.fingerprint
    assert [m["name"] for m in provenance["response_models"]] == list(mini.response_models)
    assert len({m["identity"] for m in provenance["response_models"]}) >= 2
    assert list(mini.reward_models) == list(shipped_metadata(mini.metadata["reward_ensemble"])["reward_models"])


@pytest.mark.models
def test_the_stored_scores_are_those_of_the_shipped_ensemble(mini, reward_ensemble):
    assert reward_ensemble.identity == mini.metadata["reward_ensemble_identity"]
    rows = mini.rows("test")[:20]
    prompts = [mini.prompt(row) for row in rows for _ in range(8)]
    texts = [mini.response(row, column) for row in rows for column in range(8)]
    live = reward_ensemble.score(prompts, texts).reshape(20, 8, 10)
    np.testing.assert_allclose(live, mini.scores[rows], atol=1e-3)


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
    card = (root / "docs" / "mini.md").read_text(encoding="utf-8")
    assert mini.fingerprint in card
    for name in (*mini.response_models, *mini.reward_models):
        assert f"`{name}`" in card
