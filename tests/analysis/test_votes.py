"""Votes: counts by hand, the rule for ties, files of votes, and what must hold for any votes."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from itertools import combinations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import percentileofscore

from personalllm.analysis import Votes
from personalllm.core.errors import AxisMismatch, DataError, ParameterError, UserError
from personalllm.core.seeding import generator
from personalllm.data import ScoreTable, make_synthetic
from personalllm.users import Population, choices

# Four users with one reward model each; three prompts: all agree, two against two, all differ.
SCORES = np.zeros((3, 4, 4), np.float32)
SCORES[0, 2, :] = 1
SCORES[1, 0, :2] = SCORES[1, 3, 2:] = 1
SCORES[2, range(4), range(4)] = 1
TABLE = ScoreTable(SCORES, ("a", "b", "c", "d"))

CHOICES = st.integers(2, 7).flatmap(
    lambda n: st.lists(st.lists(st.integers(0, 3), min_size=5, max_size=5), min_size=n, max_size=n)
)


@pytest.fixture
def found():
    return Votes.of("four", Population.one_per_reward_model(TABLE.reward_models), TABLE)


def test_votes_by_hand(found):
    assert found.counts.tolist() == [[0, 0, 4, 0], [2, 0, 0, 2], [1, 1, 1, 1]]
    assert found.top_share().tolist() == [1.0, 0.5, 0.25]
    assert found.n_winners().tolist() == [1, 2, 4]
    assert found.winners_histogram() == {1: 1 / 3, 2: 1 / 3, 3: 0, 4: 1 / 3}
    np.testing.assert_allclose(found.option_shares(), np.array([2 + 1, 1, 4 + 1, 2 + 1]) / 12)
    np.testing.assert_allclose(found.entropy(), [0, np.log(2), np.log(4)])
    np.testing.assert_allclose(found.pair_agreement(), [1, 2 / 6, 0])


@pytest.mark.parametrize("threshold", [0.2, 0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize(("rule", "kind"), [("half", "mean"), ("rank", "rank")])
def test_ties_count_half_as_in_the_paper(found, threshold, rule, kind):
    expected = percentileofscore(found.top_share(), threshold, kind=kind) / 100
    assert found.share_at_most(threshold, rule=rule) == pytest.approx(expected)


def test_a_tie_with_the_threshold_survives_rounding():
    for n in (3, 7, 10, 1000, 3_000_000):
        for k in range(max(1, n // 2), n, max(1, n // 7)):
            votes = Votes(counts=[[k, n - k]], n_voters=[n], name="v")
            top = max(k, n - k)
            assert votes.share_at_most(1 - (n - top) / n) == 0.5
            assert votes.share_at_most((top + 0.4) / n) == 1
            assert votes.share_at_most((top - 0.4) / n) == 0


def test_a_large_population_is_counted_in_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    table = ScoreTable(rng.normal(size=(7, 3, 4)).astype(np.float32), TABLE.reward_models)
    users = Population.dirichlet(23, 0.3, table.reward_models, seed=0)
    whole = Votes.of("v", users, table)
    monkeypatch.setattr("personalllm.analysis.votes._USERS_PER_BLOCK", 5)
    blocks, lean = Votes.of("v", users, table), Votes.of("v", users, table, keep_choices=False)
    assert whole.choices.tolist() == blocks.choices.tolist() == choices(users, table)[0].tolist()
    assert whole.counts.tolist() == blocks.counts.tolist() == lean.counts.tolist()
    assert lean.choices is None


def test_rows_of_a_benchmark_bring_their_names():
    synthetic = make_synthetic(30, seed=3)
    rows = [4, 2]
    votes = Votes.from_choices("v", [[0, 7], [0, 1]], 8, benchmark=synthetic, rows=rows)
    assert votes.prompts == (synthetic.prompt(4), synthetic.prompt(2))
    assert votes.prompt_ids == ("synthetic-000004", "synthetic-000002")
    assert votes.options == synthetic.response_models
    shares = dict(zip(votes.options, votes.option_shares(), strict=True))
    assert shares[synthetic.response_models[0]] == 0.5
    assert shares[synthetic.response_models[7]] == shares[synthetic.response_models[1]] == 0.25
    with pytest.raises(AxisMismatch, match="2 prompts, but 3 rows"):
        Votes.from_choices("v", [[0, 7]], 8, benchmark=synthetic, rows=[1, 2, 3])


def test_wins_go_to_the_option_that_stands_in_the_column():
    index = np.array([[0, 1], [1, 0]], np.uint8)
    votes = Votes(counts=[[3, 1], [3, 1]], n_voters=[4, 4], name="v", options=("x", "y"), option_index=index)
    assert votes.option_columns().tolist() == [[0.75, 0.25], [0.25, 0.75]]


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"counts": [1, 2]}, AxisMismatch, r"shape \(2,\)"),
        ({"counts": np.zeros((0, 2)), "n_voters": []}, AxisMismatch, "shape"),
        ({"n_voters": [4]}, AxisMismatch, "n_voters"),
        ({"n_voters": [4, 5]}, ParameterError, "4 of 5 voters in row 1"),
        ({"counts": [[3, 1], [0, 0]], "n_voters": [4, 0]}, ParameterError, "none in row 1"),
        ({"counts": [[5, -1], [2, 2]]}, ParameterError, ">= 0"),
        ({"counts": [[np.nan, 1], [2, 2]]}, ParameterError, "finite"),
        ({"options": ("a",)}, AxisMismatch, "1 names of options for 2 columns"),
        ({"option_index": np.zeros((2, 3), np.uint8)}, AxisMismatch, "option_index"),
        ({"options": ("a",), "option_index": np.ones((2, 2), np.uint8)}, ParameterError, "option_index"),
        ({"prompts": ("one",)}, AxisMismatch, "prompts"),
        ({"choices": np.zeros((4, 3), np.uint8)}, AxisMismatch, "choices"),
    ],
)
def test_votes_that_do_not_fit_are_refused(fields, error, message):
    with pytest.raises(error, match=message):
        Votes(**{"counts": [[3, 1], [2, 2]], "n_voters": [4, 4], "name": "v", **fields})


@pytest.mark.parametrize("bad", [[[0, 2]], [[-1, 0]], [[0.5, 1.0]]])
def test_choices_out_of_range_are_refused(bad):
    with pytest.raises(ParameterError, match="choices"):
        Votes.from_choices("v", bad, 2)


@given(CHOICES)
def test_what_holds_for_any_votes(rows):
    votes = Votes.from_choices("v", rows, 4)
    np.testing.assert_allclose(votes.shares().sum(1), 1)
    assert votes.option_shares().sum() == pytest.approx(1)
    entropy = votes.entropy()
    assert (entropy >= 0).all()
    assert (entropy <= np.log(4) + 1e-12).all()
    assert ((entropy == 0) == (votes.n_winners() == 1)).all()
    assert sum(votes.winners_histogram().values()) == pytest.approx(1)
    levels = [votes.share_at_most(t) for t in np.linspace(0, 1, 21)]
    assert levels == sorted(levels)
    pairs = [np.mean([a[j] == b[j] for a, b in combinations(rows, 2)]) for j in range(5)]
    np.testing.assert_allclose(votes.pair_agreement(), pairs, atol=1e-12)


@given(CHOICES, st.permutations(range(4)), st.randoms(use_true_random=False))
def test_neither_the_order_of_users_nor_that_of_responses_matters(rows, order, random):
    votes = Votes.from_choices("v", rows, 4)
    shuffled = [[order[c] for c in row] for row in rows]
    random.shuffle(shuffled)
    other = Votes.from_choices("v", shuffled, 4)
    np.testing.assert_allclose(other.entropy(), votes.entropy(), atol=1e-12)
    assert other.top_share().tolist() == votes.top_share().tolist()
    assert other.winners_histogram() == votes.winners_histogram()
    assert other.pair_agreement().tolist() == pytest.approx(votes.pair_agreement().tolist())


def test_one_voter_has_nobody_to_agree_with():
    assert np.isnan(Votes.from_choices("v", [[0, 1]], 2).pair_agreement()).all()


def test_drawing_down_is_without_replacement_and_unbiased():
    votes = Votes(counts=[[2, 1, 0], [1, 1, 1], [0, 3, 0]], n_voters=[3, 3, 3], name="v")
    all_three = votes.drawn_down(3, generator("t"))
    assert all_three.counts.tolist() == votes.counts.tolist()
    rng = generator("t", 1)
    mean = np.mean([votes.drawn_down(2, rng).counts for _ in range(4000)], axis=0)
    np.testing.assert_allclose(mean, votes.counts * 2 / 3, atol=0.03)
    assert max(votes.drawn_down(2, rng).counts[1].max() for _ in range(200)) == 1
    with pytest.raises(ParameterError, match="n_voters"):
        votes.drawn_down(4, rng)
    with pytest.raises(UserError, match="split votes"):
        Votes(counts=[[1.5, 1.5]], n_voters=[3], name="v").drawn_down(2, rng)


# --- files -----------------------------------------------------------------------------------------------------------

ROWS = [
    {"prompt": "p1", "option": "A", "voter": "ann"},
    {"prompt": "p1", "option": "B", "voter": "bob"},
    {"prompt": "p1", "option": "", "voter": "cem"},
    {"prompt": "p2", "option": "B", "voter": "ann"},
    {"prompt": "p2", "option": "B", "voter": "bob"},
    {"prompt": "p2", "option": "A", "voter": ""},
    {"prompt": "p3", "option": "A", "voter": ""},
    {"prompt": "p3", "option": "B", "voter": ""},
    {"prompt": "p3", "option": "", "voter": "ann"},
]


def write(path, rows):
    columns = list(rows[0])
    if path.suffix == ".parquet":
        pq.write_table(pa.table({c: [row[c] for row in rows] for c in columns}), path)
        return path
    if "csv" in path.name:
        text = "\n".join([",".join(columns), *(",".join(str(row[c]) for c in columns) for row in rows)]) + "\n"
    else:
        text = "\n".join(json.dumps(row) for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["v.csv", "v.csv.gz", "v.jsonl", "v.jsonl.gz", "v.parquet"])
def test_every_format_gives_the_same_votes(tmp_path, name):
    votes = Votes.from_file(write(tmp_path / name, ROWS), name="people")
    assert votes.counts.tolist() == [[1.5, 1.5], [0, 2], [0.5, 0.5]]
    assert votes.n_voters.tolist() == [3, 2, 1]
    assert votes.options == ("A", "B")
    assert votes.prompt_ids == votes.prompts == ("p1", "p2", "p3")
    # p1: ann-bob differ, ann-cem and bob-cem agree with probability 1/2
    np.testing.assert_allclose(votes.pair_agreement()[:2], [1 / 3, 1])


def test_ties_can_be_an_option_or_dropped(tmp_path):
    path = write(tmp_path / "v.jsonl", ROWS)
    option = Votes.from_file(path, ties="option")
    assert option.options == ("A", "B", "tie")
    assert option.counts.tolist() == [[1, 1, 1], [0, 2, 0], [0, 0, 1]]
    dropped = Votes.from_file(path, ties="drop")
    assert dropped.counts.tolist() == [[1, 1], [0, 2]]
    assert dropped.prompt_ids == ("p1", "p2")
    with pytest.raises(ParameterError, match="ties"):
        Votes.from_file(path, ties="half")


def test_counts_and_texts(tmp_path):
    rows = [
        {"prompt": "1", "option": "A", "count": 30, "text": "What?"},
        {"prompt": "1", "option": "B", "count": 0, "text": ""},
        {"prompt": "1", "option": "", "count": 10, "text": ""},
    ]
    votes = Votes.from_file(write(tmp_path / "v.csv", rows))
    assert votes.counts.tolist() == [[35, 5]]
    assert votes.prompts == ("What?",)
    assert votes.prompt_ids == ("1",)
    same = 30 * 29 + 2 * 30 * 10 * 0.5 + 10 * 9 * 0.5
    assert votes.pair_agreement()[0] == pytest.approx(same / (40 * 39))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("v.txt", "", "unknown suffix"),
        ("v.csv", "prompt,option\np,A\n", "'voter' or a column 'count'"),
        ("v.csv", "prompt,option,voter,count\np,A,x,1\n", "not both"),
        ("v.csv", "prompt,voter\np,x\n", "line 2: there is no 'option'; it has 'prompt', 'voter'"),
        ("v.csv", "prompt,option,voter\n,A,x\n", "line 2: the prompt is empty"),
        ("v.csv", "prompt,option,voter\np,A,x\np,B,x\n", "line 3: voter 'x' votes twice .*first: line 2"),
        ("v.csv", "prompt,option,voter\np,,\n", "neither an option nor a vote"),
        ("v.csv", "prompt,option,voter\np,A,x,extra\n", "line 2: 4 fields where the header has 3"),
        ("v.csv", 'prompt,option,voter\np,"A"x,x\n', "line 2: .*wrongly quoted"),
        ("v.csv", "prompt,option,count\np,A,-1\n", "count must be an integer >= 0, got '-1'"),
        ("v.csv", "prompt,option,count\np,A,1.5\n", "count must be an integer"),
        ("v.csv", "prompt,option,count\np,A,nan\n", "count must be an integer"),
        ("v.csv", "prompt,option,count\np,A,0\n", "holds no votes"),
        ("v.csv", "prompt,option,voter\np,A,y\np,,x\n", "fewer than two named options"),
        ("v.csv", "prompt,option,voter\n", "holds no votes"),
        ("v.jsonl", '{"prompt": "p"\n', "line 1: not JSON"),
        ("v.jsonl", "[1]\n", "item 1: a JSON int, not an object"),
        ("v.json", "{", "line 1: cut off, not JSON"),
        ("v.json", "{}", "there is no 'prompt'; it has nothing"),
        ("v.json", "[{}]", "item 1: there is no 'prompt'"),
        ("v.json", '[{"annotator1": 3}]', "annotator1 must be 0"),
        ("v.json", '[{"annotator1": true}]', "annotator1 must be 0"),
        ("v.json.gz", "plain", "not JSON"),
        ("v.parquet", "plain", "cut off or damaged, or not parquet"),
    ],
)
def test_a_broken_file_is_refused_with_its_place(tmp_path, name, text, message):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        Votes.from_file(tmp_path / name)


def test_too_many_options_and_only_ties_and_absent_files(tmp_path):
    rows = [{"prompt": "p", "option": f"text {i}", "count": 1} for i in range(256)]
    with pytest.raises(DataError, match="256 distinct options"):
        Votes.from_file(write(tmp_path / "v.csv", rows))
    with pytest.raises(DataError, match="nothing but ties"):
        Votes.from_file(write(tmp_path / "v.jsonl", ROWS[6:]), ties="drop")
    with pytest.raises(DataError, match="There is no file"):
        Votes.from_file(tmp_path / "absent.csv")


@pytest.mark.shared
def test_pandalm_is_read_as_it_is(shared_data):
    path = shared_data / "pandalm" / "testset-v1.json.gz"
    rows = json.loads(gzip.decompress(path.read_bytes()))
    drawn = Counter(tuple(sorted(row[f"annotator{i}"] for i in (1, 2, 3))) for row in rows)
    option = Votes.from_file(path, ties="option")
    assert (option.n_voters == 3).all()
    alike = sum(n for votes, n in drawn.items() if len(set(votes)) == 1)
    assert np.count_nonzero(option.n_winners() == 1) == alike
    assert option.counts.sum(0).tolist() == [sum(n * v.count(k) for v, n in drawn.items()) for k in (1, 2, 0)]
    split = Votes.from_file(path)
    assert split.n_prompts == 999
    assert np.count_nonzero(split.top_share() == 1) == drawn[1, 1, 1] + drawn[2, 2, 2]
    assert split.prompts[0].startswith("The sentence you are given")


def test_a_tie_is_shared_among_the_options_of_its_own_prompt(tmp_path):
    rows = [
        {"prompt": "1", "option": "A", "count": 0},
        {"prompt": "1", "option": "B", "count": 1},
        {"prompt": "1", "option": "", "count": 2},
        {"prompt": "2", "option": "B", "count": 3},
        {"prompt": "2", "option": "C", "count": 0},
    ]
    votes = Votes.from_file(write(tmp_path / "v.jsonl", rows))
    assert votes.options == ("A", "B", "C")
    assert votes.counts.tolist() == [[1, 2, 0], [0, 3, 0]]
    assert votes.squares.tolist() == [2, 3]


def test_shares_of_ties_do_not_change_the_number_of_voters(tmp_path):
    names = [f"o{i}" for i in range(11)]
    path = tmp_path / "votes.csv"
    rows = [f"p,{name},0" for name in names[1:]] + ["p,o0,7", "p,,6"]
    path.write_text("prompt,option,count\n" + "\n".join(rows))
    votes = Votes.from_file(path)
    assert votes.counts.sum() != 13
    assert votes.n_voters.tolist() == [13]
    assert Votes.from_file(path, ties="drop").n_voters.tolist() == [7]
    assert Votes.from_file(path, ties="option").n_voters.tolist() == [13]
