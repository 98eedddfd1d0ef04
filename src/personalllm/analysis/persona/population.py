"""Turn the scores of personas into votes, and measure how much a persona changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from personalllm.analysis.base import Analysis
from personalllm.analysis.persona.scores import PersonaScores
from personalllm.analysis.votes import Votes
from personalllm.core.errors import UserError
from personalllm.core.plotting import INK, bare, figure
from personalllm.core.types import F32, F64

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from personalllm.analysis.study import Study

__all__ = ["PersonaPopulation", "persona_population"]

_PERSONAS_PER_BLOCK = 64


@dataclass(frozen=True, eq=False)
class PersonaPopulation(Analysis):
    r"""Personas as a population: their votes, and what the persona does to the scores.

    The scores $s_{pr}$ of a prompt (personas p, responses r) vary for three reasons, which add up to their variance:
    $\mathrm{Var}(s) = \mathrm{Var}_r(\bar s_r) + \mathrm{Var}_p(\bar s_p) + \mathrm{Var}_{pr}(\text{rest})$.
    Only the last one, the persona's own view of a response, can change which response is best.

    Attributes:
        scorer: Who scored, for people.
        personas: Length n_personas.
        votes: Of the prompts for which an answer could be read; a persona whose best responses tie splits its vote.
        agreement: float64 (n_personas,), share of prompts on which a persona votes as the scorer does without one.
        tied: float64 (n_personas,), share of its votes that are split.
        unread: float64 (n_personas,), share of its scores that could not be read; such a response gets no vote.
        variance_responses: float64 (n_prompts,), between the mean scores of the responses.
        variance_personas: float64 (n_prompts,), between the mean scores that the personas give.
        variance_rest: float64 (n_prompts,), what is left: personas who see a response differently.
        length_correlation: Mean over personas and prompts of Spearman's correlation of score and characters.
        longest: Share of the votes for the longest response; a tie in length is split.
        column_correlation: The same as `length_correlation` with the number of the column.
        baseline_length_correlation: As `length_correlation`, without a persona.
        levels: Number of different scores.
    """

    id: ClassVar[str] = "personas"
    title: ClassVar[str] = "Persona prompting: what a persona changes"

    scorer: str
    personas: tuple[str, ...]
    votes: Votes
    agreement: F64
    tied: F64
    unread: F64
    variance_responses: F64
    variance_personas: F64
    variance_rest: F64
    length_correlation: float
    longest: float
    column_correlation: float
    baseline_length_correlation: float
    levels: int

    @classmethod
    def of_study(cls, study: Study) -> tuple[PersonaPopulation, ...]:
        """Return the given populations of personas, which were measured when their scores were read."""
        if not study.personas:
            raise UserError(
                "No scores of personas were given.", "Give --personas FILE, made by `personalllm personas score`."
            )
        return study.personas

    def variance_shares(self) -> tuple[float, float, float]:
        """Return the shares of the variance within a prompt: responses, personas, rest; NaN if no score varies."""
        parts = np.array([np.nanmean(v) for v in (self.variance_responses, self.variance_personas, self.variance_rest)])
        total = parts.sum()
        responses, personas, own = (parts / total if total > 0 else np.full(3, np.nan)).tolist()
        return responses, personas, own

    def summary(self) -> dict[str, float]:
        """Return the headline figures by name."""
        names = ("variance_share_responses", "variance_share_personas", "variance_share_rest")
        return {
            "personas": float(len(self.personas)),
            "prompts": float(self.votes.n_prompts),
            **dict(zip(names, self.variance_shares(), strict=True)),
            "agreement_without_persona": _mean(self.agreement),
            "agreement_between_personas": _mean(self.votes.pair_agreement()),
            "agreement_by_chance": 1 / self.votes.n_options,
            "votes_split": _mean(self.tied),
            "answers_not_read": float(self.unread.mean()),
            "length_correlation": self.length_correlation,
            "length_correlation_without_persona": self.baseline_length_correlation,
            "votes_for_the_longest": self.longest,
            "column_correlation": self.column_correlation,
            "different_scores": float(self.levels),
        }

    def tables(self) -> dict[str, Any]:
        """Return `personas_summary`, `personas_prompts` and `personas_voters`."""
        import pyarrow as pa

        figures = self.summary()
        return {
            "personas_summary": pa.table(
                {"scorer": [self.scorer] * len(figures), "measure": list(figures), "value": list(figures.values())}
            ),
            "personas_prompts": pa.table(
                {
                    "prompt_id": list(self.votes.prompt_ids),
                    "voters": self.votes.n_voters,
                    "top_share": self.votes.top_share(),
                    "distinct_winners": self.votes.n_winners(),
                    "entropy_nats": self.votes.entropy(),
                    "variance_responses": self.variance_responses,
                    "variance_personas": self.variance_personas,
                    "variance_rest": self.variance_rest,
                }
            ),
            "personas_voters": pa.table(
                {
                    "persona": list(self.personas),
                    "agreement_without_persona": self.agreement,
                    "votes_split": self.tied,
                    "answers_not_read": self.unread,
                }
            ),
        }

    def plot(self) -> Figure:
        """Draw where the variance lies and how often a persona votes as the scorer does without one."""
        return _figure(self)

    def notes(self) -> tuple[str, ...]:
        """Return who scored, the rule for ties, and what the figures cannot tell."""
        figures = self.summary()
        notes = [
            f"Scores by {self.scorer}, for {len(self.personas):,} personas and {self.votes.n_prompts:,} prompts.",
            f"A persona whose best responses tie splits its vote; so are {figures['votes_split']:.1%} of the votes.",
            (
                "Each response is scored by itself, so its place beside the others cannot bias its score; where each "
                "column is one response model, the correlation with the column tells the models apart."
            ),
            (
                f"Score and length: mean rank correlation {self.length_correlation:+.2f} within a prompt; the longest "
                f"response gets {self.longest:.0%} of the votes (chance {1 / self.votes.n_options:.0%})."
            ),
        ]
        if figures["answers_not_read"] > 0:
            notes.append(
                f"{figures['answers_not_read']:.1%} of the answers could not be read; such a response gets no vote."
            )
        if figures["votes_split"] > 0.1:
            notes.append("Split votes count as disagreement in the entropy and the winners: read these with care.")
        return tuple(notes)


def persona_population(scores: PersonaScores) -> PersonaPopulation:
    """Turn the scores of personas into votes, and measure what the persona changes.

    Args:
        scores: Of `score_personas`.

    Raises:
        UserError: If no answer could be read for any prompt.
    """
    weights = _vote_weights(scores.scores)
    voted = weights.sum(2) > 0
    n_voters = voted.sum(0).astype(np.float64)
    used = n_voters > 0
    if not used.any():
        raise UserError(
            f"{scores.scorer_name} gave no answer that could be read.", "Use a reward model or another chat model."
        )
    alone = _vote_weights(scores.baseline[None])[0]
    compared = voted & (alone.sum(1) > 0)
    same = (weights * alone).sum(2)
    split = voted & (weights.max(2) < 1)
    parts = _variance_parts(scores.scores[:, used])
    lengths = scores.texts.n_characters
    longest = _vote_weights(lengths[None].astype(np.float32))[0]
    columns = np.broadcast_to(np.arange(lengths.shape[1], dtype=np.float64), lengths.shape)
    return PersonaPopulation(
        scorer=scores.scorer_name,
        personas=scores.personas,
        votes=_votes(scores, weights, used, n_voters, whole=bool(voted.all() and not split.any())),
        agreement=_share(same, compared),
        tied=_share(split, voted),
        unread=np.isnan(scores.scores).mean((1, 2)),
        variance_responses=parts[0],
        variance_personas=parts[1],
        variance_rest=parts[2],
        length_correlation=_mean_rank_correlation(scores.scores, lengths),
        longest=float((weights.sum(0) * longest).sum() / n_voters.sum()),
        column_correlation=_mean_rank_correlation(scores.scores, columns),
        baseline_length_correlation=_mean_rank_correlation(scores.baseline[None], lengths),
        levels=len(np.unique(scores.scores[np.isfinite(scores.scores)])),
    )


def _votes(scores: PersonaScores, weights: F32, used: npt.NDArray[np.bool_], n_voters: F64, *, whole: bool) -> Votes:
    """Return the votes on the prompts in use; the choices of single personas only where no vote is split."""
    texts, rows = scores.texts, np.flatnonzero(used)
    return Votes(
        counts=weights.sum(0, dtype=np.float64)[rows],
        n_voters=n_voters[rows],
        name=f"{len(scores.personas)} personas, {scores.scorer_name}",
        options=texts.response_models,
        option_index=texts.response_model_index[rows],
        prompts=tuple(texts.prompts[i] for i in rows),
        prompt_ids=tuple(texts.prompt_ids[i] for i in rows),
        choices=weights.argmax(2).astype(np.uint8) if whole else None,
        squares=(weights.astype(np.float64) ** 2).sum((0, 2))[rows],
    )


def _vote_weights(scores: F32) -> F32:
    """Return each voter's vote, same shape as the scores: 1 for the best response, split among equal ones.

    A response without a score gets nothing; a row without any score is zero.
    """
    filled = np.where(np.isfinite(scores), scores, -np.inf)
    top = filled.max(axis=-1, keepdims=True)
    best = (filled == top) & np.isfinite(top)
    n_best = best.sum(axis=-1, keepdims=True, dtype=np.float32)
    votes: F32 = np.divide(best, n_best, out=np.zeros(scores.shape, np.float32), where=n_best > 0, dtype=np.float32)
    return votes


def _mean(values: F64) -> float:
    """Return the mean of the numbers that are not NaN, NaN if there are none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def _share(values: npt.NDArray[Any], among: npt.NDArray[np.bool_]) -> F64:
    """Return for each row the mean of the values where `among` is true, NaN if there is none."""
    n = among.sum(1)
    total = np.where(among, values, 0).sum(1, dtype=np.float64)
    mean: F64 = np.divide(total, n, out=np.full(len(n), np.nan), where=n > 0)
    return mean


