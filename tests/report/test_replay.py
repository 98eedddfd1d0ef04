from __future__ import annotations

import itertools
import shlex
from collections.abc import Callable
from typing import Any

import pytest

from personalllm.evaluation.results import Results
from personalllm.report.replay import command


def test_every_knob_is_spelt_out(make_results: Callable[..., Results]) -> None:
    text = command(make_results("generate", 16))
    words = shlex.split(text)
    assert words[:2] == ["personalllm", "evaluate"]
    assert words[2:6] == ["zero-shot", "icl[n_shots=3]", "icl[n_shots=1]", "meta-icl"]
    options = dict(zip(words[6::2], words[7::2], strict=True))
    assert options == {
        "--track": "generate",
        "--data": "mini",
        "--users": "1000",
        "--seed": "0",
        "--alpha": "0.05",
        "--limit": "16",
        "--pairs": "5",
        "--nearest": "5",
        "--pool-users": "10000",
        "--max-tokens": "96",
        "--standardiser": "train",
        "--reference-model": "qwen2.5-0.5b-plain",
        "--embedder": "minilm-l6-int8",
        "--llm": "smol",
        "--out": "runs",
    }


@pytest.mark.parametrize(
    ("change", "settings"),
    [
        ({"seed": 1}, ["population.seed=0", "pool.seed=0"]),
        (
            {"population": {"kind": "published", "alpha": 0.05, "n_users": 1000, "seed": 0}},
            ["population.kind=published"],
        ),
        (
            {"population": {"kind": "dirichlet", "alpha": [0.1, 0.2], "n_users": 1000, "seed": 0}},
            ["population.alpha=[0.1, 0.2]"],
        ),
        ({"feedback": {"pairs": "random"}}, ["feedback.pairs=random"]),
        ({"split": "validation"}, ["split=validation"]),
        ({"history": {"pairs": 5, "nearest": 5, "counterfactual": "flipped"}}, ["history.counterfactual=flipped"]),
    ],
)
def test_what_has_no_option_of_its_own_is_set(
    change: dict[str, Any], settings: list[str], make_results: Callable[..., Results]
) -> None:
    results = make_results("rank", 5)
    results.protocol.update(change)
    words = shlex.split(command(results))
    assert [value for name, value in itertools.pairwise(words) if name == "--set"] == settings


def test_a_method_of_ones_own_is_named_by_its_class(make_results: Callable[..., Results]) -> None:
    results = make_results("generate", 16)
    results["icl[n_shots=3]"].spec["class"] = "my_module:Mine"
    text = command(results)
    assert shlex.split(text)[3] == "my_module:Mine[n_shots=3]"
