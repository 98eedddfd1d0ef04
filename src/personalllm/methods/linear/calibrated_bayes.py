"""`calibrated-bayes`: hierarchical Bayes on embeddings and measures of the text, calibrated on prompts held out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from personalllm.core.types import F32, F64, Histories, Queries
from personalllm.methods.linear.hierarchical_bt import HierarchicalBT, fit_prior
from personalllm.methods.parts.features import FeatureMap, Pairs
from personalllm.methods.parts.linear_method import moderated_margins
from personalllm.methods.parts.low_rank import some_users
from personalllm.methods.parts.surface import TextFeatureMap

__all__ = ["CalibratedBayes"]

_MOST_USERS = 1_000
_CALIBRATING_USERS = 300
_SHOTS = (0, 2, 8, 32)
_PSEUDO = 20.0
_SLOPES = np.exp(np.linspace(np.log(0.2), np.log(5.0), 65))


@dataclass
class CalibratedBayes(HierarchicalBT):
    r"""The benchmark's baseline to beat: `hierarchical-bt` with more features and honest probabilities.

    Three things are added. The features hold measures of the text (length, layout, marks) and the cosine of response
    and prompt beside the principal components. The prior is fitted on many users but few prompts, so predictions on new
    prompts are off in scale: the prior is fitted again without a quarter of the prompts, other users are adapted with
    0, 2, 8 and 32 comparisons, and the slope a that makes their comparisons on the prompts held out most probable
    multiplies the moderated log-odds, interpolated in the log of the number of comparisons.

    Mind where its lead comes from. Each of the eight measures has a counterpart among the twenty surface features of
    which the compact reward models (`compact-v1`) are made: length, length of words, lines, list items, question and
    exclamation marks, digits. So on benchmarks that those models scored, such as `mini@v1`, the measures
    say what users' utilities are partly made of, and most of the lead over `hierarchical-bt` is theirs
    (`text_measures=False` shows what is left; figures in docs/methods.md). With reward models of another kind they
    need not help more than length does.

    Args:
        n_features: Principal components of the embedding, >= 1.
        pseudo_users: For how many users the isotropic prior counts, > 0.
        steps: EM steps, >= 1.
        text_measures: Whether to add the measures of the text and the cosine with the prompt.
        learned_prior: Whether to fit the prior's mean and covariance; otherwise pooled weights and isotropic.
        calibrated: Whether to multiply by the slope.
    """

    id: ClassVar[str] = "calibrated-bayes"
    title: ClassVar[str] = "Calibrated Bayes on text and embedding"
    paper: ClassVar[str] = ""
    objective: ClassVar[str] = (
        "The marginal likelihood of the pool's comparisons, then the likelihood of comparisons on prompts held out."
    )
    fitted_per_user: ClassVar[str] = "A Gaussian posterior of n_features + 9 weights: a maximum and a Hessian."
    cost: ClassVar[str] = "About six Newton steps for a user, each O(min(k, d)^3), and one d x d covariance."

    text_measures: bool = True
    learned_prior: bool = True
    calibrated: bool = True

    def make_features(self, pool: Histories) -> FeatureMap:
        """Return the components and, unless switched off, the measures of the text."""
        kind = TextFeatureMap if self.text_measures else FeatureMap
        return kind.fit(self.embedder, pool, self.n_features)

    def learn(self, pairs: Pairs) -> None:
        """Fit the prior, then the slopes."""
        some = some_users(pairs, _MOST_USERS)
        self.prior_ = fit_prior(some, self.steps, self.pseudo_users, full=self.learned_prior)
        self.slopes_ = self._slopes(some) if self.calibrated else np.ones(len(_SHOTS))

    def _slopes(self, pairs: Pairs) -> F64:
        """Return the slope for each number of comparisons in `_SHOTS`, float64 (4,)."""
        held_prompts = np.unique(pairs.prompt)[3::4]
        is_held = np.isin(pairs.prompt, held_prompts)
        train, held_out = pairs.where(~is_held), pairs.where(is_held)
        users = np.arange(pairs.n_users)
        judges = users[users % 3 == 0][:_CALIBRATING_USERS]
        teachers = np.setdiff1d(users, judges) if len(users) >= 3 else users
        if not len(held_out) or not len(train):
            return np.ones(len(_SHOTS))
        prior = fit_prior(
            some_users(train.of_users(teachers), _CALIBRATING_USERS),
            max(1, self.steps // 2),
            self.pseudo_users,
            full=self.learned_prior,
        )
        history, tests = train.of_users(judges), held_out.of_users(judges)
        slopes = np.ones(len(_SHOTS))
        for i, shots in enumerate(_SHOTS):
            laplace = prior.posterior(history.first(shots))
            margins = moderated_margins(laplace.mean, laplace.covariance, tests)
            loss = np.logaddexp(0.0, -_SLOPES[:, None] * margins).sum(axis=1) + _PSEUDO * np.log(_SLOPES) ** 2
            slopes[i] = _SLOPES[loss.argmin()]
        return slopes

    def user_weights(self, pairs: Pairs) -> F32:
        """Return the posterior means, and keep the covariances and the slopes."""
        self.user_slopes_ = np.interp(np.log1p(pairs.counts), np.log1p(_SHOTS), self.slopes_).astype(np.float32)
        return super().user_weights(pairs)

    def utilities(self, queries: Queries) -> F32:
        """Return calibrated utilities, float32 (n_queries, n_responses)."""
        return super().utilities(queries) * self.user_slopes_[queries.user][:, None]
