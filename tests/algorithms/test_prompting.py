import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personalllm.algorithms import get_algorithm
from personalllm.algorithms._prompting import OWN, Example, build_messages, fit_examples
from personalllm.testing import EchoChatModel
from personalllm.types import Message


def examples(lengths):
    return [Example(f"prompt {i}", " ".join([f"liked{i}"] * n)) for i, n in enumerate(lengths)]


def fitted(lengths, budget=7_000, reply=512, context=8_192, prompt="the new prompt"):
    llm = EchoChatModel(context)
    return fit_examples(llm, prompt, examples(lengths), lead=OWN, max_history_tokens=budget, reply_tokens=reply)


def test_examples_are_turns_with_the_most_relevant_next_to_the_prompt():
    turns = build_messages("now", examples([1, 1]), "A line.")
    assert [turn.role for turn in turns] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert turns[0].content.startswith("A line. ")
    assert [turn.content for turn in turns[1:]] == ["prompt 1", "liked1", "prompt 0", "liked0", "now"]


def test_no_examples_leave_the_prompt_alone_without_a_system_turn():
    assert build_messages("now", []) == (Message("user", "now"),)
    conversation = fitted([])
    assert (conversation.messages, conversation.n_examples, conversation.n_dropped) == (
        (Message("user", "the new prompt"),),
        0,
        0,
    )


def test_the_least_relevant_examples_are_dropped_whole_and_counted():
    conversation = fitted([20, 20, 20, 20], budget=110)
    assert (conversation.n_examples, conversation.n_dropped) == (2, 2)
    assert conversation.messages == build_messages("the new prompt", examples([20, 20]))


@pytest.mark.parametrize(("budget", "context", "reply"), [(7_000, 200, 100), (60, 8_192, 512)])
def test_the_context_and_the_room_for_the_reply_cap_the_budget(budget, context, reply):
    conversation = fitted([10] * 5, budget=budget, context=context, reply=reply)
    llm = EchoChatModel(context)
    used = llm.count_tokens(conversation.messages)
    assert 0 < conversation.n_examples < 5
    assert used + reply <= context
    assert used - llm.count_tokens(conversation.messages[-1:]) <= budget
    one_more = build_messages("the new prompt", examples([10] * 5)[: conversation.n_examples + 1])
    history = llm.count_tokens(one_more) - llm.count_tokens(one_more[-1:])
    assert history > budget or llm.count_tokens(one_more) + reply > context


def test_a_prompt_that_fills_the_context_gets_no_examples():
    conversation = fitted([3, 3], context=50, reply=40)
    assert conversation.messages == (Message("user", "the new prompt"),)
    assert (conversation.n_examples, conversation.n_dropped) == (0, 2)


def test_an_example_that_is_too_long_is_never_cut():
    conversation = fitted([5, 9_000, 5])
    assert (conversation.n_examples, conversation.n_dropped) == (1, 2)


@settings(deadline=None)
@given(st.lists(st.integers(1, 60), max_size=9), st.integers(1, 400))
def test_as_many_as_fit_and_no_more(lengths, budget):
    llm = EchoChatModel()
    conversation = fitted(lengths, budget=budget)
    alone = llm.count_tokens(build_messages("the new prompt", ()))
    costs = [
        llm.count_tokens(build_messages("the new prompt", examples(lengths)[:n])) - alone
        for n in range(len(lengths) + 1)
    ]
    expected = max(n for n, cost in enumerate(costs) if cost <= budget)
    assert (conversation.n_examples, conversation.n_dropped) == (expected, len(lengths) - expected)


def test_defaults_are_the_papers():
    algorithm = get_algorithm("icl")
    assert (algorithm.max_history_tokens, algorithm.reply_tokens) == (7_000, 512)
    assert get_algorithm("meta-icl").params()["n_similar"] == 20
    assert get_algorithm("meta-icl").n_shots == 3
