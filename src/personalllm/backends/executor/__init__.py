"""Executors: run independent work units here, in other processes or on a Ray cluster, with the same results."""

from __future__ import annotations

from personalllm.backends.executor.choose import build_executor
from personalllm.backends.executor.cluster import RayExecutor
from personalllm.backends.executor.local import ProcessExecutor, SerialExecutor
from personalllm.backends.executor.parquet import ParquetParts, map_parquet

__all__ = ["ParquetParts", "ProcessExecutor", "RayExecutor", "SerialExecutor", "build_executor", "map_parquet"]
