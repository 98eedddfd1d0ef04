"""`personalllm evaluate --track predict`: one table, an honest line below it, clear refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from personalllm.cli.app import app
from personalllm.cli.options import parse_numbers
from personalllm.core.errors import ParameterError, UnknownName, UserError
from personalllm.data import Benchmark, write_benchmark
from personalllm.evaluation import load_prediction
from personalllm.report.terminal import shots_shown
from personalllm.testing import SurfaceRewards

WORDS = ("river,", "stone", "light", "cloud,", "garden", "music", "letter", "winter", "bread")
SMALL = ["--track", "predict", "--users", "20", "--pool-users", "10", "--data", "tiny.parquet", "--out", "runs"]
SMALL += ["--embedder", "personalllm.testing:HashEmbedder"]

HINTED = """
from dataclasses import dataclass
from typing import ClassVar
import numpy as np
from personalllm.methods.base import Method

@dataclass
class Hinted(Method):
    id: ClassVar[str] = "hinted"
    needs: ClassVar = frozenset({"signals"})
    def utilities(self, queries):
        n = queries.corpus.n_responses
        return np.float32([self.signals.vectors(np.full(n, p), np.arange(n)).mean(axis=1) for p in queries.prompt])
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rng = np.random.default_rng(0)
    prompts = [f"Tell me about {word} {i}" for i in range(6) for word in WORDS[:4]]
    responses = [[" ".join(rng.choice(WORDS, int(n))) + f" {i}" for n in (3, 9, 20)] for i in range(24)]
    rewards = SurfaceRewards()
    benchmark = Benchmark.from_arrays(
        name="tiny",
        prompt_ids=[f"p{i}" for i in range(24)],
        prompts=prompts,
        subsets=["s"] * 24,
        splits=["train"] * 18 + ["test"] * 6,
        responses=responses,
        response_models=["small", "middle", "large"],
        reward_models=rewards.reward_models,
        scores=np.stack([rewards.score([p] * 3, row) for p, row in zip(prompts, responses, strict=True)]),
    )
    write_benchmark(benchmark, tmp_path / "tiny.parquet")
    (tmp_path / "hinted_for_tests.py").write_text(HINTED)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["evaluate", *arguments])


def output(result: Any) -> str:
    assert result.exception is None, result.exception
    return str(result.stdout)


def rows_of(text: str) -> dict[str, list[str]]:
    """Return the table's rows by name: those whose second word is a number."""
    split = [line.split() for line in text.splitlines()]
    return {row[0]: row[1:] for row in split if len(row) > 3 and row[1].count(".") == 1 and row[0] != "k=0"}


def test_it_prints_one_table_and_resumes(folder: Path) -> None:
    arguments = ("longest", "embedding-ranker", *SMALL, "--shots", "0,1,4", "--seed", "2")
    first = run(*arguments)
    text = output(first)
    assert all(len(line) <= 120 for line in text.splitlines() if not line.startswith(("Results", "Report")))
    results = load_prediction("runs")
    cell = results.headline
    assert (cell.users, cell.prompts, cell.shots) == ("unseen", "unseen", 4)
    assert (
        "tiny.parquet, predict track: 20 unseen users, unseen prompts; accuracy in % after k comparisons"
        in " ".join(text.split())
    )
    rows = rows_of(text)
    assert list(rows)[-2:] == ["true-weights", "best-linear"]
    assert set(rows) == {learner.id for learner in results.learners}
    order = [results[name].estimates[cell]["all", "accuracy"].value for name in list(rows)[:2]]
    assert order == sorted(order, reverse=True)
    for name, cells in rows.items():
        curve = results.curve(name, "accuracy", cell)
        assert cells[:3] == [f"{100 * curve[k].value:.1f}" for k in (0, 1, 4)]
        at_most = results[name].estimates[cell]
        assert cells[3] == "-".join(f"{100 * end:.1f}" for end in (curve[4].low, curve[4].high))
        assert cells[6:] == [
            f"{at_most['all', 'regret'].value:.3f}",
            f"{at_most['all', 'tau'].value:.3f}".replace("-", "\u2212"),
            f"{100 * at_most['all', 'worst_decile'].value:.1f}",
        ]
    assert rows["random"][4:6] == ["0.693", "0.000"]
    assert rows["longest"][4:6] == ["\u2013", "\u2013"]
    assert "rank without probabilities" in text
    assert "paired over users, Holm, 5 %" in text
    (directory,) = Path("runs").iterdir()
    assert f"personalllm report runs/{directory.name}" in text
    again = run(*arguments)
    assert output(again) == text
    assert "were done before" in again.stderr


