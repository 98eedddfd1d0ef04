"""`personalllm analyze`: every analysis of a benchmark, in one folder with one page."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeAlias

import typer

from personalllm.cli import options as o
from personalllm.core.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from personalllm.analysis import Analysis, OpinionQuestion, PersonaPopulation, Study, Votes
    from personalllm.analysis.opinion import Opinions
    from personalllm.core.protocols import TextClassifier

    Analyses = dict[str, Analysis]

__all__ = ["analyze"]

Part: TypeAlias = Literal[
    "diversity", "paper", "agreement", "entropy", "people", "personas", "regressions", "opinion", "audit"
]


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """The simulated users and their prompts."""

    title: ClassVar[str] = "Simulated users"

    alpha: Annotated[
        list[float] | None,
        typer.Option(help="Concentration of a population; repeatable.", show_default="0.01, 0.05, 0.1"),
    ] = None
    users: Annotated[int, typer.Option(min=2, help="Users of each population.")] = 1000
    split: Annotated[
        str | None, typer.Option(help="Split of the prompts.", **o.default("entropy: train, others: test"))
    ] = None
    seed: o.Seed = 0

    def build(self, data: str) -> Study:
        """Return the populations of a benchmark; a split or a concentration that cannot be is an error here."""
        from personalllm.analysis import Study
        from personalllm.analysis.study import PUBLISHED_ALPHAS
        from personalllm.data import load

        alphas = tuple(dict.fromkeys(self.alpha or PUBLISHED_ALPHAS))
        study = Study(load(data), alphas, self.users, self.split, self.seed)
        for concentration in alphas:
            study.population(concentration)
        study.rows("test")
        return study


@dataclass(frozen=True, kw_only=True)
class InputOptions:
    """Files that some of the analyses compare with, and what the regressions read."""

    title: ClassVar[str] = "Further input"

    votes: Annotated[list[Path] | None, typer.Option(help="Votes of people (see docs/analyses.md); repeatable.")] = None
    ties: Annotated[
        Literal["split", "option", "drop"],
        typer.Option(help="People's ties: split among the options, an option of their own, or dropped."),
    ] = "split"
    personas: Annotated[
        list[Path] | None, typer.Option(help="Scores from `personalllm personas score`; repeatable.")
    ] = None
    questions: Annotated[Path | None, typer.Option(help="Opinion questions, JSON lines.")] = None
    opinions: Annotated[Path | None, typer.Option(help="People's answers to them, CSV.")] = None
    features: Annotated[
        list[str] | None,
        typer.Option(
            help="Set of text features, a classifier, or module:attribute; repeatable.",
            show_default="syntactic, semantic-offline",
        ),
    ] = None

    def check(self) -> None:
        """Raise if one of two files that belong together is missing."""
        if (self.questions is None) != (self.opinions is None):
            raise UserError("--questions and --opinions belong together.", "Give both files, or neither.")

    def read(self, study: Study) -> _Inputs:
        """Read the files, before anything is computed."""
        from personalllm.backends.features import build_classifiers

        return _Inputs(
            people=_people(self.votes or [], self.ties),
            personas=_personas(study, self.personas or []),
            questions=_questions(self.questions, self.opinions),
            features={name: build_classifiers(name) for name in self.features or ("syntactic", "semantic-offline")},
        )


def analyze(
    data: Annotated[str, typer.Argument(help="Benchmark: a name or a path.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder of the tables, the figures and the page.")],
    only: Annotated[
        list[Part] | None, typer.Option(help="Only this part; repeatable. An error if it cannot be made.")
    ] = None,
    options: StudyOptions,
    files: InputOptions,
) -> None:
    """Measure what simulated users want and how far that is from people; write tables, figures and a page.

    Diversity, regressions and agreement are taken on the test split, entropy by words on the train split, as in the
    paper. A part whose input or optional package is missing is named on the page.
    """
    from rich.console import Console

    from personalllm.report.analyses import check_folder

    check_folder(out)
    files.check()
    console = Console()
    study = options.build(data)
    analyses, absent = _analyses(study, files.read(study), only or [], console)
    _say(console, f"Page: {_write(study, analyses, absent, out)} (open it in a browser)")


@dataclass(frozen=True, slots=True)
class _Inputs:
    """The input besides the benchmark."""

    people: list[Votes]
    personas: list[PersonaPopulation]
    questions: tuple[list[OpinionQuestion], Opinions] | None
    features: dict[str, list[TextClassifier]]


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def _analyses(study: Study, inputs: _Inputs, only: Sequence[Part], console: Console) -> tuple[Analyses, dict[str, str]]:
    """Return the analyses that are possible, and why the others are not.

    Raises:
        UserError: If none is possible, or not a part that was named.
    """
    analyses: Analyses = {}
    absent: dict[str, str] = {}
    for part, analyse in _STEPS.items():
        if only and part not in only:
            continue
        try:
            analyses |= analyse(study, inputs, console)
        except UserError as error:
            if only:
                raise
            absent[part] = str(error)
            _say(console, f"{part}: left out. {error}")
        else:
            _say(console, f"{part}: done")
    if not analyses:
        reasons = " ".join(dict.fromkeys(absent.values()))
        raise UserError(f"Nothing could be analysed. {reasons}", "`personalllm data validate` lists problems.")
    return analyses, absent


def _people(paths: list[Path], ties: Literal["split", "option", "drop"]) -> list[Votes]:
    from personalllm.analysis import Votes

    names = _distinct([path.name for path in paths], paths)
    return [Votes.from_file(path, name=name, ties=ties) for path, name in zip(paths, names, strict=True)]


def _distinct(names: list[str], paths: list[Path]) -> list[str]:
    """Return the names, the path added where another file has the same."""
    times = Counter(names)
    return [name if times[name] == 1 else f"{name} ({path})" for name, path in zip(names, paths, strict=True)]


def _personas(study: Study, paths: list[Path]) -> list[PersonaPopulation]:
    """Return the populations of files of persona scores, their names distinct."""
    from personalllm.analysis.persona import PersonaScores, persona_population

    populations = [persona_population(PersonaScores.read(path, study.benchmark)) for path in paths]
    names = _distinct([population.votes.name for population in populations], paths)
    return [
        dataclasses.replace(population, votes=dataclasses.replace(population.votes, name=name))
        for population, name in zip(populations, names, strict=True)
    ]


def _questions(questions: Path | None, opinions: Path | None) -> tuple[list[OpinionQuestion], Opinions] | None:
    from personalllm.analysis import read_opinions, read_questions

    if questions is None or opinions is None:
        return None
    items = read_questions(questions)
    return items, read_opinions(opinions, items)


def _diversity(study: Study, inputs: _Inputs, _: Console) -> Analyses:
    from personalllm.analysis import diversity

    others = [population.votes for population in inputs.personas]
    return {"diversity": diversity(*study.votes("test"), *others, seed=study.seed)}


def _paper(study: Study, inputs: _Inputs, _: Console) -> Analyses:
    from personalllm.analysis.study import PUBLISHED_ALPHAS
    from personalllm.papers.personalllm_2025.section3 import PERSONA, paper_comparison

    alone = inputs.personas[0].votes if len(inputs.personas) == 1 else None
    if alone is None and not set(study.alphas) & set(PUBLISHED_ALPHAS):
        raise UserError("The paper printed figures for the alphas 0.01, 0.05 and 0.1 only.", "Give one with --alpha.")
    pairs = zip(study.alphas, study.votes("test"), strict=True)
    votes: dict[float | str, Votes] = {alpha: each for alpha, each in pairs if alpha in PUBLISHED_ALPHAS}
    if alone is not None:
        votes[PERSONA] = alone
    return {"paper": paper_comparison(votes, seed=study.seed)}


def _agreement(study: Study, inputs: _Inputs, _: Console) -> Analyses:
    from personalllm.analysis import agreement

    others = [population.votes for population in inputs.personas]
    first = min(100, study.n_users // 2)
    return {"agreement": agreement(*study.votes("test"), *others, n_first=first, seed=study.seed)}


def _entropy(study: Study, _inputs: _Inputs, _: Console) -> Analyses:
    from personalllm.analysis import entropy_by_words

    return {"entropy": entropy_by_words(*study.votes("train"), seed=study.seed)}


def _beside_people(study: Study, inputs: _Inputs, _: Console) -> Analyses:
    from personalllm.analysis import people

    if not inputs.people:
        raise UserError("No file of people's votes was inputs.", "Give --votes FILE.")
    return {"people": people(inputs.people, study.pairs("test"), seed=study.seed)}


def _persona_effects(_study: Study, inputs: _Inputs, _: Console) -> Analyses:
    if not inputs.personas:
        raise UserError(
            "No scores of personas were inputs.", "Give --personas FILE, made by `personalllm personas score`."
        )
    if len(inputs.personas) == 1:
        return {"personas": inputs.personas[0]}
    return {f"personas-{n}": population for n, population in enumerate(inputs.personas, 1)}


def _regressions(study: Study, inputs: _Inputs, console: Console) -> Analyses:
    from personalllm.analysis import measure_features, regressions
    from personalllm.cli.progress import counted

    rows = study.rows("test")
    measured = {}
    for name, classifiers in inputs.features.items():
        with counted(f"features: {name}", console) as progress:
            measured[name] = measure_features(study.benchmark, classifiers, rows, progress=progress)
    users = study.population(study.main_alpha)
    return {"regressions": regressions(users, study.scores("test"), measured)}


def _opinion(study: Study, inputs: _Inputs, _: Console) -> Analyses:
    from personalllm.analysis import representativeness

    if inputs.questions is None:
        raise UserError("No opinion questions were inputs.", "Give --questions FILE --opinions FILE.")
    items, people = inputs.questions
    return {"opinion": representativeness(items, study.population(study.main_alpha), people, seed=study.seed)}


def _audit(study: Study, _inputs: _Inputs, _: Console) -> Analyses:
    from personalllm.analysis import audit

    return {"audit": audit(study.benchmark, split=study.split)}


_STEPS: dict[Part, Callable[[Study, _Inputs, Console], Analyses]] = {
    "diversity": _diversity,
    "paper": _paper,
    "agreement": _agreement,
    "entropy": _entropy,
    "people": _beside_people,
    "personas": _persona_effects,
    "regressions": _regressions,
    "opinion": _opinion,
    "audit": _audit,
}


_ONE_ALPHA = {"regressions", "opinion"}


def _prompts(study: Study, preferred: str) -> str:
    """Return which prompts an analysis took, e.g. `test (1,000)`."""
    return f"{study.split_of(preferred) or 'all'} ({len(study.rows(preferred)):,})"


def _write(study: Study, analyses: Analyses, absent: dict[str, str], out: Path) -> Path:
    """Write the folder."""
    from personalllm import __version__
    from personalllm.report import write_analyses

    benchmark = study.benchmark
    whose = "the paper's published users" if study.published else f"Dirichlet, seed {study.seed}"
    facts = {
        "prompts": _prompts(study, "test"),
        **({"prompts of the entropy": _prompts(study, "train")} if "entropy" in analyses else {}),
        **({"prompts of the audit": _prompts(study, "")} if "audit" in analyses else {}),
        "responses to each": str(benchmark.n_responses),
        "reward models": str(len(benchmark.reward_models)),
        "users of each population": f"{study.n_users:,} ({whose})",
        "concentrations alpha": ", ".join(f"{alpha:g}" for alpha in study.alphas),
        **({"alpha of regressions, opinions": f"{study.main_alpha:g}"} if analyses.keys() & _ONE_ALPHA else {}),
    }
    scorer = benchmark.metadata.get("reward_ensemble")
    scored = f" Scored by {scorer}." if scorer else ""
    return write_analyses(
        analyses,
        out,
        title=f"What the users of {benchmark.name} want",
        lead=f"Preference diversity, its sources, and its distance from people.{scored}",
        facts=facts,
        absent=absent,
        footer=f"personalllm {__version__}; benchmark fingerprint {benchmark.fingerprint[:16]}; seed {study.seed}",
    )
