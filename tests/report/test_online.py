"""The page of the online track: questions needed, recovery, and what was asked of two users."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from personalllm.data import Ratings, make_synthetic
from personalllm.evaluation import evaluate
from personalllm.evaluation.results import Results
from personalllm.report import render_report
from personalllm.report.page import make_section
from personalllm.report.tables import Grid
from personalllm.report.views import make_view
from personalllm.report.views.online import OnlineView, first_reached
from personalllm.testing import HashEmbedder

SMALL: dict[str, Any] = {"n_users": 40, "pool_users": 20, "pool_pairs": 10, "rounds": 6, "bootstrap_draws": 100}
POLICIES = [f"{name}[method=hierarchical-bt]" for name in ("greedy", "thompson")]


@pytest.fixture(scope="module")
def results() -> Results:
    return evaluate(POLICIES, make_synthetic(60, seed=0), "online", SMALL, embedder=HashEmbedder())


def grids(results: Results) -> dict[str, Grid]:
    section = make_section(make_view(results))
    return {block.key: block for block in section.blocks if isinstance(block, Grid)}


def test_a_level_is_reached_on_a_straight_line_between_measurements() -> None:
    regret = {0: 1.0, 10: 0.5, 20: 0.4}
    assert first_reached(regret, 0.75, higher_is_better=False) == 5
    assert first_reached(regret, 1.0, higher_is_better=False) == 0
    assert np.isnan(first_reached(regret, 0.3, higher_is_better=False))


def test_the_page_has_questions_needed_and_what_was_asked(results: Results, tmp_path: Path) -> None:
    view = make_view(results)
    assert isinstance(view, OnlineView)
    assert "40 users" in view.lead
    assert "6 rounds" in view.lead
    tables = grids(results)
    needed = {row.label: row.cells for row in tables["questions"].rows}
    assert set(needed) == {*POLICIES, "known-basis"}
    assert needed["known-basis"][-1] == "100.0"
    asked = tables["asked-1"]
    assert [row.name for row in asked.rows] == ["1", "2", "3", "4", "5", "6"]
    _, first, second, answer, before, after = asked.rows[0].cells
    assert first != second
    won = {"the first": 1, "the second": -1}[answer]
    assert won * (float(after) - float(before)) > 0
    page = render_report([results], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Questions needed" in page
    assert "What was asked of user 2" in page


def test_after_a_switch_the_page_says_how_long_recovery_takes() -> None:
    drift = {"drift": "switch", "drift_at": 3, "checkpoints": [0, 2, 3, 4, 6]}
    run = evaluate(
        POLICIES[:1], make_synthetic(60, seed=0), "online", {**SMALL, "online": drift}, embedder=HashEmbedder()
    )
    (row,) = grids(run)["recovery"].rows
    curve = run.curve(row.label, "regret")
    assert [float(cell) for cell in row.cells[:2]] == [pytest.approx(curve[t].value, abs=5e-4) for t in (2, 3)]


def test_no_text_of_people_is_shown(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texts = [f"secret {i}" for i in range(32)]
    people = Ratings.from_table(rng.standard_normal((12, 32)), texts, "A joke.", name="jokes")
    settings = {"user_folds": 2, "shots": (0, 3), "bootstrap_draws": 100}
    run = evaluate(POLICIES[:1], people, "online", settings, embedder=HashEmbedder())
    page = render_report([run], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "12 people of jokes" in page
    assert "secret" not in page
