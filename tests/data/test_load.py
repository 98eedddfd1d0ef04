"""Loading: every format gives the same benchmark, memory-mapped, cached, with its splits."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from personalllm.core.errors import DataError, OfflineError, ParameterError
from personalllm.data import Benchmark, InvalidBenchmark, Preferences, Standardiser, load, write_benchmark
from personalllm.data.files import find_parts

FORMATS = ("a.parquet", "a.jsonl", "a.jsonl.gz", "a.csv", "a.csv.gz", "folder")

text = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=40).filter(lambda value: value.strip())
name = st.text(st.characters(exclude_categories=("Cs", "Cc", "Z")), min_size=1, max_size=8)
score = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def benchmarks(draw: Callable[..., Any]) -> Benchmark:
    n_prompts, n_responses, n_reward_models = draw(st.integers(1, 4)), draw(st.integers(2, 4)), draw(st.integers(1, 3))

    def many(strategy: Any, n: int, *, unique: bool = False) -> list[Any]:
        return draw(st.lists(strategy, min_size=n, max_size=n, unique=unique))

    scores = many(score, n_prompts * n_responses * n_reward_models)
    return Benchmark.from_arrays(
        name="drawn",
        prompt_ids=many(text, n_prompts, unique=True),
        prompts=many(text, n_prompts),
        subsets=many(text, n_prompts),
        splits=many(st.sampled_from(["train", "test"]), n_prompts),
        responses=[many(text, n_responses) for _ in range(n_prompts)],
        response_models=[many(name, n_responses) for _ in range(n_prompts)],
        reward_models=many(name.filter(lambda value: value != "model"), n_reward_models, unique=True),
        scores=np.array(scores, np.float32).reshape(n_prompts, n_responses, n_reward_models),
    )


def assert_same(first: Benchmark, second: Benchmark) -> None:
    assert first.fingerprint == second.fingerprint
    assert first.prompt_ids.to_pylist() == second.prompt_ids.to_pylist()
    assert first.prompts.to_pylist() == second.prompts.to_pylist()
    assert first.subsets.to_pylist() == second.subsets.to_pylist()
    assert first.responses.to_pylist() == second.responses.to_pylist()
    assert first.response_models == second.response_models
    assert first.reward_models == second.reward_models
    assert first.row_splits() == second.row_splits()
    np.testing.assert_array_equal(first.response_model_index, second.response_model_index)
    np.testing.assert_array_equal(first.scores, second.scores)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(benchmarks())
def test_write_then_load_is_the_identity_in_every_format(bench: Benchmark) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for file_name in FORMATS:
            assert_same(load(write_benchmark(bench, Path(folder) / file_name), cache=False), bench)


@pytest.mark.parametrize("file_name", FORMATS)
def test_first_and_later_loads_agree(tmp_path: Path, make_benchmark: Any, cache: Path, file_name: str) -> None:
    bench = make_benchmark(n_prompts=1100)
    path = write_benchmark(bench, tmp_path / file_name)
    assert_same(load(path), bench)
    (folder,) = (cache / "tables").iterdir()
    later = load(path)
    assert_same(later, bench)
    assert isinstance(later.scores.base, np.memmap)
    assert later.name == file_name
    assert [child.name for child in (cache / "tables").iterdir()] == [folder.name]


def test_arrays_are_read_only(tmp_path: Path, make_benchmark: Any) -> None:
    bench = make_benchmark()
    for each in (bench, load(write_benchmark(bench, tmp_path / "a.parquet"))):
        for array in (each.scores, each.response_model_index, each.rows("train")):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 0
        with pytest.raises(dataclasses.FrozenInstanceError):
            each.name = "other"
        with pytest.raises(TypeError):
            each.splits["train"] = each.rows("test")


def test_changed_file_is_read_again(tmp_path: Path, make_benchmark: Any) -> None:
    path = write_benchmark(make_benchmark(), tmp_path / "a.parquet")
    before = load(path)
    other = write_benchmark(make_benchmark(subsets=["x"] * 6), path)
    os.utime(other, ns=(1, 1))
    assert load(path).fingerprint != before.fingerprint


@pytest.mark.parametrize("file_name", ["scores.npy", "head.json", "prompts.arrow", "responses.arrow", "models.npy"])
def test_damaged_cache_is_made_again(tmp_path: Path, make_benchmark: Any, cache: Path, file_name: str) -> None:
    bench = make_benchmark()
    path = write_benchmark(bench, tmp_path / "a.parquet")
    load(path)
    (folder,) = (cache / "tables").iterdir()
    raw = (folder / file_name).read_bytes()
    (folder / file_name).write_bytes(raw[: len(raw) // 2])
    assert_same(load(path), bench)
    assert (folder / file_name).read_bytes() == raw


def test_unwritable_cache_does_not_stop_loading(tmp_path: Path, make_benchmark: Any, monkeypatch: Any) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PERSONALLLM_CACHE", str(tmp_path / "file"))
    bench = make_benchmark()
    assert_same(load(write_benchmark(bench, tmp_path / "a.jsonl")), bench)


def test_without_cache_nothing_is_written(tmp_path: Path, make_benchmark: Any, cache: Path) -> None:
    load(write_benchmark(make_benchmark(), tmp_path / "a.parquet"), cache=False)
    assert list(cache.iterdir()) == []


def test_metadata_travels_in_parquet_only(tmp_path: Path, make_benchmark: Any) -> None:
    bench = make_benchmark(metadata={"reward_ensemble": "compact-v1"})
    assert load(write_benchmark(bench, tmp_path / "a.parquet")).metadata == {"reward_ensemble": "compact-v1"}
    assert load(write_benchmark(bench, tmp_path / "a.csv")).metadata == {}
    assert bench.fingerprint == make_benchmark().fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"subsets": ["x"] * 6},
        {"splits": ["test"] * 6},
        {"prompt_ids": list("abcdef")},
        {"response_models": ["x", "y", "z"]},
        {"reward_models": ("rm_a", "rm_c")},
        {"scores": np.ones((6, 3, 2))},
        {"responses": [["a", "b", "c"]] * 6},
        {"prompts": ["x"] * 6},
    ],
    ids=lambda change: next(iter(change)),
)
def test_fingerprint_changes_with_any_content(make_benchmark: Any, change: dict[str, Any]) -> None:
    assert make_benchmark(**change).fingerprint != make_benchmark().fingerprint


def test_fingerprint_tells_where_one_text_ends(make_benchmark: Any) -> None:
    first = make_benchmark(responses=[["ab", "c", "d"]] * 6)
    assert first.fingerprint != make_benchmark(responses=[["a", "bc", "d"]] * 6).fingerprint


def test_fingerprint_is_the_same_on_every_machine(make_benchmark: Any) -> None:
    bench = make_benchmark(n_prompts=2, scores=np.arange(12, dtype=float).reshape(2, 3, 2))
    assert bench.fingerprint == "20dfb8c5e33aa2dee369f9fb5e137e8b643602f040377861d3666f91a4e2d764"


def test_column_order_does_not_matter(tmp_path: Path, columns: Any, write_jsonl: Any) -> None:
    first = load(write_jsonl(tmp_path / "a.jsonl", columns))
    second = load(write_jsonl(tmp_path / "b.jsonl", dict(reversed(columns.items()))))
    assert first.fingerprint == second.fingerprint
    assert first.reward_models == ("rm_a", "rm_b")
    assert first.scores[2, 1].tolist() == [3.0, 1.0]


def test_reward_models_are_sorted_with_their_scores(make_benchmark: Any) -> None:
    scores = np.arange(36, dtype=float).reshape(6, 3, 2)
    bench = make_benchmark(reward_models=("z", "a"), scores=scores)
    assert bench.reward_models == ("a", "z")
    np.testing.assert_array_equal(bench.scores, scores[:, :, ::-1])


def test_many_responses_and_one_reward_model(tmp_path: Path, make_benchmark: Any) -> None:
    bench = make_benchmark(n_prompts=2, n_responses=255, reward_models=("only",))
    assert_same(load(write_benchmark(bench, tmp_path / "a.parquet")), bench)
    with pytest.raises(DataError, match="2 to 255 responses"):
        make_benchmark(n_prompts=2, n_responses=256)


def test_whole_number_ids_are_the_same_in_every_format(
    tmp_path: Path, columns: Any, write_jsonl: Any, write_parquet: Any
) -> None:
    columns["prompt_id"] = [3, 1, 4, 15]
    first = load(write_jsonl(tmp_path / "a.jsonl", columns))
    assert first.prompt_ids.to_pylist() == ["3", "1", "4", "15"]
    assert first.fingerprint == load(write_parquet(tmp_path / "a.parquet", columns)).fingerprint


SPLIT_NAMES: list[tuple[str, str]] = [
    ("train.jsonl", "train"),
    ("train-00000-of-00002.jsonl", "train"),
    ("test_part.jsonl", "test"),
    ("dev.jsonl", "validation"),
    ("trainer.jsonl", "test"),
    ("bench.jsonl", "test"),
]


@pytest.mark.parametrize(("file_name", "split"), SPLIT_NAMES)
def test_split_of_a_file_name(tmp_path: Path, columns: Any, write_jsonl: Any, file_name: str, split: str) -> None:
    del columns["split"]
    assert list(load(write_jsonl(tmp_path / file_name, columns)).splits) == [split]


@pytest.mark.parametrize("names", [("train", "test"), ("data/train-00000-of-00001", "data/test-00000-of-00001")])
def test_folder_of_parts(tmp_path: Path, columns: Any, write_parquet: Any, names: tuple[str, str]) -> None:
    del columns["split"]
    write_parquet(tmp_path / "b" / f"{names[1]}.parquet", columns | {"prompt_id": list("wxyz")})
    write_parquet(tmp_path / "b" / f"{names[0]}.parquet", columns)
    (tmp_path / "b" / ".hidden.parquet").write_text("not read")
    bench = load(tmp_path / "b")
    assert bench.prompt_ids.to_pylist() == ["p0", "p1", "p2", "p3", "w", "x", "y", "z"]
    assert list(bench.rows("train")) == [0, 1, 2, 3]
    assert list(bench.rows("test")) == [4, 5, 6, 7]


def test_folders_named_after_splits(tmp_path: Path, columns: Any, write_jsonl: Any) -> None:
    del columns["split"]
    write_jsonl(tmp_path / "b" / "train" / "x.jsonl", columns)
    write_jsonl(tmp_path / "b" / "test" / "x.jsonl", columns | {"prompt_id": list("wxyz")})
    assert {split: len(rows) for split, rows in load(tmp_path / "b").splits.items()} == {"train": 4, "test": 4}


def test_datasets_folder_of_one_dataset(tmp_path: Path, make_benchmark: Any) -> None:
    bench = make_benchmark(splits=["test", "train"] * 3)
    path = write_benchmark(bench, tmp_path / "folder")
    assert (path / "state.json").is_file()
    assert_same(load(path), bench)


def test_datasets_folder_with_strings_in_dictionaries(tmp_path: Path, columns: Any) -> None:
    import pyarrow as pa

    del columns["split"]
    table = pa.table({key: pa.array(values) for key, values in columns.items()})
    table = table.set_column(1, "subset", table.column("subset").dictionary_encode())
    folder = tmp_path / "set"
    folder.mkdir()
    with (
        pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as writer,
    ):
        writer.write_table(table)
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": "train"}
    (folder / "state.json").write_text(json.dumps(state))
    assert list(load(folder).splits) == ["train"]
    assert find_parts(folder)[0].format == "arrow"


def test_pickle_keeps_everything(make_benchmark: Any) -> None:
    bench = make_benchmark()
    again = pickle.loads(pickle.dumps(bench))
    assert_same(again, bench)
    assert not again.scores.flags.writeable


def test_texts_by_row_and_column(make_benchmark: Any) -> None:
    bench = make_benchmark()
    assert bench.prompt(2).startswith("Prompt 2")
    assert bench.response(4, 1) == "Response 1 to 4\n"
    for row, column in ((6, 0), (-1, 0), (0, 3), (0, -1)):
        with pytest.raises(ParameterError, match="in \\[0, "):
            bench.response(row, column)
    with pytest.raises(ParameterError, match="one of test, train, got 'dev'"):
        bench.rows("dev")


def test_score_table_is_standardised(make_benchmark: Any) -> None:
    bench = make_benchmark()
    table = bench.score_table(Standardiser.fit(bench), bench.rows("train"))
    assert (table.n_prompts, table.n_responses, table.reward_models) == (4, 3, bench.reward_models)
    np.testing.assert_allclose(table.values.mean(axis=(0, 1)), 0, atol=1e-6)
    np.testing.assert_allclose(table.values.std(axis=(0, 1)), 1, atol=1e-6)
    assert bench.score_table(Standardiser.fit(bench)).n_prompts == 6


def test_write_refuses_what_it_cannot_name(tmp_path: Path, make_benchmark: Any) -> None:
    with pytest.raises(ParameterError, match=r"\.parquet"):
        write_benchmark(make_benchmark(), tmp_path / "a.xlsx")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ParameterError, match="does not exist yet"):
        write_benchmark(make_benchmark(), tmp_path / "folder")


def test_release_offline_says_which_files_and_where(monkeypatch: Any, cache: Path) -> None:
    monkeypatch.setenv("PERSONALLLM_OFFLINE", "1")
    with pytest.raises(OfflineError) as caught:
        load("personalllm")
    assert "PERSONALLLM_OFFLINE" in caught.value.message
    assert str(cache / "hub" / "personalllm") in caught.value.remedy
    assert "train-*.parquet" in caught.value.remedy


def test_release_unreachable(monkeypatch: Any, cache: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def refuse(*arguments: Any, **options: Any) -> str:
        assert options["revision"] == "abc"
        raise OSError("no route to host")

    monkeypatch.setattr(hub, "snapshot_download", refuse)
    monkeypatch.setenv("PERSONALLLM_DATA_REVISION", "abc")
    monkeypatch.delenv("PERSONALLLM_OFFLINE", raising=False)
    with pytest.raises(OfflineError, match="no route to host"):
        load("personalllm")


def test_release_is_fetched_once(monkeypatch: Any, cache: Path, columns: Any, write_parquet: Any) -> None:
    hub = pytest.importorskip("huggingface_hub")
    calls = []

    def fetch(dataset: str, **options: Any) -> str:
        calls.append((dataset, options["repo_type"]))
        del columns["split"]
        write_parquet(Path(options["local_dir"]) / "data" / "train-00000-of-00001.parquet", columns)
        return options["local_dir"]

    monkeypatch.setattr(hub, "snapshot_download", fetch)
    monkeypatch.delenv("PERSONALLLM_OFFLINE", raising=False)
    assert load("personalllm").n_prompts == 4
    bench = load("personalllm")
    assert calls == [("namkoong-lab/PersonalLLM", "dataset")]
    assert bench.name == "personalllm"
    assert len(bench.rows("train")) == 4


def test_release_put_there_by_hand(monkeypatch: Any, cache: Path, columns: Any, write_parquet: Any) -> None:
    monkeypatch.setenv("PERSONALLLM_OFFLINE", "1")
    write_parquet(cache / "hub" / "personalllm" / "train-00000-of-00001.parquet", columns)
    assert load("personalllm").n_prompts == 4


def test_absent_mini_says_so(monkeypatch: Any, tmp_path: Path) -> None:
    import personalllm.data.loading as loading

    monkeypatch.setattr(loading, "__file__", str(tmp_path / "loading.py"))
    with pytest.raises(DataError, match="does not carry the embedded benchmark"):
        load("mini")


def test_people_s_file_given_to_load_names_preferences(tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    path.write_text("user,prompt,chosen,rejected\nann,Hi,Hello.,What?\n", encoding="utf-8")
    for source in (path, [{"user": "ann", "prompt": "Hi", "chosen": "Hello.", "rejected": "What?"}]):
        with pytest.raises(InvalidBenchmark) as raised:
            load(source)
        assert raised.value.remedy == (
            "It looks like people's preferences, which personalllm.Preferences.from_rows reads."
        )


def test_a_benchmark_given_to_preferences_names_load(make_benchmark: Any, tmp_path: Path) -> None:
    path = write_benchmark(make_benchmark(), tmp_path / "a.parquet")
    with pytest.raises(DataError) as raised:
        Preferences.from_rows(path)
    assert raised.value.remedy == "It looks like a benchmark, which personalllm.load reads."


def test_errors_of_a_table_in_memory_send_nobody_to_a_command() -> None:
    row = {"prompt_id": "a", "prompt": "", "subset": "s", "response_1": "x", "response_2": "y"}
    row |= {"response_1_model": "m", "response_2_model": "n", "response_1_rm": 1.0, "response_2_rm": 2.0}
    with pytest.raises(InvalidBenchmark, match="the prompt is empty in row 1") as raised:
        load([row])
    assert raised.value.remedy == "They are all in the attribute `problems` of this error."
    assert len(raised.value.problems) == 1
