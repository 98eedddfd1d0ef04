"""The table of features: which text goes where, what is measured once, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from personalllm.analysis.features import Features, measure_features
from personalllm.core.errors import AxisMismatch, ParameterError, UnknownName
from personalllm.data import Benchmark

TEXTS = [["a", "bb", "a"], ["ccc", "bb", "dddd"], ["e", "ff", "ggg"]]


@pytest.fixture
def bench():
    return Benchmark.from_arrays(
        name="tiny",
        prompt_ids=["x", "y", "z"],
        prompts=["X?", "Y?", "Z?"],
        subsets=["s"] * 3,
        splits=["train", "test", "test"],
        responses=TEXTS,
        response_models=["m1", "m2", "m3"],
        reward_models=["r"],
        scores=np.zeros((3, 3, 1)),
    )


class Lengths:
    """Length and its square; notes what it was asked."""

    identity = "lengths-1"

    def __init__(self, features=("length", "square")):
        self.features = features
        self.asked = []

    def measure(self, texts):
        self.asked += texts
        return np.array([[len(t), len(t) ** 2] for t in texts], np.float32).reshape(len(texts), 2)


def test_every_response_has_its_own_values(bench):
    found = measure_features(bench, Lengths())
    lengths = [[len(text) for text in row] for row in TEXTS]
    assert found.values[..., 0].tolist() == lengths
    assert found.values[..., 1].tolist() == [[n**2 for n in row] for row in lengths]
    assert (found.names, found.measured_by) == (("length", "square"), ("lengths-1",) * 2)
    assert (found.n_prompts, found.n_responses) == (3, 3)
    assert not found.values.flags.writeable


def test_rows_are_taken_in_their_order(bench):
    found = measure_features(bench, Lengths(), bench.rows("test")[::-1])
    assert found.values[..., 0].tolist() == [[1, 2, 3], [3, 2, 4]]


def test_equal_texts_are_measured_once(bench):
    classifier, said = Lengths(), []
    measure_features(
        bench, [classifier, Lengths(("l2", "s2"))], progress=lambda done, total: said.append((done, total))
    )
    assert classifier.asked == ["a", "bb", "ccc", "dddd", "e", "ff", "ggg"]
    assert said == [(7, 14), (14, 14)]


def test_chunks_cover_all_texts(bench, monkeypatch):
    monkeypatch.setattr("personalllm.analysis.features._CHUNK", 3)
    said = []
    found = measure_features(bench, Lengths(), progress=lambda done, total: said.append((done, total)))
    assert said == [(3, 7), (6, 7), (7, 7)]
    assert found.values[2, :, 0].tolist() == [1, 2, 3]


def test_several_classifiers_stand_side_by_side(bench):
    found = measure_features(bench, [Lengths(("b", "a")), Lengths(("d", "c"))])
    assert found.names == ("b", "a", "d", "c")
    assert found.select(["c", "b"]).values[1, 2].tolist() == [16, 4]
    assert found.select(["c"]).measured_by == ("lengths-1",)


class Bad(Lengths):
    def __init__(self, made):
        super().__init__()
        self.made = made

    def measure(self, texts):
        return self.made(len(texts))


@pytest.mark.parametrize(
    ("classifiers", "rows", "error", "message"),
    [
        (Bad(lambda n: np.zeros((n, 3))), None, AxisMismatch, r"'lengths-1' returned shape \(7, 3\)"),
        (Bad(lambda n: np.zeros((n - 1, 2))), None, AxisMismatch, "for 7 texts"),
        (Bad(lambda n: np.full((n, 2), np.inf)), None, ParameterError, "values must be finite, or NaN"),
        ([Lengths(), Lengths()], None, ParameterError, "names must be distinct"),
        ([], None, ParameterError, "classifiers must be one classifier or more"),
        (Lengths(), [0, 3], ParameterError, r"each in \[0, 3\)"),
        (Lengths(), [-1], ParameterError, r"each in \[0, 3\)"),
        (Lengths(), [], ParameterError, "rows must be one row or more"),
        (Lengths(), [0.5], ParameterError, "rows must be a list of integers"),
    ],
)
def test_what_cannot_be_measured_is_said(bench, classifiers, rows, error, message):
    with pytest.raises(error, match=message):
        measure_features(bench, classifiers, rows)


def test_the_table_has_a_row_for_each_value():
    values = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    values[1, 0, 1] = np.nan
    table = Features(values, ("p", "q"), ("by", "by")).table()
    assert table.num_rows == 12
    assert table["value"].null_count == 1
    row = table.slice(9, 1).to_pylist()[0]
    assert row == {"prompt": 1, "response": 1, "feature": "q", "value": 9.0}


@pytest.mark.parametrize(("values", "names"), [(np.zeros((2, 3)), ("a",)), (np.zeros((2, 3, 2)), ("a",))])
def test_names_fit_the_last_axis(values, names):
    with pytest.raises(AxisMismatch, match="a name and an identity for each feature"):
        Features(values, names, names)


def test_an_unknown_feature_gets_the_nearest_names():
    with pytest.raises(UnknownName, match="Did you mean 'length'"):
        Features(np.zeros((1, 1, 1)), ("length",), ("by",)).select(["lenght"])
