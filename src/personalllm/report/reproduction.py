"""Files and tables of the reproduction of the paper's section 4."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from personalllm.core.plotting import drawing, save_figure
from personalllm.core.storage import atomic_path, write_json
from personalllm.core.types import JSON
from personalllm.papers.personalllm_2025.plan import EMBEDDINGS
from personalllm.papers.personalllm_2025.printed import PAPER_USERS, cross_user_row, paper_rows, win_rate_error
from personalllm.report._reproduction_figure import paper_figure, reproduction_figure
from personalllm.report._reproduction_tables import TextTable, text_tables, tidy_tables
from personalllm.report.numbers import number
from personalllm.report.svg import inline_svg
from personalllm.report.template import render, write_table

if TYPE_CHECKING:
    from rich.table import Table

    from personalllm.papers.personalllm_2025.reproduction import Reproduction

__all__ = [
    "paper_figure",
    "reproduction_figure",
    "reproduction_notes",
    "terminal_tables",
    "text_tables",
    "tidy_tables",
    "verdict_on_levels",
    "write_reproduction",
]

_LEAST = 16
_BETWEEN = 3


def verdict_on_levels(found: Reproduction) -> str:
    """Say in a sentence or two whether our levels can be compared with the paper's."""
    levels = [departure.what for departure in found.departures if departure.level]
    if not levels:
        return "Data, chat model, reward models and reply length are the paper's: the levels can be compared."
    return (
        f"The levels are not comparable with the paper's ({_listed(levels)} differ): a difference of levels says "
        "nothing. Compare improvements over zero-shot, and the directions of the claims."
    )


def _listed(words: list[str]) -> str:
    words = [word[0].lower() + word[1:] for word in words]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def reproduction_notes(found: Reproduction) -> tuple[str, ...]:
    """Return what one has to know about the paper's log and about our run, one sentence or two each."""
    counts = found.counts
    errors = [100 * win_rate_error(row.win_rate_reference) for row in paper_rows() if row.printed]
    meta = {row.embedding: row for row in paper_rows() if row.method == "meta-icl" and row.printed}
    printed = ", ".join(f"{number(meta[key].mean_utility, 4)} ({key})" for key in EMBEDDINGS)
    one = next(iter(meta.values()))
    again = sum(row.run_again for row in paper_rows())
    weak = sum(claim.paper_errors < 2 for claim in found.claims)
    known = sum(claim.paper_errors >= 0 for claim in found.claims)
    first = "" if found.plan.settings == "logged" else ", as ours do"
    near = [row for key in EMBEDDINGS if (row := cross_user_row(key)) is not None]
    return (
        (
            f"The numbers that the paper prints for learning across users ({printed}) are the runs of its log with "
            f"{one.pool_users:,} pool users, {one.embedding_pairs} pairs in each embedding and {one.n_similar} similar "
            f"users; its text says 10,000, 50 and 20{first}. The logged runs nearest to the text ("
            f"{near[0].pool_users:,}, {near[0].embedding_pairs} and {near[0].n_similar}) reached "
            f"{', '.join(f'{number(row.mean_utility, 4)} ({row.embedding})' for row in near)}."
        ),
        (
            f"The paper's log holds ICL with losing responses only twice: the first {again} runs equal those of losing "
            "mislabelled as winning to all digits and were run again; the later ones are printed and used here."
        ),
        (
            f"The paper has one seed and no intervals. At {PAPER_USERS:,} users the standard error of its win rates is "
            f"{min(errors):.1f} to {max(errors):.1f} points; of the {known} differences of win rates above, {weak} are "
            "smaller than two standard errors."
        ),
        (
            "Look-up ICL has no printed number: the run of the log whose pool and number of similar users are nearest "
            "to ours is shown. The log has it behind meta-ICL with 10,000 pool users; with 1,000 and 30 similar users "
            "the two are even."
        ),
        (
            f"Of {counts['generations']:,} replies {counts['empty']:,} were empty and {counts['cut']:,} were cut at "
            f"{found.plan.max_tokens} tokens; all are scored and counted."
        ),
        "A tie counts half a win. The intervals cover the choice of users, not that of prompts, seed or sampling.",
    )


