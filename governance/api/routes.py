"""Paths that work with and without a trailing slash; the description of the API shows the one without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.urls import URLPattern, path


def both(route: str, view: Callable[..., Any], *, name: str) -> list[URLPattern]:
    """A redirect would lose a POST's body, so both are real."""
    return [path(route, view, name=name), path(f"{route}/", view)]
