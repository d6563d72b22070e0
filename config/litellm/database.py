"""LiteLLM's own database, a PostgreSQL: read as of one moment, and nothing is written.

Of its users' passwords and of its models' sealed parameters nothing is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from functools import partial
from typing import Any, LiteralString
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo
from psycopg.types.json import set_json_loads

from config.litellm.rows import LitellmRow

CONNECT_TIMEOUT_S = 10
# The table of each answer, what it is ordered by, and which of its columns are not asked for.
TABLES: Mapping[str, tuple[str, str, list[str]]] = {
    "teams": ("LiteLLM_TeamTable", "team_id", []),
    "users": ("LiteLLM_UserTable", "user_id", ["password"]),
    "keys": ("LiteLLM_VerificationToken", "token", []),
    "budgets": ("LiteLLM_BudgetTable", "budget_id", []),
    "customers": ("LiteLLM_EndUserTable", "user_id", []),
    # What a model stands for is sealed there: `model_info` and `litellm_params` would say nothing, but secrets.
    "models": ("LiteLLM_ProxyModelTable", "model_id", ["litellm_params", "model_info"]),
    "organizations": ("LiteLLM_OrganizationTable", "organization_id", []),
    "projects": ("LiteLLM_ProjectTable", "project_id", []),
}
# There is an end user for every name that a call ever gave; nothing is to be said of most.
ONLY: Mapping[str, LiteralString] = {
    "customers": "budget_id IS NOT NULL OR blocked OR to_jsonb(t) ->> 'allowed_model_region' IS NOT NULL"
}
# Older versions have no others.
NEEDED = {"teams", "users", "keys", "budgets"}
# What is only counted, where there is such a table: the sentence, the table, and which of its rows.
COUNTED: tuple[tuple[str, str, LiteralString], ...] = (
    ("budgets of a team's members: the key of each can have one", "LiteLLM_TeamMembership", "budget_id IS NOT NULL"),
    ("tags with a budget of their own", "LiteLLM_TagTable", "budget_id IS NOT NULL"),
    (
        "budgets of an organisation's members: a customer, or the key of each, can have one",
        "LiteLLM_OrganizationMembership",
        "budget_id IS NOT NULL",
    ),
    (
        "budgets of groups of models: here they are for all models together",
        "LiteLLM_ModelAccessGroupBudgetTable",
        "budget_id IS NOT NULL",
    ),
    ("agents of LiteLLM's own, with limits of theirs", "LiteLLM_AgentsTable", "true"),
    (
        "settings that its database keeps, with limits for all",
        "LiteLLM_Config",
        "param_value::text ~ 'budget|_limit|max_parallel'",
    ),
    (
        "old keys that work on for a while after they were rotated",
        "LiteLLM_DeprecatedVerificationToken",
        "revoke_at > timezone('UTC', now())",
    ),
    ("keys for whoever has a JWT with a claim", "LiteLLM_JWTKeyMapping", "is_active"),
)


class NotReadable(Exception):
    """The database cannot be read; the message says why, and shows no password."""


def read(url: str) -> tuple[dict[str, list[LitellmRow]], dict[str, int]]:
    """The rows by tables, and what was only counted. Raises NotReadable."""
    parameters, schema = _parameters(url)
    try:
        with psycopg.connect(**parameters) as direct:
            direct.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            direct.read_only = True
            set_json_loads(partial(json.loads, parse_float=Decimal), direct)
            return _tables(direct, schema), _counts(direct, schema)
    except psycopg.Error as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise NotReadable(f"LiteLLM's database: {why}") from error


def _parameters(url: str) -> tuple[dict[str, Any], str]:
    """How to connect, and the schema. Prisma, by which LiteLLM connects, has parameters that PostgreSQL lacks."""
    parts = urlsplit(url)
    if parts.scheme not in ("postgres", "postgresql"):
        raise NotReadable("LiteLLM's database must be given as postgresql://user:password@host:5432/name")
    given = parse_qsl(parts.query)
    known = {one.keyword.decode() for one in Conninfo.get_defaults()}
    # PostgreSQL takes a plus for a plus.
    kept = urlencode([(name, value) for name, value in given if name in known], quote_via=quote)
    try:
        parameters = conninfo_to_dict(urlunsplit(parts._replace(query=kept)))
    except psycopg.Error:
        # Its message would quote the address, with the password.
        raise NotReadable(
            "LiteLLM's database: the address cannot be read; in a password @ : / # ? % must be %40 and the like"
        ) from None
    timeout = parameters.get("connect_timeout") or CONNECT_TIMEOUT_S
    return {**parameters, "connect_timeout": timeout}, dict(given).get("schema", "public")


def _tables(direct: psycopg.Connection[Any], schema: str) -> dict[str, list[LitellmRow]]:
    found = {}
    for name, (table, key, left_out) in TABLES.items():
        if not _is_there(direct, schema, table):
            if name in NEEDED:
                raise NotReadable(f"LiteLLM's database: there is no {table} in its schema {schema!r}")
            continue
        query = sql.SQL("SELECT to_jsonb(t) - %s::text[] FROM {} t WHERE {} ORDER BY {}").format(
            sql.Identifier(schema, table), sql.SQL(ONLY.get(name, "true")), sql.Identifier(key)
        )
        rows = direct.execute(query, [left_out]).fetchall()
        if name == "keys":
            # Of an older version they share no budgets.
            rows = [({"budget_id": None, **values},) for (values,) in rows]
        found[name] = [LitellmRow(f"{table}: row {number}", values) for number, (values,) in enumerate(rows, 1)]
    return found


def _counts(direct: psycopg.Connection[Any], schema: str) -> dict[str, int]:
    counts = {}
    for sentence, table, condition in COUNTED:
        if _is_there(direct, schema, table):
            query = sql.SQL("SELECT count(*) FROM {} WHERE {}").format(
                sql.Identifier(schema, table), sql.SQL(condition)
            )
            row = direct.execute(query).fetchone()
            if row and row[0]:
                counts[sentence] = int(row[0])
    return counts


def _is_there(direct: psycopg.Connection[Any], schema: str, table: str) -> bool:
    # Not `information_schema`, where a table that may not be read is none: reading it says so.
    query = "SELECT to_regclass(format('%%I.%%I', %s::text, %s::text)) IS NOT NULL"
    row = direct.execute(query, [schema, table]).fetchone()
    return bool(row and row[0])
