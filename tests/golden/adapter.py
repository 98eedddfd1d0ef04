"""What the golden tests ask of the package: the only file here that imports it.

Every function returns plain data: nested dicts of texts, numbers, lists and NumPy arrays, keyed by what a number is
about. When the package is restructured, only the bodies of these functions may change, never what they return.

Shapes that several functions share:

- an estimate is `[value, low, high]`;
- `per_user` is a dict from a name to float32 (n_users,);
- a difference is `{"difference": estimate, "p": number, "p_holm": number, "better": label or None}`.
"""

from __future__ import annotations

import platform
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import inputs
import numpy as np
import pyarrow as pa

from personalllm.analysis import Votes, diversity, entropy_by_words
from personalllm.backends.executor import ProcessExecutor
from personalllm.build import Recipe, gather_prompts, pack, read_prompts, read_responses, respond
from personalllm.core.types import ChatReply, ChatRequest, Conversation, Histories, Message, Queries
from personalllm.data import Benchmark, Preferences, Standardiser, load, write_benchmark
from personalllm.evaluation import (
    Estimate,
    ProgressEvent,
    Protocol,
    Results,
    Sweep,
    evaluate,
    sweep,
)
from personalllm.evaluation.contract import Backends, Condition
from personalllm.evaluation.differences import Difference
from personalllm.evaluation.resolve import named, parse_method
from personalllm.evaluation.results import MethodResult
from personalllm.evaluation.run import make_track
from personalllm.evaluation.sources.pairs import Pairs
from personalllm.evaluation.sources.people import People
from personalllm.evaluation.sources.simulated import Simulated
from personalllm.methods.base import Method
from personalllm.methods.registry import get_method, list_methods, method_class
from personalllm.papers.personalllm_2025.plan import make_plan
from personalllm.papers.personalllm_2025.reproduction import reproduce
from personalllm.papers.personalllm_2025.survival import metric_differences, sums_of, surviving_share
from personalllm.users import Population

__all__ = [
    "analysis_run",
    "draws",
    "generate_run",
    "method_keys",
    "mini_run",
    "packed_bytes",
    "people_draws",
    "people_run",
    "predict_draws",
    "predict_run",
    "rank_run",
    "reproduce_run",
    "sweep_run",
    "track_seeds",
    "unit_seeds",
]

Values = dict[str, Any]

OTHER_PARAMETER: dict[str, dict[str, Any]] = {
    "calibrated-bayes": {"calibrated": False},
    "embedding-ranker": {"shrinkage": 5.0},
    "gpo": {"n_layers": 3},
    "hierarchical-bt": {"steps": 7},
    "icl": {"n_shots": 2},
    "longest": {},
    "lookup-icl": {"n_prompts": 3},
    "lore": {"n_basis": 4},
    "matrix-factorisation": {"n_factors": 4},
    "meta-icl": {"embedding": "losing"},
    "mrm": {"n_bases": 8},
    "nearest-users": {"n_neighbours": 5},
    "pal": {"n_prototypes": 4},
    "pooled-bt": {"ridge": 0.5},
    "pooled-ranker": {},
    "pref": {"rounds": 2},
    "random": {},
    "rm-mixture": {"n_mixtures": 40},
    "self-icl": {"feedback": "losing"},
    "spl": {"n_flows": 1},
    "user-bt": {"ridge": 0.5},
    "vpl": {"n_latent": 8},
    "zero-shot": {},
}
"""Of every built-in method one parameter that is not the default; nothing for methods without parameters."""

RECORDED_DEFAULTS: dict[str, dict[str, Any]] = {"lore": {"n_features": 64, "prior_strength": 5.0, "ridge": 1.0}}
"""Parameters whose defaults have changed since the values were recorded, besides `IMPLIED`."""

IMPLIED = "implied"
"""A parameter that methods did not have when the values were recorded, and that must be off."""

SMALL: dict[str, Any] = {
    "n_users": 20,
    "alpha": 0.3,
    "pool_users": 14,
    "pool_pairs": 9,
    "pairs": 4,
    "nearest": 3,
    "intervals": "users",
    "bootstrap_draws": 200,
    "users_per_shard": 8,
    "reference_response_model": "beta-1",
    "seed": 3,
}
GENERATE: dict[str, Any] = {"track": "generate", "max_tokens": 10, "n_users": 9}
CHUNKS = {"generation": {"requests_per_chunk": 4}}
PREDICT: dict[str, Any] = {"track": "predict", "seen_users": 7, "shots": (0, 1, 4), "test_pairs": 5}
NOISY = {"feedback": {"pairs": "random", "temperature": 0.5, "flip": 0.05}}
FEEDBACK: dict[str, dict[str, Any]] = {
    "best-vs-worst": {},
    "random": {"pairs": "random"},
    "ranks": {"pairs": "ranks", "ranks": (1, -2)},
    "contested": {"pairs": "contested"},
    "noisy": NOISY["feedback"],
    "ties": {"pairs": "random", "tie_margin": 0.4},
}


