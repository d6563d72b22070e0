"""Put one change into a product that is loaded already, so that no test has to be collected anew.

The changed module runs again in its own place, statement by statement. Its functions and classes stay the ones that
everybody has imported, and get other code; its constants become others wherever they were imported under their name.
So a change reaches whatever the module makes of it when it is loaded. Only ever in a forked process, which ends.
"""

from __future__ import annotations
import __future__

import ast
import dataclasses
import enum
import functools
import inspect
import sys
import types
from collections.abc import Mapping
from typing import Any

from tests.mutants.changes import Mutant


class CannotBeApplied(Exception):
    """The module does not load with this change, which any test would have seen."""


def apply(mutant: Mutant) -> None:
    module = sys.modules[module_name(mutant.path)]
    values, before = vars(module), dict(vars(module))
    flags = __future__.annotations.compiler_flag if before.get("annotations") is __future__.annotations else 0
    for statement in ast.parse(mutant.source).body:
        code = compile(ast.Module([statement], []), str(module.__file__), "exec", flags, dont_inherit=True)
        found = dict(values)
        try:
            exec(code, values)
        except Exception as error:
            raise CannotBeApplied from error
        for name, new in list(values.items()):
            if new is not found.get(name) and name in before:
                values[name] = in_place_of(before[name], new, module)
    for name, old in before.items():
        if values[name] is not old:
            import_anew(name, old, values[name])


def module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def in_place_of(old: Any, new: Any, module: types.ModuleType) -> Any:
    if isinstance(old, type) and isinstance(new, type):
        # Members of enumerations are not changed.
        if old.__module__ == module.__name__ and not issubclass(old, enum.Enum):
            change_class(old, new, module)
        return old
    if is_written_in(old, module) and is_written_in(new, module):
        change_function(old, new)
        return old
    try:
        return old if type(old) is type(new) and bool(old == new) else new
    except Exception:
        return new


def change_class(old: type, new: type, module: types.ModuleType) -> None:
    before: Mapping[str, Any] = vars(old)
    for name, value in list(vars(new).items()):
        if is_written_in(value, module) and is_written_in(before.get(name), module):
            change_function(before[name], value)
        elif not name.startswith("__") and not isinstance(value, types.MemberDescriptorType):
            setattr(old, name, value)
    if dataclasses.is_dataclass(new):
        for name in ("__init__", "__dataclass_fields__", "__match_args__"):
            if not is_written_in(before.get(name), module):
                setattr(old, name, getattr(new, name))


def is_written_in(value: Any, module: types.ModuleType) -> bool:
    """Whether a function's text is in the module, whatever wraps it; one that a function has made is a constant."""
    function = function_of(value)
    return (
        function is not None
        and function.__code__.co_filename == module.__file__
        and ("<locals>" not in function.__qualname__)
    )


def function_of(value: Any) -> types.FunctionType | None:
    match value:
        case property():
            value = value.fget
        case functools.cached_property():
            value = value.func
        case classmethod() | staticmethod():
            value = value.__func__
    if not callable(value) or isinstance(value, type):
        return None
    function = inspect.unwrap(value)
    return function if isinstance(function, types.FunctionType) else None


def change_function(old: Any, new: Any) -> None:
    if callable(forget := getattr(old, "cache_clear", None)):
        forget()
    target, source = function_of(old), function_of(new)
    assert target is not None
    assert source is not None
    target.__code__ = source.__code__
    target.__defaults__ = source.__defaults__
    target.__kwdefaults__ = source.__kwdefaults__


def import_anew(name: str, old: Any, new: Any) -> None:
    for module in list(sys.modules.values()):
        if module is not None and vars(module).get(name) is old:
            setattr(module, name, new)
