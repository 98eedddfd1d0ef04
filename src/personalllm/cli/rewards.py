"""`personalllm rewards`: fit compact reward models, list them, and test that a score depends on its text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from personalllm.cli import options as o
from personalllm.cli.groups import command, command_group
from personalllm.core.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from personalllm.backends.reward import SelfTest, TrainingReport
    from personalllm.core.protocols import RewardEnsemble

__all__ = ["app"]

app = command_group("Train, list and test reward models.")


@command(app)
def train(
    preferences: Annotated[Path, typer.Argument(help="Pairs: JSONL, JSON, CSV, TSV, Parquet or Arrow.")],
    *,
    name: Annotated[str, typer.Option(help="Name of the reward model.")],
    out: Annotated[Path, typer.Option(help="Where the weights go, a .safetensors file; the report goes beside it.")],
    held_out: Annotated[float, typer.Option(help="Share of prompts held out.")] = 0.25,
    length: Annotated[bool, typer.Option(help="Whether the model may read the length of a response.")] = True,
    limit: Annotated[int, typer.Option(min=0, help="Use the first pairs only; 0 uses all.")] = 0,
    column: o.Columns = None,
) -> None:
    """Fit a reward model on preference pairs (columns prompt, chosen, rejected) and test it on held-out prompts.

    The optional column `group` names what must stay on one side of the split; the prompt if absent.
    """
    from rich.console import Console
    from rich.markup import escape

    from personalllm.backends.names import build_embedder
    from personalllm.backends.reward import Pairs, train_compact
    from personalllm.core.storage import write_json
    from personalllm.data.preferences import read_pairs
    from personalllm.report.terminal import show_rows

    if out.suffix != ".safetensors":
        raise UserError(f"{out} does not end in .safetensors.", "Name the weights NAME.safetensors.")
    console = Console()
    pairs = Pairs.of(read_pairs(preferences, o.parse_columns(column)))
    if limit:
        pairs = pairs.take(range(min(limit, len(pairs))))
    embedder = build_embedder()
    with console.status(f"Reading {len(pairs):,} pairs with {embedder.name} and fitting"):
        trained = train_compact(pairs, name, embedder, held_out=held_out, use_length=length)
    trained.heads.save(out)
    about = {"reward_models": {name: trained.report.spec()}, "embedder_identity": embedder.identity}
    write_json(out.with_suffix(".json"), about)
    headings = ("", "value", "95 % interval")
    show_rows(console, headings, _report_rows(trained.report), title=escape(name), numeric=("value",))
    if not trained.report.beats_chance:
        console.print("[yellow]The interval includes .5: on held-out prompts it is no better than chance.[/]")
    console.print(f"Wrote {out} and {out.with_suffix('.json').name}.", highlight=False, markup=False, soft_wrap=True)


def _report_rows(report: TrainingReport) -> list[tuple[str, str, str]]:
    """Return the figures of a fit."""
    intervals = [
        (label, f"{figure.value:.3f}", f"{figure.low:.3f} to {figure.high:.3f}")
        for label, figure in (("held-out accuracy", report.held_out), ("always the longer", report.always_longer))
    ]
    return [
        *intervals,
        ("chance", "0.500", ""),
        ("rank correlation with length", f"{report.length_correlation:.3f}", ""),
        ("pairs fitted on", f"{report.n_fitted:,}", f"of {report.n_fitted_groups:,} prompts"),
        ("pairs held out", f"{report.n_held_out:,}", f"of {report.n_held_out_groups:,} other prompts"),
        ("penalty (cross-validated)", f"{report.penalty:g}", ""),
    ]


@command(app, "list")
def list_rewards(
    ensemble: Annotated[
        str | None, typer.Argument(help="A shipped ensemble, or 'published'.", show_default="all")
    ] = None,
) -> None:
    """Show the reward models: the shipped compact ones with their accuracy, and the published ones of the paper."""
    from rich.console import Console

    from personalllm.backends.reward import ENSEMBLES, shipped_ensembles

    console = Console()
    for name in shipped_ensembles() if ensemble is None else (ensemble,):
        if name not in ENSEMBLES:
            _show_compact(console, name)
    if ensemble is None or ensemble in ENSEMBLES:
        _show_published(console)


def _show_compact(console: Console, ensemble: str) -> None:
    """Show held-out accuracy, always-longer and part of length of a shipped ensemble."""
    from personalllm.backends.reward import shipped_metadata
    from personalllm.report.terminal import show_rows

    rows = []
    for name, card in shipped_metadata(ensemble)["reward_models"].items():
        held_out = "{value:.3f} ({low:.3f}-{high:.3f})".format(**card["held_out"])
        length = f"{card['alpaca8']['length_correlation']:+.2f}"
        rows.append((name, held_out, f"{card['always_longer']['value']:.3f}", length, f"{card['n_fitted']:,}"))
    numeric = ("held-out accuracy", "longer", "length", "pairs")
    show_rows(console, ("reward model", *numeric), rows, title=ensemble, numeric=numeric)
    console.print(
        "Accuracy on held-out pairs with its 95 % interval by prompt, beside that of always preferring the longer "
        "response; chance is .5. Length: rank correlation of score and characters on alpaca8. Pairs: those "
        "fitted on. More: docs/reward-models.md"
    )


def _show_published(console: Console) -> None:
    """Show the registered reward models that transformers runs."""
    from rich.markup import escape

    from personalllm.backends.reward import REWARD_MODELS, find_reward
    from personalllm.report.terminal import show_rows

    rows = []
    for name in REWARD_MODELS:
        entry = find_reward(name)
        size = entry.parameters * (4 if entry.dtype == "float32" else 2)
        about = (
            f"{escape(name)}\n[dim]  {escape(entry.model)}\n"
            f"  {entry.head or 'any'} head, {entry.template.kind} text\n  {escape(entry.licence)}[/]"
        )
        rows.append((about, entry.dtype, f"{size:.1f} GB" if size else ""))
    headings = ("reward model: on the hub, head and text, licence", "numbers", "weights")
    show_rows(console, headings, rows, title="published", numeric=headings[1:])
    console.print(
        "They need the extra torch and their files on this machine, which you fetch once with `hf download`. "
        "All ten together: `published`. Any other sequence classifier: a folder, or owner/model on the hub. "
        "More: docs/published-rewards.md"
    )


@command(app)
def selftest(
    model: Annotated[
        str,
        typer.Argument(
            help="A reward model of `list`, a folder or owner/model on the hub, 'published', compact-v1, a "
            ".safetensors file of heads, or module:factory."
        ),
    ],
    *,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.", show_default="the model's")] = None,
    device: Annotated[str | None, typer.Option(help="Where torch computes.", show_default="cuda, else cpu")] = None,
) -> None:
    """Measure whether a score depends on anything but its text: batch, order, padding, BOS, cutting. Exit 1 if so."""
    from rich.console import Console

    from personalllm.backends.reward import selftest as measure

    console = Console()
    ensemble = _ensemble(model, dtype, device)
    with console.status(f"Testing {', '.join(ensemble.reward_models)}"):
        results = measure(ensemble)
    for result in results:
        _show_selftest(console, result)
    if not all(result.passed for result in results):
        raise typer.Exit(1)


def _ensemble(model: str, dtype: str | None, device: str | None) -> RewardEnsemble:
    """Return the ensemble that a name stands for."""
    from personalllm.backends.names import build_rewards
    from personalllm.backends.reward import is_published, load_rewards

    on_hub = model.count("/") == 1 and ":" not in model and not model.endswith(".safetensors")
    if is_published(model) or Path(model).is_dir() or on_hub:
        return load_rewards(model, dtype=dtype, device=device)
    if dtype or device:
        raise UserError(f"{model!r} is not run by transformers.", "Leave out --dtype and --device.")
    return build_rewards({}, name=model)


def _show_selftest(console: Console, result: SelfTest) -> None:
    """Show the checks of one ensemble and the verdict."""
    from rich.markup import escape

    from personalllm.report.terminal import show_rows

    names = result.reward_models
    title = names[0] if len(names) == 1 else f"{len(names)} reward models"
    colours = {"ok": "green", "failed": "bold red", "does not apply": "dim"}
    rows = []
    for check in result.checks:
        name = f"{escape(check.name)}\n[dim]  {escape(check.note)}[/]" if check.note else escape(check.name)
        rows.append((name, check.measured, check.limit, f"[{colours[check.verdict]}]{check.verdict}[/]"))
    headings = ("what must not matter", "measured", "limit", "verdict")
    show_rows(console, headings, rows, title=escape(title), numeric=headings[1:3])
    console.print(f"[dim]{escape(result.identity)}[/]", highlight=False, soft_wrap=True)
    spread = f"{min(result.sd):.3g}" if len(result.sd) == 1 else f"{min(result.sd):.3g} to {max(result.sd):.3g}"
    about = f"{result.n_texts} built-in texts; standard deviation of the scores {spread}."
    verdict = "[green]passed[/]" if result.passed else "[bold red]failed[/]: scores depend on more than their text"
    console.print(f"{about} Self-test {verdict}.", highlight=False)
