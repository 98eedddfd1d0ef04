"""Fix the pairs of each prompt that every user is asked about, so that users answer the same questions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from personalllm.core.errors import ParameterError
from personalllm.core.seeding import generator
from personalllm.core.types import F32, I32, U8
from personalllm.feedback.rules import FeedbackRule, minorities

if TYPE_CHECKING:
    from personalllm.data import ScoreTable

__all__ = ["FixedPairs"]

_PROMPT_BLOCK = 2_048


@dataclass(frozen=True, eq=False)
class FixedPairs:
    """The pairs of each prompt; a question is one of them, numbered `prompt * n_pairs + place`.

    Attributes:
        first: uint8 (n_prompts, n_pairs), a response of each pair.
        second: uint8 (n_prompts, n_pairs), another one.
        there: bool (n_prompts, n_pairs): whether the prompt has that many pairs.
    """

    first: U8
    second: U8
    there: npt.NDArray[np.bool_]

    @classmethod
    def draw(cls, scores: ScoreTable | F32, rule: FeedbackRule, seed: int) -> FixedPairs:
        """Draw the pairs of a rule that fixes `pairs_per_prompt` of them; they depend on the scores, not on users.

        Args:
            scores: Standardised scores (n_prompts, n_responses, n_reward_models).
            rule: `random`: any pairs; `contested`: those on which most reward models are in the minority, equal ones in
                random order; `disputed`: any on which not all of them agree, so that a prompt may have fewer, or none.
            seed: Seed of the draw.

        Raises:
            ParameterError: If the rule fixes no pairs, or more than the responses have.
        """
        values: F32 = scores if isinstance(scores, np.ndarray) else scores.values
        shown = rule.shown(values.shape[1])
        a, b = np.triu_indices(len(shown), k=1)
        if rule.pairs_per_prompt is None or rule.pairs_per_prompt > len(a):
            raise ParameterError("pairs_per_prompt", f"in [1, {len(a)}], the pairs of a prompt", rule.pairs_per_prompt)
        order = generator(seed, "fixed pairs").random((len(values), len(a)))
        there = np.ones(order.shape, np.bool_)
        if rule.pairs != "random":
            for start in range(0, len(values), _PROMPT_BLOCK):
                block = slice(start, start + _PROMPT_BLOCK)
                minority = minorities(values[block][:, shown]).T
                there[block] = minority > 0
                # a random number below 1 decides among equal minorities alone
                order[block] -= minority if rule.pairs == "contested" else there[block]
            if rule.pairs == "contested":
                there[:] = True
        places = np.argsort(order, axis=1, kind="stable")[:, : rule.pairs_per_prompt]
        first, second = (np.asarray(shown[side][places], np.uint8) for side in (a, b))
        return cls(first, second, np.take_along_axis(there, places, axis=1))

    def questions(self, prompts: I32) -> I32:
        """Return the questions that there are about prompts, int32, ascending if the prompts are."""
        width = self.there.shape[1]
        numbers = prompts[:, None] * width + np.arange(width)
        return np.asarray(numbers[self.there[prompts]], np.int32)

    def of(self, questions: I32) -> tuple[I32, U8, U8]:
        """Return prompt and the two responses of questions, each of their shape."""
        prompt, place = questions // self.there.shape[1], questions % self.there.shape[1]
        return prompt.astype(np.int32), self.first[prompt, place], self.second[prompt, place]
