"""The online track: planted users, what policies may see, and what the protocol promises."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted_online import PlantedEmbedder, asked, planted, slope

from personalllm.core.errors import ParameterError, UserError
from personalllm.core.types import F64
from personalllm.data import Benchmark, Ratings
from personalllm.evaluation import Protocol, Results, evaluate, load_run
from personalllm.evaluation.contract import Backends
from personalllm.evaluation.resolve import named
from personalllm.evaluation.run import open_track
from personalllm.evaluation.tracks.asking import ASKED
from personalllm.methods import get_method, method_class
from personalllm.methods.asking.policies import Thompson
from personalllm.methods.asking.policy import Offer, Policy
from personalllm.testing import HashEmbedder, check_method
from personalllm.testing._scenes import planted_scene

FEW: dict[str, Any] = {"n_users": 12, "pool_users": 30, "pool_pairs": 10, "rounds": 6, "checkpoints": [0, 3, 6]}
BT = "method=hierarchical-bt"
POLICIES = (
    "random-pair",
    "greedy",
    "population-pair",
    "best-arms",
    "d-optimal",
    "thompson",
    "dueling-ucb",
    "challenger",
)


def few(methods: Any, benchmark: Benchmark, **settings: Any) -> Results:
    out = settings.pop("out", None)
    online = {name: settings.pop(name) for name in ("checkpoints",) if name in settings}
    rest = {name: value for name, value in FEW.items() if name != "checkpoints"} | settings
    online = {"checkpoints": FEW["checkpoints"]} | online | rest.pop("online", {})
    protocol = Protocol.for_data(benchmark, track="online", online=online, **rest)
    return evaluate(methods, benchmark, protocol=protocol, embedder=HashEmbedder(), out=out)


@pytest.fixture(scope="module")
def world() -> Results:
    benchmark, embedder = planted()
    policies = [f"{name}[{BT}]" for name in ("random-pair", "d-optimal", "thompson")]
    return asked(policies, benchmark, embedder)


def test_who_is_linear_in_what_the_policy_reads_is_served_with_sublinear_regret(world: Results) -> None:
    assert slope(world, f"thompson[{BT}]") < 0.7
    assert slope(world, f"random-pair[{BT}]") == pytest.approx(1.0, abs=0.1)


def test_the_most_informative_pairs_teach_most_and_are_no_treat(world: Results) -> None:
    """D-optimal pairs are asked to learn: what is recommended gets good fast, what is shown does not."""
    recommended = world.curve(f"d-optimal[{BT}]", "regret")
    at = np.array(list(recommended), np.float64)
    losses = np.array([estimate.value for estimate in recommended.values()])
    total = np.concatenate([[0.0], np.cumsum(np.diff(at) * (losses[1:] + losses[:-1]) / 2)])
    assert np.polyfit(np.log(at[2:]), np.log(total[2:]), 1)[0] < 0.7
    assert recommended[60].value < world.curve(f"random-pair[{BT}]", "regret")[60].value
    assert slope(world, f"d-optimal[{BT}]") > 0.9


def test_known_basis_thompson_comes_within_ten_percent_of_the_oracle() -> None:
    benchmark, embedder = planted()
    thompson = "thompson[method=rm-mixture]"
    results = asked([thompson], benchmark, embedder, rounds=20, online={"reward_signals": True})
    assert results.curve(thompson, "gain")[20].value > 0.9


def test_users_without_taste_lose_nothing() -> None:
    benchmark, embedder = planted(taste=False)
    results = asked([f"thompson[{BT}]"], benchmark, embedder, n_users=30, pool_users=20, rounds=10)
    for metric in ("regret", "average_regret", "weak_regret"):
        assert results.curve(f"thompson[{BT}]", metric)[10].value == 0


def test_users_who_answer_at_random_teach_nothing_but_noise() -> None:
    benchmark, embedder = planted()
    results = asked(
        [f"thompson[{BT}]"], benchmark, embedder, n_users=40, rounds=20, feedback={"flip": 0.5, "pairs": "random"}
    )
    (row,) = [row for row in results.methods if row.kind == "method"]
    curve = results.curve(row.label, "regret")
    change = results.change(row.label, "regret", *(c for c in (results.conditions[-1], results.conditions[0])))
    assert change.low < 0.05
    assert curve[20].value > 0.3


def test_a_policy_sees_no_weight_no_score_and_no_response_order(benchmark_: Benchmark) -> None:
    seen: list[Offer] = []

    @dataclass
    class Spy(Thompson):
        id = "spy"

        def value(self, offer: Offer) -> F64:
            seen.append(offer)
            return super().value(offer)

    few([Spy(method="hierarchical-bt")], benchmark_)
    weights = Protocol.for_data(benchmark_, track="online")
    source = open_track(weights, benchmark_, Backends()).source
    assert {field.name for field in fields(Offer)} == {"belief", "prior", "tastes", "index", "open", "rng"}
    scores = source.table.values
    for offer in seen:
        for value in (offer.tastes, offer.belief.mean, offer.prior.mean):
            assert value.shape[-1] != scores.shape[-1]
            assert not np.isin(np.round(scores.ravel(), 5), np.round(value.ravel(), 5)).all()


@pytest.mark.parametrize("mode", ["stream", "survey"])
def test_every_policy_asks_with_and_without_the_prior(benchmark_: Benchmark, mode: str) -> None:
    methods = [f"{name}[{BT}{extra}]" for name in POLICIES for extra in ("", ",prior=false")]
    results = few(methods, benchmark_, mode=mode, online={"prompts": 3})
    for row in results.methods:
        if row.kind != "method":
            continue
        curve = results.curve(row.label, "regret")
        assert list(curve) == [0, 3, 6]
        assert all(np.isfinite(estimate.value) for estimate in curve.values())
        assert 0 < results.curve(row.label, "questions")[6].value <= 6


def test_a_survey_asks_no_pair_twice(benchmark_: Benchmark, tmp_path: Path) -> None:
    results = few([f"thompson[{BT}]"], benchmark_, mode="survey", online={"prompts": 1}, rounds=6, out=tmp_path)
    (row,) = [row for row in results.methods if row.kind == "method"]
    table = results.samples(row.label)
    rows = table.filter(np.asarray(table["condition"]) == ASKED).to_pylist()
    questions = {(r["user"], r["prompt"], *sorted((r["first"], r["second"]))) for r in rows}
    assert len(questions) == len(rows) == 12 * 6
    assert load_run(next(tmp_path.iterdir())).methods[0].label == row.label


def test_a_run_is_the_same_in_one_piece_in_shards_and_when_it_goes_on(benchmark_: Benchmark, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(event: Any) -> None:
        if event.stage == "step":
            raise Stop

    settings = {**FEW, "users_per_shard": 5}
    settings["online"] = {"checkpoints": settings.pop("checkpoints")}
    protocol = Protocol.for_data(benchmark_, track="online", **settings)
    given: dict[str, Any] = {"protocol": protocol, "embedder": HashEmbedder()}
    with pytest.raises(Stop):
        evaluate([f"thompson[{BT}]"], benchmark_, **given, out=tmp_path, progress=stop)
    resumed = evaluate([f"thompson[{BT}]"], benchmark_, **given, out=tmp_path)
    whole = evaluate([f"thompson[{BT}]"], benchmark_, **given)
    assert resumed.table().equals(whole.table())


def test_answers_follow_the_rule(benchmark_: Benchmark) -> None:
    rules: list[dict[str, Any]] = [{}, {"flip": 1.0}, {"tie_margin": 1e6}, {"temperature": 1.0}]
    gap = np.linspace(-2, 2, 12)
    answers = []
    for rule in rules:
        protocol = Protocol.for_data(benchmark_, track="online", n_users=12, feedback=rule)
        answers.append(open_track(protocol, benchmark_, Backends()).asking.answers(slice(0, 12), 0, gap))
    assert answers[0].tolist() == np.sign(gap).tolist()
    assert answers[1].tolist() == (-np.sign(gap)).tolist()
    assert not answers[2].any()
    assert set(answers[3].tolist()) == {-1, 1}


def test_the_stream_and_the_answers_do_not_depend_on_who_else_is_asked(benchmark_: Benchmark) -> None:
    def asking(n: int) -> Any:
        protocol = Protocol.for_data(
            benchmark_, track="online", n_users=n, rounds=40, feedback={"temperature": 1.0, "flip": 0.1}
        )
        return open_track(protocol, benchmark_, Backends()).asking

    some, more = asking(5), asking(300)
    gap = np.linspace(-1, 1, 5)
    assert (some.stream == more.stream[:5]).all()
    assert some.stream.shape == (5, 41)
    assert (some.answers(slice(0, 5), 7, gap) == more.answers(slice(0, 5), 7, gap)).all()
    assert (some.tests == more.tests[:5]).all()
    assert (some.random_history.prompt == more.random_history.of_users(0, 5).prompt).all()


def test_drift_gives_each_user_another_ones_taste(benchmark_: Benchmark) -> None:
    def asking(**online: Any) -> Any:
        protocol = Protocol.for_data(benchmark_, track="online", n_users=6, online=online)
        return open_track(protocol, benchmark_, Backends()).asking

    users, prompts = np.arange(6, dtype=np.int32), np.zeros(6, np.int32)
    still, switch, rotate = asking(), asking(drift="switch", drift_at=30), asking(drift="rotate")
    own, then = still.utilities(users, prompts, 59), switch.utilities(users, prompts, 30)
    assert (switch.utilities(users, prompts, 29) == own).all()
    assert sorted(map(tuple, then.tolist())) == sorted(map(tuple, own.tolist()))
    assert not (then == own).all(axis=1).any()
    np.testing.assert_allclose(rotate.utilities(users, prompts, 30), (own + then) / 2, atol=1e-6)


def test_who_forgets_recovers_from_a_switch() -> None:
    benchmark, embedder = planted()
    policies = [f"thompson[{BT}]", f"thompson[{BT},window=12]", f"thompson[{BT},discount=0.85]"]
    results = asked(policies, benchmark, embedder, rounds=50, online={"drift": "switch", "drift_at": 30})
    never, window, discount = (results.curve(label, "regret")[50].value for label in policies)
    assert window < 0.75 * never
    assert discount < 0.75 * never


def test_a_worst_challenger_asks_less_for_the_same(world: Results) -> None:
    benchmark, embedder = planted()
    patient = asked([f"challenger[{BT},tolerance=1.0]"], benchmark, embedder, rounds=40)
    (row,) = [row for row in patient.methods if row.kind == "method"]
    assert patient.curve(row.label, "questions")[40].value < 36
    assert patient.curve(row.label, "gain")[40].value > 0.9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"online": {"checkpoints": [0, 99]}}, "at most the rounds"),
        ({"online": {"drift_at": 3}}, "given with drift=switch"),
        ({"online": {"mode": "survey", "prompts": 999}}, "at most the prompts of the history split"),
        ({"pairs": 7}, "see online.rounds"),
        ({"feedback": {"pairs_per_prompt": 2, "pairs": "random"}}, "policies choose the pairs"),
        ({"n_users": 1, "drift": "rotate"}, "nobody to become"),
    ],
)
def test_settings_that_do_not_fit_are_refused(benchmark_: Benchmark, settings: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        Protocol.for_data(benchmark_, track="online", **settings)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("thompson[method=longest]", "has no posterior"),
        ("longest", "it is no policy"),
        ("thompson[discount=2]", r"in \(0, 1\]"),
        ("thompson[window=0]", "an integer >= 1"),
        ("thompson[method=rm-mixture]", "online.reward_signals"),
    ],
)
def test_methods_that_cannot_ask_are_refused(benchmark_: Benchmark, method: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        few([method], benchmark_)


@dataclass
class Closest(Policy):
    id = "closest"

    def value(self, offer: Offer) -> F64:
        return -np.abs(offer.gap)


@dataclass
class Moody(Policy):
    id = "moody"

    def value(self, offer: Offer) -> F64:
        return np.random.default_rng().random(offer.open.shape)


def test_the_contract_suite_covers_a_policy_of_ones_own() -> None:
    check_method(Closest)
    with pytest.raises(AssertionError, match="equal seeds must give equal questions"):
        check_method(Moody)


def test_a_policy_that_returns_nonsense_is_named(benchmark_: Benchmark) -> None:
    @dataclass
    class Nonsense(Policy):
        id = "nonsense"

        def value(self, offer: Offer) -> F64:
            return np.zeros(3)

    with pytest.raises(UserError, match="'nonsense' returned values of shape"):
        few([Nonsense(method="hierarchical-bt")], benchmark_)


def test_the_loop_asks_what_a_named_user_is_asked(benchmark_: Benchmark) -> None:
    """`user.next_query` after the same answers: one way to choose, whoever calls it."""
    label = f"d-optimal[{BT}]"
    online = {"checkpoints": [6], "rounds": 6}
    protocol = Protocol.for_data(benchmark_, track="online", n_users=3, pool_users=30, pool_pairs=10, online=online)
    results = evaluate([label], benchmark_, protocol=protocol, embedder=HashEmbedder())
    track = open_track(protocol, benchmark_, Backends(embedder=HashEmbedder()))
    corpus, method = track.source.corpus, track.prepare(named(get_method("d-optimal", method="hierarchical-bt"))).policy
    table = results.samples(label)
    rows = table.filter(np.asarray(table["condition"]) == ASKED).to_pylist()
    for row in rows:
        user = method.user(str(row["user"]))
        prompt, texts = corpus.prompts[row["prompt"]], corpus.responses[row["prompt"]]
        question = user.next_query({prompt: texts})
        assert question is not None
        assert [question.a, question.b] == [texts[row["first"]], texts[row["second"]]]
        a, b = (question.a, question.b) if row["answer"] > 0 else (question.b, question.a)
        user.update(prompt, chosen=a, rejected=b, shown=texts)


@pytest.mark.parametrize("name", ["sparse-basis", "hierarchical-bt", "calibrated-bayes", "pref", "lore", "rm-mixture"])
def test_the_belief_predicts_what_adapt_does(name: str) -> None:
    """Answer by answer, from the belief before, is the same as all at once."""
    scene = planted_scene(HashEmbedder(), n_pairs=12)
    backends: Any = {"signals": scene.signals} if name == "rm-mixture" else {"embedder": HashEmbedder()}
    cls = method_class(name)
    method: Any = cls(**cls.example_params()).bind(**backends, seed=3).fit(scene.pool)
    made = replace(scene.targets, best_worst=np.zeros(len(scene.targets), np.bool_))
    belief = None
    for n in range(13):
        belief = method.belief(method.known(made.first(n)), belief)
    utilities = method.predict(belief, *method.tastes(scene.queries), scene.queries.user)
    expected = method.adapt(made).utilities(scene.queries)
    expected = expected - expected.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(utilities - utilities.mean(axis=1, keepdims=True), expected, atol=2e-3)


def rated(n_users: int = 24, n_items: int = 64, dim: int = 4, seed: int = 0) -> tuple[Ratings, PlantedEmbedder]:
    """People whose ratings are linear in what the policy reads, of texts without prompts."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n_items, dim)).astype(np.float32)
    values = rng.standard_normal((n_users, dim)) @ vectors.T
    texts = [f"joke r{item}" for item in range(n_items)]
    return Ratings.from_table(values, texts, "A joke, please.", name="planted"), PlantedEmbedder(vectors)


