"""A run that is killed goes on as if nothing had happened."""

from __future__ import annotations

import json
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from killed import contents, do, kill

from personalllm.core.errors import DataError, UserError
from personalllm.core.types import F32, Histories, Queries
from personalllm.data import Benchmark, write_benchmark
from personalllm.evaluation import ProgressEvent, Protocol, evaluate, load_results, load_run
from personalllm.evaluation.store import DiskStore, Unit
from personalllm.methods.base import Method
from personalllm.testing import EchoChatModel, HashEmbedder, SurfaceRewards


def only(folder: Path) -> Path:
    (run,) = folder.iterdir()
    return run


def test_a_killed_evaluation_resumes_to_the_same_bytes(benchmark_: Benchmark, tmp_path: Path) -> None:
    source = tmp_path / "tiny.parquet"
    write_benchmark(benchmark_, source)
    broken, whole = tmp_path / "broken", tmp_path / "whole"

    def reached() -> bool:
        return len(list(broken.glob("*/zero-shot-*/samples/part-*.parquet"))) >= 3

    kill("evaluate", source, broken, 0.15, reached)
    parts = list(broken.glob("*/*/samples/part-*.parquet"))
    assert 3 <= len(parts) < 20
    assert not list(broken.glob("*/*/record.json"))
    whole_parts = [path for path in parts if path.with_suffix(".json").exists()]
    assert len(whole_parts) >= len(parts) - 1
    before = {path: path.stat().st_mtime_ns for path in whole_parts}

    do("evaluate", source, broken)
    do("evaluate", source, whole)
    assert {path: path.stat().st_mtime_ns for path in whole_parts} == before
    assert contents(only(broken), unfinished=False) == contents(only(whole))
    for left, right in zip(load_run(broken).methods, load_run(whole).methods, strict=True):
        assert left.estimates == right.estimates
        assert left.counts == right.counts


class Stop(Exception):
    pass


def protocol_for(benchmark: Benchmark, track: Any) -> Protocol:
    knobs: dict[str, Any] = {"n_users": 30, "pool_users": 20, "bootstrap_draws": 100, "users_per_shard": 7}
    if track == "predict":
        knobs |= {"prediction": {"shots": (0, 2), "users": "unseen", "counterfactuals": ()}, "test_pairs": 3}
    if track == "generate":
        knobs |= {"max_tokens": 10, "generation": {"requests_per_chunk": 7}}
    return Protocol.for_benchmark(benchmark, track=track, **knobs)


STOPS = [("rank", 2), ("rank", 7), ("generate", 5), ("predict", 8)]
EVERYWHERE = [
    pytest.param(track, stop, marks=[] if (track, stop) in STOPS else pytest.mark.slow)
    for track in ("rank", "generate", "predict")
    for stop in range(1, 9)
]


@pytest.mark.parametrize(("track", "stop_after"), EVERYWHERE)
def test_stopping_anywhere_changes_nothing(
    benchmark_: Benchmark, standins: Any, tmp_path: Path, stop_after: int, track: str
) -> None:
    names = {"generate": ["zero-shot", "self-icl"]}.get(track, ["longest", "embedding-ranker"])
    protocol, steps = protocol_for(benchmark_, track), 0

    def stop(event: ProgressEvent) -> None:
        nonlocal steps
        steps += event.stage == "step"
        if steps == stop_after:
            raise Stop

    with pytest.raises(Stop):
        evaluate(names, benchmark_, protocol=protocol, out=tmp_path / "a", progress=stop, **standins)
    events: list[ProgressEvent] = []
    evaluate(names, benchmark_, protocol=protocol, out=tmp_path / "a", progress=events.append, **standins)
    evaluate(names, benchmark_, protocol=protocol, out=tmp_path / "b", **standins)
    assert contents(only(tmp_path / "a")) == contents(only(tmp_path / "b"))
    assert sum(event.stage == "step" for event in events) == 2 * 5 - stop_after


@dataclass
class Stateful(Method):
    """Uses up a generator and fills a cache that it made in `fit`; notes what it is handed."""

    id: ClassVar[str] = "stateful"
    needs: ClassVar[frozenset[Any]] = frozenset({"embedder"})
    seen: ClassVar[list[Any]] = []

    def fit(self, pool: Histories) -> Stateful:
        self.pool_, self.rng_, self.calls_, self.scorer_ = pool, np.random.default_rng(0), {"rank": 0}, [self.embedder]
        return self

    def utilities(self, queries: Queries) -> F32:
        self.calls_["rank"] += 1
        self.seen.append((self.pool_, self.pool_.prompt, queries.corpus, self.scorer_[0], self.calls_["rank"]))
        return self.rng_.random((len(queries), queries.corpus.n_responses), dtype=np.float32)


