"""Named protocols: their values, what is said of a change, and that the name itself changes no number."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from personalllm.core.errors import ParameterError, UnknownName, UserError
from personalllm.core.storage import digest
from personalllm.data import Benchmark, make_synthetic
from personalllm.evaluation import (
    PRESETS,
    Preset,
    Protocol,
    evaluate,
    get_preset,
    list_presets,
    load_run,
    load_track,
    presets,
    resolve,
)
from personalllm.evaluation.settings import flatten
from personalllm.evaluation.sources.simulated import Simulated

SMALL: dict[str, Any] = {
    "n_users": 6,
    "pool_users": 5,
    "pool_pairs": 24,
    "max_tokens": 6,
    "intervals": "users",
    "bootstrap_draws": 100,
}

PINNED = {
    "paper-icl-v1": "df423bb6420d1440",
    "paper-meta-v1": "141b74d927f3bef9",
    "paper-meta-logged-v1": "377bf797f4d92ede",
}


PREDICT = ("copl-v1", "dong8-v1", "lore-v1", "pttt-v1")
PINNED_PREDICT = {
    "copl-v1": "9f5d0a5f4cc21abf",
    "dong8-v1": "7380c1efd48722a6",
    "lore-v1": "64cd6c80e173ae00",
    "pttt-v1": "fa128c495ab3053f",
}


@pytest.fixture(scope="module")
def synthetic() -> Benchmark:
    return make_synthetic(80, seed=0)


@pytest.fixture(scope="module")
def large_synthetic() -> Benchmark:
    """Large enough for every preset of the predict track as it stands."""
    return make_synthetic(1100, seed=0)


def test_the_papers_values(synthetic: Benchmark) -> None:
    protocol = get_preset("paper-icl").protocol_for(synthetic)
    expected = {
        "track": "generate",
        "population.alpha": 0.05,
        "population.n_users": 1000,
        "prompts_per_user": 1,
        "history.pairs": 5,
        "history.nearest": 5,
        "history.counterfactual": "none",
        "pool.n_users": 10_000,
        "pool.pairs_per_user": 50,
        "feedback.pairs": "best-vs-worst",
        "generation.max_tokens": 512,
        "generation.temperature": 0.0,
        "reference_response_model": "openai/gpt-4o",
        "preset": "paper-icl-v1",
    }
    found = flatten(protocol.spec())
    assert {name: found[name] for name in expected} == expected


def test_the_papers_methods() -> None:
    entries, _ = resolve(get_preset("paper-icl").methods, load_track("generate"))
    assert len(entries) == 16
    shown = {
        (e.method.id, e.method.params()["n_shots"], e.method.params()["feedback"])
        for e in entries
        if e.method.id != "zero-shot"
    }
    modes = ("winning", "losing", "winning-and-losing", "losing-as-winning")
    assert shown == {("icl", shots, mode) for shots in (1, 3, 5) for mode in modes} | {
        ("self-icl", shots, "winning") for shots in (1, 3, 5)
    }
    assert {e.method.params().get("max_history_tokens", 7000) for e in entries} == {7000}
    for name, n_similar, pairs in (("paper-meta", 20, 50), ("paper-meta-logged", 5, 5)):
        entries, _ = resolve(get_preset(name).methods, load_track("generate"))
        meta = [e.method.params() for e in entries if e.method.id == "meta-icl"]
        assert {params["embedding"] for params in meta} == {"winning", "losing", "winning-minus-losing"}
        used = {(p["n_shots"], p["n_similar"], p["embedding_pairs"], p["feedback"]) for p in meta}
        assert used == {(3, n_similar, pairs, "winning")}


def test_a_version_never_changes() -> None:
    """If this fails: make a new version, and leave the old one as it is."""
    content = {
        name: digest({"protocol": PRESETS[name].protocol, "algorithms": PRESETS[name].methods}) for name in PRESETS
    }
    assert content == PINNED | PINNED_PREDICT


def test_the_logged_settings_are_those_of_the_printed_numbers(synthetic: Benchmark) -> None:
    logged, text = (get_preset(name).protocol_for(synthetic) for name in ("paper-meta-logged", "paper-meta"))
    assert (logged.pool.n_users, text.pool.n_users) == (1000, 10_000)
    assert get_preset("paper-meta").changes(logged) == {"pool.n_users": (10_000, 1000)}


@pytest.mark.parametrize("name", list_presets())
def test_a_preset_fixes_every_field(synthetic: Benchmark, large_synthetic: Benchmark, name: str) -> None:
    preset = get_preset(name)
    protocol = preset.protocol_for(large_synthetic if name in PREDICT else synthetic)
    assert preset.changes(protocol) == {}
    bound = {"metrics_version", "benchmark", "benchmark_fingerprint", "preset", "embedder", "llm", "rewards"}
    bound |= {"reference_response_model"} if name in PREDICT else set()
    assert set(flatten(preset.protocol)) == set(flatten(protocol.spec())) - bound
    entries, references = resolve(preset.methods, load_track(preset.protocol["track"]))
    assert len(entries) == len(preset.methods)
    assert not references
    assert protocol.track == ("predict" if name in PREDICT else "generate")


OTHERS: list[tuple[str, dict[str, Any]]] = [
    (
        "lore",
        {
            "population.alpha": 0.1,
            "population.n_users": 500,
            "pool.n_users": 1000,
            "pool.pairs_per_user": 47,
            "prediction.shots": [0, 9, 47],
            "prediction.n_seen_users": 1000,
            "prediction.test_pairs": None,
            "feedback.pairs": "best-vs-worst",
        },
    ),
    (
        "copl",
        {
            "population.alpha": 0.1,
            "pool.n_users": 10_000,
            "pool.pairs_per_user": 16,
            "prediction.shots": [0, 16],
            "prediction.test_pairs": 100,
            "feedback.pairs": "contested",
        },
    ),
    ("dong8", {"population.kind": "one-per-reward-model", "population.n_users": 10, "prediction.test_pairs": None}),
    (
        "pttt",
        {
            "pool.n_users": 100,
            "prediction.n_seen_users": 100,
            "population.n_users": 100,
            "prediction.shots": [0, 4],
            "prediction.users": ["unseen", "seen"],
        },
    ),
]


@pytest.mark.parametrize(("name", "expected"), OTHERS)
def test_the_values_of_the_literature(large_synthetic: Benchmark, name: str, expected: dict[str, Any]) -> None:
    preset = get_preset(name)
    found = flatten(preset.protocol_for(large_synthetic).spec())
    assert {field: found[field] for field in expected} == expected
    assert found["prediction.prompts"] == ["unseen"]
    assert found["prediction.outcome"] == "utility"
    assert not found["prediction.reward_signals"]
    for word in ("Known:", "Not known"):
        assert word in preset.description


def test_the_reference_response_model_is_no_change_where_no_metric_has_one(large_synthetic: Benchmark) -> None:
    other = large_synthetic.response_models[3]
    predict = get_preset("pttt")
    assert predict.changes(predict.protocol_for(large_synthetic, reference_response_model=other)) == {}
    assert predict.changes(predict.protocol_for(large_synthetic, alpha=0.1)) == {"population.alpha": (0.05, 0.1)}


def test_the_pool_of_dong8_has_users_of_nearly_one_reward_model(large_synthetic: Benchmark) -> None:
    task = Simulated(get_preset("dong8").protocol_for(large_synthetic), large_synthetic)
    assert (task.full_population.weights.max(axis=1) == 1).all()
    strongest = task.pool_population.weights.max(axis=1)
    assert (strongest > 0.95).mean() > 0.9
    assert len(set(task.pool_population.weights.argmax(axis=1).tolist())) == len(large_synthetic.reward_models)


TOO_SMALL: list[tuple[str, int, dict[str, Any], str, str]] = [
    ("copl", 80, {}, "prediction.test_pairs", "8"),
    ("dong8", 40, {"pool_pairs": 5}, "prediction.shots", "[0, 1, 2, 4, 8, 16, 32]"),
    ("lore", 40, {}, "pool.pairs_per_user", "36"),
    ("lore", 40, {"pool_pairs": 20}, "prediction.shots", "[0, 9]"),
    ("pttt", 80, {}, "prediction.test_pairs", "8"),
]


@pytest.mark.parametrize(("name", "n_prompts", "overrides", "field", "fitting"), TOO_SMALL)
def test_a_benchmark_that_is_too_small_is_told_what_fits(
    name: str, n_prompts: int, overrides: dict[str, Any], field: str, fitting: str
) -> None:
    with pytest.raises(UserError) as raised:
        get_preset(name).protocol_for(make_synthetic(n_prompts, seed=0), **overrides)
    assert raised.value.message.startswith(f"The preset {name}-v1 has {field} = ")
    assert f"--set {field}={fitting} " in raised.value.remedy


CHANGES: list[tuple[dict[str, Any], dict[str, tuple[Any, Any]]]] = [
    ({"alpha": 0.1}, {"population.alpha": (0.05, 0.1)}),
    ({"population": {"alpha": 0.1}}, {"population.alpha": (0.05, 0.1)}),
    ({"limit": 20}, {"limit": (None, 20)}),
    ({"limit": 1000}, {}),
    ({"n_users": 1000}, {}),
    ({"counterfactual": "flipped"}, {"history.counterfactual": ("none", "flipped")}),
    ({"seed": 4}, {"population.seed": (0, 4), "pool.seed": (0, 4), "seed": (0, 4)}),
    ({"feedback": {"flip": 0.1}}, {"feedback.flip": (0.0, 0.1)}),
    ({"users_per_shard": 7}, {"users_per_shard": (200, 7)}),
    (
        {"reference_response_model": "openai/gpt-4-turbo"},
        {"reference_response_model": ("openai/gpt-4o", "openai/gpt-4-turbo")},
    ),
]


@pytest.mark.parametrize(("overrides", "changes"), CHANGES, ids=lambda value: str(value)[:60])
def test_whatever_is_overridden_is_said(
    synthetic: Benchmark, overrides: dict[str, Any], changes: dict[str, tuple[Any, Any]]
) -> None:
    preset = get_preset("paper-icl")
    protocol = preset.protocol_for(synthetic, **overrides)
    assert preset.changes(protocol) == changes
    assert protocol.preset == "paper-icl-v1"
    same = protocol.fingerprint == preset.protocol_for(synthetic).fingerprint
    assert same is (not changes)


def test_the_rank_track_drops_the_generation_knobs(synthetic: Benchmark) -> None:
    preset = get_preset("paper-icl")
    protocol = preset.protocol_for(synthetic, track="rank")
    assert (protocol.options, protocol.prompts_per_user) == (None, 1)
    changed = preset.changes(protocol)
    assert changed["track"] == ("generate", "rank")
    assert changed["generation.max_tokens"] == (512, None)


def test_the_name_is_not_part_of_the_fingerprint(synthetic: Benchmark) -> None:
    named = get_preset("paper-icl").protocol_for(synthetic)
    by_hand = Protocol.for_benchmark(
        synthetic,
        track="generate",
        n_users=1000,
        alpha=0.05,
        pool_users=10_000,
        pool_pairs=50,
        max_tokens=512,
        reference_response_model="openai/gpt-4o",
    )
    assert by_hand.preset is None
    assert by_hand.fingerprint == named.fingerprint
    assert get_preset("paper-icl").changes(by_hand) == {}
    assert Protocol.from_spec(json.loads(json.dumps(named.spec()))) == named


def test_another_reference_counts_as_a_change(make_benchmark: Callable[..., Benchmark]) -> None:
    benchmark = make_benchmark(reference_response_model="beta-2")
    preset = get_preset("paper-icl")
    protocol = preset.protocol_for(benchmark, pool_pairs=24)
    assert protocol.reference_response_model == "beta-2"
    assert preset.changes(protocol) == {
        "pool.pairs_per_user": (50, 24),
        "reference_response_model": ("openai/gpt-4o", "beta-2"),
    }


def test_a_benchmark_that_is_too_small_is_told_the_override(make_benchmark: Callable[..., Benchmark]) -> None:
    preset = get_preset("paper-icl")
    message = r"paper-icl-v1 has pool.pairs_per_user = 50, but the train split .* 24 prompts.*"
    with pytest.raises(UserError, match=message + r"--set pool.pairs_per_user=24 .*pool={'pairs_per_user': 24}"):
        preset.protocol_for(make_benchmark())
    with pytest.raises(UserError, match=r"history.pairs = 5, but .*--set history.pairs=4 "):
        preset.protocol_for(make_benchmark(n_train=4), pool_pairs=4)
    with pytest.raises(UserError, match=r"history.nearest = 5, but .*--set history.nearest=4 "):
        preset.protocol_for(make_benchmark(n_train=4), pool_pairs=4, pairs=4)
    with pytest.raises(ParameterError, match=r"pool_pairs must be at most .*\(24\), got 60"):
        preset.protocol_for(make_benchmark(), pool_pairs=60)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"alhpa": 1}, r"alhpa must be a field of the protocol \(alpha, "),
    ({"population": {"alhpa": 1}}, r"population.alhpa must be .*\(population.kind, population.alpha"),
    ({"population": 3}, "population must be a mapping of its fields, got 3"),
    ({"counterfactual": "other"}, r"history.counterfactual must be 'none', 'other-user', 'flipped' or 'shuffled'"),
    ({"self": 1}, "self must be a field of the protocol"),
    ({"cls": 1}, "cls must be a field of the protocol"),
]


@pytest.mark.parametrize(("overrides", "message"), BAD, ids=str)
def test_bad_overrides_are_named(synthetic: Benchmark, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        get_preset("paper-icl").protocol_for(synthetic, **overrides)


def test_a_bare_name_is_the_newest_version(monkeypatch: pytest.MonkeyPatch) -> None:
    for version in (2, 10):
        one = PRESETS["paper-icl-v1"]
        newer = Preset(f"paper-icl-v{version}", one.title, one.description, one.source, one.protocol, one.methods)
        monkeypatch.setitem(presets.PRESETS, newer.id, newer)
    assert get_preset("paper-icl").id == "paper-icl-v10"
    assert get_preset("paper-icl-v1").id == "paper-icl-v1"
    assert get_preset("paper-meta").id == "paper-meta-v1"
    with pytest.raises(UnknownName, match=r"no preset named 'paper-cil'.*'paper-icl'"):
        get_preset("paper-cil")


def test_a_result_says_what_was_changed(benchmark_: Benchmark, standins: Any, tmp_path: Path) -> None:
    protocol = get_preset("paper-icl").protocol_for(benchmark_, **SMALL)
    results = evaluate(["zero-shot", "icl[n_shots=2]"], benchmark_, protocol=protocol, out=tmp_path, **standins)
    said = results.preset
    assert said.startswith("paper-icl-v1, changed: population.n_users 1000 -> 6, pool.n_users 10000 -> 5, ")
    assert "generation.max_tokens 512 -> 6" in said
    assert "reference_response_model openai/gpt-4o -> " in said
    assert said.endswith(": not comparable with the preset's numbers; beside the preset's own methods: icl[n_shots=2]")
    assert said in str(results)
    assert load_run(tmp_path).preset == said
    assert results.manifest["presets"][0]["changes"][0] == ["population.n_users", 1000, 6]
    by_hand = protocol.model_copy(update={"preset": None})
    again = evaluate(["zero-shot"], benchmark_, protocol=by_hand, out=tmp_path, **standins)
    assert again.fingerprint == results.fingerprint
    assert load_run(tmp_path).preset == said
    meta = get_preset("paper-meta").protocol_for(benchmark_, **SMALL)
    both = evaluate(["zero-shot"], benchmark_, protocol=meta, out=tmp_path, **standins).preset
    assert both.startswith("paper-meta-v1, changed: ")
    assert "; paper-icl-v1, changed: " in both
    assert "beside" not in both


def test_an_unchanged_preset_says_only_its_name(benchmark_: Benchmark, standins: Any, monkeypatch: Any) -> None:
    one = PRESETS["paper-icl-v1"]
    fields = Protocol.for_benchmark(benchmark_, track="generate", **SMALL).spec()
    own = {name: value for name, value in fields.items() if name in one.protocol}
    monkeypatch.setitem(presets.PRESETS, "tiny-v1", Preset("tiny-v1", "", "", "", own, ("zero-shot",)))
    protocol = get_preset("tiny").protocol_for(benchmark_)
    assert evaluate(["zero-shot"], benchmark_, protocol=protocol, **standins).preset == "tiny-v1"
    plain = Protocol.for_benchmark(benchmark_, track="generate", **SMALL)
    results = evaluate(["zero-shot"], benchmark_, protocol=plain, **standins)
    assert results.preset == ""
    assert "preset" not in str(results)


def test_a_protocol_changes_field_by_field(benchmark_: Benchmark) -> None:
    protocol = get_preset("paper-icl").protocol_for(benchmark_, **SMALL).bind(embedder="e")
    changed = protocol.changed(benchmark_, population={"alpha": 0.2}, counterfactual="shuffled")
    assert (changed.population.alpha, changed.population.n_users, changed.embedder) == (0.2, 6, "e")
    assert changed.history == protocol.history.model_copy(update={"counterfactual": "shuffled"})
    assert changed.preset == protocol.preset
    assert protocol.changed(benchmark_) == protocol
    assert protocol.changed(benchmark_, population={"kind": "uniform"}).population.n_users == 1
    with pytest.raises(ParameterError, match=r"population\.alpha"):
        protocol.changed(benchmark_, alpha=-1)


def test_lore_and_copl_add_up_raw_scores(large_synthetic: Benchmark) -> None:
    for name in ("lore", "copl"):
        task = Simulated(get_preset(name).protocol_for(large_synthetic), large_synthetic)
        assert np.array_equal(task.table.values, large_synthetic.scores)


@pytest.mark.parametrize(("name", "track"), [("lore", "rank"), ("pttt", "generate"), ("paper-icl", "predict")])
def test_a_preset_of_the_predict_track_is_of_no_other(synthetic: Benchmark, name: str, track: str) -> None:
    with pytest.raises(UserError, match=f"mean nothing in the {track} track"):
        get_preset(name).protocol_for(synthetic, track=track)
