"""Published reward models that transformers runs, with scores that do not depend on the batch."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from personalllm.backends.reward._encoding import Encoded, Encoder, Truncation, load_tokenizer
from personalllm.backends.reward._networks import Network, load_network
from personalllm.backends.reward._weights import Files, find_files
from personalllm.backends.reward.entries import RewardEntry, find_reward
from personalllm.core.errors import AxisMismatch, MissingExtra, ParameterError, RunError
from personalllm.core.registry import import_extra
from personalllm.core.storage import digest
from personalllm.core.types import F32, I64

__all__ = ["DTYPES", "Side", "Style", "TransformersReward"]

Style = Literal["authors", "released"]
Side = Literal["right", "left"]

DTYPES = ("float32", "bfloat16", "float16")
"""Numbers that weights can be kept in."""

_WASTE = 0.05
_LOADED = ("_network", "_encoder", "_tokenizer", "_device")
_FOUND = ("_files", "_tokenizer_files")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TransformersReward:
    """One reward model as a `personalllm.core.protocols.RewardEnsemble`.

    Texts are sorted by length and padded together up to `batch_tokens`; padding is masked, the end of a text is found
    from the mask (never from the padding token, which may be the EOS or missing), positions count attended tokens only,
    and the head is computed in float32. A score therefore depends on its own text only, up to the rounding of the
    matrix products (docs/published-rewards.md). The object is small and can be pickled: weights are loaded when the
    first text is scored, in the process that scores it. Code that comes with a model is never run.

    Attributes:
        entry: A name of `REWARD_MODELS`, a folder, `owner/model` on the hub, or a `RewardEntry`.
        batch_tokens: Maximum tokens of a batch, padding included, >= 1; a longer text goes alone.
        dtype: `"float32"`, `"bfloat16"` or `"float16"`; that of the entry if None.
        device: Where torch computes; CUDA if there is one, else the CPU, if None.
        style: `"authors"`: template and sign of the model's authors; `"released"`: those of the code that scored the
            published benchmark, where they differ.
        max_tokens: Longer texts are cut, >= 4; that of the entry, else of the model, if None.
        truncation: The side that is cut.
        threads: Threads of the CPU that torch computes with, >= 1. A fixed number, because with another one the last
            digits of a score may differ, and executors set it differently; more processes use more processors.
        attention: Implementation of attention. If None, `"eager"` for 16-bit numbers, because the fused kernels round
            differently in other batches, and transformers' choice for float32.

    Raises:
        UnknownName: If the entry is neither a name, nor a folder, nor a name on the hub.
        ParameterError: If a parameter is out of range.
    """

    entry: RewardEntry | str | Path
    batch_tokens: int = field(default=8192, kw_only=True)
    dtype: str | None = field(default=None, kw_only=True)
    device: str | None = field(default=None, kw_only=True)
    style: Style = field(default="authors", kw_only=True)
    max_tokens: int | None = field(default=None, kw_only=True)
    truncation: Truncation = field(default="right", kw_only=True)
    attention: str | None = field(default=None, kw_only=True)
    threads: int = field(default=1, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "entry", find_reward(self.entry))
        if self.batch_tokens < 1:
            raise ParameterError("batch_tokens", ">= 1", self.batch_tokens)
        if self.max_tokens is not None and self.max_tokens < 4:
            raise ParameterError("max_tokens", ">= 4", self.max_tokens)
        if self.threads < 1:
            raise ParameterError("threads", ">= 1", self.threads)
        options = (
            ("dtype", self.dtype or self.model.dtype, DTYPES),
            ("style", self.style, get_args(Style)),
            ("truncation", self.truncation, get_args(Truncation)),
        )
        for name, given, allowed in options:
            if given not in allowed:
                raise ParameterError(name, f"one of {', '.join(allowed)}", given)

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind what is loaded and where it lies; a model of the hub stays at the commit it was found at."""
        state = {name: value for name, value in vars(self).items() if name not in _LOADED}
        commits = {name: state.pop(name).revision for name in _FOUND if getattr(state.get(name), "revision", "")}
        return state | {"_commits": vars(self).get("_commits", {}) | commits}

    @cached_property
    def model(self) -> RewardEntry:
        """The entry, as it is in the requested style."""
        entry = find_reward(self.entry)
        if self.style == "authors" or entry.released is None:
            return entry
        return replace(entry, template=entry.released.template, sign=entry.released.sign, max_tokens=8192)

    @property
    def reward_models(self) -> tuple[str, ...]:
        """The alias of the entry."""
        return (self.model.name,)

    @cached_property
    def _files(self) -> Files:
        return find_files(self.model.model, self._commit("_files") or self.model.revision, weights=True)

    @cached_property
    def _tokenizer_files(self) -> Files:
        if not self.model.tokenizer:
            return self._files
        return find_files(self.model.tokenizer, self._commit("_tokenizer_files"), weights=False)

    def require(self, *, fetch: bool = True) -> None:
        """Raise unless the model can be loaded here; nothing is loaded.

        Args:
            fetch: Whether files that are not here are fetched now.

        Raises:
            MissingExtra: If torch or transformers is not installed; said before anything is fetched.
            ModelFileError: If the files are not here and may not, or cannot, be fetched.
        """
        for package in ("torch", "transformers"):
            if find_spec(package) is None:
                raise MissingExtra(package, "torch")
        if fetch:
            self._files, self._tokenizer_files  # noqa: B018  (found by looking)
            return
        find_files(self.model.model, self._commit("_files") or self.model.revision, weights=True, fetch=False)
        if self.model.tokenizer:
            find_files(self.model.tokenizer, self._commit("_tokenizer_files"), weights=False, fetch=False)

    def _commit(self, which: str) -> str | None:
        """Return the commit at which the process that sent this object found the files."""
        found: str | None = vars(self).get("_commits", {}).get(which)
        return found

    @cached_property
    def identity(self) -> str:
        """Model and tokenizer (commits, or digests of the files), template, head, sign, numbers, cut, versions.

        Raises:
            ModelFileError: If the files are not here and cannot be fetched.
            MissingExtra: If torch or transformers is not installed.
        """
        what = self.model.summary | {
            "chat_template": digest(self.model.template.text or self._tokenizer_files.chat_template),
            "tokenizer": self._tokenizer_files.identity(tokenizer=True),
            "read_at": self._read_at,
            "max_tokens": self.max_tokens or self.model.max_tokens,
            "truncation": self.truncation,
            "attention": self._attention,
        }
        source = Path(self.model.model).name if Path(self.model.model).is_dir() else self.model.model
        weights = self._files.identity(tokenizer=False)
        numbers = self.dtype or self.model.dtype
        return f"transformers:{source}@{weights} {numbers} {digest(what)}: {_versions()}"

    @property
    def _read_at(self) -> Literal["last", "before-eos"]:
        released = self.model.released
        return released.read_at if self.style == "released" and released is not None else "last"

    @property
    def _attention(self) -> str | None:
        half = (self.dtype or self.model.dtype) != "float32"
        return self.attention or ("eager" if half else None)

    @cached_property
    def _device(self) -> str:
        torch = import_extra("torch", "torch")
        if self.device is None:
            return "cuda" if torch.cuda.is_available() else "cpu"
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise ParameterError("device", "one that torch finds here, such as cpu", self.device) from error
        return self.device

    @cached_property
    def _network(self) -> Network:
        numbers = self.dtype or self.model.dtype
        return load_network(self._files, self.model.head, numbers, self._device, self._attention)

    @cached_property
    def _tokenizer(self) -> Any:
        import_extra("torch", "torch")
        return load_tokenizer(self._tokenizer_files)

    @cached_property
    def _encoder(self) -> Encoder:
        limit = self.max_tokens or self.model.max_tokens
        if limit is None:
            positions = getattr(self._network.config, "max_position_embeddings", None)
            limits = [n for n in (positions, self._tokenizer.model_max_length) if n and n < 10**9]
            limit = min(limits) if limits else None
        return Encoder(self._tokenizer, self.model.template, self._read_at, limit, self.truncation)

    def release(self) -> None:
        """Release weights and tokenizer; they are loaded again when they are needed."""
        on_cuda = str(vars(self).get("_device", "")).startswith("cuda")
        for name in _LOADED:
            vars(self).pop(name, None)
        gc.collect()
        if on_cuda:
            import_extra("torch", "torch").cuda.empty_cache()

    def with_limit(self, max_tokens: int) -> TransformersReward:
        """Return the same model, its weights shared, that cuts texts to `max_tokens`."""
        other = replace(self, max_tokens=max_tokens)
        vars(other).update({name: getattr(self, name) for name in ("_network", "_tokenizer", "_files")})
        return other

    def token_ids(self, prompts: Sequence[str], responses: Sequence[str]) -> list[list[int]]:
        """Return the token ids that are read of each text, template and marks included."""
        return [row.ids for row in self._encode(prompts, responses)]

    def lengths(self, prompts: Sequence[str], responses: Sequence[str]) -> I64:
        """Return the number of tokens of each text before cutting, int64 (n,)."""
        return np.array([row.length for row in self._encode(prompts, responses)], np.int64)

    @property
    def bos_id(self) -> int | None:
        """Token id of the BOS, None if the tokenizer has none."""
        found: int | None = self._tokenizer.bos_token_id
        return found

    @property
    def pads_left(self) -> bool:
        """Whether padding may be put on the left."""
        return not self._network.whole

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> F32:
        """Score response i as an answer to prompt i; the first call that cuts texts logs a warning with their number.

        Args:
            prompts: Prompt texts, length n.
            responses: Response texts, length n.

        Returns:
            float32 (n, 1), in the model's own unit, times the sign of the entry.

        Raises:
            AxisMismatch: If the two lists differ in length.
            MissingExtra: If torch or transformers is not installed.
            ModelFileError: If the files are not here and cannot be fetched, or are damaged.
            RunError: If the device has too little memory.
            UserError: If the model needs its author's code, or gives more than one number.
        """
        rows = self._encode(prompts, responses)
        cut = sum(row.length > len(row.ids) for row in rows)
        if cut and not vars(self).get("_logged"):
            vars(self)["_logged"] = True
            _log.warning(
                "%s: %d of %d texts are longer than %d tokens and were cut on the %s; later ones are not reported.",
                self.model.name, cut, len(rows), self._encoder.max_tokens, self.truncation,
            )  # fmt: skip
        return self._scores(rows, self.batch_tokens, "right", None)

    def score_padded(
        self,
        prompts: Sequence[str],
        responses: Sequence[str],
        *,
        batch_tokens: int | None = None,
        side: Side = "right",
        fill: int | None = None,
    ) -> F32:
        """Score as `score` does, with a choice of what must not matter; for checks.

        Args:
            prompts: Prompt texts, length n.
            responses: Response texts, length n.
            batch_tokens: In place of the object's; 1 scores every text alone.
            side: Where padding goes.
            fill: Token id that padding is made of.

        Returns:
            float32 (n, 1).

        Raises:
            AxisMismatch: If the two lists differ in length.
            ParameterError: If padding on the left is requested of a model that is only run as a whole.
        """
        if side == "left" and self._network.whole:
            raise ParameterError("side", "right: this architecture is only run as a whole", side)
        return self._scores(self._encode(prompts, responses), batch_tokens or self.batch_tokens, side, fill)

    def _encode(self, prompts: Sequence[str], responses: Sequence[str]) -> list[Encoded]:
        if len(prompts) != len(responses):
            raise AxisMismatch(f"{len(prompts)} prompts but {len(responses)} responses.", "Give one prompt a response.")
        return self._encoder.encode(prompts, responses) if len(prompts) else []

    def _scores(self, rows: Sequence[Encoded], batch_tokens: int, side: Side, fill: int | None) -> F32:
        out = np.empty((len(rows), 1), np.float32)
        with _threads(self.threads), _memory_reported(self.model.name):
            for part in batches([len(row.ids) for row in rows], batch_tokens):
                out[part, 0] = self._batch([rows[i] for i in part], side, fill)
        return out * np.float32(self.model.sign)

    def _batch(self, rows: Sequence[Encoded], side: Side, fill: int | None) -> F32:
        """Return the scores of texts padded together, float32 (n,)."""
        torch = import_extra("torch", "torch")
        if fill is None:
            fill = self._tokenizer.pad_token_id or 0
        width = max(len(row.ids) for row in rows)
        ids = np.full((len(rows), width), fill, np.int64)
        mask, types = np.zeros_like(ids), np.zeros_like(ids)
        for i, row in enumerate(rows):
            n = len(row.ids)
            place = slice(0, n) if side == "right" else slice(width - n, width)
            ids[i, place], mask[i, place] = row.ids, 1
            if row.types is not None:
                types[i, place] = row.types
        tensors = [torch.from_numpy(array).to(self._device) for array in (ids, mask, types)]
        skipped = torch.tensor([row.skipped for row in rows], device=self._device)
        paired = tensors[2] if rows[0].types is not None else None
        found = self._network.score(tensors[0], tensors[1], paired, skipped)
        return np.asarray(found.float().cpu().numpy(), np.float32)


