"""`personalllm personas`: let personas score the responses of a benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from personalllm.core.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from personalllm.analysis.persona import PersonaEstimate, PersonaPopulation, PersonaScorer
    from personalllm.data import Benchmark

__all__ = ["app"]

DEFAULT_REWARD_MODEL = "human-sampled"
CHAT = "chat"
_CHAT_PERSONAS, _CHAT_PROMPTS = 6, 6
_SLOW_SECONDS = 120.0

app = typer.Typer(name="personas", help="Persona prompting, the baseline population.", no_args_is_help=True)


@app.callback()
def _root() -> None:
    """Persona prompting, the baseline population."""


@app.command()
def score(
    data: Annotated[str, typer.Argument(help="Benchmark: mini, or a file or folder.")] = "mini",
    *,
    out: Annotated[Path, typer.Option(help="Where the scores go, a .parquet file.")] = Path("personas.parquet"),
    personas: Annotated[
        Path | None, typer.Option(help="Text file, one persona a line; the shipped 60 if left out.")
    ] = None,
    n_personas: Annotated[
        int | None, typer.Option(min=1, help="Personas to draw; all of them, but 6 for the scorer chat.")
    ] = None,
    n_prompts: Annotated[
        int | None, typer.Option(min=1, help="Prompts to draw; all of the split, but 6 for the scorer chat.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the prompts.")] = "test",
    scorer: Annotated[
        str, typer.Option(help="A reward model of the ensemble, or `chat` for ratings by a chat model.")
    ] = DEFAULT_REWARD_MODEL,
    rewards: Annotated[
        str, typer.Option(help="Reward ensemble: shipped, a .safetensors file, or module:factory.")
    ] = "compact-v1",
    llm: Annotated[str | None, typer.Option(help="Chat model of the scorer `chat`.")] = None,
    scale: Annotated[int, typer.Option(min=2, max=9, help="Best rating of the scorer `chat`.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure how long it will take, and stop.")] = False,
) -> None:
    """Let a reward model or a chat model score each response with a persona put before the prompt.

    Scores are kept as they come: the same command again goes on where it was stopped.
    """
    from rich.console import Console

    from personalllm.analysis import persona as room
    from personalllm.cli.progress import counted
    from personalllm.data import load

    if out.suffix != ".parquet":
        raise UserError(f"{out} does not end in .parquet.", "Name the scores NAME.parquet.")
    console = Console()
    benchmark = load(data)
    pool = room.shipped_personas() if personas is None else room.read_personas(personas)
    few = scorer == CHAT
    voices = n_personas or (min(_CHAT_PERSONAS, len(pool)) if few else len(pool))
    drawn = room.sample_personas(pool, voices, seed=seed)
    rows = room.sample_rows(benchmark, n_prompts or (_CHAT_PROMPTS if few else None), split=split, seed=seed)
    who = _scorer(benchmark, scorer, rewards, llm, scale)
    with console.status("measuring the speed"):
        expected = room.estimate_personas(benchmark, drawn, who, rows=rows)
    _say(console, len(drawn), len(rows), who, expected)
    if dry_run:
        return
    with counted("personas x prompts", console) as progress:
        scores = room.score_personas(benchmark, drawn, who, rows=rows, progress=progress)
    scores.write(out)
    population = room.persona_population(scores)
    console.print(_table(population))
    for note in population.notes():
        console.print(note, markup=False, highlight=False)
    console.print(f"Wrote {out}.", markup=False, highlight=False, soft_wrap=True)


def _scorer(benchmark: Benchmark, scorer: str, rewards: str, llm: str | None, scale: int) -> PersonaScorer:
    from personalllm.analysis.persona import ChatRatingScorer, RewardModelScorer
    from personalllm.backends.names import DEFAULT_LLM, build_llm, build_rewards

    if scorer == CHAT:
        return ChatRatingScorer(build_llm(llm or DEFAULT_LLM, cache=False), scale=scale)
    return RewardModelScorer(build_rewards(benchmark.metadata, None, rewards), scorer)


def _say(console: Console, n_personas: int, n_prompts: int, scorer: PersonaScorer, found: PersonaEstimate) -> None:
    name = scorer.identity.rsplit("@", 1)[0]
    lines = [f"{n_personas:,} personas x {n_prompts:,} prompts, scored by {name}."]
    kept = f", {found.n_kept:,} of them kept from before" if found.n_kept else ""
    lines.append(f"{found.n_pairs:,} pairs of persona and prompt (nobody counts as one persona){kept}.")
    if found.seconds > 0:
        long = f"{found.seconds / 60:.0f} min" if found.seconds > _SLOW_SECONDS else f"{found.seconds:.0f} s"
        lines.append(f"About {long}: {found.seconds_per_pair:.2g} s a pair (measured).")
    console.print("\n".join(lines), markup=False, highlight=False)


def _table(population: PersonaPopulation) -> Table:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=escape(population.votes.name), title_justify="left")
    table.add_column("measure")
    table.add_column("value", justify="right")
    votes = population.votes
    for share in (0.5, 0.75, 0.95):
        table.add_row(f"prompts with a top share <= {share:.0%} (ties half)", f"{votes.share_at_most(share):.1%}")
    table.add_row("mean number of distinct winners", f"{votes.n_winners().mean():.2f}")
    table.add_row("mean entropy, nats", f"{votes.entropy().mean():.3f}")
    figures = population.summary()
    for key, words in _WORDS.items():
        table.add_row(words, f"{figures[key]:.1%}")
    table.add_row("rank correlation of score and length", f"{figures['length_correlation']:+.2f}")
    return table


_WORDS = {
    "variance_share_responses": "variance: response",
    "variance_share_personas": "variance: persona",
    "variance_share_rest": "variance: persona's own view of a response",
    "agreement_without_persona": "votes as without a persona",
    "agreement_between_personas": "two personas agree",
    "agreement_by_chance": "two would agree by chance",
    "votes_split": "votes split by ties",
}
