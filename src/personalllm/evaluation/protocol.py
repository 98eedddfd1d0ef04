"""The protocol: everything that defines a comparable number, frozen and hashed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import (
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from personalllm.core.crossed import MIN_USERS, Over
from personalllm.core.errors import ParameterError, UnknownName, UserError
from personalllm.core.storage import digest
from personalllm.core.types import JSON
from personalllm.evaluation.parts import (
    FeedbackSpec,
    FoldSpec,
    Frozen,
    HistorySpec,
    Options,
    PoolSpec,
    PopulationSpec,
    Sizes,
    options_of,
    track_options,
)
from personalllm.evaluation.settings import expand, merge, not_of_track, parts, short_forms
from personalllm.evaluation.sizes import (
    Data,
    benchmark_sizes,
    check_people,
    default_reference,
    holds_people,
    people_sizes,
)

if TYPE_CHECKING:
    from personalllm.data import Benchmark

__all__ = ["METRICS_VERSION", "NAMES_ONLY", "RUN_FORMAT", "Protocol", "fingerprint_of"]

METRICS_VERSION: Literal[1] = 1
"""Raised whenever the same protocol could give another number; part of every fingerprint."""

RUN_FORMAT = 3
"""Version of the files of a run; part of every fingerprint, so that no run is continued in another format."""

NAMES_ONLY = ("benchmark", "preset")
"""Fields for readers, which the fingerprint leaves out."""

_SIMULATED = (
    *("split", "history_split", "population", "pool", "history", "feedback", "prompts_per_user", "limit"),
    *("standardiser", "reference_response_model", "users_per_shard"),
)
"""Fields that mean nothing for people."""


class Protocol(Frozen):
    """All that could change a number, and nothing that could not; make it with `Protocol.for_data`.

    Two runs are comparable if and only if their protocols have the same `fingerprint`.

    Attributes:
        metrics_version: Version of the metrics and of this schema.
        track: Name of the track: `rank` chooses among the stored responses, `generate` writes new ones that the RMs
            score, `predict` says which of two responses a user prefers.
        benchmark: Name of the benchmark or of the people's preferences; not part of the fingerprint.
        benchmark_fingerprint: SHA-256 of its content.
        preset: Id of the preset that it was made from, whatever was changed since; not part of the fingerprint.
        split: Split of the queries.
        history_split: Split of all histories; differs from `split`, so that no answer can leak.
        population: The target users.
        folds: How people are divided; None for simulated users. With people, the fields of simulated users
            (population, pool, history, feedback, splits, standardiser, reference) mean nothing and are left out.
        pool: The other users.
        history: What is known of a target user.
        feedback: How preference pairs arise.
        options: Settings that only this track has; in JSON under the name of their part, e.g. `prediction`.
        prompts_per_user: Prompts asked by each user; None = every prompt of the split (rank track only).
        limit: Only the first users of the population; None = all, and a limit that leaves nobody out becomes None.
        standardiser: `train` (fitted on the history split), `published` (the paper's constants) or `none` (raw
            scores, so that an RM of larger scale weighs more).
        reference_response_model: The response model that `win_rate_reference` compares with.
        users_per_shard: Users ranked at once.
        seed: Seed of prompts, histories, feedback, column order and sampling.
        intervals: What intervals and tests take to be drawn at random: `users and prompts`; `users`, the prompts fixed
            (by resampling); `prompts`, the users fixed, which is the default where users are few and fixed.
        bootstrap_draws: Resamples of the users behind each interval over users alone.
        embedder: Identity of the bound embedder, if any.
        llm: Identity of the bound chat model, if any.
        rewards: Identity of the bound reward ensemble, if any.
    """

    metrics_version: Literal[1] = METRICS_VERSION
    track: str
    benchmark: str
    benchmark_fingerprint: str
    preset: str | None = None
    split: str = "test"
    history_split: str = "train"
    population: PopulationSpec = PopulationSpec()
    folds: FoldSpec | None = None
    pool: PoolSpec = PoolSpec()
    history: HistorySpec = HistorySpec()
    feedback: FeedbackSpec = FeedbackSpec()
    options: SerializeAsAny[Options] | None = None
    prompts_per_user: int | None = Field(default=None, ge=1)
    limit: int | None = Field(default=None, ge=1)
    standardiser: Literal["train", "published", "none"] = "train"
    reference_response_model: str | None = None
    users_per_shard: int = Field(default=200, ge=1)
    seed: int = 0
    intervals: Over = "users and prompts"
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
    def _serialized(self, handler: SerializerFunctionWrapHandler) -> JSON:
        """Put the options under the name of their part, and leave out what means nothing for these users."""
        values: JSON = {}
        for name, value in handler(self).items():
            if name == "options":
                values |= {self.options.part: value} if self.options else {}
            elif not (name in _SIMULATED if self.folds else name == "folds"):
                values[name] = value
        return values

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the SHA-256 of the canonical JSON, the names of data and preset left out.

        The names are for readers: the fingerprint of the data is what counts, and the values of the preset.
        """
        return fingerprint_of(self.spec())

    @property
    def signals(self) -> bool:
        """Whether methods may use the scores of the RMs."""
        return self.options is not None and self.options.signals

    def spec(self) -> JSON:
        """Return the protocol as replayable JSON."""
        return self.model_dump(mode="json")

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Self:
        """Build a protocol from its JSON.

        Raises:
            ParameterError: If a field is unknown, missing or out of range, or the options are another track's.
            UnknownName: If there is no such track.
        """
        values = dict(spec)
        people = values.get("folds") is not None
        options = options_of(values["track"], people=people) if "track" in values else None
        for part in track_options():
            if values.get(part) is not None and (options is None or part != options.part):
                raise not_of_track(part, values["track"], values[part])
            given = values.pop(part, None)
            if options is not None and part == options.part:
                try:
                    values["options"] = options.model_validate(given or {})
                except ValidationError as error:
                    raise _parameter_error(error, part) from None
        try:
            return cls.model_validate(values)
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
    def for_data(cls, data: Data, /, *, track: str | None = None, **overrides: Any) -> Self:
        """Return the protocol for a benchmark or for people's preferences, with defaults that fit the size.

        Args:
            data: What to evaluate on.
            track: `rank`, `generate`, `predict` or a plug-in's; None: `rank` on a benchmark, `predict` on people.
            **overrides: As for `for_benchmark` and `for_people`.

        Raises:
            ParameterError: If a value is unknown or out of range; names it, the range and what was given.
            DataError: If a benchmark has no rows in a split that the protocol needs.
        """
        if holds_people(data):
            return cls.for_people(data, track=track or "predict", **overrides)
        return cls.for_benchmark(data, track=track or "rank", **overrides)

    @classmethod
    def for_benchmark(cls, benchmark: Benchmark, /, *, track: str = "rank", **overrides: Any) -> Self:
        """Return the protocol of a benchmark, with defaults that fit its size.

        Args:
            benchmark: What to evaluate on.
            track: Name of the track.
            **overrides: Any field; a nested one as an object or a mapping of the values to change. Short forms:
                `n_users`, `alpha`, `pairs`, `nearest`, `counterfactual`, `pool_users`, `pool_pairs`, those of the
                track (`max_tokens`, `temperature`, `shots`, `test_pairs`, `seen_users`); and `seed`, which seeds the
                users and the pool too.

        Raises:
            ParameterError, DataError: As `for_data`.
        """
        values, nested = expand(overrides)
        if nested.pop("folds"):
            raise ParameterError("folds", "left out on a benchmark (they divide people)", overrides.get("folds"))
        splits = str(values.get("history_split", "train")), str(values.get("split", "test"))
        sizes = benchmark_sizes(benchmark, *splits)
        given = _complete(benchmark, track, values, nested, sizes)
        n = sizes.history
        given["history"] = {"pairs": min(5, n), "nearest": min(5, n)} | given["history"]
        given["pool"] = {"pairs_per_user": min(50, n)} | given["pool"]
        chosen = given["population"].get("reward_models") or benchmark.reward_models
        fixed = {"one-per-reward-model": len(chosen), "uniform": 1}
        kind = given["population"].get("kind")
        if kind in fixed:
            given["population"]["n_users"] = fixed[kind]
            given.setdefault("intervals", "prompts")
        if given.get("reference_response_model") is None:
            given["reference_response_model"] = default_reference(benchmark)
        protocol = cls.from_spec(given)
        protocol.check(benchmark)
        return protocol

    @classmethod
    def for_people(cls, people: Data, /, *, track: str = "predict", **overrides: Any) -> Self:
        """Return the protocol of people's preferences.

        Args:
            people: Their preferences, or their ratings.
            track: A track that people can be evaluated in.
            **overrides: `seed`, `bootstrap_draws`, `preset`, `user_folds`, `prompt_folds`, `folds`, and the options of
                the track, e.g. `shots` and `test_pairs`.

        Raises:
            ParameterError: As `for_data`, and if a value means nothing for people.
        """
        values, nested = expand(overrides)
        # `seed` alone seeds population and pool, which sets no simulated users
        parts_given = {name for name, fields in nested.items() if set(fields) - {"seed"}}
        simulated = [name for name in _SIMULATED if values.get(name) is not None or name in parts_given]
        if simulated:
            name = simulated[0]
            raise ParameterError(
                name, "left out with people (it sets simulated users)", overrides.get(name, nested.get(name))
            )
        check_people(people, track)
        sizes = people_sizes(people)
        nested["folds"] = FoldSpec.complete(nested["folds"], rated=sizes.rated)
        given = _complete(people, track, values, nested, sizes)
        if people.n_users < MIN_USERS:
            given.setdefault("intervals", "prompts")
        protocol = cls.from_spec({name: value for name, value in given.items() if name not in _SIMULATED})
        protocol.check(people)
        return protocol

    def changed(self, data: Data, /, **overrides: Any) -> Self:
        """Return the protocol with some fields changed, checked against the data it was made for.

        Args:
            data: The benchmark, or the people's preferences.
            **overrides: As for `for_data`.

        Raises:
            ParameterError, UserError: As `for_data` and `check`.
        """
        self.check(data)
        fixed = {"metrics_version", "benchmark", "benchmark_fingerprint"}
        spec = {name: value for name, value in self.spec().items() if name not in fixed}
        return self.for_data(data, **merge(spec, overrides))

    def check(self, data: Data) -> None:
        """Raise unless the protocol can be run on data.

        Raises:
            ParameterError: If more prompts are requested than there are, or both splits are the same.
            UserError: If the protocol was made for other data.
            UnknownName: If the reference response model wrote no response.
        """
        if self.benchmark_fingerprint != data.fingerprint:
            raise UserError(
                f"The protocol was made for {self.benchmark!r} with fingerprint {self.benchmark_fingerprint[:16]}, but "
                f"{data.name!r} has {data.fingerprint[:16]}.",
                "Load the data that the protocol names, or make a protocol with Protocol.for_data().",
            )
        options = options_of(self.track, people=self.folds is not None)
        if type(self.options) is not (type(None) if options is None else options):
            raise ParameterError("options", f"those of the {self.track} track", self.options)
        if self.folds is not None:
            if self.options is not None:
                self.options.check(self, people_sizes(data))
            return
        self._check_benchmark(data)

    def _check_benchmark(self, benchmark: Benchmark) -> None:
        if self.split == self.history_split:
            raise ParameterError("split", f"another split than the histories ({self.history_split!r})", self.split)
        sizes = benchmark_sizes(benchmark, self.history_split, self.split)
        if self.options is not None:
            self.options.check(self, sizes)
        for name in self.population.reward_models:
            if name not in benchmark.reward_models:
                raise UnknownName("reward model", name, benchmark.reward_models)
        fixed = self.feedback.pairs_per_prompt
        counted = "number of prompts of its split" if fixed is None else f"{fixed} pairs of each prompt of its split"
        for name, value, upper in (
            ("pairs", self.history.pairs, sizes.history * (fixed or 1)),
            ("nearest", self.history.nearest, sizes.history),
            ("pool_pairs", self.pool.pairs_per_user, sizes.history * (fixed or 1)),
            ("prompts_per_user", self.prompts_per_user or 0, sizes.queries),
        ):
            if value > upper:
                raise ParameterError(name, f"at most the {counted} ({upper})", value)
        if self.history.counterfactual == "other-user" and self.population.n_users < 2:
            raise ParameterError("history.counterfactual", "another one where there is only one user", "other-user")
        if self.reference_response_model not in benchmark.response_models:
            raise UnknownName("response model", str(self.reference_response_model), benchmark.response_models)


