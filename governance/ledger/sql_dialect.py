"""Set-based SQL in the words of PostgreSQL and SQLite: rows go in as one JSON parameter, whatever their number.

So a statement is one constant text, which is parsed and planned once. On PostgreSQL the statements of a batch go
through a pipeline: they are sent together, and waited for together.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import accumulate, chain
from operator import attrgetter
from typing import Any, Generic, NamedTuple, TypeVar
from uuid import UUID

import orjson
from django.db import Error, connection, transaction

T = TypeVar("T")
# Of names that are data.
_named_tuple: Callable[..., Any] = namedtuple


class Columns:
    """Columns that a SELECT reads of one table, and the tuple with their names that this part of a row becomes.

    `names` is one text. Those that are `as_text` are read as text: JSON that is only compared, or parsed rarely.
    """

    def __init__(self, alias: str, names: str, *, as_text: Collection[str] = ()) -> None:
        kind = _named_tuple("Row", names)
        self.make: Callable[[Iterable[Any]], Any] = kind._make
        self.names: tuple[str, ...] = kind._fields
        self._text = ", ".join(
            f'CAST({alias}."{name}" AS text)' if name in as_text else f'{alias}."{name}"' for name in self.names
        )

    def __str__(self) -> str:
        return self._text


def split(rows: Iterable[Sequence[Any]], *parts: Columns) -> list[tuple[Any, ...]]:
    """Each row as one named tuple for each of the parts that its SELECT names, in their order."""
    ends = list(accumulate(len(part.names) for part in parts))
    cuts = [(part.make, slice(end - len(part.names), end)) for part, end in zip(parts, ends, strict=True)]
    return [tuple([make(row[cut]) for make, cut in cuts]) for row in rows]


class Shape:
    """Named, typed columns of rows that a statement reads as the table `v`, as one text: "id bigint, subject text".

    Types are PostgreSQL's; SQLite takes values as JSON has them. "tenant_id=caller.tenant_id bigint" says, for `rows`,
    which attribute a column's value is, where that has another name.
    """

    def __init__(self, columns: str = "", **types: str) -> None:
        listed = [*(column.split() for column in columns.split(",") if column), *types.items()]
        parts = [(*named.partition("="), type) for named, type in listed]
        self.names = tuple(name for name, *_ in parts)
        self._attributes = [attribute or name for name, _, attribute, _ in parts]
        definitions = ", ".join(f'"{name}" {type}' for name, *_, type in parts)
        extracts = ", ".join(f"json_extract(value, '$.{name}') AS \"{name}\"" for name in self.names)
        self._postgres = f"json_to_recordset(%s::json) AS v({definitions})"
        self._sqlite = f"(SELECT {extracts} FROM json_each(%s)) AS v"

    def __str__(self) -> str:
        """The FROM item, with one placeholder."""
        return self._postgres if is_postgres() else self._sqlite

    @property
    def columns(self) -> str:
        return ", ".join(f'"{name}"' for name in self.names)

    def rows(self, objects: Iterable[Any], **given: Any) -> list[tuple[Any, ...]]:
        """A row for each object; what is `given` is the same in all, and the last columns."""
        own = len(self.names) - len(given)
        if self.names[own:] != tuple(given):
            raise ValueError(f"the last columns are {self.names[own:]}, not {tuple(given)}")
        values = attrgetter(*self._attributes[:own])
        return [(*values(each), *given.values()) for each in objects]

    def pack(self, rows: Iterable[Sequence[Any]]) -> str:
        """The parameter: one object a row. Values are text, integers, None, lists and dicts, UUIDs and times."""
        ready = [dict(zip(self.names, map(_plain, row), strict=True)) for row in rows]
        return orjson.dumps(ready).decode()


IDS = Shape(id="bigint")
UUIDS = Shape(id="uuid")
_TURNS = Shape(id="bigint", alone="boolean")


def among(shape: Shape) -> str:
    """A parenthesised list for IN, from a `pack_ids` parameter."""
    return f"(SELECT v.id FROM {shape})"


def pack_ids(ids: Collection[int] | Collection[UUID]) -> str:
    return IDS.pack([(id,) for id in ids])


def select(statement: str, params: Sequence[Any]) -> list[Any]:
    with _cursor() as cursor:
        cursor.execute(statement, params)
        return list(cursor.fetchall())


@dataclass(frozen=True, slots=True)
class Select(Generic[T]):
    """A statement that reads, and what its rows mean. One that is not needed is not sent: it has no rows."""

    statement: str
    params: Sequence[Any]
    meaning: Callable[[list[Any]], T]
    is_needed: bool = True


def answer(query: Select[T]) -> T:
    return query.meaning(select(query.statement, query.params) if query.is_needed else [])


def answers(*queries: Select[Any]) -> list[Any]:
    """What several queries mean; on PostgreSQL asked together, in this order, for the time of one."""
    if not is_postgres():
        return [answer(query) for query in queries]
    with ExitStack() as stack:
        stack.enter_context(together())
        asked = [(query, stack.enter_context(_cursor()) if query.is_needed else None) for query in queries]
        for query, cursor in asked:
            if cursor is not None:
                cursor.execute(query.statement, query.params)
        return [query.meaning([] if cursor is None else cursor.fetchall()) for query, cursor in asked]


def run(statement: str, params: Sequence[Any]) -> None:
    with _cursor() as cursor:
        cursor.execute(statement, params)


def insert(table: str, shape: Shape, rows: Sequence[Sequence[Any]], *, tail: str = "") -> None:
    """Insert rows whose columns are the shape's; `tail` may hold an ON CONFLICT clause."""
    if rows:
        # `WHERE true` keeps SQLite from reading ON CONFLICT as a join's ON.
        run(
            f"INSERT INTO {table} ({shape.columns}) SELECT {shape.columns} FROM {shape} WHERE true{tail}",
            [shape.pack(rows)],
        )


