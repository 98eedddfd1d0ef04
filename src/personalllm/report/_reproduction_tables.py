"""Make the tables of the reproduction: tidy ones for files, and tables of text for readers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from personalllm.papers.personalllm_2025.claims import CLAIM_METRICS, RULE
from personalllm.papers.personalllm_2025.printed import PAPER_USERS
from personalllm.papers.personalllm_2025.reproduction import SHOWN
from personalllm.papers.personalllm_2025.survival import sums_of
from personalllm.report.numbers import ABSENT, interval, number, percent
from personalllm.report.tables import Column, Grid, Row

if TYPE_CHECKING:
    from personalllm.evaluation.contract import Estimate
    from personalllm.papers.personalllm_2025.claims import ClaimResult
    from personalllm.papers.personalllm_2025.reproduction import CellRow, Reproduction, Survival

__all__ = ["text_tables", "tidy_tables"]

_COUNTERFACTUALS = {"other-user": "another user's", "flipped": "flipped labels", "shuffled": "shuffled pairs"}


def tidy_tables(reproduction: Reproduction) -> dict[str, Any]:
    """Return the Arrow tables `cells` (a row for each cell and metric), `claims` and `counterfactuals`."""
    import pyarrow as pa

    rows = {
        "cells": [_cell_record(row, metric) for row in reproduction.rows for metric in SHOWN],
        "claims": [_claim_record(claim) for claim in reproduction.claims],
        "counterfactuals": [_survival_record(survival) for survival in reproduction.survivals],
    }
    return {name: pa.Table.from_pylist(records) for name, records in rows.items() if records}


def _ends(name: str, value: Estimate | None) -> dict[str, float | None]:
    keys = (name, f"{name}_low", f"{name}_high")
    if value is None:
        return dict.fromkeys(keys, math.nan)
    return dict(zip(keys, (value.value, value.low, value.high), strict=True))


def _cell_record(row: CellRow, metric: str) -> dict[str, Any]:
    cell, counts = row.cell, row.result.counts
    improvement = row.paper_improvement(metric)
    record: dict[str, Any] = {
        "cell": cell.id,
        "method": cell.method,
        "variant": cell.variant,
        "shots": cell.shots,
        "preset": cell.preset,
        "metric": metric,
        "n_users": sums_of(row.result).n_clusters,
    }
    record |= _ends("ours", row.estimate(metric))
    record["paper"] = row.paper.value(metric) if row.paper else math.nan
    record["paper_printed"] = row.paper.printed if row.paper else None
    record |= _ends("difference", row.difference(metric))
    record |= _ends("improvement", row.improvement.get(metric))
    record["paper_improvement"] = math.nan if improvement is None else improvement
    names = ("generations", "empty", "cut", "examples", "dropped_examples")
    return record | {name: counts.get(name, 0) for name in names}


def _claim_record(result: ClaimResult) -> dict[str, Any]:
    claim = result.claim
    record = {
        "claim": claim.id,
        "statement": claim.text,
        "number": claim.number,
        "metric": result.metric,
        "claimed_sign": claim.sign,
        "paper": result.paper,
        "paper_standard_errors": result.paper_errors,
        "paper_agrees": result.paper_agrees,
    }
    return record | _ends("ours", result.ours) | {"verdict": result.verdict}


def _survival_record(survival: Survival) -> dict[str, Any]:
    cell, share = survival.cell, survival.share
    record: dict[str, Any] = {
        "cell": cell.id,
        "method": cell.method,
        "variant": cell.variant,
        "shots": cell.shots,
        "counterfactual": cell.counterfactual,
    }
    record |= _ends("improvement", share.gain) | _ends("remaining", share.remaining) | _ends("share", share.share)
    record |= _ends("lost_utility", survival.lost["utility"])
    record |= _ends("lost_win_rate", survival.lost["win_rate_reference"])
    return record | {"note": share.note}


def text_tables(reproduction: Reproduction) -> tuple[Grid, ...]:
    """Return the tables for readers: cells, claims, and what survives counterfactual histories if any were run."""
    tables = [_cells(reproduction), _claims(reproduction)]
    return tuple([*tables, _survivals(reproduction)] if reproduction.survivals else tables)


def _grid(key: str, title: str, caption: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Grid:
    """Return a table.

    Args:
        key: Anchor.
        title: Heading.
        caption: How to read it.
        headings: Headings; those of numbers begin with `#`, and behind `~` stands when a narrow terminal leaves a
            column out: the largest number first.
        rows: Texts; a line break stands between a number and its interval.
    """
    columns = []
    for heading in headings[1:]:
        text, _, optional = heading.lstrip("#").partition("~")
        columns.append(Column(text, numeric=heading.startswith("#"), optional=int(optional or 0)))
    return Grid(key, title, caption, tuple(columns), tuple(Row(row[0], tuple(row[1:])) for row in rows), headings[0])


def _value(value: Estimate, metric: str, *, signed: bool = False, decimals: int = 2) -> str:
    """Return a number and, on a line of its own, its interval."""
    if metric == "utility":
        return f"{number(value.value, decimals, signed=signed)}\n{interval(value, 'plain', decimals)}".rstrip()
    return f"{percent(value.value, signed=signed)}\n{interval(value, 'percent')}".rstrip()


def _paper(row: CellRow, metric: str) -> str:
    """Return the paper's number and, on a line of its own, ours minus it."""
    gap = row.difference(metric)
    if row.paper is None or gap is None:
        return ABSENT
    value, share = row.paper.value(metric), metric != "utility"
    text = percent(value) if share else number(value, 2)
    return f"{text}\n({percent(gap.value, signed=True) if share else number(gap.value, 2, signed=True)})"


