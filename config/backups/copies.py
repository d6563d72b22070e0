"""To back the whole database up, and to put it back."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from django.conf import settings
from django.contrib.sessions.models import Session
from django.core.management import call_command
from django.db import DatabaseError, OperationalError, connection
from django.db.migrations.loader import MigrationLoader
from django.db.models import Model

from billing.usage import restored
from config import __version__
from config.backups import InUse, postgres, sqlite, to_disk
from config.backups import manifest as manifests
from config.backups.manifest import Manifest, Sealed
from governance import alerts, audit, sealing
from governance.audit import Actor
from governance.models import AlertChannel
from governance.upkeep import reconcile
from governance.upkeep.reconcile import Drift
from llm.models import ProviderEndpoint

Report = Callable[[str], None]
# Where secrets are that a SECRET_KEY alone opens: the model, its field, and what it is.
SEALED: tuple[tuple[type[Model], str, str], ...] = (
    (ProviderEndpoint, "sealed_key", "key of provider"),
    (AlertChannel, "sealed", "secret of alert channel"),
)
NAMED = "spend-governor-{:%Y%m%dT%H%M%SZ}"


class BackupRefused(Exception):
    """It was not begun, and nothing has changed; the message says why."""


class Unfinished(Exception):
    """It was put back, or may have been, and what follows was not all done; the message says what is left to do."""


@dataclass(frozen=True, slots=True)
class Restored:
    """`kept` is where SQLite's old file is, `held` how many reports of usage wait for Stripe's sums."""

    manifest: Manifest
    kept: str
    held: int
    drifts: list[Drift]


def back_up(folder: Path, *, now: datetime, report: Report) -> tuple[Path, Manifest]:
    """A new folder in `folder` with a copy as of one moment. What is there under its name is whole, or not there."""
    place = folder / NAMED.format(now)
    draft = folder / f".{place.name}.unfinished"
    if place.exists() or draft.exists():
        raise BackupRefused(f"{place if place.exists() else draft} is there already.")
    try:
        draft.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise BackupRefused(f"{draft} cannot be made: {error.strerror}.") from error
    try:
        report(f"Copying the database to {place}")
        made = _copied(draft, now)
        manifests.write(draft, made)
        for path in draft.iterdir():
            path.chmod(0o600)
            to_disk(path)
        to_disk(draft)
        draft.rename(place)
        to_disk(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return place, made


def _copied(draft: Path, now: datetime) -> Manifest:
    is_sqlite = connection.vendor == "sqlite"
    path = draft / (sqlite.FILE if is_sqlite else postgres.FILE)
    server = 0 if is_sqlite else postgres.server()
    # Before the copy, so that nothing in it is later than they say.
    migrations = tuple(f"{app}.{name}" for app, name in sorted(_applied()))
    if is_sqlite:
        sqlite.dump(path)
    else:
        postgres.dump(path)
    return Manifest(
        format=manifests.FORMAT,
        version=__version__,
        made_at=now,
        vendor=connection.vendor,
        server=server,
        file=path.name,
        bytes=path.stat().st_size,
        sha256=manifests.sha256(path),
        secret_key=sealing.fingerprint(settings.SECRET_KEY),
        sealed=sealed(),
        migrations=migrations,
    )


def sealed() -> tuple[Sealed, ...]:
    """What is in the database that a SECRET_KEY alone opens, by its fingerprint."""
    # The database of an older version, which is backed up before it is upgraded, lacks some of these tables.
    tables = connection.introspection.table_names()
    found: dict[str, list[str]] = {}
    for model, field, kind in SEALED:
        if model._meta.db_table not in tables:
            continue
        for name, secret in model._default_manager.exclude(**{field: ""}).order_by("name").values_list("name", field):
            try:
                key = sealing.sealed_under(secret)
            except sealing.Unreadable:
                key = ""
            found.setdefault(key, []).append(f"the {kind} {name}")
    return tuple(Sealed(key, tuple(names)) for key, names in sorted(found.items()))


def look(folder: Path, *, replace: bool, without_secrets: bool) -> Manifest:
    """Whether a backup can be put back here, before anything is done. Raises BackupRefused."""
    try:
        found = manifests.read(folder)
        manifests.check(folder, found)
    except manifests.NoBackup as error:
        raise BackupRefused(str(error)) from error
    if found.vendor != connection.vendor:
        raise BackupRefused(f"It is a backup of {found.vendor}, and DATABASE_URL is {connection.vendor}'s.")
    unknown = sorted(set(found.migrations) - {f"{app}.{name}" for app, name in _known()})
    if unknown:
        raise BackupRefused(
            f"It was made by a newer version ({found.version}), with {unknown[0]}: install that one first."
        )
    lost = manifests.lost(found, sealing.fingerprints())
    if lost and not without_secrets:
        raise BackupRefused(
            f"It was made under another SECRET_KEY, without which {', '.join(lost)} cannot be read. Put that one into "
            "SECRET_KEY or SECRET_KEY_FALLBACKS; or give --without-secrets, and enter them again afterwards."
        )
    if not replace and not _is_empty():
        raise BackupRefused(
            "The database is not empty. Give --replace to put the backup in the place of what is there."
        )
    return found


def put_back(folder: Path, found: Manifest, *, by: Actor, now: datetime, report: Report) -> Restored:
    """Put a backup that `look` has passed in the place of the database, and see to what follows.

    Raises BackupRefused or Unfinished.
    """
    kept = ""
    left = f"manage.py restore --recovered {found.made_at.isoformat()}"
    report(f"Putting back the database of {found.made_at:%Y-%m-%d %H:%M} UTC")
    try:
        if connection.vendor == "sqlite":
            kept = sqlite.put_back(folder / found.file, now=now)
        else:
            postgres.put_back(folder / found.file, made_on=found.server, scratch=Path(settings.VAR_DIR))
    except InUse as error:
        raise BackupRefused(f"The database is in use ({error}): stop web, worker, beat and serve first.") from error
    except postgres.Broken as error:
        raise Unfinished(
            f"{error}. The database is the old one or that of the backup. Put it back again; or, if it is that, "
            f"run {left}"
        ) from error
    except (postgres.NoTool, postgres.Failed, sqlite3.Error, OSError) as error:
        raise BackupRefused(f"{str(error).rstrip('.')}. Nothing has changed.") from error
    try:
        if connection.vendor == "sqlite":
            to_disk(Path(connection.settings_dict["NAME"]).parent)
        held, drifts = follow(made_at=found.made_at, by=by, now=now, report=report)
    except Exception as error:
        # Whatever it is: nobody may think that the old database is there still.
        old = f" What it was before is kept in {kept}." if kept else ""
        why = str(error).strip().rstrip(".") or type(error).__name__
        raise Unfinished(
            f"The backup was put back, but not all that follows was done: {why}.{old} Before you start the product, "
            f"run {left}"
        ) from error
    return Restored(found, kept, held, drifts)


def follow(*, made_at: datetime, by: Actor, now: datetime, report: Report) -> tuple[int, list[Drift]]:
    """After the database was put back, by whatever means, to what it was at `made_at`: see to what it cannot know."""
    report("Applying the migrations that it lacks")
    call_command("migrate", interactive=False, verbosity=0)
    held = restored.note(made_at=made_at, now=now)
    # Sessions that were ended since would go on.
    Session.objects.all().delete()
    message = (
        f"The database was put back to {made_at:%Y-%m-%d %H:%M} UTC. Stops, limits, roles and revoked keys are as they "
        "were then; calls since then are not in the ledger."
    )
    alerts.report(kind="restored", subject="database", message=message, now=now, severity="critical")
    audit.record(action="database.restore", target="database", by=by, now=now, new={"made_at": made_at.isoformat()})
    report("Checking the ledger")
    return held, reconcile.run(now=now, report=report)


def _is_empty() -> bool:
    try:
        return not connection.introspection.table_names()
    except OperationalError:
        raise
    except DatabaseError:
        # A file that is none of SQLite's, or damaged.
        return False


def _applied() -> set[tuple[str, str]]:
    return set(MigrationLoader(connection).applied_migrations)


def _known() -> set[tuple[str, str]]:
    return set(MigrationLoader(None).disk_migrations or ())
