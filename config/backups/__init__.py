"""Backups: a folder with a copy of the whole database and a manifest that says of what, and under which SECRET_KEY."""

import os
from pathlib import Path


class InUse(Exception):
    """Others have the database open; the message says who, as far as that is known."""


def to_disk(path: Path) -> None:
    """A file, or the names in a folder, outlast a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
