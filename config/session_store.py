"""Console sessions in the database, as Django keeps them; a cookie is looked up only where it can name one."""

from __future__ import annotations

import re
from typing import Any

from django.contrib.sessions.backends import db

_KEY = re.compile(r"[a-z0-9]{8,40}")


class SessionStore(db.SessionStore):
    """No key of a session has a NUL, which a cookie can bring in quotes and PostgreSQL would not take."""

    def _validate_session_key(self, key: Any) -> bool:
        return isinstance(key, str) and _KEY.fullmatch(key) is not None
