"""`personalllm demo`: the benchmark's main job from end to end, offline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from personalllm.core.types import JSON

__all__ = ["demo"]

METHODS = ("embedding-ranker", "longest", "pooled-ranker", "random")
"""Methods of the rank track that take seconds."""


def demo(
    out: Annotated[Path, typer.Option(help="Folder of the runs and the report.")] = Path("demo-report"),
    users: Annotated[int, typer.Option(min=1, help="Users of the rank track.")] = 1000,
    writers: Annotated[int, typer.Option(min=1, help="Users of the generate track.")] = 12,
    max_tokens: Annotated[int, typer.Option(min=1, help="Maximum of new tokens of a generated response.")] = 128,
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn.")] = 0,
) -> None:
    """Run both tracks on the embedded benchmark with a real small language model, and write the HTML report.

    The rank track runs at full size; in the generate track a local chat model writes for a few users. Run it again
    and it continues where it stopped.
    """
    import time

    from rich.console import Console

    from personalllm.backends.names import build_embedder, build_llm, build_rewards
    from personalllm.cli.progress import embed_texts, watch
    from personalllm.data import load
    from personalllm.evaluation import evaluate
    from personalllm.report import render_report, show_results
    from personalllm.report.terminal import output_console

    console = Console()
    began = time.perf_counter()
    benchmark = load("mini")
    console.print(
        f"[bold]mini[/]: {benchmark.n_prompts} prompts x {benchmark.n_responses} responses x "
        f"{len(benchmark.reward_models)} reward models, fingerprint {benchmark.fingerprint[:12]}",
        highlight=False,
    )
    embedder, llm = build_embedder(), build_llm(cache=False)
    rewards = build_rewards(benchmark.metadata, embedder)
    embed_texts(benchmark, embedder, console)
    stages: tuple[tuple[str, tuple[str, ...], str, JSON], ...] = (
        ("rank", METHODS, f"{users:,} users choose among stored responses", {"n_users": users}),
        (
            "generate",
            ("all",),
            f"{llm.name} writes for {writers} users, the reward models score what it wrote",
            {"n_users": users, "limit": min(writers, users), "max_tokens": max_tokens},
        ),
    )
    backends: JSON = {"embedder": embedder, "llm": llm, "rewards": rewards}
    runs = []
    for track, names, text, settings in stages:
        console.print(f"\n[bold]{track} track[/]: {text}")
        stage_began = time.perf_counter()
        with watch(console) as progress:
            results = evaluate(
                names, benchmark, track, settings | {"seed": seed}, out=out, progress=progress, **backends
            )
        runs.append(results)
        show_results(results, output_console())
        console.print(f"{track} track: {time.perf_counter() - stage_began:.0f} s", highlight=False)
    page = render_report(runs, out / "report.html")
    console.print(f"\n[bold]Report[/]: {page} (open it in a browser)", soft_wrap=True)
    console.print(f"In all {time.perf_counter() - began:.0f} s.", highlight=False)
