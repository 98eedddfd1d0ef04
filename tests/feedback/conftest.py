import pytest

from personalllm.data import Benchmark, ScoreTable, Standardiser


@pytest.fixture(scope="session")
def bench():
    import numpy as np

    rng = np.random.default_rng(0)
    n, m = 60, 4
    return Benchmark.from_arrays(
        name="tiny",
        prompt_ids=[f"p{i}" for i in range(n)],
        prompts=[f"Prompt {i} ¿qué?" for i in range(n)],
        subsets=["s"] * n,
        splits=["train"] * 50 + ["test"] * 10,
        responses=[[f"Response {j} to {i}" for j in range(m)] for i in range(n)],
        response_models=[f"llm{j}" for j in range(m)],
        reward_models=("a", "b", "c"),
        scores=rng.standard_normal((n, m, 3)).astype(np.float32),
    )


@pytest.fixture(scope="session")
def scores(bench) -> ScoreTable:
    return bench.score_table(Standardiser.fit(bench))
