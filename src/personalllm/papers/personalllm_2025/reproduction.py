"""Run section 4 of the paper and set what comes out beside the paper's numbers and claims."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from personalllm.core.errors import UserError
from personalllm.core.protocols import ChatModel, RewardEnsemble, TextEmbedder
from personalllm.data.standardise import PUBLISHED
from personalllm.evaluation.contract import Estimate
from personalllm.evaluation.estimates import resample
from personalllm.evaluation.means import Parts
from personalllm.evaluation.metrics import CHOICE_METRICS, metric_by_id
from personalllm.evaluation.progress import Progress, ProgressEvent
from personalllm.evaluation.protocol import Protocol
from personalllm.evaluation.reading import load_run
from personalllm.evaluation.resolve import named
from personalllm.evaluation.results import MethodResult, Results
from personalllm.evaluation.run import evaluate
from personalllm.evaluation.settings import shown
from personalllm.papers.personalllm_2025.claims import (
    CLAIM_METRICS,
    ClaimResult,
    crossed_interval,
    judge,
    paper_claims,
    resampled_interval,
)
from personalllm.papers.personalllm_2025.plan import ZERO_SHOT, Cell, Plan
from personalllm.papers.personalllm_2025.printed import PAPER_USERS, PaperRow, find_paper_row
from personalllm.papers.personalllm_2025.survival import SurvivingShare, metric_differences, sums_of, surviving_share

if TYPE_CHECKING:
    from personalllm.data import Benchmark

__all__ = ["CellRow", "Departure", "Reproduction", "Survival", "measured_rate", "reproduce"]

SHOWN = ("utility", "win_rate_reference", "win_rate_best")
_PAPER_TOKENS = 512
_NO_DEPARTURE = (
    "limit",
    "population.n_users",
    "generation.max_tokens",
    "reference_response_model",
    "standardiser",
    "seed",
    "population.seed",
    "pool.seed",
    "intervals",
    "bootstrap_draws",
    "users_per_shard",
    "generation.requests_per_chunk",
)
"""Changes of the preset that have a row of their own among the departures, or that the paper has no setting for."""
_LEVEL_STAYS = ("pool.n_users", "pool.pairs_per_user", "history.pairs", "history.nearest")
"""Changes of the preset that, like another embedder, leave utilities and win rates on the paper's scale."""
_PAPER_REFERENCE = "gpt-4o"
_PAPER_LLM = "llama38binstruct"
_PAPER_EMBEDDER = "stellaen400m"


@dataclass(frozen=True, eq=False)
class CellRow:
    """A cell with the users' own history, and the paper's run beside it.

    Attributes:
        cell: The cell.
        result: Ours.
        improvement: Ours minus our zero-shot, paired by user; empty for zero-shot itself.
        paper: The paper's run, if its log has one.
    """

    cell: Cell
    result: MethodResult
    improvement: dict[str, Estimate]
    paper: PaperRow | None

    def estimate(self, metric: str) -> Estimate:
        """Return one of our metrics."""
        return _estimate(self.result, metric)

    def difference(self, metric: str) -> Estimate | None:
        """Return ours minus the paper's; the interval is that of ours, as the paper has none."""
        if self.paper is None:
            return None
        estimate, printed = self.estimate(metric), self.paper.value(metric)
        return Estimate(estimate.value - printed, estimate.low - printed, estimate.high - printed)

    def paper_improvement(self, metric: str) -> float | None:
        """Return the paper's run minus the paper's zero-shot."""
        zero = find_paper_row(ZERO_SHOT, 0)
        if self.paper is None or zero is None or self.cell.method == ZERO_SHOT:
            return None
        return self.paper.value(metric) - zero.value(metric)


@dataclass(frozen=True, eq=False)
class Survival:
    """What is left of a method's improvement over zero-shot when its history is counterfactual.

    Attributes:
        cell: The method with the counterfactual history.
        result: What it reached.
        share: Of the improvement in mean utility, with the improvement and what remains of it.
        lost: The method with the user's own history minus the same with the counterfactual one, paired by user.
    """

    cell: Cell
    result: MethodResult
    share: SurvivingShare
    lost: dict[str, Estimate]

    def estimate(self, metric: str) -> Estimate:
        """Return one of the metrics that the method reached."""
        return _estimate(self.result, metric)


def _estimate(result: MethodResult, metric: str) -> Estimate:
    """Return a metric of a method that was evaluated under a single condition."""
    (estimates,) = result.estimates.values()
    return estimates["all", metric]


@dataclass(frozen=True, slots=True)
class Departure:
    """A setting that is not the paper's.

    Attributes:
        what: Name of the setting.
        paper: The paper's.
        ours: Ours.
        level: Whether levels cannot be compared because of it: other data, chat model, RMs, reference or reply length.
    """

    what: str
    paper: str
    ours: str
    level: bool


