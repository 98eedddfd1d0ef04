"""What a class or function of this package says about itself, read from its source without importing it."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

import personalllm

__all__ = ["Outline", "outline"]

_PACKAGE = Path(personalllm.__file__).parent
_CONTRACTS = ("personalllm.methods.base",)


@dataclass(frozen=True, slots=True)
class Outline:
    """The outside of a class or function.

    Attributes:
        summary: First line of its docstring.
        attributes: Class attributes that are written as plain values, here or in a base.
        methods: Methods of its own and of its bases; a base that others subclass as the contract (`Method`) is no
            such base.
    """

    summary: str
    attributes: dict[str, object]
    methods: frozenset[str]


def outline(reference: str) -> Outline:
    """Return the outline of `personalllm.module:name`.

    Raises:
        LookupError: If the module has no such class or function.

    >>> outline("personalllm.methods.baselines.longest:Longest").attributes["title"]
    'Longest'
    """
    module, _, name = reference.partition(":")
    path = _PACKAGE.joinpath(*module.split(".")[1:])
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    tree = ast.parse(source.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            summary = (ast.get_docstring(node) or "").partition("\n")[0]
            attributes = _attributes(node)
            methods = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
            for base in _bases(node, tree, module):
                inherited = outline(base)
                attributes = inherited.attributes | attributes
                methods |= inherited.methods
            return Outline(summary, attributes, frozenset(methods))
    raise LookupError(f"{source} has no {name}")


def _bases(node: ast.ClassDef | ast.FunctionDef, tree: ast.Module, module: str) -> list[str]:
    """Return the bases that are classes of this package, as `module:name`, the first one last."""
    known = {part.name: module for part in tree.body if isinstance(part, ast.ClassDef)}
    for part in tree.body:
        if isinstance(part, ast.ImportFrom) and (part.module or "").startswith("personalllm."):
            known |= {alias.asname or alias.name: str(part.module) for alias in part.names}
    named = [base.id for base in getattr(node, "bases", []) if isinstance(base, ast.Name)]
    found = [f"{known[name]}:{name}" for name in named if known.get(name, _CONTRACTS[0]) not in _CONTRACTS]
    return found[::-1]


def _attributes(node: ast.ClassDef | ast.FunctionDef) -> dict[str, object]:
    found: dict[str, object] = {}
    for part in node.body:
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name) and part.value is not None:
            value = part.value
            if isinstance(value, ast.Call) and len(value.args) == 1 and ast.unparse(value.func) == "frozenset":
                value = value.args[0]
            try:
                found[part.target.id] = ast.literal_eval(value)
            except ValueError:
                continue
    return found
