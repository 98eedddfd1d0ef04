"""Real tastes: what one person's ratings say about that person, on Jester (skipped without the data)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from personalllm.core.protocols import TextEmbedder
from personalllm.core.types import Histories
from personalllm.data import Ratings
from personalllm.evaluation import Protocol
from personalllm.evaluation.sources.rated import Rated
from personalllm.methods import get_method


@pytest.mark.slow
def test_forty_ratings_are_worth_more_than_popularity_and_another_persons_less(
    shared_data: Path, embedder: TextEmbedder
) -> None:
    folder = shared_data / "jester"
    lines = (folder / "jokes.jsonl").read_text(encoding="utf-8").splitlines()
    texts = {row["joke"]: row["text"] for row in map(json.loads, lines)}
    columns = (pq.read_table(folder / "ratings.parquet")[name].to_pylist() for name in ("user", "joke", "rating"))
    ratings = Ratings.collect(((u, "", texts[j], value) for u, j, value in zip(*columns, strict=True)), name="Jester")
    full = ratings.of_users(ratings.counts == ratings.n_items)
    assert full.n_users == 1473
    source = Rated.of(full, Protocol.for_data(full, track="rank", user_folds=2))
    fold = source.folds[0]
    method = get_method("joint-gaussian").bind(embedder=embedder).fit(source.pool(fold))
    users, prompts = source.choices(fold)["seen"]
    own, queries = source.utilities(users, prompts), source.queries_of(fold, users, prompts)
    a, b = np.triu_indices(own.shape[1], 1)
    decided = own[:, a] != own[:, b]

    def accuracy(preference: np.ndarray) -> float:
        right = (preference[:, a] > preference[:, b]) == (own[:, a] > own[:, b])
        return float(right[decided].mean())

    def after(history: Histories) -> float:
        return accuracy(method.adapt(history).utilities(queries))

    popular = accuracy(source.popularity(fold)[prompts])
    # eight splits gave 4.1 points (standard error .2), and -2.4 with another person's ratings
    assert after(source.history(fold, 40)) > popular + 0.03
    assert after(source.history(fold, 40, "other-user")) < popular
