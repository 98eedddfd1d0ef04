"""Files of a model of the hub or a folder: where they are, what is in them. Code that comes with a model never runs."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from personalllm.core.errors import ModelFileError
from personalllm.core.registry import import_extra
from personalllm.core.storage import digest, file_sha256, offline
from personalllm.core.types import JSON

__all__ = ["Files", "find_files", "unreadable"]

_TEXT_FILES = ("*.json", "*.model", "*.txt", "*.jinja")
_TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "spm.model", "spiece.model", "chat_template.jinja",
)  # fmt: skip


def _forbidden() -> bool:
    """Return whether a switch forbids the network."""
    return offline() or os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")


@dataclass(frozen=True)
class Files:
    """A folder with a model's or a tokenizer's files.

    Attributes:
        folder: Where they are.
        source: The name on the hub or the folder, as requested.
        revision: Commit on the hub; empty for a folder of the user's.
    """

    folder: Path
    source: str
    revision: str = ""

    def __getstate__(self) -> dict[str, Any]:
        return {name: vars(self)[name] for name in ("folder", "source", "revision")}

    def forget(self) -> None:
        """Release tensors that were read."""
        vars(self).pop("state_dict", None)

    def identity(self, *, tokenizer: bool) -> str:
        """Return the commit, or a digest of the files that decide: the tokenizer's, or configuration and weights."""
        if self.revision:
            return self.revision
        if tokenizer:
            chosen = [self.folder / name for name in _TOKENIZER]
        else:
            chosen = [self.folder / "config.json", *sorted(set(self._weight_files.values()))]
        return digest({path.name: file_sha256(path) for path in chosen if path.is_file()}, 32)

    def json(self, name: str) -> JSON:
        """Return a JSON object; empty if there is no such file.

        Raises:
            ModelFileError: If it is not a JSON object.
        """
        path = self.folder / name
        if not path.is_file():
            return {}
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ModelFileError(f"{path} is not JSON: {error}.", "Fetch the model again.") from error
        if not isinstance(value, dict):
            raise ModelFileError(f"{path} holds no JSON object.", "Fetch the model again.")
        return value

    @property
    def chat_template(self) -> str:
        """The tokenizer's chat template, as text; empty if it has none."""
        path = self.folder / "chat_template.jinja"
        if path.is_file():
            return path.read_text(encoding="utf-8")
        template = self.json("tokenizer_config.json").get("chat_template") or ""
        return template if isinstance(template, str) else json.dumps(template, sort_keys=True)

    @cached_property
    def _weight_files(self) -> dict[str, Path]:
        """Tensor -> file that holds it; the whole of an unsharded .bin file stands under the empty name."""
        for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
            weight_map = self.json(index).get("weight_map")
            if weight_map:
                return {name: self.folder / Path(file).name for name, file in weight_map.items()}
            single = self.folder / index.removesuffix(".index.json")
            if single.is_file() and single.suffix == ".bin":
                return {"": single}
            if single.is_file():
                with _opened(single) as tensors:
                    return dict.fromkeys(tensors.keys(), single)
        raise ModelFileError(
            f"{self.source!r} has no weights in {self.folder}: no model.safetensors and no pytorch_model.bin.",
            f"Fetch them once with network: hf download {self.source}"
            if self.revision
            else "Give the folder of a model that was saved by transformers.",
        )

    @property
    def safetensors(self) -> bool:
        """Whether the weights are safetensors."""
        return all(path.suffix == ".safetensors" for path in self._weight_files.values())

    @cached_property
    def tensor_names(self) -> frozenset[str]:
        """Names of all tensors."""
        return frozenset(self._weight_files if "" not in self._weight_files else self.state_dict)

    @cached_property
    def state_dict(self) -> dict[str, Any]:
        """All tensors of .bin files, unpickled with `weights_only=True`: tensors and plain containers, no code."""
        torch = import_extra("torch", "torch")
        merged: dict[str, Any] = {}
        for path in sorted(set(self._weight_files.values())):
            try:
                merged |= torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except (OSError, RuntimeError, ValueError, EOFError, UnpicklingError) as error:
                raise unreadable(str(path), error) from error
        return merged

    def tensor(self, name: str) -> Any:
        """Return one tensor.

        Raises:
            ModelFileError: If it is not there.
        """
        if name not in self.tensor_names:
            raise ModelFileError(
                f"The weights of {self.source!r} hold no {name!r}.", "It is another kind of model; name another one."
            )
        if not self.safetensors:
            return self.state_dict[name]
        with _opened(self._weight_files[name]) as tensors:
            return tensors.get_tensor(name)


def _opened(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise unreadable(str(path), error) from error


def unreadable(source: str, error: Exception) -> ModelFileError:
    """Return the error for weights that cannot be read, or that hold more than tensors."""
    if isinstance(error, UnpicklingError):
        return ModelFileError(
            f"The .bin weights of {source!r} are damaged, or hold more than tensors, and are not loaded.",
            "Use a revision of the model with safetensors.",
        )
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return ModelFileError(f"{source!r} cannot be read: {first}", "Fetch the model again.")


def find_files(source: str, revision: str | None = None, *, weights: bool, fetch: bool = True) -> Files:
    """Return the files of a folder, or of a name on the hub: from the hub's cache, fetched if they are not in it.

    Nothing is fetched if `fetch` is False, or while `$PERSONALLLM_OFFLINE` or `$HF_HUB_OFFLINE` is set. Fetched are
    configuration, tokenizer and safetensors; .bin files only where there are no safetensors; never code.

    Raises:
        MissingExtra: If huggingface_hub is not installed and the name is no folder.
        ModelFileError: If the files are not here and may not, or cannot, be fetched.
    """
    if Path(source).is_dir():
        return Files(Path(source), source)
    hub = import_extra("huggingface_hub", "torch")
    local = not fetch or _forbidden()
    patterns = [*_TEXT_FILES, *(["*.safetensors"] if weights else [])]
    try:
        folder = Path(hub.snapshot_download(source, revision=revision, allow_patterns=patterns, local_files_only=local))
        if weights and not any(folder.glob("*.safetensors")):
            hub.snapshot_download(
                source, revision=revision, allow_patterns=["pytorch_model*.bin"], local_files_only=local
            )
    except (OSError, ValueError, hub.errors.HfHubHTTPError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        switch = "; PERSONALLLM_OFFLINE or HF_HUB_OFFLINE is set, so nothing is fetched." if _forbidden() else "."
        why = switch if local else f" and cannot be had: {first}"
        at = f" --revision {revision}" if revision else ""
        raise ModelFileError(
            f"The files of {source!r} are not all on this machine{why}",
            f"Fetch them once with network (accept the model's terms on the hub first if it asks): "
            f"hf download {source}{at}. Or give a folder that holds them.",
        ) from error
    return Files(folder, source, folder.name)