@dataclass(frozen=True, eq=False)
class Reproduction:
    """Section 4, ours beside the paper's.

    Attributes:
        plan: What was run.
        results: The runs by counterfactual (`none` is the one with the users' own histories).
        rows: The cells with the users' own histories, in the plan's order.
        claims: The paper's claims held against ours.
        survivals: The counterfactual cells.
        departures: Settings that are not the paper's.
    """

    plan: Plan
    results: Mapping[str, Results]
    rows: tuple[CellRow, ...]
    claims: tuple[ClaimResult, ...]
    survivals: tuple[Survival, ...]
    departures: tuple[Departure, ...]

    @property
    def levels_comparable(self) -> bool:
        """Whether levels may be compared: data, chat model, RMs, reference and reply length are the paper's."""
        return not any(departure.level for departure in self.departures)

    @property
    def own(self) -> Results:
        """The run with the users' own histories."""
        return self.results["none"]

    @cached_property
    def counts(self) -> dict[str, int]:
        """Replies of all cells together, the empty ones and those cut at the token limit among them."""
        every = [row.result for row in self.rows] + [survival.result for survival in self.survivals]
        return {name: sum(result.counts[name] for result in every) for name in ("generations", "empty", "cut")}

    def row(self, cell: str) -> CellRow:
        """Return the row of a cell id."""
        return next(row for row in self.rows if row.cell.id == cell)


