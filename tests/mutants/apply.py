"""Put one change into a product that is loaded already, so that no test has to be collected anew.

A function keeps its identity and gets other code; a constant is set wherever it was imported under its name; what a
class says in its body (the defaults of a dataclass) is set on the class. Only ever in a forked process, which ends.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import sys
import types
from typing import Any

from tests.mutants.changes import Mutant


class CannotBeApplied(Exception):
    """The module does not load with this change, which any test would have seen."""


def apply(mutant: Mutant) -> None:
    module = sys.modules[module_name(mutant.path)]
    if not mutant.name:
        set_constants(module, mutant)
        return
    fresh: dict[str, Any] = {key: value for key, value in vars(module).items() if key.startswith("__")}
    try:
        exec(compile(mutant.source, str(module.__file__), "exec"), fresh)
    except Exception as error:
        raise CannotBeApplied from error
    owner, _, last = mutant.name.rpartition(".")
    # Read from the module and the classes themselves, since a descriptor would answer for what it wraps.
    old_owner, new_owner = vars(module), fresh
    for part in owner.split(".") if owner else []:
        old_owner, new_owner = vars(old_owner[part]), vars(new_owner[part])
    if mutant.in_function:
        replace_code(old_owner[last], new_owner[last])
    else:
        set_attributes(old_owner[last], new_owner[last])


def module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def replace_code(old: Any, new: Any) -> None:
    if callable(forget := getattr(old, "cache_clear", None)):
        forget()
    target, source = function_of(old), function_of(new)
    target.__code__ = source.__code__
    target.__defaults__ = source.__defaults__
    target.__kwdefaults__ = source.__kwdefaults__


def function_of(wrapped: Any) -> types.FunctionType:
    match wrapped:
        case property():
            wrapped = wrapped.fget
        case functools.cached_property():
            wrapped = wrapped.func
        case classmethod() | staticmethod():
            wrapped = wrapped.__func__
    function = inspect.unwrap(wrapped)
    assert isinstance(function, types.FunctionType)
    return function


def set_attributes(old: type, new: type) -> None:
    for name, value in vars(new).items():
        if (
            name.startswith("__")
            or inspect.isroutine(value)
            or isinstance(value, types.MemberDescriptorType | property)
        ):
            continue
        setattr(old, name, value)
    if dataclasses.is_dataclass(new):
        old.__init__ = new.__init__  # type: ignore[misc]
        old.__dataclass_fields__ = new.__dataclass_fields__  # type: ignore[attr-defined]


def set_constants(module: types.ModuleType, mutant: Mutant) -> None:
    """The changed constant, and those of its module that are made from it."""
    statements = ast.parse(mutant.source).body
    changed: set[str] = set()
    for index, statement in enumerate(statements):
        if index == mutant.statement or (
            isinstance(statement, ast.Assign | ast.AnnAssign) and reads(statement, changed)
        ):
            changed |= run_statement(module, statement)


def reads(statement: ast.stmt, names: set[str]) -> bool:
    return any(isinstance(node, ast.Name) and node.id in names for node in ast.walk(statement))


def run_statement(module: types.ModuleType, statement: ast.stmt) -> set[str]:
    before = dict(vars(module))
    try:
        exec(compile(ast.Module([statement], []), str(module.__file__), "exec"), vars(module))
    except Exception as error:
        raise CannotBeApplied from error
    changed = {name for name, value in vars(module).items() if before.get(name) is not value}
    for other in list(sys.modules.values()):
        for name in changed:
            if other is not module and name in before and vars(other).get(name) is before[name]:
                setattr(other, name, vars(module)[name])
    return changed
