"""DATABASE_URL and DATABASE_REPLICA_URL as Django's DATABASES, with what the ledger needs of either database."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import environ
from django.core.exceptions import ImproperlyConfigured

from config import environment

# How libpq notices that a server is gone: seconds, and milliseconds for what it sent that nobody acknowledges.
NOTICING = {
    "connect_timeout": 3,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
# How PostgreSQL notices that one of our processes was stopped in mid-transaction: its session ends, and what it had
# locked is free. Transactions of the ledger have more such deadlines of their own (`governance.ledger.sql_dialect`).
STOPPED_CLIENT = "-c idle_in_transaction_session_timeout=30s"
# Disks have no heads to move: as PostgreSQL reckons by itself, it reads a month of everybody for a customer's.
NO_HEADS = "-c random_page_cost=1.1"
SCHEMES = ("postgres", "postgresql", "sqlite")


def database(env: environ.Env, *, var_dir: Path) -> dict[str, Any]:
    """DATABASE_URL as Django's configuration, with what the ledger needs of either database.

    The password may stand beside it, in DATABASE_PASSWORD: a URL has signs for which it must be written otherwise.
    """
    raw = environment.secret(env, "DATABASE_URL") or f"sqlite:///{var_dir / 'governor.sqlite3'}"
    found = _parts(raw, "DATABASE_URL")
    if found["ENGINE"].endswith("sqlite3"):
        _be_absolute(found["NAME"])
        _make_private(Path(found["NAME"]))
        found.setdefault("OPTIONS", {}).update(
            # A write transaction takes the lock when it begins, so it never fails half-way for the lock.
            transaction_mode="IMMEDIATE",
            timeout=30,
            # FULL: a settled cost survives a power cut.
            init_command="PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;",
        )
    else:
        _complete_postgres(found, env, "DATABASE_URL")
    return found


def replica(env: environ.Env, *, primary: dict[str, Any]) -> dict[str, Any]:
    """DATABASE_REPLICA_URL as one more of Django's databases, `replica`; none where it is not set."""
    raw = environment.secret(env, "DATABASE_REPLICA_URL")
    if not raw:
        return {}
    found = _parts(raw, "DATABASE_REPLICA_URL")
    if found["ENGINE"].endswith("sqlite3") or primary["ENGINE"].endswith("sqlite3"):
        raise ImproperlyConfigured("DATABASE_REPLICA_URL is for PostgreSQL: SQLite has no replica.")
    _complete_postgres(found, env, "DATABASE_REPLICA_URL")
    # Tests of ours have one database, and read there what they wrote.
    found["TEST"] = {"MIRROR": "default"}
    return {"replica": found}


def _complete_postgres(found: dict[str, Any], env: environ.Env, name: str) -> None:
    """Add what every connection to PostgreSQL has; what the URL says counts in place of it."""
    options = found.setdefault("OPTIONS", {})
    found["PASSWORD"] = found.get("PASSWORD") or environment.password(env, "DATABASE_PASSWORD")
    found.setdefault("CONN_HEALTH_CHECKS", True)
    # ASGI gives each request a thread of its own, so a connection kept by a thread would be lost with it.
    # While the server is away each request tries; the pool's own are ever further apart, minutes in the end.
    options.setdefault("pool", {"min_size": 1, "max_size": 6, "timeout": 3, "reconnect_timeout": 1})
    # A server that is gone or frozen is noticed: at once when connecting, and within half a minute on the way.
    for option, value in NOTICING.items():
        options.setdefault(option, value)
    # What the URL says of the server's parameters comes last, so that it counts.
    options["options"] = f"{STOPPED_CLIENT} {NO_HEADS} {options.get('options', '')}".strip()
    # The ledger's statements are few and constant: planned once a connection, not once a batch.
    options.setdefault("prepare_threshold", 2)
    _read_options(options, name)


def _read_options(options: dict[str, Any], url_name: str) -> None:
    """Numbers that the URL says, as numbers: another value would fail at the first statement."""
    if str(options["prepare_threshold"]).lower() == "none":
        # Behind a pooler that hands each transaction to another connection.
        options["prepare_threshold"] = None
    for name in (*NOTICING, "prepare_threshold"):
        value = options[name]
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            or_none = ", or none" if name == "prepare_threshold" else ""
            raise ImproperlyConfigured(f"{url_name}: {name} must be a whole number{or_none}, not {value!r}.")


def _be_absolute(name: str) -> None:
    """A relative file would be another one for whoever stands in another folder."""
    if name != ":memory:" and not Path(name).is_absolute():
        raise ImproperlyConfigured(
            f"DATABASE_URL must name SQLite's file from the root on, with four slashes: sqlite:///{Path(name).absolute()}."
        )


def _make_private(path: Path) -> None:
    """SQLite's file before SQLite makes it, which would let others read it. Its log files take their modes from it."""
    if not path.is_absolute() or not path.parent.is_dir():
        return
    try:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    except OSError:
        # Read-only, or not ours: opening it says so.
        return
    for one in (path, *(path.with_name(f"{path.name}-{more}") for more in ("wal", "shm"))):
        if one.exists():
            environment.close_to_others(one, "DATABASE_URL")


def _parts(raw: str, name: str) -> dict[str, Any]:
    """The URL's parts. The message never shows the URL: it holds a password."""
    try:
        scheme = urlsplit(raw).scheme
        found = dict(environ.Env.db_url_config(raw)) if scheme in SCHEMES else {}
    except (ValueError, KeyError, ImproperlyConfigured):
        found = {}
    if not found.get("NAME"):
        raise ImproperlyConfigured(
            f"{name} must look like postgres://user:password@host:5432/name or sqlite:////absolute/path/to/file."
        )
    return found
