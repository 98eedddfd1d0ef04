"""The protocol: everything that defines a comparable number, frozen and hashed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

import numpy as np
from pydantic import (
    BaseModel,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from personalllm.core.errors import DataError, ParameterError, UnknownName, UserError
from personalllm.core.storage import digest
from personalllm.core.types import JSON
from personalllm.evaluation.prediction.sizes import check_prediction, fit_prediction
from personalllm.evaluation.settings import PARTS, SHORT, expand, merge
from personalllm.evaluation.specs import (
    FeedbackSpec,
    Frozen,
    GenerationSpec,
    HistorySpec,
    PoolSpec,
    PopulationSpec,
    PredictionSpec,
)

if TYPE_CHECKING:
    from personalllm.data import Benchmark

__all__ = ["METRICS_VERSION", "NAMES_ONLY", "Protocol", "TrackName"]

TrackName: TypeAlias = Literal["rank", "generate", "predict"]

METRICS_VERSION: Literal[1] = 1
"""Raised whenever the same protocol could give another number; part of every fingerprint."""

NAMES_ONLY = ("benchmark", "preset")
"""Fields for people, which the fingerprint leaves out."""


class Protocol(Frozen):
    """All that could change a number, and nothing that could not; make it with `Protocol.for_benchmark`.

    Two runs are comparable if and only if their protocols have the same `fingerprint`.

    Attributes:
        metrics_version: Version of the metrics and of this schema.
        track: `rank` chooses among the stored responses, `generate` writes new ones that the RMs score, `predict` says
            which of two responses a user prefers.
        benchmark: Name of the benchmark, for people; not part of the fingerprint.
        benchmark_fingerprint: SHA-256 of its content.
        preset: Id of the preset that it was made from, whatever was changed since; not part of the fingerprint.
        split: Split of the queries.
        history_split: Split of all histories; differs from `split`, so that no answer can leak.
        population: The target users.
        pool: The other users.
        history: What is known of a target user.
        feedback: How preference pairs arise.
        generation: How the chat model is run; given in the generate track, and only there.
        prediction: What is predicted, after how many comparisons; given in the predict track, and only there.
        prompts_per_user: Prompts asked by each user; None = every prompt of the split (rank track only).
        limit: Only the first users of the population; None = all, and a limit that leaves nobody out becomes None.
        standardiser: `train` (fitted on the history split), `published` (the paper's constants) or `none` (raw
            scores, so that an RM of larger scale weighs more).
        reference_response_model: The response model that `win_rate_reference` compares with.
        users_per_shard: Users ranked at once.
        seed: Seed of prompts, histories, feedback, column order and sampling.
        bootstrap_draws: Resamples of the users behind each interval.
        embedder: Identity of the bound embedder, if any.
        llm: Identity of the bound chat model, if any.
        rewards: Identity of the bound reward ensemble, if any.
    """

    metrics_version: Literal[1] = METRICS_VERSION
    track: TrackName
    benchmark: str
    benchmark_fingerprint: str
    preset: str | None = None
    split: str = "test"
    history_split: str = "train"
    population: PopulationSpec = PopulationSpec()
    pool: PoolSpec = PoolSpec()
    history: HistorySpec = HistorySpec()
    feedback: FeedbackSpec = FeedbackSpec()
    generation: GenerationSpec | None = None
    prediction: PredictionSpec | None = None
    prompts_per_user: int | None = Field(default=None, ge=1)
    limit: int | None = Field(default=None, ge=1)
    standardiser: Literal["train", "published", "none"] = "train"
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

    @model_serializer(mode="wrap")
    def _without_what_came_later(self, handler: SerializerFunctionWrapHandler) -> JSON:
        """Leave `prediction` out where it is not given, so that older protocols keep their fingerprints."""
        values: JSON = handler(self)
        if values.get("prediction") is None:
            values.pop("prediction", None)
        return values

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the SHA-256 of the canonical JSON, the names of benchmark and preset left out.

        The names are for people: the benchmark's own fingerprint is what counts, and the values of the preset.
        """
        return digest({name: value for name, value in self.spec().items() if name not in NAMES_ONLY})

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
    def for_benchmark(cls, benchmark: Benchmark, /, *, track: TrackName = "rank", **overrides: Any) -> Self:
        """Return the protocol of a benchmark, with defaults that fit its size.

        Args:
            benchmark: What to evaluate on.
            track: `rank`, `generate` or `predict`.
            **overrides: Any field; a nested one as an object or a mapping of the values to change. Short forms:
                `n_users`, `alpha`, `pairs`, `nearest`, `counterfactual`, `pool_users`, `pool_pairs`, `max_tokens`,
                `temperature`, `shots`, `test_pairs`, `seen_users`; and `seed`, which seeds the users and the pool too.

        Raises:
            ParameterError: If a value is unknown or out of range; names it, the range and what was given.
            DataError: If the benchmark has no rows in a split that the protocol needs.
        """
        values, nested = expand(overrides)
        values |= {"track": track, "benchmark": benchmark.name, "benchmark_fingerprint": benchmark.fingerprint}
        known = _rows(benchmark, str(values.get("history_split", "train")))
        asked = _rows(benchmark, str(values.get("split", "test")))
        if track == "predict":
            fit_prediction(nested, known, asked)
        nested["history"] = {"pairs": min(5, known), "nearest": min(5, known)} | nested["history"]
        nested["pool"] = {"pairs_per_user": min(50, known)} | nested["pool"]
        if track == "generate":
            values.setdefault("prompts_per_user", 1)
        for part, owner in (("generation", "generate"), ("prediction", "predict")):
            if track != owner and nested[part]:
                told = f"left out in the {track} track (it is of the {owner} track: --track {owner})"
                raise ParameterError(part, told, nested[part])
        for part in PARTS:
            values[part] = nested[part]
        for part, owner in (("generation", "generate"), ("prediction", "predict")):
            if track != owner:
                del values[part]
        sized = {"one-per-reward-model": len(benchmark.reward_models), "uniform": 1}
        kind = nested["population"].get("kind")
        if kind in sized:
            nested["population"]["n_users"] = sized[kind]
        values.setdefault("reference_response_model", _default_reference(benchmark))
        protocol = cls.from_spec(values)
        protocol.check(benchmark, known=known, asked=asked)
        return protocol

    def changed(self, benchmark: Benchmark, /, **overrides: Any) -> Self:
        """Return the protocol with some fields changed, checked against the benchmark it was made for.

        Args:
            benchmark: The benchmark.
            **overrides: As for `for_benchmark`.

        Raises:
            ParameterError: If a value is unknown or out of range; names it, the range and what was given.
            UserError: If the protocol was made for another benchmark.
        """
        self.check(benchmark)
        own = {"metrics_version", "benchmark", "benchmark_fingerprint"}
        spec = {name: value for name, value in self.spec().items() if name not in own}
        return self.for_benchmark(benchmark, **merge(spec, overrides))

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
        self._check_parts(known, asked)
        for name, value, upper in (
            ("pairs", self.history.pairs, known),
            ("nearest", self.history.nearest, known),
            ("pool_pairs", self.pool.pairs_per_user, known),
            ("prompts_per_user", self.prompts_per_user or 0, asked),
        ):
            if value > upper:
                raise ParameterError(name, f"at most the number of prompts of its split ({upper})", value)
        if self.history.counterfactual == "other-user" and self.population.n_users < 2:
            raise ParameterError("history.counterfactual", "another one where there is but one user", "other-user")
        if self.track == "generate" and self.prompts_per_user is None:
            raise ParameterError("prompts_per_user", "an integer >= 1 in the generate track", None)
        if self.benchmark_fingerprint != benchmark.fingerprint:
            raise UserError(
                f"The protocol was made for the benchmark {self.benchmark!r} with fingerprint "
                f"{self.benchmark_fingerprint[:16]}, but {benchmark.name!r} has {benchmark.fingerprint[:16]}.",
                "Load the benchmark that the protocol names, or make a protocol with Protocol.for_benchmark().",
            )
        if self.reference_response_model not in benchmark.response_models:
            raise UnknownName("response model", self.reference_response_model, benchmark.response_models)

    def _check_parts(self, known: int, asked: int) -> None:
        """Raise unless the parts that belong to one track are given there, and only there."""
        for part, owner in (("generation", "generate"), ("prediction", "predict")):
            if (self.track == owner) != (getattr(self, part) is not None):
                raise ParameterError(part, f"given in the {owner} track, and only there", getattr(self, part))
        if self.prediction is None:
            return
        check_prediction(self.prediction, self.history, self.pool, known=known, asked=asked)
        if self.prompts_per_user is not None:
            raise ParameterError(
                "prompts_per_user", "left out in the predict track, see prediction.test_pairs", self.prompts_per_user
            )
        if "other-user" in self.prediction.counterfactuals and self.population.n_users < 2:
            raise ParameterError("prediction.counterfactuals", "without other-user for one user", "other-user")


