"""`mrm`: a user's utility is a weighted sum of base rewards; a start is learned from which few steps fit a new user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from personalllm.core.errors import ParameterError
from personalllm.core.types import F32
from personalllm.methods.parts.neural import NeuralMethod, Split, Task, Tensor, Weights, dense, within

__all__ = ["MRM"]

_HIDDEN = 64


@dataclass
class MRM(NeuralMethod):
    """Meta reward modelling: base rewards and a start for a user's weights, learned so that few gradient steps suffice.

    The utility is `sum_j w_j b_j(x)`, each base reward b_j the sum of a linear function and a network with one hidden
    layer. For a user, w starts at the learned `w0` and follows `n_steps` of gradient descent on the user's own
    Bradley-Terry loss; training differentiates through these steps and makes the loss on other comparisons of the same
    user smaller. Users whose loss is above the `hard_share` quantile of the batch count more (the robust
    personalisation objective): a user's weight is `1 + sigmoid((loss - threshold) / smoothing)`, normalised.

    In the authors' code (github.com/ModalityDance/MRM) there are two base rewards, both linear; w is a softmax, and a
    user's step is one of Adam with size 1e-3, which moves each entry before the softmax by about .001, however many
    comparisons there are. A hard user's weight is the sigmoid alone, in batches of two users, not normalised. Here
    base rewards bend, w is free, and the step is learned, per base reward, and falls with the number of comparisons
    as `rate * n / (n + n0)` for the mean loss, so that more comparisons move the weights further.

    Args:
        n_features: Principal components of the embedding, >= 1.
        max_steps: Most steps of training, >= 1.
        n_bases: Base rewards, >= 1.
        n_steps: Steps of gradient descent for a user, >= 1.
        hard_share: Share of users, in (0, 1), that count as hard.
        smoothing: How softly hard users are distinguished from others, in nats, > 0.
    """

    id: ClassVar[str] = "mrm"
    title: ClassVar[str] = "Meta reward modelling"
    paper: ClassVar[str] = "Cai et al., One adapts to any: meta reward modeling, arXiv 2601.18731"
    objective: ClassVar[str] = (
        "The log-loss of a user's other comparisons after gradient steps on the known ones, hard users weighted up."
    )
    fitted_per_user: ClassVar[str] = "The weights of the base rewards, by a few gradient steps from a learned start."
    cost: ClassVar[str] = "A few passes over the user's comparisons, batched over users."

    n_bases: int = 16
    n_steps: int = 5
    hard_share: float = 0.3
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("n_bases", "n_steps")
        if not 0 < self.hard_share < 1:
            raise ParameterError("hard_share", "in (0, 1)", self.hard_share)
        self.check_number("smoothing")

    def start(self, split: Split, rng: np.random.Generator) -> dict[str, F32]:
        """Return random linear base rewards and networks that are zero at first."""
        width = split.train.inputs.shape[1]
        return {
            "linear": dense(rng, width // 2, self.n_bases),
            "inner": dense(rng, width, _HIDDEN),
            "inner_shift": np.zeros(_HIDDEN, dtype=np.float32),
            "outer": np.zeros((_HIDDEN, self.n_bases), dtype=np.float32),
            "w0": np.zeros(self.n_bases, dtype=np.float32),
            "rate": np.full(self.n_bases, -1.5, dtype=np.float32),
            "n0": np.full(1, 2.0, dtype=np.float32),
        }

    @staticmethod
    def bases(torch: Any, weights: Weights, x: Tensor) -> Tensor:
        """Return the base rewards (..., n_bases) of responses (..., width)."""
        hidden = torch.nn.functional.gelu(x @ weights["inner"] + weights["inner_shift"])
        return within(x) @ weights["linear"] + hidden @ weights["outer"]

    def infer(self, torch: Any, weights: Weights, support: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """Return the users' weights, (n_users, n_bases)."""
        base = self.bases(torch, weights, support)
        margins = (base[:, :, 0] - base[:, :, 1]) * mask[..., None]
        n = mask.sum(dim=1, keepdim=True).to(margins.dtype)
        rate = torch.nn.functional.softplus(weights["rate"]) / (n + torch.nn.functional.softplus(weights["n0"]))
        w = weights["w0"].expand(len(support), -1)
        for _ in range(self.n_steps):
            wrong = torch.sigmoid(-(margins @ w[..., None]))
            w = w + rate * (wrong * margins).sum(dim=1)
        return (w,)

    def utility(self, torch: Any, weights: Weights, state: tuple[Tensor, ...], x: Tensor) -> Tensor:
        """Return the weighted sums of base rewards."""
        return (self.bases(torch, weights, x) @ state[0][:, None, :, None])[..., 0]

    def loss(self, torch: Any, weights: Weights, episode: Task, progress: float) -> Tensor:
        """Return the mean log-loss over users, hard users weighted up."""
        state = self.infer(torch, weights, episode.support, episode.support_mask)
        losses = self.log_losses(torch, weights, state, episode) * episode.target_mask
        per_user = losses.sum(dim=1) / episode.target_mask.sum(dim=1).clamp(min=1)
        level = per_user.detach()
        threshold = torch.quantile(level, 1 - self.hard_share)
        share = 1 + torch.sigmoid((level - threshold) / self.smoothing)
        return (share / share.sum() * per_user).sum()
