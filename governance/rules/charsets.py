"""The encoding of what comes in: UTF-8, whatever a client says. No codec is looked up by a name from outside. Pure."""

from __future__ import annotations

import re

_UTF_8 = re.compile(r"utf[-_]?8", re.IGNORECASE)
# A parameter of a content type, quoted or not, as lenient as any reader of one may be.
_CHARSET = re.compile(r"""(?:^|[;,\s])charset\*?\s*=\s*(?:"((?:[^"\\]|\\.)*)"?|'([^']*)'?|([^;,\s]*))""", re.IGNORECASE)

SENTENCE = "Bodies are UTF-8 here: send `charset=utf-8`, or no charset."


def is_utf_8(content_type: str) -> bool:
    """Whether a content type names no other charset than UTF-8."""
    named = ("".join(found).strip() for found in _CHARSET.findall(content_type))
    return all(_UTF_8.fullmatch(name) for name in named)
