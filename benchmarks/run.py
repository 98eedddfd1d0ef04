"""Run every `bench_*.py` beside this file and print one table: `python benchmarks/run.py [NAME...]`.

A benchmark file has `run() -> list[Row]` (see `_common.py`). Names select files: `choices` is `bench_choices.py`.
The exit status is 1 if a target was missed.
"""

from __future__ import annotations

import importlib
import os
import platform
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent


def main(names: list[str]) -> int:
    sys.path.insert(0, str(HERE))
    known = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    unknown = sorted(set(names) - set(known))
    console = Console()
    if unknown:
        console.print(f"There is no benchmark named {', '.join(unknown)}. Known: {', '.join(known)}.")
        return 2
    table = Table(title=f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}")
    for column in ("what", "measured", "target", ""):
        table.add_column(column, justify="right" if column in {"measured", "target"} else "left")
    missed = 0
    for name in names or known:
        with console.status(name):
            rows = importlib.import_module(f"bench_{name}").run()
        for row in rows:
            mark = {True: "[green]reached", False: "[red]missed", None: ""}[row.ok]
            table.add_row(row.name, row.measured, row.target, mark)
            missed += row.ok is False
        table.add_section()
    console.print(table)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
