"""Executors: run independent work units here or in other processes, with the same results in the same order."""

from __future__ import annotations

from personalllm.backends.executor.local import ProcessExecutor, SerialExecutor

__all__ = ["ProcessExecutor", "SerialExecutor"]
