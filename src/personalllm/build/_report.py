"""Summarise a run of the step `respond`: what is done and what remains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from personalllm.build.ledger import Ledger, Usage
from personalllm.core.errors import RunError

__all__ = ["ModelAnswers", "RespondReport"]


@dataclass(frozen=True, slots=True)
class ModelAnswers:
    """The progress of one response model.

    Attributes:
        response_model: Its name.
        usable: Prompts with a usable response.
        given_up: Prompts without one after all attempts, by fault (`"empty"`, `"repetitive"`, `"refused"`).
        failures: Prompts whose request failed in this run after all its tries, by kind (`"timeout"`, `"rate limit"`).
        not_asked: Prompts that were not asked for any more, because the model was set aside.
        aside: Why the model was set aside; empty if it was not.
        example: What the last failure said; empty if there was none.
        unreachable: Whether its server could not be reached.
        remedy: How to fix the last failure; empty if there was none.
        cut: Usable responses that `max_tokens` cut.
    """

    response_model: str
    usable: int
    given_up: Mapping[str, int]
    failures: Mapping[str, int]
    not_asked: int
    aside: str
    example: str
    unreachable: bool = False
    remedy: str = ""
    cut: int = 0

    @property
    def failed(self) -> int:
        """Prompts that the next run asks for again."""
        return sum(self.failures.values()) + self.not_asked

    def __str__(self) -> str:
        cut = f" ({self.cut} of them, {self.cut / self.usable:.0%}, cut at max_tokens)" if self.cut else ""
        parts = [f"{self.usable} usable{cut}"]
        parts += [f"{n} given up ({fault})" for fault, n in sorted(self.given_up.items())]
        parts += [f"{n} failed ({kind})" for kind, n in sorted(self.failures.items())]
        if self.not_asked:
            parts.append(f"{self.not_asked} not asked ({self.aside})" if self.aside else f"{self.not_asked} not asked")
        return f"{self.response_model}: {', '.join(parts)}"


@dataclass(frozen=True, slots=True)
class RespondReport:
    """The result of a run of the step `respond`.

    Attributes:
        models: How far each response model is, in the order of the recipe.
        spent: What this run has used, over all response models.
        ledger: What all runs in the folder have used.
    """

    models: tuple[ModelAnswers, ...]
    spent: Usage
    ledger: Ledger

    @property
    def usable(self) -> int:
        """(prompt, response model) pairs with a usable response."""
        return sum(model.usable for model in self.models)

    @property
    def given_up(self) -> int:
        """Pairs without a usable response after all attempts; they are not asked for again."""
        return sum(sum(model.given_up.values()) for model in self.models)

    @property
    def failed(self) -> int:
        """Pairs whose request failed, or was not made any more; the next run asks for them again."""
        return sum(model.failed for model in self.models)

    @property
    def lines(self) -> tuple[str, ...]:
        """The report in plain text: a line for each response model, then the tokens and the price."""
        total = self.ledger.total
        return (*map(str, self.models), f"This run: {_words(self.spent)}", f"All runs: {_words(total)}")

    def __str__(self) -> str:
        return "\n".join(self.lines)

    def error(self) -> RunError | None:
        """Return the error with which the command ends, or None if no request failed."""
        if not self.failed:
            return None
        n = self.failed + self.given_up + self.usable
        failing = [model for model in self.models if model.failed]
        if all(model.unreachable for model in failing):
            examples = " ".join(dict.fromkeys(model.example for model in failing))
            return RunError(
                f"{examples} {self.failed} of {n} responses are missing.",
                f"{failing[0].remedy} Then run the same command again: only these are asked for.",
            )
        which = "; ".join(f"{m}. {m.example}".rstrip(". ") for m in self.models if m.failed)
        return RunError(
            f"{self.failed} of {n} responses are missing: {which}.",
            "Run the same command again: only these are asked for.",
        )


def _words(usage: Usage) -> str:
    price = "no price given" if usage.dollars is None else f"${usage.dollars:,.4f}"
    cached = f" ({usage.cached_tokens:,} cached)" if usage.cached_tokens else ""
    reused = f", {usage.reused:,} from the cache" if usage.reused else ""
    return (
        f"{usage.replies:,} replies{reused}, {usage.prompt_tokens:,} prompt tokens{cached}, "
        f"{usage.new_tokens:,} new tokens, {price}"
    )