def update(table: str, shape: Shape, rows: Sequence[Sequence[Any]]) -> None:
    """Set the shape's columns, by its first one, the primary key."""
    if rows:
        key, *names = shape.names
        sets = ", ".join(f"{name} = v.{name}" for name in names)
        run(f"UPDATE {table} SET {sets} FROM {shape} WHERE {table}.{key} = v.{key}", [shape.pack(rows)])


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long a transaction that takes the ledger's locks may wait for one, work on a statement, idle, and last.

    The last two are for those who are stopped in mid-transaction (SIGSTOP, a frozen machine): the server then ends
    their session, and what they had locked is free. `transaction`: PostgreSQL 17 and newer; it alone tells of a process
    that was stopped within a pipeline or just after one, which is not idle in the server's eyes. So older ones are sent
    no pipelines.
    """

    lock: str
    statement: str
    idle: str
    transaction: str


# Calls, and acts of people and agents.
PROMPT = Deadlines(lock="10s", statement="30s", idle="30s", transaction="30s")
# What counts or writes very many rows at once, by a command or a job of its own.
PATIENT = Deadlines(lock="1h", statement="1h", idle="30s", transaction="1h")
# What only reads and, in the end, can do without; prices that are gone by unread may have changed, so not too soon.
BRIEF = Deadlines(lock="4s", statement="4s", idle="10s", transaction="5s")
_deadlines = ContextVar("_deadlines", default=PROMPT)
# The first version with `transaction_timeout`.
_ENDS_TRANSACTIONS = 170_000


@contextmanager
def patiently() -> Iterator[None]:
    """Have transactions of the ledger that begin here last as long as a long work needs, up to an hour."""
    token = _deadlines.set(PATIENT)
    try:
        yield
    finally:
        _deadlines.reset(token)


@contextmanager
def briefly() -> Iterator[None]:
    """A transaction for reads that ends by itself within seconds, on PostgreSQL; one that has begun has its own end.

    On SQLite it would lock the database, and nothing there is locked against readers.
    """
    if not is_postgres() or _is_in_transaction():
        yield
        return
    token = _deadlines.set(BRIEF)
    try:
        with transaction.atomic():
            keep_deadlines()
            yield
    finally:
        _deadlines.reset(token)


@contextmanager
def waiting(lock_s: float, *, statement_s: float | None = None) -> Iterator[None]:
    """Have transactions of the ledger that begin here wait for a lock so long, where no long work is under way.

    And work so long on a statement, where that is said, whatever is under way.
    """
    chosen = _deadlines.get()
    limits = {"lock": _in_ms(lock_s)} | ({} if statement_s is None else {"statement": _in_ms(statement_s)})
    token = _deadlines.set(chosen if chosen is PATIENT and statement_s is None else replace(chosen, **limits))
    try:
        yield
    finally:
        _deadlines.reset(token)


def _in_ms(seconds: float) -> str:
    return f"{round(1000 * seconds)}ms"


def _is_in_transaction() -> bool:
    connection.ensure_connection()
    # Django does not know of those that `committed` begins.
    return connection.in_atomic_block or bool(connection.connection.pgconn.transaction_status)


def keep_deadlines() -> None:
    """Have this transaction end by itself, and wait for no lock for ever, on PostgreSQL; before it locks anything."""
    if is_postgres():
        _set_locally(_of_deadlines())


def by_index() -> None:
    """Have this transaction's statements look each row up by its index, on PostgreSQL; with `keep_deadlines`.

    They all want a few rows by key. A planner that has not yet seen a table grow would read all of it instead, and a
    prepared plan goes on doing so.
    """
    if is_postgres():
        _set_locally({"enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off"} | _of_deadlines())


def _of_deadlines() -> dict[str, str]:
    chosen = _deadlines.get()
    limits = {
        "lock_timeout": chosen.lock,
        "statement_timeout": chosen.statement,
        "idle_in_transaction_session_timeout": chosen.idle,
    }
    if _ends_transactions():
        limits["transaction_timeout"] = chosen.transaction
    return limits


def _ends_transactions() -> bool:
    """Whether the server has `transaction_timeout`."""
    connection.ensure_connection()
    with connection.wrap_database_errors:
        return bool(connection.connection.info.server_version >= _ENDS_TRANSACTIONS)


def _set_locally(values: Mapping[str, str]) -> None:
    """Set parameters of the server until the transaction ends."""
    run("SELECT " + ", ".join(["set_config(%s, %s, true)"] * len(values)), [*chain.from_iterable(values.items())])


def is_postgres() -> bool:
    return connection.vendor == "postgresql"


def for_update(alias: str) -> str:
    # SQLite has no row locks: its write transaction holds the whole database from BEGIN IMMEDIATE on.
    return f" FOR UPDATE OF {alias}" if is_postgres() else ""


def skip_locked() -> str:
    """After `for_update`: rows that others hold are left out."""
    return " SKIP LOCKED" if is_postgres() else ""


def for_share(alias: str) -> str:
    return f" FOR SHARE OF {alias}" if is_postgres() else ""


def is_list(column: str) -> str:
    """A condition: that a column of JSON holds a list."""
    if is_postgres():
        return f"jsonb_typeof({column}) = 'array'"
    return f"(CASE WHEN json_valid({column}) THEN json_type({column}) END) IS 'array'"


class Elements(NamedTuple):
    """A FROM item of what a column of JSON lists, whatever is in it, and each element as a row's id and as text.

    Either is NULL where it is none. Where the column holds no list, it is the one element itself.
    """

    item: str
    id: str
    text: str


def elements(column: str) -> Elements:
    if is_postgres():
        listed = f"CASE WHEN {is_list(column)} THEN {column} ELSE jsonb_build_array({column}) END"
        return Elements(
            f"jsonb_array_elements({listed}) WITH ORDINALITY AS j(value, key)",
            "CASE WHEN j.value::text ~ '^[0-9]{1,18}$' THEN j.value::text::bigint END",
            "CASE WHEN jsonb_typeof(j.value) = 'string' THEN j.value::text END",
        )
    listed = f"CASE WHEN {is_list(column)} THEN {column} ELSE json_array({column}) END"
    return Elements(
        f"json_each({listed}) AS j",
        "CASE WHEN j.type = 'integer' THEN j.value END",
        "CASE WHEN j.type = 'text' THEN j.value END",
    )


def differ(one: str, other: str) -> str:
    """A condition: that two values are not the same, nothing being the same as nothing."""
    return f"{one} IS {'DISTINCT FROM' if is_postgres() else 'NOT'} {other}"


def at_most(bound: int, expression: str) -> str:
    return f"{'LEAST' if is_postgres() else 'MIN'}({bound}, {expression})"


def take_turns(table: str, *, alone: Collection[int], beside: Collection[int], lock_wait: str | None = None) -> None:
    """Queue for rows of a table until the transaction ends: alone, or beside others who are not alone.

    First come, first served, in key order; it locks no row, and holds up only those who queue as well. `lock_wait` is
    how long, where that is not as long as for all that this transaction locks.
    """
    if is_postgres() and (alone or beside):
        if lock_wait is not None:
            _set_locally({"lock_timeout": lock_wait})
        # In pg_locks: the class is the table's oid, the object the row's id.
        lock = f"('{table}'::regclass::oid::int, v.id::int)"
        run(
            f"SELECT CASE WHEN v.alone THEN pg_advisory_xact_lock{lock} ELSE pg_advisory_xact_lock_shared{lock} END"
            f" FROM (SELECT v.id, v.alone FROM {_TURNS} ORDER BY v.id) v",
            [_TURNS.pack((id, id in alone) for id in {*alone, *beside})],
        )
        if lock_wait is not None:
            _set_locally({"lock_timeout": _deadlines.get().lock})


def stamp(at: datetime) -> datetime | str:
    """A time as a parameter."""
    return at if is_postgres() else _text(at)


def uuid(value: UUID | str) -> UUID:
    """A UUID column's value as read."""
    return value if isinstance(value, UUID) else UUID(value)


