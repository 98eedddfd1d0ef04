"""`personalllm build`: prompts -> responses -> scores -> packed benchmark."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from personalllm.cli import options as o
from personalllm.cli.groups import command, command_group
from personalllm.core.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from personalllm.build import Recipe
    from personalllm.build.prompts import Prompt
    from personalllm.build.responding import Response
    from personalllm.core.protocols import Executor
    from personalllm.data import Benchmark

__all__ = ["app", "diversity_figures"]

app = command_group("Make a benchmark from prompts, chat models and reward models.")

_SCORE_BLOCK = 64
_MOSTLY = 0.9

RecipePath = Annotated[Path, typer.Argument(help="The recipe, a TOML file.", show_default=False)]
Out = Annotated[Path, typer.Option("--out", help="Working folder of the build; run again to continue.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Report requests, costs and time; make no request and write nothing.")
]
First = Annotated[
    int, typer.Option("--first", min=0, help="Only the first prompts, to measure speed and length; 0 for all.")
]
ResponsesPerSecond = Annotated[
    float | None,
    typer.Option(help="Of all response models, for --dry-run.", **o.default("as measured in the working folder")),
]
ScoresPerSecond = Annotated[
    float | None,
    typer.Option(help="Responses scored in a second, for --dry-run.", **o.default("as measured in the working folder")),
]


@dataclass(frozen=True, eq=False)
class _Job:
    """A recipe that names nothing unknown, and where the work goes."""

    recipe: Recipe
    folder: Path
    out: Path
    executor_name: str
    console: Console

    @classmethod
    def read(cls, path: Path, out: Path, executor: str = "serial") -> _Job:
        """Read a recipe.

        Raises:
            UserError: If it cannot run anywhere.
        """
        from personalllm.build import Recipe
        from personalllm.cli.recipes import check_names
        from personalllm.report.terminal import output_console

        recipe = Recipe.read(path)
        check_names(recipe, executor)
        return cls(recipe, path.parent, out, executor, output_console())

    @cached_property
    def executor(self) -> Executor | None:
        """The executor; its workers import `module:factory` from the working folder, as this process does."""
        if self.executor_name == "serial":
            return None
        from personalllm.backends.executor import build_executor

        folder = str(Path.cwd())
        if folder not in sys.path:
            sys.path.append(folder)
        return build_executor(self.executor_name)

    @property
    def size(self) -> int:
        """Number of prompts of the benchmark."""
        return self.recipe.prompts.train + self.recipe.prompts.test

    def prompts(self) -> list[Prompt]:
        """Read the prompts back."""
        from personalllm.build import read_prompts

        return read_prompts(self.out, self.recipe)

    def responses(self) -> dict[str, dict[str, Response]]:
        """Read the usable responses back, `{response model: {prompt_id: response}}`."""
        from personalllm.build import read_responses
        from personalllm.cli.recipes import chat_models_of

        return read_responses(self.recipe, chat_models_of(self.recipe), self.out)

    def say(self, text: str) -> None:
        """Print a line as it is."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _phases(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """Yield a callback `(title, done, total)` that opens one bar for each title."""
    from personalllm.cli.progress import reported

    bars: dict[str, Callable[[int, int], None]] = {}
    with ExitStack() as stack:

        def progress(title: str, done: int, total: int) -> None:
            if title not in bars:
                stack.close()
                bars[title] = stack.enter_context(reported(title, console))
            bars[title](done, total)

        yield progress


@command(app)
def prompts(recipe_path: RecipePath, *, out: Out, dry_run: DryRun = False) -> None:
    """Read the sources, leave out what cannot be used, and draw the prompts."""
    job = _Job.read(recipe_path, out)
    if dry_run:
        _draw(job)
        job.say("Nothing was written.")
    else:
        _prompts(job)


def _prompts(job: _Job) -> None:
    from personalllm.build import gather_prompts
    from personalllm.build.prompts import counts_of, read_record
    from personalllm.cli.building import interruptible, show_counts
    from personalllm.cli.recipes import embedder_of

    recipe, out = job.recipe, job.out
    with interruptible(job.console, out), _phases(job.console) as progress:
        drawn = gather_prompts(recipe, job.folder, out, embedder=embedder_of(recipe), progress=progress)
    show_counts(job.console, counts_of(read_record(out)))
    job.say(f"{len(drawn):,} prompts in {out / 'prompts.jsonl'}; what was left out: {out / 'left_out.jsonl'}")


def _draw(job: _Job) -> list[Prompt]:
    """Draw the prompts without writing them, and show the counts."""
    from personalllm.build.prompts import draw_prompts
    from personalllm.cli.building import show_counts
    from personalllm.cli.recipes import embedder_of

    recipe, rule = job.recipe, job.recipe.prompts
    with _phases(job.console) as progress:
        drawn, counts = draw_prompts(recipe, job.folder, job.out, embedder=embedder_of(recipe), progress=progress)
    show_counts(job.console, counts)
    sizes = f"{rule.train:,} train, {rule.test:,} test, {rule.spare:,} spare"
    job.say(f"{recipe.name}: {len(drawn):,} prompts ({sizes})")
    return drawn


@command(app)
def respond(
    recipe_path: RecipePath,
    *,
    out: Out,
    first: First = 0,
    dry_run: DryRun = False,
    responses_per_second: ResponsesPerSecond = None,
    executor: o.Executor = "serial",
) -> None:
    """Request a response to every prompt from every response model; existing responses are kept."""
    job = _Job.read(recipe_path, out, executor)
    if dry_run:
        _dry_run(job, ("respond",), (responses_per_second, None), first)
    else:
        _respond(job, first)


def _respond(job: _Job, first: int = 0) -> None:
    from personalllm.build import respond as draw_responses
    from personalllm.build.estimate import Clock
    from personalllm.cli.building import interruptible
    from personalllm.cli.progress import reported
    from personalllm.cli.recipes import chat_models_of, refuse_missing

    prompts = job.prompts()[: first or None]
    if _lacks_responses(job, prompts):
        refuse_missing(job.recipe, ("respond",))
    chat_models = chat_models_of(job.recipe)
    with interruptible(job.console, job.out), reported("responses", job.console) as progress:
        clock = Clock(progress)
        report = draw_responses(job.recipe, prompts, chat_models, job.out, progress=clock, executor=job.executor)
    if not report.spent.reused:
        clock.note(job.out, "respond")
    for line in report.lines:
        job.say(line)
    error = report.error()
    if error is not None:
        raise error
    job.say(f"Responses in {job.out / 'responses'}")


def _lacks_responses(job: _Job, prompts: Sequence[Prompt]) -> bool:
    """Return whether a response that is not given up is missing, or may be."""
    from personalllm.build import read_responses
    from personalllm.build.responding import read_given_up
    from personalllm.cli.recipes import reachable_chat_models

    chat_models = reachable_chat_models(job.recipe)
    if chat_models is None:
        return True
    responses = read_responses(job.recipe, chat_models, job.out)
    given_up = read_given_up(job.recipe, chat_models, job.out)
    return any(
        p.prompt_id not in responses[name] and p.prompt_id not in given_up[name] for name in responses for p in prompts
    )


@command(app)
def score(
    recipe_path: RecipePath,
    *,
    out: Out,
    dry_run: DryRun = False,
    scores_per_second: ScoresPerSecond = None,
    executor: o.Executor = "serial",
) -> None:
    """Score the responses with the reward models; finished blocks are kept."""
    job = _Job.read(recipe_path, out, executor)
    if dry_run:
        _dry_run(job, ("score",), (None, scores_per_second))
    else:
        _score(job)


def _score(job: _Job) -> None:
    from personalllm.build import score as score_blocks
    from personalllm.build.estimate import Clock, score_step
    from personalllm.build.scoring import complete_prompts
    from personalllm.cli.building import interruptible
    from personalllm.cli.progress import reported
    from personalllm.cli.recipes import ensemble_of, n_absent, refuse_missing

    refuse_missing(job.recipe, ("score",))
    responses = job.responses()
    prompts = complete_prompts(job.prompts(), responses)[: job.size]
    texts = [[responses[m.name][p.prompt_id].text for m in job.recipe.response_model] for p in prompts]
    if not prompts:
        raise UserError(
            "No prompt has a usable response of every response model yet.", "Run the step `build respond` first."
        )
    ensemble = ensemble_of(job.recipe)
    absent = n_absent(ensemble, texts)
    with interruptible(job.console, job.out), reported("scores", job.console) as progress:
        clock = Clock(progress)
        values = score_blocks(
            prompts, texts, ensemble, job.out, progress=clock, block=_SCORE_BLOCK, executor=job.executor
        )
    if absent is None or absent >= _MOSTLY * clock.left * len(responses):
        clock.note(job.out, score_step(ensemble, job.executor_name), len(responses) * len(prompts))
    job.say(f"{values.size:,} scores of {len(prompts):,} prompts in {job.out / 'scores'}")


@command(app)
def pack(recipe_path: RecipePath, *, out: Out, dry_run: DryRun = False) -> None:
    """Write the benchmark in the released schema, and its data card."""
    from personalllm.build.scoring import complete_prompts

    job = _Job.read(recipe_path, out)
    if dry_run:
        n_complete = len(complete_prompts(job.prompts(), job.responses()))
        job.say(f"{n_complete:,} prompts have all responses, {job.size:,} are needed. Nothing was written.")
    else:
        _pack(job)


def _pack(job: _Job) -> None:
    from personalllm.build import data_card
    from personalllm.build import pack as pack_benchmark
    from personalllm.cli.building import interruptible
    from personalllm.cli.recipes import chat_models_of, ensemble_of
    from personalllm.core.storage import atomic_path

    recipe, out = job.recipe, job.out
    with interruptible(job.console, out):
        benchmark = pack_benchmark(
            recipe, job.prompts(), job.responses(), chat_models_of(recipe), ensemble_of(recipe), out
        )
    try:
        figures = diversity_figures(benchmark)
    except UserError as error:
        figures = {}
        job.say(f"The diversity is not measured: {error}")
    with atomic_path(out / f"{recipe.name}.md") as temporary:
        temporary.write_text(data_card(benchmark, figures), encoding="utf-8")
    job.say(f"{out / recipe.name}.parquet, fingerprint {benchmark.fingerprint}")
    job.say(f"Data card: {out / recipe.name}.md")


def diversity_figures(benchmark: Benchmark) -> dict[str, str]:
    """Return the diversity of the test prompts in words, for the data card."""
    from personalllm.analysis import Study

    study = Study(benchmark)
    figures = {}
    for alpha, votes in zip(study.alphas, study.votes("test"), strict=True):
        users = f"{study.n_users:,} users, alpha {alpha}"
        shares = ", ".join(f"{votes.share_at_most(t):.1%} <= {t:.0%}" for t in (0.5, 0.75, 0.95))
        winners = ", ".join(f"{n}: {share:.0%}" for n, share in votes.winners_histogram().items())
        wins = ", ".join(f"{n} {w:.1%}" for n, w in zip(votes.options, votes.option_shares(), strict=True))
        figures[f"test prompts by their top vote share, {users}"] = shares
        figures[f"test prompts by distinct winners, alpha {alpha}"] = winners
        figures[f"wins of each response model, alpha {alpha}"] = wins
    return figures


@command(app, "all")
def all_steps(
    recipe_path: RecipePath,
    *,
    out: Out,
    dry_run: DryRun = False,
    responses_per_second: ResponsesPerSecond = None,
    scores_per_second: ScoresPerSecond = None,
    executor: o.Executor = "serial",
) -> None:
    """Run the four steps one after the other; what is finished is kept."""
    from personalllm.cli.recipes import refuse_missing

    job = _Job.read(recipe_path, out, executor)
    if dry_run:
        _dry_run(job, ("respond", "score"), (responses_per_second, scores_per_second))
        return
    try:
        lacks_responses = _lacks_responses(job, job.prompts())
    except UserError:
        lacks_responses = True  # no prompt is drawn yet
    refuse_missing(job.recipe, ("respond", "score") if lacks_responses else ("score",))
    for step in (_prompts, _respond, _score, _pack):
        step(job)


def _dry_run(job: _Job, steps: tuple[str, ...], given: tuple[float | None, float | None], first: int = 0) -> None:
    """Show counts, requests, tokens, dollars and hours, and what this machine lacks.

    Args:
        job: What is built.
        steps: Of `respond` and `score`.
        given: Responses and scores per second; None: as measured.
        first: Number of prompts that are answered; 0 for all.
    """
    from personalllm.build import read_responses
    from personalllm.build.estimate import Rates, estimate, measured_rates
    from personalllm.build.responding import read_given_up
    from personalllm.cli.building import show_estimate
    from personalllm.cli.recipes import missing, reachable_chat_models

    recipe, out = job.recipe, job.out
    prompts = _draw(job)[: first or None]
    chat_models = reachable_chat_models(recipe) if (out / "responses").is_dir() else None
    responses = read_responses(recipe, chat_models, out) if chat_models is not None else None
    given_up = read_given_up(recipe, chat_models, out) if chat_models is not None else None
    step, n_scored = _scoring_so_far(job, prompts, responses or {}) if "score" in steps else ("", 0)
    measured = measured_rates(out, step)
    rates = Rates(
        measured.responses_per_second if given[0] is None else given[0],
        measured.scores_per_second if given[1] is None else given[1],
    )
    costs = estimate(recipe, prompts, responses, rates, given_up, n_scored)
    show_estimate(job.console, costs, steps)
    for need, error in missing(recipe, steps):
        if need == "score" or costs.requests:
            job.say(f"Warning: `{need}` cannot run here yet. {error}")
    job.say("No request was made, and nothing was written.")


def _scoring_so_far(job: _Job, prompts: Sequence[Prompt], responses: dict[str, dict[str, Response]]) -> tuple[str, int]:
    """Return the name under which the rate of scoring is noted, and how many responses are scored."""
    from personalllm.build.estimate import score_step
    from personalllm.build.scoring import complete_prompts, n_scored
    from personalllm.cli.recipes import ensemble_of, missing

    if not (job.out / "scores").is_dir() or missing(job.recipe, ("score",)):
        return "", 0
    ensemble = ensemble_of(job.recipe)
    complete = complete_prompts(prompts, responses)[: job.size] if responses else []
    texts = [[replies[p.prompt_id].text for replies in responses.values()] for p in complete]
    scored = n_scored(complete, texts, ensemble, job.out, block=_SCORE_BLOCK) if complete else 0
    return score_step(ensemble, job.executor_name), scored
