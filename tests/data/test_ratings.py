"""People's ratings in memory: what is known of whom, in which order."""

from __future__ import annotations

import numpy as np
import pytest

from personalllm.core.errors import AxisMismatch, DataError, ParameterError
from personalllm.data import Ratings

NAN = float("nan")


def test_a_table_keeps_what_is_known_and_where() -> None:
    values = [[1.0, NAN, 3.0], [NAN, 5.0, -2.0]]
    ratings = Ratings.from_table(values, ["b", "a", "c"], ["p", "q", "p"], users=["ann", "bob"])
    assert (ratings.users, ratings.prompts) == (("ann", "bob"), ("p", "q"))
    known = {
        (ratings.users[u], ratings.prompts[ratings.prompt[i]], ratings.responses[i]): value
        for u, i, value in zip(ratings.user, ratings.item, ratings.value.tolist(), strict=True)
    }
    assert known == {("ann", "p", "b"): 1.0, ("ann", "p", "c"): 3.0, ("bob", "q", "a"): 5.0, ("bob", "p", "c"): -2.0}
    assert ratings.counts.tolist() == [2, 2]
    assert np.isnan(ratings.table()).sum() == 2


def test_responses_to_other_prompts_are_others_and_repeated_ratings_are_averaged() -> None:
    rows = [("ann", "p", "yes", 1.0), ("ann", "q", "yes", 2.0), ("ann", "p", "yes", 3.0)]
    ratings = Ratings.collect(rows)
    assert (ratings.n, ratings.n_items, ratings.value.tolist()) == (2, 2, [2.0, 2.0])


def test_some_people_keep_their_ratings() -> None:
    ratings = Ratings.from_table([[1, 2], [3, NAN], [5, 6]], ["a", "b"])
    full = ratings.of_users(ratings.counts == 2)
    assert (full.users, full.table().tolist()) == (("user 1", "user 3"), [[1, 2], [5, 6]])
    assert full.fingerprint != ratings.fingerprint


def test_a_changed_value_changes_the_fingerprint() -> None:
    one, other = (Ratings.from_table([[1, value]], ["a", "b"]) for value in (2, 3))
    assert one.fingerprint != other.fingerprint


def test_errors_say_what_was_given() -> None:
    with pytest.raises(AxisMismatch, match="shape \\(1, 2\\) for 1 users, 1 responses"):
        Ratings.from_table([[1, 2]], ["a"])
    with pytest.raises(DataError, match="no rating"):
        Ratings.from_table([[NAN]], ["a"])
    column = np.array([0, 0], np.int32)
    with pytest.raises(ParameterError, match="each pair once"):
        Ratings("x", ("a",), ("",), ("t",), column[:1], column, column, np.ones(2, np.float32))
