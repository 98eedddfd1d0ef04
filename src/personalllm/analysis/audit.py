"""Audit a reward ensemble: what its reward models share, and what a benchmark builder should fix.

All measures are taken within prompts: scores, ranks and lengths are compared among the responses to one prompt, because
that is all that a user's choice depends on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from personalllm.analysis.base import Analysis
from personalllm.core.errors import DataError
from personalllm.core.plotting import INK, bare, figure
from personalllm.core.types import F64
from personalllm.data import Benchmark

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from personalllm.analysis.study import Study

__all__ = ["AuditWarning", "RewardAudit", "audit"]

# Thresholds of the warnings. They are rules of thumb, set so that the paper's ten reward models raise a few of them.
_AGAINST = -0.1
_REDUNDANT = 0.54  # agreement beyond chance: two reward models that share 60 % of their top responses out of eight
_LONG = 0.5
_SCALES = 20.0
_TIED = 0.05
_DECIDES = 0.5
_OUTLIERS = 0.01
_FAR = 5.0  # standard deviations: a normal score lies beyond once in two million


@dataclass(frozen=True, slots=True)
class AuditWarning:
    """Something that a benchmark builder should look at.

    Attributes:
        check: Which check raised it: `constant`, `sign`, `redundant`, `length`, `ties`, `outliers`, `decides` or
            `scale`.
        reward_models: The reward models concerned.
        message: What was measured.
        remedy: What can be done about it.
    """

    check: Literal["constant", "sign", "redundant", "length", "ties", "outliers", "decides", "scale"]
    reward_models: tuple[str, ...]
    message: str
    remedy: str


@dataclass(frozen=True, eq=False)
class RewardAudit(Analysis):
    """An audit of a reward ensemble on a set of prompts.

    Attributes:
        reward_models: Names, in the order of all axes below.
        n_prompts: Prompts that were audited.
        agreement: float64 (n_reward_models, n_reward_models), share of prompts with the same top response; the first
            response wins a tie. Chance is 1 / n_responses.
        rank_correlation: float64, the same shape: mean over prompts of Spearman's correlation of the scores of a
            prompt's responses; prompts on which either gives equal scores to all responses are left out.
        consensus: float64 (n_reward_models,), mean over prompts of Spearman's correlation with the mean of the other
            reward models' standardised scores; below 0 for a cost model that is used as a reward.
        length: float64 (n_reward_models,), mean over prompts of Spearman's correlation with the response's length in
            characters.
        mean: float64 (n_reward_models,), mean of the raw scores.
        sd: float64 (n_reward_models,), standard deviation of the raw scores.
        tied: float64 (n_reward_models,), share of prompts whose top raw score is shared by two responses.
        outliers: float64 (n_reward_models,), share of raw scores more than 5 standard deviations from the mean.
        decides: float64 (n_reward_models,), share of prompts on which the user of equal weights would choose another
            response if this reward model alone were taken out.
        decided_by_one: Share of prompts on which exactly one reward model decides in that sense.
        effective_rank: exp(entropy of the normalised eigenvalues) of the correlation matrix of the standardised
            scores, centred within prompts; in [1, n_reward_models] (Roy and Vetterli, 2007).
        chance: 1 / n_responses.
    """

    id: ClassVar[str] = "audit"
    title: ClassVar[str] = "Audit of the reward models"
    split: ClassVar[str] = ""

    reward_models: tuple[str, ...]
    n_prompts: int
    agreement: F64
    rank_correlation: F64
    consensus: F64
    length: F64
    mean: F64
    sd: F64
    tied: F64
    outliers: F64
    decides: F64
    decided_by_one: float
    effective_rank: float
    chance: float

    @classmethod
    def of_study(cls, study: Study) -> tuple[RewardAudit]:
        """Audit the reward models of the benchmark, on all prompts unless the study names a split."""
        return (audit(study.benchmark, split=study.split),)

    def warnings(self) -> tuple[AuditWarning, ...]:
        """Return what a benchmark builder should look at, the gravest first."""
        per_model = [w for i in range(len(self.reward_models)) for w in self._measures(i)]
        return (*self._constants_and_signs(), *self._pairs(), *per_model, *self._scales())

    def _constants_and_signs(self) -> list[AuditWarning]:
        constant = [
            AuditWarning(
                "constant",
                (name,),
                f"{name} gives every response the same score.",
                "Leave it out: such scores cannot be standardised, and no choice depends on them.",
            )
            for name, sd in zip(self.reward_models, self.sd, strict=True)
            if not sd > 0
        ]
        opposed = [
            AuditWarning(
                "sign",
                (name,),
                f"{name} disagrees with the other reward models: mean rank correlation {value:+.2f} with their mean.",
                "If it is a cost model (higher = worse), change its sign or say in the data card that it is kept.",
            )
            for name, value in zip(self.reward_models, self.consensus, strict=True)
            if value < _AGAINST
        ]
        return constant + opposed

    def _pairs(self) -> list[AuditWarning]:
        beyond_chance = (self.agreement - self.chance) / (1 - self.chance)
        varied = self.sd > 0
        rows, columns = np.nonzero(np.triu((beyond_chance > _REDUNDANT) & np.outer(varied, varied), 1))
        names = self.reward_models
        return [
            AuditWarning(
                "redundant",
                (names[i], names[j]),
                f"{names[i]} and {names[j]} have the same top response on {self.agreement[i, j]:.0%} of the prompts.",
                "Users whose weights differ only between the two are hard to tell apart; drop one, or keep both "
                "knowingly.",
            )
            for i, j in zip(rows.tolist(), columns.tolist(), strict=True)
        ]

    def _measures(self, i: int) -> Iterator[AuditWarning]:
        """Yield the warnings about single measures of reward model `i`."""
        name = self.reward_models[i]
        if abs(self.length[i]) > _LONG:
            yield AuditWarning(
                "length",
                (name,),
                f"{name} follows the response's length: mean rank correlation {self.length[i]:+.2f}.",
                "Compare methods under one token limit, and report the utility of `longest` beside them.",
            )
        if self.tied[i] > _TIED and self.sd[i] > 0:
            yield AuditWarning(
                "ties",
                (name,),
                f"{name} gives its top score to two responses on {self.tied[i]:.0%} of the prompts.",
                "Check for rounded scores or repeated responses; the first response wins a tie.",
            )
        if self.outliers[i] > _OUTLIERS:
            yield AuditWarning(
                "outliers",
                (name,),
                f"{self.outliers[i]:.1%} of the scores of {name} lie more than {_FAR:.0f} sd from their mean.",
                "A few scores set its scale; look at the responses that they belong to.",
            )
        if self.decides[i] > _DECIDES:
            yield AuditWarning(
                "decides",
                (name,),
                f"{name} alone decides what the user of equal weights chooses on {self.decides[i]:.0%} of the prompts.",
                "Look at its scale and its outliers.",
            )

    def _scales(self) -> list[AuditWarning]:
        sd = np.where(self.sd > 0, self.sd, np.nan)
        if np.isnan(sd).all():
            return []
        low, high = int(np.nanargmin(sd)), int(np.nanargmax(sd))
        if sd[high] <= _SCALES * sd[low]:
            return []
        pair = (self.reward_models[low], self.reward_models[high])
        return [
            AuditWarning(
                "scale",
                pair,
                f"The raw scores of {pair[1]} (sd {sd[high]:.3g}) spread {sd[high] / sd[low]:.0f} times "
                f"as wide as those of {pair[0]} (sd {sd[low]:.3g}).",
                "Use standardised scores; with raw ones a single reward model would decide every choice.",
            )
        ]

    def tables(self) -> dict[str, Any]:
        """Return `audit_warnings`, `audit_reward_models` and `audit_pairs`."""
        import pyarrow as pa

        names = list(self.reward_models)
        left, right = np.triu_indices(len(names), 1)
        measures = ("consensus", "length", "mean", "sd", "tied", "outliers", "decides")
        rows = [(w.check, ", ".join(w.reward_models), w.message, w.remedy) for w in self.warnings()]
        text = pa.schema([(column, pa.string()) for column in ("check", "reward_models", "message", "remedy")])
        return {
            "audit_warnings": pa.Table.from_pylist([dict(zip(text.names, row, strict=True)) for row in rows], text),
            "audit_reward_models": pa.table({"reward_model": names} | {name: getattr(self, name) for name in measures}),
            "audit_pairs": pa.table(
                {
                    "first": [names[i] for i in left],
                    "second": [names[i] for i in right],
                    "agreement": self.agreement[left, right],
                    "rank_correlation": self.rank_correlation[left, right],
                }
            ),
        }

    def plot(self) -> Figure:
        """Draw the agreement matrix, and consensus and length correlation of each reward model."""
        return _figure(self)

    def notes(self) -> tuple[str, ...]:
        """Return what to keep in mind."""
        return (
            (
                f"The effective rank of the {len(self.reward_models)} reward models is {self.effective_rank:.1f}: "
                "within a prompt their scores vary in about so many independent ways."
            ),
            (
                f"On {self.decided_by_one:.0%} of the prompts exactly one reward model decides for the user of equal "
                "weights: without it alone the choice would be another."
            ),
            f"Two reward models that choose at random agree on {self.chance:.1%} of the prompts.",
            "Every correlation is taken among the responses to one prompt and averaged over the prompts.",
        )


def audit(benchmark: Benchmark, *, split: str | None = None) -> RewardAudit:
    """Audit the reward ensemble that scored a benchmark.

    Args:
        benchmark: The benchmark.
        split: Only the prompts of this split; None for all.

    Raises:
        DataError: If there are fewer than two reward models, two responses, or no prompts.
    """
    rows = np.arange(benchmark.n_prompts, dtype=np.int32) if split is None else np.sort(benchmark.rows(split))
    names = benchmark.reward_models
    if len(names) < 2 or benchmark.n_responses < 2 or not len(rows):
        raise DataError(
            f"An audit needs at least 2 reward models, 2 responses and 1 prompt, got {len(names)}, "
            f"{benchmark.n_responses} and {len(rows)}.",
            "Score the benchmark with more reward models, or choose another split.",
        )
    raw = np.asarray(benchmark.scores[rows], dtype=np.float64)
    flat = raw.reshape(-1, len(names))
    mean, sd = flat.mean(axis=0), flat.std(axis=0)
    standardised = (raw - mean) / np.where(sd > 0, sd, 1.0)
    ranks = _ranks(raw)
    total = standardised.sum(axis=2)
    others = (total[:, :, None] - standardised) / (len(names) - 1)
    top = raw.argmax(axis=1)
    changed = others.argmax(axis=1) != total.argmax(axis=1)[:, None]
    return RewardAudit(
        reward_models=names,
        n_prompts=len(rows),
        agreement=np.mean(top[:, :, None] == top[:, None, :], axis=0),
        rank_correlation=_correlation_matrix(ranks),
        consensus=_paired_correlation(ranks, _ranks(others)),
        length=_length_correlation(benchmark, rows, ranks),
        mean=mean,
        sd=sd,
        tied=np.mean(np.count_nonzero(raw == raw.max(axis=1, keepdims=True), axis=1) > 1, axis=0),
        outliers=np.mean(np.abs(flat - mean) > _FAR * np.where(sd > 0, sd, 1.0), axis=0),
        decides=changed.mean(axis=0),
        decided_by_one=float(np.mean(changed.sum(axis=1) == 1)),
        effective_rank=_effective_rank(standardised),
        chance=1 / benchmark.n_responses,
    )


def _ranks(values: F64) -> F64:
    """Return ranks among the responses (axis 1), centred and of unit length; zero where all are equal."""
    from scipy.stats import rankdata

    ranks = np.asarray(rankdata(values, axis=1), dtype=np.float64)
    ranks -= ranks.mean(axis=1, keepdims=True)
    length = np.sqrt((ranks**2).sum(axis=1, keepdims=True))
    unit: F64 = np.divide(ranks, length, out=np.zeros_like(ranks), where=length > 0)
    return unit


def _correlation_matrix(ranks: F64) -> F64:
    """Return the mean over prompts of the correlations of all pairs."""
    informative = (ranks != 0).any(axis=1).astype(np.float64)
    totals = np.einsum("pra,prb->ab", ranks, ranks, optimize=True)
    counts = informative.T @ informative
    means: F64 = np.divide(totals, counts, out=np.full_like(totals, np.nan), where=counts > 0)
    return means


def _paired_correlation(left: F64, right: F64) -> F64:
    """Return the mean over prompts of the correlation of two sets of unit ranks, for each reward model (last axis)."""
    informative = (left != 0).any(axis=1) & (right != 0).any(axis=1)
    totals = ((left * right).sum(axis=1) * informative).sum(axis=0)
    counts = informative.sum(axis=0)
    means: F64 = np.divide(totals, counts, out=np.full(len(totals), np.nan), where=counts > 0)
    return means


def _length_correlation(benchmark: Benchmark, rows: npt.NDArray[np.integer[Any]], ranks: F64) -> F64:
    import pyarrow.compute as pc

    characters = pc.utf8_length(benchmark.responses).to_numpy().reshape(benchmark.n_prompts, -1)[rows]
    return _paired_correlation(ranks, _ranks(characters.astype(np.float64)[:, :, None]))


def _effective_rank(standardised: F64) -> float:
    """Return exp(entropy) of the normalised eigenvalues of the within-prompt correlation matrix."""
    centred = (standardised - standardised.mean(axis=1, keepdims=True)).reshape(-1, standardised.shape[2])
    covariance = centred.T @ centred
    scale = np.sqrt(np.diag(covariance))
    scale[scale == 0] = 1.0
    # Rounding can push an eigenvalue of a singular matrix a little below 0, whose logarithm is not defined.
    eigenvalues = np.clip(np.linalg.eigvalsh(covariance / np.outer(scale, scale)), 0, None)
    total = eigenvalues.sum()
    if total == 0:
        return 1.0
    shares = eigenvalues[eigenvalues > 0] / total
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _figure(result: RewardAudit) -> Figure:
    """Draw how often two reward models have the same top response, and what each follows."""
    with figure(1.6 + 0.34 * len(result.reward_models)) as drawn:
        matrix, bars = drawn.subplots(1, 2, width_ratios=(1.15, 1))
        _draw_matrix(matrix, result)
        _draw_bars(bars, result)
    return drawn


def _draw_matrix(axes: Axes, result: RewardAudit) -> None:
    n = len(result.reward_models)
    shares = np.where(np.eye(n, dtype=bool), np.nan, result.agreement)
    axes.imshow(shares, cmap="Greys", vmin=0, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(shares):
        if i != j:
            colour = INK["paper"] if value > 0.5 else INK["ink"]
            axes.text(j, i, f"{100 * value:.0f}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(n), [str(i + 1) for i in range(n)])
    axes.set_yticks(range(n), [f"{name}  {i + 1}" for i, name in enumerate(result.reward_models)])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title("Same top response, % of the prompts", fontsize=9.5, loc="left")
    axes.set_xlabel(f"by chance: {100 * result.chance:.1f} %")


def _draw_bars(axes: Axes, result: RewardAudit) -> None:
    rows = np.arange(len(result.reward_models))
    axes.barh(rows - 0.19, result.consensus, 0.36, color=INK["accent"], label="the mean of the others")
    axes.barh(rows + 0.19, result.length, 0.36, color=INK["paper"], edgecolor=INK["mark"], hatch="////", label="length")
    axes.set_yticks(rows, [str(i + 1) for i in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.axvline(0, color=INK["ink"], linewidth=0.8)
    values = np.concatenate([result.consensus, result.length])
    axes.set_xlim(min(-0.25, float(values[np.isfinite(values)].min(initial=0.0)) - 0.05), 1)
    bare(axes, grid="x")
    axes.set_title("Rank correlation with ...", fontsize=9.5, loc="left")
    axes.figure.legend(*axes.get_legend_handles_labels(), loc="outside lower right", ncols=2, frameon=False, fontsize=9)
