"""Whose a connection to the database is. A process has a pool of few: requests share it, and whoever waits gives back.

SQLite's connections are files, and none is short of another.
"""

from __future__ import annotations

from django.db import DEFAULT_DB_ALIAS, connections


def give_back() -> None:
    """Let others have this thread's connections while it waits for anything else; its next query takes one again.

    Nothing where a transaction is open.
    """
    for each in connections.all(initialized_only=True):
        if not each.in_atomic_block:
            each.close()


def keep_own(alias: str = DEFAULT_DB_ALIAS) -> None:
    """Give this thread a connection outside the pool, so that it does its work whatever requests do to that."""
    shared = connections[alias]
    if not shared.settings_dict["OPTIONS"].get("pool"):
        return
    own = shared.copy()
    own.settings_dict["OPTIONS"].pop("pool")
    # Kept until it breaks: a pool is where one that is closed would go.
    own.settings_dict["CONN_MAX_AGE"] = None
    connections[alias] = own
