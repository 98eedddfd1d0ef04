import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personalllm.analysis.opinion import representativeness
from personalllm.analysis.opinion_files import read_opinionqa, read_opinions, read_questions
from personalllm.analysis.opinion_groups import predict_groups
from personalllm.analysis.opinion_questions import (
    OpinionQuestion,
    ScoreRule,
    Survey,
    answer_shares,
    representation_score,
    with_choices,
)
from personalllm.core.errors import AxisMismatch, DataError, ParameterError, UserError
from personalllm.users import Population

WORKED = json.loads((Path(__file__).parents[1] / "golden" / "opinion_worked.json").read_text())["questions"]


def worked(key: str) -> OpinionQuestion:
    found = WORKED[key]
    options = tuple(str(value) for value in found["options"])
    choices = {name: found["options"].index(value) for name, value in found["choices"].items()}
    return OpinionQuestion(key, key, options, np.array(found["options"]), choices)


@pytest.mark.parametrize("key", WORKED)
def test_ten_worked_questions_of_the_paper(key: str) -> None:
    shares = answer_shares(worked(key), Population.published(0.05))
    assert shares.round(3).tolist() == WORKED[key]["population"]


def test_there_are_ten_worked_questions() -> None:
    assert len(WORKED) == 10


@pytest.mark.parametrize("group", ["Asian", "Black", "Hispanic"])
def test_distances_of_the_paper(group: str) -> None:
    question, found = worked("VTRS_VALS_W92"), WORKED["VTRS_VALS_W92"]
    shares = answer_shares(question, Population.published(0.05))
    score = representation_score(question, shares, np.array(found["people"][group]))
    assert 1 - score == pytest.approx(found["distance"][group], abs=1e-6)


SHARES, PEOPLE = np.array([0.375, 0.083, 0.542]), np.array([0.09402386, 0.69377638, 0.21219976])
"""WORLDDANGER_W26 of the paper's notebook: the population's answers and everybody's; the last option is the middle."""


@pytest.mark.parametrize(("rule", "expected"), [("coded", 0.777), ("positions", 0.554)])
@pytest.mark.parametrize("values", [[0.0, 1.0, 0.5], [1.0, 2.0, 1.5]])
def test_a_middle_option_counts_in_the_papers_rule(values: list[float], rule: ScoreRule, expected: float) -> None:
    asked = question(3, values=np.array(values))
    assert representation_score(asked, SHARES, PEOPLE, rule) == pytest.approx(expected, abs=5e-4)
    result = representativeness(
        [replace(asked, choices={"x": 0})],
        Population(np.array([[1.0]]), ("x",)),
        {("overall", "overall"): {"Q": PEOPLE}},
        others={"model": {"Q": SHARES}},
        rule=rule,
    )
    assert result.of("model").score == pytest.approx(expected, abs=5e-4)
    assert any("as in the paper" in note for note in result.notes())
    assert any("codes, the middle option counted" in note for note in result.notes()) is (rule == "coded")


def test_the_papers_rule_is_the_default() -> None:
    asked = question(3, values=np.array([1.0, 2.0, 1.5]))
    assert representation_score(asked, SHARES, PEOPLE) == representation_score(asked, SHARES, PEOPLE, "coded")
    result = representativeness([question()], Population(np.eye(2), ("x", "y")), {("age", "old"): {"Q": PEOPLE}})
    assert result.rule == "coded"
    with pytest.raises(ParameterError, match="rule must be one of coded, positions, got 'ranks'"):
        representativeness([], Population(np.eye(1), ("x",)), {}, rule="ranks")  # type: ignore[arg-type]


@pytest.mark.parametrize("values", [[0, 1 / 3, 2 / 3, 1], [0, 25, 50, 100], [1, 2, 1.5, 1.25]])
def test_values_that_are_no_codes_are_refused(values: list[float]) -> None:
    asked, shares = question(4, values=np.array(values, float)), np.eye(4)[0]
    with pytest.raises(DataError, match=r"these are no codes.*one apart.*rule='positions'"):
        representation_score(asked, shares, np.eye(4)[1])
    assert representation_score(asked, shares, np.eye(4)[1], "positions") < 1


def question(n: int = 3, **changes: object) -> OpinionQuestion:
    fields: dict[str, object] = {
        "key": "Q",
        "text": "How?",
        "options": tuple("abcdef"[:n]),
        "values": np.arange(n, dtype=float),
        "choices": {"x": 0, "y": n - 1},
    }
    return OpinionQuestion(**(fields | changes))  # type: ignore[arg-type]


