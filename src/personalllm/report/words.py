"""The sentences of the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from personalllm.report.numbers import count, estimate, number
from personalllm.report.views import TrackView

if TYPE_CHECKING:
    from personalllm.evaluation import MethodResult

__all__ = ["LABELS", "TRACKS", "describe", "finding", "measured"]

TRACKS = {"rank": "Choosing among stored responses", "generate": "Writing new responses"}
"""Headings of the tracks."""

LABELS = {
    "metrics_version": "Version of the metrics",
    "preset": "Preset",
    "track": "Track",
    "benchmark": "Benchmark",
    "benchmark_fingerprint": "Fingerprint of its content",
    "split": "Prompts asked come from",
    "history_split": "Histories come from",
    "population.kind": "How users are drawn",
    "population.alpha": "Concentration of the weights",
    "population.n_users": "Users in the population",
    "population.seed": "Seed of the users",
    "pool.n_users": "Users in the pool",
    "pool.pairs_per_user": "Preference pairs of each pool user",
    "pool.seed": "Seed of the pool",
    "history.pairs": "Random pairs known of each user",
    "history.nearest": "Nearest pairs known of each user",
    "history.counterfactual": "Whose feedback the histories hold",
    "feedback.pairs": "How preference pairs arise",
    "feedback.ranks": "Ranks contrasted (if by ranks)",
    "feedback.temperature": "Noise of choices (temperature)",
    "feedback.flip": "Share of pairs flipped",
    "feedback.tie_margin": "Margin counted as a tie",
    "generation.max_tokens": "Most new tokens",
    "generation.temperature": "Sampling temperature (0 = greedy)",
    "generation.top_p": "Nucleus mass",
    "generation.requests_per_chunk": "Requests at once",
    "generation": "Generation",
    "prompts_per_user": "Prompts asked by each user",
    "limit": "Only the first users",
    "standardiser": "Scores standardised by",
    "reference_response_model": "Response model of the win rate",
    "users_per_shard": "Users ranked at once",
    "seed": "Seed of prompts, histories, sampling",
    "bootstrap_draws": "Bootstrap draws",
    "embedder": "Embedder",
    "llm": "Chat model",
    "rewards": "Reward models",
}
"""What the settings of a protocol mean, for the first column of its table."""


def measured(views: Sequence[TrackView]) -> tuple[str, str]:
    """Say in two sentences what was measured."""
    users = {view.track: view.n_users for view in views}
    amount = " and ".join(f"{count(n)} ({track} track)" for track, n in users.items())
    amount = count(views[0].n_users) if len(set(users.values())) == 1 else amount
    names = list(dict.fromkeys(view.results.benchmark_name for view in views))
    tracks = {view.track for view in views}
    tasks = {
        frozenset({"rank"}): "chose among the stored responses to new prompts",
        frozenset({"generate"}): "had a language model write a response to a new prompt",
    }
    both = "chose among the stored responses to new prompts (rank), or had a language model write a new one (generate)"
    first = (
        f"{amount} simulated users, each with weights of their own over the {_reward_models(views)}of the benchmark "
        f"{' and '.join(names)}, chose between pairs of responses to earlier prompts."
    )
    second = (
        f"Knowing only such choices, each method {tasks.get(frozenset(tracks), both)}, and was judged by the "
        "utility of the result for that very user."
    )
    return first, second


def _reward_models(views: Sequence[TrackView]) -> str:
    """Return how many reward models there are, if the runs say so and agree."""
    lists = [(view.results.manifest.get("benchmark") or {}).get("reward_models") for view in views]
    numbers = {len(names) for names in lists if names}
    return f"{numbers.pop()} reward models " if len(numbers) == 1 else "reward models "


def _verdict(row: MethodResult) -> str:
    gain = row.metrics["gain"]
    if gain.low > 0:
        return "more than the best policy that ignores who the user is"
    if gain.high < 0:
        return "less than the best policy that ignores who the user is"
    return "not distinguishable from the best policy that ignores who the user is"


def finding(view: TrackView) -> str:
    """Say which method did best, whether knowing the user helped, and how it compares."""
    ranked = [row for row in view.methods if "mean_utility" in row.metrics]
    if not ranked or not math.isfinite(ranked[0].metrics["mean_utility"].value):
        return "No method was evaluated."
    best = ranked[0]
    who = "The only method" if len(ranked) == 1 else f"Best of {len(ranked)} methods"
    text = f"{who}: {view.name(best)}, with a mean utility of {estimate(best.metrics['mean_utility'])}"
    if "gain" in best.metrics and math.isfinite(best.metrics["gain"].value):
        text += f" and a gain of {estimate(best.metrics['gain'])}: {_verdict(best)}"
    return f"{text}.{_lead(view, best)}"


def _lead(view: TrackView, best: MethodResult) -> str:
    """Say how the best method compares with the one that differences are taken from."""
    difference = best.versus_reference.get("mean_utility")
    if difference is None or best.id == view.results.versus or not math.isfinite(difference.value):
        return ""
    if difference.low > 0 or difference.high < 0:
        relation = "clearly above" if difference.low > 0 else "clearly below"
    else:
        relation = "not clearly different from"
    return f" It is {relation} {view.reference_method}: {estimate(difference, 'signed')} in mean utility."


def describe(view: TrackView, figure: str) -> dict[str, str]:
    """Return the title of a figure and a description that stands in for it."""
    lines = [
        f"{view.name(row)} {number(row.metrics['mean_utility'].value)}"
        for row in view.rows
        if "mean_utility" in row.metrics
    ]
    if figure == "leaderboard":
        return {
            "title": f"Mean utility and gain, {view.track} track",
            "description": "Dots with 95 % intervals; filled circles are methods, hollow diamonds are references. "
            f"Mean utility: {'; '.join(lines)}. The leaderboard table has all the numbers.",
        }
    return {
        "title": f"Utility of each user, {view.track} track",
        "description": "Boxes span the middle half of the users, lines the 5 to 95 % points, the bar is the median. "
        "The table below the figure has the numbers.",
    }
