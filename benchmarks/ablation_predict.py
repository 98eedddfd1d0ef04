"""What the parts of `calibrated-bayes` are worth: `python benchmarks/ablation_predict.py [DATA] [SEED] [POOL_USERS]`.

The whole method, without each of its parts, with fewer and more features, and `hierarchical-bt`, on unseen users and
unseen prompts, with 95 % intervals of each metric and the paired difference of log-loss from the whole method.
"""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

from personalllm import Protocol, load
from personalllm.backends.embedding import default_embedder
from personalllm.evaluation import Condition, evaluate
from personalllm.methods import get_method

VARIANTS = {
    "the whole": {},
    "without measures of the text": {"text_measures": False},
    "without a learned prior": {"learned_prior": False},
    "without calibration": {"calibrated": False},
    "16 components": {"n_features": 16},
    "128 components": {"n_features": 128},
}
SHOTS = (0, 4, 16, 64)
METRICS = ("accuracy", "log_loss", "ece", "regret")


def main(name: str = "mini@v1", seed: int = 0, pool_users: int = 1_000) -> None:
    benchmark = load(name)
    prediction = {"shots": SHOTS, "users": ("unseen",), "prompts": ("unseen",), "counterfactuals": ()}
    protocol = Protocol.for_benchmark(
        benchmark, track="predict", seed=seed, n_users=300, pool_users=pool_users, prediction=prediction
    )
    variants = [get_method("calibrated-bayes", **params) for params in VARIANTS.values()]
    methods = [*variants, get_method("hierarchical-bt")]
    results = evaluate(methods, benchmark, protocol=protocol, embedder=default_embedder())
    evaluated = [result.label for result in results.methods if result.kind == "method"]
    labels = dict(zip(evaluated, [*VARIANTS, "hierarchical-bt"], strict=True))
    console = Console(width=150)
    for shots in SHOTS:
        cell = Condition(shots=shots)
        table = Table(title=f"{name}, {shots} comparisons, seed {seed}, {pool_users:,} users in the pool")
        for column in ("variant", *METRICS, "log-loss above the whole", "p (Holm)"):
            table.add_column(column)
        against = results.comparisons("log_loss", cell, versus=evaluated[0], among=list(labels))
        differences = {difference.b: difference for difference in against}
        for learner, label in labels.items():
            numbers = [results.estimate(learner, metric, cell) for metric in METRICS]
            row = [f"{at.value:.3f} [{at.low:.3f}, {at.high:.3f}]" for at in numbers]
            if learner in differences:
                at = differences[learner]
                row += [f"{-at.difference.value:+.3f} [{-at.difference.high:+.3f}, {-at.difference.low:+.3f}]"]
                row += [f"{at.p_holm:.2g}"]
            table.add_row(label, *row)
        console.print(table)


if __name__ == "__main__":
    given = sys.argv[1:]
    main(*given[:1], *(int(value) for value in given[1:3]))