# --- stand-ins for the models ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WordEmbedder:
    """`inputs.embedding` as an embedder."""

    name: str = "golden-words"
    identity: str = "golden-words-1"
    dim: int = 32

    def embed(self, texts: Sequence[str]) -> Any:
        return np.stack([inputs.embedding(text) for text in texts]) if len(texts) else np.zeros((0, 32), np.float32)


class ScriptedChat:
    """`inputs.reply` as a chat model; `seeds` are those of the requests at temperature > 0, in their order."""

    name, identity, context_length = "golden-chat", "golden-chat-1", 8192

    def __init__(self) -> None:
        self.seeds: list[int] = []

    def count_tokens(self, messages: Sequence[Message]) -> int:
        return sum(4 + len(message.content.split()) for message in messages)

    def chat(self, requests: Sequence[ChatRequest]) -> list[ChatReply]:
        found = []
        for request in requests:
            if request.temperature > 0:
                self.seeds.append(request.seed)
            texts = [message.content for message in request.messages]
            text, cut = inputs.reply(texts, request.temperature, request.seed, request.max_tokens)
            used = self.count_tokens(request.messages)
            found.append(ChatReply(text, "length" if cut else "stop", used, len(text.split())))
        return found


class SurfaceScores:
    """`inputs.surface_scores` as a reward ensemble."""

    reward_models, identity = inputs.REWARD_MODELS, "golden-surface-1"

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> Any:
        return inputs.surface_scores(prompts, responses)


@dataclass
class SeedSpy(Method):
    """Notes with which seeds it is bound when it fits, adapts and answers."""

    id = "golden-spy"
    seen = []

    def fit(self, pool: Histories) -> SeedSpy:
        self.seen.append(f"fit {self.seed}")
        return self

    def adapt(self, histories: Histories) -> SeedSpy:
        self.seen.append(f"adapt {self.seed}")
        return self

    def utilities(self, queries: Queries) -> Any:
        self.seen.append(f"answer {self.seed}")
        return np.zeros((len(queries), queries.corpus.n_responses), np.float32)

    def messages(self, queries: Queries) -> list[Conversation]:
        self.seen.append(f"answer {self.seed}")
        return [Conversation((Message("user", queries.corpus.prompts[row]),)) for row in queries.prompt.tolist()]


@dataclass
class Infinite(Method):
    """Utilities of plus infinity for the longest responses, minus infinity for the shortest; is no log-odds."""

    id = "golden-infinite"

    def utilities(self, queries: Queries) -> Any:
        lengths = np.array([[len(text) for text in queries.corpus.responses[row]] for row in queries.prompt.tolist()])
        order = lengths.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
        ladder = np.array([-np.inf, -np.inf, 0.0, np.inf, np.inf], np.float32)
        return ladder[order]


# as if they were part of the package, so that their keys depend on the id alone and not on the text of this file
SeedSpy.__module__ = Infinite.__module__ = "personalllm.golden"


class _StopNow(Exception):
    """Raised after the first unit of work, in place of a killed process."""


def _stop_at_first_step(event: ProgressEvent) -> None:
    if event.stage == "step":
        raise _StopNow


@cache
def _benchmark() -> Benchmark:
    return Benchmark.from_arrays(**inputs.benchmark_values())


def _protocol(**overrides: Any) -> Protocol:
    values = SMALL | overrides
    if values.get("track") == "predict":
        values = {name: value for name, value in values.items() if name not in ("pairs", "nearest")}
    return Protocol.for_benchmark(_benchmark(), **values)


@cache
def _people(n_users: int) -> Preferences:
    columns = ("user", "prompt", "chosen", "rejected")
    return Preferences.from_rows([dict(zip(columns, row, strict=True)) for row in inputs.people_rows(n_users, 18)])


def _twice(run: Callable[..., Any], told: Callable[[Any], Values], *, interrupted: bool) -> Values:
    """Return what is told of a run; if it is interrupted, of one that was stopped at the first unit and resumed."""
    if not interrupted:
        return told(run())
    with TemporaryDirectory() as folder:
        try:
            run(out=folder, progress=_stop_at_first_step)
        except _StopNow:
            return told(run(out=folder))
    raise AssertionError("The run was not interrupted.")


def _numbers(estimate: Estimate) -> list[float]:
    return [estimate.value, estimate.low, estimate.high]


