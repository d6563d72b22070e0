"""Sums over any number of rows: each row is bounded, and their number is not."""

from __future__ import annotations

from typing import Any

from django.db.models import BigIntegerField, Sum

# Parts of a figure that SQLite can add up for as many rows as a disk holds.
PART = 1_000_000_000


class LongSum(Sum):
    """A sum of whole numbers that may leave 64 bits. PostgreSQL's does by itself; SQLite's would raise an error.

    Exact within 64 bits; beyond them, where no ledger that is meant can be, SQLite's is right to 15 digits.
    """

    def __init__(self, expression: Any, **extra: Any) -> None:
        super().__init__(expression, output_field=BigIntegerField(), **extra)

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        part = f"CAST(%(expressions)s AS bigint) / {PART}", f"CAST(%(expressions)s AS bigint) %%%% {PART}"
        high, low = (f"SUM({each})" for each in part)
        fits = f"ABS({high} + {low} / {PART}) < {9 * PART}"
        template = f"CASE WHEN {fits} THEN {high} * {PART} + {low} ELSE {high} * {PART}.0 + {low} END"
        return self.as_sql(compiler, connection, template=template, **context)

    def get_db_converters(self, connection: Any) -> list[Any]:
        return [lambda value, *_: None if value is None else int(value)]
