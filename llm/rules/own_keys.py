"""Our key at a model's API, where its answers quote it: no client, log or alert is to show it. Pure.

It is taken out where answers are read, so that nobody behind that place can pass it on.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable
from urllib.parse import quote

# What is shorter is no secret but a word ("EMPTY", "sandbox") that servers without keys are told, and models write.
LEAST_CHARS = 12
# What some writers of JSON escape besides quotes and backslashes.
_ESCAPED = re.compile(r"[^A-Za-z0-9_.~-]")


def forms_of(key: str) -> tuple[bytes, ...]:
    """How a key may be written: as it is, in JSON, on a page, in an address. Nothing where it is no secret."""
    if len(key) < LEAST_CHARS:
        return ()
    quoted = json.dumps(key)[1:-1]
    written = {
        key,
        quoted,
        quoted.replace("/", r"\/"),
        _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", key),
        _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04X}", key),
        html.escape(key),
        html.escape(key).replace("&#x27;", "&#39;"),
        quote(key, safe=""),
    }
    # The longest first: one may be in another.
    return tuple(sorted((form.encode() for form in written), key=len, reverse=True))


class Hiding:
    """Bytes in which each character of a key becomes a star, however they are cut. See `forms_of`."""

    __slots__ = ("_forms", "waiting")

    def __init__(self, forms: Iterable[bytes]) -> None:
        self._forms = tuple(forms)
        # The end of what came: it may be the beginning of a key.
        self.waiting = b""

    def feed(self, data: bytes) -> bytes:
        """What can be shown by now."""
        if self.waiting:
            data, self.waiting = self.waiting + data, b""
        for form in self._forms:
            if form in data:
                data = data.replace(form, b"*" * len(form))
        # Events end their lines, which no key has.
        if not data.endswith(b"\n") and (begun := max((_begun(form, data) for form in self._forms), default=0)):
            data, self.waiting = data[:-begun], data[-begun:]
        return data

    def rest(self) -> bytes:
        """What still waits, when nothing comes any more."""
        rest, self.waiting = self.waiting, b""
        return rest


def _begun(form: bytes, data: bytes) -> int:
    """How many bytes of a form the end of `data` is, as far as that goes."""
    start = data.find(form[:1], max(0, len(data) - len(form) + 1))
    while start >= 0 and not form.startswith(data[start:]):
        start = data.find(form[:1], start + 1)
    return len(data) - start if start >= 0 else 0
