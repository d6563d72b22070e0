"""What is pressed twice in the console is done once: its forms carry a token, which the act's audit row keeps."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

from governance.audit import DoneBefore, Press

FIELD = "_press"
DONE_ALREADY = "This was done already, by the first press of the button."


def press_of(request: HttpRequest) -> Press | None:
    """The press that a request is, one for all that it does; None where it carries no token."""
    if request.method != "POST" or not request.POST.get(FIELD):
        return None
    if not hasattr(request, "press"):
        request.press = Press(token=request.POST[FIELD])  # type: ignore[attr-defined]
    return cast(Press, request.press)  # type: ignore[attr-defined]


def token(request: HttpRequest) -> str:
    """For a form: a new one, or that of a form that is shown again, whose act may have been done before."""
    return str(request.POST.get(FIELD) or secrets.token_urlsafe(16))


@contextmanager
def once(request: HttpRequest, *, part: str = "") -> Iterator[None]:
    """Around an act of a press; `part` tells apart what it acts on. Raises DoneBefore."""
    press = press_of(request)
    if press is not None:
        press.part = part
        # Before the act looks at what is there now, and refuses what it did itself.
        if press.is_done():
            raise DoneBefore
    yield


def again(request: HttpRequest, back: str) -> HttpResponse:
    """Where a second press leads: to the page that the first one did, with a word."""
    messages.info(request, DONE_ALREADY)
    return redirect(back)
