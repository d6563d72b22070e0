"""Tables that are emptied after a test which really commits, and what migrations left in them: quick, since thousands
of tests wait for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.core.management.sql import sql_flush
from django.db import connection


def emptying(style: Any, connection: Any, **options: Any) -> list[str]:
    """What `flush` runs. To truncate all tables takes PostgreSQL sixty milliseconds, to delete what there is ten."""
    if connection.vendor != "postgresql" or not is_ours(connection):
        return sql_flush(style, connection, **options)
    tables = connection.introspection.django_table_names(only_existing=True, include_views=False)
    # Neither foreign keys nor triggers are asked: rows go in any order, those too of which the ledger lets none go.
    statements = ["SET LOCAL session_replication_role = replica", *(f'DELETE FROM "{table}"' for table in tables)]
    return ["; ".join(statements)]


def is_ours(connection: Any) -> bool:
    """Whether we may do as we like there: not so where TEST_DATABASE_URL names somebody who may not."""
    with connection.cursor() as cursor:
        cursor.execute("SHOW is_superuser")
        return bool(cursor.fetchone()[0] == "on")


@dataclass(frozen=True)
class Kept:
    """The rows of a table as the database tells them, which is a fifth of the work that models would make."""

    table: str
    columns: list[str]
    rows: list[Any]

    @classmethod
    def of(cls, table: str) -> Kept:
        with connection.cursor() as cursor:
            told = f"SELECT json_agg(kept)::text FROM {table} kept"
            cursor.execute(told if connection.vendor == "postgresql" else f"SELECT * FROM {table}")
            return cls(table, [column[0] for column in cursor.description], cursor.fetchall())

    def put_back(self) -> None:
        """Where the table is empty; elsewhere nothing happened to it."""
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT 1 FROM {self.table} LIMIT 1")
            if cursor.fetchone() is not None:
                return
            if connection.vendor == "postgresql":
                values = f"SELECT * FROM json_populate_recordset(NULL::{self.table}, %s)"
            else:
                values = f"({', '.join(self.columns)}) VALUES ({', '.join(['%s'] * len(self.columns))})"
            cursor.executemany(f"INSERT INTO {self.table} {values}", self.rows)