# --- keys and seeds -------------------------------------------------------------------------------------------------


def _variants() -> Iterator[tuple[str, Method]]:
    ours = [name for name in list_methods() if name in OTHER_PARAMETER]
    assert ours == sorted(OTHER_PARAMETER)
    for name in ours:
        defaults = RECORDED_DEFAULTS.get(name, {})
        yield name, _recorded(name, **defaults)
        if OTHER_PARAMETER[name]:
            ((parameter, value),) = OTHER_PARAMETER[name].items()
            yield f"{name}[{parameter}={value}]", _recorded(name, **defaults | OTHER_PARAMETER[name])


def _recorded(name: str, **params: Any) -> Method:
    """Return a method as it was when the values were recorded."""
    off = {IMPLIED: False} if hasattr(method_class(name), IMPLIED) else {}
    return get_method(name, **params, **off)


def _methods(*methods: str | Method) -> list[Method]:
    """Return methods, those that are named as they were when the values were recorded."""
    parts = [(m, {}) if isinstance(m, Method) else parse_method(m) for m in methods]
    return [_recorded(m, **params) if isinstance(m, str) else m for m, params in parts]


def _label(label: str) -> str:
    """Return the label of a method as it was when the values were recorded.

    >>> _label("user-bt[implied=false,n_features=6]"), _label("pooled-bt[implied=false]"), _label("longest")
    ('user-bt[n_features=6]', 'pooled-bt', 'longest')
    """
    return re.sub(rf"\[{IMPLIED}=false\]|{IMPLIED}=false,", "", label)


def method_keys() -> Values:
    """Return the key, which seeds are derived from, of every built-in method: default and one other parameter."""
    return {label: named(method).key for label, method in _variants()}


def unit_seeds() -> Values:
    """Return the seeds of the units of every built-in method in the rank and the predict track, as text.

    `rank`: one for each shard of 8 of the 20 users. `predict`: the distinct ones, in order (users, history, shard).
    """
    protocols = {"rank": _protocol(), "predict": _protocol(**PREDICT)}
    tracks = {name: make_track(protocol, _benchmark(), Backends()) for name, protocol in protocols.items()}
    keys = {label: named(method).key for label, method in _variants()}
    return {
        label: {
            name: " ".join(map(str, dict.fromkeys(unit.seed for unit in track.units(key))))
            for name, track in tracks.items()
        }
        for label, key in keys.items()
    }


def track_seeds() -> Values:
    """Return, for each track, the seeds that a method is bound to when it fits, adapts and answers, in their order.

    A seed that a method is bound to several times in a row is there once. `replies` are the seeds of the requests to
    the chat model.
    """
    found: Values = {}

    def noted(track: str, run: Callable[[], Any]) -> None:
        SeedSpy.seen.clear()
        run()
        found[track] = list(dict.fromkeys(SeedSpy.seen))

    bench, chat = _benchmark(), ScriptedChat()
    writing = _protocol(**GENERATE, **CHUNKS, temperature=0.7, prompts_per_user=2)
    noted("rank", lambda: evaluate([SeedSpy()], bench, protocol=_protocol()))
    noted("generate", lambda: evaluate([SeedSpy()], bench, protocol=writing, llm=chat, rewards=SurfaceScores()))
    found["replies"] = list(chat.seeds)
    noted("predict", lambda: evaluate([SeedSpy()], bench, protocol=_protocol(**PREDICT)))
    noted("people", lambda: evaluate([SeedSpy()], _people(6), protocol=_people_protocol(_people(6))))
    return found


# --- draws ----------------------------------------------------------------------------------------------------------


def _rows(drawn: Any) -> Any:
    """Return int32 (4, n): user, prompt, chosen and rejected of each comparison."""
    columns = (drawn.user, drawn.prompt, drawn.chosen, drawn.rejected)
    return np.stack([column.astype(np.int32) for column in columns])


