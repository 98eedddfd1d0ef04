import numpy as np
import pytest

from personalllm.data import Benchmark
from personalllm.evaluation import Protocol, evaluate
from personalllm.evaluation.resolve import tracks_of
from personalllm.methods import Method, get_method, list_methods, method_class
from personalllm.testing import HashEmbedder, check_method
from personalllm.testing._scenes import planted_scene


@pytest.fixture
def example(root, monkeypatch):
    """The example's class, found from its own folder as the command line finds it."""
    monkeypatch.chdir(root / "examples")
    return method_class("my_method:MyMethod")


def test_it_is_short(root):
    assert len((root / "examples" / "my_method.py").read_text().splitlines()) <= 40


def test_it_keeps_the_contract(example):
    check_method(example)


def test_it_can_be_named_with_parameters(example):
    method = get_method("my_method:MyMethod", half_life=3.0)
    assert method.spec() == {"id": "my-method", "params": {"half_life": 3.0}}
    assert method.implements("utilities")


def test_it_follows_a_change_of_taste(example):
    scene = planted_scene(HashEmbedder())
    old, new = scene.targets, scene.targets.chosen.copy()
    late = np.arange(len(old)) % 40 >= 20
    changed = type(old)(
        old.corpus,
        old.n_users,
        old.user,
        old.prompt,
        np.where(late, old.rejected, new),
        np.where(late, new, old.rejected),
    )
    choice = {
        half_life: np.argmax(
            example(half_life).bind(embedder=HashEmbedder()).adapt(changed).utilities(scene.queries), axis=1
        )
        for half_life in (2.0, 1e9)
    }
    utility = {k: scene.utilities[np.arange(len(c)), c].mean() for k, c in choice.items()}
    assert utility[2.0] < -0.5
    assert abs(utility[1e9]) < 0.5


def test_it_is_evaluated_from_python(example):
    rng = np.random.default_rng(5)
    words = np.array([f"word{i}" for i in range(30)])
    n, width = 40, 4
    rewards = ("calm", "loud")
    responses = [[" ".join(rng.choice(words, 12)) for _ in range(width)] for _ in range(n)]
    scores = np.array([[[text.count("word1"), -text.count("word1")] for text in row] for row in responses])
    benchmark = Benchmark.from_arrays(
        name="tiny",
        prompt_ids=[f"p{i}" for i in range(n)],
        prompts=[f"prompt {i}" for i in range(n)],
        subsets=["s"] * n,
        splits=["train"] * 30 + ["test"] * 10,
        responses=responses,
        response_models=[f"m{j}" for j in range(width)],
        reward_models=rewards,
        scores=scores.astype(np.float32),
    )
    protocol = Protocol.for_benchmark(benchmark, n_users=40, alpha=0.05, pairs=15, pool_users=20, intervals="users")
    results = evaluate([example(), "pooled-ranker"], benchmark, protocol=protocol, embedder=HashEmbedder())
    assert results.methods[0].label == "my-method"
    assert results.estimate("my-method", "gain").low > max(0.0, results.estimate("pooled-ranker", "gain").value)


def test_the_guide_lists_every_method_as_it_declares_itself(root):
    rows = {}
    page = (root / "docs" / "methods.md").read_text(encoding="utf-8")
    for line in page.partition("\n## Built-in methods\n")[2].partition("\n## ")[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `"):
            rows[cells[0].strip("`")] = cells[1:]
    assert sorted(rows) == list(list_methods())
    for name, (track, needs, history, personalised, paper) in rows.items():
        cls = method_class(name)
        assert set(tracks_of(cls)) == set(track.split(", "))
        assert needs == (", ".join(sorted(cls.needs)) or "-")
        assert ("nearest" in history) == (cls.history == "nearest")
        assert (personalised == "yes") == (cls.adapt is not Method.adapt)
        assert paper != "-" or cls.paper == ""  # a method of our own may have a card and no paper
