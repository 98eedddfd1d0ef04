"""`gpo`: a transformer reads a user's comparisons in context and scores responses; nothing is fitted for a user."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from personalllm.core.errors import ParameterError
from personalllm.core.types import F32
from personalllm.methods.parts.neural import NeuralMethod, Split, Tensor, Weights, coded, coder, dense, within

__all__ = ["GPO"]

_HEADS = 4


@dataclass
class GPO(NeuralMethod):
    """Group preference optimisation: an in-context transformer over embedded preferences, meta-trained on users.

    A comparison is one token, the difference of its responses behind a hidden layer; a response to be scored is
    another. The comparisons attend to each other, the responses attend to the comparisons alone, there are no
    positions: the order of a history does not matter, and one response's score does not depend on the others. A learned
    token stands first, so that it works without a comparison. Training makes the log-loss of a user's other comparisons
    smaller, after 0 to 64 known ones.

    In the authors' code (github.com/jamqd/Group-Preference-Optimization) a token is an answer and the share of a group
    that gave it, so that a comparison would be two tokens; the shares have a Gaussian likelihood about a softmax over
    the answers to a question, and there are 6 layers of width 128. Here the labels are comparisons, hence the
    Bradley-Terry loss, and the network is smaller, for a CPU.

    Args:
        n_features: Principal components of the embedding, >= 1.
        max_steps: Most steps of training, >= 1.
        n_layers: Layers, >= 1.
        n_hidden: Width of a token, a multiple of 4.
    """

    id: ClassVar[str] = "gpo"
    title: ClassVar[str] = "Group preference optimisation"
    paper: ClassVar[str] = "Zhao et al., Group preference optimization, arXiv 2310.11523"
    objective: ClassVar[str] = "The log-loss of a user's other comparisons, given some as the context of a transformer."
    fitted_per_user: ClassVar[str] = "Nothing: the comparisons are the context."
    cost: ClassVar[str] = "One pass over the comparisons, and attention to all of them for each prediction."
    learning_rate: ClassVar[float] = 1e-3

    n_layers: int = 2
    n_hidden: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("n_layers", "n_hidden")
        if self.n_hidden % _HEADS:
            raise ParameterError("n_hidden", f"a multiple of {_HEADS}", self.n_hidden)

    @classmethod
    def example_params(cls) -> dict[str, Any]:
        """Exercise a small network."""
        return {**super().example_params(), "n_layers": 2, "n_hidden": 16}

    def start(self, split: Split, rng: np.random.Generator) -> dict[str, F32]:
        """Return a random transformer whose scores are zero at first."""
        width, n = split.train.inputs.shape[1], self.n_hidden
        zeros, ones = np.zeros(n, dtype=np.float32), np.ones(n, dtype=np.float32)
        weights = {
            **coder(rng, width, n),
            "compared": dense(rng, width + n, n),
            "scored": dense(rng, width + n, n),
            "first": dense(rng, 1, n)[0],
            "norm": ones,
            "last": np.zeros((n, 1), dtype=np.float32),
            "past": np.zeros((width // 2, 1), dtype=np.float32),
        }
        for i in range(self.n_layers):
            weights |= {f"{name}{i}": dense(rng, n, n) for name in ("query", "key", "value")}
            weights |= {f"mix{i}": dense(rng, n, n, 0.5), f"up{i}": dense(rng, n, 2 * n)}
            weights |= {f"down{i}": dense(rng, 2 * n, n, 0.5), f"up_shift{i}": np.zeros(2 * n, dtype=np.float32)}
            weights |= {f"norm{i}": ones, f"norm_up{i}": ones, f"down_shift{i}": zeros}
        return weights

    @staticmethod
    def _normal(torch: Any, h: Tensor, scale: Tensor) -> Tensor:
        return torch.nn.functional.layer_norm(h, h.shape[-1:]) * scale

    def _layer(self, torch: Any, weights: Weights, i: int, h: Tensor, context: Tensor, there: Tensor) -> Tensor:
        """Return h (n_users, n, n_hidden) after layer i, with attention to a context that is already normal."""
        n_users, n, width = h.shape

        def heads(values: Tensor) -> Tensor:
            return values.view(n_users, -1, _HEADS, width // _HEADS).transpose(1, 2)

        query = heads(self._normal(torch, h, weights[f"norm{i}"]) @ weights[f"query{i}"])
        key, value = heads(context @ weights[f"key{i}"]), heads(context @ weights[f"value{i}"])
        scores = query @ key.transpose(2, 3) / math.sqrt(width // _HEADS)
        scores = scores.masked_fill(~there[:, None, None], -math.inf)
        seen = (scores.softmax(dim=3) @ value).transpose(1, 2).reshape(n_users, n, width)
        h = h + seen @ weights[f"mix{i}"]
        up = self._normal(torch, h, weights[f"norm_up{i}"]) @ weights[f"up{i}"] + weights[f"up_shift{i}"]
        return h + torch.nn.functional.gelu(up) @ weights[f"down{i}"] + weights[f"down_shift{i}"]

    def infer(self, torch: Any, weights: Weights, support: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """Return the context of each layer, (n_users, n_layers, 1 + n_known, n_hidden), and which tokens are there."""
        n_users = len(support)
        first = weights["first"].expand(n_users, 1, -1)
        code = coded(torch, weights, support)
        h = torch.cat([first, (code[:, :, 0] - code[:, :, 1]) @ weights["compared"]], dim=1)
        there = torch.cat([torch.ones((n_users, 1), dtype=torch.bool), mask], dim=1)
        contexts = []
        for i in range(self.n_layers):
            contexts.append(self._normal(torch, h, weights[f"norm{i}"]))
            if i + 1 < self.n_layers:
                h = self._layer(torch, weights, i, h, contexts[-1], there)
        return torch.stack(contexts, dim=1), there

    def utility(self, torch: Any, weights: Weights, state: tuple[Tensor, ...], x: Tensor) -> Tensor:
        """Return the scores of the responses, each by itself."""
        contexts, there = state
        n_users, n, n_responses, width = x.shape
        flat = x.reshape(n_users, n * n_responses, width)
        h = coded(torch, weights, flat) @ weights["scored"]
        for i in range(self.n_layers):
            h = self._layer(torch, weights, i, h, contexts[:, i], there)
        scores = self._normal(torch, h, weights["norm"]) @ weights["last"] + within(flat) @ weights["past"]
        return scores.reshape(n_users, n, n_responses)