def draws() -> Values:
    """Return what the protocols of rank and generate draw: users, texts, pool, histories, queries, baselines' choices.

    `chosen` and `rejected` are columns of the corpus that methods read, whose order is pinned by `corpus`.
    """
    bench = _benchmark()
    task = Simulated(_protocol(), bench)
    found: Values = {
        "weights": {
            "users": task.full_population.weights.astype(np.float32),
            "pool": task.pool_population.weights.astype(np.float32),
        },
        "corpus": _digest(text for row in task.view.corpus.responses for text in row),
        "standardised scores": task.table.values,
        "utilities": task.utilities(*task.query_rows(0, 20)).reshape(20, -1, inputs.N_RESPONSES),
        "pool": {name: _rows(Simulated(_protocol(feedback=knobs), bench).pool) for name, knobs in FEEDBACK.items()},
        "histories": {},
        "queries": {str(k): Simulated(_protocol(prompts_per_user=k), bench).prompts for k in (1, 2)},
        "default reference": Protocol.for_benchmark(bench).reference_response_model,
    }
    for kind in ("none", "other-user", "flipped", "shuffled"):
        asked = Simulated(_protocol(prompts_per_user=1, counterfactual=kind), bench)
        found["histories"][kind] = {
            "random": _rows(asked.histories("random")),
            "nearest": _rows(asked.histories("nearest", WordEmbedder())),
        }
    for name, protocol in {
        "all": _protocol(),
        "limit 7": _protocol(limit=7),
        "two prompts": _protocol(prompts_per_user=2),
        "raw scores": _protocol(standardiser="none"),
    }.items():
        found[f"baselines, {name}"] = _choices(protocol)
    return found


def _choices(protocol: Protocol) -> Values:
    """Return which response each baseline and oracle of the rank track gives each user, and its utility."""
    track = make_track(protocol, _benchmark(), Backends())
    found: Values = {}
    for baseline in track.baselines():
        tables = [baseline.work(unit).samples for unit in track.baseline_units(baseline.id)]
        joined = pa.concat_tables(tables)
        shape = track.source.prompts.shape
        found[baseline.id] = {
            "choice": joined["response"].to_numpy().reshape(shape),
            "utility": joined["utility"].to_numpy().reshape(shape),
        }
    return found


def predict_draws() -> Values:
    """Return what a protocol of the predict track draws: histories and test pairs of seen and unseen users.

    `chosen` and `rejected` of tests are responses of the benchmark, those of histories columns of the corpus.
    """
    bench = _benchmark()
    found: Values = {}
    variants = {
        "utility": {},
        "drawn": NOISY | {"prediction": {"outcome": "drawn"}},
        "every prompt": {"test_pairs": None},
    }
    for name, changes in variants.items():
        protocol = _protocol(**(PREDICT | changes))
        pairs = Pairs(Simulated(protocol, bench), protocol.options)
        found[name] = {
            kind: {
                "weights": group.population.weights.astype(np.float32),
                "histories": {history: _rows(rows) for history, rows in group.histories.items()},
                "tests": {prompts: _rows(tests) for prompts, tests in group.tests.items()},
                "shots": list(group.shots),
                "strongest": group.population.weights.argmax(axis=1).astype(np.int32),
            }
            for kind, group in pairs.groups.items()
        }
    return found


def people_draws() -> Values:
    """Return the folds of people's preferences and, for each fit, the pool, the histories and the tests."""
    people = _people(6)
    source = People(people, _people_protocol(people))
    found: Values = {
        "comparisons": _rows(people.histories),
        "prompt folds": source.prompt_fold,
        "user folds": source.user_fold,
        "shots": list(source.shots),
        "lengths": source.lengths,
        "fits": {},
    }
    for fold in source.folds:
        found["fits"][str(fold.index)] = {
            "targets": source.targets(fold),
            "pool": _rows(source.pool(fold)),
            "histories": {
                f"{kind} {shots}": _rows(source.history(fold, shots, kind)) for kind, shots in source.histories(fold)
            },
            "tests": source.tests(fold),
        }
    return found


# --- rank and generate ----------------------------------------------------------------------------------------------

PER_USER = ("utility", "win_rate_reference", "win_rate_best", "regret")
NAMES = {"utility": "mean_utility"}
"""Names of the package -> names of the golden values."""

ENDS = ("text-only", "known-basis")
"""Rows of the package that the golden values do not have, nor the metric `ps` between them."""

RANK_METHODS = ("random", "longest", "user-bt[n_features=6]", "pooled-ranker", "embedding-ranker[shrinkage=2.0]")


def _rows_of(results: Results) -> list[MethodResult]:
    return [row for row in results.methods if row.label not in ENDS]


def _ranked(results: Results, *, brief: bool = True) -> Values:
    """Return what a run of the rank or generate track found; `versus` compares with the first method.

    Brief is without `versus`, and of the baselines only with the utility.
    """
    found: Values = {}
    (at,) = results.conditions
    for row in _rows_of(results):
        short = brief and row.kind != "method"
        metrics = [metric.id for metric in results.metrics if metric.id != "ps"]
        per_user, metrics = (PER_USER[:1], ["utility", "gain"]) if short else (PER_USER, metrics)
        counts = dict(row.counts)
        found[_label(row.label)] = {
            "per_user": {NAMES.get(name, name): row.sums[at].columns[name] for name in per_user},
            "estimates": {NAMES.get(name, name): _numbers(results.estimate(row.label, name)) for name in metrics},
            "n_queries": counts.pop("queries"),
        }
        if not brief:
            draws, seed = results.protocol["bootstrap_draws"], results.protocol["seed"]
            versus = metric_differences(row, results.methods[0], over="users", draws=draws, seed=seed)
            found[_label(row.label)]["versus"] = {
                NAMES.get(name, name): _numbers(versus[name]) for name in ("utility", "gain")
            }
        if counts:
            found[_label(row.label)]["counts"] = counts
    return found


