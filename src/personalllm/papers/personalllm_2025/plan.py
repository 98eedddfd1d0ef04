"""The runs of the paper's section 4: which cells there are, and under which protocols they are paired.

One protocol serves all cells with the users' own history, and one more each counterfactual. They differ in nothing but
the feedback in the target users' histories, so every cell has the same users and the same queries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from personalllm.core.errors import ParameterError
from personalllm.core.types import JSON
from personalllm.data.standardise import PUBLISHED
from personalllm.evaluation.presets import get_preset
from personalllm.evaluation.protocol import Protocol
from personalllm.evaluation.resolve import parse_method
from personalllm.methods.base import Method
from personalllm.methods.registry import get_method
from personalllm.papers.personalllm_2025.printed import PaperRow, find_paper_row

if TYPE_CHECKING:
    from personalllm.data import Benchmark

__all__ = [
    "COUNTERFACTUALS",
    "COUNTERFACTUAL_SHOTS",
    "EMBEDDINGS",
    "FEEDBACK",
    "ZERO_SHOT",
    "Cell",
    "Load",
    "Plan",
    "Settings",
    "estimate_load",
    "is_paper_data",
    "make_plan",
    "plan_settings",
]

Settings: TypeAlias = Literal["text", "logged"]
Layout: TypeAlias = Literal["text", "turns"]
"""Of learning across users: as the paper's text has them, or as in the logged runs whose numbers it prints."""

ZERO_SHOT = "zero-shot"
COUNTERFACTUALS = ("other-user", "flipped", "shuffled")
COUNTERFACTUAL_SHOTS = 3
FEEDBACK = {
    "winning": "winning",
    "winning-and-losing": "winning and losing",
    "losing": "losing",
    "losing-as-winning": "losing as winning",
}
"""What is shown of each pair, and its name in tables."""
EMBEDDINGS = {"winning-minus-losing": "winning minus losing", "winning": "winning", "losing": "losing"}
"""User embeddings of `meta-icl`, and their names in tables."""

PAPER_USERS = 1_000
SMALL_USERS, SMALL_TOKENS = 24, 64
"""Default sizes on data that are not the paper's."""

_TITLES = {"icl": "ICL", "self-icl": "Self-ICL", "meta-icl": "Meta-ICL", "lookup-icl": "Look-up ICL"}
_ACROSS: dict[Settings, str] = {"text": "paper-meta", "logged": "paper-meta-logged"}
_WANTED: dict[Settings, tuple[int, int]] = {"text": (10_000, 20), "logged": (1_000, 5)}
_PAPER_PROMPTS = 10_402
_KNOWN = 5
_AS_LIKED = ("winning", "losing-as-winning")
_CHARACTERS_PER_TOKEN = 4.0
_FRAME = 190
_EXAMPLE_FRAME = 45


