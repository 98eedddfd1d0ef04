"""The rounds of the online track as a Gymnasium environment: needs the extra `gym`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from personalllm.core.backends import backend
from personalllm.core.errors import MissingExtra, ParameterError
from personalllm.core.types import F32, JSON, Queries
from personalllm.evaluation.sources.asking import Asking
from personalllm.evaluation.sources.simulated import Simulated
from personalllm.methods.parts.features import FeatureMap

if TYPE_CHECKING:
    from personalllm.data import Benchmark
    from personalllm.evaluation.protocol import Protocol

try:
    import gymnasium
except ImportError as error:
    raise MissingExtra("gymnasium", "gym") from error

__all__ = ["AskingEnv"]

Observation: TypeAlias = dict[str, Any]


class AskingEnv(gymnasium.Env[Observation, np.int64]):
    """One user an episode: each round a prompt comes, the agent shows two responses, the user says which is better.

    - Observation: `responses`, float32 (n_responses, n_features), of the prompt that came: principal components of the
      embedding within prompts, fitted on the pool; `answer`, what the user answered in the round before: 1 for the
      first response, 2 for the second, 0 for neither.
    - Action: a pair of responses, a position in `pairs`.
    - Reward: minus the mean regret of the two responses, in standard deviations of the scores. It is what an agent is
      judged by, not what a user says: who wants to know how good learning from answers is, learns from `answer` alone.
    - An episode ends after the rounds of the protocol. Episodes take the users of the population in turn, or the user
      of `reset(options={"user": 3})`; a seed draws who comes first.

    Args:
        benchmark: Whose users are asked.
        protocol: Of the online track, with `mode` `stream`.
        embedder: A registered name or an object.
        n_features: Components, >= 1.

    Raises:
        MissingExtra: On import, if Gymnasium is not installed.
        ParameterError: If the protocol is of another track or mode.
    """

    metadata = {"render_modes": []}

    def __init__(self, benchmark: Benchmark, protocol: Protocol, embedder: object, n_features: int = 16) -> None:
        if protocol.track != "online":
            raise ParameterError("protocol", "of the online track", protocol.track)
        source = Simulated(protocol, benchmark)
        self.asking = Asking(source)
        if self.asking.options.mode != "stream":
            raise ParameterError("online.mode", "stream", self.asking.options.mode)
        embeds: Any = backend("embedder", embedder)
        features = FeatureMap.fit(embeds, source.pool, n_features)
        prompts = self.asking.prompts
        queries = Queries(source.corpus, 1, np.zeros(len(prompts), np.int32), prompts)
        self._responses: F32 = features.candidates(embeds, queries)[0]
        self.pairs = np.stack(np.triu_indices(self._responses.shape[1], k=1), axis=1)
        box = gymnasium.spaces.Box(-np.inf, np.inf, self._responses.shape[1:], np.float32)
        self.observation_space = gymnasium.spaces.Dict({"responses": box, "answer": gymnasium.spaces.Discrete(3)})
        self.action_space = gymnasium.spaces.Discrete(len(self.pairs))
        self.user, self.t, self._answer = -1, 0, 0

    @property
    def n_users(self) -> int:
        """Number of users."""
        return self.asking.source.n_users

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, JSON]:
        """Begin with the next user; see the class for seed and options."""
        super().reset(seed=seed)
        if seed is not None:
            self.user = int(self.np_random.integers(self.n_users)) - 1
        user = (options or {}).get("user", (self.user + 1) % self.n_users)
        if not isinstance(user, int) or not 0 <= user < self.n_users:
            raise ParameterError("user", f"in [0, {self.n_users})", user)
        self.user, self.t, self._answer = user, 0, 0
        return self._observed(), {"user": user}

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, JSON]:
        """Show a pair and return what comes next, the reward, whether the episode is over, and regret and answer."""
        if self.t >= self.asking.options.rounds:
            raise ParameterError("action", "left out after the last round (call reset)", action)
        first, second = self.pairs[int(action)]
        place = self.asking.stream[self.user, self.t]
        users, prompts = np.array([self.user], np.int32), self.asking.prompts[place : place + 1]
        values = self.asking.utilities(users, prompts, self.t)[0].astype(np.float64)
        shown = values[[first, second]]
        gap = shown[:1] - shown[1:]
        answer = int(self.asking.answers(slice(self.user, self.user + 1), self.t, gap)[0])
        lost = values.max() - shown
        self._answer, self.t = answer % 3, self.t + 1
        about = {"user": self.user, "answer": answer, "regret": float(lost.mean()), "weak_regret": float(lost.min())}
        return self._observed(), -float(lost.mean()), self.t == self.asking.options.rounds, False, about

    def _observed(self) -> Observation:
        responses = self._responses[self.asking.stream[self.user, self.t]].copy()
        return {"responses": responses, "answer": np.int64(self._answer)}
