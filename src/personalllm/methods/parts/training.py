"""Train a network on the pool's users, with early stopping on prompts and users that are set aside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
from scipy.optimize import minimize_scalar

from personalllm.core.seeding import generator
from personalllm.core.types import F32, F64, I64
from personalllm.methods.parts.episodes import Comparisons, Episode

if TYPE_CHECKING:
    from personalllm.methods.parts.neural import NeuralMethod

__all__ = ["JUDGED", "Split", "Task", "Tensor", "trained"]

Tensor: TypeAlias = Any

JUDGED = (0, 4, 16, 64)
"""Numbers of comparisons of a user at which the validation loss is taken."""

_SUPPORT = (0, 1, 2, 4, 8, 16, 32, 64)
_USERS_PER_STEP = 64
_TARGETS_PER_STEP = 16
_JUDGES = 256
_FEWEST_JUDGED = 30
_STEPS_PER_LOOK = 50
_PATIENCE = 3
_SLOWER = 0.3
_SLOWEST = 0.05
_LAST_STEPS = 200
_SHORT = 10
_AVERAGING = 0.98  # of the weights (Polyak), over about the last 50 steps
_EPSILON = 1e-6  # of AdamW; its default of 1e-8 lets weights with tiny gradients jump
_LEAST_GAIN = 1e-5
_FACTORS = (0.05, 1.5)
_DRAWN_TO_ONE = 4.0  # precision of the prior of a factor about 1


@dataclass(frozen=True, eq=False)
class Task:
    """An `Episode` as tensors."""

    user: Tensor
    support: Tensor
    support_mask: Tensor
    target: Tensor
    target_mask: Tensor

    @classmethod
    def of(cls, torch: Any, episode: Episode) -> Self:
        """Return an episode as tensors."""
        return cls(**{name: torch.from_numpy(value) for name, value in vars(episode).items()})


@dataclass(frozen=True, eq=False)
class Split:
    """Training and validation comparisons: validation is on other prompts, and of other users first.

    Attributes:
        train: Comparisons of the prompts and users that are not set aside.
        users: int64 (n,): users with a comparison in `train`.
        support: Comparisons of all users on the prompts that are not set aside.
        target: Comparisons that all users made on the prompts that are.
        judges: int64 (n_judges,): validation users; those who are not trained on come first.
    """

    train: Comparisons
    users: I64
    support: Comparisons
    target: Comparisons
    judges: I64

    @classmethod
    def of(cls, pairs: Comparisons, rng: np.random.Generator) -> Self:
        """Set prompts and users aside at random."""
        prompts = np.unique(pairs.prompt)
        target = np.isin(pairs.prompt, rng.permutation(prompts)[: len(prompts) // 7])
        order = rng.permutation(pairs.n_users)
        held = order[: min(_JUDGES, pairs.n_users // 8)]
        train = pairs.where(~target & ~np.isin(pairs.user, held))
        judges = order[pairs.where(target).counts[order] > 0][:_JUDGES]
        return cls(train, np.flatnonzero(train.counts), pairs.where(~target), pairs.where(target).given(), judges)

    @property
    def is_enough(self) -> bool:
        """Whether there are enough comparisons for a validation loss."""
        return len(self.users) > 0 and int(self.target.counts[self.judges].sum()) >= _FEWEST_JUDGED

    def margins(self, method: NeuralMethod, torch: Any, weights: Mapping[str, F32 | Tensor]) -> list[F64]:
        """Return the log-odds of the validation choices, (n,), after each number of comparisons."""
        given = {name: torch.as_tensor(value) for name, value in weights.items()}
        margins_by_shots = []
        with torch.no_grad():
            for exam in self.exams:
                task = Task.of(torch, exam)
                state = method.infer(torch, given, task.support, task.support_mask)
                u = method.utility(torch, given, state, task.target)
                margins_by_shots.append((u[..., 0] - u[..., 1])[task.target_mask].double().numpy())
        return margins_by_shots

    def validation_loss(self, method: NeuralMethod, torch: Any, weights: Mapping[str, F32 | Tensor]) -> float:
        """Return the log-loss of the validation choices, the mean over numbers of comparisons."""
        return float(np.mean([np.logaddexp(0, -m).mean() for m in self.margins(method, torch, weights)]))

    @cached_property
    def exams(self) -> list[Episode]:
        """Return the validation tasks, one for each number of comparisons."""
        target, target_mask = self.target.first(self.judges, _TARGETS_PER_STEP)
        episodes = []
        for k in JUDGED:
            support, support_mask = self.support.first(self.judges, k)
            episodes.append(Episode(self.judges, support, support_mask, target, target_mask))
        return episodes


class _Run:
    """One training: the weights as they move, their average over the last steps, and the best average so far."""

    def __init__(self, method: NeuralMethod, torch: Any, start: dict[str, F32], rng: np.random.Generator) -> None:
        self.method, self.torch, self.rng = method, torch, rng
        self.weights = {name: torch.from_numpy(value.copy()).requires_grad_() for name, value in start.items()}
        self.mean = {name: torch.from_numpy(value.copy()) for name, value in start.items()}
        self.step, self.rate = 0, method.learning_rate
        self.optimiser = torch.optim.AdamW(
            [
                {"params": [w for w in self.weights.values() if w.ndim > 1], "weight_decay": method.weight_decay},
                {"params": [w for w in self.weights.values() if w.ndim <= 1], "weight_decay": 0.0},
            ],
            eps=_EPSILON,
        )

    def steps(self, pairs: Comparisons, users: I64, n_steps: int) -> None:
        """Take steps on the comparisons of users drawn at random."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate
        for _ in range(n_steps):
            n_support = _SUPPORT[int(self.rng.integers(len(_SUPPORT)))]
            drawn = self.rng.choice(users, min(_USERS_PER_STEP, len(users)), replace=False)
            episode = Task.of(self.torch, pairs.drawn(drawn, n_support, _TARGETS_PER_STEP, self.rng))
            self.optimiser.zero_grad()
            self.method.loss(self.torch, self.weights, episode, self.step / self.method.max_steps).backward()
            self.torch.nn.utils.clip_grad_norm_(list(self.weights.values()), 1.0)
            self.optimiser.step()
            self.step += 1
            share = max(1 - _AVERAGING, 9 / (9 + self.step))
            with self.torch.no_grad():
                for name, w in self.weights.items():
                    self.mean[name].lerp_(w, share)

    def validation_loss(self, split: Split) -> float:
        """Return the validation loss of the averaged weights."""
        return split.validation_loss(self.method, self.torch, self.mean)

    def arrays(self) -> dict[str, F32]:
        """Return the averaged weights."""
        return {name: w.numpy().copy() for name, w in self.mean.items()}

    def back_to(self, weights: dict[str, F32]) -> None:
        """Go on from these weights."""
        with self.torch.no_grad():
            for name, value in weights.items():
                self.weights[name].copy_(self.torch.from_numpy(value))
                self.mean[name].copy_(self.torch.from_numpy(value))


