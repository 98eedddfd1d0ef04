"""The page that sets simulated users and people side by side."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from personalllm.evaluation.results import Results
from personalllm.evaluation.transfer import Transfer
from personalllm.report.transfer import render_transfer, transfer_findings

ROWS = [
    ("a", "Learner A", "method", 0.3, 1.8, True),
    ("b", "Learner B", "method", 0.3, 0.9, True),
    ("c", "Learner C", "method", 0.3, 0.2, True),
    ("longer", "Length", "baseline", 0.3, 0.3, True),
]
MANIFEST = {"source": {"kind": "people", "n_users": 30, "n_comparisons": 360, "n_ties": 7}}


def side_of_people(results: Results, **changes: object) -> Results:
    protocol = results.protocol | {"benchmark": "three", "folds": {"user_folds": 5}}
    return dataclasses.replace(results, protocol=protocol, manifest=MANIFEST, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def simulated(make_predicted: Callable[..., Results]) -> Results:
    return make_predicted(30, ROWS, shots=(0, 64))


@pytest.fixture(scope="module")
def transfer(simulated: Results, make_predicted: Callable[..., Results]) -> Transfer:
    turned = [(label, title, kind, low, 2.0 - high, p) for label, title, kind, low, high, p in ROWS[:3]]
    return Transfer(simulated, side_of_people(make_predicted(30, [*turned, ROWS[3]], shots=(0, 64))))


def test_reversed_orders_are_said_to_be(transfer: Transfer) -> None:
    text = {one.topic: one.text for one in transfer_findings(transfer)}
    assert "rank correlation is \u22121.00" in text["Do the two orders agree?"]
    assert "disagree more than chance" in text["Do the two orders agree?"]
    assert "Learner A over Learner C" in text["What is significant on both sides?"]
    assert "The best among simulated users, Learner A, is number 3 of 3 among people" in text["Who moves?"]
    assert "The best baseline is Length: accuracy" in text["Is anything learned about people?"]


def test_the_same_order_is_said_to_be(simulated: Results) -> None:
    text = transfer_findings(Transfer(simulated, side_of_people(simulated)))[0].text
    assert "rank correlation is 1.00" in text
    assert "agree more than chance" in text


def test_too_few_methods(simulated: Results) -> None:
    few = side_of_people(simulated, methods=simulated.methods[:2])
    assert "too few, or too equal" in transfer_findings(Transfer(simulated, few))[0].text


def test_the_page_stands_alone(transfer: Transfer, tmp_path: Path) -> None:
    page = render_transfer(transfer, tmp_path)
    assert page == tmp_path / "transfer.html"
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert not re.search(r"(?:src|href)=\"(?!#|data:,)", text)
    ids = re.findall(r"\bid=\"([^\"]+)\"", text)
    assert len(ids) == len(set(ids))
    assert "30 people made 360 choices between two responses (7 ties left out)" in text
    assert text.count("<svg") >= 6
    assert render_transfer(transfer, tmp_path / "b.html").read_bytes() == page.read_bytes()


def test_names_from_outside_are_escaped(
    transfer: Transfer, make_predicted: Callable[..., Results], tmp_path: Path
) -> None:
    rows = [("a", "<b>x</b>", "method", 0.3, 1.8, True)]
    bold = make_predicted(10, rows, shots=(0, 64))
    bold.protocol["benchmark"] = "<i>m</i>"
    text = render_transfer(Transfer(bold, side_of_people(bold)), tmp_path).read_text(encoding="utf-8")
    assert "<b>" not in text
    assert "<i>" not in text
    assert "&lt;b&gt;x" in text
