import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from personalllm.core.errors import MissingExtra, ParameterError
from personalllm.methods.parts import retrieval
from personalllm.methods.parts.retrieval import (
    concatenated_ranges,
    nearest,
    nearest_interactions,
    owners,
    rank_by_best_match,
    similarities,
    top_rows,
    unit_rows,
)

values = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12),
    elements=st.sampled_from([-2.0, -0.5, -0.0, 0.0, 0.25, 0.5, 3.0]).map(np.float32),
)
shapes = st.tuples(st.integers(0, 20), st.integers(0, 60), st.integers(1, 20), st.integers(0, 70), st.integers(0, 9999))


def reference(queries, keys):
    """Values by the definition: float64 sums, rounded to float32."""
    return (queries.astype(np.float64) @ keys.astype(np.float64).T).astype(np.float32)


def stable(values, k):
    return np.argsort(-values, axis=1, kind="stable")[:, :k]


def drawn(n, m, dim, seed):
    """Rows with duplicates, zero rows, opposite rows, and rows that differ in the last bits."""
    rng = np.random.default_rng(seed)
    few = rng.standard_normal((max(1, m // 3), dim)) + 2
    keys = few[rng.integers(0, len(few), m)] * rng.choice([1, 1, 1, 0, -1], m)[:, None]
    keys = keys + 1e-8 * rng.standard_normal((m, dim)) * rng.integers(0, 2, m)[:, None] * (keys != 0)
    queries = np.concatenate([keys, rng.standard_normal((n, dim))])[rng.integers(0, n + m, n)] if n else keys[:0]
    return unit_rows(queries), unit_rows(keys)


@pytest.fixture
def small_blocks(monkeypatch):
    def shrink(keys=7, queries=3, room=2, cells=40):
        for name, value in {"_KEYS": keys, "_QUERIES": queries, "_ROOM": room, "_CELLS": cells}.items():
            monkeypatch.setattr(retrieval, name, value)

    return shrink


@settings(deadline=None)
@given(values, st.integers(0, 15))
def test_top_rows_is_a_stable_descending_sort(array, k):
    assert np.array_equal(top_rows(array, k), stable(array, k))


@settings(deadline=None, max_examples=150, derandomize=True)
@given(shapes, st.sampled_from([(4096, 1024, 512), (7, 3, 2), (1, 1, 0), (13, 5, 12)]))
def test_nearest_is_a_full_stable_sort_whatever_the_blocks(shape, blocks):
    n, m, dim, k, seed = shape
    queries, keys = drawn(n, m, dim, seed)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in zip(("_KEYS", "_QUERIES", "_ROOM"), blocks, strict=True):
            patch.setattr(retrieval, name, value)
        found = nearest(queries, keys, k)
        assert np.array_equal(similarities(queries, keys), reference(queries, keys))
    assert found.dtype == np.int32
    assert np.array_equal(found, stable(reference(queries, keys), k))


@pytest.mark.parametrize("room", [0, 512])
def test_near_ties_that_float32_products_cannot_tell_apart(monkeypatch, room):
    monkeypatch.setattr(retrieval, "_ROOM", room)
    rng = np.random.default_rng(3)
    base = unit_rows(rng.standard_normal((1, 1024)))
    step = unit_rows(rng.standard_normal((1, 1024))).astype(np.float64)
    gap = rng.permutation(6000)[:, None] * 1e-8
    keys = np.asarray(base + gap * step, dtype=np.float32)
    queries = np.concatenate([base, unit_rows(base + 0.3 * step), unit_rows(-base + step)])
    expected = reference(queries, keys)
    rough = queries @ keys.T
    assert not np.array_equal(stable(rough, 20), stable(expected, 20))
    assert np.array_equal(nearest(queries, keys, 20), stable(expected, 20))


@pytest.fixture
def careless(monkeypatch):
    """Make every product as wrong as adding up in the worst order could."""
    rng, multiply = np.random.default_rng(4), np.matmul

    def wrong(a, b, out=None):
        exact = multiply(a, b) if out is None else multiply(a, b, out=out)
        most = 0.99 * a.shape[1] * np.finfo(exact.dtype).epsneg
        exact += (most * rng.choice([-1, 1], exact.shape)).astype(exact.dtype)
        return exact

    monkeypatch.setattr(retrieval.np, "matmul", wrong)


def crowd(n, m, dim):
    """Keys whose values lie so close together that the bound on the error decides."""
    rng = np.random.default_rng(11)
    base = unit_rows(rng.standard_normal((1, dim)))
    keys = unit_rows(base + 2e-3 * rng.standard_normal((m, dim)) / dim**0.5)
    return unit_rows(base + 0.5 * rng.standard_normal((n, dim)) / dim**0.5), keys


def test_the_first_look_may_be_as_wrong_as_its_bound(careless, monkeypatch):
    monkeypatch.setattr(retrieval, "_ROOM", 4096)
    queries, keys = crowd(40, 9000, 256)
    assert np.array_equal(nearest(queries, keys, 10), stable(reference(queries, keys), 10))


def test_neither_may_the_first_look_at_interactions_or_matches(careless):
    asked, vectors = crowd(20, 2000, 256)
    score = reference(asked, vectors)
    rng = np.random.default_rng(13)
    place, offsets = rng.permutation(2000), np.arange(0, 2001, 10)
    everybody = np.tile(rng.permutation(200).astype(np.int32), (20, 1))
    found = nearest_interactions(asked, vectors, place, offsets, everybody, 10)
    assert np.array_equal(place[found], stable(score, 10))

    own_offsets, candidates = np.arange(0, 21, 2), (np.tile(np.arange(200, dtype=np.int32), 10), np.arange(11) * 200)
    found = rank_by_best_match(asked, own_offsets, vectors, place, offsets, candidates, 10)
    best = score[:, place].reshape(10, 2, 200, 10).max(axis=3).astype(np.float64)
    assert np.array_equal(found, stable(best.mean(axis=1).astype(np.float32), 10))


def test_values_do_not_take_over_the_errors_of_the_products(careless):
    rng = np.random.default_rng(12)
    queries, keys = unit_rows(rng.standard_normal((40, 1024))), unit_rows(rng.standard_normal((5000, 1024)))
    assert np.array_equal(similarities(queries, keys), reference(queries, keys))


def test_an_answer_does_not_depend_on_the_batch():
    rng = np.random.default_rng(5)
    keys = unit_rows(rng.standard_normal((501, 384))[rng.integers(0, 300, 501)])
    queries = unit_rows(rng.standard_normal((37, 384)))
    whole = nearest(queries, keys, 9)
    assert np.array_equal(np.concatenate([nearest(q[None, :], keys, 9) for q in queries]), whole)
    assert np.array_equal(nearest(queries[::-1], keys, 9), whole[::-1])
    assert np.array_equal(similarities(queries[5:6], keys)[0], similarities(queries, keys)[5])


def test_permuted_keys_map_back():
    rng = np.random.default_rng(6)
    keys, queries = unit_rows(rng.standard_normal((5000, 32))), unit_rows(rng.standard_normal((20, 32)))
    order = rng.permutation(5000)
    assert np.array_equal(order[nearest(queries, keys[order], 7)], nearest(queries, keys, 7))


def test_equal_keys_go_to_the_lower_row_wherever_they_stand():
    rng = np.random.default_rng(0)
    one = rng.standard_normal(384)
    keys = unit_rows(rng.standard_normal((9001, 384)))
    keys[[7, 100, 5333, 9000]] = unit_rows(one[None, :])
    for n in (1, 2, 17):
        near = nearest(unit_rows(np.repeat(one[None, :], n, axis=0)), keys, 4)
        assert near.tolist() == [[7, 100, 5333, 9000]] * n


def test_all_keys_equal_and_a_query_of_zero():
    keys = np.tile(unit_rows(np.arange(1.0, 9.0)[None, :]), (9000, 1))
    queries = np.concatenate([keys[:1], np.zeros((1, 8), np.float32), -keys[:1]])
    assert nearest(queries, keys, 5).tolist() == [[0, 1, 2, 3, 4]] * 3
    assert nearest(queries, np.zeros_like(keys), 5).tolist() == [[0, 1, 2, 3, 4]] * 3


def test_rising_values_leave_only_the_last_rows():
    angle = np.linspace(1.5, 0.01, 20_000)
    keys = np.column_stack([np.cos(angle), np.sin(angle)]).astype(np.float32)
    query = np.array([[1.0, 0.0]], np.float32)
    assert nearest(query, keys, 3).tolist() == [[19_999, 19_998, 19_997]]


def test_views_give_what_copies_give():
    rng = np.random.default_rng(7)
    wide = unit_rows(rng.standard_normal((300, 40)))
    queries, keys = wide[::3, ::2], np.asfortranarray(wide)[:, 1::2]
    expected = stable(reference(queries, keys), 6)
    assert np.array_equal(nearest(queries, keys, 6), expected)


def test_no_keys_no_queries_and_no_neighbours():
    none, some = np.empty((0, 3), np.float32), np.ones((2, 3), np.float32)
    assert nearest(some, none, 5).shape == (2, 0)
    assert nearest(none, some, 5).shape == (0, 2)
    assert nearest(some, some, 0).shape == (2, 0)
    assert similarities(none, some).shape == (0, 2)


BAD = unit_rows(np.eye(3))
NAN = BAD.copy()
NAN[1, 2] = np.nan


@pytest.mark.parametrize(
    ("queries", "keys", "k", "search", "message"),
    [
        (NAN, BAD, 1, "exact", r"queries must be finite vectors.*row 1"),
        (BAD, NAN, 1, "exact", r"keys must be finite vectors.*row 1"),
        (BAD, NAN, 0, "exact", r"keys must be finite vectors.*row 1"),
        (BAD, np.full_like(BAD, np.inf), 1, "exact", r"keys must be finite.*row 0"),
        (BAD, BAD[:, :2], 1, "exact", r"as wide as the queries \(3\), got 2"),
        (BAD[0], BAD, 1, "exact", r"queries must be a matrix"),
        (BAD, BAD.astype(np.float64), 1, "exact", r"keys must be float32, got 'float64'"),
        (BAD, BAD, -1, "exact", r"k must be 0 or more, got -1"),
        (BAD, BAD, 1, "annoy", r"search must be 'exact' or 'faiss', got 'annoy'"),
    ],
)
def test_what_cannot_be_searched_is_refused(queries, keys, k, search, message):
    with pytest.raises(ParameterError, match=message):
        nearest(queries, keys, k, search=search)


def pool(rng, n_users, n_distinct, longest):
    """Random rows of pool users, some of whom have none."""
    counts = rng.integers(0, longest + 1, n_users)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return rng.integers(0, n_distinct, offsets[-1]).astype(np.int64), offsets


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("cells", [40, 4_000_000])
def test_nearest_interactions_agrees_with_a_loop(seed, cells, small_blocks):
    rng = np.random.default_rng(seed)
    asked, vectors = drawn(9, 25 if seed % 2 else 400, 6, seed)
    place, offsets = pool(rng, 12, len(vectors), 8)
    users = np.array([rng.permutation(12)[:5] for _ in asked], dtype=np.int32)
    users[3, 2:] = users[4] = -1
    small_blocks(cells=cells)
    found = nearest_interactions(asked, vectors, place, offsets, users, 4)
    score = reference(asked, vectors)
    for i, who in enumerate(users.tolist()):
        first: dict[int, int] = {}
        for u in who:
            for row in range(offsets[u], offsets[u + 1]) if u >= 0 else ():
                first.setdefault(int(place[row]), row)
        prompts = sorted(first, key=lambda p: (-score[i, p], p))[:4]
        expected = [first[p] for p in prompts]
        assert found[i].tolist() == expected + [-1] * (4 - len(expected))
    alone = nearest_interactions(asked[2:3], vectors, place, offsets, users[2:3], 4)
    assert np.array_equal(alone[0], found[2])


def test_a_repeated_prompt_is_the_most_similar_users():
    place, offsets = np.array([0, 1, 1, 0], dtype=np.int64), np.array([0, 2, 4], dtype=np.int64)
    vectors = unit_rows(np.eye(2))
    for users, expected in (([0, 1], [0, 1, -1]), ([1, 0], [3, 2, -1])):
        found = nearest_interactions(vectors[:1], vectors, place, offsets, np.array([users], np.int32), 3)
        assert found.tolist() == [expected]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("cells", [40, 4_000_000])
def test_rank_by_best_match_agrees_with_a_loop(seed, cells, small_blocks):
    rng = np.random.default_rng(seed)
    own, vectors = drawn(14, 30 if seed % 2 else 400, 6, seed)
    own_offsets = np.array([0, 3, 3, 8, 14], dtype=np.int64)
    place, offsets = pool(rng, 15, len(vectors), 5)
    near = rng.integers(0, len(vectors), (4, 40)).astype(np.int32)
    near[3] = place[0]
    users, bounds = owners(near, place, offsets)
    owner = np.repeat(np.arange(15), np.diff(offsets))
    for i in range(4):
        assert users[bounds[i] : bounds[i + 1]].tolist() == sorted(set(owner[np.isin(place, near[i])].tolist()))
    small_blocks(cells=cells)
    found = rank_by_best_match(own, own_offsets, vectors, place, offsets, (users, bounds), 3)
    score = reference(own, vectors).astype(np.float64)
    for i in range(4):
        mine = score[own_offsets[i] : own_offsets[i + 1]]

        def match(u, mine=mine):
            theirs = mine[:, place[offsets[u] : offsets[u + 1]]]
            return np.float32(theirs.max(axis=1).sum() / max(1, len(theirs)))

        ranked = sorted(users[bounds[i] : bounds[i + 1]].tolist(), key=lambda u: (-match(u), u))[:3]
        assert found[i].tolist() == ranked + [-1] * (3 - len(ranked))


def test_candidates_without_rows_come_last_and_nobody_is_padded():
    vectors = unit_rows(np.array([[1.0, 0.0], [-1.0, 0.0]]))
    place, offsets = np.array([1, 0], dtype=np.int64), np.array([0, 0, 1, 2], dtype=np.int64)
    candidates = np.array([0, 1, 2], np.int32), np.array([0, 3, 3], np.int64)
    own_offsets = np.array([0, 1, 1], np.int64)
    found = rank_by_best_match(vectors[:1], own_offsets, vectors, place, offsets, candidates, 4)
    assert found.tolist() == [[2, 1, 0, -1], [-1] * 4]


def test_faiss_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    keys = np.ones((500, 4), np.float32)
    for rows in (keys, keys[:1]):
        with pytest.raises(MissingExtra, match=r"personalllm\[faiss\]"):
            nearest(keys[:2], rows, 1, search="faiss")


def clustered(m, n):
    rng = np.random.default_rng(8)
    centres = rng.standard_normal((40, 32))
    return tuple(unit_rows(centres[rng.integers(0, 40, c)] + 0.8 * rng.standard_normal((c, 32))) for c in (n, m))


def test_faiss_finds_nearly_all_and_repeats_itself():
    pytest.importorskip("faiss")
    queries, keys = clustered(4000, 150)
    truth, found = nearest(queries, keys, 10), nearest(queries, keys, 10, search="faiss")
    assert found.dtype == np.int32
    assert (found[:, :, None] == truth[:, None, :]).any(axis=1).mean() > 0.97
    value = np.take_along_axis(reference(queries, keys), found, axis=1)
    assert np.array_equal(value, -np.sort(-value, axis=1))
    assert np.array_equal(nearest(queries, keys, 10, search="faiss"), found)


def test_faiss_widens_the_search_where_the_keys_have_no_clusters():
    pytest.importorskip("faiss")
    rng = np.random.default_rng(9)
    queries, keys = unit_rows(rng.standard_normal((100, 48))), unit_rows(rng.standard_normal((3000, 48)))
    truth, found = nearest(queries, keys, 10), nearest(queries, keys, 10, search="faiss")
    assert (found[:, :, None] == truth[:, None, :]).any(axis=1).mean() > 0.95


def test_faiss_returns_as_many_as_asked_for():
    pytest.importorskip("faiss")
    queries, keys = clustered(400, 5)
    assert np.array_equal(np.sort(nearest(queries, keys, 400, search="faiss")), np.tile(np.arange(400), (5, 1)))
    assert np.array_equal(nearest(queries, keys[:30], 4, search="faiss"), nearest(queries, keys[:30], 4))


def test_unit_rows_keeps_a_zero_row():
    rows = unit_rows(np.array([[0.0, 0.0], [1e-30, 0.0], [3e30, 4e30]]))
    assert rows.dtype == np.float32
    assert np.allclose(rows, [[0, 0], [1, 0], [0.6, 0.8]])


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5)), max_size=8))
def test_concatenated_ranges(pairs):
    starts = np.array([start for start, _ in pairs], dtype=np.int64)
    stops = np.array([start + length for start, length in pairs], dtype=np.int64)
    expected = [i for start, length in pairs for i in range(start, start + length)]
    assert concatenated_ranges(starts, stops).tolist() == expected
