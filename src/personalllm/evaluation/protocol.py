"""The protocol: everything that defines a comparable number, frozen and hashed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from personalllm.errors import DataError, ParameterError, UnknownName, UserError
from personalllm.storage import digest
from personalllm.types import JSON

if TYPE_CHECKING:
    from personalllm.data import Benchmark

__all__ = [
    "METRICS_VERSION",
    "FeedbackSpec",
    "GenerationSpec",
    "HistorySpec",
    "PoolSpec",
    "PopulationSpec",
    "Protocol",
]

METRICS_VERSION: Literal[1] = 1
"""Raised whenever the same protocol could give another number; part of every fingerprint."""

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PopulationSpec(_Frozen):
    """Which target users are evaluated (paper, section 2).

    Attributes:
        kind: `dirichlet` draws weights from Dirichlet(alpha); `published` is the paper's population to the last bit;
            `one-per-reward-model` has one user for each RM; `uniform` is the single user of equal weights.
        alpha: Concentration, or one value for each RM; > 0.
        n_users: Number of users, >= 1 (set by the kind itself for the last two).
        seed: Seed of the draw.
    """

    kind: Literal["dirichlet", "published", "one-per-reward-model", "uniform"] = "dirichlet"
    alpha: Positive | tuple[Positive, ...] = 0.05
    n_users: int = Field(default=1000, ge=1)
    seed: int = 0


class PoolSpec(_Frozen):
    """The other users, whose histories `fit` gets: drawn like the targets with another seed (paper, section 4).

    Attributes:
        n_users: Number of users, >= 0.
        pairs_per_user: Random train prompts with feedback of each, >= 1.
        seed: Seed of the users, their prompts and their feedback.
    """

    n_users: int = Field(default=10_000, ge=0)
    pairs_per_user: int = Field(default=50, ge=1)
    seed: int = 0


class HistorySpec(_Frozen):
    """What is known of each target user (paper, section 4).

    Attributes:
        pairs: Random train prompts with feedback, for algorithms whose `history` is "random"; >= 0.
        nearest: Train prompts nearest to the query, for algorithms whose `history` is "nearest"; >= 0.
    """

    pairs: int = Field(default=5, ge=0)
    nearest: int = Field(default=5, ge=0)


class FeedbackSpec(_Frozen):
    """How a user turns utilities into a preference pair; the arguments of `personalllm.feedback.FeedbackRule`."""

    pairs: Literal["best-vs-worst", "random", "ranks", "contested"] = "best-vs-worst"
    ranks: tuple[int, int] = (0, -1)
    temperature: float = Field(default=0.0, ge=0)
    flip: float = Field(default=0.0, ge=0, le=1)
    tie_margin: float = Field(default=0.0, ge=0)


class GenerationSpec(_Frozen):
    """How the chat model is run in the generate track.

    Attributes:
        max_tokens: Most new tokens, >= 1.
        temperature: 0 is greedy decoding.
        top_p: Nucleus mass in (0, 1].
        requests_per_chunk: Requests handed to the chat model at once, and kept on disk as one part.
    """

    max_tokens: int = Field(default=256, ge=1)
    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    requests_per_chunk: int = Field(default=8, ge=1)


_SHORT: dict[str, tuple[tuple[str, str], ...]] = {
    "n_users": (("population", "n_users"),),
    "alpha": (("population", "alpha"),),
    "pairs": (("history", "pairs"),),
    "nearest": (("history", "nearest"),),
    "pool_users": (("pool", "n_users"),),
    "pool_pairs": (("pool", "pairs_per_user"),),
    "max_tokens": (("generation", "max_tokens"),),
    "temperature": (("generation", "temperature"),),
    "seed": (("", "seed"), ("population", "seed"), ("pool", "seed")),
}
_PARTS = ("population", "pool", "history", "feedback", "generation")


class Protocol(_Frozen):
    """All that could change a number, and nothing that could not; make it with `Protocol.for_benchmark`.

    Two runs are comparable if and only if their protocols have the same `fingerprint`.

    Attributes:
        metrics_version: Version of the metrics and of this schema.
        track: `rank` chooses among the stored responses, `generate` writes new ones that the RMs score.
        benchmark: Name of the benchmark, for people; not part of the fingerprint.
        benchmark_fingerprint: SHA-256 of its content.
        split: Split of the queries.
        history_split: Split of all histories; differs from `split`, so that no answer can leak.
        population: The target users.
        pool: The other users.
        history: What is known of a target user.
        feedback: How preference pairs arise.
        generation: How the chat model is run.
        prompts_per_user: Prompts asked by each user; None = every prompt of the split (rank track only).
        limit: Only the first users of the population; None = all, and a limit that leaves nobody out becomes None.
        standardiser: `train` (fitted on the history split) or `published` (the paper's constants).
        reference_response_model: The response model that `win_rate_reference` compares with.
        users_per_shard: Users ranked at once.
        seed: Seed of prompts, histories, feedback, column order and sampling.
        bootstrap_draws: Resamples of the users behind each interval.
        embedder: Identity of the bound embedder, if any.
        llm: Identity of the bound chat model, if any.
        rewards: Identity of the bound reward ensemble, if any.
    """

    metrics_version: Literal[1] = METRICS_VERSION
    track: Literal["rank", "generate"]
    benchmark: str
    benchmark_fingerprint: str
    split: str = "test"
    history_split: str = "train"
    population: PopulationSpec = PopulationSpec()
    pool: PoolSpec = PoolSpec()
    history: HistorySpec = HistorySpec()
    feedback: FeedbackSpec = FeedbackSpec()
    generation: GenerationSpec | None = None
    prompts_per_user: int | None = Field(default=None, ge=1)
    limit: int | None = Field(default=None, ge=1)
    standardiser: Literal["train", "published"] = "train"
    reference_response_model: str
    users_per_shard: int = Field(default=200, ge=1)
    seed: int = 0
    bootstrap_draws: int = Field(default=2000, ge=100)
    embedder: str | None = None
    llm: str | None = None
    rewards: str | None = None

    @field_validator("limit")
    @classmethod
    def _limits_something(cls, limit: int | None, info: ValidationInfo) -> int | None:
        population = info.data.get("population")
        return None if limit is None or (population and limit >= population.n_users) else limit

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the SHA-256 of the canonical JSON, the benchmark's name left out.

        The name is for people: the content's own fingerprint is what counts.
        """
        return digest({name: value for name, value in self.spec().items() if name != "benchmark"})

    def spec(self) -> JSON:
        """Return the protocol as replayable JSON."""
        return self.model_dump(mode="json")

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Self:
        """Build a protocol from its JSON.

        Raises:
            ParameterError: If a field is unknown, missing or out of range.
        """
        try:
            return cls.model_validate(dict(spec))
        except ValidationError as error:
            raise _parameter_error(error) from None

    def bind(self, *, embedder: str | None = None, llm: str | None = None, rewards: str | None = None) -> Self:
        """Return the protocol with the identities of the backends filled in.

        Raises:
            UserError: If it is bound to another backend already.
        """
        given = {"embedder": embedder, "llm": llm, "rewards": rewards}
        for name, identity in given.items():
            bound = getattr(self, name)
            if bound is not None and bound != identity:
                raise UserError(
                    f"The protocol is bound to the {name} {bound!r}, but {identity!r} was given.",
                    f"Pass the {name} that the protocol names, or make a new protocol.",
                )
        return self.model_copy(update=given)

    @classmethod
    def for_benchmark(
        cls, benchmark: Benchmark, *, track: Literal["rank", "generate"] = "rank", **overrides: Any
    ) -> Self:
        """Return the protocol of a benchmark, with defaults that fit its size.

        Args:
            benchmark: What to evaluate on.
            track: `rank` or `generate`.
            **overrides: Any field; a nested one as an object or a mapping of the values to change. Short forms:
                `n_users`, `alpha`, `pairs`, `nearest`, `pool_users`, `pool_pairs`, `max_tokens`, `temperature`; and
                `seed`, which seeds the users and the pool too.

        Raises:
            ParameterError: If a value is unknown or out of range; names it, the range and what was given.
            DataError: If the benchmark has no rows in a split that the protocol needs.
        """
        values, nested = _expand(overrides)
        values |= {"track": track, "benchmark": benchmark.name, "benchmark_fingerprint": benchmark.fingerprint}
        known = _rows(benchmark, str(values.get("history_split", "train")))
        asked = _rows(benchmark, str(values.get("split", "test")))
        nested["history"] = {"pairs": min(5, known), "nearest": min(5, known)} | nested["history"]
        nested["pool"] = {"pairs_per_user": min(50, known)} | nested["pool"]
        if track == "generate":
            values.setdefault("prompts_per_user", 1)
        elif nested["generation"]:
            raise ParameterError("generation", "left out in the rank track", nested["generation"])
        for part in _PARTS:
            values[part] = nested[part]
        if track != "generate":
            del values["generation"]
        sized = {"one-per-reward-model": len(benchmark.reward_models), "uniform": 1}
        kind = nested["population"].get("kind")
        if kind in sized:
            nested["population"]["n_users"] = sized[kind]
        values.setdefault("reference_response_model", _default_reference(benchmark))
        protocol = cls.from_spec(values)
        protocol.check(benchmark, known=known, asked=asked)
        return protocol

    def check(self, benchmark: Benchmark, *, known: int | None = None, asked: int | None = None) -> None:
        """Raise unless the protocol can be run on a benchmark.

        Raises:
            ParameterError: If more prompts are asked for than there are, or both splits are the same.
            UserError: If the protocol was made for another benchmark.
            UnknownName: If the reference response model wrote no response.
        """
        known = _rows(benchmark, self.history_split) if known is None else known
        asked = _rows(benchmark, self.split) if asked is None else asked
        if self.split == self.history_split:
            raise ParameterError("split", f"another split than the histories ({self.history_split!r})", self.split)
        for name, value, upper in (
            ("pairs", self.history.pairs, known),
            ("nearest", self.history.nearest, known),
            ("pool_pairs", self.pool.pairs_per_user, known),
            ("prompts_per_user", self.prompts_per_user or 0, asked),
        ):
            if value > upper:
                raise ParameterError(name, f"at most the number of prompts of its split ({upper})", value)
        if self.track == "generate" and self.prompts_per_user is None:
            raise ParameterError("prompts_per_user", "an integer >= 1 in the generate track", None)
        if (self.track == "generate") != (self.generation is not None):
            raise ParameterError("generation", "given in the generate track, and only there", self.generation)
        if self.benchmark_fingerprint != benchmark.fingerprint:
            raise UserError(
                f"The protocol was made for the benchmark {self.benchmark!r} with fingerprint "
                f"{self.benchmark_fingerprint[:16]}, but {benchmark.name!r} has {benchmark.fingerprint[:16]}.",
                "Load the benchmark that the protocol names, or make a protocol with Protocol.for_benchmark().",
            )
        if self.reference_response_model not in benchmark.response_models:
            raise UnknownName("response model", self.reference_response_model, benchmark.response_models)


def _rows(benchmark: Benchmark, split: str) -> int:
    """Return the number of prompts of a split, at least 1."""
    if split not in benchmark.splits or not len(benchmark.splits[split]):
        raise DataError(
            f"The benchmark {benchmark.name!r} has no prompts in the split {split!r}; "
            f"it has {', '.join(sorted(benchmark.splits)) or 'none'}.",
            "Mark rows in the column `split` as 'train' (histories) and 'test' (queries), or name other splits.",
        )
    return len(benchmark.splits[split])


def _expand(overrides: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Split overrides into top-level values and changes of the nested parts."""
    values: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {part: {} for part in _PARTS}
    for name, value in overrides.items():
        if name in _PARTS:
            nested[name].update(value.model_dump() if isinstance(value, BaseModel) else dict(value or {}))
        elif name not in _SHORT:
            values[name] = value
    for name in _SHORT.keys() & overrides.keys():
        for part, field in _SHORT[name]:
            if part:
                nested[part].setdefault(field, overrides[name])
            else:
                values[field] = overrides[name]
    return values, nested


def _default_reference(benchmark: Benchmark) -> str:
    """Return the response model that the benchmark names, or the one with the best mean standardised score."""
    named = benchmark.metadata.get("reference_response_model")
    if named is not None:
        return str(named)
    from personalllm.data import Standardiser

    table = benchmark.score_table(Standardiser.fit(benchmark, split="train"), benchmark.rows("train"))
    means = table.values.mean(axis=2, dtype=np.float64)
    models = benchmark.response_model_index[benchmark.rows("train")]
    totals = np.bincount(models.ravel(), means.ravel(), minlength=len(benchmark.response_models))
    counts = np.bincount(models.ravel(), minlength=len(benchmark.response_models))
    return benchmark.response_models[int(np.argmax(np.where(counts > 0, totals / np.maximum(counts, 1), -np.inf)))]


def _parameter_error(error: ValidationError) -> ParameterError:
    """Turn the first complaint of pydantic into ours."""
    first = error.errors(include_url=False)[0]
    fields = [str(part) for part in first["loc"] if str(part).isidentifier() or isinstance(part, int)]
    name = ".".join(fields) or "protocol"
    if first["type"] == "extra_forbidden":
        known = ", ".join(sorted({*Protocol.model_fields, *_SHORT}))
        return ParameterError(name, f"a field of the protocol ({known})", first["input"])
    if first["type"] == "missing":
        return ParameterError(name, "given", None)
    allowed = first["msg"].removeprefix("Input should be ")
    return ParameterError(name, allowed, first["input"])
