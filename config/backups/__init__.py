"""Backups: a folder with a copy of the whole database and a manifest that says of what, and under which SECRET_KEY."""
