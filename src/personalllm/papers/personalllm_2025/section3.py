"""Compare the paper's printed figures on diversity, entropy and overlap (section 3) with those of a benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from personalllm.analysis.agreement import answer_overlap, user_agreement
from personalllm.analysis.base import Analysis
from personalllm.analysis.diversity import PLOTTED_BINS, THRESHOLDS, diversity
from personalllm.analysis.entropy import EntropyByWords, entropy_by_words
from personalllm.analysis.votes import Votes
from personalllm.core.errors import ParameterError, UserError
from personalllm.core.plotting import INK, bare, figure, key_of_series, look, whisker
from personalllm.core.stats import DRAWS
from personalllm.core.storage import shipped_tables
from personalllm.data.synthetic import RESPONSE_MODELS
from personalllm.users import PUBLISHED_ALPHAS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from personalllm.analysis.study import Study

__all__ = [
    "PAPER_BINS",
    "PAPER_ENTROPY",
    "PAPER_GROUPS",
    "PAPER_OVERLAP",
    "PAPER_TOP_SHARES",
    "PAPER_WINS",
    "PERSONA",
    "Compared",
    "PaperComparison",
    "paper_comparison",
]

PERSONA = "persona"
"""Key of the paper's persona-prompting baseline (500 personas, responses scored by llama3_sfairx)."""

_PRINTED = shipped_tables("personalllm.papers.personalllm_2025", "section3.toml")

PAPER_TOP_SHARES: dict[str, tuple[float, ...]] = {key: tuple(values) for key, values in _PRINTED["top_shares"].items()}
"""Share of the 1,000 test prompts whose top response gets at most 50, 75, 95 % of the votes (section 3.1)."""

PAPER_BINS: dict[str, tuple[float, ...]] = {key: tuple(values) for key, values in _PRINTED["bins"].items()}
"""Share of the test prompts in each bin of distinct winners, as plotted (`diversity.PLOTTED_BINS`)."""

PAPER_WINS: dict[str, dict[str, float]] = {
    key: dict(zip(RESPONSE_MODELS, values, strict=True)) for key, values in _PRINTED["wins"].items()
}
"""Share of the votes of each response model on the test prompts, read off the figure (within 0.0005)."""

PAPER_ENTROPY: dict[str, tuple[float, float]] = {key: (mean, sd) for key, (mean, sd) in _PRINTED["entropy"].items()}
"""Mean and standard deviation over the 9,402 train prompts of the entropy of the vote, in nats."""

PAPER_GROUPS: dict[tuple[str, str], tuple[float, int]] = {
    (kind, word): (mean, n) for kind, words in _PRINTED["groups"].items() for word, (mean, n) in words.items()
}
"""Mean entropy in nats and number of prompts that the paper reports (train split, alpha .05, 1,000 users)."""

PAPER_OVERLAP: dict[str, tuple[float, float, float]] = {
    key: (mean, sd, top) for key, (mean, sd, top) in _PRINTED["overlap"].items()
}
"""Overlap of the first 100 users with 400 others: mean, standard deviation over the 100, mean of the maximum."""

_OVERLAP_USERS, _OVERLAP_FIRST = 500, 100
_FITTED = (
    "These scores are synthetic. Top shares, winners, wins and the entropy at alpha 0.05 were fitted to the paper's "
    "figures, and the mean overlap of two users is nearly determined by them, so that they agree is no evidence. Only "
    "the entropy by word is free, and it says nothing: the prompts are random words."
)
_MAIN = 0.05  # the concentration of the paper's entropy figures
_PANELS = {
    "top share at most": "Top share at most 50, 75, 95 %",
    "winners as plotted": "Distinct winners, bins as plotted",
    "wins": "Wins of the response models",
}


