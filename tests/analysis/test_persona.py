"""Persona prompting: scorers, the ledger, votes and what a persona changes."""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import spearmanr
from typer.testing import CliRunner

from personalllm.analysis import persona as room
from personalllm.analysis.persona.store import prompt_key
from personalllm.cli.personas import app
from personalllm.core.errors import AxisMismatch, DataError, ParameterError, RunError, UnknownName, UserError
from personalllm.core.types import ChatReply
from personalllm.data import Benchmark, load
from personalllm.testing import EchoChatModel, SurfaceRewards

PERSONAS = ("a calm angler", "a busy baker", "a curious child")


def make_benchmark(n_prompts=6, n_responses=4):
    return Benchmark.from_arrays(
        name="tiny",
        prompt_ids=[f"p{i}" for i in range(n_prompts)],
        prompts=[f"Question number {i} about bread?" for i in range(n_prompts)],
        subsets=["s"] * n_prompts,
        splits=["test"] * n_prompts,
        responses=[[f"answer {i} {j}, " + "word " * (i + j) for j in range(n_responses)] for i in range(n_prompts)],
        response_models=[f"model-{j}" for j in range(n_responses)],
        reward_models=["rm"],
        scores=np.zeros((n_prompts, n_responses, 1)),
    )


class HashScorer:
    """A number for each (persona, prompt, response); counts what it is asked."""

    def __init__(self, identity="hash@1", fail_after=None):
        self.identity, self.fail_after, self.asked = identity, fail_after, []

    def score(self, persona, prompts, responses):
        values = []
        for pair in zip(prompts, responses, strict=True):
            if self.fail_after is not None and len(self.asked) >= self.fail_after:
                raise RunError("stopped midway")
            self.asked.append((persona, *pair))
            raw = hashlib.sha256(repr((persona, *pair)).encode()).digest()
            values.append(int.from_bytes(raw[:3], "little") / 2**24)
        return np.array(values, np.float32)


class FixedScorer:
    """Returns its scores, an array (1 + n_personas, n_prompts, n_responses), the first row without a persona."""

    identity = "fixed@1"

    def __init__(self, table, personas, benchmark):
        self.table, self.place = np.asarray(table, np.float32), {"": 0, **{p: i for i, p in enumerate(personas, 1)}}
        rows = range(benchmark.n_prompts)
        self.rows = {benchmark.prompt(i): i for i in rows}
        self.columns = {benchmark.response(i, j): j for i in rows for j in range(benchmark.n_responses)}

    def score(self, persona, prompts, responses):
        at = [(self.rows[p], self.columns[r]) for p, r in zip(prompts, responses, strict=True)]
        return np.array([self.table[self.place[persona], i, j] for i, j in at], np.float32)


def population_of(table, tmp_path):
    table = np.asarray(table, np.float32)
    benchmark = make_benchmark(*table.shape[1:])
    personas = tuple(f"persona {i}" for i in range(len(table) - 1))
    scorer = FixedScorer(table, personas, benchmark)
    return room.persona_population(room.score_personas(benchmark, personas, scorer, directory=tmp_path))


# Scores, resuming, keys


def test_scores_are_those_of_the_scorer_and_nobody_is_scored_too(tmp_path):
    benchmark, scorer = make_benchmark(), HashScorer()
    found = room.score_personas(benchmark, PERSONAS, scorer, rows=[4, 1], directory=tmp_path)
    assert found.scores.shape == (3, 2, 4)
    assert found.texts.prompt_ids == ("p4", "p1")
    for voice, row in (("", found.baseline), (PERSONAS[2], found.scores[2])):
        expected = HashScorer().score(voice, [benchmark.prompt(1)] * 4, [benchmark.response(1, j) for j in range(4)])
        np.testing.assert_array_equal(row[1], expected)


@pytest.mark.parametrize("block", [1, 2, 5, 100])
def test_the_block_size_changes_no_score(tmp_path, block):
    a = room.score_personas(make_benchmark(), PERSONAS, HashScorer(), directory=tmp_path / "a")
    b = room.score_personas(make_benchmark(), PERSONAS, HashScorer(), directory=tmp_path / "b", block=block)
    np.testing.assert_array_equal(a.scores, b.scores)
    np.testing.assert_array_equal(a.baseline, b.baseline)


