"""`personalllm rewards`: fit compact reward models and show the ones that come with the package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from personalllm.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from personalllm.backends.reward import TrainingReport

__all__ = ["app"]

app = typer.Typer(name="rewards", help="Train and inspect compact reward models.", no_args_is_help=True)


@app.command()
def train(
    preferences: Annotated[Path, typer.Argument(help="Pairs: .jsonl, .jsonl.gz, .parquet or .csv.")],
    *,
    name: Annotated[str, typer.Option(help="Name of the reward model.")],
    out: Annotated[Path, typer.Option(help="Where the weights go, a .safetensors file; the report goes beside it.")],
    held_out: Annotated[float, typer.Option(help="Share of prompts held out.")] = 0.25,
    length: Annotated[bool, typer.Option(help="Whether the model may read the length of a response.")] = True,
    limit: Annotated[int, typer.Option(min=0, help="Use the first pairs only; 0 uses all.")] = 0,
) -> None:
    """Fit a reward model on preference pairs (columns prompt, chosen, rejected) and test it on held-out prompts.

    The optional column `group` names what must stay on one side of the split; the prompt if absent.
    """
    from rich.console import Console

    from personalllm.backends.reward import read_preferences, train_compact
    from personalllm.cli.wiring import build_embedder
    from personalllm.storage import write_json

    if out.suffix != ".safetensors":
        raise UserError(f"{out} does not end in .safetensors.", "Name the weights NAME.safetensors.")
    console = Console()
    pairs = read_preferences(preferences)
    if limit:
        pairs = pairs.take(range(min(limit, len(pairs))))
    embedder = build_embedder()
    with console.status(f"Reading {len(pairs):,} pairs with {embedder.name} and fitting"):
        trained = train_compact(pairs, name, embedder, held_out=held_out, use_length=length)
    trained.heads.save(out)
    about = {"reward_models": {name: trained.report.spec()}, "embedder_identity": embedder.identity}
    write_json(out.with_suffix(".json"), about)
    console.print(_report_table(name, trained.report))
    if not trained.report.beats_chance:
        console.print("[yellow]The interval includes .5: on held-out prompts it is no better than chance.[/]")
    console.print(f"Wrote {out} and {out.with_suffix('.json').name}.", highlight=False, markup=False, soft_wrap=True)


def _report_table(name: str, report: TrainingReport) -> Table:
    """Return the figures of a fit as a table."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=escape(name), title_justify="left")
    table.add_column("")
    table.add_column("value", justify="right")
    table.add_column("95 % interval")
    for label, figure in (("held-out accuracy", report.held_out), ("always the longer", report.always_longer)):
        table.add_row(label, f"{figure.value:.3f}", f"{figure.low:.3f} to {figure.high:.3f}")
    table.add_row("chance", "0.500", "")
    table.add_row("rank correlation with length", f"{report.length_correlation:.3f}", "")
    table.add_row("pairs fitted on", f"{report.n_fitted:,}", f"of {report.n_fitted_groups:,} prompts")
    table.add_row("pairs held out", f"{report.n_held_out:,}", f"of {report.n_held_out_groups:,} other prompts")
    table.add_row("penalty (cross-validated)", f"{report.penalty:g}", "")
    return table


@app.command(name="list")
def list_rewards(
    ensemble: Annotated[str, typer.Argument(help="Name of a shipped ensemble.")] = "compact-v1",
) -> None:
    """Show the reward models of a shipped ensemble: held-out accuracy, always-longer, part of length."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from personalllm.backends.reward import shipped_metadata

    metadata = shipped_metadata(ensemble)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("reward model", no_wrap=True)
    table.add_column("held-out accuracy", no_wrap=True)
    table.add_column("longer", no_wrap=True)
    table.add_column("length", justify="right", no_wrap=True)
    table.add_column("pairs", justify="right", no_wrap=True)
    for name, card in metadata["reward_models"].items():
        held_out, longer = card["held_out"], card["always_longer"]
        table.add_row(
            name,
            f"{held_out['value']:.3f} ({held_out['low']:.3f}-{held_out['high']:.3f})",
            f"{longer['value']:.3f}",
            f"{card['alpaca8']['length_correlation']:+.2f}",
            f"{card['n_fitted']:,}",
        )
    console = Console()
    console.print(table)
    console.print(
        "Accuracy on held-out pairs with its 95 % interval by prompt, beside that of always preferring the longer "
        "response; chance is .5. Length: rank correlation of score and characters on alpaca8. Pairs: those "
        "fitted on. More: docs/reward-models.md"
    )
