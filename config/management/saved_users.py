"""What Django's own commands do to users, with its row in the audit trail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.contrib.auth.models import User
from django.db import transaction


@contextmanager
def recorded(record: Callable[[User], object]) -> Iterator[None]:
    """Within it each user that is saved, and what `record` writes of that, are one transaction.

    The commands ask for passwords and save in one function, so what saves is wrapped: a transaction around all of it
    would keep SQLite's only writer, which calls wait for, until somebody has typed.
    """
    save = User.save

    def save_and_record(user: User, *args: Any, **kwargs: Any) -> None:
        with transaction.atomic():
            save(user, *args, **kwargs)
            record(user)

    User.save = save_and_record  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        User.save = save  # type: ignore[method-assign]
