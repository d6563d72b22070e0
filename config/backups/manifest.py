"""What a backup says of itself: `manifest.json` in its folder, written last, so that half a backup has none."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

FORMAT = 1
NAME = "manifest.json"
PIECE_BYTES = 2**20


class NoBackup(Exception):
    """A folder is no whole backup; the message says what is wrong."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """Secrets that can be read back under one SECRET_KEY alone, as "provider groq"; `key` is its fingerprint, or
    empty where none that was there opened them."""

    key: str
    what: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """`vendor` is Django's word for the database, `server` its major version (0 for SQLite).

    `migrations` are those that had run, as "governance.0001_initial"; `secret_key` is a fingerprint.
    """

    format: int
    version: str
    made_at: datetime
    vendor: str
    server: int
    file: str
    bytes: int
    sha256: str
    secret_key: str
    sealed: tuple[Sealed, ...]
    migrations: tuple[str, ...]


def write(folder: Path, manifest: Manifest) -> None:
    said = asdict(manifest) | {"made_at": manifest.made_at.isoformat()}
    (folder / NAME).write_text(json.dumps(said, indent=2) + "\n")


def read(folder: Path) -> Manifest:
    """Raises NoBackup."""
    try:
        said = json.loads((folder / NAME).read_text())
    except (OSError, ValueError) as error:
        raise NoBackup(f"{folder} is no backup, or half of one: it has no {NAME} that can be read.") from error
    if not isinstance(said, dict) or said.get("format") != FORMAT:
        raise NoBackup(f"{folder / NAME} is of another format than {FORMAT}, the one known here.")
    try:
        return _parsed(said)
    except (KeyError, TypeError, ValueError) as error:
        raise NoBackup(f"{folder / NAME} is damaged: {error}.") from error


def _parsed(said: dict[str, Any]) -> Manifest:
    sealed = tuple(Sealed(str(each["key"]), tuple(map(str, each["what"]))) for each in said["sealed"])
    file, made_at = str(said["file"]), datetime.fromisoformat(said["made_at"])
    if Path(file).name != file or made_at.tzinfo is None:
        raise ValueError(file)
    texts = {name: str(said[name]) for name in ("version", "vendor", "sha256", "secret_key")}
    numbers = {name: int(said[name]) for name in ("format", "server", "bytes")}
    migrations = tuple(map(str, said["migrations"]))
    return Manifest(file=file, made_at=made_at, sealed=sealed, migrations=migrations, **texts, **numbers)  # type: ignore[arg-type]


def check(folder: Path, manifest: Manifest) -> Path:
    """The copy of the database, which is the one that was written. Raises NoBackup."""
    path = folder / manifest.file
    try:
        if path.stat().st_size == manifest.bytes and sha256(path) == manifest.sha256:
            return path
    except OSError as error:
        raise NoBackup(f"{path} cannot be read: {error}.") from error
    raise NoBackup(f"{path} is not what was written: it has another length or checksum.")


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def lost(manifest: Manifest, keys: Iterable[str]) -> list[str]:
    """What of a backup's secrets none of these keys opens."""
    there = set(keys)
    return [name for each in manifest.sealed if each.key and each.key not in there for name in each.what]