def terminal_tables(found: Reproduction, width: int = 150) -> list[Table]:
    """Return the tables to print with rich; texts are shown as they are, without markup.

    Args:
        found: What to show.
        width: Of the terminal; columns that have no room are left out, and the caption names them.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = []
    for source in text_tables(found):
        kept = _that_fit(source, width)
        out = dict.fromkeys(column.lstrip("#") for i, column in enumerate(source.columns) if i not in kept)
        note = f"{source.note} Left out for want of room: {', '.join(out)}." if out else source.note
        table = Table(
            title=Text(source.title), title_justify="left", caption=Text(note), caption_justify="left",
            box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False,
        )  # fmt: skip
        for i in kept:
            column = source.columns[i]
            fixed = column.startswith("#")
            table.add_column(
                Text(column.lstrip("#")),
                justify="right" if fixed else "left",
                no_wrap=fixed,
                min_width=_least_width(source, i),
            )
        for row in source.rows:
            table.add_row(*(Text(row[i]) for i in kept))
        made.append(table)
    return made


def _that_fit(table: TextTable, width: int) -> list[int]:
    """Return the columns that a terminal has room for."""
    kept = list(range(len(table.columns)))
    for column in table.wide:
        if sum(_least_width(table, i) + _BETWEEN for i in kept) <= width:
            break
        kept.remove(column)
    return kept


def _least_width(table: TextTable, column: int) -> int:
    """Return the characters that a column needs: its longest line if it holds numbers, else its longest word."""
    heading = table.columns[column]
    texts = [heading.lstrip("#"), *(row[column] for row in table.rows)]
    parts = [part for text in texts for part in (text.split("\n") if heading.startswith("#") else text.split())]
    return max(_LEAST if column == 0 else 0, *map(len, parts))


def _markdown(found: Reproduction) -> str:
    lines = ["# Section 4 of the PersonalLLM paper, reproduced", "", _escaped(verdict_on_levels(found)), ""]
    lines += ["![Curves by number of examples](reproduction.png)", ""]
    for table in text_tables(found):
        lines += [f"## {table.title}", "", _escaped(table.note), "", *_markdown_table(table), ""]
    lines += ["## What is not the paper's", "", "| setting | paper | here | levels comparable |", "|---|---|---|---|"]
    lines += [
        f"| {_escaped(d.what)} | {_escaped(d.paper)} | {_escaped(d.ours)} | {'no' if d.level else 'yes'} |"
        for d in found.departures
    ]
    lines += ["", "## Presets", "", "| preset | setting | preset's value | here |", "|---|---|---|---|"]
    for preset, name, before, after in preset_changes(found):
        lines.append(f"| {_escaped(preset)} | {_escaped(name)} | {_escaped(before)} | {_escaped(after)} |")
    lines += ["", "## Notes", "", *(f"- {_escaped(note)}" for note in reproduction_notes(found)), ""]
    return "\n".join(lines)


def preset_changes(found: Reproduction) -> list[tuple[str, str, str, str]]:
    """Return what was changed of each preset: preset, setting, the preset's value, the value here."""
    return [
        (preset, name, str(before), str(after))
        for preset, changes in found.plan.changes.items()
        for name, (before, after) in changes.items()
    ]


def _markdown_table(table: TextTable) -> list[str]:
    rule = ["--:" if column.startswith("#") else "---" for column in table.columns]
    lines = [f"| {' | '.join(column.lstrip('#') for column in table.columns)} |", f"|{'|'.join(rule)}|"]
    return lines + [f"| {' | '.join(_escaped(text) for text in row)} |" for row in table.rows]


def _escaped(text: str) -> str:
    for character in "\\`*_<>|[]":
        text = text.replace(character, f"\\{character}")
    return text.replace("\n", "<br>")


def _summary(found: Reproduction) -> JSON:
    return {
        "levels_comparable": found.levels_comparable,
        "levels": verdict_on_levels(found),
        "n_users": found.plan.n_users,
        "max_tokens": found.plan.max_tokens,
        "shots": list(found.plan.shots),
        "settings": found.plan.settings,
        "fingerprints": {kind: results.fingerprint for kind, results in found.results.items()},
        "departures": [{"what": d.what, "paper": d.paper, "ours": d.ours, "level": d.level} for d in found.departures],
        "changes": [list(change) for change in preset_changes(found)],
        "counts": found.counts,
        "notes": list(reproduction_notes(found)),
    }


def write_reproduction(found: Reproduction, directory: str | Path) -> list[Path]:
    """Write tables, figures, a page and a summary; equal results give equal files.

    Args:
        found: From `evaluation.reproduction.reproduce`.
        directory: Where to write; made if absent.

    Returns:
        The files: `cells`, `claims`, `counterfactuals` as CSV and Parquet, `reproduction.md`, `.html`, `.json`, `.svg`
        and `.png`, and the same figure of the paper's numbers, `paper.svg` and `.png`.
    """
    folder = Path(directory)
    written: list[Path] = []
    for name, table in tidy_tables(found).items():
        written += write_table(table, folder / name)
    with drawing(text_as_paths=True):
        for name, figure in (("reproduction", reproduction_figure(found)), ("paper", paper_figure())):
            written += save_figure(figure, folder / name)
    for name, text in (("reproduction.md", _markdown(found)), ("reproduction.html", _page(found))):
        with atomic_path(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
        written.append(folder / name)
    write_json(folder / "reproduction.json", _summary(found))
    return [*written, folder / "reproduction.json"]


def _page(found: Reproduction) -> str:
    with drawing(text_as_paths=False):
        figures = (
            (
                "Ours",
                inline_svg(
                    reproduction_figure(found), key="ours", title="Mean utility and win rate by examples shown, ours",
                    description="Curves with 95 % intervals over users; the first table has all the numbers.",
                ),
            ),
            (
                "The paper's",
                inline_svg(
                    paper_figure(), key="paper", title="Mean utility and win rate by examples shown, the paper's",
                    description="The same from the paper's numbers; intervals of win rates are 1.96 standard errors.",
                ),
            ),
        )  # fmt: skip
    return render(
        "reproduction.html.j2",
        levels=verdict_on_levels(found),
        plan=found.plan,
        benchmark=found.own.benchmark_name,
        llm=found.own.protocol["llm"],
        figures=figures,
        tables=text_tables(found),
        departures=found.departures,
        changes=preset_changes(found),
        notes=reproduction_notes(found),
        fingerprints={kind: results.fingerprint for kind, results in found.results.items()},
    )
