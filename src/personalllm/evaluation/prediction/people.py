"""The learners of the predict track on the preferences of people."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from personalllm.core.errors import DataError
from personalllm.core.protocols import TextEmbedder
from personalllm.core.seeding import derive_seed
from personalllm.core.storage import digest, write_json
from personalllm.core.types import F32, F64, I64, JSON, Histories
from personalllm.data.preferences import Preferences
from personalllm.evaluation.prediction.people_results import learner_result
from personalllm.evaluation.prediction.people_task import PeopleProtocol, PeopleTask, Split
from personalllm.evaluation.prediction.results import PredictResults
from personalllm.evaluation.progress import Progress, ProgressEvent
from personalllm.evaluation.resolve import Entry, resolve
from personalllm.evaluation.store import DiskStore, Store, Unit, read_json
from personalllm.evaluation.tracks import Backends, checked, own_copy, running
from personalllm.evaluation.watched import Watched, unwatched
from personalllm.methods.base import Method

__all__ = ["NULLS", "load_people", "predict_people"]


NULLS = {
    "random": "Coin (p = 1/2)",
    "longer": "Longer response",
    "population": "Share of the other people",
}
"""What every table holds besides the learners; computed here, not by a method."""

_MOST_STEPS = 50
_SMALL = 1e-9


def predict_people(
    methods: Sequence[Method | str],
    people: Preferences,
    protocol: PeopleProtocol | None = None,
    *,
    embedder: TextEmbedder | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> PredictResults:
    """Evaluate learners on people: after k comparisons of a person, how well is the next one predicted?

    Nothing is fitted on a prompt whose comparisons are predicted as `unseen`, whichever pair or person; `seen` prompts
    were judged by the people of the pool. Everything complete in `out/<fingerprint>` is read back.

    Args:
        methods: Objects, registered names, names with parameters, `module:Class`, or `all`; the name of a null
            stands for the null.
        people: Their preferences.
        protocol: Folds, shots and seeds; the defaults if None.
        embedder: For the methods that need one.
        out: Folder of runs; None keeps the run in memory.
        progress: Called after each fit and its predictions.

    Returns:
        The learners in the order given, then the nulls: a coin, the longer response, the share of the other people.

    Raises:
        UserError: If a backend is missing, a method does not rank or breaks its contract, or the preferences are
            too few.
        RunError: If a method's own code fails; names the method and the method.
    """
    entries, _ = resolve(methods, "predict")
    task = PeopleTask(people, protocol or PeopleProtocol())
    for entry in entries:
        entry.method.clone().bind(embedder=embedder)
    manifest = _manifest(task, embedder)
    store = Store(manifest["fingerprint"])
    if out is not None:
        store = DiskStore(Path(out) / manifest["fingerprint"], manifest["fingerprint"])
    run = _Run(store, progress or unwatched, task, embedder)
    learners: list[JSON] = []
    for entry in entries:
        run.parts(entry.key, entry.label, partial(run.predicted, entry))
        learners.append(_about(entry))
    for name, title in NULLS.items():
        key = f"null-{name}"
        run.parts(key, name, partial(run.null, name))
        spec = {"id": name, "params": {}}
        learners.append(
            {"key": key, "id": name, "kind": "null", "title": title, "paper": "", "spec": spec, "log_odds": True}
        )
    manifest["learners"] = learners
    if isinstance(store, DiskStore):
        write_json(store.directory / "people.json", manifest)
    return _assembled(store, manifest)


def load_people(folder: str | Path) -> PredictResults:
    """Read a finished run of `predict_people` back; the preferences are not needed.

    Raises:
        DataError: If there is no finished run in the folder, or a file is damaged.
    """
    path = Path(folder) / "people.json"
    manifest = read_json(path)
    if "learners" not in manifest:
        raise DataError(f"{path} describes no finished run.", "Run the same command again.")
    return _assembled(DiskStore(path.parent, str(manifest["fingerprint"])), manifest)


def _about(entry: Entry) -> JSON:
    """Return what a page says of a learner, and what is needed to make it again."""
    about: JSON = {"key": entry.key, "id": entry.label, "kind": "learner", "spec": entry.spec()}
    about |= {"title": entry.method.title or entry.label, "paper": entry.method.paper}
    return about | {"log_odds": entry.method.log_odds}


def _manifest(task: PeopleTask, embedder: TextEmbedder | None) -> JSON:
    """Describe the run; everything that decides a number is in its fingerprint."""
    people = task.people
    unit, _, n_clusters = task.clusters
    said: JSON = {"protocol": task.protocol.spec(), "people": people.fingerprint}
    said |= {"embedder": embedder.identity if embedder else None}
    return {
        **said,
        "fingerprint": digest(said),
        "name": people.name,
        "n_users": people.n_users,
        "n_comparisons": len(people.histories),
        "n_ties": people.n_ties,
        "n_prompts": people.n_topics,
        "n_fits": len(task.splits),
        "shots": list(task.shots),
        "resample": unit,
        "n_clusters": n_clusters,
    }


@dataclass(frozen=True, eq=False)
class _Run(Watched):
    task: PeopleTask
    embedder: TextEmbedder | None

    def parts(self, key: str, label: str, made: Callable[[Split], Any]) -> None:
        """Do what is missing of a learner, fit by fit."""
        splits = self.task.splits
        for split in splits:
            seed = derive_seed(self.task.protocol.seed, "people fit", key, split.index)
            unit = Unit(key, split.index, split.index, split.index + 1, seed)
            if self.read(unit, label) is None:
                began = time.perf_counter()
                self.store.write_part(unit, made(split))
                self.store.add_seconds(key, time.perf_counter() - began)
            self.progress(ProgressEvent(label, "step", split.index + 1, len(splits)))

    def predicted(self, entry: Entry, split: Split) -> Any:
        """Return the predictions of a method after one fit."""
        seed = derive_seed(self.task.protocol.seed, "people fit", entry.key, split.index)
        pool = self.task.pool(split)
        method = entry.method.clone()
        method.bind(embedder=self.embedder, seed=seed)
        with running(entry.label, "fit"):
            method.fit(pool)
        tests = list(self.task.tests(split))
        return self._table(split, tests, self._adapted(entry, method, pool, split, tests))

    def _adapted(
        self, entry: Entry, method: Method, pool: Histories, split: Split, tests: list[tuple[str, I64]]
    ) -> Iterator[list[F32]]:
        """Yield, for each condition, the margins of each kind of prompts."""
        everything = self.task.people.histories
        for kind, shots in self.task.conditions(split):
            seed = derive_seed(method.seed, kind, shots)
            own = own_copy(pool, Backends(self.embedder), method, entry.label, seed)
            with running(entry.label, "adapt"):
                own.adapt(self.task.history(split, shots, kind))
            margins = []
            for _, rows in tests:
                queries = self.task.queries(split, rows)
                with running(entry.label, "utilities"):
                    ranked = own.utilities(queries)
                values = checked(entry.label, ranked, (len(queries), queries.corpus.n_responses))
                at = np.arange(len(rows))
                margins.append(values[at, everything.chosen[rows]] - values[at, everything.rejected[rows]])
            yield margins

    def null(self, name: str, split: Split) -> Any:
        """Return the predictions of a null, which ignores who asks."""
        pool, everything = self.task.pool(split), self.task.people.histories
        tests = list(self.task.tests(split))
        if name == "random":
            margins = [np.zeros(len(rows), np.float32) for _, rows in tests]
        elif name == "longer":
            slope = _slope(self._length_of(pool))
            margins = [(slope * self.task.lengths[rows]).astype(np.float32) for _, rows in tests]
        else:
            wins = np.zeros((everything.corpus.n_prompts, 2))
            np.add.at(wins, (pool.prompt, pool.chosen), 1.0)
            share = np.log(wins + 1.0)
            margins = []
            for _, rows in tests:
                item = everything.prompt[rows]
                odds = share[item, everything.chosen[rows]] - share[item, everything.rejected[rows]]
                margins.append(odds.astype(np.float32))
        return self._table(split, tests, iter([margins] * len(self.task.conditions(split))))

    def _length_of(self, histories: Histories) -> F64:
        """Return how much longer the chosen response of each comparison is, as `PeopleTask.lengths`."""
        size = np.array([[len(text) for text in row] for row in histories.corpus.responses], np.float64)
        chosen, rejected = (size[histories.prompt, side] for side in (histories.chosen, histories.rejected))
        return np.log((chosen + 1) / (rejected + 1))

    def _table(self, split: Split, tests: list[tuple[str, I64]], margins: Iterator[list[F32]]) -> Any:
        """Return one row for each prediction: its cell, the person, what intervals resample, the margin."""
        import pyarrow as pa

        _, cluster, _ = self.task.clusters
        tables = []
        for (history, shots), of_condition in zip(self.task.conditions(split), margins, strict=True):
            for (prompts, rows), margin in zip(tests, of_condition, strict=True):
                cell = self.task.cell(split, prompts, history, shots)
                columns = {name: pa.array([value] * len(rows), pa.string()) for name, value in _names(cell).items()}
                columns["shots"] = pa.array(np.full(len(rows), shots, np.int32))
                columns |= {
                    "row": pa.array(rows.astype(np.int32)),
                    "user": pa.array(self.task.people.histories.user[rows]),
                }
                columns |= {"cluster": pa.array(cluster[rows]), "margin": pa.array(margin.astype(np.float32))}
                columns["longer"] = pa.array(np.sign(self.task.lengths[rows]).astype(np.int8))
                tables.append(pa.table(columns))
        return pa.concat_tables(tables)


def _names(cell: Any) -> dict[str, str]:
    return {"users": cell.users, "prompts": cell.prompts, "history": cell.history}


def _slope(lengths: F64) -> float:
    """Return the slope b for which sigmoid(b x) is likeliest, by Newton steps under a weak prior, N(0, 10)."""
    slope = 0.0
    for _ in range(_MOST_STEPS):
        wrong = 1.0 / (1.0 + np.exp(np.clip(slope * lengths, -500, 500)))
        gradient = float((wrong * lengths).sum()) - slope / 10
        curvature = float((wrong * (1 - wrong) * lengths**2).sum()) + 0.1
        step = gradient / curvature
        slope += step
        if abs(step) < _SMALL:
            break
    return slope


def _assembled(store: Store, manifest: Mapping[str, Any]) -> PredictResults:
    """Put the parts of all learners together."""
    import pyarrow as pa

    learners = []
    protocol, fits = manifest["protocol"], int(manifest["n_fits"])
    for about in manifest["learners"]:
        parts = store.read_parts(about["key"])
        if len(parts) != fits:
            raise DataError(f"{about['id']!r} has {len(parts)} of {fits} parts.", "Run the same command again.")
        learners.append(
            learner_result(
                about,
                pa.concat_tables(parts),
                int(manifest["n_clusters"]),
                by_user=manifest["resample"] == "users",
                draws=protocol["bootstrap_draws"],
                seed=protocol["seed"],
                seconds=store.seconds(about["key"]) / fits,
            )
        )
    return PredictResults(
        protocol=protocol,
        fingerprint=manifest["fingerprint"],
        benchmark_name=manifest["name"],
        learners=tuple(learners),
        directory=store.directory if isinstance(store, DiskStore) else None,
        manifest={name: value for name, value in manifest.items() if name != "learners"},
    )
