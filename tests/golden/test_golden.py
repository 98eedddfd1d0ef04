"""Golden values of every track: what a run gives today, it must give after any restructuring.

A value that differs is a change of the numbers that users get. It is either a mistake, or it is wanted, said in the
changelog and recorded with `python tests/golden/record.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import groups
import pytest
import values

_SHOWN = 12


@cache
def golden() -> Mapping[str, Any]:
    return groups.read()


def check(name: str, found: Mapping[str, Any], *, expected: Mapping[str, Any] | None = None) -> None:
    """Fail with the first differences, one a line."""
    lines = values.differences(golden()[name] if expected is None else expected, values.stored(found))
    if lines:
        more = f"\n... and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        pytest.fail(f"{name}: {len(lines)} values differ\n" + "\n".join(lines[:_SHOWN]) + more, pytrace=False)


def check_methods(name: str, found: Mapping[str, Any]) -> None:
    """Check what was found of some methods of a group; what they are compared with is another one's."""
    expected = golden()[name]["methods"]
    assert found["methods"].keys() <= expected.keys()
    check(name, found["methods"], expected={label: expected[label] for label in found["methods"]})


@pytest.mark.parametrize("name", [name for name in groups.GROUPS if name != "bytes"])
def test_golden(name: str) -> None:
    check(name, groups.GROUPS[name]())


def test_bytes() -> None:
    found = groups.GROUPS["bytes"]()
    expected = dict(golden()["bytes"])
    if found["libraries"] != expected["libraries"]:
        # the bytes of Parquet, Arrow and gzip files are those of one version of these libraries
        expected = {"portable": expected["portable"]}
        found = {"portable": found["portable"]}
    check("bytes", found, expected=expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(groups.INTERRUPTED))
def test_a_run_that_was_stopped_and_resumed(name: str) -> None:
    check_methods(name, groups.INTERRUPTED[name]())


@pytest.mark.slow
@pytest.mark.parametrize("name", list(groups.PROCESSES))
def test_two_processes(name: str) -> None:
    check_methods(name, groups.PROCESSES[name]())


def test_every_group_is_recorded() -> None:
    assert set(golden()) == set(groups.GROUPS)


def test_a_difference_is_found_and_named() -> None:
    expected = {"a": {"b": 1.0, "c": "x"}, "user-bt[n_features=2]": {"d": [1.0, 2.0]}}
    found = {"a": {"b": 1.0 + 1e-8, "c": "x"}, "user-bt[n_features=2]": {"d": [1.00005, 2.0]}}
    (line,) = values.differences(expected, found)
    assert line.startswith("a > b:")
    found["user-bt[n_features=2]"]["d"][0] = 1.001
    assert len(values.differences(expected, found)) == 2
    assert values.differences(expected, expected) == []
    assert len(values.differences(expected, {})) == 3
