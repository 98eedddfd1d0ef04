"""A user as a Gaussian latent: each comparison contributes a factor, so that no comparisons give the prior exactly."""

from __future__ import annotations

from typing import Any

import numpy as np

from personalllm.core.types import F32
from personalllm.methods.parts.neural import Tensor, Weights, coded, coder, dense, moderated

__all__ = ["averaged", "decoder", "draws", "encoded", "encoder", "factors", "kl_from_prior", "tokens"]

N_DRAWS = 8


def draws(rng: np.random.Generator, n_latent: int) -> F32:
    """Return standard normal draws in pairs of opposites, (N_DRAWS, n_latent)."""
    half = rng.standard_normal((N_DRAWS // 2, n_latent)).astype(np.float32)
    return np.concatenate([half, -half])


def encoder(rng: np.random.Generator, width: int, n_hidden: int, n_latent: int) -> dict[str, F32]:
    """Return the weights of an encoder of comparisons."""
    return {
        **coder(rng, width, n_hidden),
        "token": dense(rng, width + n_hidden, n_hidden),
        "token_shift": np.zeros(n_hidden, dtype=np.float32),
        "mean": dense(rng, n_hidden, n_latent, 0.5),
        "precision": dense(rng, n_hidden, n_latent, 0.1),
        "precision_shift": np.full(n_latent, -3.0, dtype=np.float32),
    }


def tokens(torch: Any, weights: Weights, support: Tensor) -> Tensor:
    """Return a hidden vector of each comparison, (n_users, n_known, n_hidden), of what its responses differ in."""
    code = coded(torch, weights, support)
    return torch.nn.functional.gelu((code[:, :, 0] - code[:, :, 1]) @ weights["token"] + weights["token_shift"])


def factors(torch: Any, weights: Weights, hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and log-variance, (n_users, n_latent), of the product of the prior and a factor per comparison."""
    there = mask[..., None].to(hidden.dtype)
    added = torch.nn.functional.softplus(hidden @ weights["precision"] + weights["precision_shift"]) * there
    precision = 1 + added.sum(dim=1)
    mean = (hidden @ weights["mean"] * there).sum(dim=1) / precision
    return mean, -precision.log()


def encoded(torch: Any, weights: Weights, support: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and log-variance of each user's latent, (n_users, n_latent)."""
    return factors(torch, weights, tokens(torch, weights, support), mask)


def kl_from_prior(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the divergence from the standard normal, (n_users,), in nats."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)


def decoder(rng: np.random.Generator, width: int, n_hidden: int) -> dict[str, F32]:
    """Return the weights of a reward network's ends: a first layer, a last one at zero, and a linear way past them."""
    return {
        "first": dense(rng, width, n_hidden),
        "first_shift": np.zeros(n_hidden, dtype=np.float32),
        "last": np.zeros((n_hidden, 1), dtype=np.float32),
        "past": np.zeros((width // 2, 1), dtype=np.float32),
    }


def averaged(torch: Any, utilities: Tensor) -> Tensor:
    """Return the utilities averaged over draws of the latent, (n_users, n_draws, n, n_responses), and moderated."""
    mean = utilities.mean(dim=1)
    centred = utilities - utilities.mean(dim=3, keepdim=True)
    spread = centred.var(dim=1, correction=0).mean(dim=2)
    return moderated(torch, mean, spread)
