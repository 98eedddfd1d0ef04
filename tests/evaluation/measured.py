"""Made-up answers and sums that the tests of metrics, estimates, differences and results share."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from personalllm.core.types import I32
from personalllm.evaluation.contract import Sums
from personalllm.evaluation.measures import (
    PairAnswers,
    choice_columns,
    crossed,
    pair_columns,
    pair_strata,
    pair_sums,
    pairing_digest,
)

GROUPS = ("rm:a", "rm:b", "rm:c")
N_USERS = 37


def answers_of(seed: int = 0, n_users: int = N_USERS, n: int = 900, **changes: Any) -> PairAnswers:
    """Pairs of users who have between none and many, with ties, in no order."""
    rng = np.random.default_rng(seed)
    cluster = rng.integers(0, n_users - 1, n).astype(np.int32)
    margin = (rng.normal(0.4, 1.5, n) * (rng.random(n) > 0.1)).astype(np.float32)
    answers = PairAnswers(
        n_clusters=n_users,
        cluster=cluster,
        margin=margin,
        regret=rng.exponential(1.0, n).astype(np.float32),
        tau=rng.uniform(-1, 1, n).astype(np.float32),
        share=rng.random(n).astype(np.float32),
        longer=rng.integers(-1, 2, n).astype(np.int8),
    )
    return dataclasses.replace(answers, **changes)


def groups_of(n_users: int = N_USERS) -> I32:
    """Return the group of each user; the last one has only three users, too few for `minority`."""
    group = np.arange(n_users, dtype=np.int32) % 2
    group[[1, 5, 9]] = 2
    return group


def sums_of(answers: PairAnswers, group: I32 | None = None, groups: tuple[str, ...] = GROUPS, **more: Any) -> Sums:
    """Return the sums of answers; users without a group if there are none."""
    columns = pair_sums(answers)
    if group is not None:
        columns["group"] = group.astype(np.float32)
    fields: dict[str, Any] = {"axis": "users", "pairing": pairing_digest(answers.cluster)} | more
    groups = () if group is None else groups
    members = {name: group[answers.cluster] == index for index, name in enumerate(groups) if group is not None}
    prompt = np.random.default_rng(7).integers(0, 25, len(answers.margin)).astype(np.int32)
    prompts, cells = crossed(answers.cluster, prompt, pair_columns(answers), members, pair_strata(answers))
    return Sums(columns, groups=groups, prompts=prompts, cells=cells, **fields)


def choices_of(n_users: int, n_queries: int = 3, seed: int = 0, **changes: Any) -> Sums:
    """Return the sums of random choices among stored responses."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n_users, n_queries, 4)).astype(np.float32)
    parts = {
        "utility": values[..., 0],
        "best": values.max(axis=2),
        "population_best": values[..., 1],
        "reference": values[..., 2],
    } | changes
    utility = parts.pop("utility")
    columns = choice_columns(utility, **parts)
    means = {name: column.mean(axis=1).astype(np.float32) for name, column in columns.items()}
    user, prompt = (index.ravel().astype(np.int32) for index in np.indices(utility.shape))
    prompts, cells = crossed(user, prompt, {name: column.ravel() for name, column in columns.items()})
    return Sums(means, pairing=pairing_digest(*parts.values()), prompts=prompts, cells=cells)