def trained(method: NeuralMethod, torch: Any, pairs: Comparisons) -> tuple[dict[str, F32], F64]:
    """Return the weights after training, and the factors that calibrate the log-odds after `JUDGED` comparisons.

    When the validation loss has not fallen for a few checks, training goes back to the best weights with smaller steps,
    a few times; at last it takes small steps on all comparisons, those set aside included. A pool that is too small for
    validation gets few steps, and log-odds shrunk by n / (n + 30) for its n comparisons.
    """
    rng = generator(method.seed, method.id, "train")
    split = Split.of(pairs, rng)
    everybody = np.flatnonzero(pairs.counts)
    if not split.is_enough:
        split = Split(pairs, everybody, pairs, pairs, np.empty(0, dtype=np.int64))
    start, unchanged = method.start(split, rng), np.ones(len(JUDGED))
    if len(everybody) == 0:
        return start, unchanged
    run = _Run(method, torch, start, rng)
    if len(split.judges) == 0:
        run.steps(pairs, everybody, max(1, method.max_steps // _SHORT))
        return run.arrays(), unchanged * len(pairs) / (len(pairs) + _FEWEST_JUDGED)
    best, lowest, waited = start, run.validation_loss(split), 0
    while run.step < method.max_steps:
        run.steps(split.train, split.users, min(_STEPS_PER_LOOK, method.max_steps - run.step))
        validation_loss = run.validation_loss(split)
        if validation_loss < lowest - _LEAST_GAIN:
            best, lowest, waited = run.arrays(), validation_loss, 0
        else:
            waited += 1
        if waited == _PATIENCE:
            waited, run.rate = 0, run.rate * _SLOWER
            run.back_to(best)
            if run.rate < method.learning_rate * _SLOWEST:
                break
    best = method.finish(torch, best, split)
    factors = [_calibrated(margins) for margins in split.margins(method, torch, best)]
    run.back_to(best)
    run.rate = method.learning_rate * _SLOWER**2
    run.steps(pairs, everybody, min(_LAST_STEPS, run.step))
    return run.arrays(), np.array(factors)


def _calibrated(margins: F64) -> float:
    """Return the factor of log-odds with the lowest log-loss, shrunk towards 1."""

    def loss(factor: float) -> float:
        return float(np.logaddexp(0, -factor * margins).sum() + 0.5 * _DRAWN_TO_ONE * (factor - 1) ** 2)

    return float(minimize_scalar(loss, bounds=_FACTORS, method="bounded").x)
