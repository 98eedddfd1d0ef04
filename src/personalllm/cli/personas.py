"""`personalllm personas`: let personas score the responses of a benchmark."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from personalllm.cli import options as o
from personalllm.cli.groups import command, command_group
from personalllm.core.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from personalllm.analysis.persona import PersonaEstimate, PersonaPopulation, PersonaScorer
    from personalllm.core.types import JSON

__all__ = ["app"]

CHAT = "chat"
_CHAT_PERSONAS, _CHAT_PROMPTS = 6, 6
_SLOW_SECONDS = 120.0

app = command_group("Let personas score the responses (persona prompting).")


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """The personas and the prompts."""

    title: ClassVar[str] = "Sample"

    personas: Annotated[
        Path | None, typer.Option(help="Text file, one persona a line.", **o.default("the shipped 60"))
    ] = None
    n_personas: Annotated[
        int | None, typer.Option(min=1, help="Personas to draw.", **o.default("all; 6 for the scorer chat"))
    ] = None
    n_prompts: Annotated[
        int | None, typer.Option(min=1, help="Prompts to draw.", **o.default("all; 6 for the scorer chat"))
    ] = None
    split: Annotated[str, typer.Option(help="Split of the prompts.")] = "test"
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0


@dataclass(frozen=True, kw_only=True)
class ScorerOptions:
    """The model that scores a response with a persona before the prompt."""

    title: ClassVar[str] = "Scorer"

    scorer: Annotated[
        str, typer.Option(help="A reward model of the ensemble, or `chat` for ratings by a chat model.")
    ] = "human-sampled"
    rewards: Annotated[str, typer.Option(help="Reward ensemble: shipped, a .safetensors file, or module:factory.")] = (
        "compact-v1"
    )
    llm: Annotated[str | None, typer.Option(help="Chat model of the scorer `chat`.")] = None
    scale: Annotated[int, typer.Option(min=2, max=9, help="Best rating of the scorer `chat`.")] = 5

    def build(self, metadata: JSON) -> PersonaScorer:
        """Return the scorer; `metadata` is that of the benchmark."""
        from personalllm.analysis.persona import ChatRatingScorer, RewardModelScorer
        from personalllm.backends.names import DEFAULT_LLM, build_llm, build_rewards

        if self.scorer == CHAT:
            return ChatRatingScorer(build_llm(self.llm or DEFAULT_LLM, cache=False), scale=self.scale)
        return RewardModelScorer(build_rewards(metadata, None, self.rewards), self.scorer)


@command(app)
def score(
    data: Annotated[str, typer.Argument(help="Benchmark: mini, or a file or folder.")] = "mini",
    *,
    out: Annotated[Path, typer.Option(help="File of the scores, .parquet.")] = Path("personas.parquet"),
    sample: SampleOptions,
    scorer: ScorerOptions,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure how long it will take, and stop.")] = False,
) -> None:
    """Score each response with a reward model or a chat model, a persona put before the prompt.

    Scores are kept as they come: the same command again continues where it was stopped.
    """
    from rich.console import Console
    from rich.markup import escape

    from personalllm.analysis import persona as room
    from personalllm.cli.progress import counted
    from personalllm.data import load
    from personalllm.report.terminal import show_rows

    if out.suffix != ".parquet":
        raise UserError(f"{out} does not end in .parquet.", "Name the scores NAME.parquet.")
    console = Console()
    benchmark = load(data)
    pool = room.shipped_personas() if sample.personas is None else room.read_personas(sample.personas)
    chat = scorer.scorer == CHAT
    n_personas = sample.n_personas or (min(_CHAT_PERSONAS, len(pool)) if chat else len(pool))
    n_prompts = sample.n_prompts or (_CHAT_PROMPTS if chat else None)
    drawn = room.sample_personas(pool, n_personas, seed=sample.seed)
    rows = room.sample_rows(benchmark, n_prompts, split=sample.split, seed=sample.seed)
    model = scorer.build(benchmark.metadata)
    with console.status("measuring the speed"):
        expected = room.estimate_personas(benchmark, drawn, model, rows=rows)
    _say(console, len(drawn), len(rows), model, expected)
    if dry_run:
        return
    with counted("personas x prompts", console) as progress:
        scores = room.score_personas(benchmark, drawn, model, rows=rows, progress=progress)
    scores.write(out)
    population = room.persona_population(scores)
    title = escape(population.votes.name)
    show_rows(console, ("measure", "value"), _measures(population), title=title, numeric=("value",))
    for note in population.notes():
        console.print(note, markup=False, highlight=False)
    console.print(f"Wrote {out}.", markup=False, highlight=False, soft_wrap=True)


def _say(console: Console, n_personas: int, n_prompts: int, scorer: PersonaScorer, costs: PersonaEstimate) -> None:
    name = scorer.identity.rsplit("@", 1)[0]
    lines = [f"{n_personas:,} personas x {n_prompts:,} prompts, scored by {name}."]
    earlier = f", {costs.n_kept:,} of them kept from before" if costs.n_kept else ""
    lines.append(f"{costs.n_pairs:,} pairs of persona and prompt (no persona counts as one){earlier}.")
    if costs.seconds > 0:
        long = f"{costs.seconds / 60:.0f} min" if costs.seconds > _SLOW_SECONDS else f"{costs.seconds:.0f} s"
        lines.append(f"About {long}: {costs.seconds_per_pair:.2g} s a pair (measured).")
    console.print("\n".join(lines), markup=False, highlight=False)


def _measures(population: PersonaPopulation) -> Iterator[tuple[str, str]]:
    """Yield what is measured and its value."""
    votes, figures = population.votes, population.summary()
    for share in (0.5, 0.75, 0.95):
        yield f"prompts with a top share <= {share:.0%} (ties half)", f"{votes.share_at_most(share):.1%}"
    yield "mean number of distinct winners", f"{votes.n_winners().mean():.2f}"
    yield "mean entropy, nats", f"{votes.entropy().mean():.3f}"
    for key, words in _WORDS.items():
        yield words, f"{figures[key]:.1%}"
    yield "rank correlation of score and length", f"{figures['length_correlation']:+.2f}"


_WORDS = {
    "variance_share_responses": "variance: response",
    "variance_share_personas": "variance: persona",
    "variance_share_rest": "variance: persona's own view of a response",
    "agreement_without_persona": "votes as without a persona",
    "agreement_between_personas": "two personas agree",
    "agreement_by_chance": "two would agree by chance",
    "votes_split": "votes split by ties",
}
