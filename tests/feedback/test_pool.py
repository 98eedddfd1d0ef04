import pickle

import numpy as np
import pyarrow.parquet as pq
import pytest

from personalllm.core.errors import AxisMismatch, DataError, ParameterError
from personalllm.feedback import (
    CorpusView,
    FeedbackRule,
    InteractionPool,
    RatingPool,
    RatingRule,
    interact,
    ratings,
    sample_prompts,
)
from personalllm.users import Population, utilities

RMS = ("a", "b", "c")


@pytest.fixture(scope="module")
def users():
    return Population.dirichlet(30, 0.3, RMS, seed=0)


@pytest.fixture(scope="module")
def prompts(bench):
    return sample_prompts(30, bench.rows("train"), 6, seed=0)


@pytest.fixture(scope="module")
def pool(users, scores, prompts):
    return interact(users, scores, prompts, FeedbackRule(pairs="random", tie_margin=0.3), seed=0)


def test_view_shows_every_response_once_in_another_order(bench):
    view = CorpusView(bench, seed=0)
    assert view.corpus.n_prompts == 60
    assert view.corpus.n_responses == 4
    for p in range(60):
        assert view.corpus.prompts[p] == bench.prompt(p)
        expected = tuple(bench.response(p, int(view.order[p, j])) for j in range(4))
        assert view.corpus.responses[p] == expected
        assert set(expected) == {bench.response(p, j) for j in range(4)}
    assert len({tuple(row) for row in view.order.tolist()}) > 5
    assert not np.array_equal(view.order, CorpusView(bench, seed=1).order)
    assert np.array_equal(view.order, CorpusView(bench, seed=0).order)


def test_view_places_are_inverse(bench):
    view = CorpusView(bench, seed=0)
    prompt, column = np.divmod(np.arange(240), 4)
    response = view.to_responses(prompt, column)
    assert response.dtype == np.uint8
    assert np.array_equal(view.to_columns(prompt, response), column)
    assert view.to_columns(3, view.order[3]).tolist() == [0, 1, 2, 3]
    with pytest.raises(ParameterError, match="response"):
        view.to_columns(0, 4)
    with pytest.raises(ParameterError, match="prompt"):
        view.to_responses(60, 0)


def test_texts_are_sequences(bench):
    corpus = CorpusView(bench, seed=0).corpus
    assert corpus.prompts[-1] == bench.prompt(59)
    assert corpus.prompts[1:3] == [bench.prompt(1), bench.prompt(2)]
    assert corpus.responses[-1] == corpus.responses[59]
    assert corpus.responses[:2] == [corpus.responses[0], corpus.responses[1]]
    assert len(list(corpus.prompts)) == len(list(corpus.responses)) == 60
    with pytest.raises(IndexError):
        corpus.prompts[60]
    with pytest.raises(IndexError):
        corpus.responses[-61]


def test_view_can_be_sent_to_another_process(bench):
    view = CorpusView(bench, seed=0)
    again = pickle.loads(pickle.dumps(view))
    assert again.corpus.responses[7] == view.corpus.responses[7]


def test_histories_drop_ties_and_name_the_same_texts(bench, pool, caplog):
    view = CorpusView(bench, seed=5)
    with caplog.at_level("INFO"):
        histories = pool.histories(view)
    assert 0 < pool.n_ties < len(pool)
    assert f"{pool.n_ties} of {len(pool)}" in caplog.text
    assert len(histories) == len(pool) - pool.n_ties
    assert histories.n_users == 30
    keep = np.flatnonzero(~pool.tie)
    for row, i in enumerate(keep):
        texts = histories.corpus.responses[histories.prompt[row]]
        assert texts[histories.chosen[row]] == bench.response(int(pool.prompt[i]), int(pool.chosen[i]))
        assert texts[histories.rejected[row]] == bench.response(int(pool.prompt[i]), int(pool.rejected[i]))
    assert np.array_equal(histories.user, pool.user[keep])


def test_columns_are_small_and_read_only(pool):
    assert (pool.user.dtype, pool.prompt.dtype, pool.chosen.dtype) == (np.int32, np.int32, np.uint8)
    assert sum(getattr(pool, name).nbytes for name in pool.columns_) == 11 * len(pool)
    with pytest.raises(ValueError, match="read-only"):
        pool.chosen[0] = 1


