"""Hold what one person said about the responses to one prompt: what every layout of people's data is read as."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from personalllm.core.types import Message
from personalllm.data.cells import conversation

__all__ = ["Judgement", "parse_ranking", "rank_shares"]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one person said about the responses to one prompt.

    Attributes:
        user: Who.
        prompt: The conversation before the responses; the last turn is the prompt.
        responses: The responses that were judged.
        chosen: Position of the one preferred to each of the others; None if the ratings say what was preferred.
        ratings: A number for each response, higher is better, NaN where nothing was said; empty if there are none.
        others: Responses that were shown and not judged.
        split: `pool`, `history` or `test` where the data have splits of their own, else empty.
        language: What the data call it; empty if they do not say.
    """

    user: str
    prompt: tuple[Message, ...]
    responses: tuple[str, ...]
    chosen: int | None = None
    ratings: tuple[float, ...] = ()
    others: tuple[str, ...] = ()
    split: str = ""
    language: str = ""

    @property
    def text(self) -> str:
        """The conversation as one text (see `cells.conversation`)."""
        return conversation([{"role": turn.role, "content": turn.content} for turn in self.prompt])

    def comparisons(self) -> Iterator[tuple[str, str, tuple[str, ...]]]:
        """Yield (preferred response, other response, what else was shown); two equal texts are a tie.

        >>> hello = (Message("user", "Hi"),)
        >>> [pair[:2] for pair in Judgement("ann", hello, ("a", "b", "c"), ratings=(1, 0, 1)).comparisons()]
        [('a', 'b'), ('a', 'a'), ('c', 'b')]
        """
        shown = {*self.responses, *self.others}
        for winner, loser in self._pairs():
            yield winner, loser, tuple(sorted(shown - {winner, loser}))

    def _pairs(self) -> Iterator[tuple[str, str]]:
        texts = self.responses
        if self.chosen is not None:
            best = texts[self.chosen]
            yield from ((best, text) for at, text in enumerate(texts) if at != self.chosen)
            return
        known = [(text, rating) for text, rating in zip(texts, self.ratings, strict=True) if not math.isnan(rating)]
        for (one, high), (other, low) in combinations(known, 2):
            if high == low:
                yield one, one
            else:
                yield (one, other) if high > low else (other, one)


def parse_ranking(text: str, names: Sequence[str]) -> tuple[float, ...]:
    """Return the ratings that a ranking such as `B>A=C` stands for, in the order of the names; NaN if not ranked.

    Raises:
        ValueError: If it names something else or something twice; says what.

    >>> parse_ranking("B>A=C", "ABCD")
    (0.25, 1.0, 0.25, nan)
    """
    groups = [[name.strip() for name in group.split("=")] for group in text.split(">")]
    ranked = [name for group in groups for name in group]
    for name in ranked:
        if name not in names or ranked.count(name) > 1:
            raise ValueError(f"{name!r} is there twice" if name in names else f"{name!r} is no response")
    place = {name: -rank for rank, group in enumerate(groups) for name in group}
    return rank_shares([place.get(name, math.nan) for name in names])


def rank_shares(values: Sequence[float]) -> tuple[float, ...]:
    """Return for each value the share of the other known ones that it exceeds, ties half; NaN where it is NaN.

    A single known value has nothing to be compared with, so nothing is known of it.
    """
    known = [value for value in values if not math.isnan(value)]

    def share(value: float) -> float:
        if math.isnan(value) or len(known) < 2:
            return math.nan
        beaten = sum((value > other) + 0.5 * (value == other) for other in known) - 0.5
        return beaten / (len(known) - 1)

    return tuple(map(share, values))
