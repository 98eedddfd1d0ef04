"""One named user of a fitted method, who starts from what the pool taught."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from personalllm.core.errors import ParameterError, UserError
from personalllm.core.types import F32, JSON, Conversation, Corpus, Histories, Queries

if TYPE_CHECKING:
    from personalllm.methods.base import Method

__all__ = ["Question", "User"]

_MOST_SHOWN = 256


class Question(NamedTuple):
    """The comparison that would tell most about a user: which of two responses to a prompt do they prefer?"""

    prompt: str
    a: str
    b: str


class User:
    """One named user; what is learned of them touches neither the method nor another user.

    Make it with `method.user(name)`. The method is adapted to all preferences of the user at once, when something is
    asked after an update, so the order and the number of calls do not matter: the answers are those of `adapt` with the
    same history. `method.save` does not keep users; keep `preferences` and give them to `update` again.

    Args:
        method: Fitted.
        name: Any text.
    """

    def __init__(self, method: Method, name: str) -> None:
        if "signals" in method.needs:
            raise UserError(
                f"The method {method.id!r} reads the scores of reward models, which a text alone does not have.",
                "Use a method that learns from texts.",
            )
        self.name = name
        self._method = method
        self._rows: list[JSON] = []
        self._state: Method | None = None
        self._fit = -1

    def __repr__(self) -> str:
        return f"<user {self.name!r} of {self._method.id!r}, {len(self._rows)} preferences>"

    @property
    def preferences(self) -> tuple[JSON, ...]:
        """Copies of the user's preferences in their order, rows as `Preferences.from_rows` takes them."""
        return tuple({**row, "shown": list(row["shown"])} for row in self._rows)

    def update(
        self,
        prompt: str,
        *,
        chosen: str,
        rejected: str,
        shown: Sequence[str] | None = None,
        best_worst: bool = False,
    ) -> User:
        """Add a preference of the user.

        Args:
            prompt: What the user asked.
            chosen: The response that the user preferred.
            rejected: The other one.
            shown: All responses that were shown, if there were more than two.
            best_worst: Whether the user named `chosen` as the best and `rejected` as the worst of all that were shown;
                methods may then use what this says about the others.

        Raises:
            UserError: If the two responses are equal, something is not text, or more than 256 were shown.
        """
        if isinstance(shown, str) or not isinstance(shown, Iterable | None):
            raise ParameterError("shown", f"a list of at most {_MOST_SHOWN} texts", shown)
        texts = list(() if shown is None else shown)
        row: JSON = {"user": self.name, "prompt": prompt, "chosen": chosen, "rejected": rejected}
        for key, value in {**row, **{f"shown[{i}]": text for i, text in enumerate(texts)}}.items():
            if not isinstance(value, str):
                raise ParameterError(key, "a text", value)
        if len({chosen, rejected, *texts}) > _MOST_SHOWN:
            raise ParameterError("shown", f"a list of at most {_MOST_SHOWN} texts", shown)
        if chosen == rejected:
            raise UserError("Chosen and rejected response are equal, which says nothing.", "Leave ties out.")
        self._rows.append({**row, "shown": texts, **({"best_worst": True} if best_worst else {})})
        self._state = None
        return self

    def utilities(self, prompt: str, responses: Sequence[str]) -> F32:
        """Return the utility of each response, float32 (n_responses,); higher is better.

        Raises:
            UserError: If the method does not score responses, or no response is given.
        """
        self._require("utilities", "score responses")
        queries = _queries([(prompt, responses)])
        if not queries.corpus.n_responses:
            raise ParameterError("responses", "a list of at least one text", responses)
        return np.asarray(self._adapted().utilities(queries)[0])

    def rank(self, prompt: str, responses: Sequence[str]) -> list[int]:
        """Return the indices of the responses, best first; ties go to the lower index."""
        order: list[int] = np.argsort(-self.utilities(prompt, responses), kind="stable").tolist()
        return order

    def probability(self, prompt: str, a: str, b: str) -> float:
        """Return the probability that the user prefers response a to response b when these two alone are shown.

        The utilities of some methods depend on all the candidates ('hierarchical-bt' centres them: each is the mean of
        the log-odds against every candidate), so it need not be sigmoid(utility of a - utility of b) of `utilities`
        with more responses.

        Raises:
            UserError: If differences of the method's utilities are not log-odds.
        """
        if not self._method.log_odds:
            raise UserError(
                f"The method {self._method.id!r} ranks responses but gives no probabilities.",
                "Use rank or utilities, or a method whose log_odds is true, such as 'hierarchical-bt'.",
            )
        first, second = self.utilities(prompt, [a, b]).astype(np.float64)
        return float(0.5 * (1.0 + np.tanh(0.5 * (first - second))))

    def messages(self, prompt: str) -> Conversation:
        """Return what to ask the chat model for the user."""
        self._require("messages", "ask a chat model")
        return self._adapted().messages(_queries([(prompt, ())]))[0]

    def next_query(
        self,
        prompts: Mapping[str, Sequence[str]] | Iterable[tuple[str, Sequence[str]]],
        policy: Method | str = "d-optimal",
    ) -> Question | None:
        """Return the comparison to ask the user for, None if the policy finds none worth it.

        Args:
            prompts: Prompts, each with the responses that could be compared.
            policy: What to ask: by default what tells most about the user; or another policy of the online track, such
                as `thompson`, or an object. A user of a policy is asked by that one.

        Raises:
            UserError: If the method has no posterior of a user's taste, or no prompt has two responses.
        """
        self._check_fitted()
        asking = self._method.asking(policy)
        choices = [pair for pair in (prompts.items() if isinstance(prompts, Mapping) else prompts) if len(pair[1]) > 1]
        if not choices:
            raise UserError("There is nothing to compare.", "Give prompts with at least two responses each.")
        rows, a, b = asking.adapt(_history(self._rows)).next_query(_queries(choices))
        if rows[0] < 0:
            return None
        prompt, responses = choices[int(rows[0])]
        return Question(prompt, responses[int(a[0])], responses[int(b[0])])

    def _require(self, hook: str, words: str) -> None:
        if not self._method.implements(hook):
            raise UserError(f"The method {self._method.id!r} does not {words}.", f"Use one that implements {hook}.")

    def _adapted(self) -> Method:
        """Return a copy that shares what the pool taught and knows this user alone."""
        self._check_fitted()
        if self._state is None or self._fit != self._method.fit_count:
            # shallow: fit's attributes are read only by contract, and adapt rebinds its own
            self._state, self._fit = copy.copy(self._method).adapt(_history(self._rows)), self._method.fit_count
        return self._state

    def _check_fitted(self) -> None:
        if self._method.implements("fit") and not self._method.fit_count:
            raise UserError(
                f"The method {self._method.id!r} is not fitted, so the user {self.name!r} has nothing to start from.",
                "Call fit(pool) on the method first; what the user has said is kept.",
            )


