"""What each difference between the paper's released code and its text does to the numbers, on our data.

`python benchmarks/released_code.py [--data mini@v1] [--users 1000] [--pool-users 10000] [--generate N]`

Without a chat model: which responses are shown, and what they are worth to the user who is to like them. With
`--generate N` a chat model writes for N users on the differences that change most of what is shown.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from personalllm import load
from personalllm.backends.embedding import default_embedder
from personalllm.backends.reward import CompactEnsemble
from personalllm.core.seeding import generator
from personalllm.core.types import ChatRequest, Histories
from personalllm.data import ScoreTable
from personalllm.data.standardise import PUBLISHED
from personalllm.evaluation import get_preset
from personalllm.evaluation.sources.simulated import Simulated
from personalllm.feedback import InteractionPool, interact
from personalllm.methods import Method, get_method
from personalllm.methods.icl.lookup_icl import LookupICL
from personalllm.methods.icl.meta_icl import MetaICL
from personalllm.methods.parts.retrieval import nearest_interactions
from personalllm.testing import EchoChatModel
from personalllm.users import Population, utilities

SHOTS = 3
DRAWS = 20


@dataclass(frozen=True, eq=False)
class Shown:
    """The interactions shown for each query, most relevant first: rows of the benchmark and its responses."""

    prompt: Any
    chosen: Any
    rejected: Any


@dataclass(eq=False)
class Lab:
    """The task of section 4, and ways to do it as the released code does."""

    task: Simulated
    embedder: Any

    def __post_init__(self) -> None:
        self.queries = self.task.queries(0, self.task.n_users)
        near = self.task.histories("nearest", self.embedder)
        own = self.task.histories("random", self.embedder)
        self.near, self.own = (h.prompt.reshape(self.task.n_users, -1) for h in (near, own))
        self.random = own
        self.pool_prompts = self.task.pool.prompt.reshape(self.task.pool_population.n_users, -1)

    def raw(self, sds: Any = None) -> ScoreTable:
        """Return scores that are not standardised: the benchmark's, or ours on scales of given spreads."""
        names = self.task.benchmark.reward_models
        if sds is None:
            return ScoreTable(np.ascontiguousarray(self.task.benchmark.scores, dtype=np.float32), names)
        return ScoreTable(np.ascontiguousarray(self.task.table.values * np.float32(sds)), names)

    def mixed_up(self, order: Any, table: ScoreTable | None = None) -> ScoreTable:
        """Return scores whose columns stand in another order than their names say."""
        table = self.task.table if table is None else table
        return ScoreTable(np.ascontiguousarray(table.values[:, :, order]), table.reward_models)

    def everyone_as(self, user: int) -> Population:
        population = self.task.population
        weights = np.repeat(population.weights[user : user + 1], population.n_users, axis=0)
        return Population(weights=weights, reward_models=population.reward_models)

    def nearest(self, users: Population | None = None, table: ScoreTable | None = None) -> Shown:
        """Return the 3 nearest train prompts of each query with the feedback that these users would give."""
        prompts = self.near[:, ::-1][:, :SHOTS]
        users = self.task.population if users is None else users
        pool = interact(users, self.task.table if table is None else table, prompts, self.task.rule, 0)
        return Shown(*(column.reshape(prompts.shape) for column in (pool.prompt, pool.chosen, pool.rejected)))

    def pool(self, table: ScoreTable | None = None, drop: int = 0) -> InteractionPool:
        """Return the other users' feedback, from other scores, or on all but the last `drop` responses."""
        table = self.task.table if table is None else table
        kept = ScoreTable(np.ascontiguousarray(table.values[:, : table.n_responses - drop]), table.reward_models)
        made = interact(self.task.pool_population, kept, self.pool_prompts, self.task.rule, 0)
        return dataclasses.replace(made, n_responses=table.n_responses)

    def across(self, method: Any, pool: Histories) -> tuple[Shown, Any]:
        """Return what a method that learns across users shows, and the similar users of each query."""
        method.bind(embedder=self.embedder, llm=EchoChatModel()).fit(pool).adapt(self.random)
        method.messages(self.queries)
        rows = method.rows_
        to = self.task.view.to_responses
        flat = np.where(rows < 0, 0, rows).ravel()
        prompt = pool.prompt[flat]
        chosen, rejected = to(prompt, pool.chosen[flat]), to(prompt, pool.rejected[flat])
        return Shown(*(column.reshape(rows.shape) for column in (prompt, chosen, rejected))), method.users_


class _Noted:
    """Notes what would be shown instead of writing it out."""

    def borrow(self, queries: Any, asked: Any, users: Any) -> list[Any]:
        place = self.prompt_place_, self.offsets_  # type: ignore[attr-defined]
        self.users_ = users
        self.rows_ = nearest_interactions(asked, self.prompt_vectors_, *place, users, SHOTS)  # type: ignore[attr-defined]
        return []


