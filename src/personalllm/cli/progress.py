"""Progress bars with the time left, shared by the commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from personalllm.data import Benchmark

__all__ = ["bars", "counted", "embed_texts", "resumable"]

_MOST_TEXTS = 20_000


def bars(console: Console | None = None, *, disable: bool = False) -> Progress:
    """Return bars that show what is done of what, the time so far and the time left."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, disable=disable)


@contextmanager
def counted(title: str, console: Console | None = None) -> Iterator[Callable[[int, int], None]]:
    """Yield a callback `(done, total)` behind a bar; nothing is drawn before its first call with a total above 0."""
    with bars(console) as shown:
        task = shown.add_task(title, total=None, visible=False)
        yield lambda done, total: shown.update(task, completed=done, total=total, visible=total > 0)


def embed_texts(benchmark: Benchmark, embedder: Any, console: Console) -> None:
    """Embed all texts of a benchmark of moderate size before the run, so that the wait has a bar.

    Args:
        benchmark: Its prompts and responses; nothing is done if they are more than 20,000.
        embedder: Nothing is done unless it keeps its vectors (`CachedEmbedder`).
        console: Where the bar is shown.
    """
    from personalllm.backends.embedding import CachedEmbedder

    texts = [*benchmark.prompts.to_pylist(), *benchmark.responses.to_pylist()]
    if isinstance(embedder, CachedEmbedder) and len(texts) <= _MOST_TEXTS:
        if not console.is_terminal:
            console.print(f"embedding {len(set(texts)):,} texts, those that are not kept from an earlier run")
        with counted("embedding (kept for the next run)", console) as progress:
            embedder.embed(texts, progress)


@contextmanager
def resumable(console: Console) -> Iterator[None]:
    """Turn Ctrl-C into a line that says how to go on, and the exit status 130."""
    import typer

    try:
        yield
    except KeyboardInterrupt:
        console.print("Stopped. The same command goes on from here.")
        raise typer.Exit(130) from None
