"""Named protocols: the settings of the paper's and of others' experiments, as data, and what a protocol changes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from personalllm.core.errors import UnknownName, UserError
from personalllm.core.types import JSON
from personalllm.evaluation.parts import load_track
from personalllm.evaluation.protocol import Protocol
from personalllm.evaluation.settings import NOT_SET, flatten, merge, shown

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

_LIMITED = (
    ("pool.pairs_per_user", "history_split"),
    ("history.pairs", "history_split"),
    ("history.nearest", "history_split"),
    ("prompts_per_user", "split"),
    ("prediction.shots", "history_split"),
    ("prediction.test_pairs", "split"),
)
"""What no benchmark can have more of than prompts in a split."""


def _spec(name: str, shots: int, feedback: str = "winning", **more: str | int) -> str:
    """Return an in-context method with every parameter that the paper fixes."""
    params: JSON = {"n_shots": shots, "feedback": feedback, "layout": "text"}
    params |= {"max_history_tokens": 7000, "reply_tokens": 512, **more}
    return f"{name}[{','.join(f'{key}={value}' for key, value in params.items())}]"


def _predict(population: JSON, pool: JSON, feedback: str, prediction: JSON, standardiser: str = "train") -> JSON:
    """Return every field of a protocol of the predict track; the history follows from the shots.

    The reference response model is left out: no metric of this track has one.
    """
    shots = prediction["shots"]
    return {
        **{name: value for name, value in _SECTION_4.items() if name not in ("reference_response_model", "generation")},
        "track": "predict",
        "population": {"kind": "dirichlet", "seed": 0, **population},
        "pool": {"seed": 0, **pool},
        "history": {"pairs": max(shots), "nearest": 0, "counterfactual": "none"},
        "feedback": {**_SECTION_4["feedback"], "pairs": feedback},
        "standardiser": standardiser,
        "prediction": {"counterfactuals": (), "outcome": "utility", "reward_signals": False, **prediction},
        "prompts_per_user": None,
    }


def _across(n_similar: int, embedding_pairs: int) -> tuple[str, ...]:
    """Return the methods that learn across users, 3 shots, winning responses shown."""
    meta = (
        _spec("meta-icl", 3, n_similar=n_similar, embedding=embedding, embedding_pairs=embedding_pairs, search="exact")
        for embedding in ("winning", "losing", "winning-minus-losing")
    )
    look_up = _spec("lookup-icl", 3, n_similar=n_similar, embedding="winning", embedding_pairs=50, search="exact")
    return ("zero-shot", _spec("self-icl", 3), *meta, look_up)


@dataclass(frozen=True, eq=False)
class Preset:
    """A protocol with a name and a version, and the methods that it was made for.

    Attributes:
        id: Name and version, e.g. `paper-icl-v1`; a change of any value needs a new version.
        title: A few words.
        description: What it is and what one has to know.
        source: Where the settings come from.
        protocol: Every field of the protocol but the benchmark's and the backends' (and, in the predict track, the
            reference response model).
        methods: What takes part, as `evaluate` reads it.
    """

    id: str
    title: str
    description: str
    source: str
    protocol: Mapping[str, Any]
    methods: tuple[str, ...]

    def protocol_for(self, benchmark: Benchmark, /, **overrides: Any) -> Protocol:
        """Return the preset's protocol for a benchmark.

        A response model that the benchmark does not have is replaced by the benchmark's own reference, which counts
        as a change like every override: see `changes`.

        Args:
            benchmark: What to evaluate on.
            **overrides: As for `Protocol.for_benchmark`.

        Raises:
            UserError: If the benchmark is too small for a value of the preset; names the override that helps. If
                the preset is of the predict track and another one is asked for, or the other way round.
            ParameterError: If an override is unknown or out of range.
        """
        if not hasattr(benchmark, "splits"):
            raise UserError(f"The preset {self.id} sets simulated users, not people.", "Leave the preset out.")
        preset_track = self.protocol["track"]
        track = overrides.get("track", preset_track)
        derived = [options.derived for name in (track, preset_track) if (options := load_track(name).options)]
        if track != preset_track and any(derived):
            raise UserError(
                f"The preset {self.id} is of the {preset_track} track, whose settings mean nothing in the {track} "
                "track.",
                f"Leave the track out, or take the defaults of the {track} track without a preset.",
            )
        settings = merge(self.protocol, overrides)
        reference = self.protocol.get("reference_response_model")
        if reference and "reference_response_model" not in overrides and reference not in benchmark.response_models:
            del settings["reference_response_model"]
        given = merge({}, overrides)
        self._check_size(benchmark, settings, flatten(given))
        return Protocol.for_benchmark(benchmark, preset=self.id, **settings)

    def _check_size(self, benchmark: Benchmark, settings: JSON, given: JSON) -> None:
        """Raise if a value that nobody gave is larger than the benchmark allows."""
        flat = flatten(settings)
        for name, split in _LIMITED:
            rows = len(benchmark.splits.get(flat[split], ()))
            value, fitting = flat.get(name), _fitting(flat.get(name), rows)
            if rows and name not in given and value != fitting:
                raise UserError(
                    f"The preset {self.id} has {name} = {shown(value)}, but the {flat[split]} split of the benchmark "
                    f"{benchmark.name!r} has {rows} prompts.",
                    f"Override it: --set {name}={shown(fitting)} (in Python: {_in_python(name, fitting)}), or less. "
                    "The result says that it was changed.",
                )

    def changes(self, protocol: Protocol) -> dict[str, tuple[Any, Any]]:
        """Return what a protocol changes of the preset: name -> (the preset's value, the protocol's value).

        The benchmark and the backends are no part of a preset.
        """
        # without a reference model of the preset's own, no metric of its track has one
        left_out = {*NOT_SET, *({"reference_response_model"} - set(self.protocol))}
        current = flatten({name: value for name, value in protocol.spec().items() if name not in left_out})
        preset = flatten(json.loads(json.dumps(dict(self.protocol))))
        return {
            name: (preset.get(name), current.get(name))
            for name in [*preset, *(extra for extra in current if extra not in preset)]
            if preset.get(name) != current.get(name)
        }


def _fitting(value: Any, rows: int) -> Any:
    """Return a number, or a list of numbers, without what is larger than a split."""
    if isinstance(value, (tuple, list)):
        fits = [each for each in value if not isinstance(each, int) or each <= rows]
        return value if len(fits) == len(value) else fits or [rows]
    return rows if isinstance(value, int) and value > rows else value


def _in_python(name: str, value: Any) -> str:
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
            methods=(
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
            methods=_across(n_similar=20, embedding_pairs=50),
        ),
        Preset(
            id="paper-meta-logged-v1",
            title="The paper's learning across users, as the printed numbers were made",
            description="The numbers printed for learning across users (-.4020, -.3711, -.3186) are the rows of the "
            "authors' run log with a pool of 1,000 users, 5 pairs for each pool user's embedding and 5 similar users, "
            "not the 10,000, 50 and 20 of the text (paper-meta-v1).",
            source=f"{_SOURCE} (learning across users), run log",
            protocol={**_SECTION_4, "pool": {**_SECTION_4["pool"], "n_users": 1000}},
            methods=_across(n_similar=5, embedding_pairs=5),
        ),
        Preset(
            id="lore-v1",
            title="The protocol of LoRe: best against worst, 47 pairs of a seen user, 9 of an unseen one",
            description="Known: alpha 0.1 over all ten RMs; 1,000 seen users with 0.5 % of the train prompts each (47 "
            "of 9,402) and 500 unseen users with 0.1 % (9); the best response against the worst; raw scores, so that "
            "an RM of larger scale weighs more; pairwise accuracy on all test prompts. Different here: LoRe's features "
            "come from an 8B reward model, here from the embedder that is bound; here every user has the same number "
            "of pairs. Not known: the seeds of users and prompts.",
            source="Bose et al., LoRe, arXiv 2504.14439, and its public code",
            protocol=_predict(
                {"alpha": 0.1, "n_users": 500},
                {"n_users": 1000, "pairs_per_user": 47},
                "best-vs-worst",
                {
                    "shots": (0, 9, 47),
                    "users": ("unseen", "seen"),
                    "prompts": ("unseen",),
                    "test_pairs": None,
                    "n_seen_users": 1000,
                },
                standardiser="none",
            ),
            methods=("pooled-bt", "user-bt", "lore"),
        ),
        Preset(
            id="copl-v1",
            title="The protocol of CoPL: contested pairs, 16 of them to learn from, 100 to predict",
            description="Known: alpha 0.1; 10,000 users with 16 pairs each, of which its code puts one aside; 100 "
            "test pairs a user from the test split; only pairs on which the RMs disagree; raw scores. Different here: "
            "CoPL's users combine four RMs (in its public code gemma_7b, llama3_sfairx, mistral_weqweasdas and "
            "oasst_deberta_v3) and compare three of the eight responses; here users combine all RMs of the benchmark, "
            "and a pair is one of those on which most RMs disagree. The first 1,000 of the 10,000 are evaluated. Not "
            "known: the number of unseen users (1,000 here) and the seeds.",
            source="Choi et al., CoPL, arXiv 2503.01658, and its public code",
            protocol=_predict(
                {"alpha": 0.1, "n_users": 1000},
                {"n_users": 10_000, "pairs_per_user": 16},
                "contested",
                {
                    "shots": (0, 16),
                    "users": ("unseen", "seen"),
                    "prompts": ("unseen",),
                    "test_pairs": 100,
                    "n_seen_users": 1000,
                },
                standardiser="none",
            ),
            methods=("pooled-bt", "user-bt", "hierarchical-bt", "nearest-users", "matrix-factorisation"),
        ),
        Preset(
            id="dong8-v1",
            title="One user for each reward model: pooled against per-user models, and who is served worst",
            description="Known: eight users, each of whom is one RM; reward models pooled over users against one for "
            "each user; the worst user counts (here `worst_decile`, and a stratum for each RM). Different here: one "
            "user for every RM of the benchmark, ten in the published one, since it is not known which two were left "
            "out; the pool holds 100 users of nearly one RM each (alpha 0.001), so that pooled models have somebody "
            "to pool. Not known: pairs of each user (50 in the pool, 1 to 64 shots here) and how pairs were chosen "
            "(best against worst here). Safety is not measured: that needs another data set.",
            source="Dong et al., When Personalization Meets Reality, arXiv 2502.19158",
            protocol=_predict(
                {"kind": "one-per-reward-model", "alpha": 0.001, "n_users": 10},
                {"n_users": 100, "pairs_per_user": 50},
                "best-vs-worst",
                {
                    "shots": (0, 1, 2, 4, 8, 16, 32, 64),
                    "users": ("unseen", "seen"),
                    "prompts": ("unseen",),
                    "test_pairs": None,
                    "n_seen_users": 100,
                },
            ),
            methods=("pooled-bt", "user-bt", "hierarchical-bt"),
        ),
        Preset(
            id="pttt-v1",
            title="The protocol of P-TTT: 100 train users, four comparisons as context",
            description="Known: 100 train users; half of the test users are seen ones; 4 context pairs; pairwise "
            "accuracy. Not known: alpha (0.05 here, as in the paper's own experiments), how pairs were chosen (best "
            "against worst here), pairs of each train user (50 here), test users and test pairs (100 seen and 100 "
            "unseen users with 20 pairs here), the seeds.",
            source="P-TTT, as far as its settings are known here",
            protocol=_predict(
                {"alpha": 0.05, "n_users": 100},
                {"n_users": 100, "pairs_per_user": 50},
                "best-vs-worst",
                {
                    "shots": (0, 4),
                    "users": ("unseen", "seen"),
                    "prompts": ("unseen",),
                    "test_pairs": 20,
                    "n_seen_users": 100,
                },
            ),
            methods=("pooled-bt", "user-bt", "hierarchical-bt", "lore"),
        ),
    )
}
"""The presets by id; a bare name such as `paper-icl` stands for the newest version."""


def list_presets() -> tuple[str, ...]:
    """Return the ids of the presets, versions included.

    >>> list_presets()[:4]
    ('copl-v1', 'dong8-v1', 'lore-v1', 'paper-icl-v1')
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
