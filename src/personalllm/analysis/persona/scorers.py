"""Score a response on behalf of a persona, with one reward model or with a chat model that gives a rating."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from personalllm.core.errors import ParameterError, RunError, UnknownName, UserError
from personalllm.core.protocols import ChatModel, RewardEnsemble
from personalllm.core.storage import digest
from personalllm.core.types import F32, ChatRequest, Message

__all__ = ["PERSONA_TEMPLATE", "ChatRatingScorer", "FirstTokenModel", "PersonaScorer", "RewardModelScorer"]

PERSONA_TEMPLATE = "{persona}\n\n{prompt}"
"""How a persona is put before a prompt."""

_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_FIELD = re.compile(r"\{(persona|prompt)\}")
# A small model gives numbers little of its probability, so they may rank far below the most likely tokens.
_TOP = 300
_CODE_VERSION = 1  # part of every identity: raise it when the code changes a score, so that kept scores are not mixed

_ASK = "Person: {persona}\nThe person asks: {prompt}\nReply: {response}\nNumber from 1 to {scale}:"
_SYSTEM = (
    "You judge replies for one person. Answer with one number from 1 (bad for this person) to {scale} (perfect for "
    "this person)."
)
_NOBODY = "anyone"
_EXAMPLES = (
    ("A chess teacher", "How do I start with chess?", "Bananas are yellow.", False),
    (
        "A chess teacher",
        "How do I start with chess?",
        "Learn how the pieces move, then play short games and look at each one afterwards.",
        True,
    ),
)


class PersonaScorer(Protocol):
    """Scores responses as a persona would; each response by itself, whatever else is in the batch."""

    @property
    def identity(self) -> str:
        """A name for people, `@`, and a digest of all that decides a score."""

    def score(self, persona: str, prompts: Sequence[str], responses: Sequence[str]) -> F32:
        """Return float32 (n,): the score of response i as an answer to prompt i, higher is better.

        NaN stands for a response that got no readable answer. The empty persona asks without a persona.
        """


@runtime_checkable
class FirstTokenModel(Protocol):
    """A chat model that also gives the probabilities of its first token."""

    def first_token_logprobs(self, requests: Sequence[ChatRequest], top: int) -> list[dict[str, float]]:
        """Return for each request the natural log-probabilities of the `top` most likely first tokens, by text."""


class RewardModelScorer:
    """One reward model of an ensemble, the persona put before the prompt (section 3.1 of the paper).

    The score of a response is that of the reward model for the prompt `persona, empty line, prompt`.

    Args:
        ensemble: The reward models.
        reward_model: Which of them.
        template: Text with `{persona}` and `{prompt}`; without a persona the prompt stands alone.

    Raises:
        UnknownName: If the ensemble has no such reward model.
        ParameterError: If the template lacks a field.

    >>> from personalllm.testing import SurfaceRewards
    >>> scorer = RewardModelScorer(SurfaceRewards(), "on_topic")
    >>> scorer.score("a keen angler", ["What now?", "What now?"], ["an angler rests", "no idea"]).tolist()
    [1.0, 0.0]
    """

    def __init__(self, ensemble: RewardEnsemble, reward_model: str, *, template: str = PERSONA_TEMPLATE) -> None:
        if reward_model not in ensemble.reward_models:
            raise UnknownName("reward model", reward_model, ensemble.reward_models)
        if sorted(_FIELD.findall(template)) != ["persona", "prompt"]:
            raise ParameterError("template", "a text with {persona} and {prompt}, once each", template)
        self._ensemble = ensemble
        self._column = ensemble.reward_models.index(reward_model)
        self._template = template
        self.identity = f"{reward_model}@{digest([_CODE_VERSION, ensemble.identity, reward_model, template])}"

    def __repr__(self) -> str:
        return f"RewardModelScorer({self.identity!r})"

    def score(self, persona: str, prompts: Sequence[str], responses: Sequence[str]) -> F32:
        """Return the raw scores, float32 (n,).

        Raises:
            RunError: If a score is not finite.
        """
        full = {prompt: self._with_persona(persona, prompt) for prompt in dict.fromkeys(prompts)}
        scores = self._ensemble.score([full[prompt] for prompt in prompts], responses)[:, self._column]
        if not np.isfinite(scores).all():
            at = int(np.flatnonzero(~np.isfinite(scores))[0])
            raise RunError(
                f"{self.identity} scored a response to {prompts[at][:60]!r} as {scores[at]}.",
                "Look at what the reward model makes of this prompt and this persona.",
            )
        return scores.astype(np.float32)

    def _with_persona(self, persona: str, prompt: str) -> str:
        if not persona:
            return prompt
        fields = {"persona": persona, "prompt": prompt}
        return _FIELD.sub(lambda match: fields[match[1]], self._template)


class ChatRatingScorer:
    r"""A chat model that rates how well a reply suits a persona, from 1 to `scale`.

    `expected` takes the mean of the model's own belief, $\sum_r r\,p(r) / \sum_r p(r)$ with $p(r)$ the probability that
    the first token of its answer is the number r; `written` takes the number that it writes at temperature 0. A small
    model writes the same number for almost every reply, so that nearly all responses tie: prefer `expected`.

    Each reply is rated by itself: no order of replies is shown, so none can bias the rating. Two worked examples (one
    rated 1, one rated `scale`) stand before the question.

    Args:
        chat_model: Gives the rating; `expected` needs one that is also a `FirstTokenModel`.
        scale: The best rating, in [2, 9].
        method: `auto` is `expected` where the model offers it, else `written`.
        max_characters: A longer prompt or response is cut there, >= 1.

    Raises:
        ParameterError: If `scale` or `max_characters` is out of range.
        UserError: If `expected` is requested of a model that gives no probabilities.
    """

    def __init__(
        self,
        chat_model: ChatModel,
        *,
        scale: int = 5,
        method: Literal["auto", "expected", "written"] = "auto",
        max_characters: int = 4000,
    ) -> None:
        if not 2 <= scale <= 9:
            raise ParameterError("scale", "in [2, 9]", scale)
        if max_characters < 1:
            raise ParameterError("max_characters", ">= 1", max_characters)
        if method not in ("auto", "expected", "written"):
            raise ParameterError("method", "auto, expected or written", method)
        if method == "expected" and not isinstance(chat_model, FirstTokenModel):
            raise UserError(
                f"{chat_model.name} gives no probabilities of its first token, so there is no expected rating.",
                'Use method="written", or a chat model with first_token_logprobs.',
            )
        self._model = chat_model
        self._scale = scale
        self._probable = chat_model if method != "written" and isinstance(chat_model, FirstTokenModel) else None
        self._max_characters = max_characters
        self.method = "written" if self._probable is None else "expected"
        settings = [_CODE_VERSION, chat_model.identity, scale, self.method, max_characters, _SYSTEM, _ASK, _EXAMPLES]
        self.identity = f"{chat_model.name} {self.method} rating 1-{scale}@{digest(settings)}"

    def __repr__(self) -> str:
        return f"ChatRatingScorer({self.identity!r})"

    def score(self, persona: str, prompts: Sequence[str], responses: Sequence[str]) -> F32:
        """Return the ratings, float32 (n,) in [1, scale]; NaN where the answer holds no number of the scale."""
        pairs = list(zip(prompts, responses, strict=True))
        requests = [self._request(persona, prompt, response) for prompt, response in pairs]
        if self._probable is not None:
            tokens = self._probable.first_token_logprobs(requests, _TOP)
            ratings = [_expected(logprobs, self._scale) for logprobs in tokens]
        else:
            ratings = [_first_number(reply.text, self._scale) for reply in self._model.chat(requests)]
        return np.array(ratings, np.float32)

    def _request(self, persona: str, prompt: str, response: str) -> ChatRequest:
        turns = [Message("system", _SYSTEM.format(scale=self._scale))]
        for example_persona, example_prompt, reply, good in _EXAMPLES:
            turns.append(Message("user", self._ask(example_persona, example_prompt, reply)))
            turns.append(Message("assistant", str(self._scale if good else 1)))
        texts = (text[: self._max_characters] for text in (prompt, response))
        turns.append(Message("user", self._ask(persona or _NOBODY, *texts)))
        return ChatRequest(tuple(turns), max_tokens=1 if self.method == "expected" else 4)

    def _ask(self, persona: str, prompt: str, response: str) -> str:
        return _ASK.format(persona=persona, prompt=prompt, response=response, scale=self._scale)


def _expected(logprobs: dict[str, float], scale: int) -> float:
    """Return the mean rating under the probabilities of the first token, NaN if no token is a rating."""
    mass = dict.fromkeys(range(1, scale + 1), 0.0)
    for token, logprob in logprobs.items():
        word = token.strip()
        if len(word) == 1 and word in "123456789" and int(word) in mass:
            mass[int(word)] += math.exp(logprob)
    total = sum(mass.values())
    return sum(rating * p for rating, p in mass.items()) / total if total > 0 else math.nan


def _first_number(text: str, scale: int) -> float:
    """Return the first number of an answer, NaN if there is none or it is off the scale."""
    match = _NUMBER.search(text)
    value = float(match[0]) if match else math.nan
    return value if 1 <= value <= scale else math.nan
