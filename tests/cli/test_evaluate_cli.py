"""`personalllm evaluate`: every track, people's files, presets, and what is refused before anything runs."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from personalllm.backends.names import build_embedder, build_llm, build_rewards
from personalllm.cli.options import parse_numbers
from personalllm.core.errors import (
    ModelFileError,
    ParameterError,
    PersonalLLMError,
    PluginError,
    UnknownName,
    UserError,
)
from personalllm.evaluation import load_run
from personalllm.testing import EchoChatModel

EMBEDDER = ["--embedder", "personalllm.testing:HashEmbedder"]
STANDINS = [*EMBEDDER, "--llm", "personalllm.testing:EchoChatModel"]
STANDINS += ["--rewards", "personalllm.testing:SurfaceRewards"]
SMALL = ["--users", "20", "--pool-users", "10", "--data", "tiny.parquet", "--out", "runs"]
SMALL += ["--set", "intervals=users"]
PREDICT = ["--track", "predict", "--set", "prediction.n_seen_users=3", *SMALL, *EMBEDDER]
PEOPLE = ["--data", "mine.csv", "--column", "user=who", "--shots", "0,2", "--out", "runs", *EMBEDDER]
PEOPLE += ["--set", "folds.prompt_folds=3", "--set", "folds.user_folds=2", "--set", "bootstrap_draws=100"]
PEOPLE += ["--set", "intervals=users"]


def names_of(text: str) -> list[str]:
    """Return the first word of each row with an interval."""
    return [line.split()[0] for line in text.splitlines() if "[" in line]


def test_too_few_users_or_prompts_are_said_instead_of_intervals_and_verdicts(
    folder: Path, output: Callable[..., str]
) -> None:
    small = ("--users", "20", "--limit", "5", "--pool-users", "10", "--data", "tiny.parquet", "--out", "runs")
    text = " ".join(output("evaluate", "random", "longest", *small).split())
    assert "No intervals and no verdicts: the number of" in text
    assert not names_of(text)
    assert not [word for word in ("better p", "worse p", "not clear", "verdicts are") if word in text]


def test_the_rank_track_prints_a_leaderboard_and_resumes(
    folder: Path, run: Callable[..., Any], output: Callable[..., str]
) -> None:
    arguments = ("evaluate", "random", "longest", "methods_for_tests:Shortest", *SMALL)
    text = output(*arguments)
    assert "95 % intervals over users" in text
    results = load_run("runs")
    names = names_of(text)
    assert set(names) == {result.label for result in results.methods}
    assert names[-3:] == ["oracle", "known-basis", "worst"]
    assert results["shortest"].spec["class"] == "methods_for_tests:Shortest"
    (directory,) = Path("runs").iterdir()
    assert f"Results: runs/{directory.name}" in text
    assert f"personalllm report runs/{directory.name}" in text
    again = run(*arguments)
    assert again.stdout == text
    assert "random: 80 of 80 were done before" in again.stderr


def test_the_generate_track(folder: Path, output: Callable[..., str]) -> None:
    arguments = ["zero-shot", "icl[n_shots=2]", "--track", "generate", "--limit", "5", *SMALL, *STANDINS]
    text = output("evaluate", *arguments)
    assert "generate track: 5 users" in text
    assert "icl[n_shots=2]" in text
    assert len(load_run("runs").samples("zero-shot")) == 5


def test_the_predict_track_resumes(folder: Path, run: Callable[..., Any], output: Callable[..., str]) -> None:
    arguments = ["evaluate", "longest", "embedding-ranker", *PREDICT, "--shots", "0,1,4"]
    text = output(*arguments)
    results = load_run("runs")
    assert set(names_of(text)) >= {result.label for result in results.methods}
    accuracy = results.estimate("longest", "accuracy")
    assert f"{100 * accuracy.value:.1f} [{100 * accuracy.low:.1f}, {100 * accuracy.high:.1f}]" in text
    again = run(*arguments)
    assert again.stdout == text
    assert "were done before" in again.stderr


def test_people_s_files_need_no_other_command(folder: Path, output: Callable[..., str]) -> None:
    text = output("evaluate", "longest", "--name", "Mine", *PEOPLE)
    results = load_run("runs")
    assert (results.track, results.data_name) == ("predict", "Mine")
    assert results.estimate("longest", "accuracy").value == 0.75
    assert "longest" in names_of(text)


def test_versus(folder: Path, output: Callable[..., str]) -> None:
    text = output("evaluate", "random", "longest", "--versus", "random", *SMALL)
    assert "Differences from random are paired" in " ".join(text.split())


def test_cut_and_empty_responses_are_reported(folder: Path, output: Callable[..., str]) -> None:
    text = output("evaluate", "zero-shot", "--track", "generate", "--max-tokens", "1", *SMALL, *STANDINS)
    assert "zero-shot: of 20 responses 0 were empty and 20 were cut at the token limit; all count" in text


def test_a_history_shorter_than_requested_is_reported(folder: Path, output: Callable[..., str]) -> None:
    methods = ["self-icl[n_shots=7]", "self-icl[n_shots=4]"]
    text = output("evaluate", *methods, "--track", "generate", *SMALL, *STANDINS)
    (note,) = [line for line in text.splitlines() if "examples each" in line]
    assert note.startswith("self-icl[n_shots=7]: 5.0 examples each")


PAPER = ["--preset", "paper-icl", "--set", "pool.pairs_per_user=8", "--max-tokens", "6", *SMALL, *STANDINS]


def test_a_preset_brings_its_protocol_and_its_methods(folder: Path, output: Callable[..., str]) -> None:
    text = output("evaluate", *PAPER, "--limit", "2")
    results = load_run("runs")
    assert results.preset in text
    assert "Preset paper-icl-v1, changed: population.n_users 1000 -> 20, " in text
    assert "not comparable with the preset's numbers" in text
    assert "beside the preset's own" not in text
    assert len([row for row in results.methods if row.kind == "method"]) == 16
    assert results.protocol["track"] == "generate"
    assert results.protocol["pool"] == {"users": "drawn", "n_users": 10, "pairs_per_user": 8, "seed": 0}
    assert (results.protocol["generation"]["max_tokens"], results.protocol["limit"]) == (6, 2)
    assert results.protocol["history"]["counterfactual"] == "none"


def test_named_methods_replace_the_presets(folder: Path, output: Callable[..., str]) -> None:
    text = output("evaluate", "zero-shot", "icl[n_shots=2]", *PAPER, "--set", "counterfactual=other-user")
    results = load_run("runs")
    assert [row.label for row in results.methods if row.kind == "method"] == ["zero-shot", "icl[n_shots=2]"]
    assert "history.counterfactual none -> other-user" in text
    assert "beside the preset's own methods: icl[n_shots=2]" in text


def test_set_reaches_every_field_and_wins_over_options(folder: Path, output: Callable[..., str]) -> None:
    settings = ["feedback.flip=0.25", "population.kind=dirichlet", "alpha=[1,2,3,4]", "bootstrap_draws=100"]
    flags = [flag for setting in settings for flag in ("--set", setting)]
    text = output("evaluate", "random", "--alpha", "0.3", *SMALL, *flags)
    protocol = load_run("runs").protocol
    assert protocol["feedback"]["flip"] == 0.25
    assert protocol["population"]["alpha"] == [1, 2, 3, 4]
    assert protocol["bootstrap_draws"] == 100
    assert protocol["preset"] is None
    assert "Preset" not in text


def test_the_chat_model_gets_the_options(
    folder: Path, output: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    def build(name: str, **options: Any) -> EchoChatModel:
        asked.append((name, options))
        return EchoChatModel()

    monkeypatch.setattr("personalllm.backends.names.build_llm", build)
    base = ["zero-shot", "--track", "generate", *SMALL, *STANDINS[:2], *STANDINS[4:], "--llm", "openai:m"]
    output("evaluate", *base)
    server = ["--base-url", "http://127.0.0.1:9/v1", "--stream", "--context-length", "99", "--no-reply-cache"]
    server += ["--concurrency", "3", "--revision", "r1"]
    output("evaluate", *base, *server)
    plain = {"base_url": None, "stream": False, "context_length": None, "cache": True}
    plain |= {"concurrency": None, "revision": None}
    given = {"base_url": "http://127.0.0.1:9/v1", "stream": True, "context_length": 99, "cache": False}
    given |= {"concurrency": 3, "revision": "r1"}
    assert asked == [("openai:m", plain), ("openai:m", given)]


BAD: list[tuple[list[str], type[PersonalLLMError], str]] = [
    (["randum", *SMALL], UnknownName, "Did you mean 'random'"),
    (["random", "--users", "0", *SMALL[2:]], ParameterError, "--users must be .*1, got 0"),
    (["random", "--alpha", "-1", *SMALL], ParameterError, "--alpha must be greater than 0, got -1"),
    (["random", "--prompts", "5000", *SMALL], ParameterError, "--prompts must be at most .*, got 5000"),
    (["random", "--set", "population.alpha=-1", *SMALL], ParameterError, "population.alpha must be greater than 0"),
    (["methods_for_tests.py", *SMALL], UserError, "is a file, not a method.*Name the class in it: methods_for_tests:"),
    (["absent.py", *SMALL], UserError, "There is no file 'absent.py', and a method is named by its class"),
    (["random", "--alpha", "-1", *SMALL], ParameterError, "alpha"),
    (["random", "--limit", "0", *SMALL], ParameterError, "limit"),
    (["random", "--pairs", "9", *SMALL], ParameterError, r"pairs must be at most .*\(8\), got 9"),
    (["random", "--versus", "longest", *SMALL], UnknownName, "method in this run named 'longest'"),
    (["random", "--max-tokens", "5", *SMALL], ParameterError, "left out in the rank track"),
    (["random", "--reference-model", "smal", *SMALL], UnknownName, "Did you mean 'small'"),
    (["random", "model:nope", *SMALL], UserError, "'model:nope' is not a baseline of this run.*--reference-model nope"),
    (["embedding-ranker", *SMALL], ModelFileError, "personalllm models pull"),
    (["embedding-ranker", *SMALL, "--embedder", "other"], UserError, "no embedder named 'other'"),
    (["zero-shot", "--track", "generate", *SMALL], UserError, "does not say which reward ensemble"),
    (["zero-shot", "--track", "generate", *SMALL, *STANDINS[4:]], ModelFileError, "personalllm models pull"),
    (["zero-shot", "random", *SMALL], UserError, "does not take part in the rank track"),
    (
        ["random", "tiny.parquet"],
        UserError,
        "is a file or folder, not a method. Give the data so: --data tiny",
    ),
    (["random", *SMALL, "--data", "absent.parquet"], UserError, "absent.parquet"),
    ([*SMALL], UserError, "No method is named. Name one, e.g. random, or all; or choose a --preset"),
    (["--preset", "paper-ic", *SMALL], UnknownName, "no preset named 'paper-ic'. Did you mean 'paper-icl'"),
    (["random", "--set", "alpha", *SMALL], UserError, "Cannot read the setting 'alpha'. Write NAME=VALUE"),
    (["random", "--set", "alhpa=1", *SMALL], ParameterError, "alhpa must be a field of the protocol"),
    (["random", "--set", "limit=1", "--set", "limit=2", *SMALL], UserError, "--set limit is given twice"),
    (["random", "--set", "llm=x", *SMALL], UserError, "'llm' is no setting of the protocol"),
    (["random", "--set", "a.b=1", *SMALL], UserError, "There is no setting 'a.b' in the protocol. Before the dot"),
    (["random", "--set", "seed=null", *SMALL], ParameterError, "seed must be"),
    (["random", "--track", "ranks", *SMALL], UnknownName, "no track named 'ranks'. Did you mean 'rank'"),
    (["longest", "--shots", "0,x", *PREDICT], UserError, "Cannot read --shots '0,x'. Write whole numbers"),
    (["longest", "--shots", "0,4", *SMALL], ParameterError, "--shots must be left out in the rank track"),
    (["longest", "--pairs", "3", *PREDICT], ParameterError, "--pairs must be left out in the predict track"),
    (["longest", "--versus", "longst", *PREDICT], UnknownName, "no method in this run named 'longst'.*'longest'"),
    (["zero-shot", *PREDICT], UserError, "'zero-shot' does not take part in the predict track"),
    (["longest", "--set", "prediction.users=[]", *PREDICT], ParameterError, "prediction.users"),
    (
        ["longest", "model:one", *PREDICT],
        UserError,
        "'model:one' is a baseline of another track: generate, online, rank",
    ),
    (["methods_for_tests:Hinted", *PREDICT], UserError, "--set prediction.reward_signals=true"),
    (["longest", *PEOPLE, "--column", "user"], UserError, "Cannot read --column 'user'. Write COLUMN=NAME"),
    (["longest", *PEOPLE, "--set", "folds.prompt_folds=2"], UserError, "--set folds.prompt_folds is given twice"),
    (["longest", "--name", "Mine", *SMALL], UserError, "'tiny.parquet' does not hold any"),
    (["longest", "--track", "rank", *PEOPLE], UserError, "predict"),
    (["longest", "--preset", "lore", *PEOPLE], UserError, "A preset describes simulated users"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD, ids=lambda value: str(value)[:60])
def test_bad_arguments(
    folder: Path, run: Callable[..., Any], arguments: list[str], error: type[PersonalLLMError], message: str
) -> None:
    result = run("evaluate", *arguments)
    assert isinstance(result.exception, error), (result.exception, result.output)
    with pytest.raises(error, match=message):
        raise result.exception
    assert not Path("runs").exists()


def test_an_interrupted_run_says_how_to_go_on(
    folder: Path, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("personalllm.evaluation.evaluate", interrupt)
    result = run("evaluate", "random", *SMALL)
    assert result.exit_code == 130
    assert "The same command continues from here" in result.stderr


def test_names_check_what_a_factory_returns() -> None:
    for build in (build_embedder, build_llm, lambda name: build_rewards({}, None, name)):
        with pytest.raises(PluginError, match=r"'builtins:object' returned a object, which is no .*It needs: "):
            build("builtins:object")


def test_scores_as_features_must_be_requested(folder: Path, output: Callable[..., str]) -> None:
    signals = ["--shots", "0", "--set", "prediction.reward_signals=true"]
    output("evaluate", "methods_for_tests:Hinted", *PREDICT, *signals)
    assert load_run("runs").protocol["prediction"]["reward_signals"] is True


def test_one_value_is_read_as_a_list(folder: Path, output: Callable[..., str]) -> None:
    settings = ("prediction.users=unseen", "prediction.prompts=seen", "prediction.counterfactuals=flipped")
    flags = [part for setting in settings for part in ("--set", setting)]
    output("evaluate", "longest", *PREDICT, *flags, "--shots", "2")
    spec = load_run("runs").protocol["prediction"]
    assert (spec["users"], spec["prompts"], spec["counterfactuals"]) == (["unseen"], ["seen"], ["flipped"])


def test_numbers_are_read() -> None:
    assert parse_numbers(" 0, 8 ,64", "--shots") == (0, 8, 64)
    for text in ("", "1;2", "-1", "1,,2"):
        with pytest.raises(UserError, match=f"Cannot read --shots '{text}'. Write whole numbers with commas"):
            parse_numbers(text, "--shots")


def test_all_reports_what_it_leaves_out(folder: Path, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    without = {"needs-gold": 'it needs: pip install "personalllm[gold]"'}
    resolving = importlib.import_module("personalllm.evaluation.resolve")  # the package has a function of this name
    monkeypatch.setattr(resolving, "left_out", lambda track, signals=False: without)
    monkeypatch.setattr("personalllm.evaluation.evaluate", lambda *_, **__: exit(3))
    result = run("evaluate", "all", *SMALL, *EMBEDDER)
    assert 'needs-gold is left out: it needs: pip install "personalllm[gold]"' in result.stderr


def test_the_command_line_starts_light() -> None:
    heavy = ["matplotlib", "sklearn", "numba", "pyarrow", "onnxruntime", "xllamacpp", "scipy"]
    modules = "import sys, personalllm.cli.evaluate, personalllm.backends.names"
    code = f"{modules}; print([m for m in sys.argv[1:] if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_track_follows_from_what_the_methods_can_do(
    folder: Path, run: Callable[..., Any], output: Callable[..., str]
) -> None:
    shown = output("evaluate", "zero-shot", "self-icl", *SMALL, *STANDINS)
    assert "generate track" in shown
    refused = run("evaluate", "zero-shot", "random", *SMALL, *STANDINS)
    assert "use --track generate" in str(refused.exception.remedy)


def test_a_counterfactual_history_is_named(folder: Path, output: Callable[..., str]) -> None:
    shown = output("evaluate", "random", "--set", "history.counterfactual=flipped", *SMALL)
    assert "rank track, counterfactual history (flipped)" in " ".join(shown.split())
