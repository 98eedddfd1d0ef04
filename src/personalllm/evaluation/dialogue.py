"""Let a policy ask users, round by round, and its method learn from the answers; batched over users."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from personalllm.core.seeding import generator
from personalllm.core.types import F32, I8, I32, I64, U8
from personalllm.evaluation.calls import running
from personalllm.evaluation.sources.asking import Asked
from personalllm.methods.asking.policy import Offer, Policy
from personalllm.methods.parts.beliefs import Belief
from personalllm.methods.parts.features import Pairs

__all__ = ["Dialogue", "Known"]

Question = tuple[I64, U8, U8]


@dataclass(frozen=True, eq=False)
class Known:
    """What is known after some rounds.

    Attributes:
        t: Rounds so far.
        belief: What the method believes of the users.
        of_users: Name -> float32 (n_users,): `asked`, the questions so far; from the first round on `average_regret`
            and `weak_regret`, the regret so far of both responses that were shown and of the better one, and `changed`,
            whether the next question would be another one if the last answer were turned.
    """

    t: int
    belief: Belief
    of_users: dict[str, F32]


class Dialogue:
    """The rounds of some users under one policy.

    Args:
        asking: What the users are asked and answer.
        policy: Fitted.
        tastes: float32 (n_prompts, n_responses, n_tastes), the responses to `asking.prompts` as the method has them.
        users: Of the population.
        seed: Of what is random in the policy.
        label: Of the policy, in messages.

    Attributes:
        place: int64 (n_users, rounds): place in `asking.prompts` of the prompt that was asked about; -1 where none was.
        shown: uint8 (n_users, rounds, 2): the two columns that were shown.
        answer: int8 (n_users, rounds): 1 for the first, -1 for the second, 0 for neither.
        regret: float64 (n_users, rounds, 2): of both that were shown, and of the better one.
        margin: float32 (n_users, rounds, 2): expected utility of the first above that of the second, before the answer
            and after it.
    """

    def __init__(self, asking: Asked, policy: Policy, tastes: F32, users: slice, seed: int, label: str = "") -> None:
        self.asking, self.policy, self.tastes, self.users, self.seed = asking, policy, tastes, users, seed
        self.label = label or policy.id
        self.learner: Any = policy.posterior
        self.n, rounds, self.width = users.stop - users.start, asking.rounds, tastes.shape[1]
        self.place = np.full((self.n, rounds), -1, np.int64)
        self.shown = np.zeros((self.n, rounds, 2), np.uint8)
        self.answer: I8 = np.zeros((self.n, rounds), np.int8)
        self.regret = np.zeros((self.n, rounds, 2))
        self.margin = np.zeros((self.n, rounds, 2), np.float32)
        n_pairs = self.width * (self.width - 1) // 2
        self._open = np.ones((self.n, len(asking.prompts), n_pairs), np.bool_)
        self._prior: Belief = self.learner.belief(self._pairs(0, 1))
        self._remembers_all = policy.window is None and policy.discount == 1

    def known(self, checkpoints: tuple[int, ...]) -> Iterator[Known]:
        """Ask all rounds; yield what is known after each of the checkpoints."""
        belief = before = self.learner.belief(self._pairs(0, self.n))
        for t in range(self.asking.rounds + 1):
            offer = self._offer(t, belief)
            last = t == self.asking.rounds
            question = None if last and t not in checkpoints else self._choose(offer)
            if t in checkpoints:
                of_users = {"asked": (self.place[:, :t] >= 0).sum(axis=1).astype(np.float32)}
                if t and question:
                    both, weak = self.regret[:, :t].sum(axis=1).astype(np.float32).T
                    changed = self._changed(t, before, question)
                    of_users |= {"average_regret": both, "weak_regret": weak, "changed": changed}
                yield Known(t, belief, of_users)
            if question and not last:
                self._ask(t, offer, question)
                before, belief = belief, self._learned(t + 1, belief)
                apart = self.tastes[self.place[:, t]]
                row, (a, b) = np.arange(self.n), self.shown[:, t].T
                self.margin[:, t, 1] = ((apart[row, a] - apart[row, b]) * belief.mean).sum(axis=1)

    def _offer(self, t: int, belief: Belief) -> Offer:
        index, rng = self.asking.offered(self.users, t), generator(self.seed, "round", t)
        still_open = self._open[np.arange(self.n)[:, None], index]
        return Offer(belief, self._prior, self.tastes, index, still_open, rng)

    def _choose(self, offer: Offer) -> Question:
        with running(self.label, "value"):
            return self.policy.choose(offer)

    def _ask(self, t: int, offer: Offer, question: Question) -> None:
        """Show what was chosen; who is asked nothing gets the best response to the first prompt that was offered."""
        place, a, b = question
        row, nothing = np.arange(self.n), place < 0
        place = np.maximum(place, 0)
        best = offer.mean[:, 0].argmax(axis=1).astype(np.uint8)
        a, b = np.where(nothing, best, a), np.where(nothing, best, b)
        prompt = offer.index[row, place]
        users: I32 = np.arange(self.users.start, self.users.stop, dtype=np.int32)
        values = self.asking.utilities(users, self.asking.prompts[prompt], t).astype(np.float64)
        shown = np.stack([values[row, a], values[row, b]], axis=1)
        lost = values.max(axis=1)[:, None] - shown
        answer = self.asking.answers(self.users, t, shown[:, 0] - shown[:, 1])
        self.place[:, t] = np.where(nothing, -1, prompt)
        self.shown[:, t, 0], self.shown[:, t, 1] = a, b
        self.answer[:, t] = np.where(nothing, 0, answer)
        self.regret[:, t, 0], self.regret[:, t, 1] = lost.mean(axis=1), lost.min(axis=1)
        self.margin[:, t, 0] = offer.mean[row, place, a] - offer.mean[row, place, b]
        pair = offer.is_pair(a[:, None], b[:, None])[:, 0].argmax(axis=1)
        self._open[row[~nothing], prompt[~nothing], pair[~nothing]] = False  # no pair is asked twice

    def _pairs(self, t: int, n: int) -> Pairs:
        """Return the comparisons of the first n users in the first t rounds."""
        answer = self.answer[:n, :t]
        user, at = np.nonzero(answer)
        base = self.place[user, at] * self.width
        first, second = (base + self.shown[user, at, side] for side in (0, 1))
        won = answer[user, at] > 0
        sides = np.where(won, first, second), np.where(won, second, first)
        offsets = np.concatenate([[0], np.cumsum((answer != 0).sum(axis=1))]).astype(np.int64)
        prompt = self.asking.prompts[base // self.width]
        vectors = self.tastes.reshape(-1, self.tastes.shape[2])
        return Pairs(vectors, *sides, user.astype(np.int32), prompt, offsets)

    def _learned(self, t: int, before: Belief) -> Belief:
        """Return the belief after t rounds; that `before` the last answer saves work where all answers count alike."""
        pairs = self.policy.remembered(self._pairs(t, self.n))
        with running(self.label, "belief"):
            belief: Belief = self.learner.belief(pairs, before if self._remembers_all else None)
        return belief

    def _changed(self, t: int, before: Belief, question: Question) -> F32:
        """Return whether the question in round t would be another one if the last answer were turned, (n_users,)."""
        self.answer[:, t - 1] *= -1
        turned = self._choose(self._offer(t, self._learned(t, before)))
        self.answer[:, t - 1] *= -1
        other = np.any([now != then for now, then in zip(question, turned, strict=True)], axis=0)
        return np.asarray(other & ~((question[0] < 0) & (turned[0] < 0)), np.float32)