def rank_run(variant: str = "plain", *, interrupted: bool = False, processes: int = 0) -> Values:
    """Return per-user means, estimates and differences of a small run of the rank track.

    Args:
        variant: `plain` (shards of 8 of 20 users), `limit` (7 users), `two prompts` (for each user), `flipped`
            (counterfactual histories), `noisy` (feedback with errors), `raw` (scores as they are).
        interrupted: Stop after the first unit and resume.
        processes: Do the work of the first method in so many processes.
    """
    changes: dict[str, dict[str, Any]] = {
        "plain": {},
        "limit": {"limit": 7},
        "two prompts": {"prompts_per_user": 2},
        "flipped": {"counterfactual": "flipped"},
        "noisy": NOISY,
        "raw": {"standardiser": "none"},
    }
    methods: Sequence[Any] = [*RANK_METHODS, Infinite()] if variant == "plain" else RANK_METHODS[:3]
    if processes:
        methods = RANK_METHODS[:1]
    executor = ProcessExecutor(processes) if processes else None

    def run(**more: Any) -> Results:
        protocol = _protocol(**changes[variant])
        return evaluate(
            _methods(*methods), _benchmark(), protocol=protocol, embedder=WordEmbedder(), executor=executor, **more
        )

    def told(results: Results) -> Values:
        found: Values = {"methods": _ranked(results, brief=variant != "plain")}
        if variant == "plain" and not processes:
            more = metric_differences(results["longest"], results["random"], over="users", seed=11, draws=300)
            found["longest against random"] = {NAMES.get(name, name): _numbers(e) for name, e in more.items()}
            three = (results["longest"], results["random"], results["worst"])
            left = surviving_share(*three, over="users", seed=11, draws=300)
            parts = {"share": left.share, "gain": left.gain, "remaining": left.remaining}
            found["surviving share"] = {name: _numbers(estimate) for name, estimate in parts.items()}
        return found

    return _twice(run, told, interrupted=interrupted)


def mini_run() -> Values:
    """Return the estimates of two methods and the baselines on the embedded benchmark `mini@v1`, for 50 users."""
    mini = load("mini@v1")
    protocol = Protocol.for_benchmark(mini, n_users=50, pool_users=20, intervals="users", bootstrap_draws=200)
    return {
        "fingerprint": mini.fingerprint,
        "methods": _ranked(evaluate(["random", "longest"], mini, protocol=protocol)),
    }


def generate_run(variant: str = "sampled", *, interrupted: bool = False) -> Values:
    """Return samples, counts, per-user means and estimates of a small run of the generate track.

    Args:
        variant: `sampled` (temperature 0.7, two prompts for each user) or `greedy` (one prompt, nearest histories).
        interrupted: Stop after the first unit and resume.
    """
    changes: dict[str, Any] = {"temperature": 0.7, "prompts_per_user": 2}
    methods: Sequence[str] = ("zero-shot", "self-icl[n_shots=2]", "meta-icl[n_shots=2,n_similar=3]")
    if variant == "greedy":
        changes = {"prompts_per_user": 1, "counterfactual": "other-user"}
        methods = ("icl[n_shots=2]", "lookup-icl[n_similar=3]")

    def run(**more: Any) -> Results:
        protocol = _protocol(**GENERATE, **CHUNKS, **changes)
        backends: Any = {"embedder": WordEmbedder(), "llm": ScriptedChat(), "rewards": SurfaceScores()}
        return evaluate(_methods(*methods), _benchmark(), protocol=protocol, **backends, **more)

    def told(results: Results) -> Values:
        found = _ranked(results)
        for row in results.methods:
            samples = results.samples(row.label).to_pylist()
            found[_label(row.label)]["samples"] = _samples(samples, whole=row.kind == "method")
        return {"methods": found}

    return _twice(run, told, interrupted=interrupted)


