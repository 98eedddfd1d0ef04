"""`personalllm data`: check a benchmark file, describe, draw and publish benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from personalllm.cli import options as o
from personalllm.cli.groups import command, command_group

if TYPE_CHECKING:
    from personalllm.data import Benchmark

__all__ = ["app"]

app = command_group("Inspect, validate, make and publish benchmark data.")

Source = Annotated[
    str,
    typer.Argument(help='A file or folder, hf://datasets/OWNER/NAME, or one of the names "mini" and "personalllm".'),
]


@command(app)
def validate(path: Source, *, column: o.Columns = None) -> None:
    """List everything that is wrong with a benchmark: column, row, remedy. Exits with 1 if there are errors."""
    from rich.console import Console
    from rich.markup import escape

    from personalllm.data import validate as find_problems
    from personalllm.report.terminal import show_rows

    console = Console()
    problems = find_problems(path, columns=o.parse_columns(column))
    errors = sum(problem.severity == "error" for problem in problems)
    if problems:
        several_files = len({problem.file for problem in problems}) > 1
        rows: list[list[str] | None] = []
        for problem in problems:
            where = f"{Path(problem.file).name}: " if several_files else ""
            texts = (
                problem.column,
                "" if problem.row is None else str(problem.row),
                where + problem.message,
                problem.remedy,
            )
            colour = "red" if problem.severity == "error" else "yellow"
            rows += [[f"[{colour}]{problem.severity}[/]", *map(escape, texts)], None]
        headings = ("", "column", "row", "problem", "remedy")
        show_rows(console, headings, rows, title=f"Problems of {escape(path)}")
    warnings = len(problems) - errors
    verdict = "can be loaded" if not errors else "cannot be loaded"
    console.print(f"{escape(path)}: {_number(errors, 'error')}, {_number(warnings, 'warning')}; it {verdict}.")
    if errors:
        raise typer.Exit(1)


@command(app)
def info(source: Source) -> None:
    """Describe a benchmark: sizes, splits, response models, reward models, fingerprint."""
    from rich.markup import escape

    from personalllm.data import load
    from personalllm.report.terminal import output_console, show_rows

    benchmark = load(source)
    console = output_console()
    facts = [(f"[bold]{key}[/]", escape(value)) for key, value in _facts(benchmark)]
    show_rows(console, ("", ""), facts, title=f"Benchmark {escape(benchmark.name)}", header=False)
    split = "train" if "train" in benchmark.splits else next(iter(benchmark.splits))
    numbers = ("mean", "sd", "lowest", "highest")
    title = f"Reward models (raw scores, split {escape(split)})"
    show_rows(console, ("reward model", *numbers), _reward_rows(benchmark, split), title=title, numeric=numbers)
    sizes = ("responses", "mean characters")
    rows = _response_rows(benchmark)
    show_rows(console, ("response model", *sizes), rows, title="Response models", numeric=sizes)


@command(app)
def synthetic(
    out: Annotated[Path, typer.Option(help="File to write: .parquet, .jsonl[.gz], .csv[.gz], or a folder.")],
    n_prompts: Annotated[
        int | None, typer.Option(help="Number of prompts.", show_default="10402, the size of the release")
    ] = None,
    texts: Annotated[
        str | None, typer.Option(metavar="BENCHMARK", help="Give synthetic scores to the texts of this benchmark.")
    ] = None,
    explained: Annotated[
        float | None,
        typer.Option(help="With --texts: share of each factor that the embedding explains.", show_default="0.5"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of every draw.")] = 0,
) -> None:
    """Write a synthetic benchmark whose reward models agree with each other as the published ones do.

    Its texts are random words; with --texts they are those of a benchmark, and the scores depend on them.
    """
    from rich.console import Console
    from rich.markup import escape

    from personalllm.core.errors import UserError
    from personalllm.data import load, make_synthetic, make_synthetic_over, write_benchmark

    if not out.parent.is_dir():
        raise UserError(f"There is no folder {str(out.parent)!r} to write to.", "Make it first, or correct --out.")
    if texts is not None and n_prompts is not None:
        raise UserError("--n-prompts does not go with --texts, which has its own prompts.", "Leave one of them out.")
    if texts is None and explained is not None:
        raise UserError("--explained needs --texts: random words explain nothing.", "Name a benchmark with --texts.")
    console = Console(stderr=True)
    if texts is None:
        with console.status("Drawing the synthetic benchmark"):
            benchmark = make_synthetic(10_402 if n_prompts is None else n_prompts, seed)
    else:
        from personalllm.backends.names import build_embedder
        from personalllm.cli.progress import embed_texts

        real, embedder = load(texts), build_embedder()
        embed_texts(real, embedder, console)
        share = 0.5 if explained is None else explained
        benchmark = make_synthetic_over(real, embedder, seed=seed, explained=share)
    with console.status("Writing it"):
        write_benchmark(benchmark, out)
    Console().print(f"{escape(str(out))}: {benchmark.n_prompts} prompts, fingerprint {benchmark.fingerprint}.")


@command(app)
def push(
    path: Source,
    *,
    to: Annotated[str, typer.Option(metavar="OWNER/NAME", help="Dataset on the hub; made if it is not there.")],
    private: Annotated[
        bool | None,
        typer.Option(
            "--private/--public",
            help="Who sees a new dataset; one that is there stays as it is.",
            show_default="private",
        ),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch; made if it is not there.", show_default="main")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be sent; connect to nothing.")] = False,
) -> None:
    """Publish a benchmark on the hub: check it, write the released layout and a card, upload all in one commit.

    The hub is $HF_ENDPOINT or https://huggingface.co; the token is read from $HF_TOKEN and from nowhere else. Pushing
    the same benchmark again commits nothing.
    """
    from rich.console import Console
    from rich.markup import escape

    from personalllm.data.push import push_benchmark

    console = Console(soft_wrap=True, highlight=False)
    with console.status("Checking and writing it" if dry_run else "Checking and uploading it"):
        pushed = push_benchmark(path, to, private=private, revision=revision, dry_run=dry_run)
    if dry_run:
        console.print(pushed.card, markup=False)
        console.rule()
    for name, size in pushed.files.items():
        console.print(f"{size / 1e6:10.3f} MB  {escape(name)}")
    for name in pushed.removed:
        console.print(f"   removed     {escape(name)}")
    console.print(f"{pushed.n_prompts} prompts, fingerprint {pushed.fingerprint}")
    if dry_run:
        seen = "public" if private is False else "private"
        console.print(f"Nothing was sent. Without --dry-run it goes to {escape(pushed.url)} ({seen} if it is new)")
        return
    state = f"commit {pushed.commit[:12]}" if pushed.changed else f"unchanged since commit {pushed.commit[:12]}"
    seen = {True: ", private", False: ", public", None: ""}[pushed.private]
    console.print(f"[green]{escape(pushed.url)}[/]  {escape(state)}{seen}")
    console.print(f"Load it: personalllm.load({pushed.source!r})", markup=False)


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _facts(benchmark: Benchmark) -> list[tuple[str, str]]:
    from collections import Counter

    subsets = Counter(benchmark.subsets.to_pylist()).most_common()
    listed = ", ".join(f"{name} {count}" for name, count in subsets[:12])
    n_bytes = sum(_text_bytes(texts) for texts in (benchmark.prompts, benchmark.responses))
    return [
        ("prompts", f"{benchmark.n_prompts:,}"),
        ("splits", ", ".join(f"{split} {len(rows):,}" for split, rows in benchmark.splits.items())),
        ("responses of each prompt", str(benchmark.n_responses)),
        ("text", f"{n_bytes / 1e6:,.1f} MB" if n_bytes >= 1e6 else f"{n_bytes / 1e3:,.1f} kB"),
        ("subsets", listed + (f" and {len(subsets) - 12} more" if len(subsets) > 12 else "")),
        *((name.replace("_", " "), _brief(value)) for name, value in benchmark.metadata.items() if name != "name"),
        ("fingerprint", benchmark.fingerprint),
    ]


def _brief(value: object) -> str:
    """Show a plain value whole, and of a nested one what it holds."""
    if isinstance(value, dict):
        return "; ".join(f"{name}: {_brief(inner)}" for name, inner in value.items() if inner not in ({}, []))
    if isinstance(value, list) and all(isinstance(inner, str | int | float) for inner in value):
        return ", ".join(map(str, value))
    return f"{len(value)} entries" if isinstance(value, list) else str(value)


def _text_bytes(texts: Any) -> int:
    import pyarrow.compute as pc

    return int(pc.sum(pc.binary_length(texts)).as_py() or 0)


def _reward_rows(benchmark: Benchmark, split: str) -> Iterator[list[str]]:
    import numpy as np
    from rich.markup import escape

    scores = benchmark.scores[benchmark.rows(split)].astype(np.float64)
    for b, name in enumerate(benchmark.reward_models):
        column = scores[:, :, b]
        figures = (column.mean(), column.std(), column.min(), column.max())
        yield [escape(name), *(f"{figure:.4f}" for figure in figures)]


def _response_rows(benchmark: Benchmark) -> Iterator[list[str]]:
    import numpy as np
    import pyarrow.compute as pc
    from rich.markup import escape

    sizes = pc.utf8_length(benchmark.responses).to_numpy()
    models = benchmark.response_model_index.ravel()
    counts = np.bincount(models, minlength=len(benchmark.response_models))
    totals = np.bincount(models, weights=sizes, minlength=len(benchmark.response_models))
    for name, count, total in zip(benchmark.response_models, counts, totals, strict=True):
        yield [escape(name), f"{count:,}", f"{total / count:,.0f}"]
