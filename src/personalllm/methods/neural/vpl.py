"""`vpl`: a user is a latent vector; an encoder infers it from comparisons, a reward network reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from personalllm.core.types import F32
from personalllm.methods.parts import latent
from personalllm.methods.parts.neural import NeuralMethod, Split, Task, Tensor, Weights, dense, within

__all__ = ["VPL"]

_HIDDEN = 64
_WARM_UP = 0.2


@dataclass
class VPL(NeuralMethod):
    """Variational preference learning: p(comparison | latent) with an amortised posterior of the latent.

    The encoder maps a user's comparisons to a Gaussian q(z); the reward network r(x, z) gets the response and z side
    by side. Training makes `E_q[log-loss of other comparisons of the user] + beta KL(q | N(0, I))` smaller, beta rising
    from 0 over the first fifth. A prediction averages r over draws of z and moderates it by their spread.

    Each comparison multiplies the posterior by a Gaussian factor, instead of the published attention over the set: so
    users without comparisons have the prior exactly, and more comparisons cannot make it wider. In the authors' code
    (github.com/WEIRDLabUW/vpl_llm) the encoder reads chosen and rejected side by side, mean and log-variance are
    cut at -1 and 1, z has length sqrt(n_latent) in training, beta is 3e-6 and rises in cycles, and the mean alone
    predicts. The published scaling of rewards for control (SPO) has no part in predicting comparisons and is left out.

    Args:
        n_features: Principal components of the embedding, >= 1.
        max_steps: Most steps of training, >= 1.
        n_latent: Length of z, >= 1.
        kl_weight: beta, >= 0, for one comparison that is asked.
    """

    id: ClassVar[str] = "vpl"
    title: ClassVar[str] = "Variational preference learning"
    paper: ClassVar[str] = "Poddar et al., Personalizing RLHF with variational preference learning, arXiv 2408.10075"
    objective: ClassVar[str] = (
        "The evidence lower bound of a user's comparisons, the latent inferred from some of the others."
    )
    fitted_per_user: ClassVar[str] = "Mean and variance of a latent vector, by one pass of the encoder."
    cost: ClassVar[str] = "One pass over the user's comparisons; eight draws of the latent for each prediction."

    learning_rate: ClassVar[float] = 1e-3

    n_latent: int = 16
    kl_weight: float = 0.002

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("n_latent")
        self.check_number("kl_weight", above_zero=False)

    def start(self, split: Split, rng: np.random.Generator) -> dict[str, F32]:
        """Return random networks whose utilities are zero at first."""
        width = split.train.inputs.shape[1]
        return {
            **latent.encoder(rng, width, _HIDDEN, self.n_latent),
            **latent.decoder(rng, width, _HIDDEN),
            "reads": dense(rng, self.n_latent, _HIDDEN),
            "second": dense(rng, _HIDDEN, _HIDDEN),
            "second_shift": np.zeros(_HIDDEN, dtype=np.float32),
            "draws": latent.draws(rng, self.n_latent),
        }

    def infer(self, torch: Any, weights: Weights, support: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """Return mean and log-variance of the users' latents."""
        return latent.encoded(torch, weights, support, mask)

    @staticmethod
    def reward(torch: Any, weights: Weights, z: Tensor, x: Tensor) -> Tensor:
        """Return r(x, z), (n_users, n_draws, n, n_responses), of latents z (n_users, n_draws, n_latent)."""
        gelu = torch.nn.functional.gelu
        read = (z @ weights["reads"])[:, :, None, None]
        hidden = gelu((x @ weights["first"] + weights["first_shift"])[:, None] + read)
        hidden = gelu(hidden @ weights["second"] + weights["second_shift"])
        return (hidden @ weights["last"] + (within(x) @ weights["past"])[:, None])[..., 0]

    def utility(self, torch: Any, weights: Weights, state: tuple[Tensor, ...], x: Tensor) -> Tensor:
        """Return the rewards averaged over draws of the latent."""
        mean, log_variance = state
        z = mean[:, None] + (0.5 * log_variance).exp()[:, None] * weights["draws"]
        return latent.averaged(torch, self.reward(torch, weights, z, x))

    def loss(self, torch: Any, weights: Weights, episode: Task, progress: float) -> Tensor:
        """Return the negative evidence lower bound, for one comparison."""
        mean, log_variance = latent.encoded(torch, weights, episode.support, episode.support_mask)
        z = mean + (0.5 * log_variance).exp() * torch.randn(mean.shape)
        u = self.reward(torch, weights, z[:, None], episode.target)[:, 0]
        losses = torch.nn.functional.softplus(u[..., 1] - u[..., 0])
        beta = self.kl_weight * min(1.0, progress / _WARM_UP)
        return losses[episode.target_mask].mean() + beta * latent.kl_from_prior(mean, log_variance).mean()
