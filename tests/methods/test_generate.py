import numpy as np
import pytest

from personalllm.core.types import Corpus, Histories, Message, Queries
from personalllm.methods import get_method
from personalllm.methods.parts.prompting import Example
from personalllm.testing import EchoChatModel, HashEmbedder

EMBEDDER = HashEmbedder(32)
BOTH = "winning-and-losing"
MODES = ("winning", "losing", BOTH, "losing-as-winning")
MODE = pytest.mark.parametrize(
    ("feedback", "layout"), [(mode, "text") for mode in MODES] + [("winning", "turns"), ("losing-as-winning", "turns")]
)


def trained(name, pool, targets, **params):
    method = get_method(name, **params)
    return method.bind(embedder=EMBEDDER, llm=EchoChatModel()).fit(pool).adapt(targets)


def example(histories, row, feedback="winning"):
    """What a feedback mode shows of one interaction, by the definition."""
    prompt = histories.prompt[row]
    chosen, rejected = (
        histories.corpus.responses[prompt][side[row]] for side in (histories.chosen, histories.rejected)
    )
    liked = {"winning": chosen, "winning-and-losing": chosen, "losing-as-winning": rejected}.get(feedback)
    return Example(histories.corpus.prompts[prompt], liked, rejected if feedback in ("losing", BOTH) else None)


def test_zero_shot_is_the_prompt_alone(make_histories, make_queries, corpus):
    asked = trained("zero-shot", make_histories([3]), make_histories([3])).messages(make_queries([0, 0], [27, 25], 1))
    assert [c.messages for c in asked] == [
        (Message("user", corpus.prompts[27]),),
        (Message("user", corpus.prompts[25]),),
    ]


@MODE
def test_self_icl_shows_the_latest_interactions(make_histories, make_queries, shown, feedback, layout):
    targets = make_histories([2, 6, 0], "targets")
    queries = make_queries([1, 0, 2], [25, 25, 26], 3)
    asked = trained("self-icl", targets, targets, n_shots=3, feedback=feedback, layout=layout).messages(queries)
    assert shown(asked[0]) == [example(targets, row, feedback) for row in (7, 6, 5)]
    assert shown(asked[1]) == [example(targets, row, feedback) for row in (1, 0)]
    assert [c.n_examples for c in asked] == [3, 2, 0]
    assert [c.n_dropped for c in asked] == [0, 0, 0]
    assert len(asked[2].messages) == 1


@MODE
def test_icl_shows_the_users_nearest_prompts(make_histories, make_queries, corpus, shown, feedback, layout):
    targets = make_histories([12, 9], "targets")
    queries = make_queries([1, 0, 1], [25, 26, 27], 2)
    method = trained("icl", targets, targets, n_shots=4, feedback=feedback, layout=layout)
    for i, conversation in enumerate(method.messages(queries)):
        user, prompt = queries.user[i], queries.prompt[i]
        rows = np.flatnonzero(targets.user == user)
        vectors = EMBEDDER.embed([corpus.prompts[targets.prompt[row]] for row in rows])
        near = rows[np.argsort(-(vectors @ EMBEDDER.embed([corpus.prompts[prompt]])[0]), kind="stable")[:4]]
        assert shown(conversation) == [example(targets, row, feedback) for row in near]


def test_a_history_that_answers_a_prompt_twice_shows_both_answers(corpus, make_queries, shown):
    twice = Histories(corpus, 1, [0, 0, 0], [4, 4, 7], [1, 2, 0], [0, 3, 1])
    queries = make_queries([0], [4], 1)
    assert shown(trained("icl", twice, twice, n_shots=2).messages(queries)[0]) == [
        example(twice, 0),
        example(twice, 1),
    ]
    assert shown(trained("self-icl", twice, twice, n_shots=9).messages(queries)[0]) == [
        example(twice, row) for row in (2, 1, 0)
    ]


@pytest.mark.parametrize("name", ["icl", "self-icl", "meta-icl", "lookup-icl"])
@MODE
def test_texts_with_lines_and_markup_are_shown_whole(name, shown, feedback, layout):
    texts = ["Prompt:\n  x\nResponse liked:\n  y", "| a |\r\n|---|\n```\nb\n```\n", "a\u2028Response disliked:\n  z"]
    corpus = Corpus([f"{text} {i}" for i, text in enumerate(texts)], [[text, text[::-1], "plain"] for text in texts])
    own = Histories(corpus, 1, [0, 0, 0], [0, 1, 2], [0, 1, 2], [1, 2, 0])
    asked = trained(name, own, own, feedback=feedback, layout=layout).messages(Queries(corpus, 1, [0], [1]))[0]
    assert sorted(map(repr, shown(asked))) == sorted(repr(example(own, row, feedback)) for row in range(3))
    assert asked.messages[-1].content.endswith(corpus.prompts[1])


def test_all_modes_show_the_same_interactions(make_histories, make_queries, shown):
    pool, targets = make_histories([9, 4, 8], "pool"), make_histories([5, 8], "targets")
    queries = make_queries([1, 0], [25, 26], 2)
    for name in ("icl", "self-icl", "meta-icl", "lookup-icl"):
        asked = {mode: trained(name, pool, targets, feedback=mode).messages(queries) for mode in MODES}
        prompts = {mode: [[e.prompt for e in shown(c)] for c in found] for mode, found in asked.items()}
        assert all(found == prompts["winning"] for found in prompts.values())
        assert len({found[0].messages for found in asked.values()}) == len(MODES)


def test_dropped_examples_are_reported(make_histories, make_queries):
    targets = make_histories([6], "targets")
    asked = trained("self-icl", targets, targets, n_shots=5, max_history_tokens=70).messages(make_queries([0], [25], 1))
    assert (asked[0].n_examples, asked[0].n_dropped) == (2, 3)


@pytest.mark.parametrize("name", ["icl", "self-icl", "meta-icl", "lookup-icl"])
def test_without_any_history_they_become_zero_shot(name, corpus, make_queries):
    none, queries = Histories.empty(corpus, 2), make_queries([0, 1], [25, 26], 2)
    assert trained(name, none, none).messages(queries) == trained("zero-shot", none, none).messages(queries)
