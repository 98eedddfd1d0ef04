from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personalllm.evaluation.results import Results
from personalllm.report.examples import Pair, excerpt, taste
from personalllm.report.views import make_view


def pair_of(results: Results) -> Pair:
    pair = make_view(results).pair()
    assert pair is not None
    return pair


def test_users_with_opposite_choices_and_the_same_prompt(make_results: Callable[..., Results]) -> None:
    pair = pair_of(make_results("generate", 8))
    assert (pair.first.user, pair.second.user) == (2, 3)
    assert pair.same_prompt
    assert pair.n_opposed == 4
    assert pair.first.prompt == pair.second.prompt
    assert pair.first.taste[0] == "the shorter response in 4 of 4 choices"
    assert pair.second.taste[0] == "the longer response in 4 of 4 choices"


def test_written_stands_in_the_order_of_the_leaderboard(make_results: Callable[..., Results]) -> None:
    results = make_results("generate", 8)
    view, pair = make_view(results), pair_of(results)
    assert [written.title for written in pair.first.written] == [
        view.name(row) for row in view.rows if row.label in ("oracle", "population-best") or row.kind == "method"
    ]
    assert all(written.sample.user == 2 for written in pair.first.written)


def test_the_choice_ignores_how_methods_fared(make_results: Callable[..., Results]) -> None:
    results = make_results("generate", 8)

    def spoilt(samples: pa.Table) -> pa.Table:
        rows = [row | {"utility": -100.0, "response": ""} for row in samples.to_pylist()]
        return pa.Table.from_pylist(rows, schema=samples.schema)

    changed = {key: (lambda source=source: spoilt(source())) for key, source in results.sources.items()}
    pair = pair_of(dataclasses.replace(results, sources=changed))
    assert (pair.first.user, pair.second.user) == (2, 3)


def test_twin_titles_carry_their_parameters(make_results: Callable[..., Results]) -> None:
    view = make_view(make_results("generate", 4))
    names = {view.name(row) for row in view.rows}
    assert {"In-context learning [n_shots=3]", "In-context learning [n_shots=1]"} <= names


@pytest.mark.parametrize("n_users", [1, 2, 3])
def test_few_users(n_users: int, make_results: Callable[..., Results]) -> None:
    pair = make_view(make_results("generate", n_users)).pair()
    assert (pair is None) == (n_users < 2)


def test_rank_track_has_no_texts(make_results: Callable[..., Results]) -> None:
    assert make_view(make_results("rank", 5)).pair() is None


def test_users_without_history_can_be_paired(make_results: Callable[..., Results]) -> None:
    results = make_results("generate", 3)

    def blank(samples: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([row | {"history": []} for row in samples.to_pylist()], schema=samples.schema)

    pair = pair_of(
        dataclasses.replace(results, sources={k: (lambda s=s: blank(s())) for k, s in results.sources.items()})
    )
    assert pair.first.taste == ()


def test_taste_of_no_history() -> None:
    assert taste(()) == ()


@given(st.lists(st.tuples(st.text(), st.text(), st.text()), max_size=6))
def test_taste_swaps_with_the_choices(history: list[tuple[str, str, str]]) -> None:
    swapped = [(prompt, rejected, chosen) for prompt, chosen, rejected in history]
    assert len(taste(history)) == len(taste(swapped)) <= 3


@given(st.text(max_size=400), st.integers(2, 120))
def test_excerpt_is_a_beginning(text: str, limit: int) -> None:
    short = excerpt(text, limit)
    assert len(short) <= limit + 1
    assert text.strip().startswith(short.removesuffix("\u2026")) or short == text.strip()
