"""Show runs on people: of the predict track, and of the rank track where they rated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from personalllm.report.numbers import count
from personalllm.report.tables import Grid
from personalllm.report.views.base import Drawing
from personalllm.report.views.predict import PredictView
from personalllm.report.views.rank import RankView

__all__ = ["PeopleRankView", "PeopleView"]


class PeopleView(PredictView):
    """A run of the predict track on people."""

    @property
    def title(self) -> str:
        """What is done in the track."""
        return "Predicting people's choices"

    @property
    def _people(self) -> dict[str, Any]:
        source: dict[str, Any] = self.results.manifest.get("source") or {}
        return source

    @property
    def lead(self) -> str:
        """What was measured."""
        people = self._people
        ties = f" ({count(people['n_ties'])} ties left out)" if people.get("n_ties") else ""
        return (
            f"{count(people.get('n_users', 0))} people made {count(people.get('n_comparisons', 0))} choices between "
            "two responses"
            f"{ties}. Parts of the people and of the prompts were left out in turn; each method was fitted on the "
            f"other people's choices, adapted to up to {self.headline.shots} of one person's own, and predicted that "
            "person's next ones."
        )

    def _about_users(self) -> tuple[str, ...]:
        notes = [
            (
                "People say nothing about responses that they did not compare, so there is no regret, no rank "
                "correlation, no true weights and no best linear function here."
            ),
            "A person with fewer than k choices is adapted to with all of them.",
        ]
        if self.over == "prompts":
            means = " Accuracies are means over prompts." if self.unit == "prompts" else ""
            notes.append(
                f"With {count(self._people.get('n_users', 0))} people, intervals are over prompts with the people held "
                f"fixed: they say how sure the numbers are for these people, and nothing about others.{means}"
            )
        return tuple(notes)


class PeopleRankView(RankView):
    """A run of the rank track on people's ratings."""

    @property
    def title(self) -> str:
        """Heading of the run."""
        return "Choosing for people"

    @property
    def lead(self) -> str:
        """What was measured."""
        people: dict[str, Any] = self.results.manifest.get("source") or {}
        return (
            f"{count(people.get('n_users', 0))} people rated {count(people.get('n_responses', 0))} responses. Parts of "
            "the people and of the responses were left out in turn; each method was fitted on the other people's "
            f"ratings, adapted to up to {self.headline.shots} of one person's own, and chose for that person among "
            "responses to a prompt. Utilities are the person's own ratings, in the units of the source."
        )

    def blocks(self) -> Iterator[Grid | Drawing]:
        """Yield figures and tables in the order of the page, curves by number of ratings among them."""
        yield from super().blocks()
        if self.has_curves:
            yield self.curves(self.main)
            yield from self.curve_tables((self.main, self.results.metric("gain")))

    def notes(self) -> tuple[str, ...]:
        """Return what to keep in mind."""
        own = (
            (
                "The gain runs from the response that is most popular in the pool (0) to the person's own best (1). "
                "Nobody knows what people's utilities are made of, so there is no personalisation share (PS), and no "
                "reference response model to win against."
            ),
            "Popularity knows how the pool rated every response, those of unseen prompts too, which no method knows.",
            "A person with fewer than k ratings is adapted to with all of them.",
        )
        return (*super().notes(), *own)

    def definitions(self) -> dict[str, str]:
        """Return terms and what they mean."""
        return {
            "Utility": "A person's own rating of a response, in the units of the source. Higher is better.",
            "Gain": "(mean utility \u2212 popularity) / (own best \u2212 popularity): 0 is the response that the pool "
            "likes best, 1 the person's own best.",
            "Regret": "The utility of the person's own best response minus the utility reached. Lower is better.",
        }
