"""Views that console users keep of the list of budgets: each one's own, so the audit trail does not tell of them."""

from __future__ import annotations

from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.http import QueryDict
from django.utils.http import urlencode

from governance.models import SavedView
from governance.rules import names
from governance.rules.errors import Conflict, FieldError

MOST_VIEWS = 20
MOST_CHARACTERS = 60
LONGEST_QUERY = 1_000
# Of a list's address: which of its pages, and what Django says there.
_PASSING = ("p", "e")


def query_of(address: QueryDict) -> str:
    """What of a list's address a view keeps, the same whatever the order in which it was chosen; empty of the list as
    it always is."""
    kept = [
        (name, value)
        for name, values in address.lists()
        for value in values
        if value and name not in _PASSING and not name.startswith("_")
    ]
    return urlencode(sorted(kept))


def save(*, user: User, name: str, query: str) -> SavedView:
    """Keep a list's address under a name, in the place of what had that name. Raises FieldError and Conflict."""
    name, kept = _checked(name), query_of(QueryDict(query))
    if not kept:
        raise FieldError("query", "is the whole list, which needs no view")
    if len(kept) > LONGEST_QUERY:
        raise FieldError("query", f"may have at most {LONGEST_QUERY:,} characters")
    others = SavedView.objects.filter(user=user).exclude(name=name)
    if others.count() >= MOST_VIEWS:
        raise Conflict("", f"is one too many: you have {MOST_VIEWS} already. Delete one that you do not need")
    return SavedView.objects.update_or_create(user=user, name=name, defaults={"query": kept})[0]


def rename(*, view: SavedView, name: str) -> SavedView:
    """Raises FieldError, and Conflict where another view of the same user has that name."""
    view.name = _checked(name)
    try:
        with transaction.atomic():
            view.save(update_fields=["name"])
    except IntegrityError as error:
        raise Conflict("name", "is another view's already") from error
    return view


def _checked(text: str) -> str:
    name = names.checked("label", text, field="name")
    if not name:
        raise FieldError("name", "is missing")
    if len(name) > MOST_CHARACTERS:
        raise FieldError("name", f"may have at most {MOST_CHARACTERS} characters")
    return name
