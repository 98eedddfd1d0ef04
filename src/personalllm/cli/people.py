"""`personalllm people`: check and count public data of people's judgements, and convert them to Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from personalllm.cli import options as o

if TYPE_CHECKING:
    from personalllm.data.people import Reading, Tally

__all__ = ["people"]

_VOTES = "dices"


def _names() -> list[str]:
    from personalllm.data.layouts import LAYOUTS

    return [*LAYOUTS, _VOTES]


def people(
    name: Annotated[
        str | None,
        Argument(help="Layout of the data; without it, all are listed.", autocompletion=_names, show_default=False),
    ] = None,
    path: Annotated[
        str | None,
        Argument(
            help="File or folder; or hf://datasets/OWNER/NAME@REVISION, which is then fetched.", show_default=False
        ),
    ] = None,
    *,
    out: Annotated[Path | None, Option(metavar="FILE", help="Parquet file to write.", show_default=False)] = None,
    items: Annotated[
        Path | None,
        Option(
            metavar="TEXTS",
            help="Texts of the items of a ratings table: a file with the columns item, text and perhaps prompt.",
            show_default=False,
        ),
    ] = None,
    licence: Annotated[
        str | None, Option(help="Terms of the data, of data whose terms are not known.", show_default=False)
    ] = None,
    citation: Annotated[str | None, Option(help="What to cite for the data.", show_default=False)] = None,
    column: o.Columns = None,
) -> None:
    """Check and count people's judgements in a published layout; with --out, convert them to Parquet.

    The Parquet file is what `evaluate --data` and `Preferences.from_rows` read (votes: `analyze --votes`), with licence
    and citation in it. The published files themselves can be given to these as well.
    """
    columns = o.parse_columns(column)
    if name is None:
        _list_layouts()
        return
    path = _checked(name, path, out, items)
    if name == _VOTES:
        _votes(Path(path), out, columns)
        return
    from personalllm.data.people import Tally, open_people, write_people

    given = {key: value for key, value in (("licence", licence), ("citation", citation)) if value}
    reading = open_people(path, columns, layout=name, items=items, terms=given)
    if out is None:
        tally = Tally()
        for _ in tally.passing(reading.judgements):
            pass
    else:
        tally = write_people(reading, out)
    _show(f"People of {reading.name}", _facts(reading, tally), reading.about, out)


def _checked(name: str, path: str | None, out: Path | None, items: Path | None) -> str:
    """Return the path; raise if it is missing, or an option does not go with the layout."""
    from personalllm.core.errors import UnknownName, UserError

    if name not in _names():
        raise UnknownName("layout", name, _names())
    if path is None:
        raise UserError("There is no PATH.", f"Give the file: personalllm people {name} FILE.")
    if out is not None and out.suffix != ".parquet":
        raise UserError(f"--out {out} is no Parquet file.", "Name a file that ends in .parquet.")
    if out is not None and not out.absolute().parent.is_dir():
        raise UserError(f"There is no folder {str(out.parent)!r} to write to.", "Make it first, or correct --out.")
    if items is not None and name != "ratings":
        raise UserError(f"--items is for ratings, not for {name}.", "Leave it out.")
    return path


def _facts(reading: Reading, tally: Tally) -> list[tuple[str, str]]:
    """Return name and value of every count, odd cases included."""
    import numpy as np

    each = np.array([*tally.comparisons.values()] or [0])
    known = each[each > 0]
    facts = [
        ("layout", reading.layout),
        ("people", f"{len(each):,}"),
        ("judgements", f"{tally.judgements:,}"),
        ("distinct prompts", f"{len(tally.prompts):,}"),
    ]
    if tally.longer:
        facts.append(("judgements with turns before the prompt", f"{tally.longer:,}"))
    if reading.rated:
        facts.append(("ratings", f"{tally.ratings:,}"))
    if not tally.rated_only:
        facts += [("comparisons", f"{each.sum():,}"), ("ties, left out", f"{tally.ties:,}")]
    what = "ratings" if tally.rated_only else "comparisons"
    if len(known):
        low, middle, high = np.percentile(known, (0, 50, 100))
        facts.append((f"{what} of a person", f"{low:,.0f} to {high:,.0f}, median {middle:,.0f}"))
    facts += [
        (f"people with {number}", f"{count:,}")
        for number, count in ((f"one {what[:-1]}", (each == 1).sum()), (f"no {what[:-1]}", (each == 0).sum()))
        if count
    ]
    for title, counts in (("languages", tally.languages), ("splits", tally.splits)):
        if listed := ", ".join(f"{value} {count:,}" for value, count in counts.most_common() if count):
            facts.append((title, listed))
    return facts + [(what, f"{count:,}") for what, count in sorted(reading.odd.items()) if count]


def _show(title: str, facts: list[tuple[str, str]], about: dict[str, Any], out: Path | None) -> None:
    """Print counts, licence and citation, and what was written."""
    from rich.markup import escape

    from personalllm.report.terminal import output_console, show_rows

    console = output_console()
    terms = [(key, str(about[key])) for key in ("licence", "citation", "source") if about.get(key)]
    rows = [(f"[bold]{escape(key)}[/]", escape(value)) for key, value in facts + terms]
    show_rows(console, ("", ""), rows, title=escape(title), header=False)
    if "licence" not in about:
        console.print("Whose data these are and under which terms, nothing here says.")
    if out is not None:
        console.print(f"Written: {out}", markup=False, soft_wrap=True)


def _votes(path: Path, out: Path | None, columns: dict[str, str]) -> None:
    """Check, count and convert votes."""
    from personalllm.analysis import Votes
    from personalllm.analysis.vote_files import convert_votes
    from personalllm.data.layouts import known

    votes = Votes.from_file(path, columns=columns, ties="option")
    if out is not None:
        convert_votes(path, out, columns)
    totals = zip(votes.options or (), votes.counts.sum(axis=0).tolist(), strict=True)
    facts = [
        ("layout", _VOTES),
        ("prompts", f"{votes.n_prompts:,}"),
        ("votes", f"{votes.n_voters.sum():,.0f}"),
        ("voters of a prompt", f"{votes.n_voters.min():,.0f} to {votes.n_voters.max():,.0f}"),
        *((f"votes for {option}", f"{total:,.0f}") for option, total in totals),
    ]
    _show(f"Votes of {path.name}", facts, known()[_VOTES]._asdict(), out)


def _list_layouts() -> None:
    """Print every layout with what is known of its data."""
    from rich.markup import escape

    from personalllm.data.layouts import known
    from personalllm.report.terminal import output_console, show_rows

    rows = [(f"[bold]{name}[/]", escape(entry.title), escape(entry.licence)) for name, entry in known().items()]
    console = output_console()
    show_rows(console, ("layout", "data", "licence"), rows, title="Layouts of people's data")
    console.print("Their columns: docs/people.md. Check a file: personalllm people LAYOUT FILE")
