"""An executor from the text of a command-line option."""

from __future__ import annotations

import os

from personalllm.backends.executor.cluster import RayExecutor
from personalllm.backends.executor.local import ProcessExecutor, SerialExecutor
from personalllm.core.errors import ParameterError, UnknownName
from personalllm.core.protocols import Executor

__all__ = ["build_executor"]


def build_executor(text: str) -> Executor:
    """Return the executor that a text names.

    Args:
        text: `serial`; `processes` (one for each CPU of this process) or `processes:N`; `ray` (a local cluster, or the
            one at `$RAY_ADDRESS`) or `ray:ADDRESS` (`auto`, `HOST:PORT`). `,cpus=C` and `,gpus=G` after either say what
            a work unit takes up.

    Raises:
        UnknownName: If no executor has that name.
        ParameterError: If N, C or G is not a number in its range, or `serial` is given an argument.

    >>> build_executor("processes:2")
    ProcessExecutor(n_workers=2, max_retries=3)
    >>> build_executor("ray:10.0.0.1:6379,gpus=1")
    RayExecutor(address='10.0.0.1:6379', num_cpus=0.5, max_retries=3, num_gpus=1.0)
    """
    if text.partition(",")[0].partition(":")[0] == "ray":
        return _ray(text)
    name, _, argument = text.partition(":")
    if name == "serial" and not argument:
        return SerialExecutor()
    if name == "processes":
        if argument and not (argument.isdecimal() and int(argument) >= 1):
            raise ParameterError("executor", "processes:N with a number N >= 1", text)
        return ProcessExecutor(int(argument) if argument else _cpus())
    if name == "serial":
        raise ParameterError("executor", "serial, without an argument", text)
    raise UnknownName("executor", text, ("serial", "processes", "ray"))


def _ray(text: str) -> RayExecutor:
    base, *options = text.split(",")
    address = base.partition(":")[2] or os.environ.get("RAY_ADDRESS") or None
    given = {"cpus": 0.5, "gpus": 0.0}
    for option in options:
        name, _, value = option.partition("=")
        try:
            given[name] = {"cpus": float, "gpus": float}[name](value)
        except (KeyError, ValueError):
            raise ParameterError("executor", "ray[:ADDRESS][,cpus=C][,gpus=G]", text) from None
    return RayExecutor(address, num_cpus=given["cpus"], num_gpus=given["gpus"])


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
