"""Check the questions of a policy."""

from __future__ import annotations

from typing import Any

import numpy as np

from personalllm.methods.base import Method
from personalllm.testing._bench import Bench, bare_scenes
from personalllm.testing._checks import Clauses
from personalllm.testing._scenes import Scene, ragged, small_scene, snapshot

__all__ = ["ASKING"]

ASKING: Clauses[Bench] = Clauses()


def _asked(bench: Bench, scene: Scene, method: Method | None = None) -> list[list[int]]:
    """Return row and two responses for each user, checked for their form."""
    queries = scene.queries
    answer: Any = (method or bench.trained(scene)).next_query(queries)
    bench.require(
        isinstance(answer, tuple) and len(answer) == 3 and all(len(part) == queries.n_users for part in answer),
        "next_query must return three columns with an entry for each user: rows, and two responses",
    )
    rows, first, second = (np.asarray(part, np.int64) for part in answer)
    asked = np.flatnonzero(rows >= 0)
    at = rows[asked]
    bench.require(bool((at < len(queries)).all()), f"next_query must return rows of the queries, got {rows}")
    bench.require(bool((queries.user[at] == asked).all()), "a user must be asked about a query of their own")
    there = np.maximum(first[asked], second[asked]) < queries.corpus.counts[queries.prompt[at]]
    bench.require(
        bool((first[asked] != second[asked]).all() and there.all()), "a question is of two responses there are"
    )
    return [part.tolist() for part in (rows, first, second)]


@ASKING.clause("asks", after=("parameters-stay",))
def _asks(bench: Bench) -> None:
    """next_query returns a row of each user's own queries, -1 for none, and two different responses to its prompt.

    Override value(offer) of Policy and leave next_query as it is.
    """
    _asked(bench, bench.scene)


@ASKING.clause("asks-ragged", after=("asks",))
def _asks_ragged(bench: Bench) -> None:
    """It asks about prompts with different numbers of responses.

    Return a value for every pair: those that are not there are never asked.
    """
    _asked(bench, ragged(bench.scene))


@ASKING.clause("asks-inputs", after=("asks",))
def _asks_inputs(bench: Bench) -> None:
    """next_query leaves its inputs as they were.

    Copy before you change.
    """
    scene = small_scene()
    before = snapshot(scene)
    _asked(bench, scene)
    bench.require(snapshot(scene) == before, "fit, adapt and next_query must leave their inputs as they were")


@ASKING.clause("asks-seeds", after=("asks",))
def _asks_seeds(bench: Bench) -> None:
    """Equal seeds give equal questions.

    Draw with offer.rng, not with np.random or random.
    """
    first, again = _asked(bench, bench.scene), _asked(bench, bench.scene)
    bench.require(first == again, "equal seeds must give equal questions")


@ASKING.clause("asks-saved", after=("asks-seeds",))
def _asks_saved(bench: Bench) -> None:
    """A copy by pickle, and one by save and load_method, ask the same.

    Keep arrays and plain values.
    """
    scene, trained = bench.scene, bench.trained(bench.scene)
    first = _asked(bench, scene, trained)
    bench.require(
        _asked(bench, scene, bench.copied(trained, "after adapt")) == first, "a pickled copy must ask the same"
    )
    loaded = bench.reloaded(scene).bind(**bench.backends(scene), seed=trained.seed)
    bench.require(_asked(bench, scene, loaded.adapt(scene.targets)) == first, "a saved copy must ask the same")


@ASKING.clause("asks-bare", after=("asks",))
def _asks_bare(bench: Bench) -> None:
    """It asks without pool, without history, and nothing without queries.

    Handle a belief that is the prior.
    """
    for scene in bare_scenes(bench.scene):
        _asked(bench, scene)
