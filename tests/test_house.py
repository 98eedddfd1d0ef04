"""The rules of the code that no linter checks: no import cycle, short functions and files, no idle test.

Ruff and mypy check the rest (parameters, annotations, docstrings, imports between rooms), see pyproject.toml.
Everything is read from the syntax trees, nothing is imported.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SOURCE = TESTS.parent / "src" / "personalllm"
MAX_FUNCTION_LINES, MAX_FILE_LINES = 60, 400
TEST_OR_CHECKER = re.compile(r"test_\w+|(assert|check)(_\w+)?")
CHECKER = re.compile(r"(assert|check)(_\w+)?|raises|warns|fail")

# What breaks a rule today. An entry may go, none may come; one that is no longer needed fails the tests as well.
CYCLES: set[frozenset[str]] = set()
LONG_FUNCTIONS: set[str] = set()
LONG_FILES: set[str] = set()


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def modules(source: Path) -> dict[str, Path]:
    """Return the files of a package by the name of their module."""
    names = {}
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def statements(tree: ast.AST, *, at_run_time: bool = False) -> Iterator[ast.AST]:
    """Yield all statements, those inside functions included; expressions hold none, and are most of a tree.

    With `at_run_time` without those for type checkers only.
    """
    stack = [tree]
    while stack:
        node = stack.pop()
        yield node
        parts = ("body", "orelse", "finalbody", "handlers", "cases")
        if at_run_time and isinstance(node, ast.If) and _for_type_checkers(node.test):
            parts = ("orelse",)
        for part in parts:
            stack += getattr(node, part, ())


def _for_type_checkers(test: ast.expr) -> bool:
    return any("TYPE_CHECKING" in (getattr(part, "id", ""), getattr(part, "attr", "")) for part in ast.walk(test))


def imports(tree: ast.AST) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield module and names of all imports, those inside functions included; not those for type checkers only."""
    for node in statements(tree, at_run_time=True):
        if isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative imports are not used here"
            yield node.module or "", tuple(alias.name for alias in node.names)


def import_graph(source: Path) -> dict[str, set[str]]:
    """Return which modules of the package each of its modules imports.

    `from package import name` is an import of the submodule `package.name` if there is one, else of the package's
    `__init__`. That Python also runs the `__init__` of every package above a module is left out: it would put each
    module of a package whose face re-exports names in a cycle with that face.
    """
    files = modules(source)
    graph: dict[str, set[str]] = {}
    for module, path in files.items():
        targets = set()
        for name, attributes in imports(parsed(path)):
            submodules = {f"{name}.{attribute}" for attribute in attributes} & files.keys()
            targets |= submodules
            if len(submodules) < len(attributes) or not attributes:
                targets.add(name)
        graph[module] = targets & files.keys() - {module}
    return graph


def cycles(graph: Mapping[str, Iterable[str]]) -> set[frozenset[str]]:
    """Return the groups of modules that reach each other."""
    reach: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        stack = list(graph[start])
        while stack:
            module = stack.pop()
            if module not in seen:
                seen.add(module)
                stack += graph[module]
        reach[start] = seen
    return {
        frozenset(other for other in reach[module] if module in reach[other])
        for module in graph
        if module in reach[module]
    }


