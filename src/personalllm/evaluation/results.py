"""The results of a run of any track, readable without the data and the backends."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from personalllm.core.errors import ParameterError, UnknownName, UserError
from personalllm.core.types import F32, F64, JSON
from personalllm.evaluation.contract import Condition, Estimate, Estimates, Key, Kind, Metric, Over, Sums, Table
from personalllm.evaluation.differences import Difference, paired_differences
from personalllm.evaluation.estimates import difference, resample, stratum_sizes
from personalllm.evaluation.means import ALL, shortage, user_means
from personalllm.evaluation.metrics import metric_by_id
from personalllm.evaluation.plots import html_table, plot_results, shown_estimate
from personalllm.evaluation.settings import describe_changes

__all__ = ["MethodResult", "Results"]

_TEXT, _WHOLE, _NUMBER = "string", "int64", "float64"
_SCHEMA = {
    **dict.fromkeys(("method", "kind", "users", "prompts", "history"), _TEXT),
    "shots": _WHOLE,
    **dict.fromkeys(("stratum", "metric"), _TEXT),
    **dict.fromkeys(("value", "low", "high"), _NUMBER),
    "intervals": _TEXT,
    **dict.fromkeys(("n_users", "n_pairs"), _WHOLE),
}


@dataclass(frozen=True, eq=False)
class MethodResult:
    """What one method, baseline or oracle reached.

    Attributes:
        label: Unique within the results: the id, with the parameters that differ from the defaults, e.g.
            `icl[n_shots=3]`.
        title: A few words for tables.
        kind: `method`; `baseline`, which ignores the user; `oracle`, which sees the scores.
        spec: Replayable JSON.
        sums: Condition -> what its samples add up to for each user.
        estimates: Condition -> `(stratum, metric)` -> estimate.
        counts: What the track counts, e.g. `queries`; in the generate track `empty`, `cut` and tokens.
        seconds: Wall-clock seconds of all sessions together, in no fingerprint: `total`, `fit`, `adapt`, ...
        paper: Where it was published; empty without a paper.
        log_odds: Whether differences of its utilities are log-odds.
    """

    label: str
    title: str
    kind: Kind
    spec: JSON
    sums: Mapping[Condition, Sums] = field(repr=False)
    estimates: Mapping[Condition, Estimates] = field(repr=False)
    counts: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    paper: str = ""
    log_odds: bool = False

    @property
    def seconds_per_user(self) -> float:
        """Seconds of `adapt` for each user, at the largest number of shots; NaN if they were not measured."""
        users = self.seconds.get("adapt_users", 0)
        return self.seconds["adapt"] / users if users else math.nan


@dataclass(frozen=True, eq=False)
class Results:
    """The results of a run.

    `at` is a condition everywhere; None stands for `headline`.

    Attributes:
        protocol: The protocol as JSON.
        fingerprint: Its fingerprint.
        track: Name of the track.
        methods: Methods in the order given, then baselines, then oracles.
        metrics: Those of the track, in the order of the tables.
        main_metric: Id of the main metric of the run.
        conditions: Everything that was measured.
        directory: The run directory; None if the run was kept in memory.
        manifest: Versions, fingerprints and sizes of the run.
        sources: Label -> reader of its samples.
    """

    protocol: JSON
    fingerprint: str
    track: str
    methods: tuple[MethodResult, ...]
    metrics: tuple[Metric, ...]
    main_metric: str
    conditions: tuple[Condition, ...]
    directory: Path | None = None
    manifest: JSON = field(default_factory=dict, repr=False)
    sources: Mapping[str, Callable[[], Table]] = field(default_factory=dict, repr=False)

    @property
    def data_name(self) -> str:
        """Name of the benchmark, or of the people's preferences."""
        return str(self.protocol["benchmark"])

    @property
    def headline(self) -> Condition:
        """The main condition of the run: both or unseen users, unseen prompts, true history, maximum shots."""
        first = min(self.conditions, key=_line)
        return max((c for c in self.conditions if _line(c) == _line(first)), key=lambda condition: condition.shots)

    @property
    def over(self) -> Over:
        """What intervals and tests take to be drawn at random; what is left out is held fixed."""
        over: Over = self.protocol["intervals"]
        axes = (row.sums[self.headline].axis for row in self.methods if self.headline in row.sums)
        # one-way intervals of few people resample the prompts
        return next(axes, over) if over == "users" else over

    def shortage(self, at: Condition | None = None) -> str:
        """Return why there are no intervals and no verdicts under a condition; empty if there are."""
        condition = at or self.headline
        sums = next((row.sums[condition] for row in self.methods if condition in row.sums), None)
        return "" if sums is None else shortage(sums, self.protocol["intervals"])

    def about_intervals(self, at: Condition | None = None) -> str:
        """Return what the intervals under a condition are over, or why there are none, in a sentence."""
        return self.shortage(at) or f"95 % intervals over {self.over}."

    @property
    def preset(self) -> str:
        """The preset that the protocol was made from, what differs from it, and what else takes part; empty if none.

        Two presets may set the same protocol for different methods; both are named if both were run.
        """
        presets = self.manifest.get("presets", [])
        labels = [result.label for result in self.methods if result.kind == "method"]
        of_presets = {label for preset in presets for label in preset["methods"]}
        additional = [label for label in labels if label not in of_presets] if presets else []
        described = [
            describe_changes(preset["id"], {name: (before, now) for name, before, now in preset["changes"]})
            for preset in presets
        ]
        more = [f"beside the preset's own methods: {', '.join(additional)}"] if additional else []
        return "; ".join([*described, *more])

    def metric(self, metric: str) -> Metric:
        """Return a metric by its id.

        Raises:
            UnknownName: If the track has no such metric; lists the nearest.
        """
        return metric_by_id(self.metrics, metric)

    def __getitem__(self, label: str) -> MethodResult:
        """Return the result of a label.

        Raises:
            UnknownName: If the run has no such method; lists the nearest.
        """
        for result in self.methods:
            if result.label == label:
                return result
        raise UnknownName("method in these results", label, (result.label for result in self.methods))

    def sums(self, label: str, at: Condition | None = None) -> Sums:
        """Return what the samples of a method add up to for each user.

        Raises:
            UnknownName: If the run has no such method.
            ParameterError: If it has no such condition.
        """
        sums, condition = self[label].sums, at or self.headline
        if condition not in sums:
            raise ParameterError("at", f"a condition of {label!r} ({'; '.join(map(str, sums))})", str(condition))
        return sums[condition]

    def estimate(self, label: str, metric: str, at: Condition | None = None, stratum: str = ALL) -> Estimate:
        """Return one number of the table with its interval.

        Raises:
            UnknownName: If the run has no such method or metric.
            ParameterError: If it has no such condition or stratum.
        """
        self.metric(metric)
        self.sums(label, at)
        estimates = self[label].estimates[at or self.headline]
        if (stratum, metric) not in estimates:
            strata = ", ".join(name for name, other in estimates if other == metric)
            raise ParameterError("stratum", f"one in which {metric} is known ({strata})", stratum)
        return estimates[stratum, metric]

    def draws(self, label: str, metric: str, at: Condition | None = None, stratum: str = ALL) -> F64:
        """Return draws of a metric, float64 (bootstrap_draws,), paired between methods; see `estimates.resample`."""
        return resample(self.sums(label, at), self.metric(metric), stratum, **self._resampling)

    def per_user(self, label: str, metric: str, at: Condition | None = None) -> F32:
        """Return float32 (n_users,): each user's own mean of a metric; NaN where it is not defined.

        Raises:
            ParameterError: If there is no such condition, or the metric is not a mean over users.
        """
        means: F32 = user_means(self.sums(label, at), self.metric(metric)).astype(np.float32)
        return means

    def curve(self, label: str, metric: str, at: Condition | None = None, *, stratum: str = ALL) -> dict[int, Estimate]:
        """Return shots -> estimate: the learning curve through a condition, whatever its own shots."""
        line, key = _line(at or self.headline), (stratum, metric)
        self.metric(metric)
        estimates = self[label].estimates
        on_line = sorted(c for c in estimates if _line(c) == line and key in estimates[c])
        return {condition.shots: estimates[condition][key] for condition in on_line}

    def comparisons(
        self,
        metric: str | None = None,
        at: Condition | None = None,
        versus: str | None = None,
        *,
        stratum: str = ALL,
        among: Sequence[str] | None = None,
        every_pair: bool = False,
    ) -> tuple[Difference, ...]:
        """Return paired differences between methods, Holm-corrected for their number.

        Args:
            metric: What is compared; None: the main metric of the track.
            at: Condition.
            versus: Who is compared with all others; None: the best method.
            stratum: Stratum of the metric.
            among: Labels that take part; None: methods and baselines for which the metric is defined.
            every_pair: Compare all with all instead; each pair once.

        Returns:
            In the order of the results; `a` is `versus`. With `every_pair`, `a` stands before `b` in the results.

        Raises:
            UnknownName: If there is no such method or metric.
            UserError: If the metric is not defined for `versus`.
        """
        chosen, condition = self.metric(metric or self.main_metric), at or self.headline
        key = (stratum, chosen.id)
        labels = self._comparable(key, condition, among)
        if every_pair:
            pairs = [(a, b) for index, a in enumerate(labels) for b in labels[index + 1 :]]
        else:
            first = versus or self._best(chosen, key, condition, labels)
            pairs = [(first, other) for other in labels if first is not None and other != first]
            if first is not None and math.isnan(self.estimate(first, chosen.id, condition, stratum).value) and pairs:
                raise UserError(
                    f"{chosen.id} is not defined for {first!r}, so nothing can be compared with it.",
                    "Choose another versus or another metric, e.g. one that needs no log-odds.",
                )
        sums = {label: self[label].sums[condition] for pair in pairs for label in pair}
        return paired_differences(sums, pairs, chosen, stratum, **self._resampling)

    def change(self, label: str, metric: str, at: Condition, other: Condition, *, stratum: str = ALL) -> Estimate:
        """Return a method's metric under one condition minus that under another one, paired by user.

        Raises:
            UserError: If the conditions differ in more than shots and history: the pairs are others.
            ParameterError: If the method has no such condition or stratum.
        """
        if (at.users, at.prompts) != (other.users, other.prompts):
            raise UserError(
                f"{str(at)!r} and {str(other)!r} do not have the same users and test pairs.",
                "Compare conditions that differ in shots or history only.",
            )
        for condition in (at, other):
            self.estimate(label, metric, condition, stratum)
        sums = self[label].sums
        return difference(sums[at], sums[other], self.metric(metric), stratum, **self._resampling)[0]

    def samples(self, label: str) -> Table:
        """Return the samples of a method, a `pyarrow.Table` in the order of its units of work.

        Columns: `condition` (position in `conditions`), `user`, `prompt`, then those of the track; see its docs.

        Raises:
            UnknownName: If the run has no such method.
        """
        self[label]
        return self.sources[label]()

    def table(self) -> Table:
        """Return a long `pyarrow.Table`, one row for each method, condition, stratum and metric.

        Columns: `method`, `kind`, `users`, `prompts`, `history`, `shots`, `stratum` (`all`; in the predict track also
        `contested-1` to `-4`, the quarter of the pool population that prefers the other response, and `rm:NAME`, users
        whose largest weight is on that reward model), `metric`, `value`, `low`, `high` (95 % interval; null where there
        is none), `intervals` (over what: `users and prompts`, ...), `n_users`, `n_pairs` (of the stratum; 0 where
        nothing is predicted in pairs).
        """
        import pyarrow as pa

        rows = [
            (
                *(result.label, result.kind, *condition.spec().values(), stratum, metric),
                *(None if math.isnan(end) else end for end in (estimate.value, estimate.low, estimate.high)),
                self.over,
                *sizes[stratum],
            )
            for result in self.methods
            for condition, sizes in self._sizes(result)
            for (stratum, metric), estimate in result.estimates[condition].items()
        ]
        columns = list(zip(*rows, strict=True)) if rows else [()] * len(_SCHEMA)
        arrays = [pa.array(column, kind) for column, kind in zip(columns, _SCHEMA.values(), strict=True)]
        return pa.table(dict(zip(_SCHEMA, arrays, strict=True)))

    def to_pandas(self) -> Any:
        """Return `table()` as a `pandas.DataFrame`.

        Raises:
            UserError: If pandas is not installed.
        """
        try:
            return self.table().to_pandas()
        except ImportError:
            raise UserError(
                "to_pandas() needs pandas.", "pip install pandas, or use table(), a pyarrow.Table."
            ) from None

    def plot(self, metric: str | None = None, at: Condition | None = None) -> Any:
        """Return a `matplotlib` figure: learning curves where there are several shots, else intervals."""
        return plot_results(self, self.metric(metric or self.main_metric), at or self.headline)

    def leaderboard(self, metric: str | None = None, at: Condition | None = None) -> list[MethodResult]:
        """Return the methods with an estimate of a metric, the best first."""
        chosen, condition = self.metric(metric or self.main_metric), at or self.headline
        sign = -1 if chosen.higher_is_better else 1
        known = [result for result in self.methods if condition in result.estimates]
        return sorted(known, key=lambda result: _order(sign * result.estimates[condition][ALL, chosen.id].value))

    def __str__(self) -> str:
        """Return what intervals are over, and a line for each method: the first two metrics under the headline."""
        lines = [f"{self.data_name}, {self.track} track, protocol {self.fingerprint}"]
        lines += [f"preset {self.preset}"] if self.preset else []
        lines += [str(self.headline)] if len(self.conditions) > 1 else []
        lines += [self.about_intervals()]
        shown = self.shown_metrics()[:2]
        for result in self.leaderboard():
            estimates = result.estimates[self.headline]
            cells = [f"{metric.id} {shown_estimate(estimates[ALL, metric.id])}" for metric in shown]
            name = result.label if result.kind == "method" else f"{result.label} ({result.kind})"
            lines.append(f"{name:32s} {'  '.join(cells)}".rstrip())
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Return a table for notebooks; every text in it is escaped."""
        return html_table(self)

    @property
    def _resampling(self) -> dict[str, Any]:
        protocol = self.protocol
        return {"over": protocol["intervals"], "draws": protocol["bootstrap_draws"], "seed": protocol["seed"]}

    def shown_metrics(self) -> list[Metric]:
        """Return the metrics that are defined for some method under the headline condition."""
        at = self.headline
        estimates = [result.estimates[at] for result in self.methods if at in result.estimates]
        return [m for m in self.metrics if any(not math.isnan(of[ALL, m.id].value) for of in estimates)]

    def _sizes(self, result: MethodResult) -> list[tuple[Condition, dict[str, tuple[int, int]]]]:
        measured = [condition for condition in self.conditions if condition in result.estimates]
        return [(condition, stratum_sizes(result.sums[condition])) for condition in measured]

    def _comparable(self, key: Key, at: Condition, among: Sequence[str] | None) -> list[str]:
        """Return the labels that take part, in the order of the results."""
        for label in among or ():
            self[label]
        undefined = Estimate(math.nan, math.nan, math.nan)
        return [
            result.label
            for result in self.methods
            if (result.kind != "oracle" if among is None else result.label in among)
            and not math.isnan(result.estimates.get(at, {}).get(key, undefined).value)
        ]

    def _best(self, metric: Metric, key: Key, at: Condition, labels: Sequence[str]) -> str | None:
        """Return the best method of the labels; the best of them all if no method is among them."""
        sign = 1 if metric.higher_is_better else -1
        methods = [label for label in labels if self[label].kind == "method"] or list(labels)
        return max(methods, key=lambda label: sign * self[label].estimates[at][key].value, default=None)


def _line(condition: Condition) -> tuple[int, bool, bool, str, str, str]:
    """Return what conditions that differ in shots only have in common; sorts both, unseen, seen, true history first."""
    users, prompts, history = condition.users, condition.prompts, condition.history
    return {"both": 0, "unseen": 1}.get(users, 2), prompts != "unseen", history != "true", users, prompts, history


def _order(value: float) -> float:
    """Sort what is not defined last."""
    return math.inf if math.isnan(value) else value
