"""`personalllm report` on runs that were really made."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from personalllm.cli.app import app
from personalllm.core.errors import DataError, UnknownName, UserError
from personalllm.data import make_synthetic
from personalllm.evaluation import Protocol, evaluate


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs in one folder, which differ in their seed."""
    folder = tmp_path_factory.mktemp("finished") / "runs"
    benchmark = make_synthetic(60, 0)
    for seed in (0, 1):
        protocol = Protocol.for_benchmark(benchmark, n_users=12, pool_users=5, pool_pairs=2, seed=seed)
        evaluate(["random", "longest"], benchmark, protocol=protocol, out=folder)
    return folder


@pytest.fixture
def runs(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "runs"))


def call(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["report", *map(str, arguments)])
    if result.exception is not None:
        raise result.exception
    return result.output


def test_every_run_below_the_folder_and_the_same_page_again(runs: Path) -> None:
    output = call(runs)
    text = (runs / "report.html").read_text(encoding="utf-8")
    assert "rank track" in output
    assert "report.html" in output
    assert text.count("<h2") == 2 + 5
    for run in runs.iterdir():
        if run.is_dir():
            assert run.name in text
    call(runs)
    assert (runs / "report.html").read_text(encoding="utf-8") == text


def test_one_run(runs: Path, tmp_path: Path) -> None:
    run = next(path for path in sorted(runs.iterdir()) if path.is_dir())
    out = tmp_path / "pages" / "one.html"
    call(run, "--out", out)
    assert out.read_text(encoding="utf-8").count("<h2") == 1 + 5


def test_versus_and_figures(runs: Path, tmp_path: Path) -> None:
    call(runs, "--versus", "random", "--figures", tmp_path / "figures")
    assert "Differences from Random" in (runs / "report.html").read_text(encoding="utf-8")
    assert len(list((tmp_path / "figures").glob("*.svg"))) == 4


def test_an_unfinished_run_is_left_out_and_named(runs: Path) -> None:
    run = next(path for path in sorted(runs.iterdir()) if path.is_dir())
    for path in run.glob("*/record.json"):
        path.unlink()
    output = call(runs)
    assert "no method is complete" in output
    assert run.name in output.replace("\n", "")


def test_other_manifests_are_passed_over(runs: Path) -> None:
    (runs / "built").mkdir()
    (runs / "built" / "manifest.json").write_text('{"stage": "prompts"}', encoding="utf-8")
    assert "built" not in call(runs).replace("\n", "")


def _damage(runs: Path) -> None:
    next(iter(sorted(runs.glob("*/*/record.json")))).write_text("{", encoding="utf-8")


def _garble(runs: Path) -> None:
    next(iter(sorted(runs.glob("*/manifest.json")))).write_text("{", encoding="utf-8")


def _empty(runs: Path) -> None:
    shutil.rmtree(runs)
    runs.mkdir()


@pytest.mark.parametrize(
    ("harm", "arguments", "kind", "message"),
    [
        (_damage, (), DataError, "record.json"),
        (_garble, (), DataError, "manifest.json"),
        (_empty, (), UserError, "There is no finished run in"),
        (shutil.rmtree, (), UserError, "There is no folder"),
        (None, ("--versus", "longst"), UnknownName, "Did you mean 'longest'"),
    ],
)
def test_what_is_wrong_is_said(runs: Path, harm, arguments: tuple[str, ...], kind: type, message: str) -> None:
    if harm is not None:
        harm(runs)
    with pytest.raises(kind, match=message):
        call(runs, *arguments)
    assert not (runs / "report.html").exists()