def functions(source: Path) -> Iterator[tuple[str, int]]:
    """Yield each function as `file:name`, and its lines from `def` to the end, docstring included."""
    for path in sorted(source.rglob("*.py")):
        for node in statements(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                name = f"{path.relative_to(source).as_posix()}:{node.name}"
                yield name, (node.end_lineno or node.lineno) - node.lineno + 1


def asserts(function: ast.AST) -> bool:
    """Return whether a function asserts, expects an error or a warning, or calls a function named as a checker."""
    if any(isinstance(node, ast.Assert) for node in statements(function)):
        return True
    called = (node.func for node in ast.walk(function) if isinstance(node, ast.Call))
    return any(CHECKER.fullmatch(getattr(name, "attr", getattr(name, "id", ""))) for name in called)


def idle(tests: Path) -> set[str]:
    """Return the tests and the checkers that assert nothing, as `file:name`; a checker elsewhere is one by its name."""
    return {
        f"{path.relative_to(tests).as_posix()}:{node.name}"
        for path in tests.rglob("*.py")
        for node in statements(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if TEST_OR_CHECKER.fullmatch(node.name) and not asserts(node)
    }


def check(broken: set, known: set, rule: str) -> None:
    """Fail for what breaks a rule and is not known to, and for what is listed but no longer breaks it."""
    new, fixed = broken - known, known - broken
    assert not new, f"{rule}: {'; '.join(sorted(map(_text, new)))}"
    assert not fixed, f"fixed, take it off the list in {Path(__file__).name}: {'; '.join(sorted(map(_text, fixed)))}"


def _text(item: str | frozenset[str]) -> str:
    return item if isinstance(item, str) else " <-> ".join(sorted(item))


def test_no_file_imports_itself_by_way_of_others():
    check(cycles(import_graph(SOURCE)), CYCLES, "import cycle")


def test_functions_are_short():
    long = {name for name, lines in functions(SOURCE) if lines > MAX_FUNCTION_LINES}
    check(long, LONG_FUNCTIONS, f"more than {MAX_FUNCTION_LINES} lines")


def test_files_are_short():
    lines = {path: path.read_text(encoding="utf-8").count("\n") for path in SOURCE.rglob("*.py")}
    long = {path.relative_to(SOURCE).as_posix() for path, n in lines.items() if n > MAX_FILE_LINES}
    check(long, LONG_FILES, f"more than {MAX_FILE_LINES} lines")


def test_every_test_asserts():
    check(idle(TESTS), set(), "a test or checker without an assertion")


def made(folder: Path, **files: str) -> Path:
    """Write a package `p` with the given files; `__` in a name stands for a folder."""
    for name, text in files.items():
        path = folder / "p" / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "p"


@pytest.mark.parametrize(
    ("left", "right", "is_cycle"),
    [
        ("import p.right", "import p.left", True),
        ("from p import right", "from p.left import name", True),
        ("def f():\n    from p.right import name", "import p.left", True),
        ("try:\n    import p.right\nexcept ImportError:\n    pass", "class A:\n    import p.left", True),
        ("if TYPE_CHECKING:\n    import p.right", "import p.left", False),
        ("if TYPE_CHECKING:\n    pass\nelse:\n    import p.right", "import p.left", True),
        ("import p.right", "import p.leftover", False),
    ],
)
def test_cycles_are_recognised(tmp_path: Path, left: str, right: str, is_cycle: bool):
    graph = import_graph(made(tmp_path, left=left, right=right))
    assert cycles(graph) == ({frozenset({"p.left", "p.right"})} if is_cycle else set())


def test_a_face_is_in_a_cycle_only_with_files_that_import_it(tmp_path: Path):
    source = made(tmp_path, a="", b="from p.a import x", c="from p import x", d="from p import a")
    (source / "__init__.py").write_text("from p.a import x\nfrom p.b import y\nfrom p.c import z\nfrom p.d import w")
    assert cycles(import_graph(source)) == {frozenset({"p", "p.c"})}


def test_a_broken_rule_and_a_list_that_is_out_of_date_fail():
    with pytest.raises(AssertionError, match=r"too long: new"):
        check({"new", "old"}, {"old"}, "too long")
    with pytest.raises(AssertionError, match=r"take it off the list .*: old"):
        check(set(), {"old"}, "too long")


def test_lines_of_a_function_are_counted_from_def_to_end(tmp_path: Path):
    source = made(tmp_path, a='@decorated\ndef f():\n    """Text."""\n\n    return 1\n\n\nx = 1')
    assert list(functions(source)) == [("a.py:f", 4)]


@pytest.mark.parametrize(
    ("body", "is_idle"),
    [
        ("run()", True),
        ("run(check=True)", True),
        ("text = 'assert'", True),
        ("assert run()", False),
        ("with open(p):\n        assert run()", False),
        ("def inner():\n        assert run()\n    inner()", False),
        ("with pytest.raises(OSError):\n        run()", False),
        ("np.testing.assert_array_equal(a, b)", False),
        ("check_method(run)", False),
    ],
)
@pytest.mark.parametrize("name", ["test_it", "check_it"])
def test_a_test_without_an_assertion_is_found(tmp_path: Path, name: str, body: str, is_idle: bool):
    (tmp_path / "a.py").write_text(f"def {name}():\n    {body}\n\n\ndef made():\n    run()")
    assert idle(tmp_path) == ({f"a.py:{name}"} if is_idle else set())
