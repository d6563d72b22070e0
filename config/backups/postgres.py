"""PostgreSQL: its own pg_dump and pg_restore, and one transaction that puts all of it back or nothing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
from django.db import connection
from psycopg.conninfo import make_conninfo
from psycopg.pq import Conninfo

from config.backups import InUse

FILE = "database.dump"
# An act that holds a table for itself, such as a migration, is waited for so long.
LOCK_WAIT = "30s"
# Where a script of pg_restore has its settings.
BEGINNING_BYTES = 4096
# psql's exit status where it loses its connection.
CONNECTION_LOST = 2
_VERSION = re.compile(r"(\d+)(?:\.|devel|beta|rc|\s|$)")


class NoTool(Exception):
    """A program of PostgreSQL's client is missing, or too old; the message says which."""


class Failed(Exception):
    """A program of PostgreSQL's ended with an error, which is the message."""


class Broken(Exception):
    """psql lost its connection, which is the message: what it did may have been committed or not."""


def server() -> int:
    """The server's major version."""
    connection.ensure_connection()
    return int(connection.pg_version) // 10_000  # type: ignore[attr-defined]


def dump(path: Path) -> None:
    """A copy as of one moment, beside whatever is going on. Raises NoTool or Failed."""
    program = tool("pg_dump", at_least=server())
    options = ["--format=custom", "--no-owner", "--no-privileges", f"--lock-wait-timeout={LOCK_WAIT}"]
    _run([program, *options, f"--file={path}", f"--dbname={_address()}"])


def put_back(path: Path, *, made_on: int, scratch: Path) -> None:
    """Replace all tables and functions of the schema by the copy's, in one transaction.

    `made_on` is the major version of the copy's server; its statements are kept in the folder `scratch` meanwhile.
    Raises NoTool, Failed or InUse, and then nothing has changed; or Broken.
    """
    version = server()
    if version < made_on:
        raise NoTool(f"The copy is of PostgreSQL {made_on}; this server is {version}, and it takes no newer ones.")
    reader, writer = tool("pg_restore", at_least=made_on), tool("psql", at_least=made_on)
    connection.close()
    connection.close_pool()  # type: ignore[attr-defined]
    with psycopg.connect(_address(), password=_password()) as direct:
        _be_alone(direct)
        emptied = _emptying(direct)
    for left in scratch.glob("restoring-*.sql"):
        # By one that was killed.
        left.unlink()
    plain = scratch / f"restoring-{os.getpid()}.sql"
    try:
        os.close(os.open(plain, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600))
        # Comments on extensions are their owner's to make.
        _run([reader, "--no-owner", "--no-privileges", "--no-comments", f"--file={plain}", str(path)])
        if version < 17:
            _leave_out_newer_setting(plain)
        # The end comes from here: a script that breaks off commits nothing.
        script = [f"BEGIN; SET LOCAL lock_timeout = '{LOCK_WAIT}'; {emptied}", f"\\i {_quoted(plain)}", "COMMIT;"]
        options = ["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--output=/dev/null", f"--dbname={_address()}"]
        _run([writer, *options], told="\n".join(script) + "\n")
    finally:
        # Where that fails, the next one does it; by now the copy may be in its place.
        with suppress(OSError):
            plain.unlink()


def tool(name: str, *, at_least: int) -> str:
    """The path of a program of PostgreSQL's client. Raises NoTool where there is none as new as the server."""
    path = shutil.which(name)
    wanted = f"PostgreSQL's client of version {at_least} or newer (Debian: postgresql-client-{at_least})"
    if path is None:
        raise NoTool(f"{name} is not on the PATH: install {wanted}.")
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    found = _VERSION.search(said)
    if found is None or int(found[1]) < at_least:
        raise NoTool(f"{path} is {said.strip() or 'of no version that it tells'}: put {wanted} first on the PATH.")
    return path


def _be_alone(direct: psycopg.Connection[Any]) -> None:
    statement = (
        "SELECT coalesce(usename, '') FROM pg_stat_activity WHERE datname = current_database() "
        "AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )
    found: list[str] = []
    # A session that was closed just now may still be on its way out.
    for _ in range(20):
        found = [name for (name,) in direct.execute(statement).fetchall()]
        if not found:
            return
        direct.execute("SELECT pg_sleep(0.1), pg_stat_clear_snapshot()")
    raise InUse(f"{len(found)} other sessions, of {', '.join(sorted(set(found)))}")


def _emptying(direct: psycopg.Connection[Any]) -> str:
    """Statements that drop what is in the schema; extensions stay."""
    tables = direct.execute(
        "SELECT quote_ident(schemaname) || '.' || quote_ident(tablename) FROM pg_tables "
        "WHERE schemaname = current_schema()"
    ).fetchall()
    functions = direct.execute(
        "SELECT p.oid::regprocedure::text FROM pg_proc p WHERE pronamespace = current_schema()::regnamespace "
        "AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')"
    ).fetchall()
    dropped = [f"DROP TABLE {name} CASCADE;" for (name,) in tables]
    return " ".join([*dropped, *(f"DROP ROUTINE {name} CASCADE;" for (name,) in functions)])


def _leave_out_newer_setting(script: Path) -> None:
    """Since 17, pg_restore begins with settings of which no older server knows `transaction_timeout`."""
    with script.open("r+b") as file:
        beginning = file.read(BEGINNING_BYTES)
        file.seek(0)
        # A comment of the same length.
        file.write(beginning.replace(b"\nSET transaction_timeout", b"\n--- transaction_timeout", 1))


def _address() -> str:
    """How to connect, without the password."""
    known = {one.keyword.decode() for one in Conninfo.get_defaults()}
    said = connection.get_connection_params()
    return make_conninfo(**{name: str(said[name]) for name in said.keys() & known - {"password", "options"}})


def _password() -> str | None:
    return connection.settings_dict["PASSWORD"] or None


def _run(command: list[str], *, told: str | None = None) -> None:
    environment = os.environ | ({"PGPASSWORD": password} if (password := _password()) else {})
    done = subprocess.run(command, env=environment, input=told, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
        error = Broken if told is not None and done.returncode == CONNECTION_LOST else Failed
        raise error(f"{Path(command[0]).name}: {' '.join(lines[:3]) or f'ended with {done.returncode}'}")


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("\\", "\\\\").replace("'", "\\'") + "'"
