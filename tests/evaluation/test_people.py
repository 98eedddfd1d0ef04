"""Learners on people: who is left out of what, and what the numbers are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pytest
from pydantic import ValidationError

from personalllm.core.errors import DataError, RunError, UserError
from personalllm.core.seeding import generator
from personalllm.core.types import F32, Histories, Queries
from personalllm.data.preferences import Preferences
from personalllm.evaluation.prediction.metrics import Cell
from personalllm.evaluation.prediction.people import load_people, predict_people
from personalllm.evaluation.prediction.people_task import PeopleProtocol, PeopleTask
from personalllm.methods.base import Method


def comparison(user: str, prompt: str, chosen: str, rejected: str) -> dict[str, str]:
    return {"user": user, "prompt": prompt, "chosen": chosen, "rejected": rejected}


SHORT = {"bootstrap_draws": 100, "shots": (0, 2, 4)}


def preferences(n_users: int = 6, n_prompts: int = 24) -> Iterator[dict[str, str]]:
    """Even users like responses that begin with A, odd ones those with B; every user judges every prompt."""
    for user in range(n_users):
        for prompt in range(n_prompts):
            a, b = f"A{prompt}", f"B{prompt}" * 2
            yield comparison(f"u{user}", f"prompt {prompt}", *((a, b) if user % 2 == 0 else (b, a)))


@pytest.fixture(scope="module")
def people() -> Preferences:
    return Preferences.from_rows(preferences(), name="six")


@dataclass
class FirstLetter(Method):
    """Prefers the first letter that the user chose more often, as strongly as it was."""

    id: ClassVar[str] = "first-letter"
    title: ClassVar[str] = "First letter"
    log_odds: ClassVar[bool] = True

    def fit(self, pool: Histories) -> Self:
        self.pool_ = pool
        return self

    def adapt(self, histories: Histories) -> Self:
        self.taste_ = np.zeros(histories.n_users)
        for user, prompt, chosen in zip(histories.user, histories.prompt, histories.chosen, strict=True):
            self.taste_[user] += 1 if histories.corpus.responses[prompt][chosen].startswith("A") else -1
        return self

    def utilities(self, queries: Queries) -> F32:
        starts = np.array([[text.startswith("A") for text in row] for row in queries.corpus.responses], np.float32)
        return (starts[queries.prompt] * self.taste_[queries.user][:, None]).astype(np.float32)


def test_what_is_fitted_on_holds_nothing_that_is_predicted_as_unseen(people: Preferences) -> None:
    task = PeopleTask(people, PeopleProtocol(user_folds=3))
    for split in task.splits:
        pool = {people.histories.corpus.prompts[row] for row in task.pool(split).prompt}
        tests = dict(task.tests(split))
        unseen = {people.histories.corpus.prompts[row] for row in people.histories.prompt[tests["unseen"]]}
        assert not pool & unseen
        assert len(unseen) == 24 / 4
        if split.users is not None:
            seen = {people.histories.corpus.prompts[row] for row in people.histories.prompt[tests["seen"]]}
            assert seen <= pool
            assert len(task.pool(split)) == 4 * 18


def test_another_pair_of_an_unseen_prompt_is_not_in_the_pool() -> None:
    rows = [*preferences(), *(comparison("u9", f"prompt {p}", f"C{p}", f"D{p}") for p in range(24))]
    people = Preferences.from_rows(rows)
    task = PeopleTask(people, PeopleProtocol())
    for split in task.splits:
        topics = set(people.topic[task.pool(split).prompt].tolist())
        assert not topics & set(people.topic[people.histories.prompt[dict(task.tests(split))["unseen"]]].tolist())


def test_histories_are_the_users_own_nested_and_free_of_what_is_predicted(people: Preferences) -> None:
    task = PeopleTask(people, PeopleProtocol(user_folds=3))
    split = task.splits[0]
    few, many = task.history(split, 2), task.history(split, 5)
    assert np.diff(few.offsets).tolist() == [2, 2]
    for user in range(2):
        own = slice(many.offsets[user], many.offsets[user] + 2)
        assert few.prompt[few.user == user].tolist() == many.prompt[own].tolist()
    asked = np.concatenate([people.histories.prompt[rows] for _, rows in task.tests(split)])
    assert not set(many.prompt.tolist()) & set(asked.tolist())
    targets = task.targets(split)
    for user, prompt, chosen in zip(many.user, many.prompt, many.chosen, strict=True):
        likes = "A" if int(people.users[targets[user]][1:]) % 2 == 0 else "B"
        assert many.corpus.responses[prompt][chosen].startswith(likes)


def test_counterfactual_histories(people: Preferences) -> None:
    task = PeopleTask(people, PeopleProtocol(user_folds=3))
    split = task.splits[0]
    true, flipped = task.history(split, 4), task.history(split, 4, "flipped")
    assert flipped.chosen.tolist() == true.rejected.tolist()
    assert flipped.prompt.tolist() == true.prompt.tolist()
    other = task.history(split, 4, "other-user")
    for user, target in enumerate(task.targets(split).tolist()):
        texts = [other.corpus.responses[p][c][0] for p, c in zip(other.prompt, other.chosen, strict=True)]
        of_user = [text for text, owner in zip(texts, other.user.tolist(), strict=True) if owner == user]
        assert set(of_user) == {"B" if target % 2 == 0 else "A"}


def test_a_learner_of_the_taste_is_right_and_the_nulls_are_what_they_say(people: Preferences) -> None:
    results = predict_people([FirstLetter()], people, PeopleProtocol(**SHORT))
    assert results.protocol["track"] == "people"
    for users, prompts in (("unseen", "unseen"), ("unseen", "seen"), ("seen", "unseen")):
        for shots, right in ((0, 0.5), (2, 1.0), (4, 1.0)):
            cell = Cell(users, prompts, "true", shots)  # type: ignore[arg-type]
            assert results.estimate("first-letter", "accuracy", cell).value == right
    most = Cell("unseen", "unseen", "true", 4)
    assert results.estimate("first-letter", "log_loss", most).value == pytest.approx(math.log1p(math.exp(-4)))
    assert results.estimate("random", "log_loss", most).value == pytest.approx(math.log(2))
    assert results.estimate("population", "accuracy", most).value == 0.5
    for kind in ("flipped", "other-user"):
        cell = Cell("unseen", "unseen", kind, 4)  # type: ignore[arg-type]
        assert results.estimate("first-letter", "accuracy", cell).value == 0.0
    assert math.isnan(results.estimate("first-letter", "regret", most).value)


def test_every_comparison_is_predicted_once_in_a_cell(people: Preferences) -> None:
    results = predict_people([FirstLetter()], people, PeopleProtocol(**SHORT))
    for cell in results.cells:
        assert results["first-letter"].sums[cell]["n"].sum() == len(people.histories)


def test_the_population_is_the_share_of_the_others() -> None:
    rows = [comparison(f"u{u}", f"p{p}", f"A{p}", f"B{p}") for u in range(4) for p in range(12)]
    results = predict_people([FirstLetter()], Preferences.from_rows(rows), PeopleProtocol(**SHORT, user_folds=4))
    cell = Cell("unseen", "seen", "true", 4)
    assert results.estimate("population", "accuracy", cell).value == 1.0
    assert results.estimate("population", "log_loss", cell).value == pytest.approx(-math.log(4 / 5))


def test_longer_learns_the_sign_of_length_from_the_pool() -> None:
    rng = generator(0, "lengths")
    rows = []
    for user in range(8):
        for prompt in range(20):
            long, brief = "x" * int(rng.integers(20, 60)) + str(prompt), f"y{prompt}"
            rows.append(comparison(f"u{user}", f"p{prompt}", brief, long))
    results = predict_people([FirstLetter()], Preferences.from_rows(rows), PeopleProtocol(**SHORT))
    assert results.estimate("longer", "accuracy", Cell("unseen", "unseen", "true", 4)).value == 1.0


def test_few_people_are_held_fixed_and_prompts_resampled(people: Preferences) -> None:
    few = predict_people([FirstLetter()], people, PeopleProtocol(**SHORT))
    assert few.manifest["resample"] == "prompts"
    assert len(few["first-letter"].sums[few.headline]["n"]) == people.n_topics
    assert math.isnan(few.estimate("first-letter", "worst_decile", few.headline).value)
    many = predict_people([FirstLetter()], people, PeopleProtocol(**SHORT, resample="users"))
    assert len(many["first-letter"].sums[many.headline]["n"]) == people.n_users
    assert many.estimate("first-letter", "worst_decile", many.headline).value == 1.0
    crowd = Preferences.from_rows(preferences(20, 12))
    assert PeopleTask(crowd, PeopleProtocol()).clusters[0] == "users"


def test_shots_that_most_people_do_not_reach_are_left_out() -> None:
    rows = [*preferences(3, 24), *(one for one in preferences(6, 4) if one["user"] in {"u3", "u4", "u5"})]
    task = PeopleTask(Preferences.from_rows(rows), PeopleProtocol(shots=(0, 1, 2, 8, 16)))
    assert task.shots[-1] < 16
    short = task.history(task.splits[0], 8)
    assert np.diff(short.offsets).max() <= 8
    assert PeopleTask(Preferences.from_rows(preferences(2, 3)), PeopleProtocol(prompt_folds=3, shots=(4,))).shots == (
        0,
    )


def test_a_run_is_read_back_and_resumed(people: Preferences, tmp_path: Path) -> None:
    protocol = PeopleProtocol(**SHORT, user_folds=2, prompt_folds=3, seen_users=False)
    first = predict_people([FirstLetter()], people, protocol, out=tmp_path)
    assert first.directory is not None
    part = first.directory / "null-longer" / "samples" / "part-00002.parquet"
    part.write_bytes(b"cut off")
    steps: list[Any] = []
    again = predict_people([FirstLetter()], people, protocol, out=tmp_path, progress=steps.append)
    read = load_people(first.directory)
    assert first.table().equals(again.table())
    assert read.table().equals(first.table())
    assert read.manifest == first.manifest
    done = [s.method for s in steps if s.stage == "step" and s.done == s.total]
    assert done == ["first-letter", "random", "longer", "population"]
    (damage,) = (s for s in steps if s.stage == "damaged")
    assert damage.method == "longer"
    assert str(part) in damage.message


def test_the_fingerprint_tells_protocols_and_preferences_apart(people: Preferences) -> None:
    protocol = PeopleProtocol(**SHORT, user_folds=2, prompt_folds=3, seen_users=False)
    other = PeopleProtocol(**SHORT, user_folds=2, prompt_folds=3, seen_users=False, seed=1)
    fewer = Preferences.from_rows(preferences(5), name="six")
    runs = [(people, protocol), (people, other), (fewer, protocol)]
    assert len({predict_people([], who, how).fingerprint for who, how in runs}) == 3


def test_no_run_to_read(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        load_people(tmp_path)


def test_too_little_to_leave_something_out() -> None:
    alone = Preferences.from_rows(one for one in preferences() if one["user"] == "u0")
    with pytest.raises(UserError, match="of one person"):
        predict_people([FirstLetter()], alone)
    few = Preferences.from_rows(preferences(4, 3))
    with pytest.raises(UserError, match="3 distinct prompts, fewer than prompt_folds = 4"):
        predict_people([FirstLetter()], few)


@pytest.mark.parametrize("bad", [{"prompt_folds": 2}, {"user_folds": 1}, {"shots": ()}, {"shots": (-1,)}, {"folds": 3}])
def test_protocols_that_cannot_be(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PeopleProtocol(**bad)


def test_a_learner_that_fails_is_named(people: Preferences) -> None:
    @dataclass
    class Broken(FirstLetter):
        id: ClassVar[str] = "broken"

        def adapt(self, histories: Histories) -> Self:
            raise ZeroDivisionError

    with pytest.raises(RunError, match="'broken' failed in adapt: ZeroDivisionError"):
        predict_people([Broken()], people, PeopleProtocol(**SHORT))


def test_adapting_does_not_change_what_was_fitted(people: Preferences) -> None:
    @dataclass
    class Greedy(FirstLetter):
        id: ClassVar[str] = "greedy"

        def fit(self, pool: Histories) -> Self:
            self.times_ = [0]
            return self

        def adapt(self, histories: Histories) -> Self:
            self.times_[0] += 1
            assert self.times_ == [1]
            return super().adapt(histories)

    predict_people([Greedy()], people, PeopleProtocol(**SHORT))
