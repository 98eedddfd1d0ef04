"""Show runs of the generate track: the rank track's numbers, what was generated, and two users as examples."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from personalllm.report.examples import Pair, choose_pair, read_samples
from personalllm.report.numbers import count, duration, number, percent
from personalllm.report.tables import Column, Grid
from personalllm.report.views.base import Drawing
from personalllm.report.views.rank import POPULATION_BEST, RankView

if TYPE_CHECKING:
    from personalllm.evaluation.results import MethodResult

__all__ = ["GenerateView"]

_EXAMPLES = ("oracle", POPULATION_BEST)
_COUNTS = ("empty", "cut", "completion_tokens", "examples", "dropped_examples")
_HEADINGS = ("Responses", "Empty", "Cut", "Cut %", "Tokens each", "Examples each", "Examples left out", "Time")


class GenerateView(RankView):
    """A run of the generate track."""

    task = "had a language model write a response to a new prompt"

    @property
    def title(self) -> str:
        """What is done in the track."""
        return "Writing new responses"

    def blocks(self) -> Iterator[Grid | Drawing]:
        """Yield figures and tables in the order of the page."""
        yield from super().blocks()
        generated = [row for row in self.methods if row.counts.get("generations")]
        if generated:
            yield self.grid(
                "generated",
                "What was generated",
                "Empty responses and responses cut at the token limit count like any other: they are scored as they "
                "are.",
                [Column(heading) for heading in _HEADINGS],
                _generated,
                generated,
            )

    def pair(self) -> Pair | None:
        """Return the two users whose histories differ most, and what each method wrote for them."""
        rows = [*self.methods, *(row for row in self.rows if row.label in _EXAMPLES)]
        sources = self.results.sources
        samples = {row.label: read_samples(self.results.samples(row.label)) for row in rows if row.label in sources}
        return choose_pair(samples, {row.label: (self.name(row), row.kind) for row in rows})

    def remarks(self) -> tuple[str, ...]:
        """Return which methods wrote nothing, were cut, or sent fewer examples than they wanted to."""
        lines = []
        for row in self.methods:
            n = row.counts.get("generations", 0)
            empty, cut, examples = (row.counts.get(name, 0) for name in ("empty", "cut", "examples"))
            if empty or cut:
                lines.append(
                    f"{row.label}: of {n} responses {empty} were empty and {cut} were cut at the token limit; all "
                    "count."
                )
            n_shots = row.spec.get("params", {}).get("n_shots")
            if isinstance(n_shots, int) and examples < n_shots * n:
                lines.append(
                    f"{row.label}: {examples / n:.1f} examples each; the history holds no more, or the budget was full"
                )
        return tuple(lines)


def _generated(row: MethodResult) -> list[str]:
    counts, n = row.counts, row.counts["generations"]
    empty, cut, tokens, examples, dropped = (counts.get(name, 0) for name in _COUNTS)
    shares = [percent(cut / n), number(tokens / n, 0), number(examples / n, 1)]
    return [*map(count, (n, empty, cut)), *shares, count(dropped), duration(row.seconds.get("total", math.nan))]
