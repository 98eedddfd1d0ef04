import functools
import math
import operator
import os

import pytest

from personalllm.backends.executor import ProcessExecutor, SerialExecutor
from personalllm.errors import ParameterError, RunError
from personalllm.protocols import Executor
from personalllm.seeding import derive_seed


def test_both_give_equal_results_in_the_order_of_the_units():
    units = list(range(23))
    draw = functools.partial(derive_seed, 0, "unit")
    serial = list(SerialExecutor().map(draw, units))
    assert serial == [derive_seed(0, "unit", unit) for unit in units]
    assert list(ProcessExecutor(2).map(draw, units)) == serial
    assert list(ProcessExecutor(1).map(draw, units[:3])) == serial[:3]


@pytest.mark.parametrize("executor", [SerialExecutor(), ProcessExecutor(2)])
def test_contract(executor):
    assert isinstance(executor, Executor)
    assert list(executor.map(abs, [])) == []
    results = executor.map(math.sqrt, [4.0, -1.0, 9.0])
    assert next(results) == 2.0
    with pytest.raises(ValueError, match=r"math domain error|nonnegative"):
        next(results)


def test_serial_runs_a_unit_only_when_it_is_asked_for():
    seen = []
    results = SerialExecutor().map(seen.append, [1, 2, 3])
    next(results)
    assert seen == [1]


def test_a_reader_that_stops_early_ends_the_workers():
    results = ProcessExecutor(2).map(operator.neg, range(1000))
    assert next(results) == 0
    results.close()


def test_a_dead_worker_is_a_run_error():
    with pytest.raises(RunError, match="worker process died"):
        list(ProcessExecutor(1).map(os._exit, [1]))


def test_no_workers_are_refused():
    with pytest.raises(ParameterError, match="n_workers must be >= 1, got 0"):
        ProcessExecutor(0)
