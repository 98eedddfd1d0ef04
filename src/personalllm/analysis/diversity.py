"""How much a population disagrees about the best response (section 3.1 of the paper)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from personalllm.data import ScoreTable
from personalllm.types import F32, U8
from personalllm.users import Population, choices

__all__ = ["Diversity", "diversity", "vote_counts"]


@dataclass(frozen=True, eq=False)
class Diversity:
    """Disagreement of a population over a set of prompts.

    Attributes:
        top_share: float32 (n_prompts,), share of the users who choose the prompt's most popular response.
        n_winners: uint8 (n_prompts,), number of responses that are at least one user's best.
        wins: float32 (n_responses,), share of all choices that fall on each column.
        entropy: float32 (n_prompts,), entropy of the choices in nats.
    """

    top_share: F32
    n_winners: U8
    wins: F32
    entropy: F32

    def share_at_most(self, threshold: float) -> float:
        """Return the share of prompts whose top share is at most `threshold`; ties count half, as in the paper."""
        tied = np.isclose(self.top_share, threshold, rtol=0, atol=1e-6)
        return float(np.mean((self.top_share < threshold) & ~tied) + np.mean(tied) / 2)

    def winners_histogram(self) -> dict[int, float]:
        """Return the share of prompts with 1, 2, ... distinct winners."""
        counts = np.bincount(self.n_winners, minlength=len(self.wins) + 1)[1:]
        return {n: float(c) / len(self.n_winners) for n, c in enumerate(counts, 1)}


def vote_counts(best: U8, n_responses: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Count the votes, int64 (n_prompts, n_responses), from the users' best responses, uint8 (n_users, n_prompts)."""
    return np.stack([np.count_nonzero(best == r, axis=0) for r in range(n_responses)], axis=1).astype(np.int64)


def diversity(population: Population, scores: ScoreTable) -> Diversity:
    """Measure the disagreement of a population about the best response.

    Args:
        population: The users.
        scores: Standardised scores of the prompts.
    """
    best, _ = choices(population, scores)
    votes = vote_counts(best, scores.values.shape[1])
    shares = votes / population.n_users
    logs = np.log(shares, where=shares > 0, out=np.zeros_like(shares))
    return Diversity(
        top_share=shares.max(1).astype(np.float32),
        n_winners=np.count_nonzero(votes, axis=1).astype(np.uint8),
        wins=shares.mean(0).astype(np.float32),
        entropy=-(shares * logs).sum(1).astype(np.float32),
    )
