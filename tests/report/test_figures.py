from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from personalllm.core.plotting import drawing
from personalllm.evaluation.contract import Condition, Estimate
from personalllm.evaluation.results import Results
from personalllm.report import write_figures
from personalllm.report.svg import inline_svg
from personalllm.report.views import make_view
from personalllm.report.views.base import Drawing
from personalllm.report.views.rank import RankView


def rank_view(results: Results) -> RankView:
    view = make_view(results)
    assert isinstance(view, RankView)
    return view


def figure_of(view: RankView, key: str) -> Any:
    with drawing(text_as_paths=False):
        return next(block.figure for block in view.blocks() if isinstance(block, Drawing) and block.key == key)


def test_files_and_reproducible_svg(both: list[Results], tmp_path: Path) -> None:
    first = write_figures(both, tmp_path / "a")
    second = write_figures(both, tmp_path / "b")
    assert sorted(path.name for path in first) == sorted(
        f"{track}-{name}.{kind}"
        for track in ("rank", "generate")
        for name in ("leaderboard", "users")
        for kind in ("svg", "png")
    )
    for path, other in zip(first, second, strict=True):
        assert path.read_bytes() == other.read_bytes(), path.name
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in first if path.suffix == ".png")


def test_two_figures_in_two_formats(make_results: Callable[..., Results], tmp_path: Path) -> None:
    assert len(write_figures([make_results("rank", 10)], tmp_path)) == 4


def test_marks_tell_methods_from_baselines(make_results: Callable[..., Results]) -> None:
    view = rank_view(make_results("rank", 40))
    figure = figure_of(view, "leaderboard")
    for axis in figure.axes:
        marks = [line.get_marker() for line in axis.lines if line.get_marker() not in ("None", "", None)]
        assert marks == ["o"] * 3 + ["D"] * 3


def test_dots_stand_at_the_estimates(make_results: Callable[..., Results]) -> None:
    view = rank_view(make_results("rank", 40))
    figure = figure_of(view, "leaderboard")
    for axis, key in zip(figure.axes, ("utility", "gain"), strict=True):
        dots = [line.get_xdata()[0] for line in axis.lines if line.get_marker() in ("o", "D")]
        assert dots == [view.at(row, key).value for row in view.drawn]


def test_a_huge_interval_does_not_dwarf_the_estimates(make_results: Callable[..., Results]) -> None:
    results = make_results("rank", 40)
    wide = Estimate(0.1, -500.0, 400.0)
    row = results["longest"]
    changed = dataclasses.replace(row, estimates={Condition(): row.estimates[Condition()] | {("all", "gain"): wide}})
    rows = tuple(changed if other is row else other for other in results.methods)
    gain = figure_of(rank_view(dataclasses.replace(results, methods=rows)), "leaderboard").axes[1]
    left, right = gain.get_xlim()
    assert -5 < left < 0 < 1 < right < 5
    assert {line.get_marker() for line in gain.lines} >= {"<", ">"}


def test_worst_response_is_not_drawn(make_results: Callable[..., Results]) -> None:
    view = rank_view(make_results("rank", 40))
    assert "worst" in {row.label for row in view.rows}
    assert "worst" not in {row.label for row in view.drawn}


def test_few_users_are_drawn_one_by_one(make_results: Callable[..., Results]) -> None:
    for n_users, dots in ((16, 16), (200, 1)):
        figure = figure_of(rank_view(make_results("rank", n_users)), "users")
        longest = max(len(line.get_xdata()) for line in figure.axes[0].lines if line.get_marker() == "o")
        assert longest == dots


def test_benefits_are_paired(make_results: Callable[..., Results]) -> None:
    view = rank_view(make_results("rank", 30))
    columns = view.results.sums("longest").columns
    benefits = view.benefits(view.results["longest"])
    np.testing.assert_allclose(benefits, columns["utility"] - columns["population_best_utility"], 1e-5)
    assert view.benefits(view.results["population-best"]) is None


def test_inline_svg_follows_the_page(make_results: Callable[..., Results]) -> None:
    figure = figure_of(rank_view(make_results("rank", 30)), "leaderboard")
    with drawing(text_as_paths=False):
        text = inline_svg(figure, key="k", title="A < B", description="C & D")
    assert text.startswith('<svg class="figure" role="img" aria-labelledby="k-title k-desc" viewBox="0 0 ')
    assert '<title id="k-title">A &lt; B</title><desc id="k-desc">C &amp; D</desc>' in text
    assert "var(--accent)" in text
    assert not re.search(r"#[0-9a-f]{6}", text.replace("#000000", "")), "a colour that the scheme does not know"
    assert "xmlns" not in text
    assert "<metadata" not in text
    assert all(name.startswith("k-") for name in re.findall(r'id="([^"]+)"', text))


def test_no_global_state_of_the_drawing_library(make_results: Callable[..., Results], tmp_path: Path) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    write_figures([make_results("rank", 10)], tmp_path)
    assert dict(mpl.rcParams) == before
