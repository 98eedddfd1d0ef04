"""The command line: the composition root, which resolves names, hands backends over and holds no logic."""

from personalllm.cli.app import main

__all__ = ["main"]