def fingerprint_of(spec: Mapping[str, Any]) -> str:
    """Return the fingerprint of a protocol's JSON."""
    content = {name: value for name, value in spec.items() if name not in NAMES_ONLY}
    return digest(content | {"run_format": RUN_FORMAT})


def _complete(data: Data, track: str, values: JSON, nested: dict[str, dict[str, Any]], sizes: Sizes) -> JSON:
    """Return settings with the defaults of their track that depend on the sizes.

    Raises:
        ParameterError: If options of another track are given.
    """
    options = options_of(track, people=holds_people(data))
    for part in track_options():
        if options is None or part != options.part:
            if nested[part]:
                raise not_of_track(part, track, nested[part])
            del nested[part]
    given = {**values, "track": track, "benchmark": data.name, "benchmark_fingerprint": data.fingerprint, **nested}
    return given if options is None else options.complete(given, sizes)


def _fields_instead(name: str) -> str:
    """Return the fields (without a dot: and short forms) that an unknown one may stand for: the nearest, or all."""
    part, dot, field = name.rpartition(".")
    if dot:
        classes = track_options() | {"folds": FoldSpec}
        fields = [*(classes.get(part) or type(Protocol.model_fields[part].default)).model_fields]
    else:
        fields = sorted({*Protocol.model_fields, *parts(), *short_forms()} - {"options"})
    near = UnknownName.nearest(field, fields)
    if near:
        return f"did you mean {' or '.join(f'{part}{dot}{other}' for other in near)}?"
    return ", ".join(f"{part}{dot}{other}" for other in fields)


def _parameter_error(error: ValidationError, part: str = "") -> ParameterError:
    """Turn the first complaint of pydantic into ours.

    Args:
        error: Of pydantic.
        part: Part of the protocol that was validated; empty for the protocol itself.
    """
    first = error.errors(include_url=False)[0]
    fields = [str(at) for at in (part, *first["loc"]) if str(at).isidentifier() or isinstance(at, int)]
    name = ".".join(fields) or "protocol"
    if first["type"] == "extra_forbidden":
        return ParameterError(name, f"a field of the protocol ({_fields_instead(name)})", first["input"])
    if first["type"] == "missing":
        return ParameterError(name, "given", None)
    allowed = first["msg"].removeprefix("Input should be ")
    return ParameterError(name, allowed, first["input"])