def _cells(reproduction: Reproduction) -> Grid:
    rows = []
    for row in reproduction.rows:
        counts = row.result.counts
        improvement = row.paper_improvement("utility")
        over = _value(row.improvement["utility"], "utility", signed=True) if row.improvement else ABSENT
        texts = [row.cell.title, str(row.cell.shots), _value(row.estimate("utility"), "utility")]
        texts += [_paper(row, "utility"), over]
        texts.append(ABSENT if improvement is None else number(improvement, 2, signed=True))
        for metric in SHOWN[1:]:
            texts += [_value(row.estimate(metric), metric), _paper(row, metric)]
        rows.append((*texts, f"{counts['empty']} / {counts['cut']}"))
    reference = reproduction.own.protocol["reference_response_model"]
    return _grid(
        "cells",
        "Section 4, ours beside the paper's",
        f"{reproduction.plan.n_users:,} users, one query each. {reproduction.own.about_intervals()} Win rates in %, "
        f"ours against {reference}, the paper's against gpt-4o. In brackets below a number of the paper: ours minus "
        "the paper's. Over zero-shot: paired. Empty / cut: replies without text, and those that the token limit cut.",
        ("Method", "#Shots", "#Utility", "#Paper", "#Over zero-shot", "#Paper~2", "#Win rate~1", "#Paper~3",
         "#Win vs best~6", "#Paper~5", "#Empty / cut~4"),
        rows,
    )  # fmt: skip


def _claims(reproduction: Reproduction) -> Grid:
    by_claim: dict[str, dict[str, ClaimResult]] = {}
    for result in reproduction.claims:
        by_claim.setdefault(result.claim.id, {})[result.metric] = result
    rows = []
    for results in by_claim.values():
        claim = next(iter(results.values())).claim
        texts = [f"{claim.text}\n{claim.number}"]
        for metric in CLAIM_METRICS:
            texts += _verdict(results[metric]) if metric in results else [ABSENT] * 3
        rows.append(tuple(texts))
    return _grid(
        "claims",
        "The paper's claims as directions",
        f"{RULE} Left mean utility, right win rate in points. S.e.: the paper's number in standard errors of a win "
        f"rate at n = {PAPER_USERS:,}, its runs taken as independent; below 2 its own numbers do not settle the claim.",
        ("Claim and number", "#Paper~1", "#Ours", "Utility", "#Paper~2", "#Ours", "Win rate"),
        rows,
    )


def _verdict(result: ClaimResult) -> list[str]:
    """Return the paper's number, ours and the verdict."""
    share = result.metric != "utility"
    paper = percent(result.paper, signed=True) if share else number(result.paper, 2, signed=True)
    if math.isfinite(result.paper_errors):
        paper += f"\n({result.paper_errors:.1f} s.e.)"
    if not result.paper_agrees:
        paper += "\n(against it)"
    return [paper, _value(result.ours, result.metric, signed=True), result.verdict.replace(" ", "\n", 1)]


def _survivals(reproduction: Reproduction) -> Grid:
    rows = []
    order = {(row.cell.method, row.cell.variant): i for i, row in enumerate(reproduction.rows)}
    for survival in sorted(reproduction.survivals, key=lambda s: order[s.cell.method, s.cell.variant]):
        cell, share = survival.cell, survival.share
        left = _value(share.share, "share") if share.defined else "not defined"
        rows.append(
            (
                cell.title,
                _COUNTERFACTUALS[cell.counterfactual],
                _value(share.gain, "utility", signed=True),
                _value(share.remaining, "utility", signed=True),
                left,
                _value(survival.lost["utility"], "utility", signed=True),
            )
        )
    shots = reproduction.survivals[0].cell.shots
    return _grid(
        "counterfactuals",
        "What survives a counterfactual history",
        f"{shots} shots. The improvement in mean utility over zero-shot with the user's own history, what remains of "
        "it when the feedback is not the user's, and the share that survives: 0 % if all of it came from what the "
        "history says about this user, 100 % if none did. No share is defined where the improvement's interval "
        "reaches 0. Lost: own minus counterfactual history, paired by user. The pool of other users stays as it is.",
        ("Method", "History", "#Improvement~1", "#Remaining~2", "#Survives, %", "#Lost"),
        rows,
    )
