"""Define the values that cross rooms: texts, interactions, queries, chat requests.

Nothing here knows a weight vector or a reward score, so whatever a method is handed cannot leak them.
Axes are always in the order (n_users, n_prompts, n_responses, n_reward_models).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from personalllm.core.errors import AxisMismatch, ParameterError

__all__ = [
    "F32",
    "F64",
    "I8",
    "I32",
    "I64",
    "JSON",
    "U8",
    "ChatReply",
    "ChatRequest",
    "Conversation",
    "Corpus",
    "Histories",
    "Message",
    "Queries",
]

F32: TypeAlias = npt.NDArray[np.float32]
F64: TypeAlias = npt.NDArray[np.float64]
I8: TypeAlias = npt.NDArray[np.int8]
I64: TypeAlias = npt.NDArray[np.int64]
I32: TypeAlias = npt.NDArray[np.int32]
U8: TypeAlias = npt.NDArray[np.uint8]
JSON: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A request to a chat model: the messages and the sampling settings.

    Attributes:
        messages: The turns, oldest first; the last one is the user's.
        max_tokens: Maximum number of new tokens, >= 1.
        temperature: 0 is greedy decoding.
        top_p: Nucleus mass in (0, 1].
        top_k: Sample from the `top_k` most likely tokens only; 0 for no limit.
        seed: Seed of the sampler; has no effect at temperature 0.
    """

    messages: tuple[Message, ...]
    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.messages or self.messages[-1].role != "user":
            raise ParameterError("messages", "non-empty and end with a user turn", self.messages)
        if self.max_tokens < 1:
            raise ParameterError("max_tokens", ">= 1", self.max_tokens)
        if self.temperature < 0:
            raise ParameterError("temperature", ">= 0", self.temperature)
        if not 0 < self.top_p <= 1:
            raise ParameterError("top_p", "in (0, 1]", self.top_p)
        if self.top_k < 0:
            raise ParameterError("top_k", ">= 0", self.top_k)


@dataclass(frozen=True, slots=True)
class ChatReply:
    """The reply of a chat model.

    Attributes:
        text: The reply, surrounding white space removed; may be empty.
        finish_reason: `"stop"` if the model ended by itself, `"length"` if `max_tokens` cut it.
        prompt_tokens: Tokens of the rendered prompt.
        completion_tokens: New tokens.
        cached_tokens: How many of the prompt's tokens the server took from its own prompt cache, as far as it says.
        refusal: Why the server withheld the reply or a part of it, e.g. `"content_filter"`; empty if it did not.
    """

    text: str
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Conversation:
    """The messages of a method to a chat model for one query.

    Attributes:
        messages: The turns to send.
        n_examples: Examples of the history that are in the messages.
        n_dropped: Examples that were left out because the token budget was full.
    """

    messages: tuple[Message, ...]
    n_examples: int = 0
    n_dropped: int = 0


@dataclass(frozen=True, eq=False, slots=True)
class Corpus:
    """The texts of a benchmark as a method may read them; everything else refers to them by row.

    The responses of each prompt stand in a seeded random order, so a column says nothing about who wrote it.

    Prompts may have different numbers of responses. A sequence that makes its rows when they are read should have an
    attribute `width`, the length of every row, so that they need not be read to be counted.

    A prompt may be the last turn of a conversation. `prompts` has such a conversation as one text, for readers and as a
    key; an embedder should be given `text`, a chat model `messages`.

    Attributes:
        prompts: Prompt texts, length n_prompts.
        responses: Response texts, n_prompts rows.
        conversations: Row of the prompt -> its turns, the last one the user's; only prompts with turns before them.
        counts: int32 (n_prompts,), the number of responses of each prompt.
    """

    prompts: Sequence[str]
    responses: Sequence[Sequence[str]]
    conversations: Mapping[int, tuple[Message, ...]] = field(default_factory=dict)
    counts: I32 = field(init=False)

    def __post_init__(self) -> None:
        width = getattr(self.responses, "width", None)
        n = len(self.responses)
        lengths = map(len, self.responses) if width is None else [width] * n
        object.__setattr__(self, "counts", np.fromiter(lengths, dtype=np.int32, count=n))
        if len(self.prompts) != len(self.responses):
            raise AxisMismatch(
                f"{len(self.prompts)} prompts but {len(self.responses)} rows of responses.",
                "Give one row of responses for each prompt.",
            )

    @property
    def n_prompts(self) -> int:
        """Number of prompts."""
        return len(self.prompts)

    @property
    def n_responses(self) -> int:
        """Largest number of responses of a prompt (0 for an empty corpus)."""
        return int(self.counts.max(initial=0))

    def first_columns(self, width: int) -> Corpus:
        """Return the corpus with the first `width` responses of each prompt, for prompts that have as many."""
        return Corpus(self.prompts, _FirstColumns(self.responses, width), self.conversations)

    def messages(self, row: int) -> tuple[Message, ...]:
        """Return a prompt as a chat model should be asked it: the turns before it, then the prompt."""
        return self.conversations.get(row) or (Message("user", self.prompts[row]),)

    def text(self, row: int) -> str:
        r"""Return a prompt as an embedder should read it: what is asked, then the turns before it, latest first.

        Embedders cut long texts at the end; in the order of the conversation that would be what is asked.

        >>> turns = (Message("user", "Hi"), Message("assistant", "Hello."), Message("user", "Why?"))
        >>> Corpus(["..."], [["a", "b"]], {0: turns}).text(0)
        'Why?\n\nAssistant: Hello.\n\nUser: Hi'
        """
        turns = self.conversations.get(row)
        if turns is None:
            return self.prompts[row]
        before = (f"{turn.role.capitalize()}: {turn.content}" for turn in reversed(turns[:-1]))
        return "\n\n".join((turns[-1].content, *before))


