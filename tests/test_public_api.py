"""What is public is pinned: a name that comes or goes must be meant."""

from __future__ import annotations

import importlib
import inspect

import pytest

import personalllm

ROOMS = ("data", "users", "feedback", "methods", "evaluation", "analysis", "report", "build", "testing")


def test_the_front_door():
    assert personalllm.__all__ == [
        "Benchmark",
        "Method",
        "Population",
        "Preferences",
        "Protocol",
        "Ratings",
        "Results",
        "Standardiser",
        "__version__",
        "backends",
        "choices",
        "evaluate",
        "load",
        "load_method",
        "load_results",
        "load_run",
        "methods",
    ]
    for name in personalllm.__all__:
        assert getattr(personalllm, name) is not None
    assert dir(personalllm) == sorted(personalllm.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = personalllm.nothing


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_says_what_is_public(room):
    module = importlib.import_module(f"personalllm.{room}")
    assert module.__doc__
    assert module.__all__
    assert list(module.__all__) == sorted(module.__all__, key=lambda n: (not n.isupper(), n[0].islower(), n))
    for name in module.__all__:
        member = getattr(module, name)
        if inspect.isclass(member) or inspect.isfunction(member):
            assert member.__doc__, name
