"""Fit one compact reward model on preference pairs and say how good it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from personalllm.backends.reward.bradley_terry import PENALTIES, choose_penalty, fit_bradley_terry
from personalllm.backends.reward.heads import RewardHeads, embedding_features
from personalllm.backends.reward.metrics import Accuracy, accuracy, lengths, rank_correlation
from personalllm.backends.reward.pairs import Pairs
from personalllm.backends.reward.surface import LENGTH_FEATURE, SURFACE_FEATURES, surface_features
from personalllm.core.errors import ParameterError
from personalllm.core.protocols import TextEmbedder
from personalllm.core.types import F32, F64, JSON

__all__ = ["TrainedReward", "TrainingReport", "train_compact"]

_N_SURFACE = len(SURFACE_FEATURES)


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """What a fit used and how the model does on pairs it has not seen.

    Attributes:
        n_fitted: Pairs used to fit.
        n_fitted_groups: Their prompts (groups).
        n_held_out: Pairs held out.
        n_held_out_groups: Their prompts, none of which is among those fitted on.
        penalty: Ridge penalty that cross-validation chose on the fitted pairs.
        cross_validation: Pair accuracy of that penalty on the folds left out, in [0, 1].
        held_out: Accuracy on the held-out pairs.
        always_longer: Accuracy of always preferring the response with more characters, on the same pairs.
        length_correlation: Rank correlation of score and characters over the held-out responses, in [-1, 1].
        uses_length: Whether the model may read the length.
    """

    n_fitted: int
    n_fitted_groups: int
    n_held_out: int
    n_held_out_groups: int
    penalty: float
    cross_validation: float
    held_out: Accuracy
    always_longer: Accuracy
    length_correlation: float
    uses_length: bool

    @property
    def beats_chance(self) -> bool:
        """Whether the lower end of the interval is above one half."""
        return self.held_out.low > 0.5

    def spec(self) -> JSON:
        """Return the report as JSON, numbers rounded to four decimals."""
        return {
            "n_fitted": self.n_fitted,
            "n_fitted_groups": self.n_fitted_groups,
            "n_held_out": self.n_held_out,
            "n_held_out_groups": self.n_held_out_groups,
            "penalty": self.penalty,
            "cross_validation": round(self.cross_validation, 4),
            "held_out": self.held_out.spec(),
            "always_longer": self.always_longer.spec(),
            "chance": 0.5,
            "length_correlation": round(self.length_correlation, 4),
            "uses_length": self.uses_length,
        }


@dataclass(frozen=True, slots=True)
class TrainedReward:
    """A fitted reward model and its report."""

    heads: RewardHeads
    report: TrainingReport


@dataclass(frozen=True, eq=False, slots=True)
class _Features:
    """Text vectors and surface features of the two responses of each pair."""

    vectors: tuple[F32, F32]
    surface: tuple[F32, F32]

    @classmethod
    def of(cls, pairs: Pairs, embedder: TextEmbedder) -> _Features:
        n = len(pairs)
        embedded = embedder.embed([*pairs.prompts, *pairs.chosen, *pairs.rejected])
        prompts, sides = embedded[:n], (embedded[n : 2 * n], embedded[2 * n :])
        texts = (pairs.chosen, pairs.rejected)
        return cls(
            (embedding_features(prompts, sides[0]), embedding_features(prompts, sides[1])),
            (surface_features(pairs.prompts, texts[0]), surface_features(pairs.prompts, texts[1])),
        )

    def rows(self, mean: F32, sd: F32) -> tuple[F64, F64]:
        """Return the feature rows of chosen and rejected responses, float64 (n, 2 d + n_surface)."""
        standard = [np.clip((side - mean) / sd, -3.0, 3.0) for side in self.surface]
        both = [
            np.concatenate([vectors, side], axis=1).astype(np.float64)
            for vectors, side in zip(self.vectors, standard, strict=True)
        ]
        return both[0], both[1]


def _neutralise(rows: tuple[F64, F64]) -> tuple[F64, F64]:
    """Return (features with the length regressed out, slope of each feature on the standardised log length).

    The length column itself becomes zero.
    """
    stacked = np.concatenate(rows)
    column = stacked.shape[1] - _N_SURFACE + LENGTH_FEATURE
    length = stacked[:, column] - stacked[:, column].mean()
    slope = (length @ stacked) / max(float(length @ length), 1e-12)
    difference = rows[0] - rows[1]
    return difference - np.outer(difference[:, column], slope), slope


def train_compact(
    pairs: Pairs,
    name: str,
    embedder: TextEmbedder,
    *,
    held_out: float = 0.25,
    use_length: bool = True,
    penalties: Sequence[float] = PENALTIES,
) -> TrainedReward:
    """Fit a compact reward model on preference pairs and test it on held-out prompts.

    A linear Bradley-Terry model, P(chosen wins) = sigmoid(score(chosen) - score(rejected)), with a ridge penalty chosen
    by five-fold cross-validation over prompts, on the pairs to fit on only (see `choose_penalty`).

    Without `use_length`, the standardised log word count is regressed out of every other feature over the responses
    fitted on and has no weight of its own, so the score is uncorrelated with it there. Scores are scaled to mean 0 and
    standard deviation 1 over the responses fitted on.

    Args:
        pairs: Pairs of responses.
        name: Name of the reward model.
        embedder: What gives the text vectors.
        held_out: Expected share of prompts held out, in (0, 1).
        use_length: Whether the model may read the length of a response.
        penalties: Ridge penalties to choose from, > 0.

    Raises:
        ParameterError: If a parameter is out of range, or too few prompts are on one side of the split.
    """
    if not name or name != name.strip():
        raise ParameterError("name", "a text without white space around it", name)
    if not 0 < held_out < 1:
        raise ParameterError("held_out", "in (0, 1)", held_out)
    if not penalties or min(penalties) <= 0:
        raise ParameterError("penalties", "positive numbers", tuple(penalties))
    fitted, tested = pairs.split(held_out)
    sizes = tuple(len(set(part.groups)) for part in (fitted, tested))
    if min(sizes) < 2:
        raise ParameterError("pairs", "of at least two prompts on each side of the split", sizes)

    heads, penalty, validated = _fit(fitted, name, embedder, penalties, use_length=use_length)
    margins, correlation = _test(heads, tested, embedder)
    longer = np.sign(lengths(tested.chosen) - lengths(tested.rejected))
    groups = tested.group_index()
    report = TrainingReport(
        n_fitted=len(fitted),
        n_fitted_groups=sizes[0],
        n_held_out=len(tested),
        n_held_out_groups=sizes[1],
        penalty=penalty,
        cross_validation=validated,
        held_out=accuracy(margins, groups),
        always_longer=accuracy(longer, groups),
        length_correlation=correlation,
        uses_length=use_length,
    )
    return TrainedReward(heads, report)


def _fit(
    fitted: Pairs, name: str, embedder: TextEmbedder, penalties: Sequence[float], *, use_length: bool
) -> tuple[RewardHeads, float, float]:
    """Return (the model, its penalty, the cross-validated accuracy of that penalty)."""
    features = _Features.of(fitted, embedder)
    surface = np.concatenate(features.surface).astype(np.float64)
    mean = surface.mean(axis=0).astype(np.float32)
    sd = np.maximum(surface.std(axis=0), 1e-3).astype(np.float32)
    rows = features.rows(mean, sd)
    differences, slope = (rows[0] - rows[1], None) if use_length else _neutralise(rows)
    penalty, tried = choose_penalty(differences, fitted.group_index(), penalties)
    weights = fit_bradley_terry(differences, penalty)
    if slope is not None:
        weights[len(weights) - _N_SURFACE + LENGTH_FEATURE] = -(weights @ slope)
    raw = np.concatenate(rows) @ weights
    scale = max(float(raw.std()), 1e-9)
    heads = RewardHeads(
        (name,),
        (weights / scale)[None].astype(np.float32),
        np.array([-raw.mean() / scale], np.float32),
        mean[None],
        sd[None],
        embedder.name,
        embedder.identity,
    )
    return heads, penalty, tried[penalty]


def _test(heads: RewardHeads, tested: Pairs, embedder: TextEmbedder) -> tuple[F32, float]:
    """Return the margins of held-out pairs, float32 (n,), and the rank correlation of score and length."""
    features = _Features.of(tested, embedder)
    chosen, rejected = (heads.evaluate(v, s)[:, 0] for v, s in zip(features.vectors, features.surface, strict=True))
    texts = [*tested.chosen, *tested.rejected]
    first = {text: i for i, text in reversed(list(enumerate(zip([*tested.prompts] * 2, texts, strict=True))))}
    keep = sorted(first.values())
    scores = np.concatenate([chosen, rejected])[keep]
    return chosen - rejected, rank_correlation(scores, lengths(texts)[keep])
