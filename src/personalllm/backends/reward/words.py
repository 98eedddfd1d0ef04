"""Linear reward heads on the words of a response, alone and crossed with the prompt: no embedding, no measures."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from personalllm.backends.reward.heads import read_tensors
from personalllm.core.errors import AxisMismatch, DataError, ModelFileError, UserError
from personalllm.core.storage import atomic_path, canonical_json
from personalllm.core.types import F32

__all__ = [
    "IN_PROMPT",
    "OTHER_CLASS",
    "TOKEN",
    "WORD_FORMAT",
    "WordFeatures",
    "WordRewards",
    "crossed",
    "prompt_class",
    "tokens",
]

WORD_FORMAT = "personalllm-word-heads/1"
"""Format that the file of a `WordRewards` names."""

IN_PROMPT = "~"
"""Stands in a crossed feature before a token that the prompt has too."""

OTHER_CLASS = "*"
"""Class of the prompts whose first word no crossed feature names."""

_CHARACTERS = 3_000
TOKEN = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*|\d+|[^\w\s]")
"""A word, a number or a punctuation mark."""


def tokens(text: str) -> list[str]:
    """Return the lower-case words, numbers and punctuation marks of the first 3,000 characters of a text.

    >>> tokens("Don't do 2 things!")
    ["don't", 'do', '2', 'things', '!']
    """
    return TOKEN.findall(text[:_CHARACTERS].lower().replace("\u2019", "'"))


def prompt_class(prompt: str) -> str:
    """Return the class of a prompt: its first word, number or mark; empty if it has none.

    >>> prompt_class("How do I boil an egg?")
    'how'
    """
    return next(iter(tokens(prompt)), "")


def crossed(kind: str, prompt_tokens: frozenset[str], response: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return the crossed features of a response with their counts: `class:token`, and `~:token` if the prompt has it.

    Args:
        kind: Class of the prompt.
        prompt_tokens: Tokens of the prompt.
        response: Count of each token of the response.

    >>> crossed("how", frozenset(["egg"]), {"egg": 2, "boil": 1})
    [('how:egg', 2), ('~:egg', 2), ('how:boil', 1)]
    """
    found = []
    for token, count in response.items():
        found.append((f"{kind}:{token}", count))
        if token in prompt_tokens:
            found.append((f"{IN_PROMPT}:{token}", count))
    return found