@dataclass
class NotedMeta(_Noted, MetaICL):
    pass


@dataclass
class NotedLookup(_Noted, LookupICL):
    pass


def worth(lab: Lab, shown: Shown) -> dict[str, float]:
    """Return what the shown winners are to the user who asks: how often the best, how often below the loser."""
    population, table = lab.task.population, lab.task.table
    user = np.repeat(np.arange(population.n_users, dtype=np.int32), shown.prompt.shape[1])
    values = utilities(population, table, user, shown.prompt.ravel())
    at = np.arange(len(values))
    won, lost = values[at, shown.chosen.ravel()], values[at, shown.rejected.ravel()]
    return {
        "best": float((won >= values.max(axis=1)).mean()),
        "reversed": float((won < lost).mean()),
        "utility": float(won.mean()),
        "losing": float(lost.mean()),
    }


def in_common(one: Any, other: Any) -> float:
    """Return the mean share of the ids of a row that stand in the same row of the other array too."""
    shares = [len({*a[a >= 0]} & {*b[b >= 0]}) / max(1, (a >= 0).sum()) for a, b in zip(one, other, strict=True)]
    return float(np.mean(shares))


def pairs_of(shown: Shown) -> Any:
    """Return a number for each shown prompt with its winner."""
    return shown.prompt.astype(np.int64) * 256 + shown.chosen


def icl_rows(lab: Lab) -> list[tuple[str, dict[str, float]]]:
    """Return what is shown in ICL with the nearest prompts, done right and as the released code does it."""
    n = len(lab.task.benchmark.reward_models)
    orders = [generator(0, "orders", i).permutation(n) for i in range(DRAWS)]
    firsts = [lab.everyone_as(i) for i in range(DRAWS)]
    spreads = [sd for _, sd in (PUBLISHED[name] for name in sorted(PUBLISHED))] if n == len(PUBLISHED) else None

    def mean(of: Callable[[int], Shown]) -> dict[str, float]:
        every = [worth(lab, of(i)) for i in range(DRAWS)]
        return {key: float(np.mean([row[key] for row in every])) for key in every[0]}

    rows = [
        ("done as the paper says", worth(lab, lab.nearest())),
        (f"(a) one user's weights for everybody, mean of {DRAWS} users", mean(lambda i: lab.nearest(firsts[i]))),
        (f"(b) RM order mixed up, mean of {DRAWS} orders", mean(lambda i: lab.nearest(table=lab.mixed_up(orders[i])))),
        ("(c) scores not standardised", worth(lab, lab.nearest(table=lab.raw()))),
    ]
    if spreads:
        rows.append(
            ("(c) the same with the spreads of the paper's RMs", worth(lab, lab.nearest(table=lab.raw(spreads))))
        )
    all_three = mean(lambda i: lab.nearest(firsts[i], lab.mixed_up(orders[i], lab.raw())))
    return [*rows, (f"(a, b, c) together, mean of {DRAWS} users and orders", all_three)]


def without_last(pool: Histories) -> Histories:
    """Return the histories without the last interaction of each user."""
    keep = np.ones(len(pool.user), bool)
    keep[pool.offsets[1:][np.diff(pool.offsets) > 0] - 1] = False
    columns = (column[keep] for column in (pool.user, pool.prompt, pool.chosen, pool.rejected))
    return Histories(pool.corpus, pool.n_users, *columns)


def across_rows(lab: Lab) -> list[tuple[str, dict[str, float]]]:
    """Return what is shown in learning across users, done right and as the released code does it."""
    view = lab.task.view
    right = lab.pool()
    spreads = [sd for _, sd in (PUBLISHED[name] for name in sorted(PUBLISHED))]
    variants = [
        ("meta-ICL, done as the paper says", NotedMeta, right, None),
        ("(d) pool from scores not standardised", NotedMeta, lab.pool(lab.raw()), None),
        ("(e) response 8 never drawn", NotedMeta, lab.pool(drop=1), None),
        ("look-up, done as the paper says", NotedLookup, right, None),
        ("(f) last interaction of every user skipped", NotedLookup, right, without_last),
    ]
    if len(spreads) == len(lab.task.benchmark.reward_models):
        spread = ("(d) the same with the spreads of the paper's RMs", NotedMeta, lab.pool(lab.raw(spreads)), None)
        variants.insert(2, spread)
    found, base = [], {}
    for name, kind, pool, change in variants:
        histories = pool.histories(view)
        shown, users = lab.across(kind(n_shots=SHOTS), change(histories) if change else histories)
        base.setdefault(kind, (shown, users))
        row = worth(lab, shown)
        row["pool"] = float(((pool.chosen != right.chosen) | (pool.rejected != right.rejected)).mean())
        row["neighbours"] = in_common(base[kind][1], users)
        row["shown"] = in_common(pairs_of(base[kind][0]), pairs_of(shown))
        found.append((name, row))
    return found


