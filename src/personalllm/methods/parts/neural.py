"""The base of the neural methods: torch imported on use, one training loop, batched inference."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from personalllm.core.registry import import_extra
from personalllm.core.seeding import derive_seed
from personalllm.core.types import F32, I32, I64, Histories, Queries
from personalllm.methods.base import OFF, fitting
from personalllm.methods.parts.episodes import Comparisons, Inputs
from personalllm.methods.parts.learner import PreferenceLearner
from personalllm.methods.parts.training import JUDGED, Split, Task, Tensor, trained

__all__ = [
    "NeuralMethod",
    "Split",
    "Task",
    "Tensor",
    "Weights",
    "coded",
    "coder",
    "dense",
    "moderated",
    "session",
    "tensors",
    "within",
]

Weights: TypeAlias = dict[str, Any]

_USERS_PER_BLOCK = 128
_QUERIES_PER_BLOCK = 1_024


@contextmanager
def session(*key: str | int) -> Iterator[Any]:
    """Give torch on one thread, its global generator seeded by the key; both are put back afterwards.

    One thread makes a result independent of the number of cores; workers run side by side instead.

    Raises:
        MissingExtra: If torch is not installed.
    """
    torch = import_extra("torch", "torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(*key))
            yield torch
    finally:
        torch.set_num_threads(threads)


def dense(rng: np.random.Generator, n_in: int, n_out: int, gain: float = 1.0) -> F32:
    """Return a normal matrix (n_in, n_out) with variance gain^2 / n_in."""
    return (rng.standard_normal((n_in, n_out)) * (gain / math.sqrt(max(1, n_in)))).astype(np.float32)


def within(x: Tensor) -> Tensor:
    """Return the half of an input that differs between the responses of a prompt; the other cancels in a linear map."""
    return x[..., : x.shape[-1] // 2]


def coder(rng: np.random.Generator, width: int, n_hidden: int) -> dict[str, F32]:
    """Return the weights of `coded`."""
    return {"code": dense(rng, width, n_hidden), "code_shift": np.zeros(n_hidden, dtype=np.float32)}


def coded(torch: Any, weights: Weights, x: Tensor) -> Tensor:
    """Return responses' inputs (..., width) with a hidden layer of them beside, (..., width + n_hidden).

    Coding responses before taking differences lets utility be non-linear; coding the difference would not.
    """
    return torch.cat([x, torch.nn.functional.gelu(x @ weights["code"] + weights["code_shift"])], dim=-1)


def moderated(torch: Any, utilities: Tensor, spread: Tensor) -> Tensor:
    """Return utilities shrunk by the uncertainty about the user.

    The mean of sigmoid(t) over t ~ N(m, v) is about sigmoid(m / sqrt(1 + pi v / 8)) (MacKay 1992). Here v is the
    variance of the difference of two responses of a prompt, the mean over its pairs, so that a prompt's responses keep
    their order and their differences stay log-odds.

    Args:
        torch: The module.
        utilities: (n_users, n, n_responses), the means.
        spread: (n_users, n): variance of a response's utility about the mean of its prompt, the mean over responses.
    """
    n = utilities.shape[2]
    variance = spread * (2 * n / max(1, n - 1))
    return utilities / torch.sqrt(1 + (math.pi / 8) * variance)[..., None]


def tensors(torch: Any, weights: dict[str, F32]) -> Weights:
    """Return the weights as tensors on the same memory."""
    return {name: torch.from_numpy(value) for name, value in weights.items()}


@dataclass
class NeuralMethod(PreferenceLearner):
    """Base of the methods with a network, meta-trained on the pool's users, each of whom is a small task.

    A step draws users of the pool, gives the network a few comparisons of each (from none to all but one) and predicts
    others of the same user. A seventh of the prompts and an eighth of the users are set aside: training ends when the
    log-loss on comparisons of those prompts no longer falls, and the best weights are kept. Those comparisons also give
    a calibrating factor of the log-odds for 0, 4, 16 and 64 comparisons of a user, interpolated in between. Runs on one
    thread, so that results are equal to the last bit on one machine.

    A subclass implements `start`, `infer` and `utility`, and may replace `loss`, `starting` and `finish`. A network's
    weights are a dict of arrays; all methods are handed torch, so that nothing here imports it.

    Args:
        n_features: Principal components of the embedding, >= 1.
        max_steps: Most steps of training, >= 1.
    """

    extra: ClassVar[str] = "torch"
    learning_rate: ClassVar[float] = 3e-3
    weight_decay: ClassVar[float] = 0.01

    implied: bool = field(default=False, kw_only=True, metadata={OFF: False})
    n_features: int = 64
    max_steps: int = 2_000

    def __post_init__(self) -> None:
        self.check_positive("n_features", "max_steps")

    @classmethod
    def example_params(cls) -> dict[str, Any]:
        """Few steps: the contract suite trains it many times."""
        return {"n_features": 16, "max_steps": 150}

    def start(self, split: Split, rng: np.random.Generator) -> dict[str, F32]:
        """Return the weights before training."""
        raise NotImplementedError

    def infer(self, torch: Any, weights: Weights, support: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """Return what is inferred of users, each (n_users, ...), from their comparisons.

        Args:
            torch: The module.
            weights: The network.
            support: (n_users, n_support, 2, width), chosen and rejected; n_support may be 0.
            mask: bool (n_users, n_support): which of them are there.
        """
        raise NotImplementedError

    def utility(self, torch: Any, weights: Weights, state: tuple[Tensor, ...], x: Tensor) -> Tensor:
        """Return utilities (n_users, n, n_responses) of responses x (n_users, n, n_responses, width) to n prompts."""
        raise NotImplementedError

    def loss(self, torch: Any, weights: Weights, episode: Task, progress: float) -> Tensor:
        """Return what a step minimises: by default the mean log-loss of the target comparisons."""
        state = self.infer(torch, weights, episode.support, episode.support_mask)
        losses = self.log_losses(torch, weights, state, episode)
        return losses[episode.target_mask].mean()

    def log_losses(self, torch: Any, weights: Weights, state: tuple[Tensor, ...], episode: Task) -> Tensor:
        """Return the log-loss of each target comparison, (n_users, n_target)."""
        u = self.utility(torch, weights, state, episode.target)
        return torch.nn.functional.softplus(u[..., 1] - u[..., 0])

    def finish(self, torch: Any, weights: dict[str, F32], split: Split) -> dict[str, F32]:
        """Complete the weights after training; by default nothing is left to do."""
        return weights

    @fitting
    def fit(self, pool: Histories) -> Self:
        """Train the network on the comparisons of the pool."""
        with session(self.seed, self.id, "fit") as torch:
            self.inputs_ = Inputs.fit(self.embedder, pool, self.n_features)
            self.weights_, self.factors_ = trained(self, torch, self._comparisons(pool))
        return self

    def _comparisons(self, histories: Histories) -> Comparisons:
        return Comparisons.of(self.inputs_, self.embedder, histories, implied=self.implied)

    def adapt(self, histories: Histories) -> Self:
        """Infer each target user from their comparisons, users in batches."""
        pairs = self._comparisons(histories)
        width = int(pairs.counts.max(initial=0))
        parts = []
        with session(self.seed, self.id, "adapt") as torch, torch.no_grad():
            weights = tensors(torch, self.weights_)
            for start in range(0, pairs.n_users, _USERS_PER_BLOCK):
                users = np.arange(start, min(start + _USERS_PER_BLOCK, pairs.n_users))
                support, mask = pairs.first(users, width)
                state = self.infer(torch, weights, torch.from_numpy(support), torch.from_numpy(mask))
                parts.append([part.numpy() for part in state])
        self.state_: tuple[F32, ...] = tuple(np.concatenate(part) for part in zip(*parts, strict=True))
        self.scales_ = np.interp(np.log1p(pairs.counts), np.log1p(JUDGED), self.factors_).astype(np.float32)
        return self

    def utilities(self, queries: Queries) -> F32:
        """Return utilities, float32 (n_queries, n_responses); their differences are log-odds."""
        table, index = self.inputs_.of(self.embedder, queries.corpus, queries.prompt)
        result = np.zeros((len(queries), queries.corpus.n_responses), dtype=np.float32)
        with session(self.seed, self.id, "rank") as torch, torch.no_grad():
            weights = tensors(torch, self.weights_)
            for users, rows, there in _by_user(queries.user):
                x = torch.from_numpy(table[index[rows]])
                state = tuple(torch.from_numpy(part[users]) for part in self.state_)
                scaled = self.utility(torch, weights, state, x).numpy() * self.scales_[users][:, None, None]
                result[rows[there]] = scaled[there]
        return result


def _by_user(user: I32) -> Iterator[tuple[I64, I64, npt.NDArray[np.bool_]]]:
    """Yield users (n,), the places of their entries, padded (n, most), and which are there; users of like counts."""
    order = np.argsort(user, kind="stable")
    users, first, counts = np.unique(user[order], return_index=True, return_counts=True)
    by_count = np.argsort(counts, kind="stable")
    start = 0
    while start < len(users):
        stop = start + 1
        while stop < len(users) and counts[by_count[stop]] * (stop + 1 - start) <= _QUERIES_PER_BLOCK:
            stop += 1
        block = by_count[start:stop]
        places = np.arange(counts[block[-1]])
        there = places < counts[block][:, None]
        yield users[block].astype(np.int64), order[first[block][:, None] + np.where(there, places, 0)], there
        start = stop