def test_first_listed_option_wins_a_tie() -> None:
    users = Population(np.array([[0.5, 0.5]]), ("x", "y"))
    assert answer_shares(question(2), users).tolist() == [1, 0]
    turned = question(2, options=("b", "a"), values=np.array([1.0, 0.0]), choices={"x": 1, "y": 0})
    assert answer_shares(turned, users).tolist() == [1, 0]


def test_score_goes_by_values_not_by_the_listed_order() -> None:
    listed = question(3, values=np.array([0.0, 2.0, 1.0]))
    far = representation_score(listed, np.array([1.0, 0, 0]), np.array([0, 1.0, 0]))
    near = representation_score(listed, np.array([1.0, 0, 0]), np.array([0, 0, 1.0]))
    assert (far, near) == (0.0, 0.5)


shares_of = st.lists(st.floats(0, 1), min_size=4, max_size=4).filter(lambda v: sum(v) > 0.1)


@given(shares_of, shares_of)
def test_score_is_symmetric_within_bounds_and_one_for_equals(one: list[float], two: list[float]) -> None:
    from scipy.stats import wasserstein_distance

    p, q = np.array(one) / sum(one), np.array(two) / sum(two)
    score = representation_score(question(4), p, q)
    assert -1e-12 <= score <= 1 + 1e-12
    assert score == pytest.approx(representation_score(question(4), q, p))
    assert representation_score(question(4), p, p) == 1
    assert score == pytest.approx(1 - wasserstein_distance(range(4), range(4), p, q) / 3)


class Rewards:
    reward_models = ("x", "y")
    identity = "letters"

    def score(self, prompts: list[str], responses: list[str]) -> np.ndarray:
        assert len(prompts) == len(responses)
        return np.array([[ord(text[0]), -ord(text[0])] for text in responses], np.float32)


def test_reward_models_choose_their_best_option() -> None:
    first, second = with_choices([question(3, choices={}), question(2, key="R", choices={})], Rewards())
    assert first.choices == {"x": 2, "y": 0}
    assert second.choices == {"x": 1, "y": 0}


def test_population_beside_people() -> None:
    users = Population(np.array([[1.0, 0.0], [0.0, 1.0]]), ("x", "y"))
    people = {
        ("overall", "overall"): {"Q": np.array([0.5, 0.0, 0.5])},
        ("age", "young"): {"Q": np.array([1.0, 0.0, 0.0]), "unasked": np.array([1.0])},
    }
    result = representativeness([question()], users, people, others={"model": {"Q": np.array([1.0, 0, 0])}})
    assert result.of("population").score == 1
    assert result.of("equal weights").score == 0.5
    assert result.of("population", "age", "young").score == 0.5
    assert result.of("RM x", "age", "young").score == 1
    assert result.of("model", "age", "young").score == 1
    assert result.groups_led("population") == (0, 1)
    assert result.groups_led("RM x") == (1, 1)
    assert result.groups_led("population", among=["uniform answers"]) == (1, 1)
    assert result.of("uniform answers").score == pytest.approx(1 - (1 / 6 + 1 / 6) / 2)
    assert result.tables()["opinion_scores"].num_rows == 2 * 6
    assert result.plot().axes
    assert any("0 of 1 groups" in note for note in result.notes())
    with pytest.raises(ParameterError, match="answerer"):
        result.of("nobody")


def test_interval_is_over_questions() -> None:
    users = Population(np.array([[1.0, 0.0]]), ("x", "y"))
    asked = [question(2, key=f"Q{i}") for i in range(20)]
    people = {("overall", "overall"): {f"Q{i}": np.eye(2)[i % 2] for i in range(20)}}
    score = representativeness(asked, users, people).of("population")
    assert score.score == 0.5
    assert 0.25 <= score.low <= 0.35
    assert 0.65 <= score.high <= 0.75


BAD_PEOPLE = [
    ({("overall", "overall"): {"Q": np.array([0.5, 0.5])}}, "Give 3 shares"),
    ({("overall", "overall"): {"Q": np.array([0.5, 0.5, 0.5])}}, "sum to 1"),
    ({("overall", "overall"): {"Q": np.array([1.5, -0.5, 0.0])}}, ">= 0"),
    ({("overall", "overall"): {"other": np.array([1.0])}}, "keys of both files"),
]


