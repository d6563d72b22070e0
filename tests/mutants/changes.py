"""The small changes that mutants are made of: mutmut's operators, and two of our own, on any function or constant.

Left alone is what a test must not copy or cannot see: docstrings, annotations, decorators, imports, logging, what only
the type checker reads (`cast`, `assert_never`), members of enumerations, and prose. Prose is text with a space in it:
a message says in tests which field it is about, not how it is worded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libcst as cst
from libcst import matchers as m
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.file_mutation import deep_replace
from mutmut.mutation.mutators import mutation_operators, operator_string

# Not that of tests/environment.py, which pytest must be the first to load.
ROOT = Path(__file__).resolve().parents[2]
UNSEEN_CALLS = {"cast", "assert_never", "TypeVar", "NewType", "ParamSpec", "getLogger"}
UNSEEN_NAMES = {"__all__", "__slots__"}
LOGGERS = {"log", "logger", "logging"}
NOTHING = m.Name("None") | m.Name("False")
ENUMERATIONS = {"Enum", "IntEnum", "StrEnum", "Flag", "IntFlag", "TextChoices", "IntegerChoices"}


@dataclass(frozen=True)
class Mutant:
    """A module with one change in it."""

    path: str
    # Of the outermost function or else class that the change is in, "" for a constant of the module.
    name: str
    # Whether the change is in the body or the defaults of a function.
    in_function: bool
    # Which statement of the module it is in, counted from 0.
    statement: int
    # The first and last line of the innermost statement that it is in, where tests that can see it pass through.
    first_line: int
    last_line: int
    # The lines that differ, without their indentation.
    was: str
    now: str
    source: str


def mutants(path: str, source: str) -> list[Mutant]:
    """Every mutant of one module, in the order of its text."""
    wrapper = MetadataWrapper(cst.parse_module(source), unsafe_skip_copy=True)
    module = wrapper.module
    places = wrapper.resolve(PositionProvider)
    texts = [module.code_for_node(statement) for statement in module.body]
    head = "".join(module.code_for_node(line) for line in module.header)
    found: dict[str, Mutant] = {}
    for index, statement in enumerate(module.body):
        for change in changes(statement, Place(places)):
            changed = deep_replace(statement, change.node, change.instead)
            assert isinstance(changed, cst.CSTNode)
            text = module.code_for_node(changed)
            was, now = difference(texts[index], text)
            # One that is no other program, or the same as one before it.
            if was == now or "assert_never" in was or not compiles(text):
                continue
            mutated = head + "".join([*texts[:index], text, *texts[index + 1 :]])
            place = change.place
            found.setdefault(
                mutated,
                Mutant(
                    path=path,
                    name=place.name,
                    in_function=place.in_function,
                    statement=index,
                    first_line=place.first_line,
                    last_line=place.last_line,
                    was=was,
                    now=now,
                    source=mutated,
                ),
            )
    return list(found.values())


@dataclass(frozen=True)
class Place:
    positions: Any
    name: str = ""
    in_function: bool = False
    first_line: int = 0
    last_line: int = 0

    def within(self, node: cst.CSTNode) -> Place:
        """The place of what is directly in `node`."""
        name, in_function = self.name, self.in_function
        if isinstance(node, cst.FunctionDef | cst.ClassDef) and not in_function:
            name = f"{name}.{node.name.value}".lstrip(".")
            in_function = isinstance(node, cst.FunctionDef)
        if not isinstance(
            node, cst.SimpleStatementLine | cst.BaseCompoundStatement | cst.MatchCase | cst.ExceptHandler
        ):
            return Place(self.positions, name, in_function, self.first_line, self.last_line)
        lines = self.positions[node]
        if isinstance(node, cst.FunctionDef):
            # Its defaults count wherever it is called.
            return Place(self.positions, name, in_function, lines.start.line, lines.end.line)
        body = getattr(node, "body", None)
        last_line = self.positions[body].start.line if isinstance(body, cst.BaseSuite) else lines.end.line
        return Place(self.positions, name, in_function, lines.start.line, max(last_line, lines.start.line))


@dataclass(frozen=True)
class Change:
    node: cst.CSTNode
    instead: cst.CSTNode
    place: Place


def changes(node: cst.CSTNode, place: Place) -> Iterator[Change]:
    if unseen(node):
        return
    place = place.within(node)
    for instead in replacements(node):
        yield Change(node, instead, place)
    for child in node.children:
        yield from changes(child, place)


def replacements(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    if isinstance(node, cst.ClassDef | cst.FunctionDef):
        return
    for kind, operator in mutation_operators:
        if not isinstance(node, kind):
            continue
        made: Iterable[cst.CSTNode] = operator(node)
        if operator is operator_string:
            # One other text is enough: those in capitals and in small letters fail with it.
            made = list(made)[:1]
        if isinstance(node, cst.Assign | cst.AnnAssign) and m.matches(node.value, NOTHING):
            # Another nothing is no other program; a False becomes True all the same.
            made = []
        if isinstance(node, cst.Call):
            made = [instead for instead in made if isinstance(instead, cst.Call) and comparable(node, instead)]
        yield from made
    if isinstance(node, cst.If | cst.While):
        yield node.with_changes(test=negated(node.test))
    if isinstance(node, cst.Return) and node.value is not None and not m.matches(node.value, m.Name("None")):
        yield node.with_changes(value=cst.Name("None"), whitespace_after_return=cst.SimpleWhitespace(" "))


def negated(test: cst.BaseExpression) -> cst.BaseExpression:
    inner = test.with_changes(lpar=[cst.LeftParen(), *test.lpar], rpar=[*test.rpar, cst.RightParen()])
    return cst.UnaryOperation(operator=cst.Not(), expression=inner)


def unseen(node: cst.CSTNode) -> bool:
    match node:
        case cst.Annotation() | cst.Decorator() | cst.Import() | cst.ImportFrom():
            return True
        case cst.Assign(value=cst.Call(func=cst.Name(value=name))) if name in UNSEEN_CALLS:
            return True
        case cst.Expr(value=cst.SimpleString() | cst.ConcatenatedString()):
            return True
        case cst.Call(func=cst.Name(value=name)) if name in UNSEEN_CALLS:
            return True
        case cst.Call(func=cst.Attribute(value=cst.Name(value=name))) if name in LOGGERS:
            return True
        case cst.Assign(targets=[cst.AssignTarget(target=cst.Name(value=name))]) if name in UNSEEN_NAMES:
            return True
        case cst.Assign(
            targets=[cst.AssignTarget(target=cst.Name(value=name))], value=cst.Subscript() | cst.BinaryOperation()
        ):
            # A name for a type is written as a class is.
            return name[0].isupper() and not name.isupper()
        case cst.If(test=cst.Name(value="TYPE_CHECKING")):
            return True
        case cst.ClassDef(bases=bases) if any(m.matches(base.value, m.Name()) for base in bases):
            return any(isinstance(base.value, cst.Name) and base.value.value in ENUMERATIONS for base in bases)
        case cst.Arg(value=value):
            return is_prose(value)
        case cst.BaseExpression():
            return is_prose(node)
    return False


def is_prose(node: cst.CSTNode) -> bool:
    match node:
        case cst.SimpleString(value=text):
            return " " in text
        case cst.FormattedString(parts=parts):
            return any(isinstance(part, cst.FormattedStringText) and " " in part.value for part in parts)
        case cst.ConcatenatedString(left=left, right=right):
            return is_prose(left) or is_prose(right)
    return False


def comparable(call: cst.Call, instead: cst.Call) -> bool:
    """Not one without an argument, where None in its place says the same, nor one without a message."""
    return len(call.args) == len(instead.args) and prose_in(call) == prose_in(instead)


def prose_in(call: cst.Call) -> int:
    return sum(is_prose(argument.value) for argument in call.args)


def compiles(text: str) -> bool:
    try:
        compile(text, "mutant", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    return True


def difference(text: str, other: str) -> tuple[str, str]:
    """The lines in which two texts differ, of either, each without its indentation."""
    lines, others = text.split("\n"), other.split("\n")
    start = 0
    while start < min(len(lines), len(others)) and lines[start] == others[start]:
        start += 1
    end = 0
    while end < min(len(lines), len(others)) - start and lines[-1 - end] == others[-1 - end]:
        end += 1
    first, second = ("\n".join(line.strip() for line in part[start : len(part) - end]) for part in (lines, others))
    return first, second
