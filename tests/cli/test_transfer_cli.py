"""`personalllm transfer` and the reports of the predict track, on runs that were really made."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from typer.testing import CliRunner

from personalllm.cli.app import app
from personalllm.core.errors import UserError
from personalllm.data import make_synthetic
from personalllm.evaluation import Protocol, evaluate, predict


def call(command: str, *arguments: object) -> str:
    result = CliRunner().invoke(app, [command, *map(str, arguments)])
    if result.exception is not None:
        raise result.exception
    return result.output


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("people") / "mine.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["who", "prompt", "chosen", "rejected"])
        for user in range(4):
            for prompt in range(8):
                long, brief = f"{prompt} and more", str(prompt)
                writer.writerow([user, f"p{prompt}", *((long, brief) if user else (brief, long))])
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated")
    benchmark = make_synthetic(60, 0)
    small = {"shots": (0, 2), "test_pairs": 3, "n_seen_users": 2, "counterfactuals": ()}
    protocol = Protocol.for_benchmark(
        benchmark, track="predict", n_users=6, pool_users=5, pool_pairs=4, prediction=small, bootstrap_draws=100
    )
    predict(["longest"], protocol, benchmark, out=folder)
    return folder


FEW = ("--shots", "0,2", "--set", "prompt_folds=3", "--set", "bootstrap_draws=100", "--set", "user_folds=2")


def test_people_beside_simulated_users(people: Path, run: Path, tmp_path: Path) -> None:
    output = call("transfer", people, "--simulated", run, "--column", "user=who", "--out", tmp_path, *FEW)
    assert "longest" in output
    assert "4 unseen people, unseen prompts, intervals over 8 prompts" in " ".join(output.split())
    assert "regret" not in output
    assert "Do the two orders agree?" in output
    page = (tmp_path / "transfer.html").read_text(encoding="utf-8")
    assert "mine.csv" in page
    rows = list(csv.DictReader((tmp_path / "transfer.csv").read_text(encoding="utf-8").splitlines()))
    assert {row["side"] for row in rows} == {"simulated", "people"}
    rows = list(csv.DictReader((tmp_path / "people.csv").read_text(encoding="utf-8").splitlines()))
    right = {row["value"] for row in rows if row["learner"] == "longest" and row["metric"] == "accuracy"}
    assert {float(value) for value in right} == {0.75}


def test_people_alone_and_the_report_again(people: Path, tmp_path: Path) -> None:
    call("transfer", people, "longest", "--column", "user=who", "--name", "Mine", "--out", tmp_path, *FEW)
    assert "Mine" in (tmp_path / "people.html").read_text(encoding="utf-8")
    output = call("report", tmp_path)
    assert "longest" in output
    assert "4 people made 32 comparisons" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_report_of_both_kinds_of_runs(run: Path, tmp_path: Path) -> None:
    benchmark = make_synthetic(60, 0)
    protocol = Protocol.for_benchmark(benchmark, n_users=6, pool_users=5, pool_pairs=2, bootstrap_draws=100)
    evaluate(["random"], protocol, benchmark, out=tmp_path)
    (tmp_path / "predict").symlink_to(next(path for path in run.iterdir() if path.is_dir()))
    call("report", tmp_path / "predict", "--out", tmp_path / "one.html", "--figures", tmp_path / "figures")
    assert "next choice predicted" in (tmp_path / "one.html").read_text(encoding="utf-8")
    assert (tmp_path / "figures" / "predict-curves.svg").is_file()
    with pytest.raises(UserError, match="--versus"):
        call("report", tmp_path / "predict", "--versus", "longest")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--column", "user"), "Cannot read --column 'user'"),
        (("--set", "prompt_folds=2"), "prompt_folds: "),
        (("--set", "folds=2"), "folds: "),
        (("--shots", "a"), "Cannot read --shots"),
    ],
)
def test_what_cannot_be_read(people: Path, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    given = arguments if "--column" in arguments else ("--column", "user=who", *arguments)
    with pytest.raises(UserError, match=message):
        call("transfer", people, "longest", "--out", tmp_path, *given)
