"""`personalllm reproduce`: the paper's experiments, ours beside the paper's numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import typer

from personalllm.cli import options as o
from personalllm.cli.groups import command, command_group

if TYPE_CHECKING:
    from rich.console import Console

    from personalllm.data import Benchmark
    from personalllm.evaluation import Progress, ProgressEvent
    from personalllm.papers.personalllm_2025.plan import Plan
    from personalllm.papers.personalllm_2025.reproduction import Reproduction

__all__ = ["app"]

app = command_group("Run the paper's experiments and set the results beside the paper's numbers.")


Rate = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        help="Tokens a second, of prompts and replies together, for the time in --dry-run.",
        show_default="as measured in finished cells of --out",
    ),
]
Out = Annotated[Path, typer.Option(help="Folder of runs, tables and figures; the same command again resumes.")]


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """What of the paper is run, and how large."""

    title: ClassVar[str] = "Plan"

    users: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Users evaluated, the first of the population.",
            **o.default("1000 on the paper's data, else 24"),
        ),
    ] = None
    max_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Maximum of new tokens of a reply.",
            **o.default("512 on the paper's data, else 64"),
        ),
    ] = None
    shots: Annotated[str, typer.Option(metavar="N,N,...", help="Numbers of examples shown.")] = "1,3,5"
    counterfactuals: Annotated[
        bool,
        typer.Option("--counterfactuals/--no-counterfactuals", help="Run counterfactual histories too, at 3 shots."),
    ] = True
    across: Annotated[
        Literal["text", "logged"],
        typer.Option(
            help="Settings of learning across users: as in the paper's text, or as in the logged runs whose numbers "
            "it prints."
        ),
    ] = "text"
    layout: Annotated[
        Literal["text", "turns"],
        typer.Option(
            help="Examples in one turn, as in the paper, or as chat turns, which suit small chat models better."
        ),
    ] = "text"
    seed: Annotated[int | None, typer.Option(help="Seed of everything that is drawn.", **o.default("0"))] = None
    settings: o.Settings = None

    def build(self, benchmark: Benchmark) -> Plan:
        """Return the plan; small sizes unless the data are the paper's."""
        from personalllm.evaluation.settings import nest
        from personalllm.papers.personalllm_2025.plan import make_plan, plan_settings

        settings = plan_settings(benchmark, users=self.users, max_tokens=self.max_tokens)
        if self.seed is not None:
            settings["seed"] = self.seed
        return make_plan(
            benchmark,
            shots=o.parse_numbers(self.shots, "--shots"),
            counterfactuals=self.counterfactuals,
            settings=self.across,
            layout=self.layout,
            **nest(settings | o.parse_settings(self.settings)),
        )


@command(app)
def paper(
    *,
    data: o.Data = "mini",
    plan: PlanOptions,
    backends: o.BackendOptions,
    dry_run: o.DryRun = False,
    rate: Rate = None,
    out: Out = Path("reproduction"),
) -> None:
    """Run section 4 of the PersonalLLM paper: zero-shot, ICL, self-ICL, learning across users, counterfactuals.

    Prints ours beside the paper's numbers, the paper's claims with a verdict each, and what survives a counterfactual
    history; writes CSV, Parquet, Markdown, an HTML page and the figure.
    """
    from rich.console import Console

    from personalllm.data import load

    benchmark = load(data)
    cells = plan.build(benchmark)
    if dry_run:
        _show_plan(cells, benchmark, rate, out)
        return
    _show(_run(cells, benchmark, backends, out / "runs", Console(stderr=True)), out)