@contextmanager
def _threads(n: int) -> Iterator[None]:
    """Set the number of CPU threads of torch, whatever the machine or an executor has set."""
    torch = import_extra("torch", "torch")
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _memory_reported(name: str) -> Iterator[None]:
    """Turn the error of a device without free memory into one with a remedy."""
    try:
        yield
    except import_extra("torch", "torch").OutOfMemoryError as error:
        raise RunError(
            f"The memory of the device is too small for {name}: {str(error).split('. ')[0]}.",
            "Give a lower batch_tokens or max_tokens, 16-bit numbers, or another device.",
        ) from error


def batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[npt.NDArray[np.intp]]:
    """Yield the rows of each batch: sorted by length, at most `batch_tokens` with padding, little of it padding.

    A batch that holds a quarter of its tokens is closed before padding is more than a twentieth of it.

    >>> [part.tolist() for part in batches([5, 100, 6, 5], 80)]
    [[1], [2, 0, 3]]
    """
    if not lengths:
        return
    order = np.argsort(-np.asarray(lengths), kind="stable")
    start, held = 0, 0
    for at, row in enumerate(order):
        width, n = lengths[order[start]], at - start
        waste = 1 - (held + lengths[row]) / (width * (n + 1))
        if n and (width * (n + 1) > batch_tokens or (waste > _WASTE and width * n >= batch_tokens / 4)):
            yield order[start:at]
            start, held = at, 0
        held += lengths[row]
    yield order[start:]


def _versions() -> str:
    found = []
    for package in ("transformers", "torch", "tokenizers"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError as error:
            raise MissingExtra(package, "torch") from error
    return ", ".join(found)
