"""Track what the responses of a build cost: tokens and dollars.

The journals are the ledger: every reply that was received stands in exactly one line of one journal, with the tokens
that it used, the replies that were refused and drawn again included, and those of settings that were given up since. So
a kill loses nothing that was written and a resumed run counts nothing twice. `ledger.json` is their sum.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from personalllm.build.recipe import Recipe, ResponseModel
from personalllm.core.storage import write_json
from personalllm.core.types import JSON

__all__ = ["Ledger", "Usage", "read_ledger", "write_ledger"]

_MILLION = 1e6


@dataclass(frozen=True, slots=True)
class Usage:
    """Requests to a response model and their cost.

    Attributes:
        replies: Replies that were paid for.
        reused: Replies that came from a cache; their tokens are not counted.
        prompt_tokens: Tokens of the prompts.
        cached_tokens: How many of these the server took from its own prompt cache, as far as it says.
        new_tokens: Tokens of the replies.
        dollars: What the tokens cost by the recipe's prices; None if a price is not given. A server's discount on
            cached tokens is not known here, so they count in full.
    """

    replies: int = 0
    reused: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    new_tokens: int = 0
    dollars: float | None = None

    def __add__(self, other: Usage) -> Usage:
        priced = self.dollars is not None and other.dollars is not None
        return Usage(
            self.replies + other.replies,
            self.reused + other.reused,
            self.prompt_tokens + other.prompt_tokens,
            self.cached_tokens + other.cached_tokens,
            self.new_tokens + other.new_tokens,
            (self.dollars or 0.0) + (other.dollars or 0.0) if priced else None,
        )

    def priced(self, model: ResponseModel | None) -> Usage:
        """Return the same usage with its price in dollars."""
        prices = model and (model.price_per_million_prompt_tokens, model.price_per_million_new_tokens)
        if not prices or prices[0] is None or prices[1] is None:
            return self
        dollars = (self.prompt_tokens * prices[0] + self.new_tokens * prices[1]) / _MILLION
        return Usage(
            self.replies, self.reused, self.prompt_tokens, self.cached_tokens, self.new_tokens, round(dollars, 6)
        )


@dataclass(frozen=True, slots=True)
class Ledger:
    """The usage of each response model, all runs in a folder together.

    Attributes:
        models: Usage by response model.
    """

    models: Mapping[str, Usage]

    @property
    def total(self) -> Usage:
        """Usage of all response models; dollars are None if one that was asked has no price."""
        total = Usage(dollars=0.0)
        for usage in self.models.values():
            if usage.replies or usage.reused:
                total += usage
        return total

    def to_dict(self) -> JSON:
        """Return what `ledger.json` holds."""
        return {
            "models": {name: asdict(usage) for name, usage in sorted(self.models.items())},
            "total": asdict(self.total),
        }


def read_ledger(recipe: Recipe, out: Path) -> Ledger:
    """Add up what all journals in a build's folder say, priced by the recipe."""
    models = {model.name: model for model in recipe.response_model}
    totals = {name: Usage() for name in models}
    for path in sorted((out / "responses").glob("*.jsonl")):
        name = path.stem.rpartition("-")[0]
        for usage in _lines(path):
            totals[name] = totals.get(name, Usage()) + usage
    return Ledger({name: usage.priced(models.get(name)) for name, usage in totals.items()})


def write_ledger(ledger: Ledger, out: Path) -> None:
    """Write `out/ledger.json`."""
    write_json(out / "ledger.json", ledger.to_dict())


def _lines(path: Path) -> Iterator[Usage]:
    with path.open("rb") as stream:
        for line in stream:
            if not line.endswith(b"\n"):
                return
            try:
                fields = json.loads(line)
                yield _usage(fields)
            except (ValueError, TypeError, AttributeError):
                continue


def _usage(fields: JSON) -> Usage:
    if fields.get("reused"):
        return Usage(reused=1)
    return Usage(
        1, 0, int(fields.get("prompt_tokens", 0)), int(fields.get("cached_tokens", 0)), int(fields.get("tokens", 0))
    )
