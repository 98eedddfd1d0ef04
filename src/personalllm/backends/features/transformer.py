"""Sequence classifiers that transformers runs, the paper's three among them (paper, section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from personalllm.backends.features._common import versions
from personalllm.core.errors import ModelFileError, OfflineError, ParameterError, UnknownName, UserError
from personalllm.core.registry import import_extra
from personalllm.core.storage import digest, file_sha256, offline
from personalllm.core.types import F32

__all__ = ["TransformersClassifier", "fineweb_edu", "go_emotions", "roberta_formality"]

Activation = Literal["softmax", "sigmoid", "none"]

_LEARNED = ("config.json", "tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json")


@dataclass(frozen=True)
class TransformersClassifier:
    """Measures texts with a sequence classifier of transformers; code of the model's author is never run.

    Texts of equal length in tokens go through the model together, so nothing is padded. Weights must be safetensors.
    While `$PERSONALLLM_OFFLINE` is set only files that are already here are used.

    Attributes:
        model: Name on the hub, or a folder that holds the files.
        labels: Labels of the model that are measured -> names of the features.
        activation: `"softmax"` for classes that exclude each other, `"sigmoid"` for those that do not, `"none"` for a
            regression.
        revision: Commit, branch or tag on the hub.
        max_tokens: Longer texts are cut, >= 2.
        batch_size: Maximum texts at a time, >= 1.
        device: Where torch computes, e.g. `"cpu"` or `"cuda"`.

    Raises:
        ParameterError: If a parameter is out of range.
    """

    model: str
    labels: Mapping[str, str] = field(hash=False)
    activation: Activation = "softmax"
    revision: str | None = None
    max_tokens: int = 512
    batch_size: int = 32
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not self.labels or len(set(self.labels.values())) != len(self.labels):
            raise ParameterError("labels", "one label or more, with distinct names", dict(self.labels))
        if self.activation not in get_args(Activation):
            raise ParameterError("activation", f"one of {', '.join(get_args(Activation))}", self.activation)
        if self.max_tokens < 2:
            raise ParameterError("max_tokens", ">= 2", self.max_tokens)
        if self.batch_size < 1:
            raise ParameterError("batch_size", ">= 1", self.batch_size)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features, in the order of `labels`."""
        return tuple(self.labels.values())

    @cached_property
    def identity(self) -> str:
        """Weights (commit on the hub, or SHA-256 of the files of a folder), labels, activation, cut and versions."""
        folder = Path(self.model)
        if folder.is_dir():
            names = sorted(p.name for p in folder.glob("*.safetensors")) + [
                n for n in _LEARNED if (folder / n).is_file()
            ]
            weights = digest({name: file_sha256(folder / name) for name in names}, 32)
        else:
            weights = str(getattr(self._network.config, "_commit_hash", None) or self.revision)
        what = {"labels": dict(self.labels), "activation": self.activation, "max_tokens": self.max_tokens}
        name = folder.name if folder.is_dir() else self.model
        return f"transformers:{name}@{weights} {digest(what)}: {versions('transformers', 'torch')}"

    @cached_property
    def _network(self) -> Any:
        library = import_extra("transformers", "torch")
        import_extra("torch", "torch")
        network = self._load(library.AutoModelForSequenceClassification, use_safetensors=True)
        return network.float().to(self.device).eval()

    @cached_property
    def _tokeniser(self) -> Any:
        return self._load(import_extra("transformers", "torch").AutoTokenizer)

    def _load(self, kind: Any, **options: Any) -> Any:
        """Load a part of the model from its folder or the hub.

        Raises:
            OfflineError: If the files are not here and the offline switch is on.
            ModelFileError: If the files cannot be had or read, or are not safetensors.
            UserError: If the model needs code of its author.
        """
        local = offline() or Path(self.model).is_dir()
        try:
            return kind.from_pretrained(
                self.model, revision=self.revision, local_files_only=local, trust_remote_code=False, **options
            )
        except OSError as error:
            if offline() and not Path(self.model).is_dir():
                raise OfflineError(
                    f"The files of {self.model!r} are not all on this machine, and PERSONALLLM_OFFLINE is set.",
                    "Unset it once to fetch them, or give a folder with config, tokenizer and safetensors weights.",
                ) from error
            raise ModelFileError(
                f"The model {self.model!r} cannot be loaded: {str(error).splitlines()[0]}",
                "Give a name on the hub or a folder with config, tokenizer and safetensors weights.",
            ) from error
        except ValueError as error:
            raise UserError(
                f"The model {self.model!r} cannot be loaded: {str(error).splitlines()[0]}",
                "Only models whose code is part of transformers are run.",
            ) from error

    @cached_property
    def _columns(self) -> list[int]:
        """Places of the labels among the outputs of the model."""
        columns = {str(name): int(column) for column, name in self._network.config.id2label.items()}
        unknown = [label for label in self.labels if label not in columns]
        if unknown:
            raise UnknownName(f"label of {self.model!r}", unknown[0], columns)
        return [columns[label] for label in self.labels]

    def measure(self, texts: Sequence[str]) -> F32:
        """Return float32 (n_texts, n_features): probabilities, or raw outputs for the activation `"none"`.

        Raises:
            MissingExtra: If torch or transformers is not installed.
            OfflineError: If the files are not here and the offline switch is on.
            ModelFileError: If the files cannot be had or read.
            UnknownName: If the model has no such label; lists the nearest ones.
        """
        out = np.empty((len(texts), len(self.features)), np.float32)
        columns = self._columns
        if not len(texts):
            return out
        tokens = self._tokeniser(list(texts), truncation=True, max_length=self.max_tokens, padding=False)["input_ids"]
        lengths = np.array([len(row) for row in tokens])
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            for start in range(0, len(rows), self.batch_size):
                part = rows[start : start + self.batch_size]
                out[part] = self._outputs([tokens[i] for i in part])[:, columns]
        return out

    def _outputs(self, tokens: list[list[int]]) -> F32:
        """Return the activated outputs of texts of the same number of tokens, float32 (n, n_labels)."""
        torch = import_extra("torch", "torch")
        with torch.inference_mode():
            ids = torch.tensor(tokens, dtype=torch.long, device=self.device)
            logits = self._network(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.double()
            if self.activation == "softmax":
                logits = logits.softmax(-1)
            elif self.activation == "sigmoid":
                logits = logits.sigmoid()
            return np.asarray(logits.cpu().numpy(), np.float32)


def roberta_formality(**options: Any) -> TransformersClassifier:
    """Return the paper's formality classifier; options are those of `TransformersClassifier`."""
    return TransformersClassifier("s-nlp/roberta-base-formality-ranker", {"formal": "roberta_formality"}, **options)


def fineweb_edu(**options: Any) -> TransformersClassifier:
    """Return the paper's classifier of educational value, about 0 to 5."""
    labels = {"LABEL_0": "fineweb_edu_educational"}
    return TransformersClassifier("HuggingFaceFW/fineweb-edu-classifier", labels, "none", **options)


def go_emotions(**options: Any) -> TransformersClassifier:
    """Return the paper's emotion classifier: approval, caring, excitement, joy, optimism."""
    labels = {name: f"go_emotions_{name}" for name in ("approval", "caring", "excitement", "joy", "optimism")}
    return TransformersClassifier("SamLowe/roberta-base-go_emotions", labels, "sigmoid", **options)