def _samples(samples: Sequence[Any], *, whole: bool) -> Values:
    """Return the samples of a method; of a baseline, whose texts are stored ones, only texts and utilities."""
    found: Values = {
        "texts": _digest(s["response"] for s in samples),
        "utility": np.array([s["utility"] for s in samples], np.float32),
    }
    if whole:
        found |= {
            "users": " ".join(str(s["user"]) for s in samples),
            "prompts": _digest(f"{s['prompt_id']} {s['prompt_text']}" for s in samples),
            "first text": samples[0]["response"],
            "finish": " ".join(s["finish_reason"] for s in samples),
            "n_examples": " ".join(str(s["n_examples"]) for s in samples),
            "messages": _digest(f"{m['role']}:{m['content']}" for s in samples for m in s["messages"]),
            "histories": _digest(text for s in samples for pair in s["history"] for text in pair.values()),
            "best_utility": np.array([s["best_utility"] for s in samples], np.float32),
            "reference_utility": np.array([s["reference_utility"] for s in samples], np.float32),
        }
    return found


def _digest(texts: Iterable[str]) -> str:
    return sha256("\x00".join(texts).encode()).hexdigest()[:24]


# --- predict and people ---------------------------------------------------------------------------------------------

SUMS = ("n", "correct", "log_loss", "brier", "regret", "tau", "longer_n", "longer_correct", "shorter_correct")
"""Sums over a user's test pairs."""

FEW_SUMS, FEW_METRICS = ("n", "correct", "log_loss", "regret"), ("accuracy", "log_loss", "regret")


def _condition(condition: Condition) -> str:
    return f"{condition.users} users, {condition.prompts} prompts, {condition.history}, {condition.shots}"


def _predicted(results: Results) -> Values:
    """Return what a run of the predict track, on simulated users or on people, found.

    Of each method, at the headline (unseen users and prompts, most shots): `per_user`, some of the sums; `estimates`
    of all metrics that are defined; `strata`, the values of `FEW_METRICS` in each stratum of pairs or users. And for
    every condition (users, prompts, history, shots): `FEW_METRICS`, and `SUMS` of each user in one array.
    """
    at = results.headline
    found: Values = {}
    for row in _rows_of(results):
        of: Values = {"estimates": {}, "strata": {}, "conditions": {}}
        columns = row.sums[at].columns
        of["per_user"] = {name: columns[name] for name in FEW_SUMS if name in columns}
        for (stratum, metric), estimate in row.estimates[at].items():
            if metric == "ps":
                continue
            if stratum == "all" and not np.isnan(estimate.value):
                of["estimates"][metric] = _numbers(estimate)
            elif stratum != "all" and metric in FEW_METRICS:
                of["strata"].setdefault(stratum, []).append(estimate.value)
        for condition, sums in row.sums.items():
            # a baseline or an oracle is the same for every history and number of shots
            if row.kind != "method" and (condition.shots, condition.history) != (at.shots, "true"):
                continue
            values = [row.estimates[condition]["all", metric].value for metric in FEW_METRICS]
            each_user = np.stack([sums.columns[name] for name in SUMS if name in sums.columns])
            of["conditions"][_condition(condition)] = [*values, each_user]
        found[_label(row.label)] = of
    return found


def _compared(differences: Sequence[Difference]) -> Values:
    return {
        f"{_label(one.a)} against {_label(one.b)}": {
            "difference": _numbers(one.difference),
            "p": one.p_value,
            "p_holm": one.p_holm,
            "better": one.better and _label(one.better),
        }
        for one in differences
    }


def predict_run(variant: str = "plain", *, interrupted: bool = False) -> Values:
    """Return sums, estimates and comparisons of a small run of the predict track.

    Args:
        variant: `plain` or `signals` (scores of the reward models as features, noisy feedback, drawn outcomes).
        interrupted: Stop after the first unit and resume, with the first methods.
    """
    changes: dict[str, Any] = {}
    methods: list[Any] = ["longest", "user-bt[n_features=6]", "nearest-users[n_features=6]", Infinite()]
    if variant == "signals":
        changes = NOISY | {"prediction": {"reward_signals": True, "outcome": "drawn"}, "test_pairs": None}
        methods = ["rm-mixture[n_mixtures=20]"]
    if interrupted:
        methods = methods[:2]

    def run(**more: Any) -> Results:
        protocol = _protocol(**(PREDICT | changes))
        return evaluate(_methods(*methods), _benchmark(), protocol=protocol, embedder=WordEmbedder(), **more)

    def told(results: Results) -> Values:
        at = results.headline
        flipped = Condition(at.users, at.prompts, "flipped", at.shots)
        found: Values = {"methods": _predicted(results), "comparisons": {}, "accuracy with flipped histories": {}}
        among = [row.label for row in _rows_of(results) if row.kind != "oracle"]
        for metric in ("accuracy", "log_loss", "ece"):
            found["comparisons"][metric] = _compared(results.comparisons(metric, at, among=among))
        some = results.comparisons("accuracy", at, stratum="rm:characters", versus="random", among=among)
        found["comparisons"]["accuracy of users who like characters"] = _compared(some)
        for row in results.methods:
            if row.kind == "method":
                change = results.change(row.label, "accuracy", at, flipped)
                found["accuracy with flipped histories"][_label(row.label)] = _numbers(change)
        return found

    return _twice(run, told, interrupted=interrupted)


