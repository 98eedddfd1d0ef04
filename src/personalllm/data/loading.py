"""Load or validate a source: from a name or path to a benchmark, or to the list of its problems."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from personalllm.core.errors import DataError, UnknownName
from personalllm.core.storage import offline
from personalllm.data.benchmark import Benchmark, benchmark_from_scan
from personalllm.data.files import Part, find_parts, parquet_notes
from personalllm.data.hub import fetch_dataset, fetch_release, parse_hub_source
from personalllm.data.preferences import resembles_preferences
from personalllm.data.problems import Problem, ProblemLog, raise_for
from personalllm.data.rows import parts_of, read_names
from personalllm.data.scan import Scan
from personalllm.data.store import open_stored, source_key, store, table_folder
from personalllm.data.text_rows import Unreadable

__all__ = ["load", "mini_path", "validate"]

_MINI = {"mini": "v2", "mini@v1": "v1", "mini@v2": "v2"}
"""Embedded benchmarks: the same texts, scored by `compact-v1` or `compact-v2`; `mini` is the harder one."""


def load(source: Any, *, columns: Mapping[str, str] | None = None, cache: bool = True) -> Benchmark:
    """Return the benchmark that a name, a path or a table in memory stands for.

    The first load of a file checks every row and keeps a memory-mapped copy in the cache folder; later loads open
    that copy. A file that was changed is read and checked again.

    Splits come from a column `split`, else from names such as `train.jsonl`, `test-00000-of-00001.parquet` or a
    folder `train/`; without either, all rows are `"test"`.

    Args:
        source: `"mini"` (embedded; also `"mini@v1"`, `"mini@v2"`), `"personalllm"` (the release, from the hub),
            `"hf://datasets/OWNER/NAME"` with or without `@REVISION` (from the hub at `$HF_ENDPOINT`); the path of a
            Parquet, Arrow (Feather), JSONL, JSON, CSV or TSV file (texts also gzipped), of a folder of such files, or
            of a `datasets` folder; or a pandas or polars DataFrame, a pyarrow table, a `datasets.Dataset`, a list of
            dicts, or a dict of these by split.
        columns: What the source calls a column, e.g. `{"prompt": "question"}`.
        cache: False to read the source itself into memory and leave the cache folder alone.

    Raises:
        DataError: If the source is absent.
        ParameterError: If it is an object of another kind.
        InvalidBenchmark: If it breaks the schema (a DataError); lists the first problems and carries all of them in
            its attribute `problems`.
        OfflineError: If it is on the hub, not on this machine, and the hub cannot be reached; says what to do.
        MissingExtra: If it is on the hub, not on this machine, and the extra `hub` is not installed.

    >>> rm = {"response_1_rm": 0.5, "response_2_rm": -1.0}
    >>> texts = {"response_1": "Hello.", "response_2": "What?", "response_1_model": "m", "response_2_model": "n"}
    >>> load([{"prompt_id": "a", "prompt": "Hi!", "subset": "chat", **texts, **rm}])
    Benchmark('the list': 1 prompts (test 1), 2 responses, 1 reward models, fingerprint ...)
    """
    columns = columns or {}
    if not isinstance(source, str | Path):
        parts = parts_of(source)
        return _read(" and ".join(str(part.path) for part in parts), parts, columns)
    path, name = _resolve(source)
    parts = find_parts(path)
    folder = table_folder(source_key(path, parts, columns))
    if cache:
        try:
            return open_stored(folder, name)
        except DataError:
            shutil.rmtree(folder, ignore_errors=True)
    benchmark = _read(source, parts, columns, name)
    if not cache:
        return benchmark
    try:
        store(benchmark, folder)
        return open_stored(folder, name)
    except (OSError, DataError):
        return benchmark


def _read(source: str | Path, parts: list[Part], columns: Mapping[str, str], name: str | None = None) -> Benchmark:
    """Read and check a benchmark; `source` is what messages call it."""
    log = ProblemLog()
    benchmark = benchmark_from_scan(name or str(source), Scan(parts, log, columns), parquet_notes(parts))
    problems = log.problems()
    raise_for(source, problems, _remedy(source, parts, columns, problems))
    if benchmark is None:
        raise DataError(f"{source} holds no rows.", "Give at least one prompt.")
    return benchmark


def _remedy(source: str | Path, parts: list[Part], columns: Mapping[str, str], problems: list[Problem]) -> str:
    """Return what to do about a source that is no benchmark; empty if it is in memory and there is nothing to add."""
    if any(problem.kind == "n-responses" for problem in problems):
        with suppress(Unreadable):
            if resembles_preferences(read_names(parts[0]), columns):
                return "It looks like people's preferences, which personalllm.Preferences.from_rows reads."
    return "" if parts[0].format == "memory" else f"See them all: personalllm data validate {source}"


def validate(source: Any, *, columns: Mapping[str, str] | None = None) -> list[Problem]:
    """Return all that is wrong with a source, errors first; an empty list if nothing is.

    Args:
        source: As for `load`.
        columns: As for `load`.
    """
    try:
        parts = find_parts(_resolve(source)[0]) if isinstance(source, str | Path) else parts_of(source)
    except DataError as error:
        return [Problem(str(source), "", None, error.message.rstrip("."), error.remedy, "error", "source")]
    log = ProblemLog()
    for _ in Scan(parts, log, columns or {}).batches():
        pass
    return log.problems()


def mini_path(name: str = "mini") -> Path:
    """Return the file of an embedded benchmark.

    Args:
        name: `"mini"`, or `"mini@v1"` or `"mini@v2"` for one of its two versions.

    Raises:
        UnknownName: If there is no such version.
        DataError: If this build of the package does not carry it.
    """
    if name not in _MINI:
        raise UnknownName("embedded benchmark", name, _MINI)
    path = Path(__file__).parent / "mini" / f"{_MINI[name]}.parquet"
    if not path.is_file():
        raise DataError(
            f"This build of personalllm does not carry the embedded benchmark {name!r}.",
            "Install the released wheel, or give the path of a benchmark file.",
        )
    return path


def _resolve(source: str | Path) -> tuple[Path, str]:
    if str(source).partition("@")[0] == "mini":
        path = mini_path(str(source))
        return path, "mini" if path == mini_path() else str(source)
    if source == "personalllm":
        return fetch_release(connect=not offline()), "personalllm"
    if (dataset := parse_hub_source(source)) is not None:
        return fetch_dataset(dataset), dataset.repository
    path = Path(source).expanduser()
    return path, path.name or str(path)
