"""A field of a request is what it must be, or the request cannot be understood. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Far beyond what any model writes, and far below what a price makes too large a sum of.
MOST_TOKENS = 10_000_000
# Names under which endpoints take pictures, sound and files, whatever the type beside them says.
MEDIA = frozenset(
    """image image_url images video video_url videos audio audio_url input_audio file file_id file_url files attachments
    document document_url documents media source""".split()  # noqa: SIM905
)


class DialectError(ValueError):
    """The request cannot be understood. `param` names the field, `code` the kind of mistake; the status is 400."""

    def __init__(self, message: str, param: str | None = None, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


def holds_no_media(name: str, value: Any) -> bool:
    """Whether a field could hold pictures, sound or files, and holds nothing: libraries write out what is empty."""
    return name in MEDIA and value in (None, "", [], {})


def boolean(payload: Mapping[str, Any], name: str) -> bool:
    value = payload.get(name, False)
    if not isinstance(value, bool):
        raise DialectError(f"`{name}` must be true or false.", name, "invalid_type")
    return value


def positive(payload: Mapping[str, Any], name: str, *, most: int = MOST_TOKENS) -> int | None:
    value = payload.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise DialectError(f"`{name}` must be a whole number.", name, "invalid_type")
    if not 1 <= value <= most:
        raise DialectError(f"`{name}` must be from 1 to {most}.", name)
    return value


def check_text(payload: Mapping[str, Any], name: str, *, needed: bool = False) -> None:
    value = payload.get(name)
    if value is None and needed:
        raise DialectError(f"`{name}` is missing.", name, "missing_field")
    if value is not None and not isinstance(value, str):
        raise DialectError(f"`{name}` must be a string.", name, "invalid_type")
