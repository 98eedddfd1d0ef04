"""The reproduction's tables, files, figure and page."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from personalllm.core.plotting import drawing
from personalllm.data import Benchmark
from personalllm.papers.personalllm_2025.plan import make_plan
from personalllm.papers.personalllm_2025.reproduction import Reproduction, reproduce
from personalllm.report.reproduction import (
    paper_figure,
    reproduction_figure,
    reproduction_notes,
    text_tables,
    tidy_tables,
    verdict_on_levels,
    write_reproduction,
)
from personalllm.report.tables import terminal_table
from personalllm.testing import EchoChatModel, HashEmbedder, SurfaceRewards

HOSTILE = "<script>alert(1)</script>|[b]*x*"


@pytest.fixture(scope="module")
def found() -> Reproduction:
    rewards = SurfaceRewards()
    n, width = 20, 4
    rng = np.random.default_rng(0)
    words = ("river,", "stone", "light", "cloud,", "garden", "music", "letter")
    prompts = [f"Tell me about {words[i % 7]} {i}" for i in range(n)]
    responses = [[" ".join(rng.choice(words, 4 + 5 * j)) + f" {i}" for j in range(width)] for i in range(n)]
    scores = rewards.score([p for p in prompts for _ in range(width)], [r for row in responses for r in row])
    benchmark = Benchmark.from_arrays(
        name=HOSTILE,
        prompt_ids=[f"p{i}" for i in range(n)],
        prompts=prompts,
        subsets=["s"] * n,
        splits=["train"] * 14 + ["test"] * 6,
        responses=responses,
        response_models=["a/one", "two", "three", HOSTILE],
        reward_models=rewards.reward_models,
        scores=scores.reshape(n, width, -1),
    )
    knobs: dict[str, Any] = {
        "limit": 12,
        "max_tokens": 6,
        "pool_users": 12,
        "pool_pairs": 5,
        "intervals": "users",
        "bootstrap_draws": 100,
    }
    plan = make_plan(benchmark, shots=(1, 3), reference_response_model=HOSTILE, **knobs)
    return reproduce(plan, benchmark, embedder=HashEmbedder(), llm=EchoChatModel(), rewards=rewards)


@pytest.fixture(scope="module")
def folder(found: Reproduction, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("written")
    written = write_reproduction(found, target)
    assert sorted(path.name for path in written) == sorted(path.name for path in target.iterdir())
    return target


def test_the_files_hold_the_numbers(found: Reproduction, folder: Path) -> None:
    cells = pq.read_table(folder / "cells.parquet").to_pylist()
    assert len(cells) == 3 * len(found.rows)
    for record in cells:
        row = found.row(record["cell"])
        assert record["ours"] == row.estimate(record["metric"]).value
        if row.paper is not None:
            assert record["paper"] == row.paper.value(record["metric"])
            assert record["difference"] == pytest.approx(record["ours"] - record["paper"])
        assert record["cut"] == row.result.counts["cut"]
        if record["cell"] == "zero-shot":
            assert math.isnan(record["improvement"])
            assert math.isnan(record["paper_improvement"])
        else:
            assert record["improvement"] == row.improvement[record["metric"]].value
        if record["cell"] == "icl/losing/3" and record["metric"] == "win_rate_reference":
            assert record["paper_improvement"] == pytest.approx(0.163 - 0.08)
    claims = pcsv.read_csv(folder / "claims.csv").to_pylist()
    assert [record["verdict"] for record in claims] == [result.verdict for result in found.claims]
    survivals = pq.read_table(folder / "counterfactuals.parquet")
    assert survivals.num_rows == len(found.survivals) == 27
    summary = json.loads((folder / "reproduction.json").read_text(encoding="utf-8"))
    assert summary["levels_comparable"] is False
    assert set(summary["fingerprints"]) == {"none", "other-user", "flipped", "shuffled"}


def test_equal_results_give_equal_files(found: Reproduction, folder: Path, tmp_path: Path) -> None:
    for path in write_reproduction(found, tmp_path):
        assert path.read_bytes() == (folder / path.name).read_bytes(), path.name


def test_levels_are_called_comparable_only_if_they_are(found: Reproduction) -> None:
    assert "not comparable" in verdict_on_levels(found)
    assert "chat model" in verdict_on_levels(found)
    same = tuple(departure for departure in found.departures if not departure.level)
    assert "can be compared" in verdict_on_levels(dataclasses.replace(found, departures=same))


def test_the_page_says_it_too_and_escapes_what_it_shows(folder: Path) -> None:
    page = (folder / "reproduction.html").read_text(encoding="utf-8")
    assert "not comparable" in page
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<svg") == 2
    assert not re.search(r'(?:src|href)="(?!#|data:)', page)
    markdown = (folder / "reproduction.md").read_text(encoding="utf-8")
    assert not re.search(r"(?<!\\)<(?!br>)", markdown)
    columns = {
        len(re.findall(r"(?<!\\)\|", line)) for line in markdown.splitlines() if line.startswith("| ICL, winning")
    }
    assert columns == {12, 7}


def test_the_tables_for_people_hold_each_cell_once(found: Reproduction) -> None:
    cells, claims, survivals = text_tables(found)
    assert len(cells.rows) == len(found.rows)
    assert len(claims.rows) == len({result.claim.id for result in found.claims})
    assert len(survivals.rows) == 27
    for table in (cells, claims, survivals):
        assert {len(row.cells) for row in table.rows} == {len(table.columns)}
    zero = found.row("zero-shot").result.counts
    assert cells.rows[0].cells[-1] == f"{zero['empty']} / {zero['cut']}"
    assert zero["cut"] > 0
    row = next(r for r in survivals.rows if (r.name, r.cells[0]) == ("Self-ICL, winning", "flipped labels"))
    survival = next(s for s in found.survivals if s.cell.id == "self-icl/winning/3/flipped")
    expected = (survival.share.gain, survival.share.remaining, survival.lost["utility"])
    for text, value in zip((row.cells[1], row.cells[2], row.cells[4]), expected, strict=True):
        assert text.split("\n")[0].replace("\u2212", "-") == f"{value.value:+.2f}"
    assert {text for row in claims.rows for text in (row.cells[2], row.cells[5])} <= {
        "same\ndirection", "opposite", "unclear", "\u2013",
    }  # fmt: skip
    without = text_tables(dataclasses.replace(found, survivals=()))
    assert [table.key for table in without] == ["cells", "claims"]
    assert set(tidy_tables(dataclasses.replace(found, survivals=()))) == {"cells", "claims"}


def test_a_narrow_terminal_leaves_columns_out(found: Reproduction) -> None:
    for width, n_columns in ((150, (11, 7, 6)), (80, (6, 5, 5))):
        tables = [terminal_table(grid, width) for grid in text_tables(found)]
        assert tuple(len(table.columns) for table in tables) == n_columns
        console = Console(width=width, file=io.StringIO())
        console.print(*tables)
        shown = console.file.getvalue()
        assert "\u2026" not in shown, "no number is cut"
        assert "Zero-shot" in shown
        assert ("A wider terminal also shows: " in " ".join(shown.split())) is (width == 80)


def test_the_notes_come_from_the_log(found: Reproduction) -> None:
    notes = " ".join(reproduction_notes(found))
    assert "1,000 pool users, 5 pairs in each embedding and 5 similar users" in notes
    assert "the first 3 runs" in notes
    assert "0.9 to 1.4 points" in notes
    counts = found.counts
    assert (
        f"Of {counts['generations']:,} replies {counts['empty']:,} were empty and {counts['cut']:,} were cut" in notes
    )


def test_the_figure_draws_every_curve_with_its_intervals(found: Reproduction) -> None:
    with drawing(text_as_paths=True):
        figure = reproduction_figure(found)
        figure.draw_without_rendering()
    left, right = figure.axes[0], figure.axes[1]
    for axis, n_curves in ((left, 5), (right, 5)):
        curves = [line for line in axis.lines if line.get_marker() not in ("None", None, "")]
        assert all(line.get_transform() == axis.transData for line in curves)
        bars = [
            line for line in axis.lines if line.get_marker() in ("None", None, "") and len(set(line.get_xdata())) == 1
        ]
        assert len(curves) == n_curves
        assert len(bars) == 2 * n_curves
        looks = {(str(line.get_marker()), str(line.get_linestyle()), line.get_markerfacecolor()) for line in curves}
        assert len(looks) == n_curves
    first = next(line for line in left.lines if line.get_marker() == "o")
    expected = [found.row(f"icl/winning/{k}").estimate("utility").value for k in (1, 3)]
    assert list(first.get_ydata()) == pytest.approx(expected)


def test_no_text_of_the_figures_is_small_or_hidden(found: Reproduction) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    with drawing(text_as_paths=True):
        for figure in (reproduction_figure(found), paper_figure()):
            FigureCanvasAgg(figure).draw()
            texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]  # type: ignore[attr-defined]
            assert min(text.get_fontsize() for text in texts) >= 8  # type: ignore[attr-defined]
            legends = [axis.get_legend() for axis in figure.axes if axis.get_legend()]
            assert len(legends) == 2
            for legend in legends:
                box = legend.get_window_extent()
                assert figure.bbox.y0 <= box.y0
                assert all(box.y1 <= axis.get_window_extent().y0 for axis in figure.axes)
            notes = [t for axis in figure.axes for t in axis.texts]
            for one in notes:
                assert one.get_window_extent().x1 <= figure.bbox.x1
                assert one.get_window_extent().y1 <= figure.bbox.y1
                overlaps = [
                    o for o in notes if o is not one and one.get_window_extent().overlaps(o.get_window_extent())
                ]
                assert not overlaps
