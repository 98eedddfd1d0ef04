"""Section 4: the paper's numbers, the cells and their pairing, the claims' verdicts, resuming."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from killed import contents, do, kill

from personalllm.core.crossed import Over
from personalllm.core.errors import ParameterError
from personalllm.data import Benchmark, make_synthetic, write_benchmark
from personalllm.evaluation import Estimate, ProgressEvent, evaluate, get_preset, load_track, resolve
from personalllm.papers.personalllm_2025.claims import Claim, Interval, judge, paper_claims, resampled_interval, verdict
from personalllm.papers.personalllm_2025.plan import Cell, Plan, estimate_load, is_paper_data, make_plan
from personalllm.papers.personalllm_2025.printed import find_paper_row, paper_rows
from personalllm.papers.personalllm_2025.reproduction import Reproduction, _departures, measured_rate, reproduce
from personalllm.papers.personalllm_2025.survival import metric_differences, surviving_share

SMALL: dict[str, Any] = {
    "limit": 9,
    "max_tokens": 10,
    "pool_users": 20,
    "pool_pairs": 6,
    "intervals": "users",
    "bootstrap_draws": 100,
}

GENERATE: dict[str, Any] = {"n_users": 4, "pool_users": 4, "max_tokens": 8, "bootstrap_draws": 100}


def plan_of(benchmark: Benchmark, **changes: Any) -> Plan:
    return make_plan(benchmark, **(SMALL | {"shots": (1, 3)} | changes))


@pytest.fixture(scope="module")
def found(make_benchmark: Callable[..., Benchmark]) -> Reproduction:
    from personalllm.testing import EchoChatModel, HashEmbedder, SurfaceRewards

    benchmark = make_benchmark()
    backends: Any = {"embedder": HashEmbedder(), "llm": EchoChatModel(), "rewards": SurfaceRewards()}
    return reproduce(plan_of(benchmark), benchmark, **backends)


def test_the_log_is_whole_and_says_what_is_printed() -> None:
    rows = paper_rows()
    printed = [row for row in rows if row.printed]
    assert len(rows) == 123
    assert {row.method: sum(other.method == row.method for other in printed) for row in printed} == {
        "zero-shot": 1,
        "icl": 12,
        "self-icl": 3,
        "meta-icl": 3,
    }
    across = {(row.pool_users, row.embedding_pairs, row.n_similar) for row in printed if row.method == "meta-icl"}
    assert across == {(1000, 5, 5)}


def test_losing_only_was_logged_twice_and_the_later_runs_count() -> None:
    for shots in (1, 3, 5):
        runs = [row for row in paper_rows() if (row.method, row.feedback, row.shots) == ("icl", "losing", shots)]
        assert [row.run_again for row in runs] == [True, False]
        mislabelled = find_paper_row("icl", shots, feedback="losing-as-winning")
        assert mislabelled is not None
        assert runs[0].utility == mislabelled.utility != runs[1].utility
        assert find_paper_row("icl", shots, feedback="losing") is runs[1]


@pytest.mark.shared
def test_the_printed_numbers_are_those_of_the_paper(shared_data: Path) -> None:
    paper = json.loads((shared_data.parent / "paper" / "paper_numbers.json").read_text(encoding="utf-8"))["icl"]
    names = {"winning_only": "winning", "losing_only": "losing", "winning_and_losing": "winning-and-losing"}
    names["losing_as_winning_only"] = "losing-as-winning"
    for mode, feedback in names.items():
        utilities = next(value for key, value in paper.items() if key.startswith("setting1"))[mode]
        for shots, utility, rate in zip((1, 3, 5), utilities, paper["win_rate_vs_gpt4o"][mode], strict=True):
            row = find_paper_row("icl", shots, feedback=feedback)
            assert row is not None
            assert row.printed
            assert row.utility == pytest.approx(utility, abs=5e-7)
            assert 100 * row.win_rate_reference == pytest.approx(rate)
    zero = find_paper_row("zero-shot", 0)
    expected = paper["zero_shot"]
    assert zero is not None
    assert (zero.utility, 100 * zero.win_rate_best, 100 * zero.win_rate_reference) == pytest.approx(
        (expected["total_score"], expected["vs_best"], expected["vs_gpt4o"]), abs=5e-7
    )
    across = paper["setting2 metalearn"]
    rows = {
        "winning": find_paper_row("meta-icl", 3, feedback="winning", embedding="winning"),
        "losing": find_paper_row("meta-icl", 3, feedback="winning", embedding="losing"),
        "win_minus_lose": find_paper_row("meta-icl", 3, feedback="winning", embedding="winning-minus-losing"),
        "self 3-shot": find_paper_row("self-icl", 3, feedback="winning"),
    }
    for name, row in rows.items():
        assert row is not None
        got = (row.utility, 100 * row.win_rate_best, 100 * row.win_rate_reference)
        assert got == pytest.approx(across[name], abs=5e-7)


def test_the_cells_are_those_of_section_4(benchmark_: Benchmark) -> None:
    plan = plan_of(benchmark_, shots=(5, 1, 3))
    own = [cell.id for cell in plan.of("none")]
    assert len(own) == len(set(own)) == 1 + 4 * 3 + 3 + 3 * 3 + 3
    for kind in ("other-user", "flipped", "shuffled"):
        cells = plan.of(kind)
        assert {cell.shots for cell in cells} == {3}
        assert {cell.id.rpartition("/")[0] for cell in cells} == {name for name in own if name.endswith("/3")}
    assert plan.n_requests == (28 + 3 * 9) * 9
    assert [cell.counterfactual for cell in plan_of(benchmark_, counterfactuals=False).cells] == ["none"] * 19


def test_the_cells_with_three_shots_are_the_presets_own(benchmark_: Benchmark) -> None:
    for settings, across in (("text", "paper-meta"), ("logged", "paper-meta-logged")):
        plan = plan_of(benchmark_, shots=(1, 3, 5), settings=settings)
        built = [cell.build(512).spec() for cell in plan.of("none")]
        for name in ("paper-icl", across):
            for entry in resolve(get_preset(name).methods, load_track("generate"))[0]:
                assert entry.method.spec() in built
        assert {cell.preset for cell in plan.cells} == {get_preset("paper-icl").id, get_preset(across).id}
    assert Cell("icl", 3, "winning").build(700).params()["reply_tokens"] == 700


def test_the_protocols_differ_in_the_history_alone(benchmark_: Benchmark) -> None:
    plan = plan_of(benchmark_)
    specs = {kind: protocol.spec() for kind, protocol in plan.protocols.items()}
    for kind, spec in specs.items():
        assert spec["history"].pop("counterfactual") == kind
    assert all(spec == specs["none"] for spec in specs.values())
    assert plan.changes["paper-icl-v1"]["limit"] == (None, 9)
    assert plan.changes["paper-icl-v1"]["generation.max_tokens"] == (512, 10)
    assert plan_of(benchmark_, settings="logged", pool_users=7).protocols["none"].pool.n_users == 7


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"counterfactual": "flipped"}, "history.counterfactual"),
        ({"prompts_per_user": 2}, "prompts_per_user"),
        ({"track": "rank"}, "track"),
    ],
)
def test_what_the_plan_sets_itself_cannot_be_set(benchmark_: Benchmark, changes: dict[str, Any], name: str) -> None:
    with pytest.raises(ParameterError, match=f"{name} must be .*, which section 4 sets by itself"):
        make_plan(benchmark_, pool_pairs=6, **changes)


@pytest.mark.parametrize("shots", [(), (0, 1), (-1,)])
def test_bad_shots(benchmark_: Benchmark, shots: tuple[int, ...]) -> None:
    with pytest.raises(ParameterError, match="shots"):
        make_plan(benchmark_, shots=shots)


def _over(found: Reproduction) -> Over:
    return found.plan.protocols["none"].intervals


def test_the_table_holds_what_evaluate_finds(found: Reproduction, benchmark_: Benchmark, standins: Any) -> None:
    cells = [cell for cell in found.plan.of("none") if cell.id in {"zero-shot", "icl/losing/3", "meta-icl/losing/1"}]
    alone = evaluate([cell.build(10) for cell in cells], benchmark_, protocol=found.plan.protocols["none"], **standins)
    for cell, result in zip(cells, alone.methods, strict=False):
        row = found.row(cell.id)
        assert row.result.estimates == result.estimates
        assert row.result.counts == result.counts
        assert row.result.sums.keys() == result.sums.keys()
        theirs = metric_differences(result, alone["zero-shot"], over=_over(found), draws=100)
        assert row.improvement == ({} if cell.id == "zero-shot" else theirs)
        if row.paper is not None:
            gap = row.difference("utility")
            assert gap is not None
            assert gap.value == pytest.approx(alone.estimate(result.label, "utility").value - row.paper.utility)
    assert found.counts["generations"] == found.plan.n_requests


def test_counterfactuals_are_compared_with_their_own_cell(found: Reproduction) -> None:
    zero = found.row("zero-shot").result
    assert len(found.survivals) == 3 * 9
    for survival in found.survivals:
        true = found.row(survival.cell.id.rpartition("/")[0]).result
        expected = surviving_share(true, survival.result, zero, over=_over(found), draws=100)
        assert repr(survival.share) == repr(expected)
        lost = survival.lost["utility"].value
        assert lost == pytest.approx(survival.share.gain.value - survival.share.remaining.value, abs=1e-6)
    flipped = next(s for s in found.survivals if s.cell.id == "icl/losing-as-winning/3/flipped")
    assert flipped.estimate("utility") == found.row("icl/winning/3").estimate("utility")


def test_what_is_not_the_papers_is_said(found: Reproduction) -> None:
    said = {departure.what: departure.level for departure in found.departures}
    for what in ("Data", "Chat model", "Reward models", "Response model of the win rate", "Maximum of new tokens"):
        assert said[what]
    assert said["Users"] is False
    assert not found.levels_comparable
    assert "Learning across users" not in " ".join(k for k, level in said.items() if level)


@pytest.mark.parametrize(
    ("llm", "is_theirs"),
    [
        ("openai:meta-llama/Meta-Llama-3-8B-Instruct@main", True),
        ("llama3:8b-instruct-fp16", True),
        ("openai:meta-llama/Llama-3.1-8B-Instruct", False),
        ("Llama-3-70B-Instruct", False),
        ("smollm2-135m-instruct", False),
    ],
)
def test_levels_are_comparable_only_with_the_papers_chat_model(
    found: Reproduction, benchmark_: Benchmark, llm: str, is_theirs: bool
) -> None:
    from personalllm.data.standardise import PUBLISHED

    plan = dataclasses.replace(plan_of(benchmark_, max_tokens=512), paper_data=True)
    about = found.own.manifest["source"] | {"n_prompts": 10_402, "reward_models": sorted(PUBLISHED)}
    protocol = found.own.protocol | {"llm": llm, "reference_response_model": "openai/gpt-4o"}
    results = dataclasses.replace(found.own, protocol=protocol, manifest=found.own.manifest | {"source": about})
    departures = _departures(plan, results)
    assert [departure.what for departure in departures if departure.level] == ([] if is_theirs else ["Chat model"])
    assert dataclasses.replace(found, departures=departures).levels_comparable is is_theirs


@pytest.mark.parametrize(
    ("setting", "given", "said"),
    [
        ("population", {"alpha": 1.0}, ("population.alpha", "0.05", "1.0", True)),
        ("temperature", 1.0, ("generation.temperature", "0.0", "1.0", True)),
        ("feedback", {"flip": 0.5}, ("feedback.flip", "0.0", "0.5", True)),
        ("pool_users", 7, ("pool.n_users", "10000", "7", False)),
        ("bootstrap_draws", 150, None),
        ("seed", 3, None),
    ],
)
def test_a_changed_setting_is_a_departure(
    found: Reproduction, benchmark_: Benchmark, setting: str, given: Any, said: tuple[str, str, str, bool] | None
) -> None:
    plain = {departure.what for departure in _departures(plan_of(benchmark_), found.own)}
    departures = _departures(plan_of(benchmark_, **{setting: given}), found.own)
    if said is None:
        assert {departure.what for departure in departures} == plain
    else:
        assert said in {dataclasses.astuple(departure) for departure in departures}
    levels = [departure.level for departure in departures]
    assert levels == sorted(levels, reverse=True)


def test_paper_data_are_recognised_and_the_synthetic_is_not(
    benchmark_: Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    synthetic = make_synthetic(20, seed=0)
    real = dataclasses.replace(synthetic, metadata={})
    assert not is_paper_data(real)
    monkeypatch.setattr("personalllm.papers.personalllm_2025.plan._PAPER_PROMPTS", 20)
    assert is_paper_data(real)
    assert not is_paper_data(synthetic)
    monkeypatch.setattr("personalllm.papers.personalllm_2025.plan._PAPER_PROMPTS", benchmark_.n_prompts)
    assert not is_paper_data(benchmark_)


def test_beside_the_look_up_stands_the_run_with_the_nearest_settings() -> None:
    found = {settings: Cell("lookup-icl", 3, "winning", settings=settings).paper for settings in ("text", "logged")}
    assert {settings: (row.pool_users, row.n_similar) for settings, row in found.items() if row is not None} == {
        "text": (10_000, 15),
        "logged": (1000, 5),
    }
    meta = [Cell("meta-icl", 3, "winning", settings=settings).paper for settings in ("text", "logged")]
    assert meta[0] == meta[1]


@pytest.mark.parametrize(
    ("low", "high", "sign", "expected"),
    [
        (0.1, 0.3, 1, "same direction"),
        (0.1, 0.3, -1, "opposite"),
        (-0.3, -0.1, 1, "opposite"),
        (-0.3, -0.1, -1, "same direction"),
        (-0.1, 0.3, 1, "unclear"),
        (0.0, 0.3, 1, "unclear"),
        (-0.3, 0.0, -1, "unclear"),
        (math.nan, math.nan, 1, "unclear"),
    ],
)
def test_the_verdict_is_the_intervals(low: float, high: float, sign: int, expected: str) -> None:
    assert verdict(Estimate(0.2, low, high), sign) == expected
    assert verdict(Estimate(0.2, low, high), sign, 10) == expected
    assert verdict(Estimate(0.2, low, high), sign, 9) == "unclear"


def planted(**means: float) -> tuple[dict[str, float], Interval]:
    rng = np.random.default_rng(0)
    common = rng.normal(0, 5, 400)
    draws = {cell: mean + common + rng.normal(0, 0.01, 400) for cell, mean in means.items()}
    return means, partial(resampled_interval, draws)


def test_a_planted_difference_is_found_although_the_users_differ_much() -> None:
    claim = Claim("up", "a beats b", "a minus b", 1, ((1.0, "a"), (-1.0, "b")))
    ours, interval = planted(a=0.5, b=0.2)
    judged = judge(claim, "win_rate_reference", {"a": 0.2, "b": 0.1}, ours, interval, 20)
    assert judged.verdict == "same direction"
    assert judged.ours.value == pytest.approx(0.3)
    assert judged.ours.low < 0.3 < judged.ours.high < 0.4
    assert judged.paper == pytest.approx(0.1)
    assert judged.paper_errors == pytest.approx(0.1 / math.sqrt((0.16 + 0.09) / 1000))
    assert judged.paper_agrees
    reverse = judge(claim, "utility", {"a": 0.1, "b": 0.2}, {"a": 0.2, "b": 0.5}, planted(a=0.2, b=0.5)[1], 20)
    assert (reverse.verdict, reverse.paper_agrees) == ("opposite", False)
    assert math.isnan(reverse.paper_errors)


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(1.0, 1.05, "same direction"), (0.4, 1.6, "opposite"), (0.88, 1.13, "unclear")]
)
def test_alike_means_within_a_quarter_of_the_improvement(low: float, high: float, expected: str) -> None:
    claim = Claim("alike", "", "", -1, alike=("a", "b", "c"))
    ours, interval = planted(a=high, b=1.0, c=low, **{"zero-shot": 0.0})
    assert judge(claim, "utility", ours, ours, interval, 20).verdict == expected


def test_the_interval_of_a_picked_pair_is_widened() -> None:
    rng = np.random.default_rng(0)
    ours = {"a": 1.0, "b": 0.9, "c": 0.8, "zero-shot": 0.0}
    draws = {cell: mean + rng.normal(0, 0.1, 4000) for cell, mean in ours.items()}
    claim = Claim("alike", "", "", -1, alike=("a", "b", "c"))
    judged = judge(claim, "utility", ours, ours, partial(resampled_interval, draws), 20)
    gap = draws["a"] - draws["c"] - 0.25 * ((draws["a"] + draws["b"] + draws["c"]) / 3 - draws["zero-shot"])
    assert (judged.ours.low, judged.ours.high) == pytest.approx(tuple(np.quantile(gap, (0.025 / 3, 1 - 0.025 / 3))))


def test_methods_that_do_not_improve_are_not_alike_by_accident() -> None:
    claim = Claim("alike", "", "", -1, alike=("a", "b", "c"))
    ours, interval = planted(a=-1.0, b=-1.1, c=-1.2, **{"zero-shot": 0.0})
    judged = judge(claim, "utility", ours, ours, interval, 20)
    assert judged.ours.value == pytest.approx(0.2)
    assert judged.verdict == "opposite"


def test_the_paper_bears_out_its_claims_in_utility() -> None:
    claims = paper_claims((1, 3, 5))
    assert len({claim.id for claim in claims}) == len(claims) == 15
    plan_cells = {cell.id: cell for cell in _all_cells()}
    for claim in claims:
        paper = {cell: _paper(plan_cells[cell], claim.metrics[0]) for cell in claim.cells}
        value = float(claim.value({cell: np.asarray(number) for cell, number in paper.items()}))
        assert value * claim.sign > 0, claim.id


def _all_cells() -> list[Cell]:
    from personalllm.papers.personalllm_2025 import plan as section4

    return section4._cells((1, 3, 5), "text", "text")


def _paper(cell: Cell, metric: str) -> float:
    assert cell.paper is not None
    return cell.paper.value(metric)


@pytest.mark.parametrize(("shots", "n_claims"), [((1, 3, 5), 15), ((1, 3), 14), ((3,), 12), ((1, 2), 10), ((2,), 0)])
def test_claims_are_limited_to_the_shots_that_were_run(shots: tuple[int, ...], n_claims: int) -> None:
    claims = paper_claims(shots)
    assert len(claims) == n_claims
    allowed = {f"/{k}" for k in shots}
    assert all(cell == "zero-shot" or cell[-2:] in allowed for claim in claims for cell in claim.cells)


def test_the_claims_are_judged_on_our_cells(found: Reproduction) -> None:
    judged = {(result.claim.id, result.metric): result for result in found.claims}
    one = judged["losing-below-winning", "utility"]
    parts = [found.row(f"icl/{mode}/{k}").estimate("utility").value for mode in ("losing", "winning") for k in (1, 3)]
    assert one.ours.value == pytest.approx((parts[0] + parts[1] - parts[2] - parts[3]) / 2)
    self_icl = judged["across-beats-self", "win_rate_reference"]
    paired = metric_differences(
        found.row("meta-icl/winning-minus-losing/3").result,
        found.row("self-icl/winning/3").result,
        over=_over(found),
        draws=100,
    )
    assert self_icl.ours == paired["win_rate_reference"]
    assert {result.verdict for result in found.claims} == {"unclear"}
    assert found.plan.n_users == 9


def test_progress_counts_the_whole_plan(benchmark_: Benchmark, standins: Any) -> None:
    plan = plan_of(benchmark_, shots=(3,))
    events: list[ProgressEvent] = []
    reproduce(plan, benchmark_, progress=events.append, **standins)
    assert {event.total for event in events} == {plan.n_requests}
    done = [event.done for event in events if event.stage == "step"]
    assert done == sorted(done)
    assert events[-1].done == plan.n_requests
    assert [event.method for event in events if event.stage == "finish"] == [cell.name for cell in plan.cells]


def test_the_load_grows_with_what_is_shown(benchmark_: Benchmark) -> None:
    plan = plan_of(benchmark_)
    load = {item.cell.id: item for item in estimate_load(plan, benchmark_)}
    assert load["zero-shot"].prompt_tokens < load["icl/winning/1"].prompt_tokens < load["icl/winning/3"].prompt_tokens
    assert load["icl/winning/3"].prompt_tokens < load["icl/winning-and-losing/3"].prompt_tokens
    assert {item.requests for item in load.values()} == {9}
    assert {item.completion_tokens for item in load.values()} == {90}


@pytest.mark.slow
def test_killed_in_a_counterfactual_it_goes_on_to_the_same_bytes(benchmark_: Benchmark, tmp_path: Path) -> None:
    source = tmp_path / "tiny.parquet"
    write_benchmark(benchmark_, source)
    broken, whole = tmp_path / "broken", tmp_path / "whole"

    def reached() -> bool:
        sums = list(broken.glob("*/*/sums-users.parquet"))
        return len(list(broken.glob("*/manifest.json"))) >= 2 and len(sums) >= 18

    kill("reproduce", source, broken, 0.05, reached)
    before = {path: path.stat().st_mtime_ns for path in broken.glob("*/*/record.json")}
    assert len(before) < 4 * 14
    do("reproduce", source, broken)
    do("reproduce", source, whole)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert contents(broken, unfinished=False) == contents(whole)


def test_the_rate_is_measured_in_the_runs_that_are_whole(benchmark_: Benchmark, standins: Any, tmp_path: Path) -> None:
    for seed in (0, 1):
        protocol = {**GENERATE, "seed": seed}
        evaluate(["zero-shot"], benchmark_, protocol=protocol, track="generate", out=tmp_path, **standins)
    rate = measured_rate(tmp_path)
    assert rate is not None
    assert rate > 0
    assert measured_rate(tmp_path) == rate
    next(tmp_path.glob("*/manifest.json")).write_text("{")
    assert measured_rate(tmp_path) is not None, "a damaged run is left out"
    assert measured_rate(tmp_path / "absent") is None


def test_chat_turns_leave_out_what_they_cannot_show(benchmark_: Benchmark) -> None:
    plan = make_plan(benchmark_, **(SMALL | {"shots": (3,), "layout": "turns"}))
    ids = [cell.id for cell in plan.of("none")]
    assert "icl/losing-as-winning/3" in ids
    assert not {"icl/losing/3", "icl/winning-and-losing/3"} & set(ids)
    built = [cell.build(plan.max_tokens) for cell in plan.cells if cell.id != "zero-shot"]
    assert {method.layout for method in built} == {"turns"}
    assert all(cell.layout == "turns" for cell in plan.of("flipped"))
    ours = {cell.id for cell in make_plan(benchmark_, **(SMALL | {"shots": (3,)})).cells}
    assert {cell.id for cell in plan.cells} < ours
