"""`calibrated-bayes`: hierarchical Bayes on embeddings and measures of the text, calibrated on prompts held out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from personalllm.core.types import F64
from personalllm.methods.linear.hierarchical_bt import HierarchicalBT, fit_prior
from personalllm.methods.parts.features import Pairs
from personalllm.methods.parts.held_out import HeldOut
from personalllm.methods.parts.linear_method import CalibratedMethod, moderated_margins
from personalllm.methods.parts.low_rank import some_users

__all__ = ["CalibratedBayes"]

_CALIBRATING_USERS = 300


@dataclass
class CalibratedBayes(CalibratedMethod, HierarchicalBT):
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

    learned_prior: bool = True
    calibrated: bool = True

    def learn(self, pairs: Pairs) -> None:
        """Fit the prior, then the slopes on a second fit without some users and prompts."""
        super().learn(pairs)
        some = some_users(pairs)
        self.prior_ = fit_prior(some, self.steps, self.pseudo_users, full=self.learned_prior)
        parts = HeldOut.of(some) if self.calibrated else None
        if parts is None:
            return
        taught, steps = some_users(parts.taught, _CALIBRATING_USERS), max(1, self.steps // 2)
        prior = fit_prior(taught, steps, self.pseudo_users, full=self.learned_prior)

        def predict(history: Pairs) -> F64:
            laplace = prior.posterior(history)
            return moderated_margins(laplace.mean, laplace.covariance, parts.tests)

        self.slopes_, _ = parts.slopes(predict)
