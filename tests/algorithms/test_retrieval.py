import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from personalllm.algorithms import _retrieval
from personalllm.algorithms._retrieval import concatenated_ranges, cosine_top_k, top_rows, unit_rows

values = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12),
    elements=st.sampled_from([-2.0, -0.5, -0.0, 0.0, 0.25, 0.5, 3.0]).map(np.float32),
)


@settings(deadline=None)
@given(values, st.integers(0, 15))
def test_top_rows_is_a_stable_descending_sort(array, k):
    expected = np.argsort(-array, axis=1, kind="stable")[:, :k]
    assert np.array_equal(top_rows(array, k), expected)


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 40), st.integers(1, 12), st.integers(0, 3))
def test_cosine_top_k_agrees_with_a_full_sort_in_blocks_of_any_size(n, m, k, seed):
    rng = np.random.default_rng(seed)
    queries = unit_rows(rng.standard_normal((n, 5)))
    keys = unit_rows(rng.standard_normal((m, 5))[rng.integers(0, m, m)])
    similarity = (queries.astype(np.float64) @ keys.astype(np.float64).T).astype(np.float32)
    expected = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    whole = cosine_top_k(queries, keys, k)
    assert np.array_equal(whole, expected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_retrieval, "_BLOCK_CELLS", 3 * m)
        assert np.array_equal(cosine_top_k(queries, keys, k), whole)


def test_equal_keys_go_to_the_lower_row_wherever_they_stand():
    rng = np.random.default_rng(0)
    one = rng.standard_normal(384)
    keys = unit_rows(rng.standard_normal((501, 384)))
    keys[[7, 100, 333, 500]] = unit_rows(one[None, :])
    for n in (1, 2, 17):
        near = cosine_top_k(unit_rows(np.repeat(one[None, :], n, axis=0)), keys, 4)
        assert near.tolist() == [[7, 100, 333, 500]] * n


def test_no_keys_and_no_queries():
    none, some = np.empty((0, 3), np.float32), np.ones((2, 3), np.float32)
    assert cosine_top_k(some, none, 5).shape == (2, 0)
    assert cosine_top_k(none, some, 5).shape == (0, 2)


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
