from __future__ import annotations

import itertools
import shlex
from collections.abc import Callable
from typing import Any

import pytest

from personalllm.evaluation import Protocol
from personalllm.evaluation.results import Results
from personalllm.evaluation.settings import nest, parse_setting
from personalllm.report.replay import command, side_by_side


def settings(words: list[str]) -> list[str]:
    return [value for name, value in itertools.pairwise(words) if name == "--set"]


def test_methods_data_and_backends(make_results: Callable[..., Results]) -> None:
    words = shlex.split(command(make_results("generate", 16)))
    assert words[:6] == ["personalllm", "evaluate", "zero-shot", "icl[n_shots=3]", "icl[n_shots=1]", "meta-icl"]
    options = dict(zip(words[6::2], words[7::2], strict=True))
    options.pop("--set")
    assert options == {
        "--track": "generate",
        "--data": "mini",
        "--embedder": "minilm-l6-int8",
        "--llm": "smol",
        "--out": "runs",
    }
    assert "limit=16" in words
    assert "generation.max_tokens=96" in words


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"seed": 1}, ["population.seed=0", "pool.seed=0", "seed=1"]),
        (
            {"population": {"kind": "dirichlet", "alpha": [0.1, 0.2], "n_users": 1000, "seed": 0}},
            ["population.alpha=[0.1, 0.2]"],
        ),
        ({"feedback": {"pairs": "random"}}, ["feedback.pairs=random"]),
        ({"split": "validation"}, ["split=validation"]),
        ({"history": {"pairs": 5, "nearest": 5, "counterfactual": "flipped"}}, ["history.counterfactual=flipped"]),
    ],
)
def test_what_is_no_default_is_set(
    change: dict[str, Any], expected: list[str], make_results: Callable[..., Results]
) -> None:
    results = make_results("rank", 5)
    results.protocol.update(
        {"intervals": "users and prompts", "bootstrap_draws": 2000, "reference_response_model": None} | change
    )
    assert settings(shlex.split(command(results))) == expected


def test_the_settings_make_the_same_protocol(predicted: Results) -> None:
    spec = predicted.protocol | {"history": {"pairs": 64, "nearest": 0, "counterfactual": "none"}}
    protocol = Protocol.from_spec(spec)
    results = Results(**(vars(predicted) | {"protocol": protocol.spec()}))
    given = nest(dict(parse_setting(text) for text in settings(shlex.split(command(results)))))
    named = {name: spec[name] for name in ("track", "benchmark", "benchmark_fingerprint", "embedder", "history")}
    assert Protocol.from_spec(named | given).fingerprint == protocol.fingerprint


def test_a_run_on_people_leaves_room_for_their_file(predicted: Results) -> None:
    named = {name: predicted.protocol[name] for name in ("track", "benchmark", "benchmark_fingerprint")}
    protocol = Protocol.from_spec(named | {"folds": {"user_folds": 3}, "prediction": {"shots": [0, 4]}})
    words = shlex.split(command(Results(**(vars(predicted) | {"protocol": protocol.spec()}))))
    assert words[words.index("--data") + 1] == "PEOPLE_FILE"
    assert "folds.user_folds=3" in words
    assert "prediction.shots=[0, 4]" in words
    assert not [word for word in words if word.startswith(("population", "folds.prompt_folds"))]


def test_a_method_of_ones_own_is_named_by_its_class(make_results: Callable[..., Results]) -> None:
    results = make_results("generate", 16)
    results["icl[n_shots=3]"].spec["class"] = "my_module:Mine"
    assert shlex.split(command(results))[3] == "my_module:Mine[n_shots=3]"


def test_settings_stand_side_by_side() -> None:
    lines = side_by_side([{"a": {"b": 1}, "c": None}, {"a": {"b": 2}, "d": [1, 2]}])
    assert [(line.name, line.values, line.differs) for line in lines] == [
        ("a.b", ("1", "2"), True),
        ("c", ("none", "\u2013"), True),
        ("d", ("\u2013", "1, 2"), True),
    ]
