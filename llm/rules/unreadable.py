"""Answers that nobody can read: whether a model worked for them all the same. Pure."""

from __future__ import annotations

import re

# Names that answers of a model have, in whatever dialect. A page of a proxy, or an empty object, has none.
_SIGNS = re.compile(
    rb"""["'](?:choices|usage|usage_info|message|content|delta|output|candidates|embedding|data|results|pages|text"""
    rb"""|segments|completion)["']\s*:""",
)


def shows_work(body: bytes) -> bool:
    """Whether a body with status 200 may be what is left of a model's answer, and so have cost money.

    Nothing at all may be, too; a page in HTML, an empty object or a sentence is somebody else's answer.
    """
    return not body.strip() or _SIGNS.search(body) is not None
