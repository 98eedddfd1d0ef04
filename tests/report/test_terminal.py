"""The leaderboard in a terminal and in a pipe."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable

import pytest
from rich.console import Console

from personalllm.evaluation.results import Results
from personalllm.report import leaderboard, show_results
from personalllm.report.tables import Column, Grid, Row, terminal_table
from personalllm.report.terminal import show_rows


def printed(results: Results, width: int = 80, *, terminal: bool = True, versus: str | None = None) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=terminal, color_system=None)
    show_results(results, console, versus)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_methods_stand_first_and_the_best_at_the_top(make_results: Callable[..., Results]) -> None:
    text = printed(make_results("rank", 100))
    labels = ("embedding-ranker", "longest", "random", "population-best", "best-single-rm", "oracle", "worst")
    places = [text.index(f"\n{label}") for label in labels]
    assert places == sorted(places)


@pytest.mark.parametrize("width", [80, 100, 140])
@pytest.mark.parametrize("track", ["rank", "predict"])
def test_no_number_is_broken(width: int, track: str, make_results: Callable[..., Results], predicted: Results) -> None:
    results = predicted if track == "predict" else make_results("rank", 100)
    lines = printed(dataclasses.replace(results, directory=None), width).splitlines()
    assert max(map(len, lines)) <= width
    for line in lines:
        assert line.count("[") == line.count("]"), line
        assert "\u2026" not in line
    main = results.estimate("longest", results.main_metric)
    factor, form = (100, ".1f") if track == "predict" else (1, ".3f")
    assert f"[{main.low * factor:{form}}, {main.high * factor:{form}}]".replace("-", "\u2212") in "\n".join(lines)


def test_columns_without_room_are_named(make_results: Callable[..., Results]) -> None:
    results = make_results("rank", 100)
    assert "A wider terminal also shows: Gain, Win rate, Regret, Time." in " ".join(printed(results, 80).split())
    wide = printed(results, 400)
    assert "A wider terminal" not in wide
    assert "Time" in wide


def test_a_pipe_gets_one_line_for_each_method(predicted: Results) -> None:
    text = printed(predicted, 80, terminal=False)
    assert "A wider terminal" not in text
    for row in predicted.methods:
        line = next(line for line in text.splitlines() if line.startswith(f"{row.label} "))
        value = row.estimates[predicted.headline]["all", "accuracy"]
        assert f"{100 * value.value:.1f} [{100 * value.low:.1f}, {100 * value.high:.1f}]" in line
        assert "4.00 ms" in line or row.kind != "method"


def test_curves_and_verdicts(predicted: Results) -> None:
    grid = leaderboard(predicted, curve=True)
    headings = [column.heading for column in grid.columns]
    assert headings[:7] == ["0 shots", "1", "4", "16", "Accuracy at 64", "vs hierarchical-bt", "Verdict"], (
        "PS is unknown"
    )
    rows = {row.label: row.cells for row in grid.rows}
    assert rows["hierarchical-bt"][5:7] == ("\u2013", "\u2013")
    assert rows["pooled-bt"][6].startswith("worse\np ")
    assert rows["pooled-bt"][5].startswith("\u2212")
    assert rows["best-linear"][6] == "\u2013", "oracles are not compared"
    compared = {pair.b: pair for pair in predicted.comparisons()}
    for label, pair in compared.items():
        word = {None: "not clear", label: "better"}.get(pair.better, "worse")
        assert rows[label][6].startswith(word)


def test_versus(make_results: Callable[..., Results]) -> None:
    results = make_results("rank", 100)
    assert "vs random" in " ".join(printed(results, versus="random").split())
    rows = {row.label: row for row in leaderboard(results, versus="random").rows}
    pair = next(pair for pair in results.comparisons(versus="random") if pair.b == "longest")
    assert rows["longest"].cells[1].startswith(f"{-pair.difference.value:+.3f}\n")


def test_remarks_and_place(make_results: Callable[..., Results]) -> None:
    text = printed(make_results("generate", 16))
    assert "icl[n_shots=3]: of 16 responses 1 were empty and 4 were cut at the token limit; all count." in text
    assert "Report:  personalllm report somewhere/runs/generate" in text


def test_fewer_examples_than_wanted_are_remarked(make_results: Callable[..., Results]) -> None:
    results = make_results("generate", 16)
    results["meta-icl"].spec["params"]["n_shots"] = 5
    text = printed(results)
    assert "meta-icl: 3.0 examples each; the history holds no more, or the budget was full" in text
    assert "zero-shot: 3.0 examples each" not in text


def test_markup_is_text(make_results: Callable[..., Results]) -> None:
    results = make_results("rank", 10)
    rows = tuple(dataclasses.replace(row, label=f"[red]{row.label}[/red]") for row in results.methods)
    assert "[red]longest[/red]" in printed(dataclasses.replace(results, methods=rows), 120)


def test_optional_columns_go_in_their_order() -> None:
    columns = tuple(Column(f"column-{i}", optional=i) for i in range(6))
    grid = Grid("g", "", "", columns, (Row("a", ("1234567890",) * 6),))
    shown = [len(terminal_table(grid, width).columns) - 1 for width in (30, 60, 90)]
    assert shown == [1, 3, 6]


def test_rows_in_a_pipe_are_one_line_each_without_frames_or_trailing_space():
    console = Console(file=io.StringIO(), width=40)
    rows = [("[dim]a name that is longer than the console\nwith a note[/]", "1"), None, ("b", "22")]
    show_rows(console, ("name", "two\nwords"), rows, title="[bold]Title[/]", numeric=("two\nwords",))
    title, heading, first, second = console.file.getvalue().splitlines()
    assert (title, heading.split()) == ("Title", ["name", "two", "words"])
    assert first == "a name that is longer than the console with a note          1"
    assert second == f"b{'22':>{len(first) - 1}}"


def test_rows_on_a_terminal_are_folded_to_its_width():
    console = Console(file=io.StringIO(), width=40, force_terminal=True, color_system=None)
    show_rows(console, ("name", "n"), [("word " * 20, "1")], numeric=("n",))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 40
    assert len(lines) > 4
    assert "─" in console.file.getvalue()
