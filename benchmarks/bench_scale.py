"""What large benchmarks cost: rates that are measured here, and the sizing table of docs/scale.md computed from them.

`python benchmarks/run.py scale` prints the rates. `python benchmarks/bench_scale.py` prints rates and table;
`--write docs/scale.md` puts both into the document; `--rates FILE` takes the rates of an earlier run; every input of
the table is an option (`--help`).
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import platform
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _common import Row, full_size, in_fresh_process

from personalllm.backends.executor import ProcessExecutor, SerialExecutor
from personalllm.core.errors import PersonalLLMError
from personalllm.core.seeding import derive_seed
from personalllm.feedback import FeedbackRule, interact, sample_prompts
from personalllm.users import Population, choices

N_PROMPTS, N_RESPONSES, N_RMS = 10_402, 8, 10
SHARD_USERS, PER_USER = 20_000, 10
BEGIN, END = "<!-- sizing: python benchmarks/bench_scale.py --write docs/scale.md -->", "<!-- /sizing -->"


@dataclasses.dataclass(frozen=True)
class Rates:
    """Measured on one machine; a processor second is a second of one core.

    Attributes:
        machine: Where they were measured.
        choices: Choices (best and worst of 8 responses by 10 RMs) in a processor second.
        interactions: Interactions drawn, compared and written to Parquet in a processor second.
        bytes_per_interaction: Size of that Parquet.
        bytes_per_user: Size of a weight vector.
        compact_rows: Responses scored by compact-v1 in a processor second, embedding included; 0 if not measured.
        unit_seconds: Seconds that an executor adds to each work unit, by executor.
    """

    machine: str
    choices: float
    interactions: float
    bytes_per_interaction: float
    bytes_per_user: float
    compact_rows: float
    unit_seconds: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What the table assumes; none of it is measured here.

    Attributes:
        prompt_tokens: Tokens of a prompt.
        response_tokens: Tokens of a response.
        bytes_per_token: Bytes of text in a token.
        responder_tokens_per_second: New tokens that one GPU with vLLM gives in a second, all requests together.
        rm_parameters: Parameters of each reward model, in thousand millions.
        peak_teraflops: Peak of the GPU in the precision that is used.
        utilisation: Share of the peak that scoring reaches.
        dollars_per_gpu_hour: Price of a GPU.
        dollars_per_cpu_hour: Price of a core.
        dollars_per_million_tokens: Price of a new token if the responses come from an API instead.
    """

    prompt_tokens: float = 60
    response_tokens: float = 400
    bytes_per_token: float = 4.5
    responder_tokens_per_second: float = 2_500
    rm_parameters: tuple[float, ...] = (7, 2, 7, 8, 7, 7, 7, 0.4, 1.4, 6.9)
    peak_teraflops: float = 989
    utilisation: float = 0.35
    dollars_per_gpu_hour: float = 2.5
    dollars_per_cpu_hour: float = 0.04
    dollars_per_million_tokens: float = 5.0


@dataclasses.dataclass(frozen=True)
class Size:
    """One row of the table."""

    name: str
    prompts: int
    users: int
    interactions: int


SIZES = (
    Size("a pilot", 1_000, 1_000, 50_000),
    Size("the paper", 10_402, 11_000, 505_000),
    Size("ten times the paper", 104_020, 1_000_000, 10_000_000),
    Size("large", 1_000_000, 10_000_000, 100_000_000),
    Size("largest", 1_000_000, 100_000_000, 1_000_000_000),
)


def cost(size: Size, rates: Rates, inputs: Inputs) -> dict[str, float]:
    """Return what a size costs.

    With P prompts of p tokens, R responses of t tokens, and reward models of b_k parameters:
    new tokens = P R t; response GPU hours = P R t / tokens per second / 3600;
    scoring GPU hours = P R (p + t) sum_k 2 b_k / (peak utilisation) / 3600;
    CPU hours = interactions / interactions per processor second / 3600.
    """
    responses = size.prompts * N_RESPONSES
    new_tokens = responses * inputs.response_tokens
    scored_tokens = responses * (inputs.prompt_tokens + inputs.response_tokens)
    flops = 2 * sum(inputs.rm_parameters) * 1e9 * scored_tokens
    respond = new_tokens / inputs.responder_tokens_per_second / 3600
    score = flops / (inputs.peak_teraflops * 1e12 * inputs.utilisation) / 3600
    cpu = size.interactions / rates.interactions / 3600
    gpu_dollars = (respond + score) * inputs.dollars_per_gpu_hour
    return {
        "new_tokens": new_tokens,
        "scored_tokens": scored_tokens * len(inputs.rm_parameters),
        "respond_gpu_hours": respond,
        "score_gpu_hours": score,
        "cpu_hours": cpu,
        "interaction_bytes": size.interactions * rates.bytes_per_interaction,
        "weight_bytes": size.users * rates.bytes_per_user,
        "text_bytes": (new_tokens + size.prompts * inputs.prompt_tokens) * inputs.bytes_per_token,
        "score_bytes": responses * len(inputs.rm_parameters) * 4.0,
        "dollars": gpu_dollars + cpu * inputs.dollars_per_cpu_hour,
        "api_dollars": new_tokens / 1e6 * inputs.dollars_per_million_tokens,
    }