def test_a_run_stopped_by_an_exception_goes_on_and_ends_equal(tmp_path):
    benchmark = make_benchmark()
    whole = room.score_personas(benchmark, PERSONAS, HashScorer(), directory=tmp_path / "whole")
    with pytest.raises(RunError, match="stopped midway"):
        room.score_personas(benchmark, PERSONAS, HashScorer(fail_after=50), directory=tmp_path / "cut", block=2)
    rest = HashScorer()
    resumed = room.score_personas(benchmark, PERSONAS, rest, directory=tmp_path / "cut", block=2)
    np.testing.assert_array_equal(whole.scores, resumed.scores)
    np.testing.assert_array_equal(whole.baseline, resumed.baseline)
    assert len(rest.asked) == 4 * 6 * 4 - 48
    again = HashScorer()
    room.score_personas(benchmark, PERSONAS, again, directory=tmp_path / "cut")
    assert again.asked == []


_SLOW_RUN = """
import sys, time
sys.path.insert(0, {here!r})
import test_persona as t
from personalllm.analysis import persona as room
from personalllm.analysis.persona.store import prompt_key
class Slow(t.HashScorer):
    def score(self, persona, prompts, responses):
        time.sleep(0.05)
        return super().score(persona, prompts, responses)
room.score_personas(t.make_benchmark(), t.PERSONAS, Slow(), directory={folder!r}, block=1)
"""


def test_a_killed_run_goes_on_and_ends_equal(tmp_path):
    here = str(Path(__file__).parent)
    code = _SLOW_RUN.format(here=here, folder=str(tmp_path / "cut"))
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and _entries(tmp_path / "cut") < 5:
            assert process.poll() is None
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept = _entries(tmp_path / "cut")
    assert 5 <= kept < 24
    rest = HashScorer()
    resumed = room.score_personas(make_benchmark(), PERSONAS, rest, directory=tmp_path / "cut")
    assert len(rest.asked) == 4 * (24 - kept)
    whole = room.score_personas(make_benchmark(), PERSONAS, HashScorer(), directory=tmp_path / "whole")
    np.testing.assert_array_equal(whole.scores, resumed.scores)


def _entries(folder):
    files = list(folder.glob("*.sqlite"))
    if not files:
        return 0
    connection = sqlite3.connect(files[0], timeout=30)
    try:
        return connection.execute("SELECT count(*) FROM scores").fetchone()[0]
    except sqlite3.OperationalError:
        return 0
    finally:
        connection.close()


def test_a_damaged_entry_is_scored_again(tmp_path):
    first = room.score_personas(make_benchmark(), PERSONAS, HashScorer(), directory=tmp_path)
    connection = sqlite3.connect(next(tmp_path.glob("*.sqlite")))
    connection.execute("UPDATE scores SET value = zeroblob(16) WHERE key = (SELECT min(key) FROM scores)")
    connection.commit()
    connection.close()
    again = HashScorer()
    second = room.score_personas(make_benchmark(), PERSONAS, again, directory=tmp_path)
    assert len(again.asked) == 4
    mended = HashScorer()
    room.score_personas(make_benchmark(), PERSONAS, mended, directory=tmp_path)
    assert mended.asked == []
    np.testing.assert_array_equal(first.scores, second.scores)
    np.testing.assert_array_equal(first.baseline, second.baseline)


def test_a_larger_sample_scores_only_what_is_new(tmp_path):
    room.score_personas(make_benchmark(), PERSONAS[:2], HashScorer(), rows=[0, 1], directory=tmp_path)
    more = HashScorer()
    room.score_personas(make_benchmark(), PERSONAS, more, rows=[2, 0, 1], directory=tmp_path)
    assert len(more.asked) == 4 * (4 * 3 - 3 * 2)


def test_a_file_that_is_no_ledger_is_put_aside(tmp_path):
    first = room.score_personas(make_benchmark(), PERSONAS, HashScorer(), directory=tmp_path)
    path = next(tmp_path.glob("*.sqlite"))
    path.write_bytes(b"nothing of the kind" * 100)
    again = room.score_personas(make_benchmark(), PERSONAS, HashScorer(), directory=tmp_path)
    np.testing.assert_array_equal(first.scores, again.scores)
    assert path.with_suffix(".damaged").read_bytes().startswith(b"nothing of the kind")


