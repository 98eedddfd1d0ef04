"""Results as runs would leave them, made from a seed; nothing is evaluated."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from personalllm.core.seeding import generator
from personalllm.core.types import F32
from personalllm.evaluation.contract import Condition, Kind, Sums
from personalllm.evaluation.estimates import estimate
from personalllm.evaluation.measures import PairAnswers, pair_sums
from personalllm.evaluation.metrics import CHOICE_METRICS, PAIR_METRICS
from personalllm.evaluation.results import MethodResult, Results

PROTOCOL: dict[str, Any] = {
    "metrics_version": 1,
    "benchmark": "mini",
    "benchmark_fingerprint": "9f2c" * 16,
    "split": "test",
    "history_split": "train",
    "population": {"kind": "dirichlet", "alpha": 0.05, "n_users": 1000, "seed": 0},
    "pool": {"n_users": 10000, "pairs_per_user": 50, "seed": 0},
    "history": {"pairs": 5, "nearest": 5, "counterfactual": "none"},
    "feedback": {"pairs": "best-vs-worst", "ranks": [0, -1], "temperature": 0.0, "flip": 0.0, "tie_margin": 0.0},
    "prompts_per_user": None,
    "limit": None,
    "standardiser": "train",
    "reference_response_model": "qwen2.5-0.5b-plain",
    "users_per_shard": 200,
    "seed": 0,
    "intervals": "users",
    "bootstrap_draws": 100,
    "embedder": "minilm-l6-int8 sha256:5b2d8e7fb1aa2c4f onnxruntime 1.22",
    "llm": None,
    "rewards": None,
}
Level = tuple[str, str, Kind, float]
RANK: tuple[Level, ...] = (
    ("longest", "Longest response", "method", 0.31),
    ("embedding-ranker", "Embedding ranker", "method", 0.66),
    ("random", "Random response", "method", -0.01),
    ("population-best", "Best response for the population (not personalised)", "baseline", 0.58),
    ("best-single-rm", "Best single reward model", "baseline", 0.24),
    ("worst", "User's worst stored response", "oracle", -2.4),
    ("oracle", "User's best stored response", "oracle", 1.62),
)
GENERATE: tuple[Level, ...] = (
    ("zero-shot", "Zero-shot", "method", -0.35),
    ("icl[n_shots=3]", "In-context learning", "method", -0.16),
    ("icl[n_shots=1]", "In-context learning", "method", -0.28),
    ("meta-icl", "Meta-learning in-context learning, winning minus losing", "method", -0.08),
    ("population-best", "Best response for the population (not personalised)", "baseline", 0.61),
    ("oracle", "User's best stored response", "oracle", 1.71),
    ("worst", "User's worst stored response", "oracle", -2.4),
)
BRIEF = "Boil it twice as long as you think, then rinse it cold. Done."
CHATTY = (
    "Great question! There are several things to keep in mind when you cook rice for a crowd:\n\n"
    "1. Rinse the rice until the water runs clear, because loose starch makes it sticky.\n"
    "2. Use a wide pot, so that the weight of the upper grains does not crush the lower ones.\n"
    "3. Keep the lid on! Steam does half of the work, and every look costs you two minutes.\n\n"
    "Would you like a table of amounts for ten, twenty and forty people?"
)
QUERY = "How do I cook rice for forty people without it going to mush?"
CHOICES = (
    ("What should I plant in a shady corner?", "Ferns, hostas, and moss. Water weekly.", CHATTY),
    ("Explain why the sky is blue.", "Blue light scatters more in air than red light does.", CHATTY),
    ("Give me a plan for a rainy Sunday.", "Soup, a long book, one phone call.", CHATTY),
    ("Recommend a first instrument for a child.", "A ukulele: small, cheap, and hard to hate.", CHATTY),
)
SHOTS = (0, 1, 4, 16, 64)
RMS = ("rm-a", "rm-b", "rm-c")
Skill = tuple[str, str, Kind, float, float, bool]
SKILLS: tuple[Skill, ...] = (
    ("hierarchical-bt", "Hierarchical Bayes Bradley-Terry", "method", 0.3, 1.6, True),
    ("pref", "PReF", "method", 0.3, 1.45, True),
    ("lore", "LoRe", "method", 0.3, 1.2, True),
    ("user-bt", "Per-user Bradley-Terry", "method", 0.0, 1.3, True),
    ("pooled-bt", "Pooled Bradley-Terry", "method", 0.6, 0.6, True),
    ("vpl", "Variational preference learning", "method", 0.3, 0.7, True),
    ("gpo", "Group preference optimisation", "method", 0.5, 0.9, True),
    ("longest", "Longest response", "method", 0.25, 0.25, False),
    ("random", "A coin", "baseline", 0.0, 0.0, True),
    ("longer", "Longer response", "baseline", 0.25, 0.25, True),
    ("population", "Share of the population", "baseline", 0.7, 0.7, True),
    ("best-linear", "Best linear in the embedding", "oracle", 2.4, 2.4, True),
    ("true-weights", "True weights", "oracle", 60.0, 60.0, True),
)
"""Label, title, kind, skill without a shot, skill at the most shots, whether it gives probabilities."""


def method_result(label: str, title: str, kind: Kind, sums: dict[Condition, Sums], **changes: Any) -> MethodResult:
    metrics = CHOICE_METRICS if "utility" in next(iter(sums.values())).columns else PAIR_METRICS
    estimates = {condition: estimate(of, metrics, over="users", draws=100, seed=0) for condition, of in sums.items()}
    spec = {"id": label.partition("[")[0], "params": {}}
    return MethodResult(label, title, kind, spec, sums, estimates, **changes)


def choice_result(level: Level, track: str, base: dict[str, F32]) -> MethodResult:
    label, title, kind, skill = level
    n_users = len(base["user"])
    utility = (base["user"] + skill + generator(0, track, label).normal(0, 0.35, n_users)).astype(np.float32)
    utility = {"oracle": base["oracle"], "population-best": base["population"]}.get(label, utility)
    columns = {
        "utility": utility,
        "win_rate_reference": np.clip(0.4 + utility / 6, 0, 1),
        "win_rate_best": np.clip(0.1 + utility / 10, 0, 1),
        "regret": base["oracle"] - utility,
        "oracle_utility": base["oracle"],
        "population_best_utility": base["population"],
        "reference_utility": base["user"],
    }
    counts = {"queries": n_users}
    if track == "generate" and kind == "method":
        counts |= {"generations": n_users, "empty": 1, "cut": 4, "prompt_tokens": 9000, "completion_tokens": 1800}
        counts |= {"examples": 3 * n_users, "dropped_examples": 2}
    seconds = {"total": 2.4 if track == "rank" else 73.0}
    return method_result(label, title, kind, {Condition(): Sums(columns)}, counts=counts, seconds=seconds)


def samples_of(level: Level, n_users: int, response: str | None = None) -> Any:
    """Even users like brief answers, odd users chatty ones; users 2 and 3 have the same prompt."""
    import pyarrow as pa

    rows = []
    for user in range(n_users):
        brief, stored, same = user % 2 == 0, level[2] != "method", user in (2, 3)
        messages = [] if stored else [{"role": "user", "content": QUERY}]
        rows.append(
            {
                "user": user,
                "prompt": 2 if same else user,
                "prompt_text": QUERY if same else f"What would you do with {user + 2} free evenings?",
                "response": response if response is not None else (BRIEF if brief else CHATTY),
                "finish_reason": "stored" if stored else ("length" if user == 3 else "stop"),
                "n_examples": 0 if level[0] == "zero-shot" else 3,
                "utility": level[3] + 0.1 * user,
                "best_utility": 1.9,
                "messages": messages,
                "history": [dict(zip(("prompt", "chosen", "rejected"), (p, a, b) if brief else (p, b, a), strict=True))
                            for p, a, b in CHOICES],
            }
        )  # fmt: skip
    return pa.Table.from_pylist(rows)


@pytest.fixture(scope="session")
def make_results() -> Callable[..., Results]:
    """Return a function `(track, n_users, **changes) -> Results` for the rank and the generate track."""

    def make(track: str = "rank", n_users: int = 200, *, response: str | None = None, **changes: Any) -> Results:
        rng = generator(0, "users", track)
        user = rng.normal(0, 0.5, n_users).astype(np.float32)
        base = {"user": user, "population": user + np.float32(0.6)}
        base["oracle"] = (base["population"] + rng.gamma(3, 0.35, n_users)).astype(np.float32)
        levels = RANK if track == "rank" else GENERATE
        generation = {"max_tokens": 96, "temperature": 0.0, "top_p": 1.0, "requests_per_chunk": 8}
        protocol = PROTOCOL | {"track": track} | ({"generation": generation} if track == "generate" else {})
        values: dict[str, Any] = {
            "protocol": protocol | {"limit": None if track == "rank" else n_users},
            "fingerprint": "1f7d0a5be2c94411" if track == "rank" else "c02e97d15a6b8f30",
            "track": track,
            "methods": tuple(choice_result(level, track, base) for level in levels),
            "metrics": CHOICE_METRICS,
            "main_metric": "utility",
            "conditions": (Condition(),),
            "directory": Path("somewhere") / "runs" / track,
            "manifest": {
                "source": {"name": "mini", "n_prompts": 600, "reward_models": [f"rm-{i}" for i in range(10)]},
                "backends": {"embedder": "minilm-l6-int8"} | ({"llm": "smol"} if track == "generate" else {}),
                "versions": [{"personalllm": "0.1.0", "numpy": "2.2.6", "python": "3.12.4"}],
            },
            "sources": {}
            if track == "rank"
            else {level[0]: (lambda level=level: samples_of(level, n_users, response)) for level in levels},
        }
        return Results(**(values | changes))

    return make


@pytest.fixture(scope="session")
def both(make_results: Callable[..., Results]) -> list[Results]:
    return [make_results("rank"), make_results("generate", 16)]


def conditions(shots: tuple[int, ...] = SHOTS) -> list[Condition]:
    true = [Condition(u, p, "true", k) for u in ("unseen", "seen") for p in ("unseen", "seen") for k in shots]
    return [*true, *(Condition("unseen", "unseen", kind, shots[-1]) for kind in ("flipped", "other-user"))]


def pair_result(row: Skill, n_users: int, shots: tuple[int, ...]) -> MethodResult:
    """A margin is the true one (a normal number above 0 on average), blurred the more the less skill there is."""
    label, title, kind, low, high, log_odds = row
    sums = {}
    for condition in conditions(shots):
        rng = generator(0, "predict", condition.users, condition.prompts, n_users)
        user = np.repeat(np.arange(n_users, dtype=np.int32), 12)
        noise, size, share = rng.normal(size=len(user)), np.abs(rng.normal(size=len(user))), rng.random(len(user))
        skill = low + (high - low) * math.log2(condition.shots + 1) / math.log2(65)
        skill = {"flipped": -skill, "other-user": low}.get(condition.history, skill)
        skill += 0.1 * (condition.users == "seen") * (high > 0)
        answers = PairAnswers(
            n_clusters=n_users,
            cluster=user,
            margin=(skill * size * (1.3 - share) + noise * (high > 0)).astype(np.float32),
            regret=np.abs(rng.normal(size=len(user))).astype(np.float32) / np.float32(1 + max(skill, 0)),
            tau=np.clip(rng.normal(skill / 4, 0.3, len(user)), -1, 1).astype(np.float32),
            share=share.astype(np.float32),
            longer=rng.choice(np.array([-1, 1], np.int8), len(user)),
            log_odds=log_odds,
        )
        group = (np.arange(n_users) % len(RMS)).astype(np.float32)
        sums[condition] = Sums(pair_sums(answers) | {"group": group}, groups=tuple(f"rm:{name}" for name in RMS))
    seconds = {"total": 1.5, "fit": 1.2, "adapt": 0.004 * n_users, "adapt_users": n_users} if kind == "method" else {}
    return method_result(label, title, kind, sums, log_odds=log_odds, seconds=seconds)


@pytest.fixture(scope="session")
def make_predicted() -> Callable[..., Results]:
    """Return a function `(n_users, rows, **changes) -> Results` for the predict track."""

    def make(
        n_users: int = 60, rows: tuple[Skill, ...] = SKILLS, *, shots: tuple[int, ...] = SHOTS, **changes: Any
    ) -> Results:
        settings = {"track": "predict", "prediction": {"shots": list(shots), "test_pairs": 20}}
        values: dict[str, Any] = {
            "protocol": PROTOCOL | settings,
            "fingerprint": "5a1d0a5be2c94411",
            "track": "predict",
            "methods": tuple(pair_result(row, n_users, shots) for row in rows),
            "metrics": PAIR_METRICS,
            "main_metric": "accuracy",
            "conditions": tuple(conditions(shots)),
            "manifest": {"source": {"name": "mini", "reward_models": list(RMS)}, "versions": [{"numpy": "2"}]},
        }
        return Results(**(values | changes))

    return make


@pytest.fixture(scope="session")
def predicted(make_predicted: Callable[..., Results]) -> Results:
    return make_predicted()
