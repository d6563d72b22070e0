"""Constraints that keep figures far below 2^63: the last line behind the bounds of `governance.rules.money`."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.db.models.functions import Cast


def within(most: int, *names: str, least: int = 0) -> Q:
    """That columns hold whole numbers from `least` to `most`, or nothing.

    SQLite makes a REAL of a sum that leaves 64 bits, and keeps one, or a text, in a column of integers: it is compared
    with itself as an integer. For PostgreSQL that is no news.
    """
    condition = Q()
    for name in names:
        whole = Q(**{name: Cast(name, models.BigIntegerField())})
        condition &= Q(**{f"{name}__gte": least, f"{name}__lte": most}) & whole
    return condition
