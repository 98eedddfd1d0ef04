import numpy as np
import pytest

from personalllm.algorithms import get_algorithm
from personalllm.testing import EchoChatModel, HashEmbedder
from personalllm.types import Histories, Message

EMBEDDER = HashEmbedder(32)


def trained(name, pool, targets, **params):
    algorithm = get_algorithm(name, **params)
    return algorithm.bind(embedder=EMBEDDER, llm=EchoChatModel()).fit(pool).adapt(targets)


def shown(conversation):
    """The examples of a conversation, (prompt, liked), most relevant first."""
    turns = conversation.messages[1:-1]
    pairs = [(turns[i].content, turns[i + 1].content) for i in range(0, len(turns), 2)]
    return pairs[::-1]


def chosen(histories, row):
    prompt = histories.prompt[row]
    return histories.corpus.prompts[prompt], histories.corpus.responses[prompt][histories.chosen[row]]


def test_zero_shot_is_the_prompt_alone(make_histories, make_queries, corpus):
    asked = trained("zero-shot", make_histories([3]), make_histories([3])).messages(make_queries([0, 0], [27, 25], 1))
    assert [c.messages for c in asked] == [
        (Message("user", corpus.prompts[27]),),
        (Message("user", corpus.prompts[25]),),
    ]


def test_self_icl_shows_the_latest_interactions(make_histories, make_queries):
    targets = make_histories([2, 6, 0], "targets")
    asked = trained("self-icl", targets, targets, n_shots=3).messages(make_queries([1, 0, 2], [25, 25, 26], 3))
    assert shown(asked[0]) == [chosen(targets, row) for row in (7, 6, 5)]
    assert shown(asked[1]) == [chosen(targets, row) for row in (1, 0)]
    assert [c.n_examples for c in asked] == [3, 2, 0]
    assert len(asked[2].messages) == 1


def test_icl_shows_the_users_nearest_prompts(make_histories, make_queries, corpus):
    targets = make_histories([12, 9], "targets")
    queries = make_queries([1, 0, 1], [25, 26, 27], 2)
    for i, conversation in enumerate(trained("icl", targets, targets, n_shots=4).messages(queries)):
        user, prompt = queries.user[i], queries.prompt[i]
        rows = np.flatnonzero(targets.user == user)
        vectors = EMBEDDER.embed([corpus.prompts[targets.prompt[row]] for row in rows])
        near = rows[np.argsort(-(vectors @ EMBEDDER.embed([corpus.prompts[prompt]])[0]), kind="stable")[:4]]
        assert shown(conversation) == [chosen(targets, row) for row in near]


def joint_vectors(histories):
    """Mean of e(prompt, chosen) - e(prompt, rejected) for each user, at unit length, one user at a time."""
    corpus, result = histories.corpus, []
    for user in range(histories.n_users):
        rows = np.flatnonzero(histories.user == user)
        sides = [
            EMBEDDER.embed(
                [
                    f"{corpus.prompts[histories.prompt[i]]}\n\n{corpus.responses[histories.prompt[i]][side[i]]}"
                    for i in rows
                ]
            )
            for side in (histories.chosen, histories.rejected)
        ]
        mean = (sides[0] - sides[1]).mean(axis=0)
        result.append(mean / np.linalg.norm(mean))
    return np.array(result)


def test_meta_icl_shows_similar_users_nearest_prompts_winning(make_histories, make_queries, corpus):
    pool, targets = make_histories([9, 4, 8, 7, 6, 9], "pool"), make_histories([5, 8], "targets")
    queries = make_queries([1, 0, 1], [25, 26, 27], 2)
    algorithm = trained("meta-icl", pool, targets, n_shots=3, n_similar=2)
    similarity = joint_vectors(targets) @ joint_vectors(pool).T
    neighbours = np.argsort(-similarity, axis=1, kind="stable")[:, :2]
    assert np.array_equal(algorithm.similar_, neighbours)
    for i, conversation in enumerate(algorithm.messages(queries)):
        asked = EMBEDDER.embed([corpus.prompts[queries.prompt[i]]])[0]
        first_of_prompt = {}
        for neighbour in neighbours[queries.user[i]]:
            for row in np.flatnonzero(pool.user == neighbour):
                first_of_prompt.setdefault(int(pool.prompt[row]), row)
        near = sorted(first_of_prompt, key=lambda p: -float(EMBEDDER.embed([corpus.prompts[p]])[0] @ asked))[:3]
        assert shown(conversation) == [chosen(pool, first_of_prompt[p]) for p in near]


def test_meta_icl_passes_over_pool_users_without_history(make_histories, make_queries):
    pool, targets = make_histories([0, 4, 0, 5, 0], "pool"), make_histories([5], "targets")
    algorithm = trained("meta-icl", pool, targets, n_similar=4)
    assert sorted(algorithm.similar_[0].tolist()) == [1, 3]
    assert algorithm.messages(make_queries([0], [25], 1))[0].n_examples == 3


def test_meta_icl_gives_a_new_user_the_pools_typical_users(make_histories, make_queries, corpus):
    pool = make_histories([9, 4, 8, 7], "pool")
    algorithm = trained("meta-icl", pool, Histories.empty(corpus, 1), n_similar=2)
    mean = algorithm.pool_mean_ / np.linalg.norm(algorithm.pool_mean_)
    assert algorithm.similar_[0].tolist() == np.argsort(-(joint_vectors(pool) @ mean), kind="stable")[:2].tolist()
    assert algorithm.messages(make_queries([0], [25], 1))[0].n_examples == 3


@pytest.mark.parametrize("name", ["icl", "self-icl", "meta-icl"])
def test_without_any_history_they_become_zero_shot(name, corpus, make_queries):
    none, queries = Histories.empty(corpus, 2), make_queries([0, 1], [25, 26], 2)
    assert trained(name, none, none).messages(queries) == trained("zero-shot", none, none).messages(queries)
