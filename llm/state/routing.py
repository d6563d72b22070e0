"""The routing file in force: read when the process starts, and again when somebody changes it.

A file that cannot be used stops a start. Later it does not: the last good one stays in force, the log says once what
is wrong and where, and an alert stays open until the file is good again. Without ROUTER_CONFIG the product's own
`data/routing.yaml` is in force; what it names and the catalogue no longer serves is left out of routes.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from django.conf import settings
from django.db import DatabaseError, connection
from django.utils import timezone

from governance import alerts
from llm.catalogue import snapshot
from llm.catalogue.snapshot import Catalogue
from llm.models import Model
from llm.rules import pricing, routing_yaml
from llm.rules.routing import Options, Routing
from llm.rules.routing_yaml import RoutingError

log = logging.getLogger(__name__)

SHIPPED = Path(__file__).parents[1] / "data" / "routing.yaml"
ALERT = "routing_file"
LOOK_EVERY_S = 1.0
# A file that was changed so lately may change again without a change of its time and size.
SETTLED_AFTER_S = 2.0

Known = Callable[[], Mapping[str, str] | None]


class Watcher:
    """One file, and what it says. `known` gives the catalogue's names, for `routing_yaml.parse`."""

    def __init__(self, path: Path, *, known: Known) -> None:
        self.path = path
        self._known = known
        self._routing: Routing | None = None
        self._options: Options | None = None
        # Of what was read last, good or not.
        self._stamp: tuple[int, ...] | None = None
        self._digest = b""
        self._complaint = ""
        self._look_at = 0.0
        self._lock = threading.Lock()

    def load(self) -> Routing:
        """Read the file anew. Raises RoutingError where it cannot be used."""
        with self._lock:
            self._stamp = self._stamp_now()
            text, self._digest = self._read()
            self._routing = self._parse(text)
            self._complaint = ""
            if self._look_at != math.inf:
                self._look_at = time.monotonic() + LOOK_EVERY_S
            self._clear()
            return self._routing

    def follow(self) -> None:
        """Look at the file once a second from now on, so that the first call after a change meets it too."""
        with self._lock:
            if self._look_at == math.inf:
                return
            self._look_at = math.inf
        threading.Thread(target=self._follow, name="routing-file", daemon=True).start()

    def current(self) -> Routing:
        """What is in force. Where nobody follows the file, it is looked at once a second, and read on a thread."""
        routing = self._routing
        if routing is None:
            return self.load()
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + LOOK_EVERY_S
            if self._may_have_changed():
                threading.Thread(target=self._look_in_thread, name="routing-file", daemon=True).start()
        return routing

    def options(self, catalogue: Catalogue) -> Options:
        """What is in force, in the terms of a catalogue; worked out anew where either has changed."""
        routing, found = self.current(), self._options
        if found is None or found.routing is not routing or found.catalogue is not catalogue:
            found = self._options = Options(routing, catalogue)
        return found

    def look(self) -> bool:
        """Take the file over if it has changed and is good. True where another one is in force now."""
        with self._lock:
            self._stamp = self._stamp_now()
            before, self._digest = self._digest, b""
            try:
                text, self._digest = self._read()
                if self._digest == before:
                    return False
                fresh = self._parse(text)
            except RoutingError as error:
                self._complain(error)
                return False
            changed = fresh != self._routing
            self._routing = fresh
            if self._complaint:
                self._complaint = ""
                self._clear()
            log.info("routing file %s: %d models, %s", self.path, len(fresh.pool), "changed" if changed else "the same")
            return changed

    def _follow(self) -> None:
        while True:
            time.sleep(LOOK_EVERY_S)
            if self._may_have_changed():
                self._look_in_thread()

    def _look_in_thread(self) -> None:
        try:
            self.look()
        except Exception:
            # Such as the catalogue's names, which the database did not tell: the next look asks again.
            self._digest, self._stamp = b"", None
            log.exception("routing file %s could not be checked; the last good one stays", self.path)
        finally:
            connection.close()

    def _may_have_changed(self) -> bool:
        stamp = self._stamp_now()
        return stamp != self._stamp or (bool(stamp) and time.time() - stamp[0] / 1e9 < SETTLED_AFTER_S)

    def _stamp_now(self) -> tuple[int, ...]:
        """Time, size and number of the file; empty where there is none."""
        try:
            found = os.stat(self.path)
        except OSError:
            return ()
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self) -> tuple[str, bytes]:
        try:
            data = self.path.read_bytes()
            return data.decode(), hashlib.blake2b(data).digest()
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise RoutingError(str(self.path), line, 1, "It is no text in UTF-8.") from error
        except OSError as error:
            raise RoutingError(str(self.path), 1, 1, f"It cannot be read: {error.strerror}.") from error

    def _parse(self, text: str) -> Routing:
        return routing_yaml.parse(text, path=str(self.path), known=self._known())

    def _complain(self, error: RoutingError) -> None:
        """Once for each bad state of the file."""
        if str(error) == self._complaint:
            return
        self._complaint = str(error)
        log.error("routing file %s The last good one stays in force.", error)
        try:
            alerts.report(
                kind=ALERT,
                subject=str(self.path),
                message=f"{error} The last good one stays in force.",
                now=timezone.now(),
            )
        except DatabaseError:
            log.exception("an alert could not be kept")

    def _clear(self) -> None:
        try:
            alerts.clear(kind=ALERT, subject=str(self.path), now=timezone.now())
        except DatabaseError:
            log.exception("an alert could not be cleared")


def load() -> Routing:
    """Read the file as the process starts, and follow it. Raises RoutingError where it cannot be used."""
    routing = _shared().load()
    _shared().follow()
    return routing


def current() -> Routing:
    """What the file says, as of a second ago or so."""
    return _shared().current()


def options(catalogue: Catalogue) -> Options:
    """What the file says, in the terms of a catalogue."""
    return _shared().options(catalogue)


def path() -> Path:
    """The file that is in force here."""
    return Path(settings.ROUTER_CONFIG) if settings.ROUTER_CONFIG else SHIPPED


def known_names() -> dict[str, str]:
    """Each name of the catalogue, its models that are not served included, and the id that clients know it by."""
    served = {name: entry.id for name, entry in snapshot.current().by_name.items()}
    names: dict[str, str] = {}
    for model in Model.objects.exclude(status__in=Model.SERVED).prefetch_related("aliases"):
        default = model.provider == pricing.DEFAULT_PROVIDER
        for provider in (model.provider, *(pricing.ZONE_PROVIDERS if default else ())):
            prefix = f"{provider}/"
            id = model.name if provider == pricing.DEFAULT_PROVIDER else prefix + model.name
            bare = (model.name, *(alias.name for alias in model.aliases.all()))
            names |= dict.fromkeys([prefix + name for name in bare], id)
            if provider == pricing.DEFAULT_PROVIDER:
                names |= dict.fromkeys(bare, id)
    return names | served


def _shared() -> Watcher:
    return _watcher(path())


@cache
def _watcher(path: Path) -> Watcher:
    # Nobody wrote the product's own file for this catalogue: it must not keep it from starting.
    return Watcher(path, known=(lambda: None) if path == SHIPPED else known_names)