def reproduce(
    plan: Plan,
    benchmark: Benchmark,
    *,
    embedder: TextEmbedder,
    llm: ChatModel,
    rewards: RewardEnsemble,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Reproduction:
    """Run every cell of a plan, or go on with what an earlier call began, and compare with the paper.

    Args:
        plan: From `make_plan`.
        benchmark: The benchmark that the plan was made for.
        embedder: For the retrieval of prompts and users.
        llm: The chat model.
        rewards: The RMs that score its replies.
        out: Folder of the runs; None keeps them in memory.
        progress: Called after each step; `done` and `total` count the requests of the whole plan.

    Raises:
        UserError, RunError, AxisMismatch, DataError: As `evaluate` raises them.
    """
    results: dict[str, Results] = {}
    by_cell: dict[str, MethodResult] = {}
    before = 0
    for kind, protocol in plan.protocols.items():
        cells = plan.of(kind)
        labels = {named(cell.build(plan.max_tokens)).label: cell for cell in cells}
        watch = None if progress is None else _Overall(progress, labels, before, plan.n_requests)
        results[kind] = evaluate(
            [cell.build(plan.max_tokens) for cell in cells],
            benchmark,
            protocol=protocol,
            embedder=embedder,
            llm=llm,
            rewards=rewards,
            out=out,
            progress=watch,
        )
        by_cell |= {cell.id: results[kind][label] for label, cell in labels.items()}
        before += plan.n_users * len(cells)
    return _compared(plan, results, by_cell)


@dataclass
class _Overall:
    """Turns the events of one run into those of the whole plan."""

    progress: Progress
    cells: Mapping[str, Cell]
    before: int
    total: int

    def __call__(self, event: ProgressEvent) -> None:
        if event.method not in self.cells:  # a damaged file of a baseline, or a note on the whole run
            self.progress(event)
            return
        cell = self.cells[event.method]
        done = self.before + event.done
        self.progress(ProgressEvent(cell.name, event.stage, done, self.total, event.message))
        if event.stage == "finish":
            self.before += event.total


def _compared(plan: Plan, results: Mapping[str, Results], by_cell: Mapping[str, MethodResult]) -> Reproduction:
    """Set the results beside the paper's numbers."""
    protocol = plan.protocols["none"]
    resampling: dict[str, Any] = {"over": protocol.intervals, "seed": protocol.seed, "draws": protocol.bootstrap_draws}
    zero = by_cell[ZERO_SHOT]
    rows = tuple(
        CellRow(
            cell,
            by_cell[cell.id],
            {} if cell.id == ZERO_SHOT else metric_differences(by_cell[cell.id], zero, **resampling),
            cell.paper,
        )
        for cell in plan.of("none")
    )
    survivals = []
    for cell in plan.cells:
        if cell.counterfactual == "none":
            continue
        true = by_cell[Cell(cell.method, cell.shots, cell.variant, settings=cell.settings).id]
        share = surviving_share(true, by_cell[cell.id], zero, **resampling)
        survivals.append(
            Survival(cell, by_cell[cell.id], share, metric_differences(true, by_cell[cell.id], **resampling))
        )
    return Reproduction(
        plan=plan,
        results=dict(results),
        rows=rows,
        claims=_verdicts(plan, rows),
        survivals=tuple(survivals),
        departures=_departures(plan, results["none"]),
    )


def _verdicts(plan: Plan, rows: tuple[CellRow, ...]) -> tuple[ClaimResult, ...]:
    """Compare the paper's claims with ours, in the metrics in which both sides have numbers."""
    protocol = plan.protocols["none"]
    cells = {row.cell.id: row for row in rows if row.paper is not None}
    claims = [claim for claim in paper_claims(plan.shots) if set(claim.cells) <= set(cells)]
    resampling: dict[str, Any] = {"over": "users", "draws": protocol.bootstrap_draws, "seed": protocol.seed}
    verdicts = []
    for claim in claims:
        for metric in CLAIM_METRICS:
            if metric in claim.metrics:
                paper = {cell: row.paper.value(metric) for cell, row in cells.items() if row.paper is not None}
                values = {cell: row.estimate(metric).value for cell, row in cells.items()}
                chosen = metric_by_id(CHOICE_METRICS, metric)
                sums = {cell: sums_of(cells[cell].result) for cell in claim.cells}
                given = (claim, metric, paper, values)
                if protocol.intervals == "users":
                    drawn = {cell: resample(of, chosen, **resampling) for cell, of in sums.items()}
                    verdicts.append(judge(*given, partial(resampled_interval, drawn), plan.n_users))
                else:
                    parts = {cell: Parts.of(of, chosen) for cell, of in sums.items()}
                    interval = partial(crossed_interval, parts, over=protocol.intervals)
                    verdicts.append(judge(*given, interval, plan.n_users))
    return tuple(verdicts)


def _plain(text: str | None) -> str:
    return re.sub(r"[^a-z0-9]", "", (text or "").lower())


def _departures(plan: Plan, results: Results) -> tuple[Departure, ...]:
    """Return what is not the paper's, the settings that decide the levels first."""
    protocol = Protocol.from_spec(results.protocol)
    about = results.manifest["source"]
    models = about["reward_models"]
    published = sorted(PUBLISHED)
    reference = str(protocol.reference_response_model)
    data = f"{about['name']}, {about['n_prompts']:,} prompts"
    settings = (
        ("Data", "PersonalLLM, 10,402 prompts", data, True, plan.paper_data),
        ("Chat model", "Llama-3-8B-Instruct", str(protocol.llm), True, _PAPER_LLM in _plain(protocol.llm)),
        ("Reward models", "the ten of the paper", ", ".join(models), True, models == published),
        ("Response model of the win rate", _PAPER_REFERENCE, reference, True, reference.endswith(_PAPER_REFERENCE)),
        ("Maximum of new tokens", f"{_PAPER_TOKENS}", f"{plan.max_tokens}", True, plan.max_tokens == _PAPER_TOKENS),
        ("Users", f"{PAPER_USERS:,}", f"{plan.n_users:,}", False, plan.n_users == PAPER_USERS),
        ("Embedder", "stella_en_400M_v5", str(protocol.embedder), False, _PAPER_EMBEDDER in _plain(protocol.embedder)),
        ("Layout of the examples", "one turn", "chat turns", False, plan.layout == "text"),
        ("Wording of the prompts", "the paper's", "this package's own, same structure", False, False),
        (
            "Learning across users (pool users, pairs in the embedding, similar users)",
            "text: 10,000, 50, 20; printed numbers: 1,000, 5, 5",
            "as the text" if plan.settings == "text" else "as the printed numbers",
            False,
            plan.settings == "logged",
        ),
    )
    changed = [
        Departure(name, shown(before), shown(now), name not in _LEVEL_STAYS)
        for name, (before, now) in plan.changes[plan.across].items()
        if name not in _NO_DEPARTURE
    ]
    departures = [Departure(what, paper, here, level) for what, paper, here, level, same in settings if not same]
    return tuple(sorted([*departures, *changed], key=lambda departure: not departure.level))


def measured_rate(out: str | Path) -> float | None:
    """Return the seconds for each token (of prompts and replies together) of the finished cells in a folder of runs.

    Returns:
        None if nothing is finished there; a run that cannot be read is left out.
    """
    seconds, tokens = 0.0, 0
    for manifest in sorted(Path(out).glob("*/manifest.json")):
        if not any(manifest.parent.glob("*/record.json")):
            continue
        try:
            finished = load_run(manifest.parent).methods
        except UserError:
            continue
        for result in finished:
            seconds += result.seconds.get("total", 0.0)
            tokens += result.counts.get("prompt_tokens", 0) + result.counts.get("completion_tokens", 0)
    return seconds / tokens if tokens and seconds else None
