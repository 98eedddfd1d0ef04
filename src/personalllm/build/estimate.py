"""Estimate the requests, cost and time of a build before it starts, without making a request."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from personalllm.build.prompts import Prompt
from personalllm.build.recipe import Recipe, ResponseModel
from personalllm.build.responding import Response
from personalllm.core.errors import ParameterError
from personalllm.core.protocols import RewardEnsemble
from personalllm.core.storage import write_json

__all__ = ["Clock", "Estimate", "ModelEstimate", "Rates", "estimate", "measured_rates", "note_rate", "score_step"]

CHARACTERS_PER_TOKEN = 4
_TEMPLATE_TOKENS = 8
_MIN_MEASURED = 10
_MIN_SECONDS = 1.0
_MILLION = 1e6


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates of the slow steps; None where unknown.

    Attributes:
        responses_per_second: Responses that all response models write in a second, > 0.
        scores_per_second: Responses that all reward models together score in a second, > 0.
    """

    responses_per_second: float | None = None
    scores_per_second: float | None = None

    def __post_init__(self) -> None:
        for name in ("responses_per_second", "scores_per_second"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ParameterError(name, "> 0", value)


@dataclass(frozen=True, slots=True)
class ModelEstimate:
    """The expected requests to one response model.

    Attributes:
        name: The response model.
        chat_model: The chat model that writes.
        requests: Responses that are missing; redraws and retries come on top.
        prompt_tokens: Expected tokens of the prompts: one for every four characters, and the chat template.
        new_tokens: Expected tokens of the responses: as long as those measured, else `max_new_tokens`.
        max_new_tokens: Tokens of the responses if each is as long as allowed.
        dollars: Expected price; None if the recipe gives none.
        max_dollars: Price if each response is as long as allowed.
        min_hours: Hours that its rate limits require.
        measured: Responses in the working folder from which `new_tokens` was measured; 0 if it was not.
    """

    name: str
    chat_model: str
    requests: int
    prompt_tokens: int
    new_tokens: int
    max_new_tokens: int
    dollars: float | None
    max_dollars: float | None
    min_hours: float
    measured: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """The expected requests, tokens and cost of a build.

    Attributes:
        prompts: Prompts that are answered.
        models: The response models.
        scores: Responses that are scored, finished ones included.
        rates: Measured rates, from which the hours follow.
        scored: How many of these already have scores.
    """

    prompts: int
    models: tuple[ModelEstimate, ...]
    scores: int
    rates: Rates
    scored: int = 0

    @property
    def requests(self) -> int:
        """Responses that are missing."""
        return sum(model.requests for model in self.models)

    @property
    def dollars(self) -> float | None:
        """Expected price of the response models whose price is known; None if none is."""
        return _sum(model.dollars for model in self.models)

    @property
    def max_dollars(self) -> float | None:
        """As `dollars`, if each response is as long as allowed."""
        return _sum(model.max_dollars for model in self.models)

    @property
    def unpriced(self) -> tuple[str, ...]:
        """Response models whose price the recipe does not give."""
        return tuple(model.name for model in self.models if model.dollars is None)

    @property
    def respond_hours(self) -> float | None:
        """Hours of the step `respond`, at least `min_hours`; None if no rate is known."""
        if self.requests == 0:
            return 0.0
        if self.rates.responses_per_second is None:
            return None
        return max(self.requests / self.rates.responses_per_second / 3600, self.min_hours)

    @property
    def min_hours(self) -> float:
        """Hours that the rate limits require of the slowest response model."""
        return max((model.min_hours for model in self.models), default=0.0)

    @property
    def score_hours(self) -> float | None:
        """Hours of the step `score`; None if no rate is known."""
        rate = self.rates.scores_per_second
        if self.scored >= self.scores:
            return 0.0
        return None if rate is None else (self.scores - self.scored) / rate / 3600


def _sum(values: Iterable[float | None]) -> float | None:
    measured = [value for value in values if value is not None]
    return sum(measured) if measured else None


def estimate(
    recipe: Recipe,
    prompts: Sequence[Prompt],
    responses: Mapping[str, Mapping[str, Response]] | None = None,
    rates: Rates | None = None,
    given_up: Mapping[str, Collection[str]] | None = None,
    scored: int = 0,
) -> Estimate:
    """Estimate the requests, tokens and hours of the steps `respond` and `score`.

    Args:
        recipe: The response models with their prices and limits.
        prompts: The prompts that are answered.
        responses: Usable responses that are already there, `{response model: {prompt_id: response}}`.
        rates: How fast the steps are.
        given_up: Prompts without a usable response that are not requested again, `{response model: prompt_ids}`.
        scored: Responses that already have scores.
    """
    have, lost = responses or {}, given_up or {}
    models = tuple(
        _of_model(model, [p for p in prompts if p.prompt_id not in lost.get(model.name, ())], have.get(model.name, {}))
        for model in recipe.response_model
    )
    n_prompts = min(len(prompts), recipe.prompts.train + recipe.prompts.test)
    return Estimate(len(prompts), models, n_prompts * len(models), rates or Rates(), scored)


def _of_model(model: ResponseModel, prompts: Sequence[Prompt], have: Mapping[str, Response]) -> ModelEstimate:
    missing = [prompt for prompt in prompts if prompt.prompt_id not in have]
    system = -(-len(model.system) // CHARACTERS_PER_TOKEN) + _TEMPLATE_TOKENS
    prompt_tokens = sum(-(-len(prompt.prompt) // CHARACTERS_PER_TOKEN) + system for prompt in missing)
    maximum = len(missing) * model.max_tokens
    measured = len(have) if len(have) >= _MIN_MEASURED else 0
    mean = sum(response.tokens for response in have.values()) / len(have) if measured else float(model.max_tokens)
    expected = round(len(missing) * mean)
    by_request = len(missing) / model.requests_per_minute if model.requests_per_minute else 0.0
    by_token = (prompt_tokens + expected) / model.tokens_per_minute if model.tokens_per_minute else 0.0
    return ModelEstimate(
        name=model.name,
        chat_model=model.chat_model,
        requests=len(missing),
        prompt_tokens=prompt_tokens,
        new_tokens=expected,
        max_new_tokens=maximum,
        dollars=_price(model, prompt_tokens, expected),
        max_dollars=_price(model, prompt_tokens, maximum),
        min_hours=max(by_request, by_token) / 60,
        measured=measured,
    )


def _price(model: ResponseModel, prompt_tokens: int, new_tokens: int) -> float | None:
    prompt_price, new_price = model.price_per_million_prompt_tokens, model.price_per_million_new_tokens
    if prompt_price is None or new_price is None:
        return None
    return (prompt_tokens * prompt_price + new_tokens * new_price) / _MILLION


def score_step(ensemble: RewardEnsemble, executor: str = "serial") -> str:
    """Return the name under which the rate of scoring is noted; one for each ensemble and executor."""
    return f"score with {ensemble.identity} by {executor}"


def measured_rates(out: Path, scoring: str = "") -> Rates:
    """Return the rates that earlier runs noted in a working folder.

    Args:
        out: Working folder of the build.
        scoring: From `score_step`, of the ensemble and executor to be used; without it that rate is unknown.
    """
    noted = _noted(out)

    def rate(step: str) -> float | None:
        done, seconds = noted.get(step, (0, 0.0))
        minimum = _MIN_SECONDS if step == scoring else 0.0
        return done / seconds if done >= _MIN_MEASURED and seconds > minimum else None

    return Rates(rate("respond"), rate(scoring))


def note_rate(out: Path, step: str, done: int, seconds: float) -> None:
    """Add what a run did, and how long it took, to the notes in `out/rates.json`.

    Args:
        out: Working folder of the build.
        step: `"respond"`, or what `score_step` returns.
        done: Responses that were written or scored.
        seconds: How long it took.
    """
    if done < 1 or seconds <= 0:
        return
    noted = _noted(out)
    before, spent = noted.get(step, (0, 0.0))
    noted[step] = (before + done, spent + seconds)
    write_json(out / "rates.json", {name: {"done": n, "seconds": round(s, 3)} for name, (n, s) in noted.items()})


def _noted(out: Path) -> dict[str, tuple[int, float]]:
    try:
        rows = json.loads((out / "rates.json").read_text(encoding="utf-8"))
        return {step: (int(row["done"]), float(row["seconds"])) for step, row in rows.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


class Clock:
    """Measures how much is done and how long it takes, from the first call of a progress callback.

    Args:
        progress: Called with the same arguments, (done, total).
    """

    def __init__(self, progress: Callable[[int, int], None]) -> None:
        self._progress = progress
        self._started: float | None = None
        self._first = self._done = self._total = 0

    def __call__(self, done: int, total: int) -> None:
        """Record the progress and pass it on."""
        if self._started is None:
            self._started, self._first = time.monotonic(), done
        self._done, self._total = done, total
        self._progress(done, total)

    @property
    def left(self) -> int:
        """The amount of work at the first call, in the unit of the callback."""
        return self._total - self._first

    def note(self, out: Path, step: str, n_responses: int = 0) -> None:
        """Record the rate for later estimates.

        Args:
            out: Working folder of the build.
            step: What was measured; see `note_rate`.
            n_responses: Responses in the total of the callback, if its unit is another one; else 0.
        """
        if self._started is not None and self._total:
            share = (self._done - self._first) / self._total
            note_rate(out, step, round(share * (n_responses or self._total)), time.monotonic() - self._started)
