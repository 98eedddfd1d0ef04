import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personalllm.core.errors import AxisMismatch, ParameterError
from personalllm.feedback import FeedbackRule, FixedPairs, interact, sample_prompts
from personalllm.users import Population, choices_at, ranks, utilities

RMS = ("a", "b", "c")


def setup(n_users=40, n_prompts=30, n_responses=5, k=7, seed=0):
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal((n_prompts, n_responses, 3)).astype(np.float32)
    users = Population.dirichlet(n_users, 0.3, RMS, seed)
    return users, scores, sample_prompts(n_users, np.arange(n_prompts), k, seed)


def differences(users, scores, pool):
    value = utilities(users, scores, pool.user, pool.prompt)
    at = np.arange(len(pool))
    return value[at, pool.chosen] - value[at, pool.rejected]


@settings(max_examples=40, deadline=None)
@given(n_users=st.integers(1, 300), n=st.integers(1, 60), share=st.floats(0, 1), seed=st.integers(0, 1000))
def test_prompts_are_distinct_rows(n_users, n, share, seed):
    rows = np.random.default_rng(seed).permutation(1_000)[:n]
    k = max(1, round(share * n))
    prompts = sample_prompts(n_users, rows, k, seed)
    assert prompts.dtype == np.int32
    assert prompts.shape == (n_users, k)
    assert np.isin(prompts, rows).all()
    assert all(len(set(row)) == k for row in prompts.tolist())


@pytest.mark.parametrize(("n", "k"), [(2_000, 5), (20, 20), (12, 3), (5_000, 600)])
def test_every_prompt_and_every_place_is_equally_likely(n, k):
    n_users = 40_000 // k
    prompts = sample_prompts(n_users, np.arange(n), k, seed=1)
    for place in (0, k - 1):
        mean = prompts[:, place].mean() / (n - 1)
        assert abs(mean - 0.5) < 4.5 * 0.3 / np.sqrt(n_users)
    share = np.bincount(prompts.ravel(), minlength=n) / n_users
    spread = np.sqrt(k / n * (1 - k / n) / n_users)
    assert np.abs(share - k / n).max() < 5.5 * spread + 1e-12


@pytest.mark.parametrize("k", [5, 25])
@pytest.mark.parametrize(("few", "many"), [(10, 100), (256, 300), (300, 1_000)])
def test_prompts_of_the_first_users_stay(k, few, many):
    rows = np.arange(30)
    assert np.array_equal(sample_prompts(few, rows, k, 0), sample_prompts(many, rows, k, 0)[:few])


RULES = [
    FeedbackRule(),
    FeedbackRule(pairs="random", temperature=0.5),
    FeedbackRule(pairs="ranks", ranks=(1, -2), flip=0.3),
    FeedbackRule(pairs="contested", temperature=0.2, flip=0.1, tie_margin=0.2),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.pairs)
@pytest.mark.parametrize(("few", "many"), [(10, 100), (256, 300), (300, 520)])
def test_feedback_of_the_first_users_stays(rule, few, many):
    users, scores, prompts = setup(n_users=many)
    all_ = interact(users, scores, prompts, rule, seed=3)
    some = interact(users.subset(np.arange(few)), scores, prompts[:few], rule, seed=3)
    for column in ("user", "prompt", "chosen", "rejected", "tie"):
        assert np.array_equal(getattr(some, column), getattr(all_, column)[: len(some)])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), n_responses=st.integers(2, 7), k=st.integers(1, 20))
def test_best_versus_worst_equals_choices_at(seed, n_responses, k):
    users, scores, prompts = setup(n_responses=n_responses, k=k, seed=seed)
    pool = interact(users, scores, prompts, FeedbackRule(), seed)
    best, worst = choices_at(users, scores, prompts)
    assert np.array_equal(pool.chosen.reshape(prompts.shape), best)
    assert np.array_equal(pool.rejected.reshape(prompts.shape), worst)
    assert np.array_equal(pool.prompt.reshape(prompts.shape), prompts)
    assert np.array_equal(pool.user, np.repeat(np.arange(40), k))
    assert not pool.tie.any()


def test_many_prompts_of_one_user_are_done_in_parts():
    users, scores, _ = setup(n_users=3, n_prompts=5_000)
    prompts = sample_prompts(3, np.arange(5_000), 5_000, seed=0)
    pool = interact(users, scores, prompts, FeedbackRule(), seed=0)
    assert np.array_equal(pool.chosen.reshape(prompts.shape), choices_at(users, scores, prompts)[0])


