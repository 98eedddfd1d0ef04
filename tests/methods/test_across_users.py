"""The methods that borrow from other users, against their definitions, one user and one pair at a time."""

import numpy as np
import pytest

from personalllm.core.types import Histories
from personalllm.methods import get_method
from personalllm.methods.parts import vectors
from personalllm.methods.parts.prompting import shown_example
from personalllm.methods.parts.vectors import PairVectors
from personalllm.testing import EchoChatModel, HashEmbedder

EMBEDDER = HashEmbedder(32)
EMBEDDINGS = ("winning-minus-losing", "winning", "losing")
ACROSS = ("meta-icl", "lookup-icl")


class Counting(HashEmbedder):
    """Remembers the texts that it embedded."""

    texts: list = []

    def embed(self, texts):
        self.texts.extend(texts)
        return super().embed(texts)


def trained(name, pool, targets, embedder=EMBEDDER, **params):
    return get_method(name, **params).bind(embedder=embedder, llm=EchoChatModel()).fit(pool).adapt(targets)


def pair_vectors(histories, user, embedding, pairs=None):
    """Vectors of one user's first interactions, by the definition."""
    rows = np.flatnonzero(histories.user == user)[:pairs]
    corpus = histories.corpus
    winning, losing = (
        [
            EMBEDDER.embed([f"{corpus.prompts[p]}\n\n{corpus.responses[p][c]}"])[0]
            for p, c in zip(histories.prompt[rows], side[rows], strict=True)
        ]
        for side in (histories.chosen, histories.rejected)
    )
    if embedding == "winning-minus-losing":
        return np.array(winning) - np.array(losing)
    return np.array(winning if embedding == "winning" else losing)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def best(scores, candidates, k):
    return [candidates[i] for i in np.argsort(-np.round(np.array(scores), 6), kind="stable")[:k]]


def borrowed(pool, similar, asked, n_shots):
    """Rows of the pool that are shown: each prompt as the most similar of the users answered it, nearest first."""
    first_of_prompt = {}
    for user in similar:
        for row in np.flatnonzero(pool.user == user):
            first_of_prompt.setdefault(int(pool.prompt[row]), row)
    cosine = {p: float(EMBEDDER.embed([pool.corpus.prompts[p]])[0] @ asked) for p in first_of_prompt}
    return [first_of_prompt[p] for p in sorted(cosine, key=lambda p: -cosine[p])[:n_shots]]


@pytest.mark.parametrize("embedding", EMBEDDINGS)
@pytest.mark.parametrize("pairs", [None, 1, 5])
def test_meta_icl_is_its_definition(make_histories, make_queries, corpus, shown, embedding, pairs):
    pool, targets = make_histories([9, 4, 8, 7, 6, 9], "pool"), make_histories([5, 8], "targets")
    queries = make_queries([1, 0, 1], [25, 26, 27], 2)
    method = trained("meta-icl", pool, targets, n_similar=2, embedding=embedding, embedding_pairs=pairs)
    theirs = unit(np.array([pair_vectors(pool, u, embedding, pairs).mean(axis=0) for u in range(6)]))
    for i, conversation in enumerate(method.messages(queries)):
        own = unit(pair_vectors(targets, queries.user[i], embedding).mean(axis=0))
        similar = best(theirs @ own, range(6), 2)
        assert method.similar_[queries.user[i]].tolist() == similar
        asked = EMBEDDER.embed([corpus.prompts[queries.prompt[i]]])[0]
        expected = [shown_example(pool, row, "winning") for row in borrowed(pool, similar, asked, 3)]
        assert shown(conversation) == expected


@pytest.mark.parametrize("embedding", EMBEDDINGS)
@pytest.mark.parametrize(("pairs", "n_prompts", "n_similar"), [(None, 1, 2), (None, 3, 1), (2, 2, 3), (1, 50, 2)])
def test_lookup_icl_is_its_definition(
    make_histories, make_queries, corpus, shown, embedding, pairs, n_prompts, n_similar
):
    pool, targets = make_histories([5, 4, 0, 6, 3, 6, 5], "pool"), make_histories([5, 0, 8], "targets")
    queries = make_queries([2, 0, 1, 2, 0], [25, 26, 27, 28, 25], 3)
    method = trained(
        "lookup-icl",
        pool,
        targets,
        n_shots=4,
        n_similar=n_similar,
        n_prompts=n_prompts,
        embedding=embedding,
        embedding_pairs=pairs,
    )
    everything = np.concatenate([pair_vectors(pool, u, embedding, pairs) for u in (0, 1, 3, 4, 5, 6)])
    distinct = np.unique(pool.prompt)
    orders = []
    for i, conversation in enumerate(method.messages(queries)):
        asked = EMBEDDER.embed([corpus.prompts[queries.prompt[i]]])[0]
        cosine = EMBEDDER.embed([corpus.prompts[p] for p in distinct]) @ asked
        near = distinct[np.argsort(-cosine, kind="stable")[:n_prompts]]
        candidates = [u for u in range(7) if np.isin(pool.prompt[pool.user == u], near).any()]
        user = queries.user[i]
        own = pair_vectors(targets, user, embedding) if user != 1 else everything.mean(axis=0)[None]
        scores = [(unit(own) @ unit(pair_vectors(pool, u, embedding, pairs)).T).max(axis=1).mean() for u in candidates]
        similar = best(scores, candidates, n_similar)
        orders.append(best(scores, candidates, len(candidates)) != candidates)
        assert shown(conversation) == [shown_example(pool, row, "winning") for row in borrowed(pool, similar, asked, 4)]
        assert conversation.n_examples == len(shown(conversation))
    assert any(orders), "the order of the candidates must matter for one query at least"


