"""Score the texts of mini@v1 with a compact ensemble, and describe the result.

    python recipes/mini/score.py compact-v2 [--table FILE.parquet] [--card FILE.md] [--vectors FILE.safetensors]

Prompts and responses are those of mini@v1, so only scores and their provenance differ. The table of compact-v2 is the
package's `mini`. The card takes a few minutes, most of them for the reader of words; the vectors, which the package
ships so that nobody else has to wait for them, take five.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt

from personalllm.backends import embedder, reward_ensemble
from personalllm.backends.embedding import MiniLMEmbedder, write_vectors
from personalllm.backends.reward import shipped_metadata, top_agreement
from personalllm.backends.reward.metrics import length_correlations, lengths
from personalllm.backends.reward.reading import participation_ratio, read_by_vectors, read_by_words
from personalllm.build import Recipe, data_card
from personalllm.cli.build import diversity_figures
from personalllm.data import Benchmark, load, write_benchmark

RECIPE = Path(__file__).parent / "build.toml"
REMARK = (
    "*R^2* is the share of the variance within prompts that a ridge regression recovers on prompts left out, given "
    "the scores of the others. No method is given scores; from preferences far less can be read. *Vectors and "
    "measures*: the vector of the response (384 numbers of `minilm-l6-int8`), its cosine with the prompt's, and twenty "
    "measures of length, layout and wording. That is all that the built-in learners have of a text, and more. "
    "*Words*: TF-IDF of the words of the response. *Length* is the rank correlation of score and number of "
    "characters, mean over prompts."
)


def rescore(benchmark: Benchmark, ensemble: str) -> Benchmark:
    """Return the benchmark with the scores of a named ensemble."""
    rewards = reward_ensemble(ensemble)
    n, width = benchmark.n_prompts, benchmark.n_responses
    prompts = [benchmark.prompt(row) for row in range(n) for _ in range(width)]
    scores = rewards.score(prompts, benchmark.responses.to_pylist()).reshape(n, width, -1)
    recipe = Recipe.read(RECIPE).model_copy(update={"reward_ensemble": ensemble})
    provenance = benchmark.metadata["provenance"] | {"recipe": recipe.fingerprint, "texts_of": benchmark.fingerprint}
    about = {"reward_ensemble": ensemble, "reward_ensemble_identity": rewards.identity, "provenance": provenance}
    return dataclasses.replace(
        benchmark, scores=scores, reward_models=rewards.reward_models, metadata=benchmark.metadata | about
    )


def describe(benchmark: Benchmark) -> str:
    """Return the data card, with how far the scores can be read and how the reward models agree."""
    texts = np.array(benchmark.responses.to_pylist(), object).reshape(benchmark.n_prompts, -1).tolist()
    by_vectors = read_by_vectors(benchmark.prompts.to_pylist(), texts, benchmark.scores, embedder())
    by_words = read_by_words(texts, benchmark.scores)
    characters = np.stack([lengths(row) for row in texts])
    length = [length_correlations(benchmark.scores[..., k], characters)[1] for k in range(len(by_words))]
    columns = {
        "R^2, vectors and measures": [f"{value:.2f}" for value in by_vectors],
        "R^2, words": [f"{value:.2f}" for value in by_words],
        "length": [f"{value:+.2f}" for value in length],
    }
    figures = {
        "R^2 within prompts, ridge on vectors and measures": _most(by_vectors),
        "R^2 within prompts, ridge on word TF-IDF": _most(by_words),
        "participation ratio of the reward models": f"{participation_ratio(benchmark.scores):.2f}",
        **_agreement(benchmark),
        **diversity_figures(benchmark),
    }
    return data_card(benchmark, figures, columns, REMARK)


def _most(values: npt.NDArray[np.float64]) -> str:
    return f"{values.max():.2f} at most, {values.mean():.2f} in the mean"


def _agreement(benchmark: Benchmark) -> dict[str, str]:
    """Return how often pairs have the same top response: of models that follow one direction, and all other pairs."""
    cards = shipped_metadata(str(benchmark.metadata["reward_ensemble"]))["reward_models"]
    follows = np.array([cards[name].get("follows", False) for name in benchmark.reward_models])
    together = np.outer(follows, follows)
    pairs = np.triu(np.ones_like(together), 1)
    groups = {"pairs that follow the shared direction": pairs & together, "other pairs": pairs & ~together}
    lines = {}
    for split, rows in {"all": np.arange(benchmark.n_prompts), "test": benchmark.rows("test")}.items():
        agreement = top_agreement(benchmark.scores[rows])
        for words, chosen in groups.items():
            if chosen.any():
                values = agreement[chosen]
                lines[f"same top response, {split} prompts, {words}"] = f"{values.min():.2f} to {values.max():.2f}"
    return lines


def main() -> None:
    """Read the arguments, score, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("ensemble", choices=("compact-v1", "compact-v2"))
    parser.add_argument("--table", type=Path)
    parser.add_argument("--card", type=Path)
    parser.add_argument("--vectors", type=Path)
    arguments = parser.parse_args()
    if arguments.vectors:
        texts = [*load("mini@v1").prompts.to_pylist(), *load("mini@v1").responses.to_pylist()]
        model = MiniLMEmbedder()  # not the default embedder, which would return what the package ships
        write_vectors(arguments.vectors, model.identity, texts, model.embed(texts))
    if arguments.table:
        write_benchmark(rescore(load("mini@v1", cache=False), arguments.ensemble), arguments.table)
    if arguments.card:
        stored = load(f"mini@{arguments.ensemble.removeprefix('compact-')}", cache=False)
        arguments.card.write_text(describe(stored), encoding="utf-8")


if __name__ == "__main__":
    main()