@pytest.mark.parametrize("positions", [(0, -1), (1, 2), (-2, 0)])
def test_ranks(positions):
    users, scores, prompts = setup()
    pool = interact(users, scores, prompts, FeedbackRule(pairs="ranks", ranks=positions), seed=0)
    expected = ranks(users, scores, positions)[np.arange(40)[:, None], prompts].reshape(-1, 2)
    swap = positions[0] % 5 > positions[1] % 5
    assert np.array_equal(pool.chosen, expected[:, int(swap)])
    assert np.array_equal(pool.rejected, expected[:, 1 - int(swap)])


def test_random_pairs_are_uniform_and_reach_the_last_response():
    users, scores, prompts = setup(n_users=4_000, n_responses=8, k=10)
    pool = interact(users, scores, prompts, FeedbackRule(pairs="random", temperature=1e9), seed=0)
    counts = np.bincount(pool.chosen.astype(int) * 8 + pool.rejected, minlength=64).reshape(8, 8)
    assert (np.diag(counts) == 0).all()
    shares = counts[~np.eye(8, dtype=bool)] / len(pool)
    assert np.abs(shares - 1 / 56).max() < 5 * np.sqrt(1 / 56 / len(pool))


def test_deterministic_feedback_prefers_the_higher_utility():
    users, scores, prompts = setup()
    for pairs in ("random", "contested"):
        pool = interact(users, scores, prompts, FeedbackRule(pairs=pairs), seed=0)
        assert (differences(users, scores, pool) > 0).all()


def test_contested_pairs_split_the_reward_models_most():
    users, scores, prompts = setup(n_users=400)
    pool = interact(users, scores, prompts, FeedbackRule(pairs="contested"), seed=0)
    n_responses = scores.shape[1]
    seen = {}
    for prompt, a, b in zip(pool.prompt, pool.chosen, pool.rejected, strict=True):
        seen.setdefault(int(prompt), set()).add((min(a, b), max(a, b)))
    assert len(seen) == 30
    for prompt, pairs in seen.items():
        split = {}
        for a in range(n_responses):
            for b in range(a + 1, n_responses):
                above = int((scores[prompt, a] > scores[prompt, b]).sum())
                below = int((scores[prompt, a] < scores[prompt, b]).sum())
                split[a, b] = min(above, below)
        most = {pair for pair, value in split.items() if value == max(split.values())}
        assert pairs == most


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_bradley_terry_frequencies(temperature):
    users = Population(weights=[[1.0, 0.0, 0.0]] * 40_000, reward_models=RMS)
    scores = np.zeros((1, 2, 3), np.float32)
    scores[0, 1, 0] = 0.7
    rule = FeedbackRule(temperature=temperature)
    pool = interact(users, scores, np.zeros((40_000, 1), np.int32), rule, seed=2)
    expected = 1 / (1 + np.exp(-np.float32(0.7) / temperature))
    assert abs((pool.chosen == 1).mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / 40_000)


@pytest.mark.parametrize("flip", [0.0, 0.05, 0.4, 1.0])
def test_flips(flip):
    users, scores, prompts = setup(n_users=4_000)
    plain = interact(users, scores, prompts, FeedbackRule(), seed=0)
    noisy = interact(users, scores, prompts, FeedbackRule(flip=flip), seed=0)
    swapped = plain.chosen != noisy.chosen
    assert np.array_equal(noisy.chosen[swapped], plain.rejected[swapped])
    assert np.array_equal(noisy.rejected[swapped], plain.chosen[swapped])
    assert abs(swapped.mean() - flip) <= 4 * np.sqrt(flip * (1 - flip) / len(plain))


def test_noise_does_not_change_which_pairs_are_shown():
    users, scores, prompts = setup()
    plain = interact(users, scores, prompts, FeedbackRule(pairs="random"), seed=0)
    rule = FeedbackRule(pairs="random", temperature=1.0, flip=0.2, tie_margin=0.5)
    noisy = interact(users, scores, prompts, rule, seed=0)
    shown = [np.sort(np.stack([pool.chosen, pool.rejected]), axis=0) for pool in (plain, noisy)]
    assert np.array_equal(*shown)


