"""Write the files of the reproduction of the paper's section 4."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from personalllm.core.plotting import drawing, save_figure
from personalllm.core.storage import atomic_path, write_json
from personalllm.core.types import JSON
from personalllm.papers.personalllm_2025.plan import EMBEDDINGS
from personalllm.papers.personalllm_2025.printed import PAPER_USERS, cross_user_row, paper_rows, win_rate_error
from personalllm.report._reproduction_figure import paper_figure, reproduction_figure
from personalllm.report._reproduction_tables import text_tables, tidy_tables
from personalllm.report.numbers import listed, number
from personalllm.report.page import Figure, draw
from personalllm.report.tables import Grid
from personalllm.report.template import render, write_table
from personalllm.report.views.base import Drawing

if TYPE_CHECKING:
    from personalllm.papers.personalllm_2025.reproduction import Reproduction

__all__ = [
    "paper_figure",
    "reproduction_figure",
    "reproduction_notes",
    "text_tables",
    "tidy_tables",
    "verdict_on_levels",
    "write_reproduction",
]


def verdict_on_levels(reproduction: Reproduction) -> str:
    """Return a sentence or two on whether our levels can be compared with the paper's."""
    levels = [d.what[0].lower() + d.what[1:] for d in reproduction.departures if d.level]
    if not levels:
        return "Data, chat model, reward models and reply length are the paper's: the levels can be compared."
    return (
        f"The levels are not comparable with the paper's ({listed(levels)} differ): a difference of levels says "
        "nothing. Compare improvements over zero-shot, and the directions of the claims."
    )


def reproduction_notes(reproduction: Reproduction) -> tuple[str, ...]:
    """Return what one has to know about the paper's log and about our run, one sentence or two each."""
    counts = reproduction.counts
    errors = [100 * win_rate_error(row.win_rate_reference) for row in paper_rows() if row.printed]
    meta = {row.embedding: row for row in paper_rows() if row.method == "meta-icl" and row.printed}
    printed = ", ".join(f"{number(meta[key].utility, 4)} ({key})" for key in EMBEDDINGS)
    row = next(iter(meta.values()))
    again = sum(row.run_again for row in paper_rows())
    weak = sum(claim.paper_errors < 2 for claim in reproduction.claims)
    n_claims = sum(claim.paper_errors >= 0 for claim in reproduction.claims)
    first = "" if reproduction.plan.settings == "logged" else ", as ours do"
    near = [run for key in EMBEDDINGS if (run := cross_user_row(key)) is not None]
    return (
        (
            f"The numbers that the paper prints for learning across users ({printed}) are the runs of its log with "
            f"{row.pool_users:,} pool users, {row.embedding_pairs} pairs in each embedding and {row.n_similar} similar "
            f"users; its text says 10,000, 50 and 20{first}. The logged runs nearest to the text ("
            f"{near[0].pool_users:,}, {near[0].embedding_pairs} and {near[0].n_similar}) reached "
            f"{', '.join(f'{number(row.utility, 4)} ({row.embedding})' for row in near)}."
        ),
        (
            f"The paper's log holds ICL with losing responses only twice: the first {again} runs equal those of losing "
            "mislabelled as winning to all digits and were run again; the later ones are printed and used here."
        ),
        (
            f"The paper has one seed and no intervals. At {PAPER_USERS:,} users the standard error of its win rates is "
            f"{min(errors):.1f} to {max(errors):.1f} points; of the {n_claims} differences of win rates above, {weak} "
            "are smaller than two standard errors."
        ),
        (
            "Look-up ICL has no printed number: the run of the log whose pool and number of similar users are nearest "
            "to ours is shown. The log has it behind meta-ICL with 10,000 pool users; with 1,000 and 30 similar users "
            "the two are even."
        ),
        (
            f"Of {counts['generations']:,} replies {counts['empty']:,} were empty and {counts['cut']:,} were cut at "
            f"{reproduction.plan.max_tokens} tokens; all are scored and counted."
        ),
        f"A tie counts half a win. The intervals cover the choice of {reproduction.own.over}; all else is held fixed.",
    )


def _markdown(reproduction: Reproduction) -> str:
    lines = ["# Section 4 of the PersonalLLM paper, reproduced", "", _escaped(verdict_on_levels(reproduction)), ""]
    lines += ["![Curves by number of examples](reproduction.png)", ""]
    for table in text_tables(reproduction):
        lines += [f"## {table.title}", "", _escaped(table.caption), "", *_markdown_table(table), ""]
    lines += ["## What is not the paper's", "", "| setting | paper | here | levels comparable |", "|---|---|---|---|"]
    lines += [
        f"| {_escaped(d.what)} | {_escaped(d.paper)} | {_escaped(d.ours)} | {'no' if d.level else 'yes'} |"
        for d in reproduction.departures
    ]
    lines += ["", "## Presets", "", "| preset | setting | preset's value | here |", "|---|---|---|---|"]
    for preset, name, before, after in preset_changes(reproduction):
        lines.append(f"| {_escaped(preset)} | {_escaped(name)} | {_escaped(before)} | {_escaped(after)} |")
    lines += ["", "## Notes", "", *(f"- {_escaped(note)}" for note in reproduction_notes(reproduction)), ""]
    return "\n".join(lines)


