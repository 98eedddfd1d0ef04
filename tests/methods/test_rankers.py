import numpy as np
import pytest

from personalllm.core.types import Corpus, Histories, Queries
from personalllm.methods import get_method
from personalllm.methods.parts import vectors
from personalllm.testing import HashEmbedder


class Counting(HashEmbedder):
    """Remembers the texts of each call."""

    calls: list = []

    def embed(self, texts):
        self.calls.append(list(texts))
        return super().embed(texts)


def user_vectors(histories, embedder):
    """The definition, one user at a time."""
    texts = histories.corpus.responses
    result = []
    for user in range(histories.n_users):
        rows = np.flatnonzero(histories.user == user)
        chosen = embedder.embed([texts[histories.prompt[i]][histories.chosen[i]] for i in rows])
        rejected = embedder.embed([texts[histories.prompt[i]][histories.rejected[i]] for i in rows])
        result.append((chosen - rejected).sum(axis=0))
    return np.array(result), np.bincount(histories.user, minlength=histories.n_users)


def cosine(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


@pytest.mark.parametrize("shrinkage", [0.0, 2.5])
def test_the_embedding_ranker_is_the_cosine_with_the_users_mean_difference(make_histories, make_queries, shrinkage):
    embedder = HashEmbedder(16)
    pool, targets = make_histories([5, 2, 7], "pool"), make_histories([4, 0, 9], "targets")
    queries = make_queries([2, 0, 1, 2, 0], [25, 26, 25, 29, 25], 3)
    ranker = get_method("embedding-ranker", shrinkage=shrinkage).bind(embedder=embedder).fit(pool).adapt(targets)
    scores = ranker.utilities(queries)
    pool_sums, pool_counts = user_vectors(pool, embedder)
    prior = pool_sums.sum(axis=0) / pool_counts.sum()
    sums, counts = user_vectors(targets, embedder)
    for i, (user, prompt) in enumerate(zip(queries.user, queries.prompt, strict=True)):
        n = counts[user]
        vector = (sums[user] + shrinkage * prior) / (n + shrinkage) if n else prior
        expected = [cosine(vector, e) for e in embedder.embed(queries.corpus.responses[prompt])]
        assert scores[i] == pytest.approx(expected, abs=1e-5)


def test_the_pooled_ranker_serves_everybody_alike(make_histories, make_queries):
    embedder = HashEmbedder(16)
    pool = make_histories([5, 2, 7], "pool")
    ranker = get_method("pooled-ranker").bind(embedder=embedder).fit(pool).adapt(make_histories([4, 4], "t"))
    scores = ranker.utilities(make_queries([0, 1, 1], [25, 25, 26], 2))
    sums, counts = user_vectors(pool, embedder)
    prior = sums.sum(axis=0) / counts.sum()
    assert scores[0] == pytest.approx([cosine(prior, e) for e in embedder.embed(pool.corpus.responses[25])], abs=1e-5)
    assert np.array_equal(scores[0], scores[1])
    assert not np.array_equal(scores[0], scores[2])


def test_the_embedding_ranker_equals_the_pooled_one_without_history(make_histories, make_queries, corpus):
    pool, queries = make_histories([5, 2, 7], "pool"), make_queries([0, 1, 1], [25, 25, 26], 2)
    both = [
        get_method(name).bind(embedder=HashEmbedder()).fit(pool).adapt(Histories.empty(corpus, 2)).utilities(queries)
        for name in ("embedding-ranker", "pooled-ranker")
    ]
    assert np.array_equal(*both)


def test_a_strong_prior_approaches_the_pooled_ranker(make_histories, make_queries):
    pool, targets = make_histories([5, 2, 7], "pool"), make_histories([4, 3], "targets")
    queries = make_queries([0, 1], [25, 26], 2)
    shrunk = get_method("embedding-ranker", shrinkage=1e7).bind(embedder=HashEmbedder()).fit(pool).adapt(targets)
    pooled = get_method("pooled-ranker").bind(embedder=HashEmbedder()).fit(pool)
    assert shrunk.utilities(queries) == pytest.approx(pooled.utilities(queries), abs=1e-4)


def test_nothing_known_gives_equal_scores(corpus, make_queries):
    none = Histories.empty(corpus, 2)
    ranker = get_method("embedding-ranker").bind(embedder=HashEmbedder()).fit(none).adapt(none)
    assert not ranker.utilities(make_queries([0, 1], [25, 26], 2)).any()


def test_each_distinct_text_is_embedded_once(make_histories, make_queries):
    embedder = Counting()
    embedder.calls.clear()
    pool = make_histories([20] * 30, "pool")
    ranker = get_method("embedding-ranker").bind(embedder=embedder).fit(pool).adapt(pool)
    ranker.utilities(make_queries([0, 1, 2, 2], [25, 25, 25, 26], 30))
    sizes = [len(call) for call in embedder.calls]
    assert all(len(call) == len(set(call)) for call in embedder.calls)
    assert sizes[-1] == 2 * pool.corpus.n_responses
    assert sizes[0] <= 24 * pool.corpus.n_responses


def test_scores_are_the_same_bits_in_wide_and_in_narrow_products(make_histories, make_queries, monkeypatch):
    targets = make_histories([6] * 12, "targets")
    ranker = get_method("embedding-ranker").bind(embedder=HashEmbedder(384)).fit(targets).adapt(targets)
    queries = make_queries(np.repeat(np.arange(12), 6), np.tile(np.arange(24, 30), 12), 12)
    wide = ranker.utilities(queries)
    for i in range(0, len(queries), 5):
        assert np.array_equal(
            ranker.utilities(make_queries(queries.user[i : i + 1], queries.prompt[i : i + 1], 12))[0], wide[i]
        )
    monkeypatch.setattr(vectors, "_PROMPT_BLOCK", 2)
    assert np.array_equal(ranker.utilities(queries), wide)


def test_longest_counts_characters():
    corpus = Corpus(["p", "q"], [["abc", "", "é\U0001f680"], ["a", "bb", "a b c"]])
    queries = Queries(corpus, 1, np.zeros(3), np.array([1, 0, 1]))
    assert get_method("longest").utilities(queries).tolist() == [[1, 2, 5], [3, 0, 2], [1, 2, 5]]


def test_random_is_uniform_and_independent_between_users_prompts_and_seeds(corpus, make_queries):
    n = 3_000
    queries = make_queries(np.repeat(np.arange(n), 2), np.tile([3, 4], n), n)
    first, second = (get_method("random").bind(seed=seed).utilities(queries) for seed in (0, 1))
    assert first.min() >= 0
    assert first.max() < 1
    top = np.bincount(first.argmax(axis=1), minlength=4) / len(first)
    assert np.allclose(top, 0.25, atol=0.025)
    assert abs(np.corrcoef(first[::2, 0], first[1::2, 0])[0, 1]) < 0.06
    assert abs(np.corrcoef(first[:, 0], first[:, 1])[0, 1]) < 0.06
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.06