def test_peoples_ratings_answer_the_questions() -> None:
    ratings, embedder = rated()
    policies = [f"{name}[{BT}]" for name in ("d-optimal", "random-pair")]
    settings = {"user_folds": 2, "shots": (0, 5, 15)}
    results = evaluate(policies, ratings, "online", settings, embedder=embedder)
    curve = results.curve(policies[0], "regret")
    assert list(curve) == [0, 5, 15]
    assert curve[15].value < 0.4 * curve[0].value
    assert results.curve(policies[0], "accuracy")[15].value > 0.85
    assert results.curve("oracle", "regret")[15].value == 0
    assert results.curve("population-best", "gain")[15].value == 0
    assert results.curve(policies[1], "changed")[15].value == 0


def test_who_rated_no_whole_group_is_not_asked() -> None:
    ratings, embedder = rated()
    table = ratings.table()
    table[:20, ::3] = np.nan
    some = Ratings.from_table(table, ratings.responses, "A joke, please.", name="planted")
    few = {"user_folds": 2, "shots": (0, 3)}
    results = evaluate([f"greedy[{BT}]"], some, "online", few, embedder=embedder)
    assert sum(results.manifest["drawn"]["asked_by_fold"].values()) <= 4 * 4
    for user in range(len(table)):
        table[user, user % 3 :: 3] = np.nan
    none = Ratings.from_table(table, ratings.responses, "A joke, please.", name="planted")
    with pytest.raises(UserError, match="nobody rated all of a group"):
        evaluate([f"greedy[{BT}]"], none, "online", few, embedder=embedder)


def test_an_executor_gives_the_same(benchmark_: Benchmark, elsewhere: Any) -> None:
    settings = {**FEW, "users_per_shard": 6}
    settings["online"] = {"checkpoints": settings.pop("checkpoints")}
    given: dict[str, Any] = {"protocol": Protocol.for_data(benchmark_, track="online", **settings)}
    given["embedder"] = HashEmbedder()
    here = evaluate([f"greedy[{BT}]"], benchmark_, **given)
    there = evaluate([f"greedy[{BT}]"], benchmark_, **given, executor=elsewhere)
    assert there.table().equals(here.table())
