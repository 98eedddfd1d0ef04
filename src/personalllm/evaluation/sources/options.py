"""Define the settings of the predict track: which preferences are predicted, after how many of a user's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Field, field_validator

from personalllm.core.errors import ParameterError
from personalllm.core.types import JSON
from personalllm.evaluation.parts import HistorySpec, Options, Sizes, list_of

__all__ = ["Novelty", "PredictOptions", "Together"]

Novelty: TypeAlias = Literal["unseen", "seen"]
"""Whether users, or prompts, are new to a method."""

Together: TypeAlias = Literal["unseen", "seen", "both"]
"""Users who are measured together; `both`: the unseen and the seen ones as one group."""

HistoryKind: TypeAlias = Literal["flipped", "other-user"]

_POOL_USERS = 1000
_POOL_PAIRS = 50
_RATED_SHOTS = (0, 5, 10, 20, 40)
_RATED_TESTS = 20


class PredictOptions(Options):
    """What is predicted in the predict track, and after how many comparisons.

    Histories are nested: k shots are the first k of the largest number of shots.

    Attributes:
        shots: Comparisons of a target user that a method adapts to, each >= 0; kept in ascending order. People who
            made fewer are adapted with all they made, so that every number of shots is judged on the same people. Where
            people rated responses, k is the number of ratings, which imply all comparisons between them.
        users: `unseen` users are the protocol's population, of whom a method knows the shots alone; `seen` users are
            the first of the pool, whose comparisons the method was fitted on too. The shots of a seen user are the
            first of their comparisons in the pool; shots beyond what they have are left out. `both` are all of them
            together, every test pair counting alike, as in most papers; elsewhere every user counts alike.
        prompts: `unseen` prompts are those of `split`; `seen` prompts those of `history_split` that the user has not
            compared, though others have.
        test_pairs: Comparisons to predict, for each user and kind of prompt, >= 1; None = one for every prompt left,
            where prompts have fixed pairs all of these. For people the maximum of each user, kind of prompt and fold;
            None = all.
        seen_test_pairs: The same for seen users, >= 1; None = as many as for unseen ones.
        survey: So many questions of the history split are asked of everybody: shots are drawn from them, for seen users
            too; they are never predicted, and nothing is fitted on their prompts. 0 = users have prompts of their own.
        n_seen_users: How many users of the pool are evaluated as seen ones, >= 1; all people are.
        counterfactuals: Histories that are not the user's own, at the largest number of shots: `flipped` swaps chosen
            and rejected, `other-user` gives what another user would have said of the same prompts; of people, what the
            next person compared.
        outcome: `utility`: the better response of a test pair is the one of higher utility; `drawn`: by the same rule
            as the feedback, noise included. People's comparisons are as they are.
        reward_signals: Whether methods may use the scores of the RMs as features; they are what simulated users are
            made of, so this is another question.
    """

    part: ClassVar[str] = "prediction"
    short: ClassVar[Mapping[str, str]] = {
        "shots": "shots",
        "test_pairs": "test_pairs",
        "seen_users": "n_seen_users",
    }
    derived: ClassVar[tuple[str, ...]] = ("history",)

    shots: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(0, 1, 2, 4, 8, 16, 32, 64), min_length=1)
    users: tuple[Together, ...] = Field(default=("unseen", "seen"), min_length=1)
    prompts: tuple[Novelty, ...] = Field(default=("unseen", "seen"), min_length=1)
    test_pairs: int | None = Field(default=20, ge=1)
    seen_test_pairs: int | None = Field(default=None, ge=1)
    survey: int = Field(default=0, ge=0)
    n_seen_users: int = Field(default=200, ge=1)
    counterfactuals: tuple[HistoryKind, ...] = ("flipped", "other-user")
    outcome: Literal["utility", "drawn"] = "utility"
    reward_signals: bool = False

    @property
    def signals(self) -> bool:
        """Whether methods may use the scores of the RMs."""
        return self.reward_signals

    @field_validator("shots", "users", "prompts", "counterfactuals", mode="before")
    @classmethod
    def _as_list(cls, value: Any) -> Any:
        return list_of(value)

    @field_validator("shots")
    @classmethod
    def _ascending(cls, shots: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(shots)))

    @field_validator("users", "prompts")
    @classmethod
    def _unseen_first(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(set(kinds), reverse=True))

    def tests_of(self, kind: Novelty) -> int | None:
        """Return the number of test pairs of unseen or seen users; None = all."""
        return self.seen_test_pairs or self.test_pairs if kind == "seen" else self.test_pairs

    @property
    def kinds(self) -> tuple[Novelty, ...]:
        """The kinds of users that are drawn."""
        return tuple(kind for kind in ("unseen", "seen") if kind in self.users or "both" in self.users)

    @field_validator("counterfactuals")
    @classmethod
    def _each_once(cls, kinds: tuple[HistoryKind, ...]) -> tuple[HistoryKind, ...]:
        return tuple(sorted(set(kinds)))

    @classmethod
    def complete(cls, given: JSON, sizes: Sizes) -> JSON:
        """Return the settings with defaults that fit the data's size.

        At most half of the history split is compared, so that there are prompts of it left to predict; a benchmark of
        128 prompts takes every default as it stands.

        Raises:
            ParameterError: If the history is set by hand: it follows from the shots.
        """
        values = given["prediction"]
        if sizes.users:
            fixed = {"shots": _RATED_SHOTS, "users": ("unseen",), "test_pairs": _RATED_TESTS}
            return given | {"prediction": (fixed if sizes.rated else {"test_pairs": None}) | values}
        pool, population, fields = given["pool"], given["population"], cls.model_fields
        half = max(1, sizes.history // 2)
        pool = {"n_users": _POOL_USERS, "pairs_per_user": min(_POOL_PAIRS, half)} | pool
        values = values | {name: list_of(values[name]) for name in ("shots", "users", "prompts") if name in values}
        if "shots" not in values:
            values["shots"] = tuple(k for k in fields["shots"].default if k <= half)
        if not pool["n_users"]:
            values.setdefault("users", ("unseen",))
        if population.get("kind") == "uniform" or population.get("n_users") == 1:
            values.setdefault("counterfactuals", ("flipped",))
        if isinstance(pool["n_users"], int) and pool["n_users"] > 0:
            values.setdefault("n_seen_users", min(fields["n_seen_users"].default, pool["n_users"]))
        # what is no list of numbers is left to the validation, whose message says what is wrong
        shots = [k for k in values["shots"] if isinstance(k, int)] if isinstance(values["shots"], (list, tuple)) else []
        most = max([0, *shots])
        if "test_pairs" not in values:
            compared = max(most, pool["pairs_per_user"] if isinstance(pool["pairs_per_user"], int) else 0)
            kinds = values.get("prompts", fields["prompts"].default)
            room = [sizes.queries] if "unseen" in kinds else []
            room += [sizes.history - compared] if "seen" in kinds and sizes.history > compared else []
            values["test_pairs"] = max(1, min([fields["test_pairs"].default, *room]))
        fixed = {"pairs": most, "nearest": 0, "counterfactual": "none"}
        for name, value in given["history"].items():
            if value != fixed.get(name, value):
                where = "counterfactuals" if name == "counterfactual" else "shots"
                raise ParameterError(f"history.{name}", f"left out in the predict track, see prediction.{where}", value)
        return given | {"pool": pool, "prediction": values, "history": given["history"] | fixed}

    def check(self, protocol: Any, sizes: Sizes) -> None:
        """Raise unless the data have the prompts and the pool has the users that are needed.

        Raises:
            ParameterError: If not; names the field, what there is and what was given.
        """
        if protocol.folds is not None:
            if "unseen" not in self.users or "both" in self.users:
                raise ParameterError("prediction.users", "with unseen ones where the users are people", self.users)
            return
        if protocol.prompts_per_user is not None:
            where = "left out in the predict track, see prediction.test_pairs"
            raise ParameterError("prompts_per_user", where, protocol.prompts_per_user)
        if "other-user" in self.counterfactuals and protocol.population.n_users < 2:
            raise ParameterError("prediction.counterfactuals", "without other-user for one user", "other-user")
        self._check_users(protocol)
        most, pool = max(self.shots), protocol.pool
        fixed = protocol.feedback.pairs_per_prompt
        if (fixed is not None or self.survey) and "seen" in self.prompts:
            expected = "unseen where prompts have fixed pairs or there is a survey"
            raise ParameterError("prediction.prompts", expected, self.prompts)
        if protocol.history != HistorySpec(pairs=most, nearest=0):
            expected = f"pairs {most} (the most shots), nearest 0, no counterfactual"
            raise ParameterError("history", expected, protocol.history)
        if fixed is None and most > sizes.history:
            raise ParameterError(
                "prediction.shots", f"at most the prompts of the history split ({sizes.history})", most
            )
        if self.survey and most > self.survey:
            raise ParameterError("prediction.shots", f"at most the questions of the survey ({self.survey})", most)
        compared = {"unseen": most, "seen": pool.pairs_per_user + (most if self.survey else 0)}
        left = {
            "unseen": sizes.queries * (fixed or 1),
            "seen": sizes.history - max(compared[kind] for kind in self.kinds),
        }
        for kind in self.prompts:
            for users in self.kinds:
                if left[kind] < (self.tests_of(users) or 1):
                    name = "seen_test_pairs" if users == "seen" and self.seen_test_pairs else "test_pairs"
                    limit = f"at most the {kind} prompts that a user has left ({max(0, left[kind])})"
                    raise ParameterError(f"prediction.{name}", limit, self.tests_of(users))

    def _check_users(self, protocol: Any) -> None:
        """Raise unless there are users of each kind."""
        pool, population = protocol.pool, protocol.population
        if "seen" in self.kinds and self.n_seen_users > pool.n_users:
            limit = f"at most the users of the pool ({pool.n_users})"
            raise ParameterError("prediction.n_seen_users", limit, self.n_seen_users)
        if pool.users == "population":
            if pool.n_users > population.n_users:
                limit = f"at most the users of the population, whom it is made of ({population.n_users})"
                raise ParameterError("pool.n_users", limit, pool.n_users)
            if "unseen" in self.kinds and pool.n_users >= (protocol.limit or population.n_users):
                raise ParameterError(
                    "prediction.users",
                    f"seen where all are in the pool (for new users pool.n_users must be below {population.n_users})",
                    self.users,
                )
