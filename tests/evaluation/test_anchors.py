"""Between what the personalisation share is measured: `text-only` and `known-basis`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from personalllm.core.errors import DataError, UserError
from personalllm.data import Benchmark, Preferences
from personalllm.evaluation import Protocol, Results, evaluate, load_run
from personalllm.evaluation.baselines.anchors import KnownBasis, TextOnly
from personalllm.evaluation.contract import Condition
from personalllm.testing import HashEmbedder

SMALL: dict[str, Any] = {
    "intervals": "users",
    "bootstrap_draws": 200,
    "n_users": 32,
    "alpha": 0.3,
    "pool_users": 40,
    "pool_pairs": 12,
    "pairs": 4,
    "seed": 2,
}
PREDICT: dict[str, Any] = {"track": "predict", "shots": (0, 1, 4), "test_pairs": 6, "seen_users": 10}


def run(benchmark: Benchmark, methods: Any = ("longest", "pooled-bt"), out: Any = None, **overrides: Any) -> Results:
    values = {**SMALL, **overrides}
    if values.get("track") == "predict":
        values.pop("pairs")
    return evaluate(list(methods), benchmark, protocol=values, embedder=HashEmbedder(), out=out)


def share(results: Results, label: str, column: str, at: Condition | None = None) -> float:
    method, zero, ceiling = (
        results.sums(name, at).columns[column].sum() for name in (label, "text-only", "known-basis")
    )
    return float((method - zero) / (ceiling - zero))


def test_the_share_is_measured_between_text_only_and_known_basis(benchmark_: Benchmark) -> None:
    results = run(benchmark_)
    for label in ("longest", "pooled-bt", "population-best", "oracle"):
        assert results.estimate(label, "ps").value == pytest.approx(share(results, label, "utility"), abs=1e-5)
    for label, value in (("text-only", 0.0), ("known-basis", 1.0)):
        estimate = results.estimate(label, "ps")
        assert (estimate.value, estimate.low, estimate.high) == pytest.approx((value, value, value), abs=1e-6)
    best = max(results.estimate(row.label, "utility").value for row in results.methods if row.kind != "oracle")
    assert best < results.estimate("known-basis", "utility").value < results.estimate("oracle", "utility").value
    some = results.estimate("pooled-bt", "ps")
    assert some.low < some.value < some.high
    assert [metric.id for metric in results.metrics][:2] == ["ps", "utility"]
    assert "ps" in results.table()["metric"].to_pylist()


def test_more_preferences_raise_the_ceiling_and_none_has_no_share(benchmark_: Benchmark) -> None:
    results = run(benchmark_, **PREDICT)
    accuracies = [estimate.value for estimate in results.curve("known-basis", "accuracy").values()]
    assert accuracies == sorted(accuracies)
    assert accuracies[2] > accuracies[0]
    assert len({estimate.value for estimate in results.curve("text-only", "accuracy").values()}) == 1
    none, first, _ = results.curve("longest", "ps").values()
    assert math.isnan(none.value)
    assert math.isfinite(first.value)
    truth, flipped = (Condition("unseen", "unseen", history, 4) for history in ("true", "flipped"))
    change = share(results, "longest", "correct", truth)
    assert results.estimate("longest", "ps", flipped).value == pytest.approx(change)  # longest ignores the history
    assert flipped not in results["known-basis"].estimates


def test_text_only_is_chosen_without_the_prompts_that_are_evaluated(benchmark_: Benchmark) -> None:
    found = run(benchmark_).manifest["anchors"]["text-only"]["params"]
    assert set(found["held_out"]) == {"longest", "pooled-ranker", "pooled-bt", "pooled-text"}
    assert found["method"]["id"] == max(found["held_out"], key=found["held_out"].get)
    scores = np.array(benchmark_.scores)
    scores[benchmark_.rows("test")] = scores[benchmark_.rows("test")][:, ::-1]
    other = Benchmark.from_arrays(
        name=benchmark_.name,
        prompt_ids=benchmark_.prompt_ids.to_pylist(),
        prompts=benchmark_.prompts.to_pylist(),
        subsets=["s"] * benchmark_.n_prompts,
        splits=["train"] * len(benchmark_.rows("train")) + ["test"] * len(benchmark_.rows("test")),
        responses=[[benchmark_.response(p, j) for j in range(5)] for p in range(benchmark_.n_prompts)],
        response_models=list(benchmark_.response_models),
        reward_models=benchmark_.reward_models,
        scores=scores,
    )
    assert run(other).manifest["anchors"]["text-only"]["params"] == found


def test_without_an_embedder_text_only_is_what_needs_none(benchmark_: Benchmark) -> None:
    results = evaluate("longest", benchmark_, protocol=SMALL)
    assert results.manifest["anchors"]["text-only"]["params"]["method"]["id"] == "longest"
    assert results.estimate("longest", "ps").value == 0.0


def test_both_are_computed_once_for_a_run(
    benchmark_: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(benchmark_, out=tmp_path)

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("it is computed again")

    monkeypatch.setattr(KnownBasis, "posterior", never)
    monkeypatch.setattr(TextOnly, "_fitted", never)
    again = run(benchmark_, ("random",), out=tmp_path)
    for label in ("text-only", "known-basis"):
        assert again[label].estimates == first[label].estimates
    assert math.isfinite(again.estimate("random", "ps").value)
    assert load_run(tmp_path).manifest["anchors"] == first.manifest["anchors"]


def test_in_a_counterfactual_the_ceiling_stays_that_of_the_truth(benchmark_: Benchmark) -> None:
    truth, flipped = run(benchmark_), run(benchmark_, counterfactual="flipped")
    ceilings = [results.estimate("known-basis", "utility").value for results in (truth, flipped)]
    assert ceilings[0] == ceilings[1]


def test_every_population_has_a_ceiling(benchmark_: Benchmark) -> None:
    alone = run(benchmark_, population={"kind": "one-per-reward-model"}, n_users=None)
    assert alone.estimate("known-basis", "gain").value > 0.5
    alike = run(benchmark_, population={"kind": "uniform"}, n_users=None)
    assert alike.estimate("known-basis", "gain").value != alike.estimate("known-basis", "gain").value  # no room
    noisy = run(benchmark_, feedback={"pairs": "random", "temperature": 0.5, "flip": 0.1})
    assert noisy.estimate("known-basis", "utility").value < run(benchmark_).estimate("known-basis", "utility").value


def test_people_have_no_share(tmp_path: Path) -> None:
    rows = [
        {"user": f"u{u}", "prompt": f"p{p}", "chosen": f"yes {p} {u % 2}", "rejected": f"no {p} {u % 2}"}
        for u in range(8)
        for p in range(9)
    ]
    results = evaluate("longest", Preferences.from_rows(rows), protocol={"shots": (0, 2)}, out=tmp_path)
    assert math.isnan(results.estimate("longest", "ps").value)
    assert "text-only" not in [row.label for row in results.methods]
    table = results.table().filter([metric == "ps" for metric in results.table()["metric"].to_pylist()])
    assert table["value"].null_count == len(table)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": "random"}, "has no list of keys as its order"),
        ({"order": [1]}, "has no list of keys as its order"),
        ({"fingerprint": "0"}, "is of another run or another format"),
        ({"format": 1}, "is of another run or another format"),
    ],
)
def test_an_order_that_was_altered_is_named_and_mended_by_the_next_run(
    benchmark_: Benchmark, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    protocol = Protocol.for_benchmark(benchmark_, **SMALL)
    evaluate("random", benchmark_, protocol=protocol, out=tmp_path)
    (path,) = tmp_path.glob("*/leaderboard.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=f"leaderboard.json {message}"):
        load_run(tmp_path)
    evaluate("random", benchmark_, protocol=protocol, out=tmp_path)
    assert load_run(tmp_path)["random"].label == "random"


def test_no_method_may_have_their_names(benchmark_: Benchmark) -> None:
    with pytest.raises(UserError, match="known-bsis"):
        evaluate("known-bsis", benchmark_, protocol=SMALL)
    assert "known-basis" in [
        row.label for row in evaluate(["known-basis", "random"], benchmark_, protocol=SMALL).methods
    ]
