"""Executors: equal results whoever runs the units, whatever dies meanwhile."""

from __future__ import annotations

import functools
import importlib.util
import math
import multiprocessing
import operator
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from personalllm.backends.executor import ProcessExecutor, RayExecutor, SerialExecutor, build_executor
from personalllm.backends.executor._units import Failed, Succeeded
from personalllm.core.errors import MissingExtra, ParameterError, RunError, UnknownName, UserError
from personalllm.core.protocols import Executor
from personalllm.core.seeding import derive_seed

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
work = importlib.import_module("executor_units")

HAS_RAY = importlib.util.find_spec("ray") is not None


@pytest.fixture(scope="module")
def ray_executor():
    if not HAS_RAY:
        pytest.skip("ray is not installed")
    executor = RayExecutor()
    yield executor
    executor.close()


@pytest.fixture(params=["processes", pytest.param("ray", marks=pytest.mark.slow)])
def elsewhere(request):
    """Executors whose units run in other processes, which may die."""
    return ProcessExecutor(2) if request.param == "processes" else request.getfixturevalue("ray_executor")


@pytest.fixture(params=["serial", "processes", "ray"])
def executor(request):
    if request.param == "serial":
        return SerialExecutor()
    return ProcessExecutor(2) if request.param == "processes" else request.getfixturevalue("ray_executor")


SQUARES = [unit * unit for unit in range(23)]


def test_equal_results_in_the_order_of_the_units(executor):
    assert isinstance(executor, Executor)
    units = list(range(23))
    draw = functools.partial(derive_seed, 0, "unit")
    assert list(executor.map(draw, units)) == [derive_seed(0, "unit", unit) for unit in units]
    assert list(executor.map(abs, [])) == []


def test_an_exception_of_a_unit_comes_in_its_turn_and_names_the_unit(executor):
    results = executor.map(math.sqrt, [4.0, -1.0, 9.0])
    assert next(results) == 2.0
    with pytest.raises(ValueError, match=r"math domain error|nonnegative") as caught:
        next(results)
    assert "It arose in work unit 1 (-1.0)." in caught.value.__notes__[0]


def test_package_errors_keep_their_kind_and_remedy(executor):
    with pytest.raises(ParameterError, match="n_workers must be >= 1, got 0") as caught:
        list(executor.map(ProcessExecutor, [0]))
    assert caught.value.parameter == "n_workers"
    assert "work unit 0 (0)" in caught.value.__notes__[0]


def test_a_unit_is_named_by_its_identity_or_a_short_repr(executor):
    with pytest.raises(TypeError) as caught:
        list(executor.map(operator.neg, ["x" * 500]))
    assert "work unit 0 ('xxx" in caught.value.__notes__[0]
    assert "x" * 200 not in caught.value.__notes__[0].split("\n")[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [work.killed_once, work.out_of_memory_once])
def test_units_whose_actor_died_are_tried_again(ray_executor, kind, tmp_path):
    """Over Ray Data, as work on GPUs goes; the GPU is left out of the accounts, there is none here."""
    results = ray_executor.stream(functools.partial(kind, str(tmp_path), (0, 5)), range(12))
    assert sorted(results) == SQUARES[:12]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.slow
def test_a_unit_that_kills_every_actor_is_named(ray_executor):
    with pytest.raises(RunError, match=r"died at each of 4 tries of work unit 3 \(3\)"):
        list(ray_executor.stream(functools.partial(work.killed_always, 3), range(6)))


def test_results_of_actors_are_put_in_order(monkeypatch):
    """With GPUs results come in any order; `map` yields each in its turn, and raises a failure in its turn."""
    executor = RayExecutor(num_gpus=1)
    come = [(2, Succeeded("c")), (0, Succeeded("a")), (3, Failed(ValueError("d"), "")), (1, Succeeded("b"))]
    monkeypatch.setattr(RayExecutor, "_outcomes", lambda self, function, units: iter(come))
    results = executor.map(abs, range(4))
    assert [next(results) for _ in range(3)] == ["a", "b", "c"]
    with pytest.raises(ValueError, match="d") as caught:
        next(results)
    assert "work unit 3" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    "kind",
    [
        work.killed_once,
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in (work.leaves_once, work.out_of_memory_once)),
    ],
)
def test_units_whose_worker_died_are_tried_again(elsewhere, kind, tmp_path):
    doomed = (0, 5, 6, 22)
    results = list(elsewhere.map(functools.partial(kind, str(tmp_path), doomed), range(23)))
    assert results == SQUARES
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(f"tried-{unit}" for unit in doomed)


