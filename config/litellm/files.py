"""Answers of LiteLLM's API as files, one for each answer, or for each page of one.

A file is known by what its name begins with, one of `ANSWERS`: keys.json, keys-2.json.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Never

from config.litellm.export import IDS
from config.litellm.rows import BadExport, LitellmRow
from governance.rules import json_bounds
from governance.rules.json_bounds import BeyondBounds, JsonBounds

# Under which name an answer has its rows, where it is no list itself.
ANSWERS = {
    "teams": "teams",
    "users": "users",
    "keys": "keys",
    "budgets": "budgets",
    "customers": "customers",
    "models": "data",
    "organizations": "organizations",
    "projects": "projects",
}
MOST_BYTES = 64 * 1024 * 1024
BOUNDS = JsonBounds(values=5_000_000)
_NAME = re.compile(rf"({'|'.join(ANSWERS)})(?![a-z]).*\.json", re.IGNORECASE)


def read(paths: Iterable[Path]) -> dict[str, list[LitellmRow]]:
    """The rows of files, and of folders' files, by tables. Raises BadExport, OSError."""
    tables: dict[str, list[LitellmRow]] = defaultdict(list)
    pages: dict[str, dict[int, Mapping[str, Any]]] = defaultdict(dict)
    for path in _files(paths):
        named = _NAME.fullmatch(path.name)
        if named is None:
            raise BadExport(f"{path.name}: the name must begin with one of {', '.join(ANSWERS)} and end with .json")
        table = named[1].lower()
        answer = _parsed(path)
        tables[table] += _rows(path, answer, ANSWERS[table])
        if isinstance(answer, dict) and isinstance(answer.get("total_pages"), int):
            page = answer.get("current_page", answer.get("page"))
            pages[table][page if isinstance(page, int) else 1] = answer
    for table, found in pages.items():
        _refuse_incomplete(table, found, tables[table])
    return dict(tables)


def _files(paths: Iterable[Path]) -> Iterable[Path]:
    for path in paths:
        if not path.is_dir():
            yield path
        elif found := sorted(path.glob("*.json")):
            yield from found
        else:
            raise BadExport(f"{path}: has no file that ends with .json")


def _parsed(path: Path) -> Any:
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise BadExport(f"{path.name}: has more than {MOST_BYTES:,} bytes: split the answer into pages")
    try:
        json_bounds.check_text(data, BOUNDS)
        answer = json.loads(data, parse_float=Decimal, parse_constant=_no_number)
        json_bounds.check(answer, BOUNDS, storable=False)
    except BeyondBounds as error:
        raise BadExport(f"{path.name}: {error.sentence}") from error
    except (ValueError, RecursionError) as error:
        line = f"line {error.lineno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise BadExport(f"{path.name}: is not JSON: {line}") from error
    return answer


def _no_number(text: str) -> Never:
    raise ValueError(f"{text} is no number")


def _rows(path: Path, answer: Any, name: str) -> list[LitellmRow]:
    if isinstance(answer, dict) and isinstance(answer.get("error"), dict | str):
        raise BadExport(f"{path.name}: is an error that LiteLLM answered with, and not what was asked for")
    listed = answer.get(name) if isinstance(answer, dict) else answer
    if not isinstance(listed, list):
        raise BadExport(f'{path.name}: must be a list of rows, or an object that has one as "{name}"')
    for number, each in enumerate(listed, 1):
        if not isinstance(each, dict):
            hint = ": ask for keys with return_full_object=true" if name == "keys" else ""
            raise BadExport(f"{path.name}: row {number}: must be an object{hint}")
    return [LitellmRow(f"{path.name}: row {number}", each) for number, each in enumerate(listed, 1)]


def _refuse_incomplete(table: str, pages: Mapping[int, Mapping[str, Any]], rows: Sequence[LitellmRow]) -> None:
    """Whoever is on a page that is missing would silently be left behind."""
    last = max(answer["total_pages"] for answer in pages.values())
    missing = [str(page) for page in range(1, last + 1) if page not in pages]
    if missing:
        raise BadExport(
            f"{table}: page {', '.join(missing[:10])} of {last} is missing: fetch each, as {table}-{missing[0]}.json"
        )
    totals = [answer.get("total_count", answer.get("total")) for answer in pages.values()]
    total = max((each for each in totals if isinstance(each, int)), default=0)
    # Of pages that overlap one row may be there twice, and another not at all.
    there_are = len({str(row.values.get(IDS.get(table, ""), number)) for number, row in enumerate(rows)})
    if there_are < total:
        raise BadExport(
            f"{table}: there are {there_are} rows of {total}: something changed meanwhile, fetch them again"
        )
