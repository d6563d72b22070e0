"""What somebody does by a page of the console that asks first: reading it, then pressing its button."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from django.test import Client

# Its token, and what it said.
HIDDEN = re.compile(r'name="(_press|_said)" value="([^"]+)"')


def read(client: Client, path: str, form: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What the button of the page sends; `form` is what a list's action posts that leads to it."""
    page = client.post(path, form) if form else client.get(path)
    return {**(form or {}), **dict(HIDDEN.findall(page.content.decode()))}


def press(client: Client, path: str, form: Mapping[str, Any] | None = None) -> Any:
    """What comes of it, at the address that it leads to."""
    return client.post(path, read(client, path, form), follow=True)
