"""The contract of a reward ensemble, as checks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from personalllm.core.errors import PersonalLLMError
from personalllm.core.protocols import RewardEnsemble
from personalllm.core.types import F32
from personalllm.testing._backends import COPY, IDENTITY, PLAIN, TEXTS, WHOLE, check_array, check_name, pickled, require
from personalllm.testing._checks import Check, Clauses, require_all
from personalllm.testing._scenes import ODD_TEXTS

__all__ = ["check_reward_ensemble", "reward_ensemble_checks"]


@dataclass(frozen=True)
class _Scoring:
    """A reward ensemble under test."""

    ensemble: RewardEnsemble

    @cached_property
    def pairs(self) -> list[tuple[str, str]]:
        """Prompts and responses; the last ones are all texts as answers to one prompt."""
        pairs = [(prompt, response) for prompt in (PLAIN[0], *ODD_TEXTS) for response in TEXTS[:5]]
        return pairs + [(PLAIN[1], text) for text in TEXTS]

    def asked(self, ensemble: RewardEnsemble) -> Any:
        """Return the scores of the pairs."""
        return ensemble.score([prompt for prompt, _ in self.pairs], [response for _, response in self.pairs])

    @cached_property
    def scores(self) -> F32:
        """Of the pairs, checked for shape and type."""
        prompts, responses = [prompt for prompt, _ in self.pairs], [response for _, response in self.pairs]
        scores = self.ensemble.score(prompts, responses)
        shape = (len(self.pairs), len(self.ensemble.reward_models))
        check_array(self.ensemble, scores, "score", shape, "(n, n_reward_models)")
        require(self.ensemble, np.isfinite(scores).all(), "scores must be finite")
        untouched = [*zip(prompts, responses, strict=True)] == self.pairs
        require(self.ensemble, untouched, "score must leave its inputs as they were")
        return np.asarray(scores)


_REWARDS: Clauses[_Scoring] = Clauses()


@_REWARDS.clause("names", "reward_models is the last axis of score, in its order. " + IDENTITY)
def _reward_names(at: _Scoring) -> None:
    """reward_models is a tuple of distinct names, identity a text that stays the same."""
    names = at.ensemble.reward_models
    require(
        at.ensemble, bool(names) and type(names) is tuple, f"reward_models must be a non-empty tuple, got {names!r}"
    )
    require(at.ensemble, len(set(names)) == len(names), f"the names of the reward models must differ, got {names}")
    check_name(at.ensemble, "identity")


@_REWARDS.clause("score", after=("names",))
def _scores(at: _Scoring) -> None:
    """score() returns finite float32 (n, n_reward_models), also for unicode, blank and very long texts.

    End with np.asarray(scores, np.float32); cut long texts inside.
    """
    _ = at.scores


@_REWARDS.clause("repeatable", after=("score",))
def _scores_again(at: _Scoring) -> None:
    """A second call gives equal scores.

    Switch dropout off and fix every seed.
    """
    require(at.ensemble, np.array_equal(at.asked(at.ensemble), at.scores), "a second call must score alike")


@_REWARDS.clause("pickle", COPY, after=("score",))
def _rewards_pickle(at: _Scoring) -> None:
    """A copy by pickle scores alike."""
    copy = pickled(at.ensemble)
    same = copy.reward_models == at.ensemble.reward_models
    require(at.ensemble, same, "a pickled copy must have the same reward models")
    require(at.ensemble, np.array_equal(at.asked(copy), at.scores), "a pickled copy must score alike")


@_REWARDS.clause("alone", WHOLE, after=("score",))
def _scores_alone(at: _Scoring) -> None:
    """A score does not depend on the other pairs (to 1e-4)."""
    scale = np.maximum(1.0, np.abs(at.scores).max(axis=0))
    for i, (prompt, response) in enumerate(at.pairs):
        off = float((np.abs(at.ensemble.score([prompt], [response])[0] - at.scores[i]) / scale).max())
        require(at.ensemble, off <= 1e-4, f"a score must not depend on the other pairs; pair {i} is off by {off:.1e}")


@_REWARDS.clause("empty", after=("names",))
def _scores_nothing(at: _Scoring) -> None:
    """No pairs give an array (0, n_reward_models).

    Return np.empty((0, n), np.float32).
    """
    n = len(at.ensemble.reward_models)
    empty = np.shape(at.ensemble.score([], []))
    require(at.ensemble, empty == (0, n), f"score([], []) must be (0, {n}), got {empty}")


@_REWARDS.clause("reads-response", after=("score",))
def _reads_response(at: _Scoring) -> None:
    """Scores depend on the response.

    Check that the response reaches the model and is not cut away behind a long prompt.
    """
    columns = at.scores[-len(TEXTS) :].T
    same = [name for name, column in zip(at.ensemble.reward_models, columns, strict=True) if np.ptp(column) == 0]
    require(at.ensemble, not same, f"scores must depend on the response; constant: {same}")


@_REWARDS.clause("lengths")
def _refuses_lengths(at: _Scoring) -> None:
    """Two prompts with one response are refused.

    Raise personalllm.core.errors.AxisMismatch unless the two lists are equally long.
    """
    try:
        at.ensemble.score(["one", "two"], ["only one"])
    except (PersonalLLMError, ValueError):
        return
    raise AssertionError(f"{type(at.ensemble).__name__}: score must refuse two prompts with one response.")


def reward_ensemble_checks(ensemble: RewardEnsemble) -> tuple[Check, ...]:
    """Return the clauses of `check_reward_ensemble`, each by itself, in the order in which it runs them."""
    return _REWARDS.of(_Scoring(ensemble))


def check_reward_ensemble(ensemble: RewardEnsemble) -> None:
    """Raise `AssertionError` unless an ensemble keeps the contract of `personalllm.core.protocols.RewardEnsemble`.

    Checked: distinct names; finite float32 scores; equal scores on a second call, from a pickled copy, and for a pair
    alone (to 1e-4); unicode, blank and very long texts; scores that depend on the response; unequal lengths refused.

    >>> from personalllm.testing import SurfaceRewards
    >>> check_reward_ensemble(SurfaceRewards())
    """
    require_all(reward_ensemble_checks(ensemble))