def test_a_unit_that_kills_every_worker_is_named(elsewhere):
    results = elsewhere.map(functools.partial(work.killed_always, 3), range(6))
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    with pytest.raises(RunError, match=r"died at each of 4 tries of work unit 3 \(3\)"):
        list(results)


@pytest.mark.parametrize("bad", [threading.Lock(), work.WillNotPickle()])
@pytest.mark.parametrize("where", ["function", "unit", "unit of a stream"])
def test_what_cannot_be_sent_is_a_user_error(elsewhere, where, bad):
    run = getattr(elsewhere, "stream", elsewhere.map) if "stream" in where else elsewhere.map
    with pytest.raises(UserError, match="cannot be sent to"):
        list(run(functools.partial(operator.is_, bad), [1]) if where == "function" else run(work.square, [bad]))


NO_GUARD = """
import sys
sys.path.insert(0, {here!r})
import executor_units as work
from personalllm.backends.executor import ProcessExecutor
list(ProcessExecutor(1).map(work.length, [b"x" * 2_000_000]))
"""


def test_workers_that_die_while_a_large_unit_is_sent_are_no_endless_wait(tmp_path):
    """As in a script without the guard: each worker dies at its start, before it has read its unit."""
    script = tmp_path / "no_guard.py"
    script.write_text(NO_GUARD.format(here=str(HERE)))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert "died at each of 4 tries of work unit 0" in done.stderr
    assert "below `if __name__ == '__main__':`" in done.stderr


@pytest.mark.parametrize("unit", [{"num_cpus": 10_000}, {"num_gpus": 10_000}])
def test_a_unit_that_fits_on_no_node_is_an_error_and_no_endless_wait(ray_executor, unit):
    (kind,) = unit
    for run in (RayExecutor(**unit).map, RayExecutor(**unit).stream):
        with pytest.raises(
            UserError, match=r"takes up 10000 [CG]PUs, but the largest node of the Ray cluster"
        ) as caught:
            list(run(abs, [1]))
        assert f"{kind[4:-1]}s=" in caught.value.remedy


def test_a_function_is_loaded_once_in_each_process(elsewhere, tmp_path):
    assert list(elsewhere.map(work.Loaded(str(tmp_path)), range(30))) == list(range(1, 31))
    assert {p.read_text() for p in tmp_path.iterdir()} == {"x"}


def test_serial_runs_a_unit_only_when_it_is_asked_for():
    seen = []
    results = SerialExecutor().map(seen.append, [1, 2, 3])
    next(results)
    assert seen == [1]


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (work.raises_stubborn, RunError, r"outcome of work unit 0 \(1\) cannot be read: Stubborn"),
        (work.returns_a_lambda, RunError, "cannot be sent back from a worker"),
    ],
)
def test_outcomes_that_cannot_be_pickled(function, error, message):
    with pytest.raises(error, match=message):
        list(ProcessExecutor(1).map(function, [1]))


def test_a_module_that_a_worker_cannot_import(monkeypatch):
    module = type(sys)("nowhere_to_be_found")
    function = functools.wraps(work.square)(lambda unit: unit)
    function.__module__, function.__qualname__, module.square = module.__name__, "square", function
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with pytest.raises(ModuleNotFoundError, match="nowhere_to_be_found"):
        list(ProcessExecutor(1).map(function, [1]))


def test_a_worker_killed_from_outside_is_replaced():
    results = ProcessExecutor(2).map(functools.partial(work.slow, 0.05), range(40))
    first = next(results)
    os.kill(first, signal.SIGKILL)
    rest = list(results)
    assert len(rest) == 39
    assert len({first, *rest}) == 3
    assert rest[-1] != first


def test_a_reader_that_stops_early_ends_the_workers():
    results = ProcessExecutor(2).map(operator.neg, range(1000))
    assert next(results) == 0
    results.close()
    assert multiprocessing.active_children() == []


