from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from rich.console import Console

from personalllm.evaluation.results import Results
from personalllm.report import leaderboard_table


def shown(results: Results | list[Results], width: int = 80) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    with console.file:
        console.print(leaderboard_table(results))
    return console.export_text()


def test_order_and_numbers(make_results: Callable[..., Results]) -> None:
    results = make_results("rank", 100)
    text = shown(results)
    places = [text.index(name) for name in ("Embedding ranker", "Longest", "Random", "User's best", "User's worst")]
    assert places == sorted(places)
    value = results["longest"].metrics["mean_utility"]
    assert f"{value.value:.2f} [{value.low:.2f}, {value.high:.2f}]".replace("-", "\u2212") in text


@pytest.mark.parametrize("width", [80, 100, 140])
def test_intervals_are_never_broken(width: int, both: list[Results]) -> None:
    text = shown(both, width)
    assert all(line.count("[0") <= line.count("]") for line in text.splitlines() if "n_shots" not in line)
    assert max(map(len, text.splitlines())) <= width
    assert "Rank track" in text
    assert "Generate track" in text


def test_markup_in_titles_is_text(make_results: Callable[..., Results]) -> None:
    results = make_results("rank", 10)
    rows = tuple(dataclasses.replace(row, title=f"[red]{row.id}[/red]") for row in results.methods)
    assert "[red]longest[/red]" in shown(dataclasses.replace(results, methods=rows), 120)
