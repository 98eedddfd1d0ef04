"""Scoring in work units: equal scores whoever scores, whatever is killed meanwhile."""

from __future__ import annotations

import importlib.util
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from personalllm.backends.executor import ProcessExecutor, RayExecutor, SerialExecutor, map_parquet
from personalllm.build.prompts import Prompt
from personalllm.build.recipe import ResponseModel
from personalllm.build.scoring import score
from personalllm.build.tables import RespondRows, ScoreRows
from personalllm.core.errors import AxisMismatch, DataError, ParameterError, RunError, UserError

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
score_units = importlib.import_module("score_units")
Characters, Echo = score_units.Characters, score_units.Echo

HAS_RAY = importlib.util.find_spec("ray") is not None
PROMPTS = [Prompt(f"p{i}", f"Prompt {i}?" + "!" * (i % 5), "x") for i in range(50)]
TEXTS = [[f"{p.prompt} says {j}" * (1 + (i + j) % 4) for j in range(3)] for i, p in enumerate(PROMPTS)]


@pytest.fixture(scope="module")
def ray_executor():
    if not HAS_RAY:
        pytest.skip("ray is not installed")
    executor = RayExecutor()
    yield executor
    executor.close()


@pytest.fixture(params=["serial", "processes", pytest.param("ray", marks=pytest.mark.slow)])
def executor(request):
    if request.param == "serial":
        return SerialExecutor()
    return ProcessExecutor(2) if request.param == "processes" else request.getfixturevalue("ray_executor")


def written(out: Path) -> dict[str, bytes]:
    files = (p for p in sorted(out.rglob("*")) if p.is_file() and p.name != ".lock")
    return {str(p.relative_to(out)): p.read_bytes() for p in files}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    out = tmp_path_factory.mktemp("expected")
    return score(PROMPTS, TEXTS, Characters(), out, block=4), written(out)


def test_any_executor_gives_equal_scores_and_equal_files(executor, expected, tmp_path):
    seen = []
    values = score(
        PROMPTS, TEXTS, Characters(), tmp_path, block=4, executor=executor, progress=lambda *now: seen.append(now)
    )
    assert values.tobytes() == expected[0].tobytes()
    assert written(tmp_path) == expected[1]
    assert seen == [(min(4 * i, 50), 50) for i in range(14)]
    np.testing.assert_array_equal(values[..., 0], [[len(text) for text in row] for row in TEXTS])


@pytest.mark.parametrize("name", ["processes", pytest.param("ray", marks=pytest.mark.slow)])
def test_a_worker_that_is_killed_while_it_scores(name, request, expected, tmp_path):
    executor = ProcessExecutor(2) if name == "processes" else request.getfixturevalue("ray_executor")
    ensemble = Characters(doomed="Prompt 21?", folder=str(tmp_path))
    values = score(PROMPTS, TEXTS, ensemble, tmp_path / "out", block=4, executor=executor)
    assert (tmp_path / "died").exists()
    assert values.tobytes() == expected[0].tobytes()
    assert written(tmp_path / "out") == expected[1]


def test_only_missing_blocks_are_scored(expected, tmp_path):
    score(PROMPTS, TEXTS, Characters(), tmp_path, block=4)
    files = sorted(tmp_path.rglob("*.npy"))
    for path in files[::5]:
        path.unlink()

    class Counting(Characters):
        calls = 0

        def score(self, prompts, responses):
            type(self).calls += 1
            return super().score(prompts, responses)

    values = score(PROMPTS, TEXTS, Counting(), tmp_path, block=4)
    assert Counting.calls == len(files[::5])
    assert values.tobytes() == expected[0].tobytes()


@pytest.mark.parametrize("size", [1, 3, 50, 64])
def test_scores_do_not_depend_on_the_block(size, expected, tmp_path):
    assert score(PROMPTS, TEXTS, Characters(), tmp_path, block=size).tobytes() == expected[0].tobytes()


def test_nothing_to_score(tmp_path):
    assert score([], [], Characters(), tmp_path).shape == (0, 0, 2)


def test_a_block_is_whole_or_absent(tmp_path, monkeypatch):
    def full_disk(stream, values, allow_pickle):
        stream.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        score(PROMPTS, TEXTS, Characters(), tmp_path, block=4)
    assert written(tmp_path) == {}


