"""The rank track through executors: the same files, byte for byte."""

from __future__ import annotations

import pytest
from killed import contents

from personalllm.backends.executor import SerialExecutor
from personalllm.core.errors import RunError
from personalllm.evaluation import Protocol, evaluate
from personalllm.methods.base import Method

METHODS = ["random", "pooled-ranker"]


class Spoken:
    """An executor that notes what it was asked to do."""

    def __init__(self):
        self.units = []

    def map(self, function, units):
        self.units += units
        return map(function, units)


class Fails(Method):
    id = "fails"

    def utilities(self, queries):
        raise ValueError("never")


@pytest.fixture
def settled(benchmark_, standins, tmp_path):
    def run(name, executor, methods=METHODS, track="rank", progress=None):
        knobs = {"max_tokens": 8} if track == "generate" else {"users_per_shard": 8}
        protocol = Protocol.for_benchmark(
            benchmark_, track=track, n_users=30, pool_users=20, bootstrap_draws=200, **knobs
        )
        evaluate(
            methods,
            benchmark_,
            protocol=protocol,
            out=tmp_path / name,
            executor=executor,
            progress=progress,
            **standins,
        )
        return contents(tmp_path / name)

    return run


def test_an_executor_changes_no_file(settled, elsewhere):
    assert settled("there", elsewhere) == settled("here", None)


def test_only_missing_units_are_handed_out(settled, tmp_path):
    before = settled("run", None, ["random"])
    run = next(p for p in (tmp_path / "run").iterdir() if p.is_dir())
    (folder,) = (p for p in run.iterdir() if p.name.startswith("random-"))
    (folder / "record.json").unlink()
    (folder / "samples" / "part-00002.parquet").unlink()
    spoken = Spoken()
    assert settled("run", spoken, ["random"]) == before
    assert [(unit.start, unit.stop) for unit in spoken.units] == [(16, 24)]


def test_the_generate_track_stays_here(settled):
    spoken, events = Spoken(), []
    settled("run", spoken, ["zero-shot"], "generate", progress=events.append)
    assert spoken.units == []
    assert [event.message for event in events if event.stage == "note"] == [
        "The generate track does all its work in this process; the executor is not used."
    ]


def test_a_method_that_fails_elsewhere_is_named(settled):
    with pytest.raises(RunError, match="The method 'fails' failed in utilities: ValueError: never") as caught:
        settled("run", SerialExecutor(), [Fails()])
    assert "work unit 0 (Unit(key='fails" in caught.value.__notes__[0]