class Compared(NamedTuple):
    """A figure of the paper beside the same figure of another table; `low` and `high` are the latter's interval."""

    population: str
    quantity: str
    level: str
    paper: float
    here: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class PaperComparison(Analysis):
    """The paper's figures beside those of one's own table.

    Attributes:
        compared: All figures that both have; shares in [0, 1], entropy in nats, `prompts` are counts.
        n_prompts: Prompts behind the figures of each population of this table.
        persona: Whose votes stand beside the paper's persona prompting; empty for nobody's.
        synthetic: Whether the scores were drawn from the factor model that was fitted to the paper's figures.
    """

    compared: tuple[Compared, ...]
    n_prompts: dict[str, int]
    persona: str = ""
    synthetic: bool = False

    id: ClassVar[str] = "paper"
    title: ClassVar[str] = "Beside the paper's figures"

    @classmethod
    def of_study(cls, study: Study) -> tuple[PaperComparison]:
        """Compare the users of the paper's concentrations, and a single population of personas, with the paper."""
        alphas = [alpha for alpha in study.alphas if alpha in PUBLISHED_ALPHAS]
        personas = study.persona_votes if len(study.personas) == 1 else ()
        if not alphas and not personas:
            raise UserError(
                "The paper printed figures for the alphas 0.01, 0.05 and 0.1 only.", "Give one with --alpha."
            )
        by_alpha = zip(study.alphas, study.votes(cls.split), strict=True)
        votes: dict[float | str, Votes] = {alpha: panel for alpha, panel in by_alpha if alpha in alphas}
        if personas:
            votes[PERSONA] = personas[0]
        words = None
        if _MAIN in alphas:
            by_alpha = zip(study.alphas, study.votes(EntropyByWords.split), strict=True)
            words = entropy_by_words(dict(by_alpha)[_MAIN], n_listed=0, seed=study.seed)
        compared = paper_comparison(votes, words, seed=study.seed)
        return (replace(compared, synthetic="synthetic" in study.benchmark.metadata),)

    def tables(self) -> dict[str, Any]:
        """Return `paper-comparison`: one row for each figure, with the difference here - paper."""
        import pyarrow as pa

        columns: dict[str, Any] = {name: [getattr(row, name) for row in self.compared] for name in Compared._fields}
        columns["difference"] = [row.here - row.paper for row in self.compared]
        text = ("population", "quantity", "level")
        schema = pa.schema([pa.field(name, pa.string() if name in text else pa.float64()) for name in columns])
        return {"paper-comparison": pa.table(columns, schema=schema)}

    def plot(self) -> Figure:
        """Draw the measured figures against the paper's; on the diagonal both are equal."""
        return _figure(self)

    def notes(self) -> tuple[str, ...]:
        """Return what to keep in mind."""
        low, high = min(self.n_prompts.values()), max(self.n_prompts.values())
        here = f"here all are of the same {low:,} prompts" if low == high else f"here of {low:,} to {high:,} prompts"
        lines: tuple[str, ...] = (
            "The paper's figures are those of its own responses and reward models; another table need not have them.",
            (
                "Top shares follow the function behind the paper's figure, which counts half a prompt more where any "
                "prompt ties with the threshold."
            ),
            "Winners are compared in the bins as plotted, whose labels are one too low.",
            (
                "The paper's wins are read off a figure, within 0.05 points; response models that it does not have "
                "are left out."
            ),
            (f"The paper's entropy is that of its 9,402 train prompts, all else of its 1,000 test prompts; {here}."),
            "The overlap compares the first 100 users with the next 400, as the paper's digits suggest.",
        )
        if self.synthetic:
            lines = (_FITTED, *lines)
        if not self.persona:
            return lines
        return (*lines, f"Persona prompting here: {self.persona}; in the paper 500 personas, scored by llama3_sfairx.")


def paper_comparison(
    votes: Mapping[float | str, Votes], words: EntropyByWords | None = None, *, draws: int = DRAWS, seed: int = 0
) -> PaperComparison:
    """Put the paper's printed figures beside those of some votes.

    Args:
        votes: Votes by alpha (0.01, 0.05, 0.1) or `"persona"`; other keys have no figures in the paper.
        words: Entropy by words of the users of alpha 0.05; None to leave the paper's words out.
        draws: Resamples of the prompts behind each interval.
        seed: Seed of the resamples.

    Raises:
        ParameterError: If a key is not one of the paper's.
    """
    compared: list[Compared] = []
    n_prompts: dict[str, int] = {}
    for key, panel in votes.items():
        name = key if isinstance(key, str) else f"{key:g}"
        if name not in PAPER_TOP_SHARES:
            raise ParameterError("the keys of votes", f"in {', '.join(PAPER_TOP_SHARES)}", key)
        compared += [*_diversity(name, panel, draws, seed), *_overlap(name, panel)]
        n_prompts[name] = panel.n_prompts
    if not compared:
        raise ParameterError("votes", "one population or more", {})
    compared += _words(words)
    persona = votes[PERSONA].name if PERSONA in votes else ""
    return PaperComparison(tuple(compared), n_prompts, persona)


