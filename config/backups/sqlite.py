"""SQLite: a copy of one moment while the product writes, and a file in the place of the old one."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path

from django.db import connection

from config.backups import InUse, to_disk

FILE = "database.sqlite3"


def dump(path: Path) -> None:
    """A copy as of one moment. Writers go on; SQLite's own `.backup` begins anew with each of their transactions."""
    # An empty file that nobody else may read; SQLite would make one with the mode that is usual here.
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    with connection.cursor() as cursor:
        cursor.execute("VACUUM INTO %s", [str(path)])


def put_back(path: Path, *, now: datetime) -> str:
    """Put a copy in the place of the database; where the old one is afterwards, or empty where there was none.

    Raises InUse, sqlite3.Error or OSError, and then the old one is as it was. Killed, it leaves one whole.
    """
    target = Path(connection.settings_dict["NAME"])
    draft = target.with_name(f"{target.name}.restoring")
    draft.unlink(missing_ok=True)
    try:
        _copy(path, draft)
        connection.close()
        kept = target.with_name(f"{target.name}.before-{now:%Y%m%dT%H%M%S}")
        had_one = target.exists() and target.stat().st_size > 0
        if had_one:
            _end_log(target)
            os.link(target, kept)
        for suffix in ("-wal", "-journal", "-shm"):
            # Of a file that is damaged, or gone: it would be read into the new one.
            log = target.with_name(target.name + suffix)
            if had_one and log.exists():
                log.rename(kept.with_name(kept.name + suffix))
            else:
                log.unlink(missing_ok=True)
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)
    return str(kept) if had_one else ""


def _copy(source: Path, draft: Path) -> None:
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    shutil.copyfile(source, draft)
    with closing(sqlite3.connect(draft)) as copied:
        found = copied.execute("PRAGMA quick_check").fetchone()
    if found != ("ok",):
        raise sqlite3.DatabaseError(f"the copy is damaged: {found[0]}")
    to_disk(draft)


def _end_log(target: Path) -> None:
    """Write the log into the file and end it, which needs the file for itself. Not into one that is damaged."""
    with closing(sqlite3.connect(target, timeout=2)) as old:
        try:
            mode = old.execute("PRAGMA journal_mode=DELETE").fetchone()
        except sqlite3.DatabaseError as error:
            kind = error.sqlite_errorcode & 0xFF
            if kind in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise InUse(str(error)) from error
            if kind in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                return
            raise
    if mode != ("delete",):
        raise InUse(f"journal_mode is {mode[0]}")
