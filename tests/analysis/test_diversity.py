"""Diversity side by side: thresholds and bins by hand, intervals, synthetic scores beside the paper, figures."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personalllm.analysis import Study, Votes, diversity
from personalllm.analysis.diversity import as_plotted
from personalllm.core.errors import ParameterError
from personalllm.core.plotting import SERIES, WIDTH
from personalllm.core.stats import bootstrap_means, intervals
from personalllm.data import ScoreTable, Standardiser, make_synthetic
from personalllm.papers.personalllm_2025 import section3 as printed
from personalllm.papers.personalllm_2025.section3 import PaperComparison, paper_comparison
from personalllm.users import Population

ALPHAS = (0.01, 0.05, 0.1)


@pytest.fixture(scope="module")
def by_alpha():
    synthetic = make_synthetic(seed=0)
    rows = synthetic.rows("test")
    table = synthetic.score_table(Standardiser.published(), rows)
    return {
        alpha: Votes.of(f"alpha {alpha:g}", Population.published(alpha), table, synthetic, rows) for alpha in ALPHAS
    }


def with_winners(*numbers):
    """Votes of eight voters whose prompts have the given numbers of winners."""
    counts = np.zeros((len(numbers), 8))
    for row, n in enumerate(numbers):
        counts[row, :n] = 1
        counts[row, 0] += 8 - n
    return Votes(counts=counts, n_voters=np.full(len(numbers), 8.0), name="v")


def test_the_bins_as_plotted_are_shifted_by_one_and_drop_unanimous_prompts():
    votes = with_winners(1, 2, 3, 3, 4, 5, 6, 7, 8, 8)
    assert votes.winners_histogram() == {1: 0.1, 2: 0.1, 3: 0.2, 4: 0.1, 5: 0.1, 6: 0.1, 7: 0.1, 8: 0.2}
    plotted = as_plotted(votes.winners_histogram())
    assert plotted == pytest.approx({"<=2": 0.3, "3": 0.1, "4": 0.1, "5": 0.1, ">=6": 0.3})
    assert sum(plotted.values()) == pytest.approx(0.9)
    found = diversity(votes)
    assert {k: m.value for k, m in found.of("winners as plotted", "v").items()} == pytest.approx(plotted)
    assert {k: m.value for k, m in found.of("winners", "v").items()} == pytest.approx(
        {str(n): share for n, share in votes.winners_histogram().items()}
    )


def test_the_thresholds_by_hand():
    # of 8 votes the most popular response gets 8, 7, 6, 6, 5, 4
    votes = with_winners(1, 2, 3, 3, 4, 5)
    found = diversity(votes, thresholds=(0.5, 0.75, 1)).of("top share at most", "v")
    assert [found[k].value * 6 for k in ("0.5", "0.75", "1")] == pytest.approx([0.5, 3, 5.5])


@given(st.lists(st.integers(1, 8), min_size=2, max_size=30))
def test_every_figure_lies_in_its_interval_and_shares_sum_to_1(numbers):
    found = diversity(with_winners(*numbers), draws=100)
    for one in found.measured:
        if one.level != "sd":
            assert one.low - 1e-9 <= one.value <= one.high + 1e-9
        assert one.low <= one.high
    for quantity in ("winners", "wins"):
        assert sum(m.value for m in found.of(quantity, "v").values()) == pytest.approx(1)
    assert 0 <= found.of("entropy", "v")["mean"].value <= np.log(8)


def test_a_larger_alpha_means_more_agreement():
    scores = np.random.default_rng(0).normal(size=(200, 8, 10)).astype(np.float32)
    table = ScoreTable(scores, tuple("abcdefghij"))
    votes = [
        Votes.of(f"{alpha}", Population.dirichlet(500, alpha, table.reward_models, seed=0), table)
        for alpha in (0.05, 1.0, 50.0)
    ]
    entropy = [one.entropy().mean() for one in votes]
    agreement = [one.pair_agreement().mean() for one in votes]
    assert entropy == sorted(entropy, reverse=True)
    assert agreement == sorted(agreement)


def test_intervals_come_from_resampled_rows_in_step():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(400, 2))
    (one, _) = intervals(values, draws=2000)
    assert one.value == pytest.approx(values[:, 0].mean())
    half = 1.96 * values[:, 0].std() / np.sqrt(400)
    assert one.low == pytest.approx(one.value - half, abs=0.1 * half)
    assert one.high == pytest.approx(one.value + half, abs=0.1 * half)
    draws = bootstrap_means(np.column_stack([values[:, 0], 2 * values[:, 0]]))
    np.testing.assert_allclose(draws[:, 1], 2 * draws[:, 0])
    np.testing.assert_allclose(draws[:, :1], bootstrap_means(values[:, :1]))
    assert not np.allclose(draws[:, :1], bootstrap_means(values[:, :1], seed=1))


def test_blocks_do_not_change_how_many_draws_there_are(monkeypatch):
    monkeypatch.setattr("personalllm.core.stats._BLOCK", 70)
    draws = bootstrap_means(np.arange(10.0)[:, None], draws=101)
    assert draws.shape == (101, 1)
    assert 2 < draws.std() * np.sqrt(10) < 4


@pytest.mark.parametrize(
    ("votes", "more", "message"),
    [
        ((), {}, "one population or more"),
        ((with_winners(1), with_winners(2)), {}, "distinct"),
        ((with_winners(1),), {"thresholds": (0.0,)}, "thresholds"),
        ((with_winners(1),), {"thresholds": (1.1,)}, "thresholds"),
        ((with_winners(1),), {"thresholds": ()}, "thresholds"),
        ((with_winners(1, 2),), {"draws": 99}, "draws"),
    ],
)
def test_arguments_out_of_range_are_refused(votes, more, message):
    with pytest.raises(ParameterError, match=message):
        diversity(*votes, **more)


def test_one_prompt_has_no_interval():
    found = diversity(with_winners(3)).of("winners", "v")["3"]
    assert found.value == 1
    assert np.isnan(found.low)
    assert np.isnan(found.high)


def test_the_paper_s_figures_on_the_synthetic(by_alpha, root):
    """The synthetic benchmark was fitted to most of these figures, so this guards the measures, not the paper."""
    golden = json.loads((root / "tests" / "golden" / "twin_diversity.json").read_text(encoding="utf-8"))["figures"]
    found = paper_comparison(by_alpha)
    here = {f"{row.population} | {row.quantity} | {row.level}": row for row in found.compared}
    assert set(here) == set(golden)
    for key, row in here.items():
        assert row.here == pytest.approx(golden[key], abs=2e-4), key
        assert row.here == pytest.approx(row.paper, abs=0.03), key
    table = found.tables()["paper-comparison"]
    assert table.num_rows == len(golden)
    assert table["difference"].to_numpy() == pytest.approx(table["here"].to_numpy() - table["paper"].to_numpy())


def test_keys_without_figures_in_the_paper_are_refused(by_alpha):
    with pytest.raises(ParameterError, match=r"0\.01, 0\.05, 0\.1, persona"):
        paper_comparison({0.2: by_alpha[0.05]})
    with pytest.raises(ParameterError, match="one population"):
        paper_comparison({})


@pytest.mark.shared
def test_the_constants_are_the_printed_numbers(shared_data):
    numbers = json.loads((shared_data.parent / "paper" / "paper_numbers.json").read_text(encoding="utf-8"))
    for key, name in (("0.01", "0.01"), ("0.05", "0.05"), ("0.1", "0.1"), (printed.PERSONA, "persona_prompting")):
        one = numbers["fig3"][name]
        shares = np.array(one["max_vote_share_pct_of_prompts_le_50_75_95"]) / 100
        np.testing.assert_allclose(printed.PAPER_TOP_SHARES[key], shares)
        bins = one["n_winning_bins_as_labelled(<=2,3,4,5,>=6)"]
        assert list(printed.PAPER_BINS[key]) == bins
        wins = numbers["fig3"]["llm_preferences_pct_DIGITIZED_from_png(+-0.05)"][key]
        np.testing.assert_allclose(list(printed.PAPER_WINS[key].values()), np.array(list(wins.values())) / 100)
    overlap = next(value for name, value in numbers.items() if name.startswith("answer_overlap"))
    assert all(list(values) == overlap[key] for key, values in printed.PAPER_OVERLAP.items())
    assert printed.PAPER_ENTROPY["0.05"] == (numbers["entropy"]["overall_mean"], numbers["entropy"]["implied_std"])


def test_figures_are_legible_in_grey(by_alpha):
    found = diversity(*by_alpha.values(), draws=100)
    for figure in (found.plot(), found.plot(plotted_bins=True), paper_comparison(by_alpha, draws=100).plot()):
        assert figure.get_size_inches()[0] == WIDTH
        texts = figure.findobj(lambda artist: hasattr(artist, "get_fontsize") and artist.get_text())
        assert min(text.get_fontsize() for text in texts) >= 8
    looks = [(one.face, one.edge, one.hatch) for one in SERIES]
    assert len(set(looks)) == len({one.marker for one in SERIES}) == len(SERIES)
    labels = [text.get_text() for text in found.plot(plotted_bins=True).axes[1].get_xticklabels()]
    assert labels == ["<=2", "3", "4", "5", ">=6"]


def test_names_from_data_are_drawn_as_they_are():
    votes = Votes(counts=[[1, 1], [2, 0]], n_voters=[2, 2], name="$x_1$ <b>", options=("a/$y^2$", "b"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = diversity(votes).plot()
    assert "$y^2$" in [text.get_text() for text in figure.axes[2].get_yticklabels()]


def test_the_comparison_says_first_what_was_fitted_on_synthetic_scores():
    (found,) = PaperComparison.of_study(Study(make_synthetic(n_prompts=200, seed=1), n_users=50))
    assert "were fitted to the paper's figures" in found.notes()[0]
    assert not any("fitted" in note for note in replace(found, synthetic=False).notes())


def test_notes_name_what_differs(by_alpha):
    alone = diversity(by_alpha[0.05], draws=100).notes()
    assert any("counts half" in note for note in alone)
    assert not any("numbers of voters differ" in note for note in alone)
    both = diversity(by_alpha[0.05], with_winners(2, 3), draws=100).notes()
    assert any("numbers of voters differ (8 to 1000)" in note for note in both)
    assert isinstance(paper_comparison(by_alpha, draws=100), PaperComparison)