@pytest.mark.parametrize(("people", "message"), BAD_PEOPLE)
def test_shares_that_do_not_fit(people: dict, message: str) -> None:
    users = Population(np.array([[1.0, 0.0]]), ("x", "y"))
    with pytest.raises(DataError, match=message):
        representativeness([question()], users, people)


def test_every_reward_model_must_have_chosen() -> None:
    users = Population(np.array([[1.0, 0.0]]), ("x", "z"))
    with pytest.raises(AxisMismatch, match=r"no choice of the reward models z"):
        answer_shares(question(), users)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"options": ("a",), "values": np.array([0.0])}, DataError, "at least 2"),
        ({"values": np.array([0.0, 0.0, 1.0])}, DataError, "distinct"),
        ({"choices": {"x": 3}}, ParameterError, r"in \[0, 3\)"),
    ],
)
def test_questions_that_are_none(changes: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        question(**changes)


def write(path: Path, rows: list[tuple[object, ...]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("question", "attribute", "group", "option", "share"), *rows])
    return path


ASKED = {"question": "Q", "text": "How?", "options": ["no", "yes, \u00e9"], "choices": {"x": "no"}}


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps(ASKED) + "\n\n", encoding="utf-8")
    (asked,) = read_questions(path)
    assert (asked.options, asked.values.tolist(), dict(asked.choices)) == (("no", "yes, \u00e9"), [0, 1], {"x": 0})
    rows = [
        ("Q", "age", "old", "yes, \u00e9", 3),
        ("Q", "overall", "overall", "no", 1.5),
        ("Q", "overall", "overall", "yes, \u00e9", 4.5),
    ]
    people = read_opinions(write(tmp_path / "people.csv", rows), [asked])
    assert list(people) == [("overall", "overall"), ("age", "old")]
    assert people["overall", "overall"]["Q"].tolist() == [0.25, 0.75]
    assert people["age", "old"]["Q"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["not json"], r"line 1: .*not JSON \("),
        ([json.dumps(ASKED), json.dumps(ASKED)], "line 2: the question 'Q' is there twice"),
        ([json.dumps(ASKED | {"choices": {"x": "maybe"}})], "line 1: not a question"),
        ([json.dumps(ASKED | {"values": [0, 0]})], "line 1: .* distinct"),
        ([], "no questions"),
        (["[1]"], "item 1: a JSON int, not an object"),
    ],
)
def test_bad_questions(tmp_path: Path, lines: list[str], message: str) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_questions(path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("R", "age", "old", "no", 1)], "line 2: there is no question 'R'"),
        ([("Q", "age", "old", "perhaps", 1)], "line 2: 'perhaps' is no option"),
        ([("Q", "age", "old", "no", -1)], "line 2: the share is '-1'"),
        ([("Q", "age", "old", "no", "nan")], "line 2: share must be a number >= 0, got 'nan'"),
        ([("Q", "age", "old", "no", 1), ("Q", "age", "old", "no", 2)], "line 3: this option is there twice"),
        ([("Q", "age", "old", "no", 0)], "nobody of age: old answered 'Q'"),
    ],
)
def test_bad_answers(tmp_path: Path, rows: list[tuple[object, ...]], message: str) -> None:
    asked = OpinionQuestion("Q", "How?", ("no", "yes"), np.array([0.0, 1.0]), {})
    with pytest.raises(DataError, match=message):
        read_opinions(write(tmp_path / "people.csv", rows), [asked])


