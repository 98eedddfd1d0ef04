import copy
import importlib
import pickle
import subprocess
import sys

import pytest

import personalllm.methods as room
from personalllm.core.errors import ParameterError, PluginError, UnknownName, UserError
from personalllm.core.types import Corpus, Queries
from personalllm.methods import Method, get_method, list_methods, method_class, method_from_spec

IDS = (
    "calibrated-bayes",
    "embedding-ranker",
    "gpo",
    "hierarchical-bt",
    "icl",
    "joint-gaussian",
    "longest",
    "lookup-icl",
    "lore",
    "matrix-factorisation",
    "meta-icl",
    "mrm",
    "nearest-users",
    "pal",
    "pooled-bt",
    "pooled-ranker",
    "pref",
    "random",
    "ridge-user",
    "rm-mixture",
    "self-icl",
    "sparse-basis",
    "spl",
    "user-bt",
    "vpl",
    "zero-shot",
)


POLICIES = (
    "best-arms",
    "challenger",
    "d-optimal",
    "dueling-ucb",
    "greedy",
    "population-pair",
    "random-pair",
    "thompson",
)


def test_lists_the_built_in_methods():
    assert list_methods() == tuple(sorted(IDS + POLICIES))


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_chooses_what_to_ask_and_nothing_else(name):
    cls = method_class(name)
    assert cls.id == name
    hooks = ("utilities", "messages", "next_query")
    assert [cls.implements(hook) for hook in hooks] == [False, False, True]


def test_the_room_exports_what_it_says():
    classes = {method_class(name).__name__ for name in IDS + POLICIES}
    assert classes <= set(room.__all__) == set(dir(room))
    assert all(getattr(room, name) is not None for name in room.__all__)


@pytest.mark.parametrize("name", IDS)
def test_a_file_is_named_after_its_method(name):
    cls = method_class(name)
    assert cls.id == name
    stem = {"random": "random_choice"}.get(name, name.replace("-", "_"))
    module = importlib.import_module(cls.__module__)
    assert module.__name__.rpartition(".")[2] == stem
    exported = [getattr(module, name) for name in module.__all__]
    assert [thing for thing in exported if isinstance(thing, type) and issubclass(thing, Method)] == [cls]


def test_listing_imports_no_method():
    code = (
        "import sys; from personalllm.methods import list_methods; list_methods(); "
        "print([m for m in sys.modules if m in ('scipy', 'faiss', 'torch') or m.startswith('personalllm.methods.') "
        "and m.rpartition('.')[2] not in ('answers', 'base', 'registry', 'saved', 'state', 'user')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", IDS)
def test_a_spec_gives_the_method_back(name):
    cls = method_class(name)
    method = get_method(name, **cls.example_params())
    assert method_from_spec(method.spec()) == method
    assert method.clone() == method
    assert method.clone() is not method


