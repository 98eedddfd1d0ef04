"""Named protocols: their values, what is said of a change, and that the name itself changes no number."""

from __future__ import annotations

import dataclasses
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
from personalllm.evaluation.measures import margins
from personalllm.evaluation.settings import flatten
from personalllm.evaluation.sources.pairs import Pairs
from personalllm.evaluation.sources.simulated import Simulated
from personalllm.methods import get_method
from personalllm.testing import HashEmbedder

SMALL: dict[str, Any] = {
    "n_users": 6,
    "pool_users": 5,
    "pool_pairs": 24,
    "max_tokens": 6,
    "intervals": "users",
    "bootstrap_draws": 100,
}

PINNED = {
    "paper-icl-v1": "722d6e046ef7cc6a",
    "paper-meta-logged-v1": "b5afc812aad6d663",
    "paper-meta-v1": "b488de010893bcbe",
}


PREDICT = ("copl-v2", "dong8-v2", "lore-v1", "pttt-v2")
PINNED_PREDICT = {
    "copl-v2": "b8958aeea278783a",
    "dong8-v2": "687e1ffb8b3f7f63",
    "lore-v1": "62175ee9ecf546d4",
    "pttt-v2": "c30476275e1787dc",
}
PINNED_ONLINE = {"online-v1": "296944759df1cc5f"}
LARGE = (*PREDICT, *PINNED_ONLINE)


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
    assert content == PINNED | PINNED_PREDICT | PINNED_ONLINE


def test_the_logged_settings_are_those_of_the_printed_numbers(synthetic: Benchmark) -> None:
    logged, text = (get_preset(name).protocol_for(synthetic) for name in ("paper-meta-logged", "paper-meta"))
    assert (logged.pool.n_users, text.pool.n_users) == (1000, 10_000)
    assert get_preset("paper-meta").changes(logged) == {"pool.n_users": (10_000, 1000)}


