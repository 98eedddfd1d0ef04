import numpy as np
import pytest
from scipy.stats import spearmanr

from personalllm.analysis.audit import audit
from personalllm.core.errors import DataError
from personalllm.data import Benchmark, make_synthetic


def benchmark(
    scores: np.ndarray, responses: list[list[str]] | None = None, splits: list[str] | None = None
) -> Benchmark:
    n, k, m = scores.shape
    return Benchmark.from_arrays(
        name="small",
        prompt_ids=[f"p{i}" for i in range(n)],
        prompts=[f"prompt {i}" for i in range(n)],
        subsets=["s"] * n,
        splits=splits or ["train", *["test"] * (n - 1)],
        responses=responses or [[f"{i} {'x' * (j + 1)}" for j in range(k)] for i in range(n)],
        response_models=[f"m{j}" for j in range(k)],
        reward_models=[f"rm{b}" for b in range(m)],
        scores=scores.astype(np.float32),
    )


def planted(n: int = 200, k: int = 5, seed: int = 0) -> np.ndarray:
    """rm0 = quality, rm1 = quality + noise, rm2 = -quality + noise (a cost), rm3 = length (the column), rm4 = noise."""
    rng = np.random.default_rng(seed)
    quality = rng.normal(size=(n, k))
    noise = rng.normal(size=(n, k, 3))
    length = np.broadcast_to(np.arange(k, dtype=float), (n, k))
    return np.stack(
        [quality, quality + 0.2 * noise[..., 0], -quality + 0.5 * noise[..., 1], 40 * length, noise[..., 2]], axis=2
    )


def checks(scores: np.ndarray) -> set[tuple[str, tuple[str, ...]]]:
    return {(w.check, w.reward_models) for w in audit(benchmark(scores)).warnings()}


def test_planted_faults_are_found_and_nothing_else() -> None:
    found = checks(planted())
    (scale,) = {names for check, names in found if check == "scale"}
    assert scale[1] == "rm3"
    assert found - {("scale", scale)} == {("sign", ("rm2",)), ("redundant", ("rm0", "rm1")), ("length", ("rm3",))}


def test_sound_ensemble_has_no_warning() -> None:
    rng = np.random.default_rng(1)
    common = rng.normal(size=(300, 5, 1))
    assert checks(common + 1.2 * rng.normal(size=(300, 5, 4))) == set()


def test_outliers_and_ties() -> None:
    scores = planted()[..., [0, 0, 0]] + np.random.default_rng(2).normal(size=(200, 5, 3)) * 1.5
    scores[:, :2, 1] = 9.0
    scores[:25, 0, 2] = 60.0
    found = checks(scores)
    assert ("ties", ("rm1",)) in found
    assert ("outliers", ("rm2",)) in found


def test_figures_against_scipy() -> None:
    scores = planted(20)
    result = audit(benchmark(scores))
    top = scores.argmax(axis=1)
    assert result.agreement[0, 2] == np.mean(top[:, 0] == top[:, 2])
    assert np.diag(result.agreement).tolist() == [1] * 5
    expected = np.mean([spearmanr(scores[p, :, 0], scores[p, :, 1]).statistic for p in range(20)])
    assert result.rank_correlation[0, 1] == pytest.approx(expected)
    flat = scores.reshape(-1, 5)
    standardised = (scores - flat.mean(0)) / flat.std(0)
    others = standardised[..., [1, 2, 3, 4]].mean(axis=2)
    expected = np.mean([spearmanr(scores[p, :, 0], others[p]).statistic for p in range(20)])
    assert result.consensus[0] == pytest.approx(expected)
    assert result.length[3] == pytest.approx(1)


def test_effective_rank_of_known_ensembles() -> None:
    rng = np.random.default_rng(3)
    same = np.repeat(rng.normal(size=(100, 4, 1)), 3, axis=2)
    assert audit(benchmark(same * [1, 5, 30])).effective_rank == pytest.approx(1, abs=1e-6)
    apart = rng.normal(size=(4000, 4, 3))
    assert audit(benchmark(apart)).effective_rank == pytest.approx(3, abs=0.01)


def test_prompts_that_hang_on_one_reward_model() -> None:
    one = [[2.0, -0.9, -0.9], [-2.0, 0.9, 0.9]]
    agreed = [[1.0, 2.0, 2.0], [-1.0, -2.0, -2.0]]
    result = audit(benchmark(np.array([one, agreed])))
    assert result.decides.tolist() == [0.5, 0, 0]
    assert result.decided_by_one == 0.5


def test_constant_reward_model_is_no_crash() -> None:
    scores = planted(20)
    scores[..., 4] = 2.0
    result = audit(benchmark(scores))
    assert np.isnan(result.rank_correlation[0, 4])
    assert np.isnan(result.length[4])
    assert result.tied[4] == 1
    assert result.plot().axes
    about = [w.check for w in result.warnings() if "rm4" in w.reward_models]
    assert about == ["constant"]
    assert all("inf" not in w.message for w in result.warnings())


def test_equal_responses_and_scores_are_no_crash() -> None:
    result = audit(benchmark(np.ones((3, 2, 2)), [["same", "same"]] * 3))
    assert [w.check for w in result.warnings()] == ["constant", "constant"]
    assert result.plot().axes


def test_agreement_is_judged_against_chance() -> None:
    rng = np.random.default_rng(5)
    common = rng.normal(size=(2000, 2, 1))
    result = audit(benchmark(common + 1.5 * rng.normal(size=(2000, 2, 2))))
    assert 0.55 < result.agreement[0, 1] < 0.7
    assert not [w for w in result.warnings() if w.check == "redundant"]


def test_response_order_does_not_matter() -> None:
    scores = planted(50)
    order = np.random.default_rng(4).permutation(5)
    texts = [[f"{i} {'x' * (j + 1)}" for j in range(5)] for i in range(50)]
    turned = audit(benchmark(scores[:, order], [[row[j] for j in order] for row in texts]))
    straight = audit(benchmark(scores, texts))
    np.testing.assert_allclose(turned.agreement, straight.agreement)
    np.testing.assert_allclose(turned.consensus, straight.consensus)
    np.testing.assert_allclose(turned.length, straight.length)


def test_split_tables_and_notes() -> None:
    result = audit(benchmark(planted(30), splits=["train"] * 10 + ["test"] * 20), split="train")
    assert result.n_prompts == 10
    tables = result.tables()
    assert tables["audit_reward_models"].num_rows == 5
    assert tables["audit_pairs"].num_rows == 10
    assert set(tables["audit_warnings"]["check"].to_pylist()) >= {"sign", "length"}
    assert all(note.endswith(".") for note in result.notes())


def test_synthetic_has_the_papers_agreements() -> None:
    result = audit(make_synthetic(1000, seed=0))
    names = {name: i for i, name in enumerate(result.reward_models)}
    assert result.agreement[names["mistral_raft"], names["mistral_weqweasdas"]] > 0.6
    assert result.agreement[names["beaver_7b"]].min() < 0.13


def test_too_little_to_audit() -> None:
    with pytest.raises(DataError, match="at least 2 reward models"):
        audit(benchmark(planted(4)[..., :1]))