def _diversity(name: str, votes: Votes, draws: int, seed: int) -> list[Compared]:
    result = diversity(votes, draws=draws, seed=seed)
    printed: dict[str, dict[str, float]] = {
        "top share at most": {f"{t:g}": v for t, v in zip(THRESHOLDS, PAPER_TOP_SHARES[name], strict=True)},
        "winners as plotted": dict(zip(PLOTTED_BINS, PAPER_BINS[name], strict=True)),
        "wins": PAPER_WINS[name],
        "entropy": dict(zip(("mean", "sd"), PAPER_ENTROPY.get(name, ()), strict=False)),
    }
    rows = []
    for quantity, levels in printed.items():
        measured = result.of(quantity, votes.name)
        for level, paper in levels.items():
            if level in measured:
                here, low, high = measured[level][3:6]
                if quantity == "top share at most":
                    here = votes.share_at_most(float(level), rule="rank")
                rows.append(Compared(name, quantity, level, paper, here, low, high))
    return rows


def _words(words: EntropyByWords | None) -> list[Compared]:
    rows = []
    for group in () if words is None else words.groups:
        if (group.kind, group.word) in PAPER_GROUPS and group.n_prompts:
            mean, count = PAPER_GROUPS[group.kind, group.word]
            level, ends = f"{group.kind} {group.word}", (group.low, group.high)
            rows.append(Compared(f"{_MAIN:g}", "entropy by word", level, mean, group.mean, *ends))
            nan = float("nan")
            rows.append(Compared(f"{_MAIN:g}", "prompts by word", level, count, group.n_prompts, nan, nan))
    return rows


def _overlap(name: str, votes: Votes) -> list[Compared]:
    if votes.choices is None or name not in PAPER_OVERLAP or len(votes.choices) < _OVERLAP_USERS:
        return []
    matrix = user_agreement(votes.choices[:_OVERLAP_USERS], votes.n_options)
    here = answer_overlap(matrix, _OVERLAP_FIRST)
    return [
        Compared(name, "answer overlap", level, paper, value, float("nan"), float("nan"))
        for (level, value), paper in zip(here._asdict().items(), PAPER_OVERLAP[name], strict=True)
    ]


def _figure(result: PaperComparison) -> Figure:
    """Draw one panel for each quantity, the paper's figures across, the measured ones upwards, in per cent."""
    names = list(dict.fromkeys(row.population for row in result.compared))
    quantities = {row.quantity for row in result.compared}
    panels = {quantity: title for quantity, title in _PANELS.items() if quantity in quantities}
    with figure(3.5) as drawn:
        axes = drawn.subplots(1, len(panels), squeeze=False)[0]
        for axis, (quantity, title) in zip(axes, panels.items(), strict=True):
            rows = [row for row in result.compared if row.quantity == quantity]
            ends = [100 * value for row in rows for value in (row.paper, row.here, row.low, row.high) if value == value]
            top = 1.06 * max(ends, default=1.0)
            axis.plot([0, top], [0, top], color=INK["mark"], linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
            for row in rows:
                style = look(names.index(row.population))
                whisker(axis, 100 * row.paper, 100 * row.low, 100 * row.high, upright=True, colour=INK["muted"])
                axis.plot(
                    [100 * row.paper], [100 * row.here], style.marker,
                    markerfacecolor=style.face, markeredgecolor=style.stroke, markersize=6, zorder=4,
                )  # fmt: skip
            axis.set_xlim(0, top)
            axis.set_ylim(0, top)
            axis.set_aspect("equal")
            axis.set_title(title, fontsize=9.5)
            axis.set_xlabel("Paper, %")
            bare(axis, grid="both")
        axes[0].set_ylabel("This table, %")
        key_of_series(drawn, [n if n == "persona" else f"alpha {n}" for n in names], bars=False)
    return drawn