def is_paper_data(benchmark: Benchmark) -> bool:
    """Return whether a benchmark is the paper's: all its prompts, scored by its ten RMs, and not synthetic."""
    sized = benchmark.n_prompts == _PAPER_PROMPTS and sorted(benchmark.reward_models) == sorted(PUBLISHED)
    return sized and "synthetic" not in benchmark.metadata


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the table: a method with its parameters, and the history that it gets.

    Attributes:
        method: Registered id.
        shots: Examples shown; 0 for zero-shot.
        variant: What is shown of each pair, or for `meta-icl` the user embedding.
        counterfactual: `none` for the user's own history.
        settings: Of learning across users.
    """

    method: str
    shots: int = 0
    variant: str = ""
    counterfactual: str = "none"
    settings: Settings = "text"
    layout: Layout = "text"

    @property
    def id(self) -> str:
        """Unique name, e.g. `icl/winning/3` or `icl/winning/3/flipped`."""
        if self.method == ZERO_SHOT:
            return ZERO_SHOT
        name = f"{self.method}/{self.variant}/{self.shots}"
        return name if self.counterfactual == "none" else f"{name}/{self.counterfactual}"

    @property
    def title(self) -> str:
        """A few words for tables, without the shots."""
        if self.method == ZERO_SHOT:
            return "Zero-shot"
        names = EMBEDDINGS if self.method == "meta-icl" else FEEDBACK
        return f"{_TITLES[self.method]}, {names[self.variant]}"

    @property
    def name(self) -> str:
        """Title with shots and counterfactual, for progress."""
        shots = "" if self.method == ZERO_SHOT else f", {self.shots} shot{'s' if self.shots > 1 else ''}"
        return self.title + shots + ("" if self.counterfactual == "none" else f", {self.counterfactual} history")

    @property
    def preset(self) -> str:
        """Id of the preset that the cell belongs to."""
        across = self.method in {"meta-icl", "lookup-icl"}
        return get_preset(_ACROSS[self.settings] if across else "paper-icl").id

    @property
    def feedback(self) -> str:
        """What is shown of each pair."""
        return "winning" if self.method == "meta-icl" else self.variant

    @property
    def paper(self) -> PaperRow | None:
        """The paper's run to set beside this cell; None for a counterfactual, which the paper has none of."""
        if self.counterfactual != "none":
            return None
        pool_users, n_similar = _WANTED[self.settings]
        return find_paper_row(
            self.method,
            self.shots,
            feedback=self.feedback,
            embedding=self._embedding,
            pool_users=pool_users,
            n_similar=n_similar,
        )

    @property
    def _embedding(self) -> str:
        return self.variant if self.method == "meta-icl" else ""

    def build(self, max_tokens: int) -> Method:
        """Return the method with the parameters of its preset; a longer reply than the preset's gets its room."""
        specs = map(parse_method, get_preset(self.preset).methods)
        params = next(params for name, params in specs if name == self.method)
        if self.method == ZERO_SHOT:
            return get_method(ZERO_SHOT)
        params |= {"n_shots": self.shots, "feedback": self.feedback}
        params["reply_tokens"] = max(int(params["reply_tokens"]), max_tokens)
        if self.layout != "text":
            params["layout"] = self.layout
        if self._embedding:
            params["embedding"] = self._embedding
        return get_method(self.method, **params)


@dataclass(frozen=True, eq=False)
class Plan:
    """What is run.

    Attributes:
        cells: All cells: those with the users' own history first, then one counterfactual after the other.
        protocols: The protocol of the cells with each history, by the name of the counterfactual.
        shots: Numbers of shots.
        settings: Of learning across users.
        changes: For each preset what was changed: name of the setting -> (preset's value, value here).
        paper_data: Whether the benchmark is the paper's.
        layout: How examples are shown: in one turn, as the paper does, or as chat turns.
    """

    cells: tuple[Cell, ...]
    protocols: Mapping[str, Protocol]
    shots: tuple[int, ...]
    settings: Settings
    changes: Mapping[str, Mapping[str, tuple[Any, Any]]]
    paper_data: bool
    layout: Layout = "text"

    @property
    def across(self) -> str:
        """Id of the preset of learning across users, which sets the protocol."""
        return get_preset(_ACROSS[self.settings]).id

    @property
    def n_users(self) -> int:
        """Users evaluated, each with one query."""
        protocol = self.protocols["none"]
        total = protocol.population.n_users
        return total if protocol.limit is None else min(protocol.limit, total)

    @property
    def max_tokens(self) -> int:
        """Maximum number of new tokens of a reply."""
        return int(getattr(self.protocols["none"].options, "max_tokens", 0))

    @property
    def n_requests(self) -> int:
        """Requests to the chat model, those that are asked twice counted twice."""
        return self.n_users * len(self.cells)

    def of(self, counterfactual: str) -> tuple[Cell, ...]:
        """Return the cells with a history."""
        return tuple(cell for cell in self.cells if cell.counterfactual == counterfactual)


def _cells(shots: Sequence[int], settings: Settings, layout: Layout) -> list[Cell]:
    modes = FEEDBACK if layout == "text" else _AS_LIKED
    cells = [Cell("icl", k, mode) for mode in modes for k in shots]
    cells += [Cell("self-icl", k, "winning") for k in shots]
    cells += [Cell("meta-icl", k, embedding, settings=settings) for embedding in EMBEDDINGS for k in shots]
    cells += [Cell("lookup-icl", k, "winning", settings=settings) for k in shots]
    return [Cell(ZERO_SHOT), *(replace(cell, layout=layout) for cell in cells)]


