"""`personalllm transfer`: compare the order of methods among simulated users and among people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from personalllm.cli import options as o

__all__ = ["transfer"]


def transfer(
    simulated: Annotated[Path, typer.Argument(metavar="RUN", help="A run of `evaluate --track predict`.")],
    people: Annotated[
        Path,
        typer.Argument(
            metavar="PEOPLE",
            help="A run of `evaluate` on people's preferences; or a file of them, on which the methods of RUN are "
            "evaluated first.",
        ),
    ],
    *,
    reader: o.PeopleOptions,
    shots: o.Shots = None,
    settings: o.Settings = None,
    out: Annotated[Path, typer.Option(help="Folder of the page, the tables and the run on people.")] = Path("runs"),
    backends: o.BackendOptions,
    executor: o.Executor = "serial",
) -> None:
    """Set the order of methods among simulated users beside that among people, with the rank correlation of the two."""
    import pyarrow.csv as pa_csv
    from rich.console import Console
    from rich.text import Text

    from personalllm.cli.evaluate import Job
    from personalllm.core.storage import atomic_path
    from personalllm.evaluation import load_run
    from personalllm.evaluation.transfer import Transfer, methods_of
    from personalllm.report.terminal import output_console, show_table
    from personalllm.report.transfer import render_transfer, standings_table, transfer_findings

    run = load_run(simulated)
    if people.is_dir():
        results = load_run(people)
    else:
        preferences = reader.read(people)
        protocol = o.ProtocolOptions(shots=shots, settings=settings).build(preferences)
        job = Job(methods_of(run), preferences, protocol, backends, out, executor)
        results = job.run(Console(stderr=True))
    beside = Transfer(run, results)
    console = output_console()
    show_table(standings_table(beside), console)
    lines = [f"{finding.topic} {finding.text}" for finding in transfer_findings(beside)]
    for name, table in (("people", results.table()), ("transfer", beside.table())):
        with atomic_path(out / f"{name}.csv") as temporary:
            pa_csv.write_csv(table, temporary)
        lines.append(f"Table: {out / name}.csv")
    for line in [*lines, f"Page: {render_transfer(beside, out / 'transfer.html')}"]:
        console.print(Text(line), soft_wrap=True)
