"""The encoding of what comes in: UTF-8, whatever a client says. No codec is looked up by a name from outside. Pure."""

from __future__ import annotations

import re

_UTF_8 = re.compile(r"utf[-_]?8", re.IGNORECASE)
# A parameter of a content type, quoted or not, as lenient as any reader of one may be.
_CHARSET = re.compile(r"""(?:^|[;,\s])charset\*?\s*=\s*(?:"((?:[^"\\]|\\.)*)"?|'([^']*)'?|([^;,\s]*))""", re.IGNORECASE)

LONGEST = 1_000


def problem(content_type: str) -> str:
    """What is wrong with a content type: it has no end, or names another charset than UTF-8; empty where nothing is."""
    if len(content_type) > LONGEST:
        return f"The Content-Type may have at most {LONGEST:,} characters."
    named = ("".join(found).strip() for found in _CHARSET.findall(content_type))
    if all(_UTF_8.fullmatch(name) for name in named):
        return ""
    return "Bodies are UTF-8 here: send `charset=utf-8`, or no charset."
