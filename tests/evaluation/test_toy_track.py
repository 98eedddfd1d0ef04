"""A new track is one class: it runs, resumes and is swept and reported without a change anywhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
from pydantic import Field

from personalllm.data import Benchmark
from personalllm.evaluation import (
    TRACKS,
    Condition,
    Metric,
    NamedMethod,
    Options,
    Outcome,
    Protocol,
    Sums,
    Track,
    Unit,
    evaluate,
    load_results,
    sweep,
)
from personalllm.evaluation.calls import fitted
from personalllm.evaluation.measures import crossed

METHODS = ["random", "longest"]


class ToyOptions(Options):
    part: ClassVar[str] = "toy"
    short: ClassVar[Mapping[str, str]] = {"rounds": "rounds"}
    rounds: int = Field(default=2, ge=1)


class ToyTrack(Track):
    """Answer, adapt to the answers of the rounds so far, and measure the regret on the test prompts."""

    id = "toy"
    title = "A toy of an online track"
    options = ToyOptions
    metrics = (Metric("regret", "Regret", "sd", higher_is_better=False, top={"lost": 1.0}),)
    headline = "regret"

    @property
    def conditions(self) -> tuple[Condition, ...]:
        return tuple(Condition(shots=t) for t in range(self.protocol.options.rounds + 1))

    def units(self, key: str) -> Sequence[Unit]:
        every = tuple(range(len(self.conditions)))
        return [Unit(key, u, u, u + 1, u, len(every), every) for u in range(self.source.n_users)]

    def prepare(self, method: NamedMethod) -> Any:
        return fitted(self.source.pool, self.backends, method, self.protocol.seed)

    def work(self, prepared: Any, unit: Unit) -> Outcome:
        users, prompts = self.source.query_rows(unit.start, unit.stop)
        utility = self.source.utilities(users, prompts)
        history = self.source.histories("random").of_users(unit.start, unit.stop)
        tables = []
        for index, condition in enumerate(self.conditions):
            prepared.adapt(history.first(condition.shots))
            chosen = prepared.utilities(self.source.queries(unit.start, unit.stop)).argmax(axis=1).astype(np.uint8)
            response = self.source.view.to_responses(prompts, chosen)
            lost = utility.max(axis=1) - utility[np.arange(len(users)), response]
            position = np.full(len(users), index, np.int16)
            tables.append(pa.table({"condition": position, "user": users, "prompt": prompts, "lost": lost}))
        return Outcome(pa.concat_tables(tables))

    def sums(self, condition: Condition, samples: Any, *, log_odds: bool) -> Sums:
        user, prompt, lost = (samples[name].to_numpy() for name in ("user", "prompt", "lost"))
        columns = {"n": np.bincount(user).astype(np.float32), "lost": np.bincount(user, lost).astype(np.float32)}
        prompts, cells = crossed(user, prompt, {"lost": lost})
        return Sums(columns, pairing="toy", prompts=prompts, cells=cells)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(TRACKS, "_builtin", dict(TRACKS._builtin))
    monkeypatch.setitem(__import__("sys").modules, "toy_track", type("module", (), {"ToyTrack": ToyTrack}))
    TRACKS.add("toy", "toy_track:ToyTrack")
    return "toy"


def _protocol(benchmark: Benchmark, **settings: Any) -> Protocol:
    small = {"n_users": 12, "pool_users": 4, "pool_pairs": 3, "bootstrap_draws": 100, "seed": 1}
    return Protocol.for_data(benchmark, track="toy", **(small | settings))


def test_it_runs_and_reads_back(toy: str, benchmark_: Benchmark, tmp_path: Path) -> None:
    results = evaluate(METHODS, benchmark_, toy, _protocol(benchmark_), out=tmp_path)
    assert list(results.curve("longest", "regret")) == [0, 1, 2]
    assert results.headline == Condition(shots=2)
    assert results["longest"].spec["id"] == "longest"
    (difference,) = results.comparisons("regret", versus="longest")
    assert (difference.a, difference.b) == ("longest", "random")
    (again,) = load_results(tmp_path)
    assert str(again) == str(results)
    assert again.table().equals(results.table())
    assert "regret" in str(results)


def test_it_resumes_where_it_was_stopped(toy: str, benchmark_: Benchmark, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(event: Any) -> None:
        if event.stage == "step" and event.done > event.total / 2:
            raise Stop

    protocol = _protocol(benchmark_)
    with pytest.raises(Stop):
        evaluate(METHODS, benchmark_, protocol=protocol, out=tmp_path, progress=stop)
    events: list[Any] = []
    resumed = evaluate(METHODS, benchmark_, protocol=protocol, out=tmp_path, progress=events.append)
    assert next(event for event in events if event.stage == "start").done > 0
    whole = evaluate(METHODS, benchmark_, protocol=protocol)
    assert resumed.table().equals(whole.table())


def test_it_is_swept(toy: str, benchmark_: Benchmark, tmp_path: Path) -> None:
    axes = {"protocol.toy.rounds": [1, 2]}
    swept = sweep(METHODS, axes, benchmark_, protocol=_protocol(benchmark_), out=tmp_path)
    assert swept.table()["protocol.toy.rounds"].to_pylist() == [1, 2, 1, 2]
    assert [len(contest.rows) for contest in swept.contests] == [4]
    assert all(file.exists() for file in swept.files)


def test_its_options_are_its_own(toy: str, benchmark_: Benchmark) -> None:
    with pytest.raises(Exception, match=r"toy.*left out in the rank track \(it is of the toy track"):
        Protocol.for_data(benchmark_, rounds=3)
    assert _protocol(benchmark_, rounds=3).spec()["toy"] == {"rounds": 3}
    assert _protocol(benchmark_, rounds=3).fingerprint != _protocol(benchmark_, rounds=2).fingerprint


def test_it_is_reported(toy: str, benchmark_: Benchmark, tmp_path: Path) -> None:
    from personalllm.report import leaderboard, render_report

    results = evaluate(METHODS, benchmark_, toy, _protocol(benchmark_))
    page = render_report([results], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "longest" in page
    assert "Regret" in page
    assert "longest" in str(leaderboard(results))
