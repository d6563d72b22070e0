"""Policies as files: YAML with a list of entries for each of `policy_tables.TABLES`, read, planned and applied.

What an entry leaves out stays as it is, and so does what no entry names. All entries are judged before anything is
done; then all are done in one transaction, or none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from django.db import transaction
from rest_framework import serializers

from governance import ledger
from governance.audit import Actor
from governance.management.policy_tables import TABLES, UNCHANGED, PolicyChange
from governance.rules import json_bounds, yaml_values
from governance.rules.errors import Conflict, FieldError, quoted
from governance.rules.json_bounds import BeyondBounds, JsonBounds
from governance.rules.yaml_values import MOST_CHARACTERS, Place, YamlError

# Of all files together: while they are applied, calls of the budgets that they change wait.
MOST_ENTRIES = 1_000


class PolicyRefused(ValueError):
    """What is wrong with the files, each with its place. Nothing was applied."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class PolicyEntry:
    path: str
    table: str
    index: int
    values: Mapping[str, Any]
    lines: Mapping[Place, int]

    def problem(self, place: Place, message: str) -> str:
        return _problem(self.path, self.lines, (self.table, self.index, *place), message)


def read(paths: Iterable[str]) -> list[PolicyEntry]:
    """The entries of files. Raises PolicyRefused."""
    entries: list[PolicyEntry] = []
    problems: list[str] = []
    for path in paths:
        try:
            value, lines = yaml_values.parse(_text(Path(path)))
            json_bounds.check(value, JsonBounds(), storable=True)
        except YamlError as error:
            problems.append(f"{path}:{error.line}: {error}")
            continue
        except BeyondBounds as error:
            problems.append(f"{path}: {error.sentence}")
            continue
        problems += _misshapen(path, value, lines)
        if not problems:
            entries += [
                PolicyEntry(path, table, index, values, lines)
                for table, listed in value.items()
                for index, values in enumerate(listed)
            ]
    if len(entries) > MOST_ENTRIES:
        problems.append(f"There are {len(entries):,} entries; at most {MOST_ENTRIES:,} are applied at once.")
    if problems:
        raise PolicyRefused(problems)
    return entries


def plan(entries: Sequence[PolicyEntry]) -> list[PolicyChange]:
    """What applying the entries does, in their order. Nothing is written. Raises PolicyRefused."""
    changes: list[PolicyChange] = []
    problems: list[str] = []
    seen: dict[tuple[Any, ...], PolicyEntry] = {}
    for entry in entries:
        try:
            change = TABLES[entry.table].plan(_validated(entry))
        except serializers.ValidationError as error:
            fields = TABLES[entry.table].body().fields
            told = _complaints(error.detail, entry.values, fields)
            problems += [entry.problem(place, message) for place, message in told]
            continue
        except FieldError as error:
            problems.append(entry.problem((error.field,) if error.field else (), error.message))
            continue
        first = seen.setdefault((entry.table, *change.key), entry)
        if first is not entry:
            problems.append(entry.problem((), f"{change.name} has an entry already, {first.problem((), '')}"))
        changes.append(change)
    if problems:
        raise PolicyRefused(problems)
    return changes


@ledger.run_again
@transaction.atomic
def apply(
    entries: Sequence[PolicyEntry], *, shown: Sequence[PolicyChange], by: Actor, now: datetime, reason: str
) -> None:
    """Do what was shown, all of it or nothing. Raises PolicyRefused, and Conflict where it would be something else."""
    changes = plan(entries)
    if changes != list(shown):
        raise Conflict("", "something has changed since the difference was shown; nothing was applied")
    for change in changes:
        if change.action != UNCHANGED:
            change.act(by, now, reason)


def _text(path: Path) -> str:
    """A file's text, of which no more is read than one may have. Raises YamlError, OSError."""
    with path.open("rb") as file:
        data = file.read(4 * MOST_CHARACTERS + 1)
    if len(data) > 4 * MOST_CHARACTERS:
        raise YamlError(1, f"has more than {MOST_CHARACTERS:,} characters")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise YamlError(data.count(b"\n", 0, error.start) + 1, "is not UTF-8") from error


def _misshapen(path: str, value: Any, lines: Mapping[Place, int]) -> Iterator[str]:
    """What is wrong with a file before its entries are looked at."""
    there_are = ", ".join(sorted(TABLES))
    if not isinstance(value, dict):
        yield _problem(path, lines, (), f"must have lists of entries by name; there are: {there_are}")
        return
    for name, listed in value.items():
        if name not in TABLES:
            yield _problem(path, lines, (name,), f"is not known here. There are: {there_are}")
        elif not isinstance(listed, list):
            yield _problem(path, lines, (name,), "must be a list of entries, each behind a dash")
        else:
            for index, entry in enumerate(listed):
                if not isinstance(entry, dict):
                    yield _problem(path, lines, (name, index), "must be an entry of names and values")


def _validated(entry: PolicyEntry) -> dict[str, Any]:
    """An entry as the API reads it; what it leaves out is left out. Raises ValidationError."""
    table = TABLES[entry.table]
    fields = table.fields()
    wrong = {
        name: [f"is not known here. There are: {', '.join(fields)}."] for name in entry.values if name not in fields
    }
    wrong |= {name: ["is needed."] for name in table.needed if name not in entry.values}
    body = table.body(data=entry.values, partial=True)
    if not wrong:
        body.is_valid(raise_exception=True)
        return dict(body.validated_data)
    raise serializers.ValidationError(wrong)


def _complaints(detail: Any, value: Any, fields: Mapping[str, Any], place: Place = ()) -> Iterator[tuple[Place, str]]:
    """Each place that a body of these fields complains of, and what it says; `value` is what stands there."""
    if isinstance(detail, dict):
        inner: list[tuple[Any, Any]] = list(detail.items())
    elif any(isinstance(each, dict) for each in detail):
        inner = list(enumerate(detail))
    else:
        yield place, _sentence(detail, value, fields.get(str(place[0])) if place else None)
        return
    for name, complaint in inner:
        if name == "non_field_errors":
            yield from _complaints(complaint, value, fields, place)
        elif complaint:
            yield from _complaints(complaint, _inside(value, name), fields, (*place, name))


def _sentence(detail: Sequence[Any], value: Any, field: Any) -> str:
    """What is wrong with a value, and what would be right, where the field leaves that open."""
    if detail[0].code == "invalid_choice":
        return f"must be one of {', '.join(field.choices)}, not {quoted(value)}"
    if str(detail[0]) == "Not a valid string." and isinstance(value, bool | int | Decimal):
        return "must be text: put it in quotes"
    return " ".join(map(str, detail))


def _inside(value: Any, name: str | int) -> Any:
    if isinstance(value, dict):
        return value.get(name)
    return value[name] if isinstance(value, list) and isinstance(name, int) and name < len(value) else None


def _problem(path: str, lines: Mapping[Place, int], place: Place, message: str) -> str:
    """ "policy.yaml:7: budgets[1].limit: must be …"; the line is that of the innermost that has one."""
    named = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
    known = next((lines[place[:end]] for end in range(len(place), -1, -1) if place[:end] in lines), 1)
    return ": ".join(filter(None, (f"{path}:{known}", named, message)))
