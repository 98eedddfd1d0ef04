"""The page of the predict track, on simulated users and on people."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from personalllm.core.plotting import drawing
from personalllm.evaluation.results import Results
from personalllm.report import render_report, write_figures
from personalllm.report.curves import curves_figure
from personalllm.report.numbers import listed
from personalllm.report.page import Figure, Section, make_section
from personalllm.report.tables import Grid
from personalllm.report.views import make_view
from personalllm.report.views.base import Drawing
from personalllm.report.views.people import PeopleView
from personalllm.report.views.predict import PredictView

HOSTILE = "<script>alert('x')</script>"


@pytest.fixture(scope="module")
def view(predicted: Results) -> PredictView:
    return make_view(predicted)


@pytest.fixture(scope="module")
def section(view: PredictView) -> Section:
    return make_section(view)


@pytest.fixture(scope="module")
def small(make_predicted: Callable[..., Results]) -> Results:
    return make_predicted(20, ROWS, shots=(0, 4))


ROWS = (
    ("a", "Learner A", "method", 0.3, 1.6, True),
    ("c", "Learner C", "method", 0.2, 0.9, True),
    ("longest", "Longest", "method", 0.25, 0.25, False),
    ("longer", "Length", "baseline", 0.25, 0.25, True),
    ("best-linear", "Best linear", "oracle", 2.4, 2.4, True),
)


def texts(view: Any) -> dict[str, str]:
    return {finding.topic: finding.text for finding in view.findings()}


def grids(section: Section, *, folded: bool) -> dict[str, Grid]:
    return {block.key: block for block in section.blocks if isinstance(block, Grid) and block.folded is folded}


def test_the_page_stands_alone_and_is_the_same_twice(small: Results, tmp_path: Path) -> None:
    page = render_report([small], tmp_path / "a.html")
    text = page.read_text(encoding="utf-8")
    assert render_report([small], tmp_path / "b.html").read_bytes() == page.read_bytes()
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
def test_two_runs_on_one_page(make_predicted: Callable[..., Results], tmp_path: Path) -> None:
    one = make_predicted(10, ROWS[:2], shots=(0, 4))
    other = make_predicted(10, ROWS[:2], shots=(0, 4), fingerprint="77")
    other.protocol["benchmark"] = "alpaca8"
    text = render_report([one, other], tmp_path).read_text(encoding="utf-8")
    assert 'id="predict-2"' in text
    assert "Predicting choices: alpaca8" in text
    assert len(re.findall(r"\bid=\"([^\"]+)\"", text)) == len(set(re.findall(r"\bid=\"([^\"]+)\"", text)))


def test_texts_from_outside_are_escaped(make_predicted: Callable[..., Results], tmp_path: Path) -> None:
    rows = [("x", HOSTILE, "method", 0.1, 1.0, True), ("longer", HOSTILE, "baseline", 0.2, 0.2, True)]
    results = make_predicted(10, rows, shots=(0, 4), track=HOSTILE)
    results.protocol.update(benchmark=HOSTILE, track=HOSTILE)
    text = render_report([results], tmp_path).read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_the_text_says_which_differences_are_significant(view: PredictView) -> None:
    text = texts(view)["Which method"]
    assert text.startswith("The best of 8 methods on unseen users, unseen prompts, 64 shots is Hierarchical Bayes")
    among = [row.label for row in view.methods]
    compared = view.results.comparisons("accuracy", versus="hierarchical-bt", among=among)
    worse = [view.name(pair.b) for pair in compared if pair.better == "hierarchical-bt"]
    assert f"significantly better than {listed(worse)}." in text
    assert len(worse) >= 4


def test_equal_methods_are_not_told_apart(make_predicted: Callable[..., Results]) -> None:
    rows = [(name, name.upper(), "method", 0.5, 0.5, True) for name in ("a", "b", "c")]
    text = texts(make_view(make_predicted(20, rows, shots=(0, 4))))["Which method"]
    assert "significantly better" not in text
    assert "not significantly different from B and C: being first among these may be chance" in text


def test_what_feedback_is_worth(view: PredictView) -> None:
    text = texts(view)["What more shots are worth"]
    rises, flat = text.split("No significant change:")
    assert "Hierarchical Bayes Bradley-Terry" in rises
    assert "Pooled Bradley-Terry" in flat
    assert "Pooled Bradley-Terry" not in rises
    head = view.headline
    changes = {
        row.label: view.results.change(row.label, "accuracy", head, dataclasses.replace(head, shots=0))
        for row in view.methods
    }
    first = max((label for label in changes if changes[label].low > 0), key=lambda label: changes[label].value)
    value = changes[first]
    expected = f"{100 * value.value:+.1f} [{100 * value.low:+.1f}, {100 * value.high:+.1f}] points"
    assert f"(most of all {view.name(first)}, {expected})" in text


def test_who_does_not_use_whose_history_it_was(view: PredictView) -> None:
    text = texts(view)["Is it the user's own feedback?"]
    assert "With another user's history, 6 of 8 methods become significantly worse, most of all" in text
    assert "; not shown for Longest response and Pooled Bradley-Terry." in text


def test_confidently_wrong_methods_are_named(make_predicted: Callable[..., Results]) -> None:
    rows = [("sure", "Sure", "method", -1.5, 0.5, True), ("meek", "Meek", "method", 0.9, 1.2, True)]
    text = texts(make_view(make_predicted(30, rows, shots=(0, 64))))["Are the probabilities honest?"]
    assert re.search(r"confidently wrong: Sure at 0 \(\d\.\d{3}\)", text)
    rows = [("rank-only", "Ranks", "method", 0.3, 0.9, False)]
    assert "Are the probabilities honest?" not in texts(make_view(make_predicted(10, rows, shots=(0, 4))))


def test_baselines_and_oracles_are_named(view: PredictView) -> None:
    text = texts(view)
    assert "The best baseline is Share of the population: accuracy " in text["Against ignoring the user"]
    assert "The oracle Best linear in the embedding, fitted to each user alone" in text["How far to go"]


def test_no_method_at_all(make_predicted: Callable[..., Results]) -> None:
    view = make_view(make_predicted(10, (("random", "A coin", "baseline", 0.0, 0.0, True),), shots=(0, 4)))
    assert [finding.text for finding in view.findings()] == ["No method was evaluated."]
    assert grids(make_section(view), folded=False)["leaderboard"].rows[0].label == "random"


def test_the_tables_have_the_numbers(view: PredictView, section: Section) -> None:
    tables = grids(section, folded=False)
    assert set(tables) == {"leaderboard", "differences-1", "differences-2", "contested", "rm"}
    first = tables["leaderboard"].rows[0]
    best = view.at(view.methods[0])
    assert first.label == "hierarchical-bt"
    assert first.cells[0] == f"{100 * best.value:.1f}\n[{100 * best.low:.1f}, {100 * best.high:.1f}]"
    headings = [column.heading for column in tables["leaderboard"].columns]
    assert headings[:4] == ["Accuracy", "vs hierarchical-bt", "Verdict", "Log-loss"], "no anchors, so no share"
    ranks_only = next(row for row in tables["leaderboard"].rows if row.label == "longest")
    assert ranks_only.cells[3] == "\u2013"
    row = next(row for row in tables["differences-2"].rows if row.label == "hierarchical-bt")
    assert row.cells[0].startswith("+")
    assert row.cells[-1].startswith("better\np")
    assert [column.heading for column in tables["rm"].columns] == ["rm-a", "rm-b", "rm-c"]
    assert [column.note for column in tables["rm"].columns] == ["20 users"] * 3


def test_every_curve_is_in_a_table(section: Section) -> None:
    folded = grids(section, folded=True)
    assert len(folded) == 8
    assert all(len(table.columns) == 5 for table in folded.values())


def test_figures_by_what_there_is(section: Section, make_predicted: Callable[..., Results]) -> None:
    names = ["curves", "each", "log-loss", "reliability", "contested", "counterfactuals"]
    assert [block.key for block in section.blocks if isinstance(block, Figure)] == names
    with drawing(text_as_paths=False):
        few = make_view(make_predicted(10, (("rank-only", "Ranks", "method", 0.3, 0.9, False),), shots=(0,)))
        assert "log-loss" not in [block.key for block in few.blocks() if isinstance(block, Drawing)]


def test_the_curves_have_a_panel_for_each_kind_and_readable_texts(view: PredictView) -> None:
    with drawing(text_as_paths=False):
        figure = curves_figure(view, view.main)
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert titles == [f"{u} users, {p} prompts" for u in ("unseen", "seen") for p in ("unseen", "seen")]
    markers: set[Any] = {line.get_marker() for line in figure.axes[0].lines} - {"None", "none", ""}
    assert len(markers) == 6
    sizes = [text.get_fontsize() for axis in figure.axes for text in (*axis.texts, *axis.get_xticklabels())]
    assert min(sizes) >= 8


@pytest.mark.slow
def test_figures_are_written(small: Results, tmp_path: Path) -> None:
    files = write_figures([small], tmp_path)
    assert {path.name for path in files} >= {"predict-curves.svg", "predict-curves.png", "predict-reliability.svg"}


def test_people_have_a_view_of_their_own(make_predicted: Callable[..., Results], tmp_path: Path) -> None:
    source = {"kind": "people", "n_users": 30, "n_comparisons": 360, "n_ties": 7}
    people = make_predicted(20, ROWS[:2], shots=(0, 4), manifest={"source": source})
    people.protocol["folds"] = {"user_folds": 5}
    view = make_view(people)
    assert isinstance(view, PeopleView)
    assert "30 people made 360 choices between two responses (7 ties left out)." in view.lead
    assert any("no true weights" in note for note in view.notes())
    assert not any("simulated population" in note for note in view.notes())
    assert "PEOPLE_FILE" in render_report([people], tmp_path / "r.html").read_text("utf-8")


def test_notes_are_whole_sentences(view: PredictView) -> None:
    assert all(note.endswith(".") and len(note) > 40 for note in view.notes())
    assert len(view.notes()) == 3