def preset_changes(reproduction: Reproduction) -> list[tuple[str, str, str, str]]:
    """Return what was changed of each preset: preset, setting, the preset's value, the value here."""
    return [
        (preset, name, str(before), str(after))
        for preset, changes in reproduction.plan.changes.items()
        for name, (before, after) in changes.items()
    ]


def _markdown_table(table: Grid) -> list[str]:
    rule = ["---", *("--:" if column.numeric else "---" for column in table.columns)]
    lines = [f"| {' | '.join([table.first, *(column.heading for column in table.columns)])} |", f"|{'|'.join(rule)}|"]
    return lines + [f"| {' | '.join(map(_escaped, (row.name, *row.cells)))} |" for row in table.rows]


def _escaped(text: str) -> str:
    for character in "\\`*_<>|[]":
        text = text.replace(character, f"\\{character}")
    return text.replace("\n", "<br>")


def _summary(reproduction: Reproduction) -> JSON:
    return {
        "levels_comparable": reproduction.levels_comparable,
        "levels": verdict_on_levels(reproduction),
        "n_users": reproduction.plan.n_users,
        "max_tokens": reproduction.plan.max_tokens,
        "shots": list(reproduction.plan.shots),
        "settings": reproduction.plan.settings,
        "fingerprints": {kind: results.fingerprint for kind, results in reproduction.results.items()},
        "departures": [dataclasses.asdict(departure) for departure in reproduction.departures],
        "changes": [list(change) for change in preset_changes(reproduction)],
        "counts": reproduction.counts,
        "notes": list(reproduction_notes(reproduction)),
    }


def write_reproduction(reproduction: Reproduction, directory: str | Path) -> list[Path]:
    """Write tables, figures, a page and a summary; equal results give equal files.

    Args:
        reproduction: From `evaluation.reproduction.reproduce`.
        directory: Where to write; made if absent.

    Returns:
        The files: `cells`, `claims`, `counterfactuals` as CSV and Parquet, `reproduction.md`, `.html`, `.json`, `.svg`
        and `.png`, and the same figure of the paper's numbers, `paper.svg` and `.png`.
    """
    folder = Path(directory)
    files: list[Path] = []
    for name, table in tidy_tables(reproduction).items():
        files += write_table(table, folder / name)
    with drawing(text_as_paths=True):
        for name, figure in (("reproduction", reproduction_figure(reproduction)), ("paper", paper_figure())):
            files += save_figure(figure, folder / name)
    for name, text in (("reproduction.md", _markdown(reproduction)), ("reproduction.html", _page(reproduction))):
        with atomic_path(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
        files.append(folder / name)
    write_json(folder / "reproduction.json", _summary(reproduction))
    return [*files, folder / "reproduction.json"]


def _figures(reproduction: Reproduction) -> list[Figure]:
    drawings = (
        Drawing(
            "ours",
            "Ours",
            f"{reproduction.own.about_intervals()} The grey band is zero-shot's. Lines named at the right are levels "
            "of stored responses; an arrow stands for one outside the panel.",
            reproduction_figure(reproduction),
            "Mean utility and win rate by examples shown; the first table has all the numbers.",
        ),
        Drawing(
            "paper",
            "The paper's",
            "Learning across users was run at 3 examples only. Bars of win rates are 1.96 standard errors at 1,000 "
            "users; the paper gives none for utility.",
            paper_figure(),
            "The same from the paper's numbers.",
        ),
    )
    return [draw(figure, "figure") for figure in drawings]


def _page(reproduction: Reproduction) -> str:
    with drawing(text_as_paths=False):
        figures = _figures(reproduction)
    return render(
        "reproduction.html.j2",
        levels=verdict_on_levels(reproduction),
        plan=reproduction.plan,
        benchmark=reproduction.own.data_name,
        llm=reproduction.own.protocol["llm"],
        figures=figures,
        tables=text_tables(reproduction),
        departures=reproduction.departures,
        changes=preset_changes(reproduction),
        notes=reproduction_notes(reproduction),
        fingerprints={kind: results.fingerprint for kind, results in reproduction.results.items()},
    )
