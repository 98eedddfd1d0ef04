"""How the work of the predict track is cut into units, and how one is done."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from personalllm.core.seeding import derive_seed
from personalllm.core.types import F32, Queries
from personalllm.evaluation.prediction.metrics import (
    Cell,
    PairSamples,
    Sums,
    best_of_n_regret,
    kendall_tau,
    user_sums,
)
from personalllm.evaluation.prediction.references import opposition
from personalllm.evaluation.prediction.task import Group, Kind, PredictionTask, TestPairs
from personalllm.evaluation.store import Unit
from personalllm.evaluation.tracks import Backends, checked, own_copy, running
from personalllm.methods.base import Method

__all__ = ["Done", "FittedLearner", "Part", "Work", "samples_table"]


@dataclass(frozen=True, slots=True)
class Part:
    """One unit of work: a shard of users of a cell.

    Attributes:
        cell: The cell.
        unit: Where it is kept.
        n_pairs: Test pairs.
    """

    cell: Cell
    unit: Unit
    n_pairs: int


@dataclass(frozen=True, slots=True)
class Done:
    """What came of adapting once: the tables of the parts, in their order, and the seconds of `adapt`."""

    tables: tuple[Any, ...]
    seconds: float
    n_users: int


@dataclass(frozen=True, eq=False)
class FittedLearner:
    """A learner after `fit`, and its name in messages."""

    label: str
    method: Method


@dataclass(frozen=True, eq=False)
class Work:
    """How the work of the track is cut and done; what an executor is handed."""

    task: PredictionTask
    backends: Backends

    def steps(self, key: str) -> list[tuple[Part, ...]]:
        """Return the steps of a learner: parts that differ in the kind of prompt alone, for which it adapts once."""
        size, seed = self.task.protocol.users_per_shard, self.task.protocol.seed
        found: list[tuple[Part, ...]] = []
        index = 0
        for group in self.task.groups.values():
            for history, shots in group.conditions:
                for start in range(0, group.n_users, size):
                    stop = min(group.n_users, start + size)
                    # the seed does not depend on the shots: what is random in a learner is the same along its curve
                    unit_seed = derive_seed(seed, "unit", key, group.kind, history, start)
                    parts = []
                    for prompts in self.task.spec.prompts:
                        unit = Unit(key, index, start, stop, unit_seed)
                        n_pairs = len(group.tests[prompts].of_users(start, stop))
                        parts.append(Part(Cell(group.kind, prompts, history, shots), unit, n_pairs))
                        index += 1
                    found.append(tuple(parts))
        return found

    def compute(self, prepared: FittedLearner, parts: tuple[Part, ...]) -> Done:
        """Adapt a copy of a fitted learner and predict the test pairs of the parts."""
        first = parts[0]
        group, unit = self.task.groups[first.cell.users], first.unit
        method = own_copy(self.task.task.pool, self.backends, prepared.method, prepared.label, unit.seed)
        histories = group.prefix(first.cell.history, first.cell.shots, unit.start, unit.stop)
        began = time.perf_counter()
        with running(prepared.label, "adapt"):
            method.adapt(histories)
        seconds = time.perf_counter() - began
        tests = [group.tests[part.cell.prompts].of_users(unit.start, unit.stop) for part in parts]
        queries = _asked(self.task, tests, unit)
        shape = (len(queries), queries.corpus.n_responses)
        if len(queries):
            with running(prepared.label, "utilities"):
                ranked = method.utilities(queries)
            preference = checked(prepared.label, ranked, shape)
        else:  # nothing but ties
            preference = np.empty(shape, np.float32)
        ends = np.cumsum([len(pairs) for pairs in tests])[:-1]
        tables = [
            samples_table(self.task, group, pairs, self.task.by_response(pairs, rows))
            for pairs, rows in zip(tests, np.split(preference, ends), strict=True)
        ]
        return Done(tuple(tables), seconds, unit.stop - unit.start)

    def sums(self, cell: Cell, table: Any, *, log_odds: bool) -> Sums:
        """Return what the test pairs of each user of a cell add up to."""
        group = self.task.groups[cell.users]
        share, longer = self._about[cell.users, cell.prompts]
        samples = PairSamples(
            n_users=group.n_users,
            user=table["user"].to_numpy(),
            margin=table["margin"].to_numpy(),
            regret=table["regret"].to_numpy(),
            tau=table["tau"].to_numpy(),
            share=share,
            longer=longer,
            log_odds=log_odds,
        )
        return user_sums(samples, self.task.strongest(cell.users))

    @cached_property
    def _about(self) -> dict[tuple[Kind, Kind], tuple[F32, Any]]:
        """Of each kind of users and prompts: how contested the test pairs are, and on which side the longer one is."""
        found = {}
        for group in self.task.groups.values():
            for prompts, tests in group.tests.items():
                at, lengths = np.arange(len(tests)), self.task.lengths(tests)
                longer = np.sign(lengths[at, tests.chosen] - lengths[at, tests.rejected]).astype(np.int8)
                found[group.kind, prompts] = (opposition(self.task, tests), longer)
        return found


def _asked(task: PredictionTask, tests: Sequence[TestPairs], unit: Unit) -> Queries:
    """Return the prompts of several kinds of test pairs as queries, one kind after the other."""
    parts = [task.queries(pairs, unit.start, unit.stop) for pairs in tests]
    users, prompts = ([getattr(part, name) for part in parts] for name in ("user", "prompt"))
    return Queries(parts[0].corpus, parts[0].n_users, np.concatenate(users), np.concatenate(prompts))


def samples_table(
    task: PredictionTask, group: Group, tests: TestPairs, preference: F32, margin: F32 | None = None
) -> Any:
    """Return the samples: a row for each test pair.

    Columns: `user` (row of the group), `prompt` (row of the benchmark), `chosen`, `rejected` (responses of the
    benchmark), `margin`, `regret`, `tau`; see `prediction_metrics`.

    Args:
        task: The task.
        group: Whose pairs they are.
        tests: The pairs.
        preference: float32 (n, n_responses), by response of the benchmark.
        margin: float32 (n,); None: the difference of the preferences of the two responses.
    """
    import pyarrow as pa

    if margin is None:
        at = np.arange(len(tests))
        chosen, rejected = preference[at, tests.chosen], preference[at, tests.rejected]
        with np.errstate(invalid="ignore", over="ignore"):
            margin = np.where(chosen == rejected, np.float32(0), chosen - rejected)
    utility = task.utilities(group.population, tests)
    columns: dict[str, Any] = {
        "user": tests.user,
        "prompt": tests.prompt,
        "chosen": tests.chosen,
        "rejected": tests.rejected,
    }
    columns |= {"margin": margin, "regret": best_of_n_regret(preference, utility)}
    return pa.table(columns | {"tau": kendall_tau(preference, utility)})
