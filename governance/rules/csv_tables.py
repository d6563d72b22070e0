"""Tables as CSV, which spreadsheets open without running anything. Pure."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

# Where a spreadsheet would run what follows as a formula: at the beginning of a cell, and of what becomes one where it
# takes semicolons or tabs for what is between cells, in quotes too. Some read the wide forms of the signs as the signs.
FORMULA = re.compile("^(?=[\t\r])|(?:^|(?<=[;\t\r\n]))(?=[ \u00a0]*[=+@\uff1d\uff0b\uff0d\uff20\u2212-])")
LINES_A_PIECE = 250


class _Line:
    """What csv.writer writes to: hands each line back."""

    def write(self, text: str) -> str:
        return text


def lines_of(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> Iterator[str]:
    """CSV: the header, then some hundred lines a piece: each is a write to the network, and a hop of threads."""
    writer, rest = csv.writer(_Line()), iter(rows)
    yield writer.writerow(columns)
    while piece := list(islice(rest, LINES_A_PIECE)):
        yield "".join(writer.writerow([_cell(row[column]) for column in columns]) for row in piece)


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, dict | list):
        value = json.dumps(value, default=str)
    text = str(value)
    return text if _is_number(text) else FORMULA.sub("'", text)


def _is_number(text: str) -> bool:
    return text[:1] == "-" and text[1:].replace(".", "", 1).isdigit()
