"""The populations of one benchmark: whose users, on which prompts, with what scores, and how they vote."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from personalllm.analysis.people import pair_votes
from personalllm.analysis.votes import Votes
from personalllm.core.types import I32
from personalllm.data import Benchmark, ScoreTable, Standardiser
from personalllm.users import PUBLISHED_REWARD_MODELS, Population

__all__ = ["PUBLISHED_ALPHAS", "Study"]

PUBLISHED_ALPHAS = (0.01, 0.05, 0.1)
"""The concentrations that the paper analyses."""

_MAIN_ALPHA = 0.05
_PUBLISHED_USERS = 1_000
_MOST_KNOWN = 5_000


@dataclass(frozen=True, eq=False)
class Study:
    """The populations that an analysis of a benchmark looks at.

    Attributes:
        benchmark: The benchmark.
        alphas: Concentration of each population, in the order of tables and figures.
        n_users: Users of each population, >= 2.
        split: Split of all prompts; None for the one that each analysis prefers, as in the paper.
        seed: Seed of the users and of the pairs of responses.

    >>> from personalllm.data import make_twin
    >>> study = Study(make_twin(500), n_users=100)
    >>> study.published, len(study.rows("test")), study.votes("test")[1]
    (True, 48, Votes('alpha 0.05': 48 prompts, 8 options, 100 voters))
    """

    benchmark: Benchmark
    alphas: tuple[float, ...] = PUBLISHED_ALPHAS
    n_users: int = _PUBLISHED_USERS
    split: str | None = None
    seed: int = 0
    _votes: dict[str, tuple[Votes, ...]] = field(default_factory=dict, init=False, repr=False)

    @property
    def published(self) -> bool:
        """Whether the users are the paper's own: the reward models are the paper's, and no more users are wanted."""
        return self.benchmark.reward_models == PUBLISHED_REWARD_MODELS and self.n_users <= _PUBLISHED_USERS

    @property
    def main_alpha(self) -> float:
        """The concentration where one must do: the paper's 0.05 if it is there, else the first."""
        return _MAIN_ALPHA if _MAIN_ALPHA in self.alphas else self.alphas[0]

    def split_of(self, preferred: str) -> str | None:
        """Return the split that is taken where an analysis prefers another; None for all prompts.

        All prompts are taken where no split was chosen and the benchmark lacks the preferred one.
        """
        return self.split or (preferred if preferred in self.benchmark.splits else None)

    def rows(self, preferred: str) -> I32:
        """Return the rows of the prompts, int32 (n_prompts,), ascending.

        Raises:
            ParameterError: If the chosen split does not exist.
        """
        name = self.split_of(preferred)
        if name is None:
            return np.arange(self.benchmark.n_prompts, dtype=np.int32)
        return np.sort(self.benchmark.rows(name)).astype(np.int32)

    def scores(self, preferred: str) -> ScoreTable:
        """Return the standardised scores of the prompts; the scale is that of the train split, or of the first one.

        Raises:
            DataError: If a reward model gives every response the same score.
        """
        splits = self.benchmark.splits
        fitted = Standardiser.fit(self.benchmark, split="train" if "train" in splits else next(iter(splits)))
        return self.benchmark.score_table(fitted, self.rows(preferred))

    def population(self, alpha: float) -> Population:
        """Return the users of one concentration: the paper's own where that is possible, else drawn from the seed."""
        if self.published:
            return Population.published(alpha).subset(np.arange(self.n_users, dtype=np.int32))
        return Population.dirichlet(self.n_users, alpha, self.benchmark.reward_models, self.seed)

    def votes(self, preferred: str) -> tuple[Votes, ...]:
        """Return the votes of each population, computed once for each split.

        The choices of the single users are kept for at most 5,000 users.
        """
        key = self.split_of(preferred) or ""
        if key not in self._votes:
            rows, table = self.rows(preferred), self.scores(preferred)
            known = self.n_users <= _MOST_KNOWN
            self._votes[key] = tuple(
                Votes.of(
                    f"alpha {alpha:g}", self.population(alpha), table, self.benchmark, rows, keep_choices=known
                )
                for alpha in self.alphas
            )  # fmt: skip
        return self._votes[key]

    def pairs(self, preferred: str) -> tuple[Votes, ...]:
        """Return the votes of each population between two responses of each prompt, see `pair_votes`."""
        rows, table = self.rows(preferred), self.scores(preferred)
        return tuple(
            pair_votes(f"alpha {alpha:g}", self.population(alpha), table, self.benchmark, rows, seed=self.seed)
            for alpha in self.alphas
        )
