"""Votes of a population: how many voters chose each option of each prompt.

Simulated users, persona prompting and real annotators become votes first, so that the same code measures them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from personalllm.analysis.vote_files import Columns, Ties, read_votes
from personalllm.core.errors import AxisMismatch, ParameterError, UserError
from personalllm.core.types import F64, I64, U8
from personalllm.data import Benchmark, ScoreTable
from personalllm.users import Population, choices

__all__ = ["TieRule", "Votes", "check_names"]

TieRule: TypeAlias = Literal["half", "rank"]

_SLACK = 1e-6
_AT_THRESHOLD = 1e-9
_USERS_PER_BLOCK = 4_096


@dataclass(frozen=True, eq=False)
class Votes:
    r"""The votes of one population over some prompts.

    Attributes:
        counts: float64 (n_prompts, n_options), >= 0: votes for each option; fractions where a voter was split.
        n_voters: float64 (n_prompts,), > 0, the row sums of `counts`.
        name: Whose votes they are, for tables and figures.
        options: Names of the options, e.g. response models; `option 1`, `option 2`, ... if not given.
        option_index: uint8 (n_prompts, n_options) into `options`; None if column r is `options[r]` everywhere.
        prompts: Texts of the prompts, length n_prompts; empty if not known.
        prompt_ids: Ids of the prompts, length n_prompts; empty if not known.
        choices: uint8 (n_users, n_prompts), each voter's column; None if not kept or if a voter was split.
        squares: float64 (n_prompts,), sum over voters of the sum of their squared votes; None if no voter is split.

    Raises:
        AxisMismatch: If the shapes do not fit together.
        ParameterError: If a count is negative or not finite, or the counts do not sum to `n_voters`.

    >>> votes = Votes(counts=[[3, 1], [2, 2]], n_voters=[4, 4], name="four people")
    >>> votes.top_share().tolist(), votes.n_winners().tolist()
    ([0.75, 0.5], [2, 2])
    """

    counts: F64
    n_voters: F64
    name: str
    options: tuple[str, ...] = ()
    option_index: U8 | None = None
    prompts: tuple[str, ...] = ()
    prompt_ids: tuple[str, ...] = ()
    choices: U8 | None = None
    squares: F64 | None = None

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        counts = np.array(self.counts, np.float64)
        if counts.ndim != 2 or not counts.size:
            raise AxisMismatch(
                f"The votes of {self.name!r} have shape {counts.shape}.",
                "Give counts (n_prompts, n_options), 1 prompt and 1 option or more.",
            )
        set_(self, "counts", counts)
        set_(self, "n_voters", np.array(self.n_voters, np.float64))
        if self.squares is not None:
            set_(self, "squares", np.array(self.squares, np.float64))
        names = tuple(str(name) for name in self.options)
        set_(self, "options", names or tuple(f"option {r + 1}" for r in range(counts.shape[1])))
        set_(self, "prompts", tuple(self.prompts))
        set_(self, "prompt_ids", tuple(self.prompt_ids))
        self._check_shapes()
        self._check_values()
        for array in (self.counts, self.n_voters, self.squares):
            if array is not None:
                array.setflags(write=False)

    def _check_shapes(self) -> None:
        n_prompts, n_options = self.counts.shape
        lengths: dict[str, tuple[int, ...]] = {"n_voters": self.n_voters.shape}
        if self.squares is not None:
            lengths["squares"] = self.squares.shape
        lengths |= {k: (len(v),) for k, v in (("prompts", self.prompts), ("prompt_ids", self.prompt_ids)) if v}
        if self.choices is not None:
            lengths["choices (second axis)"] = self.choices.shape[1:]
        for name, shape in lengths.items():
            if shape != (n_prompts,):
                raise AxisMismatch(
                    f"{name} of {self.name!r} has shape {shape}, but there are votes for {n_prompts} prompts."
                )
        if self.option_index is None:
            if len(self.options) != n_options:
                raise AxisMismatch(f"{len(self.options)} names of options for {n_options} columns of {self.name!r}.")
        elif self.option_index.shape != self.counts.shape:
            raise AxisMismatch(
                f"option_index of {self.name!r} has shape {self.option_index.shape}, the counts {self.counts.shape}."
            )
        elif int(self.option_index.max()) >= len(self.options):
            raise ParameterError("option_index", f"in [0, {len(self.options)})", int(self.option_index.max()))

    def _check_values(self) -> None:
        if not np.isfinite(self.counts).all() or (self.counts < 0).any():
            raise ParameterError(f"the votes of {self.name!r}", "finite and >= 0", float(self.counts.min()))
        if not (self.n_voters > 0).all():
            row = int(np.flatnonzero(~(self.n_voters > 0))[0])
            raise ParameterError(f"n_voters of {self.name!r}", "> 0 for every prompt", f"none in row {row}")
        off = np.abs(self.counts.sum(1) - self.n_voters) > _SLACK * self.n_voters
        if off.any():
            row = int(np.flatnonzero(off)[0])
            raise ParameterError(
                f"the votes of {self.name!r}",
                "in sum n_voters for every prompt",
                f"{self.counts[row].sum():g} of {self.n_voters[row]:g} voters in row {row}",
            )

    def __repr__(self) -> str:
        low, high = self.n_voters.min(), self.n_voters.max()
        voters = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        return f"Votes({self.name!r}: {self.n_prompts} prompts, {self.n_options} options, {voters} voters)"

    @property
    def n_prompts(self) -> int:
        """Number of prompts."""
        return int(self.counts.shape[0])

    @property
    def n_options(self) -> int:
        """Number of options of each prompt."""
        return int(self.counts.shape[1])

    @classmethod
    def of(
        cls,
        name: str,
        population: Population,
        scores: ScoreTable,
        benchmark: Benchmark | None = None,
        rows: npt.ArrayLike | None = None,
        *,
        keep_choices: bool = True,
    ) -> Votes:
        """Return the votes of simulated users: each user votes for its best response of each prompt.

        Args:
            name: Whose votes they are, e.g. `"alpha 0.05"`.
            population: The users.
            scores: Standardised scores of the prompts.
            benchmark: Names the response models and the prompts; None to leave them unnamed.
            rows: Rows of the benchmark that the scores stand for, (n_prompts,); None for all.
            keep_choices: False to keep the counts only, which takes no memory per user.

        Raises:
            AxisMismatch: If the reward models differ, or the rows are not as many as the scores.

        >>> table = ScoreTable(np.float32([[[1, 3], [2, 0]]]), ("a", "b"))
        >>> Votes.of("two", Population.one_per_reward_model(("a", "b")), table).counts.tolist()
        [[1.0, 1.0]]
        """
        best = np.empty((population.n_users if keep_choices else 0, scores.n_prompts), np.uint8)
        counts = np.zeros((scores.n_prompts, scores.n_responses))
        for start in range(0, population.n_users, _USERS_PER_BLOCK):
            block = np.arange(start, min(start + _USERS_PER_BLOCK, population.n_users))
            part = population if len(block) == population.n_users else population.subset(block)
            chosen = choices(part, scores)[0]
            counts += _count(chosen, scores.n_responses)
            if keep_choices:
                best[block] = chosen
        options, index, texts, ids = _names(benchmark, rows, scores.n_prompts)
        return cls(
            counts=counts,
            n_voters=np.full(scores.n_prompts, float(population.n_users)),
            name=name,
            options=options,
            option_index=index,
            prompts=texts,
            prompt_ids=ids,
            choices=best if keep_choices else None,
        )

    @classmethod
    def from_choices(
        cls,
        name: str,
        choices: npt.ArrayLike,
        n_options: int,
        *,
        benchmark: Benchmark | None = None,
        rows: npt.ArrayLike | None = None,
    ) -> Votes:
        """Return the votes of voters whose choices are known one by one.

        Args:
            name: Whose votes they are.
            choices: uint8 (n_users, n_prompts), columns in [0, n_options).
            n_options: Options of each prompt.
            benchmark: Names the response models and the prompts; None to leave them unnamed.
            rows: Rows of the benchmark that the prompts stand for, (n_prompts,); None for all.

        Raises:
            AxisMismatch: If the shapes do not fit together.
            ParameterError: If a choice is out of range.

        >>> Votes.from_choices("two", [[0, 1], [0, 0]], 2).counts.tolist()
        [[2.0, 0.0], [1.0, 1.0]]
        """
        given = np.asarray(choices)
        if given.ndim != 2 or not given.size:
            raise AxisMismatch(f"The choices of {name!r} have shape {given.shape}.", "Give (n_users, n_prompts).")
        if not np.issubdtype(given.dtype, np.integer) or given.min() < 0 or given.max() >= n_options:
            raise ParameterError("choices", f"integers in [0, {n_options})", (given.min(), given.max()))
        best = given.astype(np.uint8)
        best.setflags(write=False)
        options, index, texts, ids = _names(benchmark, rows, best.shape[1])
        return cls(
            counts=_count(best, n_options),
            n_voters=np.full(best.shape[1], float(best.shape[0])),
            name=name,
            options=options,
            option_index=index,
            prompts=texts,
            prompt_ids=ids,
            choices=best,
        )

    @classmethod
    def from_file(
        cls, path: str | Path, *, name: str | None = None, ties: Ties = "split", columns: Columns = None
    ) -> Votes:
        """Return the votes of real voters from a file (`personalllm.analysis.vote_files` says which columns).

        Args:
            path: CSV, JSONL or Parquet; CSV and JSONL also gzipped.
            name: Whose votes they are; the name of the file if None.
            ties: What a tie is: `"split"` shares the vote among the options of the prompt, `"option"` counts it as an
                option of its own, `"drop"` leaves it out (and prompts on which only ties were cast).
            columns: What the file calls a column, e.g. `{"voter": "annotator"}`.

        Raises:
            DataError: If the file is absent or breaks the format; says where and how to fix it.
        """
        return cls(name=name or Path(path).name, **read_votes(Path(path), ties, columns)._asdict())

    def shares(self) -> F64:
        """Return the share of the votes of each option, float64 (n_prompts, n_options), rows sum to 1."""
        shares: F64 = self.counts / self.n_voters[:, None]
        return shares

    def top_share(self) -> F64:
        """Return the share of the votes that the most popular option got, float64 (n_prompts,) in (0, 1]."""
        top: F64 = self.counts.max(1) / self.n_voters
        return top

    def n_winners(self) -> I64:
        """Return how many options got a vote, int64 (n_prompts,) in [1, n_options]."""
        winners: I64 = np.count_nonzero(self.counts, axis=1).astype(np.int64)
        return winners

    def entropy(self) -> F64:
        r"""Return the entropy of the vote in nats, $-\sum_r p_r \ln p_r$, float64 (n_prompts,) in [0, ln n_options]."""
        shares = self.shares()
        logs = np.log(shares, where=shares > 0, out=np.zeros_like(shares))
        value: F64 = np.maximum(-(shares * logs).sum(1), 0.0)
        return value

    def pair_agreement(self) -> F64:
        r"""Return the probability that two different voters choose the same option, float64 (n_prompts,).

        $\sum_r c_r (c_r - 1) / (n (n - 1))$; it estimates the same number without bias for any n >= 2, so panels of
        different size can be compared by it. Split votes count as a draw among their options. NaN where n = 1.
        """
        pairs = self.n_voters * (self.n_voters - 1)
        same = (self.counts**2).sum(1) - (self.n_voters if self.squares is None else self.squares)
        value: F64 = np.divide(same, pairs, out=np.full(self.n_prompts, np.nan), where=self.n_voters >= 2)
        return value

    def option_shares(self) -> F64:
        """Return the mean over prompts of the share of the votes of each name in `options`, float64, sum 1."""
        shares: F64 = self.option_columns().mean(0)
        return shares

    def option_columns(self) -> F64:
        """Return the share of the votes of each name in `options` for each prompt, float64 (n_prompts, n_names)."""
        shares = self.shares()
        if self.option_index is None:
            return shares
        columns = np.zeros((self.n_prompts, len(self.options)))
        np.add.at(columns, (np.arange(self.n_prompts)[:, None], self.option_index), shares)
        return columns

    def at_most(self, threshold: float) -> F64:
        """Return for each prompt 1 if the top share is below a threshold, 0.5 if it is equal, else 0.

        A top share that differs from the threshold by rounding (1e-9) is equal to it.

        Args:
            threshold: Share in [0, 1].
        """
        top = self.top_share()
        tied = np.abs(top - threshold) <= _AT_THRESHOLD
        value: F64 = np.where(tied, 0.5, (top < threshold).astype(np.float64))
        return value

    def share_at_most(self, threshold: float, *, rule: TieRule = "half") -> float:
        """Return the share of prompts whose top share is at most a threshold; a tie with it counts half.

        Args:
            threshold: Share in [0, 1].
            rule: `"half"` as said; `"rank"` adds half a prompt if any prompt ties, as the function behind the paper's
                figures does (`scipy.stats.percentileofscore`, kind `rank`): 0.05 points of 1,000 prompts.

        >>> votes = Votes(counts=[[3, 1], [2, 2], [4, 0]], n_voters=[4, 4, 4], name="four people")
        >>> votes.share_at_most(0.5), votes.share_at_most(0.75), votes.share_at_most(0.9)
        (0.16666666666666666, 0.5, 0.6666666666666666)
        """
        values = self.at_most(threshold)
        extra = 0.5 if rule == "rank" and (values == 0.5).any() else 0.0
        return float((values.sum() + extra) / self.n_prompts)

    def winners_histogram(self) -> dict[int, float]:
        """Return the share of prompts with 1, 2, ..., n_options options that got a vote."""
        counts = np.bincount(self.n_winners(), minlength=self.n_options + 1)[1:]
        return {n: float(count) / self.n_prompts for n, count in enumerate(counts, 1)}

    def drawn_down(self, n_voters: int, rng: np.random.Generator) -> Votes:
        """Return the votes of a few voters drawn without replacement, anew for each prompt.

        Args:
            n_voters: Voters to keep, from 1 to the smallest number of voters of a prompt.
            rng: Draws the voters.

        Raises:
            ParameterError: If a prompt has fewer voters.
            UserError: If votes are split, so that there are no whole votes to draw.
        """
        if not 1 <= n_voters <= self.n_voters.min():
            raise ParameterError("n_voters", f"in [1, {self.n_voters.min():g}]", n_voters)
        whole = np.rint(self.counts).astype(np.int64)
        if np.abs(whole - self.counts).max() > _SLACK:
            raise UserError(
                f"{self.name!r} has split votes, from which no voters can be drawn.",
                'Read the file with ties="option" or ties="drop".',
            )
        drawn = np.empty_like(whole)
        # A multivariate hypergeometric draw, option by option: NumPy's own takes one urn, not one for each prompt.
        left, others = np.full(self.n_prompts, n_voters), whole.sum(1)
        for r in range(self.n_options):
            others = others - whole[:, r]
            drawn[:, r] = rng.hypergeometric(whole[:, r], others, left)
            left = left - drawn[:, r]
        counts, n_each = drawn.astype(np.float64), np.full(self.n_prompts, float(n_voters))
        return replace(self, counts=counts, n_voters=n_each, choices=None, squares=None)


def check_names(votes: Sequence[Votes]) -> None:
    """Check that there are populations and that no two share a name.

    Raises:
        ParameterError: If that is not so.
    """
    names = [panel.name for panel in votes]
    if not names:
        raise ParameterError("votes", "one population or more", names)
    if len(set(names)) < len(names):
        raise ParameterError("the names of the populations", "distinct", names)


def _count(best: U8, n_options: int) -> F64:
    """Count the votes, float64 (n_prompts, n_options), from choices, uint8 (n_users, n_prompts)."""
    return np.stack([np.count_nonzero(best == r, axis=0) for r in range(n_options)], axis=1).astype(np.float64)


def _names(
    benchmark: Benchmark | None, rows: npt.ArrayLike | None, n_prompts: int
) -> tuple[tuple[str, ...], U8 | None, tuple[str, ...], tuple[str, ...]]:
    """Return options, option index, prompt texts and prompt ids of some rows of a benchmark."""
    if benchmark is None:
        return (), None, (), ()
    at = np.arange(benchmark.n_prompts) if rows is None else np.asarray(rows)
    if len(at) != n_prompts:
        raise AxisMismatch(
            f"Votes for {n_prompts} prompts, but {len(at)} rows of {benchmark.name}.",
            "Give the rows for which the scores were taken.",
        )
    index: U8 = benchmark.response_model_index[at]
    texts, ids = (tuple(column.take(at).to_pylist()) for column in (benchmark.prompts, benchmark.prompt_ids))
    return benchmark.response_models, index, texts, ids