def test_a_ledger_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"The persona cache .* cannot be used"):
        room.score_personas(make_benchmark(), PERSONAS, HashScorer(), directory=tmp_path / "file")


class Chat(EchoChatModel):
    def first_token_logprobs(self, requests, top):
        return [{"1": math.log(0.1), " 3": math.log(0.2), "3": math.log(0.1), "yes": math.log(0.6)} for _ in requests]


def test_the_identity_differs_by_every_knob():
    class Other(SurfaceRewards):
        identity = "other"

    scorers = [
        room.RewardModelScorer(SurfaceRewards(), "characters"),
        room.RewardModelScorer(SurfaceRewards(), "distinct"),
        room.RewardModelScorer(SurfaceRewards(), "characters", template="{persona} {prompt}"),
        room.RewardModelScorer(Other(), "characters"),
        room.ChatRatingScorer(Chat()),
        room.ChatRatingScorer(Chat(), method="written"),
        room.ChatRatingScorer(Chat(), scale=4),
        room.ChatRatingScorer(Chat(), max_characters=10),
        room.ChatRatingScorer(Chat(context_length=99)),
    ]
    assert len({scorer.identity for scorer in scorers}) == len(scorers)
    assert room.ChatRatingScorer(Chat()).identity == scorers[4].identity


def test_another_scorer_shares_no_score(tmp_path):
    room.score_personas(make_benchmark(), PERSONAS, HashScorer("a@1"), directory=tmp_path)
    other = HashScorer("b@1")
    room.score_personas(make_benchmark(), PERSONAS, other, directory=tmp_path)
    assert len(other.asked) == 4 * 6 * 4


def test_a_score_belongs_to_the_prompt_and_its_responses_in_their_order():
    keys = [
        prompt_key(*pair) for pair in (("a", ["bc", "d"]), ("a", ["b", "cd"]), ("ab", ["c", "d"]), ("a", ["d", "bc"]))
    ]
    assert len(set(keys)) == 4
    assert prompt_key("a", ["bc", "d"]) == keys[0]


@given(order=st.permutations(range(3)))
def test_permuted_personas_give_permuted_scores_and_the_same_votes(tmp_path_factory, order):
    folder = tmp_path_factory.mktemp("permuted")
    a = room.score_personas(make_benchmark(), PERSONAS, HashScorer(), directory=folder / "a")
    b = room.score_personas(make_benchmark(), [PERSONAS[i] for i in order], HashScorer(), directory=folder / "b")
    np.testing.assert_array_equal(a.scores[list(order)], b.scores)
    first, second = room.persona_population(a), room.persona_population(b)
    np.testing.assert_array_equal(first.votes.counts, second.votes.counts)
    np.testing.assert_array_equal(first.agreement[list(order)], second.agreement)


def test_progress_counts_every_pair(tmp_path):
    seen = []
    room.score_personas(
        make_benchmark(), PERSONAS, HashScorer(), directory=tmp_path, block=4, progress=lambda *x: seen.append(x)
    )
    assert seen[0] == (4, 24)
    assert seen[-1] == (24, 24)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


# Estimate


def test_the_estimate_counts_what_is_left_and_loses_no_score(tmp_path):
    probe = HashScorer()
    found = room.estimate_personas(make_benchmark(), PERSONAS, probe, directory=tmp_path, probe=2)
    assert (found.n_pairs, found.n_kept) == (24, 0)
    assert found.seconds_per_pair > 0
    assert found.seconds >= 19 * found.seconds_per_pair * 0.999
    rest = HashScorer()
    room.score_personas(make_benchmark(), PERSONAS, rest, directory=tmp_path)
    assert len(set(probe.asked)) == 4 * 5
    assert not set(probe.asked) & set(rest.asked)
    done = room.estimate_personas(make_benchmark(), PERSONAS, HashScorer(), directory=tmp_path)
    assert (done.n_kept, done.seconds) == (24, 0)
    assert math.isnan(done.seconds_per_pair)


def test_the_estimate_of_a_steady_scorer_is_close(tmp_path):
    class Steady(HashScorer):
        def score(self, persona, prompts, responses):
            time.sleep(0.002 * len(prompts))
            return super().score(persona, prompts, responses)

    found = room.estimate_personas(make_benchmark(), PERSONAS, Steady(), directory=tmp_path, probe=2)
    assert 0.15 < found.seconds < 0.6


