"""Show the progress of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from personalllm.evaluation import Progress, ProgressEvent

__all__ = ["output_console", "watch"]

_PIPE_WIDTH = 200


@contextmanager
def watch(console: Console) -> Iterator[Progress]:
    """Yield a progress callback: live bars with the time left on a terminal, a line for each method elsewhere."""
    from rich.markup import escape
    from rich.text import Text

    from personalllm.cli.progress import bars

    tasks: dict[str, TaskID] = {}
    live = console.is_terminal
    with bars(console, disable=not live) as display:

        def say(text: str, style: str = "") -> None:
            console.print(Text(text, style=style), soft_wrap=True)

        def show(event: ProgressEvent) -> None:
            if event.stage in ("damaged", "note"):
                say(f"{event.method}: {event.message}" if event.method else event.message, "yellow")
                return
            if event.stage == "start":
                tasks[event.method] = display.add_task(escape(event.method), total=event.total, completed=event.done)
                if event.done:
                    say(f"{event.method}: {event.done} of {event.total} were done before")
            fitting = " (fitting)" if event.stage == "prepare" else ""
            display.update(tasks[event.method], completed=event.done, description=escape(event.method) + fitting)
            if event.stage == "finish" and not live:
                say(f"{event.method}: {event.total} done")

        yield show


def output_console() -> Console:
    """Return a console on standard output, 200 columns wide where that is no terminal."""
    from rich.console import Console as RichConsole

    console = RichConsole()
    return console if console.is_terminal else RichConsole(width=_PIPE_WIDTH)
