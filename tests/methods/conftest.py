import re
import sys
from pathlib import Path

import numpy as np
import pytest

from personalllm.core.seeding import generator
from personalllm.core.types import Corpus, Histories, Queries
from personalllm.methods.parts.prompting import Example

sys.path.insert(0, str(Path(__file__).parent))

N_PROMPTS, N_RESPONSES = 30, 4


@pytest.fixture
def corpus() -> Corpus:
    """Distinct texts of a few words."""
    rng = generator("tests", "methods")
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


LINE_END = "(\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029])"
LABELS = {"Prompt:": "prompt", "Response liked:": "liked", "Response disliked:": "disliked"}


@pytest.fixture(scope="session")
def shown():
    """Return a reader of a conversation's examples, most relevant first, that knows the layout but not the texts."""

    def read(conversation):
        turns = conversation.messages
        if len(turns) > 1:
            pairs = zip(turns[1:-1:2], turns[2:-1:2], strict=True)
            return [Example(asked.content, answer.content) for asked, answer in pairs][::-1]
        found, lines = [], turns[0].content.split("\n")
        for line in lines[1:] if "Prompt:" in lines else []:
            if line == "Prompt:":
                found.append({})
            if line in LABELS:
                found[-1][LABELS[line]] = part = []
            elif line.startswith("  "):
                part.append(line)
            elif line:
                break
        text = lambda part: re.sub(LINE_END + "  ", r"\1", "\n".join(part)[2:])  # noqa: E731
        return [Example(**{name: text(part) for name, part in example.items()}) for example in found][::-1]

    return read
