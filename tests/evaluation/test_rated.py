"""People's ratings as a population: what is known of whom, who chooses among what, and what the numbers are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import pytest

from personalllm.core.errors import ParameterError, UserError
from personalllm.core.seeding import generator
from personalllm.core.types import F32, Histories, Queries
from personalllm.data import Preferences, Ratings
from personalllm.evaluation import Condition, Protocol, evaluate
from personalllm.evaluation.sources.rated import Rated
from personalllm.methods.base import Method

SHORT: dict[str, Any] = {"user_folds": 2, "shots": (0, 6)}
ASKED = Condition("unseen", "unseen", "true", 6)


def planted(known: float = 1.0, n_users: int = 40, n_items: int = 64) -> Ratings:
    """Even people like what begins with A best, odd ones what begins with B; each rates a share of the texts."""
    rng = generator(0, "planted")
    kind = np.arange(n_items) % 2
    values = np.where(np.arange(n_users)[:, None] % 2 == kind, 2.0, -2.0) + rng.random((n_users, n_items))
    values[rng.random(values.shape) > known] = np.nan
    texts = [f"{'AB'[kind[item]]} text {item}" for item in range(n_items)]
    return Ratings.from_table(values, texts, "A joke, please.", name="planted")


def source_of(ratings: Ratings, **settings: Any) -> Rated:
    return Rated.of(ratings, Protocol.for_data(ratings, **(SHORT | settings)))


@dataclass
class FirstLetter(Method):
    """Prefers the first letter of the texts that the user preferred."""

    id: ClassVar[str] = "first-letter"

    def adapt(self, histories: Histories) -> Self:
        self.taste_ = np.zeros(histories.n_users)
        for user, prompt, *pair in zip(
            histories.user, histories.prompt, histories.chosen, histories.rejected, strict=True
        ):
            chosen, rejected = (histories.corpus.responses[prompt][column][0] for column in pair)
            self.taste_[user] += (chosen == "A") - (rejected == "A")
        return self

    def utilities(self, queries: Queries) -> F32:
        starts = np.array([[text.startswith("A") for text in row] for row in queries.corpus.responses], np.float32)
        return (starts[queries.prompt] * self.taste_[queries.user][:, None]).astype(np.float32)


def test_texts_without_prompts_are_cut_into_groups_of_eight_that_use_each_once() -> None:
    items = source_of(planted(n_items=70)).items
    assert items.shape == (8, 8)
    assert len(np.unique(items)) == 64


def test_prompts_keep_their_responses_and_short_ones_stay_whole() -> None:
    texts, prompts = [f"r{i}" for i in range(21)], ["p"] * 4 + ["q"] * 16 + ["lonely"]
    ratings = Ratings.from_table(generator(0, "short").random((4, 21)), texts, prompts)
    source = source_of(ratings, prompt_folds=3)
    assert list(source.corpus.prompts) == ["p", "q", "q"]
    whole, *halves = (set(row) for row in source.corpus.responses)
    assert whole == set(texts[:4])
    assert [len(half) for half in halves] == [8, 8]
    assert halves[0] | halves[1] == set(texts[4:20])


def test_k_ratings_give_the_comparisons_between_them_and_no_others() -> None:
    ratings = planted(known=0.9)
    source, table = source_of(ratings), ratings.table()
    for fold in source.folds:
        allowed = (source.prompt_fold != fold.prompts) & (source.prompt_fold != source.others_only(fold))
        few, many = source.history(fold, 6), source.history(fold, 16)
        for history, shots in ((few, 6), (many, 16)):
            assert allowed[history.prompt].all()
            rows = source.items[history.prompt]
            chosen, rejected = (rows[np.arange(len(rows)), side] for side in (history.chosen, history.rejected))
            owner = source.targets(fold)[history.user]
            assert (table[owner, chosen] > table[owner, rejected]).all()
            for user in range(history.n_users):
                mine = history.user == user
                assert len({*chosen[mine], *rejected[mine]}) <= shots
        assert len(few) < len(many)
        start = many.offsets[:-1]
        for user, n in enumerate(np.diff(few.offsets).tolist()):
            first = many.prompt[start[user] : start[user] + n]
            assert first.tolist() == few.prompt[few.offsets[user] : few.offsets[user + 1]].tolist()


def test_what_is_fitted_on_holds_neither_unseen_texts_nor_target_people() -> None:
    source = source_of(planted())
    for fold in source.folds:
        pool = source.pool(fold)
        assert not np.isin(pool.prompt, np.flatnonzero(source.prompt_fold == fold.prompts)).any()
        assert pool.n_users == source.ratings.n_users - len(source.targets(fold))
        choices = source.choices(fold)
        assert set(source.prompt_fold[choices["unseen"][1]]) == {fold.prompts}
        assert set(source.prompt_fold[choices["seen"][1]]) == {source.others_only(fold)}


def test_people_choose_only_among_what_they_rated() -> None:
    ratings = planted(known=0.4)
    results = evaluate([FirstLetter()], ratings, "rank", SHORT)
    worst, oracle = (results.estimate(name, "utility").value for name in ("worst", "oracle"))
    assert worst < results.estimate("first-letter", "utility").value < oracle
    assert all(math.isfinite(row.sums[ASKED].columns["utility"].sum()) for row in results.methods)


def test_the_gain_runs_from_popularity_to_the_persons_own_best() -> None:
    results = evaluate([FirstLetter()], planted(), "rank", SHORT)
    gains = {name: results.estimate(name, "gain").value for name in ("population-best", "oracle", "first-letter")}
    assert gains["population-best"] == 0.0
    assert gains["oracle"] == 1.0
    # knows the kind of text, not which of its kind the person likes best
    assert 0.6 < gains["first-letter"] < 1.0
    before = Condition("unseen", "unseen", "true", 0)
    assert results.estimate("first-letter", "gain", at=before).value < 0.3
    assert math.isnan(results.estimate("first-letter", "ps").value)
    assert results.metric("ps").note == "not defined for people"


def test_another_persons_ratings_do_not_help() -> None:
    results = evaluate([FirstLetter()], planted(), "predict", SHORT)
    own, other = (
        results.estimate("first-letter", "accuracy", at=Condition("unseen", "unseen", kind, 6)).value
        for kind in ("true", "other-user")
    )
    assert own > 0.7
    assert other < 0.5


def test_popularity_is_what_the_pool_likes() -> None:
    ratings = planted()
    source = source_of(ratings)
    fold = source.folds[0]
    pool = np.setdiff1d(np.arange(ratings.n_users), source.targets(fold))
    table = ratings.table()
    above = (table - table.mean(axis=1, keepdims=True))[pool]
    assert np.allclose(source.popularity(fold), above.sum(axis=0)[source.items] / (len(pool) + 1), atol=1e-5)


def test_a_protocol_of_ratings_is_replayable() -> None:
    ratings = planted()
    protocol = Protocol.for_data(ratings, track="rank", **SHORT)
    assert Protocol.from_spec(protocol.spec()) == protocol
    assert protocol.changed(ratings, seed=1).options == protocol.options
    assert protocol.folds is not None
    assert (protocol.folds.group, protocol.folds.compared) == (8, 7)


def test_errors_say_what_is_missing() -> None:
    people = Preferences.from_rows(
        [{"user": f"u{u}", "prompt": f"p{p}", "chosen": "a", "rejected": "b"} for u in range(2) for p in range(6)]
    )
    with pytest.raises(UserError, match="has comparisons alone"):
        Protocol.for_data(people, track="rank")
    with pytest.raises(ParameterError, match=r"folds\.group"):
        Protocol.for_data(people, folds={"group": 4})
    same = Ratings.from_table(np.ones((4, 64)), [str(i) for i in range(64)])
    with pytest.raises(UserError, match="nobody rated two responses"):
        source_of(same)
    with pytest.raises(UserError, match=r"2 groups .* fewer than prompt_folds = 4.*folds\.group"):
        source_of(planted(n_items=20))
