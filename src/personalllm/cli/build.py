"""`personalllm build`: prompts -> responses -> scores -> packed benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from personalllm.cli.progress import counted

if TYPE_CHECKING:
    from personalllm.build import Recipe
    from personalllm.data import Benchmark
    from personalllm.protocols import ChatModel, RewardEnsemble

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True)

RecipePath = Annotated[Path, typer.Argument(help="The recipe, a TOML file.", show_default=False)]
Out = Annotated[Path, typer.Option("--out", help="Working folder of the build; run again to go on.")]


def _chat_models(recipe: Recipe) -> dict[str, ChatModel]:
    from personalllm.backends.llm import LocalChatModel

    return {name: LocalChatModel(name) for name in sorted({model.chat_model for model in recipe.response_model})}


def _ensemble(recipe: Recipe) -> RewardEnsemble:
    from personalllm.cli.wiring import build_rewards

    return build_rewards({"reward_ensemble": recipe.reward_ensemble})


def _read(path: Path) -> Recipe:
    from personalllm.build import Recipe

    return Recipe.read(path)


@app.command()
def prompts(recipe_path: RecipePath, out: Out) -> None:
    """Gather and draw the prompts."""
    from personalllm.build import gather_prompts

    drawn = gather_prompts(_read(recipe_path), recipe_path.parent, out)
    typer.echo(f"{len(drawn)} prompts in {out / 'prompts.jsonl'}")


@app.command()
def respond(recipe_path: RecipePath, out: Out) -> None:
    """Let every response model answer every prompt; responses that are already there are kept."""
    from personalllm.build import read_prompts
    from personalllm.build import respond as draw

    recipe = _read(recipe_path)
    with counted("responses") as progress:
        given_up = draw(recipe, read_prompts(out), _chat_models(recipe), out, progress=progress)
    typer.echo(f"Responses in {out / 'responses'}; {given_up} given up as empty or repetitive.")


@app.command()
def score(recipe_path: RecipePath, out: Out) -> None:
    """Score the responses with the reward models; finished blocks are kept."""
    from personalllm.build import read_prompts, read_responses
    from personalllm.build import score as score_blocks
    from personalllm.build.scoring import complete_prompts

    recipe = _read(recipe_path)
    responses = read_responses(recipe, _chat_models(recipe), out)
    kept = complete_prompts(read_prompts(out), responses)
    texts = [[responses[m.name][p.prompt_id].text for m in recipe.response_model] for p in kept]
    with counted("scores") as progress:
        values = score_blocks(kept, texts, _ensemble(recipe), out, progress=progress)
    typer.echo(f"{values.size} scores of {len(kept)} prompts in {out / 'scores'}")


@app.command()
def pack(recipe_path: RecipePath, out: Out) -> None:
    """Write the benchmark in the released schema, and its data card."""
    from personalllm.build import data_card, read_prompts, read_responses
    from personalllm.build import pack as pack_benchmark
    from personalllm.storage import atomic_path

    recipe = _read(recipe_path)
    chat_models = _chat_models(recipe)
    responses = read_responses(recipe, chat_models, out)
    benchmark = pack_benchmark(recipe, read_prompts(out), responses, chat_models, _ensemble(recipe), out)
    with atomic_path(out / f"{recipe.name}.md") as temporary:
        temporary.write_text(data_card(benchmark, _figures(benchmark)), encoding="utf-8")
    typer.echo(f"{out / recipe.name}.parquet, fingerprint {benchmark.fingerprint}")


@app.command(name="all")
def all_steps(recipe_path: RecipePath, out: Out) -> None:
    """Run the four steps one after the other; what is finished is kept."""
    prompts(recipe_path, out)
    respond(recipe_path, out)
    score(recipe_path, out)
    pack(recipe_path, out)


def _figures(benchmark: Benchmark) -> dict[str, str]:
    """Measure the diversity of the test prompts for the data card."""
    from personalllm.analysis import Votes
    from personalllm.data import Standardiser
    from personalllm.users import Population

    rows = benchmark.rows("test")
    table = benchmark.score_table(Standardiser.fit(benchmark), rows)
    figures = {}
    for alpha in (0.01, 0.05, 0.1):
        users = Population.dirichlet(1000, alpha, table.reward_models, seed=0)
        found = Votes.of(f"alpha {alpha}", users, table, benchmark, rows)
        shares = ", ".join(f"{found.share_at_most(t):.1%} <= {t:.0%}" for t in (0.5, 0.75, 0.95))
        winners = ", ".join(f"{n}: {share:.0%}" for n, share in found.winners_histogram().items())
        wins = ", ".join(f"{n} {w:.1%}" for n, w in zip(found.options, found.option_shares(), strict=True))
        figures[f"test prompts by their top vote share, 1,000 users, alpha {alpha}"] = shares
        figures[f"test prompts by distinct winners, alpha {alpha}"] = winners
        figures[f"wins of each response model, alpha {alpha}"] = wins
    return figures