def test_ties_are_marked_and_ordered_by_a_coin():
    users, scores, prompts = setup(n_users=4_000)
    rule = FeedbackRule(pairs="random", tie_margin=0.4)
    pool = interact(users, scores, prompts, rule, seed=0)
    difference = differences(users, scores, pool)
    assert np.array_equal(pool.tie, np.abs(difference) <= 0.4)
    assert (difference[~pool.tie] > 0).all()
    n = pool.n_ties
    assert 1_000 < n < len(pool)
    assert abs((difference[pool.tie] > 0).mean() - 0.5) < 4 * 0.5 / np.sqrt(n)


def test_equal_responses_are_a_tie_between_different_ones():
    users = Population.uniform(RMS)
    scores = np.ones((4, 3, 3), np.float32)
    for pairs in ("best-vs-worst", "random", "ranks", "contested"):
        pool = interact(users, scores, [[0, 1, 2, 3]], FeedbackRule(pairs=pairs), seed=0)
        assert pool.tie.all()
        assert (pool.chosen != pool.rejected).all()


def test_seeds_matter():
    users, scores, prompts = setup()
    rule = FeedbackRule(pairs="random")
    first, second, again = (interact(users, scores, prompts, rule, seed) for seed in (0, 1, 0))
    assert not np.array_equal(first.chosen, second.chosen)
    assert np.array_equal(first.chosen, again.chosen)


USERS, SCORES, PROMPTS = setup()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: FeedbackRule(pairs="best"), ParameterError, "one of best-vs-worst, random"),
        (lambda: FeedbackRule(ranks=(1, 1)), ParameterError, "two different integers"),
        (lambda: FeedbackRule(ranks=(1, 2, 3)), ParameterError, "ranks"),
        (lambda: FeedbackRule(ranks=(0, 1.0)), ParameterError, "ranks"),
        (lambda: FeedbackRule(temperature=-0.1), ParameterError, "temperature must be finite and >= 0"),
        (lambda: FeedbackRule(temperature=np.nan), ParameterError, "temperature"),
        (lambda: FeedbackRule(flip=1.1), ParameterError, r"flip must be in \[0, 1\]"),
        (lambda: FeedbackRule(tie_margin=np.inf), ParameterError, "tie_margin"),
        (lambda: sample_prompts(0, [1], 1, 0), ParameterError, "n_users"),
        (lambda: sample_prompts(1, [1, 2], 3, 0), ParameterError, r"k must be in \[1, 2\]"),
        (lambda: sample_prompts(1, [1, 2], 0, 0), ParameterError, "k must be"),
        (lambda: sample_prompts(1, [1.5], 1, 0), ParameterError, "rows"),
        (lambda: interact(USERS, SCORES, PROMPTS[:3], FeedbackRule(), 0), AxisMismatch, "one row of prompts"),
        (lambda: interact(USERS, SCORES, PROMPTS + 30, FeedbackRule(), 0), ParameterError, "prompts"),
        (lambda: interact(USERS, SCORES[:, :1], PROMPTS, FeedbackRule(), 0), AxisMismatch, "two responses"),
        (lambda: interact(USERS, SCORES[..., :2], PROMPTS, FeedbackRule(), 0), AxisMismatch, "reward models"),
        (
            lambda: interact(USERS, SCORES, PROMPTS, FeedbackRule(pairs="ranks", ranks=(0, 5)), 0),
            ParameterError,
            r"\[-5, 5\)",
        ),
        (
            lambda: interact(USERS, SCORES, PROMPTS, FeedbackRule(pairs="ranks", ranks=(0, -5)), 0),
            ParameterError,
            "different",
        ),
    ],
)
def test_bad_values(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_no_interactions():
    pool = interact(USERS, SCORES, np.empty((40, 0), np.int32), FeedbackRule(), 0)
    assert len(pool) == 0
    assert pool.n_users == 40


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.pairs)
def test_rule_specs_round_trip(rule):
    assert FeedbackRule.from_spec(rule.spec()) == rule


def minority(scores, first, second, prompt):
    ahead = (scores[prompt, first] > scores[prompt, second]).sum(axis=-1)
    return np.minimum(ahead, scores.shape[2] - ahead)


