"""Preference learners: 1,000 users with 64 comparisons each on the embedded benchmark, and one new user at a time."""

from __future__ import annotations

import time
from functools import cached_property

import numpy as np
from _common import Row, in_fresh_process, wall_and_processor

from personalllm import load
from personalllm.backends.embedding import default_embedder
from personalllm.core.types import Histories, Queries
from personalllm.data import Standardiser
from personalllm.feedback import CorpusView, FeedbackRule, interact, sample_prompts
from personalllm.methods import Method, get_method
from personalllm.users import Population

CONVEX = (
    "pooled-bt",
    "user-bt",
    "hierarchical-bt",
    "lore",
    "pref",
    "matrix-factorisation",
    "nearest-users",
    "calibrated-bayes",
)
N_USERS, N_PAIRS, N_QUERIES, N_ALONE = 1_000, 64, 20, 100


class Scene:
    """Pool, targets and queries on `mini`, vectors in memory."""

    def __init__(self) -> None:
        benchmark = load("mini")
        inner = default_embedder()
        self.name, self.identity, self.dim = inner.name, inner.identity, inner.dim
        texts = list(dict.fromkeys([*benchmark.prompts.to_pylist(), *benchmark.responses.to_pylist()]))
        self._place, self._vectors = {text: i for i, text in enumerate(texts)}, inner.embed(texts)
        self._table = benchmark.score_table(Standardiser.fit(benchmark, split="train"))
        self._view = CorpusView(benchmark, 0)
        self._rows = {split: benchmark.rows(split) for split in ("train", "test")}
        self._names = benchmark.reward_models

    def embed(self, texts: list[str]) -> np.ndarray:
        """Look the vectors up."""
        return self._vectors[[self._place[text] for text in texts]]

    def histories(self, split: str, n_pairs: int, seed: int) -> Histories:
        """Comparisons of best and worst by 1,000 users."""
        users = Population.dirichlet(N_USERS, 0.05, self._names, seed)
        prompts = sample_prompts(N_USERS, self._rows[split], n_pairs, seed + 1)
        return interact(users, self._table, prompts, FeedbackRule(), seed + 2).histories(self._view)

    @cached_property
    def pool(self) -> Histories:
        """Other users."""
        return self.histories("train", N_PAIRS, 10)

    @cached_property
    def targets(self) -> Histories:
        """The users who are predicted."""
        return self.histories("train", N_PAIRS, 20)

    @cached_property
    def test(self) -> Histories:
        """What is predicted of them."""
        return self.histories("test", N_QUERIES, 20)


def accuracy(method: Method, test: Histories) -> float:
    ranked = method.utilities(Queries(test.corpus, test.n_users, test.user, test.prompt))
    row = np.arange(len(test))
    return float((ranked[row, test.chosen] > ranked[row, test.rejected]).mean())


def one_user(method: Method, targets: Histories) -> tuple[float, float]:
    """Median seconds, by the clock and of the processor, of adapting each of some users alone."""
    took = []
    for user in range(N_ALONE):
        rows = slice(*targets.offsets[user : user + 2].tolist())
        columns = (column[rows] for column in (targets.prompt, targets.chosen, targets.rejected))
        alone = Histories(targets.corpus, 1, np.zeros(rows.stop - rows.start, np.int32), *columns)
        start = time.perf_counter(), time.process_time()
        method.adapt(alone)
        took.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    wall, used = np.median(took, axis=0).tolist()
    return wall, used


def measure() -> dict[str, dict[str, float]]:
    scene, found = Scene(), {}
    _ = scene.pool, scene.targets, scene.test
    for name in CONVEX:
        method, right = get_method(name).bind(embedder=scene, seed=0), []

        def work(method: Method = method, right: list[float] = right) -> None:
            right.append(accuracy(method.fit(scene.pool).adapt(scene.targets), scene.test))

        wall, used = wall_and_processor(work)
        alone, alone_used = one_user(method, scene.targets)
        found[name] = {"wall": wall, "processor": used, "alone": alone, "alone_used": alone_used, "accuracy": right[0]}
    return found


def run() -> list[Row]:
    found = in_fresh_process("bench_predict", "measure")
    rows = [
        Row(
            f"{name}: fit and evaluate, adapt one user",
            f"{at['wall']:.1f} s ({at['processor']:.1f} s of processor), "
            f"median {1e3 * at['alone']:.2f} ms ({1e3 * at['alone_used']:.2f} ms of processor)",
            "adapt < 5 ms",
            at["alone"] < 0.005,
        )
        for name, at in found.items()
    ]
    wall, used = (sum(at[key] for at in found.values()) for key in ("wall", "processor"))
    what = f"all convex learners, {N_USERS:,} users x {N_PAIRS} comparisons"
    return [*rows, Row(what, f"{wall:.1f} s ({used:.1f} s of processor)", "< 60 s", wall < 60)]