def test_what_a_killed_run_was_writing_is_swept_away(expected, tmp_path):
    score(PROMPTS, TEXTS, Characters(), tmp_path, block=4)
    path = next(tmp_path.rglob("*.npy"))
    (path.parent / f".{path.name}.abc123.part").write_bytes(b"half")
    (path.parent / ".another.npy.abc123.part").write_bytes(b"of a run with other blocks")
    score(PROMPTS, TEXTS, Characters(), tmp_path, block=4)
    assert written(tmp_path) == expected[1]


def test_a_damaged_block_is_named(tmp_path):
    score(PROMPTS, TEXTS, Characters(), tmp_path, block=50)
    (path,) = tmp_path.rglob("*.npy")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(RunError, match=rf"{path.name} cannot be read.*Remove the file"):
        score(PROMPTS, TEXTS, Characters(), tmp_path, block=50)
    np.save(path, np.zeros((50, 3, 1), np.float32))
    with pytest.raises(RunError, match=r"has shape \(50, 3, 1\) of float32, expected \(50, 3, 2\)"):
        score(PROMPTS, TEXTS, Characters(), tmp_path, block=50)


def test_ragged_responses_are_refused(tmp_path):
    with pytest.raises(AxisMismatch, match="50 prompts need as many rows of 3 responses"):
        score(PROMPTS, [*TEXTS[:-1], TEXTS[-1][:2]], Characters(), tmp_path)
    with pytest.raises(AxisMismatch, match="50 prompts"):
        score(PROMPTS, TEXTS[:-1], Characters(), tmp_path)


class Broken(Characters):
    def score(self, prompts, responses):
        values = super().score(prompts, responses)
        values[[text.startswith("Prompt 9?") for text in responses], 1] = np.nan
        return values


def test_a_score_that_is_not_finite_names_reward_model_and_prompt(tmp_path):
    with pytest.raises(RunError, match="third scored response 1 of prompt p9 as nan"):
        score(PROMPTS, TEXTS, Broken(), tmp_path, block=4)
    assert len(list(tmp_path.rglob("*.npy"))) == 2


KILLED = """
import sys
sys.path.insert(0, {here!r})
from pathlib import Path
from score_units import Characters
from test_score import PROMPTS, TEXTS
from personalllm.backends.executor import build_executor
from personalllm.build.scoring import score
if __name__ == "__main__":
    score(
        PROMPTS, TEXTS, Characters(delay=0.02), Path({out!r}), block=1, executor=build_executor({executor!r}),
        progress=lambda done, total: print(done, flush=True),
    )
"""


def _kill_and_resume(executor: str, tmp_path: Path, moments: list[tuple[int, float]]) -> list[int]:
    """Kill the score step at each moment, then let it end; return how many blocks each kill left.

    A moment is a number of new blocks, and seconds after them.
    """
    out, script = tmp_path / "out", tmp_path / "job.py"
    script.write_text(KILLED.format(here=str(HERE), out=str(out), executor=executor))
    left = []
    for blocks, seconds in moments:
        with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as job:
            for _ in range(1 + blocks):
                assert job.stdout.readline()
            time.sleep(seconds)
            job.kill()
        left.append(len(list(out.rglob("*.npy"))))
        for path in out.rglob("*.npy"):
            assert np.load(path).shape == (1, 3, 2)
    score(PROMPTS, TEXTS, Characters(), out, block=1)
    return left


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    score(PROMPTS, TEXTS, Characters(), out, block=1)
    return written(out)


def test_sigkill_then_resume_equals_an_undisturbed_run(undisturbed, tmp_path):
    left = _kill_and_resume("serial", tmp_path, [(3, 0.01)])
    assert 3 <= left[0] < 50
    assert written(tmp_path / "out") == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["serial", "processes:2"])
def test_sigkill_at_ten_random_moments_then_resume(executor, undisturbed, tmp_path):
    """Each kill comes some blocks later than the one before; what was written stays, and nothing half-written does."""
    rng = random.Random(5)
    moments = [(rng.randrange(3), rng.uniform(0, 0.04)) for _ in range(10)]
    left = _kill_and_resume(executor, tmp_path, moments)
    assert left == sorted(left)
    assert left[0] < left[-1] < 50
    assert written(tmp_path / "out") == undisturbed


@pytest.fixture
def tables(tmp_path) -> list[Path]:
    """Two files of three and two row groups, prompts and responses row by row."""
    rows = [(p.prompt_id, p.prompt, text) for p, row in zip(PROMPTS, TEXTS, strict=True) for text in row]
    table = pa.table(dict(zip(("prompt_id", "prompt", "response"), map(list, zip(*rows, strict=True)), strict=True)))
    folder = tmp_path / "in"
    folder.mkdir()
    pq.write_table(table.slice(0, 90), folder / "a.parquet", row_group_size=30)
    pq.write_table(table.slice(90), folder / "b.parquet", row_group_size=32)
    return [folder / "a.parquet", folder / "b.parquet"]