def test_fixed_pairs_are_the_same_for_every_user():
    users, scores, _ = setup()
    rule = FeedbackRule(pairs="random", pairs_per_prompt=4)
    fixed = FixedPairs.draw(scores, rule, seed=3)
    assert fixed.first.shape == (30, 4)
    sides = np.sort(np.stack([fixed.first, fixed.second], axis=-1), axis=-1)
    assert all(len({*map(tuple, of_prompt)}) == 4 for of_prompt in sides.tolist())
    assert (sides[..., 0] < sides[..., 1]).all()
    questions = fixed.questions(np.arange(30, dtype=np.int32))
    assert questions.tolist() == list(range(120))
    asked = sample_prompts(40, questions, 50, 0)
    prompts, first, second = fixed.of(asked)
    pool = interact(users, scores, prompts, rule, 0, shown=(first, second))
    assert np.array_equal(pool.prompt, asked.ravel() // 4)
    pair = np.sort(np.stack([pool.chosen, pool.rejected], axis=1), axis=1)
    assert np.array_equal(pair, sides[pool.prompt, asked.ravel() % 4])
    assert (differences(users, scores, pool) >= 0).all()
    with pytest.raises(ParameterError, match="shown must be given"):
        interact(users, scores, prompts, rule, 0)


def test_contested_fixed_pairs_divide_most_reward_models_and_disputed_ones_some():
    _, scores, _ = setup(n_prompts=200)
    prompt, (a, b) = np.arange(200)[:, None], np.triu_indices(5, 1)
    every = minority(scores, np.tile(a, (200, 1)), np.tile(b, (200, 1)), prompt)
    contested = FixedPairs.draw(scores, FeedbackRule(pairs="contested", pairs_per_prompt=3), seed=0)
    drawn = minority(scores, contested.first, contested.second, prompt)
    assert np.array_equal(np.sort(drawn)[:, ::-1], np.sort(every)[:, ::-1][:, :3])
    assert contested.there.all()
    rule = FeedbackRule(pairs="disputed", pairs_per_prompt=3, responses=(1, 2, 4))
    disputed = FixedPairs.draw(scores, rule, seed=0)
    assert {*disputed.first.ravel().tolist(), *disputed.second.ravel().tolist()} == {1, 2, 4}
    assert np.array_equal(disputed.there, minority(scores, disputed.first, disputed.second, prompt) > 0)
    assert 0 < disputed.there.mean() < 1
    asked = disputed.questions(np.arange(200, dtype=np.int32))
    assert len(asked) == disputed.there.sum()
    assert (minority(scores, *disputed.of(asked)[1:], disputed.of(asked)[0]) > 0).all()


@pytest.mark.parametrize("pairs", ["best-vs-worst", "random", "ranks", "contested"])
def test_only_some_responses_are_shown(pairs):
    users, scores, prompts = setup()
    pool = interact(users, scores, prompts, FeedbackRule(pairs=pairs, responses=(0, 3, 4)), 0)
    assert {*pool.chosen.tolist(), *pool.rejected.tolist()} == {0, 3, 4}
    assert (differences(users, scores, pool) > 0).all()
    assert not pool.best_worst
    if pairs == "best-vs-worst":
        shown = interact(users, scores[:, [0, 3, 4]], prompts, FeedbackRule(), 0)
        assert np.array_equal(pool.chosen, np.array([0, 3, 4])[shown.chosen])


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"pairs": "disputed"}, "pairs_per_prompt must be given for disputed pairs"),
        ({"pairs_per_prompt": 2}, "pairs_per_prompt must be left out for best-vs-worst"),
        ({"pairs": "random", "pairs_per_prompt": 0}, "pairs_per_prompt must be >= 1"),
        ({"responses": (1,)}, "responses must be two different positions"),
        ({"responses": (1, 1)}, "responses must be two different positions"),
        ({"responses": (-1, 1)}, "responses must be two different positions"),
    ],
)
def test_pairs_that_cannot_be_fixed(rule, message):
    with pytest.raises(ParameterError, match=message):
        FeedbackRule(**rule)


def test_responses_and_pairs_that_do_not_exist():
    users, scores, prompts = setup()
    with pytest.raises(ParameterError, match=r"responses must be in \[0, 5\)"):
        interact(users, scores, prompts, FeedbackRule(responses=(1, 5)), 0)
    with pytest.raises(ParameterError, match=r"pairs_per_prompt must be in \[1, 10\], the pairs of a prompt, got 11"):
        FixedPairs.draw(scores, FeedbackRule(pairs="random", pairs_per_prompt=11), 0)