def _people_protocol(people: Preferences) -> Protocol:
    settings: dict[str, Any] = {"shots": (0, 2, 4), "user_folds": 2, "prompt_folds": 3}
    return Protocol.for_people(people, **settings, seed=3, intervals="users", bootstrap_draws=200)


def people_run(n_users: int, *, interrupted: bool = False) -> Values:
    """Return sums, estimates and comparisons on made-up people: 22 are resampled, of 6 the prompts are."""
    people = _people(n_users)

    def run(**more: Any) -> Results:
        methods = ["longest", "user-bt[n_features=4]"]
        return evaluate(_methods(*methods), people, protocol=_people_protocol(people), embedder=WordEmbedder(), **more)

    def told(results: Results) -> Values:
        at = results.headline
        compared = {metric: _compared(results.comparisons(metric, at)) for metric in ("accuracy", "log_loss")}
        return {"methods": _predicted(results), "comparisons": compared}

    return _twice(run, told, interrupted=interrupted)


# --- sweeps, reproduction, analysis, files --------------------------------------------------------------------------


def sweep_run(track: str) -> Values:
    """Return the metric of every cell of a sweep, and of each contest the verdicts and the comparisons.

    `rank` and `predict` have a few cells, `many` has 28 cells of the rank track and only their p-values.
    A verdict is `winner`, `best`, `tie` or `behind`; `best` is the best cell that is not told from every other one.
    """
    if track != "predict":
        return _rank_sweep() if track == "rank" else _many_cells()
    axes = {"protocol.feedback.temperature": [0.0, 0.5]}
    methods = ["longest", Infinite(), "pooled-bt[n_features=4]"]
    protocol = _protocol(track="predict", shots=(2,), prediction={"users": "unseen", "prompts": "unseen"})
    return _swept(
        sweep(_methods(*methods), axes, _benchmark(), protocol=protocol, embedder=WordEmbedder()), better=True
    )


def _swept(found: Sweep, *, better: bool) -> Values:
    words = {"winner": "winner", "best, no winner": "best", "alone": "best", "behind": "behind"}
    values: Values = {"cells": {_label(str(row.cell)): _numbers(row.estimate()) for row in found.rows}}
    for number, contest in enumerate(found.contests):
        comparisons = _compared(contest.differences)
        if not better:
            comparisons = {
                name: {key: value for key, value in one.items() if key != "better"} for name, one in comparisons.items()
            }
        values[f"contest {number}"] = {
            "verdicts": {_label(str(row.cell)): words.get(contest.verdict(row), "tie") for row in contest.rows},
            "comparisons": comparisons,
        }
    return values


def _many_cells() -> Values:
    """Return the p-values of a contest of 28 cells, for which more sign patterns are drawn than for a few."""
    axes = {"shrinkage": [float(i) for i in range(28)]}
    found = sweep(["embedding-ranker"], axes, _benchmark(), protocol=_protocol(), embedder=WordEmbedder())
    (contest,) = found.contests
    return {
        "best": str(contest.best.cell),
        "p": [one.p_value for one in contest.differences],
        "p_holm": [one.p_holm for one in contest.differences],
    }


def _rank_sweep() -> Values:
    axes = {"protocol.population.alpha": [0.3, 5.0]}
    methods = ["random", "longest", "user-bt[n_features=4]"]
    found = sweep(_methods(*methods), axes, _benchmark(), protocol=_protocol(), embedder=WordEmbedder())
    return _swept(found, better=False)


VERDICTS = {"same direction": "same", "opposite": "opposite", "unclear": "unclear"}
"""Words of the package for what a claim of the paper comes to -> words of the golden values."""