def _number(value: float) -> str:
    for limit, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _duration(hours: float) -> str:
    for size, unit in ((1, "h"), (1 / 60, "min")):
        if hours >= 2 * size:
            return f"{_plain(hours / size)} {unit}"
    return f"{_plain(3600 * hours)} s"


def describe_rates(rates: Rates) -> list[str]:
    overhead = ", ".join(f"{name} {1000 * s:.2g} ms" for name, s in rates.unit_seconds.items())
    compact = f"{rates.compact_rows:,.0f} responses a second" if rates.compact_rows else "not measured (no model files)"
    pairs = f"{_number(rates.interactions)} interactions a second, {rates.bytes_per_interaction:.2f} bytes each"
    return [
        f"Measured ({rates.machine}; a second is one of one core):",
        "",
        f"- best and worst of {N_RESPONSES} responses by {N_RMS} RMs: {_number(rates.choices)} choices a second",
        f"- users and prompts drawn, pairs compared, written as Parquet: {pairs}",
        f"- a user's weights: {rates.bytes_per_user:.0f} bytes",
        f"- `compact-v1`, embedding included: {compact}",
        f"- added to each work unit by the executor: {overhead}",
    ]


def describe_inputs(inputs: Inputs) -> list[str]:
    rms = ", ".join(f"{b:g}" for b in inputs.rm_parameters)
    speed = f"{inputs.utilisation:.0%} of {inputs.peak_teraflops:g} TFLOP/s"
    machines = f"${inputs.dollars_per_gpu_hour:g} a GPU hour, ${inputs.dollars_per_cpu_hour:g} a core hour"
    return [
        "Inputs (assumed, not measured):",
        "",
        f"- {inputs.prompt_tokens:g} tokens a prompt, {N_RESPONSES} responses of {inputs.response_tokens:g} tokens",
        f"- {inputs.bytes_per_token:g} bytes a token",
        f"- {inputs.responder_tokens_per_second:,.0f} new tokens a second from a GPU that serves a response model",
        f"- reward models of {rms} thousand million parameters; two operations a parameter and token, at {speed}",
        f"- {machines}, ${inputs.dollars_per_million_tokens:g} a million new tokens from an API",
    ]


_COLUMNS = (
    "",
    "prompts",
    "users",
    "interactions",
    "new tokens",
    "tokens scored, all RMs",
    "GPU h, responses",
    "GPU h, scores",
    "core time, interactions",
    "disk: texts",
    "disk: scores",
    "disk: interactions",
    "disk: weights",
    "dollars",
    "dollars with API responses",
)


def table(rates: Rates, inputs: Inputs, sizes: tuple[Size, ...] = SIZES) -> str:
    """Return the rates, the inputs and the table as Markdown."""
    lines = [f"| {' | '.join(_COLUMNS)} |", "|---|" + "---:|" * (len(_COLUMNS) - 1)]
    for size in sizes:
        c = cost(size, rates, inputs)
        api = c["dollars"] - c["respond_gpu_hours"] * inputs.dollars_per_gpu_hour + c["api_dollars"]
        cells = [size.name, f"{size.prompts:,}", f"{size.users:,}", f"{size.interactions:,}"]
        cells += [_number(c["new_tokens"]), _number(c["scored_tokens"])]
        cells += [_plain(c["respond_gpu_hours"]), _plain(c["score_gpu_hours"]), _duration(c["cpu_hours"])]
        cells += [_number(c[name]) + "B" for name in ("text_bytes", "score_bytes", "interaction_bytes", "weight_bytes")]
        cells += [_plain(c["dollars"]), _plain(api)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*describe_rates(rates), "", *describe_inputs(inputs), "", *lines])


@dataclasses.dataclass(frozen=True)
class Shard:
    """A work unit: users from `start` on, their draws derived from where the shard begins."""

    start: int
    n_users: int
    folder: str


def make_shard(scores: Any, shard: Shard) -> tuple[int, int, float]:
    """Draw users and interactions of a shard, write them; return interactions, bytes, processor seconds."""
    used = time.process_time()
    names = [f"rm{b}" for b in range(scores.shape[2])]
    users = Population.dirichlet(shard.n_users, 0.05, names, seed=derive_seed(0, "users", shard.start))
    rows = np.arange(len(scores), dtype=np.int32)
    prompts = sample_prompts(shard.n_users, rows, PER_USER, seed=derive_seed(0, "prompts", shard.start))
    pool = interact(users, scores, prompts, FeedbackRule(), seed=derive_seed(0, "pairs", shard.start))
    path = Path(shard.folder) / f"shard-{shard.start:012d}.parquet"
    pool.write(path)
    return len(pool), path.stat().st_size, time.process_time() - used