class _FirstColumns(Sequence[Sequence[str]]):
    """The first columns of rows, cut when they are read."""

    def __init__(self, rows: Sequence[Sequence[str]], width: int) -> None:
        self.rows, self.width = rows, width

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Sequence[str]: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sequence[str]]: ...
    def __getitem__(self, index: int | slice) -> Sequence[str] | list[Sequence[str]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self.rows[index][: self.width]


def _column(name: str, values: npt.ArrayLike, dtype: type[np.generic], upper: int) -> npt.NDArray[Any]:
    """Return a (n,) column on read-only memory, after a check of its range [0, upper)."""
    array = np.array(values, dtype=dtype)
    if array.ndim != 1:
        raise AxisMismatch(f"{name} must be one-dimensional, got shape {array.shape}.")
    if array.size and not (int(array.min()) >= 0 and int(array.max()) < upper):
        raise ParameterError(name, f"in [0, {upper})", (int(array.min()), int(array.max())))
    return np.frombuffer(array.tobytes(), dtype=dtype)


_COLUMNS = ("user", "prompt", "chosen", "rejected", "best_worst")


@dataclass(frozen=True, eq=False, slots=True)
class Histories:
    """Ordered interactions of several users, columnar, texts by reference.

    Row i says: user `user[i]` saw prompt `prompt[i]` and preferred response `chosen[i]` to response `rejected[i]`.
    Where `best_worst[i]`, the user saw all responses of the prompt and named the best and the worst of them, which says
    more than the one comparison: see `implied`.
    Rows are grouped by user in ascending order and, within a user, stand in the order in which they happened.

    Attributes:
        corpus: Where `prompt`, `chosen` and `rejected` point.
        n_users: Number of users, those without any interaction included.
        user: int32 (n,), in [0, n_users), ascending.
        prompt: int32 (n,), row of the corpus.
        chosen: uint8 (n,), column of the corpus.
        rejected: uint8 (n,), column of the corpus.
        best_worst: bool (n,): `chosen` is the best and `rejected` the worst of all responses of the prompt; false where
            the two alone were compared, or nobody knows. One value stands for all rows.
    """

    corpus: Corpus
    n_users: int
    user: I32
    prompt: I32
    chosen: U8
    rejected: U8
    best_worst: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros((), np.bool_))

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "user", _column("user", self.user, np.int32, self.n_users))
        set_(self, "prompt", _column("prompt", self.prompt, np.int32, self.corpus.n_prompts))
        set_(self, "chosen", _column("chosen", self.chosen, np.uint8, self.corpus.n_responses))
        set_(self, "rejected", _column("rejected", self.rejected, np.uint8, self.corpus.n_responses))
        best_worst = np.asarray(self.best_worst)
        each = best_worst if best_worst.ndim else np.full(len(self.user), best_worst)
        set_(self, "best_worst", _column("best_worst", each, np.bool_, 2))
        if len({len(getattr(self, name)) for name in _COLUMNS}) > 1:
            raise AxisMismatch("The columns of a history differ in length.")
        counts = self.corpus.counts[self.prompt]
        for side, columns in (("chosen", self.chosen), ("rejected", self.rejected)):
            for row in np.flatnonzero(columns >= counts)[:1].tolist():
                allowed = f"in [0, {counts[row]}), a response of prompt {self.prompt[row]}"
                raise ParameterError(f"{side}[{row}]", allowed, int(columns[row]))
        if np.any(np.diff(self.user) < 0):
            raise ParameterError("user", "ascending (rows grouped by user)", "an unsorted column")

    def __len__(self) -> int:
        return len(self.user)

    @property
    def offsets(self) -> npt.NDArray[np.int64]:
        """int64 (n_users + 1,): the rows of user u are `offsets[u]:offsets[u + 1]`."""
        return np.searchsorted(self.user, np.arange(self.n_users + 1)).astype(np.int64)

    def of_users(self, start: int, stop: int) -> Histories:
        """Return the histories of users `start` to `stop`, who are numbered from 0."""
        first, last = np.searchsorted(self.user, (start, stop))
        part = self.rows(slice(int(first), int(last)))
        return replace(part, n_users=stop - start, user=part.user - np.int32(start))

    def first(self, n: int | None) -> Histories:
        """Return the first n interactions of each user; all of them if n is None."""
        if n is None:
            return self
        return self.rows(np.arange(len(self)) - self.offsets[self.user] < n)

    def rows(self, rows: slice | npt.NDArray[Any]) -> Histories:
        """Return some interactions, by a slice, a mask or ascending positions, of the same users."""
        return replace(self, **{name: getattr(self, name)[rows] for name in _COLUMNS})

    def implied(self) -> tuple[Histories, I64]:
        """Return every comparison that the interactions imply, a row each, and which interaction it comes from.

        Who names the best and the worst of n responses prefers the best to the n - 1 others, and each of these to the
        worst: 2 n - 3 comparisons, 13 for n = 8. An interaction of two responses stays one comparison.

        Returns:
            The comparisons by interaction, the one that was made first, and int64 (n_comparisons,): the rows of this
            history that they come from, ascending; their number for each row is what a weight for each would divide by.

        >>> three = Corpus(["Hi"], [["Hello.", "What?", "Yes?"]])
        >>> comparisons, row = Histories(three, 1, [0], [0], [2], [1], True).implied()
        >>> list(zip(comparisons.chosen.tolist(), comparisons.rejected.tolist())), row.tolist()
        ([(2, 1), (2, 0), (0, 1)], [0, 0, 0])
        """
        columns = np.arange(self.corpus.n_responses)
        other = self.best_worst[:, None] & (columns < self.corpus.counts[self.prompt][:, None])
        other &= (columns != self.chosen[:, None]) & (columns != self.rejected[:, None])
        of, between = np.nonzero(other)
        made = np.arange(len(self))
        row = np.concatenate([made, of, of])
        order = np.argsort(row, kind="stable")
        row = row[order]
        chosen = np.concatenate([self.chosen, self.chosen[of], between.astype(np.uint8)])[order]
        rejected = np.concatenate([self.rejected, between.astype(np.uint8), self.rejected[of]])[order]
        user, prompt = self.user[row], self.prompt[row]
        return Histories(self.corpus, self.n_users, user, prompt, chosen, rejected), row

    @classmethod
    def empty(cls, corpus: Corpus, n_users: int) -> Histories:
        """Return the histories of users who have not interacted yet."""
        return cls(
            corpus,
            n_users,
            np.empty(0, np.int32),
            np.empty(0, np.int32),
            np.empty(0, np.uint8),
            np.empty(0, np.uint8),
        )


@dataclass(frozen=True, eq=False, slots=True)
class Queries:
    """The queries of target users: query i is prompt `prompt[i]` asked by user `user[i]`.

    Attributes:
        corpus: Where `prompt` points; in the rank track its responses are the candidates.
        n_users: Number of target users, as in the histories given to `adapt`.
        user: int32 (n_queries,), row of the histories.
        prompt: int32 (n_queries,), row of the corpus.
    """

    corpus: Corpus
    n_users: int
    user: I32
    prompt: I32

    def __post_init__(self) -> None:
        object.__setattr__(self, "user", _column("user", self.user, np.int32, self.n_users))
        object.__setattr__(self, "prompt", _column("prompt", self.prompt, np.int32, self.corpus.n_prompts))
        if len(self.user) != len(self.prompt):
            raise AxisMismatch("The columns of the queries differ in length.")

    def __len__(self) -> int:
        return len(self.user)
