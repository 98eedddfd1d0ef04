"""`personalllm evaluate`: run methods of any track with progress bars, then print the leaderboard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from personalllm.cli import options as o

if TYPE_CHECKING:
    from rich.console import Console

    from personalllm.core.protocols import Executor
    from personalllm.data import Benchmark, Preferences, Ratings
    from personalllm.evaluation import NamedMethod, Protocol, Results
    from personalllm.methods.base import Method

__all__ = ["Job", "build_workers", "evaluate"]

Versus = Annotated[
    str | None, typer.Option(help="Method that differences are taken from.", **o.default("the best method"))
]


def evaluate(
    methods: o.Methods = None,
    *,
    data: o.DataOptions,
    out: o.Out = Path("runs"),
    protocol: o.ProtocolOptions,
    versus: Versus = None,
    backends: o.BackendOptions,
    executor: o.Executor = "serial",
) -> None:
    """Evaluate methods on simulated users or on people, and print the leaderboard with 95 % intervals.

    Running the same command again resumes. With --preset the protocol and, unless some are named, the methods are the
    preset's; every option that is given changes it, and the result says so. On a file of people's preferences, parts
    of the people and of the prompts are left out in turn.
    """
    from rich.console import Console

    from personalllm.report import show_results
    from personalllm.report.terminal import output_console

    names = _names(methods, protocol.preset)
    loaded = data.load()
    built = protocol.build(loaded, names)
    job = Job(names, loaded, built, backends, out, executor)
    job.check_label(versus)
    console = Console(stderr=True)
    if "all" in names:
        job.explain_left_out(console)
    show_results(job.run(console), output_console(), versus)


@dataclass(frozen=True, eq=False)
class Job:
    """One evaluation: methods on data under a protocol.

    Attributes:
        methods: Names or objects, as `evaluate` takes them.
        data: A benchmark, or people's preferences or ratings.
        protocol: Not yet bound.
        backends: What to build.
        out: Folder of runs.
        executor: Name of the executor.
    """

    methods: Sequence[Method | str]
    data: Benchmark | Preferences | Ratings
    protocol: Protocol
    backends: o.BackendOptions
    out: Path
    executor: str

    @cached_property
    def entries(self) -> tuple[NamedMethod, ...]:
        """The methods with their labels."""
        from personalllm.evaluation import load_track, resolve

        return resolve(self.methods, load_track(self.protocol.track), signals=self.protocol.signals)[0]

    def check_label(self, label: str | None) -> None:
        """Raise before the work begins if no method, baseline or oracle of the run has the label."""
        from personalllm.core.errors import UnknownName
        from personalllm.evaluation import load_track

        labels = [*(entry.label for entry in self.entries), *load_track(self.protocol.track).names]
        labels.append(f"model:{self.protocol.reference_response_model}")
        if label is not None and label not in labels:
            raise UnknownName("method in this run", label, labels)

    def explain_left_out(self, console: Console) -> None:
        """Print what `all` leaves out of the track, and why."""
        from rich.text import Text

        from personalllm.evaluation import load_track
        from personalllm.evaluation.resolve import left_out

        for name, reason in left_out(load_track(self.protocol.track), signals=self.protocol.signals).items():
            console.print(Text(f"{name} is left out: {reason}"), soft_wrap=True)

    def run(self, console: Console) -> Results:
        """Evaluate, with progress on a console."""
        from personalllm.cli.progress import embed_texts, resumable, watch
        from personalllm.evaluation import evaluate as run

        workers = build_workers(self.executor)
        objects = self.backends.build(self.entries, [self.protocol.track], self.data)
        if any("embedder" in entry.method.needs for entry in self.entries):
            embed_texts(self.data, objects["embedder"], console)
        with resumable(console), watch(console) as progress:
            return run(
                self.methods,
                self.data,
                protocol=self.protocol,
                executor=workers,
                out=self.out,
                progress=progress,
                **objects,
            )


def build_workers(name: str) -> Executor | None:
    """Return an executor; None for `serial`, which every run is without one."""
    from personalllm.backends.executor import build_executor

    return None if name == "serial" else build_executor(name)


def _names(methods: list[str] | None, preset: str | None) -> list[str]:
    """Return the methods that were named, or the preset's."""
    from personalllm.core.errors import UserError
    from personalllm.evaluation import get_preset

    for name in methods or ():
        if not name.endswith(".py") and Path(name).suffix and Path(name).exists():
            raise UserError(f"{name!r} is a file or folder, not a method.", f"Give the data so: --data {name}")
    if methods:
        return methods
    if preset is None:
        raise UserError("No method is named.", "Name one, e.g. random, or all; or choose a --preset.")
    return list(get_preset(preset).methods)