# The scorers


def test_a_reward_model_reads_persona_then_prompt():
    class Spy(SurfaceRewards):
        def score(self, prompts, responses):
            self.seen.append(list(prompts))
            return super().score(prompts, responses)

        seen = []

    scorer = room.RewardModelScorer(Spy(), "characters")
    assert scorer.score("likes {prompt}", ["Why {persona}?"], ["four"]).tolist() == [4]
    scorer.score("", ["Why?"], ["four"])
    assert Spy.seen == [["likes {prompt}\n\nWhy {persona}?"], ["Why?"]]


def test_a_score_that_is_not_finite_is_an_error():
    class Broken(SurfaceRewards):
        def score(self, prompts, responses):
            return np.full((len(prompts), 4), np.nan, np.float32)

    with pytest.raises(RunError, match=r"'Why me\?' as nan"):
        room.RewardModelScorer(Broken(), "distinct").score("x", ["Why me?"], ["a"])


def test_the_expected_rating_is_the_mean_over_the_numbers():
    scorer = room.ChatRatingScorer(Chat())
    np.testing.assert_allclose(scorer.score("x", ["p"], ["r"]), [(0.1 * 1 + 0.3 * 3) / 0.4], rtol=1e-6)
    np.testing.assert_allclose(room.ChatRatingScorer(Chat(), scale=2).score("x", ["p"], ["r"]), [1], rtol=1e-6)


@pytest.mark.parametrize(
    ("answer", "rating"),
    [
        ("4", 4),
        (" 3.5 of 5", 3.5),
        ("I say 2!", 2),
        ("none", math.nan),
        ("", math.nan),
        ("7", math.nan),
        ("0", math.nan),
    ],
)
def test_a_written_rating_is_the_first_number_of_the_scale(answer, rating):
    class Says(EchoChatModel):
        def chat(self, requests):
            return [ChatReply(answer, "stop", 1, 1) for _ in requests]

    np.testing.assert_equal(room.ChatRatingScorer(Says()).score("x", ["p"], ["r"]), np.float32([rating]))


