"""Fit the heads of compact-v2: six around a shared direction, four of their own, on words and crossed words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from personalllm.backends.reward import Pairs, WordFeatures, WordRewards
from personalllm.backends.reward.metrics import accuracy, lengths, rank_correlation
from personalllm.backends.reward.words import OTHER_CLASS, crossed, prompt_class, tokens
from personalllm.core.types import F64, JSON


def fit_features(pairs: Sequence[Pairs], sizes: Mapping[str, int]) -> WordFeatures:
    """Choose the words and crossed features that most fitted texts have, and count how many."""
    texts = dict.fromkeys(
        (prompt, text)
        for part in pairs
        for side in (part.chosen, part.rejected)
        for prompt, text in zip(part.prompts, side, strict=True)
    )
    first = Counter(prompt_class(prompt) for prompt in dict.fromkeys(prompt for prompt, _ in texts))
    classes = {kind for kind, _ in first.most_common() if kind.isalpha()}
    classes = set(sorted(classes, key=lambda kind: (-first[kind], kind))[: sizes["classes"]])
    with_word, with_cross = Counter[str](), Counter[str]()
    asked = {prompt: frozenset(tokens(prompt)) for prompt in dict.fromkeys(prompt for prompt, _ in texts)}
    for prompt, text in texts:
        counts, kind = Counter(tokens(text)), prompt_class(prompt)
        with_word.update(counts.keys())
        crosses = crossed(kind if kind in classes else OTHER_CLASS, asked[prompt], counts)
        with_cross.update(name for name, _ in crosses)
    chosen = [
        _commonest(found, sizes[key], sizes["texts"]) for found, key in ((with_word, "words"), (with_cross, "crosses"))
    ]
    having = np.array([with_word[name] for name in chosen[0]] + [with_cross[name] for name in chosen[1]])
    idf = np.log((1 + len(texts)) / (1 + having)) + 1
    return WordFeatures(tuple(chosen[0]), tuple(chosen[1]), idf.astype(np.float16))


def _commonest(found: Mapping[str, int], size: int, at_least: int) -> list[str]:
    """Return the names that most texts have, those of equal counts by name, so that a rebuild gives the same list."""
    return sorted((name for name, n in found.items() if n >= at_least), key=lambda name: (-found[name], name))[:size]


def fit(differences: Any, penalty: float, row_weights: F64, offset: F64 | float = 0.0) -> F64:
    """Return w that minimises sum_i weight_i log(1 + exp(-(x_i . w + offset_i))) + penalty / 2 |w|^2."""
    from scipy.optimize import minimize

    def loss(w: F64) -> tuple[float, F64]:
        margins = differences @ w + offset
        lost = row_weights * np.exp(-np.logaddexp(0.0, margins))
        value = row_weights @ np.logaddexp(0.0, -margins) + 0.5 * penalty * (w @ w)
        return float(value), penalty * w - differences.T @ lost

    options = {"maxiter": 1000, "ftol": 1e-11, "gtol": 1e-7}
    return np.asarray(minimize(loss, np.zeros(differences.shape[1]), jac=True, method="L-BFGS-B", options=options).x)


def fit_heads(models: JSON, pairs: Mapping[str, Pairs], features: WordFeatures, penalty: float) -> WordRewards:
    """Fit one head for each reward model; `pairs` are those to fit on.

    The shared direction w0 is fitted on all sources of the models that follow it, equal weight a source. Such a head is
    w0 + v with a penalty on v; another is its own unit direction plus `shared` times that of w0.
    """
    from scipy.sparse import vstack

    rows = {
        name: features.rows(part.prompts, part.chosen) - features.rows(part.prompts, part.rejected)
        for name, part in pairs.items()
    }
    equal = {name: np.full(part.shape[0], 1.0 / part.shape[0]) for name, part in rows.items()}
    following = [name for name, model in models.items() if model["follows"]]
    row_weights = np.concatenate([equal[name] for name in following]) / len(following)
    shared = fit(vstack([rows[name] for name in following]).tocsr(), penalty, row_weights)
    heads = []
    for name, model in sorted(models.items()):
        if model["follows"]:
            heads.append(shared + fit(rows[name], model["penalty"], equal[name], rows[name] @ shared))
        else:
            own = fit(rows[name], model["penalty"], equal[name])
            heads.append(own / np.linalg.norm(own) + model["shared"] * shared / np.linalg.norm(shared))
    # Scaled before rounding to float16, whose range is small; the caller scales them to alpaca8.
    unit = [head / np.abs(head).max() for head in heads]
    return WordRewards(tuple(sorted(models)), features, np.array(unit, np.float16), np.zeros(len(unit), np.float32))


def report(rewards: WordRewards, name: str, fitted: Pairs, tested: Pairs) -> JSON:
    """Return what a head was fitted on and how it does on held-out pairs, as `TrainingReport.spec` does."""
    column = rewards.reward_models.index(name)
    chosen, rejected = (rewards.score(tested.prompts, side)[:, column] for side in (tested.chosen, tested.rejected))
    texts = [*tested.chosen, *tested.rejected]
    distinct = _first_of_each(zip([*tested.prompts] * 2, texts, strict=True))
    longer = np.sign(lengths(tested.chosen) - lengths(tested.rejected))
    groups = tested.group_index()
    scores = np.concatenate([chosen, rejected])[distinct]
    return {
        "n_fitted": len(fitted),
        "n_fitted_groups": len(set(fitted.groups)),
        "n_held_out": len(tested),
        "n_held_out_groups": len(set(tested.groups)),
        "held_out": accuracy(chosen - rejected, groups).spec(),
        "always_longer": accuracy(longer, groups).spec(),
        "chance": 0.5,
        "length_correlation": round(rank_correlation(scores, lengths(texts)[distinct]), 4),
        "uses_length": False,
    }


def _first_of_each(rows: Any) -> npt.NDArray[np.int64]:
    first: dict[Any, int] = {}
    for i, row in enumerate(rows):
        first.setdefault(row, i)
    return np.array(sorted(first.values()))
