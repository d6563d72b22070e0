"""Backups: a folder with a copy of the whole database and a manifest that says of what, and under which SECRET_KEY."""


class InUse(Exception):
    """Others have the database open; the message says who, as far as that is known."""