def _queries(prompts: Sequence[tuple[str, Any]]) -> Queries:
    """Return queries of one user."""
    for name, value in prompts:
        if not isinstance(name, str):
            raise ParameterError("prompt", "a text", name)
        listed = isinstance(value, Sequence | np.ndarray) and not isinstance(value, str)
        if not listed or not all(isinstance(text, str) for text in value):
            raise ParameterError("responses", "a list of texts", value)
    corpus = Corpus([prompt for prompt, _ in prompts], [tuple(responses) for _, responses in prompts])
    return Queries(corpus, 1, np.zeros(len(prompts), np.int32), np.arange(len(prompts), dtype=np.int32))


def _history(rows: Sequence[Mapping[str, Any]]) -> Histories:
    """Return preferences as one user's history; those on the same prompt and responses share a row of the corpus."""
    corpus: dict[tuple[str, frozenset[str]], tuple[int, dict[str, int]]] = {}
    columns: list[tuple[int, int, int, bool]] = []
    for row in rows:
        texts = dict.fromkeys((row["chosen"], row["rejected"], *row["shown"]))
        key = row["prompt"], frozenset(texts)
        index, columns_of = corpus.setdefault(key, (len(corpus), {text: i for i, text in enumerate(texts)}))
        columns.append((index, columns_of[row["chosen"]], columns_of[row["rejected"]], row.get("best_worst", False)))
    prompt, chosen, rejected, best_worst = np.array(columns, np.int32).reshape(-1, 4).T
    texts_of = Corpus([name for name, _ in corpus], [tuple(columns_of) for _, columns_of in corpus.values()])
    sides = chosen.astype(np.uint8), rejected.astype(np.uint8)
    return Histories(texts_of, 1, np.zeros(len(columns), np.int32), prompt, *sides, best_worst.astype(np.bool_))
