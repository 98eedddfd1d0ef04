from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from personalllm.core.plotting import drawing
from personalllm.evaluation.results import Estimate, Results
from personalllm.report import write_figures
from personalllm.report.figures import distribution_figure, leaderboard_figure
from personalllm.report.svg import inline_svg
from personalllm.report.views import track_views, user_benefits


def test_files_and_reproducible_svg(both: list[Results], tmp_path: Path) -> None:
    first = write_figures(both, tmp_path / "a")
    second = write_figures(both, tmp_path / "b")
    assert sorted(path.name for path in first) == sorted(
        f"{track}-{name}.{kind}"
        for track in ("rank", "generate")
        for name in ("leaderboard", "distribution")
        for kind in ("svg", "png")
    )
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in first if path.suffix == ".png")


def test_one_result_needs_no_list(make_results: Callable[..., Results], tmp_path: Path) -> None:
    assert len(write_figures(make_results("rank", 10), tmp_path)) == 4


def test_marks_tell_methods_from_references(make_results: Callable[..., Results]) -> None:
    (view,) = track_views([make_results("rank", 40)])
    with drawing(text_as_paths=False):
        figure = leaderboard_figure(view)
    for axis in figure.axes:
        marks = [line.get_marker() for line in axis.lines if line.get_marker() not in ("None", "", None)]
        assert marks == ["o"] * 3 + ["D"] * 3


def test_dots_stand_at_the_estimates(make_results: Callable[..., Results]) -> None:
    (view,) = track_views([make_results("rank", 40)])
    with drawing(text_as_paths=False):
        figure = leaderboard_figure(view)
    for axis, key in zip(figure.axes, ("mean_utility", "gain"), strict=True):
        dots = [line.get_xdata()[0] for line in axis.lines if line.get_marker() in ("o", "D")]
        assert dots == [row.metrics[key].value for row in view.drawn]


def test_a_huge_interval_does_not_dwarf_the_estimates(make_results: Callable[..., Results]) -> None:
    results = make_results("rank", 40)
    wide = Estimate(0.1, -500.0, 400.0)
    rows = tuple(
        dataclasses.replace(row, metrics=row.metrics | {"gain": wide}) if row.id == "longest" else row
        for row in results.methods
    )
    (view,) = track_views([dataclasses.replace(results, methods=rows)])
    with drawing(text_as_paths=False):
        gain = leaderboard_figure(view).axes[1]
    left, right = gain.get_xlim()
    assert -5 < left < 0 < 1 < right < 5
    assert {line.get_marker() for line in gain.lines} >= {"<", ">"}


def test_worst_response_is_not_drawn(make_results: Callable[..., Results]) -> None:
    (view,) = track_views([make_results("rank", 40)])
    assert "worst" in {row.id for row in view.rows}
    assert "worst" not in {row.id for row in view.drawn}


def test_few_users_are_drawn_one_by_one(make_results: Callable[..., Results]) -> None:
    for n_users, dots in ((16, 16), (200, 1)):
        (view,) = track_views([make_results("rank", n_users)])
        with drawing(text_as_paths=False):
            figure = distribution_figure(view)
        assert figure is not None
        longest = max(len(line.get_xdata()) for line in figure.axes[0].lines if line.get_marker() == "o")
        assert longest == dots


def test_benefits_are_paired(make_results: Callable[..., Results]) -> None:
    row = make_results("rank", 30)["longest"]
    benefits = user_benefits(row)
    assert benefits is not None
    np.testing.assert_allclose(benefits, row.per_user["mean_utility"] - row.per_user["population_best_utility"], 1e-5)
    assert user_benefits(dataclasses.replace(row, per_user={})) is None


def test_inline_svg_follows_the_page(make_results: Callable[..., Results]) -> None:
    (view,) = track_views([make_results("rank", 30)])
    with drawing(text_as_paths=False):
        text = inline_svg(leaderboard_figure(view), key="k", title="A < B", description="C & D")
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
    write_figures(make_results("rank", 10), tmp_path)
    assert dict(mpl.rcParams) == before