@pytest.mark.parametrize(
    ("name", "params", "error", "message"),
    [
        ("meta-ikl", {}, UnknownName, "Did you mean 'meta-icl'"),
        (
            "meta-icl",
            {"n_shot": 3},
            UnknownName,
            "no parameter of the method 'meta-icl' named 'n_shot'. Did you mean",
        ),
        ("longest", {"n": 3}, UserError, "'longest' has no parameters, got 'n'"),
        ("icl", {"n_shots": 0}, ParameterError, "n_shots must be an integer >= 1, got 0"),
        ("icl", {"n_shots": True}, ParameterError, "n_shots must be an integer >= 1, got True"),
        ("self-icl", {"max_history_tokens": 0}, ParameterError, "max_history_tokens must be an integer >= 1"),
        ("self-icl", {"reply_tokens": 1.5}, ParameterError, "reply_tokens must be an integer >= 1, got 1.5"),
        ("meta-icl", {"n_similar": -1}, ParameterError, "n_similar must be an integer >= 1, got -1"),
        ("lookup-icl", {"n_prompts": 0}, ParameterError, "n_prompts must be an integer >= 1, got 0"),
        ("meta-icl", {"embedding_pairs": 0}, ParameterError, "embedding_pairs must be an integer >= 1 or None, got 0"),
        ("lookup-icl", {"embedding_pairs": "all"}, ParameterError, "embedding_pairs must be an integer >= 1"),
        (
            "meta-icl",
            {"embedding": "loosing"},
            ParameterError,
            "embedding must be one of winning-minus-losing, winning, losing, got 'loosing'",
        ),
        ("nearest-users", {"n_neighbours": 0}, ParameterError, "n_neighbours must be an integer >= 1 or None, got 0"),
        ("nearest-users", {"smoothings": 0}, ParameterError, "smoothings must be an integer >= 1, got 0"),
        ("matrix-factorisation", {"n_factors": 0}, ParameterError, "n_factors must be an integer >= 1, got 0"),
        (
            "matrix-factorisation",
            {"deviation_penalty": 0},
            ParameterError,
            "deviation_penalty must be a finite number > 0",
        ),
        ("rm-mixture", {"n_mixtures": True}, ParameterError, "n_mixtures must be an integer >= 1, got True"),
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
        ("json:dumps", {}, PluginError, "is a function, not a subclass of personalllm.methods.Method"),
        ("collections:Counter", {}, PluginError, "not a subclass of personalllm.methods.Method"),
    ],
)
def test_bad_requests(name, params, error, message):
    with pytest.raises(error) as caught:
        get_method(name, **params)
    assert message in str(caught.value)


def test_a_spec_with_other_keys_is_refused():
    with pytest.raises(UserError, match="keys 'id' and 'params'"):
        method_from_spec({"id": "icl"})


@pytest.mark.parametrize(("name", "need"), [("embedding-ranker", "embedder"), ("zero-shot", "llm")])
def test_a_missing_backend_is_named(name, need):
    with pytest.raises(UserError, match=f"{name}.*needs an {need}"):
        get_method(name).bind()


def test_unbound_backends_and_missing_tracks_say_so(make_queries):
    method = get_method("longest")
    with pytest.raises(UserError, match="no embedder"):
        _ = method.embedder
    with pytest.raises(UserError, match="no chat model"):
        _ = method.llm
    with pytest.raises(NotImplementedError, match="does not ask a chat model"):
        method.messages(make_queries([0], [0], 1))
    with pytest.raises(NotImplementedError, match="does not score responses"):
        get_method("zero-shot").utilities(make_queries([0], [0], 1))


@pytest.mark.parametrize("name", IDS)
def test_each_method_scores_responses_or_asks_a_chat_model(name):
    cls, asks = method_class(name), {"icl", "lookup-icl", "meta-icl", "self-icl", "zero-shot"}
    assert (cls.implements("utilities"), cls.implements("messages")) == (name not in asks, name in asks)
    assert cls.implements("utilities", "messages")
    assert not cls.implements("next_query")
    assert not Method.implements("utilities", "messages", "adapt", "fit", "no_such_hook")


@pytest.mark.parametrize("name", [name for name in IDS if method_class(name).log_odds])
def test_what_is_not_learned_yet_says_which_step_is_missing(name):
    method = get_method(name)
    with pytest.raises(UserError, match=r"has not learned.*fit\(pool\)|has no reward signals. Pass signals="):
        method.utilities(Queries(Corpus(["p"], [["a", "b"]]), 1, [0], [0]))
    assert not hasattr(method, "features_")
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        _ = method.colour
    assert type(copy.deepcopy(method)) is type(pickle.loads(pickle.dumps(method))) is type(method)


def test_a_method_whose_parameters_are_unknown_is_refused():
    class Plain(Method):
        id = "plain"

        def __init__(self, w: float) -> None:
            self.w = w

    with pytest.raises(UserError, match=r"'Plain' has an __init__ of its own.*Decorate it with @dataclass"):
        Plain(1.0).spec()
