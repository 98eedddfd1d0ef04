"""Show runs of the predict track on people's own preferences."""

from __future__ import annotations

from typing import Any

from personalllm.report.numbers import count
from personalllm.report.views.predict import PredictView

__all__ = ["PeopleView"]


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
