"""Progress bars with the time left, shared by the commands."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from personalllm.data import Benchmark, Preferences, Ratings
    from personalllm.evaluation import Progress as RunProgress
    from personalllm.evaluation import ProgressEvent

__all__ = ["bars", "counted", "duration", "embed_texts", "reported", "resumable", "watch"]

_MAX_TEXTS = 20_000
_SPEED_SECONDS = 1800.0  # blocks of slow models are minutes apart
_LINE_SECONDS = 60.0
_TENTH_SECONDS = 10.0
_LINE_SHARE = 0.1


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
    return Progress(*columns, console=console, disable=disable, speed_estimate_period=_SPEED_SECONDS)


@contextmanager
def counted(title: str, console: Console | None = None) -> Iterator[Callable[[int, int], None]]:
    """Yield a callback `(done, total)` behind a bar; nothing is drawn before its first call with a total above 0."""
    with bars(console) as display:
        task = display.add_task(title, total=None, visible=False)
        yield lambda done, total: display.update(task, completed=done, total=total, visible=total > 0)


@contextmanager
def reported(title: str, console: Console) -> Iterator[Callable[[int, int], None]]:
    """Yield a callback `(done, total)`: behind a bar on a terminal, else a line now and then.

    Lines come each minute, or each tenth if that takes ten seconds. The first call reports what was done before; the
    time left is estimated from what is done since.
    """
    if console.is_terminal:
        with counted(title, console) as show:
            yield show
        return
    yield _Lines(title, console)


class _Lines:
    """Prints how far something is, seldom."""

    def __init__(self, title: str, console: Console) -> None:
        self._title, self._console = title, console
        self._first: int | None = None
        self._started = self._last = time.monotonic()
        self._share = 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if total <= 0:
            return
        if self._first is None:
            self._first, self._started = done, now
        elif done < total and not self._is_time(done / total, now - self._last):
            return
        self._last, self._share = now, done / total
        text = f"{self._title}: {done:,} of {total:,} ({done / total:.0%})"
        new, seconds = done - self._first, now - self._started
        if new > 0 and done < total:
            text += f", {duration(seconds)} so far, about {duration(seconds / new * (total - done))} left"
        elif new > 0:
            text += f", took {duration(seconds)}"
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _is_time(self, share: float, seconds: float) -> bool:
        tenth = share - self._share >= _LINE_SHARE
        return seconds >= (_TENTH_SECONDS if tenth else _LINE_SECONDS)


def duration(seconds: float) -> str:
    """Return a duration in words.

    >>> [duration(s) for s in (0.4, 42, 75, 7260, 200_000)]
    ['0 s', '42 s', '1 min 15 s', '2 h 1 min', '2 d 7 h']
    """
    total = round(seconds)
    for size, name, small, small_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if total >= size:
            remainder = total % size // small
            return f"{total // size} {name}" + (f" {remainder} {small_name}" if remainder else "")
    return f"{total} s"


def embed_texts(data: Benchmark | Preferences | Ratings, embedder: Any, console: Console) -> None:
    """Embed all texts of data of moderate size before the run, so that the wait has a bar.

    Args:
        data: Its prompts and responses; nothing is done if they are more than 20,000.
        embedder: Nothing is done unless it keeps its vectors (`CachedEmbedder`).
        console: Where the bar is shown.
    """
    from personalllm.backends.embedding import CachedEmbedder
    from personalllm.data import Preferences, Ratings

    if isinstance(data, Ratings):
        texts = [*data.prompts, *data.responses]
    elif isinstance(data, Preferences):
        corpus = data.histories.corpus
        texts = list({*map(corpus.text, range(corpus.n_prompts)), *(text for row in corpus.responses for text in row)})
    else:
        texts = [*data.prompts.to_pylist(), *data.responses.to_pylist()]
    if isinstance(embedder, CachedEmbedder) and len(texts) <= _MAX_TEXTS:
        absent = embedder.count_absent(texts)
        if absent and not console.is_terminal:
            console.print(f"embedding {absent:,} texts (kept for the next run)")
        with counted("embedding (kept for the next run)", console) as progress:
            embedder.embed(texts, progress)


@contextmanager
def resumable(console: Console) -> Iterator[None]:
    """Turn Ctrl-C into a line that says how to go on, and the exit status 130."""
    import typer

    try:
        yield
    except KeyboardInterrupt:
        console.print("Stopped. The same command continues from here.")
        raise typer.Exit(130) from None


@contextmanager
def watch(console: Console) -> Iterator[RunProgress]:
    """Yield a progress callback: live bars with the time left on a terminal, a line for each method elsewhere."""
    from rich.markup import escape
    from rich.text import Text

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