@pytest.mark.parametrize("texts", [False, True])
def test_parquet_round_trip(pool, bench, tmp_path, texts):
    path = tmp_path / "deep" / "pool.parquet"
    pool.write(path, bench if texts else None)
    again = InteractionPool.read(path)
    for name in pool.columns_:
        assert np.array_equal(getattr(again, name), getattr(pool, name))
        assert getattr(again, name).dtype == getattr(pool, name).dtype
    assert (again.n_users, again.n_prompts, again.n_responses) == (30, 60, 4)
    assert FeedbackRule.from_spec(again.origin["rule"]) == FeedbackRule(pairs="random", tie_margin=0.3)
    assert [p.name for p in path.parent.iterdir()] == ["pool.parquet"]


def test_texts_on_disk(pool, bench, tmp_path):
    pool.write(tmp_path / "pool.parquet", bench)
    table = pq.read_table(tmp_path / "pool.parquet")
    assert table.column_names[-4:] == ["prompt_id", "prompt_text", "chosen_text", "rejected_text"]
    for i, row in enumerate(table.to_pylist()):
        prompt = int(pool.prompt[i])
        assert row["prompt_id"] == f"p{prompt}"
        assert row["prompt_text"] == bench.prompt(prompt)
        assert row["chosen_text"] == bench.response(prompt, int(pool.chosen[i]))
        assert row["rejected_text"] == bench.response(prompt, int(pool.rejected[i]))
    column = pq.ParquetFile(tmp_path / "pool.parquet").metadata.row_group(0).column(7)
    assert column.path_in_schema == "chosen_text"
    assert column.has_dictionary_page
    assert "RLE_DICTIONARY" in column.encodings
    assert column.total_uncompressed_size < 240 * 40


def test_rows_of_a_selection_are_mapped_back(users, bench, scores):
    rows = bench.rows("test")
    selected = type(scores)(scores.values[rows], scores.reward_models)
    pool = interact(users, selected, sample_prompts(30, np.arange(10), 4, 0), FeedbackRule(), seed=0)
    view = CorpusView(bench, seed=0)
    with pytest.raises(AxisMismatch, match="on_rows"):
        pool.histories(view)
    with pytest.raises(AxisMismatch, match="on_rows"):
        pool.write("never.parquet", bench)
    mapped = pool.on_rows(rows, bench.n_prompts)
    assert np.array_equal(mapped.prompt, rows[pool.prompt])
    assert len(mapped.histories(view)) == len(pool)
    with pytest.raises(AxisMismatch, match="rows"):
        pool.on_rows(rows[:3], bench.n_prompts)
    with pytest.raises(ParameterError, match="rows"):
        pool.on_rows(rows, 10)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"chosen": [9, 0]}, ParameterError, "chosen"),
        ({"prompt": [0, 5]}, ParameterError, "prompt"),
        ({"user": [1, 0]}, ParameterError, "ascending"),
        ({"user": [0, 2]}, ParameterError, "user"),
        ({"tie": [False]}, AxisMismatch, "tie"),
        ({"rejected": [1, 1]}, ParameterError, "itself"),
        ({"chosen": [-1, 0]}, ParameterError, "chosen"),
    ],
)
def test_bad_columns(change, error, message):
    good = {
        "user": [0, 1], "prompt": [0, 4], "chosen": [1, 2], "rejected": [2, 1], "tie": [False, True],
        "n_users": 2, "n_prompts": 5, "n_responses": 3,
    }  # fmt: skip
    InteractionPool(**good)
    with pytest.raises(error, match=message):
        InteractionPool(**{**good, **change})