@pytest.mark.parametrize("name", list_presets())
def test_a_preset_fixes_every_field(synthetic: Benchmark, large_synthetic: Benchmark, name: str) -> None:
    preset = get_preset(name)
    protocol = preset.protocol_for(large_synthetic if name in LARGE else synthetic)
    # of the four pairs of all prompts there are fewer
    sized = {"pool.pairs_per_user", "history.pairs", "prediction.shots"} if name == "dong8-v2" else set()
    assert set(preset.changes(protocol)) == sized
    bound = {"metrics_version", "benchmark", "benchmark_fingerprint", "preset", "embedder", "llm", "rewards"}
    bound |= {"reference_response_model"} if name in LARGE else set()
    assert set(flatten(preset.protocol)) == set(flatten(protocol.spec())) - bound
    entries, references = resolve(preset.methods, load_track(preset.protocol["track"]))
    assert len(entries) == len(preset.methods)
    assert not references
    assert protocol.track == {**dict.fromkeys(PREDICT, "predict"), "online-v1": "online"}.get(name, "generate")


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
            "population.reward_models": ["gemma_7b", "llama3_sfairx", "mistral_weqweasdas", "oasst_deberta_v3"],
            "pool.n_users": 10_000,
            "pool.pairs_per_user": 15,
            "prediction.shots": [0, 15],
            "prediction.test_pairs": 100,
            "feedback.pairs": "disputed",
            "feedback.responses": [4, 5, 6],
            "standardiser": "none",
        },
    ),
    (
        "dong8",
        {
            "population.kind": "one-per-reward-model",
            "population.n_users": 8,
            "pool.users": "population",
            "feedback.pairs_per_prompt": 4,
            "prediction.users": ["seen"],
            "prediction.test_pairs": None,
        },
    ),
    (
        "pttt",
        {
            "pool.n_users": 100,
            "pool.pairs_per_user": 100,
            "prediction.n_seen_users": 100,
            "population.n_users": 20,
            "prediction.shots": [0, 4],
            "prediction.survey": 100,
            "prediction.users": ["unseen", "seen", "both"],
            "feedback.pairs": "contested",
            "feedback.pairs_per_prompt": 1,
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


def test_the_users_of_dong8_are_its_pool_and_answer_the_same_pairs(large_synthetic: Benchmark) -> None:
    protocol = get_preset("dong8").protocol_for(large_synthetic)
    pairs = Pairs(Simulated(protocol, large_synthetic), protocol.options)
    (group,), pool = pairs.groups.values(), pairs.source.pool
    assert np.array_equal(group.population.weights, np.eye(8))
    assert np.array_equal(group.histories["true"].chosen, pool.chosen)
    compared = np.sort(np.stack([pool.chosen, pool.rejected], axis=1), axis=1)
    asked = [{*zip(pool.prompt[pool.user == u], *compared[pool.user == u].T, strict=True)} for u in range(8)]
    assert all(of_user == asked[0] for of_user in asked)
    assert len(asked[0]) == len(pool) / 8 == 4 * len(large_synthetic.rows("train"))
    assert len(group.tests["unseen"]) == 8 * 4 * len(large_synthetic.rows("test"))


def test_new_users_of_dong8_are_those_whom_the_pool_lacks(large_synthetic: Benchmark) -> None:
    settings = {"n_users": 6}, {"users": ["unseen", "seen"], "n_seen_users": 6, "shots": [0, 20]}
    protocol = get_preset("dong8").protocol_for(large_synthetic, pool=settings[0], prediction=settings[1])
    pairs = Pairs(Simulated(protocol, large_synthetic), protocol.options)
    assert np.array_equal(pairs.groups["unseen"].population.weights, np.eye(8)[6:])
    assert np.array_equal(pairs.groups["seen"].population.weights, np.eye(8)[:6])
    with pytest.raises(ParameterError, match=r"prediction\.users must be seen where all are in the pool"):
        get_preset("dong8").protocol_for(large_synthetic, prediction={"users": "unseen"})


def test_the_survey_of_pttt_is_shared_and_never_predicted(large_synthetic: Benchmark) -> None:
    protocol = get_preset("pttt").protocol_for(large_synthetic)
    pairs = Pairs(Simulated(protocol, large_synthetic), protocol.options)
    survey = set(pairs.source.survey.tolist())
    assert len(survey) == 100
    assert not survey & set(pairs.source.pool.prompt.tolist())
    assert np.bincount(pairs.source.pool.user).tolist() == [100] * 100
    sizes = {"unseen": (20, 1000), "seen": (100, 1000), "both": (120, 2000)}
    for kind, group in pairs.groups.items():
        history = group.histories["true"]
        assert set(history.prompt.tolist()) <= survey
        assert np.bincount(history.user).tolist() == [4] * group.n_users
        assert not survey & set(group.tests["unseen"].prompt.tolist())
        assert (group.n_users, len(group.tests["unseen"])) == sizes[kind]
    both, tests = pairs.groups["both"], pairs.groups["both"].tests["unseen"]
    for start, kind in ((0, "unseen"), (20, "seen")):
        group = pairs.groups[kind]
        part = tests.of_users(start, start + group.n_users)
        assert np.array_equal(part.chosen, group.tests["unseen"].chosen)
        assert np.array_equal(part.user - start, group.tests["unseen"].user)
        assert np.array_equal(both.population.weights[start : start + group.n_users], group.population.weights)
        of_kind = both.histories["flipped"].of_users(start, start + group.n_users)
        assert np.array_equal(of_kind.chosen, group.histories["flipped"].chosen)


def test_a_pooled_model_is_at_chance_in_pttt(large_synthetic: Benchmark) -> None:
    protocol = get_preset("pttt").protocol_for(large_synthetic)
    pairs = Pairs(Simulated(protocol, large_synthetic), protocol.options)
    method = get_method("pooled-bt").bind(embedder=HashEmbedder()).fit(pairs.source.pool)
    group = pairs.groups["both"]
    tests, method = group.tests["unseen"], method.adapt(group.histories["true"])
    preference = pairs.by_response(tests, method.utilities(pairs.queries(tests, 0, group.n_users)))
    right = margins(preference, tests.chosen, tests.rejected) > 0
    assert len(right) == 2000
    assert 0.47 <= right.mean() <= 0.53


def test_the_pairs_of_copl_are_those_that_four_reward_models_dispute(large_synthetic: Benchmark) -> None:
    protocol = get_preset("copl").protocol_for(large_synthetic, pool_users=40, n_users=30, seen_users=30)
    pairs = Pairs(Simulated(protocol, large_synthetic), protocol.options)
    columns = [large_synthetic.reward_models.index(name) for name in protocol.population.reward_models]
    raw = large_synthetic.scores[:, :, columns]
    assert np.array_equal(pairs.source.table.values, raw)
    for group in pairs.groups.values():
        tests = group.tests["unseen"]
        assert np.bincount(tests.user).tolist() == [100] * 30
        assert {*tests.chosen.tolist(), *tests.rejected.tolist()} == {4, 5, 6}
        ahead = raw[tests.prompt, tests.chosen] > raw[tests.prompt, tests.rejected]
        assert (ahead.any(axis=1) & ~ahead.all(axis=1)).all()
    assert np.bincount(pairs.source.pool.user).tolist() == [15] * 40


FITTED: list[tuple[str, int, dict[str, Any], dict[str, tuple[Any, Any]]]] = [
    (
        "lore",
        40,
        {},
        {"pool.pairs_per_user": (47, 36), "history.pairs": (47, 36), "prediction.shots": ([0, 9, 47], [0, 9, 36])},
    ),
    (
        "pttt",
        80,
        {},
        {
            "prediction.survey": (100, 36),
            "pool.pairs_per_user": (100, 36),
            "prediction.test_pairs": (50, 8),
            "prediction.seen_test_pairs": (10, 8),
        },
    ),
]


@pytest.mark.parametrize(("name", "n_prompts", "overrides", "changes"), FITTED)
def test_a_preset_fits_itself_to_a_small_benchmark_and_says_so(
    name: str, n_prompts: int, overrides: dict[str, Any], changes: dict[str, tuple[Any, Any]]
) -> None:
    small, preset = make_synthetic(n_prompts, seed=0), get_preset(name)
    protocol = preset.protocol_for(small, **overrides)
    assert preset.changes(protocol) == changes
    Pairs(Simulated(protocol, small), protocol.options).groups  # noqa: B018


def test_reward_models_that_a_benchmark_lacks_are_replaced_by_its_own(large_synthetic: Benchmark) -> None:
    renamed = dataclasses.replace(large_synthetic, reward_models=("gemma_7b", *(f"other-{i}" for i in range(9))))
    preset = get_preset("copl")
    protocol = preset.protocol_for(renamed)
    assert protocol.population.reward_models == ("gemma_7b", "other-0", "other-1", "other-2")
    assert preset.changes(protocol)["population.reward_models"][1] == [*protocol.population.reward_models]
    with pytest.raises(UnknownName, match="no reward model named 'other-x'"):
        preset.protocol_for(renamed, population={"reward_models": ["gemma_7b", "other-x"]})


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


def test_a_small_benchmark_gets_what_fits_and_no_more_than_it_has(make_benchmark: Callable[..., Benchmark]) -> None:
    preset = get_preset("paper-icl")
    protocol = preset.protocol_for(make_benchmark(n_train=4))
    assert (protocol.pool.pairs_per_user, protocol.history.pairs, protocol.history.nearest) == (4, 4, 4)
    assert preset.changes(protocol)["history.nearest"] == (5, 4)
    with pytest.raises(ParameterError, match=r"pool_pairs must be at most .*\(24\), got 60"):
        preset.protocol_for(make_benchmark(), pool_pairs=60)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"alhpa": 1}, r"alhpa must be a field of the protocol \(did you mean alpha"),
    ({"population": {"alhpa": 1}}, r"population.alhpa must be .*\(did you mean population.alpha"),
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


def test_lore_adds_up_raw_scores(large_synthetic: Benchmark) -> None:
    task = Simulated(get_preset("lore").protocol_for(large_synthetic), large_synthetic)
    assert np.array_equal(task.table.values, large_synthetic.scores)


@pytest.mark.parametrize(("name", "track"), [("lore", "rank"), ("pttt", "generate"), ("paper-icl", "predict")])
def test_a_preset_of_the_predict_track_is_of_no_other(synthetic: Benchmark, name: str, track: str) -> None:
    with pytest.raises(UserError, match=f"mean nothing in the {track} track"):
        get_preset(name).protocol_for(synthetic, track=track)
