"""Vectors that come with the package: of the texts of the embedded benchmark, which take minutes to compute."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from personalllm.core.errors import AxisMismatch
from personalllm.core.storage import atomic_path, canonical_json
from personalllm.core.types import F32

__all__ = ["shipped_vectors", "text_key", "write_vectors"]

_FOLDER = Path(__file__).parent / "vectors"


def text_key(text: str) -> bytes:
    """Return the SHA-256 of a text, under which its vector is kept."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


@cache
def shipped_vectors(identity: str) -> Mapping[bytes, F32]:
    """Return the shipped vectors of an embedder by `text_key`: float32 (dim,), of unit length; none for most embedders.

    They were computed by that embedder and rounded to float16 for the size of the wheel (4 MB instead of 8).
    """
    from safetensors import safe_open

    found: dict[bytes, F32] = {}
    for path in sorted(_FOLDER.glob("*.safetensors")):
        with safe_open(path, "numpy") as stream:
            about = json.loads((stream.metadata() or {}).get("personalllm", "{}"))
            if about.get("identity") == identity:
                vectors = stream.get_tensor("vectors").astype(np.float32)
                vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
                vectors.setflags(write=False)
                found |= zip(map(bytes, stream.get_tensor("keys")), vectors, strict=True)
    return found


def write_vectors(path: Path | str, identity: str, texts: Sequence[str], vectors: F32) -> None:
    """Write the vectors of texts as `shipped_vectors` reads them.

    Args:
        path: A safetensors file.
        identity: Of the embedder that computed them.
        texts: n texts; equal ones are kept once.
        vectors: float32 (n, dim).

    Raises:
        AxisMismatch: If there is not one vector a text.
    """
    from safetensors.numpy import save

    if len(texts) != len(vectors):
        raise AxisMismatch(f"{len(texts)} texts but {len(vectors)} vectors.", "Give one vector a text.")
    rows = {text_key(text): row for row, text in enumerate(texts)}
    keys = sorted(rows)
    tensors: dict[str, npt.NDArray[Any]] = {
        "keys": np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), -1),
        "vectors": vectors[[rows[key] for key in keys]].astype(np.float16),
    }
    with atomic_path(Path(path)) as temporary:
        temporary.write_bytes(save(tensors, {"personalllm": canonical_json({"identity": identity})}))