def _run(plan: Plan, benchmark: Benchmark, options: o.BackendOptions, out: Path, console: Console) -> Reproduction:
    from personalllm.cli.progress import embed_texts, resumable
    from personalllm.evaluation.resolve import named
    from personalllm.papers.personalllm_2025.reproduction import reproduce

    entries = [named(cell.build(plan.max_tokens)) for cell in plan.of("none")]
    backends = options.build(entries, [plan.protocols["none"].track], benchmark)
    console.print(
        f"{len(plan.cells)} cells x {plan.n_users:,} users = {plan.n_requests:,} replies of at most "
        f"{plan.max_tokens} tokens",
        highlight=False,
    )
    embed_texts(benchmark, backends["embedder"], console)
    with resumable(console), _watch(console) as progress:
        return reproduce(plan, benchmark, out=out, progress=progress, **backends)


@contextmanager
def _watch(console: Console) -> Iterator[Progress]:
    """Yield a progress callback: one bar for the whole plan on a terminal, a line for each cell elsewhere."""
    from rich.markup import escape

    from personalllm.cli.progress import bars

    with bars(console, disable=not console.is_terminal) as progress:
        task = progress.add_task("section 4", total=None)

        def show(event: ProgressEvent) -> None:
            name = escape(event.method)
            if event.message:
                console.print(f"[yellow]{name}[/]: {escape(event.message)}", soft_wrap=True)
                return
            progress.update(task, completed=event.done, total=event.total, description=name)
            if event.stage == "finish" and not console.is_terminal:
                console.print(f"{event.done:,} of {event.total:,}: {name}", highlight=False, soft_wrap=True)

        yield show


def _show_plan(plan: Plan, benchmark: Benchmark, rate: float | None, out: Path) -> None:
    """List the cells, what they cost and how long that takes; no model is asked."""
    from rich.markup import escape
    from rich.text import Text

    from personalllm.papers.personalllm_2025.plan import estimate_load
    from personalllm.papers.personalllm_2025.reproduction import measured_rate
    from personalllm.report.numbers import duration
    from personalllm.report.terminal import output_console, show_rows

    console = output_console()
    load = estimate_load(plan, benchmark)
    rows = []
    for item in load:
        numbers = (item.requests, item.prompt_tokens, item.completion_tokens)
        rows.append((escape(item.cell.name), item.cell.preset, *(f"{n:,}" for n in numbers)))
    headings = ("cell", "preset", "requests", "prompt tokens", "new tokens")
    show_rows(console, headings, rows, numeric=headings[2:])
    prompt, new = sum(item.prompt_tokens for item in load), sum(item.completion_tokens for item in load)
    lines = [
        (
            f"{len(plan.cells)} cells under {len(plan.protocols)} protocol{'s' * (len(plan.protocols) > 1)}, "
            f"{plan.n_users:,} users: "
            f"{plan.n_requests:,} requests, about {prompt:,} prompt tokens (four characters each) and at most {new:,} "
            "new ones."
        ),
        "Fewer where a reply is kept from an earlier run. No request was made.",
    ]
    per_token = 1 / rate if rate else measured_rate(out / "runs")
    source = "given" if rate else "measured in the finished cells"
    if per_token is None:
        lines.append("The time is unknown: give --rate, or run a part first.")
    else:
        expected = duration((prompt + new) * per_token)
        lines.append(
            f"About {expected} at {1 / per_token:,.0f} tokens a second ({source}), if every reply is full length."
        )
    for preset, changes in plan.changes.items():
        for name, (before, after) in changes.items():
            lines.append(f"{preset}: {name} is {after}, not {before}")
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def _show(reproduction: Reproduction, out: Path) -> None:
    """Print the tables and say where the files are."""
    from rich.text import Text

    from personalllm.report.reproduction import reproduction_notes, text_tables, verdict_on_levels, write_reproduction
    from personalllm.report.terminal import output_console, show_table

    files = write_reproduction(reproduction, out)
    console = output_console()
    for table in text_tables(reproduction):
        show_table(table, console)
    console.print(Text(verdict_on_levels(reproduction), style="bold"))
    for note in reproduction_notes(reproduction):
        console.print(Text(f"- {note}"))
    for path in files:
        if path.suffix in {".html", ".md", ".png", ".csv"}:
            console.print(Text(str(path)), soft_wrap=True)
