"""Result types: what a run found, readable without the benchmark."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from personalllm.core.errors import UnknownName, UserError
from personalllm.core.types import F32, JSON, Message
from personalllm.evaluation.settings import describe_changes

__all__ = ["METRICS", "Estimate", "MethodResult", "Results", "Sample"]

METRICS = ("mean_utility", "win_rate_reference", "win_rate_best", "regret", "gain")
"""Metric keys, in the order of the leaderboard."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % interval; NaN where it is not defined.

    Attributes:
        value: Estimate over all evaluated users.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class MethodResult:
    """What one method, or one reference policy, reached.

    Attributes:
        id: Label, unique within the results: the method's id, with the parameters that differ from the defaults,
            e.g. `icl[n_shots=3]`.
        title: A few words for tables.
        spec: Replayable JSON.
        track: `rank` or `generate`.
        kind: `method`, or `reference` for a policy computed from the scores.
        n_users: Users evaluated.
        n_queries: Queries in all.
        seconds: Wall-clock seconds of all sessions together; not part of any fingerprint.
        metrics: Estimate of each of `METRICS`, over users.
        versus_reference: Paired difference (this - reference method) of each metric.
        per_user: float32 (n_users,) means over the user's queries: `mean_utility`, `win_rate_reference`,
            `win_rate_best`, `regret`, and the stored policies' mean utilities `oracle_utility`,
            `population_best_utility`, `reference_utility`.
        counts: Generate track: `generations`, `empty`, `cut` (at max_tokens), `prompt_tokens`, `completion_tokens`,
            `examples`, `dropped_examples`.
    """

    id: str
    title: str
    spec: JSON
    track: Literal["rank", "generate"]
    kind: Literal["method", "reference"]
    n_users: int
    n_queries: int
    seconds: float
    metrics: dict[str, Estimate]
    versus_reference: dict[str, Estimate]
    per_user: dict[str, F32]
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sample:
    """One query of the generate track and what came of it.

    Attributes:
        user: Row of the population.
        prompt_id: The benchmark's id of the prompt.
        prompt: Prompt text.
        response: What was generated, or the stored response for a reference.
        finish_reason: `stop`, `length` (cut at max_tokens) or `stored`.
        n_examples: Examples of the history that were sent.
        utility: The user's utility of the response (standard deviations of the RMs).
        best_utility: The user's utility of the best stored response.
        reference_utility: The user's utility of the reference response model's response.
        messages: What was sent to the chat model.
        history: The user's history as (prompt, chosen, rejected).
    """

    user: int
    prompt_id: str
    prompt: str
    response: str
    finish_reason: str
    n_examples: int
    utility: float
    best_utility: float
    reference_utility: float
    messages: tuple[Message, ...]
    history: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, eq=False)
class Results:
    """The results of a run.

    Attributes:
        protocol: The protocol as JSON.
        fingerprint: Its fingerprint.
        benchmark_name: Name of the benchmark.
        methods: Methods in the order asked for, then the references.
        directory: The run directory; None if the run was kept in memory.
        versus: Label of the method that `versus_reference` compares with.
        manifest: Versions and fingerprints of the run.
    """

    protocol: JSON
    fingerprint: str
    benchmark_name: str
    methods: tuple[MethodResult, ...]
    directory: Path | None = None
    versus: str = ""
    manifest: JSON = field(default_factory=dict)
    sources: Mapping[str, Callable[[], list[Sample]]] = field(default_factory=dict, repr=False)

    @property
    def preset(self) -> str:
        """The preset that the protocol was made from, what differs from it, and what else takes part; or nothing.

        Two presets may set the same protocol for different methods; both are said if both were run.
        """
        known = self.manifest.get("presets", [])
        labels = [result.id for result in self.methods if result.kind == "method"]
        own = {label for preset in known for label in preset["methods"]}
        others = [label for label in labels if label not in own] if known else []
        described = [
            describe_changes(preset["id"], {name: (before, now) for name, before, now in preset["changes"]})
            for preset in known
        ]
        more = [f"beside the preset's own methods: {', '.join(others)}"] if others else []
        return "; ".join([*described, *more])

    def __str__(self) -> str:
        """Return a line for each method: mean utility and gain with their intervals."""
        lines = [f"{self.benchmark_name}, {self.protocol['track']} track, protocol {self.fingerprint}"]
        lines += [f"preset {self.preset}"] if self.preset else []
        for result in sorted(self.methods, key=lambda r: -r.metrics["mean_utility"].value):
            cells = [f"{name} {e.value:6.3f} [{e.low:.3f}, {e.high:.3f}]" for name, e in _shown(result)]
            lines.append(f"{result.id:24s} {'  '.join(cells)}")
        return "\n".join(lines)

    __repr__ = __str__

    def __getitem__(self, method_id: str) -> MethodResult:
        """Return the result of a label.

        Raises:
            UnknownName: If the run has no such method; lists the nearest.
        """
        for result in self.methods:
            if result.id == method_id:
                return result
        raise UnknownName("method in these results", method_id, (r.id for r in self.methods))

    def samples(self, method_id: str) -> list[Sample]:
        """Return the samples of the generate track, by user.

        Raises:
            UnknownName: If the run has no such method.
            UserError: If the run is of the rank track, which has no texts of its own.
        """
        self[method_id]
        if self.protocol["track"] != "generate":
            raise UserError("The rank track generates no text, so it has no samples.", "Use the generate track.")
        return self.sources[method_id]()


def _shown(result: MethodResult) -> list[tuple[str, Estimate]]:
    return [("utility", result.metrics["mean_utility"]), ("gain", result.metrics["gain"])]
