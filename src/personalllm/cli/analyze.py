"""`personalllm analyze`: every analysis of a benchmark, in one folder with one page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from personalllm.errors import MissingExtra, ParameterError, UserError

if TYPE_CHECKING:
    from rich.console import Console

    from personalllm.analysis import Analysis, PersonaPopulation, Votes
    from personalllm.data import Benchmark, ScoreTable
    from personalllm.types import I32
    from personalllm.users import Population

__all__ = ["analyze"]

_PARTS = ("diversity", "paper", "agreement", "entropy", "people", "personas", "regressions", "opinion", "audit")
_PUBLISHED_USERS = 1000
_PUBLISHED_ALPHAS = (0.01, 0.05, 0.1)


def analyze(
    data: Annotated[str, typer.Argument(help="Benchmark: a name or a path.")],
    out: Annotated[Path, typer.Option(help="Folder of the tables, the figures and the page.")],
    *,
    only: Annotated[
        list[str] | None, typer.Option(help=f"Only this part; repeatable. Parts: {', '.join(_PARTS)}.")
    ] = None,
    alpha: Annotated[
        list[float] | None,
        typer.Option(help="Concentration of a population; repeatable.", show_default="0.01, 0.05, 0.1"),
    ] = None,
    users: Annotated[int, typer.Option(min=2, help="Users of each population.")] = 1000,
    split: Annotated[
        str | None, typer.Option(help="Split of the prompts.", show_default="entropy: train, others: test")
    ] = None,
    votes: Annotated[
        list[Path] | None, typer.Option(help="Votes of people (see docs/analyses.md); repeatable.")
    ] = None,
    personas: Annotated[
        list[Path] | None, typer.Option(help="Scores from `personalllm personas score`; repeatable.")
    ] = None,
    questions: Annotated[Path | None, typer.Option(help="Opinion questions, JSON lines.")] = None,
    opinions: Annotated[Path | None, typer.Option(help="People's answers to them, CSV.")] = None,
    features: Annotated[
        list[str] | None,
        typer.Option(
            help="Set of text features, a classifier, or module:attribute; repeatable.",
            show_default="syntactic, semantic-offline",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn.")] = 0,
) -> None:
    """Measure what simulated users want and how far that is from people; write tables, figures and a page.

    Diversity, regressions and agreement are taken on the test split, entropy by words on the train split, as in the
    paper. A part whose input or optional package is missing is named on the page.
    """
    from rich.console import Console

    from personalllm.data import load

    parts = tuple(only or _PARTS)
    for part in parts:
        if part not in _PARTS:
            raise ParameterError("--only", f"one of {', '.join(_PARTS)}", part)
    if (questions is None) != (opinions is None):
        raise UserError("--questions and --opinions belong together.", "Give both files, or neither.")
    console = Console()
    work = _Work(load(data), tuple(alpha or _PUBLISHED_ALPHAS), users, split, seed, console)
    files = [work.read_personas(path) for path in personas or []]
    steps: dict[str, Callable[[], None]] = {
        "diversity": lambda: work.diversity(files),
        "paper": work.paper,
        "agreement": lambda: work.agreement(files),
        "entropy": work.entropy,
        "people": lambda: work.people(votes or []),
        "personas": lambda: work.persona_effects(files),
        "regressions": lambda: work.regressions(tuple(features or ("syntactic", "semantic-offline"))),
        "opinion": lambda: work.opinion(questions, opinions),
        "audit": work.audit,
    }
    for part, step in steps.items():
        if part in parts:
            step()
    console.print(f"Page: {work.write(out)} (open it in a browser)", markup=False, soft_wrap=True)


@dataclass(eq=False)
class _Work:
    benchmark: Benchmark
    alphas: tuple[float, ...]
    users: int
    split: str | None
    seed: int
    console: Console
    found: dict[str, Analysis] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    voters: dict[str, list[Votes]] = field(default_factory=dict)

    def rows(self, preferred: str) -> I32:
        """Return the prompts of the chosen split, of the preferred one, or all."""
        import numpy as np

        name = self.split or preferred
        if self.split is None and name not in self.benchmark.splits:
            return np.arange(self.benchmark.n_prompts, dtype=np.int32)
        return np.sort(self.benchmark.rows(name)).astype(np.int32)

    def table(self, rows: I32) -> ScoreTable:
        """Return the standardised scores of some prompts; the scale is that of the train split."""
        from personalllm.data import Standardiser

        fitted = "train" if "train" in self.benchmark.splits else next(iter(self.benchmark.splits))
        return self.benchmark.score_table(Standardiser.fit(self.benchmark, split=fitted), rows)

    def population(self, alpha: float) -> Population:
        """Return the users of one concentration: the paper's own where the reward models are the paper's."""
        from personalllm.users import Population

        if self.published:
            import numpy as np

            return Population.published(alpha).subset(np.arange(self.users, dtype=np.int32))
        return Population.dirichlet(self.users, alpha, self.benchmark.reward_models, self.seed)

    @property
    def published(self) -> bool:
        """Whether the paper's users can be used."""
        from personalllm.users import PUBLISHED_REWARD_MODELS

        return self.benchmark.reward_models == tuple(PUBLISHED_REWARD_MODELS) and self.users <= _PUBLISHED_USERS

    def simulated(self, preferred: str) -> list[Votes]:
        """Return the votes of each population on a split, computed once."""
        from personalllm.analysis import Votes

        if preferred not in self.voters:
            rows = self.rows(preferred)
            table = self.table(rows)
            self.voters[preferred] = [
                Votes.of(f"alpha {alpha:g}", self.population(alpha), table, self.benchmark, rows)
                for alpha in self.alphas
            ]
        return self.voters[preferred]

    def note(self, key: str, result: Analysis) -> None:
        """Keep a result and say so."""
        self.found[key] = result
        self.console.print(f"{key}: done", highlight=False, markup=False)

    def skip(self, part: str, why: str) -> None:
        """Remember why a part is missing."""
        self.absent[part] = why
        self.console.print(f"{part}: left out. {why}", highlight=False, markup=False)

    def read_personas(self, path: Path) -> PersonaPopulation:
        """Return the population of a file of persona scores."""
        from personalllm.analysis.persona import PersonaScores, persona_population

        return persona_population(PersonaScores.read(path, self.benchmark))

    def diversity(self, personas: list[PersonaPopulation]) -> None:
        """Set the populations side by side."""
        from personalllm.analysis import diversity

        others = [population.votes for population in personas]
        self.note("diversity", diversity(*self.simulated("test"), *others, seed=self.seed))

    def paper(self) -> None:
        """Set the paper's printed figures beside ours."""
        from personalllm.analysis import paper_comparison

        known: dict[float | str, Votes] = {
            a: v for a, v in zip(self.alphas, self.simulated("test"), strict=True) if a in _PUBLISHED_ALPHAS
        }
        if not known:
            self.skip("paper", "The paper printed figures for the alphas 0.01, 0.05 and 0.1 only.")
        else:
            self.note("paper", paper_comparison(known, seed=self.seed))

    def agreement(self, personas: list[PersonaPopulation]) -> None:
        """Measure how often two users choose alike."""
        from personalllm.analysis import agreement

        others = [population.votes for population in personas]
        first = min(100, self.users // 2)
        self.note("agreement", agreement(*self.simulated("test"), *others, n_first=first, seed=self.seed))

    def entropy(self) -> None:
        """Measure the entropy of the choice by keyword and first word."""
        from personalllm.analysis import entropy_by_words

        self.note("entropy", entropy_by_words(*self.simulated("train"), seed=self.seed))

    def people(self, files: list[Path]) -> None:
        """Set people's votes beside those of simulated users who judge as many options."""
        from personalllm.analysis import Votes, pair_votes, people

        if not files:
            self.skip("people", "No file of people's votes was given (--votes FILE).")
            return
        rows = self.rows("test")
        table = self.table(rows)
        simulated = [
            pair_votes(f"alpha {alpha:g}", self.population(alpha), table, self.benchmark, rows, seed=self.seed)
            for alpha in self.alphas
        ]
        self.note("people", people([Votes.from_file(path) for path in files], simulated, seed=self.seed))

    def persona_effects(self, personas: list[PersonaPopulation]) -> None:
        """Show what a persona changes at all."""
        if not personas:
            self.skip("personas", "No scores of personas were given (--personas FILE, made by `personas score`).")
        for number, population in enumerate(personas, 1):
            self.note("personas" if len(personas) == 1 else f"personas-{number}", population)

    def regressions(self, sets: tuple[str, ...]) -> None:
        """Fit each user's regression on features of the texts."""
        from personalllm.analysis import measure_features, regressions
        from personalllm.backends.features import build_classifiers
        from personalllm.cli.progress import counted

        rows = self.rows("test")
        try:
            measured = {}
            for name in sets:
                with counted(f"features: {name} (kept for the next run)", self.console) as progress:
                    measured[name] = measure_features(self.benchmark, build_classifiers(name), rows, progress=progress)
        except MissingExtra as error:
            self.skip("regressions", f"{error.message} {error.remedy}")
            return
        alpha = 0.05 if 0.05 in self.alphas else self.alphas[0]
        self.note("regressions", regressions(self.population(alpha), self.table(rows), measured))

    def opinion(self, questions: Path | None, opinions: Path | None) -> None:
        """Compare the population's opinions with people's."""
        from personalllm.analysis import read_opinions, read_questions, representativeness

        if questions is None or opinions is None:
            self.skip("opinion", "No opinion questions were given (--questions FILE --opinions FILE).")
            return
        asked = read_questions(questions)
        alpha = 0.05 if 0.05 in self.alphas else self.alphas[0]
        people = read_opinions(opinions, asked)
        self.note("opinion", representativeness(asked, self.population(alpha), people, seed=self.seed))

    def audit(self) -> None:
        """Audit the reward models on all prompts."""
        from personalllm.analysis import audit

        self.note("audit", audit(self.benchmark, split=self.split))

    def write(self, out: Path) -> Path:
        """Write the folder."""
        from personalllm import __version__
        from personalllm.report import write_analyses

        benchmark = self.benchmark
        whose = "the paper's published users" if self.published else f"Dirichlet, seed {self.seed}"
        facts = {
            "prompts": f"{benchmark.n_prompts:,}",
            "responses to each": str(benchmark.n_responses),
            "reward models": str(len(benchmark.reward_models)),
            "users of each population": f"{self.users:,} ({whose})",
            "concentrations alpha": ", ".join(f"{alpha:g}" for alpha in self.alphas),
        }
        scorer = benchmark.metadata.get("reward_ensemble")
        scored = f" Scored by {scorer}." if scorer else ""
        return write_analyses(
            self.found,
            out,
            title=f"What the users of {benchmark.name} want",
            lead=f"Preference diversity, its sources, and its distance from people.{scored}",
            facts=facts,
            absent=self.absent,
            footer=f"personalllm {__version__}; benchmark fingerprint {benchmark.fingerprint[:16]}; seed {self.seed}",
        )
