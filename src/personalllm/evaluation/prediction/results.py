"""What a run of the predict track found, readable without the benchmark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from personalllm.core.errors import ParameterError, UnknownName, UserError
from personalllm.core.types import F32, JSON
from personalllm.evaluation.prediction.comparisons import PairedDifference, Side, paired_differences
from personalllm.evaluation.prediction.estimates import Estimates, cell_difference
from personalllm.evaluation.prediction.metrics import (
    HIGHER_IS_BETTER,
    N_BINS,
    PREDICTION_METRICS,
    Cell,
    Sums,
    user_means,
)
from personalllm.evaluation.results import Estimate
from personalllm.evaluation.settings import describe_changes
from personalllm.evaluation.store import to_json

__all__ = ["LearnerResult", "PairedDifference", "PredictResults"]

Kind = Literal["learner", "null", "oracle"]

_SCHEMA = {
    **dict.fromkeys(("learner", "kind", "users", "prompts", "history"), "str"),
    "shots": "int",
    **dict.fromkeys(("stratum", "metric"), "str"),
    **dict.fromkeys(("value", "low", "high"), "float"),
    **dict.fromkeys(("n_users", "n_pairs"), "int"),
}


@dataclass(frozen=True, eq=False)
class LearnerResult:
    """What one learner, null or oracle reached.

    Attributes:
        id: Label, unique within the results.
        title: A few words for tables.
        spec: Replayable JSON.
        kind: `learner`; `null`, what needs no learning about a user; `oracle`, what knows the utilities.
        paper: Where it was published; empty without a paper.
        log_odds: Whether its margins are log-odds; if not, log-loss, Brier score and ECE are not defined.
        seconds_fit: Wall-clock seconds of `fit` on the pool; NaN if it was not measured. Part of no fingerprint.
        seconds_adapt_per_user: Wall-clock seconds of `adapt` for each user, at the largest number of shots.
        sums: Of each cell, what its users' test pairs add up to (`prediction_metrics.user_sums`).
        estimates: Of each cell, `(stratum, metric)` -> estimate.
    """

    id: str
    title: str
    spec: JSON
    kind: Kind
    paper: str
    log_odds: bool
    seconds_fit: float
    seconds_adapt_per_user: float
    sums: Mapping[Cell, Sums] = field(repr=False)
    estimates: Mapping[Cell, Estimates] = field(repr=False)


@dataclass(frozen=True, eq=False)
class PredictResults:
    """The results of a run of the predict track.

    Attributes:
        protocol: The protocol as JSON.
        fingerprint: Its fingerprint.
        benchmark_name: Name of the benchmark.
        learners: Learners in the order asked for, then nulls, then oracles.
        reward_models: Names of the strata `rm:NAME`, in the benchmark's order.
        directory: The run directory; None if the run was kept in memory.
        manifest: Versions and fingerprints of the run.
    """

    protocol: JSON
    fingerprint: str
    benchmark_name: str
    learners: tuple[LearnerResult, ...]
    reward_models: tuple[str, ...] = ()
    directory: Path | None = None
    manifest: JSON = field(default_factory=dict, repr=False)

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Every cell that somebody was evaluated in: unseen before seen, true history first, few shots first."""
        found = {cell for learner in self.learners for cell in learner.estimates}
        return tuple(sorted(found, key=lambda c: (c.users != "unseen", c.prompts != "unseen", c.history != "true", c)))

    @property
    def headline(self) -> Cell:
        """The cell that stands for the run: the least seen users and prompts, true history, most shots."""
        first = self.cells[0]
        alike = [c for c in self.cells if (c.users, c.prompts, c.history) == (first.users, first.prompts, "true")]
        return max(alike, key=lambda cell: cell.shots)

    @property
    def preset(self) -> str:
        """The preset that the protocol was made from and what differs from it; empty if there is none."""
        return "; ".join(
            describe_changes(preset["id"], {name: (before, now) for name, before, now in preset["changes"]})
            for preset in self.manifest.get("presets", [])
        )

    def __getitem__(self, learner_id: str) -> LearnerResult:
        """Return the result of a label.

        Raises:
            UnknownName: If the run has no such learner; lists the nearest.
        """
        for learner in self.learners:
            if learner.id == learner_id:
                return learner
        raise UnknownName("learner in these results", learner_id, (learner.id for learner in self.learners))

    def curve(self, learner: str, metric: str, cell: Cell, *, stratum: str = "all") -> dict[int, Estimate]:
        """Return shots -> estimate: the learning curve through a cell, whatever the cell's own shots.

        Raises:
            UnknownName: If the run has no such learner.
        """
        estimates = self[learner].estimates
        line = (cell.users, cell.prompts, cell.history)
        found = sorted(c for c in estimates if (c.users, c.prompts, c.history) == line)
        return {c.shots: estimates[c][stratum, metric] for c in found if (stratum, metric) in estimates[c]}

    def estimate(self, learner: str, metric: str, cell: Cell, *, stratum: str = "all") -> Estimate:
        """Return one number of the table with its interval.

        Raises:
            UnknownName: If the run has no such learner.
            ParameterError: If the learner has no such cell, stratum or metric.
        """
        found = self._estimates(learner, cell)
        if (stratum, metric) not in found:
            known = ", ".join(f"{metric} of {stratum}" for stratum, metric in found)
            raise ParameterError("metric", f"one of {known}", f"{metric} of {stratum}")
        return found[stratum, metric]

    def table(self) -> Any:
        """Return a tidy `pyarrow.Table`, one row for each learner, cell, stratum and metric.

        Columns: `learner`, `kind`, `users`, `prompts`, `history`, `shots`, `stratum` (`all`; `contested-1` to `-4`: the
        quarter of the pool population that prefers the other response; `rm:NAME`: users whose largest weight is on
        that reward model), `metric`, `value`, `low`, `high` (95 % interval over users; null where not defined),
        `n_users`, `n_pairs` (of the stratum).
        """
        import pyarrow as pa

        columns: dict[str, list[Any]] = {name: [] for name in _SCHEMA}
        for learner in self.learners:
            for cell in (cell for cell in self.cells if cell in learner.estimates):
                sizes = _sizes(learner.sums[cell], self.reward_models)
                for (stratum, metric), estimate in learner.estimates[cell].items():
                    values = (learner.id, learner.kind, cell.users, cell.prompts, cell.history, cell.shots, stratum)
                    ends = (to_json(end) for end in (estimate.value, estimate.low, estimate.high))
                    row = (*values, metric, *ends, *sizes[stratum])
                    for name, value in zip(_SCHEMA, row, strict=True):
                        columns[name].append(value)
        types = {"str": pa.string(), "int": pa.int64(), "float": pa.float64()}
        return pa.table({name: pa.array(columns[name], types[kind]) for name, kind in _SCHEMA.items()})

    def per_user(self, learner: str, cell: Cell, metric: str) -> F32:
        """Return float32 (n_users,): each user's own mean of a metric; NaN where it is not known.

        Args:
            learner: Label.
            cell: The cell.
            metric: One of `USER_MEANS`.

        Raises:
            UnknownName: If the run has no such learner.
            ParameterError: If the learner has no such cell, or the metric is not a mean over users.
        """
        self._estimates(learner, cell)
        means: F32 = user_means(self[learner].sums[cell], metric).astype(np.float32)
        return means

    def reliability(self, learner: str, cell: Cell) -> Any:
        """Return a `pyarrow.Table` with a row for each bin of confidence: how sure, and how often right.

        Columns: `low`, `high` (ends of the bin), `n_pairs`, `confidence` and `accuracy` (means over its pairs; null
        in an empty bin). A learner whose margins are no log-odds has no rows.

        Raises:
            UnknownName: If the run has no such learner.
            ParameterError: If the learner has no such cell.
        """
        import pyarrow as pa

        self._estimates(learner, cell)
        sums = self[learner].sums[cell]
        rows = []
        for b in range(N_BINS if "bin00_n" in sums else 0):
            n, confidence, correct = (
                math.fsum(sums[f"bin{b:02d}_{name}"].tolist()) for name in ("n", "confidence", "correct")
            )
            ends = (0.5 + b / (2 * N_BINS), 0.5 + (b + 1) / (2 * N_BINS))
            rows.append((*ends, int(n), confidence / n if n else None, correct / n if n else None))
        names = {"low": "float", "high": "float", "n_pairs": "int", "confidence": "float", "accuracy": "float"}
        types = {"int": pa.int64(), "float": pa.float64()}
        columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
        return pa.table(
            {name: pa.array(column, types[names[name]]) for name, column in zip(names, columns, strict=True)}
        )

    def comparisons(
        self,
        metric: str,
        cell: Cell,
        *,
        stratum: str = "all",
        versus: str | None = None,
        among: Sequence[str] | None = None,
        every_pair: bool = False,
    ) -> tuple[PairedDifference, ...]:
        """Return paired differences between learners in a cell, Holm-corrected for their number.

        Args:
            metric: One of `PREDICTION_METRICS`.
            cell: The cell.
            stratum: Stratum of the metric.
            versus: Who is compared with all others; None: the best learner (nulls and oracles set aside).
            among: Labels that take part; None: learners and nulls that the metric is defined for.
            every_pair: Compare all with all instead; each pair once, in the order of the results.

        Returns:
            In the order of the results; `a` is `versus`. With `every_pair`, `a` stands before `b` in the results.

        Raises:
            UnknownName: If there is no such learner.
            ParameterError: If the metric is unknown.
        """
        if metric not in PREDICTION_METRICS:
            raise ParameterError("metric", f"one of {', '.join(PREDICTION_METRICS)}", metric)
        labels = self._comparable(metric, cell, stratum, among)
        if every_pair:
            pairs = [(a, b) for place, a in enumerate(labels) for b in labels[place + 1 :]]
        else:
            first = versus if versus is not None else self._best(metric, cell, stratum, labels)
            if first is not None:
                self.estimate(first, metric, cell, stratum=stratum)
            pairs = [(first, other) for other in labels if first is not None and other != first]
        sums = {label: self[label].sums[cell] for pair in pairs for label in pair}
        sides = [(Side(a, sums[a]), Side(b, sums[b])) for a, b in pairs]
        draws, seed = self.protocol["bootstrap_draws"], self.protocol["seed"]
        return paired_differences(sides, (stratum, metric), self.reward_models, draws=draws, seed=seed)

    def change(self, learner: str, metric: str, cell: Cell, other: Cell, *, stratum: str = "all") -> Estimate:
        """Return a learner's metric in one cell minus that in another one, paired by user.

        The cells must have the same users and test pairs: they may differ in shots and in history.

        Raises:
            UserError: If they differ in users or prompts.
            ParameterError: If the learner has no such cell, stratum or metric.
        """
        if (cell.users, cell.prompts) != (other.users, other.prompts):
            raise UserError(
                f"{str(cell)!r} and {str(other)!r} have not the same users and test pairs.",
                "Compare cells that differ in shots or history only.",
            )
        for one in (cell, other):
            self.estimate(learner, metric, one, stratum=stratum)
        sums, protocol = self[learner].sums, self.protocol
        draws, seed = protocol["bootstrap_draws"], protocol["seed"]
        key = (stratum, metric)
        return cell_difference(sums[cell], sums[other], key, self.reward_models, draws=draws, seed=seed)

    def _estimates(self, learner: str, cell: Cell) -> Estimates:
        found = self[learner].estimates
        if cell not in found:
            raise ParameterError("cell", f"one of those of {learner!r} ({'; '.join(map(str, found))})", str(cell))
        return found[cell]

    def _comparable(self, metric: str, cell: Cell, stratum: str, among: Sequence[str] | None) -> list[str]:
        """Return the labels that take part, in the order of the results."""
        for label in among or ():
            self[label]
        taking = [r.id for r in self.learners if (r.kind != "oracle" if among is None else r.id in among)]
        key = (stratum, metric)
        return [
            label
            for label in taking
            if cell in self[label].estimates
            and key in self[label].estimates[cell]
            and not math.isnan(self[label].estimates[cell][key].value)
        ]

    def _best(self, metric: str, cell: Cell, stratum: str, labels: Sequence[str]) -> str | None:
        """Return the best learner of the labels; the best of them all if no learner is among them."""
        sign = 1 if HIGHER_IS_BETTER[metric] else -1
        learners = [label for label in labels if self[label].kind == "learner"] or list(labels)
        return max(learners, key=lambda label: sign * self[label].estimates[cell][stratum, metric].value, default=None)

    def __str__(self) -> str:
        """Return a line for each learner: accuracy and log-loss in the headline cell."""
        cell = self.headline
        lines = [f"{self.benchmark_name}, predict track, protocol {self.fingerprint}"]
        lines += [f"preset {self.preset}"] if self.preset else []
        lines.append(f"{cell}: accuracy, log-loss")
        shown = [learner for learner in self.learners if cell in learner.estimates]
        for learner in sorted(shown, key=lambda r: -r.estimates[cell]["all", "accuracy"].value):
            found = learner.estimates[cell]
            cells = [_shown(found["all", metric]) for metric in ("accuracy", "log_loss")]
            name = learner.id if learner.kind == "learner" else f"{learner.id} ({learner.kind})"
            lines.append(f"{name:32s} {'  '.join(cells)}".rstrip())
        return "\n".join(lines)

    __repr__ = __str__


def _shown(estimate: Estimate) -> str:
    """Return a number with its interval, three decimals; blanks of the same width if it is not defined."""
    if math.isnan(estimate.value):
        return " " * 20
    if math.isnan(estimate.low):
        return f"{estimate.value:.3f}".ljust(20)
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _sizes(sums: Sums, reward_models: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return stratum -> users with test pairs in it, and test pairs."""
    parts = {"all": sums["n"]}
    for q in range(1, 5):
        parts[f"contested-{q}"] = sums.get(f"contested{q}_n", np.zeros(0, np.float32))
    for place, name in enumerate(reward_models if "strongest" in sums else ()):
        parts[f"rm:{name}"] = np.where(sums["strongest"] == place, sums["n"], np.float32(0))
    return {name: (int((n > 0).sum()), int(n.sum(dtype=np.float64))) for name, n in parts.items()}
