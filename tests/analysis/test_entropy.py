"""Entropy by words: which prompts a word picks, the means, the lists at both ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personalllm.analysis import Votes, common_first_words, entropy_by_words
from personalllm.analysis.entropy import FIRST_WORDS, KEYWORDS, contains, first_word
from personalllm.core.errors import AxisMismatch, ParameterError
from personalllm.papers.personalllm_2025.section3 import PAPER_GROUPS, paper_comparison

PROMPTS = ("Write a poem.", "POEM about poems?", "What's that?", "Whatever.", "In my  opinion, what is <b>art</b>?")
VOTES = Votes(
    counts=[[4, 0, 0], [2, 2, 0], [2, 1, 1], [3, 1, 0], [0, 0, 4]],
    n_voters=[4] * 5,
    name="four",
    prompts=PROMPTS,
    prompt_ids=tuple("abcde"),
    options=("x", "y", "z"),
)
LN2 = math.log(2)


def test_the_words_are_those_of_the_paper():
    assert KEYWORDS == ("imagine", "opinion", "poem", "taste")
    assert FIRST_WORDS == ("who", "what", "when", "where")
    assert set(PAPER_GROUPS) == {("contains", w) for w in KEYWORDS} | {("starts with", w) for w in FIRST_WORDS}
    assert PAPER_GROUPS["starts with", "what"] == (1.1867537481803405, 2345)


@pytest.mark.shared
def test_the_constants_are_the_printed_numbers(shared_data):
    import json

    numbers = json.loads((shared_data.parent / "paper" / "paper_numbers.json").read_text(encoding="utf-8"))["entropy"]
    for kind, key in (("contains", "keyword_mean_n"), ("starts with", "first_word_mean_n")):
        assert {w: list(v) for (k, w), v in PAPER_GROUPS.items() if k == kind} == numbers[key]


@pytest.mark.parametrize(
    ("word", "match", "rows"),
    [
        ("poem", "word", [0, 1]),
        ("poems", "word", [1]),
        ("OPINION", "word", [4]),
        ("what", "word", [2, 4]),
        ("what", "substring", [2, 3, 4]),
        ("my opinion", "word", [4]),
        ("a.p", "substring", []),
        ("<b>art</b>?", "word", [4]),
    ],
)
def test_which_prompts_contain_a_word(word, match, rows):
    assert np.flatnonzero(contains(PROMPTS, word, match=match)).tolist() == rows


@pytest.mark.parametrize(
    ("prompt", "word"),
    [("What's up", "what"), ("  «Who?»", "who"), ("?!", ""), ("", ""), ("WHEN", "when"), ("Über uns", "über")],
)
def test_the_first_word(prompt, word):
    assert first_word(prompt) == word


def test_groups_by_hand():
    found = entropy_by_words(VOTES, keywords=["poem", "absent"], first_words=["what"], draws=100)
    groups = {(g.kind, g.word): g for g in found.groups}
    entropy = [0, LN2, 1.5 * LN2, 0.75 * math.log(4 / 3) + 0.25 * math.log(4), 0]
    assert groups["all", ""].mean == pytest.approx(np.mean(entropy))
    poem = groups["contains", "poem"]
    assert (poem.n_prompts, poem.mean) == (2, pytest.approx(LN2 / 2))
    assert (poem.low, poem.high) == (0, pytest.approx(LN2))
    assert poem.difference == pytest.approx(LN2 / 2 - np.mean(entropy[2:]))
    what = groups["starts with", "what"]
    assert (what.n_prompts, what.mean) == (1, pytest.approx(1.5 * LN2))
    assert math.isnan(what.low)
    absent = groups["contains", "absent"]
    assert absent.n_prompts == 0
    assert math.isnan(absent.mean)
    assert found.unanimous == {"four": 2}


def test_both_ends_are_listed_with_their_texts():
    found = entropy_by_words(VOTES, n_listed=2, draws=100)
    listed = [(c.end, c.rank, c.row, c.prompt_id, c.top_option) for c in found.contested]
    assert listed == [
        ("most", 1, 2, "c", "x"), ("most", 2, 1, "b", "x"), ("least", 1, 0, "a", "x"), ("least", 2, 4, "e", "z"),
    ]  # fmt: skip
    assert found.contested[-1].prompt == PROMPTS[4]
    assert found.contested[0].top_share == 0.5
    assert not entropy_by_words(VOTES, n_listed=0, draws=100).contested
    assert len(entropy_by_words(VOTES, n_listed=50, draws=100).contested) == 10


@given(st.permutations(range(5)))
def test_the_order_of_the_prompts_does_not_change_the_means(order):
    at = list(order)
    moved = Votes(counts=VOTES.counts[at], n_voters=[4] * 5, name="four", prompts=tuple(PROMPTS[i] for i in at))
    one, other = (entropy_by_words(v, first_words=["what"], draws=100).groups for v in (VOTES, moved))
    assert [(g.word, g.n_prompts) for g in one] == [(g.word, g.n_prompts) for g in other]
    np.testing.assert_allclose([g.mean for g in one], [g.mean for g in other], atol=1e-12)


def test_the_paper_s_words_stand_beside_the_paper_s_figures():
    words = entropy_by_words(VOTES, draws=100)
    rows = {(row.quantity, row.level): row for row in paper_comparison({0.05: VOTES}, words, draws=100).compared}
    count, mean = rows["prompts by word", "contains poem"], rows["entropy by word", "contains poem"]
    assert (count.paper, count.here) == (158, 2)
    assert mean.paper == PAPER_GROUPS["contains", "poem"][0]
    assert mean.here == {group.word: group.mean for group in words.groups}["poem"]
    assert ("prompts by word", "contains imagine") not in rows


def test_tables_and_figure_show_the_words_that_occur():
    found = entropy_by_words(VOTES, draws=100)
    groups = {row["word"]: row["n_prompts"] for row in found.tables()["entropy-groups"].to_pylist()}
    assert (groups["poem"], groups["imagine"], groups[""]) == (2, 0, 5)
    assert found.tables()["entropy-prompts"].num_rows == 10
    assert set(found.tables()["entropy-prompts"]["end"].to_pylist()) == {"most", "least"}
    ticks = [text.get_text() for text in found.plot().axes[0].get_yticklabels()]
    assert ticks[0] == "all prompts (5)"
    assert "contains \u201cpoem\u201d (2)" in ticks
    assert not any("imagine" in tick for tick in ticks)
    assert any("2 (four)" in note for note in found.notes())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"keywords": ["a", " "]}, "keywords"),
        ({"keywords": "poem"}, "keywords"),
        ({"first_words": [""]}, "first_words"),
        ({"match": "stem"}, "match"),
        ({"n_listed": -1}, "n_listed"),
    ],
)
def test_arguments_out_of_range_are_refused(more, message):
    with pytest.raises(ParameterError, match=message):
        entropy_by_words(VOTES, **more)


def test_votes_without_texts_are_refused():
    with pytest.raises(AxisMismatch, match="carry no texts"):
        entropy_by_words(Votes(counts=[[1, 1]], n_voters=[2], name="v"))


def test_common_first_words():
    prompts = ["How?", "how so", "Why", "why", "Zoo", "...", "Ant"]
    assert common_first_words(prompts, min_prompts=2) == ("how", "why")
    assert common_first_words(prompts, min_prompts=1, max_words=3) == ("how", "why", "ant")
