"""What the console is asked for that cannot be: a number that no column has, a year that no calendar has.

Django looks at the names of a list's filters and leaves their values to the database; forms begin with whatever an
address says, and are drawn again with whatever was posted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any

from django.contrib import messages
from django.core.exceptions import BadRequest, PermissionDenied, SuspiciousOperation, ValidationError
from django.db import DataError, InterfaceError, OperationalError
from django.http import Http404, HttpRequest
from django.shortcuts import redirect
from django.template.response import SimpleTemplateResponse

logger = logging.getLogger(__name__)

View = Callable[..., Any]
# What is not about a value: who may look, what is there, what Django refuses itself, and a database that is away.
MEANT = (Http404, PermissionDenied, SuspiciousOperation, OperationalError, InterfaceError)
# What Python, Django and databases say of a text that is no number or key, and of a number that is too large.
IMPOSSIBLE = (ValueError, OverflowError, ValidationError, DataError)


def forgiving(view: View) -> View:
    """A page that leads to itself without a query that it cannot answer, and says so.

    A page that fails without a query too is a defect, and stays one. What is posted and cannot be is a 400: no browser
    sends such a form.
    """

    @wraps(view)
    def answered(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        if request.method == "POST":
            return _posted(view, request, *args, **kwargs)
        if request.method not in ("GET", "HEAD") or not request.GET:
            return view(request, *args, **kwargs)
        try:
            return _written(view(request, *args, **kwargs))
        except MEANT:
            raise
        except Exception:
            # Whatever a column, a calendar or a number says of a value that it cannot have: there is no list of that.
            logger.warning("%s cannot be looked up, so its query is left out", request.get_full_path(), exc_info=True)
            messages.warning(request, "What the address asks for cannot be looked up, so this is the page without it.")
            return redirect(request.path)

    return answered


def _posted(view: View, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
    try:
        return _written(view(request, *args, **kwargs))
    except IMPOSSIBLE as error:
        logger.warning("%s was sent what it cannot be", request.path, exc_info=True)
        raise BadRequest("The form holds a value that its field cannot have.") from error


def _written(response: Any) -> Any:
    # A list is looked up while its page is written, and a form drawn again.
    return response.render() if isinstance(response, SimpleTemplateResponse) else response