def test_files_that_are_not_pools(pool, users, scores, prompts, tmp_path):
    path = tmp_path / "pool.parquet"
    with pytest.raises(DataError, match="no file"):
        InteractionPool.read(path)
    path.write_bytes(b"not parquet at all, but long enough")
    with pytest.raises(DataError, match="cannot be read"):
        InteractionPool.read(path)
    pool.write(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    with pytest.raises(DataError, match="cannot be read"):
        InteractionPool.read(path)
    pq.write_table(pool.table().drop_columns(["tie"]), path)
    with pytest.raises(DataError, match="lacks the column tie"):
        InteractionPool.read(path)
    pq.write_table(pool.table().replace_schema_metadata(None), path)
    with pytest.raises(DataError, match="metadata"):
        InteractionPool.read(path)
    ratings(users, scores, prompts, RatingRule(), seed=0).write(path)
    with pytest.raises(DataError, match="lacks"):
        InteractionPool.read(path)


def test_quantile_ratings_use_the_whole_scale_of_each_user(users, scores, prompts):
    pool = ratings(users, scores, prompts, RatingRule(responses_per_prompt=4), seed=0)
    assert len(pool) == 30 * 6 * 4
    for user in range(30):
        counts = np.bincount(pool.rating[pool.user == user], minlength=6)[1:]
        assert (counts >= 4).all()
    value = utilities(users, scores, pool.user, pool.prompt)[np.arange(len(pool)), pool.response]
    for user in range(30):
        mine = pool.user == user
        order = np.argsort(value[mine], kind="stable")
        assert (np.diff(pool.rating[mine][order].astype(int)) >= 0).all()


def test_threshold_ratings(users, scores, prompts):
    rule = RatingRule(n_stars=4, scale="thresholds", thresholds=(-0.5, 0.0, 0.5), responses_per_prompt=2)
    pool = ratings(users, scores, prompts, rule, seed=0)
    value = utilities(users, scores, pool.user, pool.prompt)[np.arange(len(pool)), pool.response]
    assert np.array_equal(pool.rating, 1 + np.digitize(value, rule.thresholds, right=True))
    pairs = {(u, p, r) for u, p, r in zip(pool.user, pool.prompt, pool.response, strict=True)}
    assert len(pairs) == len(pool)
    assert set(pool.response.tolist()) == {0, 1, 2, 3}


def test_rating_noise_and_prefix(users, scores, prompts):
    rule = RatingRule(noise=2.0)
    noisy = ratings(users, scores, prompts, rule, seed=0)
    plain = ratings(users, scores, prompts, RatingRule(), seed=0)
    assert np.array_equal(noisy.response, plain.response)
    assert 0.2 < (noisy.rating != plain.rating).mean() < 0.95
    few = ratings(users.subset(range(10)), scores, prompts[:10], rule, seed=0)
    assert np.array_equal(few.rating, noisy.rating[: len(few)])


def test_ratings_on_disk(users, scores, prompts, bench, tmp_path):
    pool = ratings(users, scores, prompts, RatingRule(), seed=0)
    pool.write(tmp_path / "ratings.parquet", bench)
    again = RatingPool.read(tmp_path / "ratings.parquet")
    assert np.array_equal(again.rating, pool.rating)
    assert RatingRule.from_spec(again.origin["rule"]) == RatingRule()
    assert "response_text" in pq.read_schema(tmp_path / "ratings.parquet").names


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"n_stars": 1}, "n_stars"),
        ({"n_stars": 101}, "n_stars"),
        ({"scale": "stars"}, "scale"),
        ({"thresholds": (1.0,)}, "thresholds"),
        ({"scale": "thresholds", "thresholds": (1.0, 2.0)}, "thresholds must be 4"),
        ({"n_stars": 3, "scale": "thresholds", "thresholds": (1.0, 1.0)}, "ascending"),
        ({"n_stars": 2, "scale": "thresholds", "thresholds": (np.inf,)}, "finite"),
        ({"responses_per_prompt": 0}, "responses_per_prompt"),
        ({"noise": -1.0}, "noise"),
    ],
)
def test_bad_rating_rules(bad, message):
    with pytest.raises(ParameterError, match=message):
        RatingRule(**bad)


def test_more_ratings_than_responses_are_refused(users, scores, prompts):
    with pytest.raises(ParameterError, match="at most 4"):
        ratings(users, scores, prompts, RatingRule(responses_per_prompt=5), seed=0)


def test_histories_say_whether_users_named_their_best_and_worst(bench, users, scores, prompts, tmp_path):
    view = CorpusView(bench, seed=0)
    named = interact(users, scores, prompts, FeedbackRule(), seed=0)
    named.write(tmp_path / "named.parquet")
    history = InteractionPool.read(tmp_path / "named.parquet").histories(view)
    assert history.best_worst.all()
    comparisons, _ = history.implied()
    assert len(comparisons) == 5 * len(history)  # 2 n - 3 of n = 4 responses
    value = utilities(users, scores, comparisons.user, comparisons.prompt)
    rows = np.arange(len(comparisons))
    chosen, rejected = (
        value[rows, view.to_responses(comparisons.prompt, side)] for side in (comparisons.chosen, comparisons.rejected)
    )
    assert (chosen >= rejected).all()
    for rule, all_seen in ((FeedbackRule(pairs="ranks", ranks=(0, -1)), True), (FeedbackRule(pairs="random"), False)):
        assert interact(users, scores, prompts, rule, seed=0).histories(view).best_worst.all() == all_seen
