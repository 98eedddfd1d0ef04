"""Methods on people: who is left out of what, and what the numbers are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pytest

from personalllm.core.errors import RunError, UserError
from personalllm.core.seeding import generator
from personalllm.core.types import F32, Histories, Queries
from personalllm.data import Preferences
from personalllm.evaluation import Condition, Protocol, Results, evaluate, load_run
from personalllm.evaluation.differences import check_paired
from personalllm.evaluation.sources.people import People
from personalllm.methods.base import Method

SHORT: dict[str, Any] = {"intervals": "users", "bootstrap_draws": 100, "shots": (0, 2, 4)}


def row(user: str, prompt: str, chosen: str, rejected: str) -> dict[str, str]:
    return {"user": user, "prompt": prompt, "chosen": chosen, "rejected": rejected}


def preferences(n_users: int = 6, n_prompts: int = 24) -> Iterator[dict[str, str]]:
    """Even users like responses that begin with A, odd ones those with B; every user judges every prompt."""
    for user in range(n_users):
        for prompt in range(n_prompts):
            a, b = f"A{prompt}", f"B{prompt}" * 2
            yield row(f"u{user}", f"prompt {prompt}", *((a, b) if user % 2 == 0 else (b, a)))


def source_of(people: Preferences, **settings: Any) -> People:
    return People(people, Protocol.for_people(people, **settings))


def run(people: Preferences, *methods: Method, out: Path | None = None, **settings: Any) -> Results:
    protocol = Protocol.for_people(people, **(SHORT | settings))
    return evaluate(methods or [FirstLetter()], people, protocol=protocol, out=out)


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
    source = source_of(people, user_folds=3)
    for fold in source.folds:
        pool = {people.histories.corpus.prompts[row] for row in source.pool(fold).prompt}
        tests = source.tests(fold)
        unseen = {people.histories.corpus.prompts[row] for row in people.histories.prompt[tests["unseen"]]}
        assert not pool & unseen
        assert len(unseen) == 24 / 4
        if fold.users is not None:
            seen = {people.histories.corpus.prompts[row] for row in people.histories.prompt[tests["seen"]]}
            assert seen <= pool
            assert len(source.pool(fold)) == 4 * 18


def test_another_pair_of_an_unseen_prompt_is_not_in_the_pool() -> None:
    rows = [*preferences(), *(row("u9", f"prompt {p}", f"C{p}", f"D{p}") for p in range(24))]
    people = Preferences.from_rows(rows)
    source = source_of(people)
    for fold in source.folds:
        topics = set(people.topic[source.pool(fold).prompt].tolist())
        assert not topics & set(people.topic[people.histories.prompt[source.tests(fold)["unseen"]]].tolist())


def test_histories_are_the_users_own_nested_and_free_of_what_is_predicted(people: Preferences) -> None:
    source = source_of(people, user_folds=3)
    fold = source.folds[0]
    few, many = source.history(fold, 2), source.history(fold, 5)
    assert np.diff(few.offsets).tolist() == [2, 2]
    for user in range(2):
        own = slice(many.offsets[user], many.offsets[user] + 2)
        assert few.prompt[few.user == user].tolist() == many.prompt[own].tolist()
    asked = np.concatenate([people.histories.prompt[rows] for rows in source.tests(fold).values()])
    assert not set(many.prompt.tolist()) & set(asked.tolist())
    targets = source.targets(fold)
    for user, prompt, chosen in zip(many.user, many.prompt, many.chosen, strict=True):
        likes = "A" if int(people.users[targets[user]][1:]) % 2 == 0 else "B"
        assert many.corpus.responses[prompt][chosen].startswith(likes)


def test_counterfactual_histories(people: Preferences) -> None:
    source = source_of(people, user_folds=3)
    fold = source.folds[0]
    true, flipped = source.history(fold, 4), source.history(fold, 4, "flipped")
    assert flipped.chosen.tolist() == true.rejected.tolist()
    assert flipped.prompt.tolist() == true.prompt.tolist()
    other = source.history(fold, 4, "other-user")
    for user, target in enumerate(source.targets(fold).tolist()):
        texts = [other.corpus.responses[p][c][0] for p, c in zip(other.prompt, other.chosen, strict=True)]
        of_user = [text for text, owner in zip(texts, other.user.tolist(), strict=True) if owner == user]
        assert set(of_user) == {"B" if target % 2 == 0 else "A"}


def test_a_method_of_the_taste_is_right_and_the_baselines_are_what_they_say(people: Preferences) -> None:
    results = run(people)
    assert results.protocol["folds"]["user_folds"] == 5
    assert results.manifest["source"]["kind"] == "people"
    for users, prompts in (("unseen", "unseen"), ("unseen", "seen"), ("seen", "unseen")):
        for shots, right in ((0, 0.5), (2, 1.0), (4, 1.0)):
            condition = Condition(users, prompts, "true", shots)
            assert results.estimate("first-letter", "accuracy", condition).value == right
    most = Condition("unseen", "unseen", "true", 4)
    assert results.estimate("first-letter", "log_loss", most).value == pytest.approx(math.log1p(math.exp(-4)))
    assert results.estimate("random", "log_loss", most).value == pytest.approx(math.log(2))
    assert results.estimate("population", "accuracy", most).value == 0.5
    for kind in ("flipped", "other-user"):
        condition = Condition("unseen", "unseen", kind, 4)
        assert results.estimate("first-letter", "accuracy", condition).value == 0.0
    assert math.isnan(results.estimate("first-letter", "regret", most).value)


def test_every_comparison_is_predicted_once_under_a_condition(people: Preferences) -> None:
    results = run(people)
    for condition in results.conditions:
        assert results["first-letter"].sums[condition].columns["n"].sum() == len(people.histories)


def test_the_population_is_the_share_of_the_others() -> None:
    rows = [row(f"u{u}", f"p{p}", f"A{p}", f"B{p}") for u in range(4) for p in range(12)]
    results = run(Preferences.from_rows(rows), user_folds=4)
    condition = Condition("unseen", "seen", "true", 4)
    assert results.estimate("population", "accuracy", condition).value == 1.0
    assert results.estimate("population", "log_loss", condition).value == pytest.approx(-math.log(4 / 5))


def test_longer_learns_the_sign_of_length_from_the_pool() -> None:
    rng = generator(0, "lengths")
    rows = []
    for user in range(8):
        for prompt in range(20):
            long, brief = "x" * int(rng.integers(20, 60)) + str(prompt), f"y{prompt}"
            rows.append(row(f"u{user}", f"p{prompt}", brief, long))
    results = run(Preferences.from_rows(rows))
    assert results.estimate("longer", "accuracy", Condition("unseen", "unseen", "true", 4)).value == 1.0


def test_few_people_are_held_fixed_and_prompts_resampled(people: Preferences) -> None:
    few = run(people)
    assert few.manifest["drawn"]["resample"] == "prompts"
    assert len(few.sums("first-letter").columns["n"]) == people.n_topics
    assert math.isnan(few.estimate("first-letter", "worst_decile", few.headline).value)
    many = run(people, folds={"resample": "users"})
    assert len(many.sums("first-letter").columns["n"]) == people.n_users
    assert many.estimate("first-letter", "worst_decile", many.headline).value == 1.0
    crowd = Preferences.from_rows(preferences(20, 12))
    assert source_of(crowd).axis == "users"


def test_shots_that_most_people_do_not_reach_are_left_out() -> None:
    rows = [*preferences(3, 24), *(one for one in preferences(6, 4) if one["user"] in {"u3", "u4", "u5"})]
    source = source_of(Preferences.from_rows(rows), shots=(0, 1, 2, 8, 16))
    assert source.shots[-1] < 16
    short = source.history(source.folds[0], 8)
    assert np.diff(short.offsets).max() <= 8
    assert source_of(Preferences.from_rows(preferences(2, 3)), prompt_folds=3, shots=(4,)).shots == (0,)


def test_a_run_is_read_back(people: Preferences, tmp_path: Path) -> None:
    first = run(people, out=tmp_path, user_folds=2, prompt_folds=3, prediction={"users": "unseen"})
    read = load_run(tmp_path)
    assert read.table().equals(first.table())
    assert read.conditions == first.conditions
    assert read.data_name == "six"
    samples = read.samples("first-letter")
    assert samples.column_names == ["condition", "user", "prompt", "row", "margin", "longer"]
    assert len(samples) == len(people.histories) * len(read.conditions)


def test_executors_change_nothing(people: Preferences, elsewhere: Any) -> None:
    here, there = (evaluate(["longest"], people, protocol=SHORT, executor=executor) for executor in (None, elsewhere))
    assert there.table().equals(here.table())
    assert there.samples("longest").equals(here.samples("longest"))


def test_the_fingerprint_tells_protocols_and_preferences_apart(people: Preferences) -> None:
    fewer = Preferences.from_rows(preferences(5), name="six")
    made = [Protocol.for_people(who, **SHORT, seed=seed) for who, seed in ((people, 0), (people, 1), (fewer, 0))]
    assert len({protocol.fingerprint for protocol in made}) == 3


def test_too_little_to_leave_something_out() -> None:
    alone = Preferences.from_rows(one for one in preferences() if one["user"] == "u0")
    with pytest.raises(UserError, match="of one person"):
        run(alone)
    few = Preferences.from_rows(preferences(4, 3))
    with pytest.raises(UserError, match="3 distinct prompts, fewer than prompt_folds = 4"):
        run(few)


def test_prompts_and_users_may_be_left_out(people: Preferences) -> None:
    settings: dict[str, Any] = {"users": "unseen", "prompts": "unseen", "counterfactuals": ()}
    conditions = run(people, prediction=settings).conditions
    assert conditions == tuple(Condition(shots=k) for k in (0, 2, 4))


def test_only_the_first_of_a_users_comparisons_are_predicted(people: Preferences) -> None:
    whole, cut = source_of(people), source_of(people, test_pairs=2)
    for fold, short in zip(whole.folds, cut.folds, strict=True):
        for kind, rows in cut.tests(short).items():
            assert set(np.bincount(people.histories.user[rows])) <= {0, 2}
            assert set(rows.tolist()) <= set(whole.tests(fold)[kind].tolist())


def test_people_may_have_seen_any_number_of_responses() -> None:
    rows = [
        {"user": f"u{user}", "prompt": f"p{p}", "chosen": f"long {p}", "shown": [f"long {p}", *"abc"[: 1 + p % 3]]}
        for user in range(6)
        for p in range(24)
    ]
    people = Preferences.from_rows(rows)
    assert len({len(row) for row in people.histories.corpus.responses}) == 3
    results = evaluate(["longest"], people, protocol=SHORT)
    accuracy = {row.label: results.estimate(row.label, "accuracy").value for row in results.methods}
    assert accuracy == {"longest": 1.0, "random": 0.5, "longer": 1.0, "population": 0.5}


def test_a_baseline_holds_for_every_history_and_number_of_shots(people: Preferences) -> None:
    results = run(people)
    assert [(row.label, row.kind) for row in results.methods] == [
        *[("first-letter", "method"), ("random", "baseline"), ("longer", "baseline"), ("population", "baseline")]
    ]
    for name in ("random", "longer", "population"):
        assert results[name].estimates.keys() == results["first-letter"].estimates.keys()
        values = {(c.users, c.prompts, e["all", "accuracy"].value) for c, e in results[name].estimates.items()}
        assert len(values) == 3


def test_a_method_that_fails_is_named(people: Preferences) -> None:
    @dataclass
    class Broken(FirstLetter):
        id: ClassVar[str] = "broken"

        def adapt(self, histories: Histories) -> Self:
            raise ZeroDivisionError

    with pytest.raises(RunError, match="'broken' failed in adapt: ZeroDivisionError"):
        run(people, Broken())


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

    run(people, Greedy())


def test_other_preferences_of_the_same_shape_are_not_paired(people: Preferences) -> None:
    others = [{**row, "prompt": f"{row['prompt']}?"} for row in preferences()]
    ours, theirs = run(people), run(Preferences.from_rows(others, name="six"))
    again = run(people, FirstLetter(), intervals="users", bootstrap_draws=200)
    check_paired({"ours": ours.sums("first-letter"), "again": again.sums("first-letter")})
    with pytest.raises(UserError, match="'ours' and 'theirs' were not evaluated on the same users and queries"):
        check_paired({"ours": ours.sums("first-letter"), "theirs": theirs.sums("first-letter")})
