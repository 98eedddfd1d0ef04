from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from personalllm.analysis import Votes, audit
from personalllm.analysis.persona import RewardModelScorer, score_personas
from personalllm.backends.features import _common
from personalllm.cli.app import app
from personalllm.core.errors import DataError, MissingExtra, ParameterError, UnknownName, UserError
from personalllm.data import Benchmark, make_synthetic, write_benchmark
from personalllm.testing import SurfaceRewards

WORDS = ("river,", "stone", "light", "cloud,", "garden", "music", "letter", "winter", "bread")


class Letters:
    """Counts letters, for tests."""

    features = ("letters",)
    identity = "letters-1"

    def measure(self, texts: list[str]) -> np.ndarray:
        return np.array([[sum(map(str.isalpha, text))] for text in texts], np.float32)


class Absent(Letters):
    @property
    def identity(self) -> str:
        raise MissingExtra("nothing", "features")


def made(n: int = 24, n_responses: int = 5, splits: tuple[str, ...] = ("train", "test")) -> Benchmark:
    rng = np.random.default_rng(0)
    responses = [[" ".join(rng.choice(WORDS, rng.integers(3, 20))) for _ in range(n_responses)] for _ in range(n)]
    prompts = [f"What <b>is</b> [bold]{WORDS[i % 9]} {i}?" for i in range(n)]
    rewards = SurfaceRewards()
    scores = np.stack([rewards.score([p] * n_responses, row) for p, row in zip(prompts, responses, strict=True)])
    return Benchmark.from_arrays(
        name="tiny",
        prompt_ids=[f"p{i}" for i in range(n)],
        prompts=prompts,
        subsets=["s"] * n,
        splits=[splits[i * len(splits) // n] for i in range(n)],
        responses=responses,
        response_models=[f"model {i}" for i in range(n_responses)],
        reward_models=rewards.reward_models,
        scores=scores + rng.normal(0, 0.01, scores.shape),
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_benchmark(made(), tmp_path / "tiny.parquet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def _no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the files of the figures empty: `write_analyses` has tests of its own."""

    def touch(figure: Any, stem: Path) -> None:
        for kind in ("png", "svg"):
            stem.with_name(f"{stem.name}.{kind}").touch()

    monkeypatch.setattr("personalllm.report.analyses.save_figure", touch)


def run(*arguments: str, data: str = "tiny.parquet") -> Any:
    return CliRunner().invoke(app, ["analyze", data, "--out", "made", "--users", "20", *arguments])


def fine(*arguments: str, data: str = "tiny.parquet") -> str:
    result = run(*arguments, data=data)
    assert result.exit_code == 0, result.output
    return result.output


def column(name: str, field: str) -> list[Any]:
    return pq.read_table(Path("made/tables") / f"{name}.parquet")[field].to_pylist()


def page() -> str:
    return Path("made/index.html").read_text(encoding="utf-8")


def test_everything_that_can_be_made_is_and_the_rest_is_named(folder: Path) -> None:
    out = fine("--features", f"{__name__}:Letters", "--alpha", "0.05", "--alpha", "0.05", "--alpha", "2")
    assert [line for line in out.splitlines() if line.endswith(": done")] == [
        f"{part}: done" for part in ("diversity", "paper", "agreement", "entropy", "regressions", "audit")
    ]
    assert "people: left out. No file of people's votes was given. Give --votes FILE." in out
    assert {path.stem for path in Path("made/figures").glob("*.png")} == {
        "agreement", "audit", "diversity", "entropy", "paper", "regressions",
    }  # fmt: skip
    text = page()
    for absent in ("people", "personas", "opinion"):
        assert f"<b>{absent}</b>: " in text
    assert "<dd>test (12)</dd>" in text
    assert "<dd>train (12)</dd>" in text
    assert "<dd>all (24)</dd>" in text
    assert "<dd>0.05, 2</dd>" in text
    assert "20 (Dirichlet, seed 0)" in text
    assert set(column("diversity", "population")) == {"alpha 0.05", "alpha 2"}
    assert set(column("paper-comparison", "population")) == {"0.05"}
    assert set(column("regressions-summary", "feature")) == {"letters"}


def test_markup_in_texts_is_shown_as_it_is(folder: Path) -> None:
    fine("--only", "entropy", "--alpha", "1")
    assert "What &lt;b&gt;is&lt;/b&gt; [bold]" in page()
    with Path("made/tables/entropy-prompts.csv").open(encoding="utf-8", newline="") as file:
        assert all(row["prompt"].startswith("What <b>is</b> [bold]") for row in csv.DictReader(file))


def test_the_split_and_the_seed_are_taken(folder: Path) -> None:
    def entropies(*more: str) -> list[float]:
        fine("--only", "diversity", "--alpha", "0.3", *more)
        rows = pq.read_table("made/tables/diversity.parquet").to_pylist()
        return [row["value"] for row in rows if row["quantity"] == "entropy"]

    first = entropies()
    assert entropies("--split", "test") == first
    assert entropies("--split", "train") != first
    assert "<dd>train (12)</dd>" in page()
    assert "prompts of the" not in page()
    assert entropies("--seed", "1") != first


def test_the_audit_takes_all_prompts_or_the_split(folder: Path) -> None:
    means = []
    for split, more in ((None, ()), ("train", ("--split", "train"))):
        fine("--only", "audit", *more)
        means.append(column("audit-reward-models", "mean"))
        assert means[-1] == audit(made(), split=split).mean.tolist()
    assert means[0] != means[1]


def test_the_paper_s_users_stand_for_the_paper_s_reward_models(folder: Path) -> None:
    write_benchmark(make_synthetic(60), folder / "synthetic.parquet")
    fine("--only", "diversity", "--alpha", "0.05", data="synthetic.parquet")
    assert "20 (the paper&#39;s published users)" in page()
    fine("--only", "diversity", "--alpha", "0.05", "--users", "1001", data="synthetic.parquet")
    assert "1,001 (Dirichlet, seed 0)" in page()


def test_a_benchmark_with_a_test_split_only_and_two_responses(folder: Path) -> None:
    write_benchmark(made(n_responses=2, splits=("test",)), folder / "two.parquet")
    more = ("--only", "entropy", "--only", "regressions", "--features", f"{__name__}:Letters", "--alpha", "1")
    fine(*more, data="two.parquet")
    assert column("entropy-groups", "n_prompts")[0] == 24
    assert "<dd>all (24)</dd>" in page()
    assert column("regressions-accuracy", "contrast") == ["best-worst"]


def write_votes(path: Path, ties: bool = False) -> None:
    path.parent.mkdir(exist_ok=True)
    rows = [(f"q{i}", "AB"[(i + v) % 2], v) for i in range(6) for v in range(3)]
    rows += [("q0", "", "tied")] if ties else []
    path.write_text("prompt,option,voter\n" + "\n".join(",".join(map(str, row)) for row in rows))


def test_votes_of_people_beside_users_files_of_one_name_told_apart(folder: Path) -> None:
    write_votes(folder / "votes.csv")
    write_votes(folder / "more" / "votes.csv")
    fine("--only", "people", "--alpha", "1", "--votes", "votes.csv", "--votes", "more/votes.csv")
    names = list(dict.fromkeys(column("people", "population")))
    assert names == ["votes.csv (votes.csv)", f"votes.csv ({Path('more/votes.csv')})", "alpha 1"]


@pytest.mark.parametrize(("ties", "n_prompts"), [("drop", 6), ("option", 6)])
def test_people_s_ties(folder: Path, ties: str, n_prompts: int) -> None:
    write_votes(folder / "votes.csv", ties=True)
    with pytest.raises(UserError, match="split votes"):
        raise run("--only", "people", "--votes", "votes.csv").exception
    fine("--only", "people", "--votes", "votes.csv", "--ties", ties, "--alpha", "1")
    assert column("people", "n_prompts")[0] == n_prompts


def test_personas_stand_beside_users_and_beside_the_paper_s(folder: Path) -> None:
    benchmark = made()
    rewards = SurfaceRewards()
    for number in (0, 1):
        scorer = RewardModelScorer(rewards, rewards.reward_models[0], template=f"{{persona}} {number} {{prompt}}")
        scores = score_personas(benchmark, ["a river guide", "a baker of bread"], scorer, directory=folder / "kept")
        scores.write(folder / f"personas{number}.parquet")
    parts = ("--only", "diversity", "--only", "paper", "--only", "personas", "--alpha", "0.1")
    fine(*parts, "--personas", "personas0.parquet")
    (name,) = set(column("diversity", "population")) - {"alpha 0.1"}
    assert name.startswith("2 personas, ")
    assert set(column("paper-comparison", "population")) == {"0.1", "persona"}
    assert f"Persona prompting here: {name};" in page()
    assert Path("made/figures/personas.svg").is_file()
    fine("--only", "diversity", "--only", "personas", "--alpha", "0.1", "--personas", "personas0.parquet",
         "--personas", "personas1.parquet")  # fmt: skip
    assert set(column("diversity", "population")) == {
        "alpha 0.1",
        f"{name} (personas0.parquet)",
        f"{name} (personas1.parquet)",
    }
    assert sorted(path.stem for path in Path("made/figures").glob("*.svg")) == ["diversity", "personas-1", "personas-2"]


def test_opinions_of_the_users_of_alpha_005(folder: Path) -> None:
    choices = dict.fromkeys(SurfaceRewards().reward_models, "yes")
    asked = {"question": "Q", "text": "Well?", "options": ["no", "yes"], "choices": choices}
    Path("q.jsonl").write_text(json.dumps(asked))
    Path("p.csv").write_text("question,attribute,group,option,share\nQ,overall,overall,yes,1\nQ,age,old,no,1\n")
    fine("--only", "opinion", "--questions", "q.jsonl", "--opinions", "p.csv")
    assert column("opinion-groups", "population") == [1, 0]
    assert "in 0 of 1 groups" in page()
    assert "<dt>alpha of opinion</dt><dd>0.05</dd>" in page()
    Path("q.jsonl").write_text(json.dumps(asked | {"options": ["no", "yes", "both"], "values": [1, 2, 1.5]}))
    for rule, score in (("coded", 0.5), ("positions", 0.0)):
        fine("--only", "opinion", "--questions", "q.jsonl", "--opinions", "p.csv", "--opinion-score", rule)
        assert column("opinion-groups", "population") == [1, score]


def test_the_folder_of_opinionqa_with_given_choices(folder: Path) -> None:
    Path("human/W1").mkdir(parents=True)
    info = "key,question,option_mapping,option_ordinal\nQ,Well?,\"{1.0: 'no', 2.0: 'yes'}\",\"[1.0, 2.0]\"\n"
    Path("human/W1/info.csv").write_text(info + "R,And?,\"{1.0: 'no', 2.0: 'yes'}\",\"[1.0, 2.0]\"\n")
    Path("human/W1/AGE_data.json").write_text(json.dumps({"Q": {"Old": {"no": 1, "yes": 3}}}))
    choices = dict.fromkeys(SurfaceRewards().reward_models, "yes")
    Path("q.jsonl").write_text(json.dumps({"question": "Q", "text": "", "options": ["no", "yes"], "choices": choices}))
    given = ("--opinions", "human", "--opinion-set", "all")
    fine("--only", "opinion", "--questions", "q.jsonl", *given)
    assert column("opinion-groups", "population") == [0.75, 0.75]
    assert column("opinion-left-out", "question") == ["R"]
    assert "does not say which reward ensemble scored it" in str(run("--only", "opinion", *given).exception)


def test_a_missing_package_is_named_and_the_rest_is_made(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(module: str, extra: str) -> Any:
        raise MissingExtra(module, extra)

    for cached in (_common.treebank_tokeniser, _common.textblob_tagger):
        cached.cache_clear()
    monkeypatch.setattr(_common, "import_extra", gone)
    out = fine("--alpha", "1")
    assert 'Run: pip install "personalllm[features]"' in out
    assert "audit: done" in out
    assert "<b>regressions</b>: The package" in page()


def test_the_files_of_people_may_call_their_columns_otherwise(folder: Path) -> None:
    Path("v.csv").write_text("item,answer,annotator\nx,a,1\nx,b,2\nx,a,3\n")
    columns = ("--column", "prompt=item", "--column", "voter=annotator", "--column", "option=answer")
    fine("--only", "people", "--alpha", "1", "--votes", "v.csv", *columns)
    assert "v.csv" in page()
    question = {"question": "q", "text": "?", "options": ["no", "yes"]}
    choices = {name: ["no", "yes"][i % 2] for i, name in enumerate(SurfaceRewards.reward_models)}
    Path("q.jsonl").write_text(json.dumps(question | {"choices": choices}))
    Path("p.csv").write_text(
        "question,attribute,group,option,weight\nq,overall,overall,no,1\nq,overall,overall,yes,3\n"
    )
    fine("--only", "opinion", "--questions", "q.jsonl", "--opinions", "p.csv", "--column", "share=weight")
    assert column("opinion-groups", "population")


BAD = [
    (("--column", "voter"), UserError, "Cannot read --column 'voter'"),
    (("--column", "votre=who"), UnknownName, "no column named 'votre'. Did you mean 'voter'"),
    (("--split", "dev"), ParameterError, "one of test, train, got 'dev'"),
    (("--alpha", "0"), ParameterError, "alpha must be"),
    (("--questions", "q.jsonl"), UserError, "belong together"),
    (("--votes", "absent.csv"), DataError, "no file or folder 'absent.csv'"),
    (("--personas", "tiny.parquet"), DataError, "no persona scores"),
    (("--features", "synactic"), UnknownName, "syntactic"),
    (("--only", "audits"), UnknownName, "Did you mean 'audit'"),
    (("--only", "people"), UserError, "Give --votes FILE"),
    (("--only", "personas"), UserError, "Give --personas FILE"),
    (("--only", "opinion"), UserError, "Give --opinions FOLDER, or --questions and --opinions"),
    (("--only", "paper", "--alpha", "1"), UserError, "0.01, 0.05 and 0.1"),
    (("--only", "regressions", "--features", f"{__name__}:Absent"), MissingExtra, "nothing"),
    (("--out", "tiny.parquet"), UserError, "not a folder"),
    (("--out", "tiny.parquet/made"), UserError, "not a folder"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD)
def test_what_cannot_be_used_is_said_before_anything_is_computed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], error: type[Exception], message: str
) -> None:
    monkeypatch.setattr(Votes, "of", None)
    before = sorted(folder.iterdir())
    result = run(*arguments)
    assert isinstance(result.exception, error), result.output
    assert message in str(result.exception)
    assert sorted(folder.iterdir()) == before