@dataclass(frozen=True, eq=False)
class WordFeatures:
    """What word heads read: the words of a response, and its words crossed with the prompt.

    Two blocks side by side, each (1 + log count) idf scaled to length 1 / sqrt 2, so a row has length 1 at most. The
    length, layout and meaning of a text are in it only as far as single words betray them.

    Attributes:
        words: Tokens of the first block.
        crosses: Names of the second block, as `crossed` gives them.
        idf: float16 (n_features,), > 0: log((1 + n_texts) / (1 + n_texts_with_it)) + 1.
    """

    words: tuple[str, ...]
    crosses: tuple[str, ...]
    idf: npt.NDArray[np.float16]
    _columns: dict[str, dict[str, int]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        names = [*self.words, *self.crosses]
        if len(set(self.words)) != len(self.words) or len(set(self.crosses)) != len(self.crosses) or not self.words:
            raise AxisMismatch("Words and crossed features must be distinct, and there must be one word at least.")
        if self.idf.shape != (len(names),):
            raise AxisMismatch(f"{len(names)} features but {self.idf.shape} weights.")
        if not (np.isfinite(self.idf).all() and (self.idf > 0).all()):
            raise DataError("A weight of a word is not positive.", "Fit the model again.")
        columns: dict[str, dict[str, int]] = defaultdict(dict)
        columns[""] = {word: column for column, word in enumerate(self.words)}
        for column, name in enumerate(self.crosses, len(self.words)):
            kind, _, token = name.partition(":")
            columns[kind][token] = column
        object.__setattr__(self, "_columns", dict(columns))

    @property
    def n_features(self) -> int:
        """Number of columns."""
        return len(self.idf)

    def rows(self, prompts: Sequence[str], responses: Sequence[str]) -> Any:
        """Return the features of responses as a SciPy CSR matrix, float64 (n, n_features).

        A row depends on its own prompt and response only, to the last bit.
        """
        from scipy.sparse import csr_matrix

        if len(prompts) != len(responses):
            raise AxisMismatch(f"{len(prompts)} prompts but {len(responses)} responses.", "Give one prompt a response.")
        asked = {prompt: self._of_prompt(prompt) for prompt in dict.fromkeys(prompts)}
        idf = self.idf.astype(np.float64).tolist()
        columns, values, ends = list[int](), list[float](), [0]
        for prompt, response in zip(prompts, responses, strict=True):
            of_class, shared = asked[prompt]
            for block in self._blocks(Counter(tokens(response)), of_class, shared, idf):
                length = math.sqrt(2.0 * math.fsum(value * value for value in block.values()))
                columns += block
                values += [value / length for value in block.values()]
            ends.append(len(columns))
        parts = (np.array(values, np.float64), np.array(columns, np.int32), np.array(ends, np.int32))
        return csr_matrix(parts, shape=(len(prompts), self.n_features))

    def _of_prompt(self, prompt: str) -> tuple[dict[str, int], dict[str, int]]:
        """Return the columns of the prompt's class, and of the tokens that the prompt has, by token."""
        kind, inside = prompt_class(prompt), self._columns.get(IN_PROMPT, {})
        of_class = self._columns.get(kind if kind.isalpha() else OTHER_CLASS) or self._columns.get(OTHER_CLASS, {})
        return of_class, {token: inside[token] for token in tokens(prompt) if token in inside}

    def _blocks(
        self, counts: Mapping[str, int], of_class: dict[str, int], shared: dict[str, int], idf: list[float]
    ) -> tuple[dict[int, float], dict[int, float]]:
        """Return the two blocks of a response before scaling, column to value."""
        words, plain, second = self._columns[""], dict[int, float](), dict[int, float]()
        for token, count in counts.items():
            frequency = 1.0 + math.log(count)
            for block, index in ((plain, words), (second, of_class), (second, shared)):
                column = index.get(token)
                if column is not None:
                    block[column] = frequency * idf[column]
        return plain, second


@dataclass(frozen=True, eq=False, slots=True)
class WordRewards:
    """Linear reward models that read words: `personalllm.core.protocols.RewardEnsemble` without an embedder.

    Head k scores `bias_k + c_k . x`, with x the row of `WordFeatures`.

    Attributes:
        reward_models: Their names, sorted, in the order of the last axis of `score`.
        features: What they read.
        coefficients: float16 (n_reward_models, n_features).
        bias: float32 (n_reward_models,).
    """

    reward_models: tuple[str, ...]
    features: WordFeatures
    coefficients: npt.NDArray[np.float16]
    bias: F32

    def __post_init__(self) -> None:
        n = len(self.reward_models)
        if list(self.reward_models) != sorted(set(self.reward_models)) or not n:
            raise AxisMismatch(f"Reward models must have distinct, sorted names, got {list(self.reward_models)}.")
        if self.coefficients.shape != (n, self.features.n_features) or self.bias.shape != (n,):
            raise AxisMismatch(
                f"Coefficients {self.coefficients.shape} and bias {self.bias.shape} do not fit {n} reward models that "
                f"read {self.features.n_features} features."
            )
        if not (np.isfinite(self.coefficients).all() and np.isfinite(self.bias).all()):
            raise DataError("The coefficients hold numbers that are not finite.", "Fit the model again.")

    @property
    def sha256(self) -> str:
        """Hash of names, features and numbers, in hexadecimal."""
        about = [WORD_FORMAT, self.reward_models, self.features.words, self.features.crosses]
        state = hashlib.sha256(canonical_json(about).encode())
        for array, kind in ((self.features.idf, "<f2"), (self.coefficients, "<f2"), (self.bias, "<f4")):
            state.update(array.astype(kind).tobytes())
        return state.hexdigest()

    @property
    def identity(self) -> str:
        """The hash: nothing else decides a score."""
        return self.sha256

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> F32:
        """Score response i as an answer to prompt i.

        Scores have no unit; the shipped ones have about mean 0 and standard deviation 1 on answers of strong LLMs to
        everyday prompts. A score is the same bits in any batch.

        Args:
            prompts: Prompt texts, length n.
            responses: Response texts, length n.

        Returns:
            float32 (n, n_reward_models).

        Raises:
            AxisMismatch: If the two lists differ in length.
        """
        # SciPy multiplies row by row, so neither the other rows nor a BLAS decide the order of the sums.
        scores = self.features.rows(prompts, responses) @ self.coefficients.T.astype(np.float64)
        return np.asarray(scores + self.bias, np.float32)

    def save(self, path: Path | str) -> None:
        """Write the heads to a safetensors file, atomically; equal heads give equal bytes."""
        from safetensors.numpy import save

        names = "\n".join([*self.features.words, *self.features.crosses]).encode()
        about = {"format": WORD_FORMAT, "reward_models": self.reward_models, "n_words": len(self.features.words)}
        tensors: dict[str, npt.NDArray[Any]] = {
            "bias": self.bias,
            "coefficients": self.coefficients,
            "features": np.frombuffer(names, np.uint8),
            "idf": self.features.idf,
        }
        payload = save(tensors, {"personalllm": canonical_json(about)})
        with atomic_path(Path(path)) as temporary:
            temporary.write_bytes(payload)

    @classmethod
    def load(cls, path: Path | str) -> WordRewards:
        """Read heads from a safetensors file.

        Raises:
            ModelFileError: If the file is absent, damaged, or holds something else.
        """
        about, tensors = read_tensors(Path(path))
        if about.get("format") != WORD_FORMAT:
            raise ModelFileError(
                f"{path} is not a reward model file of the format {WORD_FORMAT}.", "Name another file."
            )
        try:
            names = tensors["features"].tobytes().decode().split("\n")
            n_words = int(about["n_words"])
            features = WordFeatures(tuple(names[:n_words]), tuple(names[n_words:]), tensors["idf"])
            return cls(tuple(about["reward_models"]), features, tensors["coefficients"], tensors["bias"])
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFileError(f"{path} is damaged: {error}.", "Copy or fit it again.") from error
        except UserError as error:
            raise ModelFileError(f"{path}: {error.message}", "Copy or fit it again.") from error