def test_results_do_not_pile_up_while_one_unit_is_slow(tmp_path):
    results = ProcessExecutor(2).map(functools.partial(work.slow_first, str(tmp_path)), range(1000))
    next(results)
    assert 3 <= len(list(tmp_path.iterdir())) <= 2 + 4 * 2
    results.close()


INTERRUPTED = """
import signal
import sys
sys.path.insert(0, {here!r})
import executor_units as work
from personalllm.backends.executor import build_executor
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell makes its background jobs deaf to it
    for pid in build_executor({executor!r}).map(work.soon_stuck, range(10_000)):
        print(pid, flush=True)
"""


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _ends(pids: set[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while any(_is_alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _stopped(tmp_path: Path, executor: str, how: signal.Signals) -> tuple[int, set[int], str]:
    """Run a long job in a process group of its own, stop it in long units; return status, workers, messages."""
    script = tmp_path / "job.py"
    script.write_text(INTERRUPTED.format(here=str(HERE), executor=executor))
    with subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as job:
        pids = {int(job.stdout.readline()) for _ in range(12)}
        time.sleep(0.5)
        if how == signal.SIGINT:
            os.killpg(job.pid, how)
        else:
            job.send_signal(how)
        _, messages = job.communicate(timeout=30)
    return job.returncode, pids, messages


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_no_orphans(tmp_path, how):
    status, pids, messages = _stopped(tmp_path, "processes:2", how)
    assert status == -how
    assert len(pids) == 2
    assert _ends(pids, 10)
    assert messages.count("Traceback") == (how == signal.SIGINT)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_RAY, reason="ray is not installed")
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_orphans_of_a_local_ray_cluster(tmp_path, how):
    _, pids, _ = _stopped(tmp_path, "ray", how)
    assert _ends(pids, 60)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("serial", SerialExecutor()),
        ("processes:3", ProcessExecutor(3)),
        ("ray:10.0.0.1:6379", RayExecutor("10.0.0.1:6379")),
        ("ray:auto", RayExecutor("auto")),
        ("ray:auto,gpus=1", RayExecutor("auto", num_gpus=1)),
        ("ray:auto,gpus=0.25,cpus=2", RayExecutor("auto", num_cpus=2, num_gpus=0.25)),
    ],
)
def test_executors_by_name(text, expected):
    assert build_executor(text) == expected


def test_executors_by_name_take_the_machine_and_the_environment(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert build_executor("processes").n_workers >= 1
    assert build_executor("ray") == RayExecutor(None)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.2:6379")
    assert build_executor("ray") == RayExecutor("10.0.0.2:6379")


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("proceses", UnknownName, "no executor named 'proceses'. Did you mean 'processes'"),
        ("processes:0", ParameterError, "executor must be processes:N with a number N >= 1, got 'processes:0'"),
        ("processes:two", ParameterError, "processes:N"),
        (
            "ray:auto,gpu=1",
            ParameterError,
            r"executor must be ray\[:ADDRESS\]\[,cpus=C\]\[,gpus=G\], got 'ray:auto,gpu=1'",
        ),
        ("ray,cpus=many", ParameterError, "cpus=C"),
        ("ray,cpus=0", ParameterError, "num_cpus must be > 0"),
        ("serial:2", ParameterError, "executor must be serial, without an argument"),
        ("", UnknownName, "no executor named ''"),
    ],
)
def test_bad_names(text, error, message):
    with pytest.raises(error, match=message):
        build_executor(text)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ProcessExecutor(0), "n_workers must be >= 1, got 0"),
        (lambda: ProcessExecutor(1, max_retries=-1), "max_retries must be >= 0, got -1"),
        (lambda: RayExecutor(num_cpus=0), "num_cpus must be > 0, got 0"),
        (lambda: RayExecutor(num_cpus=math.nan), "num_cpus must be > 0, got nan"),
        (lambda: RayExecutor(max_retries=-1), "max_retries must be >= 0, got -1"),
        (lambda: RayExecutor(num_gpus=-1), "num_gpus must be >= 0, got -1"),
    ],
)
def test_bad_parameters(make, message):
    with pytest.raises(ParameterError, match=message):
        make()


def test_ray_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"personalllm\[ray\]"):
        list(RayExecutor().map(abs, [1]))
