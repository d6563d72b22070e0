"""Addresses of the console that ask for what cannot be: a number that no column has, a year that no calendar has.

Django looks at the names of a list's filters and leaves their values to the database; forms begin with whatever an
address says.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.core.paginator import InvalidPage
from django.db import DataError, NotSupportedError, ProgrammingError
from django.http import HttpRequest
from django.shortcuts import redirect
from django.template.response import SimpleTemplateResponse

logger = logging.getLogger(__name__)

View = Callable[..., Any]
# What Django, Python's numbers and calendars, and either database say of a value that none of them has.
NO_SUCH_VALUE = (
    *(DataError, NotSupportedError, ProgrammingError),
    *(OverflowError, ValueError, ValidationError, InvalidPage),
)


def forgiving(view: View) -> View:
    """A page that leads to itself without a query that it cannot answer, and says so.

    A page that fails without a query too is a defect, and stays one.
    """

    @wraps(view)
    def answered(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        if request.method not in ("GET", "HEAD") or not request.GET:
            return view(request, *args, **kwargs)
        try:
            response = view(request, *args, **kwargs)
            # A list is looked up while its page is written.
            return response.render() if isinstance(response, SimpleTemplateResponse) else response
        except NO_SUCH_VALUE:
            logger.warning("%s cannot be looked up, so its query is left out", request.get_full_path(), exc_info=True)
            messages.warning(request, "What the address asks for cannot be looked up, so this is the page without it.")
            return redirect(request.path)

    return answered
