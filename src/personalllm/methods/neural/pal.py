"""`pal`: a user's ideal point is a mixture of prototypes that the population shares."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

import numpy as np

from personalllm.core.types import F32
from personalllm.methods.parts.neural import NeuralMethod, Split, Tensor, Weights, dense, moderated
from personalllm.methods.parts.simplex import MixturePrior, simplex_posterior

__all__ = ["PAL"]

_HIDDEN = 64
_SHRUNK = 0.1
_ROUNDS = 20
_STRENGTHS = (0.3, 1.0, 3.0, 10.0)
_PURE = (0.0, 0.5, 0.9)


@dataclass
class PAL(NeuralMethod):
    """Pluralistic alignment: utility falls with the squared distance from the user's ideal point.

    `u(x) = -|f(x) - sum_k w_k p_k|^2`, f a linear map and a network with one hidden layer, p the prototypes, w the
    user's weights on the simplex. A user may be one prototype or a mixture of them: for given f and p the posterior of
    w is the sum over the prototypes and a Laplace approximation for mixtures, whose loss is convex and solved by
    Newton's method. Training alternates: w from some comparisons of a user, then a gradient step of f, p and the mean
    weights on others. The share of users who are one prototype, and the strength of the Dirichlet prior of the others,
    are chosen among a few by the comparisons that are set aside. The covariance of w moderates a prediction.

    In the authors' code (github.com/RamyaLab/pluralistic-alignment, model A) utility falls with the distance, not its
    square; f maps the two prototypes as well, and the loss is a hinge. Weights, those of new users too, are softmaxes
    that gradient descent finds, without a prior. The variant with prototypes that depend on the prompt is left out.

    Args:
        n_features: Principal components of the embedding, >= 1.
        max_steps: Most steps of training, >= 1.
        n_prototypes: Prototypes, >= 1.
    """

    id: ClassVar[str] = "pal"
    title: ClassVar[str] = "PAL, a mixture of prototypes"
    paper: ClassVar[str] = "Chen et al., PAL: pluralistic alignment framework, arXiv 2406.08469"
    objective: ClassVar[str] = (
        "The Bradley-Terry loss of utilities that fall with the squared distance from a mixture of prototypes."
    )
    fitted_per_user: ClassVar[str] = "The mixture weights, a convex problem on the simplex."
    cost: ClassVar[str] = "Some Newton steps in as many unknowns as prototypes, batched over users."
    weight_decay: ClassVar[float] = 0.3

    n_prototypes: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("n_prototypes")

    def start(self, split: Split, rng: np.random.Generator) -> dict[str, F32]:
        """Return a shrunk linear map, a network at zero, and prototypes at the centres of the users' mean choices."""
        width = split.train.inputs.shape[1]
        n = width // 2
        centres = _centres(split, self.n_prototypes, rng)
        return {
            "linear": _SHRUNK * np.eye(width, n, dtype=np.float32),
            "inner": dense(rng, width, _HIDDEN),
            "inner_shift": np.zeros(_HIDDEN, dtype=np.float32),
            "outer": np.zeros((_HIDDEN, n), dtype=np.float32),
            "prototypes": centres[:, :n] / (2 * _SHRUNK),
            "mean_weights": np.zeros(self.n_prototypes, dtype=np.float32),
            "prior": np.array([1.0, 0.5], dtype=np.float32),
        }

    @staticmethod
    def parts(torch: Any, weights: Weights, x: Tensor) -> Tensor:
        """Return each prototype's utility of responses, (..., n_prototypes): what a mixture mixes."""
        hidden = torch.nn.functional.gelu(x @ weights["inner"] + weights["inner_shift"])
        point = x @ weights["linear"] + hidden @ weights["outer"]
        return 2 * point @ weights["prototypes"].T - point.square().sum(dim=-1, keepdim=True)

    def infer(self, torch: Any, weights: Weights, support: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """Return the users' mean weights and their covariances."""
        mean = weights["mean_weights"].softmax(dim=0)
        parts = self.parts(torch, weights, support).detach()
        margins = (parts[:, :, 0] - parts[:, :, 1]).double().numpy()
        strength, pure = weights["prior"].tolist()
        prior = MixturePrior(mean.detach().double().numpy(), strength, pure)
        w, covariance = simplex_posterior(margins, mask.double().numpy(), prior)
        share = 1 / (1 + mask.sum(dim=1, keepdim=True))
        return torch.from_numpy(w).float() + share * (mean - mean.detach()), torch.from_numpy(covariance).float()

    def utility(self, torch: Any, weights: Weights, state: tuple[Tensor, ...], x: Tensor) -> Tensor:
        """Return the mixtures, moderated by what is not known of the weights."""
        w, covariance = state
        parts = self.parts(torch, weights, x)
        centred = parts - parts.mean(dim=2, keepdim=True)
        spread = ((centred @ covariance[:, None]) * centred).sum(dim=3).mean(dim=2)
        return moderated(torch, (parts @ w[:, None, :, None])[..., 0], spread)

    def finish(self, torch: Any, weights: dict[str, F32], split: Split) -> dict[str, F32]:
        """Choose the prior's strength and share of pure users by what is set aside."""
        trials = [{**weights, "prior": np.array(prior, dtype=np.float32)} for prior in product(_STRENGTHS, _PURE)]
        return min(trials, key=lambda trial: split.validation_loss(self, torch, trial))


def _centres(split: Split, n: int, rng: np.random.Generator) -> F32:
    """Return centres of the users' mean differences of chosen and rejected, (n, width), by Lloyd's method."""
    pairs = split.train
    width = pairs.inputs.shape[1]
    if len(split.users) == 0:
        return dense(rng, n, width)
    sums = np.zeros((pairs.n_users, width))
    np.add.at(sums, pairs.user, pairs.inputs[pairs.sides[:, 0, 0]] - pairs.inputs[pairs.sides[:, 0, 1]])
    means = sums[split.users] / pairs.counts[split.users][:, None]
    centres = means[rng.choice(len(means), n, replace=len(means) < n)]
    for _ in range(_ROUNDS):
        nearest = np.argmin((centres**2).sum(axis=1) - 2 * means @ centres.T, axis=1)
        sizes = np.bincount(nearest, minlength=n)
        totals = np.zeros_like(centres)
        np.add.at(totals, nearest, means)
        centres = np.where(sizes[:, None] > 0, totals / np.maximum(1, sizes)[:, None], centres)
    return centres.astype(np.float32)
