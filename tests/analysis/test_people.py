"""Simulated users beside people: the cut to equally many voters, pairs of responses, caveats."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import hypergeom

from personalllm.analysis import Votes, pair_votes, people
from personalllm.core.errors import ParameterError, UserError
from personalllm.data import Benchmark, ScoreTable, Standardiser, make_synthetic
from personalllm.users import Population, choices

LN = np.log
THREE = Votes(counts=[[3, 0], [2, 1], [0, 3], [1, 2]], n_voters=[3] * 4, name="three people")
MANY = Votes(counts=[[700, 300], [950, 50]], n_voters=[1000] * 2, name="many")


def test_people_are_measured_as_they_are():
    found = people(THREE)
    assert found.n_voters == 3
    split = 2 / 3 * LN(3 / 2) + 1 / 3 * LN(3)
    for quantity, value in (
        ("disagreement", 0.5),
        ("top share", (1 + 2 / 3) / 2),
        ("entropy", split / 2),
        ("pair agreement", (1 + 1 / 3) / 2),
        ("entropy of all voters", split / 2),
    ):
        assert found.of(quantity, "three people").value == pytest.approx(value), quantity


def test_a_simulated_population_is_cut_down_to_as_many_voters():
    found = people(THREE, [MANY], repeats=3000)
    ways = [hypergeom(1000, c, 3).pmf(range(4)) for c in (700, 950)]
    alike = np.mean([p[0] + p[3] for p in ways])
    split = 2 / 3 * LN(3 / 2) + 1 / 3 * LN(3)
    assert found.of("disagreement", "many").value == pytest.approx(1 - alike, abs=0.015)
    assert found.of("entropy", "many").value == pytest.approx((1 - alike) * split, abs=0.01)
    assert found.of("top share", "many").value == pytest.approx(alike + (1 - alike) * 2 / 3, abs=0.01)
    assert found.of("entropy of all voters", "many").value == pytest.approx(MANY.entropy().mean())
    assert found.of("entropy", "many").value < found.of("entropy of all voters", "many").value
    assert found.of("pair agreement", "many").value == pytest.approx(MANY.pair_agreement().mean())


def test_two_voters_of_one_mind_are_the_pair_agreement():
    found = people(MANY, n_voters=2, repeats=5000)
    assert 1 - found.of("disagreement", "many").value == pytest.approx(MANY.pair_agreement().mean(), abs=0.01)


def test_a_population_cut_down_to_three_is_not_unlike_one_of_three():
    rng = np.random.default_rng(0)
    share = rng.beta(2, 2, 3000)
    few = np.column_stack([n := rng.binomial(3, share), 3 - n])
    many = np.column_stack([n := rng.binomial(1000, share), 1000 - n])
    found = people(
        Votes(counts=few, n_voters=few.sum(1), name="few"), [Votes(counts=many, n_voters=many.sum(1), name="many")]
    )
    for quantity in ("disagreement", "entropy", "pair agreement"):
        a, b = found.of(quantity, "few"), found.of(quantity, "many")
        assert a.low < b.high
        assert b.low < a.high
    assert found.of("entropy of all voters", "few").high < found.of("entropy of all voters", "many").low


def test_prompts_with_too_few_voters_are_left_out_and_counted():
    votes = Votes(counts=[[3, 0], [1, 1], [2, 1]], n_voters=[3, 2, 3], name="dropped")
    found = people(votes)
    assert found.left_out == {"dropped": 1}
    assert found.of("disagreement", "dropped").value == 0.5
    assert found.of("disagreement", "dropped").n_prompts == 2
    assert any("fewer than 3 votes are left out, 1 of dropped" in note for note in found.notes())
    with pytest.raises(ParameterError, match="4 or more"):
        people(votes, n_voters=4)


def test_split_votes_are_measured_but_not_drawn_from():
    split = Votes(counts=[[1.5, 1.5], [3, 0]], n_voters=[3, 3], squares=[1.5, 3], name="split")
    found = people(split)
    assert found.of("disagreement", "split").value == 0.5
    assert any("ties of people are split" in note for note in found.notes())
    with pytest.raises(UserError, match='ties="option"'):
        people(split, n_voters=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"real": []}, "one population or more"),
        ({"real": [], "simulated": [MANY]}, "real"),
        ({"real": THREE, "simulated": [THREE]}, "distinct"),
        ({"real": THREE, "n_voters": 1}, "n_voters"),
        ({"real": THREE, "repeats": 0}, "repeats"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ParameterError, match=message):
        people(**arguments)


def test_pairs_are_the_choices_between_two_responses():
    synthetic = make_synthetic(60, seed=1)
    rows = synthetic.rows("train")[:40]
    table = synthetic.score_table(Standardiser.fit(synthetic), rows)
    users = Population.dirichlet(25, 0.1, table.reward_models, seed=0)
    votes = pair_votes("v", users, table, synthetic, rows)
    assert votes.counts.shape == (40, 2)
    assert (votes.n_voters == 25).all()
    assert (votes.option_index[:, 0] != votes.option_index[:, 1]).all()
    assert len(np.unique(votes.option_index)) == 8
    assert votes.prompts[0] == synthetic.prompt(int(rows[0]))
    for prompt in (0, 17):
        pair = [
            int(np.flatnonzero(synthetic.response_model_index[rows[prompt]] == m)[0])
            for m in votes.option_index[prompt]
        ]
        two = ScoreTable(np.ascontiguousarray(table.values[prompt : prompt + 1, pair]), table.reward_models)
        assert votes.choices[:, prompt].tolist() == choices(users, two)[0][:, 0].tolist()
    again = pair_votes("w", Population.dirichlet(25, 5.0, table.reward_models, seed=0), table, synthetic, rows)
    assert again.option_index.tolist() == votes.option_index.tolist()
    assert pair_votes("v", users, table, synthetic, rows, seed=1).option_index.tolist() != votes.option_index.tolist()
    bare = pair_votes("v", users, table)
    assert bare.counts.tolist() == votes.counts.tolist()
    assert bare.options == ("first", "second")


def test_pairs_name_the_response_models_of_their_own_prompt():
    models = [["m1", "m2", "m3"], ["m3", "m1", "m2"]]
    bench = Benchmark.from_arrays(
        name="tiny", prompt_ids=["a", "b"], prompts=["One?", "Two?"], subsets=["s"] * 2, splits=["test"] * 2,
        responses=[["x", "y", "z"]] * 2, response_models=models, reward_models=["a"],
        scores=[[[3.0], [2.0], [1.0]], [[1.0], [3.0], [2.0]]],
    )  # fmt: skip
    table = ScoreTable(bench.scores, ("a",))
    users = Population.uniform(("a",))
    for seed in range(6):
        votes = pair_votes("v", users, table, bench, seed=seed)
        won = [votes.options[i] for i in votes.option_index[np.arange(2), votes.counts.argmax(1)]]
        lost = [votes.options[i] for i in votes.option_index[np.arange(2), votes.counts.argmin(1)]]
        assert won == [min(pair) for pair in zip(won, lost, strict=True)]


def test_one_response_makes_no_pair():
    table = ScoreTable(np.zeros((3, 1, 2), np.float32), ("a", "b"))
    with pytest.raises(ParameterError, match="two or more"):
        pair_votes("v", Population.one_per_reward_model(("a", "b")), table)


def test_the_table_and_the_figure_tell_people_from_users():
    found = people(THREE, [MANY], repeats=5, draws=100)
    rows = found.tables()["people"].to_pylist()
    assert {(row["population"], row["level"]) for row in rows} == {("three people", "people"), ("many", "simulated")}
    axes = found.plot().axes
    markers = [[line.get_marker() for line in axis.lines if line.get_marker() in ("D", "o")] for axis in axes]
    assert markers == [["D", "o"]] * 3
    chance = [[text.get_text() for text in axis.texts] for axis in axes]
    assert chance == [["chance"], ["chance"], []]
    assert axes[0].lines[-1].get_xdata()[0] == 75
    assert axes[1].lines[-1].get_xdata()[0] == 50


@pytest.mark.shared
def test_pandalm_beside_simulated_users(shared_data):
    path = shared_data / "pandalm" / "testset-v1.json.gz"
    real = Votes.from_file(path, name="PandaLM, ties dropped", ties="drop")
    table = make_synthetic(400, seed=0).score_table(Standardiser.published())
    users = pair_votes("alpha 0.05", Population.published(0.05), table)
    found = people(real, [users], repeats=20, draws=200)
    assert found.n_voters == 3
    assert found.left_out == {"PandaLM, ties dropped": 914 - 863, "alpha 0.05": 0}
    assert found.of("disagreement", real.name).value == pytest.approx(69 / 863)
    assert found.of("disagreement", users.name).low > found.of("disagreement", real.name).high