def _rows(benchmark: Benchmark, split: str) -> int:
    """Return the number of prompts of a split, at least 1."""
    if split not in benchmark.splits or not len(benchmark.splits[split]):
        raise DataError(
            f"The benchmark {benchmark.name!r} has no prompts in the split {split!r}; "
            f"it has {', '.join(sorted(benchmark.splits)) or 'none'}.",
            "Mark rows in the column `split` as 'train' (histories) and 'test' (queries), or name other splits.",
        )
    return len(benchmark.splits[split])


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


def _known(name: str) -> str:
    """Return the fields that stand beside one: those of its part, or the protocol's own and the short forms."""
    part, dot, _ = name.partition(".")
    if not dot:
        return ", ".join(sorted({*Protocol.model_fields, *SHORT}))
    later: dict[str, type[BaseModel]] = {"generation": GenerationSpec, "prediction": PredictionSpec}
    spec = later.get(part) or type(Protocol.model_fields[part].default)
    return ", ".join(f"{part}.{field}" for field in spec.model_fields)


def _parameter_error(error: ValidationError) -> ParameterError:
    """Turn the first complaint of pydantic into ours."""
    first = error.errors(include_url=False)[0]
    fields = [str(part) for part in first["loc"] if str(part).isidentifier() or isinstance(part, int)]
    name = ".".join(fields) or "protocol"
    if first["type"] == "extra_forbidden":
        return ParameterError(name, f"a field of the protocol ({_known(name)})", first["input"])
    if first["type"] == "missing":
        return ParameterError(name, "given", None)
    allowed = first["msg"].removeprefix("Input should be ")
    return ParameterError(name, allowed, first["input"])