def measure_shards() -> dict[str, float]:
    _, scores = full_size(1, N_PROMPTS)
    with tempfile.TemporaryDirectory() as folder:
        shards = [Shard(i * SHARD_USERS, SHARD_USERS, folder) for i in range(6)]
        make_shard(scores, shards[0])
        done = list(SerialExecutor().map(partial(make_shard, scores), shards))
    count, size, used = (sum(column) for column in zip(*done, strict=True))
    return {"interactions": count / used, "bytes": size / count}


def measure_choices() -> float:
    population, scores = full_size(2_000, N_PROMPTS)
    choices(population, scores, threads=1)
    used = time.process_time()
    choices(population, scores, threads=1)
    return population.n_users * N_PROMPTS / (time.process_time() - used)


def measure_compact() -> float:
    from personalllm.backends.embedding import MiniLMEmbedder
    from personalllm.backends.reward import CompactEnsemble

    try:
        ensemble = CompactEnsemble.load("compact-v1", MiniLMEmbedder(threads=1))
    except PersonalLLMError:
        return 0.0
    rng = np.random.default_rng(0)
    words = np.array(["river", "answer", "because", "the", "of", "light", "seven", "question", "often", "number"])
    texts = [" ".join(row) for row in words[rng.integers(0, len(words), (64, 200))]]
    ensemble.score(["What is it?"], ["This."])
    used = time.process_time()
    ensemble.score(["What is it?"] * len(texts), texts)
    return len(texts) / (time.process_time() - used)


def measure_units() -> dict[str, float]:
    from personalllm.backends.executor import RayExecutor

    units = range(400)
    found = {}
    executors: dict[str, Any] = {"serial": SerialExecutor(), "processes": ProcessExecutor(1)}
    if importlib.util.find_spec("ray") is not None:
        executors["ray"] = RayExecutor(num_cpus=1)
    for name, executor in executors.items():
        results = executor.map(abs, units)
        for _ in range(100):
            next(results)
        began = time.perf_counter()
        found[name] = (sum(1 for _ in results) and time.perf_counter() - began) / 300
        if isinstance(executor, RayExecutor):
            executor.close()
    return found


def measure() -> Rates:
    shards = in_fresh_process("bench_scale", "measure_shards")
    return Rates(
        machine=f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        choices=in_fresh_process("bench_scale", "measure_choices"),
        interactions=shards["interactions"],
        bytes_per_interaction=shards["bytes"],
        bytes_per_user=full_size(1)[0].weights.nbytes,
        compact_rows=in_fresh_process("bench_scale", "measure_compact"),
        unit_seconds=in_fresh_process("bench_scale", "measure_units"),
    )


def run() -> list[Row]:
    rates = measure()
    return [
        Row("choices of 8 responses by 10 RMs, a processor second", _number(rates.choices), "", None),
        Row("interactions drawn and written, a processor second", _number(rates.interactions), "", None),
        Row("bytes of an interaction on disk", f"{rates.bytes_per_interaction:.2f}", "", None),
        Row("responses scored by compact-v1, a processor second", _number(rates.compact_rows), "", None),
        *(Row(f"added to a work unit: {n}", f"{1000 * s:.2g} ms", "", None) for n, s in rates.unit_seconds.items()),
    ]


def write(path: Path, text: str) -> None:
    """Put the text between the two marks of a document."""
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"{path} has no place for the table: {BEGIN} ... {END}")
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure rates and size a benchmark.")
    parser.add_argument("--rates", type=Path, help="JSON of an earlier run, instead of measuring.")
    parser.add_argument("--save", type=Path, help="Where to keep the rates as JSON.")
    parser.add_argument("--write", type=Path, help="Document whose table is to be replaced.")
    for field in dataclasses.fields(Inputs):
        many = field.name == "rm_parameters"
        parser.add_argument(
            f"--{field.name.replace('_', '-')}", type=float, nargs="+" if many else None, default=field.default
        )
    given = vars(parser.parse_args())
    inputs = Inputs(**{f.name: given[f.name] for f in dataclasses.fields(Inputs)})
    rates = Rates(**json.loads(given["rates"].read_text())) if given["rates"] else measure()
    if given["save"]:
        given["save"].write_text(json.dumps(dataclasses.asdict(rates), indent=2) + "\n")
    text = table(rates, inputs)
    print(text)
    if given["write"]:
        write(given["write"], text)


if __name__ == "__main__":
    main()