def _variance_parts(scores: F32) -> tuple[F64, F64, F64]:
    """Split the variance of each prompt's scores into responses, personas and rest, float64 (n_prompts,) each.

    Personas for which a response of the prompt has no score are left out of that prompt; NaN if all are.
    """
    complete: npt.NDArray[np.bool_] = np.asarray(np.isfinite(scores).all(axis=2))
    n = complete.sum(0).astype(np.float64)
    n[n == 0] = np.nan
    values = np.where(complete[:, :, None], scores, 0.0).astype(np.float64)
    of_response = values.sum(0) / n[:, None]
    of_persona = values.mean(2)
    mean = of_response.mean(1)
    between_responses = ((of_response - mean[:, None]) ** 2).mean(1)
    between_personas = np.where(complete, (of_persona - mean) ** 2, 0.0).sum(0) / n
    # In place: for 500 personas and 1,000 prompts each copy of the scores would take 32 MB more.
    values -= of_response
    values -= (of_persona - mean)[:, :, None]
    own = np.where(complete[:, :, None], values**2, 0.0).sum(0).mean(1) / n
    return between_responses, between_personas, own


def _mean_rank_correlation(scores: F32, other: npt.NDArray[Any]) -> float:
    """Return the mean of Spearman's correlation within a prompt, over voters and prompts.

    Args:
        scores: (n_voters, n_prompts, n_responses); rows with a missing score or without any variation are left out.
        other: (n_prompts, n_responses).
    """
    right = _centred_ranks(other)
    total, n = 0.0, 0
    for start in range(0, len(scores), _PERSONAS_PER_BLOCK):
        block = scores[start : start + _PERSONAS_PER_BLOCK]
        left = _centred_ranks(block)
        scale = np.sqrt((left**2).sum(-1) * (right**2).sum(-1))
        usable = np.isfinite(block).all(-1) & (scale > 0)
        total += float(np.divide((left * right).sum(-1), scale, out=np.zeros_like(scale), where=usable).sum())
        n += int(usable.sum())
    return total / n if n else float("nan")