def test_the_question_holds_persona_prompt_and_response_whatever_their_braces():
    class Spy(Chat):
        def first_token_logprobs(self, requests, top):
            seen.extend(requests)
            return super().first_token_logprobs(requests, top)

    seen = []
    scorer = room.ChatRatingScorer(Spy(), max_characters=20)
    scorer.score("a {reply} fan", ["{prompt}"], ["r" * 30])
    assert seen[0].messages[-1].content == (
        f"Person: a {{reply}} fan\nThe person asks: {{prompt}}\nReply: {'r' * 20}\nNumber from 1 to 5:"
    )
    assert [m.content for m in seen[0].messages if m.role == "assistant"] == ["1", "5"]


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: room.RewardModelScorer(SurfaceRewards(), "distict"), UnknownName, "distinct"),
        (lambda: room.RewardModelScorer(SurfaceRewards(), "distinct", template="{prompt}"), ParameterError, "template"),
        (lambda: room.ChatRatingScorer(EchoChatModel(), scale=10), ParameterError, "scale"),
        (lambda: room.ChatRatingScorer(EchoChatModel(), max_characters=0), ParameterError, "max_characters"),
        (lambda: room.ChatRatingScorer(EchoChatModel(), method="guess"), ParameterError, "method"),
        (lambda: room.ChatRatingScorer(EchoChatModel(), method="expected"), UserError, "first token"),
        (lambda: room.score_personas(make_benchmark(), [], HashScorer()), ParameterError, "personas"),
        (lambda: room.score_personas(make_benchmark(), ["a", " "], HashScorer()), ParameterError, "not empty"),
        (lambda: room.score_personas(make_benchmark(), ["a", "b", "a"], HashScorer()), ParameterError, "'a'"),
        (lambda: room.score_personas(make_benchmark(), ["a"], HashScorer(), rows=[6]), ParameterError, "rows"),
        (lambda: room.score_personas(make_benchmark(), ["a"], HashScorer(), rows=[1, 1]), ParameterError, "rows"),
        (lambda: room.score_personas(make_benchmark(), ["a"], HashScorer(), rows=[]), ParameterError, "rows"),
        (lambda: room.score_personas(make_benchmark(), ["a"], HashScorer(), block=0), ParameterError, "block"),
        (lambda: room.estimate_personas(make_benchmark(), ["a"], HashScorer(), probe=0), ParameterError, "probe"),
        (lambda: room.sample_personas(["a"], 2), ParameterError, "n_personas"),
        (lambda: room.sample_rows(make_benchmark(), 0), ParameterError, "n_prompts"),
    ],
)
def test_bad_values_are_named(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_a_scorer_that_returns_the_wrong_shape_or_infinity_is_named(tmp_path):
    class Short(HashScorer):
        def score(self, persona, prompts, responses):
            return super().score(persona, prompts, responses)[:-1]

    class Endless(HashScorer):
        def score(self, persona, prompts, responses):
            return np.full(len(prompts), np.inf, np.float32)

    with pytest.raises(AxisMismatch, match=r"hash@1 returned shape \(23,\) for 24"):
        room.score_personas(make_benchmark(), PERSONAS, Short(), directory=tmp_path)
    with pytest.raises(RunError, match="response 1 of prompt p0 as inf"):
        room.score_personas(make_benchmark(), PERSONAS, Endless(), directory=tmp_path)


# Personas


def test_personas_are_read_once_each_from_text_and_gzip(tmp_path):
    text = "one\n\n  two  \none\nthrée\n"
    (tmp_path / "p.txt").write_text(text, encoding="utf-8")
    (tmp_path / "p.txt.gz").write_bytes(gzip.compress(text.encode()))
    assert (
        room.read_personas(tmp_path / "p.txt") == room.read_personas(tmp_path / "p.txt.gz") == ("one", "two", "thrée")
    )


@pytest.mark.parametrize(("name", "raw"), [("a.txt", b" \n"), ("a.txt", b"\xff"), ("a.gz", b"x"), ("none.txt", None)])
def test_a_file_without_personas_is_named(tmp_path, name, raw):
    if raw is not None:
        (tmp_path / name).write_bytes(raw)
    with pytest.raises(DataError, match=name):
        room.read_personas(tmp_path / name)


def test_samples_are_nested_and_depend_on_the_seed():
    pool = room.shipped_personas()
    assert room.sample_personas(pool, 20)[:5] == room.sample_personas(pool, 5)
    assert room.sample_personas(pool, 60, seed=1) != room.sample_personas(pool, 60)
    assert sorted(room.sample_personas(pool, 60)) == sorted(pool)
    bench = make_benchmark()
    assert set(room.sample_rows(bench, 2)) < set(room.sample_rows(bench, 4))
    assert room.sample_rows(bench, 99).tolist() == room.sample_rows(bench).tolist() == list(range(6))


# Votes and what a persona changes


def test_votes_by_hand(tmp_path):
    found = population_of(
        [
            [[0, 1, 2], [5, 0, 0]],
            [[0, 9, 2], [5, 0, 0]],
            [[0, 9, 9], [0, 1, 0]],
            [[math.nan, 1, 2], [math.nan] * 3],
        ],
        tmp_path,
    )
    np.testing.assert_allclose(found.votes.counts, [[0, 1.5, 1.5], [1, 1, 0]])
    assert found.votes.n_voters.tolist() == [3, 2]
    assert found.votes.squares.tolist() == [2.5, 2]
    assert found.votes.choices is None
    assert found.votes.options == ("model-0", "model-1", "model-2")
    np.testing.assert_allclose(found.agreement, [0.5, 0.25, 1])
    np.testing.assert_allclose(found.tied, [0, 0.5, 0])
    np.testing.assert_allclose(found.unread, [0, 0, 4 / 6])
    assert found.longest == pytest.approx(1.5 / 5)
    assert found.levels == 5


def test_a_prompt_that_nobody_could_score_has_no_vote(tmp_path):
    found = population_of([[[0, 1], [0, 1]], [[math.nan] * 2, [2, 0]]], tmp_path)
    assert found.votes.prompt_ids == ("p1",)
    assert found.votes.prompts == ("Question number 1 about bread?",)
    assert len(found.variance_rest) == 1
    np.testing.assert_allclose(found.agreement, [0])
    with pytest.raises(UserError, match="no answer that could be read"):
        population_of(np.full((2, 1, 2), math.nan), tmp_path / "none")


def test_a_prompt_without_a_baseline_is_not_compared(tmp_path):
    found = population_of([[[math.nan] * 2, [0, 1]], [[0, 1], [0, 1]]], tmp_path)
    assert found.agreement.tolist() == [1]
    assert found.votes.n_prompts == 2


def test_whole_votes_keep_the_choices(tmp_path):
    found = population_of([[[0, 1], [1, 0]], [[0, 1], [1, 0]], [[3, 1], [1, 0]]], tmp_path)
    assert found.votes.choices.tolist() == [[1, 0], [0, 0]]


def test_the_three_variances_add_up_and_tell_the_causes_apart(tmp_path):
    rng = np.random.default_rng(0)
    table = rng.normal(size=(7, 3, 5))
    found = population_of(table, tmp_path / "random")
    total = found.variance_responses + found.variance_personas + found.variance_rest
    np.testing.assert_allclose(total, table[1:].astype(np.float32).var(axis=(0, 2)), rtol=1e-5)
    np.testing.assert_allclose(found.variance_responses, table[1:].mean(0).var(-1), rtol=1e-5)
    np.testing.assert_allclose(found.variance_personas, table[1:].mean(2).var(0), rtol=1e-5)
    assert sum(found.variance_shares()) == pytest.approx(1)
    shift = np.arange(7)[:, None, None] + np.zeros((7, 3, 5))
    assert population_of(shift, tmp_path / "shift").variance_shares() == pytest.approx((0, 1, 0))
    same = np.broadcast_to(np.arange(5.0), (7, 3, 5))
    assert population_of(same, tmp_path / "same").variance_shares() == pytest.approx((1, 0, 0))
    own = np.where((np.arange(7)[:, None, None] + np.arange(4)) % 2 == 1, 1.0, -1.0)[1:] * np.ones((6, 1, 4))
    crossed = np.concatenate([own[:1], own])[:7]
    assert population_of(crossed, tmp_path / "own").variance_shares() == pytest.approx((0, 0, 1))


def test_personas_with_a_missing_score_are_left_out_of_that_prompt(tmp_path):
    table = np.random.default_rng(1).normal(size=(5, 2, 3))
    table[2, 0, 1] = math.nan
    found = population_of(table, tmp_path)
    kept = table[[1, 3, 4], 0]
    assert found.variance_rest[0] == pytest.approx(
        (kept - kept.mean(0) - kept.mean(1, keepdims=True) + kept.mean()).var(), rel=1e-5
    )


def test_length_correlation_is_the_mean_of_spearmans(tmp_path):
    table = np.round(np.random.default_rng(2).normal(size=(130, 2, 5)), 0)
    found = population_of(table, tmp_path)
    lengths = np.arange(5)
    rows = [row for row in table[1:].reshape(-1, 5) if len(set(row)) > 1]
    assert found.length_correlation == pytest.approx(np.mean([spearmanr(row, lengths).statistic for row in rows]))
    assert found.column_correlation == pytest.approx(found.length_correlation)


def test_ratings_that_never_differ_are_reported_as_ties(tmp_path):
    found = population_of(np.ones((4, 2, 3)), tmp_path)
    figures = found.summary()
    assert figures["votes_split"] == 1
    assert figures["different_scores"] == 1
    assert math.isnan(figures["length_correlation"])
    assert all(math.isnan(share) for share in found.variance_shares())
    assert any("read these with care" in note for note in found.notes())
    found.plot()


def test_the_file_gives_back_the_same_numbers(tmp_path):
    benchmark = make_benchmark()
    found = room.score_personas(benchmark, PERSONAS, HashScorer(), rows=[5, 2], directory=tmp_path)
    found.scores[1, 0, 2] = np.nan
    found.write(tmp_path / "scores.parquet")
    again = room.PersonaScores.read(tmp_path / "scores.parquet", benchmark)
    np.testing.assert_array_equal(found.scores, again.scores)
    np.testing.assert_array_equal(found.baseline, again.baseline)
    assert (again.personas, again.scorer, again.texts.rows.tolist()) == (PERSONAS, "hash@1", [5, 2])


def test_a_file_of_another_benchmark_or_kind_is_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = room.score_personas(make_benchmark(), PERSONAS, HashScorer(), directory=tmp_path)
    found.write(tmp_path / "scores.parquet")
    with pytest.raises(DataError, match="not of tiny"):
        room.PersonaScores.read(tmp_path / "scores.parquet", make_benchmark(5))
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    for name, words in (("other", "no persona scores"), ("broken", "cannot be read"), ("absent", "no file")):
        with pytest.raises(DataError, match=words):
            room.PersonaScores.read(tmp_path / f"{name}.parquet", make_benchmark())


def test_tables_are_tidy_and_the_figure_is_drawn(tmp_path):
    benchmark = make_benchmark()
    found = room.persona_population(room.score_personas(benchmark, PERSONAS, HashScorer(), directory=tmp_path))
    tables = found.tables()
    assert {name: table.num_rows for name, table in tables.items()} == {
        "personas_summary": len(found.summary()),
        "personas_prompts": 6,
        "personas_voters": 3,
    }
    assert set(tables["personas_summary"].column("scorer").to_pylist()) == {"hash"}
    assert any("hash" in note for note in found.notes())
    stream = io.BytesIO()
    found.plot().savefig(stream, dpi=98)
    grey = np.asarray(Image.open(stream).convert("L"))
    assert grey.shape[1] >= 800
    assert (grey < 60).any()


# The command


def run(*arguments):
    own = ("--rewards", "personalllm.testing:SurfaceRewards")
    return CliRunner().invoke(app, ["score", "mini", *own, "--n-personas", "3", "--n-prompts", "4", *arguments])


def test_a_dry_run_says_how_long_and_writes_nothing(tmp_path):
    shown = run("--scorer", "on_topic", "--out", str(tmp_path / "p.parquet"), "--dry-run")
    assert shown.exit_code == 0, shown.output
    assert "3 personas x 4 prompts, scored by on_topic." in shown.output
    assert "16 pairs" in shown.output
    assert not (tmp_path / "p.parquet").exists()


def test_the_command_writes_scores_that_can_be_read_and_uses_what_is_kept(tmp_path):
    shown = run("--scorer", "on_topic", "--out", str(tmp_path / "p.parquet"))
    assert shown.exit_code == 0, shown.output
    assert "votes as without a persona" in shown.output
    again = run("--scorer", "on_topic", "--out", str(tmp_path / "q.parquet"))
    assert "16 of them kept from before" in " ".join(again.output.split())
    found = room.PersonaScores.read(tmp_path / "q.parquet", load("mini"))
    assert found.scores.shape == (3, 4, 8)
    assert found.personas == room.sample_personas(room.shipped_personas(), 3)
    assert (tmp_path / "p.parquet").read_bytes() == (tmp_path / "q.parquet").read_bytes()


def test_the_command_refuses_another_file_name_and_an_unknown_reward_model(tmp_path):
    assert isinstance(run("--scorer", "on_topic", "--out", "scores.csv").exception, UserError)
    assert isinstance(run("--scorer", "nobody").exception, UnknownName)


# Real models


@pytest.mark.models
def test_the_compact_reward_models_score_alike_in_any_batch(reward_ensemble, tmp_path):
    scorer = room.RewardModelScorer(reward_ensemble, "human-sampled")
    bench = make_benchmark(2, 3)
    found = room.score_personas(bench, PERSONAS[:2], scorer, directory=tmp_path / "a", block=1)
    other = room.score_personas(bench, PERSONAS[1::-1], scorer, directory=tmp_path / "b", block=2)
    np.testing.assert_array_equal(found.scores[::-1], other.scores)
    assert len(np.unique(found.scores[:, 0, 0])) == 2
    alone = reward_ensemble.score([bench.prompt(1)], [bench.response(1, 2)])[0]
    assert found.baseline[1, 2] == alone[reward_ensemble.reward_models.index("human-sampled")]


@pytest.mark.slow
@pytest.mark.models
def test_the_chat_model_rates_two_personas_and_two_prompts(chat_model, tmp_path):
    scorer = room.ChatRatingScorer(chat_model)
    bench = make_benchmark(2, 2)
    found = room.score_personas(bench, PERSONAS[:2], scorer, directory=tmp_path)
    read = found.scores[np.isfinite(found.scores)]
    assert read.size >= found.scores.size / 2
    assert ((read >= 1) & (read <= 5)).all()
    again = scorer.score(PERSONAS[1], [bench.prompt(0)], [bench.response(0, 1)])
    np.testing.assert_array_equal(again, found.scores[1, 0, 1:2])
