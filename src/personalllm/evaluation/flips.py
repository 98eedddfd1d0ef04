"""Measure how many right predictions turn when the labels of a history are reversed, where the reversal asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from personalllm.core.crossed import MIN_PROMPTS, MIN_USERS, weighted_mean
from personalllm.core.errors import UserError
from personalllm.core.types import F32, F64
from personalllm.evaluation.contract import Condition, Estimate
from personalllm.evaluation.measures import crossed
from personalllm.evaluation.protocol import Protocol
from personalllm.evaluation.results import Results
from personalllm.evaluation.sources.options import PredictOptions
from personalllm.evaluation.sources.pairs import Group, Pairs, TestPairs
from personalllm.evaluation.sources.simulated import Simulated

if TYPE_CHECKING:
    from personalllm.data import Benchmark

__all__ = ["FlipRate", "flip_rate", "implies_opposite"]

_CLEAR = 1e-6  # of utility, in standard deviations: the programme is solved to about 1e-9


@dataclass(frozen=True, slots=True)
class FlipRate:
    """How many right predictions turn when the labels of the history are reversed.

    Attributes:
        estimate: Share of those that count, in [0, 1], with its interval; NaN if none counts.
        n_counted: Right predictions for which the reversal implies the opposite answer.
        n_right: Right predictions.
    """

    estimate: Estimate
    n_counted: int
    n_right: int


def flip_rate(results: Results, benchmark: Benchmark, label: str, at: Condition | None = None) -> FlipRate:
    """Return the share of right predictions that turn when the labels of the history are reversed.

    Only those count where the reversal implies the opposite answer for every compatible user: whatever the weights over
    the RMs, who would have given the reversed answers prefers the other response. Elsewhere a method may keep to its
    prediction with good reason, since somebody gives the reversed answers and prefers the same response.

    Args:
        results: Of the predict track, with the counterfactual `flipped`.
        benchmark: What they were made on.
        label: Of a method.
        at: Users, prompts and shots; None: the headline of the results.

    Raises:
        UserError: If the results have no flipped histories of these users and shots, are of another benchmark, or a
            baseline or an oracle is named, which no history changes.
        UnknownName: If there is no such method.
    """
    if results[label].kind != "method":
        raise UserError(f"{label!r} ignores the history, so nothing of it can turn.", "Name a method.")
    own = at or results.headline
    flipped = Condition(own.users, own.prompts, "flipped", own.shots)
    for condition in (own, flipped):
        if condition not in results.conditions or own.history != "true":
            raise UserError(
                f"These results have no predictions for {condition}.",
                "Evaluate with prediction.counterfactuals=flipped in the predict track, and take the most shots.",
            )
    protocol = Protocol.from_spec(results.protocol)
    assert isinstance(protocol.options, PredictOptions)  # noqa: S101 (the conditions above are of its track alone)
    pairs = Pairs(Simulated(protocol, benchmark), protocol.options)
    group = pairs.groups[own.users]
    tests = group.tests[own.prompts]
    right = _margins(results, label, own) > 0
    counted = right & implies_opposite(pairs, group, tests, own.shots, right)
    turned = (_margins(results, label, flipped) < 0)[counted].astype(np.float64)
    user, prompt, ones = tests.user[counted], tests.prompt[counted], np.ones(len(turned))
    of_prompts, cells = crossed(user, prompt, {"turned": turned}, pooled=True)
    sides = [(part["all:turned"].astype(np.float64), part["all:n"].astype(np.float64)) for part in (of_prompts, cells)]
    sums, counts = (np.asarray(np.bincount(user, each, group.n_users), np.float64) for each in (turned, ones))
    mean = weighted_mean((sums, counts), *sides)
    over = protocol.intervals
    few = mean.n_prompts < MIN_PROMPTS or (over != "prompts" and mean.n_users < MIN_USERS)
    ends = (np.nan, np.nan) if few else mean.interval(over)
    return FlipRate(Estimate(mean.value, *ends), int(counted.sum()), int(right.sum()))


def _margins(results: Results, label: str, at: Condition) -> F32:
    samples = results.samples(label)
    of_condition = samples["condition"].to_numpy() == results.conditions.index(at)
    margins: F32 = samples["margin"].to_numpy()[of_condition]
    return margins


def implies_opposite(
    pairs: Pairs, group: Group, tests: TestPairs, shots: int, among: npt.NDArray[np.bool_] | None = None
) -> npt.NDArray[np.bool_]:
    r"""Return bool (n,): whether everybody who would reverse all of a user's answers prefers the rejected response.

    With t the difference of the RMs' scores of a test pair and $d_i$ those of the answers, compatible users have
    weights w on the simplex with $w \cdot d_i \le 0$. The largest $w \cdot t$ among them, a linear programme, is below
    0 if and only if all of them prefer the other response. False where nobody is compatible.

    Args:
        pairs: What was drawn.
        group: The users.
        tests: Their test pairs.
        shots: Answers that are known of each user.
        among: bool (n,): which pairs to look at, others are false; None for all.
    """
    scores, compared = pairs.source.table.values, group.compared["true"]
    offsets = np.searchsorted(compared.user, np.arange(group.n_users + 1))
    implied = np.zeros(len(tests), np.bool_)
    for row in np.flatnonzero(np.ones(len(tests), np.bool_) if among is None else among).tolist():
        first = int(offsets[tests.user[row]])
        known = slice(first, min(first + shots, int(offsets[tests.user[row] + 1])))
        ties = compared.tie[known]
        columns = (getattr(compared, name)[known][~ties] for name in ("prompt", "chosen", "rejected"))
        answers = _differences(scores, *columns)
        test = slice(row, row + 1)
        target = _differences(scores, tests.prompt[test], tests.chosen[test], tests.rejected[test])[0]
        implied[row] = _largest(target, answers) < -_CLEAR
    return implied


def _differences(scores: F32, prompt: Any, chosen: Any, rejected: Any) -> F64:
    """Return the RMs' scores of the chosen minus those of the rejected responses, float64 (n, n_reward_models)."""
    return np.asarray(scores[prompt, chosen].astype(np.float64) - scores[prompt, rejected])


def _largest(target: F64, answers: F64) -> float:
    """Return the largest w . target for w on the simplex with answers . w <= 0; infinity if there is no such w."""
    from scipy.optimize import linprog

    if not len(answers):
        return float(target.max())
    found = linprog(-target, answers, np.zeros(len(answers)), np.ones((1, len(target))), [1.0])
    return np.inf if found.status or found.fun is None else -float(found.fun)
