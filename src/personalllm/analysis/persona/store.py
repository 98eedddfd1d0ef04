"""Store the scores of personas: a ledger that makes a run resumable, and the file of a finished result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from personalllm.core.errors import DataError
from personalllm.core.storage import BlobStore, atomic_path, cache_file, canonical_json
from personalllm.core.types import F32

__all__ = ["Ledger", "prompt_key", "read_table", "write_table"]

FILE_FORMAT = "personalllm-persona-scores/1"


def prompt_key(prompt: str, responses: Sequence[str]) -> bytes:
    """Return the SHA-256 of a prompt and its responses in their order."""
    state = hashlib.sha256()
    for text in (prompt, *responses):
        raw = text.encode("utf-8", "surrogatepass")
        state.update(len(raw).to_bytes(8, "little"))
        state.update(raw)
    return state.digest()


class Ledger:
    """The scores of one scorer on disk, one entry for each persona and prompt.

    The key of an entry is a digest of the texts of persona, prompt and responses, so another sample of personas or
    prompts reuses the entries. They are committed during the run: a killed run loses at most one block.

    Args:
        identity: Of the scorer; each has a file of its own.
        directory: Where the files are; the folder `personas` of the user's cache if None.
    """

    def __init__(self, identity: str, directory: Path | str | None = None) -> None:
        self.path = cache_file("personas", identity, None if directory is None else Path(directory))
        self._identity = identity

    def read(self, persona: str, prompts: Sequence[bytes], n_responses: int) -> dict[bytes, F32]:
        """Return the scores that are there: key of the prompt -> float32 (n_responses,)."""
        if not self.path.is_file():
            return {}
        prompt_of = {_key(persona, prompt): prompt for prompt in prompts}
        with self._store() as store:
            return {
                prompt_of[key]: np.frombuffer(blob, "<f4").astype(np.float32)
                for key, blob in store.read(list(prompt_of))
                if len(blob) == 4 * n_responses
            }

    def write(self, persona: str, scores: Mapping[bytes, F32]) -> None:
        """Store scores by prompt, all of them or none."""
        blobs = {_key(persona, prompt): row.astype("<f4").tobytes() for prompt, row in scores.items()}
        with self._store() as store:
            store.write(blobs)

    def _store(self) -> BlobStore:
        return BlobStore("persona", self.path, self._identity, "scores", "key BLOB", "value")


def _key(persona: str, prompt: bytes) -> bytes:
    return hashlib.sha256(persona.encode("utf-8", "surrogatepass") + b"\0" + prompt).digest()


def write_table(path: Path, personas: Sequence[str], prompt_ids: Sequence[str], scores: F32, about: Any) -> None:
    """Write scores, float32 (n_personas, n_prompts, n_responses), to a Parquet file, atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    n_personas, n_prompts, n_responses = scores.shape
    names = pa.array(personas, pa.string())
    ids = pa.array(prompt_ids, pa.string())
    flat = pa.array(np.ascontiguousarray(scores, np.float32).reshape(-1))
    columns = {
        "persona": pa.DictionaryArray.from_arrays(np.repeat(np.arange(n_personas, dtype=np.int32), n_prompts), names),
        "prompt_id": pa.DictionaryArray.from_arrays(np.tile(np.arange(n_prompts, dtype=np.int32), n_personas), ids),
        "scores": pa.FixedSizeListArray.from_arrays(flat, n_responses),
    }
    note = canonical_json({"format": FILE_FORMAT, "shape": list(scores.shape), **about})
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(columns).replace_schema_metadata({"personalllm": note}), temporary)


def read_table(path: Path) -> tuple[list[str], list[str], F32, Any]:
    """Return personas, prompt ids, scores and the metadata `about`, as `write_table` wrote them.

    Raises:
        DataError: If the file is absent, damaged, or holds something else.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    remedy = "Give a file that PersonaScores.write wrote."
    if not path.is_file():
        raise DataError(f"There is no file {path}.", remedy)
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}.", remedy) from error
    about = json.loads((table.schema.metadata or {}).get(b"personalllm", b"{}"))
    if about.get("format") != FILE_FORMAT:
        raise DataError(f"{path} holds no persona scores of the format {FILE_FORMAT}.", remedy)
    n_personas, n_prompts, n_responses = about["shape"]
    if table.num_rows != n_personas * n_prompts:
        raise DataError(f"{path} has {table.num_rows} rows, not {n_personas * n_prompts}.", remedy)
    flat = table.column("scores").combine_chunks().flatten().to_numpy(zero_copy_only=False)
    personas = table.column("persona").to_pylist()[::n_prompts] if n_prompts else []
    ids = table.column("prompt_id").to_pylist()[:n_prompts]
    return personas, ids, flat.reshape(n_personas, n_prompts, n_responses).astype(np.float32), about
