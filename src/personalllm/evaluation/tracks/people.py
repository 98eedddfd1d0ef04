"""What the tracks on people share: fit without a part of the prompts and of the people, then ask about that part."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from personalllm.core.errors import UserError
from personalllm.core.seeding import derive_seed
from personalllm.core.types import JSON
from personalllm.evaluation.calls import adapt, fitted, own_copy
from personalllm.evaluation.contract import (
    Anchor,
    Backends,
    Condition,
    NamedMethod,
    Outcome,
    Table,
    Track,
    Unit,
)
from personalllm.evaluation.sources.people import Fold, People
from personalllm.methods.base import Method

__all__ = ["PeopleTrack"]


class PeopleTrack(Track):
    """A track on people.

    Nothing is fitted on a prompt that is asked about as `unseen`, whoever judged it; `seen` prompts were judged by the
    people of the pool. A unit is a fold: its fit dominates the cost. Nobody knows what people's utilities are made of,
    so there is no personalisation share.
    """

    source: People

    def __init__(self, protocol: Any, source: People, backends: Backends) -> None:
        Track.__init__(self, protocol, source, backends)

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """Users, prompts, history and shots."""
        return self.source.conditions

    def check_history(self, method: NamedMethod) -> None:
        """Raise if a method needs a history of another kind."""
        if method.method.history != "random":
            raise UserError(
                f"{method.label!r} gets the prompts nearest to each query; the {self.id} track of people has nested "
                "histories.",
                "Leave it out.",
            )

    def check(self, method: NamedMethod) -> None:
        """Raise if a backend is missing or the method needs another kind of history."""
        Track.check(self, method)

    def anchors(self) -> tuple[Anchor, ...]:
        """Return nothing: what people's utilities are made of is unknown, so there is no ceiling."""
        return ()

    def units(self, key: str) -> Sequence[Unit]:
        """Return a unit for each fold."""
        return [self._unit(key, fold, self.source.conditions_of(fold)) for fold in self.source.folds]

    def baseline_units(self, key: str) -> Sequence[Unit]:
        """Return a unit for each fold, with each kind of history under one number of shots."""
        units = []
        for fold in self.source.folds:
            fewest: dict[str, int] = {}
            for history, shots in self.source.histories(fold):
                fewest.setdefault(history, shots)
            conditions = [c for c in self.source.conditions_of(fold) if c.shots == fewest[c.history]]
            units.append(self._unit(key, fold, conditions))
        return units

    def _unit(self, key: str, fold: Fold, conditions: Sequence[Condition]) -> Unit:
        seed = derive_seed(self.protocol.seed, "people fit", key, fold.index)
        indices = tuple(self.conditions.index(condition) for condition in conditions)
        return Unit(key, fold.index, fold.index, fold.index + 1, seed, 1, indices)

    def prepare(self, method: NamedMethod) -> Any:
        """Return the method: it is fitted in every unit."""
        return method

    @abstractmethod
    def asked(self, fold: Fold) -> Mapping[str, Any]:
        """Return kind of prompts -> what is asked about the target users of a fold."""

    @abstractmethod
    def answered(self, index: int, label: str, method: Method, fold: Fold, asked: Any) -> Table:
        """Return the samples of a condition, from a method that has adapted to the target users.

        Args:
            index: Position of the condition.
            label: Name of the method.
            method: After `adapt`.
            fold: What was left out of its fit.
            asked: Of one kind of prompts.
        """

    def work(self, prepared: Any, unit: Unit) -> Outcome:
        """Fit a method on a fold's pool; for each history let a copy of it adapt and answer."""
        import pyarrow as pa

        source, fold, label = self.source, self.source.folds[unit.start], prepared.label
        pool, asked = source.pool(fold), self.asked(fold)
        began = time.perf_counter()
        method = fitted(pool, self.backends, prepared, unit.seed)
        seconds = {"fit": time.perf_counter() - began}
        tables = []
        index_of = {self.conditions[index]: index for index in unit.conditions}
        for history, shots in source.histories(fold):
            # unlike with simulated users the seed depends on the shots
            copied = own_copy(pool, self.backends, method, label, derive_seed(unit.seed, history, shots))
            adapt(label, copied, source.history(fold, shots, history))
            for prompts, of_kind in asked.items():
                index = index_of[Condition(fold.kind, prompts, history, shots)]
                tables.append(self.answered(index, label, copied, fold, of_kind))
        return Outcome(pa.concat_tables(tables), seconds)

    def counts(self, samples: Table) -> dict[str, int]:
        """Return nothing: what is asked once counts under several conditions."""
        return {}

    def shortfall(self) -> str:
        """Return which shots are left out, and why; empty if none is."""
        return self.source.dropped()

    def describe(self) -> JSON:
        """Return what was drawn, as JSON for the manifest."""
        return self.source.describe()