def reproduce_run() -> Values:
    """Return the cells, claims and surviving shares of a small reproduction of section 4 of the PersonalLLM paper."""
    knobs: dict[str, Any] = {"limit": 16, "max_tokens": 12, "pool_users": 10, "pool_pairs": 6, "bootstrap_draws": 100}
    knobs["intervals"] = "users"
    plan = make_plan(_benchmark(), shots=(1, 3), **knobs, reference_response_model="beta-1", seed=3)
    backends: Any = {"embedder": WordEmbedder(), "llm": ScriptedChat(), "rewards": SurfaceScores()}
    found = reproduce(plan, _benchmark(), **backends)
    cells: Values = {}
    for row in found.rows:
        cells[row.cell.id] = {
            "utility": sums_of(row.result).columns["utility"],
            "win rate": _numbers(row.estimate("win_rate_reference")),
            "improvement": _numbers(row.improvement["utility"]) if row.improvement else None,
            "paper": row.paper.value("utility") if row.paper else None,
        }
    return {
        "cells": cells,
        "claims": {
            f"{one.claim.id}, {NAMES.get(one.metric, one.metric)}": [
                VERDICTS[one.verdict],
                one.paper,
                one.paper_errors,
                *_numbers(one.ours),
            ]
            for one in found.claims
        },
        "survivals": {
            one.cell.id: [*_numbers(one.share.share), one.share.gain.value, one.share.remaining.value]
            for one in found.survivals
        },
        "counts": dict(found.counts),
    }


def analysis_run() -> Values:
    """Return the figures of the analyses of diversity and entropy for two populations of 30 users."""
    bench = _benchmark()
    table = bench.score_table(Standardiser.fit(bench, split="train"))
    votes = [
        Votes.of(f"alpha {alpha}", Population.dirichlet(30, alpha, bench.reward_models, 5), table, bench)
        for alpha in (0.05, 2.0)
    ]
    spread = diversity(*votes, draws=200, seed=4)
    words = entropy_by_words(*votes, keywords=["river", "stone"], first_words=["tell"], n_listed=2, draws=200, seed=4)
    return {
        "diversity": {
            f"{one.population}, {one.quantity}, {one.level}": [one.value, one.low, one.high] for one in spread.measured
        },
        "entropy": {
            f"{one.population}, {one.kind} {one.word}": [one.n_prompts, one.mean, one.low, one.high, one.difference]
            for one in words.groups
        },
        "contested": {
            f"{one.population}, {one.end} {one.rank}": [one.prompt_id, one.entropy, one.top_share]
            for one in words.contested
        },
    }


_RECIPE = """
name = "packed"
seed = 3
reward_ensemble = "none"
reference_response_model = "b"
[prompts]
files = ["*.jsonl"]
train = 6
test = 3
spare = 1
[[response_model]]
name = "a"
chat_model = "chat"
[[response_model]]
name = "b"
chat_model = "chat"
temperature = 0.7
max_tokens = 9
"""


def packed_bytes() -> Values:
    """Return digests of a benchmark written to disk in every format, and of one that the build steps made.

    `portable` holds for every version of the libraries; `libraries` says of which versions the rest is.
    """
    import json

    bench = _benchmark()
    found: Values = {"portable": {"fingerprint": bench.fingerprint}, "by library": {}}
    with TemporaryDirectory() as name:
        folder = Path(name)
        for kind, suffix in (("portable", "jsonl"), ("portable", "csv"), ("by library", "parquet")):
            found[kind][suffix] = _file(write_benchmark(bench, folder / f"b.{suffix}"))
        found["by library"]["jsonl.gz"] = _file(write_benchmark(bench, folder / "b.jsonl.gz"))
        written = write_benchmark(bench, folder / "datasets")
        for path in sorted(path for path in written.rglob("*") if path.is_file()):
            kind = "by library" if path.suffix == ".arrow" else "portable"
            found[kind][f"datasets/{path.relative_to(written).as_posix()}"] = _file(path)
        for suffix in ("jsonl", "csv", "parquet"):
            read = load(folder / f"b.{suffix}")
            found["portable"][f"read back from {suffix}"] = read.fingerprint
        (folder / "recipe.toml").write_text(_RECIPE)
        rows = [{"prompt": f"Prompt number {i}?", "subset": "xy"[i % 2]} for i in range(12)]
        (folder / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        recipe, out = Recipe.read(folder / "recipe.toml"), folder / "out"
        gather_prompts(recipe, folder, out)
        chats: Mapping[str, Any] = {"chat": ScriptedChat()}
        respond(recipe, read_prompts(out), chats, out, block=4)
        answers = read_responses(recipe, chats, out)
        packed = pack(recipe, read_prompts(out), answers, chats, SurfaceScores(), out)
        found["portable"]["packed fingerprint"] = packed.fingerprint
        found["portable"]["packed jsonl"] = _file(write_benchmark(packed, folder / "packed.jsonl"))
    system = f"{platform.system()} {platform.machine()}"
    found["libraries"] = f"pyarrow {pa.__version__}, zlib {zlib.ZLIB_RUNTIME_VERSION}, {system}"
    return found


def _file(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()
