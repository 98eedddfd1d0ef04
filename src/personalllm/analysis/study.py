"""The input of all analyses of one benchmark: its populations, prompts, scores and votes, and what a user adds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from personalllm.analysis.features import FeatureProgress, Features, measure_features
from personalllm.analysis.people import pair_votes
from personalllm.analysis.votes import Votes
from personalllm.core.protocols import TextClassifier
from personalllm.core.types import I32
from personalllm.data import Benchmark, ScoreTable, Standardiser
from personalllm.users import PUBLISHED_ALPHAS, PUBLISHED_REWARD_MODELS, PUBLISHED_USERS, Population

if TYPE_CHECKING:
    from personalllm.analysis.opinion_questions import ScoreRule, Survey
    from personalllm.analysis.persona import PersonaPopulation
    from personalllm.analysis.whose import Choices

__all__ = ["Study"]

_MAIN_ALPHA = 0.05
# The choices of 5,000 users take 5 kB a prompt; beyond that only the counts are kept.
_MAX_CHOICES = 5_000


@dataclass(frozen=True, eq=False)
class Study:
    """A benchmark, the populations that its analyses look at, and the extra inputs that some of them need.

    Attributes:
        benchmark: The benchmark.
        alphas: Concentration of each population, in the order of tables and figures.
        n_users: Users of each population, >= 2.
        split: Split of all prompts; None for the one that each analysis prefers, as in the paper.
        seed: Seed of the users and of the pairs of responses.
        people: Votes of people.
        personas: Populations of personas on the same benchmark.
        choices: Choices of voters among several responses, e.g. of reward models.
        survey: Opinion questions, and people's answers to them.
        opinion_score: What lies between two options: their codes (the paper's rule) or their positions.
        classifiers: Classifiers of each set of text features, by its name.
        progress: Opens a progress display with a title, and gives the callback for it; None for no display.

    >>> from personalllm.data import make_synthetic
    >>> study = Study(make_synthetic(500), n_users=100)
    >>> study.published, len(study.rows("test")), study.votes("test")[1]
    (True, 48, Votes('alpha 0.05': 48 prompts, 8 options, 100 voters))
    """

    benchmark: Benchmark
    alphas: tuple[float, ...] = PUBLISHED_ALPHAS
    n_users: int = PUBLISHED_USERS
    split: str | None = None
    seed: int = 0
    people: tuple[Votes, ...] = ()
    personas: tuple[PersonaPopulation, ...] = ()
    choices: tuple[Choices, ...] = ()
    survey: Survey | None = None
    opinion_score: ScoreRule = "coded"
    classifiers: Mapping[str, Sequence[TextClassifier]] = field(default_factory=dict)
    progress: Callable[[str], AbstractContextManager[FeatureProgress]] | None = None
    _votes: dict[str, tuple[Votes, ...]] = field(default_factory=dict, init=False, repr=False)

    @property
    def published(self) -> bool:
        """Whether the users are the paper's own: its reward models, and no more users than it published."""
        return self.benchmark.reward_models == PUBLISHED_REWARD_MODELS and self.n_users <= PUBLISHED_USERS

    @property
    def main_alpha(self) -> float:
        """The concentration where an analysis takes one population: the paper's 0.05 if it is there, else the first."""
        return _MAIN_ALPHA if _MAIN_ALPHA in self.alphas else self.alphas[0]

    @property
    def persona_votes(self) -> tuple[Votes, ...]:
        """The votes of the personas."""
        return tuple(population.votes for population in self.personas)

    def split_of(self, preferred: str) -> str | None:
        """Return the split of an analysis that prefers one; None for all prompts.

        These are all prompts where the study names no split and the benchmark lacks the preferred one.
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

        The choice of each user is kept for at most 5,000 users.
        """
        key = self.split_of(preferred) or ""
        if key not in self._votes:
            rows, table = self.rows(preferred), self.scores(preferred)
            keep = self.n_users <= _MAX_CHOICES
            self._votes[key] = tuple(
                Votes.of(f"alpha {alpha:g}", self.population(alpha), table, self.benchmark, rows, keep_choices=keep)
                for alpha in self.alphas
            )
        return self._votes[key]

    def pairs(self, preferred: str) -> tuple[Votes, ...]:
        """Return the votes of each population between two responses of each prompt, see `pair_votes`."""
        rows, table = self.rows(preferred), self.scores(preferred)
        return tuple(
            pair_votes(f"alpha {alpha:g}", self.population(alpha), table, self.benchmark, rows, seed=self.seed)
            for alpha in self.alphas
        )

    def features(self, name: str, preferred: str) -> Features:
        """Measure one of the sets of text features on the responses."""
        display = self.progress(f"features: {name}") if self.progress else nullcontext(None)
        with display as progress:
            return measure_features(self.benchmark, self.classifiers[name], self.rows(preferred), progress=progress)
