"""What is pressed twice in the console is done once: its forms carry a token, which the act's audit row keeps."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

from governance.audit import DoneBefore, Press
from governance.models import AuditEntry

FIELD = "_press"
DONE_ALREADY = "This was done already, by the first press of the button."
# What else whoever pressed twice is told, by what the first press did.
BESIDE = {
    "key.issue": "The new key was shown by the first press, once. Revoke it if nobody has it.",
    "page_link.make": "The new link was shown by the first press, once. Take it back if nobody has it.",
}


def guarded(view: Callable[..., Any]) -> Callable[..., Any]:
    """A page whose acts are done once a press. Only within it has a request a press: nothing else meets DoneBefore."""

    @wraps(view)
    def answered(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        if request.method != "POST" or not request.POST.get(FIELD):
            return view(request, *args, **kwargs)
        # One for all that the request does.
        request.press = Press(token=request.POST[FIELD])  # type: ignore[attr-defined]
        try:
            with once(request):
                return view(request, *args, **kwargs)
        except DoneBefore:
            return _again(request, request.press)  # type: ignore[attr-defined]

    return answered


def press_of(request: HttpRequest) -> Press | None:
    """The press that a request is; None where it carries no token."""
    return getattr(request, "press", None)


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


def _again(request: HttpRequest, press: Press) -> HttpResponse:
    """Where a second press leads: to the page of what was acted on, or the list that it was added to, with a word."""
    first = AuditEntry.objects.filter(once=press.once).values_list("action", flat=True).first()
    if first in BESIDE:
        messages.warning(request, BESIDE[first])
    messages.info(request, DONE_ALREADY)
    match, above = request.resolver_match, request.path.rstrip("/").rpartition("/")[0]
    if match is not None and "object_id" in match.kwargs:
        return redirect(f"{above}/change/")
    return redirect(f"{above}/" if request.path.endswith("/add/") else request.path)
