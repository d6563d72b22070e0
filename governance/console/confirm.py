"""A page that asks before something is done that needs no reason: what is done by a GET, a browser may do by itself.

Its button sends back what the page said, as a digest: nothing is done but what whoever pressed it has read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from django.contrib import messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

FIELD = "_said"


def page(
    request: HttpRequest,
    *,
    model_admin: Any,
    title: str,
    verb: str,
    explanation: str,
    back: str,
    rows: Sequence[Any] = (),
    action: str = "",
) -> HttpResponse | None:
    """The page; None where its button, named `verb`, was pressed and it still says the same: then whoever calls acts.

    The button posts to the address that the page is shown at; `action` is the list action that led here, which is
    posted again together with the selected `rows`.
    """
    said = hashlib.sha256("\n".join((title, explanation, *map(str, rows))).encode()).hexdigest()
    read = request.POST.get(FIELD, "")
    if read == said:
        return None
    if read:
        messages.warning(request, "What this page says has changed since you opened it. Read it again.")
    context = {
        **model_admin.admin_site.each_context(request),
        "opts": model_admin.model._meta,
        "title": title,
        "verb": verb,
        "explanation": explanation,
        "back": back,
        "rows": rows,
        "action": action,
        "action_checkbox_name": ACTION_CHECKBOX_NAME,
        "said_name": FIELD,
        "said": said,
    }
    return TemplateResponse(request, "console/confirm.html", context)
