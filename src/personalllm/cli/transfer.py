"""`personalllm transfer`: the learners of the predict track on the preferences of people, beside simulated users."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from personalllm.cli import options as o

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from personalllm.data.preferences import Preferences
    from personalllm.evaluation import PredictResults
    from personalllm.evaluation.prediction.transfer import Transfer
    from personalllm.methods.base import Method

__all__ = ["transfer"]

_FILE = (
    "Preferences of people: CSV, JSONL, Parquet or JSON with the columns user, prompt, chosen, rejected; or in the "
    "layout of PRISM's utterances or of PandaLM's test set."
)


def transfer(
    people: Annotated[Path, typer.Argument(metavar="FILE", help=_FILE)],
    methods: Annotated[
        list[str] | None,
        typer.Argument(
            help="Learners, as for `personalllm evaluate`.  [default: those of --simulated, or all]",
            autocompletion=o.complete_methods,
            show_default=False,
        ),
    ] = None,
    simulated: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="A run of `evaluate --track predict`, to set its learners' order beside."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Whose preferences they are.", show_default="the file's name")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN=NAME", help="What the file calls a column, e.g. user=annotator. Repeatable."),
    ] = None,
    shots: Annotated[
        str | None,
        typer.Option(metavar="K,K,...", help="Comparisons known of a person.", show_default="0,1,2,4,8,16,32,64"),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Any field of the people's protocol, e.g. prompt_folds=5."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder of runs and of the page; the same command again resumes.")] = Path(
        "runs"
    ),
    embedder: o.EmbedderName = "minilm-l6-int8",
    embedder_url: Annotated[str | None, typer.Option(help="Address of the server for --embedder openai:MODEL.")] = None,
) -> None:
    """Evaluate learners on people: after k comparisons of a person, how well is the next one predicted?

    Parts of the people and of the prompts are left out in turn. With --simulated the page sets the order of the
    learners among simulated users beside that among people, with the rank correlation of the two.
    """
    from rich.console import Console

    from personalllm.backends.names import build_embedder, optional_embedder
    from personalllm.cli.progress import counted, resumable
    from personalllm.data.preferences import Preferences
    from personalllm.evaluation import load_prediction, resolve
    from personalllm.evaluation.prediction.people import predict_people

    found = Preferences.from_rows(people, _columns(column or []), name=name)
    run = None if simulated is None else load_prediction(simulated)
    wanted: list[Any] = list(methods or ())
    if not wanted:
        wanted = ["all"] if run is None else _learners(run)
    protocol = _protocol(shots, settings, seed)
    entries, _ = resolve(wanted, "predict")
    needed = any("embedder" in entry.method.needs for entry in entries)
    model = build_embedder(embedder, embedder_url) if needed else optional_embedder(embedder)
    console = Console(stderr=True)
    with resumable(console):
        if needed:
            _embed(found, model, console)
        with counted("fits", console) as shown:
            results = predict_people(
                wanted, found, protocol, embedder=model, out=out, progress=_Steps(shown, len(entries))
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


def _columns(given: list[str]) -> dict[str, str]:
    """Read `column=name` options."""
    from personalllm.core.errors import UserError

    found: dict[str, str] = {}
    for text in given:
        ours, sign, theirs = text.partition("=")
        if not (sign and ours.strip() and theirs.strip()):
            raise UserError(f"Cannot read --column {text!r}.", "Write COLUMN=NAME, e.g. --column user=annotator.")
        found[ours.strip()] = theirs.strip()
    return found


def _protocol(shots: str | None, settings: list[str] | None, seed: int) -> Any:
    """Return the people's protocol that a command line asks for.

    Raises:
        UserError: If a setting is unknown or out of range.
    """
    from pydantic import ValidationError

    from personalllm.core.errors import UserError
    from personalllm.evaluation.prediction.people_task import PeopleProtocol
    from personalllm.evaluation.settings import parse_setting

    values: dict[str, Any] = {"seed": seed, **dict(parse_setting(text) for text in settings or ())}
    if shots is not None:
        values["shots"] = o.parse_shots(shots)
    try:
        return PeopleProtocol(**values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{where}: {first['msg']}, got {first.get('input')!r}.",
            f"The fields are {', '.join(PeopleProtocol.model_fields)}.",
        ) from None


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
