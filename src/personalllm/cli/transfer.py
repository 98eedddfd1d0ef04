"""`personalllm transfer`: the learners of the predict track on the preferences of people, beside simulated users."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from personalllm.cli import options as o
from personalllm.cli.columns import ColumnNames, parse_columns

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from personalllm.data.preferences import Preferences
    from personalllm.evaluation import PredictResults
    from personalllm.evaluation.prediction.people_task import PeopleProtocol
    from personalllm.evaluation.prediction.transfer import Transfer
    from personalllm.methods.base import Method

__all__ = ["transfer"]

_FILE = (
    "Preferences of people: JSONL, JSON, CSV, TSV, Parquet or Arrow with the columns user, prompt, chosen, rejected; "
    "or in the layout of PRISM's utterances or of PandaLM's test set."
)


@dataclass(frozen=True, kw_only=True)
class PeopleOptions:
    """The file of preferences, and how methods are compared on it."""

    title: ClassVar[str] = "Protocol"

    name: Annotated[str | None, typer.Option(help="Name of the data set.", **o.default("the file's name"))] = None
    column: ColumnNames = None
    shots: o.Shots = None
    settings: o.Settings = None
    seed: o.Seed = 0

    def read(self, path: Path) -> Preferences:
        """Read the file.

        Raises:
            UserError: If a column is not `COLUMN=NAME`, or the file is no file of preferences.
        """
        from personalllm.data.preferences import Preferences

        return Preferences.from_rows(path, parse_columns(self.column), name=self.name)

    def build(self) -> PeopleProtocol:
        """Return the protocol.

        Raises:
            UserError: If a setting is unknown or out of range.
        """
        from pydantic import ValidationError

        from personalllm.core.errors import UserError
        from personalllm.evaluation.prediction.people_task import PeopleProtocol

        values = {"seed": self.seed, **o.parse_settings(self.settings)}
        if self.shots is not None:
            values["shots"] = o.parse_numbers(self.shots, "--shots")
        try:
            return PeopleProtocol(**values)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise UserError(
                f"{field}: {first['msg']}, got {first.get('input')!r}.",
                f"The fields are {', '.join(PeopleProtocol.model_fields)}.",
            ) from None


def transfer(
    people: Annotated[Path, typer.Argument(metavar="FILE", help=_FILE)],
    methods: Annotated[
        list[str] | None,
        typer.Argument(
            help="As for `personalllm evaluate`.  [default: those of --simulated, or all]",
            autocompletion=o.complete_methods,
            show_default=False,
        ),
    ] = None,
    *,
    simulated: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="A run of `evaluate --track predict`, to set its order of methods beside."),
    ] = None,
    options: PeopleOptions,
    out: Annotated[Path, typer.Option(help="Folder of runs and of the page; the same command again resumes.")] = Path(
        "runs"
    ),
    embedder: o.EmbedderOptions,
) -> None:
    """Evaluate methods on people: after k comparisons of a person, how well is the next one predicted?

    Parts of the people and of the prompts are left out in turn. With --simulated the page sets the order of the
    methods among simulated users beside that among people, with the rank correlation of the two.
    """
    from rich.console import Console

    from personalllm.cli.progress import counted, resumable
    from personalllm.evaluation import load_prediction, resolve
    from personalllm.evaluation.prediction.people import predict_people

    preferences = options.read(people)
    run = None if simulated is None else load_prediction(simulated)
    names: list[Any] = list(methods or ())
    if not names:
        names = ["all"] if run is None else _learners(run)
    protocol = options.build()
    entries, _ = resolve(names, "predict")
    needed = any("embedder" in entry.method.needs for entry in entries)
    model = embedder.build_embedder(required=needed)
    console = Console(stderr=True)
    with resumable(console):
        if needed:
            _embed(preferences, model, console)
        with counted("fits", console) as shown:
            results = predict_people(
                names, preferences, protocol, embedder=model, out=out, progress=_Steps(shown, len(entries))
            )
    _write(results, run, out)


def _write(results: PredictResults, run: PredictResults | None, out: Path) -> None:
    """Write tables and page, and print what was found."""
    import pyarrow.csv as pa_csv
    from rich.console import Console
    from rich.text import Text

    from personalllm.cli.prediction import show_table
    from personalllm.core.storage import atomic_path
    from personalllm.evaluation.prediction.transfer import Transfer
    from personalllm.report.prediction import render_prediction
    from personalllm.report.transfer import render_transfer, transfer_findings

    console = Console()
    tables = {"people": results.table()}
    show_table(results, console)
    if run is None:
        page = render_prediction([results], out / "people.html")
    else:
        beside = Transfer(run, results)
        tables["transfer"] = beside.table()
        page = render_transfer(beside, out / "transfer.html")
        console.print(_standings(beside))
        for finding in transfer_findings(beside):
            console.print(Text(f"{finding.topic} {finding.text}"))
    for key, table in tables.items():
        with atomic_path(out / f"{key}.csv") as temporary:
            pa_csv.write_csv(table, temporary)
        console.print(Text(f"Table: {out / key}.csv"), soft_wrap=True)
    console.print(Text(f"Page: {page}"), soft_wrap=True)


def _standings(beside: Transfer) -> Table:
    """Return both orders as a table for the terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from personalllm.report.numbers import estimate

    caption = f"Accuracy in %, unseen users and prompts, {beside.shots[-1]} comparisons; 95 % intervals."
    table = Table(box=box.SIMPLE_HEAD, caption=Text(caption), caption_justify="left", padding=(0, 1), pad_edge=False)
    table.add_column("Learner", min_width=16)
    for heading in ("Simulated", "Rank", "People", "Rank"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in beside.standings():
        cells = []
        for value, rank in ((one.simulated, one.rank_simulated), (one.people, one.rank_people)):
            cells += [estimate(value, "percent"), f"{rank:g}" if rank == rank else ""]
        table.add_row(Text(one.id), *map(Text, cells), style="" if one.kind == "learner" else "dim italic")
    return table


class _Steps:
    """Counts the fits of all learners behind one bar."""

    def __init__(self, shown: Any, n_learners: int) -> None:
        self._shown, self._n_learners = shown, n_learners
        self._done: dict[str, int] = {}

    def __call__(self, event: Any) -> None:
        from personalllm.evaluation import PREDICTORS

        if event.method not in PREDICTORS:
            self._done[event.method] = event.done
            self._shown(sum(self._done.values()), event.total * self._n_learners)


def _learners(run: PredictResults) -> list[Method | str]:
    """Return the learners of a run that people's preferences allow, built again from their specs."""
    from personalllm.methods.registry import get_method

    made = [
        get_method(str(one.spec.get("class", one.spec["id"])), **one.spec["params"])
        for one in run.learners
        if one.kind == "learner"
    ]
    return [method for method in made if "signals" not in method.needs]


def _embed(people: Preferences, embedder: Any, console: Console) -> None:
    """Embed all texts before the run, so that the wait has a bar."""
    from personalllm.backends.embedding import CachedEmbedder
    from personalllm.cli.progress import counted

    corpus = people.histories.corpus
    texts = list({*corpus.prompts, *(text for row in corpus.responses for text in row)})
    if isinstance(embedder, CachedEmbedder):
        with counted("embedding (kept for the next run)", console) as progress:
            embedder.embed(texts, progress)
