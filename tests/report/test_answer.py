"""Did personalisation help? What runs say together, on a page and in a terminal."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from personalllm.core.errors import UserError
from personalllm.evaluation import between_runs
from personalllm.evaluation.contract import Condition
from personalllm.evaluation.results import MethodResult, Results
from personalllm.report import render_report
from personalllm.report.answer import answer
from personalllm.report.terminal import show_answer
from personalllm.report.views import make_views

Make = Callable[..., Results]


def with_zero(results: Results, zero: str = "random") -> Results:
    """Let one of the rows be the best method that ignores the user."""
    rows = [
        replace(row, label="text-only", title="Best on text alone", kind="baseline") if row.label == zero else row
        for row in results.methods
    ]
    return replace(results, methods=tuple(rows))


def with_others_history(results: Results, loss: float) -> Results:
    """The same run with other users' histories, which cost so much utility."""
    at = Condition(history="other-user")

    def moved(row: MethodResult) -> MethodResult:
        sums = row.sums[Condition()]
        columns = sums.columns | {"utility": sums.columns["utility"] - loss}
        return replace(row, sums={at: replace(sums, columns=columns)}, estimates={at: row.estimates[Condition()]})

    history = results.protocol["history"] | {"counterfactual": "other-user"}
    methods = tuple(moved(row) for row in results.methods)
    return replace(results, methods=methods, conditions=(at,), protocol=results.protocol | {"history": history})


def verdict(*runs: Results) -> str:
    answered = answer(make_views(runs))
    assert answered is not None
    return answered.verdict


def test_yes_where_the_best_method_beats_the_zero_and_reads_its_own_user(make_results: Make) -> None:
    own = with_zero(make_results())
    other = with_others_history(own, 0.3)
    answered = answer(make_views([own, other]))
    assert answered is not None
    assert answered.verdict == "Yes: every comparison below is significant at 5 %."
    zero, history = (finding.text for finding in answered.findings)
    gain = own.comparisons(versus="text-only", among=["text-only", "embedding-ranker"])[0].difference.value
    assert "Embedding ranker has mean utility 0.712 [" in zero
    assert re.search(rf"{-gain:.3f} \[[\d., ]*\] more than the best that treats all users alike", zero)
    assert "the same method has 0.300 [0.300, 0.300] less: it is this user's taste that it reads." in history
    assert [finding.topic for finding in answered.findings] == [
        "Choosing among responses: mini",
        "Choosing among responses: mini, with another user's history",
    ]


def test_in_part_where_another_users_history_does_as_well(make_results: Make) -> None:
    own = with_zero(make_results())
    same = with_others_history(own, 0.0)
    assert verdict(own, same) == "In part: 1 of 2 comparisons below are significant at 5 % in its favour."


def test_no_where_it_does_harm_and_nothing_without_a_zero(make_results: Make) -> None:
    harmful = with_zero(make_results(), "population-best")
    methods = tuple(row for row in harmful.methods if row.label not in {"embedding-ranker", "random"})
    harmful = replace(harmful, methods=methods)
    assert verdict(harmful) == "No: it did harm, in every comparison below."
    text = answer(make_views([harmful])).findings[0].text
    assert re.search(r"0\.\d{3} \[0[\d., ]*\] less than the best that treats all users alike", text)
    assert answer(make_views([make_results()])) is None


def test_the_page_and_the_terminal_open_with_the_answer(
    make_results: Make, make_predicted: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [with_zero(make_results()), with_zero(make_predicted(), "longer")]
    page = render_report(runs, tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.index("Did personalisation help?") < page.index('<section id="rank"')
    opening = page[page.index('<section id="answer"') : page.index('<section id="rank"')]
    assert page.index("Yes: every comparison below is significant at 5 %.") < page.index("<nav")
    assert "has accuracy" in opening
    assert opening.count("<svg") == 1
    show_answer(runs, Console(width=80, force_terminal=True, no_color=True, highlight=False))
    printed = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
    assert printed.startswith("\nDid personalisation help?\nYes: every comparison below is significant at 5 %.\n")
    assert max(len(line) for line in printed.splitlines()) <= 80
    show_answer(runs, Console(width=80))
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_runs_that_differ_in_more_than_the_history_are_not_subtracted(make_results: Make) -> None:
    own = make_results()
    with pytest.raises(UserError, match="do not differ in the history alone"):
        between_runs(own, own, "random")
    with pytest.raises(UserError, match="were not evaluated on the same users and queries"):
        between_runs(own, with_others_history(make_results(n_users=150), 0.1), "random")
