"""`personalllm build`: prompts -> responses -> scores -> packed benchmark."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from personalllm.core.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from personalllm.build import Recipe
    from personalllm.build.prompts import Prompt
    from personalllm.core.protocols import Executor
    from personalllm.data import Benchmark

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True)

_SCORE_BLOCK = 64
_MOSTLY = 0.9

RecipePath = Annotated[Path, typer.Argument(help="The recipe, a TOML file.", show_default=False)]
Out = Annotated[Path, typer.Option("--out", help="Working folder of the build; run again to go on.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be asked, paid and waited for; nothing is asked or written.")
]
First = Annotated[
    int, typer.Option("--first", min=0, help="Only the first prompts, to measure speed and length; 0 for all.")
]
ResponsesPerSecond = Annotated[
    float | None,
    typer.Option(help="Of all response models, for --dry-run.", show_default="as measured in the working folder"),
]
ScoresPerSecond = Annotated[
    float | None,
    typer.Option(help="Responses scored in a second, for --dry-run.", show_default="as measured in the working folder"),
]
ExecutorName = Annotated[
    str, typer.Option("--executor", help="Who does the work: serial, processes[:N] or ray[:ADDRESS].")
]


def _console() -> Console:
    from rich.console import Console

    return Console()


def _read(path: Path, executor: str = "serial") -> Recipe:
    """Read a recipe, and refuse one that can run nowhere."""
    from personalllm.build import Recipe
    from personalllm.cli.readiness import check_names

    recipe = Recipe.read(path)
    check_names(recipe, executor)
    return recipe


def _executor(name: str) -> Executor | None:
    """Return who does the work; its workers find what `module:factory` names in the folder you are in, as we do."""
    if name == "serial":
        return None
    from personalllm.backends.executor import build_executor

    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    return build_executor(name)


@contextmanager
def _phases(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """Yield a callback `(what, done, total)` that opens one bar for each thing that is done."""
    from contextlib import ExitStack

    from personalllm.cli.progress import reported

    shown: dict[str, Callable[[int, int], None]] = {}
    with ExitStack() as stack:

        def progress(title: str, done: int, total: int) -> None:
            if title not in shown:
                stack.close()
                shown[title] = stack.enter_context(reported(title, console))
            shown[title](done, total)

        yield progress


@app.command()
def prompts(recipe_path: RecipePath, out: Out, *, dry_run: DryRun = False) -> None:
    """Read the sources, leave out what cannot be used, and draw the prompts."""
    from personalllm.build import gather_prompts
    from personalllm.build.prompts import counts_of, read_record
    from personalllm.cli.building import embedder_of, interruptible, show_counts

    recipe, console = _read(recipe_path), _console()
    if dry_run:
        _planned(recipe, recipe_path, out, console)
        console.print("Nothing was written.")
        return
    with interruptible(console, out), _phases(console) as progress:
        drawn = gather_prompts(recipe, recipe_path.parent, out, embedder=embedder_of(recipe), progress=progress)
    show_counts(console, counts_of(read_record(out)))
    _say(console, f"{len(drawn):,} prompts in {out / 'prompts.jsonl'}; what was left out: {out / 'left_out.jsonl'}")


def _planned(recipe: Recipe, recipe_path: Path, out: Path, console: Console) -> list[Prompt]:
    """Draw the prompts without writing them, and show the counts."""
    from personalllm.build.prompts import draw_prompts
    from personalllm.cli.building import embedder_of, show_counts

    with _phases(console) as progress:
        drawn, counts = draw_prompts(recipe, recipe_path.parent, out, embedder=embedder_of(recipe), progress=progress)
    show_counts(console, counts)
    rule = recipe.prompts
    _say(
        console,
        f"{recipe.name}: {len(drawn):,} prompts ({rule.train:,} train, {rule.test:,} test, {rule.spare:,} spare)",
    )
    return drawn


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


@app.command()
def respond(
    recipe_path: RecipePath,
    out: Out,
    *,
    first: First = 0,
    dry_run: DryRun = False,
    responses_per_second: ResponsesPerSecond = None,
    executor: ExecutorName = "serial",
) -> None:
    """Let every response model answer every prompt; responses that are already there are kept."""
    from personalllm.build import read_prompts
    from personalllm.build import respond as draw
    from personalllm.cli.building import Clock, chat_models_of, interruptible
    from personalllm.cli.progress import reported
    from personalllm.cli.readiness import refuse_missing

    recipe, console = _read(recipe_path, executor), _console()
    if dry_run:
        _dry_run(recipe, recipe_path, out, ("respond",), responses_per_second=responses_per_second, first=first)
        return
    asked = read_prompts(out, recipe)
    asked = asked[:first] if first else asked
    if _to_ask(recipe, out, asked):
        refuse_missing(recipe, ("respond",))
    chat_models = chat_models_of(recipe)
    with interruptible(console, out), reported("responses", console) as progress:
        clock = Clock(progress)
        report = draw(recipe, asked, chat_models, out, progress=clock, executor=_executor(executor))
    if not report.spent.reused:
        clock.note(out, "respond")
    for line in report.lines:
        _say(console, line)
    error = report.error()
    if error is not None:
        raise error
    _say(console, f"Responses in {out / 'responses'}")


def _to_ask(recipe: Recipe, out: Path, prompts: list[Prompt]) -> bool:
    """Tell whether a response is missing, or may be, that is not given up."""
    from personalllm.build import read_responses
    from personalllm.build.responding import read_given_up
    from personalllm.cli.building import reachable_chat_models

    chat_models = reachable_chat_models(recipe)
    if chat_models is None:
        return True
    have, lost = read_responses(recipe, chat_models, out), read_given_up(recipe, chat_models, out)
    return any(p.prompt_id not in have[name] and p.prompt_id not in lost[name] for name in have for p in prompts)


@app.command()
def score(
    recipe_path: RecipePath,
    out: Out,
    *,
    dry_run: DryRun = False,
    scores_per_second: ScoresPerSecond = None,
    executor: ExecutorName = "serial",
) -> None:
    """Score the responses with the reward models; finished blocks are kept."""
    from personalllm.build import read_prompts, read_responses
    from personalllm.build import score as score_blocks
    from personalllm.build.estimate import score_step
    from personalllm.build.scoring import complete_prompts
    from personalllm.cli.building import Clock, chat_models_of, interruptible, n_absent
    from personalllm.cli.progress import reported
    from personalllm.cli.readiness import ensemble_of, refuse_missing

    recipe, console = _read(recipe_path, executor), _console()
    if dry_run:
        _dry_run(recipe, recipe_path, out, ("score",), scores_per_second=scores_per_second, executor=executor)
        return
    refuse_missing(recipe, ("score",))
    responses = read_responses(recipe, chat_models_of(recipe), out)
    kept = complete_prompts(read_prompts(out, recipe), responses)[: recipe.prompts.train + recipe.prompts.test]
    texts = [[responses[m.name][p.prompt_id].text for m in recipe.response_model] for p in kept]
    if not kept:
        raise UserError(
            "No prompt has a usable response of every response model yet.", "Run the step `build respond` first."
        )
    ensemble = ensemble_of(recipe)
    absent = n_absent(ensemble, texts)
    with interruptible(console, out), reported("scores", console) as progress:
        clock = Clock(progress)
        values = score_blocks(
            kept, texts, ensemble, out, progress=clock, block=_SCORE_BLOCK, executor=_executor(executor)
        )
    if absent is None or absent >= _MOSTLY * clock.left * len(recipe.response_model):
        clock.note(out, score_step(ensemble, executor), len(recipe.response_model) * len(kept))
    _say(console, f"{values.size:,} scores of {len(kept):,} prompts in {out / 'scores'}")


@app.command()
def pack(recipe_path: RecipePath, out: Out, *, dry_run: DryRun = False) -> None:
    """Write the benchmark in the released schema, and its data card."""
    from personalllm.build import data_card, read_prompts, read_responses
    from personalllm.build import pack as pack_benchmark
    from personalllm.build.scoring import complete_prompts
    from personalllm.cli.building import chat_models_of, interruptible
    from personalllm.cli.readiness import ensemble_of
    from personalllm.core.storage import atomic_path

    recipe, console = _read(recipe_path), _console()
    chat_models = chat_models_of(recipe)
    responses = read_responses(recipe, chat_models, out)
    if dry_run:
        complete, wanted = (
            len(complete_prompts(read_prompts(out, recipe), responses)),
            recipe.prompts.train + recipe.prompts.test,
        )
        _say(console, f"{complete:,} prompts have all responses, {wanted:,} are needed. Nothing was written.")
        return
    with interruptible(console, out):
        benchmark = pack_benchmark(recipe, read_prompts(out, recipe), responses, chat_models, ensemble_of(recipe), out)
    try:
        figures = _figures(benchmark)
    except UserError as error:
        figures = {}
        _say(console, f"The diversity is not measured: {error}")
    with atomic_path(out / f"{recipe.name}.md") as temporary:
        temporary.write_text(data_card(benchmark, figures), encoding="utf-8")
    _say(console, f"{out / recipe.name}.parquet, fingerprint {benchmark.fingerprint}")
    _say(console, f"Data card: {out / recipe.name}.md")


@app.command(name="all")
def all_steps(
    recipe_path: RecipePath,
    out: Out,
    *,
    dry_run: DryRun = False,
    responses_per_second: ResponsesPerSecond = None,
    scores_per_second: ScoresPerSecond = None,
    executor: ExecutorName = "serial",
) -> None:
    """Run the four steps one after the other; what is finished is kept."""
    from personalllm.build import read_prompts
    from personalllm.cli.readiness import refuse_missing

    recipe = _read(recipe_path, executor)
    if dry_run:
        _dry_run(
            recipe,
            recipe_path,
            out,
            ("respond", "score"),
            responses_per_second=responses_per_second,
            scores_per_second=scores_per_second,
            executor=executor,
        )
        return
    try:
        asks = _to_ask(recipe, out, read_prompts(out, recipe))
    except UserError:
        asks = True  # nothing is drawn yet
    refuse_missing(recipe, ("respond", "score") if asks else ("score",))
    prompts(recipe_path, out)
    respond(recipe_path, out, executor=executor)
    score(recipe_path, out, executor=executor)
    pack(recipe_path, out)


def _dry_run(
    recipe: Recipe,
    recipe_path: Path,
    out: Path,
    steps: tuple[str, ...],
    *,
    responses_per_second: float | None = None,
    scores_per_second: float | None = None,
    first: int = 0,
    executor: str = "serial",
) -> None:
    """Show counts, requests, tokens, dollars and hours, and what is missing here; no model is asked."""
    from personalllm.build import read_responses
    from personalllm.build.estimate import Rates, estimate, measured_rates
    from personalllm.build.responding import read_given_up
    from personalllm.cli.building import reachable_chat_models, scoring_so_far, show_estimate
    from personalllm.cli.readiness import missing

    console = _console()
    drawn = _planned(recipe, recipe_path, out, console)
    drawn = drawn[:first] if first else drawn
    chat_models = reachable_chat_models(recipe) if (out / "responses").is_dir() else None
    have = read_responses(recipe, chat_models, out) if chat_models is not None else None
    lost = read_given_up(recipe, chat_models, out) if chat_models is not None else None
    step, scored = scoring_so_far(recipe, drawn, have, out, executor, _SCORE_BLOCK) if "score" in steps else ("", 0)
    measured = measured_rates(out, step)
    rates = Rates(
        measured.responses_per_second if responses_per_second is None else responses_per_second,
        measured.scores_per_second if scores_per_second is None else scores_per_second,
    )
    found = estimate(recipe, drawn, have, rates, lost, scored)
    show_estimate(console, found, steps)
    for needs, error in missing(recipe, steps):
        if needs == "score" or found.requests:
            _say(console, f"Warning: `{needs}` cannot run here yet. {error}")
    console.print("Nothing was asked, and nothing was written.")


def _figures(benchmark: Benchmark) -> dict[str, str]:
    """Measure the diversity of the test prompts for the data card."""
    from personalllm.analysis import Votes
    from personalllm.data import Standardiser
    from personalllm.users import Population

    rows = benchmark.rows("test")
    fitted_on = "train" if "train" in benchmark.splits else "test"
    table = benchmark.score_table(Standardiser.fit(benchmark, fitted_on), rows)
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
