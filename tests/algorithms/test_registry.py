import importlib
import subprocess
import sys

import pytest

import personalllm.algorithms as room
from personalllm.algorithms import Algorithm, algorithm_from_spec, get_algorithm, list_algorithms, load_algorithm
from personalllm.errors import ParameterError, PluginError, UnknownName, UserError

IDS = (
    "embedding-ranker",
    "icl",
    "longest",
    "lookup-icl",
    "meta-icl",
    "pooled-ranker",
    "random",
    "self-icl",
    "zero-shot",
)


def test_lists_the_built_in_algorithms():
    assert list_algorithms() == IDS


def test_the_room_exports_what_it_says():
    assert room.__all__ == sorted(room.__all__)
    assert all(hasattr(room, name) for name in room.__all__)


@pytest.mark.parametrize("name", IDS)
def test_a_file_is_named_after_its_algorithm(name):
    cls = load_algorithm(name)
    assert cls.id == name
    stem = {"random": "random_choice"}.get(name, name.replace("-", "_"))
    module = importlib.import_module(f"personalllm.algorithms.{stem}")
    assert module.__all__ == [cls.__name__]
    assert cls.__module__ == module.__name__


def test_listing_imports_no_algorithm():
    code = (
        "import sys; from personalllm.algorithms import list_algorithms; list_algorithms(); "
        "print([m for m in sys.modules if m in ('scipy', 'faiss') or m.startswith('personalllm.algorithms.') "
        "and m.rpartition('.')[2] not in ('base', 'registry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", IDS)
def test_a_spec_gives_the_algorithm_back(name):
    cls = load_algorithm(name)
    algorithm = get_algorithm(name, **cls.example_params())
    assert algorithm_from_spec(algorithm.spec()) == algorithm
    assert algorithm.fresh() == algorithm
    assert algorithm.fresh() is not algorithm


@pytest.mark.parametrize(
    ("name", "params", "error", "message"),
    [
        ("meta-ikl", {}, UnknownName, "Did you mean 'meta-icl'"),
        (
            "meta-icl",
            {"n_shot": 3},
            UnknownName,
            "no parameter of the algorithm 'meta-icl' named 'n_shot'. Did you mean",
        ),
        ("longest", {"n": 3}, UserError, "'longest' has no parameters, got 'n'"),
        ("icl", {"n_shots": 0}, ParameterError, "n_shots must be an integer >= 1, got 0"),
        ("icl", {"n_shots": True}, ParameterError, "n_shots must be an integer >= 1, got True"),
        ("self-icl", {"max_history_tokens": 0}, ParameterError, "max_history_tokens must be an integer >= 1"),
        ("self-icl", {"reply_tokens": 1.5}, ParameterError, "reply_tokens must be an integer >= 1, got 1.5"),
        ("meta-icl", {"n_similar": -1}, ParameterError, "n_similar must be an integer >= 1, got -1"),
        ("lookup-icl", {"n_prompts": 0}, ParameterError, "n_prompts must be an integer >= 1, got 0"),
        ("meta-icl", {"embedding_pairs": 0}, ParameterError, "embedding_pairs must be an integer >= 1, got 0"),
        ("lookup-icl", {"embedding_pairs": "all"}, ParameterError, "embedding_pairs must be an integer >= 1"),
        (
            "meta-icl",
            {"embedding": "loosing"},
            ParameterError,
            "embedding must be one of winning-minus-losing, winning, losing, got 'loosing'",
        ),
        ("meta-icl", {"search": "annoy"}, ParameterError, "search must be one of exact, faiss, got 'annoy'"),
        (
            "icl",
            {"feedback": "both"},
            ParameterError,
            "feedback must be one of winning, losing, winning-and-losing, losing-as-winning, got 'both'",
        ),
        ("self-icl", {"feedback": None}, ParameterError, "feedback must be one of winning,"),
        ("icl", {"feedback": ["winning"]}, ParameterError, "feedback must be one of winning,"),
        ("icl", {"layout": "xml"}, ParameterError, "layout must be one of text, turns, got 'xml'"),
        ("embedding-ranker", {"shrinkage": -0.1}, ParameterError, "shrinkage must be a finite number >= 0"),
        ("embedding-ranker", {"shrinkage": float("inf")}, ParameterError, "shrinkage must be a finite number >= 0"),
        ("embedding-ranker", {"shrinkage": float("nan")}, ParameterError, "shrinkage must be a finite number >= 0"),
        ("embedding-ranker", {"shrinkage": "2"}, ParameterError, "shrinkage must be a finite number >= 0, got '2'"),
        ("no_such_module:X", {}, PluginError, "Cannot import 'no_such_module'"),
        ("json:dumps", {}, PluginError, "is a function, not a subclass of personalllm.algorithms.Algorithm"),
        ("collections:Counter", {}, PluginError, "not a subclass of personalllm.algorithms.Algorithm"),
    ],
)
def test_bad_requests(name, params, error, message):
    with pytest.raises(error) as caught:
        get_algorithm(name, **params)
    assert message in str(caught.value)


def test_a_spec_with_other_keys_is_refused():
    with pytest.raises(UserError, match="keys 'id' and 'params'"):
        algorithm_from_spec({"id": "icl"})


@pytest.mark.parametrize(("name", "need"), [("embedding-ranker", "embedder"), ("zero-shot", "llm")])
def test_a_missing_backend_is_named(name, need):
    with pytest.raises(UserError, match=f"{name}.*needs an {need}"):
        get_algorithm(name).bind()


def test_unbound_backends_and_missing_tracks_say_so(make_queries):
    algorithm = get_algorithm("longest")
    with pytest.raises(UserError, match="no embedder"):
        _ = algorithm.embedder
    with pytest.raises(UserError, match="no chat model"):
        _ = algorithm.llm
    with pytest.raises(NotImplementedError, match="does not generate"):
        algorithm.messages(make_queries([0], [0], 1))
    with pytest.raises(NotImplementedError, match="does not rank"):
        get_algorithm("zero-shot").rank(make_queries([0], [0], 1))


@pytest.mark.parametrize("name", IDS)
def test_tracks(name):
    generates = {"icl", "lookup-icl", "meta-icl", "self-icl", "zero-shot"}
    assert load_algorithm(name).tracks() == (("generate",) if name in generates else ("rank",))
    assert Algorithm.tracks() == ()