def key(value: UUID) -> Any:
    """A UUID as a parameter that is compared with a column."""
    return value if is_postgres() else value.hex


def moment(value: datetime | str) -> datetime:
    """A time column's value as read, in UTC."""
    at = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    # SQLite's have no zone: they are UTC's, never the machine's.
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def _plain(value: Any) -> Any:
    if isinstance(value, UUID):
        return value.hex
    if isinstance(value, datetime):
        return value.isoformat() if is_postgres() else _text(value)
    return dict(value) if isinstance(value, Mapping) else value


def _text(at: datetime) -> str:
    """As Django keeps times in SQLite."""
    return str(at.astimezone(UTC).replace(tzinfo=None))


@contextmanager
def together() -> Iterator[None]:
    """Send statements without waiting for each one's answer, on PostgreSQL 17 and newer.

    Errors surface at the next answer read.

    A batch so waits for the server a few times instead of a dozen. In a transaction of Django's, leave it before that
    commits. One inside another adds nothing.
    """
    if not _sends_together() or connection.connection.pgconn.pipeline_status:
        yield
        return
    with connection.wrap_database_errors, connection.connection.pipeline():
        yield


@contextmanager
def committed() -> Iterator[None]:
    """A durable transaction, within `together`: what begins it goes with its first statement, COMMIT with its last.

    Django's `atomic` would wait for the server twice more at the beginning and once at the end, for nothing else. So
    Django does not know of this transaction: nothing in it may use `atomic`, `on_commit` or models.
    """
    connection.close_if_health_check_failed()
    # Within a transaction of somebody else's, `atomic` has the say.
    if connection.in_atomic_block or not _sends_together():
        with transaction.atomic(durable=True), together():
            yield
        return
    try:
        with together():
            run("BEGIN", [])
            yield
            run("COMMIT", [])
    except BaseException:
        _give_up()
        raise


def _give_up() -> None:
    """Roll back; or drop a connection that can do no more, so that the server does."""
    try:
        connection.rollback()
    except Error:
        connection.close()


def is_refusal(error: BaseException | None) -> bool:
    """Whether an error is the server's answer that a statement, or COMMIT, was not done: its transaction did nothing.

    One that ends the session is none: COMMIT may have been done before it.
    """
    diagnostics = getattr(error, "diag", None)
    return diagnostics is not None and diagnostics.severity_nonlocalized == "ERROR"


def _sends_together() -> bool:
    # Before PostgreSQL 17 nothing but the idle timer ends a transaction whose process was stopped, and within a
    # pipeline or just after one that does not run.
    return is_postgres() and _ends_transactions()


@contextmanager
def _cursor() -> Iterator[Any]:
    """A cursor; on PostgreSQL one that prepares its statements, which Django's own does not."""
    if not is_postgres():
        with connection.cursor() as cursor:
            yield cursor
        return
    # Where SQLite alone is used, there need be no psycopg.
    from governance.ledger.queued_cursor import QueuedCursor

    connection.ensure_connection()
    with connection.wrap_database_errors, QueuedCursor(connection.connection) as cursor:
        yield cursor