def test_all_says_what_it_leaves_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from personalllm.evaluation.resolve import left_out

    without = {"needs-gold": 'it needs: pip install "personalllm[gold]"'}
    monkeypatch.setattr(sys.modules[left_out.__module__], "left_out", lambda track, signals=False: without)
    from rich.console import Console

    from personalllm.cli.prediction import explain_left_out

    console = Console(width=200, record=True, quiet=False)
    explain_left_out("predict", console)
    assert console.export_text().strip() == 'needs-gold is left out: it needs: pip install "personalllm[gold]"'


def test_scores_as_features_must_be_asked_for(folder: Path) -> None:
    refused = run("hinted_for_tests:Hinted", *SMALL, "--shots", "0")
    assert isinstance(refused.exception, UserError)
    assert "--set prediction.reward_signals=true" in str(refused.exception)
    output(run("hinted_for_tests:Hinted", *SMALL, "--shots", "0", "--set", "prediction.reward_signals=true"))
    assert load_prediction("runs").protocol["prediction"]["reward_signals"] is True


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("longest", "--shots", "0,x"), UserError, r"Cannot read --shots '0,x'. Write whole numbers"),
        (("longest", "--pairs", "3"), ParameterError, r"history.pairs must be left out in the predict track"),
        (("longest", "--versus", "longst"), UnknownName, r"no learner in this run named 'longst'.*'longest'"),
        (("zero-shot",), UserError, r"'zero-shot' does not take part in the predict track"),
        (("longest", "--set", "prediction.users=[]"), ParameterError, r"prediction.users"),
        (
            ("longest", "--set", "prediction.users=old"),
            ParameterError,
            r"users\S* must be 'unseen' or 'seen', got 'old'",
        ),
        (("longest", "model:one"), UserError, r"'model:one' is a reference policy of the rank and the generate track"),
        (("longest", "--preset", "paper-icl"), UserError, r"of the generate track.*nothing in the predict track"),
    ],
)
def test_refusals(folder: Path, arguments: tuple[str, ...], error: type[Exception], message: str) -> None:
    result = run(*arguments, *SMALL)
    assert isinstance(result.exception, error)
    with pytest.raises(error, match=message):
        raise result.exception
    assert not Path("runs").exists()


def test_shots_are_of_the_predict_track(folder: Path) -> None:
    result = run("longest", "--data", "tiny.parquet", "--shots", "0,4")
    assert "prediction must be left out in the rank track" in str(result.exception)
    assert "--track predict" in str(result.exception)


def test_versus_names_who_is_compared(folder: Path) -> None:
    text = output(run("longest", "embedding-ranker", *SMALL, "--shots", "0,4", "--versus", "longer"))
    assert "Accuracy at k=4, longer against" in text


@pytest.mark.parametrize(
    ("shots", "shown"),
    [
        ((0, 1, 2), (0, 1, 2)),
        (tuple(range(8)), tuple(range(8))),
        (tuple(range(15)), (0, 2, 4, 6, 8, 10, 12, 14)),
    ],
)
def test_at_most_eight_shots_are_shown(shots: tuple[int, ...], shown: tuple[int, ...]) -> None:
    assert shots_shown(shots) == shown


def test_shots_are_read() -> None:
    assert parse_numbers(" 0, 8 ,64", "--shots") == (0, 8, 64)
    for text in ("", "1;2", "-1", "1,,2"):
        with pytest.raises(UserError, match=f"Cannot read --shots '{text}'. Write whole numbers with commas"):
            parse_numbers(text, "--shots")


def test_one_value_stands_for_a_list(folder: Path) -> None:
    settings = ("prediction.users=unseen", "prediction.prompts=seen", "prediction.counterfactuals=flipped")
    output(run("longest", *SMALL, *(part for setting in settings for part in ("--set", setting)), "--shots", "2"))
    spec = load_prediction("runs").protocol["prediction"]
    assert (spec["users"], spec["prompts"], spec["counterfactuals"]) == (["unseen"], ["seen"], ["flipped"])


@pytest.mark.parametrize(
    ("width", "metrics"), [(80, ["log-loss", "worst"]), (120, ["log-loss", "ECE", "regret", "tau"])]
)
def test_the_table_fits_the_terminal(folder: Path, width: int, metrics: list[str]) -> None:
    from rich.console import Console

    from personalllm.cli.prediction import show_table

    output(run("longest", *SMALL, "--shots", "0,1,2,3,4"))
    console = Console(width=width, record=True, force_terminal=True, color_system=None)
    show_table(load_prediction("runs"), console)
    text = console.export_text()
    assert all(len(line) <= width for line in text.splitlines())
    heading = next(line for line in text.splitlines() if "95 %" in line).split()
    assert [word for word in heading if word in metrics] == metrics
    assert ("a wider terminal shows more" in " ".join(text.split())) == (width == 80)
