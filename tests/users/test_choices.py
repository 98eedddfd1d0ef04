import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personalllm.core.errors import AxisMismatch, ParameterError
from personalllm.users import Population, choices, choices_at, iter_utilities, ranks, utilities
from personalllm.users.choices import _choices

METHODS = ("numpy", "buffered", "fused")


def names(n):
    return [f"rm{b}" for b in range(n)]


def reference(weights, scores):
    """float32 utilities, one product and one sum at a time, (n_users, n_prompts, n_responses)."""
    w = weights.astype(np.float32)
    total = w[:, None, None, 0] * scores[None, :, :, 0]
    for b in range(1, scores.shape[2]):
        total = total + w[:, None, None, b] * scores[None, :, :, b]
    assert total.dtype == np.float32
    return total


def make(n_users, shape, seed=0, *, coarse=False):
    rng = np.random.default_rng(seed)
    scores = rng.integers(-2, 3, shape) if coarse else rng.standard_normal(shape)
    return Population.dirichlet(n_users, 0.3, names(shape[2]), seed), scores.astype(np.float32)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("shape", [(131, 8, 10), (64, 8, 10), (7, 8, 10)])
def test_every_method_equals_the_reference(method, coarse, shape):
    users, scores = make(67, shape, coarse=coarse)
    expected = reference(users.weights, scores)
    best, worst = _choices(users, scores, method, threads=2)
    assert best.dtype == worst.dtype == np.uint8
    assert np.array_equal(best, expected.argmax(axis=2))
    assert np.array_equal(worst, expected.argmin(axis=2))


@pytest.mark.parametrize("shape", [(70, 20, 11), (3, 255, 1), (65, 2, 2), (66, 5, 4)])
def test_buffered_method_takes_any_shape(shape):
    users, scores = make(5, shape)
    expected = reference(users.weights, scores)
    best, worst = _choices(users, scores, "buffered", threads=1)
    assert np.array_equal(best, expected.argmax(axis=2))
    assert np.array_equal(worst, expected.argmin(axis=2))


def test_large_work_is_compiled_and_equals_numpy(monkeypatch):
    users, scores = make(1_200, (600, 8, 10))
    assert users.n_users * scores.size > 50_000_000
    fast = choices(users, scores, threads=2)
    slow = _choices(users, scores, "numpy", threads=2)
    assert np.array_equal(fast[0], slow[0])
    assert np.array_equal(fast[1], slow[1])


@pytest.mark.parametrize("method", METHODS)
def test_last_bit_is_that_of_separate_products_and_sums(method):
    """Scores for which a fused multiply-add would pick the other response."""
    rng = np.random.default_rng(5)
    weights = rng.dirichlet([1.0, 1.0], 4_000)
    users = Population(weights=weights, reward_models=names(2))
    w = weights.astype(np.float32)
    scores = rng.standard_normal((64, 2, 2)).astype(np.float32)
    scores[:, 1] = scores[:, 0] + np.float32(1e-7) * rng.standard_normal((64, 2)).astype(np.float32)
    plain = reference(weights, scores)
    wide = w.astype(np.float64)[:, None, None]
    fused = (wide[..., 1] * scores[..., 1] + (w[:, None, None, 0] * scores[None, ..., 0])).astype(np.float32)
    assert (plain.argmax(axis=2) != fused.argmax(axis=2)).any()
    assert np.array_equal(_choices(users, scores, method, 1)[0], plain.argmax(axis=2))


@settings(max_examples=30, deadline=None)
@given(
    n_users=st.integers(1, 20),
    n_prompts=st.integers(1, 20),
    n_responses=st.integers(1, 9),
    n_rms=st.integers(1, 6),
    seed=st.integers(0, 10_000),
    coarse=st.booleans(),
)
def test_choices_utilities_and_ranks_agree(n_users, n_prompts, n_responses, n_rms, seed, coarse):
    users, scores = make(n_users, (n_prompts, n_responses, n_rms), seed, coarse=coarse)
    expected = reference(users.weights, scores)
    best, worst = choices(users, scores)
    assert np.array_equal(best, expected.argmax(axis=2))
    assert np.array_equal(worst, expected.argmin(axis=2))
    order = ranks(users, scores, list(range(n_responses)))
    assert np.array_equal(np.sort(order, axis=2), np.broadcast_to(np.arange(n_responses), order.shape))
    assert np.array_equal(order, np.argsort(-expected, axis=2, kind="stable"))
    assert np.array_equal(ranks(users, scores, [-1])[..., 0], order[..., -1])
    assert np.array_equal(order[..., 0], best)
    for rows, block in iter_utilities(users, scores, users_per_block=7):
        assert np.array_equal(block, expected[rows])
    rng = np.random.default_rng(seed)
    user, prompt = rng.integers(0, n_users, 11), rng.integers(0, n_prompts, 11)
    assert np.array_equal(utilities(users, scores, user, prompt), expected[user, prompt])
    prompts = rng.integers(0, n_prompts, (n_users, 3))
    at = np.arange(n_users)[:, None]
    some_best, some_worst = choices_at(users, scores, prompts)
    assert np.array_equal(some_best, best[at, prompts])
    assert np.array_equal(some_worst, worst[at, prompts])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), method=st.sampled_from(["numpy", "buffered"]))
