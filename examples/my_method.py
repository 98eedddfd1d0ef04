"""A complete method of your own: the latest choices say most about a user.

Run it from this folder: personalllm evaluate my_method:MyMethod --track rank --data mini
"""

from dataclasses import dataclass

import numpy as np

from personalllm.methods import Method


@dataclass
class MyMethod(Method):
    """Embedding ranker whose user vector halves the weight of an interaction every `half_life` interactions."""

    id = "my-method"
    title = "Recent taste"
    needs = frozenset({"embedder"})

    half_life: float = 10.0

    def adapt(self, histories):
        texts, n = histories.corpus.responses, len(histories)
        sides = (histories.chosen, histories.rejected)
        shown = [texts[histories.prompt[i]][side[i]] for side in sides for i in range(n)]
        vectors = self.embedder.embed(shown)
        age = histories.offsets[histories.user + 1] - 1 - np.arange(n)
        weight = 0.5 ** (age / self.half_life)
        self.taste_ = np.zeros((histories.n_users, self.embedder.dim), dtype=np.float32)
        np.add.at(self.taste_, histories.user, weight[:, None] * (vectors[:n] - vectors[n:]))
        return self

    def utilities(self, queries):
        prompts, index = np.unique(queries.prompt, return_inverse=True)
        vectors = self.embedder.embed([text for p in prompts for text in queries.corpus.responses[p]])
        scores = (self.taste_ @ vectors.T).reshape(len(self.taste_), len(prompts), queries.corpus.n_responses)
        return scores[queries.user, index]