def test_answers_without_a_column(tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    path.write_text("question,group\nQ,old\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 2: there is no 'attribute'; it has 'group', 'question'"):
        read_opinions(path, [question()])


def test_the_table_of_groups_says_who_is_best_and_ties_count_for_all() -> None:
    users = Population(np.array([[1.0, 0.0], [0.0, 1.0]]), ("x", "y"))
    people = {("overall", "overall"): {"Q": np.array([1.0, 0, 0])}, ("age", "old"): {"Q": np.array([1.0, 0.0, 0.0])}}
    result = representativeness([question()], users, people, others={"model": {"Q": np.array([1.0, 0, 0])}, "none": {}})
    table = result.tables()["opinion_groups"].to_pylist()
    assert [(row["attribute"], row["group"], row["n_questions"]) for row in table] == [
        ("overall", "overall", 1),
        ("age", "old", 1),
    ]
    assert [row["best"] for row in table] == ["RM x, model"] * 2
    assert (table[1]["population"], table[1]["RM y"], table[1]["model"]) == (0.5, 0.0, 1.0)
    assert "none" not in table[1]
    assert result.groups_led("model") == result.groups_led("RM x") == (1, 1)
    assert np.isnan(result.of("population").low)
    assert result.plot().axes


@pytest.mark.parametrize("name", ["population", "best"])
def test_others_cannot_take_a_name(name: str) -> None:
    users = Population(np.array([[1.0, 0.0]]), ("x", "y"))
    people = {("overall", "overall"): {"Q": np.array([1.0, 0, 0])}}
    with pytest.raises(ParameterError, match="others"):
        representativeness([question()], users, people, others={name: {"Q": np.array([1.0, 0, 0])}})


def test_sixty_groups_are_all_drawn() -> None:
    users = Population(np.array([[1.0, 0.0]]), ("x", "y"))
    people = {("age", str(n)): {"Q": np.array([1.0, 0, 0])} for n in range(60)}
    (axes,) = representativeness([question()], users, people).plot().axes
    assert len(axes.get_yticks()) == 60


def release(folder: Path) -> Path:
    """Write a release of two questions with answers, one without and one without an order, and a set of three."""
    mapping = "{1.0: 'Better', 2.0: 'Worse, much', 3.0: 'The same', 8.0: 'Not sure', 99.0: 'Refused'}"
    rows = {
        "Q1": ("How?", mapping, "[1.0, 2.0, 1.5]"),
        "Q2": ("And?", "{1.0: 'Yes', 2.0: 'No', 99.0: 'Refused'}", "[1.0, 2.0]"),
        "Q3": ("Who?", "{1.0: 'He', 2.0: 'She'}", "[1, 1]"),
        "Q4": ("Unasked?", "{1.0: 'Yes', 2.0: 'No'}", "[1.0, 2.0]"),
    }
    for name, keys in (("Panel_W1", rows), ("Set_of_500", ["Q1", "Q3", "Q4"])):
        (folder / name).mkdir(parents=True)
        with (folder / name / "info.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["", "key", "option_mapping", "question", "references", "option_ordinal"])
            for n, key in enumerate(keys):
                text, options, ordinal = rows[key]
                writer.writerow([n, key, options, text, "[]", ordinal])
    about = {"MC_options": ["Better", "Worse", "much"], "question_text": "How?"}
    old = {"Better": 3.0, "worse, much": 1.0, "Not sure": 9.0, "Refused": 5.0}
    yes = {"Yes": 1.0, "No": 1.0}
    data = {
        "AGE": {"Q1": about | {"Old": old, "nan": {"The same": 4.0}}, "Q2": {"Old": yes, "Young": {"Refused": 2.0}}},
        "SEX": {
            "Q1": about | {"Female": {"Better": 1.0}, "Refused": {"Worse, much": 1.0}},
            "Q3": {"Female": {"He": 1.0}},
        },
        "AGE_SEX": {"Q1": about | {"Old": {"Female": {"Better": 1.0}}}},
        "NONE": {"Q1": about | {"Old": {"Better": 1.0}}},
    }
    for attribute, answers in data.items():
        path = folder / "Panel_W1" / f"{attribute}_data.json"
        path.write_text(json.dumps(answers), encoding="utf-8")
    return folder


def test_the_release_of_opinionqa(tmp_path: Path) -> None:
    survey = read_opinionqa(release(tmp_path), "500")
    (asked,) = survey.questions
    assert (asked.key, asked.options) == ("Q1", ("Better", "Worse, much", "The same")), "commas do not split an option"
    assert asked.values.tolist() == [1, 2, 1.5]
    assert {group: shares["Q1"].tolist() for group, shares in survey.people.items()} == {
        ("overall", "overall"): [3 / 8, 1 / 8, 4 / 8],
        ("AGE", "Old"): [0.75, 0.25, 0],
        ("SEX", "Female"): [1, 0, 0],
    }
    assert survey.left_out == {"Q3": "its options have no order", "Q4": "no answers of people in the folder"}
    everything = read_opinionqa(tmp_path)
    assert [question.key for question in everything.questions] == ["Q1", "Q2"]
    assert ("AGE", "Young") not in everything.people, "nobody of them chose an option"
    with pytest.raises(DataError, match=r"has no set of questions '600'\. Give one of all, Set_of_500"):
        read_opinionqa(tmp_path, "600")
    with pytest.raises(DataError, match="holds no survey of OpinionQA"):
        read_opinionqa(tmp_path / "Set_of_500")
    (tmp_path / "Panel_W1" / "AGE_data.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"AGE_data\.json cannot be read"):
        read_opinionqa(tmp_path)


def test_choices_that_are_given_or_made(tmp_path: Path) -> None:
    survey = read_opinionqa(release(tmp_path))
    copy = replace(survey.questions[0], options=("The same", "Better"), values=np.arange(2.0), choices={"x": 1, "y": 0})
    given = survey.with_given([copy])
    assert [dict(question.choices) for question in given.questions] == [{"x": 0, "y": 2}]
    assert given.left_out["Q2"] == "no choices of reward models among its options"
    made = given.with_choices(Rewards())
    assert made.questions == given.questions, "what is given stays"
    made = survey.with_choices(Rewards())
    assert [dict(question.choices) for question in made.questions] == [{"x": 1, "y": 0}, {"x": 0, "y": 1}]


def test_the_population_against_each_answerer() -> None:
    users = Population(np.array([[1.0, 0.0], [0.0, 1.0]]), ("x", "y"))
    people = {
        ("overall", "overall"): {f"Q{i}": np.array([0.5, 0.0, 0.5]) for i in range(4)},
        ("age", "young"): {f"Q{i}": np.array([0.6, 0.0, 0.4]) for i in range(4)},
        ("age", "old"): {"Q0": np.array([1.0, 0.0, 0.0])},
    }
    result = representativeness([question(key=f"Q{i}") for i in range(4)], users, people)
    table = {row["answerer"]: row for row in result.tables()["opinion_answerers"].to_pylist()}
    assert (table["population"]["score"], table["population"]["worst_group"]) == (1.0, "age: old")
    assert (table["RM x"]["population_nearer"], table["RM x"]["clearly"], table["RM x"]["groups"]) == (1, 1, 2)
    assert (table["RM y"]["population_nearer"], table["RM y"]["best_group"]) == (2, "age: young")
    difference = next(d for d in result.differences if (d.answerer, d.group) == ("RM x", "old"))
    assert (difference.n_questions, difference.gain) == (1, -0.5)
    notes = " ".join(result.notes())
    assert "nearer to the people than every single reward model in 1 of 2 groups" in notes
    assert "1 of 5 questions are left out" in " ".join(replace(result, left_out={"Q9": "no order"}).notes())


def groups_of(n_questions: int, n_groups: int = 12) -> Survey:
    """Return groups whose answers lie on a line: how far each is from the others decides all answers."""
    rng = np.random.default_rng(0)
    slopes = rng.uniform(-0.2, 0.2, n_questions)
    people: dict = {("overall", "overall"): {}}
    for group, place in enumerate(np.linspace(-1, 1, n_groups)):
        shares = 0.5 + slopes * place
        people["a", str(group)] = {f"Q{i}": np.array([share, 1 - share]) for i, share in enumerate(shares)}
    return Survey(tuple(question(2, key=f"Q{i}") for i in range(n_questions)), people)


def test_a_few_answers_give_a_group_away_where_all_hang_together() -> None:
    result = predict_groups(groups_of(30), (0, 5, 40), splits=4)
    assert {score.shots for score in result.scores} == {0, 5}, "no question is left after 40"
    mean, joint = (result.of(name, 5) for name in ("other groups' mean", "joint Gaussian"))
    assert joint.score > 0.99 > mean.score
    assert joint.gain == pytest.approx(joint.score - mean.score)
    assert joint.gain_low > 0
    assert result.of("joint Gaussian", 0).gain == 0
    assert result.of("nearest group", 5).score > mean.score > result.of("uniform answers", 5).score - 0.05
    assert "the pool of a split" in result.notes()[0]
    assert result.plot().axes
    assert result.tables()["opinion_prediction"].num_rows == 8


def test_groups_that_cannot_be_predicted() -> None:
    with pytest.raises(UserError, match="3 groups answered the same 30 questions"):
        predict_groups(groups_of(30, 3))
    with pytest.raises(ParameterError, match="splits >= 1"):
        predict_groups(groups_of(30), splits=0)


@pytest.mark.shared
def test_the_release_as_it_is(shared_data: Path) -> None:
    survey = read_opinionqa(shared_data / "opinionqa" / "human_resp", "500")
    assert (len(survey.questions), len(survey.left_out), len(survey.people)) == (177, 317, 37)
    assert all(abs(shares.sum() - 1) < 1e-9 for of in survey.people.values() for shares in of.values())
