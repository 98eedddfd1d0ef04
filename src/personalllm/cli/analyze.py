"""`personalllm analyze`: every analysis of a benchmark, in one folder with one page."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import typer

from personalllm.cli import options as o
from personalllm.core.errors import UnknownName, UserError

if TYPE_CHECKING:
    from personalllm.analysis import Analysis, PersonaPopulation, Study, Survey, Votes

__all__ = ["analyze"]


def _names() -> list[str]:
    """Return the names of all analyses: the built-in ones in the order of the page, then those of plugins."""
    from personalllm.analysis import ANALYSES, PAGE

    return [*PAGE, *(name for name in ANALYSES if name not in PAGE)]


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
        from personalllm.data import load
        from personalllm.users import PUBLISHED_ALPHAS

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
    choices: Annotated[
        list[Path] | None,
        typer.Option(help="Choices of voters among several responses (layout picks, prism, ...); repeatable."),
    ] = None
    questions: Annotated[
        Path | None, typer.Option(help="Opinion questions, JSON lines; of a release, the choices of reward models.")
    ] = None
    opinions: Annotated[
        Path | None,
        typer.Option(help="People's answers to them, CSV; or OpinionQA's folder human_resp."),
    ] = None
    opinion_set: Annotated[
        str, typer.Option(metavar="NAME", help="Questions of the release: a part of the name of a set, or all.")
    ] = "500"
    opinion_score: Annotated[
        Literal["coded", "positions"],
        typer.Option(help="What lies between two options: their codes (the paper's rule) or their positions."),
    ] = "coded"
    column: Annotated[
        list[str] | None,
        typer.Option(
            "--column",
            metavar="COLUMN=NAME",
            help="What the files of --votes and --opinions call a column, e.g. voter=annotator. Repeatable.",
        ),
    ] = None
    features: Annotated[
        list[str] | None,
        typer.Option(
            help="Set of text features, a classifier, or module:attribute; repeatable.",
            show_default="syntactic, semantic-offline",
        ),
    ] = None

    def check(self) -> None:
        """Raise if one of two files that belong together is missing."""
        release = self.opinions is not None and self.opinions.is_dir()
        if not release and (self.questions is None) != (self.opinions is None):
            raise UserError("--questions and --opinions belong together.", "Give both files, or neither.")

    def columns(self, names: Iterable[str]) -> dict[str, str]:
        """Return what a file with columns of these names calls them."""
        given = o.parse_columns(self.column)
        return {name: given[name] for name in names if name in given}

    def add_to(self, study: Study) -> Study:
        """Return the study with what the files hold; all are read before anything is computed."""
        from personalllm.analysis import Choices
        from personalllm.analysis.opinion_files import OPINION_COLUMNS
        from personalllm.analysis.vote_files import VOTE_COLUMNS
        from personalllm.backends.features import build_classifiers

        if unknown := {*o.parse_columns(self.column)}.difference(VOTE_COLUMNS, OPINION_COLUMNS):
            raise UnknownName("column", min(unknown), {*VOTE_COLUMNS, *OPINION_COLUMNS})
        return dataclasses.replace(
            study,
            people=_people(self.votes or [], self.ties, self.columns(VOTE_COLUMNS)),
            personas=_personas(study, self.personas or []),
            choices=tuple(Choices.from_rows(path) for path in self.choices or ()),
            survey=self.survey(study, self.columns(OPINION_COLUMNS)),
            opinion_score=self.opinion_score,
            classifiers={name: build_classifiers(name) for name in self.features or ("syntactic", "semantic-offline")},
        )

    def survey(self, study: Study, columns: dict[str, str]) -> Survey | None:
        """Return the opinions; where a reward model's choice is not given, the benchmark's ensemble chooses."""
        from personalllm.analysis import Survey, read_opinionqa, read_opinions, read_questions
        from personalllm.backends.names import build_rewards

        given = [] if self.questions is None else read_questions(self.questions)
        if self.opinions is None:
            return None
        if self.opinions.is_dir():
            survey = read_opinionqa(self.opinions, self.opinion_set)
            survey = survey.with_given(given) if given else survey
        else:
            survey = Survey(tuple(given), read_opinions(self.opinions, given, columns))
        names = {*study.benchmark.reward_models}
        if all(question.choices.keys() >= names for question in survey.questions):
            return survey
        return survey.with_choices(build_rewards(study.benchmark.metadata))


def analyze(
    data: Annotated[str, typer.Argument(help="Benchmark: a name or a path.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder of the tables, the figures and the page.")],
    only: Annotated[
        list[str] | None,
        typer.Option(help="Only this analysis; repeatable. An error if it cannot be made.", autocompletion=_names),
    ] = None,
    options: StudyOptions,
    files: InputOptions,
) -> None:
    """Measure what simulated users want and how far that is from people; write tables, figures and a page.

    Diversity, regressions and agreement are taken on the test split, entropy by words on the train split, as in the
    paper. A part whose input or optional package is missing is named on the page.
    """
    from personalllm.cli.progress import counted
    from personalllm.report.analyses import check_folder

    check_folder(out)
    chosen = _chosen(only or [])
    files.check()
    study = dataclasses.replace(files.add_to(options.build(data)), progress=counted)
    results, absent = _analyses(study, chosen, strict=bool(only))
    _say(f"Page: {_write(study, results, absent, out)} (open it in a browser)")


def _say(line: str) -> None:
    from rich.console import Console

    Console().print(line, highlight=False, markup=False, soft_wrap=True)


def _chosen(only: list[str]) -> list[str]:
    """Return the analyses to make, in the order of the page.

    Raises:
        UnknownName: If there is no analysis of a name.
    """
    names = _names()
    unknown = [name for name in only if name not in names]
    if unknown:
        raise UnknownName("analysis", unknown[0], names)
    return [name for name in names if not only or name in only]


def _analyses(study: Study, names: list[str], *, strict: bool) -> tuple[dict[str, Analysis], dict[str, str]]:
    """Return the analyses by the stem of their files, and why the others could not be made.

    Raises:
        UserError: If none can be made; if `strict`, at the first that cannot.
    """
    from personalllm.analysis import ANALYSES

    results: dict[str, Analysis] = {}
    absent: dict[str, str] = {}
    for name in names:
        try:
            made = ANALYSES.load(name).of_study(study)
        except UserError as error:
            if strict:
                raise
            absent[name] = str(error)
            _say(f"{name}: left out. {error}")
        else:
            results |= {f"{name}-{n}" if len(made) > 1 else name: result for n, result in enumerate(made, 1)}
            _say(f"{name}: done")
    if not results:
        reasons = " ".join(dict.fromkeys(absent.values()))
        raise UserError(f"Nothing could be analysed. {reasons}", "Run `personalllm data validate` on the benchmark.")
    return results, absent


def _people(paths: list[Path], ties: Literal["split", "option", "drop"], columns: dict[str, str]) -> tuple[Votes, ...]:
    from personalllm.analysis import Votes

    names = _distinct([path.name for path in paths], paths)
    named = zip(paths, names, strict=True)
    return tuple(Votes.from_file(path, name=name, ties=ties, columns=columns) for path, name in named)


def _distinct(names: list[str], paths: list[Path]) -> list[str]:
    """Return the names, the path added where another file has the same."""
    times = Counter(names)
    return [name if times[name] == 1 else f"{name} ({path})" for name, path in zip(names, paths, strict=True)]


def _personas(study: Study, paths: list[Path]) -> tuple[PersonaPopulation, ...]:
    """Return the populations of files of persona scores, their names distinct."""
    from personalllm.analysis.persona import PersonaScores, persona_population

    populations = [persona_population(PersonaScores.read(path, study.benchmark)) for path in paths]
    names = _distinct([population.votes.name for population in populations], paths)
    return tuple(
        dataclasses.replace(population, votes=dataclasses.replace(population.votes, name=name))
        for population, name in zip(populations, names, strict=True)
    )


def _write(study: Study, results: dict[str, Analysis], absent: dict[str, str], out: Path) -> Path:
    """Write the folder."""
    from personalllm import __version__
    from personalllm.report import write_analyses

    benchmark = study.benchmark
    scorer = benchmark.metadata.get("reward_ensemble")
    return write_analyses(
        results,
        out,
        title=f"What the users of {benchmark.name} want",
        lead="Preference diversity, its sources, and its distance from people."
        + (f" Scored by {scorer}." * bool(scorer)),
        facts=_facts(study, results),
        absent=absent,
        footer=f"personalllm {__version__}; benchmark fingerprint {benchmark.fingerprint[:16]}; seed {study.seed}",
    )


def _facts(study: Study, results: dict[str, Analysis]) -> dict[str, str]:
    """Return name and value of what was analysed; analyses that take other prompts than most are named."""
    source = "the paper's published users" if study.published else f"Dirichlet, seed {study.seed}"
    other = {result.id: result.split for result in results.values() if result.split != "test"}
    single = list(dict.fromkeys(result.id for result in results.values() if result.one_population))
    return {
        "prompts": _prompts(study, "test"),
        **{f"prompts of the {name}": _prompts(study, split) for name, split in other.items()},
        "responses to each": str(study.benchmark.n_responses),
        "reward models": str(len(study.benchmark.reward_models)),
        "users of each population": f"{study.n_users:,} ({source})",
        "concentrations alpha": ", ".join(f"{alpha:g}" for alpha in study.alphas),
        **({f"alpha of {', '.join(single)}": f"{study.main_alpha:g}"} if single else {}),
    }


def _prompts(study: Study, preferred: str) -> str:
    """Return which prompts an analysis took, e.g. `test (1,000)`."""
    return f"{study.split_of(preferred) or 'all'} ({len(study.rows(preferred)):,})"
