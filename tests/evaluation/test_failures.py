"""What a failing method looks like to its author."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from personalllm.core.errors import ParameterError, RunError, UserError
from personalllm.core.types import F32, Conversation, Histories, Message, Queries
from personalllm.data import Benchmark
from personalllm.evaluation import Protocol, evaluate
from personalllm.methods.base import Method


@dataclass
class Faulty(Method):
    """Fails in the method that `where` names."""

    id: ClassVar[str] = "faulty"
    where: str = "fit"
    ours: bool = False

    def _pass(self, where: str) -> None:
        if where == self.where:
            raise ParameterError("x", "1", 2) if self.ours else KeyError("missing")

    def fit(self, pool: Histories) -> Faulty:
        self._pass("fit")
        self.state_ = (i for i in range(3)) if self.where == "copy" else None
        return self

    def adapt(self, histories: Histories) -> Faulty:
        self._pass("adapt")
        return self

    def utilities(self, queries: Queries) -> F32:
        self._pass("utilities")
        return np.zeros((len(queries), queries.corpus.n_responses), np.float32)

    def messages(self, queries: Queries) -> list[Conversation]:
        self._pass("messages")
        if self.where == "nothing":
            return None  # type: ignore[return-value]
        return [Conversation((Message("user", "x"),), n_examples=0)] * len(queries)


def run(benchmark: Benchmark, standins: dict[str, Any], track: Any, method: Method) -> None:
    protocol = Protocol.for_benchmark(benchmark, track=track, n_users=4, pool_users=3, bootstrap_draws=100)
    evaluate([method], benchmark, protocol=protocol, **standins)


FAILURES = [("rank", name) for name in ("fit", "adapt", "utilities")]
FAILURES += [("generate", name) for name in ("fit", "adapt", "messages")]


@pytest.mark.parametrize(("track", "where"), FAILURES)
def test_a_method_that_fails_is_named(benchmark_: Benchmark, standins: Any, track: str, where: str) -> None:
    with pytest.raises(RunError) as caught:
        run(benchmark_, standins, track, Faulty(where=where, ours=False))
    label = "faulty" if where == "fit" else f"faulty[where={where}]"
    assert caught.value.message == f"The method {label!r} failed in {where}: KeyError: 'missing'."
    assert caught.value.remedy == "Run personalllm.testing.check_method on it."
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize(("track", "where"), FAILURES)
def test_errors_of_this_package_stay(benchmark_: Benchmark, standins: Any, track: str, where: str) -> None:
    with pytest.raises(ParameterError, match="x must be 1, got 2"):
        run(benchmark_, standins, track, Faulty(where=where, ours=True))


def test_nothing_to_send_and_nothing_to_copy(benchmark_: Benchmark, standins: Any) -> None:
    with pytest.raises(RunError, match=r"failed in messages: TypeError"):
        run(benchmark_, standins, "generate", Faulty(where="nothing"))
    with pytest.raises(RunError, match=r"failed in a deep copy of what fit learned: TypeError.*generator"):
        run(benchmark_, standins, "rank", Faulty(where="copy"))


@pytest.mark.parametrize("name", ["model:nope", "model:alpha-2"])
def test_a_response_model_that_is_not_the_reference_is_refused(benchmark_: Benchmark, name: str) -> None:
    protocol = Protocol.for_benchmark(benchmark_, n_users=4, pool_users=3, reference_response_model="alpha-1")
    with pytest.raises(
        UserError,
        match=f"{name!r} is not a baseline of this run, .*--reference-model {name[6:]}",
    ):
        evaluate(["random", name], benchmark_, protocol=protocol)
    assert (
        evaluate(["random", "oracle", "model:alpha-1"], benchmark_, protocol=protocol)["model:alpha-1"].kind != "method"
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("mini", r"got 'mini'\. Load them first: pl\.load\('mini'\)"),
        (None, r"got None\. Load them first: pl\.load\("),
        (5, r"got 5\. Load them first"),
        ([{"user": "u"}], r"got list\. Load them first: .*pl\.Preferences\.from_rows"),
    ],
    ids=["name", "none", "number", "rows"],
)
def test_what_is_no_data_is_refused(data: Any, message: str) -> None:
    with pytest.raises(UserError, match="data must be a Benchmark, Preferences or Ratings, " + message):
        evaluate(["random"], data)


def test_a_single_method_needs_no_list_and_a_track_is_a_name(benchmark_: Benchmark) -> None:
    settings = {"n_users": 5, "pool_users": 3, "bootstrap_draws": 100}
    assert "longest" in {result.label for result in evaluate("longest", benchmark_, protocol=settings).methods}
    with pytest.raises(ParameterError, match=r"track must be the name of a track \(.*rank.*\), got 5"):
        evaluate("longest", benchmark_, track=5)  # type: ignore[arg-type]