def test_a_part_in_the_middle_is_made_again_as_it_was(benchmark_: Benchmark, standins: Any, tmp_path: Path) -> None:
    protocol = protocol_for(benchmark_, "rank")
    evaluate([Stateful()], benchmark_, protocol=protocol, out=tmp_path, **standins)
    run = only(tmp_path)
    whole = contents(run)
    (folder,) = run.glob("stateful-*")
    for name in ("samples/part-00002.parquet", "samples/part-00002.json", "record.json"):
        (folder / name).unlink()
    evaluate([Stateful()], benchmark_, protocol=protocol, out=tmp_path, **standins)
    assert contents(run) == whole


def test_units_share_nothing_but_what_cannot_change(benchmark_: Benchmark, standins: Any) -> None:
    Stateful.seen.clear()
    evaluate([Stateful()], benchmark_, protocol=protocol_for(benchmark_, "rank"), **standins)
    assert [calls for *_, calls in Stateful.seen] == [1] * 5
    pool, prompt, corpus, _, _ = Stateful.seen[0]
    for other in Stateful.seen:
        assert other[0] is pool
        assert other[1] is prompt
        assert other[2] is corpus is pool.corpus
        assert other[3] is standins["embedder"]


EDITED = """
from dataclasses import dataclass
from typing import ClassVar
import numpy as np
from personalllm.methods.base import Method

@dataclass
class Mine(Method):
    id: ClassVar[str] = "mine"

    def utilities(self, queries):
        return np.float32([[{sign}len(r) for r in queries.corpus.responses[p]] for p in queries.prompt])
"""


@pytest.mark.parametrize("order_lost", [False, True])
def test_of_an_edited_method_the_newest_is_read(
    benchmark_: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order_lost: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # equal size and second: a cached file would hide the edit
    protocol, found = protocol_for(benchmark_, "rank"), []
    for sign in ("+", "-"):
        Path("edited_for_tests.py").write_text(EDITED.format(sign=sign))
        monkeypatch.delitem(sys.modules, "edited_for_tests", raising=False)
        found.append(evaluate(["edited_for_tests:Mine"], benchmark_, protocol=protocol, out="runs")["mine"].estimates)
        time.sleep(0.02)
    sys.modules.pop("edited_for_tests", None)
    assert found[0] != found[1]
    run = only(Path("runs"))
    assert len(list(run.glob("mine-*"))) == 2
    if order_lost:
        (run / "leaderboard.json").unlink()
    results = load_run("runs")
    assert [result.label for result in results.methods].count("mine") == 1
    assert results["mine"].estimates == found[1]


def test_files_of_another_method_or_run_are_refused(benchmark_: Benchmark, tmp_path: Path) -> None:
    protocol = protocol_for(benchmark_, "rank")
    evaluate(["random", "longest"], benchmark_, protocol=protocol, out=tmp_path)
    run = only(tmp_path)
    (random,), (longest,) = run.glob("random-*"), run.glob("longest-*")
    shutil.rmtree(random)
    shutil.copytree(longest, random)
    with pytest.raises(DataError, match=r"random-.*record.json has the key 'longest-.*', expected 'random-"):
        load_run(run)
    events: list[ProgressEvent] = []
    evaluate(["random"], benchmark_, protocol=protocol, out=tmp_path, progress=events.append)
    assert sum(event.stage == "damaged" for event in events) == 1 + 5
    assert load_run(run)["random"].estimates != load_run(run)["longest"].estimates


def test_a_run_of_an_older_format_is_refused(ranked: Path) -> None:
    path = only(ranked) / "manifest.json"
    manifest = json.loads(path.read_text())
    assert manifest.pop("format") == 3
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"files of format 1; this version reads format 3. Run the same"):
        load_run(ranked)


def test_an_edited_method_counts_before_the_run_has_ended(benchmark_: Benchmark, tmp_path: Path) -> None:
    def stop(event: ProgressEvent) -> None:
        if (event.method, event.stage) == ("longest", "start"):
            raise Stop

    with pytest.raises(Stop):
        evaluate(
            ["random", "longest"], benchmark_, protocol=protocol_for(benchmark_, "rank"), out=tmp_path, progress=stop
        )
    order = json.loads((only(tmp_path) / "leaderboard.json").read_text())["order"]
    assert [key.rpartition("-")[0] for key in order] == ["random", "longest"]


