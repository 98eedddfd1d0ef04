"""What is handed to a method knows neither scores, nor weights, nor who wrote a response."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from personalllm.data import make_synthetic
from personalllm.feedback import CorpusView


def reachable(thing: Any, depth: int = 6) -> Iterator[Any]:
    """Yield every object that attributes, items and slots of a thing lead to."""
    yield thing
    if depth == 0 or isinstance(thing, str | bytes | int | float | type) or thing is None:
        return
    names = [*getattr(thing, "__dict__", {}), *getattr(type(thing), "__slots__", ())]
    for name in names:
        yield from reachable(getattr(thing, name, None), depth - 1)


def test_the_corpus_leads_to_texts_only():
    benchmark = make_synthetic(12, seed=0)
    corpus = CorpusView(benchmark, seed=3).corpus
    found = list(reachable(corpus))
    arrays = [thing for thing in found if isinstance(thing, np.ndarray)]
    assert all(array is corpus.counts for array in arrays)  # how many responses each prompt has
    assert not [thing for thing in found if type(thing).__module__.startswith("personalllm.data")]


def test_the_corpus_shows_the_responses_in_the_order_of_the_view():
    benchmark = make_synthetic(12, seed=0)
    view = CorpusView(benchmark, seed=3)
    for row in range(12):
        assert list(view.corpus.responses[row]) == [benchmark.response(row, int(at)) for at in view.order[row]]
    assert (view.order != np.arange(8)).any()
