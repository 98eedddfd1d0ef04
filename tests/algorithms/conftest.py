import numpy as np
import pytest

from personalllm.seeding import generator
from personalllm.types import Corpus, Histories, Queries

N_PROMPTS, N_RESPONSES = 30, 4


@pytest.fixture
def corpus() -> Corpus:
    """Distinct texts of a few words."""
    rng = generator("tests", "algorithms")
    words = [f"w{i}" for i in range(40)]
    text = lambda n: " ".join(rng.choice(words, n))  # noqa: E731
    return Corpus(
        [f"{text(4)} p{i}" for i in range(N_PROMPTS)],
        [[f"{text(6)} r{i}-{j}" for j in range(N_RESPONSES)] for i in range(N_PROMPTS)],
    )


@pytest.fixture
def make_histories(corpus):
    """Return random histories with the given numbers of interactions."""

    def make(counts, key="h", n_train=24):
        rng = generator("tests", key)
        n = sum(counts)
        user = np.repeat(np.arange(len(counts)), counts)
        prompt = np.concatenate([rng.permutation(n_train)[:c] for c in counts]) if n else np.empty(0)
        chosen = rng.integers(0, N_RESPONSES, n)
        rejected = (chosen + rng.integers(1, N_RESPONSES, n)) % N_RESPONSES
        return Histories(corpus, len(counts), user, prompt, chosen, rejected)

    return make


@pytest.fixture
def make_queries(corpus):
    def make(user, prompt, n_users):
        return Queries(corpus, n_users, np.asarray(user), np.asarray(prompt))

    return make