def make_plan(
    benchmark: Benchmark,
    *,
    shots: Sequence[int] = (1, 3, 5),
    counterfactuals: bool = True,
    settings: Settings = "text",
    layout: Layout = "text",
    **overrides: Any,
) -> Plan:
    """Return the cells of section 4 and their protocols, made from the presets `paper-icl` and `paper-meta`.

    Args:
        benchmark: What to run on.
        shots: Numbers of examples.
        counterfactuals: Whether every personalised method is run with three counterfactual histories too, at 3 shots
            (at the largest number of shots if 3 is not among them).
        settings: `text` (preset `paper-meta`): 10,000 pool users, 50 pairs of each in the user embedding, 20 similar
            users; `logged` (`paper-meta-logged`): 1,000, 5 and 5, as in the runs that the paper prints.
        layout: `text` shows examples in one turn, as the paper does; `turns` as chat turns, which leaves out the cells
            that show a response as disliked.
        **overrides: Fields of the protocol, as for `Protocol.for_data`.

    Raises:
        ParameterError: If a number of shots or a field of the protocol is out of range, or one that the plan itself
            sets is given (track, prompts of each user, counterfactual).
    """
    counts = tuple(sorted(dict.fromkeys(shots)))
    if not counts or counts[0] < 1:
        raise ParameterError("shots", "one or more integers >= 1", list(shots))
    larger = {"nearest": counts[-1], "pairs": counts[-1]} if counts[-1] > _KNOWN else {}
    preset = get_preset(_ACROSS[settings])
    true = preset.protocol_for(benchmark, **larger | overrides)
    for name, fixed, value in (
        ("track", preset.protocol["track"], true.track),
        ("prompts_per_user", 1, true.prompts_per_user),
        ("history.counterfactual", "none", true.history.counterfactual),
    ):
        if value != fixed:
            raise ParameterError(name, f"{fixed!r}, which section 4 sets by itself", value)
    cells = _cells(counts, settings, layout)
    protocols = {"none": true}
    if counterfactuals:
        at = COUNTERFACTUAL_SHOTS if COUNTERFACTUAL_SHOTS in counts else counts[-1]
        for kind in COUNTERFACTUALS:
            protocols[kind] = true.changed(benchmark, counterfactual=kind)
            cells += [replace(cell, counterfactual=kind) for cell in _cells([at], settings, layout)[1:]]
    changes = {name: dict(get_preset(name).changes(true)) for name in dict.fromkeys(cell.preset for cell in cells)}
    return Plan(tuple(cells), protocols, counts, settings, changes, is_paper_data(benchmark), layout)


def plan_settings(benchmark: Benchmark, *, users: int | None = None, max_tokens: int | None = None) -> JSON:
    """Return settings for `make_plan`: the paper's sizes on its own data, small ones on any other benchmark.

    Args:
        benchmark: What to run on.
        users: Users evaluated, the first of the population, which grows if it has fewer; None for the default.
        max_tokens: Maximum number of new tokens of a reply; None for the default.
    """
    if not is_paper_data(benchmark):
        users = SMALL_USERS if users is None else users
        max_tokens = SMALL_TOKENS if max_tokens is None else max_tokens
    settings = {"limit": users, "max_tokens": max_tokens}
    if users is not None and users > PAPER_USERS:
        settings["n_users"] = users
    return {name: value for name, value in settings.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Load:
    """What a cell is likely to ask of the chat model.

    Attributes:
        cell: The cell.
        requests: Requests.
        prompt_tokens: Estimate of all their prompts, four characters a token.
        completion_tokens: Upper limit of all replies.
    """

    cell: Cell
    requests: int
    prompt_tokens: int
    completion_tokens: int


def estimate_load(plan: Plan, benchmark: Benchmark) -> tuple[Load, ...]:
    """Estimate the tokens of each cell from the mean lengths of the benchmark's texts, without asking any model."""
    import pyarrow.compute as pc

    protocol = plan.protocols["none"]
    lengths = pc.utf8_length(benchmark.prompts).to_numpy(zero_copy_only=False)
    query = float(lengths[benchmark.rows(protocol.split)].mean())
    prompt = float(lengths[benchmark.rows(protocol.history_split)].mean())
    response = float(pc.mean(pc.utf8_length(benchmark.responses)).as_py())
    loads = []
    for cell in plan.cells:
        n_responses = 2 if cell.feedback == "winning-and-losing" else 1
        history = cell.shots * (prompt + n_responses * response + _EXAMPLE_FRAME) + (_FRAME if cell.shots else 0)
        budget = int(cell.build(plan.max_tokens).params().get("max_history_tokens", 0))
        tokens = query / _CHARACTERS_PER_TOKEN + min(budget, history / _CHARACTERS_PER_TOKEN)
        loads.append(Load(cell, plan.n_users, round(tokens * plan.n_users), plan.max_tokens * plan.n_users))
    return tuple(loads)