@pytest.mark.parametrize(
    "executor", ["serial", "processes", pytest.param("ray", marks=pytest.mark.slow)], indirect=True
)
def test_parquet_parts_are_equal_whoever_makes_them(executor, tables, tmp_path):
    here = map_parquet(ScoreRows(Characters()), tables, tmp_path / "here", rows_at_once=7)
    there = map_parquet(ScoreRows(Characters()), tables, tmp_path / "there", rows_at_once=7, executor=executor)
    assert written(tmp_path / "there") == written(tmp_path / "here")
    assert (there.rows, there.computed) == (150, 5)
    made = pa.concat_tables([pq.read_table(path) for path in there.paths])
    assert made.column_names == ["prompt_id", "prompt", "response", "score_long", "score_third"]
    assert made["response"].to_pylist() == [text for row in TEXTS for text in row]
    assert made["score_long"].to_pylist() == [len(text) for row in TEXTS for text in row]
    assert here.paths[0].name.startswith("a-00000-")


@pytest.mark.parametrize(
    "executor",
    ["serial", pytest.param("processes", marks=pytest.mark.slow), pytest.param("ray", marks=pytest.mark.slow)],
    indirect=True,
)
def test_responses_over_parquet_do_not_depend_on_the_pieces(executor, tmp_path):
    prompts = pa.table({"prompt_id": [p.prompt_id for p in PROMPTS], "prompt": [p.prompt for p in PROMPTS]})
    pq.write_table(prompts, tmp_path / "one.parquet", row_group_size=9)
    pq.write_table(prompts, tmp_path / "two.parquet")
    rows = RespondRows(ResponseModel(name="a", chat_model="echo"), Echo(), seed=4, attempts=2)
    one = map_parquet(rows, [tmp_path / "one.parquet"], tmp_path / "out1", executor=executor, rows_at_once=4)
    two = map_parquet(rows, [tmp_path / "two.parquet"], tmp_path / "out2")
    found = pa.concat_tables([pq.read_table(path) for path in one.paths])
    assert found.equals(pq.read_table(two.paths[0]))
    assert set(found["attempt"].to_pylist()) == {0, 1}
    lost = [text is None for text in found["response"].to_pylist()]
    assert 0 < sum(lost) < 25
    assert [n is None for n in found["completion_tokens"].to_pylist()] == lost


@pytest.mark.slow
def test_a_worker_that_is_killed_over_parquet(ray_executor, tables, tmp_path):
    calm = map_parquet(ScoreRows(Characters()), tables, tmp_path / "calm")
    ensemble = Characters(doomed="Prompt 21?", folder=str(tmp_path))
    map_parquet(ScoreRows(ensemble), tables, tmp_path / "killed", executor=ray_executor)
    assert (tmp_path / "died").exists()
    assert written(tmp_path / "killed") == written(tmp_path / "calm")
    assert calm.rows == 150


def test_parquet_parts_resume(tables, tmp_path):
    seen = []
    first = map_parquet(ScoreRows(Characters()), tables, tmp_path / "out", progress=lambda *now: seen.append(now))
    assert seen == [(i, 5) for i in range(1, 6)]
    before = written(tmp_path / "out")
    first.paths[3].unlink()
    again = map_parquet(ScoreRows(Characters()), tables, tmp_path / "out")
    assert (first.computed, again.computed, again.paths) == (5, 1, first.paths)
    assert written(tmp_path / "out") == before