def test_permutations(seed, method):
    """Weights in 64ths and integer scores: sums are exact, so the order of the reward models cannot matter."""
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(64, [0.25] * 4, size=9) / 64
    scores = rng.permuted(np.arange(6 * 5 * 4).reshape(6, 5, 4) % 97, axis=1).astype(np.float32)
    users = Population(weights=weights, reward_models=names(4))
    best, worst = _choices(users, scores, method, 1)
    order = rng.permutation(4)
    again = Population(weights=weights[:, order], reward_models=[names(4)[b] for b in order])
    assert np.array_equal(_choices(again, scores[:, :, order], method, 1)[0], best)
    utility = reference(weights, scores)
    untied = np.array([[len(set(row)) == 5 for row in user] for user in utility])
    shuffle = rng.permutation(5)
    moved_best, moved_worst = _choices(users, scores[:, shuffle], method, 1)
    assert np.array_equal(shuffle[moved_best][untied], best[untied])
    assert np.array_equal(shuffle[moved_worst][untied], worst[untied])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), response=st.integers(0, 4), rise=st.floats(0.01, 5))
def test_a_better_score_never_costs_a_response_its_place(seed, response, rise):
    users, scores = make(8, (6, 5, 3), seed)
    order = ranks(users, scores, list(range(5)))
    better = scores.copy()
    better[:, response] += np.float32(rise)
    after = ranks(users, better, list(range(5)))
    assert ((after == response).argmax(axis=2) <= (order == response).argmax(axis=2)).all()


def test_first_of_equal_responses_is_chosen():
    users = Population.uniform(names(2))
    scores = np.zeros((1, 3, 2), np.float32)
    for method in METHODS:
        best, worst = _choices(users, scores, method, 1)
        assert (best.item(), worst.item()) == (0, 0)
    assert ranks(users, scores, [0, 1, -1]).tolist() == [[[0, 1, 2]]]


@pytest.mark.parametrize("threads", [1, 2, 5, None])
def test_threads_do_not_matter(threads):
    users, scores = make(300, (10, 4, 3))
    assert np.array_equal(choices(users, scores, threads=threads)[0], choices(users, scores, threads=1)[0])
    assert np.array_equal(ranks(users, scores, [0], threads=threads), ranks(users, scores, [0], threads=1))


def test_first_users_do_not_depend_on_the_number_of_users():
    many, scores = make(200, (10, 4, 3))
    few = many.subset(np.arange(30))
    assert np.array_equal(choices(few, scores)[0], choices(many, scores)[0][:30])


USERS = Population.one_per_reward_model(names(2))
SCORES = np.zeros((3, 2, 2), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: choices(USERS, SCORES[..., :1]), AxisMismatch, "2 reward models"),
        (lambda: choices(USERS, SCORES[0]), AxisMismatch, "shape"),
        (lambda: choices(USERS, SCORES.astype(np.float64)), ParameterError, "float32"),
        (lambda: choices(USERS, SCORES + np.float32(np.nan)), ParameterError, "finite"),
        (lambda: choices(USERS, SCORES - np.float32(np.inf)), ParameterError, "finite"),
        (lambda: choices(USERS, np.zeros((1, 256, 2), np.float32)), ParameterError, "255 responses"),
        (lambda: choices(USERS, SCORES, threads=0), ParameterError, "threads"),
        (lambda: ranks(USERS, SCORES, [2]), ParameterError, r"\[-2, 2\)"),
        (lambda: ranks(USERS, SCORES, [-3]), ParameterError, "positions"),
        (lambda: ranks(USERS, SCORES, [0.5]), ParameterError, "positions"),
        (lambda: utilities(USERS, SCORES, [0, 1], [0]), AxisMismatch, "not pairs"),
        (lambda: utilities(USERS, SCORES, [2], [0]), ParameterError, r"users must be in \[0, 2\)"),
        (lambda: utilities(USERS, SCORES, [0], [-1]), ParameterError, "prompts"),
        (lambda: utilities(USERS, SCORES, [0], [0.0]), ParameterError, "integers"),
        (lambda: choices_at(USERS, SCORES, [[0]]), AxisMismatch, "one row of prompts for each user"),
        (lambda: choices_at(USERS, SCORES, [[0], [3]]), ParameterError, r"\[0, 3\)"),
        (lambda: iter_utilities(USERS, SCORES, users_per_block=0), ParameterError, "users_per_block"),
    ],
)
def test_bad_values(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_no_prompts_give_empty_results():
    empty = np.zeros((0, 2, 2), np.float32)
    assert choices(USERS, empty)[0].shape == (2, 0)
    assert ranks(USERS, empty).shape == (2, 0, 2)
    assert utilities(USERS, SCORES, [], []).shape == (0, 2)


CACHE = """
import numpy as np
from personalllm.users import Population
from personalllm.users.choices import _choices
users = Population.uniform(("a", "b"))
print(_choices(users, np.array([[[1, 2], [0, 0]]], np.float32), "fused", 1)[0])
"""


def run(code, **env):
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **env}).stdout


def test_import_is_light():
    loaded = "import sys, personalllm.users, personalllm.feedback; print(*sorted(sys.modules))"
    modules = set(run(loaded).split())
    heavy = {"numba", "scipy", "pyarrow", "sklearn", "matplotlib"}
    assert not heavy & modules


def test_kernels_are_kept_where_the_user_says(tmp_path):
    assert run(CACHE, NUMBA_CACHE_DIR=str(tmp_path)).strip() == "[[0]]"
    assert list(tmp_path.rglob("*.nbc"))


def test_kernels_work_where_nothing_can_be_kept():
    refuse = "import numba.core.caching as c; c.CacheImpl._locator_classes = []; "
    assert run(refuse + CACHE).strip() == "[[0]]"