@pytest.fixture(scope="module")
def whole_runs(benchmark_: Benchmark, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Whole runs of two tracks."""
    folder = tmp_path_factory.mktemp("whole")
    backends: Any = {"embedder": HashEmbedder(), "llm": EchoChatModel(), "rewards": SurfaceRewards()}
    for track, name in (("rank", "longest"), ("generate", "zero-shot")):
        evaluate([name], benchmark_, protocol=protocol_for(benchmark_, track), out=folder / track, **backends)
    return {track: folder / track for track in ("rank", "generate")}


@pytest.fixture
def ranked(whole_runs: dict[str, Path], tmp_path: Path) -> Path:
    """A folder with a whole run of `longest` in the rank track, which may be damaged."""
    return Path(shutil.copytree(whole_runs["rank"], tmp_path, dirs_exist_ok=True))


@pytest.fixture
def written(whole_runs: dict[str, Path], tmp_path: Path) -> Path:
    """A folder with a whole run of `zero-shot` in the generate track, which may be damaged."""
    return Path(shutil.copytree(whole_runs["generate"], tmp_path, dirs_exist_ok=True))


def first_part(run: Path, name: str) -> Path:
    return min(run.glob(f"{name}-*/samples/part-*.parquet"))


def test_a_complete_run_is_not_run_again(benchmark_: Benchmark, standins: Any, tmp_path: Path) -> None:
    protocol = protocol_for(benchmark_, "generate")
    first = evaluate(["zero-shot"], benchmark_, protocol=protocol, out=tmp_path, **standins)

    class Silent(EchoChatModel):
        def chat(self, requests: Any) -> Any:
            raise AssertionError("asked again")

    again = evaluate(["zero-shot"], benchmark_, protocol=protocol, out=tmp_path, **(standins | {"llm": Silent()}))
    assert again["zero-shot"].estimates == first["zero-shot"].estimates
    assert again["zero-shot"].seconds == first["zero-shot"].seconds


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "swap", "flip", "no note"])
def test_a_damaged_part_is_made_again(benchmark_: Benchmark, standins: Any, written: Path, damage: str) -> None:
    protocol = protocol_for(benchmark_, "generate")
    run = only(written)
    whole = contents(run)
    part = first_part(run, "zero-shot")
    content = part.read_bytes()
    changed = {
        "cut": content[: len(content) // 2],
        "empty": b"",
        "text": b"PAR1 nothing of the kind PAR1",
        "no note": content,
        "swap": part.with_name("part-00001.parquet").read_bytes(),
        "flip": content[:200] + bytes([content[200] ^ 1]) + content[201:],
    }[damage]
    part.write_bytes(changed)
    if damage == "no note":
        part.with_suffix(".json").unlink()
    (part.parent.parent / "record.json").unlink()
    events: list[ProgressEvent] = []
    evaluate(["zero-shot"], benchmark_, protocol=protocol, out=written, progress=events.append, **standins)
    (event,) = [event for event in events if event.stage == "damaged"]
    assert str(part) in event.message
    assert contents(run) == whole


def test_no_flipped_bit_passes_for_data(tmp_path: Path) -> None:
    store, unit = DiskStore(tmp_path, "f"), Unit("a", 0, 0, 9, 1, 9)
    store.write_unit(unit, pa.table({"user": list(range(300)), "text": [f"response {i}" for i in range(300)]}))
    part = tmp_path / "a" / "samples" / "part-00000.parquet"
    for path in (part, part.with_suffix(".json")):
        content = path.read_bytes()
        for position in range(0, len(content), 5):
            if content[position : position + 1].isspace():
                continue
            path.write_bytes(content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :])
            assert store.read_unit(unit) is None, (path, position)
        path.write_bytes(content)
        assert store.read_unit(unit) is not None
    assert store.read_unit(Unit("a", 0, 0, 8, 1, 8)) is None
    assert DiskStore(tmp_path, "g").read_unit(unit) is None


@pytest.mark.parametrize("name", ["record.json", "sums-users.parquet"])
@pytest.mark.parametrize("damage", ["cut", "altered", "gone"])
def test_damaged_results_are_refused_and_mended(
    benchmark_: Benchmark, standins: Any, ranked: Path, name: str, damage: str
) -> None:
    protocol = protocol_for(benchmark_, "rank")
    run = only(ranked)
    whole = contents(run)
    (path,) = run.glob(f"longest-*/{name}")
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        altered = content.replace(b"0", b"1", 3)
        path.write_bytes(content[:-20] if damage == "cut" else altered)
        assert path.read_bytes() != content
    if (name, damage) != ("record.json", "gone"):
        with pytest.raises(DataError, match=str(path)):
            load_run(run)
    evaluate(["longest"], benchmark_, protocol=protocol, out=ranked, **standins)
    assert contents(run) == whole


def test_a_damaged_part_is_named_when_samples_are_read(written: Path) -> None:
    part = first_part(only(written), "zero-shot")
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(DataError, match=f"{part} is cut off or was altered"):
        load_run(written).samples("zero-shot")


def test_the_manifest_describes_the_run_and_keeps_every_version(
    benchmark_: Benchmark, standins: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = protocol_for(benchmark_, "generate")
    results = evaluate(["zero-shot"], benchmark_, protocol=protocol, out=tmp_path, **standins)
    run = only(tmp_path)
    assert run.name == results.fingerprint
    manifest = json.loads((run / "manifest.json").read_text())
    assert Protocol.from_spec(manifest["protocol"]).fingerprint == run.name
    assert manifest["source"]["fingerprint"] == benchmark_.fingerprint
    assert manifest["backends"] == {"embedder": "hash-stand-in", "llm": "echo-stand-in"}
    assert manifest["drawn"]["n_users"] == 30
    assert len(manifest["versions"]) == 1
    evaluate(["zero-shot"], benchmark_, protocol=protocol, out=tmp_path, **standins)
    assert json.loads((run / "manifest.json").read_text()) == manifest
    monkeypatch.setattr("personalllm.evaluation.manifest._versions", lambda: {"personalllm": "99"})
    evaluate(["zero-shot"], benchmark_, protocol=protocol, out=tmp_path, **standins)
    versions = json.loads((run / "manifest.json").read_text())["versions"]
    assert versions == [*manifest["versions"], {"personalllm": "99"}]


def test_no_seconds_in_what_must_be_reproducible(written: Path) -> None:
    (timing,) = only(written).glob("zero-shot-*/timing.json")
    assert json.loads(timing.read_text())["seconds"]["total"] >= 0
    for path in only(written).rglob("*.parquet"):
        assert "seconds" not in pq.read_schema(path).names
    assert all("second" not in path.read_text() for path in only(written).rglob("record.json"))


def test_a_run_directory_that_cannot_be_made_is_named(benchmark_: Benchmark, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"Cannot make the run directory .*Choose another --out"):
        evaluate(["random"], benchmark_, protocol=protocol_for(benchmark_, "rank"), out=tmp_path / "file")


@pytest.mark.parametrize("damage", ["cut", "no note", "gone"])
@pytest.mark.parametrize("name", ["longest", "oracle"])
def test_a_damaged_part_of_a_complete_method_is_recomputed(
    benchmark_: Benchmark, standins: Any, ranked: Path, damage: str, name: str
) -> None:
    protocol = protocol_for(benchmark_, "rank")
    run = only(ranked)
    whole = contents(run)
    part = first_part(run, name)
    if damage == "cut":
        part.write_bytes(part.read_bytes()[:100])
    else:
        part.with_suffix(".json" if damage == "no note" else ".parquet").unlink()
    events: list[ProgressEvent] = []
    results = evaluate(["longest"], benchmark_, protocol=protocol, out=ranked, progress=events.append, **standins)
    assert contents(run) == whole
    assert [str(part) in event.message for event in events if event.stage == "damaged"] == [True] * (damage != "gone")
    assert results.samples(name).num_rows


def test_swapped_parts_are_refused_when_samples_are_read(ranked: Path) -> None:
    first = first_part(only(ranked), "longest")
    second = first.with_name("part-00001.parquet")
    for suffix in (".parquet", ".json"):
        one, other = first.with_suffix(suffix), second.with_suffix(suffix)
        content = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(content)
    with pytest.raises(DataError, match=f"{first} belongs to another unit of work"):
        load_run(ranked).samples("longest")


def test_an_altered_manifest_is_refused(ranked: Path) -> None:
    path = only(ranked) / "manifest.json"
    manifest = json.loads(path.read_text())
    altered = [
        ("was altered: it has another fingerprint", {"protocol": manifest["protocol"] | {"seed": 9}}),
        ("was altered: it has another fingerprint", {"protocol": {}}),
        ("was altered: it has another fingerprint", {"protocol": None}),
        ("has conditions that are none", {"conditions": [{"users": "unseen"}]}),
    ]
    for message, change in altered:
        path.write_text(json.dumps(manifest | change))
        with pytest.raises(DataError, match=rf"manifest\.json.*{message}"):
            load_run(ranked)
    path.write_text(json.dumps(manifest | {"benchmark": "renamed", "note": 1}))
    assert load_run(ranked).fingerprint == manifest["fingerprint"]


def test_a_folder_of_runs_is_read_without_those_that_are_incomplete(benchmark_: Benchmark, tmp_path: Path) -> None:
    for seed in (0, 1):
        protocol = protocol_for(benchmark_, "rank").changed(benchmark_, seed=seed)
        evaluate(["random"], benchmark_, protocol=protocol, out=tmp_path)
    killed, whole = sorted(tmp_path.iterdir())
    for record in killed.glob("*/record.json"):
        record.unlink()
    with pytest.warns(UserWarning, match=f"Left out: No method of the run in {killed} is complete"):
        (results,) = load_results(tmp_path)
    assert results.fingerprint == whole.name
    for record in whole.glob("*/record.json"):
        record.unlink()
    with pytest.raises(UserError, match=r"No method of the run in .* is complete"):
        load_results(tmp_path)
