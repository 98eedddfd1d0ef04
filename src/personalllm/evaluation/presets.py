"""Named protocols: the settings of the paper's experiments, as data, and what a protocol changes of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from personalllm.errors import UnknownName, UserError
from personalllm.evaluation.protocol import Protocol
from personalllm.evaluation.settings import NOT_SET, PARTS, flatten, merge
from personalllm.types import JSON

if TYPE_CHECKING:
    from personalllm.data import Benchmark

__all__ = ["PRESETS", "Preset", "get_preset", "list_presets"]

_SOURCE = "Zollo et al., PersonalLLM, arXiv 2409.20296, section 4"

_SECTION_4: JSON = {
    "track": "generate",
    "split": "test",
    "history_split": "train",
    "population": {"kind": "dirichlet", "alpha": 0.05, "n_users": 1000, "seed": 0},
    "pool": {"n_users": 10_000, "pairs_per_user": 50, "seed": 0},
    "history": {"pairs": 5, "nearest": 5, "counterfactual": "none"},
    "feedback": {"pairs": "best-vs-worst", "ranks": (0, -1), "temperature": 0.0, "flip": 0.0, "tie_margin": 0.0},
    "generation": {"max_tokens": 512, "temperature": 0.0, "top_p": 1.0, "requests_per_chunk": 8},
    "prompts_per_user": 1,
    "limit": None,
    "standardiser": "train",
    "reference_response_model": "openai/gpt-4o",
    "users_per_shard": 200,
    "seed": 0,
    "bootstrap_draws": 2000,
}


def _spec(name: str, shots: int, feedback: str = "winning", **more: str | int) -> str:
    """Return an in-context algorithm with every parameter that the paper fixes."""
    params: JSON = {"n_shots": shots, "feedback": feedback, "layout": "text"}
    params |= {"max_history_tokens": 7000, "reply_tokens": 512, **more}
    return f"{name}[{','.join(f'{key}={value}' for key, value in params.items())}]"


def _across(n_similar: int, embedding_pairs: int) -> tuple[str, ...]:
    """Return the algorithms that learn across users, 3 shots, winning responses shown."""
    meta = (
        _spec("meta-icl", 3, n_similar=n_similar, embedding=embedding, embedding_pairs=embedding_pairs, search="exact")
        for embedding in ("winning", "losing", "winning-minus-losing")
    )
    look_up = _spec("lookup-icl", 3, n_similar=n_similar, embedding="winning", embedding_pairs=50, search="exact")
    return ("zero-shot", _spec("self-icl", 3), *meta, look_up)


@dataclass(frozen=True, eq=False)
class Preset:
    """A protocol with a name and a version, and the algorithms that it was made for.

    Attributes:
        id: Name and version, e.g. `paper-icl-v1`; a change of any value needs a new version.
        title: A few words.
        description: What it is and what one has to know.
        source: Where the settings come from.
        protocol: Every field of the protocol but the benchmark's and the backends'.
        algorithms: What takes part, as `evaluate` reads it.
    """

    id: str
    title: str
    description: str
    source: str
    protocol: Mapping[str, Any]
    algorithms: tuple[str, ...]

    def protocol_for(self, benchmark: Benchmark, /, **overrides: Any) -> Protocol:
        """Return the preset's protocol for a benchmark.

        A response model that the benchmark does not have is replaced by the benchmark's own reference, which counts
        as a change like every override: see `changes`.

        Args:
            benchmark: What to evaluate on.
            **overrides: As for `Protocol.for_benchmark`.

        Raises:
            UserError: If the benchmark is too small for a value of the preset; names the override that mends it.
            ParameterError: If an override is unknown or out of range.
        """
        settings = merge(self.protocol, overrides)
        reference = self.protocol["reference_response_model"]
        if "reference_response_model" not in overrides and reference not in benchmark.response_models:
            del settings["reference_response_model"]
        given = merge({}, overrides)
        for part in PARTS:
            settings[part] = settings.get(part, {})
        self._check_size(benchmark, settings, flatten(given))
        return Protocol.for_benchmark(benchmark, preset=self.id, **settings)

    def _check_size(self, benchmark: Benchmark, settings: JSON, given: JSON) -> None:
        """Raise if a value that nobody gave is larger than the benchmark allows."""
        flat = flatten(settings)
        for name, split in (
            ("pool.pairs_per_user", "history_split"),
            ("history.pairs", "history_split"),
            ("history.nearest", "history_split"),
            ("prompts_per_user", "split"),
        ):
            rows = len(benchmark.splits.get(flat[split], ()))
            if rows and name not in given and (flat[name] or 0) > rows:
                raise UserError(
                    f"The preset {self.id} has {name} = {flat[name]}, but the {flat[split]} split of the benchmark "
                    f"{benchmark.name!r} has {rows} prompts.",
                    f"Override it: --set {name}={rows} (in Python: {_in_python(name, rows)}), or less. The result says "
                    "that it was changed.",
                )

    def changes(self, protocol: Protocol) -> dict[str, tuple[Any, Any]]:
        """Return what a protocol changes of the preset: name -> (the preset's value, the protocol's value).

        The benchmark and the backends are no part of a preset.
        """
        own = flatten(_comparable(protocol))
        preset = flatten(json.loads(json.dumps(dict(self.protocol))))
        return {
            name: (preset.get(name), own.get(name))
            for name in [*preset, *(extra for extra in own if extra not in preset)]
            if preset.get(name) != own.get(name)
        }


def _comparable(protocol: Protocol) -> JSON:
    return {name: value for name, value in protocol.spec().items() if name not in NOT_SET}


def _in_python(name: str, value: int) -> str:
    part, dot, field = name.partition(".")
    return f"{part}={{'{field}': {value}}}" if dot else f"{name}={value}"


PRESETS: dict[str, Preset] = {
    preset.id: preset
    for preset in (
        Preset(
            id="paper-icl-v1",
            title="The paper's personalised in-context learning",
            description="Each user's feedback on the 1, 3 or 5 train prompts nearest to the query, shown in four ways, "
            "beside zero-shot and self-ICL (random train prompts). 1,000 users, one test prompt each, greedy decoding.",
            source=f"{_SOURCE} (personalised in-context learning)",
            protocol=_SECTION_4,
            algorithms=(
                "zero-shot",
                *(
                    _spec("icl", shots, feedback)
                    for feedback, shots in product(
                        ("winning", "winning-and-losing", "losing", "losing-as-winning"), (1, 3, 5)
                    )
                ),
                *(_spec("self-icl", shots) for shots in (1, 3, 5)),
            ),
        ),
        Preset(
            id="paper-meta-v1",
            title="The paper's learning across users, as its text describes it",
            description="3 examples from the 20 most similar of 10,000 pool users with 50 interactions each, with "
            "three user embeddings made from all 50, and the look-up variant. The numbers that the paper prints come "
            "from other settings of its run log: see paper-meta-logged-v1.",
            source=f"{_SOURCE} (learning across users), text",
            protocol=_SECTION_4,
            algorithms=_across(n_similar=20, embedding_pairs=50),
        ),
        Preset(
            id="paper-meta-logged-v1",
            title="The paper's learning across users, as the printed numbers were made",
            description="The numbers printed for learning across users (-.4020, -.3711, -.3186) are the rows of the "
            "authors' run log with a pool of 1,000 users, 5 pairs for each pool user's embedding and 5 similar users, "
            "not the 10,000, 50 and 20 of the text (paper-meta-v1).",
            source=f"{_SOURCE} (learning across users), run log",
            protocol={**_SECTION_4, "pool": {**_SECTION_4["pool"], "n_users": 1000}},
            algorithms=_across(n_similar=5, embedding_pairs=5),
        ),
    )
}
"""The presets by id; a bare name such as `paper-icl` stands for the newest version."""


def list_presets() -> tuple[str, ...]:
    """Return the ids of the presets, versions included.

    >>> list_presets()
    ('paper-icl-v1', 'paper-meta-logged-v1', 'paper-meta-v1')
    """
    return tuple(sorted(PRESETS))


def get_preset(name: str) -> Preset:
    """Return a preset by its id, or the newest version of a bare name.

    Raises:
        UnknownName: If there is none of that name; lists the nearest.

    >>> get_preset("paper-icl").id
    'paper-icl-v1'
    """
    if name in PRESETS:
        return PRESETS[name]
    versions = {_version(preset): preset for preset in PRESETS if preset.rpartition("-v")[0] == name}
    if not versions:
        raise UnknownName("preset", name, {*PRESETS, *(preset.rpartition("-v")[0] for preset in PRESETS)})
    return PRESETS[versions[max(versions)]]


def _version(preset: str) -> int:
    return int(preset.rpartition("-v")[2])
