"""The inputs of the golden runs: texts, scores, preferences and stand-ins for the models.

Nothing here imports the package, and every number is made of integers and SHA-256, so the inputs stay the same on any
processor and whatever happens to the package.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence

import numpy as np

N_TRAIN, N_TEST, N_RESPONSES = 24, 8, 5
RESPONSE_MODELS = ("alpha-1", "alpha-2", "beta-1", "beta-2", "gamma-1")
REWARD_MODELS = ("characters", "distinct", "few_commas", "on_topic")

_WORDS = (
    *("river,", "stone", "light", "cloud,", "garden", "music", "letter", "winter", "bread", "window,", "story"),
    *("colour", "green", "quiet,", "long", "short", "friend", "market,", "ocean", "paper", "dream", "forest,"),
)
_DIM = 32


def whole(upper: int, *key: object) -> int:
    """Return an integer in [0, upper) that belongs to a key."""
    text = "/".join(str(part) for part in key)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % upper


def _text(least: int, most: int, *key: object) -> str:
    n = least + whole(most - least, *key, "length")
    return " ".join(_WORDS[whole(len(_WORDS), *key, i)] for i in range(n))


def benchmark_values() -> dict[str, object]:
    """Return what a benchmark is made of: 32 prompts with 5 responses, scored by 4 surface measures."""
    n = N_TRAIN + N_TEST
    prompts = [f"Tell me about {_text(3, 7, 'prompt', i)} ({i})?" for i in range(n)]
    responses = [[f"{_text(4, 30, 'response', i, j)} {i}.{j}" for j in range(N_RESPONSES)] for i in range(n)]
    return {
        "name": "golden",
        "prompt_ids": [f"p{i:03d}" for i in range(n)],
        "prompts": prompts,
        "subsets": [("even", "odd")[i % 2] for i in range(n)],
        "splits": ["train"] * N_TRAIN + ["test"] * N_TEST,
        "responses": responses,
        "response_models": list(RESPONSE_MODELS),
        "reward_models": REWARD_MODELS,
        "scores": np.stack([surface_scores([p] * N_RESPONSES, row) for p, row in zip(prompts, responses, strict=True)]),
        "metadata": {"made": "by tests/golden"},
    }


def surface_scores(prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
    """Return float32 (n, 4): characters, distinct words, minus commas, words shared with the prompt."""
    rows = [
        (
            len(response),
            len(set(response.split())),
            -response.count(","),
            len({*prompt.lower().split()} & {*response.lower().split()}),
        )
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    return np.array(rows, dtype=np.float32).reshape(len(rows), len(REWARD_MODELS))


def embedding(text: str) -> np.ndarray:
    """Return float32 (32,) of unit length: a sum of signs for each word."""
    total = [0] * _DIM
    for word in text.lower().split() or [""]:
        bits = int.from_bytes(hashlib.sha256(word.encode("utf-8", "surrogatepass")).digest()[:4], "big")
        total = [value + (1 if bits >> i & 1 else -1) for i, value in enumerate(total)]
    length = math.sqrt(sum(value * value for value in total)) or 1.0
    return np.array([value / length for value in total], dtype=np.float32)


def reply(texts: Sequence[str], temperature: float, seed: int, max_tokens: int) -> tuple[str, bool]:
    """Return a scripted reply and whether it was cut: words of the messages; the seed counts at temperature > 0."""
    words = " ".join(texts).split() or ["nothing"]
    key = (*texts, temperature, seed if temperature > 0 else "greedy")
    wanted = 4 + whole(13, *key)
    n = min(wanted, max_tokens)
    return " ".join(words[whole(len(words), *key, i)] for i in range(n)), n < wanted


def people_rows(n_users: int, n_prompts: int) -> Iterator[tuple[str, str, str, str]]:
    """Yield made-up comparisons (user, prompt, chosen, rejected): users like length or brevity, with some noise."""
    for user in range(n_users):
        for prompt in range(n_prompts):
            if whole(10, "skips", user, prompt) == 0:
                continue
            a, b = _text(3, 8, "a", prompt), _text(8, 16, "b", prompt)
            likes_long = (user % 3 != 0) != (whole(5, "noise", user, prompt) == 0)
            chosen, rejected = (b, a) if likes_long else (a, b)
            yield f"u{user:02d}", f"prompt {prompt} {_text(2, 4, 'topic', prompt)}", chosen, rejected