def generated(lab: Lab, n: int) -> list[tuple[str, float, float, float]]:
    """Let a chat model write for n users with the right and the wrong winners shown; return utilities, paired."""
    from personalllm.backends.llm import CachedChatModel, LocalChatModel

    llm = CachedChatModel(LocalChatModel())
    rewards = CompactEnsemble.load("compact-v1", lab.embedder)
    first, n_rms = lab.everyone_as(0), len(lab.task.benchmark.reward_models)
    order = generator(0, "orders", 0).permutation(n_rms)
    all_three = lab.nearest(first, lab.mixed_up(order, lab.raw()))
    variants = {
        "done as the paper says": lab.nearest(),
        "(a) first user's weights for everybody": lab.nearest(first),
        "(a, b, c) together, one order": all_three,
    }
    reached = {name: _write(lab, shown, n, llm, rewards) for name, shown in variants.items()}
    right = reached["done as the paper says"]
    rows = []
    for name, utility in reached.items():
        difference = utility - right
        rng = generator(0, "bootstrap", n)
        means = difference[rng.integers(0, n, (2000, n))].mean(axis=1)
        rows.append(
            (name, float(utility.mean()), float(difference.mean()), *np.quantile(means, (0.025, 0.975)).tolist())
        )
    return rows


def _write(lab: Lab, shown: Shown, n: int, llm: Any, rewards: Any) -> Any:
    """Return the utility of each of the first n users for what is written with these examples."""
    view, task = lab.task.view, lab.task
    order = np.s_[:n, ::-1]
    prompt = shown.prompt[order].ravel()
    columns = (view.to_columns(prompt, column[order].ravel()) for column in (shown.chosen, shown.rejected))
    user = np.repeat(np.arange(n, dtype=np.int32), SHOTS)
    histories = Histories(view.corpus, n, user, prompt.astype(np.int32), *columns)
    method: Method = get_method("icl", n_shots=SHOTS).bind(embedder=lab.embedder, llm=llm)
    queries = task.queries(0, n)
    conversations = method.adapt(histories).messages(queries)
    replies = llm.chat([ChatRequest(c.messages, max_tokens=64) for c in conversations])
    texts = [reply.text for reply in replies]
    raw = rewards.score([task.benchmark.prompt(int(row)) for row in queries.prompt], texts)
    place = [rewards.reward_models.index(name) for name in task.benchmark.reward_models]
    return task.live_utilities(np.ascontiguousarray(raw[:, place]), np.arange(n, dtype=np.int32)).astype(np.float64)


def show(title: str, headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == headings[0] else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=150).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="mini@v1")
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--pool-users", type=int, default=10_000)
    parser.add_argument("--generate", type=int, default=0, metavar="N", help="let the chat model write for N users")
    given = parser.parse_args()
    benchmark = load(given.data)
    protocol = get_preset("paper-meta").protocol_for(benchmark, n_users=given.users, pool_users=given.pool_users)
    lab = Lab(Simulated(protocol, benchmark), default_embedder())
    sds = np.sort(benchmark.scores.reshape(-1, len(benchmark.reward_models)).std(axis=0))
    Console().print(f"spread of the raw scores: sd {sds[0]:.2f} to {sds[-1]:.2f}, ratio {sds[-1] / sds[0]:.2f}")
    show(
        f"ICL, 3 nearest prompts, {given.users:,} users: the winners shown",
        ("how", "user's best, %", "below the loser, %", "utility of winners", "of losers"),
        [
            (name, f"{100 * r['best']:.1f}", f"{100 * r['reversed']:.1f}", f"{r['utility']:.3f}", f"{r['losing']:.3f}")
            for name, r in icl_rows(lab)
        ],
    )
    show(
        f"Learning across users, pool of {given.pool_users:,}, 20 similar users, 3 examples",
        ("how", "pool pairs changed, %", "neighbours kept, %", "examples kept, %", "user's best, %", "utility shown"),
        [
            (name, *(f"{100 * r[key]:.1f}" for key in ("pool", "neighbours", "shown", "best")), f"{r['utility']:.3f}")
            for name, r in across_rows(lab)
        ],
    )
    if given.generate:
        show(
            f"ICL, the chat model writes for {given.generate} users",
            ("how", "mean utility", "minus right", "low", "high"),
            [(name, *(f"{x:.3f}" for x in numbers)) for name, *numbers in generated(lab, given.generate)],
        )


if __name__ == "__main__":
    main()