def test_parts_of_something_else_are_not_mixed_in(tables, tmp_path):
    map_parquet(ScoreRows(Characters()), tables, tmp_path / "out")

    class Other(Characters):
        identity = "other@1"

    with pytest.raises(UserError, match=r"holds 5 parts of other sources or of another function, e\.g\. a-00000"):
        map_parquet(ScoreRows(Other()), tables, tmp_path / "out")
    table = pq.read_table(tables[1])
    changed = table.set_column(2, "response", pa.array([t.upper() for t in table["response"].to_pylist()]))
    pq.write_table(changed, tables[1], row_group_size=32)
    with pytest.raises(UserError, match="holds 7 parts of other sources"):
        map_parquet(ScoreRows(Characters()), tables, tmp_path / "out")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"prompt": ["a"]}, "no column 'response'; it has prompt"),
        ({"prompt": ["a"], "response": [None]}, "response of row 1 is None, not a text"),
        ({"prompt": ["a"], "response": [1]}, "response of row 1 is 1, not a text"),
        ({"prompt": ["a"], "response": ["b"], "score_long": [1.0]}, "has a column 'score_long' already"),
    ],
)
def test_tables_that_cannot_be_scored(columns, message, tmp_path):
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    with pytest.raises(DataError, match=message) as caught:
        map_parquet(ScoreRows(Characters()), [tmp_path / "in.parquet"], tmp_path / "out")
    assert "row group 0 of" in caught.value.__notes__[0]
    assert not list((tmp_path / "out").iterdir())


def test_what_is_not_parquet_is_named(tmp_path):
    (tmp_path / "x.parquet").write_text("no")
    with pytest.raises(DataError, match=r"x\.parquet cannot be read as Parquet"):
        map_parquet(ScoreRows(Characters()), [tmp_path / "x.parquet"], tmp_path / "out")
    with pytest.raises(DataError, match=r"y\.parquet cannot be read"):
        map_parquet(ScoreRows(Characters()), [tmp_path / "y.parquet"], tmp_path / "out")
    with pytest.raises(ParameterError, match="rows_at_once must be >= 1, got 0"):
        map_parquet(ScoreRows(Characters()), [], tmp_path / "out", rows_at_once=0)


def test_a_score_of_a_row_that_is_not_finite_is_named(tables, tmp_path):
    with pytest.raises(RunError, match="score_third is nan for the response to 'Prompt 9"):
        map_parquet(ScoreRows(Broken()), tables, tmp_path / "out")


def test_the_sizing_table_is_arithmetic(root, monkeypatch):
    """One row worked out by hand, and every row of the document is what the function gives."""
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    bench = importlib.import_module("bench_scale")
    rates = bench.Rates("here", 1e8, 2e6, 3.0, 80.0, 20.0, {"serial": 0.0})
    found = bench.cost(bench.Size("x", 1000, 10, 36_000_000), rates, bench.Inputs(rm_parameters=(7, 3)))
    assert found["new_tokens"] == 3_200_000
    assert found["scored_tokens"] == 2 * 8000 * 460
    assert found["respond_gpu_hours"] == pytest.approx(3_200_000 / 2500 / 3600)
    assert found["score_gpu_hours"] == pytest.approx(2 * 10e9 * 8000 * 460 / (989e12 * 0.35) / 3600)
    assert found["cpu_hours"] == pytest.approx(18 / 3600)
    assert (found["interaction_bytes"], found["weight_bytes"]) == (108e6, 800)
    gpu = (found["respond_gpu_hours"] + found["score_gpu_hours"]) * 2.5
    assert found["dollars"] == pytest.approx(gpu + 0.04 * 18 / 3600)
    assert found["api_dollars"] == pytest.approx(16.0)
    text = (root / "docs" / "scale.md").read_text(encoding="utf-8")
    table = text.partition(bench.BEGIN)[2].partition(bench.END)[0]
    independent = [line.split("|")[1:9] for line in bench.table(rates, bench.Inputs()).splitlines() if "|" in line]
    assert [line.split("|")[1:9] for line in table.splitlines() if "|" in line] == independent


@pytest.mark.models
@pytest.mark.shared
@pytest.mark.slow
def test_alpaca8_through_every_executor(shared_data, reward_ensemble, tmp_path):
    """The first 160 prompts of real data, eight responses each, with the ten compact reward models."""
    import gzip
    import json

    with gzip.open(shared_data / "alpaca8" / "responses.jsonl.gz", "rt", encoding="utf-8") as stream:
        rows = [json.loads(next(stream)) for _ in range(160)]
    prompts = [Prompt(str(row["prompt_id"]), row["prompt"], row["source"]) for row in rows]
    texts = [[response["text"] for response in row["responses"]] for row in rows]
    executors = [None, SerialExecutor(), ProcessExecutor(2), *([RayExecutor()] if HAS_RAY else [])]
    outs = [tmp_path / str(i) for i in range(len(executors))]
    values = [score(prompts, texts, reward_ensemble, o, executor=e) for o, e in zip(outs, executors, strict=True)]
    assert values[0].shape == (160, 8, 10)
    assert {v.tobytes() for v in values} == {values[0].tobytes()}
    assert all(written(out) == written(outs[0]) for out in outs)
