"""Results as a run would leave them, made up from a seed; nothing is evaluated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from personalllm.core.seeding import generator
from personalllm.core.types import F32, Message
from personalllm.evaluation.results import Estimate, MethodResult, Results, Sample

PROTOCOL: dict[str, Any] = {
    "metrics_version": 1,
    "track": "rank",
    "benchmark": "mini",
    "benchmark_fingerprint": "9f2c" * 16,
    "split": "test",
    "history_split": "train",
    "population": {"kind": "dirichlet", "alpha": 0.05, "n_users": 1000, "seed": 0},
    "pool": {"n_users": 10000, "pairs_per_user": 50, "seed": 0},
    "history": {"pairs": 5, "nearest": 5},
    "feedback": {"pairs": "best-vs-worst", "ranks": [0, -1], "temperature": 0.0, "flip": 0.0, "tie_margin": 0.0},
    "generation": None,
    "prompts_per_user": None,
    "limit": None,
    "standardiser": "train",
    "reference_response_model": "qwen2.5-0.5b-plain",
    "users_per_shard": 200,
    "seed": 0,
    "bootstrap_draws": 2000,
    "embedder": "minilm-l6-int8 sha256:5b2d8e7fb1aa2c4f onnxruntime 1.22",
    "llm": None,
    "rewards": None,
}
RANK = (
    ("embedding-ranker", "Embedding ranker", "method", 0.66),
    ("longest", "Longest response", "method", 0.31),
    ("random", "Random response", "method", -0.01),
    ("oracle", "User's best stored response", "reference", 1.62),
    ("best-single-rm", "Best single reward model", "reference", 0.74),
    ("population-best", "Best response for the population (not personalised)", "reference", 0.58),
    ("worst", "User's worst stored response", "reference", -2.4),
)
GENERATE = (
    ("worst", "User's worst stored response", "reference", -2.4),
    ("zero-shot", "Zero-shot", "method", -0.35),
    ("icl[n_shots=3]", "In-context learning", "method", -0.16),
    ("icl[n_shots=1]", "In-context learning", "method", -0.28),
    ("meta-icl", "Meta-learning in-context learning, winning minus losing", "method", -0.08),
    ("oracle", "User's best stored response", "reference", 1.71),
    ("population-best", "Best response for the population (not personalised)", "reference", 0.61),
)
BRIEF = "Boil it twice as long as you think, then rinse it cold. Done."
CHATTY = (
    "Great question! There are several things to keep in mind when you cook rice for a crowd:\n\n"
    "1. Rinse the rice until the water runs clear, because loose starch makes it sticky.\n"
    "2. Use a wide pot, so that the weight of the upper grains does not crush the lower ones.\n"
    "3. Keep the lid on! Steam does half of the work, and every look costs you two minutes.\n\n"
    "Would you like a table of amounts for ten, twenty and forty people?"
)
ASKED = "How do I cook rice for forty people without it going to mush?"
HOSTILE = "<script>alert('x')</script> & <img src=https://evil.example/x.png onerror=alert(1)>"
KNOWN = (
    ("What should I plant in a shady corner?", "Ferns, hostas, and moss. Water weekly.", CHATTY),
    ("Explain why the sky is blue.", "Blue light scatters more in air than red light does.", CHATTY),
    ("Give me a plan for a rainy Sunday.", "Soup, a long book, one phone call.", CHATTY),
    ("Recommend a first instrument for a child.", "A ukulele: small, cheap, and hard to hate.", CHATTY),
)


def estimate(values: F32) -> Estimate:
    mean, half = float(np.mean(values)), 1.96 * float(np.std(values)) / np.sqrt(len(values))
    return Estimate(mean, mean - half, mean + half)


def row(spec: tuple[str, str, str, float], track: str, n_users: int, base: dict[str, F32]) -> MethodResult:
    identifier, title, kind, level = spec
    rng = generator(0, track, identifier)
    utility = (base["user"] + level + rng.normal(0, 0.35, n_users)).astype(np.float32)
    utility = {"oracle": base["oracle"], "population-best": base["population"]}.get(identifier, utility)
    per_user = {
        "mean_utility": utility,
        "win_rate_reference": np.clip(0.4 + utility / 6, 0, 1),
        "win_rate_best": np.clip(0.1 + utility / 10, 0, 1),
        "regret": base["oracle"] - utility,
        "oracle_utility": base["oracle"],
        "population_best_utility": base["population"],
        "reference_utility": base["user"],
    }
    span = float((base["oracle"] - base["population"]).mean())
    metrics = {
        key: estimate(per_user[key]) for key in ("mean_utility", "win_rate_reference", "win_rate_best", "regret")
    }
    metrics["gain"] = estimate((utility - base["population"]) / span)
    other = base["versus"]
    slopes = {"mean_utility": 1.0, "gain": 1 / span, "win_rate_reference": 1 / 6, "win_rate_best": 0.1, "regret": -1.0}
    versus = {key: estimate(slope * (utility - other)) for key, slope in slopes.items()}
    counts = {}
    if track == "generate" and kind == "method":
        counts = {"generations": n_users, "empty": 1, "cut": 4, "prompt_tokens": 9000, "completion_tokens": 1800}
        counts |= {"examples": 3 * n_users, "dropped_examples": 2}
    return MethodResult(
        id=identifier,
        title=title,
        spec={"id": identifier.split("[")[0], "params": {}},
        track=track,  # type: ignore[arg-type]
        kind=kind,  # type: ignore[arg-type]
        n_users=n_users,
        n_queries=n_users,
        seconds=0.0 if kind == "reference" else (2.4 if track == "rank" else 73.0),
        metrics=metrics,
        versus_reference=versus,
        per_user=per_user,
        counts=counts,
    )


def samples_of(spec: tuple[str, str, str, float], n_users: int, response: str | None = None) -> list[Sample]:
    """Even users like brief answers, odd users chatty ones; users 2 and 3 ask the same prompt."""
    made = []
    for user in range(n_users):
        likes_brief = user % 2 == 0
        history = tuple((p, a, b) if likes_brief else (p, b, a) for p, a, b in KNOWN)
        stored = spec[2] == "reference"
        text = response if response is not None else (BRIEF if likes_brief else CHATTY)
        same = user in (2, 3)
        made.append(
            Sample(
                user=user,
                prompt_id="rice" if same else f"prompt-{user}",
                prompt=ASKED if same else f"What would you do with {user + 2} free evenings?",
                response=text,
                finish_reason="stored" if stored else ("length" if user == 3 else "stop"),
                n_examples=0 if spec[0] == "zero-shot" else 3,
                utility=spec[3] + 0.1 * user,
                best_utility=1.9,
                reference_utility=0.2,
                messages=() if stored else (Message("system", "Be helpful."), Message("user", ASKED)),
                history=history,
            )
        )
    return made


@pytest.fixture(scope="session")
def make_results() -> Callable[..., Results]:
    """Return a function `(track, n_users, **changes) -> Results`."""

    def make(track: str = "rank", n_users: int = 1000, *, response: str | None = None, **changes: Any) -> Results:
        rng = generator(0, "users", track)
        user = rng.normal(0, 0.5, n_users).astype(np.float32)
        base = {"user": user, "population": user + np.float32(0.6)}
        base["oracle"] = (base["population"] + rng.gamma(3, 0.35, n_users)).astype(np.float32)
        base["versus"] = row(("random", "", "method", -0.01), track, n_users, base | {"versus": user}).per_user[
            "mean_utility"
        ]
        specs = RANK if track == "rank" else GENERATE
        rows = tuple(row(spec, track, n_users, base) for spec in specs)
        sources = {} if track == "rank" else {s[0]: (lambda s=s: samples_of(s, n_users, response)) for s in specs}
        generation = {"max_tokens": 96, "temperature": 0.0, "top_p": 1.0, "requests_per_chunk": 8}
        protocol = PROTOCOL | {"track": track, "generation": generation if track == "generate" else None}
        values: dict[str, Any] = {
            "protocol": protocol | {"limit": None if track == "rank" else n_users},
            "fingerprint": "1f7d0a5be2c94411" if track == "rank" else "c02e97d15a6b8f30",
            "benchmark_name": "mini",
            "methods": rows,
            "directory": Path("somewhere") / "runs" / track,
            "versus": "random" if track == "rank" else "zero-shot",
            "manifest": {
                "protocol": protocol,
                "benchmark": {"name": "mini", "n_prompts": 600, "reward_models": [f"rm-{i}" for i in range(10)]},
                "backends": {"embedder": "minilm-l6-int8"} | ({"llm": "smol"} if track == "generate" else {}),
                "versions": [{"personalllm": "0.1.0", "numpy": "2.2.6", "python": "3.12.4"}],
            },
            "sources": sources,
        }
        return Results(**(values | changes))

    return make


@pytest.fixture(scope="session")
def both(make_results: Callable[..., Results]) -> list[Results]:
    return [make_results("rank"), make_results("generate", 16)]
