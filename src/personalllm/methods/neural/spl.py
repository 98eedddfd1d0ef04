"""`spl`: variational preference learning, repaired against posterior collapse by users with swapped preferences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from personalllm.core.errors import ParameterError
from personalllm.core.types import F32
from personalllm.methods.parts import latent
from personalllm.methods.parts.neural import NeuralMethod, Split, Task, Tensor, Weights, dense, within

__all__ = ["SPL"]

_HIDDEN = 64
_WARM_UP = 0.2
_SMALL = 1e-6
_LINEAR = 16


@dataclass
class SPL(NeuralMethod):
    """Swap-guided preference learning: `vpl` with three changes that keep the latent informative.

    A fictitious user who swaps chosen and rejected everywhere has the mirrored taste, equally certain.

    1. Guidance: the encoder's mean m and log-variance l, and m', l' of the swapped user, add
       `guidance * ((1 + cos(m, m')) / 2 + (1 - cos(l, l')) / 2)` to the loss.
    2. A preferential inverse autoregressive flow makes the base draw z0 richer: `z <- s z + (1 - s) t`, t and s
       autoregressive in z. Of the encoder's context c, the part that a swap turns round, (c - c') / 2, enters the shift
       t alone, the part that it leaves, (c + c') / 2, the scale s alone.
    3. Adaptive conditioning: the latent scales and shifts the reward network's hidden units, by a gate that grows with
       the latent's length, so that a weak latent changes little.

    In the authors' code (github.com/cobang0111/SPL) the variance's part of the guidance counts a tenth and the swapped
    pass gets no gradient; the weights are 1e-5 for the guidance and 3e-6 for the divergence, beyond one free nat; the
    maps of the flow are networks; scale and shift of the hidden units are bounded by tanh and have no gate, and the
    latent also stands beside the response. Here the maps are linear, the gate is `1 - exp(-a |z|^2 / n_latent)`, and
    the encoder is that of `vpl`, so users without comparisons have the prior exactly.

    Args:
        n_features: Principal components of the embedding, >= 1.
        max_steps: Most steps of training, >= 1.
        n_latent: Length of z, >= 1.
        kl_weight: beta, >= 0, for one comparison that is asked.
        guidance: Weight of the guidance loss, >= 0.
        n_flows: Steps of the flow, >= 0.
    """

    id: ClassVar[str] = "spl"
    title: ClassVar[str] = "Swap-guided preference learning"
    paper: ClassVar[str] = "Kim and Kim, Swap-guided preference learning, ICLR 2026, arXiv 2603.12595"
    objective: ClassVar[str] = (
        "The evidence lower bound of vpl with a flow posterior, and a guidance loss that mirrors swapped users."
    )
    fitted_per_user: ClassVar[str] = "The posterior of a latent vector, by one pass of the encoder for user and swap."
    cost: ClassVar[str] = "Two passes over the user's comparisons; eight draws of the latent for each prediction."

    learning_rate: ClassVar[float] = 1e-3

    n_latent: int = 16
    kl_weight: float = 0.002
    guidance: float = 0.1
    n_flows: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("n_latent")
        self.check_number("kl_weight", "guidance", above_zero=False)
        flows: object = self.n_flows
        if not isinstance(flows, int) or isinstance(flows, bool) or flows < 0:
            raise ParameterError("n_flows", "an integer >= 0", flows)

    def start(self, split: Split, rng: np.random.Generator) -> dict[str, F32]:
        """Return random networks whose utilities are zero at first, and flows that change little."""
        width, n = split.train.inputs.shape[1], self.n_latent
        weights = {
            **latent.encoder(rng, width, _HIDDEN, n),
            **latent.decoder(rng, width, _HIDDEN + _LINEAR),
            "context": dense(rng, _HIDDEN, n),
            "scales": dense(rng, n, _HIDDEN + _LINEAR),
            "shifts": dense(rng, n, _HIDDEN + _LINEAR),
            "gate": np.zeros(1, dtype=np.float32),
            "draws": latent.draws(rng, n),
        }
        for k in range(self.n_flows):
            weights |= {f"{name}{k}": dense(rng, n, n, 0.1) for name in ("t", "t_context", "s", "s_context")}
            weights |= {f"s_shift{k}": np.full(n, 2.0, dtype=np.float32)}
        return weights

    def _base(self, torch: Any, weights: Weights, support: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return mean, log-variance and context, (n_users, n_latent) each."""
        hidden = latent.tokens(torch, weights, support)
        mean, log_variance = latent.factors(torch, weights, hidden, mask)
        there = mask[..., None].to(hidden.dtype)
        context = (hidden @ weights["context"] * there).sum(dim=1) / (1 + there.sum(dim=1))
        return mean, log_variance, context

    def infer(self, torch: Any, weights: Weights, support: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """Return the base mean and log-variance and both parts of the context, and the same of the swapped user."""
        mean, log_variance, context = self._base(torch, weights, support, mask)
        swapped = self._base(torch, weights, support.flip(2), mask)
        return mean, log_variance, (context - swapped[2]) / 2, (context + swapped[2]) / 2, *swapped[:2]

    def flowed(self, torch: Any, weights: Weights, state: tuple[Tensor, ...], z: Tensor) -> tuple[Tensor, Tensor]:
        """Return z (n_users, n_draws, n_latent) after the flow, and the log of the volume that it changed by."""
        turned, unchanged = state[2][:, None], state[3][:, None]
        change = torch.zeros(z.shape[:2])
        for k in range(self.n_flows):
            shift = z @ weights[f"t{k}"].triu(1) + turned @ weights[f"t_context{k}"]
            scale = z @ weights[f"s{k}"].triu(1) + unchanged @ weights[f"s_context{k}"] + weights[f"s_shift{k}"]
            change = change + torch.nn.functional.logsigmoid(scale).sum(dim=2)
            z = (shift + torch.sigmoid(scale) * (z - shift)).flip(2)
        return z, change

    @staticmethod
    def reward(torch: Any, weights: Weights, z: Tensor, x: Tensor) -> Tensor:
        """Return r(x, z), (n_users, n_draws, n, n_responses), of latents z (n_users, n_draws, n_latent)."""
        strength = torch.nn.functional.softplus(weights["gate"]) * z.square().mean(dim=2, keepdim=True)
        gate = 1 - torch.exp(-strength)
        scale = (1 + gate * (z @ weights["scales"]))[:, :, None, None]
        shift = (gate * (z @ weights["shifts"]))[:, :, None, None]
        before = x @ weights["first"] + weights["first_shift"]
        hidden = torch.cat([torch.nn.functional.gelu(before[..., :_HIDDEN]), before[..., _HIDDEN:]], dim=-1)
        hidden = hidden[:, None] * scale + shift
        bent = torch.cat([torch.nn.functional.gelu(hidden[..., :_HIDDEN]), hidden[..., _HIDDEN:]], dim=-1)
        return (bent @ weights["last"] + (within(x) @ weights["past"])[:, None])[..., 0]

    def utility(self, torch: Any, weights: Weights, state: tuple[Tensor, ...], x: Tensor) -> Tensor:
        """Return the rewards averaged over draws of the latent."""
        z = state[0][:, None] + (0.5 * state[1]).exp()[:, None] * weights["draws"]
        z, _ = self.flowed(torch, weights, state, z)
        return latent.averaged(torch, self.reward(torch, weights, z, x))

    def loss(self, torch: Any, weights: Weights, episode: Task, progress: float) -> Tensor:
        """Return the negative evidence lower bound, for one comparison, and the guidance."""
        state = self.infer(torch, weights, episode.support, episode.support_mask)
        mean, log_variance = state[:2]
        noise = torch.randn(mean.shape)
        z, change = self.flowed(torch, weights, state, (mean + (0.5 * log_variance).exp() * noise)[:, None])
        u = self.reward(torch, weights, z, episode.target)[:, 0]
        losses = torch.nn.functional.softplus(u[..., 1] - u[..., 0])
        base = -0.5 * (noise.square() + log_variance).sum(dim=1)
        kl = base - change[:, 0] + 0.5 * z[:, 0].square().sum(dim=1)
        beta = self.kl_weight * min(1.0, progress / _WARM_UP)
        return (
            losses[episode.target_mask].mean() + beta * kl.mean() + self.guidance * self._guide(torch, state, episode)
        )

    @staticmethod
    def _guide(torch: Any, state: tuple[Tensor, ...], episode: Task) -> Tensor:
        """Return how far the swapped users are from mirroring the users, the mean over users with comparisons."""
        cosine = torch.nn.functional.cosine_similarity
        turned = cosine(state[0], state[4], dim=1, eps=_SMALL)
        unchanged = cosine(state[1], state[5], dim=1, eps=_SMALL)
        present = episode.support_mask.any(dim=1).to(turned.dtype)
        return ((2 + turned - unchanged) / 2 * present).sum() / present.sum().clamp(min=1)
