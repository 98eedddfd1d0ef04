"""`load` and `validate`: from the name or path of a source to a benchmark, or to the list of its problems."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from personalllm.core.errors import DataError
from personalllm.core.storage import offline
from personalllm.core.types import JSON
from personalllm.data.benchmark import Benchmark
from personalllm.data.build import benchmark_from_scan
from personalllm.data.hub import fetch_dataset, fetch_release, parse_hub_source
from personalllm.data.problems import Problem, ProblemLog, raise_for
from personalllm.data.readers import Part, find_parts
from personalllm.data.scan import Scan
from personalllm.data.store import open_stored, source_key, store, table_folder

__all__ = ["METADATA_KEY", "load", "mini_path", "validate"]

METADATA_KEY = b"personalllm"


def load(source: str | Path, *, cache: bool = True) -> Benchmark:
    """Return the benchmark that a name or a path stands for.

    The first load of a source checks every row and keeps a memory-mapped copy in the cache folder; later loads open
    that copy. A file that was changed is read and checked again.

    Splits come from a column `split`, else from names such as `train.jsonl`, `test-00000-of-00001.parquet` or a
    folder `train/`; without either, all rows are `"test"`.

    Args:
        source: `"mini"` (embedded), `"personalllm"` (the release, from the hub), `"hf://datasets/OWNER/NAME"` with or
            without `@REVISION` (from the hub at `$HF_ENDPOINT`), or the path of a Parquet, JSONL or CSV file (the
            latter two also gzipped), of a folder of such files, or of a `datasets` folder.
        cache: False to read the source itself into memory and leave the cache folder alone.

    Raises:
        DataError: If the source is absent.
        InvalidBenchmark: If it breaks the schema (a DataError); lists the first problems and carries all of them in
            its attribute `problems`.
        OfflineError: If it is on the hub, not on this machine, and the hub cannot be reached; says what to do.
        MissingExtra: If it is on the hub, not on this machine, and the extra `hub` is not installed.
    """
    path, name = _resolve(source)
    parts = find_parts(path)
    folder = table_folder(source_key(path, parts))
    if cache:
        try:
            return open_stored(folder, name)
        except DataError:
            shutil.rmtree(folder, ignore_errors=True)
    log = ProblemLog()
    benchmark = benchmark_from_scan(name, Scan(parts, log), _metadata(parts))
    raise_for(source, log.problems())
    if benchmark is None:
        raise DataError(f"{source} holds no rows.", "Give a file with at least one prompt.")
    if not cache:
        return benchmark
    try:
        store(benchmark, folder)
        return open_stored(folder, name)
    except (OSError, DataError):
        return benchmark


def validate(path: str | Path) -> list[Problem]:
    """Return all that is wrong with a source, errors first; an empty list if nothing is.

    Args:
        path: As for `load`.
    """
    try:
        found, _ = _resolve(path)
        parts = find_parts(found)
    except DataError as error:
        return [Problem(str(path), "", None, error.message.rstrip("."), error.remedy, "error", "source")]
    log = ProblemLog()
    for _ in Scan(parts, log).batches():
        pass
    return log.problems()


def mini_path() -> Path:
    """Return the file of the embedded benchmark.

    Raises:
        DataError: If this build of the package does not carry it.
    """
    path = Path(__file__).parent / "mini" / "mini.parquet"
    if not path.is_file():
        raise DataError(
            "This build of personalllm does not carry the embedded benchmark 'mini'.",
            "Install the released wheel, or give the path of a benchmark file.",
        )
    return path


def _resolve(source: str | Path) -> tuple[Path, str]:
    if source == "mini":
        return mini_path(), "mini"
    if source == "personalllm":
        return fetch_release(connect=not offline()), "personalllm"
    if (dataset := parse_hub_source(source)) is not None:
        return fetch_dataset(dataset), dataset.repository
    path = Path(source).expanduser()
    return path, path.name or str(path)


def _metadata(parts: list[Part]) -> JSON:
    """Return what the writer of a Parquet file noted under the schema key `personalllm`."""
    import pyarrow.parquet as pq

    if parts[0].format != "parquet":
        return {}
    try:
        value = json.loads((pq.read_schema(parts[0].path).metadata or {}).get(METADATA_KEY, b"{}"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