def _centred_ranks(values: npt.NDArray[Any]) -> F64:
    """Return the ranks on the last axis less their mean; equal values share their mean rank."""
    left, right = values[..., :, None], values[..., None, :]
    ranks: F64 = 0.5 * ((left > right).sum(-1) - (left < right).sum(-1)).astype(np.float64)
    return ranks


def _figure(population: PersonaPopulation) -> Figure:
    """Draw where the variance of the scores lies, and how often a persona votes as the scorer does without one."""
    n_personas, n_prompts = len(population.personas), population.votes.n_prompts
    with figure(3.3) as drawn:
        left, right = drawn.subplots(1, 2, width_ratios=(1, 1.15))
        _draw_shares(left, population)
        _draw_agreement(right, population)
        title = f"{n_personas} personas, {n_prompts} prompts, scored by {population.scorer}"
        drawn.suptitle(title, fontsize=9.5, x=0.01, ha="left")
    return drawn


def _draw_shares(axes: Axes, population: PersonaPopulation) -> None:
    values = 100 * np.nan_to_num(population.variance_shares())
    labels = ("response", "persona", "persona's own view\nof a response")
    styles = ((INK["accent"], ""), (INK["soft"], "...."), (INK["paper"], "////"))
    for row, (value, (colour, hatch)) in enumerate(zip(values, styles, strict=True)):
        axes.barh(row, value, 0.62, color=colour, hatch=hatch, edgecolor=INK["ink"], linewidth=0.8)
        axes.text(value + 1.5, row, f"{value:.1f} %", va="center", fontsize=9)
    axes.set_yticks(range(3), labels)
    axes.invert_yaxis()
    axes.set_xlim(0, 118)
    axes.set_xticks(range(0, 101, 25))
    bare(axes, grid="x")
    axes.set_title("Variance of the scores of a prompt, %", fontsize=9.5, loc="left")


def _draw_agreement(axes: Axes, population: PersonaPopulation) -> None:
    values = population.agreement[np.isfinite(population.agreement)]
    bins = np.linspace(0, 1, 21).tolist()
    heights, _, _ = axes.hist(values, bins, color=INK["soft"], edgecolor=INK["ink"], linewidth=0.8)
    top = max(float(np.max(heights)), 1.0)
    chance = 1 / population.votes.n_options
    marks = [(chance, ":", f"chance {chance:.1%}")]
    if len(values):
        marks.append((float(values.mean()), "-", f"mean {values.mean():.1%}"))
    for value, style, label in marks:
        axes.axvline(value, color=INK["mark"], linestyle=style, linewidth=1.8, label=label)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.1 * top)
    axes.set_xticks(np.linspace(0, 1, 5), ["0", "25", "50", "75", "100"])
    axes.set_xlabel("% of prompts")
    axes.set_ylabel("personas")
    bare(axes, grid="y")
    axes.set_title("Votes as the scorer does without a persona", fontsize=9.5, loc="left")
    axes.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
