"""The page of the predict track."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from personalllm.core.errors import UserError
from personalllm.core.plotting import drawing
from personalllm.evaluation.prediction.results import PredictResults
from personalllm.report.prediction import (
    PredictionSection,
    prediction_section,
    render_prediction,
    write_prediction_figures,
)
from personalllm.report.prediction_figures import curves_figure, prediction_figures
from personalllm.report.prediction_views import PredictionView
from personalllm.report.prediction_words import findings, listed, notes

HOSTILE = "<script>alert('x')</script>"


@pytest.fixture(scope="module")
def view(predicted: PredictResults) -> PredictionView:
    return PredictionView(predicted)


@pytest.fixture(scope="module")
def section(view: PredictionView) -> PredictionSection:
    return prediction_section(view)


@pytest.fixture(scope="module")
def small(make_predicted: Callable[..., PredictResults]) -> PredictResults:
    return make_predicted(20, ROWS, shots=(0, 4))


ROWS = (
    ("a", "Learner A", "learner", 0.3, 1.6, True),
    ("c", "Learner C", "learner", 0.2, 0.9, True),
    ("longest", "Longest", "learner", 0.25, 0.25, False),
    ("longer", "Length", "null", 0.25, 0.25, True),
    ("best-linear", "Best linear", "oracle", 2.4, 2.4, True),
)


def found(view: PredictionView) -> dict[str, str]:
    return {one.topic: one.text for one in findings(view)}


def test_the_page_stands_alone_and_is_the_same_twice(small: PredictResults, tmp_path: Path) -> None:
    page = render_prediction([small], tmp_path / "a.html")
    text = page.read_text(encoding="utf-8")
    assert render_prediction([small], tmp_path / "b.html").read_bytes() == page.read_bytes()
    assert "<script" not in text
    assert not re.search(r"(?:src|href)=\"(?!#|data:,)", text)
    assert len(re.findall(r"\bid=\"([^\"]+)\"", text)) == len(set(re.findall(r"\bid=\"([^\"]+)\"", text)))
    for anchor in re.findall(r"href=\"#([^\"]+)\"", text):
        assert f'id="{anchor}"' in text
    assert text.count("<svg") == 6
    body = re.sub(r"<style>.*?</style>|<svg.*?</svg>", "", unescape(text), flags=re.DOTALL)
    for word in ("Cell(", "None", "dtype", "NaN", "  %"):
        assert word not in body
    assert "nan" not in re.findall(r"<td class=\"n\">([^<]*)", text)


@pytest.mark.slow
def test_two_runs_on_one_page(make_predicted: Callable[..., PredictResults], tmp_path: Path) -> None:
    one = make_predicted(10, ROWS[:2], shots=(0, 4))
    other = make_predicted(10, ROWS[:2], shots=(0, 4), benchmark_name="alpaca8", fingerprint="77")
    text = render_prediction([one, other], tmp_path).read_text(encoding="utf-8")
    assert 'id="predict-2"' in text
    assert "on alpaca8" in text
    assert len(re.findall(r"\bid=\"([^\"]+)\"", text)) == len(set(re.findall(r"\bid=\"([^\"]+)\"", text)))


def test_nothing_to_report() -> None:
    with pytest.raises(UserError, match="no results"):
        render_prediction([], "x.html")


def test_texts_from_outside_are_escaped(make_predicted: Callable[..., PredictResults], tmp_path: Path) -> None:
    rows = [("x", HOSTILE, "learner", 0.1, 1.0, True), ("longer", HOSTILE, "null", 0.2, 0.2, True)]
    results = make_predicted(10, rows, shots=(0, 4), benchmark_name=HOSTILE, protocol={"track": HOSTILE, "seed": 0} | {
        "bootstrap_draws": 200
    })  # fmt: skip
    text = render_prediction([results], tmp_path).read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_the_text_says_which_differences_are_real(view: PredictionView) -> None:
    text = found(view)["Which learner"]
    assert text.startswith("The highest of 8 learners on unseen users, unseen prompts, 64 shots is Hierarchical Bayes")
    compared = view.results.comparisons(
        "accuracy", view.headline, versus="hierarchical-bt", among=[one.id for one in view.learners]
    )
    beaten = [view.name(one.b) for one in compared if one.better == "hierarchical-bt"]
    assert f"really better than {listed(beaten)}." in text
    assert len(beaten) >= 4


def test_equal_learners_are_not_told_apart(make_predicted: Callable[..., PredictResults]) -> None:
    rows = [(name, name.upper(), "learner", 0.5, 0.5, True) for name in ("a", "b", "c")]
    text = found(PredictionView(make_predicted(20, rows, shots=(0, 4))))["Which learner"]
    assert "really better than none of the others" in text
    assert "cannot be told apart from B and C: being first among these may be chance" in text


def test_what_feedback_is_worth(view: PredictionView) -> None:
    text = found(view)["What the comparisons are worth"]
    rises, flat = text.split("No clear change:")
    assert "Hierarchical Bayes Bradley-Terry" in rises
    assert "Pooled Bradley-Terry" in flat
    assert "Pooled Bradley-Terry" not in rises


def test_who_does_not_use_whose_history_it_was(view: PredictionView) -> None:
    text = found(view)["Is it really the user's own feedback?"]
    assert "another user's history in place of the own, 6 of 8 learners lose accuracy" in text
    assert (
        "Not shown for Pooled Bradley-Terry and Longest response: nothing shows that these rest on whose history"
        in text
    )


def test_confidently_wrong_learners_are_named(make_predicted: Callable[..., PredictResults]) -> None:
    rows = [("sure", "Sure", "learner", -1.5, 0.5, True), ("meek", "Meek", "learner", 0.9, 1.2, True)]
    text = found(PredictionView(make_predicted(30, rows, shots=(0, 64))))["Are the probabilities honest?"]
    assert re.search(r"confidently wrong: Sure at 0 \(\d\.\d{3}\)", text)
    rows = [("rank-only", "Ranks", "learner", 0.3, 0.9, False)]
    assert "Are the probabilities honest?" not in found(PredictionView(make_predicted(10, rows, shots=(0, 4))))


def test_nulls_and_oracles_are_no_competitors(view: PredictionView) -> None:
    text = found(view)
    assert "The null population (share of the population) has" in text["Against knowing nothing of the user"]
    assert "The oracle best-linear" in text["How far to go"]
    assert any("no competitors" in note for note in notes(view))


def test_no_learner_at_all(make_predicted: Callable[..., PredictResults]) -> None:
    view = PredictionView(make_predicted(10, [("random", "A coin", "null", 0.0, 0.0, True)], shots=(0, 4)))
    assert [one.text for one in findings(view)] == ["No learner was evaluated."]
    assert prediction_section(view).tables[0].rows[0].id == "random"


def test_the_tables_have_the_numbers(view: PredictionView, section: PredictionSection) -> None:
    tables = {table.key: table for table in section.tables}
    assert set(tables) == {"metrics", "differences", "contest", "reward-models"}
    assert [row.id for row in tables["metrics"].rows][:1] == ["hierarchical-bt"]
    best = view.at(view.learners[0], "accuracy")
    assert tables["metrics"].rows[0].cells[0] == (
        f"{100 * best.value:.1f}",
        f"[{100 * best.low:.1f}, {100 * best.high:.1f}]",
    )
    ranked = next(row for row in tables["metrics"].rows if row.id == "longest")
    assert ranked.cells[1] == ("\u2013", "")
    own = next(row for row in tables["differences"].rows if row.id == "hierarchical-bt")
    assert own.cells[0] == ("\u2013", "")
    assert own.cells[3][1] == "better"
    assert [heading for heading, _ in tables["reward-models"].columns] == ["rm-a", "rm-b", "rm-c"]


def test_every_curve_is_in_a_table(section: PredictionSection) -> None:
    folded = section.folded
    assert len(folded) == 8
    assert all(len(table.columns) == 8 for table in folded)


def test_figures_by_what_there_is(section: PredictionSection, make_predicted: Callable[..., PredictResults]) -> None:
    names = ["curves", "each", "log-loss", "reliability", "contested", "counterfactuals"]
    assert [name for name, _, _, _ in section.figures] == names
    with drawing(text_as_paths=False):
        rows = [("rank-only", "Ranks", "learner", 0.3, 0.9, False)]
        few = PredictionView(make_predicted(10, rows, shots=(0,)))
        assert "log-loss" not in prediction_figures(few)


def test_the_curves_have_a_panel_for_each_kind_and_readable_texts(view: PredictionView) -> None:
    with drawing(text_as_paths=False):
        figure = curves_figure(view, "accuracy")
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert titles == [f"{u} users, {p} prompts" for u in ("unseen", "seen") for p in ("unseen", "seen")]
    markers: set[Any] = {line.get_marker() for line in figure.axes[0].lines} - {"None", "none", ""}
    assert len(markers) == 6
    sizes = [text.get_fontsize() for axis in figure.axes for text in (*axis.texts, *axis.get_xticklabels())]
    assert min(sizes) >= 8


@pytest.mark.slow
def test_figures_are_written(small: PredictResults, tmp_path: Path) -> None:
    written = write_prediction_figures([small], tmp_path)
    assert {path.name for path in written} >= {"predict-curves.svg", "predict-curves.png", "predict-reliability.svg"}
