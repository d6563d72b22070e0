"""Names of models: whether an answer's is another way to write the one that was asked for. Pure."""

from __future__ import annotations

import re

# The version that an endpoint adds to what it was asked for: gpt-4o-2024-08-06, mistral-small-2603.
_VERSION = re.compile(r"[-@](?:\d{8}|\d{6}|\d{4}|latest)")
# A day at a name's end: grok-4-07-09 is xAI's grok-4-0709.
_DAY = re.compile(r"(?<=[-@])(\d{4}-)?(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])\Z")
# Ollama's own word for a name without a tag.
_NO_TAG = ":latest"


def is_same_model(asked: str, served: str) -> bool:
    """Whether `served` names the model `asked`: letters' case, a vendor's or folder's prefix and a date may differ.

    Anything else ("gpt-5" for "gpt-5-mini", "m-pro" for "m") may be another model, at another price.
    """
    asked, served = (_bare(name) for name in (asked, served))
    shorter, longer = sorted((asked, served), key=len)
    return bool(shorter) and (longer == shorter or _is_version(longer.removeprefix(shorter), longer, shorter))


def is_same_line(one: str, other: str) -> bool:
    """Whether two names are of one line of models, whatever their versions: `mistral-small-latest` may become another
    `mistral-small` tomorrow, and never a `mistral-medium`."""
    bare = [_VERSION.sub("", _bare(name)) for name in (one, other)]
    return bool(bare[0]) and bare[0] == bare[1]


def _is_version(more: str, longer: str, shorter: str) -> bool:
    return longer.startswith(shorter) and _VERSION.fullmatch(more) is not None


def _bare(name: str) -> str:
    bare = name.strip().lower().rstrip("/").rpartition("/")[2].removesuffix(_NO_TAG)
    return _DAY.sub(lambda day: day[0].replace("-", ""), bare)