@pytest.mark.parametrize("name", ACROSS)
def test_pool_users_without_history_are_passed_over(name, make_histories, make_queries):
    pool, targets = make_histories([0, 4, 0, 5, 0], "pool"), make_histories([5], "targets")
    method = trained(name, pool, targets, n_similar=4)
    if name == "meta-icl":
        assert sorted(method.similar_[0].tolist()) == [1, 3]
    assert method.messages(make_queries([0], [25], 1))[0].n_examples == 3


@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_meta_icl_gives_a_new_user_the_pools_typical_users(make_histories, make_queries, corpus, embedding):
    pool = make_histories([9, 4, 8, 7], "pool")
    method = trained("meta-icl", pool, Histories.empty(corpus, 1), n_similar=2, embedding=embedding)
    vectors = [pair_vectors(pool, u, embedding) for u in range(4)]
    mean = np.concatenate(vectors).mean(axis=0)
    scores = unit(np.array([v.mean(axis=0) for v in vectors])) @ unit(mean)
    assert method.similar_[0].tolist() == best(scores, range(4), 2)
    assert method.messages(make_queries([0], [25], 1))[0].n_examples == 3


@pytest.mark.parametrize("name", ACROSS)
def test_a_target_without_history_beside_others_changes_nothing_for_them(name, make_histories, make_queries):
    pool, targets = make_histories([5, 4, 6, 7], "pool"), make_histories([4, 0, 6, 0], "targets")
    alone = Histories(targets.corpus, 2, targets.user // 2, targets.prompt, targets.chosen, targets.rejected)
    with_others = trained(name, pool, targets, n_similar=1).messages(make_queries([0, 2], [25, 26], 4))
    assert with_others == trained(name, pool, alone, n_similar=1).messages(make_queries([0, 1], [25, 26], 2))


@pytest.mark.parametrize("name", ACROSS)
def test_the_examples_are_said_to_be_of_others(name, make_histories, make_queries):
    pool = make_histories([5, 4], "pool")
    text = trained(name, pool, pool).messages(make_queries([0], [25], 2))[0].messages[0].content
    assert text.startswith("Here are prompts that people with my taste asked before, each with a response that they")


@pytest.mark.parametrize("name", ACROSS)
def test_only_the_first_pairs_are_embedded_and_all_are_shown(name, make_histories, make_queries, corpus, shown):
    embedder = Counting(32)
    embedder.texts.clear()
    pool, targets = make_histories([6, 5], "pool"), make_histories([2], "targets")
    method = get_method(name, embedding_pairs=1, n_shots=50).bind(embedder=embedder, llm=EchoChatModel())
    method.fit(pool)
    assert sum("\n\n" in text for text in embedder.texts) == 4
    conversation = method.adapt(targets).messages(make_queries([0], [25], 1))[0]
    if name == "meta-icl":
        assert {e.prompt for e in shown(conversation)} == {corpus.prompts[p] for p in pool.prompt}


def test_the_first_interactions_of_each_user(make_histories):
    histories = make_histories([3, 0, 1, 5], "h")
    assert histories.first(None) is histories
    cut = histories.first(2)
    assert cut.user.tolist() == [0, 0, 2, 3, 3]
    assert cut.n_users == 4
    assert cut.prompt.tolist() == histories.prompt[[0, 1, 3, 4, 5]].tolist()
    assert cut.chosen.tolist() == histories.chosen[[0, 1, 3, 4, 5]].tolist()
    assert cut.rejected.tolist() == histories.rejected[[0, 1, 3, 4, 5]].tolist()


def test_the_histories_of_some_users(make_histories):
    histories = make_histories([3, 0, 1, 5], "h")
    some = histories.of_users(1, 3)
    assert (some.n_users, some.user.tolist()) == (2, [1])
    assert some.prompt.tolist() == histories.prompt[3:4].tolist()
    assert histories.of_users(0, 4).chosen.tolist() == histories.chosen.tolist()


@pytest.mark.parametrize("embedding", EMBEDDINGS)
@pytest.mark.parametrize("block", [2, 8_192])
def test_each_distinct_interaction_gets_one_vector(make_histories, embedding, block, monkeypatch):
    histories = make_histories([4, 6, 3], "h")
    double = Histories(
        histories.corpus,
        6,
        np.concatenate([histories.user, histories.user + 3]),
        *(np.tile(column, 2) for column in (histories.prompt, histories.chosen, histories.rejected)),
    )
    with monkeypatch.context() as patch:
        patch.setattr(vectors, "_PAIR_BLOCK", block)
        pairs = PairVectors.of(EMBEDDER, double, embedding)
    assert np.array_equal(pairs.index[:13], pairs.index[13:])
    assert len(pairs.units) == len(np.unique(pairs.index)) <= 13
    expected = np.concatenate([pair_vectors(histories, u, embedding) for u in range(3)])
    assert pairs.units[pairs.index[:13]] == pytest.approx(unit(expected), abs=1e-6)
    assert pairs.mean == pytest.approx(expected.mean(axis=0), abs=1e-6)


@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_no_interactions_have_no_vectors(corpus, embedding):
    none = PairVectors.of(EMBEDDER, Histories.empty(corpus, 2), embedding)
    assert none.units.shape == (0, 32)
    assert len(none.index) == 0
    assert none.mean.tolist() == [0] * 32
