"""Publish on the hub and load it back: real HTTP, the hub's own client, a server on this machine."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from personalllm.cli.data import app
from personalllm.core.errors import OfflineError, ParameterError, RunError, UserError
from personalllm.data import InvalidBenchmark, Preferences, load, validate, write_benchmark
from personalllm.data.dataset_card import dataset_card, licence_id
from personalllm.data.hub import HubDataset, parse_hub_source
from personalllm.data.preferences import holds_preferences
from personalllm.data.push import push_benchmark

yaml = pytest.importorskip("yaml")
hub_client = pytest.importorskip("huggingface_hub")
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's own


def _server_module() -> Any:
    spec = importlib.util.spec_from_file_location("_hub_server", Path(__file__).with_name("_hub_server.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["_hub_server"] = module
    spec.loader.exec_module(module)
    return module


_SERVER = _server_module()
TOKEN = _SERVER.TOKEN
SOURCE = "hf://datasets/me/tiny"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    server = _SERVER.Hub()
    monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    yield server
    hub_client.close_session()
    server.close()


@pytest.fixture
def tiny(tmp_path: Path, make_benchmark: Any) -> Path:
    return write_benchmark(make_benchmark(metadata={"name": "tiny", "licence": "CC-BY-4.0"}), tmp_path / "t.parquet")


def head(hub: Any, name: str = "me/tiny", branch: str = "main") -> dict[str, bytes]:
    repository = hub.repositories[name]
    return repository.commits[repository.branches[branch]]


def n_commits(hub: Any) -> int:
    return len(hub.repositories["me/tiny"].commits)


def test_what_is_pushed_is_loaded_with_the_same_fingerprint(
    hub: Any, tiny: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PERSONALLLM_OFFLINE")
    pushed = push_benchmark(tiny, "me/tiny")
    assert (pushed.url, pushed.source, pushed.changed) == (f"{hub.endpoint}/datasets/me/tiny", SOURCE, True)
    split_files = ["data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"]
    assert sorted(head(hub)) == sorted([".gitattributes", "README.md", *split_files])
    assert (hub.repositories["me/tiny"].private, pushed.private) == (True, True), "unless it is asked to be public"
    back, original = load(SOURCE), load(tiny)
    assert back.fingerprint == original.fingerprint == pushed.fingerprint
    assert back.metadata == original.metadata
    assert (back.name, validate(SOURCE)) == ("me/tiny", [])
    assert not [path for path in cache.rglob("*") if path.name == ".cache" or path.name.endswith(".part")]


def test_a_process_that_does_nothing_else_loads_it(hub: Any, tiny: Path, cache: Path) -> None:
    """The client imports its own parts when they are first asked for, so it matters what was imported before."""
    pushed = push_benchmark(tiny, "me/tiny")
    code = f"import personalllm; print(personalllm.load({SOURCE!r}).fingerprint)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == pushed.fingerprint, done.stderr


def test_one_push_is_one_commit_and_the_same_again_is_none(hub: Any, tiny: Path) -> None:
    first = push_benchmark(tiny, "me/tiny")
    assert n_commits(hub) == 2, "the hub's own and ours"
    uploads = hub.asked("PUT /lfs/")
    again = push_benchmark(tiny, "me/tiny")
    assert (again.changed, again.commit, n_commits(hub)) == (False, first.commit, 2)
    assert hub.asked("PUT /lfs/") == uploads == 2
    assert hub.asked("POST .*/commit/") == 1


def test_another_benchmark_takes_the_place_of_the_first(hub: Any, tiny: Path, tmp_path: Path, make_benchmark: Any):
    push_benchmark(tiny, "me/tiny")
    first = load(SOURCE).fingerprint
    mixed = make_benchmark(n_prompts=8, splits=["train", "test"] * 4)
    done = push_benchmark(write_benchmark(mixed, tmp_path / "mixed.parquet"), "me/tiny")
    assert done.removed == ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet")
    assert sorted(head(hub)) == [".gitattributes", "README.md", "data/full-00000-of-00001.parquet"]
    assert n_commits(hub) == 3, "removed and added in one commit"
    assert load(SOURCE).fingerprint == mixed.fingerprint != first, "a branch is looked up each time"
    old = next(sha for sha, tree in hub.repositories["me/tiny"].commits.items() if len(tree) == 4)
    assert load(f"{SOURCE}@{old}").fingerprint == first


def test_a_branch_and_a_private_dataset(hub: Any, tiny: Path) -> None:
    done = push_benchmark(tiny, "me/tiny", private=True, revision="v2")
    assert hub.repositories["me/tiny"].private
    assert list(head(hub)) == [".gitattributes"], "main is as it was"
    assert done.url.endswith("/datasets/me/tiny/tree/v2")
    assert load(done.source).fingerprint == done.fingerprint
    assert push_benchmark(tiny, "me/tiny", private=True, revision="v2").changed is False


def test_private_never_goes_to_a_public_dataset(hub: Any, tiny: Path, make_benchmark: Any, tmp_path: Path) -> None:
    assert push_benchmark(tiny, "me/tiny", private=False).private is False
    assert not hub.repositories["me/tiny"].private
    secret = write_benchmark(make_benchmark(n_prompts=9), tmp_path / "secret.parquet")
    uploads = hub.asked("PUT")
    with pytest.raises(UserError, match="is there already and is public"):
        push_benchmark(secret, "me/tiny", private=True)
    assert (n_commits(hub), hub.asked("PUT")) == (2, uploads)


def test_a_dataset_that_is_there_stays_as_it_is(hub: Any, tiny: Path, make_benchmark: Any, tmp_path: Path) -> None:
    push_benchmark(tiny, "me/tiny", private=False)
    push_benchmark(tiny, "me/other")
    more = write_benchmark(make_benchmark(n_prompts=9), tmp_path / "more.parquet")
    assert push_benchmark(more, "me/tiny").private is False
    assert push_benchmark(more, "me/other").private is True
    with pytest.raises(
        UserError, match=r"is there already and is private\. Make it public in its settings, leave --pub"
    ):
        push_benchmark(more, "me/other", private=False)


def test_parquet_files_of_somebody_else_are_not_touched(hub: Any, tiny: Path) -> None:
    push_benchmark(tiny, "me/tiny")
    hub.repositories["me/tiny"].commit("main", head(hub) | {"extra/mine.parquet": b"x"}, "by hand")
    with pytest.raises(UserError, match=r"not from a push: extra/mine\.parquet"):
        push_benchmark(tiny, "me/tiny")
    assert "extra/mine.parquet" in head(hub)


@pytest.mark.parametrize(
    ("pattern", "status", "error", "message"),
    [
        ("whoami", 401, UserError, "refused the token"),
        ("repos/create", 403, UserError, "may not write me/tiny"),
        ("/commit/", 403, UserError, "may not write me/tiny"),
        ("/commit/", 409, RunError, "changed by somebody else during the upload"),
        ("/commit/", 412, RunError, "changed by somebody else during the upload"),
        ("/preupload/", 404, UserError, "was not found"),
        ("/commit/", 500, RunError, "failed: .*The dataset is as it was"),
        ("PUT /lfs/", 500, RunError, "failed: .*The dataset is as it was"),
        ("PUT /lfs/", "drop", RunError, "failed: .*The dataset is as it was"),
    ],
)
def test_a_failure_says_what_to_do_and_changes_nothing(
    hub: Any, tiny: Path, pattern: str, status: Any, error: type[Exception], message: str
) -> None:
    hub.fail(pattern, status, times=1000)
    with pytest.raises(error, match=message) as caught:
        push_benchmark(tiny, "me/tiny")
    assert caught.value.remedy
    shown = "".join(traceback.format_exception(caught.value))
    assert TOKEN not in repr(caught.value) + shown, "even if the server repeats it"
    trees = hub.repositories["me/tiny"].commits.values() if hub.repositories else []
    assert all(list(tree) == [".gitattributes"] for tree in trees)


@pytest.mark.parametrize("pattern", ["whoami", "repos/create", "/preupload/", "objects/batch", "PUT /lfs/", "/commit/"])
@pytest.mark.parametrize("what", [500, "drop"])
def test_a_failure_that_passes_is_tried_again(hub: Any, tiny: Path, pattern: str, what: Any) -> None:
    hub.fail(pattern, what)
    done = push_benchmark(tiny, "me/tiny")
    assert done.changed
    assert n_commits(hub) == 2
    assert load(SOURCE).fingerprint == done.fingerprint


def test_a_commit_whose_answer_was_lost_is_not_made_twice(hub: Any, tiny: Path) -> None:
    original = _SERVER._Handler.commit
    routes = _SERVER.ROUTES

    def commit_then_vanish(self: Any, name: str, revision: str, body: bytes) -> None:
        self._send = lambda *args, **kwargs: setattr(self, "close_connection", True)
        original(self, name, revision, body)
        routes[place] = (routes[place][0], original)

    place = next(i for i, (pattern, _) in enumerate(routes) if "/commit/" in pattern)
    routes[place] = (routes[place][0], commit_then_vanish)
    try:
        done = push_benchmark(tiny, "me/tiny")
    finally:
        routes[place] = (routes[place][0], original)
    assert n_commits(hub) == 2
    assert load(SOURCE).fingerprint == done.fingerprint


def test_somebody_elses_commit_in_between_is_not_overwritten(hub: Any, tiny: Path) -> None:
    push_benchmark(tiny, "me/other")

    def interfere() -> None:
        hub.before.clear()
        hub.repositories["me/tiny"].commit("main", {"theirs.txt": b"theirs"}, "theirs")

    hub.before.append(("PUT /lfs/|objects/batch", interfere))
    with pytest.raises(RunError, match="changed by somebody else"):
        push_benchmark(tiny, "me/tiny")
    assert head(hub) == {"theirs.txt": b"theirs"}


def test_a_connection_that_breaks_in_the_upload_leaves_the_earlier_dataset(hub: Any, tiny: Path) -> None:
    push_benchmark(tiny, "me/tiny")
    before = dict(head(hub))
    hub.fail("PUT /lfs/", "drop", times=1000)
    with pytest.raises(RunError):
        push_benchmark("mini", "me/tiny")
    assert head(hub) == before
    assert load(SOURCE).fingerprint == load(tiny).fingerprint
    hub.faults.clear()
    assert push_benchmark("mini", "me/tiny").changed
    assert load(SOURCE).fingerprint == load("mini").fingerprint


def test_a_benchmark_with_problems_is_refused_before_anything_is_sent(hub: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("prompt,subset,prompt_id\nhello,s,1\n")
    with pytest.raises(InvalidBenchmark, match="not a benchmark in the released schema"):
        push_benchmark(tmp_path / "bad.csv", "me/tiny")
    assert hub.requests == []


def test_a_rehearsal_connects_to_nothing_and_needs_no_token(
    hub: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    done = push_benchmark(tiny, "me/tiny", dry_run=True)
    assert (hub.requests, done.changed, done.commit) == ([], False, "")
    assert done.files["README.md"] == len(done.card.encode())


@pytest.mark.parametrize(
    ("name", "settings", "error", "message"),
    [
        ("tiny", {}, ParameterError, "repository must be OWNER/NAME"),
        ("me/../tiny", {}, ParameterError, "repository must be OWNER/NAME"),
        ("me/tiny", {"HF_TOKEN": ""}, UserError, "There is no token"),
        ("me/tiny", {"HF_ENDPOINT": "https://hub.example"}, OfflineError, "PERSONALLLM_OFFLINE is set"),
        ("me/tiny", {"HF_ENDPOINT": ""}, OfflineError, "https://huggingface.co is not on this machine"),
        ("me/tiny", {"HF_ENDPOINT": "http://hub.example"}, UserError, "not encrypted"),
        ("me/tiny", {"HF_ENDPOINT": "https://me:pw@hub.example"}, UserError, "carries a user name"),
        ("me/tiny", {"HF_ENDPOINT": "hub.example"}, UserError, "not the address of a server"),
    ],
)
def test_bad_settings_are_refused(
    hub: Any,
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    settings: dict[str, str],
    error: type[Exception],
    message: str,
) -> None:
    for key, value in settings.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(error, match=message):
        push_benchmark(tiny, name)
    assert hub.requests == []


def test_a_branch_must_have_a_name(hub: Any, tiny: Path) -> None:
    for revision in ("", "a b", "../x", "/x"):
        with pytest.raises(ParameterError, match="the name of a branch"):
            push_benchmark(tiny, "me/tiny", revision=revision)


def test_the_token_comes_from_the_environment_only_and_is_never_shown(
    hub: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    done = CliRunner().invoke(app, ["push", str(tiny), "--to", "me/tiny"])
    assert done.exit_code == 0, done.output
    assert f"{hub.endpoint}/datasets/me/tiny" in done.output.replace("\n", "")
    assert "personalllm.load('hf://datasets/me/tiny')" in done.output
    again = CliRunner().invoke(app, ["push", str(tiny), "--to", "me/tiny"])
    assert "unchanged since commit" in again.output
    out, err = capfd.readouterr()
    assert TOKEN not in done.output + again.output + out + err
    monkeypatch.setenv("HF_TOKEN", "hf_wrong_token_value")
    with pytest.raises(UserError, match="refused the token") as caught:
        push_benchmark(tiny, "me/tiny")
    assert "hf_wrong_token_value" not in str(caught.value)


def test_a_rehearsal_on_the_command_line(hub: Any, tiny: Path) -> None:
    done = CliRunner().invoke(app, ["push", str(tiny), "--to", "me/tiny", "--dry-run"])
    assert done.exit_code == 0
    for words in ("license: cc-by-4.0", "data/train-00000-of-00001.parquet", "Nothing was sent", "6 prompts"):
        assert words in done.output


def test_the_card_says_what_the_hub_reads_and_escapes_the_rest(make_benchmark: Any) -> None:
    nasty = 'x" \n---\nlicense: mit\n`|<script>alert(1)</script>[a](javascript:b) \u2028🦜'
    benchmark = make_benchmark(
        response_models=[nasty, "b", "c"],
        subsets=[nasty] * 6,
        metadata={"name": nasty, "licence": "Prompts: MIT.", "provenance": {"note": "````\n# heading\n<b>"}},
    )
    card = dataset_card(benchmark, {"train": ["data/a.parquet"], "test": ["data/b.parquet"]}, "me/tiny")
    _, front, body = card.split("---\n", 2)
    known = yaml.safe_load(front)
    assert known["license"] == "other"
    assert known["pretty_name"].startswith('x" --- license: mit')
    assert known["size_categories"] == ["n<1K"]
    splits = known["configs"][0]["data_files"]
    assert splits == [
        {"split": "train", "path": ["data/a.parquet"]},
        {"split": "test", "path": ["data/b.parquet"]},
    ]
    text, _, note = body.partition("## How it was made")
    assert "<script" not in text
    assert "](javascript" not in text
    assert "&lt;script&gt;" in text
    assert max(line.count("|") - line.count(r"\|") for line in text.splitlines()) == 4
    assert note.count("`````") == 2, "the fence is longer than any run of backticks inside"
    assert benchmark.fingerprint in text


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("", "unknown"), ("apache-2.0", "apache-2.0"), ("CC BY-NC 4.0", "cc-by-nc-4.0"), ("Ask us", "other")],
)
def test_licences(text: str, wanted: str) -> None:
    assert licence_id(text) == wanted


@pytest.mark.parametrize("source", ["hf://me/tiny", "hf://datasets/tiny", "hf://datasets/me/tiny@", "hf://models/a/b"])
def test_odd_names_of_hub_datasets_are_refused(source: str) -> None:
    with pytest.raises(ParameterError):
        load(source)


def test_names_of_hub_datasets() -> None:
    assert parse_hub_source("hf://datasets/me/tiny@a/b") == HubDataset("me/tiny", "a/b")
    assert parse_hub_source("mini") is None
    assert parse_hub_source(Path("hf:/datasets/me/tiny")) is None


def test_loading_what_is_not_there_or_not_shown(hub: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"shows no dataset me/none at 'main' \(404\)"):
        load("hf://datasets/me/none")
    push_benchmark(tiny, "me/tiny")
    with pytest.raises(UserError, match="shows no dataset me/tiny at 'v9'"):
        load(f"{SOURCE}@v9")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match="HF_TOKEN is not set"):
        load(SOURCE)


def test_without_a_hub_the_copy_fetched_last_is_used(hub: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = push_benchmark(tiny, "me/tiny")
    load(SOURCE)
    hub.fail("GET /api/datasets", "drop", times=1000)
    assert load(SOURCE).fingerprint == done.fingerprint
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example")
    asked = len(hub.requests)
    assert load(SOURCE).fingerprint == done.fingerprint
    assert load(f"{SOURCE}@{done.commit}").fingerprint == done.fingerprint
    with pytest.raises(OfflineError, match="switched off"):
        load("hf://datasets/me/other")
    assert len(hub.requests) == asked


def test_a_download_that_breaks_leaves_nothing_behind(hub: Any, tiny: Path, cache: Path) -> None:
    done = push_benchmark(tiny, "me/tiny")
    hub.fail("GET /datasets/.*/resolve/", "drop", times=1000)
    with pytest.raises(OfflineError, match="cannot be fetched"):
        load(SOURCE)
    assert not list(cache.rglob("*.parquet"))
    hub.faults.clear()
    assert load(SOURCE).fingerprint == done.fingerprint


def test_people_are_fetched_at_a_pinned_revision_and_only_the_files_that_hold_them(hub: Any, cache: Path) -> None:
    rows = [
        {"user_id": "u", "interaction_id": "i", "user_prompt": "Hi", "model_response": text, "if_chosen": text == "a"}
        for text in "ab"
    ]
    tree = {"utterances.jsonl": "".join(f"{json.dumps(row)}\n" for row in rows).encode(), "survey.jsonl": b"{}\n"}
    name = "HannahRoseKirk/prism-alignment"
    repository = hub.repositories[name] = _SERVER.Repository(private=False)
    old = repository.commit("main", tree, "first")
    repository.commit("main", {"utterances.jsonl": b"broken"}, "second")
    assert holds_preferences(f"hf://datasets/{name}"), "known by its name, before anything is fetched"
    assert hub.asked("resolve") == 0
    with pytest.raises(UserError, match="names no revision"):
        Preferences.from_rows(f"hf://datasets/{name}")
    people = Preferences.from_rows(f"hf://datasets/{name}@{old}")
    assert (people.n, people.name, people.about["source"]) == (1, "prism-alignment", f"hf://datasets/{name}@{old}")
    assert hub.asked("resolve/.*utterances.jsonl") > 0 == hub.asked("resolve/.*survey.jsonl")
    before = len(hub.requests)
    assert Preferences.from_rows(f"hf://datasets/{name}@{old}").fingerprint == people.fingerprint
    assert len(hub.requests) == before, "a commit that is here is not looked up again"
