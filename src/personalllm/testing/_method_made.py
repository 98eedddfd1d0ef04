"""Check the declarations of a method, and that it can be serialised, copied and trained."""

from __future__ import annotations

import json

from personalllm.testing._bench import Bench
from personalllm.testing._checks import Clauses
from personalllm.testing._scenes import small_scene

__all__ = ["MADE"]

MADE: Clauses[Bench] = Clauses()


@MADE.clause("dataclass")
def _dataclass(bench: Bench) -> None:
    """The class is a dataclass.

    Put @dataclass on the class itself; a base class that is one is not enough.
    """
    bench.require("__dataclass_fields__" in vars(bench.cls), "decorate the class itself with @dataclass")


@MADE.clause("id")
def _id(bench: Bench) -> None:
    """It has an id in lower case.

    Write id: ClassVar[str] = "my-method".
    """
    name: object = bench.cls.id
    bench.require(isinstance(name, str) and name.strip(), "set the class attribute 'id' to a non-empty text")
    text = str(name)
    bench.require(text == text.lower() and " " not in text, f"id must be lower case without spaces, got {name!r}")


@MADE.clause("needs-and-history")
def _needs_and_history(bench: Bench) -> None:
    """Its needs and history hold what the evaluation can give.

    needs: ClassVar = frozenset({"embedder"}); history: ClassVar = "random" or "nearest".
    """
    cls = bench.cls
    unknown = set(cls.needs) - {"embedder", "llm", "signals"}
    bench.require(not unknown, f"needs may hold 'embedder', 'llm' and 'signals', got {sorted(unknown)}")
    bench.require(cls.history in ("random", "nearest"), f"history must be 'random' or 'nearest', got {cls.history!r}")


@MADE.clause("hook")
def _has_a_hook(bench: Bench) -> None:
    """It ranks, asks a chat model, or chooses what to ask users.

    Override utilities(queries) or messages(queries), or value(offer) of a Policy.
    """
    bench.require(bench.cls.implements("utilities", "messages", "next_query"), "implement utilities or messages")


@MADE.clause("spec-json", after=("dataclass",))
def _spec_is_json(bench: Bench) -> None:
    """Its parameters can be written as JSON.

    Use numbers, texts, booleans, None, lists and dicts as parameters.
    """
    try:
        json.dumps(bench.cls(**bench.params).spec(), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise AssertionError(f"{bench.cls.__name__}: spec() must be JSON: {error}.") from error


@MADE.clause(
    "spec-round-trip",
    after=(
        "dataclass",
        "spec-json",
    ),
)
def _rebuilt_from_spec(bench: Bench) -> None:
    """The JSON of its spec gives the same method back.

    JSON has no tuples and no sets: use lists, or convert in __post_init__.
    """
    method = bench.cls(**bench.params)
    spec = method.spec()
    replayed = json.loads(json.dumps(spec, allow_nan=False))
    bench.require(
        bench.cls(**replayed["params"]) == method,
        f"rebuilding it from the JSON of its spec must give an equal method; the spec is {spec}",
    )


@MADE.clause("pickle", after=("dataclass",))
def _pickles_unfitted(bench: Bench) -> None:
    """It can be pickled.

    Define the class at the top of a module and keep no open file, lock or lambda in it.
    """
    method = bench.cls(**bench.params)
    bench.require(bench.copied(method, "as it was made") == method, "an unpickled copy must be equal")


@MADE.clause(
    "parameters-stay",
    after=(
        "dataclass",
        "needs-and-history",
    ),
)
def _parameters_stay(bench: Bench) -> None:
    """bind, fit and adapt return self and change no parameter.

    Keep what is learned in attributes that end in an underscore, never in a dataclass field.
    """
    spec = bench.cls(**bench.params).spec()
    used = bench.trained(small_scene())
    bench.require(used.spec() == spec, "fit and adapt must not change a parameter; keep what is learned in attributes")


@MADE.clause("learned-names", after=("parameters-stay",))
def _learned_names(bench: Bench) -> None:
    """What is learned ends in an underscore.

    Rename the attribute, e.g. self.vectors_ = ...
    """
    used = bench.trained(small_scene())
    learned = set(vars(used)) - set(used.params())
    wrong = sorted(name for name in learned if not (name.startswith("_") or name.endswith("_")))
    bench.require(not wrong, f"attributes that are learned end in an underscore, got {wrong}")
