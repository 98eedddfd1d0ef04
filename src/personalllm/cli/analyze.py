"""`personalllm analyze`: every analysis of a benchmark, in one folder with one page."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from personalllm.core.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from personalllm.analysis import Analysis, OpinionQuestion, PersonaPopulation, Study, Votes
    from personalllm.analysis.opinion import Opinions
    from personalllm.core.protocols import TextClassifier

    Found = dict[str, Analysis]

__all__ = ["analyze"]


class Part(StrEnum):
    """A part of the page."""

    DIVERSITY = "diversity"
    PAPER = "paper"
    AGREEMENT = "agreement"
    ENTROPY = "entropy"
    PEOPLE = "people"
    PERSONAS = "personas"
    REGRESSIONS = "regressions"
    OPINION = "opinion"
    AUDIT = "audit"


class TieRule(StrEnum):
    """What a tie in a file of votes is."""

    SPLIT = "split"
    OPTION = "option"
    DROP = "drop"


def analyze(
    data: Annotated[str, typer.Argument(help="Benchmark: a name or a path.")],
    out: Annotated[Path, typer.Option(help="Folder of the tables, the figures and the page.")],
    *,
    only: Annotated[
        list[Part] | None, typer.Option(help="Only this part; repeatable. An error if it cannot be made.")
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
    ties: Annotated[
        TieRule, typer.Option(help="People's ties: split among the options, an option of their own, or dropped.")
    ] = TieRule.SPLIT,
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

    from personalllm.analysis import Study
    from personalllm.analysis.study import PUBLISHED_ALPHAS
    from personalllm.data import load
    from personalllm.report.analyses import check_folder

    check_folder(out)
    if (questions is None) != (opinions is None):
        raise UserError("--questions and --opinions belong together.", "Give both files, or neither.")
    console = Console()
    alphas = tuple(dict.fromkeys(alpha or PUBLISHED_ALPHAS))
    study = Study(load(data), alphas, users, split, seed)
    for concentration in alphas:
        study.population(concentration)
    study.rows("test")
    given = _Given(
        people=_people(votes or [], ties),
        personas=_personas(study, personas or []),
        questions=_questions(questions, opinions),
        features=_classifiers(features or ["syntactic", "semantic-offline"]),
    )
    found, absent = _analyses(study, given, only or [], console)
    _say(console, f"Page: {_write(study, found, absent, out)} (open it in a browser)")


@dataclasses.dataclass(frozen=True, slots=True)
class _Given:
    """What was given beside the benchmark, read before anything is computed."""

    people: list[Votes]
    personas: list[PersonaPopulation]
    questions: tuple[list[OpinionQuestion], Opinions] | None
    features: dict[str, list[TextClassifier]]


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def _analyses(study: Study, given: _Given, only: list[Part], console: Console) -> tuple[Found, dict[str, str]]:
    """Return what could be analysed, and why the rest could not.

    Raises:
        UserError: If nothing could be, or not a part that was asked for by name.
    """
    found: Found = {}
    absent: dict[str, str] = {}
    for part in Part:
        if only and part not in only:
            continue
        try:
            found |= _STEPS[part](study, given, console)
        except UserError as error:
            if only:
                raise
            absent[part] = str(error)
            _say(console, f"{part}: left out. {error}")
        else:
            _say(console, f"{part}: done")
    if not found:
        whys = " ".join(dict.fromkeys(absent.values()))
        raise UserError(f"Nothing could be analysed. {whys}", "`personalllm data validate` may tell more.")
    return found, absent


def _people(paths: list[Path], ties: TieRule) -> list[Votes]:
    from personalllm.analysis import Votes

    names = _distinct([path.name for path in paths], paths)
    return [Votes.from_file(path, name=name, ties=ties.value) for path, name in zip(paths, names, strict=True)]


def _distinct(names: list[str], paths: list[Path]) -> list[str]:
    """Return the names, the path added where another file has the same."""
    times = Counter(names)
    return [name if times[name] == 1 else f"{name} ({path})" for name, path in zip(names, paths, strict=True)]


def _personas(study: Study, paths: list[Path]) -> list[PersonaPopulation]:
    """Return the populations of files of persona scores, their names distinct."""
    from personalllm.analysis.persona import PersonaScores, persona_population

    made = [persona_population(PersonaScores.read(path, study.benchmark)) for path in paths]
    names = _distinct([one.votes.name for one in made], paths)
    return [
        dataclasses.replace(one, votes=dataclasses.replace(one.votes, name=name))
        for one, name in zip(made, names, strict=True)
    ]


def _questions(questions: Path | None, opinions: Path | None) -> tuple[list[OpinionQuestion], Opinions] | None:
    from personalllm.analysis import read_opinions, read_questions

    if questions is None or opinions is None:
        return None
    asked = read_questions(questions)
    return asked, read_opinions(opinions, asked)


def _classifiers(names: Sequence[str]) -> dict[str, list[TextClassifier]]:
    from personalllm.backends.features import build_classifiers

    return {name: build_classifiers(name) for name in names}


def _diversity(study: Study, given: _Given, _: Console) -> Found:
    from personalllm.analysis import diversity

    others = [population.votes for population in given.personas]
    return {"diversity": diversity(*study.votes("test"), *others, seed=study.seed)}


def _paper(study: Study, given: _Given, _: Console) -> Found:
    from personalllm.analysis.study import PUBLISHED_ALPHAS
    from personalllm.papers.personalllm_2025.section3 import PERSONA, paper_comparison

    alone = given.personas[0].votes if len(given.personas) == 1 else None
    if alone is None and not set(study.alphas) & set(PUBLISHED_ALPHAS):
        raise UserError("The paper printed figures for the alphas 0.01, 0.05 and 0.1 only.", "Give one with --alpha.")
    pairs = zip(study.alphas, study.votes("test"), strict=True)
    known: dict[float | str, Votes] = {alpha: votes for alpha, votes in pairs if alpha in PUBLISHED_ALPHAS}
    if alone is not None:
        known[PERSONA] = alone
    return {"paper": paper_comparison(known, seed=study.seed)}


def _agreement(study: Study, given: _Given, _: Console) -> Found:
    from personalllm.analysis import agreement

    others = [population.votes for population in given.personas]
    first = min(100, study.n_users // 2)
    return {"agreement": agreement(*study.votes("test"), *others, n_first=first, seed=study.seed)}


def _entropy(study: Study, _given: _Given, _: Console) -> Found:
    from personalllm.analysis import entropy_by_words

    return {"entropy": entropy_by_words(*study.votes("train"), seed=study.seed)}


def _beside_people(study: Study, given: _Given, _: Console) -> Found:
    from personalllm.analysis import people

    if not given.people:
        raise UserError("No file of people's votes was given.", "Give --votes FILE.")
    return {"people": people(given.people, study.pairs("test"), seed=study.seed)}


def _persona_effects(_study: Study, given: _Given, _: Console) -> Found:
    if not given.personas:
        raise UserError(
            "No scores of personas were given.", "Give --personas FILE, made by `personalllm personas score`."
        )
    several = len(given.personas) > 1
    return {f"personas-{n}" if several else "personas": one for n, one in enumerate(given.personas, 1)}


def _regressions(study: Study, given: _Given, console: Console) -> Found:
    from personalllm.analysis import measure_features, regressions
    from personalllm.cli.progress import counted

    rows = study.rows("test")
    measured = {}
    for name, classifiers in given.features.items():
        with counted(f"features: {name}", console) as progress:
            measured[name] = measure_features(study.benchmark, classifiers, rows, progress=progress)
    users = study.population(study.main_alpha)
    return {"regressions": regressions(users, study.scores("test"), measured)}


def _opinion(study: Study, given: _Given, _: Console) -> Found:
    from personalllm.analysis import representativeness

    if given.questions is None:
        raise UserError("No opinion questions were given.", "Give --questions FILE --opinions FILE.")
    asked, people = given.questions
    return {"opinion": representativeness(asked, study.population(study.main_alpha), people, seed=study.seed)}


def _audit(study: Study, _given: _Given, _: Console) -> Found:
    from personalllm.analysis import audit

    return {"audit": audit(study.benchmark, split=study.split)}


_STEPS: dict[Part, Callable[[Study, _Given, Console], Found]] = {
    Part.DIVERSITY: _diversity,
    Part.PAPER: _paper,
    Part.AGREEMENT: _agreement,
    Part.ENTROPY: _entropy,
    Part.PEOPLE: _beside_people,
    Part.PERSONAS: _persona_effects,
    Part.REGRESSIONS: _regressions,
    Part.OPINION: _opinion,
    Part.AUDIT: _audit,
}


_ONE_ALPHA = {Part.REGRESSIONS, Part.OPINION}


def _prompts(study: Study, preferred: str) -> str:
    """Return which prompts an analysis took, e.g. `test (1,000)`."""
    return f"{study.split_of(preferred) or 'all'} ({len(study.rows(preferred)):,})"


def _write(study: Study, found: Found, absent: dict[str, str], out: Path) -> Path:
    """Write the folder."""
    from personalllm import __version__
    from personalllm.report import write_analyses

    benchmark = study.benchmark
    whose = "the paper's published users" if study.published else f"Dirichlet, seed {study.seed}"
    facts = {
        "prompts": _prompts(study, "test"),
        **({"prompts of the entropy": _prompts(study, "train")} if Part.ENTROPY in found else {}),
        **({"prompts of the audit": _prompts(study, "")} if Part.AUDIT in found else {}),
        "responses to each": str(benchmark.n_responses),
        "reward models": str(len(benchmark.reward_models)),
        "users of each population": f"{study.n_users:,} ({whose})",
        "concentrations alpha": ", ".join(f"{alpha:g}" for alpha in study.alphas),
        **({"alpha of regressions, opinions": f"{study.main_alpha:g}"} if found.keys() & _ONE_ALPHA else {}),
    }
    scorer = benchmark.metadata.get("reward_ensemble")
    scored = f" Scored by {scorer}." if scorer else ""
    return write_analyses(
        found,
        out,
        title=f"What the users of {benchmark.name} want",
        lead=f"Preference diversity, its sources, and its distance from people.{scored}",
        facts=facts,
        absent=absent,
        footer=f"personalllm {__version__}; benchmark fingerprint {benchmark.fingerprint[:16]}; seed {study.seed}",
    )
